"""The names in a folder of results."""

from __future__ import annotations

from pathlib import Path

MASKS = "masks"
OVERLAYS = "overlays"
SEGMENTATIONS = "segmentations"  # DICOM masks, of DICOM images
RESULTS = "results.csv"
# Lies there while a run is under way, and after one that was stopped: only a whole run leaves a `results.csv`.
RESULTS_UNFINISHED = "results.csv.unfinished"
_FIRST_COLUMNS = (
    "image",
    "width",
    "height",
    "lesion_pixels",
    "area_fraction",
    "lesions",
    "confidence",
    "max_probability",
    "mask",
    "mask_sha256",
)
COLUMNS = (*_FIRST_COLUMNS, "segmentation", "segmentation_sha256")


def is_results_table(path: Path) -> bool:
    """Tell whether `path` is a table that `InferenceWriter` wrote, also before it knew DICOM, by its first line."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        first = stream.readline(1000).decode(errors="replace").strip()
    return first in (",".join(_FIRST_COLUMNS), ",".join(COLUMNS))

"""The names in a folder of results."""

from __future__ import annotations

from pathlib import Path

MASKS = "masks"
OVERLAYS = "overlays"
RESULTS = "results.csv"
# Lies there while a run is under way, and after one that was stopped: only a whole run leaves a `results.csv`.
RESULTS_UNFINISHED = "results.csv.unfinished"
COLUMNS = (
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


def is_results_table(path: Path) -> bool:
    """Tell whether `path` is a table that `InferenceWriter` wrote, by its first line."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.readline(1000).decode(errors="replace").strip() == ",".join(COLUMNS)

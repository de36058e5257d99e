"""The masks to paint from: those of a list of a prepared folder, or the files of a folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.folder import DATALIST, join_faults, load_json, read_datalist
from ..data.matching import image_files, no_images
from ..data.progress import bar
from ..data.reading import MASK_THRESHOLD, binarise, decode, mask_values, read_bytes
from ..errors import InputError

_GREY = (1 / 8, 7 / 8)  # of the largest value: where none of a mask lies, but at edges that a JPEG or a resize blurred
_MOST_GREY = 0.1  # of the pixels; small masks have long edges
_LABELS = 32  # what is below is no grey value
_FEW = 8  # so many values are classes; edges blurred by a resize have more
_LONGEST_NAME = 180  # bytes; painted images are named after masks
_NOT_IN_NAMES = set('\\:*?"<>|\n')  # on the file systems that prepared folders travel to


@dataclass(frozen=True)
class SourceMask:
    """A mask that is painted from.

    Attributes:
        path: of the file.
        name: its stem.
        group: of the real image that it comes from, so that what is painted stays on that image's side of a split.
        digest: SHA-256 of the file, when it was checked.
        empty: no lesion, at the size of the painting.
    """

    path: Path
    name: str
    group: str
    digest: str
    empty: bool

    def lesion(self, size: int) -> NDArray[np.bool_]:
        """Resized to a square, nearest, as in training: ``(size, size)``.

        Raises:
            InputError: if the file has changed since it was checked, or is gone.
        """
        content = read_bytes(self.path)
        if hashlib.sha256(content).hexdigest() != self.digest:
            raise InputError(f"{self.path}: has changed while images were painted; begin again, in another folder")
        return _lesion(content, self.path, size)


def find_masks(
    folder: str | Path,
    size: int,
    *,
    protocol: str | None = None,
    key: str = "training",
    source: str = "",
    progress: bool = True,
) -> list[SourceMask]:
    """Find and check the masks of a folder.

    Args:
        folder: a prepared folder, or one with mask files.
        size: of the painting.
        protocol: of a prepared folder, None for the default one.
        key: the list of a prepared folder.
        source: begins the groups of mask files.
        progress: show a bar.

    Raises:
        InputError: of every mask that cannot be read or is none, of two of one name, or of no mask at all.
    """
    folder = Path(folder)
    if (folder / DATALIST).is_file():
        found = [(Path(item["label"]), str(item["group"])) for item in read_datalist(folder, protocol, key)]
        if not found:
            raise InputError(f"{folder}: its list {key!r} is empty, so there are no masks to paint from")
    else:
        if protocol:
            raise InputError(f"protocol: {protocol!r} is of a prepared folder, and {folder} holds no {DATALIST}")
        found = [(path, f"{source}_{path.stem}") for path in image_files(folder)]
        if not found:
            raise no_images(folder)
    faults = _name_faults([path for path, _ in found])
    masks = []
    for path, group in bar(found, "check", "mask", len(found), progress):
        try:
            content = read_bytes(path)
            empty = not _lesion(content, path, size).any()
        except InputError as error:
            faults.append(str(error))
        else:
            masks.append(SourceMask(path, path.stem, group, hashlib.sha256(content).hexdigest(), empty))
    if faults:
        raise join_faults(faults, str(folder))
    return sorted(masks, key=lambda mask: mask.name)


def licence_of(folder: str | Path) -> str | None:
    """The terms that a prepared folder states; None if it states none."""
    path = Path(folder) / DATALIST
    licence = load_json(path).get("licence") if path.is_file() else None
    return licence if isinstance(licence, str) else None


def _name_faults(paths: Sequence[Path]) -> list[str]:
    faults = []
    seen: dict[str, Path] = {}
    for path in paths:
        same = seen.setdefault(path.stem.casefold(), path)
        if same is not path:
            faults.append(f"{path}: there is {same.name} beside it; keep one, or rename one")
        if set(path.stem) & _NOT_IN_NAMES or len(path.stem.encode()) > _LONGEST_NAME:
            faults.append(f"{path}: this name cannot serve in a prepared folder; rename it")
    return faults


def _lesion(content: bytes, path: Path, size: int) -> NDArray[np.bool_]:
    mask = decode(content, path)
    values = mask_values(mask)
    noisy = mask.format == "JPEG"
    most = values.max(initial=0)
    if not noisy and 1 < most < _LABELS:
        raise InputError(f"{path}: a label map with values to {most}; a mask has 0 and 255, or 0 and 1: convert it")
    if not noisy and _LABELS <= most <= MASK_THRESHOLD:
        raise InputError(f"{path}: its largest value is {most}; a mask has 0 and 255, or 0 and 1: convert it")
    if not noisy and 2 < len(levels := np.unique(values)) <= _FEW:
        raise InputError(
            f"{path}: has the values {', '.join(map(str, levels))}; a mask has two: keep the one that is meant"
        )
    grey = ((values > _GREY[0] * most) & (values < _GREY[1] * most)).mean()
    if most >= _LABELS and grey > _MOST_GREY:
        raise InputError(f"{path}: not a mask, which has 0 and 255 alone; give the masks, not the images")
    lesion = Image.fromarray(binarise(values, noisy=noisy).astype(np.uint8))
    return np.asarray(lesion.resize((size, size), Image.Resampling.NEAREST)) > 0

"""Which mask belongs to which image, told from their names."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import InputError
from .reading import SUFFIXES, is_image_file

_ENDINGS = ("_mask", "-mask", "_segmentation", "_seg", "_label", "_groundtruth", "_gt")
_BEGINNINGS = ("p", "mask_")  # ETIS and CVC-ColonDB call the mask of 1.tif p1.tif


def image_files(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name.

    Raises:
        InputError: if there is no such folder, or it may not be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    try:
        return sorted(path for path in folder.iterdir() if is_image_file(path))
    except OSError as error:
        raise InputError(f"{folder}: {(error.strerror or str(error)).lower()}") from None


def _image_stems(mask: str) -> list[str]:
    # The stems that the image of a mask may have, the likeliest first.
    shorter = [mask.removesuffix(ending) for ending in _ENDINGS if mask.endswith(ending)]
    return [mask, *shorter, *(mask.removeprefix(start) for start in _BEGINNINGS if mask.startswith(start))]


def part_mixed(files: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Images and masks of a folder that holds both, as `1.bmp` beside `p1.bmp` or `a.png` beside `a_mask.png`."""
    files = list(files)
    stems = {path.stem.casefold() for path in files}
    images, masks = [], []
    for path in files:
        is_mask = any(stem in stems for stem in _image_stems(path.stem.casefold())[1:])
        (masks if is_mask else images).append(path)
    return images, masks


def match(images: Iterable[Path], masks: Iterable[Path]) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    """Match masks to images by stem, in any case; the mask's may carry one of the usual endings, or a leading p.

    Returns:
        `(stem, image, mask)` of each pair, in the order of the images, and all faults: an image without a mask, a
        mask without an image, two of one stem.
    """
    faults: list[str] = []
    by_stem: dict[str, Path] = {}
    for image in images:
        same = by_stem.setdefault(image.stem.casefold(), image)
        if same != image:
            faults.append(f"{image}: there is {same.name} beside it; keep one")
    masks_of: dict[str, Path] = {}
    for mask in masks:
        stem = next((stem for stem in _image_stems(mask.stem.casefold()) if stem in by_stem), None)
        if stem is None:
            faults.append(f"{mask}: a mask without an image; add the image or remove the mask")
        elif stem in masks_of:
            faults.append(f"{mask}: a second mask of {by_stem[stem].name}, beside {masks_of[stem].name}; keep one")
        else:
            masks_of[stem] = mask
    for stem, image in by_stem.items():
        if stem not in masks_of:
            faults.append(f"{image}: an image without a mask; add the mask or remove the image")
    return [(image.stem, image, masks_of[stem]) for stem, image in by_stem.items() if stem in masks_of], faults


def no_images(folder: Path) -> InputError:
    """What to raise for a folder that holds no image file."""
    return InputError(f"{folder}: no image in it; looked for {', '.join(SUFFIXES)}")

"""Tiny drawn images and masks, as arrays and as files of every format."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.volumes import window_8bit
from tests.data.drawn_volumes import draw_ct, draw_segmentation, save_volume


def draw(number: int, size: tuple[int, int] = (32, 40)) -> tuple[np.ndarray, np.ndarray]:
    """Coarse noise, `(H, W, 3)` uint8, unlike that of any other number, and a mask 0/255 with a square lesion."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    image = np.asarray(Image.fromarray(coarse).resize(size[::-1], Image.Resampling.BICUBIC))
    mask = np.zeros(size, np.uint8)
    mask[6 : 14 + number % 5, 8:20] = 255
    return image, mask


@pytest.fixture
def drawn():
    """The function `draw(number, size)`."""
    return draw


@pytest.fixture
def save():
    """A function that writes an array to a path in the format of its suffix and makes the folder if need be."""

    def saved(array: np.ndarray, path: Path, **options) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        quality = {"quality": 90} if path.suffix.lower() in (".jpg", ".jpeg") else {}
        Image.fromarray(array).save(path, **quality, **options)
        return path

    return saved


@pytest.fixture
def save_set(save):
    """A function that writes drawn pairs of some stems into two folders, with one suffix each."""

    def saved(images: Path, masks: Path, stems, suffix=".png", mask_suffix=".png", prefix="", ending="", first=0):
        for number, stem in enumerate(stems, first):
            image, mask = draw(number)
            save(image, images / f"{stem}{suffix}")
            save(mask, masks / f"{prefix}{stem}{ending}{mask_suffix}")

    return saved


@pytest.fixture
def save_case():
    """A function that writes case_NNNNN of drawn values, with its axes stored in the order of `code`."""

    def saved(root, number, code="IPL", suffix=".nii.gz"):
        segmentation = draw_segmentation(number)
        folder = root / f"case_{number:05d}"
        save_volume(segmentation, folder / f"segmentation{suffix}", code)
        save_volume(draw_ct(segmentation, number), folder / f"imaging{suffix}", code)
        return folder

    return saved


@pytest.fixture
def save_slices(save):
    """A function that writes every slice of a drawn case as 8-bit PNGs, image and mask 0, 1, 2."""

    def saved(root, number):
        segmentation = draw_segmentation(number)
        images = window_8bit(draw_ct(segmentation, number), 500, 50)
        for place, (image, mask) in enumerate(zip(images, segmentation, strict=True)):
            save(image, root / f"images/case_{number:05d}_{place:03d}.png")
            save(mask, root / f"masks/case_{number:05d}_{place:03d}.png")

    return saved

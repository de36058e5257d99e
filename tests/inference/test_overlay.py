from __future__ import annotations

import numpy as np
import pytest

from common.inference import draw_overlay
from common.inference.overlay import COLOUR


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 200, (40, 60, 3), dtype=np.uint8)


def test_without_a_lesion_the_image_is_as_it_was(image):
    drawn = draw_overlay(image, np.zeros((40, 60), bool))
    assert np.array_equal(drawn, image)
    assert drawn is not image


def test_the_outline_lies_just_outside_and_all_else_is_kept(image):
    mask = np.zeros((40, 60), bool)
    mask[10:20, 30:50] = True
    before = image.copy()
    drawn = draw_overlay(image, mask)
    ring = np.zeros_like(mask)
    ring[9:21, 29:51] = True
    ring &= ~mask
    assert (drawn[ring] == COLOUR).all()
    assert np.array_equal(drawn[~ring & ~mask], image[~ring & ~mask])
    assert np.array_equal(image, before)


def test_the_tint_is_light(image):
    mask = np.ones((40, 60), bool)
    moved = np.abs(draw_overlay(image, mask).astype(int) - image)
    assert 0 < moved.mean() < 60


def test_a_lesion_of_one_pixel_in_a_large_picture_is_seen():
    image = np.zeros((2048, 2048, 3), np.uint8)
    mask = np.zeros((2048, 2048), bool)
    mask[700, 900] = True
    assert (draw_overlay(image, mask) == COLOUR).all(2).sum() == 17 * 17 - 1

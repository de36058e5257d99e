"""Pictures of painted images."""

from __future__ import annotations

import numpy as np
import pytest

from common.inference.overlay import COLOUR
from common.law.pictures import SIDE, draw_overview, draw_strip


def drawn(count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    pictures = np.random.default_rng(0).integers(0, 200, (count, side, side, 3), dtype=np.uint8)
    lesions = np.zeros((count, side, side), dtype=bool)
    for number, lesion in enumerate(lesions):
        lesion[2 + number % 3 : side // 2, 3 : side // 2] = True
    return pictures, lesions


def test_a_strip_has_masks_images_outlines_and_delta_in_the_order_of_figure_8() -> None:
    pictures, lesions = drawn(3, 16)
    strip = draw_strip(pictures, lesions, np.full((3, 16, 16), 0.5))
    rows = strip.reshape(4, 16, 3, 16, 3).swapaxes(1, 2)
    assert np.array_equal(rows[0] == 255, np.repeat(lesions[..., None], 3, axis=-1))
    assert np.array_equal(rows[1], pictures)
    changed = (rows[2] != pictures).any(-1)
    assert (changed & lesions).any() and (rows[2] == COLOUR).all(-1).any() and not changed[:, -1].any()
    assert (rows[3] == 128).all()


def test_a_prior_has_images_alone() -> None:
    pictures, _ = drawn(2, 8)
    assert np.array_equal(draw_strip(pictures), np.concatenate(list(pictures), axis=1))


@pytest.mark.parametrize(("count", "rows", "columns"), [(1, 1, 1), (8, 1, 8), (9, 2, 8), (16, 2, 8)])
def test_an_overview_has_eight_to_a_strip(count, rows, columns) -> None:
    overview = draw_overview(*drawn(count, 16))
    assert overview.shape == (rows * 3 * SIDE, columns * SIDE, 3)
    if count == 9:
        assert (overview[3 * SIDE :, SIDE:] == 128).all()


def test_large_images_keep_their_size() -> None:
    assert draw_overview(*drawn(2, 160)).shape == (480, 320, 3)

"""Masks that no image had: what a change does, and the rules that a drawn one keeps."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from common.errors import InputError
from common.law.mask_augmentation import KNOTS, MaskChange, MaskRanges, augment_mask, change_mask, sample_change

SEEDS = range(15)


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], shape: tuple[int, int] = (90, 120)
) -> NDArray[np.bool_]:
    rows, columns = np.indices(shape)
    return ((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 <= 1


def crescent(shape: tuple[int, int] = (90, 120)) -> NDArray[np.bool_]:
    return ellipse((45, 60), (24, 24), shape) & ~ellipse((45, 70), (20, 20), shape)


def pieces(mask: NDArray[np.bool_]) -> int:
    return ndimage.label(mask, np.ones((3, 3)))[1]


def bent(amount: float = 0.15, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).uniform(-amount, amount, (2, KNOTS, KNOTS))


MASKS = {
    "round": ellipse((40, 50), (15, 15)),
    "crescent": crescent(),
    "tiny": ellipse((40, 50), (1.5, 1.5)),
    "large": ellipse((44, 60), (40, 55)),
    "cut": ellipse((0, 50), (20, 30)),
    "in a corner": ellipse((89, 119), (30, 40)),
    "two": ellipse((20, 30), (8, 8)) | ellipse((60, 90), (10, 6)),
    "full": np.ones((24, 30), bool),
    "noise": np.random.default_rng(0).random((24, 30)) > 0.9,
}


@pytest.fixture(params=MASKS, ids=str)
def mask(request: pytest.FixtureRequest) -> NDArray[np.bool_]:
    return MASKS[request.param]


# What a change does


def test_no_change_is_the_same_mask(mask: NDArray[np.bool_]) -> None:
    assert np.array_equal(change_mask(mask, MaskChange()), mask)


def test_bytes_and_labels_are_read_as_the_lesion_they_mean() -> None:
    change = MaskChange((3, 4), 1.3, 20.0, bent())
    expected = change_mask(MASKS["crescent"], change)
    for values in (MASKS["crescent"].astype(np.uint8), MASKS["crescent"] * np.uint8(255)):
        assert np.array_equal(change_mask(values, change), expected)


@pytest.mark.parametrize("shift", [(7, 0), (0, -9), (-5, 12)])
def test_a_shift_moves_every_pixel_alike(shift: tuple[int, int]) -> None:
    assert np.array_equal(change_mask(MASKS["crescent"], MaskChange(shift)), np.roll(MASKS["crescent"], shift, (0, 1)))


def test_the_change_of_a_moved_mask_is_the_moved_change() -> None:
    source = MASKS["crescent"]
    moved = np.roll(source, (5, -8), (0, 1))
    change = MaskChange((2, 3), 1.1, 35.0, bent())
    assert np.array_equal(change_mask(moved, change), np.roll(change_mask(source, change), (5, -8), (0, 1)))


@pytest.mark.parametrize("scale", [0.5, 0.8, 1.25, 1.6])
def test_the_area_grows_with_the_square_of_the_scale(scale: float) -> None:
    source = MASKS["round"]
    found = change_mask(source, MaskChange(scale=scale)).sum() / source.sum()
    assert found == pytest.approx(scale**2, rel=0.03)


@pytest.mark.parametrize("scale", [0.7, 1.5])
def test_the_centre_stays_while_it_is_scaled_and_turned(scale: float) -> None:
    source = MASKS["crescent"]
    found = change_mask(source, MaskChange(scale=scale, angle=50.0))
    assert np.hypot(*np.subtract(ndimage.center_of_mass(found), ndimage.center_of_mass(source))) < 0.5


@pytest.mark.parametrize("quarters", [1, 2, 3, -1])
def test_a_quarter_turn_is_that_of_the_array(quarters: int) -> None:
    source = np.zeros((61, 61), bool)
    source[20:41, 28:33] = True  # symmetric about the middle pixel, but for the foot
    source[38:41, 24:37] = True
    source[20:23, 24:37] = True
    source[30, 20:41] = True
    assert np.array_equal(change_mask(source, MaskChange(angle=90.0 * quarters)), np.rot90(source, quarters))


def test_angles_turn_from_rows_towards_columns() -> None:
    upright = ellipse((45, 60), (30, 6))
    turned = change_mask(upright, MaskChange(angle=45.0))
    assert turned[45 + 15, 60 + 15] and turned[45 - 15, 60 - 15]
    assert not turned[45 - 15, 60 + 15]


def test_a_turn_keeps_the_area() -> None:
    source = MASKS["crescent"]
    for angle in (10.0, 33.0, 77.0, 141.0):
        assert change_mask(source, MaskChange(angle=angle)).sum() == pytest.approx(source.sum(), rel=0.04)


def test_a_bend_alters_the_form_and_tears_nothing() -> None:
    source = MASKS["crescent"]
    for seed in SEEDS:
        found = change_mask(source, MaskChange(bend=bent(0.15, seed)))
        overlap = (found & source).sum() / (found | source).sum()
        assert 0.3 < overlap < 0.99
        assert pieces(found) == 1


def test_a_lesion_that_the_frame_cuts_goes_on_as_its_mirror_image() -> None:
    """Half an ellipse at the upper edge, moved down, is the whole ellipse and has no straight side."""
    mask = np.concatenate([ellipse((29.5, 50), (20, 30), (60, 120))[30:], np.zeros((60, 120), bool)])
    whole = ellipse((29.5, 50), (20, 30), (90, 120))
    assert mask[0].any()
    assert np.array_equal(change_mask(mask, MaskChange((30, 0))), whole)


def test_what_does_not_touch_the_frame_has_no_mirror_image() -> None:
    mask = ellipse((0, 30), (15, 15)) | ellipse((30, 80), (8, 8))
    found = change_mask(mask, MaskChange((30, 0)))
    assert pieces(found) == 2
    assert not found[:45, 71:].any()  # where that of the second would be


# The rules that a drawn change keeps


def test_a_seed_is_a_mask(mask: NDArray[np.bool_]) -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002 (that nobody draws from it is the point)
    found = [augment_mask(mask, 3) for _ in range(2)]
    assert np.array_equal(*found)
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_seeds_differ() -> None:
    found = {augment_mask(MASKS["round"], seed).tobytes() for seed in SEEDS}
    assert len(found) == len(SEEDS)


def test_drawing_and_doing_are_apart() -> None:
    change = sample_change(MASKS["cut"], np.random.default_rng(5))
    assert np.array_equal(change_mask(MASKS["cut"], change), augment_mask(MASKS["cut"], 5))


def test_there_is_a_lesion_in_no_more_pieces_than_before(mask: NDArray[np.bool_]) -> None:
    for seed in SEEDS:
        assert 1 <= pieces(augment_mask(mask, seed)) <= pieces(mask)


def test_the_area_stays_in_its_range_or_comes_nearer_to_it(mask: NDArray[np.bool_]) -> None:
    ranges = MaskRanges(area=(0.01, 0.2))
    for seed in SEEDS:
        share = augment_mask(mask, seed, ranges).mean()
        assert min(0.01, mask.mean()) <= share <= max(0.2, mask.mean())


@pytest.mark.parametrize("name", ["round", "crescent", "tiny", "large", "two"])
def test_a_whole_lesion_stays_wholly_in_the_image(name: str) -> None:
    """On an image with room around it, the same change gives the same lesion: nothing of it was cut off."""
    source = MASKS[name]
    for seed in SEEDS:
        change = sample_change(source, np.random.default_rng(seed))
        roomy = change_mask(np.pad(source, 100), change)
        assert np.array_equal(np.pad(change_mask(source, change), 100), roomy)


def test_a_cut_lesion_lies_no_further_outside_than_it_did() -> None:
    source = MASKS["cut"]
    for seed in SEEDS:
        change = sample_change(source, np.random.default_rng(seed), MaskRanges(angle=0.0, bend=0.0))
        rows = np.flatnonzero(augment_mask(source, seed, MaskRanges(angle=0.0, bend=0.0)).any(axis=1))
        assert len(rows) >= math.floor(change.scale * 20)  # half of its 40 rows, 20 of them beyond the frame


def test_the_ranges_are_used_up_and_kept() -> None:
    ranges = MaskRanges(shift=0.1, scale=(0.8, 1.25), angle=30.0, bend=0.1)
    changes = [sample_change(MASKS["round"], np.random.default_rng(seed), ranges) for seed in range(60)]
    for values, low, high in (
        ([change.shift[0] for change in changes], -9, 9),
        ([change.shift[1] for change in changes], -12, 12),
        ([math.log(change.scale) for change in changes], -math.log(1.25), math.log(1.25)),
        ([change.angle for change in changes], -30, 30),
        ([change.bend.max() for change in changes], 0, 0.1),
    ):
        assert low - 1e-9 <= min(values) < low + 0.2 * (high - low)
        assert high - 0.2 * (high - low) < max(values) <= high + 1e-9


def test_ranges_of_nothing_change_nothing(mask: NDArray[np.bool_]) -> None:
    nothing = MaskRanges(shift=0.0, scale=(1.0, 1.0), angle=0.0, bend=0.0, area=(0.0, 1.0))
    assert np.array_equal(augment_mask(mask, 1, nothing), mask)


# What is wrong is one line


@pytest.mark.parametrize(
    ("values", "words"), [(np.zeros((9, 9)), "no lesion"), (np.ones((1, 9, 9)), r"\(1, 9, 9\); give \(height, width\)")]
)
def test_a_mask_that_cannot_be_changed_is_told(values: NDArray, words: str) -> None:
    with pytest.raises(InputError, match=words):
        augment_mask(values, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"shift": 1.5}, "shift: 1.5"),
        ({"scale": (0.0, 1.0)}, "scale: "),
        ({"scale": (2.0, 1.0)}, "scale: "),
        ({"angle": 270.0}, "angle: 270"),
        ({"bend": 0.3}, "bend: 0.3"),
        ({"area": (0.5, 0.2)}, "area: "),
    ],
)
def test_ranges_that_make_no_sense_are_told(options: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        MaskRanges(**options)


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"angle": math.nan}, {"bend": np.zeros((2, 3, 3))}])
def test_changes_that_make_no_sense_are_told(options: dict) -> None:
    with pytest.raises(InputError):
        MaskChange(**options)

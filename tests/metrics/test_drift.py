"""Layout drift: where the found lesion lies, and how large it is, against the one that was asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.errors import InputError
from common.metrics.drift import DriftRecord, layout_drift, summarise_drift


def square(top: int, left: int, side: int, size: int = 40) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[top : top + side, left : left + side] = True
    return mask


@pytest.mark.parametrize(
    ("found", "centroid", "area"),
    [
        (square(10, 10, 10), 0.0, 0.0),
        (square(13, 14, 10), 5 / 40, 0.0),  # 3 and 4 pixels away, of 40
        (square(5, 5, 20), 0.0, 3.0),  # twice as wide about the same centre
        (square(12, 12, 5), 0.5 * math.sqrt(2) / 40, -0.75),
    ],
)
def test_it_is_the_distance_of_the_centres_and_the_share_of_the_area(found, centroid: float, area: float) -> None:
    drift = layout_drift(found, square(10, 10, 10))
    assert drift["centroid"] == pytest.approx(centroid)
    assert drift["area"] == pytest.approx(area)


def test_a_share_does_not_depend_on_the_resolution() -> None:
    """Of the same picture with twice as many pixels a side."""
    found, asked = square(3, 9, 8), square(10, 10, 10)
    doubled = [np.kron(each, np.ones((2, 2), bool)) for each in (found, asked)]
    assert layout_drift(*doubled) == pytest.approx(layout_drift(found, asked))


def test_a_missed_lesion_is_counted_and_has_no_place() -> None:
    nothing, lesion = np.zeros((40, 40), bool), square(10, 10, 10)
    records = [
        DriftRecord("a", "a", layout_drift(lesion, lesion), True, True),
        DriftRecord("b", "b", layout_drift(nothing, lesion), True, False),
        DriftRecord("c", "c", layout_drift(lesion, nothing), False, True),
    ]
    summary = summarise_drift(records)
    assert (summary["images"], summary["nothing_found"], summary["unasked"]) == (3, 1, 1)
    assert summary["centroid"]["mean"] == 0.0 and summary["centroid"]["median"] == 0.0


def test_where_nothing_was_found_there_is_no_mean() -> None:
    nothing, lesion = np.zeros((40, 40), bool), square(10, 10, 10)
    summary = summarise_drift([DriftRecord("b", "b", layout_drift(nothing, lesion), True, False)])
    assert summary["centroid"] == {"mean": None, "interval": None, "median": None}


def test_the_signs_of_areas_do_not_cancel_in_the_absolute_one() -> None:
    drifts = [{"centroid": 0.0, "area": area} for area in (0.5, -0.5)]
    summary = summarise_drift([DriftRecord(str(n), str(n), each, True, True) for n, each in enumerate(drifts)])
    assert summary["area"]["mean"] == pytest.approx(0.0)
    assert summary["absolute_area"]["mean"] == pytest.approx(0.5)


def test_masks_of_two_sizes_are_refused() -> None:
    with pytest.raises(InputError, match="one size"):
        layout_drift(square(1, 1, 3), square(1, 1, 3, size=41))

"""Which cases are shown, and that what is drawn lies where it should."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from common.evaluation.figures import chosen_cases, displayed, draw_cases, draw_sizes, make_case
from tests.evaluation.drawn import disc
from tests.evaluation.test_summary import record


def dices(chosen: dict) -> dict[str, list[float]]:
    return {kind: [r.dice for r in records] for kind, records in chosen.items()}


def test_best_median_and_worst_are_those_of_the_ranking():
    records = [record(f"{i}.png", i / 10) for i in (3, 0, 10, 7, 5, 1, 9, 2, 8, 6, 4)]
    assert dices(chosen_cases(records, 3)) == {
        "best": [1.0, 0.9, 0.8],
        "median": [0.6, 0.5, 0.4],
        "worst": [0.0, 0.1, 0.2],
    }


@pytest.mark.parametrize("count", range(1, 14))
def test_no_image_is_shown_twice(count):
    chosen = chosen_cases([record(f"{i}.png", i / 20) for i in range(count)], 3)
    shown = [r.image for records in chosen.values() for r in records]
    assert len(shown) == len(set(shown)) == min(count, 9) - (count % 3 if 3 < count < 9 else 0)


def test_a_case_keeps_its_masks_to_the_pixel_and_stays_small():
    rng = np.random.default_rng(0)
    image, label, pred = rng.random((3, 256, 256)), disc((90, 100), 40, 256), disc((95, 100), 30, 256)
    case = make_case(image, label, pred)
    for kept, mask in ((case.label, label), (case.pred, pred)):
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(kept))) > 127, mask)
    assert len(case.label) + len(case.pred) < 2000
    large = make_case(rng.random((3, 900, 600)), np.zeros((900, 600)), np.zeros((900, 600)))
    assert Image.open(io.BytesIO(large.image)).size == Image.open(io.BytesIO(large.label)).size == (213, 320)


def test_image_and_masks_of_different_sizes_are_laid_over_each_other():
    case = make_case(np.zeros((3, 64, 64)), np.zeros((120, 80)), np.zeros((120, 80)))
    assert Image.open(io.BytesIO(case.image)).size == (80, 120)


def test_any_range_of_values_can_be_shown():
    ramp = np.linspace(0, 1, 64).reshape(1, 8, 8).repeat(3, 0)
    shown = displayed(ramp)
    assert shown.shape == (8, 8, 3) and (shown.min(), shown.max()) == (0, 255)
    assert np.array_equal(displayed(ramp * 255), shown)
    assert np.array_equal(displayed(ramp * 4 - 2), shown)  # normalised with mean and deviation
    assert np.array_equal(displayed(ramp[:1]), shown)  # one channel becomes grey
    assert np.array_equal(displayed(ramp * 1.00001), shown)  # white that a resize has rounded up stays white
    assert displayed(np.full((3, 4, 4), 0.5)).max() == 128  # a flat picture is not stretched


def colours(path, wanted: tuple[int, int, int]) -> int:
    return int((np.asarray(Image.open(path).convert("RGB")) == wanted).all(-1).sum())


def test_outlines_are_drawn_where_there_is_a_mask(tmp_path):
    truth, prediction = (0, 229, 255), (255, 213, 0)
    grey, mask, none = np.full((3, 64, 64), 0.4), disc((30, 30), 12), np.zeros((64, 64))
    for name, label, pred in (("both", mask, disc((44, 44), 8)), ("missed", mask, none), ("empty", none, none)):
        one = record(f"{name}.png", 0.5, area=float(label.mean()))
        draw_cases(
            tmp_path / f"{name}.png", name, {"best": [one], "median": []}, {one.image: make_case(grey, label, pred)}
        )
    legend = {colour: colours(tmp_path / "empty.png", colour) for colour in (truth, prediction)}
    assert colours(tmp_path / "both.png", truth) > legend[truth] + 50
    assert colours(tmp_path / "both.png", prediction) > legend[prediction] + 50
    assert colours(tmp_path / "missed.png", prediction) == legend[prediction]


def test_the_same_records_draw_the_same_bytes(tmp_path):
    records = [record(f"{i}.png", 0.5 + i / 40, "ab"[i % 2], area=0.004 * (i + 1)) for i in range(12)]
    for name in ("one.png", "two.png"):
        draw_sizes(tmp_path / name, records)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    draw_sizes(tmp_path / "none.png", [record("a.png", 1.0, area=0.0)])  # no lesion at all: an empty plot, no error

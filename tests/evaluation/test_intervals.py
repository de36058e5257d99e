"""Laws of the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest

from common.evaluation.intervals import Bootstrap, Sample, estimate, shown_interval

QUICK = Bootstrap(resamples=500)


def sample(n: int, seed: int = 0, group_size: int = 1) -> Sample:
    return Sample(np.random.default_rng(seed).beta(4, 1, n), [str(i // group_size) for i in range(n)])


def width(interval: list[float]) -> float:
    return interval[1] - interval[0]


def test_interval_holds_the_mean_and_shrinks_as_root_n():
    found = {n: estimate([sample(n)], QUICK) for n in (25, 100, 1600)}
    for n, one in found.items():
        assert one["by_image"][0] < one["mean"] < one["by_image"][1]
        assert one["mean"] == pytest.approx(sample(n).values.mean())
    assert width(found[25]["by_image"]) > width(found[100]["by_image"]) > width(found[1600]["by_image"])
    assert width(found[100]["by_image"]) / width(found[1600]["by_image"]) == pytest.approx(4, rel=0.3)


def test_interval_covers_the_true_mean_as_often_as_it_says():
    truth, hits = 0.8, 0  # the mean of beta(4, 1)
    for seed in range(100):
        low, high = estimate([sample(60, seed)], Bootstrap(resamples=300))["by_image"]
        hits += low <= truth <= high
    assert 88 <= hits <= 99


def test_equal_to_a_loop_of_resampled_means():
    values = sample(40).values
    rng = np.random.default_rng(9)
    means = [rng.choice(values, 40).mean() for _ in range(20_000)]
    found = estimate([sample(40)], Bootstrap(resamples=20_000))["by_image"]
    np.testing.assert_allclose(found, np.percentile(means, [2.5, 97.5]), atol=3e-3)


def test_groups_of_one_image_change_nothing_and_have_no_second_interval():
    one = estimate([sample(30)], QUICK)
    assert (one["groups"], one["by_group"]) == (30, None)
    assert shown_interval(one) == one["by_image"]


def test_repeating_every_image_ten_times_narrows_by_image_but_not_by_group():
    few = sample(30)
    copies = Sample(np.repeat(few.values, 10), [group for group in few.groups for _ in range(10)])
    one, many = estimate([few], QUICK), estimate([copies], QUICK)
    assert many["mean"] == pytest.approx(one["mean"])
    assert width(many["by_image"]) < 0.5 * width(one["by_image"])
    np.testing.assert_allclose(sorted(many["by_group"]), sorted(one["by_image"]), rtol=0.02)
    assert shown_interval(many) == many["by_group"]


def test_groups_of_unlike_size_weigh_as_many_as_their_images():
    found = estimate([Sample(np.array([1.0, 1.0, 1.0, 0.0]), ["a", "a", "a", "b"])], QUICK)
    assert found["mean"] == 0.75
    assert found["by_group"] == [0.0, 1.0]


def test_mean_of_sources_is_the_mean_of_means_with_sources_drawn_apart():
    large, small = sample(200, 1), Sample(np.full(10, 0.2), [str(i) for i in range(10)])
    found = estimate([large, small], QUICK)
    assert found["mean"] == pytest.approx((large.values.mean() + 0.2) / 2)
    # the constant source adds no spread, so the interval is half as wide as the large source's own
    assert width(found["by_image"]) == pytest.approx(width(estimate([large], QUICK)["by_image"]) / 2, rel=0.2)


def test_undefined_values_are_left_out_and_counted():
    full = sample(20)
    holes = Sample(np.concatenate([full.values, [np.nan] * 3]), [*full.groups, "x", "y", "z"])
    found = estimate([holes], QUICK)
    assert (found["n"], found["undefined"], found["groups"]) == (20, 3, 20)
    assert found["mean"] == pytest.approx(full.values.mean())
    nothing = estimate([Sample(np.array([np.nan]), ["a"])], QUICK)
    assert (nothing["mean"], nothing["n"], nothing["undefined"], nothing["by_image"]) == (None, 0, 1, None)


def test_one_image_has_a_mean_but_no_interval():
    found = estimate([Sample(np.array([0.5]), ["a"])], QUICK)
    assert (found["mean"], found["by_image"]) == (0.5, None)


def test_seed_decides():
    assert estimate([sample(50)], QUICK) == estimate([sample(50)], QUICK)
    assert estimate([sample(50)], QUICK) != estimate([sample(50)], Bootstrap(resamples=500, seed=1))

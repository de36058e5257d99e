"""Bootstrap intervals of a mean, by image or by group, and of a mean over sources.

A group is what may not be counted as independent: the frames of one video sequence, the images of one patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import bootstrap

_BATCH_VALUES = 4_000_000  # resampled numbers held at once: 32 MB


@dataclass(frozen=True)
class Bootstrap:
    """Settings: percentile intervals at `confidence` from `resamples` draws of a private generator."""

    resamples: int = 2000
    seed: int = 0
    confidence: float = 0.95


@dataclass(frozen=True)
class Sample:
    """Numbers `(n,)` of one source and the group of each; NaN means undefined and is left out."""

    values: np.ndarray
    groups: Sequence[str]

    def defined(self) -> tuple[np.ndarray, np.ndarray]:
        """The defined values and, for each, the index of its group."""
        keep = ~np.isnan(self.values)
        _, index = np.unique(np.asarray(self.groups, dtype=str)[keep], return_inverse=True)
        return self.values[keep], index


def estimate(samples: Sequence[Sample], settings: Bootstrap) -> dict[str, Any]:
    """Mean over samples of each sample's mean (one sample: its plain mean), with intervals.

    Returns:
        `mean` (None when nothing is defined), `n` and `undefined` (numbers of images), `groups` (how many), the
        interval `by_image`, and `by_group`, which is None where every group has one image. An interval is
        `[low, high]`, or None where some sample has a single image (group), of which nothing can be resampled.
        Samples without a defined value are left out.
    """
    parts = [sample.defined() for sample in samples]
    undefined = sum(len(sample.values) for sample in samples) - sum(len(values) for values, _ in parts)
    parts = [part for part in parts if len(part[0])]
    n = sum(len(values) for values, _ in parts)
    groups = sum(int(index.max()) + 1 for _, index in parts)
    by_group = [(np.bincount(index, values), np.bincount(index)) for values, index in parts]
    return {
        "mean": float(np.mean([values.mean() for values, _ in parts])) if parts else None,
        "n": n,
        "undefined": undefined,
        "groups": groups,
        "by_image": _interval([(values, np.ones(len(values))) for values, _ in parts], settings),
        "by_group": _interval(by_group, settings) if groups < n else None,
    }


def _interval(strata: list[tuple[np.ndarray, np.ndarray]], settings: Bootstrap) -> list[float] | None:
    # Each stratum is (sums, counts) of its units. Their indices are what scipy resamples, so that a sum and its
    # count stay together while strata are drawn independently of each other.
    if not strata or min(len(sums) for sums, _ in strata) < 2:
        return None

    def mean_of_means(*drawn: np.ndarray, axis: int) -> np.ndarray:
        indices = [index.astype(np.intp, copy=False) for index in drawn]
        means = [
            sums[index].sum(axis) / counts[index].sum(axis)
            for (sums, counts), index in zip(strata, indices, strict=True)
        ]
        return np.mean(means, axis=0)

    result = bootstrap(
        tuple(np.arange(len(sums)) for sums, _ in strata),
        mean_of_means,
        n_resamples=settings.resamples,
        batch=max(1, _BATCH_VALUES // sum(len(sums) for sums, _ in strata)),
        vectorized=True,
        confidence_level=settings.confidence,
        method="percentile",
        rng=np.random.default_rng(settings.seed),
    )
    return [float(result.confidence_interval.low), float(result.confidence_interval.high)]


def shown_interval(estimated: dict[str, Any]) -> list[float] | None:
    """The interval to print: by group where groups repeat, since images of one group are not independent."""
    return estimated["by_group"] if estimated["groups"] < estimated["n"] else estimated["by_image"]

"""The Fréchet distance of two sets of features, how far it is to be trusted, and what real images come to.

Both sets are taken for normal distributions; the squared distance is |μ₁ − μ₂|² + tr(Σ₁ + Σ₂ − 2(Σ₁Σ₂)^½) (Heusel et
al. 2017, equation 6). It is biased: of two samples of one distribution it is above 0, the more the fewer images there
are and the more features. So a figure stands beside what two halves of the real set come to, and, where there are more
images than features, beside its limit for endless images (Chong and Forsyth 2020: the bias falls as 1/N).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..data.progress import bar
from ..errors import InputError
from .features import Features
from .inception import import_pytorch_fid

SHARES = (1.0, 0.85, 0.7, 0.6, 0.5)  # of the images, that the limit is drawn from
DRAWS = 8  # of each share, and of halves


@dataclass(frozen=True)
class FrechetDistance:
    """A squared Fréchet distance with what is needed to read it.

    Attributes:
        distance: over all images.
        interval: 95 %, by bootstrap of whole groups, about `distance`; None without resamples.
        images: how many of each set.
        dimensions: of the features.
        limit: for endless images; None where there are too few for that.
        halves: mean distance of two halves of the second set, which is 0 but for the bias, at half as many images.
    """

    distance: float
    interval: tuple[float, float] | None
    images: tuple[int, int]
    dimensions: int
    limit: float | None
    halves: float | None

    @property
    def too_few(self) -> bool:
        """Whether one set has no more images than features, so that its covariance is not of full rank."""
        return min(self.images) <= self.dimensions


def frechet_distance(first: Features, second: Features) -> float:
    """The squared Fréchet distance of features ``(N, d)`` and ``(M, d)``.

    Without a matrix root: with centred rows A and B scaled by 1/√(N−1), the trace of (Σ₁Σ₂)^½ is the sum of the
    singular values of A·Bᵀ, which holds for any rank.

    Raises:
        InputError: if a set has fewer than two rows, the widths differ, or a value is not finite.
    """
    _check(first, second)
    difference = first.mean(axis=0) - second.mean(axis=0)
    a, b = _scaled(first), _scaled(second)
    root = np.linalg.svd(_reduced(a) @ _reduced(b).T, compute_uv=False).sum()
    return float(difference @ difference + np.square(a).sum() + np.square(b).sum() - 2 * root)


def fid(painted: Features, real: Features) -> float:
    """The same by pytorch-fid's own function, so that a figure is equal to its command's, digit for digit.

    Warns:
        UserWarning: where that function fails, as it can with fewer images than features; `frechet_distance`, which
            takes no matrix root and is equal but for rounding, then stands in.

    Raises:
        InputError: see `frechet_distance`.
    """
    _check(painted, real)
    moments = [part for each in (painted, real) for part in (np.mean(each, axis=0), np.cov(each, rowvar=False))]
    try:
        return float(import_pytorch_fid("fid_score").calculate_frechet_distance(*moments))
    except ValueError as error:  # "Imaginary component": of a matrix root that is not one
        warnings.warn(f"pytorch-fid gives no distance here ({error}); the same without a matrix root", stacklevel=2)
        return frechet_distance(painted, real)


def measure(
    painted: Features,
    real: Features,
    groups: tuple[Sequence[str], Sequence[str]],
    *,
    distance: float | None = None,
    resamples: int = 100,
    seed: int = 0,
    progress: bool = False,
) -> FrechetDistance:
    """A Fréchet distance with its interval, its limit and its floor.

    Args:
        painted, real: features ``(N, d)`` and ``(M, d)``.
        groups: of the rows of each; the bootstrap draws whole groups.
        distance: of the two, where it is known (`fid`).
        resamples: of the bootstrap; 0 leaves the interval out.
        seed: of the bootstrap, and of the draws for limit and halves; 0 or more. Equal seeds, equal intervals.
        progress: whether the bootstrap shows a bar.

    Warns:
        UserWarning: if a set has no more images than features.

    Raises:
        InputError: see `frechet_distance`.
    """
    distance = frechet_distance(painted, real) if distance is None else distance
    generator = np.random.default_rng(seed)
    images = len(painted), len(real)
    if min(images) <= painted.shape[1]:
        warnings.warn(
            f"{min(images)} images are no more than the {painted.shape[1]} features: the distance is far too high, "
            "and to be compared only with that of as many images",
            stacklevel=2,
        )
    draws = bar(range(resamples), "bootstrap", "draw", resamples, progress and resamples > 0)
    return FrechetDistance(
        distance,
        _interval(painted, real, groups, distance, draws, generator),
        images,
        painted.shape[1],
        _limit(painted, real, generator),
        _halves(real, groups[1], generator),
    )


def _check(first: Features, second: Features) -> None:
    if min(len(first), len(second)) < 2:
        raise InputError(f"a Fréchet distance needs two images of each set; there are {len(first)} and {len(second)}")
    if first.shape[1] != second.shape[1]:
        raise InputError(f"the sets have {first.shape[1]} and {second.shape[1]} features; take both from one network")
    if not (np.isfinite(first).all() and np.isfinite(second).all()):
        raise InputError("some features are not finite; check the images and the weights")


def _scaled(features: Features) -> Features:
    return (features - features.mean(axis=0)) / np.sqrt(len(features) - 1)


def _reduced(rows: Features) -> Features:
    # The triangle of a QR factorisation has the same covariance in fewer rows.
    return np.linalg.qr(rows, mode="r") if len(rows) > rows.shape[1] else rows


def _drawn(groups: Sequence[str], generator: np.random.Generator) -> NDArray[np.intp]:
    # Rows of as many groups as there are, drawn with replacement.
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    order = np.argsort(index, kind="stable")
    starts = np.concatenate([[0], np.cumsum(np.bincount(index))])
    chosen = generator.integers(0, len(starts) - 1, len(starts) - 1)
    return np.concatenate([order[starts[group] : starts[group + 1]] for group in chosen])


def _interval(
    painted: Features,
    real: Features,
    groups: tuple[Sequence[str], Sequence[str]],
    distance: float,
    resamples: Iterable[int],
    generator: np.random.Generator,
) -> tuple[float, float] | None:
    # A sample drawn from a sample repeats rows, which raises every distance; so their spread is kept, not their place.
    values = [
        frechet_distance(painted[_drawn(groups[0], generator)], real[_drawn(groups[1], generator)]) for _ in resamples
    ]
    if not values:
        return None
    low, high = np.percentile(values, [2.5, 97.5]) - np.mean(values) + distance
    return float(max(low, 0.0)), float(high)


def _limit(painted: Features, real: Features, generator: np.random.Generator) -> float | None:
    if min(SHARES) * min(len(painted), len(real)) <= painted.shape[1]:
        return None
    inverse, values = [], []
    for share in SHARES:
        counts = [round(share * len(each)) for each in (painted, real)]
        for _ in range(1 if share == 1 else DRAWS):
            parts = [
                each[generator.permutation(len(each))[:count]]
                for each, count in zip((painted, real), counts, strict=True)
            ]
            inverse.append(1 / share)
            values.append(frechet_distance(*parts))
    return float(max(np.polyfit(inverse, values, 1)[1], 0.0))


def _halves(real: Features, groups: Sequence[str], generator: np.random.Generator) -> float | None:
    # Groups stay whole, or frames of one video would make the halves alike.
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    values = []
    for _ in range(DRAWS):
        side = (np.argsort(generator.permutation(len(names))) < len(names) / 2)[index]
        if min(side.sum(), (~side).sum()) >= 2:
            values.append(frechet_distance(real[side], real[~side]))
    return float(np.mean(values)) if values else None

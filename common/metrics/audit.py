"""The memorisation audit: is a painted image a copy of a training image, and do they as a set keep too close to them?

The rule, in three steps, each stated in what is written:

1. *Pixels.* An image is a copy where its similarity to a training image (`nearest`) is at least `COPY`.
2. *Features.* It is a copy where its distance to a training image, on the features of a frozen network, is less than
   `FEATURE_COPY` of what lies between that training image and the nearest real one of another sequence or patient. It
   sees crops and shifts, to which step 1 is blind. Of four flips of the painted image the nearest counts, in both.
3. *The set.* The painted images keep too close where a painted one is nearer to its training image than a held-out real
   one is to its own (pixels) in more than half of all pairs, by more than chance (95 % interval, whole groups drawn).

Heads in MRI are more alike than polyps: where a held-out real image of another patient lies beyond a line of steps 1
and 2, the line is drawn at that image, and the report says so.

A copy fails an audit; a set that keeps too close is a warning; neither means that the rule saw nothing, and no more.

`FEATURE_COPY` is a line between what was seen on ORDER's features of the published polyp split: a training image saved
as JPEG of quality 50 comes to 0.22 in the median and 0.38 in one of twenty, shifted by a fiftieth of its width to 0.29
and 0.47, cropped by 3 % a side to 0.59; images of other hospitals and patients (ColonDB, ETIS, Kvasir's test list) to
1.30 and 0.99 in the median, and one of twenty to 0.88 and 0.74. A change of brightness moves the features by as much as
another patient does, and leaves the pixels' similarity at 0.99 or more: neither step replaces the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .features import FeatureExtractor, Features
from .image_sets import ImageSet
from .nearest import COPY, FLIPS, Nearest, nearest_images

FEATURE_COPY = 0.5
RESAMPLES = 1000
COPIES, CLOSE, CLEAR = "copies", "too close", "no sign"


@dataclass(frozen=True)
class Audit:
    """What an audit found.

    Attributes:
        pixels: the nearest training image of each painted one; its similarity.
        features: the nearest training image of each by features.
        ratio: its distance over that of this training image to the nearest real one of another group, ``(N,)``.
        held_out: the nearest training image of each held-out real one, by pixels.
        held_out_ratio: as `ratio`, of the held-out real images.
        closer: share of pairs of a painted and a held-out image in which the painted one is nearer to training.
        closer_interval: its 95 % interval.
    """

    pixels: Nearest
    features: NDArray[np.intp]
    ratio: NDArray[np.float64]
    held_out: Nearest
    held_out_ratio: NDArray[np.float64]
    closer: float
    closer_interval: tuple[float, float]

    @property
    def lines(self) -> tuple[float, float]:
        """From which similarity on, and below which ratio, an image is a copy: `COPY` and `FEATURE_COPY`, or beyond.

        Beyond where a held-out real image, which is none, lies there itself.
        """
        similarity = float(self.held_out.similarity.max())
        beyond = float(np.nextafter(np.float32(similarity), np.float32(2)))
        return max(COPY, beyond), min(FEATURE_COPY, float(self.held_out_ratio.min()))

    @property
    def copies(self) -> NDArray[np.bool_]:
        """Which painted images are copies by either rule."""
        similarity, ratio = self.lines
        return (self.pixels.similarity >= similarity) | (self.ratio < ratio)

    @property
    def verdict(self) -> str:
        """`COPIES`, `CLOSE` or `CLEAR`."""
        if self.copies.any():
            return COPIES
        return CLOSE if self.closer_interval[0] > 0.5 else CLEAR


def audit(
    painted: ImageSet,
    training: ImageSet,
    held_out: ImageSet,
    extractor: FeatureExtractor,
    *,
    size: int | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Audit:
    """Audit painted images against those that their model was trained on.

    Args:
        painted: what is to be handed on.
        training: every image that the model was trained on.
        held_out: real images that it was not trained on, of other groups.
        extractor: of the features.
        size: real images are squashed to so many pixels first, such as painted ones have; as they are if None.
        seed: of the bootstrap.
        progress: whether bars are shown.

    Raises:
        InputError: if an image cannot be read.
    """
    known = extractor(training.paths, size, progress=progress)
    centre, spread = known.mean(axis=0), known.std(axis=0)
    spread[spread == 0] = 1.0
    known = (known - centre) / spread
    apart = _nearest_of_another_group(known, training.groups)

    def by_features(images: ImageSet, side: int | None) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
        own = [(extractor(images.paths, side, flip, progress) - centre) / spread for flip in FLIPS]
        distances = np.stack([_distances(each, known) for each in own]).min(axis=0)
        ratios = distances / apart
        nearest = ratios.argmin(axis=1)
        return nearest, ratios[np.arange(len(ratios)), nearest]

    pixels, reference = (nearest_images(each.paths, training.paths, progress=progress) for each in (painted, held_out))
    nearest, ratio = by_features(painted, None)
    closer, interval = _closer(pixels.similarity, painted.groups, reference.similarity, held_out.groups, seed)
    return Audit(pixels, nearest, ratio, reference, by_features(held_out, size)[1], closer, interval)


def _distances(first: Features, second: Features) -> Features:
    squares = np.square(first).sum(axis=1)[:, None] + np.square(second).sum(axis=1) - 2 * first @ second.T
    return np.sqrt(np.maximum(squares, 0))


def _nearest_of_another_group(features: Features, groups: Sequence[str]) -> Features:
    # Frames of one video are near each other, and say nothing of how far apart two patients are.
    _, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    distances = _distances(features, features)
    distances[index[:, None] == index] = np.inf
    nearest = distances.min(axis=1)
    # Where two groups share a picture, a distance of nothing would make every ratio huge; the usual one stands in.
    finite = nearest[np.isfinite(nearest)]
    usual = float(np.median(finite)) if len(finite) else 1.0
    return np.where(np.isfinite(nearest), np.maximum(nearest, usual / 2), usual)


def _closer(
    painted: NDArray[np.float32],
    painted_groups: Sequence[str],
    real: NDArray[np.float32],
    real_groups: Sequence[str],
    seed: int,
) -> tuple[float, tuple[float, float]]:
    # Mann and Whitney's statistic over its largest value.
    wins = (painted[:, None] > real).astype(float) + 0.5 * (painted[:, None] == real)
    rows, columns = (_by_group(groups) for groups in (painted_groups, real_groups))
    sums = rows @ wins @ columns.T
    counts = rows.sum(axis=1)[:, None] * columns.sum(axis=1)
    generator = np.random.default_rng(seed)
    values = []
    for _ in range(RESAMPLES):
        first = np.bincount(generator.integers(0, len(rows), len(rows)), minlength=len(rows))
        second = np.bincount(generator.integers(0, len(columns), len(columns)), minlength=len(columns))
        values.append((first @ sums @ second) / (first @ counts @ second))
    low, high = np.percentile(values, [2.5, 97.5])
    return float(wins.mean()), (float(low), float(high))


def _by_group(groups: Sequence[str]) -> NDArray[np.float64]:
    names, index = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    return (np.arange(len(names))[:, None] == index).astype(float)

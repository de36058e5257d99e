"""How like the real images the painted ones are: Fréchet distances and CLIP-I, each beside what real images come to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..evaluation.intervals import Bootstrap, Sample, estimate, shown_interval
from .clip import ClipFeatures, rows_of_origins, similarity_in_pairs, similarity_to_set, similarity_within
from .features import FeatureExtractor, Features
from .frechet import FrechetDistance, fid, measure
from .image_sets import ImageSet
from .inception import InceptionFeatures


@dataclass(frozen=True)
class Estimate:
    """A mean over images: value, 95 % interval by bootstrap of whole groups (None of one group), number of images."""

    mean: float
    interval: tuple[float, float] | None
    images: int


@dataclass(frozen=True)
class ClipSimilarity:
    """CLIP-I in its two readings.

    Attributes:
        to_set: mean over all pairs of a painted and a real image, as the paper's words are.
        in_pairs: each painted image with the real one of its mask alone; None where that is not in the real set.
        real: mean over all pairs of two real images, which `to_set` is to be read beside.
    """

    to_set: Estimate
    in_pairs: Estimate | None
    real: Estimate


def frechet(
    painted: ImageSet,
    real: ImageSet,
    extractor: FeatureExtractor,
    *,
    size: int | None = None,
    known: Features | None = None,
    resamples: int = 100,
    seed: int = 0,
    progress: bool = True,
) -> FrechetDistance:
    """The Fréchet distance of two sets of images on an extractor's features; FID where that is Inception.

    Args:
        painted, real: images.
        extractor: of the features.
        size: both sets are squashed to so many pixels first; as they are if None.
        known: features of the real images at that size, where they were computed before.
        resamples, seed: see `frechet.measure`.
        progress: whether bars are shown.

    Warns:
        UserWarning: if a set has no more images than features; or see `frechet.fid`.

    Raises:
        InputError: if an image cannot be read, or see `frechet.frechet_distance`.
    """
    own = extractor(painted.paths, size, progress=progress)
    features = own, extractor(real.paths, size, progress=progress) if known is None else known
    distance = fid(*features) if isinstance(extractor, InceptionFeatures) else None
    groups = painted.groups, real.groups
    return measure(*features, groups, distance=distance, resamples=resamples, seed=seed, progress=progress)


def clip_similarity(
    painted: ImageSet,
    real: ImageSet,
    extractor: ClipFeatures,
    *,
    size: int | None = None,
    known: Features | None = None,
    progress: bool = True,
) -> ClipSimilarity:
    """CLIP-I (section 4.1.3) of painted images against real ones.

    Args:
        painted, real: images.
        extractor: of the embeddings.
        size: both sets are squashed to so many pixels first; as they are if None.
        known: embeddings of the real images at that size, where they were computed before.
        progress: whether bars are shown.

    Raises:
        InputError: if an image cannot be read.
    """
    own = extractor(painted.paths, size, progress=progress)
    reference = extractor(real.paths, size, progress=progress) if known is None else known
    rows = rows_of_origins(painted.origins, real.masks)
    in_pairs = None if rows is None else _estimate(similarity_in_pairs(own, reference[rows]), painted)
    return ClipSimilarity(
        _estimate(similarity_to_set(own, reference), painted), in_pairs, _estimate(similarity_within(reference), real)
    )


def _estimate(values: Features, images: ImageSet) -> Estimate:
    found = estimate([Sample(values, images.groups)], Bootstrap())
    interval = shown_interval(found)
    return Estimate(float(np.mean(values)), None if interval is None else tuple(interval), len(values))


def plain(measured: Mapping[str, FrechetDistance | ClipSimilarity]) -> dict[str, Any]:
    """What was measured, by name as it was given, as numbers, lists and dicts, for a JSON file."""
    return {name: asdict(each) for name, each in measured.items()}


def table(measured: Mapping[str, FrechetDistance | ClipSimilarity]) -> list[tuple[str, ...]]:
    """Rows for `columns.align`, the first their header."""
    rows: list[tuple[str, ...]] = [("", "figure", "95 % interval", "images", "real images come to", "without bias")]
    for name, each in measured.items():
        if isinstance(each, FrechetDistance):
            rows.append(_frechet_row(name, each))
        else:
            rows += _clip_rows(each)
    return rows


def _frechet_row(name: str, found: FrechetDistance) -> tuple[str, ...]:
    return (
        name if name == "FID" else f"Fréchet distance, {name}",
        _shown(found.distance),
        "–" if found.interval is None else "–".join(map(_shown, found.interval)),
        "{} and {}".format(*found.images),
        "–" if found.halves is None else f"{_shown(found.halves)} (halves)",
        "–" if found.limit is None else _shown(found.limit),
    )


def _clip_rows(found: ClipSimilarity) -> list[tuple[str, ...]]:
    rows = []
    for name, each in (("CLIP-I", found.to_set), ("CLIP-I, in pairs", found.in_pairs)):
        if each is not None:
            interval = "–" if each.interval is None else "–".join(f"{value:.3f}" for value in each.interval)
            rows.append((name, f"{each.mean:.3f}", interval, str(each.images), f"{found.real.mean:.3f}", "–"))
    return rows


def _shown(value: float) -> str:
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"

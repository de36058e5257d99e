"""Paired comparison of models that were evaluated on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

from ..errors import InputError
from .intervals import Bootstrap, Sample, estimate
from .records import METRICS, ImageRecord, in_order
from .summary import SIZE_BINS, by_kind, by_source, groups_of, in_bin, size_bins

Pair = tuple[ImageRecord, ImageRecord]


def _named(names: set[str]) -> str:
    shown = sorted(names)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def paired(a: Sequence[ImageRecord], b: Sequence[ImageRecord], names: tuple[str, str] = ("A", "B")) -> list[Pair]:
    """Pair the records of two models image by image.

    Raises:
        InputError: unless both hold the same images with the same source, group, kinds, evaluated size, NSD tolerance
            and label area (to 1e-6 of the image); the text names the first differences.
    """
    left, right = ({record.image: record for record in records} for records in (a, b))
    for only, name in ((left.keys() - right.keys(), names[0]), (right.keys() - left.keys(), names[1])):
        if only:
            raise InputError(
                f"{names[0]} and {names[1]} hold different images: only {name} has {_named(only)}; "
                "evaluate both models on one test list"
            )
    pairs = [(record, right[record.image]) for record in in_order(a)]
    for what in ("source", "group", "kinds", "height", "width", "nsd_tolerance"):
        if unlike := {x.image for x, y in pairs if getattr(x, what) != getattr(y, what)}:
            raise InputError(f"{names[0]} and {names[1]} differ in the {what} of {_named(unlike)}; evaluate both alike")
    if unlike := {x.image for x, y in pairs if abs(x.area - y.area) > 1e-6}:
        raise InputError(f"{names[0]} and {names[1]} were measured against different masks of {_named(unlike)}")
    return pairs


def _p_value(differences: np.ndarray) -> float | None:
    # Two-sided; equal images carry no sign and are dropped (Wilcoxon's own rule), none left means no difference.
    differences = differences[~np.isnan(differences)]
    if not len(differences):
        return None
    moved = differences[differences != 0]
    return float(wilcoxon(moved).pvalue) if len(moved) else 1.0


def _row(name: str, parts: list[list[Pair]], metric: str, settings: Bootstrap, test: bool = True) -> dict[str, Any]:
    # Means of A and B are over the images on which both are defined, so that their difference is the difference.
    values = [np.array([[getattr(r, metric) for r in pair] for pair in part]).reshape(-1, 2) for part in parts]
    kept = [value[~np.isnan(value).any(1)] for value in values]
    kept = [value for value in kept if len(value)]
    differences = [value[:, 1] - value[:, 0] for value in values]
    groups = [groups_of([a for a, _ in part]) for part in parts]
    samples = [Sample(*both) for both in zip(differences, groups, strict=True)]
    flat = np.concatenate(differences)
    gain = -flat if metric == "hd95" else flat
    return {
        "name": name,
        "mean_a": float(np.mean([value[:, 0].mean() for value in kept])) if kept else None,
        "mean_b": float(np.mean([value[:, 1].mean() for value in kept])) if kept else None,
        "difference": estimate(samples, settings),
        "better": int((gain > 0).sum()),
        "worse": int((gain < 0).sum()),
        "p": _p_value(flat) if test else None,
    }


def compare_models(
    a: Sequence[ImageRecord],
    b: Sequence[ImageRecord],
    *,
    names: tuple[str, str] = ("A", "B"),
    bootstrap: Bootstrap | None = None,
    bins: Sequence[float] = SIZE_BINS,
) -> dict[str, Any]:
    """Compare model B with model A on the same images, as plain numbers, lists and dicts.

    For each measure, one row for the mean over sources (no test there: it is no mean of images), all images,
    each source, lesion-size bin and kind: both means, the mean difference B − A with its bootstrap interval
    (by image, and by group where groups repeat), on how many images B is better and worse, and the two-sided
    Wilcoxon signed-rank p. For HD95 an image counts where both models have a value.

    Raises:
        InputError: see `paired`.
    """
    settings = bootstrap or Bootstrap()
    pairs = paired(a, b, names)
    sources = by_source([x for x, _ in pairs])
    parts = {name: [pair for pair in pairs if pair[0].source == name] for name in sources}
    sizes = [(name, [pair for pair in pairs if in_bin(pair[0], *span)]) for name, *span in size_bins(bins)]
    other = {x.image: y for x, y in pairs}
    kinds = [
        (f"{kind} {value}", [(x, other[x.image]) for x in part])
        for kind, values in by_kind([x for x, _ in pairs]).items()
        for value, part in values.items()
    ]
    named = [("all images", pairs), *parts.items(), *sizes, *kinds]
    metrics = {}
    for metric in METRICS:
        rows = [_row("mean of sources", list(parts.values()), metric, settings, test=False)]
        rows += [_row(name, [part], metric, settings) for name, part in named]
        metrics[metric] = rows
    return {
        "format": 1,
        "a": names[0],
        "b": names[1],
        "images": len(pairs),
        "bootstrap": {"resamples": settings.resamples, "seed": settings.seed, "confidence": settings.confidence},
        "metrics": metrics,
    }

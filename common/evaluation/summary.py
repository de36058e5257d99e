"""From records to the summary: sources, their mean as the paper has it, lesion sizes, with and without empty masks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import InputError
from .intervals import Bootstrap, Sample, estimate
from .records import METRICS, ImageRecord, in_order

SIZE_BINS = (0.01, 0.025, 0.05, 0.10)
"""Where the lesion-size bins end: shares of the image that the label covers."""

RULES = {
    "unit": "dice, iou and nsd are shares between 0 and 1; hd95 is in pixels of the evaluated size",
    "empty_mask": "dice, iou, nsd: both masks empty 1, one empty 0; hd95: undefined, left out and counted",
    "mean_over_sources": "the mean of each source's mean over its images",
    "missed": "images with a lesion of which the prediction touches no pixel (Dice 0)",
    "false_alarms": "images without a lesion in which the prediction marks one",
    "sizes": "share of the image that the label covers, from <= share < to; images without a lesion are in no bin",
    "kinds": "the images of each kind, such as a class or a plane, where the records tell it",
    "intervals": "percentile bootstrap, each source resampled on its own; by_group draws whole groups",
}


def size_bins(edges: Sequence[float] = SIZE_BINS) -> list[tuple[str, float, float]]:
    """Name, start and end of each lesion-size bin, small first; start ≤ share < end, and the last ends at 1.

    Raises:
        InputError: when the edges do not rise strictly between 0 and 1.
    """
    bounds = [0.0, *edges, 1.0]
    if any(a >= b for a, b in pairwise(bounds)):
        raise InputError(f"size_bins must rise strictly between 0 and 1; they are {list(edges)}")
    percent = [f"{100 * bound:g}" for bound in bounds]
    bins = []
    for i, (start, end) in enumerate(pairwise(bounds)):
        name = f"{percent[i]}–{percent[i + 1]} %"
        name = f"< {percent[i + 1]} %" if i == 0 else name
        name = f"≥ {percent[i]} %" if i == len(edges) else name
        bins.append((name, start, end))
    return bins


def in_bin(record: ImageRecord, start: float, end: float) -> bool:
    """Whether the lesion is in the bin; an image without one is in none, one that fills the image in the last."""
    return record.area > 0 and start <= record.area and (record.area < end or end == 1.0)


def by_source(records: Sequence[ImageRecord]) -> dict[str, list[ImageRecord]]:
    """The records of each source, sources in alphabetical order."""
    return {
        name: [record for record in records if record.source == name] for name in sorted({r.source for r in records})
    }


def by_kind(records: Sequence[ImageRecord]) -> dict[str, dict[str, list[ImageRecord]]]:
    """For each kind that is known of an image, such as its plane: the records of each of its values, in order."""
    names = sorted({name for record in records for name in record.kinds})
    values = {name: sorted({record.kinds[name] for record in records if name in record.kinds}) for name in names}
    return {
        name: {value: [record for record in records if record.kinds.get(name) == value] for value in values[name]}
        for name in names
    }


def groups_of(records: Sequence[ImageRecord]) -> list[str]:
    """The group of each record; equal names in two sources are two groups."""
    return [f"{record.source}\0{record.group}" for record in records]


def _sample(records: Sequence[ImageRecord], metric: str) -> Sample:
    return Sample(np.array([getattr(record, metric) for record in records], dtype=float), groups_of(records))


def _row(samples: Sequence[Sequence[ImageRecord]], settings: Bootstrap) -> dict[str, Any]:
    records = [record for part in samples for record in part]
    row: dict[str, Any] = {
        "images": len(records),
        "missed": sum(not r.label_empty and r.dice == 0 for r in records),
        "false_alarms": sum(r.label_empty and not r.pred_empty for r in records),
    }
    for metric in METRICS:
        row[metric] = estimate([_sample(part, metric) for part in samples], settings)
    return row


def _section(records: Sequence[ImageRecord], settings: Bootstrap) -> dict[str, Any]:
    sources = by_source(records)
    return {
        "images": len(records),
        "mean_over_sources": _row(list(sources.values()), settings),
        "all_images": _row([records], settings),
        "sources": {name: _row([part], settings) for name, part in sources.items()},
        "kinds": {
            name: {value: _row([part], settings) for value, part in parts.items()}
            for name, parts in by_kind(records).items()
        },
    }


def _shared(values: list[Any]) -> Any:
    return values[0] if all(value == values[0] for value in values) else None


def summarise(
    records: Sequence[ImageRecord],
    *,
    bootstrap: Bootstrap | None = None,
    bins: Sequence[float] = SIZE_BINS,
) -> dict[str, Any]:
    """Everything that `summary.json` holds, as plain numbers, lists and dicts (`RULES` explains them).

    The order of the records does not matter. `without_empty` repeats the figures over the images that have a
    lesion; it equals the main ones where all have. `evaluated_size` (height, width) and `nsd_tolerance` are None
    where the records do not share one.

    Raises:
        InputError: when there is no record, or the bins are wrong.
    """
    if not records:
        raise InputError("no image was evaluated; the test list is empty")
    settings = bootstrap or Bootstrap()
    records = in_order(records)
    lesions = [record for record in records if not record.label_empty]
    main = _section(records, settings)
    parts = [(*named, [r for r in lesions if in_bin(r, *named[1:])]) for named in size_bins(bins)]
    return {
        "format": 1,
        "rules": RULES,
        "evaluated_size": _shared([[record.height, record.width] for record in records]),
        "nsd_tolerance": _shared([record.nsd_tolerance for record in records]),
        "bootstrap": {"resamples": settings.resamples, "seed": settings.seed, "confidence": settings.confidence},
        "images_without_lesion": len(records) - len(lesions),
        **main,
        "sizes": [
            {"name": name, "from": start, "to": end, **_row([part], settings)} for name, start, end, part in parts
        ],
        "without_empty": main if len(lesions) == len(records) else _section(lesions, settings),
    }

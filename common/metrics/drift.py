"""Layout drift: how far the lesion that was found lies from the one that was asked for, and how much larger it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.data import decollate_batch
from numpy.typing import NDArray

from ..errors import InputError
from ..evaluation.intervals import Bootstrap, Sample, estimate, shown_interval
from ..evaluation.overlap import image_name
from ..files import check_writable, write_csv, write_json

MEASURES = ("centroid", "area")


def layout_drift(found: NDArray[np.bool_], asked: NDArray[np.bool_]) -> dict[str, float]:
    """Drift of one image, of masks ``(H, W)``.

    Returns:
        ``centroid``: distance of the centres of mass, in shares of the image's side (of the square root of its area);
        ``area``: the found area over the asked one, minus 1. Both NaN where a mask is empty: where nothing
        was found there is no place, and that is counted by itself.

    Raises:
        InputError: if the shapes differ.
    """
    if found.shape != asked.shape:
        raise InputError(f"the masks are {found.shape} and {asked.shape}; both have to be of one size")
    if not (found.any() and asked.any()):
        return dict.fromkeys(MEASURES, float("nan"))
    centres = [np.argwhere(each).mean(axis=0) for each in (found, asked)]
    return {
        "centroid": float(np.linalg.norm(centres[0] - centres[1]) / np.sqrt(found.size)),
        "area": float(found.sum() / asked.sum() - 1),
    }


@dataclass(frozen=True)
class DriftRecord:
    """Of one image.

    Attributes:
        image: its file's name.
        group: what it may not be counted as independent of.
        drift: of `layout_drift`: ``centroid`` in sides of the image, ``area`` as a share of the asked one.
        asked, found: whether there was a lesion to find, and whether one was found, however small.
    """

    image: str
    group: str
    drift: Mapping[str, float]
    asked: bool
    found: bool


class DriftReport:
    """An Ignite handler: `layout_drift` of every image of an evaluation, beside a `SegmentationReport`.

    It reads what that does: ``pred`` and ``label`` of the output, ``source`` and ``group`` of the batch.

    Args:
        output_dir: ``drift.csv`` and ``drift.json`` go there.
    """

    def __init__(self, output_dir: str | Path) -> None:
        self.output_dir = Path(output_dir)
        self.summary: dict[str, Any] = {}
        self._records: list[DriftRecord] = []
        check_writable(self.output_dir)

    def attach(self, engine: Engine) -> None:
        """Register on the evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._records.clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _collect(self, engine: Engine) -> None:
        for given, item in zip(_items(engine.state.batch), _items(engine.state.output), strict=True):
            found, asked = (np.asarray(item[key][0].detach().cpu()) > 0.5 for key in ("pred", "label"))
            name = Path(image_name(item, ("image", "label")) or f"image {len(self._records)}").name
            group = f"{given.get('source', 'all')}\0{given.get('group', name)}"
            drift = layout_drift(found, asked)
            self._records.append(DriftRecord(name, group, drift, bool(asked.any()), bool(found.any())))

    def _finish(self) -> None:
        records = sorted(self._records, key=lambda each: each.image)
        rows = [(each.image, *(f"{each.drift[key]:.6f}" for key in MEASURES)) for each in records]
        write_csv(self.output_dir / "drift.csv", [("image", *MEASURES), *rows])
        self.summary = summarise_drift(records)
        write_json(self.output_dir / "drift.json", self.summary)


def summarise_drift(records: Sequence[DriftRecord]) -> dict[str, Any]:
    """Of each measure the mean with its 95 % interval and the median; and in how many images nothing was found.

    ``absolute_area`` is that of the area's error without its sign. A measure is None where no image has it.
    """
    groups = [each.group for each in records]
    values = {key: np.array([each.drift[key] for each in records], dtype=float) for key in MEASURES}
    values["absolute_area"] = np.abs(values["area"])
    summary: dict[str, Any] = {
        "images": len(records),
        "nothing_found": sum(each.asked and not each.found for each in records),
        "unasked": sum(each.found and not each.asked for each in records),
    }
    for key, each in values.items():
        mean = estimate([Sample(each, groups)], Bootstrap())
        median = float(np.nanmedian(each)) if np.isfinite(each).any() else None
        summary[key] = {"mean": mean["mean"], "interval": shown_interval(mean), "median": median}
    return summary


def _items(collated: Any) -> list[Mapping[str, Any]]:
    return list(collated) if isinstance(collated, list) else decollate_batch(collated)

"""The evaluation report: an Ignite handler that measures every image and writes tables and pictures at the end."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from monai.data import MetaTensor, decollate_batch

from ..errors import InputError
from ..files import check_writable, write_json
from .boundary import hausdorff95, surface_dice
from .figures import Case, chosen_cases, draw_cases, draw_sizes, make_case
from .intervals import Bootstrap
from .overlap import image_dice, image_iou, image_name
from .records import COLUMNS, ImageRecord, in_order, write_records
from .summary import SIZE_BINS, by_source, size_bins, summarise
from .tables import summary_table


def measure(pred: torch.Tensor, label: torch.Tensor, tolerance: float = 2.0) -> dict[str, float]:
    """All that is measured on one pair of masks `(1, H, W)`, values 0 and 1: the numbers of an `ImageRecord`.

    Raises:
        InputError: see `overlap.binary_pair`.
    """
    pred, label = pred[None].cpu(), label[None].cpu()
    scores = {
        "dice": image_dice(pred, label),
        "iou": image_iou(pred, label),
        "hd95": hausdorff95(pred, label),
        "nsd": surface_dice(pred, label, tolerance),
    }
    # as many digits as the CSV shows, so that a summary of the file is the summary of the run
    numbers = {name: round(float(score), 6) for name, score in scores.items()}
    areas = {"area": label, "pred_area": pred}
    return numbers | {name: round(float(mask.float().mean()), 9) for name, mask in areas.items()}


def _confidence(probability: torch.Tensor | None, pred: torch.Tensor) -> float:
    if probability is None or not pred.any():
        return math.nan
    return round(float(probability[pred == 1].float().mean()), 6)


def _items(collated: Any) -> list[Mapping[str, Any]]:
    return list(collated) if isinstance(collated, list) else decollate_batch(collated)


def _file_name(source: str) -> str:
    return re.sub(r"[^\w.-]+", "_", source)


class SegmentationReport:
    """Measure every image of an evaluation, write `per_image.csv`, `summary.json` and pictures, print a table.

    For a MONAI `SupervisedEvaluator`, whose postprocessing leaves a binary prediction::

        postprocessing:                      # of the evaluator
          _target_: Compose
          transforms:
          - {_target_: Activationsd, keys: pred, sigmoid: true}
          - {_target_: CopyItemsd, keys: pred, names: probability}    # for the mean confidence; may be left out
          - {_target_: AsDiscreted, keys: pred, threshold: 0.5}
        val_handlers:
        - {_target_: common.evaluation.SegmentationReport, output_dir: "@output_dir", root: "@dataset_dir"}

    It reads, of each item of `engine.state.output`: `pred` and `label`, `(1, H, W)` with values 0 and 1, at the
    size that is to be evaluated; `image`, `(C, H, W)`, whose `filename_or_obj` names the image; `probability`,
    if there; and of each item of `engine.state.batch`: `source` (else "all") and `group` (else the image).

    Under several processes the records are gathered, images that a sampler repeated are counted once, and the
    first process writes. For the pictures every image is kept as JPEG until the end, about 15 KB each.

    Args:
        output_dir: where the files go; those of the same name are replaced.
        root: images below this folder are named relative to it, so that reports of two machines compare.
        bootstrap, seed, confidence: resamples, seed and level of the intervals.
        bins: ends of the lesion-size bins, as shares of the image.
        tolerance: of the surface Dice, in pixels of the evaluated size.
        cases: how many best, median and worst cases to draw for each source; 0 draws nothing.
        image_key, label_key, pred_key, probability_key, source_key, group_key: the keys named above.
        kinds: more entries of the batch's items, such as "class" or "plane", by each value of which to report.
        show: called with the finished table.

    Raises:
        InputError: at once when the folder cannot be written to or an argument is wrong; while running when an
            item lacks a mask or a name, a mask is not binary, or a probability is not finite.
    """

    def __init__(
        self,
        output_dir: str | Path,
        root: str | Path | None = None,
        *,
        bootstrap: int = 2000,
        seed: int = 0,
        confidence: float = 0.95,
        bins: Sequence[float] = SIZE_BINS,
        tolerance: float = 2.0,
        cases: int = 3,
        image_key: str = "image",
        label_key: str = "label",
        pred_key: str = "pred",
        probability_key: str = "probability",
        source_key: str = "source",
        group_key: str = "group",
        kinds: Sequence[str] = (),
        show: Callable[[str], Any] = print,
    ) -> None:
        size_bins(bins)
        for name, value, good in (
            ("bootstrap", bootstrap, bootstrap >= 1),
            ("confidence", confidence, 0 < confidence < 1),
            ("tolerance", tolerance, 0 <= tolerance < math.inf),
            ("cases", cases, cases >= 0),
            ("kinds", kinds, not isinstance(kinds, str) and not COLUMNS.intersection(kinds)),
        ):
            if not good:
                raise InputError(f"{name} of SegmentationReport cannot be {value!r}")
        self.output_dir = Path(output_dir)
        self.root = None if root is None else os.path.abspath(root)
        self.settings = Bootstrap(bootstrap, seed, confidence)
        self.bins, self.tolerance, self.cases, self.show = tuple(bins), tolerance, cases, show
        self.keys = {"image": image_key, "label": label_key, "pred": pred_key, "probability": probability_key}
        self.source_key, self.group_key, self.kinds = source_key, group_key, tuple(kinds)
        self._reset()
        check_writable(self.output_dir)

    def attach(self, engine: Engine) -> None:
        """Collect after every iteration and finish at the end of the epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._reset)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._finish)

    def _reset(self) -> None:
        self._records: dict[str, ImageRecord] = {}
        self._cases: dict[str, Case] = {}

    def _collect(self, engine: Engine) -> None:
        for given, output in zip(_items(engine.state.batch), _items(engine.state.output), strict=True):
            record, case = self._record(given, output)
            self._records[record.image] = record
            if case is not None:
                self._cases[record.image] = case

    def _named(self, item: Mapping[str, Any]) -> str:
        name = image_name(item, (self.keys["image"], self.keys["label"]))
        if name is None:
            raise InputError(
                f"an evaluated item has no file name: {self.keys['image']!r} must be a MetaTensor with filename_or_obj "
                "(load it with LoadImaged and keep its metadata)"
            )
        path = os.path.abspath(name)
        inside = self.root is not None and os.path.commonpath([path, self.root]) == self.root
        return Path(os.path.relpath(path, self.root) if inside else path).as_posix()

    def _tensors(self, name: str, item: Mapping[str, Any]) -> dict[str, torch.Tensor | None]:
        values = {what: item.get(key) for what, key in self.keys.items()}
        for what in ("image", "label", "pred"):
            if values[what] is None:
                raise InputError(f"{name}: the evaluator's output has no {self.keys[what]!r}; it has {sorted(item)}")
        probability = values["probability"]
        if probability is not None and not torch.isfinite(probability).all():
            raise InputError(f"{name}: the network's output is not finite; evaluate a checkpoint that is sound")
        return {
            what: value.detach().as_tensor() if isinstance(value, MetaTensor) else value
            for what, value in values.items()
        }

    def _record(self, given: Mapping[str, Any], output: Mapping[str, Any]) -> tuple[ImageRecord, Case | None]:
        name = self._named(output)
        tensors = self._tensors(name, output)
        image, label, pred = tensors["image"], tensors["label"], tensors["pred"]
        try:
            measured = measure(pred, label, self.tolerance)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        case = None
        if self.cases > 0:
            case = make_case(image.float().cpu().numpy(), label[0].cpu().numpy(), pred[0].cpu().numpy())
        record = ImageRecord(
            image=name,
            source=str(given.get(self.source_key, "all")),
            group=str(given.get(self.group_key, name)),
            height=pred.shape[-2],
            width=pred.shape[-1],
            nsd_tolerance=float(self.tolerance),
            confidence=_confidence(tensors["probability"], pred),
            kinds={kind: str(given[kind]) for kind in self.kinds if given.get(kind) is not None},
            **measured,
        )
        return record, case

    def _finish(self, engine: Engine) -> None:
        records: dict[str, ImageRecord] = {}
        for part in idist.all_gather(self._records):
            records.update(part)
        chosen = {name: chosen_cases(part, self.cases) for name, part in by_source(in_order(records.values())).items()}
        wanted = {record.image for kinds in chosen.values() for kind in kinds.values() for record in kind}
        cases: dict[str, Case] = {}  # only the chosen ones travel
        for part in idist.all_gather({name: case for name, case in self._cases.items() if name in wanted}):
            cases.update(part)
        if idist.get_rank() == 0:
            self._write(in_order(records.values()), chosen, cases)
        idist.barrier()

    def _write(self, records: list[ImageRecord], chosen: Mapping[str, Any], cases: Mapping[str, Case]) -> None:
        summary = summarise(records, bootstrap=self.settings, bins=self.bins)
        write_records(self.output_dir / "per_image.csv", records)
        write_json(self.output_dir / "summary.json", summary)
        if self.cases > 0:
            draw_sizes(self.output_dir / "dice_by_size.png", records, self.bins)
            for source, kinds in chosen.items():
                title = f"{source}: best, median and worst of {sum(r.source == source for r in records)} images"
                draw_cases(self.output_dir / f"cases_{_file_name(source)}.png", title, kinds, cases)
        self.show(f"{summary_table(summary)}\n\nwritten to {self.output_dir}")

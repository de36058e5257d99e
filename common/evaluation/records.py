"""One line for each evaluated image: the table `per_image.csv` that every summary is made from."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import write_atomically

METRICS = ("dice", "iou", "hd95", "nsd")
"""The measures of a record: three shares between 0 and 1, and HD95 in pixels (NaN with an empty mask)."""


@dataclass(frozen=True)
class ImageRecord:
    """What was measured on one image.

    `area` and `pred_area` are the shares of the image that label and prediction cover; `confidence` is the mean
    probability over the predicted lesion (NaN without a prediction or without probabilities); `height` and
    `width` are those of the evaluated masks, in whose pixels `hd95` and `nsd_tolerance` (that of `nsd`) are given.
    `kinds` is what else is known of the image, as {"plane": "axial"}: a column of the table each.
    """

    image: str
    source: str
    group: str
    height: int
    width: int
    area: float
    pred_area: float
    dice: float
    iou: float
    hd95: float
    nsd: float
    nsd_tolerance: float
    confidence: float
    kinds: Mapping[str, str] = field(default_factory=dict)

    @property
    def label_empty(self) -> bool:
        return self.area == 0

    @property
    def pred_empty(self) -> bool:
        return self.pred_area == 0


_TYPES = {
    each.name: {"str": str, "int": int, "float": float}[str(each.type)]
    for each in fields(ImageRecord)
    if each.name != "kinds"
}
_FLAGS = ("label_empty", "pred_empty")
COLUMNS = frozenset((*_TYPES, *_FLAGS))
"""Names that a kind cannot have."""


def in_order(records: Iterable[ImageRecord]) -> list[ImageRecord]:
    """Sort by source and image: a summary must not depend on the order in which images were seen."""
    return sorted(records, key=lambda record: (record.source, record.image))


def write_records(path: str | Path, records: Iterable[ImageRecord]) -> None:
    """Write `per_image.csv`: a header, one line an image in the order of `in_order`, an undefined number left blank."""
    text, records = io.StringIO(), in_order(records)
    kinds = sorted({name for record in records for name in record.kinds})
    writer = csv.DictWriter(text, [*_TYPES, *_FLAGS, *kinds], lineterminator="\n")
    writer.writeheader()
    for record in records:
        row: dict[str, Any] = {name: getattr(record, name) for name in _TYPES}
        row = {name: "" if isinstance(value, float) and math.isnan(value) else value for name, value in row.items()}
        writer.writerow(row | {flag: int(getattr(record, flag)) for flag in _FLAGS} | dict(record.kinds))
    write_atomically(path, text.getvalue().encode())


def read_records(path: str | Path) -> list[ImageRecord]:
    """Read what `write_records` wrote.

    Raises:
        InputError: when the file is missing or empty, lacks a column, holds something that is no number, or
            names an image twice.
    """
    path = Path(path)
    try:
        lines = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is not a CSV text file"
        raise InputError(f"cannot read {path}: {reason}; name the per_image.csv of an evaluation") from None
    if not lines:
        raise InputError(f"{path} holds no image; name the per_image.csv of an evaluation that ended")
    if missing := [name for name in _TYPES if name not in lines[0]]:
        raise InputError(f"{path} has no column {', '.join(missing)}; name a per_image.csv of this program")
    records = [_record(path, number, line) for number, line in enumerate(lines, start=2)]
    seen: set[str] = set()
    for record in records:
        if record.image in seen:
            raise InputError(f"{path} names {record.image} twice; remove one of the two lines")
        seen.add(record.image)
    return in_order(records)


def _record(path: Path, number: int, line: dict[str, str | None]) -> ImageRecord:
    values: dict[str, Any] = {}
    for name, kind in _TYPES.items():
        text = line[name] or ""
        try:
            values[name] = math.nan if kind is float and not text else kind(text)
        except ValueError:
            raise InputError(f"{path}, line {number}: {name} is {text!r}, not a number; write the file anew") from None
    kinds = {name: text for name, text in line.items() if name not in COLUMNS and isinstance(text, str) and text}
    return ImageRecord(**values, kinds=kinds)

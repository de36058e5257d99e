"""Whether two saved runs are the same, bit for bit."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch


def differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Where two nested states differ: in a tensor's dtype, shape or any bit, in a key, a length or a plain value."""
    if type(one) is not type(other):
        yield f"{place}: {type(one).__name__} and {type(other).__name__}"
    elif isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        if not same or one.numpy().tobytes() != other.numpy().tobytes():
            yield f"{place}: tensors"
    elif isinstance(one, Mapping):
        if one.keys() != other.keys():
            yield f"{place}: keys"
        for key in one.keys() & other.keys():
            yield from differences(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, list | tuple):
        if len(one) != len(other):
            yield f"{place}: lengths"
        for number, pair in enumerate(zip(one, other, strict=False)):
            yield from differences(*pair, f"{place}/{number}")
    elif one != other:
        yield f"{place}: {one!r} and {other!r}"


def contents(folder: Path) -> dict[str, bytes]:
    """What every file of a run holds, but for the event files of TensorBoard, which each start adds to."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def read(path: Path) -> dict[str, Any]:
    """A checkpoint, read as any user would."""
    return torch.load(path, weights_only=True)


def history_rows(folder: Path) -> list[dict[str, str]]:
    """The rows of a run's table."""
    with (folder / "history.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))

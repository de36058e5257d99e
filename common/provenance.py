"""Which images weights were trained on, kept beside them, so that an evaluation can tell what was no test.

``model.pt`` has ``model.trained_on.json`` beside it: the digests of the training and the validation images, which a
prepared folder holds for each of its images. No picture can be told from them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .data import read_datalist
from .data.folder import load_json
from .errors import InputError
from .files import write_json

SUFFIX = ".trained_on.json"
DIGITS = 16  # of a SHA-256: two of a million images are alike in them with a chance below 1e-7


def record_path(weights: str | Path) -> Path:
    """Where the record of `weights` is: ``model.pt`` → ``model.trained_on.json``."""
    return Path(weights).with_suffix(SUFFIX)


def image_digests(items: Iterable[Mapping[str, Any]]) -> list[str]:
    """The digests of a datalist's images, sorted; images without one are passed over."""
    return sorted({str(item["sha256"])[:DIGITS] for item in items if item.get("sha256")})


def read_record(weights: str | Path) -> dict[str, list[str]]:
    """The digests by list; no lists where nothing is recorded.

    Raises:
        InputError: if there is a record that cannot be read.
    """
    path = record_path(weights)
    if not path.is_file():
        return {}
    content = load_json(path)
    lists = {key: value for key, value in content.items() if key in ("training", "validation")}
    if not all(isinstance(value, list) for value in lists.values()):
        raise InputError(f"{path}: not a record of training images; remove it, or copy it again from where it came")
    return lists


def training_record(
    dataset_dir: str | Path, protocol: str | None = None, pretrained: str | Path | None = None
) -> dict[str, list[str]]:
    """What a run on a prepared folder trains on and chooses by, with what its first weights were trained on.

    Args:
        dataset_dir: a prepared folder.
        protocol: one that it holds; None or "" for its default.
        pretrained: the weights to begin with, or None.

    Raises:
        InputError: if the folder, the protocol, or the record of `pretrained` cannot be read.
    """
    before = read_record(pretrained) if pretrained else {}
    return {
        key: sorted({*image_digests(read_datalist(dataset_dir, protocol, key)), *before.get(key, [])})
        for key in ("training", "validation")
    }


def write_record(weights: str | Path, record: Mapping[str, Sequence[str]]) -> None:
    """Write the record of `weights` beside them."""
    write_json(record_path(weights), dict(record))


def seen_before(weights: str | Path, items: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many of a datalist's images the weights were trained on, and how many they were chosen by.

    ``{"training": n, "validation": m}``; empty where nothing is recorded.

    Raises:
        InputError: if the record cannot be read.
    """
    digests = [str(item.get("sha256"))[:DIGITS] for item in items]
    return {key: sum(digest in seen for digest in digests) for key, seen in _sets(read_record(weights)).items()}


def _sets(record: Mapping[str, Sequence[str]]) -> dict[str, set[str]]:
    return {key: set(digests) for key, digests in record.items()}

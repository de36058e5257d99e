"""Which images weights were trained on, kept beside them, so that an evaluation can tell what was no test.

``model.pt`` has ``model.trained_on.json`` beside it: for each training and validation image 256 signs, by which the
same picture is known again in another format or size (`data.likeness.recognition_signs`). The picture cannot be told
from them; but who has the picture can tell whether it was among them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .data import read_datalist
from .data.folder import load_json
from .data.likeness import recognised, recognition_signs_of
from .errors import InputError
from .files import write_json

SUFFIX = ".trained_on.json"
LISTS = ("training", "validation")
GENERATION = "generation.json"  # of a painted folder; what its painter was trained on is kept as if they were weights


def record_path(weights: str | Path) -> Path:
    """Where the record of `weights` is: ``model.pt`` → ``model.trained_on.json``."""
    return Path(weights).with_suffix(SUFFIX)


def _images_of(items: Sequence[Mapping[str, Any]]) -> list[Path]:
    return [Path(item["image"]) for item in items]


def read_record(weights: str | Path) -> dict[str, list[str]]:
    """The signs of the images by list, each 64 hexadecimal digits; no lists where nothing is recorded.

    Raises:
        InputError: if there is a record that cannot be read.
    """
    path = record_path(weights)
    if not path.is_file():
        return {}
    record = load_json(path)
    sound = all(isinstance(record.get(key), list) for key in LISTS) and all(
        isinstance(one, str) and re.fullmatch("[0-9a-f]{64}", one) for key in LISTS for one in record[key]
    )
    if not sound:
        raise InputError(f"{path}: not a record of training images; copy it again from where it came, or remove it")
    return {key: record[key] for key in LISTS}


def training_record(
    dataset_dir: str | Path,
    protocol: str | None = None,
    pretrained: str | Path | None = None,
    synthetic_dir: str | Path | None = None,
) -> dict[str, list[str]]:
    """What a run on a prepared folder trains on and chooses by, with what its first weights were trained on.

    And with what its painter was trained on, where the folder, or one whose pairs join it, is a painted one.

    Args:
        dataset_dir: a prepared folder.
        protocol: one that it holds; None or "" for its default.
        pretrained: the weights to begin with, or None.
        synthetic_dir: a painted folder whose pairs join the training, or None.

    Raises:
        InputError: if the folder, the protocol, an image or a record cannot be read.
    """
    painters = [Path(folder) / GENERATION for folder in (dataset_dir, synthetic_dir) if folder]
    earlier = [read_record(path) for path in ([pretrained] if pretrained else []) + painters]
    lists = {key: _images_of(read_datalist(dataset_dir, protocol, key)) for key in LISTS}
    own = {key: [signs.tobytes().hex() for signs in recognition_signs_of(paths)[0]] for key, paths in lists.items()}
    return {key: sorted({*own[key], *(sign for each in earlier for sign in each.get(key, []))}) for key in LISTS}


def write_record(weights: str | Path, record: Mapping[str, Sequence[str]]) -> None:
    """Write the record of `weights` beside them."""
    write_json(record_path(weights), dict(record))


def seen_before(weights: str | Path, items: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """How many of a datalist's images the weights were trained on, and how many they were chosen by.

    ``{"training": n, "validation": m}``; empty where nothing is recorded. A picture counts as it is and mirrored left
    to right: training mirrors, and BRISC's release holds most of its copies so. The number is a lower bound: in
    flat black, of which slices of MRI have much, signs are noise (214 of BRISC's 358 copies are known again).

    Raises:
        InputError: if the record or an image cannot be read.
    """
    record = read_record(weights)
    if not record or not items:
        return {}
    both = recognition_signs_of(_images_of(items))
    known = {key: np.frombuffer(bytes.fromhex("".join(record[key])), np.uint8).reshape(-1, 32) for key in LISTS}
    return {key: int(np.any([recognised(signs, known[key]) for signs in both], axis=0).sum()) for key in LISTS}

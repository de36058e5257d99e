"""Painted pairs among the real training images (tables 4 and 5): which may join, and how many."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .folder import ITEM_KEYS, KEYS, read_datalist

SYNTHETIC = "synthetic"  # the key that tells a painted item, 1, from a real one, 0


def painted_items(synthetic_dir: str | Path, dataset_dir: str | Path, protocol: str | None) -> list[dict[str, Any]]:
    """Those pairs of a painted folder, all its lists, that may be trained on beside a real folder's training list.

    Left out are those painted from a mask of the validation or the test list: what is trained on them has been told
    where the lesions of those images lie.

    Raises:
        InputError: if a folder is no prepared one, or holds no pair that may be trained on.
    """
    found = [item for key in KEYS for item in read_datalist(synthetic_dir, None, key, may_be_empty=True)]
    held_out = [item for key in ("validation", "test") for item in read_datalist(dataset_dir, protocol, key)]
    masks = {Path(item["label"]).name for item in held_out}
    kept = [item for item in found if str(item.get("source_mask", "")) not in masks]
    if not kept:
        why = "all are of masks of the validation or test list" if found else "its lists are empty"
        raise InputError(f"--synthetic_dir {synthetic_dir}: {why}; paint from the training list")
    return kept


def with_synthetic(
    real: Sequence[Mapping[str, Any]],
    synthetic_dir: str | Path | None,
    images: int | None = None,
    *,
    dataset_dir: str | Path,
    protocol: str | None = None,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The training list, with painted pairs behind it.

    Args:
        real: the training list.
        synthetic_dir: a prepared folder that LAW painted; None leaves the list as it is.
        images: so many pairs, drawn by `seed`; all if None. A smaller number draws some of what a larger one draws.
        dataset_dir, protocol: the real folder, whose validation and test masks are kept out (`painted_items`).
        seed: of the draw.

    Returns:
        The items, each with `SYNTHETIC`. Beside it they keep the keys that every prepared item has, so that a batch of
        both can be put together; without `synthetic_dir` all of theirs.

    Raises:
        InputError: see `painted_items`; or if there are fewer pairs than `images`.
    """
    if synthetic_dir is None:
        return [dict(item) for item in real]
    painted = painted_items(synthetic_dir, dataset_dir, protocol)
    painted.sort(key=lambda item: Path(item["image"]).name)
    random.Random(seed).shuffle(painted)
    if images is not None and images > len(painted):
        raise InputError(f"--synthetic_images {images}: {synthetic_dir} holds {len(painted)} that may be trained on")
    kept = [*((item, 0) for item in real), *((item, 1) for item in painted[:images])]
    return [{**{key: item[key] for key in ITEM_KEYS if key in item}, SYNTHETIC: mark} for item, mark in kept]


def synthetic_digest(items: Sequence[Mapping[str, Any]]) -> str | None:
    """A digest of the painted pairs among training items, 16 hexadecimal digits; None where there is none."""
    painted = [item for item in items if item.get(SYNTHETIC)]
    if not painted:
        return None
    digest = hashlib.sha256()
    for item in painted:
        for role in ("image", "label"):
            digest.update(hashlib.sha256(Path(item[role]).read_bytes()).digest())
    return digest.hexdigest()[:16]

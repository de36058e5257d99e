"""Painted pairs among the real training images (tables 4 and 5): which may join, and how many."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .folder import ITEM_KEYS, KEYS, read_datalist
from .likeness import recognised, recognition_signs_of
from .reading import lesion_at, open_image

SYNTHETIC = "synthetic"  # the key that tells a painted item, 1, from a real one, 0
HELD_OUT = ("validation", "test")


@dataclass(frozen=True)
class PaintedPairs:
    """The pairs of a painted folder.

    Attributes:
        usable: items that may be trained on.
        left_out: the reason why others may not, and how many of them.
    """

    usable: list[dict[str, Any]]
    left_out: dict[str, int]


def painted_pairs(synthetic_dir: str | Path, dataset_dir: str | Path, protocol: str | None) -> PaintedPairs:
    """Those pairs of a painted folder that may be trained on beside a real folder's training list.

    Left out are those painted from a mask of the validation or the test list, by its name or its lesion: what is
    trained on them has been told where the lesions of those images lie. And those that are an image of these lists, in
    whatever format, as in a folder that nobody painted. Where a folder does not say which mask an image is painted
    from, its own lists stand, and only that for training joins.

    Raises:
        InputError: if a folder is no prepared one, both are one, or no pair may be trained on.
    """
    if Path(synthetic_dir).resolve() == Path(dataset_dir).resolve():
        raise InputError(f"--synthetic_dir {synthetic_dir} is the real folder itself; name one that LAW painted")
    lists = {key: read_datalist(synthetic_dir, None, key, may_be_empty=True) for key in KEYS}
    held_out = [item for key in HELD_OUT for item in read_datalist(dataset_dir, protocol, key)]
    items = [item for key in KEYS for item in lists[key]]
    told = np.array(["source_mask" in item for item in items], bool)
    kept_apart = np.array([key != "training" for key in KEYS for _ in lists[key]], bool) & ~told
    names = {Path(item["label"]).name for item in held_out}
    named = np.array([str(item.get("source_mask", "")) in names for item in items], bool)
    reasons = {
        "are of masks of the validation or test list": named | _same_lesion(items, held_out),
        "are images of the validation or test list": _same_image(items, held_out),
        "stand in its own validation or test list": kept_apart,
    }
    out, left_out = np.zeros(len(items), bool), {}
    for reason, found in reasons.items():
        if count := int((found & ~out).sum()):
            left_out[reason] = count
        out |= found
    if out.all():
        why = ", ".join(f"{count} {reason}" for reason, count in left_out.items()) or "its lists are empty"
        raise InputError(f"--synthetic_dir {synthetic_dir}: {why}; give images painted from the training list")
    return PaintedPairs([item for item, gone in zip(items, out, strict=True) if not gone], left_out)


def _same_image(items: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    own, known = (recognition_signs_of([Path(item["image"]) for item in each]) for each in (items, held_out))
    return recognised(own[0], known.reshape(-1, known.shape[-1]))


def _same_lesion(items: Sequence[Mapping[str, Any]], held_out: Sequence[Mapping[str, Any]]) -> NDArray[np.bool_]:
    # At the painted size, by the resize that painting uses; of any name, in a copy of the folder under others.
    known: dict[int, set[bytes]] = {}
    same = []
    for item in items:
        mask = open_image(item["label"])
        side = mask.width
        if side not in known:
            known[side] = {lesion_at(open_image(each["label"]), side).tobytes() for each in held_out}
        lesion = lesion_at(mask, side)
        same.append(bool(lesion.any()) and mask.size == (side, side) and lesion.tobytes() in known[side])
    return np.array(same, bool)


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
        dataset_dir, protocol: the real folder, whose validation and test masks are kept out (`painted_pairs`).
        seed: of the draw.

    Returns:
        The items, each with `SYNTHETIC`. Beside it they keep the keys that every prepared item has, so that a batch of
        both can be put together; without `synthetic_dir` all of theirs.

    Raises:
        InputError: see `painted_pairs`; or if there are fewer pairs than `images`.
    """
    if synthetic_dir is None:
        return [dict(item) for item in real]
    painted = painted_pairs(synthetic_dir, dataset_dir, protocol).usable
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

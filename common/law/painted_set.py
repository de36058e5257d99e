"""What a painting consists of: an item for each image to be, and the prepared folder that they become."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data.folder import KEYS, VALIDATION_FRACTION, Pair, Split, write_prepared_folder
from ..data.reading import encode_png, open_image
from ..errors import InputError
from ..files import write_atomically, write_json
from ..provenance import write_record
from .mask_augmentation import augment_mask
from .mask_sources import SourceMask
from .painting_state import RECORD, PaintingState
from .pictures import draw_overview

OVERVIEW = "overview.png"  # in the output: some of the masks, what was painted from each, and both in one
SHOWN = 16


@dataclass(frozen=True)
class PaintedItem:
    """An image to be.

    Attributes:
        mask: that it is painted from.
        stem: of its name in the output.
        seed: of its noise and, if `augmented`, of its mask.
        augmented: the mask is altered by `augment_mask` first.
    """

    mask: SourceMask
    stem: str
    seed: int
    augmented: bool

    def lesion(self, size: int) -> NDArray[np.bool_]:
        """The mask it is painted from, ``(size, size)``."""
        lesion = self.mask.lesion(size)
        return augment_mask(lesion, self.seed) if self.augmented else lesion


def seed_of(seed: int, name: str, number: int = 0) -> int:
    """The seed of the `number`-th image of a mask: of these three alone, so of no other mask. In [0, 2⁶³)."""
    digest = hashlib.sha256(f"{seed}/{number}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def items_of(masks: Sequence[SourceMask], as_they_are: int, augmented: int, seed: int) -> Iterator[PaintedItem]:
    """The images to be painted of each mask: so many from it as it is, and so many from altered forms of it."""
    for mask in masks:
        for number in range(as_they_are):
            yield PaintedItem(mask, f"{mask.name}_{number}", seed_of(seed, mask.name, number), False)
        for number in range(0 if mask.empty else augmented):
            own = seed_of(seed, f"augmented/{mask.name}", number)
            yield PaintedItem(mask, f"{mask.name}_{number}_augmented", own, True)


def items_in_all(masks: Sequence[SourceMask], total: int, seed: int) -> list[PaintedItem]:
    """`total` images from masks as they are: of each equally many, and of some, drawn by `seed`, one more."""
    whole, rest = divmod(total, len(masks))
    more = set(random.Random(seed).sample(range(len(masks)), rest))
    counts = [whole + (place in more) for place in range(len(masks))]
    return [item for mask, count in zip(masks, counts, strict=True) for item in items_of([mask], count, 0, seed)]


def _pairs(items: Sequence[PaintedItem], painted: Mapping[str, Path], settings: Mapping[str, Any]) -> Iterator[Pair]:
    told = ("model", "objective", "guidance", "control_scale", "steps")
    common = {key: settings[key] for key in told if settings[key] is not None}
    for item in items:
        yield Pair(
            image=painted[item.stem],
            mask=item.lesion(settings["image_size"]),
            source=settings["name"],
            group=item.mask.group,
            stem=item.stem,
            extra={
                "source_mask": item.mask.path.name,
                "augmented": int(item.augmented),
                "seed": item.seed,
                **common,
            },
        )


def _split(items: Sequence[PaintedItem], settings: Mapping[str, Any]) -> Split:
    # All to one list; of training a tenth of the groups becomes validation, so that no mask stands on two sides.
    names = {item: f"{settings['name']}_{item.stem}" for item in items}
    if settings["into"] != "training":
        lists = {key: list(names.values()) if key == settings["into"] else [] for key in KEYS}
        return Split(lists["training"], lists["test"], lists["validation"])
    groups = sorted({item.mask.group for item in items})
    random.Random(settings["seed"]).shuffle(groups)
    some = max(1, round(VALIDATION_FRACTION * len(groups))) if len(groups) > 1 else 0
    chosen = set(groups[:some])
    training = [name for item, name in names.items() if item.mask.group not in chosen]
    return Split(training, [], [name for item, name in names.items() if item.mask.group in chosen])


def finish(
    out: Path,
    items: Sequence[PaintedItem],
    state: PaintingState,
    settings: Mapping[str, Any],
    trained_on: Mapping[str, Sequence[str]],
    progress: bool,
) -> None:
    """Make a prepared folder of painted images, which then takes the place of `state`.

    `trained_on` is the model's own record (`provenance.read_record`): what is trained on its images is known by it to
    have met those that it is tested on.

    Raises:
        InputError: if an image is missing, or the disk does not take them.
    """
    split = _split(items, settings)
    painted = state.painted()
    if lost := [item.stem for item in items if item.stem not in painted]:
        raise InputError(f"{state.folder}: {len(lost)} images are not what was written; give the same call to mend it")
    finished = state.finished
    write_prepared_folder(
        finished,
        _pairs(items, painted, settings),
        {"painted": split},
        name=settings["name"],
        licence=settings["licence"],
        description=f"Painted by LAW from {len({item.mask.name for item in items})} masks; no image is of a patient.",
        seed=settings["seed"],
        progress=progress,
        total=len(items),
    )
    try:
        write_json(finished / RECORD, settings)
        if trained_on:
            write_record(finished / RECORD, trained_on)
        write_atomically(finished / OVERVIEW, encode_png(_overview(items, painted, settings["image_size"])))
        if out.exists():
            out.rmdir()
        os.replace(finished, out)
    except OSError as error:
        raise InputError(f"{out}: {error.strerror}; make room, then give the same call to go on") from None
    shutil.rmtree(state.folder, ignore_errors=True)


def _overview(items: Sequence[PaintedItem], painted: Mapping[str, Path], size: int) -> NDArray[np.uint8]:
    # Of images spread evenly over all.
    shown = [items[round(place)] for place in np.linspace(0, len(items) - 1, min(SHOWN, len(items)))]
    return draw_overview(
        np.stack([open_image(painted[item.stem]) for item in shown]), np.stack([item.lesion(size) for item in shown])
    )

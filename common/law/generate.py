"""From masks to a prepared folder of painted pairs, which every bundle trains on as on a real one.

What is done lies in a folder beside the output, `.<output>.painting`, until all is: a run that was stopped, in whatever
way, goes on from there and ends in the same files as one that never was. It is the same call again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..data.folder import DATALIST, KEYS, Pair, Prepared, Split, load_json, write_prepared_folder
from ..data.progress import bar
from ..data.reading import encode_png
from ..errors import InputError
from ..files import check_writable, write_atomically, write_json
from .loading import SETTINGS, Parts, load_denoiser
from .mask_augmentation import augment_mask
from .mask_sources import SourceMask, find_masks, licence_of
from .pretrained import digest_of_parts
from .sampling import sample
from .text import PromptEmbeddings

RECORD = "generation.json"  # in the output: all that its images depend on

_FINISHED = "finished"  # in the folder beside it, on its way out
_DIGITS = 32  # of the digest in the name of a painted image


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


def model_digest(folder: str | Path, base: str | Path | None = None) -> str:
    """SHA-256 over the files of a saved denoiser that images depend on: weights, configs, scheduler, encoders.

    Args:
        folder: of `save_denoiser`.
        base: as of `load_denoiser`.
    """
    folder = Path(folder)
    own = [part for part in ("unet", "controlnet", "scheduler") if (folder / part).is_dir()]
    encoders = Path(base) if base else folder
    others = [part for part in ("vae", "text_encoder", "tokenizer") if (encoders / part).is_dir()]
    both = digest_of_parts(folder, own) + digest_of_parts(encoders, others)
    return hashlib.sha256(both.encode()).hexdigest()


def generate(
    model: str | Path,
    masks: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    protocol: str | None = None,
    key: str = "training",
    images_per_mask: int = 1,
    augmented_per_mask: int = 0,
    keep_empty: bool = False,
    into: str = "training",
    image_size: int | None = None,
    steps: int = 50,
    guidance: float = 10.0,
    eta: float = 0.0,
    batch_size: int = 8,
    seed: int = 0,
    prompt: str | None = None,
    objective: str | None = None,
    name: str = "law",
    licence: str | None = None,
    device: torch.device | str = "cpu",
    progress: bool = True,
) -> Prepared:
    """Paint a prepared folder of pairs, whole or not at all; called again after it was stopped, it goes on.

    An item of its lists has further keys: source_mask (the file's name), augmented (0 or 1), seed, model
    (`model_digest`), objective (if known), guidance and steps. Its group is that of the real image.

    Args:
        model: a folder of `save_denoiser`, with a control network.
        masks: a prepared folder, or one with mask files.
        out: a new or empty folder; or one that this very call has finished, which is left as it is.
        base: as of `load_denoiser`.
        protocol: of a prepared folder of masks, None for the default one.
        key: the list of a prepared folder of masks.
        images_per_mask: painted from the mask as it is, each of another seed.
        augmented_per_mask: painted from masks that `augment_mask` makes of it.
        keep_empty: paint also from masks without a lesion, or whose lesion vanishes at `image_size`.
        into: the list that the pairs go to; of "training" a tenth becomes "validation" (`split_validation`).
        image_size: of the images, to which masks are resized, nearest; None for the model's.
        steps: as of `sample`, and so `guidance`, `eta` and `batch_size`.
        seed: what the seeds of images are made of, with the names of their masks (`seed_of`), and of the split.
        prompt: None for the one that the model was trained with.
        objective: that it was trained with; None for what its `law.json` says, if it does.
        name: of the dataset, and the source of its items.
        licence: of the images; None for that of the prepared folder of masks.
        device: that paints. Images of different devices differ by rounding.
        progress: show bars.

    Raises:
        InputError: before anything is painted, for wrong masks, options or models, and for an `out` that holds
            something else, or beside which a run of other settings was begun.
    """
    _check_options(images_per_mask, augmented_per_mask, into, key, steps, batch_size, seed, name)
    device = _device(device)
    out = Path(out)
    parts = _load(model, base, image_size, prompt)
    size = parts.preset.image_size
    found = find_masks(masks, size, protocol=protocol, key=key, source=name, progress=progress)
    kept = found if keep_empty else [mask for mask in found if not mask.empty]
    notes = [f"{len(found) - len(kept)} of {len(found)} masks left out: no lesion at {size}×{size}"]
    if all(mask.empty for mask in kept):
        raise InputError(f"{masks}: none of its {len(found)} masks has a lesion at {size}×{size}; give others")
    items = list(_items(kept, images_per_mask, augmented_per_mask, seed))
    settings = {
        "model": model_digest(model, base),
        "objective": objective or load_json(Path(model) / SETTINGS).get("objective"),
        "prompt": parts.prompt,
        "image_size": size,
        "steps": steps,
        "guidance": float(guidance),
        "eta": float(eta),
        "batch_size": batch_size,
        "device": device.type,
        "seed": seed,
        "images_per_mask": images_per_mask,
        "augmented_per_mask": augmented_per_mask,
        "masks": _digest_of([(mask.name, mask.group, mask.digest) for mask in kept]),
        "into": into,
        "name": name,
        "licence": licence or licence_of(masks) or "not stated",
    }
    state = _State(out, settings)
    if not state.is_done():
        state.begin()
        _paint_missing(parts, items, state, settings, device, progress)
        _finish(out, items, state, settings, progress)
    return Prepared(_written(out), notes if len(kept) < len(found) else [])


def _check_options(
    images_per_mask: int,
    augmented_per_mask: int,
    into: str,
    key: str,
    steps: int,
    batch_size: int,
    seed: int,
    name: str,
) -> None:
    if images_per_mask < 0 or augmented_per_mask < 0 or images_per_mask + augmented_per_mask < 1:
        counts = f"{images_per_mask} and {augmented_per_mask}"
        raise InputError(f"images_per_mask and augmented_per_mask: {counts} leave nothing to paint")
    for option, value in (("into", into), ("key", key)):
        if value not in KEYS:
            raise InputError(f"{option}: {value!r} is none of {', '.join(KEYS)}")
    if steps < 1 or batch_size < 1:
        raise InputError(f"steps: {steps} and batch_size: {batch_size} have to be at least 1")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise InputError(f"seed: {seed!r} has to be a whole number")
    if not name.replace("_", "").replace("-", "").isalnum() or name in ("images", "masks", "protocols"):
        raise InputError(f"name: {name!r} cannot begin the names of files; take letters, digits, _ and -")


def _device(device: torch.device | str) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device: {device!r} cannot be used here ({str(error).splitlines()[0]})") from None
    return found


def _load(model: str | Path, base: str | Path | None, image_size: int | None, prompt: str | None) -> Parts:
    parts = load_denoiser(model, base)
    if parts.denoiser.controlnet is None:
        raise InputError(f"{model}: an image prior without a control network, which reads no mask; train that first")
    parts.preset = parts.preset.at(image_size)
    parts.prompt = parts.prompt if prompt is None else prompt
    if not parts.prompt.strip():
        raise InputError(f"prompt: {model} names none; give the one that it was trained with")
    return parts


def _items(masks: Sequence[SourceMask], as_they_are: int, augmented: int, seed: int) -> Iterator[PaintedItem]:
    for mask in masks:
        for number in range(as_they_are):
            yield PaintedItem(mask, f"{mask.name}_{number}", seed_of(seed, mask.name, number), False)
        for number in range(0 if mask.empty else augmented):
            own = seed_of(seed, f"augmented/{mask.name}", number)
            yield PaintedItem(mask, f"{mask.name}_{number}_augmented", own, True)


def _digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


class _State:
    # The folder beside the output: the settings of the run, and an image a file, `<stem>.<digest of its bytes>.png`.
    # A file gets that name when it is whole, so what a killed process or a bad disk left behind does not fit its name.

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out = out
        self.settings = dict(settings)
        whole = Path(os.path.abspath(out))
        self.folder = whole.with_name(f".{whole.name}.painting")

    def is_done(self) -> bool:
        if not self.out.exists() or (self.out.is_dir() and not any(self.out.iterdir())):
            return False
        if not (self.out / RECORD).is_file() or not (self.out / DATALIST).is_file():
            raise InputError(f"{self.out} exists already and is not empty; name a new folder, or remove it first")
        if other := self._differences(load_json(self.out / RECORD)):
            raise InputError(f"{self.out} was painted with other settings ({other}); name a new folder")
        shutil.rmtree(self.folder, ignore_errors=True)  # of a process killed at its last breath
        return True

    def begin(self) -> None:
        record = self.folder / RECORD
        check_writable(self.out.parent)
        if any(self.folder.glob("*.png")):
            other = self._differences(load_json(record)) if record.is_file() else "it does not say which"
            if other:
                raise InputError(
                    f"{self.out} was begun with other settings ({other}); finish it with those, or remove {self.folder}"
                )
        check_writable(self.folder)
        write_json(record, self.settings)
        for left in [self.folder / _FINISHED, *self.folder.glob(".*.part")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

    def _differences(self, theirs: Mapping[str, Any]) -> str:
        keys = [key for key in {**self.settings, **theirs} if self.settings.get(key) != theirs.get(key)]
        return ", ".join(
            f"{key}: {theirs.get(key)}, now {self.settings.get(key)}" if key not in ("model", "masks") else f"its {key}"
            for key in keys
        )

    def painted(self) -> dict[str, Path]:
        """The images that are there, by stem; those that are not what they were are removed."""
        there = {}
        for path in self.folder.glob("*.png"):
            stem, digest = path.stem.rsplit(".", 1)
            if hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS] == digest:
                there[stem] = path
            else:
                path.unlink()
        return there

    def keep(self, stem: str, image: Tensor) -> None:
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        content = encode_png(pixels)
        digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
        try:
            write_atomically(self.folder / f"{stem}.{digest}.png", content)
        except OSError as error:
            raise InputError(f"{self.folder}: {error.strerror}; make room, then give the same call to go on") from None


def _paint_missing(
    parts: Parts,
    items: Sequence[PaintedItem],
    state: _State,
    settings: Mapping[str, Any],
    device: torch.device | str,
    progress: bool,
) -> None:
    there = state.painted()
    missing = [item for item in items if item.stem not in there]
    if not missing:
        return
    given, dropped = parts.open_text(device).encode([parts.prompt, ""]).float().cpu().split(1)
    parts.denoiser.to(device).eval()
    codec = parts.open_codec(device)
    batch, steps, size = settings["batch_size"], settings["steps"], parts.preset.image_size
    starts = range(0, len(missing), batch)
    with bar((), "paint", "step", len(starts) * steps, progress) as steps_bar:
        for start in starts:
            steps_bar.set_postfix_str(f"{len(items) - len(missing) + start} of {len(items)} images", refresh=False)
            chosen = missing[start : start + batch]
            lesions = torch.from_numpy(np.stack([item.lesion(size) for item in chosen]))
            images = sample(
                parts.denoiser,
                lesions[:, None].float(),
                [item.seed for item in chosen],
                prompts=PromptEmbeddings(given, dropped),
                scheduler=parts.scheduler,
                codec=codec,
                steps=steps,
                guidance=settings["guidance"],
                eta=settings["eta"],
                batch_size=batch,
                progress=lambda done, total: steps_bar.update(1),
            )
            for item, image in zip(chosen, images, strict=True):
                state.keep(item.stem, image)


def _pairs(items: Sequence[PaintedItem], painted: Mapping[str, Path], settings: Mapping[str, Any]) -> Iterator[Pair]:
    common = {key: settings[key] for key in ("model", "objective", "guidance", "steps") if settings[key] is not None}
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


def _finish(
    out: Path, items: Sequence[PaintedItem], state: _State, settings: Mapping[str, Any], progress: bool
) -> None:
    names = [f"{settings['name']}_{item.stem}" for item in items]
    lists = {key: names if key == settings["into"] else [] for key in KEYS}
    split = Split(lists["training"], lists["test"], None if settings["into"] == "training" else lists["validation"])
    painted = state.painted()
    if lost := [item.stem for item in items if item.stem not in painted]:
        raise InputError(f"{state.folder}: {len(lost)} images are not what was written; give the same call to mend it")
    finished = state.folder / _FINISHED
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
    write_json(finished / RECORD, settings)
    if out.exists():
        out.rmdir()
    os.replace(finished, out)
    shutil.rmtree(state.folder, ignore_errors=True)


def _written(out: Path) -> dict[str, dict[str, Any]]:
    content = load_json(out / DATALIST)
    return {content["protocol"]: content}

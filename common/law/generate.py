"""From masks to a prepared folder of painted pairs, which every bundle trains on as on a real one.

What is done lies in a folder beside the output, `.<output>.painting`, until all is: a run that was stopped, in whatever
way, goes on from there and ends in the same files as one that never was. It is the same call again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from monai.engines import SupervisedEvaluator
from monai.utils import CommonKeys
from torch import Tensor
from torch.utils.data import Dataset

from ..data.folder import DATALIST, KEYS, Prepared, load_json
from ..data.progress import bar
from ..errors import InputError
from ..provenance import read_record
from .loading import Parts, joined_licences, load_denoiser
from .mask_sources import SourceMask, find_masks, licence_of
from .painted_set import PaintedItem, finish, items_in_all, items_of
from .painter import MaskPainter
from .painting_state import PaintingState
from .pretrained import ENCODERS, digest_of_parts, find_sd15
from .sampling import check_strengths

logger = logging.getLogger(__name__)


def model_digest(folder: str | Path, base: str | Path | None = None) -> str:
    """SHA-256 over the files of a saved denoiser that images depend on: weights, configs, scheduler, encoders.

    Args:
        folder: of `save_denoiser`.
        base: as of `load_denoiser`.
    """
    folder = Path(folder)
    own = [part for part in ("unet", "controlnet", "scheduler") if (folder / part).is_dir()]
    encoders = find_sd15(base, ENCODERS) if base else folder
    others = [part for part in ENCODERS if (encoders / part).is_dir()]
    both = digest_of_parts(folder, own) + digest_of_parts(encoders, others)
    return hashlib.sha256(both.encode()).hexdigest()


class MasksToPaint(Dataset):
    """The items that are still missing: ``{"mask": (1, H, W) float32, "seed": int, "stem": str}``."""

    def __init__(self, items: Sequence[PaintedItem], size: int) -> None:
        self.items, self.size = list(items), size

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        lesion = torch.from_numpy(item.lesion(self.size).copy())[None].float()
        return {"mask": lesion, "seed": item.seed, "stem": item.stem}


def masks_and_seeds(
    batch: Mapping[str, Any], device: torch.device | str, non_blocking: bool = False, **_: Any
) -> tuple[Tensor, None, tuple, dict[str, Any]]:
    """What an evaluator gives `MaskPainter` of a batch of `MasksToPaint`: MONAI's ``prepare_batch``."""
    return batch["mask"].to(device, non_blocking=non_blocking), None, (), {"seeds": batch["seed"].tolist()}


def load_painter(
    model: str | Path,
    base: str | Path | None = None,
    image_size: int | None = None,
    prompt: str | None = None,
    device: torch.device | str = "cpu",
    steps: int = 50,
    guidance: float = 10.0,
    control_scale: float | None = None,
    eta: float = 0.0,
    batch_size: int = 8,
    amp: bool = False,
) -> MaskPainter:
    """Who paints, before it is known from which masks. Arguments and errors are those of `Painting`."""
    parts = _load(model, base, image_size, prompt)
    return MaskPainter(parts, steps, guidance, control_scale, eta, batch_size, amp).to(_device(device))


class Painting:
    """A prepared folder of painted pairs in the making: what is missing, who paints it, and where it goes.

    As an Ignite handler it keeps each image that an evaluator has painted. `finish` then writes the folder.

    Args:
        model: a folder of `save_denoiser`, with a control network.
        masks: a prepared folder, or one with mask files.
        out: a new or empty folder; or one that this very call has finished, which is left as it is.
        base: as of `load_denoiser`.
        protocol: of a prepared folder of masks, None for the default one.
        key: the list of a prepared folder of masks.
        images_per_mask: painted from the mask as it is, each of another seed.
        augmented_per_mask: painted from masks that `augment_mask` makes of it.
        total_images: so many in all from masks as they are, instead of `images_per_mask`: each mask equally often, and
            some once more.
        keep_empty: paint also from masks without a lesion, or whose lesion vanishes at `image_size`; one at
            least has to have one, or nothing could be trained on the folder.
        into: the list that the pairs go to; of "training" a tenth of the groups becomes "validation".
        image_size: of the images, to which masks are resized, nearest; None for the model's.
        steps: as of `sample`, and so `guidance`, `eta` and `batch_size`.
        control_scale: as of `MaskPainter`.
        seed: what the seeds of images are made of, with the names of their masks (`seed_of`), and of the split.
        prompt: None for the one that the model was trained with.
        objective: that it was trained with; None for what its `law.json` says, if it does.
        name: of the dataset, and the source of its items.
        licence: of the masks; None for what their prepared folder states. The model's own terms hold beside it.
        device: that paints. Images of different devices differ by rounding.
        amp: bfloat16 autocast; images differ by rounding from those without.
        painter: of `load_painter` with the same arguments; None to load it here.
        progress: show bars.

    Attributes:
        painter: a `MaskPainter`.
        dataset: `MasksToPaint`, what is missing.

    Raises:
        InputError: before anything is painted, for wrong masks, options or models, and for an `out` that holds
            something else, or beside which a run of other settings was begun.
    """

    def __init__(
        self,
        model: str | Path,
        masks: str | Path,
        out: str | Path,
        *,
        base: str | Path | None = None,
        protocol: str | None = None,
        key: str = "training",
        images_per_mask: int = 1,
        augmented_per_mask: int = 0,
        total_images: int | None = None,
        keep_empty: bool = False,
        into: str = "training",
        image_size: int | None = None,
        steps: int = 50,
        guidance: float = 10.0,
        control_scale: float | None = None,
        eta: float = 0.0,
        batch_size: int = 8,
        seed: int = 0,
        prompt: str | None = None,
        objective: str | None = None,
        name: str = "law",
        licence: str | None = None,
        device: torch.device | str = "cpu",
        amp: bool = False,
        painter: MaskPainter | None = None,
        progress: bool = True,
    ) -> None:
        _check_total(total_images, images_per_mask, augmented_per_mask)
        _check_options(images_per_mask, augmented_per_mask, into, key, steps, batch_size, seed, name)
        self.device, self.out, self.progress = _device(device), Path(out), progress
        if painter is None:
            options = (steps, guidance, control_scale, eta, batch_size, amp)
            painter = load_painter(model, base, image_size, prompt, self.device, *options)
        self.painter = painter
        parts = painter.parts
        size = parts.preset.image_size
        found = find_masks(masks, size, protocol=protocol, key=key, source=name, progress=progress)
        kept = found if keep_empty else [mask for mask in found if not mask.empty]
        left_out = len(found) - len(kept)
        self.notes = [f"{left_out} of {len(found)} masks left out: no lesion at {size}×{size}"] if left_out else []
        for note in self.notes:
            logger.warning(note)
        if all(mask.empty for mask in kept):
            raise InputError(f"{masks}: none of its {len(found)} masks has a lesion at {size}×{size}; give others")
        check_strengths(guidance, self.painter.control_scale, eta)  # the model's own scale too
        self.items = _items(kept, images_per_mask, augmented_per_mask, total_images, seed)
        self.trained_on = read_record(model)
        self.settings = {
            "model": model_digest(model, parts.encoders),
            "objective": objective or parts.objective or None,
            "prompt": parts.prompt,
            "image_size": size,
            "steps": steps,
            "guidance": float(guidance),
            "control_scale": float(self.painter.control_scale),
            "eta": float(eta),
            "batch_size": batch_size,
            "device": self.device.type,
            "amp": amp,
            "seed": seed,
            "images_per_mask": images_per_mask,
            "augmented_per_mask": augmented_per_mask,
            "total_images": total_images,
            "masks": _digest_of([(mask.name, mask.group, mask.digest) for mask in kept]),
            "into": into,
            "name": name,
            "licence": joined_licences(parts.licence, licence or licence_of(masks)) or "not stated",
        }
        self.state = PaintingState(self.out, self.settings)
        self.is_done = self.state.is_done()
        self.dataset = MasksToPaint(self._missing(), size)
        self._bar: Any = None

    def _missing(self) -> list[PaintedItem]:
        if self.is_done:
            return []
        self.state.begin()
        there = self.state.painted()
        return [item for item in self.items if item.stem not in there]

    def attach(self, engine: Engine) -> None:
        """Register on the evaluator."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._keep)
        engine.add_event_handler(Events.COMPLETED, self._end)

    def _begin(self, engine: Engine) -> None:
        steps = engine.state.epoch_length * self.painter.steps
        self._bar = bar((), "paint", "step", steps, self.progress)
        self.painter.progress = lambda done, total: self._bar.update(1)
        self._tell(0)

    def _keep(self, engine: Engine) -> None:
        for stem, image in zip(engine.state.batch["stem"], engine.state.output[CommonKeys.PRED], strict=True):
            self.state.keep(stem, image)
        self._tell(min(engine.state.iteration * self.painter.batch_size, len(self.dataset)))

    def _tell(self, done: int) -> None:
        done += len(self.items) - len(self.dataset)
        self._bar.set_postfix_str(f"{done} of {len(self.items)} images", refresh=False)

    def _end(self, engine: Engine) -> None:
        self._bar.close()

    @property
    def pairs(self) -> list[dict[str, str]]:
        """The items that the output's lists are to hold together, in their order, with the paths of image and mask."""
        names = {f"{self.settings['name']}_{item.stem}.png": item for item in self.items}
        return [
            {
                "image": str(self.out / "images" / name),
                "label": str(self.out / "masks" / name),
                "source": self.settings["name"],
                "group": names[name].mask.group,
            }
            for name in sorted(names)
        ]

    def finish(self) -> Prepared:
        """Write the prepared folder of all images, whole or not at all; nothing where it is there.

        Raises:
            InputError: if an image is missing, or the disk does not take them.
        """
        if not self.is_done:
            finish(self.out, self.items, self.state, self.settings, self.trained_on, self.progress)
        return Prepared(_written(self.out), self.notes)


def generate(model: str | Path, masks: str | Path, out: str | Path, **options: Any) -> Prepared:
    """Paint a prepared folder of pairs, whole or not at all; called again after it was stopped, it goes on.

    An item of its lists has further keys: source_mask (the file's name), augmented (0 or 1), seed, model
    (`model_digest`), objective (if known), guidance, control_scale and steps. Its group is that of the real image.
    Arguments and errors are those of `Painting`.
    """
    painting = Painting(model, masks, out, **options)
    if len(painting.dataset):
        SupervisedEvaluator(
            painting.device,
            DataLoader(painting.dataset, batch_size=painting.painter.batch_size),
            painting.painter,
            prepare_batch=masks_and_seeds,
            val_handlers=[painting],
            decollate=False,
        ).run()
    return painting.finish()


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


def _items(
    masks: Sequence[SourceMask], as_they_are: int, augmented: int, total: int | None, seed: int
) -> list[PaintedItem]:
    if total is None:
        return list(items_of(masks, as_they_are, augmented, seed))
    return items_in_all(masks, total, seed)


def _check_total(total: int | None, images_per_mask: int, augmented_per_mask: int) -> None:
    if total is None:
        return
    if total < 1:
        raise InputError(f"total_images: {total} has to be at least 1")
    if images_per_mask != 1 or augmented_per_mask:
        raise InputError("total_images counts for itself; leave out images_per_mask and augmented_per_mask")


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


def _digest_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, ensure_ascii=False).encode()).hexdigest()


def _written(out: Path) -> dict[str, dict[str, Any]]:
    content = load_json(out / DATALIST)
    return {content["protocol"]: content}

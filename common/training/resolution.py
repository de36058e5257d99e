"""Batches at a resolution that follows a schedule: coarse and cheap first, the target size at the end."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from monai.utils import convert_to_tensor
from torch import Tensor

from ..errors import InputError


class ResolutionSchedule:
    """Prepare a batch for the trainer, resized to the size that the present epoch asks for.

    Both MONAI's ``prepare_batch`` and a handler (it follows the trainer's epoch and iteration).

    Args:
        stages: rows ``(fraction, sizes)``: the fraction of all epochs that the stage lasts, and the side
            lengths from which each iteration draws one: in pixels, or as shares of `image_size` (0.5, 1.0),
            rounded to a multiple of 32. The fractions sum to 1.
        epochs: all epochs of the run.
        image_size: side length in pixels that shares refer to.
        seed: of the draw, which depends on (seed, iteration) alone.
        channels_last: hand the images over in that memory format.

    Called, it returns image ``(B, C, s, s)`` float32 and label ``(B, 1, s, s)`` float32 in {0, 1}, plain tensors.

    Raises:
        InputError: if a size does not divide by 32, a share is not in (0, 1], or the fractions do not sum to 1.
    """

    def __init__(
        self,
        stages: Sequence[Sequence[Any]],
        epochs: int,
        seed: int = 0,
        channels_last: bool = True,
        image_size: int | None = None,
    ) -> None:
        self.epochs = epochs
        self.ends: list[float] = []
        self.sizes: list[tuple[int, ...]] = []
        total = 0.0
        for fraction, sizes in stages:
            total += fraction
            self.ends.append(total * epochs)
            drawn = (sizes,) if isinstance(sizes, int | float) else sizes
            self.sizes.append(tuple(_pixels(size, image_size) for size in drawn))
        wrong = [size for sizes in self.sizes for size in sizes if size < 32 or size % 32]
        if wrong:
            raise InputError(f"training sizes (image_size, stages) must be multiples of 32; got {wrong}")
        if abs(total - 1.0) > 1e-6:
            raise InputError(f"the fractions of the resolution stages must sum to 1; they sum to {total:g}")
        self.seed = seed
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.epoch = 1
        self.iteration = 1

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.ITERATION_STARTED, self._follow)

    def _follow(self, engine: Engine) -> None:
        self.epoch, self.iteration = engine.state.epoch, engine.state.iteration

    def size(self, epoch: int, iteration: int) -> int:
        """Side length in pixels at a 1-based epoch and iteration."""
        return random.Random(f"{self.seed}/{iteration}").choice(self.sizes[self._stage(epoch)])

    def smallest(self) -> int:
        """The smallest side length in pixels that the run can draw: a short one skips stages."""
        return min(min(self.sizes[self._stage(epoch)]) for epoch in range(1, self.epochs + 1))

    def _stage(self, epoch: int) -> int:
        return next((index for index, end in enumerate(self.ends) if epoch <= end + 1e-6), len(self.ends) - 1)

    def __call__(
        self, batch: Mapping[str, Tensor], device: torch.device, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        # MONAI's random transforms hand over MetaTensors, whose book-keeping makes every operation of a network dearer.
        image, label = (
            convert_to_tensor(batch[key], track_meta=False).to(device=device, non_blocking=non_blocking, **kwargs)
            for key in ("image", "label")
        )
        size = self.size(self.epoch, self.iteration)
        if image.shape[-1] != size:
            image = F.interpolate(image, (size, size), mode="bilinear", align_corners=False, antialias=True)
            label = F.interpolate(label, (size, size), mode="bilinear", align_corners=False, antialias=True)
            label = (label >= 0.5).to(image.dtype)
        return image.contiguous(memory_format=self.memory_format), label


def _pixels(size: int | float, image_size: int | None) -> int:
    if isinstance(size, int):
        return size
    if image_size is None or not 0 < size <= 1:
        raise InputError(f"a training size is pixels (a whole number) or a share of image_size up to 1.0; got {size}")
    return max(32, 32 * round(size * image_size / 32))

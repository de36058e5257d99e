"""What is measured, kept and shown of a denoiser on the way: mean errors, averaged weights, strips of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced
from torch import Tensor, nn
from torch.utils.data import Dataset
from torch.utils.tensorboard import SummaryWriter

from ..data.reading import encode_png
from ..errors import InputError
from ..files import write_atomically
from ..weights import unwrapped
from .codec import Codec
from .denoising import DenoisingLoss, draw
from .engine import autocast
from .pictures import draw_strip
from .sampling import sample

ERRORS = ("error", "lesion_error", "background_error", "balanced")
_OF_A_PLACE = ("lesion_error", "background_error")
_STRIP_KEY = 2**31 + 1  # draws of their own


class MeanError(Metric):
    """Mean over images of an error that a `DenoisingEvaluator` gives, each image counted once.

    Args:
        which: "error", "lesion_error" or "background_error", the last two over the images that have such a place; or
            "balanced", in which lesion and background of an image count half each, however small the lesion.
        negative: give minus the mean, for a key metric, of which more is better.

    Raises:
        InputError: for another name.
    """

    def __init__(self, which: str = "error", negative: bool = False) -> None:
        if which not in ERRORS:
            raise InputError(f"which is {which!r}; choose one of {', '.join(ERRORS)}")
        self.which, self.sign = which, -1.0 if negative else 1.0
        super().__init__(output_transform=self._chosen)

    def _chosen(self, output: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        if self.which != "balanced":
            return output["index"], output[self.which]
        halves = (output["lesion_error"] + output["background_error"]) / 2
        return output["index"], torch.where(output["one_place"], output["error"], halves)

    @reinit__is_reduced
    def reset(self) -> None:
        """Forget all images."""
        self._errors: dict[int, float] = {}

    @reinit__is_reduced
    def update(self, output: tuple[Tensor, Tensor]) -> None:
        """Take a batch's indices and errors, each ``(B,)``."""
        indices, errors = output
        self._errors |= dict(zip(indices.tolist(), errors.double().tolist(), strict=True))

    def compute(self) -> float:
        """The mean, the same on every process; NaN where no image has such a place, or a prediction is not finite.

        Raises:
            NotComputableError: if there was no image.
        """
        errors: dict[int, float] = {}
        for part in idist.all_gather(self._errors):
            errors |= part
        if not errors:
            raise NotComputableError("there is no image to measure")
        there = list(errors.values())
        if self.which in _OF_A_PLACE:
            there = [error for error in there if not math.isnan(error)]
        return self.sign * math.fsum(there) / len(there) if there else math.nan


@contextmanager
def averaged_weights(parameters: Sequence[nn.Parameter], ema: Any) -> Iterator[None]:
    """Put the moving average in the place of the weights, and put them back; nothing where `ema` is None."""
    if ema is None:
        yield
        return
    ema.store(parameters)
    ema.copy_to(parameters)
    try:
        yield
    finally:
        ema.restore(parameters)


class ValidateAverage:
    """An Ignite handler: an evaluator measures the moving average of the denoiser's weights."""

    def __init__(self, network: nn.Module, ema: Any) -> None:
        self.network, self.ema = network, ema
        self._context: Any = None

    def attach(self, engine: Engine) -> None:
        """Register on the evaluator, before what it is to hold for."""
        engine.add_event_handler(Events.STARTED, self._begin)
        engine.add_event_handler(Events.COMPLETED, self._end)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._end)

    def _begin(self, engine: Engine) -> None:
        self._context = averaged_weights(unwrapped(self.network).denoiser.trainable_parameters(), self.ema)
        self._context.__enter__()

    def _end(self, engine: Engine, error: BaseException | None = None) -> None:
        if self._context is not None:
            self._context.__exit__(None, None, None)
            self._context = None
        if error is not None:
            raise error


class ValidationStrips:
    """An Ignite handler: after a validation, what the denoiser paints, in TensorBoard and as a PNG file.

    A column for each of the first images of the list: mask, sample, sample with the mask's outline, and δ from black
    (0) to white (1) where one is learned (figure 8); of an image prior, samples alone. The seeds are always the same.

    Args:
        output_dir: ``tensorboard/`` and ``strips/epoch_0001.png`` go there.
        network: a `DenoisingLoss`, wrapped or not.
        dataset: of `CachedLatents`.
        open_codec: gives the codec; called each time, so that an autoencoder leaves memory in between.
        count: columns.
        steps, guidance, control_scale: of `sample`, which paints one image at a time: training holds the memory.
        amp: bfloat16 autocast.
    """

    def __init__(
        self,
        output_dir: str | Path,
        network: nn.Module,
        dataset: Dataset,
        open_codec: Callable[..., Codec],
        count: int = 4,
        steps: int = 50,
        guidance: float = 10.0,
        control_scale: float = 1.0,
        amp: bool = False,
    ) -> None:
        self.output_dir, self.network, self.open_codec = Path(output_dir), network, open_codec
        self.items = [dataset[index] for index in range(min(count, len(dataset)))]
        self.steps, self.guidance, self.control_scale, self.amp = steps, guidance, control_scale, amp
        self._writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Register on the evaluator."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        if idist.get_rank() != 0 or not self.items:
            return
        with autocast(engine.state.device, self.amp):
            strip = self.draw(engine.state.device)
        epoch = engine.state.epoch
        self._writer = self._writer or SummaryWriter(str(self.output_dir / "tensorboard"))
        self._writer.add_image("mask, sample, overlay, delta", strip, epoch, dataformats="HWC")
        self._writer.flush()
        write_atomically(self.output_dir / "strips" / f"epoch_{epoch:04d}.png", encode_png(strip))

    @torch.no_grad()
    def draw(self, device: torch.device) -> np.ndarray:
        """The strip as it is now, uint8 ``(H, W, 3)``."""
        loss_of: DenoisingLoss = unwrapped(self.network).eval()
        masks = torch.stack([torch.as_tensor(item["mask"]) for item in self.items])
        codec = self.open_codec(device)
        prior = loss_of.denoiser.controlnet is None
        images = sample(
            loss_of.denoiser,
            None if prior else masks,
            list(range(len(self.items))),
            prompts=loss_of.prompts,
            scheduler=loss_of.scheduler,
            codec=codec,
            steps=self.steps,
            guidance=self.guidance,
            control_scale=self.control_scale,
            batch_size=1,
            image_size=masks.shape[-1] if prior else None,
        )
        pixels = (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        if prior:
            return draw_strip(pixels)
        return draw_strip(pixels, masks[:, 0].numpy() > 0.5, self._delta(loss_of, masks, device))

    def _delta(self, loss_of: DenoisingLoss, masks: Tensor, device: torch.device) -> np.ndarray | None:
        # Of the real images at half the noise, at the size of the masks.
        if loss_of.objective.weighter is None:
            return None
        latents = torch.stack([torch.as_tensor(item["latents"]) for item in self.items]).to(device)
        steps = loss_of.scheduler.config.num_train_timesteps
        noise = draw(latents.shape, steps, 0.0, (_STRIP_KEY,)).noise.to(device)
        times = torch.full((len(latents),), steps // 2, device=device)
        noisy = loss_of.scheduler.add_noise(latents, noise, times)
        prediction = loss_of.denoiser(noisy, times, loss_of.prompts.given, masks.to(device))
        delta = loss_of.objective.weighter(prediction, masks.to(device)).delta
        return nn.functional.interpolate(delta, masks.shape[2:], mode="nearest")[:, 0].float().cpu().numpy()

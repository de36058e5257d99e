"""MONAI engines for a denoiser: a training step that can be read from top to bottom, and a measure without chance."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from ignite.metrics import Metric
from monai.engines import Evaluator, Trainer
from monai.engines.utils import IterationEvents
from monai.utils import convert_to_tensor
from torch import Tensor, nn
from torch.optim import Optimizer

from ..weights import unwrapped
from .denoiser import denoising_target
from .denoising import DenoisingLoss, Draws, draw
from .masks import has_background, has_lesion, latent_mask
from .objectives import error_map

_GOLDEN = 0.6180339887498949  # its multiples fill [0, 1) evenly, however many there are
_VALIDATION = 2**31  # a key that no iteration has


def computes_bfloat16(device: torch.device | str) -> bool:
    """Whether a device is a GPU that computes in bfloat16 itself; on others it would be slower than float32."""
    return torch.device(device).type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager:
    """bfloat16 where torch holds it to be safe, on any device; it needs no scaling of the loss."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _on(device: torch.device, batch: dict[str, Tensor], key: str) -> Tensor | None:
    # MONAI's transforms make tensors that remember what was done to them, and pay for it in every operation.
    return convert_to_tensor(batch[key], device=device, track_meta=False) if key in batch else None


class DenoisingTrainer(Trainer):
    """Trains a `DenoisingLoss` on cached latents; an iteration is one batch of one process.

    Its output holds "loss" and each term of the objective, as scalars without a gradient.

    Args:
        device: of the network.
        max_epochs: epochs; how many batches one has, the loader says.
        train_data_loader: of `CachedLatents`.
        network: a `DenoisingLoss`, wrapped or not.
        optimizer: over `parameter_groups`.
        seed: of all draws, with iteration and rank.
        prompt_dropout: share of prompts that are dropped (table 11: 0.05).
        accumulation_steps: batches to one step of the optimizer; an epoch has to be a multiple of it.
        max_grad_norm: gradients of the denoiser are shortened to it; 0 or None leaves them.
        ema: diffusers' ``EMAModel`` over the denoiser's trainable parameters, moved after each step; or None.
        amp: bfloat16 autocast.
        train_handlers: Ignite handlers.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: Iterable,
        network: nn.Module,
        optimizer: Optimizer,
        *,
        seed: int = 0,
        prompt_dropout: float = 0.05,
        accumulation_steps: int = 1,
        max_grad_norm: float | None = 1.0,
        ema: Any = None,
        amp: bool = False,
        train_handlers: Sequence | None = None,
    ) -> None:
        self.network, self.optimizer, self.ema = network, optimizer, ema
        self.seed, self.prompt_dropout, self.autocasts = seed, prompt_dropout, amp
        self.accumulation_steps, self.max_grad_norm = accumulation_steps, max_grad_norm
        super().__init__(device, max_epochs, train_data_loader, handlers=train_handlers, decollate=False)

    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        device, iteration = engine.state.device, engine.state.iteration
        latents, masks = _on(device, batch, "latents"), _on(device, batch, "mask")
        loss_of: DenoisingLoss = unwrapped(self.network)
        steps = loss_of.scheduler.config.num_train_timesteps
        chance = draw(latents.shape, steps, self.prompt_dropout, (self.seed, iteration, idist.get_rank())).to(device)
        completes = iteration % self.accumulation_steps == 0

        self.network.train()
        with self._without_exchange(not completes), autocast(device, self.autocasts):
            result = self.network(latents, masks, *chance, _on(device, batch, "pictures"))  # equations 1 to 10
            (result.loss / self.accumulation_steps).backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        if completes:
            if self.max_grad_norm:
                nn.utils.clip_grad_norm_(loss_of.trained_parameters(), self.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            if self.ema is not None:
                self.ema.step(loss_of.denoiser.trainable_parameters())
        engine.state.output = {"loss": result.loss.detach(), **result.parts}
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return engine.state.output

    def _without_exchange(self, alone: bool) -> AbstractContextManager:
        # Gradients are exchanged once a step, not once a batch.
        return self.network.no_sync() if alone and hasattr(self.network, "no_sync") else nullcontext()


class DenoisingEvaluator(Evaluator):
    """Measures a denoiser's error on cached latents, with noise and timestep of each image fixed for good.

    Its output holds, for each image, "error", "lesion_error" and "background_error", ``(B,)``: the plain mean squared
    error, and that inside and outside of the mask (NaN where there is no such place); and "one_place", ``(B,)`` bool,
    whether it is all lesion or all background.

    Args:
        device: of the network.
        val_data_loader: of `CachedLatents`.
        network: a `DenoisingLoss`, wrapped or not; what is trained with does not matter.
        amp: bfloat16 autocast.
        key_val_metric, additional_metrics, val_handlers: as of MONAI's evaluators.
    """

    def __init__(
        self,
        device: torch.device | str,
        val_data_loader: Iterable,
        network: nn.Module,
        *,
        amp: bool = False,
        key_val_metric: dict[str, Metric] | None = None,
        additional_metrics: dict[str, Metric] | None = None,
        val_handlers: Sequence | None = None,
    ) -> None:
        self.network, self.autocasts = network, amp
        super().__init__(
            device,
            val_data_loader,
            key_val_metric=key_val_metric,
            additional_metrics=additional_metrics,
            val_handlers=val_handlers,
            decollate=False,
        )

    @torch.no_grad()
    def _iteration(self, engine: Engine, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        device = engine.state.device
        latents, masks = _on(device, batch, "latents"), _on(device, batch, "mask")
        loss_of: DenoisingLoss = unwrapped(self.network).eval()
        scheduler, denoiser = loss_of.scheduler, loss_of.denoiser
        chance = _fixed(batch["index"], latents, scheduler.config.num_train_timesteps)
        noisy = scheduler.add_noise(latents, chance.noise, chance.timesteps)
        text = loss_of.prompts.batch(chance.dropped)
        with autocast(device, self.autocasts):
            prediction = denoiser(noisy, chance.timesteps, text, None if denoiser.controlnet is None else masks)
        target = denoising_target(scheduler, latents, chance.noise, chance.timesteps)
        error = error_map(prediction, target).mean(dim=1, keepdim=True)
        lesion = latent_mask(masks, error.shape[2:])
        outside = 1 - lesion
        return {
            "index": batch["index"],
            "error": error.mean(dim=(1, 2, 3)),
            "one_place": ~(has_lesion(lesion) & has_background(lesion)),
            "lesion_error": (error * lesion).sum(dim=(1, 2, 3)) / lesion.sum(dim=(1, 2, 3)),
            "background_error": (error * outside).sum(dim=(1, 2, 3)) / outside.sum(dim=(1, 2, 3)),
        }


def _fixed(indices: Tensor, latents: Tensor, timesteps: int) -> Draws:
    # Noise of each image by its place in the list; timesteps spread evenly over the list; every prompt is given.
    each = [draw((1, *latents.shape[1:]), timesteps, 0.0, (_VALIDATION, index)) for index in indices.tolist()]
    spread = ((indices.double() + 0.5) * _GOLDEN % 1 * timesteps).long()
    dropped = torch.zeros(len(indices), dtype=torch.bool)
    return Draws(torch.cat([one.noise for one in each]), spread, dropped).to(latents.device)

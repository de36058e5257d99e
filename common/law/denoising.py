"""One step of training as the paper has it: noise, predict, weigh, reduce (equations 1 to 10)."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from .denoiser import MaskConditionedDenoiser, denoising_target
from .libraries import ControlNetModel, DDIMScheduler
from .objectives import Objective, ObjectiveResult
from .text import PromptEmbeddings

MASK_SHARE, IMAGE_SHARE = 1.0, 0.25  # of what a teacher sees


class Draws(NamedTuple):
    """All chance in a step: noise ``(B, C, h, w)``, timesteps ``(B,)`` int64, dropped prompts ``(B,)`` bool."""

    noise: Tensor
    timesteps: Tensor
    dropped: Tensor

    def to(self, device: torch.device | str) -> Draws:
        return Draws(*(each.to(device) for each in self))


def draw(shape: Sequence[int], timesteps: int, prompt_dropout: float, key: Sequence[int]) -> Draws:
    """What chance gives a batch, made of `key` alone: the same on every device, and however often a run was stopped.

    Args:
        shape: ``(B, C, h, w)`` of the latents.
        timesteps: of the scheduler's training.
        prompt_dropout: probability of a dropped prompt.
        key: whole numbers, 0 or more, such as seed, iteration and rank.
    """
    seed = np.random.SeedSequence(list(key)).generate_state(1, np.uint64)[0]
    generator = torch.Generator().manual_seed(int(seed) >> 1)
    return Draws(
        torch.randn(tuple(shape), generator=generator),
        torch.randint(timesteps, (shape[0],), generator=generator),
        torch.rand(shape[0], generator=generator) < prompt_dropout,
    )


class DenoisingLoss(nn.Module):
    """Denoiser, teacher and objective as one module: what one process of a distributed training wraps.

    Args:
        denoiser: whose prediction is the student's; without a control network it is an image prior, and sees no mask.
        objective: of `build_objective`; where it needs a teacher, `add_teacher` comes first.
        scheduler: of the noise.
        prompts: of `cache_prompts`.
    """

    def __init__(
        self,
        denoiser: MaskConditionedDenoiser,
        objective: Objective,
        scheduler: DDIMScheduler,
        prompts: PromptEmbeddings,
    ) -> None:
        super().__init__()
        if objective.needs_teacher and denoiser.controlnet is None:
            raise InputError(f"{type(objective).__name__} has a teacher, and an image prior none; train it as uniform")
        self.denoiser, self.objective, self.scheduler = denoiser, objective, scheduler
        self.teacher_control = _copied(denoiser.controlnet) if objective.needs_teacher else None
        self.register_buffer("given", prompts.given, persistent=False)
        self.register_buffer("dropped", prompts.dropped, persistent=False)

    @property
    def prompts(self) -> PromptEmbeddings:
        """On the device of the module."""
        return PromptEmbeddings(self.given, self.dropped)

    def forward(
        self,
        latents: Tensor,
        masks: Tensor,
        noise: Tensor,
        timesteps: Tensor,
        dropped: Tensor,
        pictures: Tensor | None = None,
    ) -> ObjectiveResult:
        """The loss of a batch.

        Args:
            latents: z_0, ``(B, C, h, w)``.
            masks: m, ``(B, 1, H, W)`` in {0, 1}.
            noise, timesteps, dropped: of `draw`.
            pictures: ``(B, 3, H, W)`` in [−1, 1], for a teacher; in pixel space `latents` serve.

        Raises:
            InputError: no pictures where a teacher needs them.
        """
        noisy = self.scheduler.add_noise(latents, noise, timesteps)  # equation 1
        text = self.prompts.batch(dropped)
        target = denoising_target(self.scheduler, latents, noise, timesteps)
        control = None if self.denoiser.controlnet is None else masks
        prediction = self.denoiser(noisy, timesteps, text, control)  # ε̂ˢ
        teacher = None
        if self.teacher_control is not None:
            seen = self.teacher_condition(masks, latents if pictures is None else pictures)
            teacher = self._teacher()(noisy, timesteps, text, seen)  # ε̂ᵀ
        return self.objective(prediction, target, masks, teacher)  # equations 2 to 10

    @staticmethod
    def teacher_condition(masks: Tensor, pictures: Tensor) -> Tensor:
        """Mask and image in one, 1.0·m + 0.25·x: ``(B, 1, H, W)`` and ``(B, 3, H, W)`` → ``(B, 3, H, W)``.

        Raises:
            InputError: if the two are not of one size.
        """
        if pictures.shape[2:] != masks.shape[2:]:
            raise InputError(
                f"the teacher sees pictures of {tuple(masks.shape[2:])}, as the masks are, and got "
                f"{tuple(pictures.shape[2:])}; cache them with the latents (pictures=True)"
            )
        return MASK_SHARE * masks + IMAGE_SHARE * pictures

    def trained_parameters(self) -> list[nn.Parameter]:
        """Those of the denoiser that learn, and the teacher's; φ has an optimiser group of its own."""
        teacher = [] if self.teacher_control is None else list(self.teacher_control.parameters())
        return [*self.denoiser.trainable_parameters(), *teacher]

    def _teacher(self) -> MaskConditionedDenoiser:
        # A control network of its own before the same U-Net. No child of this module: that would hold the U-Net twice.
        return MaskConditionedDenoiser(self.denoiser.unet, self.teacher_control, self.denoiser.patch)


def _copied(control: ControlNetModel) -> ControlNetModel:
    # Student and teacher begin alike, so that only what they see sets them apart.
    teacher = ControlNetModel.from_config(control.config)
    teacher.load_state_dict(control.state_dict())
    if control.is_gradient_checkpointing:
        teacher.enable_gradient_checkpointing()
    return teacher.to(control.device).requires_grad_(True).train(control.training)


def learned_state(module: nn.Module) -> dict[str, Tensor]:
    """The parameters of a module that take a gradient, by name: all that training changes."""
    return {name: each.detach() for name, each in module.named_parameters() if each.requires_grad}


def frozen_digest(module: nn.Module) -> str:
    """A SHA-256 of the parameters that take no gradient: what training stands on, and does not save."""
    digest = hashlib.sha256()
    for name, each in sorted(module.named_parameters()):
        if not each.requires_grad:
            digest.update(name.encode())
            digest.update(each.detach().cpu().contiguous().view(torch.uint8).numpy())
    return digest.hexdigest()


@torch.no_grad()
def load_learned_state(module: nn.Module, state: dict[str, Tensor], origin: str) -> None:
    """Give `learned_state` back.

    Raises:
        InputError: if names or shapes differ; the module is then unchanged.
    """
    own = {name: each for name, each in module.named_parameters() if each.requires_grad}
    wrong = sorted(own.keys() ^ state.keys())
    wrong += [name for name in sorted(own.keys() & state.keys()) if own[name].shape != state[name].shape]
    if wrong:
        raise InputError(
            f"{origin} holds what another denoiser learned ({len(wrong)} tensors differ, such as {wrong[0]}); "
            "train with the settings that it was begun with, or name another --output_dir"
        )
    for name, parameter in own.items():
        parameter.copy_(state[name])

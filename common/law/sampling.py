"""Painting: from masks to images by DDIM with classifier-free guidance (table 11). The weighter has no part in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .codec import Codec
from .denoiser import MaskConditionedDenoiser
from .libraries import DDIMScheduler
from .text import PromptEmbeddings


@torch.no_grad()
def sample(
    denoiser: MaskConditionedDenoiser,
    masks: Tensor | None,
    seeds: Sequence[int],
    *,
    prompts: PromptEmbeddings,
    scheduler: DDIMScheduler,
    codec: Codec,
    steps: int = 50,
    guidance: float = 10.0,
    control_scale: float = 1.0,
    eta: float = 0.0,
    batch_size: int = 8,
    image_size: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Paint one image for each mask, on the device that the denoiser is on.

    All noise of an image comes from a generator of its own, made of its seed, and each batch is filled up to
    `batch_size`. So an image depends on its mask, its seed and `batch_size`, and neither on the other masks nor on
    their order; of another batch size it differs by rounding alone.

    Args:
        denoiser: with a control network, unless `masks` is None.
        masks: ``(N, 1, H, W)`` in {0, 1} at the size of the images; None to paint from an image prior.
        seeds: N numbers, each in [0, 2⁶³).
        prompts: of `cache.cache_prompts`. The unconditional branch drops the prompt and keeps the mask.
        scheduler: the denoiser's; it is not changed.
        codec: that turns latents into images.
        steps: of DDIM.
        guidance: scale of classifier-free guidance; 1 or less leaves the unconditional branch out.
        control_scale: what the control network adds to the U-Net is multiplied by it; 1 is as trained.
        eta: 0 is deterministic after the first noise, 1 adds noise in every step as DDPM does.
        batch_size: images at a time; with guidance the denoiser sees twice as many.
        image_size: of a prior's images; None with masks.
        progress: called after each step with the number of steps done and of all.

    Returns:
        ``(N, 3, H, W)`` float32 in [0, 1], on the CPU.

    Raises:
        InputError: if a number is out of range, or masks, seeds, codec and denoiser do not fit together.
    """
    trained = scheduler.config.num_train_timesteps
    size = _check(denoiser, masks, seeds, codec, steps, trained, guidance, control_scale, eta, batch_size, image_size)
    scheduler = DDIMScheduler.from_config(scheduler.config)
    scheduler.set_timesteps(steps)
    prompts = prompts.to(denoiser.unet.device)
    images = []
    batches = range(0, len(seeds), batch_size)
    for number, start in enumerate(batches):
        chosen = [min(start + place, len(seeds) - 1) for place in range(batch_size)]
        latents = _denoise(
            denoiser,
            None if masks is None else masks[chosen],
            [torch.Generator().manual_seed(int(seeds[index])) for index in chosen],
            (denoiser.latent_channels, size[0] // codec.factor, size[1] // codec.factor),
            prompts,
            scheduler,
            guidance,
            control_scale,
            eta,
            lambda step, before=number * steps: progress and progress(before + step, len(batches) * steps),
        )
        painted = codec.decode(latents)[: len(seeds) - start]
        images.append((painted.float() / 2 + 0.5).clamp(0, 1).cpu())
    return torch.cat(images)


def _denoise(
    denoiser: MaskConditionedDenoiser,
    masks: Tensor | None,
    generators: Sequence[torch.Generator],
    shape: tuple[int, int, int],
    prompts: PromptEmbeddings,
    scheduler: DDIMScheduler,
    guidance: float,
    control_scale: float,
    eta: float,
    progress: Callable[[int], object],
) -> Tensor:
    # One batch of latents, from noise to the end.
    device, count = denoiser.unet.device, len(generators)
    branches = 2 if guidance > 1 else 1
    text = torch.cat([prompts.dropped.expand(count, -1, -1), prompts.given.expand(count, -1, -1)][-branches:])
    condition = None if masks is None else masks.to(device, torch.float32).repeat(branches, 1, 1, 1)
    latents = _noise(generators, shape, device)
    for step, timestep in enumerate(scheduler.timesteps, start=1):
        noisy, times = latents.repeat(branches, 1, 1, 1), timestep.expand(branches * count).to(device)
        prediction = denoiser(noisy, times, text, condition, control_scale)
        if branches == 2:
            without, with_prompt = prediction.chunk(2)
            prediction = without + guidance * (with_prompt - without)
        fresh = _noise(generators, shape, device) if eta > 0 else None
        latents = scheduler.step(prediction, timestep, latents, eta=eta, variance_noise=fresh, return_dict=False)[0]
        progress(step)
    return latents


def _noise(generators: Sequence[torch.Generator], shape: tuple[int, ...], device: torch.device) -> Tensor:
    # Drawn on the CPU, so that a seed means the same image wherever it is painted.
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(device)


def check_strengths(guidance: float, control_scale: float, eta: float) -> None:
    """The numbers of `sample` that a painting depends on beside its steps.

    Raises:
        InputError: if one is no number, or out of range.
    """
    for name, value in (("guidance", guidance), ("control_scale", control_scale), ("eta", eta)):
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise InputError(f"{name}: {value!r} has to be a finite number")
    if control_scale < 0:
        raise InputError(f"control_scale: {control_scale} has to be a number, 0 or more")
    if not 0 <= eta <= 1:
        raise InputError(f"eta: {eta} has to lie in [0, 1]; more noise than DDPM's leaves no image")


def _check(
    denoiser: MaskConditionedDenoiser,
    masks: Tensor | None,
    seeds: Sequence[int],
    codec: Codec,
    steps: int,
    trained: int,
    guidance: float,
    control_scale: float,
    eta: float,
    batch_size: int,
    image_size: int | None,
) -> tuple[int, int]:
    if steps < 1 or batch_size < 1:
        raise InputError(f"steps: {steps} and batch_size: {batch_size} have to be at least 1")
    if steps > trained:
        raise InputError(f"steps: {steps} are more than the {trained} that the denoiser was trained with")
    check_strengths(guidance, control_scale, eta)
    if not seeds or any(not 0 <= int(seed) < 2**63 for seed in seeds):
        raise InputError("seeds: one number in [0, 2^63) is needed for each image")
    if masks is None:
        if image_size is None:
            raise InputError("image_size: without masks it has to say how large the images are")
        return image_size, image_size
    if masks.ndim != 4 or masks.shape[1] != 1 or len(masks) != len(seeds):
        raise InputError(f"masks: {tuple(masks.shape)} has to be ({len(seeds)}, 1, H, W), a mask for each seed")
    if codec.factor != denoiser.latent_factor:
        raise InputError(
            f"the control network reads masks at {denoiser.latent_factor} times the latents, and the autoencoder's "
            f"images are {codec.factor} times; load both from one folder"
        )
    if any(side % codec.factor for side in masks.shape[2:]):
        raise InputError(f"masks: {tuple(masks.shape[2:])} has to divide by {codec.factor}; resize them")
    return masks.shape[2], masks.shape[3]

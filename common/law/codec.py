"""Between images and what is denoised: an autoencoder's latents, or the pixels themselves."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from .libraries import AutoencoderKL


class Codec(Protocol):
    """Images ``(B, 3, H, W)`` in [−1, 1] ↔ latents ``(B, C, H/factor, W/factor)``, float32 and without gradients."""

    factor: int

    def encode(self, images: Tensor) -> Tensor: ...

    def decode(self, latents: Tensor) -> Tensor: ...


class PixelCodec:
    """Pixel space: the latents are the image."""

    factor = 1

    def encode(self, images: Tensor) -> Tensor:
        return images

    def decode(self, latents: Tensor) -> Tensor:
        return latents


class AutoencoderCodec:
    """Latent space: the mean of the autoencoder's posterior, times its scale (0.18215 in Stable Diffusion 1.5).

    The mean and no sample of it, so that latents depend on the image alone; in Stable Diffusion the two hardly differ.
    """

    def __init__(self, autoencoder: AutoencoderKL) -> None:
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.factor = 2 ** (len(autoencoder.config.block_out_channels) - 1)

    @torch.no_grad()
    def encode(self, images: Tensor) -> Tensor:
        posterior = self.autoencoder.encode(images.to(self.autoencoder.device), return_dict=False)[0]
        return posterior.mean * self.autoencoder.config.scaling_factor

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        latents = latents.to(self.autoencoder.device) / self.autoencoder.config.scaling_factor
        return self.autoencoder.decode(latents, return_dict=False)[0]

"""The mask-conditioned denoiser: a U-Net that knows images, and a control network that tells it where the lesion is.

Also what is predicted: the noise ε, or the velocity v = √ᾱ_t·ε − √(1−ᾱ_t)·x_0, and how one turns into the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .libraries import ControlNetModel, DDIMScheduler, UNet2DConditionModel

TRAINABLE = ("prior", "control", "control+decoder")


@contextmanager
def private_seed(seed: int) -> Iterator[None]:
    """Layers draw their first weights from torch's global generator: seed it in here, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield


class MaskConditionedDenoiser(nn.Module):
    """diffusers' `UNet2DConditionModel`, steered by its `ControlNetModel`.

    Called with noisy latents ``(B, C, h, w)``, timesteps ``(B,)`` int64, text ``(B or 1, L, D)`` and a mask, it returns
    the prediction of the noise or of the velocity, as it was trained, in the shape and type of the noisy latents. The
    mask is ``(B, 1, H, W)`` in {0, 1} at the size of the image, and is repeated to the control network's channels;
    a condition that has as many channels already is taken as it is (a teacher sees mask and image in one). Without
    a mask the U-Net works alone, as an image prior.

    Args:
        unet: the image prior.
        controlnet: None for a prior alone; see `add_control`.
        patch: pixels of the latents along each side that both networks take as one place, by ``pixel_unshuffle``; the
            U-Net has patch² times the channels of the latents then.
    """

    def __init__(self, unet: UNet2DConditionModel, controlnet: ControlNetModel | None = None, patch: int = 1) -> None:
        super().__init__()
        self.unet = unet
        self.controlnet = controlnet
        self.patch = patch

    def add_control(
        self, embedding_channels: tuple[int, ...], conditioning_channels: int = 3, seed: int = 0
    ) -> MaskConditionedDenoiser:
        """Give it a control network that begins as a copy of the U-Net's encoder, behind convolutions of zeros.

        At first it therefore changes nothing, whatever the mask.

        Args:
            embedding_channels: of the layers that read the mask; each but the first halves it, so that four are for
                latents of an eighth.
            conditioning_channels: of the condition.
            seed: of those layers' first weights.
        """
        with private_seed(seed):
            self.controlnet = ControlNetModel.from_unet(
                self.unet,
                conditioning_embedding_out_channels=tuple(embedding_channels),
                conditioning_channels=conditioning_channels,
            )
        self.controlnet.to(self.unet.device)
        return self

    @property
    def latent_channels(self) -> int:
        """Channels of the latents."""
        return self.unet.config.in_channels // self.patch**2

    @property
    def latent_factor(self) -> int:
        """How many pixels of the mask lie along one pixel of the latents.

        Raises:
            ValueError: if there is no control network.
        """
        return 2 ** (len(self._control().config.conditioning_embedding_out_channels) - 1) // self.patch

    def forward(
        self, noisy: Tensor, timesteps: Tensor, text: Tensor, mask: Tensor | None = None, control_scale: float = 1.0
    ) -> Tensor:
        text = text.expand(noisy.shape[0], -1, -1)
        condition = None if mask is None else self.condition(mask, noisy)
        places = noisy if self.patch == 1 else nn.functional.pixel_unshuffle(noisy, self.patch)
        prediction = self._predict(places, timesteps, text, condition, control_scale).to(noisy.dtype)
        return prediction if self.patch == 1 else nn.functional.pixel_shuffle(prediction, self.patch)

    def _predict(
        self, places: Tensor, timesteps: Tensor, text: Tensor, condition: Tensor | None, control_scale: float
    ) -> Tensor:
        if condition is None:
            return self.unet(places, timesteps, text, return_dict=False)[0]
        down, middle = self._control()(places, timesteps, text, condition, control_scale, return_dict=False)
        prediction = self.unet(
            places,
            timesteps,
            text,
            down_block_additional_residuals=down,
            mid_block_additional_residual=middle,
            return_dict=False,
        )
        return prediction[0]

    def condition(self, mask: Tensor, noisy: Tensor) -> Tensor:
        """The mask as the control network reads it: ``(B, 1 or channels, H, W)`` → ``(B, channels, H, W)``.

        Raises:
            ValueError: if it does not fit the noisy latents.
        """
        channels = self._control().config.conditioning_channels
        height, width = (self.latent_factor * side for side in noisy.shape[2:])
        if tuple(mask.shape) not in {(noisy.shape[0], one, height, width) for one in (1, channels)}:
            raise ValueError(
                f"the mask is {tuple(mask.shape)}; for latents {tuple(noisy.shape)} it has to be "
                f"{(noisy.shape[0], 1, height, width)}"
            )
        return mask.to(noisy).expand(-1, channels, -1, -1)

    def set_trainable(self, what: str) -> MaskConditionedDenoiser:
        """Choose what learns; everything else is frozen.

        Args:
            what: "prior" (the U-Net), "control" (the control network), or "control+decoder" (also the U-Net's up
                blocks and its output layers, as ControlNet unlocks them).

        Raises:
            ValueError: for another name, or control without a control network.
        """
        if what not in TRAINABLE:
            raise ValueError(f"trainable: {what!r} is none of {', '.join(TRAINABLE)}")
        self.requires_grad_(False)
        if what == "prior":
            self.unet.requires_grad_(True)
            return self
        self._control().requires_grad_(True)
        if what == "control+decoder":
            for part in (self.unet.up_blocks, self.unet.conv_norm_out, self.unet.conv_out):
                if part is not None:
                    part.requires_grad_(True)
        return self

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What `set_trainable` left to learn."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def set_gradient_checkpointing(self, enabled: bool) -> MaskConditionedDenoiser:
        """Trade time for memory: compute the activations of each block again in the backward pass."""
        for network in (self.unet, self.controlnet):
            if network is not None:
                network.enable_gradient_checkpointing() if enabled else network.disable_gradient_checkpointing()
        return self

    def _control(self) -> ControlNetModel:
        if self.controlnet is None:
            raise ValueError("this denoiser is a prior without a control network; give it one with add_control")
        return self.controlnet


class NoiseLevel(NamedTuple):
    """√ᾱ_t and √(1−ᾱ_t), each ``(B, 1, 1, 1)``."""

    signal: Tensor
    noise: Tensor


def noise_level(scheduler: DDIMScheduler, timesteps: Tensor, like: Tensor) -> NoiseLevel:
    """How much signal and noise the noisy latents of these timesteps ``(B,)`` hold."""
    cumulative = scheduler.alphas_cumprod.to(device=like.device, dtype=like.dtype)[timesteps.to(like.device)]
    cumulative = cumulative.reshape(-1, 1, 1, 1)
    return NoiseLevel(cumulative.sqrt(), (1 - cumulative).sqrt())


def denoising_target(scheduler: DDIMScheduler, clean: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
    """What the prediction is compared with: ε, or v (Salimans and Ho 2022, appendix D), as the scheduler has it.

    Raises:
        ValueError: if the scheduler predicts something else.
    """
    if _prediction_type(scheduler) == "epsilon":
        return noise
    level = noise_level(scheduler, timesteps, clean)
    return level.signal * noise - level.noise * clean


def predicted_noise(scheduler: DDIMScheduler, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """ε of a prediction of ε or of v: ε = √(1−ᾱ_t)·x_t + √ᾱ_t·v."""
    if _prediction_type(scheduler) == "epsilon":
        return prediction
    level = noise_level(scheduler, timesteps, noisy)
    return level.noise * noisy + level.signal * prediction


def predicted_clean(scheduler: DDIMScheduler, prediction: Tensor, noisy: Tensor, timesteps: Tensor) -> Tensor:
    """x_0 of a prediction: √ᾱ_t·x_t − √(1−ᾱ_t)·v of v, (x_t − √(1−ᾱ_t)·ε) / √ᾱ_t of ε."""
    level = noise_level(scheduler, timesteps, noisy)
    if _prediction_type(scheduler) == "epsilon":
        return (noisy - level.noise * prediction) / level.signal
    return level.signal * noisy - level.noise * prediction


def _prediction_type(scheduler: DDIMScheduler) -> str:
    kind = scheduler.config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ValueError(f"the scheduler's prediction_type is {kind!r}; LAW knows 'epsilon' and 'v_prediction'")
    return kind

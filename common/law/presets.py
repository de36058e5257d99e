"""The two sizes that LAW comes in: Stable Diffusion 1.5 (table 11), and one that a CPU trains in an hour or two.

Both are the same classes on the same path; all that differs stands here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ..errors import InputError
from .denoiser import private_seed
from .libraries import DDIMScheduler, UNet2DConditionModel


@dataclass(frozen=True)
class Preset:
    """What a denoiser works on, and how its parts come about.

    Attributes:
        name: the key in `PRESETS`.
        image_size: pixels along each side; images are squashed to a square.
        latent_factor: pixels of the image along one pixel of the latents; 1 is pixel space, without an autoencoder.
        latent_channels: of what is denoised.
        embedding_channels: of the control network's layers that read the mask; each but the first halves it.
        patch: pixels of the latents along each side that the U-Net takes as one place of more channels.
        smallest: what the sides of the latents have to divide by: `patch`, and each level of the U-Net but one halves.
        scheduler: arguments of `DDIMScheduler`.
        unet: arguments of a `UNet2DConditionModel` that is trained from nothing; None if it comes from a folder.
        text: "clip", or "hashed": a fixed embedding that needs no text encoder (`text.HashedText`).
    """

    name: str
    image_size: int
    latent_factor: int
    latent_channels: int
    embedding_channels: tuple[int, ...]
    smallest: int
    text: str
    scheduler: Mapping[str, Any] = field(hash=False)
    unet: Mapping[str, Any] | None = field(default=None, hash=False)
    patch: int = 1

    @property
    def latent_size(self) -> int:
        """Pixels of the latents along each side."""
        return self.image_size // self.latent_factor

    def at(self, image_size: int | None) -> Preset:
        """The same for images of another size; None for its own.

        Raises:
            InputError: if the U-Net cannot halve that as often as it has to.
        """
        if image_size is None:
            return self
        unit = self.latent_factor * self.smallest
        if isinstance(image_size, bool) or not isinstance(image_size, int) or image_size < unit or image_size % unit:
            raise InputError(f"image_size: {image_size!r} has to be a multiple of {unit} for the preset {self.name}")
        return replace(self, image_size=image_size)

    def new_scheduler(self) -> DDIMScheduler:
        """The noise that it is trained with and sampled by."""
        return DDIMScheduler(**self.scheduler)

    def new_unet(self, seed: int) -> UNet2DConditionModel:
        """A U-Net with first weights from `seed`.

        Raises:
            ValueError: if the preset's U-Net comes from a folder.
        """
        if self.unet is None:
            raise ValueError(f"the preset {self.name} begins with trained weights; load them from a folder")
        with private_seed(seed):
            return UNet2DConditionModel(sample_size=self.latent_size // self.patch, **self.unet)


SD15 = Preset(
    name="sd15",
    image_size=384,
    latent_factor=8,
    latent_channels=4,
    embedding_channels=(16, 32, 96, 256),
    smallest=8,
    text="clip",
    scheduler={
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "num_train_timesteps": 1000,
        "prediction_type": "epsilon",
        # As in the weights' own scheduler: latents have no bounds to clip to.
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
    },
)

TINY = Preset(
    name="tiny",
    image_size=64,
    latent_factor=1,
    latent_channels=3,
    # Two by two pixels to a place: a quarter of the work, and at 64² no eye tells the difference.
    patch=2,
    embedding_channels=(16, 32),
    smallest=8,
    text="hashed",
    scheduler={
        # Pixels of an image are alike over long distances, so that much of it shines through the last step of
        # SD 1.5's schedule, which sampling does not begin with. Here the last step is noise alone (Lin et al. 2024).
        "beta_schedule": "squaredcos_cap_v2",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "num_train_timesteps": 1000,
        "prediction_type": "v_prediction",
        "clip_sample": True,
    },
    unet={
        "in_channels": 12,  # 3 of 2 × 2 pixels
        "out_channels": 12,
        # Multiples of 16: the convolutions of a CPU take as long for 24 channels as for 32.
        "block_out_channels": (48, 64, 128),
        "layers_per_block": 1,
        "down_block_types": ("DownBlock2D", "DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
        "norm_num_groups": 8,
        "attention_head_dim": 8,  # the number of heads: diffusers kept an old name
        "cross_attention_dim": 32,
    },
)

PRESETS: Mapping[str, Preset] = {preset.name: preset for preset in (SD15, TINY)}


def find_preset(name: str) -> Preset:
    """The preset of that name.

    Raises:
        InputError: if there is none.
    """
    if name not in PRESETS:
        raise InputError(f"preset: {name!r} is none of {', '.join(PRESETS)}")
    return PRESETS[name]

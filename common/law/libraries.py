"""What LAW takes from diffusers, imported in one place. transformers' CLIP joins where a prompt is to be encoded."""

from __future__ import annotations

from ..vision_operators import make_torchvision_importable

make_torchvision_importable()  # diffusers imports transformers, which imports torchvision where there is one

from diffusers import AutoencoderKL, ControlNetModel, DDIMScheduler, UNet2DConditionModel  # noqa: E402

__all__ = ["AutoencoderKL", "ControlNetModel", "DDIMScheduler", "UNet2DConditionModel"]

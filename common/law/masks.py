"""The conditioning mask at the resolution of the loss (section 3.1.2)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError


def latent_mask(mask: Tensor, size: Sequence[int]) -> Tensor:
    """The mask resized by nearest neighbour, one channel, 0 or 1.

    Several channels are copies of one mask, as a control network takes them: a position is lesion where any is.
    Small lesions can vanish on the way (`has_lesion` tells).

    Args:
        mask: ``(B, C, H, W)``, boolean, or floating with values in [0, 1]; above 0.5 is lesion.
        size: height and width of what is weighed, at most those of the mask.

    Returns:
        ``(B, 1, h, w)`` float32, without a gradient.

    Raises:
        InputError: mask of another shape or kind of number, or smaller than `size`.
    """
    height, width = size
    if mask.ndim != 4:
        raise InputError(f"mask has shape {tuple(mask.shape)}; give (batch, channels, height, width)")
    if not (mask.dtype == torch.bool or mask.is_floating_point()):
        raise InputError(f"mask is {mask.dtype}; give booleans, or floating numbers from 0 to 1 (bytes divided by 255)")
    if mask.shape[2] < height or mask.shape[3] < width:
        raise InputError(f"mask of {mask.shape[2]}×{mask.shape[3]} is smaller than the {height}×{width} to be weighed")
    mask = mask.detach().float()
    if mask.shape[2:] != (height, width):
        # The centre of each cell. "nearest" would take its upper left corner: at 384 → 48 the lesion moves by 4 pixels.
        mask = F.interpolate(mask, size=(height, width), mode="nearest-exact")
    return (mask.amax(dim=1, keepdim=True) > 0.5).float()


def has_lesion(mask: Tensor) -> Tensor:
    """Which samples of ``(B, 1, h, w)`` have a lesion, r > 0: ``(B,)`` boolean."""
    return mask.flatten(1).amax(dim=1) > 0


def has_background(mask: Tensor) -> Tensor:
    """Which samples of ``(B, 1, h, w)`` have background, r < 1: ``(B,)`` boolean."""
    # By extremes, not by a mean: on a GPU the mean of a full mask need not be exactly 1.
    return mask.flatten(1).amin(dim=1) < 1

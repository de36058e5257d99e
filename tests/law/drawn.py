"""Masks and predictions that the tests of LAW share."""

from __future__ import annotations

import torch
from torch import Tensor

LATENT, PIXELS = (4, 4, 16, 16), (4, 3, 32, 24)  # batch, channels, height, width


def normal(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal numbers, float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def share(pixels: int, side: int = 60) -> Tensor:
    """A mask ``(1, 1, side, side)`` with the first `pixels` positions lesion."""
    return (torch.arange(side * side) < pixels).float().view(1, 1, side, side)


def mixed_masks(height: int, width: int) -> Tensor:
    """Four masks ``(4, 1, height, width)``: a small lesion, none, a full one, a large lesion."""
    masks = torch.zeros(4, 1, height, width)
    masks[0, :, 2:5, 3:6] = 1
    masks[2] = 1
    masks[3, :, 1:-2, 2:] = 1
    return masks

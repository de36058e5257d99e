"""Inferers that MONAI does not have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor


class FlipAverageInferer(Inferer):
    """Average the network's *logits* over the four flips of the image (none, left-right, up-down, both).

    Called as ``inferer(inputs, network)`` with ``(B, C, H, W)``; returns float logits of the network's shape, so the
    sigmoid comes after it as after `SimpleInferer`. A mean of logits is the geometric mean of the odds. The result
    flips with the image. Four forward passes, one after the other: the memory of one, four times the time.
    """

    def __call__(self, inputs: Tensor, network: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        def flipped(*axes: int) -> Tensor:
            return torch.flip(network(torch.flip(inputs, axes), *args, **kwargs), axes)

        # Summed in pairs, so that a flip of the input only swaps the terms of each sum: equal to the last bit.
        straight = network(inputs, *args, **kwargs) + flipped(-1)
        return (straight + (flipped(-2) + flipped(-2, -1))) / 4

"""Layer norm where the channels do not stand last."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def normalised_over_channels(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """`norm` over the channels of each position: ``(B, C, H, W)`` → ``(B, C, H, W)``, float32 or float64.

    Written out, for the result to be laid out as `x` is. With the channels moved last for torch's own layer norm, and
    back, it is channels-last, and in the bfloat16 gradient of a depthwise convolution of dilation 5 that follows it
    oneDNN 3.12 crashes on CPUs with AVX512-BF16.
    """
    wide = x if x.dtype == torch.float64 else x.float()
    centred = wide - wide.mean(dim=1, keepdim=True)
    scale = torch.rsqrt(centred.square().mean(dim=1, keepdim=True) + norm.eps)
    return centred * scale * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)

"""MK-UNet as published, with the gates on its skips that the paper's backbone leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..order.blocks import ChannelAttention, MultiKernelInvertedResidual, SpatialAttention
from ..order.sizes import check_size, check_widths


class GroupedAttentionGate(nn.Module):
    """Scale a skip by what it and the decoder agree on, position by position.

    ψ = σ(BN(1×1(ReLU(BN(G_d(d)) + BN(G_e(e)))))), out = ψ·e; G are 3×3 convolutions in as many groups as they have
    outputs. Decoder and skip ``(B, C, H, W)`` each → ``(B, C, H, W)``.
    """

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.gate_decoder, self.gate_skip = (
            nn.Sequential(nn.Conv2d(channels, hidden, 3, padding=1, groups=hidden), nn.BatchNorm2d(hidden))
            for _ in range(2)
        )
        self.psi = nn.Sequential(nn.Conv2d(hidden, 1, 1), nn.BatchNorm2d(1), nn.Sigmoid())

    def forward(self, decoder: Tensor, skip: Tensor) -> Tensor:
        return skip * self.psi(torch.relu(self.gate_decoder(decoder) + self.gate_skip(skip)))


class MKUNet(nn.Module):
    """MK-UNet-T (Rahman and Marculescu 2025): 27,384 parameters.

    It differs from the paper's backbone (`OrderNet` with ``attention_skips=()``) by gates on the four skips, by no
    bias in its channel attention, and by three more heads, on the maps of strides 8, 4 and 2. Those are part of the
    published count; they are used where ``deep_supervision`` is on and the network is training, and idle otherwise.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        channels: widths of the five encoder stages, shallow to deep, even; each divided by 2 is a gate's width.
        deep_supervision: in training mode, return the logits of all four heads, finest first, each resized to the
            image, as a list.

    Returns logits ``(B, out_channels, H, W)`` for an image ``(B, in_channels, H, W)``.

    Raises:
        ValueError: for other widths than five even ones; where H or W is not a positive multiple of 32.
    """

    idle = ("heads.0.", "heads.1.", "heads.2.")  # frozen without deep supervision: no output depends on them

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: Sequence[int] = (4, 8, 16, 24, 32),
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        check_widths(channels, "MKUNet", 5, 2)
        self.deep_supervision = deep_supervision
        self.encoder = nn.ModuleList(MultiKernelInvertedResidual(*pair) for pair in pairwise([in_channels, *channels]))
        self.pool = nn.MaxPool2d(2)
        widths = [*reversed(channels), channels[0]]
        self.channel_attention = nn.ModuleList(
            ChannelAttention(width, max(1, width // 16), bias=False) for width in widths[:-1]
        )
        self.spatial_attention = SpatialAttention()
        self.decoder = nn.ModuleList(MultiKernelInvertedResidual(*pair) for pair in pairwise(widths))
        self.gates = nn.ModuleList(GroupedAttentionGate(width, width // 2) for width in widths[1:-1])
        self.apply(_initialise)
        self.heads = nn.ModuleList(nn.Conv2d(width, out_channels, 1) for width in widths[2:])
        if not deep_supervision:  # several processes would wait for their gradients
            self.heads[:-1].requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        check_size(image, "MKUNet", 32)
        x, skips = image, []
        for block in self.encoder:
            skips.append(x)
            x = self.pool(block(x))
        maps = []
        for index, (attention, block) in enumerate(zip(self.channel_attention, self.decoder, strict=True)):
            x = block(self.spatial_attention(attention(x)))
            x = torch.relu(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))
            if index < len(self.gates):
                x = x + self.gates[index](x, skips[-1 - index])
            maps.append(x)
        if not (self.deep_supervision and self.training):
            return self.heads[-1](x)
        logits = [head(each) for head, each in zip(self.heads, maps[1:], strict=True)]
        full = [F.interpolate(each, size=image.shape[2:], mode="bilinear", align_corners=False) for each in logits]
        return full[::-1]


def _initialise(module: nn.Module) -> None:
    # The public definition's, of all but the heads.
    if isinstance(module, nn.Conv2d):
        nn.init.normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)

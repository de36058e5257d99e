"""EGE-UNet: Hadamard products with learned maps in the place of convolutions, and masks that guide the skips."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..order.sizes import check_size, check_widths
from .initialisation import initialise_by_fan_out
from .norms import normalised_over_channels

MAP_SIZE = 8  # of the learned maps before they are stretched to the features
DILATIONS = (1, 2, 5, 7)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of ``(B, C, H, W)``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels, eps=1e-6)

    def forward(self, x: Tensor) -> Tensor:
        return normalised_over_channels(self.norm, x)


class HadamardAttention(nn.Module):
    """Multiply a quarter of the channels by a learned map, two by a learned profile along an axis; filter the last.

    The paper's grouped multi-axis Hadamard product attention: ``(B, in_channels, H, W)`` → ``(B, out_channels, H,
    W)``; `in_channels` divides by 4.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        width = in_channels // 4
        self.plane = nn.Parameter(torch.ones(1, width, MAP_SIZE, MAP_SIZE))
        self.rows, self.columns = (nn.Parameter(torch.ones(1, width, MAP_SIZE)) for _ in range(2))
        self.plane_filter = _separable(nn.Conv2d, width, width)
        self.row_filter, self.column_filter = (_separable(nn.Conv1d, width, width) for _ in range(2))
        self.local_filter = nn.Sequential(
            nn.Conv2d(width, width, 1), nn.GELU(), nn.Conv2d(width, width, 3, padding=1, groups=width)
        )
        self.norm_in, self.norm_out = ChannelNorm(in_channels), ChannelNorm(in_channels)
        self.project = _separable(nn.Conv2d, in_channels, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2], x.shape[3]
        first, second, third, fourth = self.norm_in(x).chunk(4, dim=1)
        plane = F.interpolate(self.plane, size=(height, width), mode="bilinear", align_corners=True)
        rows = F.interpolate(self.rows, size=height, mode="linear", align_corners=True)
        columns = F.interpolate(self.columns, size=width, mode="linear", align_corners=True)
        products = [
            first * self.plane_filter(plane),
            second * self.row_filter(rows).unsqueeze(3),
            third * self.column_filter(columns).unsqueeze(2),
            self.local_filter(fourth),
        ]
        return self.project(self.norm_out(torch.cat(products, dim=1)))


class AggregationBridge(nn.Module):
    """A skip made of the deeper skip, the shallower one and the mask predicted so far, at four dilations.

    The paper's group aggregation bridge. ``deep`` is ``(B, deep_channels, H/2, W/2)``, ``shallow`` ``(B, channels, H,
    W)`` and ``mask`` ``(B, mask_channels, H, W)`` → ``(B, channels, H, W)``; `channels` divides by 4.
    """

    def __init__(self, deep_channels: int, channels: int, mask_channels: int = 1) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(deep_channels, channels, 1)
        group = channels // 2 + mask_channels
        self.groups = nn.ModuleList(
            nn.Sequential(ChannelNorm(group), nn.Conv2d(group, group, 3, padding=rate, dilation=rate, groups=group))
            for rate in DILATIONS
        )
        total = len(DILATIONS) * group
        self.merge = nn.Sequential(ChannelNorm(total), nn.Conv2d(total, channels, 1))

    def forward(self, deep: Tensor, shallow: Tensor, mask: Tensor) -> Tensor:
        deep = F.interpolate(self.reduce(deep), size=shallow.shape[2:], mode="bilinear", align_corners=True)
        parts = zip(deep.chunk(4, dim=1), shallow.chunk(4, dim=1), self.groups, strict=True)
        return self.merge(torch.cat([group(torch.cat([d, s, mask], dim=1)) for d, s, group in parts], dim=1))


class EGEUNet(nn.Module):
    """EGE-UNet (Ruan et al. 2023): 53,374 parameters.

    At ``channels=(16, 32, 64, 128, 192, 256)`` it has 514,702, the "0.51 M" of the paper's table 7.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        channels: widths of the six stages, shallow to deep, multiples of 8.
        deep_supervision: in training mode, return a list: the logits, then those of the five masks that guide the
            skips, finest first, each resized to the image (its own training; weights 1, 0.5, 0.4, 0.3, 0.2, 0.1).

    Returns logits ``(B, out_channels, H, W)`` for an image ``(B, in_channels, H, W)``.

    Raises:
        ValueError: for other widths than six multiples of 8; where H or W is not a positive multiple of 32.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: Sequence[int] = (8, 16, 24, 32, 48, 64),
        deep_supervision: bool = False,
    ) -> None:
        super().__init__()
        check_widths(channels, "EGEUNet", 6, 8)
        self.deep_supervision = deep_supervision
        pairs = list(pairwise([in_channels, *channels]))
        self.encoder = nn.ModuleList(
            nn.Conv2d(*pair, 3, padding=1) if stage < 3 else HadamardAttention(*pair)
            for stage, pair in enumerate(pairs)
        )
        self.encoder_norms = nn.ModuleList(nn.GroupNorm(4, width) for width in channels[:-1])
        upwards = list(pairwise(reversed(channels)))
        self.decoder = nn.ModuleList(
            HadamardAttention(*pair) if stage < 3 else nn.Conv2d(*pair, 3, padding=1)
            for stage, pair in enumerate(upwards)
        )
        self.decoder_norms = nn.ModuleList(nn.GroupNorm(4, shallow) for _, shallow in upwards)
        self.bridges = nn.ModuleList(AggregationBridge(deep, shallow, out_channels) for deep, shallow in upwards)
        self.guides = nn.ModuleList(nn.Conv2d(shallow, out_channels, 1) for _, shallow in upwards)
        self.head = nn.Conv2d(channels[0], out_channels, 1)
        self.apply(initialise_by_fan_out)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        check_size(image, "EGEUNet", 32)
        x, skips = image, []
        for block, norm in zip(self.encoder[:-1], self.encoder_norms, strict=True):
            x = F.gelu(F.max_pool2d(norm(block(x)), 2))
            skips.append(x)
        x = deep = F.gelu(self.encoder[-1](x))
        masks = []
        stages = zip(self.decoder, self.decoder_norms, self.guides, self.bridges, reversed(skips), strict=True)
        for index, (block, norm, guide, bridge, skip) in enumerate(stages):
            x = norm(block(x))
            if index > 0:  # the deepest two stages have one size
                x = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)
            x = F.gelu(x)
            masks.append(guide(x))
            deep = bridge(deep, skip, masks[-1])
            x = x + deep
        supervised = self.deep_supervision and self.training
        shown = [self.head(x), *reversed(masks)] if supervised else [self.head(x)]
        full = [F.interpolate(each, size=image.shape[2:], mode="bilinear", align_corners=True) for each in shown]
        return full if supervised else full[0]


def _separable(convolution: type[nn.Conv1d] | type[nn.Conv2d], in_channels: int, out_channels: int) -> nn.Sequential:
    depthwise = convolution(in_channels, in_channels, 3, padding=1, groups=in_channels)
    return nn.Sequential(depthwise, nn.GELU(), convolution(in_channels, out_channels, 1))

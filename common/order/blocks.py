"""Building blocks of the multi-kernel backbone (paper section 3.2.1, equation 11)."""

from __future__ import annotations

from math import gcd

import torch
from torch import Tensor, nn

KERNEL_SIZES = (1, 3, 5)
EXPANSION = 2


def _conv_bn(in_channels: int, out_channels: int, kernel_size: int = 1, groups: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out_channels)]


class MultiKernelInvertedResidual(nn.Module):
    """Expand, filter at several kernel sizes in parallel, project, add the shortcut (equation 11).

    ``(B, in_channels, H, W)`` → ``(B, out_channels, H, W)``. The shortcut is the identity, or a 1×1
    convolution without bias where the channel counts differ.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = EXPANSION * in_channels
        self.expand = nn.Sequential(*_conv_bn(in_channels, hidden), nn.ReLU6())
        self.depthwise = nn.ModuleList(
            nn.Sequential(*_conv_bn(hidden, hidden, size, groups=hidden), nn.ReLU6()) for size in KERNEL_SIZES
        )
        self.shuffle = nn.ChannelShuffle(gcd(hidden, out_channels))
        self.project = nn.Sequential(*_conv_bn(hidden, out_channels))
        same = in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        expanded = self.expand(x)
        filtered = expanded
        for index, branch in enumerate(self.depthwise):
            filtered = branch(expanded) if index == 0 else filtered + branch(expanded)
        return self.shortcut(x) + self.project(self.shuffle(filtered))


class ChannelAttention(nn.Module):
    """Scale the channels by a gate from their average and maximum through one shared two-layer MLP.

    ``(B, C, H, W)`` → the same shape. The second convolution has a bias: of the
    readings that reach the paper's 26,307 parameters it is the smallest.
    """

    def __init__(self, channels: int, hidden: int, bias: bool = True) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.restore = nn.Conv2d(hidden, channels, 1, bias=bias)

    def _logits(self, pooled: Tensor) -> Tensor:
        return self.restore(torch.relu(self.reduce(pooled)))

    def forward(self, x: Tensor) -> Tensor:
        average = x.mean(dim=(2, 3), keepdim=True)
        maximum = x.amax(dim=(2, 3), keepdim=True)
        return x * torch.sigmoid(self._logits(average) + self._logits(maximum))


class SpatialAttention(nn.Module):
    """Scale the positions by a gate from the average and maximum over channels through one convolution.

    ``(B, C, H, W)`` → the same shape.
    """

    def __init__(self, kernel_size: int = 7) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 1, kernel_size, padding=kernel_size // 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        pooled = torch.cat([x.mean(dim=1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
        return x * torch.sigmoid(self.conv(pooled))

"""UNeXt: a convolutional U-Net whose deep stages are shifted MLPs on tokens."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..order.sizes import check_size, check_widths
from .initialisation import initialise_by_fan_out
from .norms import normalised_over_channels

SHIFTS = (-2, -1, 0, 1, 2)


def shift(x: Tensor, dim: int) -> Tensor:
    """Move five groups of channels by −2 to 2 positions along an axis, zeros coming in.

    ``(B, C, H, W)`` → the same shape; `dim` is 2 for rows, 3 for columns. Groups are torch's chunks, the last smaller
    where five do not divide C.
    """
    reach, length = max(SHIFTS), x.shape[dim]
    padded = F.pad(x, (0, 0, reach, reach) if dim == 2 else (reach, reach))
    groups = padded.chunk(len(SHIFTS), dim=1)
    return torch.cat([g.narrow(dim, reach - by, length) for g, by in zip(groups, SHIFTS, strict=True)], dim=1)


class ShiftedMLP(nn.Module):
    """x + W₂·shift_columns(GELU(DW(W₁·shift_rows(LN(x))))), the tokenised MLP block.

    ``(B, C, H, W)`` → the same shape. The order of the axes is the public definition's.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.first, self.second = (nn.Conv2d(channels, channels, 1) for _ in range(2))
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)
        initialise_by_fan_out(self.depthwise)
        for layer in (self.first, self.second):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        normed = normalised_over_channels(self.norm, x)
        mixed = F.gelu(self.depthwise(self.first(shift(normed, 2))))
        return x + self.second(shift(mixed, 3))


class UNeXt(nn.Module):
    """UNeXt (Valanarasu and Patel 2022): 1,471,921 parameters.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        channels: widths of the three convolutional and the two token stages.

    Returns logits ``(B, out_channels, H, W)`` for an image ``(B, in_channels, H, W)``.

    Raises:
        ValueError: for other than five widths; where H or W is not a positive multiple of 32.
    """

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, channels: Sequence[int] = (16, 32, 128, 160, 256)
    ) -> None:
        super().__init__()
        check_widths(channels, "UNeXt", 5)
        one, two, three, four, five = channels
        self.encoder = nn.ModuleList(_conv_bn(*pair) for pair in ((in_channels, one), (one, two), (two, three)))
        self.embed = nn.ModuleList(nn.Conv2d(*pair, 3, stride=2, padding=1) for pair in ((three, four), (four, five)))
        self.embed.apply(initialise_by_fan_out)
        self.embed_norms = nn.ModuleList(nn.LayerNorm(width) for width in (four, five))
        self.encoder_mlps = nn.ModuleList(ShiftedMLP(width) for width in (four, five))
        self.encoder_norms = nn.ModuleList(nn.LayerNorm(width) for width in (four, five))
        upwards = ((five, four), (four, three), (three, two), (two, one))
        self.decoder = nn.ModuleList(_conv_bn(*pair) for pair in upwards)
        self.decoder_mlps = nn.ModuleList(ShiftedMLP(width) for width in (four, three))
        self.decoder_norms = nn.ModuleList(nn.LayerNorm(width) for width in (four, three))
        self.last = nn.Conv2d(one, one, 3, padding=1)
        self.head = nn.Conv2d(one, out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        check_size(image, "UNeXt", 32)
        x, skips = image, []
        for block in self.encoder:
            x = torch.relu(F.max_pool2d(block(x), 2))
            skips.append(x)
        tokens = zip(self.embed, self.embed_norms, self.encoder_mlps, self.encoder_norms, strict=True)
        for embed, embed_norm, mlp, norm in tokens:
            x = normalised_over_channels(norm, mlp(normalised_over_channels(embed_norm, embed(x))))
            skips.append(x)
        skips.pop()
        for index, block in enumerate(self.decoder):
            x = _twice(block(x)) + skips.pop()
            if index < len(self.decoder_mlps):
                x = normalised_over_channels(self.decoder_norms[index], self.decoder_mlps[index](x))
        return self.head(_twice(self.last(x)))


def _conv_bn(in_channels: int, out_channels: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(in_channels, out_channels, 3, padding=1), nn.BatchNorm2d(out_channels))


def _twice(x: Tensor) -> Tensor:
    return torch.relu(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))

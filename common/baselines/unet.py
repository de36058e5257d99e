"""U-Net, the 31 M network of the paper's tables 7 and 9, which it calls nnUNet."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..order.sizes import check_size, check_widths


def _two_convolutions(in_channels: int, out_channels: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, out_channels):
        layers += [nn.Conv2d(channels, out_channels, 3, padding=1, bias=False), nn.BatchNorm2d(out_channels), nn.ReLU()]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """The classic U-Net (Ronneberger et al. 2015) with padding and batch norm: 31,037,633 parameters.

    That count is the paper's "nnUNet, 31.0 M": a plain U-Net, not what nnU-Net would set up (`NNUNetReference`).

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        channels: widths of the stages, shallow to deep.

    Returns logits ``(B, out_channels, H, W)`` for an image ``(B, in_channels, H, W)``.

    Raises:
        ValueError: for fewer than two widths, or one below 1; where H or W is not a positive multiple of 2 to the
            number of poolings (16).
    """

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, channels: Sequence[int] = (64, 128, 256, 512, 1024)
    ) -> None:
        super().__init__()
        check_widths(channels, "UNet", None)
        self.encoder = nn.ModuleList(_two_convolutions(*pair) for pair in pairwise([in_channels, *channels]))
        self.pool = nn.MaxPool2d(2)
        upwards = list(pairwise(reversed(channels)))
        self.upsample = nn.ModuleList(nn.ConvTranspose2d(deep, shallow, 2, 2) for deep, shallow in upwards)
        self.decoder = nn.ModuleList(_two_convolutions(2 * shallow, shallow) for _, shallow in upwards)
        self.head = nn.Conv2d(channels[0], out_channels, 1)
        self.stride = 2 ** (len(channels) - 1)

    def forward(self, image: Tensor) -> Tensor:
        check_size(image, "UNet", self.stride)
        x = image
        skips: list[Tensor] = []
        for index, block in enumerate(self.encoder):
            x = block(x if index == 0 else self.pool(x))
            skips.append(x)
        for index, (upsample, block) in enumerate(zip(self.upsample, self.decoder)):  # noqa: B905 (TorchScript)
            x = block(torch.cat([skips[-2 - index], upsample(x)], dim=1))
        return self.head(x)

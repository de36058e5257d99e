"""The ORDER segmenter (paper section 3.2): a multi-kernel U-Net with refined late skips."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import AdditiveSkip, BidirectionalSkipAttention, CBAMSkip, NoSkip, SqueezeExcitationSkip
from .blocks import ChannelAttention, MultiKernelInvertedResidual, SpatialAttention
from .sizes import check_size

NUM_STAGES = 5
NUM_SKIPS = NUM_STAGES - 1
SKIP_REFINEMENTS = ("bidirectional", "se", "cbam")


def _upsample(x: Tensor) -> Tensor:
    return torch.relu(F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False))


class OrderNet(nn.Module):
    """Segment an image with 42 K parameters (section 3.2, equations 11–17, table 9).

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        channels: widths of the five encoder stages, shallow to deep.
        attention_skips: the skips that are refined; 0 is the deepest (stride 16), 3 the shallowest
            (stride 2). ``()`` is the plain backbone.
        skip_refinement: ``"bidirectional"`` (equations 12–17), ``"se"`` or ``"cbam"`` (table 8).
        refinement_reduction: channel reduction of ``"se"`` and ``"cbam"``.
        num_heads, head_dim: attention heads and the width of each.

    Returns logits ``(B, out_channels, H, W)`` for an image ``(B, in_channels, H, W)``.

    Raises:
        ValueError: from the constructor on a wrong argument; from the call where H or W is not a
            positive multiple of 32.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: Sequence[int] = (4, 8, 16, 24, 32),
        attention_skips: Sequence[int] = (0, 1),
        skip_refinement: str = "bidirectional",
        num_heads: int = 2,
        head_dim: int = 32,
        refinement_reduction: int = 16,
    ) -> None:
        super().__init__()
        _check_arguments(channels, attention_skips, skip_refinement)
        _check_positive(
            in_channels=in_channels,
            out_channels=out_channels,
            num_heads=num_heads,
            head_dim=head_dim,
            refinement_reduction=refinement_reduction,
        )
        widths = [in_channels, *channels]
        self.encoder = nn.ModuleList(MultiKernelInvertedResidual(narrow, wide) for narrow, wide in pairwise(widths))
        self.pool = nn.MaxPool2d(2)
        skip_channels = list(reversed(channels[:-1]))
        decoder_widths = [channels[-1], *skip_channels, channels[0]]
        self.channel_attention = nn.ModuleList(
            ChannelAttention(width, max(1, width // 16)) for width in decoder_widths[:-1]
        )
        self.spatial_attention = SpatialAttention()
        self.decoder = nn.ModuleList(
            MultiKernelInvertedResidual(deep, shallow) for deep, shallow in pairwise(decoder_widths)
        )
        self.skips = nn.ModuleList()
        for index, width in enumerate(skip_channels):
            if index not in attention_skips:
                self.skips.append(AdditiveSkip())
            elif skip_refinement == "bidirectional":
                self.skips.append(BidirectionalSkipAttention(width, num_heads, head_dim))
            elif skip_refinement == "se":
                self.skips.append(SqueezeExcitationSkip(width, refinement_reduction))
            else:
                self.skips.append(CBAMSkip(width, refinement_reduction))
        self.skips.append(NoSkip())
        self.head = nn.Conv2d(channels[0], out_channels, 1)

    def forward(self, image: Tensor) -> Tensor:
        check_size(image, "OrderNet", 32)
        x = image
        features: list[Tensor] = []
        for block in self.encoder:
            features.append(x)
            x = self.pool(block(x))
        stages = zip(self.channel_attention, self.decoder, self.skips)  # noqa: B905 (TorchScript knows no strict)
        for index, (gate, block, skip) in enumerate(stages):
            x = skip(_upsample(block(self.spatial_attention(gate(x)))), features[4 - index])
        return self.head(x)


def _check_arguments(channels: Sequence[int], attention_skips: Sequence[int], skip_refinement: str) -> None:
    if len(channels) != NUM_STAGES or min(channels) < 1:
        raise ValueError(f"channels needs {NUM_STAGES} positive widths, one a stage; got {tuple(channels)}")
    outside = sorted(set(attention_skips) - set(range(NUM_SKIPS)))
    if outside:
        raise ValueError(f"attention_skips takes indices 0 (deepest) to {NUM_SKIPS - 1} (shallowest); got {outside}")
    if skip_refinement not in SKIP_REFINEMENTS:
        raise ValueError(f"skip_refinement is one of {SKIP_REFINEMENTS}; got {skip_refinement!r}")


def _check_positive(**arguments: int) -> None:
    for name, value in arguments.items():
        if value < 1:
            raise ValueError(f"{name} is at least 1; got {value}")

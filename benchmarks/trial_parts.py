"""What trials of the recipe put in the place of a part of ORDER or of its training; none of it ships.

Named by configs as ``benchmarks.trial_parts.NAME`` (`order_trials`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.losses import LogHausdorffDTLoss
from torch import Tensor, nn

from common.order import OrderNet
from common.order.attention import BidirectionalSkipAttention
from common.training import StructureLoss
from common.weights import load_weights


def _attention(network: OrderNet) -> list[BidirectionalSkipAttention]:
    return [skip for skip in network.skips if isinstance(skip, BidirectionalSkipAttention)]


class ZeroStart(OrderNet):
    """ORDER whose attention adds nothing at first: the two projections back begin at 0. Arguments are `OrderNet`'s."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        for skip in _attention(self):
            for projection in (skip.project_decoder, skip.project_encoder):
                nn.init.zeros_(projection.weight)
                nn.init.zeros_(projection.bias)


class GateClosed(OrderNet):
    """ORDER whose confidence begins near 0.12, σ(−2), in the place of near ½. Arguments are `OrderNet`'s."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        for skip in _attention(self):
            nn.init.constant_(skip.gate[2].bias, -2.0)


class PooledAttention(BidirectionalSkipAttention):
    """Bidirectional attention whose keys and values are means of `factor`² positions.

    The two directions then have a matrix each, since one and the same cannot be pooled on both sides: four products
    of 1 / `factor`² the size, in the place of the algorithm's three.
    """

    def __init__(self, channels: int, factor: int, num_heads: int, head_dim: int) -> None:
        super().__init__(channels, num_heads, head_dim)
        self.factor = factor

    def attend(self, decoder: Tensor, encoder: Tensor) -> tuple[Tensor, Tensor]:
        """R_d and R_e, each ``(B, heads, H·W, dim)``."""
        d, e = self.norm_decoder(decoder), self.norm_encoder(encoder)
        d_pooled, e_pooled = F.avg_pool2d(d, self.factor), F.avg_pool2d(e, self.factor)
        read_encoder = F.scaled_dot_product_attention(
            self.tokens(self.query_decoder(d)),
            self.tokens(self.key_encoder(e_pooled)),
            self.tokens(self.value_encoder(e_pooled)),
        )
        read_decoder = F.scaled_dot_product_attention(
            self.tokens(self.key_encoder(e)),
            self.tokens(self.query_decoder(d_pooled)),
            self.tokens(self.value_decoder(d_pooled)),
        )
        return read_encoder, read_decoder


class Pooled21(OrderNet):
    """ORDER{2,1}, within the cost of ORDER{0,1}: each key and value is a mean of 8² or 4² positions.

    Arguments are `OrderNet`'s, but for ``attention_skips``.
    """

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**{**arguments, "attention_skips": (2, 1)})
        for place, factor in ((2, 8), (1, 4)):
            plain = self.skips[place]
            width = plain.norm_decoder.weight.numel()
            self.skips[place] = PooledAttention(width, factor, plain.num_heads, plain.head_dim)


class PostNormAttention(BidirectionalSkipAttention):
    """Bidirectional attention that normalises what it adds, in the place of what it attends to."""

    def __init__(self, channels: int, num_heads: int, head_dim: int) -> None:
        super().__init__(channels, num_heads, head_dim)
        self.project_decoder = nn.Sequential(self.project_decoder, self.norm_decoder)
        self.project_encoder = nn.Sequential(self.project_encoder, self.norm_encoder)
        self.norm_decoder, self.norm_encoder = nn.Identity(), nn.Identity()


class PostNorm(OrderNet):
    """ORDER whose attention normalises after itself, not before. Arguments are `OrderNet`'s."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        for place, plain in enumerate(self.skips):
            if isinstance(plain, BidirectionalSkipAttention):
                width = plain.norm_decoder.weight.numel()
                self.skips[place] = PostNormAttention(width, plain.num_heads, plain.head_dim)


class Supervised(OrderNet):
    """ORDER with 1×1 heads on its last three fused skips; in training mode a list of four logits, finest first."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        widths = [block.project[-1].num_features for block in self.encoder[:3]]  # of strides 2, 4 and 8
        self.heads = nn.ModuleList(nn.Conv2d(width, self.head.out_channels, 1) for width in widths)

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        if not self.training:
            return super().forward(image)
        fused: list[Tensor] = []
        # For this call alone: a copy of the network would inherit hooks that fill another's list.
        hooks = [skip.register_forward_hook(lambda module, given, out: fused.append(out)) for skip in self.skips[1:4]]
        try:
            logits = super().forward(image)
        finally:
            for hook in hooks:
                hook.remove()
        coarse = [head(each) for head, each in zip(self.heads, reversed(fused), strict=True)]
        size = image.shape[2:]
        return [logits, *(F.interpolate(each, size=size, mode="bilinear", align_corners=False) for each in coarse)]


class HalfResolution(nn.Module):
    """ORDER at half of the image's resolution, between space-to-depth and depth-to-space: 42,170 parameters.

    Image ``(B, 3, H, W)``, H and W divisible by 64 → logits ``(B, 1, H, W)``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.network = OrderNet(12, 4, channels=(6, 8, 16, 24, 32), head_dim=28)

    def forward(self, image: Tensor) -> Tensor:
        return F.pixel_shuffle(self.network(F.pixel_unshuffle(image, 2)), 2)


class StructureAndBoundary(nn.Module):
    """The structure loss, and a tenth of how far off the outline is: MONAI's loss of distances, its logarithm.

    Logits and binary target ``(B, 1, H, W)`` → scalar.
    """

    def __init__(self, share: float = 0.1) -> None:
        super().__init__()
        self.structure, self.distance = StructureLoss(), LogHausdorffDTLoss(include_background=True, sigmoid=True)
        self.share = share

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        return self.structure(logits, target) + self.share * self.distance(logits, target)


class AddTeacher:
    """A transform of items: the label becomes a mean of itself and of what another's weights see, over four flips.

    Args:
        weights: of the teacher.
        network: the teacher, an ORDER if not given.
        size: of the image that it looks at.
        share: of the teacher.
    """

    def __init__(self, weights: str, network: nn.Module | None = None, size: int = 256, share: float = 0.5) -> None:
        self.network = load_weights(OrderNet() if network is None else network, weights).eval()
        self.size, self.share = size, share

    @torch.no_grad()
    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        image = torch.as_tensor(item["image"])[None]
        large = F.interpolate(image, size=(self.size, self.size), mode="bilinear", align_corners=False)
        flips: tuple[tuple[int, ...], ...] = ((), (-1,), (-2,), (-2, -1))
        logits = sum(torch.flip(self.network(torch.flip(large, axes)), axes) for axes in flips) / len(flips)
        seen = F.interpolate(torch.sigmoid(logits), size=image.shape[2:], mode="area")[0]
        return {**item, "label": (1 - self.share) * item["label"] + self.share * seen}

"""Losses for masks that fill few pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from monai.losses import DeepSupervisionLoss
from torch import Tensor, nn


class StructureLoss(nn.Module):
    """Cross-entropy and soft IoU, both weighted towards the outline of the mask (Wei et al., F3Net; PraNet).

    Logits and binary target ``(B, 1, H, W)``, both floating → scalar. The weight is 1 + 5·|mean of the mask in a window
    − mask|, with a square window of `window` of the width W, odd, so that the band keeps its share of a smaller image.

    Args:
        window: share of the image's width, from 0 (one pixel: no weight) to 1.

    Raises:
        ValueError: if it is outside of that.
    """

    def __init__(self, window: float = 31 / 352) -> None:
        super().__init__()
        if not 0 <= window <= 1:
            raise ValueError(f"window is a share of the image's width, from 0 to 1; got {window}")
        self.window = window

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        size = 2 * int(self.window * logits.shape[-1] / 2) + 1  # the nearest odd number
        # Rows, then columns: torch sums each window anew, and one of 23² took a quarter of a step at 256² on a CPU.
        around = F.avg_pool2d(target, (1, size), stride=1, padding=(0, size // 2))
        around = F.avg_pool2d(around, (size, 1), stride=1, padding=(size // 2, 0))
        weight = 1 + 5 * (around - target).abs()
        entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        entropy = (weight * entropy).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
        probability = torch.sigmoid(logits)
        overlap = (probability * target * weight).sum(dim=(2, 3))
        union = ((probability + target) * weight).sum(dim=(2, 3)) - overlap
        return (entropy + 1 - (overlap + 1) / (union + 1)).mean()


class DeepSupervision(DeepSupervisionLoss):
    """The weighted sum of a loss over the maps of a deeply supervised network; MONAI's, with a weight for each map.

    MONAI's own takes weights of its choice, without a word, where fewer are given than the network has maps.

    Args:
        loss: of one map, logits and target ``(B, 1, H, W)`` → scalar.
        weights: one for each map, finest first.

    Logits ``(B, 1, H, W)``, or a list of them, and target ``(B, 1, H, W)`` → scalar.

    Raises:
        ValueError: if there are not as many weights as maps.
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float]) -> None:
        super().__init__(loss, weights=list(weights))

    def forward(self, input: Tensor | list[Tensor], target: Tensor) -> Tensor:
        if isinstance(input, list | tuple) and len(input) != len(self.weights):
            raise ValueError(f"the network has {len(input)} maps and --loss#weights {len(self.weights)}; give as many")
        return super().forward(input, target)

"""Losses for masks that fill few pixels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StructureLoss(nn.Module):
    """Cross-entropy and soft IoU, both weighted towards the outline of the mask (Wei et al., F3Net; PraNet).

    Logits and binary target ``(B, 1, H, W)`` → scalar. The weight is 1 + 5·|mean of the mask in a window − mask|,
    with a window of `window` of the side length, odd, so that the band keeps its share of a smaller image.
    """

    def __init__(self, window: float = 31 / 352) -> None:
        super().__init__()
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

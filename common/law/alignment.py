"""The Dice term that holds δ to the mask (equation 9)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import InputError
from .masks import has_lesion

EMPTY_MASKS = ("leave_out", "count")


def alignment_loss(delta: Tensor, mask: Tensor, empty_masks: str = "leave_out", smoothing: float = 1e-6) -> Tensor:
    """1 − (2·Σ δm + ε) / (Σ δ + Σ m + ε) of each sample, then their mean (equation 9).

    Args:
        delta: δ, ``(B, 1, h, w)`` in [0, 1].
        mask: m, ``(B, 1, h, w)``, 0 or 1.
        empty_masks: what a sample without lesion gives, which the paper leaves open: ``"leave_out"``, nothing, 0 of
            the mean; or ``"count"``, the formula, which is 1 there with almost no gradient, as ε is all that is above
            the line. The mean is over the whole batch in both, so that a batch is the mean of its samples.
        smoothing: ε.

    Returns:
        Scalar in [0, 1].

    Raises:
        InputError: `empty_masks` is neither of the two.
    """
    if empty_masks not in EMPTY_MASKS:
        raise InputError(f"empty_masks is {empty_masks!r}; choose one of {', '.join(EMPTY_MASKS)}")
    delta, mask = delta.flatten(1), mask.to(delta.dtype).flatten(1)
    overlap = (delta * mask).sum(dim=1)
    loss = 1.0 - (2.0 * overlap + smoothing) / (delta.sum(dim=1) + mask.sum(dim=1) + smoothing)
    if empty_masks == "leave_out":
        loss = torch.where(has_lesion(mask), loss, 0.0)
    return loss.mean()

"""How far two mask outlines lie apart: Hausdorff 95 and normalised surface Dice, in pixels of the evaluated size."""

from __future__ import annotations

import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from .overlap import binary_pair


def _both_present(pred: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # MONAI's edges are found by scipy on the CPU, and an empty mask makes it warn and give NaN or infinity
    pred, label = (mask.cpu() for mask in binary_pair(pred, label))
    return pred, label, pred.flatten(1).any(1) & label.flatten(1).any(1)


def hausdorff95(pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """95th percentile of the distances between the outlines, the larger of the two directions, in pixels.

    With an empty mask there is no distance: the result is NaN, whichever of the two is empty. Means leave such
    images out and must say how many they were, since leaving out a missed lesion flatters the model.

    Args:
        pred, label: `(B, 1, H, W)` with values 0 and 1.

    Returns:
        `(B,)` float32 on the prediction's device, by MONAI's `compute_hausdorff_distance`.

    Raises:
        InputError: see `binary_pair`.
    """
    device = pred.device
    pred, label, present = _both_present(pred, label)
    distance = torch.full((len(pred),), torch.nan)
    if present.any():
        distance[present] = compute_hausdorff_distance(
            pred[present], label[present], include_background=True, percentile=95
        )[:, 0]
    return distance.to(device)


def surface_dice(pred: torch.Tensor, label: torch.Tensor, tolerance: float = 2.0) -> torch.Tensor:
    """Normalised surface Dice: the share of outline pixels that lie within `tolerance` px of the other outline.

    Both masks empty: 1; one empty: 0.

    Args:
        pred, label: `(B, 1, H, W)` with values 0 and 1.
        tolerance: in pixels; a distance equal to it still counts as good.

    Returns:
        `(B,)` float32 on the prediction's device, by MONAI's `compute_surface_dice`.

    Raises:
        InputError: see `binary_pair`.
    """
    device = pred.device
    pred, label, present = _both_present(pred, label)
    share = (~pred.flatten(1).any(1) & ~label.flatten(1).any(1)).float()
    if present.any():
        share[present] = compute_surface_dice(
            pred[present], label[present], class_thresholds=[tolerance], include_background=True
        )[:, 0]
    return share.to(device)

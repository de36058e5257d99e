"""How far two mask outlines lie apart: Hausdorff 95 and normalised surface Dice, in pixels of the evaluated size."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from monai.metrics import compute_hausdorff_distance, compute_surface_dice

from .overlap import binary_pair


@contextmanager
def _without_monais_own_warning() -> Iterator[None]:
    # MONAI 1.6 calls its own function with an argument that it has deprecated itself
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*always_return_as_numpy", FutureWarning)
        yield


def _with_presence(*masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    # MONAI's edges are found by scipy on the CPU, and an empty mask makes it warn and give NaN or infinity.
    # bool first: torch's `any` of uint8 is uint8, and `~` of that is no negation
    pred, label = (mask.bool().cpu() for mask in binary_pair(*masks))
    has_pred, has_label = (mask.flatten(1).any(1) for mask in (pred, label))
    return pred, label, has_pred & has_label, ~has_pred & ~has_label


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
    pred, label, both, _ = _with_presence(pred, label)
    distance = torch.full((len(pred),), torch.nan)
    if both.any():
        with _without_monais_own_warning():
            found = compute_hausdorff_distance(pred[both], label[both], include_background=True, percentile=95)
        distance[both] = found[:, 0]
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
    pred, label, both, neither = _with_presence(pred, label)
    share = neither.float()
    if both.any():
        with _without_monais_own_warning():
            found = compute_surface_dice(pred[both], label[both], [tolerance], include_background=True)
        share[both] = found[:, 0]
    return share.to(device)

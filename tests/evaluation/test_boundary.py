"""Laws of the outline measures."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion, distance_transform_edt

from common.evaluation.boundary import hausdorff95, surface_dice
from tests.evaluation.drawn import disc


def batch(*masks: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(masks)[:, None].astype(np.float32))


def square(top: int, left: int, side: int = 12) -> np.ndarray:
    mask = np.zeros((64, 64), dtype=bool)
    mask[top : top + side, left : left + side] = True
    return mask


def reference(pred: np.ndarray, label: np.ndarray, tolerance: float) -> tuple[float, float]:
    """HD95 and NSD from a dense distance transform, with no MONAI."""
    edges = [mask & ~binary_erosion(mask) for mask in (pred, label)]
    there, back = (distance_transform_edt(~edges[1 - i])[edges[i]] for i in (0, 1))
    close = (there <= tolerance).sum() + (back <= tolerance).sum()
    return max(np.percentile(there, 95), np.percentile(back, 95)), close / (len(there) + len(back))


def test_identical_outlines_have_no_distance():
    masks = batch(disc((30, 30), 9), disc((10, 50), 4), square(0, 0))  # the last touches the border
    assert hausdorff95(masks, masks).tolist() == [0.0] * 3
    assert surface_dice(masks, masks, 0).tolist() == [1.0] * 3


@pytest.mark.parametrize("shift", [1, 3, 7])
def test_translation_by_k_pixels_is_hausdorff_k(shift):
    found = hausdorff95(batch(square(20, 20 + shift), square(20 + shift, 20)), batch(*[square(20, 20)] * 2))
    assert found.tolist() == [shift] * 2


def test_surface_dice_counts_up_to_the_tolerance():
    pred, label = batch(square(20, 22, 16)), batch(square(20, 20, 16))
    assert surface_dice(pred, label, 2.0).item() == 1.0
    assert surface_dice(pred, label, 1.9).item() < 1.0
    assert surface_dice(batch(square(2, 2)), batch(square(40, 40)), 2.0).item() == 0.0


def test_equal_to_the_distance_transform_and_to_one_by_one():
    rng = np.random.default_rng(0)
    pairs = [[disc(tuple(rng.uniform(8, 56, 2)), rng.uniform(2, 18)) for _ in range(2)] for _ in range(6)]
    pred, label = batch(*(a for a, _ in pairs)), batch(*(b for _, b in pairs))
    expected = torch.tensor([reference(a, b, 3.0) for a, b in pairs], dtype=torch.float32)
    found = torch.stack([hausdorff95(pred, label), surface_dice(pred, label, 3.0)], 1)
    torch.testing.assert_close(found, expected)
    single = [[hausdorff95(p[None], q[None]), surface_dice(p[None], q[None], 3.0)]
              for p, q in zip(pred, label, strict=True)]  # fmt: skip
    assert torch.equal(found, torch.tensor(single))


def test_symmetric():
    pred, label = batch(disc((30, 30), 9), square(5, 9)), batch(disc((33, 28), 12), square(20, 20))
    assert torch.equal(hausdorff95(pred, label), hausdorff95(label, pred))
    assert torch.equal(surface_dice(pred, label), surface_dice(label, pred))


def test_empty_masks_all_four_cases_without_a_warning():
    empty, full = np.zeros((64, 64), dtype=bool), square(20, 20)
    pred, label = batch(empty, full, empty, full), batch(empty, empty, full, full)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        distance, share = hausdorff95(pred, label), surface_dice(pred, label)
        assert hausdorff95(pred[:1], label[:1]).isnan().all()  # nothing but empty masks
    assert torch.equal(distance.isnan(), torch.tensor([True, True, True, False]))
    assert distance[3] == 0
    assert share.tolist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.gpu
def test_same_on_a_gpu():
    pred, label = batch(disc((30, 30), 9), square(0, 0) & False), batch(disc((33, 28), 12), square(20, 20))
    for score in (hausdorff95, surface_dice):
        found = score(pred.cuda(), label.cuda())
        assert found.device.type == "cuda"
        torch.testing.assert_close(found.cpu(), score(pred, label), equal_nan=True)

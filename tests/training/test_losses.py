"""The structure loss."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from monai.losses import DiceLoss

from common.training import DeepSupervision, StructureLoss


def _disc(side: int = 64, radius: float = 12.0, shift: int = 0) -> torch.Tensor:
    rows, columns = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    return (((rows - side / 2) ** 2 + (columns - side / 2 - shift) ** 2) <= radius**2).float()[None, None]


def _logits(mask: torch.Tensor, confidence: float = 4.0) -> torch.Tensor:
    return (mask * 2 - 1) * confidence


def test_the_better_the_lower():
    target = _disc()
    order = [target, _disc(shift=2), _disc(shift=6), _disc(shift=20), 1 - target]
    losses = [StructureLoss()(_logits(mask), target).item() for mask in order]
    assert losses == sorted(losses) and len(set(losses)) == len(losses)
    surer = [StructureLoss()(_logits(target, confidence), target).item() for confidence in (1.0, 4.0, 16.0)]
    assert surer == sorted(surer, reverse=True) and surer[-1] < 1e-3


def test_with_a_window_of_one_pixel_it_is_plain_cross_entropy_and_soft_iou():
    target = torch.cat([_disc(), _disc(radius=4, shift=-9)])
    logits = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    entropy = F.binary_cross_entropy_with_logits(logits, target)
    iou = DiceLoss(sigmoid=True, jaccard=True, smooth_nr=2.0, smooth_dr=2.0)(logits, target)
    torch.testing.assert_close(StructureLoss(window=0.0)(logits, target), entropy + iou)


@pytest.mark.parametrize("side", [64, 96, 352])
def test_it_is_the_published_loss_at_the_published_window(side):
    """Wei et al.: a window of 31² at 352², weights of 1 + 5·|mean − mask|, and one pixel in the overlap."""
    target = torch.cat([_disc(side, side / 5), _disc(side, side / 12, shift=-side // 7)])
    logits = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    window = {64: 5, 96: 9, 352: 31}[side]
    weight = 1 + 5 * (F.avg_pool2d(target, window, stride=1, padding=window // 2) - target).abs()
    entropy = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    entropy = (weight * entropy).sum(dim=(2, 3)) / weight.sum(dim=(2, 3))
    probability = torch.sigmoid(logits)
    overlap, union = (probability * target * weight).sum((2, 3)), ((probability + target) * weight).sum((2, 3))
    iou = 1 - (overlap + 1) / (union - overlap + 1)
    torch.testing.assert_close(StructureLoss()(logits, target), (entropy + iou).mean())


@pytest.mark.parametrize("window", [-0.1, 1.5])
def test_a_window_is_a_share_of_the_width(window):
    with pytest.raises(ValueError, match=f"a share of the image's width, from 0 to 1; got {window}"):
        StructureLoss(window=window)


def test_each_map_has_its_weight():
    target = torch.cat([_disc(), _disc(radius=4, shift=-9)])
    maps = [_logits(target, confidence) for confidence in (4.0, 1.0, 0.5)]
    each = [StructureLoss()(one, target) for one in maps]
    loss = DeepSupervision(StructureLoss(), [1.0, 0.5, 0.1])
    torch.testing.assert_close(loss(maps, target), each[0] + 0.5 * each[1] + 0.1 * each[2])
    torch.testing.assert_close(loss(maps[0], target), each[0])  # of a network that is not training
    for wrong in ([1.0, 0.5], [1.0, 0.5, 0.1, 0.1]):
        with pytest.raises(ValueError, match=f"3 maps and --loss#weights {len(wrong)}; give as many"):
            DeepSupervision(StructureLoss(), wrong)(maps, target)


def test_an_error_at_the_outline_costs_more_than_one_far_off():
    target = _disc()
    costs = []
    for row in (32 + 13, 2):  # just outside the disc; in the corner's row
        logits = _logits(target)
        logits[0, 0, row, 32] = 4.0
        costs.append(StructureLoss()(logits, target).item())
    assert costs[0] > costs[1] > StructureLoss()(_logits(target), target).item()


@pytest.mark.parametrize("mask", [torch.zeros(2, 1, 64, 64), torch.ones(2, 1, 64, 64)], ids=["empty", "full"])
@pytest.mark.parametrize("confidence", [0.0, 4.0, 1e4])
def test_it_is_finite_on_empty_and_full_masks(mask, confidence):
    for predicted in (mask, 1 - mask):
        logits = _logits(predicted, confidence).requires_grad_()
        loss = StructureLoss()(logits, mask)
        loss.backward()
        assert torch.isfinite(loss) and torch.isfinite(logits.grad).all() and loss >= 0
    right, unsure, wrong = (StructureLoss()(_logits(mask, certainty), mask) for certainty in (1e4, 4.0, -4.0))
    assert right < 1e-3 < unsure < wrong


def test_a_batch_is_the_mean_of_its_images():
    target = torch.cat([_disc(), _disc(radius=4, shift=-9), torch.zeros(1, 1, 64, 64)])
    logits = torch.randn(target.shape, generator=torch.Generator().manual_seed(0))
    alone = torch.stack([StructureLoss()(logits[i : i + 1], target[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(StructureLoss()(logits, target), alone.mean())


def test_the_band_around_the_outline_keeps_its_share_of_the_image():
    losses = [StructureLoss()(_logits(_disc(s, s / 5)), 1 - _disc(s, s / 5)).item() for s in (96, 192, 384)]
    assert max(losses) - min(losses) < 0.02 * losses[0]


def test_the_gradient_lowers_it():
    target = _disc()
    logits = torch.zeros_like(target, requires_grad=True)
    before = StructureLoss()(logits, target)
    before.backward()
    assert StructureLoss()(logits.detach() - 10 * logits.grad, target) < before

"""Masks at the resolution of the loss."""

from __future__ import annotations

import pytest
import torch

from common.errors import InputError
from common.law import has_background, has_lesion, latent_mask
from tests.law.drawn import mixed_masks, normal


def test_a_mask_of_the_right_size_stays_as_it_is():
    mask = mixed_masks(16, 12)
    assert torch.equal(latent_mask(mask, (16, 12)), mask)


@pytest.mark.parametrize("size", [(48, 48), (32, 48), (11, 7)])
def test_it_is_one_channel_of_zeros_and_ones_without_a_gradient(size):
    mask = torch.sigmoid(3 * normal(2, 3, 96, 96)).requires_grad_()
    small = latent_mask(mask, size)
    assert small.shape == (2, 1, *size) and small.dtype == torch.float32 and not small.requires_grad
    assert set(small.unique().tolist()) == {0.0, 1.0}


def test_a_mask_enlarged_by_whole_cells_comes_back():
    small = (normal(2, 1, 12, 10) > 0).float()
    large = small.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3)
    assert torch.equal(latent_mask(large, (12, 10)), small)


def test_the_position_read_is_the_middle_of_its_cell():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 3 * 8 + 4, 5 * 8 + 4] = 1  # of the 8×8 pixels of cell (3, 5)
    assert latent_mask(mask, (8, 8)).nonzero().tolist() == [[0, 0, 3, 5]]


def test_a_disc_keeps_its_place_and_area():
    rows, columns = torch.meshgrid(torch.arange(384.0), torch.arange(384.0), indexing="ij")
    disc = ((rows - 150) ** 2 + (columns - 230) ** 2 <= 60**2).float()[None, None]
    found = latent_mask(disc, (48, 48))[0, 0].nonzero().float().add(0.5).mul(8)
    assert (found.mean(dim=0) - torch.tensor([150.5, 230.5])).abs().max() < 1.0
    assert len(found) * 64 == pytest.approx(disc.sum().item(), rel=0.03)


def test_copies_of_one_mask_are_one_mask():
    mask = mixed_masks(32, 32)
    assert torch.equal(latent_mask(mask.expand(4, 3, 32, 32), (16, 16)), latent_mask(mask, (16, 16)))


@pytest.mark.parametrize("dtype", [torch.bool, torch.float64, torch.bfloat16, torch.float16])
def test_kinds_of_numbers_say_the_same(dtype):
    mask = mixed_masks(32, 32)
    assert torch.equal(latent_mask(mask.to(dtype), (8, 8)), latent_mask(mask, (8, 8)))


def test_a_small_lesion_can_vanish_and_it_is_told():
    mask = torch.zeros(2, 1, 384, 384)
    mask[0, :, 97:100, 97:100] = 1  # 3×3, between the middles of its cell's neighbours
    mask[1, :, 96:112, 96:112] = 1
    small = latent_mask(mask, (48, 48))
    assert has_lesion(mask).tolist() == [True, True] and has_lesion(small).tolist() == [False, True]


def test_lesion_and_background_are_told_of_each_sample():
    masks = mixed_masks(16, 12)
    assert has_lesion(masks).tolist() == [True, False, True, True]
    assert has_background(masks).tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("mask", "words"),
    [
        (torch.zeros(16, 16), "batch, channels, height, width"),
        (torch.zeros(1, 1, 16, 16, dtype=torch.uint8), "divided by 255"),
        (torch.zeros(1, 1, 16, 7), "16×7 is smaller than the 8×8"),
    ],
    ids=["shape", "bytes", "too small"],
)
def test_a_wrong_mask_is_named(mask, words):
    with pytest.raises(InputError, match=words):
        latent_mask(mask, (8, 8))

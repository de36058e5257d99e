"""Blocks of the backbone: equation 11 written out, and what its attentions may and may not depend on."""

from __future__ import annotations

from math import gcd

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.order import ChannelAttention, MultiKernelInvertedResidual, SpatialAttention
from tests.network_contract import assert_close, images, seeded


def shuffled(x: Tensor, *, seed: int = 3) -> tuple[Tensor, Tensor]:
    """``x`` with its positions permuted, and the permutation."""
    order = torch.randperm(x.shape[2] * x.shape[3], generator=torch.Generator().manual_seed(seed))
    return permuted(x, order), order


def permuted(x: Tensor, order: Tensor) -> Tensor:
    return x.flatten(2)[..., order].unflatten(2, x.shape[2:])


def inverted_residual(in_channels: int, out_channels: int) -> MultiKernelInvertedResidual:
    """A block whose batch norms have seen data, in eval mode."""
    with seeded(0):
        block = MultiKernelInvertedResidual(in_channels, out_channels)
    for seed in range(3):
        block(images(8, in_channels, 12, 10, seed=seed))
    return block.eval()


def written_out(block: MultiKernelInvertedResidual, x: Tensor) -> Tensor:
    """Equation 11, with the shuffle as an explicit list of channels."""

    def normalised(convolved: Tensor, norm: nn.BatchNorm2d) -> Tensor:
        mean, variance, weight, bias = (
            tensor.view(1, -1, 1, 1) for tensor in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
        )
        return (convolved - mean) / (variance + norm.eps).sqrt() * weight + bias

    expanded = normalised(F.conv2d(x, block.expand[0].weight), block.expand[1]).clamp(0, 6)
    hidden, out_channels = expanded.shape[1], block.project[0].out_channels
    total = torch.zeros_like(expanded)
    for branch, margin in zip(block.depthwise, (0, 1, 2), strict=True):
        convolved = F.conv2d(expanded, branch[0].weight, padding=margin, groups=hidden)
        total += normalised(convolved, branch[1]).clamp(0, 6)
    groups = gcd(hidden, out_channels)
    order = [group * (hidden // groups) + place for place in range(hidden // groups) for group in range(groups)]
    projected = normalised(F.conv2d(total[:, order], block.project[0].weight), block.project[1])
    same = x.shape[1] == out_channels
    return projected + (x if same else F.conv2d(x, block.shortcut.weight))


@pytest.mark.parametrize("channels", [(3, 4), (16, 24), (24, 16), (8, 8)], ids=str)
def test_inverted_residual_is_equation_11(channels: tuple[int, int]) -> None:
    block, x = inverted_residual(*channels), images(2, channels[0], 12, 10)
    assert_close(block(x), written_out(block, x))


@pytest.mark.parametrize("channels", [(5, 7), (6, 6)], ids=str)
def test_inverted_residual_with_its_projection_off_is_its_shortcut(channels: tuple[int, int]) -> None:
    block, x = inverted_residual(*channels), images(2, channels[0], 8, 8)
    nn.init.zeros_(block.project[1].weight)
    nn.init.zeros_(block.project[1].bias)
    assert torch.equal(block(x), x if channels[0] == channels[1] else block.shortcut(x))


def test_inverted_residual_sees_two_pixels_far() -> None:
    block, x = inverted_residual(4, 6), images(1, 4, 9, 9)
    changed = x.clone()
    changed[..., 4, 4] += 1
    moved = (block(changed) - block(x)).abs().amax(dim=(0, 1)) > 0
    rows, columns = moved.nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 6, 2, 6)


def test_channel_attention_sees_no_positions() -> None:
    with seeded(0):
        attention = ChannelAttention(8, 4)
    x = images(2, 8, 5, 6)
    moved, order = shuffled(x)
    assert_close(attention(moved), permuted(attention(x), order), 1e-6)


def test_channel_attention_scales_a_channel_as_a_whole() -> None:
    with seeded(0):
        attention = ChannelAttention(8, 4)
    x = images(2, 8, 5, 6)
    gate = attention(x) / x
    assert_close(gate, gate[..., :1, :1].expand_as(gate), 1e-6)
    assert gate.min() > 0
    assert gate.max() < 1


def test_spatial_attention_sees_no_order_of_channels() -> None:
    with seeded(0):
        attention = SpatialAttention()
    x = images(2, 8, 9, 7)
    assert_close(attention(x.flip(1)), attention(x).flip(1), 1e-6)


def test_spatial_attention_scales_a_position_as_a_whole_from_three_pixels_around() -> None:
    with seeded(0):
        attention = SpatialAttention(7)
    x = images(1, 4, 11, 11)
    gate = attention(x) / x
    assert_close(gate, gate[:, :1].expand_as(gate), 1e-6)
    changed = x.clone()
    changed[..., 5, 5] += 10
    moved = ((attention(changed) / changed - gate).abs() > 1e-5)[0, 0]
    rows, columns = moved.nonzero(as_tuple=True)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 8, 2, 8)

"""OrderNet: the contract of every network, its exact size and cost (tables 8 and 9), and wrong arguments."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common.order import BidirectionalSkipAttention, OrderNet
from tests.network_contract import CompiledContract, ExportContract, NetworkContract, images, seeded


class TestOrderNet(NetworkContract, ExportContract, CompiledContract):
    def build(self) -> nn.Module:
        return OrderNet()


class TestBackbone(NetworkContract, ExportContract):
    def build(self) -> nn.Module:
        return OrderNet(attention_skips=())


class TestAllSkips(NetworkContract, ExportContract):
    def build(self) -> nn.Module:
        return OrderNet(attention_skips=(0, 1, 2, 3))


class TestSqueezeExcitation(NetworkContract, ExportContract):
    def build(self) -> nn.Module:
        return OrderNet(skip_refinement="se")


class TestCBAM(NetworkContract, ExportContract):
    def build(self) -> nn.Module:
        return OrderNet(skip_refinement="cbam")


class TestTable9Skips(NetworkContract, ExportContract):
    def build(self) -> nn.Module:
        return OrderNet(attention_skips=(2, 1))


class TestSqueezeExcitationOtherReading(NetworkContract, ExportContract):
    """Skips {1, 2} with reduction 4 have the paper's counts too."""

    def build(self) -> nn.Module:
        return OrderNet(skip_refinement="se", attention_skips=(1, 2), refinement_reduction=4)


class TestCBAMOtherReading(NetworkContract, ExportContract):
    def build(self) -> nn.Module:
        return OrderNet(skip_refinement="cbam", attention_skips=(1, 2), refinement_reduction=4)


class TestOtherChannels(NetworkContract):
    """One grey channel in, three classes out, other widths and heads."""

    in_channels = 1
    out_channels = 3

    def build(self) -> nn.Module:
        return OrderNet(1, 3, channels=(3, 6, 12, 20, 40), attention_skips=(1,), num_heads=3, head_dim=16)


@pytest.mark.parametrize(
    ("arguments", "parameters"),
    [
        ({"attention_skips": ()}, 26_307),
        ({}, 42_265),
        ({"attention_skips": (2, 1)}, 35_793),
        ({"attention_skips": (3, 2)}, 31_011),
        ({"attention_skips": (0, 1, 2, 3)}, 46_969),
        ({"skip_refinement": "se"}, 26_467),
        ({"skip_refinement": "cbam"}, 26_663),
        # The other reading of the paper's control study: the same counts on skips {1, 2} with reduction 4.
        ({"skip_refinement": "se", "attention_skips": (1, 2), "refinement_reduction": 4}, 26_467),
        ({"skip_refinement": "cbam", "attention_skips": (1, 2), "refinement_reduction": 4}, 26_663),
    ],
    ids=str,
)
def test_parameters_are_the_papers(arguments: dict, parameters: int) -> None:
    network = OrderNet(**arguments)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


def convolution_flops(network: nn.Module) -> int:
    """2×MAC of the convolutions at 256², counted without computing anything."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.eval().to("meta")(torch.zeros(1, 3, 256, 256, device="meta"))
    return counter.get_flop_counts()["Global"][torch.ops.aten.convolution]


@pytest.mark.parametrize(
    ("skips", "millions"), [((), "94.595"), ((0, 1), "111.898"), ((2, 1), "132.344")], ids=["none", "01", "21"]
)
def test_convolution_flops_are_the_papers(skips: tuple[int, ...], millions: str) -> None:
    assert f"{convolution_flops(OrderNet(attention_skips=skips)) / 1e6:.3f}" == millions


def test_the_order_of_the_skips_is_no_matter() -> None:
    first, second = OrderNet(attention_skips=(1, 2)), OrderNet(attention_skips=[2, 1])
    second.load_state_dict(first.state_dict(), strict=True)
    image = torch.ones(1, 3, 64, 64)
    assert torch.equal(first.eval()(image), second.eval()(image))


def test_skip_zero_is_the_deepest() -> None:
    """24 channels at stride 16, then 16, 8, and 4 at stride 2."""
    network = OrderNet(attention_skips=(0, 1, 2, 3))
    seen = []
    for skip in network.skips[:-1]:
        assert isinstance(skip, BidirectionalSkipAttention)
        skip.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape[1:])))
    network(torch.zeros(2, 3, 64, 64))
    assert seen == [(24, 4, 4), (16, 8, 8), (8, 16, 16), (4, 32, 32)]


@pytest.mark.parametrize("index", range(4))
def test_every_skip_carries_gradients_to_its_encoder_stage(index: int) -> None:
    with seeded(0):
        network = OrderNet(attention_skips=(0, 1, 2, 3))
    deeper, stage = network.encoder[4 - index], network.encoder[3 - index]
    deeper.register_forward_pre_hook(lambda module, inputs: inputs[0].detach())  # leaves the skip as the only way
    network(images(2, 3, 64, 64)).square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in stage.project.parameters())


def test_it_learns_to_find_a_bright_square() -> None:
    image = 0.5 * images(2, 3, 64, 64)
    square = torch.zeros(2, 1, 64, 64)
    for row, sample in enumerate(square):
        sample[:, 8 * row : 8 * row + 24, 16:40] = 1
    with seeded(0):
        network = OrderNet()
    optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
    losses = []
    for _ in range(20):
        loss = nn.functional.binary_cross_entropy_with_logits(network(image + square), square)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"channels": (4, 8, 16, 24)}, "5 positive widths.*4, 8, 16, 24"),
        ({"channels": (4, 8, 16, 24, 0)}, "5 positive widths"),
        ({"attention_skips": (0, 4)}, r"0 \(deepest\) to 3 \(shallowest\); got \[4\]"),
        ({"attention_skips": (-1,)}, r"got \[-1\]"),
        ({"skip_refinement": "eca"}, "bidirectional.*se.*cbam.*'eca'"),
        ({"in_channels": 0}, "in_channels is at least 1; got 0"),
        ({"out_channels": -1}, "out_channels"),
        ({"num_heads": 0}, "num_heads"),
        ({"head_dim": 0}, "head_dim"),
        ({"refinement_reduction": 0, "skip_refinement": "se"}, "refinement_reduction"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(arguments: dict, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        OrderNet(**arguments)

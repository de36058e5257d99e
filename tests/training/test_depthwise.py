"""Depthwise convolutions that are quick to train on a CPU: the same parameters, logits and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from common.order import OrderNet
from common.training import placed
from common.training.depthwise import DepthwiseConv2d


def _quick(network: nn.Module) -> list[str]:
    return [name for name, module in network.named_modules() if isinstance(module, DepthwiseConv2d)]


def _step(network: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    logits = network(image)
    logits.square().mean().backward()
    return logits.detach(), {name: each.grad.clone() for name, each in network.named_parameters()}


def test_the_network_of_order_has_the_same_logits_and_gradients():
    torch.manual_seed(0)
    plain = OrderNet().double().train()
    quick = placed(copy.deepcopy(plain), "cpu")
    assert len(_quick(quick)) == 2 * 10  # 1×1 and 5×5 of five stages down and five up
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    (logits, gradients), (wanted, by_torch) = _step(quick, image), _step(plain, image)
    torch.testing.assert_close(logits, wanted, rtol=0, atol=1e-11)
    assert gradients.keys() == by_torch.keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in by_torch.values())
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, by_torch[name], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("size", [1, 5])
@pytest.mark.parametrize("shape", [(1, 3, 4, 4), (2, 6, 5, 9), (3, 8, 33, 16)], ids=str)
def test_gradients_are_the_convolutions_for_every_shape(size, shape):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(shape[1], shape[1], size, padding=size // 2, groups=shape[1], bias=False))
    quick = placed(copy.deepcopy(plain), "cpu")
    assert _quick(quick) == ["0"]
    images = [torch.randn(shape).requires_grad_()]
    images.append(images[0].detach().clone().requires_grad_())
    steps = [_step(network, image) for network, image in zip((plain, quick), images, strict=True)]
    torch.testing.assert_close(steps[1], steps[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(images[1].grad, images[0].grad, rtol=1e-4, atol=1e-5)


def test_parameters_keep_their_names_and_identity():
    network = OrderNet()
    before = dict(network.named_parameters())
    after = dict(placed(network, "cpu").named_parameters())
    assert before.keys() == after.keys() and all(after[name] is each for name, each in before.items())
    assert network.state_dict().keys() == OrderNet().state_dict().keys()


@pytest.mark.parametrize(
    "other",
    [
        nn.Conv2d(4, 4, 5, padding=2, groups=4),  # with a bias
        nn.Conv2d(4, 4, 5, padding=2, groups=2, bias=False),
        nn.Conv2d(4, 8, 5, padding=2, groups=4, bias=False),
        nn.Conv2d(4, 4, 5, padding=2, stride=2, groups=4, bias=False),
        nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4, bias=False),
        nn.Conv2d(4, 4, 5, padding=2, groups=4, bias=False, padding_mode="reflect"),
        nn.Conv2d(4, 4, 5, padding=1, groups=4, bias=False),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False),  # quick as it is
        nn.Conv2d(4, 4, 1, bias=False),
    ],
    ids=str,
)
def test_any_other_convolution_stays(other):
    network = placed(nn.Sequential(other), "cpu")
    assert network[0] is other


def test_another_device_gets_the_network_as_it_is():
    assert _quick(placed(OrderNet(), "meta")) == []


def test_measuring_and_half_precision_take_torchs_own_way():
    torch.manual_seed(0)
    plain = OrderNet()
    quick = placed(copy.deepcopy(plain), "cpu")
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(quick.eval()(image), plain.eval()(image), rtol=0, atol=0)
    quick.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        quick(image).float().mean().backward()
    assert all(each.grad is not None and each.grad.isfinite().all() for each in quick.parameters())


def test_a_copy_trains_too():
    copied = copy.deepcopy(placed(OrderNet(), "cpu"))
    _, gradients = _step(copied, torch.randn(2, 3, 32, 32))
    assert _quick(copied) and all(gradient.isfinite().all() for gradient in gradients.values())

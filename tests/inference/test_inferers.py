from __future__ import annotations

import itertools

import pytest
import torch
from monai.inferers import SimpleInferer
from torch import nn

from common.inference import FlipAverageInferer
from common.order import OrderNet

FLIPS = [axes for size in range(3) for axes in itertools.combinations((-2, -1), size)]


@pytest.fixture
def image() -> torch.Tensor:
    return torch.rand(2, 3, 32, 64, generator=torch.Generator().manual_seed(3))


@pytest.fixture
def network() -> nn.Module:
    """One that is far from treating both sides alike: its kernels are random and it sees where the border is."""
    with torch.random.fork_rng():
        torch.manual_seed(4)
        return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 3, padding=1)).eval()


@pytest.mark.parametrize("axes", FLIPS)
@torch.no_grad()
def test_the_answer_flips_with_the_image(image, network, axes):
    inferer = FlipAverageInferer()
    flipped = torch.flip(inferer(torch.flip(image, axes), network), axes)
    assert torch.equal(flipped, inferer(image, network))
    if axes:  # the network alone does not: else the test would show nothing
        assert not torch.allclose(torch.flip(network(torch.flip(image, axes)), axes), network(image), atol=1e-3)


@torch.no_grad()
def test_it_is_the_mean_of_the_logits(image, network):
    each = [torch.flip(network(torch.flip(image, axes)), axes) for axes in FLIPS]
    torch.testing.assert_close(FlipAverageInferer()(image, network), torch.stack(each).mean(0))


@torch.no_grad()
def test_where_the_network_is_symmetric_it_changes_nothing(image, brightness):
    torch.testing.assert_close(
        FlipAverageInferer()(image, brightness()), SimpleInferer()(image, brightness()), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_it_passes_what_the_network_is_called_with(image):
    doubled = FlipAverageInferer()(image, lambda x, factor, shift=0.0: x * factor + shift, 2.0, shift=1.0)
    torch.testing.assert_close(doubled, image * 2 + 1)


@torch.no_grad()
def test_it_takes_the_real_network(image):
    assert FlipAverageInferer()(image, OrderNet().eval()).shape == (2, 1, 32, 64)

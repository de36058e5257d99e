"""Batch statistics measured anew."""

from __future__ import annotations

import copy

import pytest
import torch
from ignite.engine import Engine
from torch import nn

from common.order import OrderNet
from common.training import RefreshStatistics
from tests.training.states import differences, read


def _items(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{"image": torch.randn(3, 8, 8, generator=generator) * 2 + 5} for _ in range(count)]


def _refresh(model: nn.Module, items: list[dict[str, torch.Tensor]], **settings) -> None:
    engine = Engine(lambda engine, batch: None)
    RefreshStatistics(model, items, **settings).attach(engine)
    engine.run([0])


def test_the_statistics_are_those_of_the_images():
    items, model = _items(64), nn.Sequential(nn.BatchNorm2d(3)).eval()
    _refresh(model, items, batch_size=64)
    every = torch.stack([item["image"] for item in items])
    assert torch.allclose(model[0].running_mean, every.mean(dim=(0, 2, 3)), atol=1e-5)
    assert torch.allclose(model[0].running_var, every.var(dim=(0, 2, 3)), rtol=1e-5)
    assert model[0].momentum == 0.1 and not model.training


class _Mixed(list):
    """Items of which `data` tells the painted ones, as an `EpochSeededDataset` does."""

    def __init__(self, real: list, painted: list) -> None:
        super().__init__([*painted, *real])
        self.data = [{"synthetic": 1}] * len(painted) + [{"synthetic": 0}] * len(real)


def test_painted_images_leave_the_statistics_as_they_are():
    real, model, other = _items(40), *(nn.Sequential(nn.BatchNorm2d(3)).eval() for _ in range(2))
    painted = [{"image": item["image"] - 100} for item in _items(30)]
    _refresh(model, real, batch_size=8)
    _refresh(other, _Mixed(real, painted), batch_size=8)
    assert torch.equal(model[0].running_mean, other[0].running_mean)
    assert torch.equal(model[0].running_var, other[0].running_var)


def test_after_it_evaluation_and_training_see_the_same_network():
    """On the batch itself: what a network computes with measured statistics is what it computes with the batch's."""
    torch.manual_seed(0)
    items = [{"image": torch.rand(3, 64, 64)} for _ in range(8)]
    model = OrderNet()
    with torch.no_grad():
        for parameter in model.parameters():  # far from what the statistics know
            parameter.add_(torch.randn_like(parameter) * 0.1)
    image = torch.stack([item["image"] for item in items])
    with torch.no_grad():
        wanted, before = copy.deepcopy(model).train()(image), copy.deepcopy(model).eval()(image)
        _refresh(model, items, batch_size=8)
        found = model.eval()(image)
    assert (found - wanted).abs().max() < 0.1 * (before - wanted).abs().max()


@pytest.mark.parametrize("batch_size", [4, 16, 256])
def test_no_weight_gradient_or_random_number_is_touched(batch_size):
    model = OrderNet()
    before = {name: value.clone() for name, value in model.named_parameters()}
    state = torch.get_rng_state()
    _refresh(model, _images(9), batch_size=batch_size)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) and value.grad is None for name, value in model.named_parameters())


def _images(count: int) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"image": torch.rand(3, 32, 32, generator=generator)} for _ in range(count)]


def test_it_takes_so_many_images_and_the_same_each_time():
    seen: list[int] = []

    class Spy(list):
        def __getitem__(self, index):
            seen.append(index)
            return super().__getitem__(index)

    items = Spy(_items(40))
    model = nn.Sequential(nn.BatchNorm2d(3))
    engine = Engine(lambda engine, batch: None)
    RefreshStatistics(model, items, images=12, batch_size=4).attach(engine)
    engine.run([0])
    first = list(seen)
    engine.run([0])
    assert len(first) == len(set(first)) == 12 and seen == first * 2
    assert max(first) > 20 > min(first)


def test_a_run_of_the_recipe_keeps_a_model_whose_statistics_fit(train, tmp_path):
    """Without it the average of a short run is far from its own statistics."""
    train(tmp_path / "run", "recipe_best.yaml", epochs=2)
    state = read(tmp_path / "run" / "latest.pt")
    assert state["ema"]["encoder.0.expand.1.num_batches_tracked"] == 2  # 9 images in whole batches of 4
    assert list(differences(state["ema"], state["network"]))

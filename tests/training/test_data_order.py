"""Which images come, in what order, and how they are turned: a function of (seed, epoch, image), of nothing else."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import DataLoader

from tests.training.states import differences, read

Epoch = list[dict[str, Any]]


@pytest.fixture(scope="module")
def epochs_of(configured) -> Callable[..., list[Epoch]]:
    """A function that gives the batches of some epochs, as train.yaml with these overrides loads them."""

    def load(*epochs: int, ranks: int = 1, rank: int = 0, overlay: str | None = None, **overrides: Any) -> list[Epoch]:
        shares = {"train#sampler#num_replicas": ranks, "train#sampler#rank": rank, "train#dataset#progress": False}
        parser = configured(*([overlay] if overlay else []), **shares, **overrides)
        loader: DataLoader = parser.get_parsed_content("train#dataloader")
        batches = []
        for epoch in epochs:
            loader.sampler.set_epoch(epoch)
            loader.dataset.set_epoch(epoch)
            batches.append(list(loader))
        return batches

    return load


@pytest.fixture(scope="module")
def three(epochs_of) -> list[Epoch]:
    return epochs_of(1, 2, 3)


def _names(epoch: Epoch) -> list[str]:
    return [name for batch in epoch for name in batch["name"]]


def _by_name(epoch: Epoch) -> dict[str, torch.Tensor]:
    return {name: image for batch in epoch for name, image in zip(batch["name"], batch["image"], strict=True)}


def test_epochs_differ_in_order_and_in_augmentation(three):
    assert len({tuple(_names(epoch)) for epoch in three}) == 3
    first, second = (_by_name(epoch) for epoch in three[:2])
    both = sorted(first.keys() & second.keys())
    # of flips, turns and neither, some images happen to get the same twice
    assert sum(not torch.equal(first[name], second[name]) for name in both) > len(both) / 2


def test_image_and_label_are_turned_alike_and_stay_what_they_are(three):
    for epoch in three:
        for batch in epoch:
            assert batch["image"].shape == (4, 3, 64, 64) and batch["image"].dtype == torch.float32
            assert batch["image"].min() >= 0 and batch["image"].max() <= 1
            assert set(batch["label"].unique().tolist()) == {0.0, 1.0}
            red = batch["image"][:, :1]
            lesion, rest = red[batch["label"] == 1].mean(), red[(batch["label"] == 0) & (red > 0.1)].mean()
            assert lesion - rest > 0.2  # 190 and 110 of 255, as drawn


@pytest.mark.parametrize(
    "overrides",
    [
        {"num_workers": 2},
        {"num_workers": 2, "train#dataloader#persistent_workers": True},
        {"cache_rate": 0.0},
        {"cache_rate": 0.5},
    ],
    ids=["workers", "workers that stay", "no cache", "half a cache"],
)
def test_neither_workers_nor_cache_change_a_sample(epochs_of, three, overrides):
    assert list(differences(epochs_of(1, 2, 3, **overrides), three)) == []


def test_what_came_before_changes_nothing(epochs_of, three):
    assert list(differences(epochs_of(3), three[2:])) == []
    assert list(differences(epochs_of(2, 2, 1, 3), [three[1], three[1], three[0], three[2]])) == []


def test_the_global_generators_are_neither_read_nor_moved(epochs_of, three):
    for seed in (1, 2):
        random.seed(seed)
        np.random.seed(seed)  # noqa: NPY002 - the global one is what is tested
        torch.manual_seed(seed)
        before = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
        assert list(differences(epochs_of(1, 2, 3), three)) == []
        assert before == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002


def test_another_seed_is_another_order_and_another_augmentation(epochs_of, three):
    (other,) = epochs_of(1, seed=1)
    assert _names(other) != _names(three[0])
    ours, theirs = _by_name(three[0]), _by_name(other)
    both = ours.keys() & theirs.keys()
    assert sum(not torch.equal(ours[name], theirs[name]) for name in both) > len(both) / 2


def test_processes_share_the_images_and_each_image_is_what_it_would_be_in_one(epochs_of):
    (whole,) = epochs_of(1, batch_size=1)
    parts = [epochs_of(1, ranks=2, rank=rank, batch_size=1)[0] for rank in (0, 1)]
    assert [len(part) for part in parts] == [5, 5]  # of nine, one is given to both
    expected = _by_name(whole)
    assert set(_names(parts[0])) | set(_names(parts[1])) == expected.keys()
    for part in parts:
        for name, image in _by_name(part).items():
            assert torch.equal(image, expected[name])


def test_quarter_turns_of_our_recipe_obey_too(epochs_of):
    overlay = {"overlay": "recipe_best.yaml"}
    assert list(differences(epochs_of(2, num_workers=2, **overlay), epochs_of(1, 2, **overlay)[1:])) == []


def test_a_training_with_workers_ends_with_the_same_bits(train, finished, tmp_path):
    train(tmp_path / "run", num_workers=2, **{"train#dataloader#persistent_workers": True})
    assert list(differences(read(tmp_path / "run" / "latest.pt"), read(finished / "latest.pt"))) == []

"""Batches counted in steps."""

from __future__ import annotations

from itertools import chain

import pytest
import torch
from monai.transforms import Compose, RandFlipd, RandRotate90d
from torch.utils.data import DistributedSampler

from common.training import EpochSeededDataset, StepSampler, training_sampler

SIZE = 10


def _epochs(count: int, batch_size: int, batches: int, **options: int) -> list[list[int]]:
    sampler = StepSampler(range(SIZE), batch_size, batches, **{"num_replicas": 1, "rank": 0, **options})
    drawn = []
    for epoch in range(1, count + 1):
        sampler.set_epoch(epoch)
        drawn.append(list(sampler))
    return drawn


@pytest.mark.parametrize(("batch_size", "batches"), [(3, 2), (4, 7), (10, 1), (25, 2)])
def test_no_image_is_seen_less_often_than_another(batch_size, batches):
    epochs = _epochs(5, batch_size, batches)
    assert all(len(epoch) == batch_size * batches for epoch in epochs)
    stream = list(chain(*epochs))
    for start in range(0, len(stream) - SIZE + 1, SIZE):
        assert sorted(stream[start : start + SIZE]) == list(range(SIZE))


def test_passes_are_shuffled_each_in_its_own_way():
    first, second = _epochs(2, SIZE, 1)
    assert first != second and first != sorted(first)
    assert _epochs(1, SIZE, 1, seed=1) != [first]


def test_an_epoch_depends_on_nothing_before_it():
    sampler = StepSampler(range(SIZE), 3, 2, num_replicas=1, rank=0)
    sampler.set_epoch(4)
    assert list(sampler) == _epochs(4, 3, 2)[3]


def test_processes_share_what_one_would_take():
    together = _epochs(2, 6, 2)
    alone = [_epochs(2, 3, 2, num_replicas=2, rank=rank) for rank in (0, 1)]
    for epoch in (0, 1):
        batches = [alone[rank][epoch][3 * batch : 3 * batch + 3] for batch in (0, 1) for rank in (0, 1)]
        assert list(chain(*batches)) == together[epoch]


def test_numbered_passes_are_the_same_images_in_the_same_order():
    numbered = _epochs(3, 4, 7, number_passes=True)
    assert [[index % SIZE for index in epoch] for epoch in numbered] == _epochs(3, 4, 7)
    stream = list(chain(*numbered))
    assert [index // SIZE for index in stream] == [place // SIZE for place in range(len(stream))]


def test_an_image_that_comes_twice_in_an_epoch_is_augmented_twice():
    images = [{"image": torch.arange(16.0).reshape(1, 4, 4) + 100 * number} for number in range(SIZE)]
    turned = Compose([RandRotate90d("image", prob=1.0, max_k=3), RandFlipd("image", prob=0.5)])
    data = EpochSeededDataset(images, turned, cache_rate=0.0, progress=False)
    data.set_epoch(2)
    passes = torch.stack([torch.as_tensor(data[3 + SIZE * number]["image"]) for number in range(12)])
    assert (passes.flatten(1).sort(dim=1).values == images[3]["image"].flatten()).all()  # of that image
    assert len(passes.unique(dim=0)) > 1
    assert torch.equal(torch.as_tensor(data[3 + SIZE]["image"]), passes[1])  # whatever was asked for before


def test_without_a_word_it_begins_with_the_first_epoch():
    sampler = StepSampler(range(SIZE), 3, 2, num_replicas=1, rank=0)
    assert list(sampler) == _epochs(1, 3, 2)[0] and len(sampler) == 6


class _Items:
    """A dataset as `EpochSeededDataset` is, of which some items are painted."""

    def __init__(self, real: int, painted: int) -> None:
        self.data = [{"synthetic": 0}] * real + [{"synthetic": 1}] * painted

    def __len__(self) -> int:
        return len(self.data)


@pytest.mark.parametrize("replicas", [1, 2])
def test_without_painted_images_the_order_is_torchs_own(replicas):
    own = training_sampler(_Items(SIZE, 0), 3, replicas, 0, seed=5)
    plain = DistributedSampler(range(SIZE), num_replicas=replicas, rank=0, shuffle=True, seed=5)
    for epoch in (1, 2):
        own.set_epoch(epoch)
        plain.set_epoch(epoch)
        assert list(own) == list(plain)


@pytest.mark.parametrize(("painted", "replicas"), [(7, 1), (30, 1), (30, 2)])
def test_painted_images_change_what_is_seen_and_not_how_many_steps(painted, replicas):
    seen = []
    for rank in range(replicas):
        real, both = (training_sampler(_Items(SIZE, count), 2, replicas, rank) for count in (0, painted))
        assert len(both) // 2 == len(real) // 2
        for epoch in range(1, 40):
            both.set_epoch(epoch)
            seen += [index % (SIZE + painted) for index in both]
    assert set(seen) == set(range(SIZE + painted))
    assert max(map(seen.count, set(seen))) - min(map(seen.count, set(seen))) <= 1  # none more often than another
    share = sum(index >= SIZE for index in seen) / len(seen)
    assert share == pytest.approx(painted / (SIZE + painted), abs=0.1)

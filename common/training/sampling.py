"""Batches counted in steps, not in passes over the data."""

from __future__ import annotations

from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch.utils.data import DistributedSampler

from ..data.synthetic import SYNTHETIC


class StepSampler(DistributedSampler):
    """Shuffled passes over a dataset, one after another, cut into epochs of as many batches as one asks for.

    An epoch then means a number of steps, whatever the size of the dataset, and no image is seen less often than
    another. What an epoch gets depends on (seed, epoch) alone; MONAI's engines set the epoch. N processes take N
    times as many images a step, each its own.

    Args:
        dataset: with a length.
        batch_size: of a process.
        batches: an epoch, of each process.
        num_replicas, rank: of the processes; None for those that are there.
        seed: of the shuffling.
        number_passes: yield index + pass·N of N images, which `EpochSeededDataset` takes for that image, augmented
            anew; else the bare index.
    """

    def __init__(
        self,
        dataset: Sized,
        batch_size: int,
        batches: int,
        num_replicas: int | None = None,
        rank: int | None = None,
        seed: int = 0,
        number_passes: bool = False,
    ) -> None:
        super().__init__(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)
        self.batch_size = batch_size
        self.batches = batches
        self.number_passes = number_passes
        self.set_epoch(1)  # epochs count from 1

    def __len__(self) -> int:
        return self.batch_size * self.batches

    def __iter__(self) -> Iterator[int]:
        size = len(self.dataset)
        first = (self.epoch - 1) * self.batches
        current, order = -1, []
        for batch in range(first, first + self.batches):
            start = (batch * self.num_replicas + self.rank) * self.batch_size
            for place in range(start, start + self.batch_size):
                if place // size != current:
                    current = place // size
                    generator = torch.Generator().manual_seed(self.seed + 1_000_003 * current)
                    order = torch.randperm(size, generator=generator).tolist()
                yield order[place % size] + (current * size if self.number_passes else 0)


def training_sampler(dataset: Any, batch_size: int, num_replicas: int, rank: int, seed: int = 0) -> DistributedSampler:
    """Shuffled passes over the training images; where painted ones are among them, as many steps as without.

    An epoch is one pass over the real images. With painted pairs beside them the passes are longer and the epochs are
    not, so that two trainings of as many epochs have as many steps, and the same schedules, whatever was painted.

    Args:
        dataset: an `EpochSeededDataset` of items, of which `SYNTHETIC` tells the painted ones.
        batch_size: of a process.
        num_replicas, rank: of the processes.
        seed: of the shuffling.
    """
    real = sum(not item.get(SYNTHETIC) for item in dataset.data)
    if real == len(dataset):
        return DistributedSampler(dataset, num_replicas=num_replicas, rank=rank, shuffle=True, seed=seed)
    batches = max(1, -(-real // num_replicas) // batch_size)
    return StepSampler(dataset, batch_size, batches, num_replicas, rank, seed, number_passes=True)

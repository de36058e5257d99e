"""Data order and augmentation as a function of (seed, epoch, item), so that resuming changes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events
from monai.data import CacheDataset


class EpochSeededDataset(CacheDataset):
    """A `monai.data.CacheDataset` whose random transforms depend on (seed, epoch, index) alone.

    An index of the length N or more is image ``index % N`` with other random numbers, so that an image that comes
    several times in an epoch (`StepSampler`) does not come as the same picture.

    Neither the number of workers or ranks, nor where a run was stopped and resumed, then changes a sample.
    Call `set_epoch` before each epoch (the handler `EpochSeeding` does).
    """

    def __init__(self, data: Sequence[Any], transform: Any, seed: int = 0, **kwargs: Any) -> None:
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it change
        super().__init__(data=data, transform=transform, **kwargs)

    @property
    def epoch(self) -> int:
        """The 1-based epoch that samples belong to, in every worker."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Set the 1-based epoch that the next samples belong to."""
        self._epoch.fill_(epoch)

    def _transform(self, index: int) -> Any:
        seed = np.random.SeedSequence([self.seed, self.epoch, index]).generate_state(1)[0]
        self.transform.set_random_state(seed=int(seed))
        return super()._transform(index % len(self))


class EpochSeeding:
    """An Ignite handler that tells an `EpochSeededDataset` the epoch."""

    def __init__(self, dataset: EpochSeededDataset) -> None:
        self.dataset = dataset

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self)

    def __call__(self, engine: Engine) -> None:
        self.dataset.set_epoch(engine.state.epoch)

"""Batch statistics of a network whose weights were averaged."""

from __future__ import annotations

import torch
from ignite.engine import Engine, Events
from monai.data import DataLoader
from torch import nn
from torch.optim.swa_utils import update_bn
from torch.utils.data import Dataset, Subset

from ..data.synthetic import SYNTHETIC


def _real_items(dataset: Dataset) -> list[int]:
    items = getattr(dataset, "data", None)
    return [place for place in range(len(dataset)) if items is None or not items[place].get(SYNTHETIC)]


class RefreshStatistics:
    """An Ignite handler: measure a network's batch statistics anew before each validation.

    Averaged weights never met the activations that the averaged statistics tell of, least of all early in a run or in
    a short one. What is measured takes no gradient and no random number, and is the same in every process.

    Args:
        model: the averaged network.
        dataset: training items, with their augmentation.
        images: how many of the real ones, always the same, drawn over the whole set; all where there are fewer. It is
            on real images that the network is validated and used, whatever was painted to train it on.
        batch_size: of a batch; what is left over after the last whole one is passed over.
        image_key: an item's image.
    """

    def __init__(
        self, model: nn.Module, dataset: Dataset, images: int = 256, batch_size: int = 16, image_key: str = "image"
    ) -> None:
        self.model, self.image_key = model, image_key
        real = _real_items(dataset)
        order = torch.randperm(len(real), generator=torch.Generator().manual_seed(0))[:images].tolist()
        chosen = [real[place] for place in order]
        self.loader = DataLoader(
            Subset(dataset, chosen),
            batch_size=batch_size,
            drop_last=len(chosen) > batch_size,
            generator=torch.Generator(),  # else a loader takes a number from the run's own
        )

    def attach(self, engine: Engine) -> None:
        """Register on the evaluator."""
        engine.add_event_handler(Events.STARTED, self)

    def __call__(self, engine: Engine) -> None:
        device = next(self.model.parameters()).device
        update_bn((batch[self.image_key] for batch in self.loader), self.model, device)

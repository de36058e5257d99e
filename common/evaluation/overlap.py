"""Dice and IoU of binary masks, image by image, and their means as Ignite metrics.

The rule for an empty mask, everywhere in this package: both masks empty → 1, only one of them empty → 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import torch
from ignite.exceptions import NotComputableError
from ignite.metrics import Metric
from ignite.metrics.metric import reinit__is_reduced
from monai.data import MetaTensor
from monai.metrics import compute_dice, compute_iou
from monai.utils import ImageMetaKey

from ..errors import InputError


def binary_pair(pred: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Check two batches of binary masks and return them as plain uint8 tensors on the prediction's device.

    Args:
        pred, label: `(B, 1, H, W)`, any dtype, every value 0 or 1.

    Raises:
        InputError: on another shape, on two different shapes, or on a value that is neither 0 nor 1.
    """
    if pred.ndim != 4 or pred.shape[1] != 1 or pred.shape != label.shape:
        raise InputError(
            f"masks must be (B, 1, H, W) and alike; the prediction is {tuple(pred.shape)}, the label "
            f"{tuple(label.shape)}: resize both alike and keep one channel"
        )
    plain = []
    for name, mask in (("prediction", pred), ("label", label)):
        mask = mask.as_tensor() if isinstance(mask, MetaTensor) else mask
        ones = mask == 1
        if not (ones | (mask == 0)).all():
            raise InputError(
                f"the {name} holds values other than 0 and 1; threshold it first (AsDiscreted with threshold=0.5)"
            )
        plain.append(ones.to(device=pred.device, dtype=torch.uint8))
    return plain[0], plain[1]


def image_dice(pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Dice of each image: 2·|P∩L| / (|P|+|L|); both empty: 1, one empty: 0.

    Args:
        pred, label: `(B, 1, H, W)` with values 0 and 1.

    Returns:
        `(B,)` float32, by MONAI's `compute_dice`.

    Raises:
        InputError: see `binary_pair`.
    """
    return compute_dice(*binary_pair(pred, label), ignore_empty=False)[:, 0]


def image_iou(pred: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Intersection over union of each image: |P∩L| / |P∪L|; both empty: 1, one empty: 0.

    Args, result and errors are those of `image_dice`; by MONAI's `compute_iou`.
    """
    # in uint8 the products stay 0 or 1 and torch sums them as int64, so large images stay exact
    return compute_iou(*binary_pair(pred, label), ignore_empty=False)[:, 0]


def image_name(item: Mapping[str, Any], keys: Sequence[str] = ("image", "label")) -> str | None:
    """The file that an item was read from: `filename_or_obj` of the first MetaTensor among `keys`, or None."""
    for key in keys:
        value = item.get(key)
        if isinstance(value, MetaTensor) and value.meta.get(ImageMetaKey.FILENAME_OR_OBJ):
            return str(value.meta[ImageMetaKey.FILENAME_OR_OBJ])
    return None


class _MeanOverlap(Metric):
    """Mean over images of a per-image score; each image file counts once.

    `monai.handlers.IgniteMetricHandler(DiceMetric(ignore_empty=False))` has the same empty rule. It is not used
    because under several processes it counts the images twice that a sampler repeats to fill its last batch,
    and waits for ever when a process got no image; here scores are kept by file name and gathered as an object.
    The sum is exact (`math.fsum`), so any number of processes gives the same bits.

    Args:
        output_transform: from `engine.state.output` to a list of dicts (MONAI's decollated output, the default).
        pred_key, label_key: the masks in each dict, `(1, H, W)` with values 0 and 1.
        image_key: the MetaTensor whose `filename_or_obj` names the image. Items without a name all count.
    """

    _score: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def __init__(
        self,
        output_transform: Callable = lambda output: output,
        *,
        pred_key: str = "pred",
        label_key: str = "label",
        image_key: str = "image",
    ) -> None:
        self._keys = (pred_key, label_key, image_key)
        super().__init__(output_transform)

    @reinit__is_reduced
    def reset(self) -> None:
        self._named: dict[str, float] = {}
        self._unnamed: list[float] = []

    @reinit__is_reduced
    def update(self, output: Sequence[Mapping[str, Any]]) -> None:
        """Score a list of items; the masks of one call may differ in size between items."""
        pred_key, label_key, image_key = self._keys
        shapes = {tuple(item[key].shape) for item in output for key in (pred_key, label_key)}
        if len(shapes) == 1:
            stacks = [torch.stack([item[key] for item in output]) for key in (pred_key, label_key)]
            scores = type(self)._score(*stacks).tolist()
        else:
            scores = [type(self)._score(item[pred_key][None], item[label_key][None]).item() for item in output]
        for item, score in zip(output, scores, strict=True):
            name = image_name(item, (image_key, label_key))
            if name is None:
                self._unnamed.append(score)
            else:
                self._named[name] = score

    def compute(self) -> float:
        """The mean, the same on every process.

        Raises:
            NotComputableError: when no image was scored.
        """
        named: dict[str, float] = {}
        unnamed: list[float] = []
        for part_named, part_unnamed in idist.all_gather((self._named, self._unnamed)):
            named.update(part_named)
            unnamed.extend(part_unnamed)
        scores = [*named.values(), *unnamed]
        if not scores:
            raise NotComputableError(f"{type(self).__name__} needs at least one image")
        return math.fsum(scores) / len(scores)  # fsum is exact: the order of the images does not matter


class MeanDice(_MeanOverlap):
    """Mean per-image Dice as an Ignite metric (see `_MeanOverlap` for the arguments); higher is better."""

    _score = staticmethod(image_dice)


class MeanIoU(_MeanOverlap):
    """Mean per-image IoU as an Ignite metric (see `_MeanOverlap` for the arguments); higher is better."""

    _score = staticmethod(image_iou)

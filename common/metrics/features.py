"""What an image is reduced to before sets of images are compared: the features of a frozen network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ..data.progress import bar
from ..order import OrderNet
from ..weights import load_weights
from .image_sets import as_tensor, read_squashed

Features = NDArray[np.float64]


class FeatureExtractor(ABC):
    """A frozen network: images in, ``(N, dimensions)`` float64 out.

    Attributes:
        name: what its distance is called by.
        dimensions: of a feature vector.
        batch_size: images that it sees at once.
    """

    name: str
    dimensions: int
    batch_size: int

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Path], size: int | None = None, flip: tuple[int, ...] = (), progress: bool = True
    ) -> Features:
        """The features of image files, ``(N, dimensions)`` float64.

        Args:
            images: files.
            size: that they are squashed to, pixels, by `read_squashed`; as they are if None.
            flip: axes of (H, W) that they are mirrored over.
            progress: whether a bar is shown.

        Raises:
            InputError: if an image cannot be read.
        """
        starts = range(0, len(images), self.batch_size)
        seen = []
        for start in bar(starts, f"features ({self.name})", "batch", len(starts), progress):
            read = [read_squashed(path, size) for path in images[start : start + self.batch_size]]
            seen.append(self.features_of([_mirrored(image, flip) for image in read]).cpu().numpy())
        return np.concatenate(seen).astype(np.float64)

    @abstractmethod
    def features_of(self, images: Sequence[Image.Image]) -> Tensor:
        """The features of one batch, ``(B, dimensions)``, on any device."""


def _mirrored(image: Image.Image, flip: tuple[int, ...]) -> Image.Image:
    for axis in flip:
        image = image.transpose((Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT)[axis])
    return image


class SegmenterFeatures(FeatureExtractor):
    """The encoder of a trained ORDER: the mean over each channel of its five stages, 84 values.

    For a machine without Inception's weights. A Fréchet distance on them is no FID, and is not to be held against one.

    Args:
        weights: of an ORDER with the channels 4-8-16-24-32.
        network: that they are of; ORDER{0,1} if not given.
        image_size: that it sees; divides by 32.
        device: that it runs on.

    Raises:
        InputError: if the weights cannot be read, or are of another network.
    """

    name = "ORDER's features"

    def __init__(
        self,
        weights: str | Path,
        network: OrderNet | None = None,
        image_size: int = 256,
        device: torch.device | str = "cpu",
        batch_size: int = 16,
    ) -> None:
        self.network = load_weights(network or OrderNet(), weights).to(device).eval()
        self.dimensions = sum(block.project[-1].num_features for block in self.network.encoder)
        self.image_size, self.device, self.batch_size = image_size, device, batch_size

    def features_of(self, images: Sequence[Image.Image]) -> Tensor:
        """The five means, ``(B, 84)`` float64."""
        own = (self.image_size, self.image_size)
        pixels = [as_tensor(image.resize(own, Image.Resampling.BILINEAR)) for image in images]
        x = torch.stack(pixels).to(self.device)
        means = []
        for block in self.network.encoder:
            x = self.network.pool(block(x))
            means.append(x.mean(dim=(2, 3)))
        return torch.cat(means, dim=1).double()

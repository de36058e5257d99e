"""What an image is reduced to before sets of images are compared: the features of a frozen network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

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


class FeatureExtractor(Protocol):
    """A frozen network: images in, ``(N, dimensions)`` float64 out.

    Attributes:
        name: what its distance is called by.
        dimensions: of a feature vector.
    """

    name: str
    dimensions: int

    def __call__(
        self, images: Sequence[Path], size: int | None = None, flip: tuple[int, ...] = (), progress: bool = True
    ) -> Features:
        """The features of image files, ``(N, dimensions)`` float64.

        Args:
            images: files.
            size: that they are squashed to, pixels, by `read_squashed`; as they are if None.
            flip: axes of (H, W) that they are mirrored over.
            progress: whether a bar is shown.
        """
        ...


def batches(
    images: Sequence[Path], size: int | None, flip: tuple[int, ...], batch_size: int, name: str, progress: bool
) -> Iterator[list[Image.Image]]:
    """The images of one batch after another, with a bar."""
    starts = range(0, len(images), batch_size)
    for start in bar(starts, f"features ({name})", "batch", len(starts), progress):
        shown = [read_squashed(path, size) for path in images[start : start + batch_size]]
        yield [_mirrored(image, flip) for image in shown]


def _mirrored(image: Image.Image, flip: tuple[int, ...]) -> Image.Image:
    for axis in flip:
        image = image.transpose((Image.Transpose.FLIP_TOP_BOTTOM, Image.Transpose.FLIP_LEFT_RIGHT)[axis])
    return image


class SegmenterFeatures:
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

    @torch.no_grad()
    def __call__(
        self, images: Sequence[Path], size: int | None = None, flip: tuple[int, ...] = (), progress: bool = True
    ) -> Features:
        """Features of image files ``(N, 84)`` float64; see `FeatureExtractor`.

        Raises:
            InputError: if an image cannot be read.
        """
        seen: list[Features] = []
        for shown in batches(images, size, flip, self.batch_size, self.name, progress):
            own = (self.image_size, self.image_size)
            pixels = [image.resize(own, Image.Resampling.BILINEAR) for image in shown]
            seen.append(self._features(torch.stack([as_tensor(image) for image in pixels]).to(self.device)))
        return np.concatenate(seen)

    def _features(self, x: Tensor) -> Features:
        means = []
        for block in self.network.encoder:
            x = self.network.pool(block(x))
            means.append(x.mean(dim=(2, 3)))
        return torch.cat(means, dim=1).double().cpu().numpy()

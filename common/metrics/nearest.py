"""The training image that each painted image is most like: a model that copies its patients must not be handed on.

Two pictures are compared at 64×64, each channel brought to mean 0 and the whole to length 1, so that brightness, tint
and contrast do not count, by the cosine of the angle between them; a mirrored picture is a copy too, so the best of
four flips counts.

`COPY` is a line between what was seen on the published polyp split: the test images of Kvasir-SEG, of other patients
than its training images, have a nearest training image of similarity 0.84 in the median and 0.91 at most; training
images saved anew as JPEG of quality 50, or made a fifth darker, keep 0.997. Frames of one video lie between and above
(CVC-ClinicDB: 0.95 in the median). A copy that was shifted by a sixtieth of its width is not told from another frame
(0.88), nor a cropped one: look at the closest pairs, whatever the count says.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..data.likeness import in_threads
from ..data.reading import open_image
from ..errors import InputError

SIDE = 64
COPY = 0.97
FLIPS = ((), (0,), (1,), (0, 1))  # axes of (H, W, 3)


class Nearest(NamedTuple):
    """Of each image of a list its nearest among others.

    Attributes:
        index: place of the nearest, ``(N,)`` int.
        similarity: in [−1, 1], ``(N,)`` float32.
        flip: place in `FLIPS` of what was done to the image to meet it, ``(N,)`` int.
    """

    index: NDArray[np.intp]
    similarity: NDArray[np.float32]
    flip: NDArray[np.intp]


def read_small(path: str | Path, side: int = SIDE) -> NDArray[np.uint8]:
    """An image squashed to a square, uint8 ``(side, side, 3)``.

    Raises:
        InputError: if it cannot be read.
    """
    return np.asarray(open_image(path).convert("RGB").resize((side, side), Image.Resampling.BICUBIC))


def nearest_images(
    images: Sequence[str | Path], known: Sequence[str | Path], *, flips: bool = True, progress: bool = True
) -> Nearest:
    """Find the nearest of the `known` images for each of `images`.

    Args:
        images: files.
        known: files, at least one.
        flips: count a mirrored picture as the same.
        progress: show bars.

    Raises:
        InputError: if a file cannot be read, or there is none.
    """
    if not images or not known:
        raise InputError(f"there are {len(images)} images to compare with {len(known)}; give at least one of each")
    seen = in_threads(read_small, [Path(path) for path in known], "known", progress)
    shown = in_threads(read_small, [Path(path) for path in images], "compare", progress)
    vectors = np.stack([_direction(picture) for picture in seen])
    tried = FLIPS if flips else FLIPS[:1]
    turned = [np.stack([_direction(np.flip(picture, axes)) for picture in shown]) @ vectors.T for axes in tried]
    similarity = np.stack(turned)  # (flips, images, known)
    best = similarity.max(axis=0).argmax(axis=1)
    rows = np.arange(len(shown))
    flip = similarity[:, rows, best].argmax(axis=0)
    return Nearest(best, similarity[flip, rows, best], flip)


def _direction(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    values = picture.astype(np.float32)
    values = (values - values.mean(axis=(0, 1))).ravel()
    length = np.linalg.norm(values)
    return values / length if length else values  # of one value alone: like nothing

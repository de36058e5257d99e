"""Pictures of painted images: the mask above, what was painted from it below, and where the one lies in the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..inference.overlay import draw_overlay

COLUMNS = 8
SIDE = 128  # pixels, at least, of each image in an overview


def draw_strip(
    pictures: NDArray[np.uint8], lesions: NDArray[np.bool_] | None = None, delta: NDArray[np.floating] | None = None
) -> NDArray[np.uint8]:
    """A column for each image: mask, image, image with the mask's outline, and δ from black (0) to white (1).

    Args:
        pictures: uint8 ``(N, H, W, 3)``.
        lesions: bool ``(N, H, W)``; without them images alone.
        delta: in [0, 1], ``(N, H, W)``; None for none.

    Returns uint8 ``(rows · H, N · W, 3)``, the paper's figure 8.
    """
    rows: list[Sequence[NDArray[np.uint8]]] = [pictures]
    if lesions is not None:
        overlays = [draw_overlay(*pair) for pair in zip(pictures, lesions, strict=True)]
        rows = [[_grey(lesion) for lesion in lesions], pictures, overlays]
    if delta is not None:
        rows.append([_grey(each) for each in delta])
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows])


def draw_overview(pictures: NDArray[np.uint8], lesions: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Strips of up to eight images under one another, small images enlarged.

    Args:
        pictures: uint8 ``(N, H, W, 3)``, N at least 1; the last strip is filled up with grey.
        lesions: bool ``(N, H, W)``.
    """
    side = max(SIDE, pictures.shape[1])
    large = np.stack([_resized(each, side, Image.Resampling.BICUBIC) for each in pictures])
    masks = np.stack([_resized(each, side, Image.Resampling.NEAREST) for each in lesions])
    columns = min(COLUMNS, len(large))
    strips = [draw_strip(large[at : at + columns], masks[at : at + columns]) for at in range(0, len(large), columns)]
    missing = strips[0].shape[1] - strips[-1].shape[1]
    strips[-1] = np.pad(strips[-1], ((0, 0), (0, missing), (0, 0)), constant_values=128)
    return np.concatenate(strips)


def _resized(values: NDArray, side: int, method: Image.Resampling) -> NDArray:
    return np.asarray(Image.fromarray(values).resize((side, side), method))


def _grey(values: NDArray) -> NDArray[np.uint8]:
    # [0, 1] → grey levels in three channels.
    return np.repeat(np.round(values.astype(np.float32) * 255).astype(np.uint8)[..., None], 3, axis=2)

"""Drawing a mask over the image that it belongs to."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

COLOUR = (0, 255, 160)  # no mucosa has it
FILL = 0.2
_FULL_NEIGHBOURHOOD = np.ones((3, 3), dtype=bool)


def draw_overlay(image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int] = COLOUR) -> np.ndarray:
    """Tint the mask lightly and outline it just outside, so that even a lesion of one pixel stays in sight.

    Args:
        image: uint8 ``(H, W, 3)``; left as it is.
        mask: bool ``(H, W)``.
        colour: of the tint and the outline, whose width grows with the image (1 pixel every 256).

    Returns uint8 ``(H, W, 3)``.
    """
    drawn = image.copy()
    if not mask.any():
        return drawn
    width = max(1, round(min(mask.shape) / 256))
    outline = ndimage.binary_dilation(mask, _FULL_NEIGHBOURHOOD, iterations=width) & ~mask
    tinted = (1 - FILL) * image[mask].astype(np.float32) + FILL * np.asarray(colour, dtype=np.float32)
    drawn[mask] = np.round(tinted).astype(np.uint8)
    drawn[outline] = colour
    return drawn

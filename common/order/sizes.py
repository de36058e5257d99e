"""The one thing that every segmentation network asks of an image."""

from __future__ import annotations

from torch import Tensor


def check_size(image: Tensor, network: str, stride: int) -> None:
    """Refuse an image that the network's stages cannot halve.

    Args:
        image: ``(B, C, H, W)``.
        network: its name, for the message.
        stride: what H and W have to be a positive multiple of.

    Raises:
        ValueError: if they are not.
    """
    height, width = image.shape[2], image.shape[3]
    if height % stride != 0 or width % stride != 0 or height == 0 or width == 0:
        raise ValueError(f"{network} takes images whose height and width divide by {stride}; got {height}x{width}")

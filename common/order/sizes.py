"""What segmentation networks ask of an image, and of the widths of their stages."""

from __future__ import annotations

from collections.abc import Sequence

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


def check_widths(channels: Sequence[int], network: str, stages: int | None, divisor: int = 1) -> None:
    """Refuse widths that a network cannot be built of.

    Args:
        channels: widths of the stages.
        network: its name, for the message.
        stages: how many there have to be; at least two if None.
        divisor: what each width has to be a positive multiple of.

    Raises:
        ValueError: if they are not.
    """
    wanted = f"{stages}" if stages else "two or more"
    sound = all(isinstance(width, int) and width > 0 and width % divisor == 0 for width in channels)
    if not sound or (len(channels) != stages if stages else len(channels) < 2):
        what = "positive widths" if divisor == 1 else f"widths that divide by {divisor}"
        raise ValueError(f"{network} takes {wanted} {what} as channels; got {list(channels)}")

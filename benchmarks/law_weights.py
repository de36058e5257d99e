"""What the objectives' weights do to a set of masks: how much of the loss lies on lesions, and on small ones.

LAW's weights depend on δ in [0, 1], which is learned. Two cases are shown: δ constant, where the weights are the
normalised ratio prior within its bounds, and δ the mask itself, at which equation 9 aims.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from common.data import read_datalist
from common.errors import InputError, reports_input_errors
from common.law import LearnableAdaptiveWeighter, ratio_weights
from common.law.cache import read_mask

from . import reporting

SMALL = 0.05  # of the image
COLUMNS = {
    "contrast": "lesion : background",
    "lesions": "of the weight, on lesions",
    "small_lesions": "on small lesions",
    "small_images": "on their images",
}


def weights_of(masks: Tensor) -> Iterator[tuple[str, Tensor]]:
    """The weights of each objective for masks ``(B, 1, h, w)``, under its name."""
    yield "uniform", torch.ones_like(masks)
    yield "ratio", ratio_weights(masks)
    for name, bounds in (("law", {}), ("law without w_max", {"w_max": None})):
        weighter = LearnableAdaptiveWeighter(**bounds)
        yield f"{name}, δ constant", weighter.weigh(torch.full_like(masks, 0.5), masks)
        yield f"{name}, δ = mask", weighter.weigh(masks, masks)


def measure(masks: Tensor, weights: Tensor) -> dict[str, float]:
    """Where the weight of a set lies.

    Args:
        masks: 0 or 1, each with lesion and background, ``(B, 1, h, w)``.
        weights: of the same shape.

    Returns:
        ``contrast``: median over images of the lesion's mean weight over the background's; shares of the whole set's
        weight: ``lesions``, ``small_lesions`` (below 5 % of the image) and ``small_images``, those they lie in.
    """
    ratio = masks.mean(dim=(1, 2, 3))
    on_lesion, of_image = ((weights * where).sum(dim=(1, 2, 3)) for where in (masks, torch.ones_like(masks)))
    background = (of_image - on_lesion) / (1 - ratio)
    small, whole = ratio < SMALL, of_image.sum()
    return {
        "contrast": float((on_lesion / ratio / background).median()),
        "lesions": float(on_lesion.sum() / whole),
        "small_lesions": float(on_lesion[small].sum() / whole),
        "small_images": float(of_image[small].sum() / whole),
    }


def read_masks(settings: argparse.Namespace) -> Tensor:
    """The masks of a list that have both lesion and background at a size, ``(B, 1, size, size)`` float32.

    Raises:
        InputError: if there is none.
    """
    items = read_datalist(settings.dataset_dir, settings.protocol, settings.split)
    masks = [read_mask(item["label"], settings.size).float() for item in tqdm(items, unit="mask", leave=False)]
    weighable = [mask for mask in masks if 0 < mask.mean() < 1]
    if not weighable:
        raise InputError(
            f"{settings.dataset_dir}: no mask of {settings.split!r} has a lesion at {settings.size}×{settings.size}"
        )
    return torch.stack(weighable)


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = reporting.parser("benchmarks.law_weights", __doc__)
    options.add_argument("--dataset_dir", required=True, help="a prepared folder")
    options.add_argument("--protocol", help="of the folder; its default if not given")
    options.add_argument("--split", default="training", help="whose masks")
    options.add_argument("--size", type=int, default=64, help="of the loss: pixels of tiny, latents of sd15 (48)")
    settings = options.parse_args(arguments)
    if settings.size < 2:
        raise InputError(f"--size has to be at least 2; it is {settings.size}")
    head = reporting.heading("benchmarks.law_weights", settings)
    masks = read_masks(settings)
    results: dict[str, Any] = {name: measure(masks, weights) for name, weights in weights_of(masks)}
    rows = [(name, f"{each['contrast']:.1f}", *_percent(each, tuple(COLUMNS)[1:])) for name, each in results.items()]
    print(reporting.table(("objective", *COLUMNS.values()), rows))
    ratio = masks.mean(dim=(1, 2, 3))
    shares = {"below 0.2": ratio < 0.2, "small": ratio < SMALL}
    results["masks"] = {"count": len(masks), **{name: float(each.float().mean()) for name, each in shares.items()}}
    print(f"\n{len(masks)} masks with a lesion; {results['masks']['small']:.1%} of them small (r < {SMALL})")
    print(f"r < 0.2, where w_max holds the whole lesion under a constant δ: {results['masks']['below 0.2']:.1%}")
    reporting.finish(settings, head, results)


def _percent(figures: dict[str, float], keys: tuple[str, ...]) -> list[str]:
    return [f"{figures[key]:.1%}" for key in keys]


if __name__ == "__main__":
    main()

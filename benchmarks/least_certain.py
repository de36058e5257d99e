"""Does what a segmenter is least certain of need correction most? Two scores, over a prepared folder's test list.

    python -m benchmarks.least_certain order_polyps DIR [--images 150] [--protocol P]

The score by which the collection's MONAI Label app serves images, entropy a pixel of lesion, and beside it the plain
mean entropy: Spearman's rank correlation of each with 1 - Dice, and the mean Dice of the least and most certain fifths.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from scipy.stats import spearmanr

from common.columns import align
from common.data import read_datalist
from common.data.reading import lesion_at, open_image
from common.errors import InputError, reports_input_errors

from .runs import REPOSITORY

SCORES = ("entropy a pixel of lesion", "mean entropy")
PARTS = 5  # of the images, ordered by a score


def uncertainty(probabilities: np.ndarray) -> tuple[float, float]:
    """The two `SCORES` of a map of probabilities ``(H, W)``, in bits."""
    lesion = np.clip(np.asarray(probabilities, np.float64), 1e-7, 1 - 1e-7)
    bits = -(lesion * np.log2(lesion) + (1 - lesion) * np.log2(1 - lesion))
    return float(bits.sum() / max(lesion.sum(), 1)), float(bits.mean())


def measure(bundle: str, items: Sequence[Mapping[str, Any]]) -> list[tuple[float, float, float]]:
    """Dice at the network's size, as a bundle's inference finds it, and the two `SCORES` of each item."""
    config = ConfigParser()
    config.read_config(REPOSITORY / bundle / "configs" / "inference.yaml")
    config["device"] = "cpu"
    preprocessing, inferer = (config.get_parsed_content(part) for part in ("preprocessing", "inferer"))
    network = config.get_parsed_content("network").eval()
    rows = []
    for item in items:
        image = preprocessing({"image": item["image"]})["image"]
        with torch.no_grad():
            lesion = torch.as_tensor(inferer(image[None], network)).sigmoid()[0, 0].numpy()
        found, true = lesion > 0.5, lesion_at(open_image(item["label"]), lesion.shape[-1])
        both = found.sum() + true.sum()
        rows.append((2 * (found & true).sum() / both if both else 1.0, *uncertainty(lesion)))
    return rows


def table(rows: Sequence[tuple[float, float, float]]) -> list[list[str]]:
    """A row for each score: its correlation with 1 - Dice, and the Dice of the parts at its two ends.

    Raises:
        InputError: if there are fewer images than `PARTS`.
    """
    if len(rows) < PARTS:
        raise InputError(f"{len(rows)} images; {PARTS} are needed to order them into {PARTS} parts")
    values = np.array(rows)
    lines = [["score", "rank correlation", "Dice, least certain fifth", "most certain fifth"]]
    for number, name in enumerate(SCORES, 1):
        dice = values[np.argsort(-values[:, number], kind="stable"), 0]
        part = len(dice) // PARTS
        correlation = spearmanr(values[:, number], 1 - values[:, 0]).statistic
        lines.append([name, f"{correlation:.2f}", f"{dice[:part].mean():.3f}", f"{dice[-part:].mean():.3f}"])
    return lines


@reports_input_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.least_certain", description=__doc__)
    options.add_argument("bundle", choices=("order_brisc", "order_polyps"))
    options.add_argument("directory", metavar="DIR", help="a prepared folder")
    options.add_argument("--protocol", help="one that it holds; its default if not given")
    options.add_argument("--images", type=int, default=150, help="so many of the list, drawn by a seed")
    settings = options.parse_args(arguments)
    items = read_datalist(settings.directory, settings.protocol, "test")
    random.Random(0).shuffle(items)
    rows = measure(settings.bundle, items[: settings.images])
    print("\n".join(align(table(rows))))
    print(f"{settings.bundle}, {len(rows)} test images, mean Dice {np.mean([row[0] for row in rows]):.3f}")


if __name__ == "__main__":
    main()

"""`python -m common.metrics nearest PAINTED REAL --out OUT`: are painted images copies of training images?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import fire
import numpy as np
from PIL import Image, ImageDraw

from ..columns import align
from ..commands import command
from ..data import read_datalist
from ..data.folder import KEYS
from ..data.reading import encode_png
from ..errors import InputError
from ..files import check_writable, write_atomically, write_json
from .nearest import COPY, FLIPS, Nearest, nearest_images, read_small

QUANTILES = (0.05, 0.5, 0.95, 0.99, 1.0)
PAIRS, SIDE = 12, 128  # drawn; pixels


@command
def nearest(painted: str, real: str, *, out: str, protocol: str | None = None, split: str = "test") -> None:
    """Look up the nearest training image of each painted one: nearest PAINTED REAL --out OUT [--protocol NAME]

    Writes nearest.csv, nearest.json and closest.png, the closest pairs, to look at. They show training images: keep
    them as you keep those.

    Args:
        painted: a prepared folder of painted images; all its lists are looked at.
        real: the prepared folder that the model was trained on.
        out: a folder to write to.
        protocol: that it was trained under; the folder's default if not given.
        split: of the real folder, a list of images that were not trained on, to compare with.
    """
    training = read_datalist(real, protocol, "training")
    held_out = read_datalist(real, protocol, split)
    items = [item for key in KEYS for item in read_datalist(painted, None, key, may_be_empty=True)]
    if not held_out or split == "training":
        raise InputError(f"{real}: --split {split} holds no image that was not trained on; choose another")
    check_writable(out)
    known = [item["image"] for item in training]
    own, reference = (nearest_images([item["image"] for item in each], known) for each in (items, held_out))
    _write(Path(out), items, training, own, reference)
    copies = int((own.similarity >= COPY).sum())
    rows = [["", "images", *(f"{quantile:.0%}" for quantile in QUANTILES), f"≥ {COPY}"]]
    for name, each in (("painted", own), (f"real, {split}", reference)):
        values = [f"{value:.3f}" for value in np.quantile(each.similarity, QUANTILES)]
        rows.append([name, str(len(each.index)), *values, str(int((each.similarity >= COPY).sum()))])
    print("similarity to the nearest training image, mirrored or not: quantiles\n")
    print("\n".join(align(rows)))
    verdict = f"{copies} painted images are copies of training images" if copies else "no painted image is a copy"
    print(f"\n{verdict} by the rule (similarity {COPY} or more); look at {Path(out) / 'closest.png'}")


def _write(
    out: Path,
    items: Sequence[Mapping[str, Any]],
    training: Sequence[Mapping[str, Any]],
    own: Nearest,
    reference: Nearest,
) -> None:
    order = np.argsort(-own.similarity, kind="stable")
    pairs = [(str(items[i]["image"]), str(training[own.index[i]]["image"]), int(own.flip[i])) for i in order]
    lines = ["painted,training,similarity,mirrored"]
    for (first, second, flip), i in zip(pairs, order, strict=True):
        lines.append(f"{Path(first).name},{Path(second).name},{own.similarity[i]:.4f},{int(flip > 0)}")
    write_atomically(out / "nearest.csv", ("\n".join(lines) + "\n").encode())
    quantiles = {
        name: dict(zip(map(str, QUANTILES), np.quantile(each.similarity, QUANTILES).astype(float), strict=True))
        for name, each in (("painted", own), ("reference", reference))
    }
    copies = int((own.similarity >= COPY).sum())
    write_json(out / "nearest.json", {"copy": COPY, "copies": copies, "images": len(items), "quantiles": quantiles})
    write_atomically(out / "closest.png", encode_png(_closest(pairs[:PAIRS], own.similarity[order])))


def _closest(pairs: Sequence[tuple[str, str, int]], similarity: np.ndarray) -> np.ndarray:
    # Painted above, mirrored as it met its nearest training image, which is below.
    columns = []
    for (first, second, flip), value in zip(pairs, similarity, strict=False):
        above = Image.fromarray(np.ascontiguousarray(np.flip(read_small(first, SIDE), FLIPS[flip])))
        ImageDraw.Draw(above).text((4, 2), f"{value:.3f}", fill="white", stroke_width=1, stroke_fill="black")
        columns.append(np.concatenate([np.asarray(above), read_small(second, SIDE)]))
    return np.concatenate(columns, axis=1)


if __name__ == "__main__":
    fire.Fire({"nearest": nearest}, name="python -m common.metrics")

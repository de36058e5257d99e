"""The paper's figures 6 to 9 of your own models and images, as PNG files. Images are spread evenly over the list by
name, never chosen by how they came out.

6: what several models paint for the same masks. 7: mask, painted image, overlay. 8: the learned maps δ on the way
through a training. 9: image, true mask, prediction of a segmenter. What is painted goes to ``--out`` and stays there.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from common.data import read_datalist
from common.data.folder import KEYS, load_json
from common.data.reading import encode_png, lesion_at, open_image
from common.errors import InputError, reports_input_errors
from common.files import check_writable, write_atomically
from common.inference.overlay import draw_overlay
from common.law.loading import SETTINGS
from common.metrics.image_sets import read_squashed
from common.metrics.recovery import check_segmenter, items_of

from .painting import add_painting_options, check_painting_options, named_models, paint
from .runs import REPOSITORY

SIDE, LABEL, GAP = 192, 150, 4  # pixels: of an image, of the words before a row, and between images
WITH_DELTA = ("law", "law_v1")
Picture = NDArray[np.uint8]


def spread_evenly(count: int, wanted: int) -> list[int]:
    """Places of `wanted` things among `count`, from the first to the last."""
    return [round(place) for place in np.linspace(0, count - 1, min(wanted, count))]


def grid(rows: Mapping[str, Sequence[Picture]]) -> Picture:
    """Rows of square pictures of one size, uint8 ``(H, W, 3)`` each, with their names before them and white between."""
    lines = [np.concatenate([_words(name), *(_framed(cell) for cell in row)], axis=1) for name, row in rows.items()]
    return np.concatenate(lines)


def _framed(cell: Picture) -> Picture:
    return np.pad(cell, ((0, GAP), (0, GAP), (0, 0)), constant_values=255)


def _words(text: str) -> Picture:
    image = Image.new("RGB", (LABEL, SIDE + GAP), "white")
    ImageDraw.Draw(image).text((8, SIDE // 2), text, fill="black", anchor="lm", font_size=15)
    return np.asarray(image)


def _grey(mask: NDArray[np.bool_]) -> Picture:
    return np.repeat((mask * np.uint8(255))[..., None], 3, axis=2)


def _shown(item: Mapping[str, Any]) -> tuple[Picture, NDArray[np.bool_]]:
    return np.asarray(read_squashed(item["image"], SIDE)), lesion_at(open_image(item["label"]), SIDE)


def figure_of_painters(settings: argparse.Namespace) -> Picture:
    """Figures 6 and 7: a mask above what each model painted from it; with one model its overlay too."""
    models = named_models(settings)
    folders = {
        name: paint(f"{settings.split}_{name}", model, None, settings.split, settings) for name, model in models.items()
    }
    painted = {name: {item["source_mask"]: item for item in items_of(folder)} for name, folder in folders.items()}
    names = sorted(set.intersection(*(set(each) for each in painted.values())))
    chosen = [names[place] for place in spread_evenly(len(names), settings.columns)]
    rows: dict[str, list[Picture]] = {}
    for name, items in painted.items():
        pairs = [_shown(items[mask]) for mask in chosen]
        rows.setdefault("mask", [_grey(lesion) for _, lesion in pairs])
        rows[name] = [image for image, _ in pairs]
        if settings.figure == 7:
            rows[f"{name}, overlay"] = [draw_overlay(*pair) for pair in pairs]
    return grid(rows)


def figure_of_deltas(settings: argparse.Namespace) -> Picture:
    """Figure 8: masks, and below them the learned map after some of the epochs.

    Raises:
        InputError: if the run kept no strips, or learned no map.
    """
    strips = sorted((Path(settings.run or "") / "strips").glob("epoch_*.png"))
    if not strips:
        raise InputError("--run: holds no strips/; name the output folder of a training of LAW with --strip_images")
    chosen = [strips[place] for place in spread_evenly(len(strips), settings.columns)]
    pictures = {path: np.asarray(Image.open(path).convert("RGB")) for path in chosen}
    height, width = pictures[chosen[0]].shape[:2]
    objective = load_json(Path(settings.run) / "model" / SETTINGS).get("objective", "")
    if objective not in WITH_DELTA:
        raise InputError(f"--run {settings.run}: its strips show no δ; the objective {objective!r} learns none")
    side = height // 4  # mask, sample, overlay, δ

    def row(path: Path, top: int) -> list[Picture]:
        cells = [pictures[path][top : top + side, left : left + side] for left in range(0, width, side)]
        return [np.asarray(Image.fromarray(cell).resize((SIDE, SIDE), Image.Resampling.NEAREST)) for cell in cells]

    rows = {"mask": row(chosen[0], 0)}
    return grid(rows | {f"delta, epoch {int(path.stem.rpartition('_')[2])}": row(path, 3 * side) for path in chosen})


def figure_of_segmenter(settings: argparse.Namespace) -> Picture:
    """Figure 9: image, truth and prediction, by a bundle's own ``evaluate.yaml`` and weights."""
    config = REPOSITORY / settings.bundle / "configs" / "evaluate.yaml"
    check_segmenter([config], settings.checkpoint)
    parser = ConfigParser(ConfigParser.load_config_file(config))
    if settings.checkpoint:
        parser.update({"checkpoint": settings.checkpoint})
    parser.update({"device": torch.device("cpu")})
    network, prepare = (parser.get_parsed_content(name) for name in ("network", "preprocessing"))
    items = sorted(
        read_datalist(settings.dataset_dir, settings.protocol, settings.split),
        key=lambda item: Path(item["image"]).name,
    )
    lesions = [item for item in items if np.asarray(open_image(item["label"])).any()]
    chosen = [lesions[place] for place in spread_evenly(len(lesions), settings.columns)]
    rows: dict[str, list[Picture]] = {"image": [], "truth": [], "prediction": []}
    for item in chosen:
        image, truth = _shown(item)
        with torch.no_grad():
            logits = network.eval()(prepare(item)["image"].as_tensor()[None])[0, 0]
        found = Image.fromarray((logits > 0).numpy()).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        for name, picture in zip(rows, (image, _grey(truth), _grey(np.asarray(found))), strict=True):
            rows[name].append(picture)
    return grid(rows)


FIGURES = {6: figure_of_painters, 7: figure_of_painters, 8: figure_of_deltas, 9: figure_of_segmenter}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options as they were given."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.figures", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    options.add_argument("--figure", type=int, choices=sorted(FIGURES), required=True)
    options.add_argument("--out", required=True, metavar="FOLDER", help="figure_N.png goes there; it shows your images")
    options.add_argument("--dataset_dir", help="a prepared folder (6, 7, 9)")
    options.add_argument("--protocol", help="of the folder; its default if not given")
    options.add_argument("--split", choices=KEYS, default="test")
    options.add_argument("--columns", type=int, default=6, help="images, or in figure 8 epochs (6)")
    options.add_argument("--run", help="the output folder of a training of LAW (8)")
    options.add_argument("--bundle", default="order_polyps", help="whose network segments (9)")
    options.add_argument("--checkpoint", help="its weights; those that ship if not given (9)")
    add_painting_options(options)
    return options.parse_args(arguments)


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    settings = parse(arguments)
    check_painting_options(settings)
    if settings.columns < 1:
        raise InputError(f"--columns has to be 1 or more; it is {settings.columns}")
    if settings.figure == 8 and not settings.run:
        raise InputError("figure 8 is of a training; give --run, its output folder")
    if settings.figure != 8 and not settings.dataset_dir:
        raise InputError(f"figure {settings.figure} is of images; give --dataset_dir, a prepared folder")
    if settings.dataset_dir and not read_datalist(settings.dataset_dir, settings.protocol, settings.split):
        raise InputError(f"--split: the list {settings.split!r} of {settings.dataset_dir} is empty; name another")
    check_writable(settings.out)
    path = Path(settings.out) / f"figure_{settings.figure}.png"
    write_atomically(path, encode_png(FIGURES[settings.figure](settings)))
    print(f"written: {path}")


if __name__ == "__main__":
    main()

"""Does the lesion lie where the mask says? A frozen segmenter looks for it (table 3), in the real images too."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser

from ..data import Pair, Split, read_datalist, write_prepared_folder
from ..data.folder import DATALIST, KEYS
from ..data.reading import lesion_at, open_image
from ..errors import InputError
from ..evaluation.intervals import shown_interval
from ..guard import check_weights
from .drift import DriftReport
from .image_sets import read_squashed


@dataclass(frozen=True)
class Recovery:
    """What a segmenter found of the lesions that were asked for.

    Attributes:
        images: how many.
        dice, iou: means over images, shares, each with its 95 % interval (None of one group).
        drift: `drift.summarise_drift`.
    """

    images: int
    dice: tuple[float, list[float] | None]
    iou: tuple[float, list[float] | None]
    drift: dict[str, Any]


def look_for_lesions(
    config_files: Sequence[str | Path],
    checkpoint: str | Path | None,
    items: Sequence[Mapping[str, Any]],
    output_dir: str | Path,
    *,
    root: str | Path | None = None,
    device: torch.device | str | None = None,
    **settings: Any,
) -> Recovery:
    """Let a bundle's ``evaluate.yaml`` segment images and compare with their masks; and measure the layout's drift.

    It is that very config's evaluator that runs, so the figures are those of ``evaluate`` on the same images.

    Args:
        config_files: ``evaluate.yaml`` of an ORDER bundle; behind it, for another network, its overlay.
        checkpoint: its weights; those that the bundle ships if None.
        items: of a prepared folder's lists.
        output_dir: for ``per_image.csv``, ``summary.json``, ``drift.csv``, ``drift.json`` and pictures.
        root: images below it are named relative to it.
        device: that it runs on; the config's choice if None.
        settings: keys of the config's first section, such as ``image_size``.

    Raises:
        InputError: if a config is missing, or the weights do not fit.
    """
    check_segmenter(config_files, checkpoint)
    parser = _parser_of(config_files)
    given = {"output_dir": str(output_dir), "dataset#data": [dict(item) for item in items], **settings}
    given |= {} if checkpoint is None else {"checkpoint": str(checkpoint)}
    parser.update(given)
    for number, handler in enumerate(parser["handlers"]):
        if handler["_target_"].endswith("SegmentationReport"):
            parser.update({f"handlers#{number}#root": str(root) if root else None})
    if device is not None:
        parser.update({"device": torch.device(device)})
    evaluator = parser.get_parsed_content("evaluator")
    drift = DriftReport(output_dir)
    drift.attach(evaluator)
    evaluator.run()
    found = json.loads((Path(output_dir) / "summary.json").read_text())["all_images"]
    dice, iou = ((found[name]["mean"], shown_interval(found[name])) for name in ("dice", "iou"))
    return Recovery(len(items), dice, iou, drift.summary)


def check_configs(config_files: Sequence[str | Path]) -> None:
    """That they are there.

    Raises:
        InputError: if one is not.
    """
    if missing := [str(path) for path in config_files if not Path(path).is_file()]:
        raise InputError(f"there is no {missing[0]}; name evaluate.yaml of an ORDER bundle, and overlays behind it")


def check_segmenter(config_files: Sequence[str | Path], checkpoint: str | Path | None) -> None:
    """That configs and weights are there, and fit.

    Raises:
        InputError: if not; MONAI would wrap it in errors of its own.
    """
    check_configs(config_files)
    parser = _parser_of(config_files)
    path = checkpoint if checkpoint is not None else parser.get_parsed_content("checkpoint")
    check_weights(parser.get_parsed_content("network_def"), path)


def _parser_of(config_files: Sequence[str | Path]) -> ConfigParser:
    return ConfigParser(ConfigParser.load_config_files([str(path) for path in config_files]))


def shipped_checkpoint(config_files: Sequence[str | Path], checkpoint: str | Path | None) -> str:
    """The weights that look: those given, or those that the bundle ships."""
    return str(checkpoint if checkpoint is not None else _parser_of(config_files).get_parsed_content("checkpoint"))


def items_of(folder: str | Path, protocol: str | None = None, split: str | None = None) -> list[dict[str, Any]]:
    """The items of a prepared folder's list, or of all its lists.

    Raises:
        InputError: if there is none.
    """
    keys = KEYS if split is None else (split,)
    found = [item for key in keys for item in read_datalist(folder, protocol, key, may_be_empty=split is None)]
    if not found:
        raise InputError(f"{folder}: {'its lists are' if split is None else f'the list {split!r} is'} empty")
    return found


def of_the_same_masks(painted: Sequence[Mapping[str, Any]], real: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Those real items whose masks were painted from, each once, in order.

    Raises:
        InputError: if an item was not painted, or a mask that was painted from is not among the real ones.
    """
    if lacking := [str(item["image"]) for item in painted if not item.get("source_mask")]:
        told = f"{len(lacking)} images, such as {lacking[0]}, were not painted by LAW"
        raise InputError(f"{told}: no mask of theirs is recorded")
    wanted = {str(item["source_mask"]) for item in painted}
    found = [dict(item) for item in real if Path(item["label"]).name in wanted]
    if lost := wanted - {Path(item["label"]).name for item in found}:
        raise InputError(
            f"{len(lost)} masks that were painted from are not in the real list, such as {min(lost)!r}; "
            "name the folder, --protocol and --split that the images were painted from"
        )
    return found


def common_side(paths: Sequence[str | Path]) -> int | None:
    """The side of the square that all images are, pixels; None where they are not of one size, or no squares."""
    sizes = {open_image(path).size for path in paths}
    width, height = next(iter(sizes))
    return width if len(sizes) == 1 and width == height else None


def size_of(items: Sequence[Mapping[str, Any]]) -> int:
    """The side of painted images, pixels.

    Raises:
        InputError: if they are not squares of one size, as LAW paints them.
    """
    if (side := common_side([item["image"] for item in items])) is None:
        raise InputError("the painted images are not squares of one size; give a folder that LAW painted")
    return side


def write_at_size(folder: str | Path, items: Sequence[Mapping[str, Any]], size: int) -> list[dict[str, Any]]:
    """A prepared folder of real images made as small as painted ones are, and its items: for a ceiling to hold them to.

    Without the masks whose lesion vanishes at that size: nothing is painted from them either.

    Args:
        folder: new, or written by an earlier call.
        items: of a prepared folder.
        size: of the square, pixels.
    """
    if (Path(folder) / DATALIST).is_file():  # of an earlier call, perhaps of other images
        shutil.rmtree(folder)
    shown = [item for item in items if lesion_at(open_image(item["label"]), size).any()]

    def pairs() -> Iterator[Pair]:
        for item in shown:
            pixels = np.asarray(read_squashed(item["image"], size))
            stem = Path(item["label"]).stem
            source, group = item.get("source", "real"), item.get("group", stem)
            yield Pair(pixels, lesion_at(open_image(item["label"]), size), source, group, stem)

    names = [f"{item.get('source', 'real')}_{Path(item['label']).stem}" for item in shown]
    split = {"real": Split([], names, [])}
    write_prepared_folder(Path(folder), pairs(), split, name="real", licence="as the originals", progress=False)
    return read_datalist(folder, None, "test")


def table(found: Mapping[str, Recovery]) -> list[tuple[str, ...]]:
    """Rows for `columns.align`, the first their header; Dice, IoU and drift in percent."""
    drifts = ("nothing found", "centre off, % of a side", "area, %", "area, % without sign")
    rows: list[tuple[str, ...]] = [("", "images", "Dice", "IoU", *drifts)]
    for name, each in found.items():
        drift = [each.drift[key]["mean"] for key in ("centroid", "area", "absolute_area")]
        shown = [
            "–" if value is None else f"{100 * value:{sign}.1f}"
            for value, sign in zip(drift, ("", "+", ""), strict=True)
        ]
        figures = (_with_interval(*each.dice), _with_interval(*each.iou))
        rows.append((name, str(each.images), *figures, str(each.drift["nothing_found"]), *shown))
    return rows


def _with_interval(mean: float, interval: list[float] | None) -> str:
    spread = "" if interval is None else " [{:.1f}, {:.1f}]".format(*(100 * value for value in interval))
    return f"{100 * mean:.1f}{spread}"

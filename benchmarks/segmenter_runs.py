"""A segmenter's training and measuring as a row of a table, by a bundle's commands; what such tables share."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from common.data import fingerprint, read_datalist
from common.errors import InputError
from common.files import check_writable
from common.training.resolution import ResolutionSchedule

from . import runs
from .runs import OVERLAY, REPOSITORY, bundle_command, check_trainings, config_digest, given, read_history
from .segmenter_rows import ROWS

Outcome = dict[str, Any]


def run_row(
    name: str,
    seed: int,
    settings: argparse.Namespace,
    label: str | None = None,
    painted: Mapping[str, Any] | None = None,
) -> Outcome:
    """Train and measure a row, or go on where an earlier call was stopped.

    Args:
        name: of `ROWS`.
        seed: of the training.
        settings: of `check_options`.
        label: of its folder, with the seed; its name if None.
        painted: ``synthetic_dir``, ``synthetic_images`` and ``digest`` of painted pairs to train on besides.

    Returns the means over sources, shares, as "dice" and "iou" (None where the training diverged), "without_empty" (the
    Dice over the images that have a lesion), "sources" (Dice by source) and "best_epoch" (by validation).

    Raises:
        InputError: if a command fails for another reason than a loss that is not finite.
    """
    folder = Path(settings.out).resolve() / f"{label or name}_{seed}"
    more = {key: value for key, value in (painted or {}).items() if key != "digest" and value is not None}
    training, measuring = _training(name, folder, seed, settings, more), _measuring(name, folder, settings)
    of = {"configs": digest(name, settings), "data": settings.data}
    of |= {"painted": painted["digest"]} if painted else {}
    return runs.run_row(folder, training, measuring, ROWS[name].changes, of, partial(_read, folder))


def digest(name: str, settings: argparse.Namespace) -> str:
    """A digest of all configs of a row, which its commands only name."""
    return config_digest(_training_files(name, settings), measuring_files(name, settings))


def _read(folder: Path, diverged: bool) -> Outcome:
    if diverged:
        return {"dice": None, "iou": None, "without_empty": None, "sources": {}, "best_epoch": None}
    summary = json.loads((folder / "evaluation" / "summary.json").read_text())
    means, lesions = summary["mean_over_sources"], summary["without_empty"]["mean_over_sources"]
    epochs = [row for row in read_history(folder / "run" / "history.csv") if "val_mean_dice" in row]
    return {
        "dice": means["dice"]["mean"],
        "iou": means["iou"]["mean"],
        "without_empty": lesions["dice"]["mean"],
        "sources": {name: row["dice"]["mean"] for name, row in summary["sources"].items()},
        "best_epoch": int(max(epochs, key=lambda row: row["val_mean_dice"])["epoch"]),
    }


def _configs(settings: argparse.Namespace, *names: str) -> list[str]:
    return [str(REPOSITORY / settings.bundle / "configs" / f"{name}.yaml") for name in names]


def _recipes(settings: argparse.Namespace) -> list[str]:
    return sorted(path.stem for path in (REPOSITORY / settings.bundle / "configs").glob("recipe_*.yaml"))


def _training_files(name: str, settings: argparse.Namespace, *overlay: str) -> list[str]:
    several = _configs(settings, "multi_gpu_train") if settings.processes > 1 else []
    return [*_configs(settings, "train", *settings.recipe), *ROWS[name].files, *overlay, *several]


def measuring_files(name: str, settings: argparse.Namespace, *overlay: str) -> list[str]:
    """The configs that measure a row: those of the first version, if it trains by that, look through windows too."""
    first_version = ["evaluate_v1"] if "recipe_v1" in settings.recipe else []
    return [*_configs(settings, "evaluate", *first_version), *ROWS[name].files, *overlay]


def _training(name: str, folder: Path, seed: int, settings: argparse.Namespace, more: Mapping[str, Any]) -> list[str]:
    options = {"dataset_dir": str(Path(settings.dataset_dir).resolve()), "output_dir": str(folder / "run")}
    options |= {"recipe": f"table_{name}", "seed": seed, "epochs": settings.epochs}
    options |= given(settings, "protocol", "image_size", "val_interval", "learning_rate") | dict(more)
    options["batch_size"] = settings.batch_size // settings.processes  # a process's own
    files = _training_files(name, settings, str(folder / OVERLAY))
    return bundle_command("training", files, options, settings.processes)


def _measuring(name: str, folder: Path, settings: argparse.Namespace) -> list[str]:
    options = {"dataset_dir": str(Path(settings.dataset_dir).resolve()), "output_dir": str(folder / "evaluation")}
    options |= {"checkpoint": str(folder / "run" / "model.pt"), "split": settings.split}
    options |= given(settings, "protocol", "image_size")
    return bundle_command("evaluate", measuring_files(name, settings, str(folder / OVERLAY)), options)


def add_options(options: argparse.ArgumentParser) -> None:
    """The options that tables of segmenters share."""
    options.add_argument("--dataset_dir", required=True, help="a prepared folder")
    options.add_argument("--out", required=True, metavar="FOLDER", help="a folder a run; given again, it goes on there")
    options.add_argument("--bundle", default="order_polyps")
    options.add_argument("--recipe", nargs="*", help="the bundle's configs over train.yaml (recipe_best)")
    options.add_argument("--epochs", type=int, default=20, help="of each training (20)")
    for name, kind in (("batch_size", int), ("image_size", int), ("val_interval", int), ("learning_rate", float)):
        options.add_argument(f"--{name}", type=kind, help="the recipe's own if not given")
    options.add_argument("--processes", type=int, default=1, help="that share a training's batches; one a GPU")
    options.add_argument("--protocol", help="of the folder; its default if not given")


def check_options(settings: argparse.Namespace) -> argparse.Namespace:
    """The options with ``rows``, ``seeds`` and ``split``, once nothing in them is wrong that can be known before.

    Raises:
        InputError: for a value out of range, an unknown bundle or recipe, an empty list, or a network that needs what
            is not installed.
    """
    settings.seeds = list(dict.fromkeys(settings.seeds))
    files = [
        file for row in settings.rows for file in (*_training_files(row, settings), *measuring_files(row, settings))
    ]
    for name in settings.recipe:
        if not name.startswith("recipe_"):
            raise InputError(f"--recipe: {name} is none; there are {', '.join(_recipes(settings))}")
    for path in dict.fromkeys(files):
        if not Path(path).is_file():
            raise InputError(f"--bundle, --recipe: there is no {path}")
    merged = ConfigParser.load_config_files(_configs(settings, "train", *settings.recipe))
    for name in ("batch_size", "image_size", "val_interval", "learning_rate"):
        if getattr(settings, name) is None:
            setattr(settings, name, merged[name])
    check_trainings(settings, "epochs", "batch_size", "image_size", "val_interval", "learning_rate")
    for name in settings.rows:
        if not ROWS[name].configuration.can_be_built():
            raise InputError(f"the row {name} needs timm; pip install -c constraints.txt -e '.[train,baselines]'")
    _check_least_size(merged, settings)
    lists = ("training", "validation", settings.split)
    for each in lists:
        if not read_datalist(settings.dataset_dir, settings.protocol, each):
            raise InputError(f"{settings.dataset_dir}: the list {each!r} is empty; every row needs it")
    settings.data = fingerprint(settings.dataset_dir, settings.protocol, lists)
    check_writable(settings.out)
    return settings


def _check_least_size(merged: Mapping[str, Any], settings: argparse.Namespace) -> None:
    # Of the stages that the recipe trains at.
    stages = merged["train"]["resolution"]["stages"]
    smallest = ResolutionSchedule(stages, settings.epochs, image_size=settings.image_size).smallest()
    for name in settings.rows:
        if smallest < (least := ROWS[name].configuration.least_size):
            raise InputError(
                f"the row {name} takes no image below {least}², and {' + '.join(settings.recipe) or 'train'} at "
                f"--image_size {settings.image_size} begins at {smallest}²; raise it, or leave the row out"
            )

"""ORDER beside other segmenters, other attention and other skips (the paper's tables 7, 8 and 10), at one budget.

Every row is trained by the bundle's commands with the same recipe, epochs, size, data and seeds; a network whose own
paper trains it with another loss keeps that. The model kept is the best epoch on validation. The same command goes on
where it was stopped. Table 10 is measured on validation, which also chose the epoch: read it for the order of rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser

from common.data import fingerprint, read_datalist
from common.data.folder import KEYS, join_faults
from common.errors import InputError, reports_input_errors
from common.files import check_writable, write_json
from common.training.resolution import ResolutionSchedule

from . import reporting, runs
from .order_complexity import measure
from .runs import OVERLAY, REPOSITORY, bundle_command, check_trainings, config_digest, given, read_history, spread
from .segmenter_rows import HEAVY, LIGHT, ROWS, TABLES

Outcome = dict[str, Any]
# The protocols that hold the lists that the paper trains and tests on, None being a folder's default, and their sets.
PAPER_LISTS = {"order_polyps": (None, "order"), "order_brisc": ("order_released",)}
PAPER_SOURCES = {
    ("order_polyps", "test"): {"kvasir_seg", "cvc_clinicdb"},
    ("order_polyps", "validation"): {"kvasir_seg", "cvc_clinicdb", "cvc_colondb", "etis"},
    ("order_brisc", "test"): {"brisc2025"},
}


def run_row(name: str, seed: int, settings: argparse.Namespace) -> Outcome:
    """Train and measure a row, or go on where an earlier call was stopped.

    Returns the means over sources, shares, as "dice" and "iou" (None where the training diverged), "without_empty" (the
    Dice over the images that have a lesion), "sources" (Dice by source) and "best_epoch" (by validation).

    Raises:
        InputError: if a command fails for another reason than a loss that is not finite.
    """
    folder = Path(settings.out).resolve() / f"{name}_{seed}"
    training, measuring = _training(name, folder, seed, settings), _measuring(name, folder, settings)
    of = {"configs": digest(name, settings), "data": settings.data}
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


def _training(name: str, folder: Path, seed: int, settings: argparse.Namespace) -> list[str]:
    options = {"dataset_dir": str(Path(settings.dataset_dir).resolve()), "output_dir": str(folder / "run")}
    options |= {"recipe": f"table_{name}", "seed": seed, "epochs": settings.epochs}
    options |= given(settings, "protocol", "image_size", "val_interval", "learning_rate")
    options["batch_size"] = settings.batch_size // settings.processes  # a process's own
    files = _training_files(name, settings, str(folder / OVERLAY))
    return bundle_command("training", files, options, settings.processes)


def _measuring(name: str, folder: Path, settings: argparse.Namespace) -> list[str]:
    options = {"dataset_dir": str(Path(settings.dataset_dir).resolve()), "output_dir": str(folder / "evaluation")}
    options |= {"checkpoint": str(folder / "run" / "model.pt"), "split": settings.split}
    options |= given(settings, "protocol", "image_size")
    return bundle_command("evaluate", measuring_files(name, settings, str(folder / OVERLAY)), options)


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The options, once nothing in them is wrong that can be known before a training.

    Raises:
        InputError: for a value out of range, an unknown bundle or recipe, an empty list, or a network that needs what
            is not installed.
    """
    settings.rows = list(dict.fromkeys(settings.rows or TABLES[settings.table]))
    settings.seeds = list(dict.fromkeys(settings.seeds))
    settings.split = settings.split or ("validation" if settings.table == 10 else "test")
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


def _cells(
    name: str, outcomes: list[Outcome], counted: Mapping[str, Any], settings: argparse.Namespace
) -> tuple[str, ...]:
    row = ROWS[name]
    sources = sorted({source for each in outcomes for source in each["sources"]})
    table, split = (
        (f"{settings.bundle}, development", "validation") if settings.table == 10 else (settings.bundle, "test")
    )
    as_printed = settings.split == split and settings.protocol in PAPER_LISTS.get(settings.bundle, ())
    as_printed &= set(sources) == PAPER_SOURCES.get((settings.bundle, split))
    printed = row.dice.get(table, "–") if as_printed else "–"
    return (
        row.name,
        f"{counted['parameters']:,}",
        f"{counted['convolutions'] / 1e9:.3f}",
        f"{counted['algorithm'] / 1e9:.3f}",
        spread([each["dice"] for each in outcomes]),
        spread([each["iou"] for each in outcomes]),
        spread([each["without_empty"] for each in outcomes]),
        ", ".join(f"{source} {spread([each['sources'].get(source) for each in outcomes])}" for source in sources),
        printed,
    )


def show(
    outcomes: Mapping[str, list[Outcome]], counted: Mapping[str, Mapping[str, Any]], settings: argparse.Namespace
) -> str:
    """The table, with its budget below it; `counted` is `order_complexity.measure` of each row."""
    header = (
        "row",
        "parameters",
        "conv. G at 256²",
        "with attention G",
        "Dice",
        "IoU",
        "Dice, lesions",
        "by source",
        "paper",
    )
    rows = [_cells(name, own, counted[name], settings) for name, own in outcomes.items() if own]
    shared = f" shared by {settings.processes} processes" if settings.processes > 1 else ""
    if shared and not torch.cuda.is_available():  # where they are synchronised
        shared += " with batch statistics of their own"
    budget = (
        f"{settings.bundle}, protocol {settings.protocol or 'by default'}, "
        f"{' + '.join(['train', *settings.recipe])}, {settings.epochs} epochs, "
        f"{settings.image_size}², batches of {settings.batch_size}{shared}, learning rate {settings.learning_rate:g}, "
        f"validated every {settings.val_interval}, seeds {', '.join(map(str, settings.seeds))}; "
        f"measured on {settings.split}; computed on {runs.device()}"
    )
    key = "Dice and IoU in percent, means of the sources' means; the paper's nnUNet is U-Net, its MK-UNet the backbone"
    if any(each["dice"] is None for own in outcomes.values() for each in own):
        key += "; (n of N): the loss of the other seeds ceased to be finite"
    if "pranet" in outcomes:
        key += "; PraNet begins without its authors' ImageNet weights"
    return f"{reporting.table(header, rows)}\n\n{budget}\n{key}"


def in_turn(settings: argparse.Namespace) -> list[tuple[str, int]]:
    """Rows and seeds in the order of their runs: each row has one seed before any has two, and the heavy come last."""
    heavy = [name for name in settings.rows if name in HEAVY]
    groups = [name for name in settings.rows if name not in HEAVY], heavy
    return [(name, seed) for rows in groups for seed in settings.seeds for name in rows]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options as they were given."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.order_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--table", type=int, choices=sorted(TABLES), required=True)
    options.add_argument("--dataset_dir", required=True, help="a prepared folder")
    options.add_argument("--out", required=True, metavar="FOLDER", help="a folder a run; given again, it goes on there")
    options.add_argument("--bundle", default="order_polyps")
    options.add_argument("--recipe", nargs="*", default=["recipe_best"], help="the bundle's configs over train.yaml")
    options.add_argument("--rows", nargs="+", choices=list(ROWS), help=f"all of the table; light are {' '.join(LIGHT)}")
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--epochs", type=int, default=20, help="of each training (20)")
    for name, kind in (("batch_size", int), ("image_size", int), ("val_interval", int), ("learning_rate", float)):
        options.add_argument(f"--{name}", type=kind, help="the recipe's own if not given")
    options.add_argument("--processes", type=int, default=1, help="that share a training's batches; one a GPU")
    options.add_argument("--protocol", help="of the folder; its default if not given")
    options.add_argument("--split", choices=KEYS, help="test, or for table 10 validation")
    return options.parse_args(arguments)


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    settings = checked(parse(arguments))
    head = reporting.heading("benchmarks.order_tables", settings)
    counted = {name: measure(ROWS[name].configuration) for name in settings.rows}
    outcomes, failed = runs.run_each(
        settings.rows,
        in_turn(settings),
        lambda name, seed: run_row(name, seed, settings),
        lambda found: write_json(f"{settings.out}/table_{settings.table}.json", {**head, **found}),
    )
    print(f"\n{show(outcomes, counted, settings)}")
    if failed:
        raise join_faults(failed, "the table's rows; the same command tries them again")


if __name__ == "__main__":
    main()

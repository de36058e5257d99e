"""Short trainings of ORDER, each with one thing changed: what the recipe is chosen by, on validation alone.

All have one budget, which is short: two or three points between two of them tell nothing, and what a short run gains by
it a long one may not. ``base`` is `recipe_best.yaml` at one resolution throughout. The same command goes on where it
was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.data import fingerprint
from common.data.folder import join_faults
from common.errors import InputError, reports_input_errors
from common.files import check_writable, write_json
from common.weights import load_weights

from . import reporting, runs, trial_parts
from .configurations import Configuration
from .runs import (
    OVERLAY,
    REPOSITORY,
    bundle_command,
    check_trainings,
    config_digest,
    file_digest,
    given,
    read_history,
    spread,
)
from .segmenter_rows import ROWS

PARTS = "benchmarks.trial_parts"
EQUATION_18 = {"_target_": "DiceCELoss", "sigmoid": True}
FLIPS = [
    {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5, "spatial_axis": 0},
    {"_target_": "RandFlipd", "keys": ["image", "label"], "prob": 0.5, "spatial_axis": 1},
    {"_target_": "RandRotate90d", "keys": ["image", "label"], "prob": 0.5, "max_k": 3},
]
COLOURS = [
    {"_target_": "RandScaleIntensityd", "keys": "image", "factors": 0.2, "prob": 0.5},
    {"_target_": "RandScaleIntensityd", "keys": "image", "factors": 0.1, "prob": 0.5, "channel_wise": True},
    {"_target_": "RandAdjustContrastd", "keys": "image", "gamma": [0.75, 1.35], "prob": 0.5},
    {"_target_": "ThresholdIntensityd", "keys": "image", "threshold": 1.0, "above": False, "cval": 1.0},
]
SHAPES = {
    "_target_": "RandAffined",
    "keys": ["image", "label"],
    "prob": 0.6,
    "rotate_range": 0.35,
    "scale_range": [0.25, 0.25],  # an axis each: a number alone would change the first
    "translate_range": "$[@image_size // 10] * 2",
    "mode": ["bilinear", "nearest"],
    "padding_mode": "zeros",
}
NO_AVERAGE = {
    "ema": None,
    "model": {"_target_": "common.weights.unwrapped", "network": "@network"},
    "train#handlers#-1#_disabled_": True,  # the recipe's last, by which the average is attached
}


@dataclass(frozen=True)
class Trial:
    """One change.

    Attributes:
        what: it is, in words.
        overlay: config keys and values, over the recipe.
        scale: the image's size over that of the others; its Dice is at that size.
        taught: whether ``--teacher`` goes to the first of its transforms.
    """

    what: str
    overlay: Mapping[str, Any] = field(default_factory=dict)
    scale: int = 1
    taught: bool = False


def _network(name: str) -> dict[str, Any]:
    return {"network_def#_target_": f"{PARTS}.{name}"}


def _transforms(*transforms: Any) -> dict[str, Any]:
    return {"train#random_transforms": [*FLIPS, *transforms]}


def _component(baseline: Configuration) -> dict[str, Any]:
    arguments = {name: list(value) for name, value in baseline.arguments.items()}  # as they come back from JSON
    return {"_target_": f"common.baselines.{baseline.network}", **arguments}


def _taught(**teacher: Any) -> dict[str, Any]:
    return {"train#random_transforms": [{"_target_": f"{PARTS}.AddTeacher", **teacher}, *FLIPS]}


SHIPPED = "$@bundle_root + '/models/model.pt'"
LARGER = ROWS["ege_unet"].configuration
ONE_CYCLE = {
    "_target_": "torch.optim.lr_scheduler.OneCycleLR",
    "optimizer": "@optimizer",
    "max_lr": "@learning_rate",
    "total_steps": "$@epochs * len(@train#dataloader)",
}
SUPERVISED = {"_target_": "common.training.DeepSupervision", "loss": EQUATION_18, "weights": [1.0, 0.5, 0.25, 0.125]}
TRIALS: dict[str, Trial] = {
    "base": Trial("nothing changed"),
    "equation_18": Trial("the loss of equation 18", {"loss": EQUATION_18}),
    "rate_high": Trial("equation 18, learning rate 1e-2", {"loss": EQUATION_18, "learning_rate": 0.01}),
    "rate_low": Trial("equation 18, learning rate 2.5e-3", {"loss": EQUATION_18, "learning_rate": 0.0025}),
    "supervised": Trial("equation 18, deep supervision", {**_network("Supervised"), "loss": SUPERVISED}),
    "colours": Trial("brightness, each channel's and gamma at random", _transforms(*COLOURS)),
    "shapes": Trial("turns by 20°, scale by a quarter, shifts by a tenth, in 6 of 10", _transforms(SHAPES)),
    "half": Trial(
        "the network at half the resolution, the image at twice",
        {"network_def": {"_target_": f"{PARTS}.HalfResolution"}},
        scale=2,
    ),
    "no_average": Trial("no moving average of the weights", NO_AVERAGE),
    "zero_start": Trial("the attention's way back begins at 0", _network("ZeroStart")),
    "gate_closed": Trial("the attention's confidence begins at 0.12", _network("GateClosed")),
    "backbone": Trial("no attention", {"network_def#attention_skips": []}),
    "skips_21": Trial("attention on skips {2, 1}: 6.98 GFLOPs", {"network_def#attention_skips": [2, 1]}),
    "pooled_21": Trial("attention on skips {2, 1}, pooled keys and values", _network("Pooled21")),
    "teacher": Trial("half of the label by the shipped weights", _taught(weights=SHIPPED)),
    "larger_teacher": Trial(
        "half of the label by EGE-UNet, 514,702 parameters, trained for --teacher",
        _taught(weights=None, size="@image_size", network=_component(LARGER)),
        taught=True,
    ),
    "boundary": Trial(
        "the structure loss and a tenth of distances", {"loss": {"_target_": f"{PARTS}.StructureAndBoundary"}}
    ),
    "one_cycle": Trial("a rise over 30 % of the run, then a fall to 0", {"lr_scheduler": ONE_CYCLE}),
    "post_norm": Trial("the attention normalises what it adds", _network("PostNorm")),
}


def run_trial(name: str, seed: int, settings: argparse.Namespace) -> dict[str, Any]:
    """Train one, or take what came of it; the last epoch's "dice" on validation and its "loss" (None if it diverged).

    Raises:
        InputError: if the command fails for another reason than a loss that is not finite.
    """
    trial, folder = TRIALS[name], Path(settings.out).resolve() / f"{name}_{seed}"
    configs = REPOSITORY / settings.bundle / "configs"
    recipe = [str(configs / f"{each}.yaml") for each in ("train", "recipe_best")]
    several = [str(configs / "multi_gpu_train.yaml")] if settings.processes > 1 else []
    files = [*recipe, str(folder / OVERLAY), *several]
    options = {"dataset_dir": str(Path(settings.dataset_dir).resolve()), "output_dir": str(folder / "run")}
    options |= {"recipe": f"trial_{name}", "seed": seed, "epochs": settings.epochs}
    options |= {
        "image_size": settings.image_size * trial.scale,
        "batch_size": settings.batch_size // settings.processes,
    }
    options |= given(settings, "protocol", "val_interval")
    overlay = {"train#resolution#stages": [[1.0, 1.0]], **trial.overlay}
    if trial.taught:
        overlay["train#random_transforms#0#weights"] = settings.teacher

    def read(diverged: bool) -> dict[str, Any]:
        last = {} if diverged else read_history(folder / "run" / "history.csv")[-1]
        return {"dice": last.get("val_mean_dice"), "loss": last.get("loss")}

    command = bundle_command("training", files, options, settings.processes)
    of = {"configs": config_digest([*recipe, *several]), "data": settings.data, **_made_of(overlay, settings)}
    return runs.run_row(folder, command, (), overlay, of, read)


def _made_of(overlay: Mapping[str, Any], settings: argparse.Namespace) -> dict[str, str]:
    # What an overlay only names, by its content: an outcome is not taken for that of another teacher or part.
    said, found = json.dumps(overlay), {}
    if PARTS in said:
        found["parts"] = file_digest(trial_parts.__file__)
    if "AddTeacher" in said:
        shipped = REPOSITORY / settings.bundle / "models" / "model.pt"
        found["teacher"] = file_digest(shipped if SHIPPED in said else settings.teacher)
    return found


def show(outcomes: Mapping[str, list[Mapping[str, Any]]], settings: argparse.Namespace) -> str:
    """The table, with its budget below it."""
    rows = [
        (name, TRIALS[name].what, spread([each["dice"] for each in own]), spread([each["loss"] for each in own], 1, 3))
        for name, own in outcomes.items()
        if own
    ]
    budget = (
        f"{settings.bundle}, recipe_best, {settings.epochs} epochs at {settings.image_size}², batches of "
        f"{settings.batch_size} shared by {settings.processes} processes, seeds "
        f"{', '.join(map(str, settings.seeds))}; Dice on validation at the last epoch, in percent; losses of different "
        "kinds do not compare"
    )
    return f"{reporting.table(('trial', 'what', 'validation Dice', 'training loss'), rows)}\n\n{budget}"


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The options, once nothing in them is wrong that can be known before a training.

    Raises:
        InputError: for a value out of range, an unknown bundle, or a folder that cannot be read or written to.
    """
    wanted = settings.trials or [name for name, trial in TRIALS.items() if settings.teacher or not trial.taught]
    settings.trials, settings.seeds = list(dict.fromkeys(wanted)), list(dict.fromkeys(settings.seeds))
    if not (REPOSITORY / settings.bundle / "configs" / "recipe_best.yaml").is_file():
        raise InputError(
            f"--bundle: there is no {settings.bundle} with a recipe_best; name order_polyps or order_brisc"
        )
    settings.val_interval = settings.epochs  # the last epoch is what is compared
    check_trainings(settings, "epochs", "image_size", "batch_size", "val_interval")
    if any(TRIALS[name].taught for name in settings.trials):
        if settings.teacher is None:
            raise InputError("larger_teacher: give --teacher, the model.pt of order_tables' row ege_unet")
        settings.teacher = str(Path(settings.teacher).resolve())
        load_weights(LARGER.build(), settings.teacher)
    settings.data = fingerprint(settings.dataset_dir, settings.protocol)
    check_writable(settings.out)
    return settings


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options as they were given."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.order_trials",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--dataset_dir", required=True, help="a prepared folder")
    options.add_argument("--out", required=True, metavar="FOLDER", help="a folder a run; given again, it goes on there")
    options.add_argument("--bundle", default="order_polyps")
    options.add_argument("--trials", nargs="+", choices=list(TRIALS), help="all; larger_teacher with a --teacher alone")
    options.add_argument("--teacher", help="of larger_teacher: the model.pt of an EGE-UNet of the paper's size")
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--epochs", type=int, default=10, help="of each training (10)")
    options.add_argument("--image_size", type=int, default=128, help="128")
    options.add_argument("--batch_size", type=int, default=8, help="8")
    options.add_argument("--processes", type=int, default=1, help="that share a training's batches; one a GPU")
    options.add_argument("--protocol", help="of the folder; its default if not given")
    return options.parse_args(arguments)


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    settings = checked(parse(arguments))
    head = reporting.heading("benchmarks.order_trials", settings)
    outcomes, failed = runs.run_each(
        settings.trials,
        [(name, seed) for seed in settings.seeds for name in settings.trials],  # all have one seed before any has two
        lambda name, seed: run_trial(name, seed, settings),
        lambda found: write_json(f"{settings.out}/trials.json", {**head, **found}),
    )
    print(f"\n{show(outcomes, settings)}")
    if failed:
        raise join_faults(failed, "the trials; the same command tries them again")


if __name__ == "__main__":
    main()

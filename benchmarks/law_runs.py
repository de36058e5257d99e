"""One row of a table about LAW: train, paint, look for the lesions again, by the bundle's commands; resumable."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai.bundle import ConfigParser

from common.data import fingerprint, read_datalist
from common.errors import InputError
from common.files import write_json
from common.law import load_denoiser
from common.law.checks import LAW_RULES, PAINTING_RULES, steps_faults
from common.law.generate import model_digest
from common.law.presets import TINY, find_preset
from common.metrics.recovery import check_segmenter, write_at_size
from common.settings import setting_faults

from . import runs
from .runs import (
    OVERLAY,
    REPOSITORY,
    bundle_command,
    config_digest,
    file_digest,
    given,
    read_history,
    spread,
    succeeds,
)

SEGMENTER = REPOSITORY / "order_polyps" / "configs" / "evaluate.yaml"  # it looks at an image as every bundle's does
NETWORKS = REPOSITORY / "common" / "baselines" / "configs"
ERRORS = ("error on lesions", "elsewhere")
RISE = 1.1  # of the validation error over its lowest, from which on a training counts as unstable


@dataclass(frozen=True)
class Outcome:
    """What came of a row for one seed.

    Attributes:
        dice, iou: of mask recovery, means over images, shares; None where the training diverged.
        history: the rows of ``history.csv``.
        diverged: whether the loss ceased to be finite.
    """

    dice: float | None
    iou: float | None
    history: list[dict[str, float]]
    diverged: bool

    @property
    def stable(self) -> bool:
        """The rule: the loss stays finite, and the validation error ends at most 1.1 times its lowest."""
        errors = [row["val_error"] for row in self.history if "val_error" in row]
        return not self.diverged and bool(errors) and errors[-1] <= RISE * min(errors)

    def figures(self) -> dict[str, float | None]:
        """What a table's file keeps of it."""
        errors = {f"{where}_error": self.error(where) for where in ("lesion", "background")}
        return {"dice": self.dice, "iou": self.iou, **errors}

    def error(self, where: str) -> float | None:
        """The squared error of the validation images, in noise that all rows share, of the checkpoint that is kept.

        `where` is "lesion" or "background". None where the training diverged.
        """
        validated = [row for row in self.history if "val_score" in row]
        return max(validated, key=lambda row: row["val_score"])[f"val_{where}_error"] if validated else None


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """The options that tables of rows share."""
    options = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_argument("--dataset_dir", required=True, help="a prepared folder")
    options.add_argument("--out", required=True, metavar="FOLDER", help="a folder a run; given again, it goes on there")
    options.add_argument("--bundle", default="law_polyps")
    options.add_argument("--overlays", nargs="*", default=[], help="such as sd15: the bundle's configs over train.yaml")
    options.add_argument("--weights", help="the image prior, a model folder; the bundle's own if not given")
    options.add_argument("--protocol", help="of the folder; its default if not given")
    options.add_argument("--steps", type=int, default=1000, help="of each training")
    options.add_argument("--steps_per_epoch", type=int, default=100)
    options.add_argument("--batch_size", type=int, help="of training; the bundle's own if not given")
    options.add_argument("--sampling_steps", type=int, default=50, help="of DDIM")
    options.add_argument("--guidance", type=float, help="of sampling; the bundle's own if not given")
    options.add_argument("--control_scale", type=float, help="of sampling; the bundle's own if not given")
    options.add_argument("--network", help="that looks for the lesion: unet is the paper's; ORDER if not given")
    options.add_argument("--segmenter", help="its weights; those that the bundle names if not given")
    options.add_argument("--split", default="test", help="whose masks are painted from")
    return options


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The options of `parser`, paths made absolute, once nothing in them is wrong that can be known before a training.

    Raises:
        InputError: for a value out of range, an empty or unknown list, or a bundle without a segmenter of its own.
    """
    rules = {**LAW_RULES, **{key: PAINTING_RULES[key] for key in ("guidance", "control_scale")}}
    rules["sampling_steps"] = PAINTING_RULES["steps"]
    numbers = ("sampling_steps", "guidance", "control_scale", "steps", "steps_per_epoch", "batch_size")
    faults = setting_faults(given(settings, *numbers), rules)
    if faults := faults or steps_faults(settings.steps, settings.steps_per_epoch):
        raise InputError("; ".join(faults))
    settings.segmenter = str(Path(settings.segmenter or _own_segmenter(settings)).resolve())
    if not Path(settings.segmenter).is_file():
        raise InputError(f"--segmenter: there is no file {settings.segmenter}")
    check_segmenter(_looking(SEGMENTER, settings), settings.segmenter)
    if settings.weights and Path(settings.weights).exists():
        settings.weights = str(Path(settings.weights).resolve())
    if not read_datalist(settings.dataset_dir, settings.protocol, settings.split):
        raise InputError(f"--split: the list {settings.split!r} of {settings.dataset_dir} is empty; name another")
    settings.of = _digests(settings)
    return settings


def run_row(name: str, overlay: Mapping[str, Any], seed: int, settings: argparse.Namespace) -> Outcome:
    """Train and measure a row, or go on where an earlier call was stopped.

    Args:
        name: of the row, and its folder's with the seed.
        overlay: what sets the row apart: config keys and values.
        seed: of draws, order and first weights; painting has the same seeds in all rows.
        settings: of `checked`.

    Raises:
        InputError: if a command fails for another reason than a loss that is not finite.
    """
    folder = Path(settings.out).resolve() / f"{name}_{seed}"
    training, measuring = _training(folder, seed, settings), _measuring(folder, settings)

    def read(diverged: bool) -> dict[str, Any]:
        dice, iou = (None, None) if diverged else _read_means(folder / "evaluation")
        return vars(Outcome(dice, iou, read_history(folder / "run" / "history.csv"), diverged))

    return Outcome(**runs.run_row(folder, training, measuring, overlay, settings.of, read))


def run_ceiling(settings: argparse.Namespace) -> tuple[float, float]:
    """Dice and IoU of the same segmenter on the real images of the same masks, at the size of the painted ones.

    A measure to hold the rows against; a painted lesion can be plainer than a real one.

    Raises:
        InputError: if the folder holds the ceiling of other settings.
    """
    folder = Path(settings.out).resolve() / "ceiling"
    config = _merged(settings)
    size = config["image_size"] or find_preset(config["preset"]).image_size
    if config["preset"] == TINY.name:
        size = config["image_size"] or load_denoiser(_prior(settings)).preset.image_size
    command = _measuring_real(folder, settings)
    items = read_datalist(settings.dataset_dir, settings.protocol, settings.split)
    wanted = {"command": command, "image_size": size, "of": settings.of}
    record = folder / "ceiling.json"
    if record.is_file():
        if json.loads(record.read_text()) != wanted:
            raise InputError(f"{folder} holds the ceiling of other settings; name another --out")
        return _read_means(folder / "evaluation")
    write_at_size(folder / "data", items, size)
    succeeds(command, folder / "evaluation.log")
    means = _read_means(folder / "evaluation")
    write_json(record, wanted)
    return means


def _config(settings: argparse.Namespace, name: str) -> str:
    return str(REPOSITORY / settings.bundle / "configs" / f"{name}.yaml")


def _training_files(settings: argparse.Namespace) -> list[str]:
    return [_config(settings, name) for name in ("train", *settings.overlays)]


def _merged(settings: argparse.Namespace) -> dict[str, Any]:
    return dict(ConfigParser.load_config_files(_training_files(settings)))


def _measuring_real(folder: Path, settings: argparse.Namespace) -> list[str]:
    options = {"dataset_dir": str(folder / "data"), "output_dir": str(folder / "evaluation")}
    options |= {"checkpoint": settings.segmenter}
    return bundle_command("evaluate", _looking(SEGMENTER, settings), options)


def _looking(evaluate: str | Path, settings: argparse.Namespace) -> list[str]:
    # A config that measures, for the network that looks.
    return [str(evaluate), *([] if settings.network is None else [str(NETWORKS / f"{settings.network}.yaml")])]


def _digests(settings: argparse.Namespace) -> dict[str, str]:
    # What the commands only name, by its content: a finished row is not taken for that of other weights or defaults.
    prior = _prior(settings)
    return {
        "configs": config_digest(_training_files(settings), _measuring_files(settings)),
        "prior": model_digest(prior) if prior.is_dir() else str(prior),
        "segmenter": file_digest(settings.segmenter),
        "data": fingerprint(settings.dataset_dir, settings.protocol, ("training", "validation", settings.split)),
    }


def _prior(settings: argparse.Namespace) -> Path:
    return Path(settings.weights or REPOSITORY / settings.bundle / "models" / "tiny")


def _measuring_files(settings: argparse.Namespace) -> list[str]:
    return _looking(_config(settings, "evaluate"), settings)


def _evaluating(settings: argparse.Namespace) -> dict[str, Any]:
    return dict(ConfigParser.load_config_files(_measuring_files(settings)))


def _own_segmenter(settings: argparse.Namespace) -> Path:
    if settings.network is not None:
        raise InputError(f"--network {settings.network} needs weights of its own: give --segmenter MODEL")
    parser = ConfigParser(_evaluating(settings))
    parser.get_parsed_content("imports")
    if (own := parser.get_parsed_content("segmenter")) is None:
        raise InputError(f"--segmenter: {settings.bundle} has none of its own; give ORDER's weights for such images")
    return Path(own)


def painted_with(settings: argparse.Namespace) -> str:
    """How the images of all rows were painted, for the line below a table."""
    guidance = _evaluating(settings)["guidance"] if settings.guidance is None else settings.guidance
    scale = _merged(settings)["control_scale"] if settings.control_scale is None else settings.control_scale
    painted = f"painted in {settings.sampling_steps} steps at guidance {guidance:g} and control_scale {scale:g}"
    looks = settings.network or "ORDER"
    return f"{painted}; scale {_merged(settings)['preset']}; {looks} looks for the lesions"


def errors_of(outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """The errors on lesions and elsewhere, in thousandths, for `ERRORS`."""
    lesion, background = (spread([each.error(where) for each in outcomes], 1000) for where in ("lesion", "background"))
    return lesion, background


def _training(folder: Path, seed: int, settings: argparse.Namespace) -> list[str]:
    files = [*_training_files(settings), str(folder / OVERLAY)]
    options = {"seed": seed, "steps": settings.steps, "steps_per_epoch": settings.steps_per_epoch}
    options |= given(settings, "weights", "protocol", "batch_size")
    options |= {"dataset_dir": str(Path(settings.dataset_dir).resolve()), "output_dir": str(folder / "run")}
    options |= {"cache_dir": str(folder.parent / "cache"), "strip_images": 0}
    return bundle_command("training", files, options)


def _measuring(folder: Path, settings: argparse.Namespace) -> list[str]:
    options = {"dataset_dir": str(Path(settings.dataset_dir).resolve()), "split": settings.split}
    options |= given(settings, "protocol", "segmenter", "guidance", "control_scale")
    if _merged(settings)["preset"] != TINY.name:
        options["base"] = settings.weights  # which has the encoders that a run does not keep
    options |= {"checkpoint": str(folder / "run" / "model"), "output_dir": str(folder / "evaluation")}
    options |= {"steps": settings.sampling_steps}
    return bundle_command("evaluate", _measuring_files(settings), options)


def _read_means(folder: Path) -> tuple[float, float]:
    # Over images: what is painted is of one source, and the real images are of several.
    means = json.loads((folder / "summary.json").read_text())["all_images"]
    return means["dice"]["mean"], means["iou"]["mean"]

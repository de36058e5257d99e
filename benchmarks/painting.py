"""Who paints for a table, and what they paint: pairs from the masks of a list, by a LAW bundle's own command."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

from common.data import read_datalist
from common.data.folder import load_json
from common.errors import InputError
from common.law.checks import PAINTING_RULES
from common.law.loading import SETTINGS
from common.settings import setting_faults

from .runs import REPOSITORY, bundle_command, given, succeeds


def add_painting_options(options: argparse.ArgumentParser, painter: str | None = "law_polyps") -> None:
    """The options of `paint`; `painter` is the bundle that paints if none is given."""
    options.add_argument(
        "--models", nargs="+", metavar="NAME=FOLDER", help="who paints; the bundle's own law if not given"
    )
    options.add_argument(
        "--train",
        nargs=argparse.REMAINDER,
        metavar="OPTIONS",
        help="train who paints first, or go on with it: a row each of law_objectives (table 6: law_ablation), whose "
        "options follow, such as --train --steps 500 --seeds 0 1; last on the line",
    )
    options.add_argument("--painter", default=painter, help="the bundle whose inference.yaml paints")
    options.add_argument("--sampling_steps", type=int, default=50, help="of DDIM (50)")
    options.add_argument("--guidance", type=float, help="of sampling; the bundle's own if not given")
    options.add_argument("--control_scale", type=float, help="of sampling; the model's own if not given")
    options.add_argument("--base", help="of models of Stable Diffusion's size: its folder")


def check_painting_options(settings: argparse.Namespace) -> None:
    """That they are in range.

    Raises:
        InputError: if one is not.
    """
    rules = {key: PAINTING_RULES[key] for key in ("guidance", "control_scale")}
    rules["sampling_steps"] = PAINTING_RULES["steps"]
    if faults := setting_faults(given(settings, "sampling_steps", "guidance", "control_scale"), rules):
        raise InputError("; ".join(faults))
    if not (REPOSITORY / settings.painter / "configs" / "inference.yaml").is_file():
        raise InputError(f"--painter: there is no bundle {settings.painter}; name law_polyps, law_kits19 or law_brisc")


def named_models(settings: argparse.Namespace) -> dict[str, Path]:
    """The model folders by name; the bundle's own, as law, where none was given.

    Raises:
        InputError: if one is not NAME=FOLDER, or its folder is not there.
    """
    models: dict[str, Path] = {}
    for each in settings.models or [f"law={REPOSITORY / settings.painter / 'models' / 'tiny'}"]:
        name, _, path = each.partition("=")
        if not path or not name.isidentifier():
            raise InputError(f"--models: {each!r} is not NAME=FOLDER, such as law=runs/law/model")
        if not Path(path).is_dir():
            raise InputError(f"--models {name}: there is no folder {path}; give a model folder of a training")
        if not (Path(path) / SETTINGS).is_file():
            raise InputError(f"--models {name}: {path} is no model that a training saved (…/run/model)")
        models[name] = Path(path)
    return models


def train_painters(settings: argparse.Namespace, components: bool = False) -> Path | None:
    """Train the models of table 3, or with `components` those of table 6, into ``settings.out``; what is done is kept.

    None where ``--train`` was not given.

    Raises:
        InputError: if models were named besides.
        SystemExit: as those commands end, with a line of what is wrong.
    """
    if settings.train is None:
        return None
    if settings.models or getattr(settings, "runs", None):
        raise InputError("--train trains who paints, and --models or --runs names them; give one of these")
    from . import law_ablation, law_objectives  # here: they have matplotlib and diffusers to load

    folder = Path(settings.out) / "trained"
    command = ["--dataset_dir", str(settings.dataset_dir), "--out", str(folder), "--bundle", settings.painter]
    for name in ("protocol", "guidance", "control_scale"):
        command += [] if getattr(settings, name) is None else [f"--{name}", str(getattr(settings, name))]
    command += ["--sampling_steps", str(settings.sampling_steps), *settings.train]
    (law_ablation if components else law_objectives).main(command)
    return folder


def scale_of(models: Iterable[Path]) -> str:
    """The presets of model folders, such as tiny."""
    return " and ".join(sorted({str(load_json(model / SETTINGS)["preset"]) for model in models}))


def paint(name: str, model: Path, wanted: int | None, split: str, settings: argparse.Namespace, seed: int = 0) -> Path:
    """A folder of pairs painted from the masks of a list; it goes on where it was stopped.

    Args:
        name: of the folder in ``settings.out``.
        model: a model folder.
        wanted: so many pairs; one of each mask that has a lesion if None.
        split: the list.
        settings: with those of `add_painting_options`, ``dataset_dir``, ``protocol`` and ``out``.
        seed: of the noise.

    Raises:
        InputError: if the command fails, or the folder was painted with other settings.
    """
    if not read_datalist(settings.dataset_dir, settings.protocol, split):
        raise InputError(f"{settings.dataset_dir}: the list {split!r} is empty; there is no mask to paint from")
    folder = Path(settings.out).resolve() / f"painted_{name}"
    options = {"dataset_dir": str(Path(settings.dataset_dir).resolve()), "key": split, "output_dir": str(folder)}
    options |= {"checkpoint": str(model.resolve()), "seed": seed, "steps": settings.sampling_steps}
    options |= given(settings, "protocol", "guidance", "control_scale", "base")
    options |= {} if wanted is None else {"total_images": wanted}
    config = REPOSITORY / settings.painter / "configs" / "inference.yaml"
    print(f"painting {folder.name}", flush=True)
    succeeds(bundle_command("inference", str(config), options), folder.with_suffix(".log"))
    return folder

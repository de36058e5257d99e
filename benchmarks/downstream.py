"""Segmenters trained on real images alone and with painted pairs beside them (the paper's tables 4 and 5).

LAW paints from the masks of the training list; painted pairs join the real images of a training, which keeps its steps,
its schedule and its real validation. Table 4 has a row for each model that paints, table 5 a row for each dose of one
model's pairs, a smaller one being part of a larger. The same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.data import read_datalist, synthetic_digest, with_synthetic
from common.data.folder import KEYS
from common.data.synthetic import HELD_OUT, painted_pairs
from common.errors import InputError, reports_input_errors
from common.files import write_json
from common.provenance import seen_before

from . import reporting
from .law_quality import trained_models
from .painting import add_painting_options, check_painting_options, named_models, paint, scale_of, train_painters
from .papers_lists import NOT_THE_PAPERS, are_the_papers
from .runs import device, spread
from .segmenter_rows import ROWS
from .segmenter_runs import Outcome, add_options, check_options, run_row

DOSES = (250, 500, 1000, 1450)
OBJECTIVES = {"uniform": "ControlNet", "ratio": "ArSDM", "distillation": "Adaptive Distillation", "law": "LAW"}
OBJECTIVES |= {"law_v1": "LAW, version 1"}
# What the paper prints, percent, of the U-Net that it calls nnUNet.
TABLE_4 = {
    "law_polyps": {
        "real": "71.7 ± 0.4",
        "uniform": "72.3 ± 1.2",
        "ratio": "73.5 ± 1.1",
        "distillation": "72.6 ± 0.9",
        "law": "74.1 ± 0.8",
    },
    "law_kits19": {
        "real": "70.4 ± 2.9",
        "uniform": "71.1 ± 0.8",
        "ratio": "72.3 ± 0.5",
        "distillation": "73.3 ± 0.5",
        "law": "73.2 ± 0.6",
    },
    "law_brisc": {
        "real": "87.7 ± 0.2",
        "uniform": "88.1 ± 0.3",
        "ratio": "88.7 ± 0.3",
        "distillation": "89.0 ± 0.4",
        "law": "89.6 ± 0.4",
    },
}
# Version 1's table 2, Dice and IoU; its LAW has a teacher.
VERSION_1 = {
    "law_polyps": {
        "real": "78.3, IoU 70.9",
        "uniform": "75.9, IoU 68.8",
        "distillation": "79.5, IoU 72.7",
        "law_v1": "83.2, IoU 84.5",  # as printed, though no IoU is above its Dice
    },
    "law_kits19": {
        "real": "96.5, IoU 93.4",
        "uniform": "96.1, IoU 93.2",
        "distillation": "97.9, IoU 96.0",
        "law_v1": "98.0, IoU 95.5",
    },
}
PAINTERS = {"order_polyps": "law_polyps", "order_brisc": "law_brisc"}  # who paints for a segmenter, if nobody is named
POOLS = {"law_polyps": 1450, "law_kits19": 5003, "law_brisc": 3933}  # pairs that table 4 paints
TABLE_5 = {250: "72.3 ± 0.6", 500: "72.5 ± 0.6", 1000: "73.8 ± 0.7", 1450: "74.1 ± 0.8"}


@dataclass(frozen=True)
class Variant:
    """A row: what is trained on.

    Attributes:
        label: of its folders.
        shown: in the table.
        model: the name of who painted; None of real images alone.
        images: painted pairs; None for all.
        paper: what the paper prints.
    """

    label: str
    shown: str
    model: str | None
    images: int | None
    paper: str


def variants(settings: argparse.Namespace) -> list[Variant]:
    """The rows of a table; with the paper's figures where images, painter, list and dose are its own."""
    own = settings.papers and settings.split == "test"
    whole = settings.table == 5 or settings.images == POOLS.get(settings.painter)
    figures = VERSION_1 if settings.version == 1 else TABLE_4
    printed = figures.get(settings.painter, {}) if own and whole else {}
    rows = [Variant("real", "real only", None, 0, printed.get("real", "–"))]
    if settings.table == 5:
        (model,) = settings.models
        own = own and settings.version == 2  # the first has no table of doses
        doses = TABLE_5 if own and settings.painter == "law_polyps" and model == "law" else {}
        rows += [Variant(f"{model}_{n}", f"real + {n}", model, n, doses.get(n, "–")) for n in settings.doses]
        return rows
    for model in settings.models:
        shown = f"real + {OBJECTIVES.get(model, model)}"
        rows.append(Variant(f"{model}_{settings.images}", shown, model, settings.images, printed.get(model, "–")))
    return rows


def _painted(variant: Variant, seed: int, folders: Mapping[str, Path], settings: argparse.Namespace) -> dict | None:
    if variant.model is None:
        return None
    folder, where = folders[variant.model], {"dataset_dir": settings.dataset_dir, "protocol": settings.protocol}
    items = with_synthetic([], folder, variant.images, seed=seed, **where)
    return {"synthetic_dir": str(folder), "synthetic_images": variant.images, "digest": synthetic_digest(items)}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The options, once nothing in them is wrong that can be known before any work.

    Raises:
        InputError: see `check_options`; or for a model that is not there, two models for table 5, or a dose below 1.
    """
    settings.painter = settings.painter or PAINTERS.get(settings.bundle, "law_polyps")
    settings.rows, settings.doses = [settings.network], sorted(set(settings.doses))
    settings.models = named_models(settings)
    settings.recipe = ["recipe_best"] if settings.recipe is None else settings.recipe
    if settings.table == 5 and len(settings.models) != 1:
        raise InputError(f"table 5 is of one model's pairs; --models names {len(settings.models)}")
    if min(*settings.doses, settings.images) < 1:
        raise InputError(
            "--doses and --images have to be whole numbers of 1 or more; real images alone come by themselves"
        )
    if settings.table == 5 and settings.doses[-1] > settings.images:
        raise InputError(
            f"--doses {settings.doses[-1]}: more than the {settings.images} that are painted; see --images"
        )
    check_painting_options(settings)
    settings = check_options(settings)
    settings.papers = are_the_papers(settings.dataset_dir, settings.protocol, settings.split, settings.painter)
    held_out = [item for key in HELD_OUT for item in read_datalist(settings.dataset_dir, settings.protocol, key)]
    settings.seen = {name: seen_before(model, held_out).get("training", 0) for name, model in settings.models.items()}
    return settings


def check_pairs(folders: Mapping[str, Path], rows: Sequence[Variant], settings: argparse.Namespace) -> None:
    """That each model has painted as many pairs that may be trained on as its rows ask for, before any training.

    Raises:
        InputError: if not; some are left out where a training mask's lesion is that of a held-out one too.
    """
    for name, folder in folders.items():
        wanted = max(variant.images or 0 for variant in rows if variant.model == name)
        pairs = painted_pairs(folder, settings.dataset_dir, settings.protocol)
        if wanted > len(pairs.usable):
            out = ", ".join(f"{count} {reason}" for reason, count in pairs.left_out.items())
            raise InputError(
                f"{folder} holds {len(pairs.usable)} pairs that may be trained on, and {wanted} are asked for ({out}); "
                f"paint more with --images {settings.images + wanted - len(pairs.usable)} into another --out, or name "
                f"--doses up to {len(pairs.usable)}"
            )


def show(outcomes: Mapping[str, Sequence[Outcome]], rows: Sequence[Variant], settings: argparse.Namespace) -> str:
    """The table, with its budget below it, also as files."""
    base = [each["dice"] for each in outcomes["real"]]
    lines = []
    for variant in rows:
        own = list(outcomes[variant.label])
        gains = [
            each["dice"] - real if None not in (each["dice"], real) else None
            for each, real in zip(own, base, strict=False)
        ]
        gain = "–" if variant.model is None else _signed(gains)
        sources = sorted({source for each in own for source in each["sources"]})
        by_source = ", ".join(f"{name} {spread([each['sources'].get(name) for each in own])}" for name in sources)
        dice = spread([each["dice"] for each in own])
        lines.append((variant.shown, dice, gain, spread([each["iou"] for each in own]), by_source, variant.paper))
    header = ("trained on", "Dice", "against real only", "IoU", "by source", "paper, U-Net")
    shared = f" shared by {settings.processes} processes" if settings.processes > 1 else ""
    budget = (
        f"{ROWS[settings.network].name}, {settings.bundle}, protocol {settings.protocol or 'by default'}, "
        f"{' + '.join(['train', *settings.recipe])}, {settings.epochs} epochs of the real images' steps, "
        f"{settings.image_size}², batches of {settings.batch_size}{shared}, "
        f"seeds {', '.join(map(str, settings.seeds))}; measured on {settings.split}; "
        f"{settings.images} pairs painted in {settings.sampling_steps} steps of DDIM, guidance "
        f"{settings.guidance or 'the bundle’s own'}, control scale {settings.control_scale or 'the model’s own'}, "
        f"scale {scale_of(settings.models.values())}; computed on {device()}"
    )
    key = (
        "Dice and IoU in percent, of the sources' means, mean ± standard deviation over seeds, which draw the doses "
        "too; the gain is that of equal seeds\nwhere there are fewer masks than pairs, some are painted from twice; "
        "the paper paints once from each, and does not name the test images of its table 4"
    )
    for name, count in settings.seen.items():
        if count:
            key += f"\nwarning: {name} was trained on {count} of the validation and test images that this table is of"
    if not (settings.papers and settings.split == "test"):
        key += f"\n{NOT_THE_PAPERS}"
    return reporting.publish(settings.out, f"table_{settings.table}", header, lines, f"{budget}\n{key}")


def _plain(head: Mapping[str, Any]) -> dict[str, Any]:
    # Paths among the settings as text.
    return json.loads(json.dumps(head, default=str))


def _signed(gains: Sequence[float | None]) -> str:
    # With the 95 % interval of the mean of paired differences, by Student's t, where there are several.
    found = np.array([gain for gain in gains if gain is not None])
    if not len(found):
        return "–"
    mean = 100 * float(found.mean())
    if len(found) == 1:
        return f"{mean:+.1f}"
    from scipy.stats import t

    half = 100 * float(t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / np.sqrt(len(found)))
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options as they were given."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.downstream",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--table", type=int, choices=(4, 5), required=True)
    add_options(options)
    options.add_argument("--network", choices=list(ROWS), default="order", help="unet is the paper's")
    add_painting_options(options, painter=None)
    options.add_argument("--version", type=int, choices=(1, 2), default=2, help="of the paper, whose figures are shown")
    options.add_argument("--doses", type=int, nargs="+", default=list(DOSES), help="of table 5")
    options.add_argument("--images", type=int, default=DOSES[-1], help="that are painted, and doses drawn from (1450)")
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options.add_argument("--split", choices=KEYS, default="test")
    return options.parse_args(arguments)


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    settings = parse(arguments)
    settings.painter = settings.painter or PAINTERS.get(settings.bundle, "law_polyps")
    if settings.train is not None:
        checked(argparse.Namespace(**vars(settings)))  # all that is known to be wrong, before hours of training
    trained = train_painters(settings)
    if trained is not None:  # of each objective its first seed
        found = trained_models(trained)
        names = [name for name in found if settings.table == 4 or name == "law"]
        if not names:
            raise InputError("--train left no model of the objective law, whose pairs table 5 is of; see its table 3")
        settings.models = [f"{name}={found[name][min(found[name])]}" for name in names]
        told = ", ".join(f"{name} (seed {min(found[name])})" for name in names)
        print(f"\npainting by what was trained: {told}", flush=True)
    settings = checked(settings)
    rows = variants(settings)
    head = reporting.heading("benchmarks.downstream", settings)
    folders = {
        name: paint(name, model, settings.images, "training", settings) for name, model in settings.models.items()
    }
    check_pairs(folders, rows, settings)
    outcomes: dict[str, list[Outcome]] = {variant.label: [] for variant in rows}
    for seed in settings.seeds:  # every row has one seed before any has two
        for variant in rows:
            painted = _painted(variant, seed, folders, settings)
            label = f"{settings.network}_{variant.label}"
            outcomes[variant.label].append(run_row(settings.network, seed, settings, label, painted))
            write_json(f"{settings.out}/table_{settings.table}.json", {**_plain(head), "results": outcomes})
    print(f"\n{show(outcomes, rows, settings)}")


if __name__ == "__main__":
    main()

"""How like the real images the models' own are (tables 1, 2 and the FID column of 6): FID, CLIP-I, and without weights.

Table 1 paints from the training masks and compares with the training images, table 2 from the test masks and with the
test images, as many of each. FID wants Inception's weights and CLIP-I a CLIP; without them there is the Fréchet
distance on the features of ORDER, which is no FID and stands under its own name. The models are those that table 3 or 6
trained (``--runs``), a row each, its seeds together, or any that are named.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import bundle_folder
from common.data import fingerprint
from common.errors import InputError, reports_input_errors
from common.files import write_json
from common.law.generate import model_digest
from common.metrics.clip import ClipFeatures, check_clip_folder
from common.metrics.features import FeatureExtractor, SegmenterFeatures
from common.metrics.image_sets import ImageSet, read_set
from common.metrics.inception import InceptionFeatures, find_inception_weights
from common.metrics.quality import clip_similarity, frechet

from . import reporting
from .law_ablation import PAPER as COMPONENTS
from .painting import add_painting_options, check_painting_options, named_models, paint, scale_of
from .runs import spread

SPLITS = {1: "training", 2: "test", 6: "training"}
NAMES = {"uniform": "ControlNet (uniform)", "ratio": "ArSDM (ratio)", "distillation": "Adaptive distillation"}
NAMES |= {"law": "LAW"}
COLUMNS = ("FID", "CLIP-I", "CLIP-I, in pairs", "Fréchet, ORDER's features")
# What the paper prints: FID and CLIP-I, by table and painter.
PAPER: dict[tuple[int, str], dict[str, tuple[str, str]]] = {
    (1, "law_polyps"): {
        "uniform": ("65.54 ± 0.54", "0.884 ± 0.021"),
        "ratio": ("98.38 ± 0.61", "0.843 ± 0.003"),
        "distillation": ("66.40 ± 0.72", "0.903 ± 0.011"),
        "law": ("52.32 ± 0.70", "0.895 ± 0.001"),
    },
    (1, "law_kits19"): {
        "uniform": ("69.24 ± 0.65", "0.833 ± 0.012"),
        "ratio": ("104.12 ± 0.53", "0.852 ± 0.012"),
        "distillation": ("70.78 ± 0.57", "0.839 ± 0.022"),
        "law": ("50.13 ± 0.44", "0.937 ± 0.001"),
    },
    (2, "law_polyps"): {
        "uniform": ("158.13 ± 0.15", "0.875 ± 0.021"),
        "ratio": ("136.56 ± 0.63", "0.869 ± 0.091"),
        "distillation": ("129.11 ± 0.89", "0.863 ± 0.076"),
        "law": ("108.43 ± 0.71", "0.887 ± 0.090"),
    },
    (2, "law_kits19"): {
        "uniform": ("144.13 ± 0.31", "0.837 ± 0.003"),
        "ratio": ("123.24 ± 0.64", "0.841 ± 0.053"),
        "distillation": ("118.76 ± 0.81", "0.831 ± 0.011"),
        "law": ("89.51 ± 0.96", "0.934 ± 0.051"),
    },
    (2, "law_brisc"): {
        "uniform": ("139.22 ± 0.38", "0.881 ± 0.025"),
        "ratio": ("123.22 ± 0.04", "0.891 ± 0.093"),
        "distillation": ("131.22 ± 0.74", "0.886 ± 0.069"),
        "law": ("112.58 ± 0.68", "0.919 ± 0.079"),
    },
    (6, "law_polyps"): {
        "distillation": ("66.60", "0.901"),
        "delta_map": ("70.34", "0.854"),
        "normalisation": ("70.11", "0.876"),
        "min_clamp": ("66.51", "0.881"),
        "law": ("52.28", "0.893"),
        "no_max_clamp": ("80.22", "0.893"),
    },
}


def trained_models(runs: Path) -> dict[str, dict[int, Path]]:
    """The models that a table of objectives or components left, by row and seed.

    Raises:
        InputError: if there is none.
    """
    found: dict[str, dict[int, Path]] = {}
    for folder in sorted(runs.glob("*_*/run/model")):
        if matched := re.fullmatch(r"(\w+)_(\d+)", folder.parents[1].name):
            found.setdefault(matched[1], {})[int(matched[2])] = folder
    if not found:
        raise InputError(f"--runs {runs}: holds no trained model; give the --out of law_objectives or law_ablation")
    return found


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The options, once nothing in them is wrong that can be known before any work.

    Raises:
        InputError: if a model, a list or weights that were named are not there.
    """
    check_painting_options(settings)
    if settings.runs and settings.models:
        raise InputError("--runs and --models both name who paints; give one of them")
    if settings.runs:
        settings.models = trained_models(Path(settings.runs))
    else:
        settings.models = {name: {0: path} for name, path in named_models(settings).items()}
    settings.split = SPLITS[settings.table]
    settings.data = fingerprint(settings.dataset_dir, settings.protocol, (settings.split,))
    if settings.inception is not None:
        find_inception_weights(settings.inception)
    if settings.clip is not None:
        check_clip_folder(settings.clip)
    return settings


def _extractors(settings: argparse.Namespace) -> tuple[dict[str, FeatureExtractor], list[str]]:
    # By column; and a line for each that is missing.
    weights = Path(bundle_folder("order_polyps")) / "models" / "model.pt"
    found: dict[str, FeatureExtractor] = {COLUMNS[3]: SegmenterFeatures(weights, device=settings.device)}
    missing = []
    try:
        found["FID"] = InceptionFeatures(find_inception_weights(settings.inception), settings.device)
    except InputError as error:
        if settings.inception is not None:
            raise
        missing.append(f"not measured: {error}")
    if settings.clip is None:
        missing.append("not measured: CLIP-I needs the folder of a CLIP model; name it with --clip FOLDER")
    else:
        found["CLIP-I"] = ClipFeatures(settings.clip, settings.device)
    return found, missing


def measure(painted: ImageSet, real: ImageSet, extractors: Mapping[str, FeatureExtractor]) -> dict[str, float]:
    """The figures of one set of painted images, by column."""
    figures: dict[str, float] = {}
    with warnings.catch_warnings(action="ignore"):  # of few images: the table says how many there are
        for name in ("FID", COLUMNS[3]):
            if name in extractors:
                figures[name] = frechet(painted, real, extractors[name], resamples=0, progress=False).distance
    if (clip := extractors.get("CLIP-I")) is not None:
        found = clip_similarity(painted, real, clip, progress=False)
        figures["CLIP-I"] = found.to_set.mean
        if found.in_pairs is not None:
            figures[COLUMNS[2]] = found.in_pairs.mean
    return figures


def run_row(
    name: str, seed: int, model: Path, real: ImageSet, extractors: Mapping[str, FeatureExtractor], settings: Any
) -> dict[str, Any]:
    """Paint and measure, or take what was measured before of the same model, images and weights."""
    folder = paint(f"{settings.split}_{name}_{seed}", model, None, settings.split, settings, seed)
    record = Path(settings.out) / f"quality_{settings.split}_{name}_{seed}.json"
    of = {"model": model_digest(model), "data": settings.data, "extractors": _digest(settings, extractors)}
    if record.is_file() and (known := json.loads(record.read_text()))["of"] == of:
        return known["figures"]
    painted = read_set(folder)
    count = min(len(painted), len(real))
    figures = {"images": count, **measure(painted.drawn(count), real.drawn(count), extractors)}
    write_json(record, {"of": of, "figures": figures})
    return figures


def _digest(settings: argparse.Namespace, extractors: Mapping[str, FeatureExtractor]) -> str:
    # Of what the figures depend on besides the images: which networks, by their files.
    told = [sorted(extractors), settings.sampling_steps, settings.guidance, settings.control_scale]
    for path in (settings.inception, settings.clip):
        files = sorted(Path(path).rglob("*")) if path and Path(path).is_dir() else [Path(path)] if path else []
        told.append([(each.name, each.stat().st_size) for each in files if each.is_file()])
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()


def show(figures: Mapping[str, list[Mapping[str, Any]]], settings: argparse.Namespace) -> str:
    """The table, with its budget below it, also as files."""
    printed = PAPER.get((settings.table, settings.painter), {})
    rows = []
    for name, own in figures.items():
        label = COMPONENTS[name][0] if settings.table == 6 and name in COMPONENTS else NAMES.get(name, name)
        cells = [spread([each.get(column) for each in own], 1, 3 if "CLIP" in column else 2) for column in COLUMNS]
        rows.append((label, *cells, *printed.get(name, ("–", "–"))))
    counts = sorted({each["images"] for own in figures.values() for each in own})
    scale = scale_of(model for seeds in settings.models.values() for model in seeds.values())
    notes = (
        f"table {settings.table}, {settings.painter}, protocol {settings.protocol or 'by default'}: painted from the "
        f"masks of {settings.split}, against its {' or '.join(map(str, counts))} real images, as many of each; "
        f"{settings.sampling_steps} steps of DDIM, scale {scale}\nmean ± standard deviation over the models' seeds"
    )
    header = ("model", *COLUMNS, "paper: FID", "paper: CLIP-I")
    return reporting.publish(settings.out, f"table_{settings.table}", header, rows, notes)


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options as they were given."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.law_quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--table", type=int, choices=sorted(SPLITS), required=True)
    options.add_argument("--dataset_dir", required=True, help="a prepared folder")
    options.add_argument("--out", required=True, metavar="FOLDER", help="given again, it goes on there")
    options.add_argument("--protocol", help="of the folder; its default if not given")
    options.add_argument("--runs", metavar="FOLDER", help="--out of law_objectives or law_ablation, whose models paint")
    add_painting_options(options)
    options.add_argument("--inception", help="pytorch-fid's weights; where torch keeps them if not given")
    options.add_argument("--clip", help="the folder of a CLIP")
    options.add_argument("--device", default="cpu", help="cpu, or cuda")
    return options.parse_args(arguments)


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    settings = checked(parse(arguments))
    head = reporting.heading("benchmarks.law_quality", settings)
    extractors, missing = _extractors(settings)
    print("".join(f"{line}\n" for line in missing), end="")
    real = read_set(settings.dataset_dir, settings.protocol, settings.split)
    figures: dict[str, list[Mapping[str, Any]]] = {}
    for name, seeds in settings.models.items():
        figures[name] = [run_row(name, seed, model, real, extractors, settings) for seed, model in seeds.items()]
        content = json.loads(json.dumps({**head, "results": figures}, default=str))
        write_json(f"{settings.out}/table_{settings.table}.json", content)
    print(f"\n{show(figures, settings)}")


if __name__ == "__main__":
    main()

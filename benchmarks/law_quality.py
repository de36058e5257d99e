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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common import bundle_folder
from common.data import fingerprint, read_datalist
from common.data.folder import load_json
from common.devices import usable_device
from common.errors import InputError, reports_input_errors
from common.files import write_json
from common.law.generate import model_digest
from common.metrics.clip import ClipFeatures, check_clip_folder, rows_of_origins
from common.metrics.features import FeatureExtractor, Features, SegmenterFeatures
from common.metrics.image_sets import ImageSet, read_set, sizes_of
from common.metrics.inception import InceptionFeatures, find_inception_weights, kept_inception_weights
from common.metrics.quality import clip_similarity, frechet
from common.provenance import seen_before
from common.weights import weights_digest

from . import reporting
from .law_ablation import PAPER as COMPONENTS
from .painting import add_painting_options, check_painting_options, named_models, paint, scale_of, train_painters
from .papers_lists import NOT_THE_PAPERS, are_the_papers
from .runs import differences, spread

SPLITS = {1: "training", 2: "test", 6: "training"}
NAMES = {"uniform": "ControlNet (uniform)", "ratio": "ArSDM (ratio)", "distillation": "Adaptive distillation"}
NAMES |= {"law": "LAW", "law_v1": "LAW, version 1"}
# Version 1's table 1, whose LAW has a teacher; its table 4 prints what table 6 does.
VERSION_1 = {
    (1, "law_polyps"): {
        "uniform": ("65.60", "0.884"),
        "ratio": ("98.08", "0.845"),
        "distillation": ("66.60", "0.901"),
        "law_v1": ("52.28", "0.893"),
    },
    (1, "law_kits19"): {
        "uniform": ("69.24", "0.833"),
        "ratio": ("104.12", "0.852"),
        "distillation": ("70.78", "0.839"),
        "law_v1": ("63.12", "0.845"),
    },
}
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
    """The models that a table of objectives or components left, by row and seed; of rows that are done.

    Rows whose training diverged are not among them.

    Raises:
        InputError: if there is none, or two were trained with other settings than seed and objective.
    """
    found: dict[str, dict[int, Path]] = {}
    budgets: dict[str, dict[str, Any]] = {}
    for folder in sorted(runs.glob("*_*/run/model")):
        matched = re.fullmatch(r"(\w+)_(\d+)", folder.parents[1].name)
        record = folder.parents[1] / "outcome.json"
        content = load_json(record) if record.is_file() else {}
        outcome = content.get("outcome")
        if matched and outcome and not outcome["diverged"]:
            found.setdefault(matched[1], {})[int(matched[2])] = folder
            trained = content.get("commands", {}).get("training", {})
            budgets[folder.parents[1].name] = {key: value for key, value in trained.items() if key != "--seed"}
    if not found:
        raise InputError(f"--runs {runs}: holds no row that is done; give the --out of law_objectives or law_ablation")
    first = next(iter(budgets))
    for name, budget in budgets.items():
        if other := differences(budgets[first], budget):
            raise InputError(f"--runs {runs}: {first} and {name} were trained with different settings ({other})")
    order = [*NAMES, *COMPONENTS]  # the paper's
    return dict(sorted(found.items(), key=lambda row: order.index(row[0]) if row[0] in order else len(order)))


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The options, once nothing in them is wrong that can be known before any work.

    Raises:
        InputError: if a model, a list or weights that were named are not there.
    """
    check_own_options(settings)
    if settings.runs and settings.models:
        raise InputError("--runs and --models both name who paints; give one of them")
    if settings.runs:
        settings.models = trained_models(Path(settings.runs))
    else:
        settings.models = {name: {0: path} for name, path in named_models(settings).items()}
    settings.split = SPLITS[settings.table]
    settings.data = fingerprint(settings.dataset_dir, settings.protocol, (settings.split,))
    settings.papers = are_the_papers(settings.dataset_dir, settings.protocol, settings.split, settings.painter)
    return settings


def check_own_options(settings: argparse.Namespace) -> None:
    """Those that do not depend on who paints; before any training of theirs.

    Raises:
        InputError: if one is out of range, or names what is not there.
    """
    check_painting_options(settings)
    usable_device(settings.device)
    if settings.size is not None and settings.size < 1:
        raise InputError(f"--size has to be 1 or more; it is {settings.size}")
    if settings.resamples < 0:
        raise InputError(f"--resamples has to be 0 or more; it is {settings.resamples}")
    if settings.inception is not None:
        find_inception_weights(settings.inception)
    if settings.clip is not None:
        check_clip_folder(settings.clip)


def _extractors(settings: argparse.Namespace) -> tuple[list[FeatureExtractor], ClipFeatures | None, list[str]]:
    # And a line for each that is missing.
    missing, found = [], []
    try:
        found.append(InceptionFeatures(find_inception_weights(settings.inception), settings.device))
    except InputError as error:
        if settings.inception is not None:
            raise
        missing.append(f"not measured: {error}")
    if settings.clip is None:
        missing.append("not measured: CLIP-I needs the folder of a CLIP model; name it with --clip FOLDER")
    clip = None if settings.clip is None else ClipFeatures(settings.clip, settings.device)
    return [*found, SegmenterFeatures(_order_weights(), device=settings.device)], clip, missing


def _order_weights() -> Path:
    return Path(bundle_folder("order_polyps")) / "models" / "model.pt"


@dataclass
class Measuring:
    """What measures, and the features of real images that were computed for an earlier row.

    Attributes:
        extractors: of the Fréchet distances.
        clip: of CLIP-I; None without.
        size: that both sets are squashed to, pixels; as they are if None.
        resamples: of the intervals.
    """

    extractors: Sequence[FeatureExtractor]
    clip: ClipFeatures | None
    size: int | None
    resamples: int
    _known: dict[tuple[str, tuple[Path, ...]], Features] = field(default_factory=dict)

    def features(self, extractor: FeatureExtractor | ClipFeatures, images: ImageSet) -> Features:
        """Of real images, computed once."""
        key = extractor.name, images.paths
        if key not in self._known:
            self._known[key] = extractor(images.paths, self.size)
        return self._known[key]


def measure(painted: ImageSet, real: ImageSet, by: Measuring) -> dict[str, Any]:
    """The figures of one set of painted images, the floor of each distance, and what warns of them.

    Returns "figures", "intervals" (95 %) and "halves", by column; "images", of each set; "sizes" in pixels; "warnings".
    """
    found: dict[str, Any] = {"figures": {}, "intervals": {}, "halves": {}, "images": [len(painted), len(real)]}
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", UserWarning)
        for extractor in by.extractors:
            known = by.features(extractor, real)
            distance = frechet(painted, real, extractor, size=by.size, known=known, resamples=by.resamples)
            found["figures"][column(extractor)] = distance.distance
            found["intervals"][column(extractor)] = distance.interval
            found["halves"][column(extractor)] = distance.halves
    if by.clip is not None:
        similarity = clip_similarity(painted, real, by.clip, size=by.size, known=by.features(by.clip, real))
        found["halves"]["CLIP-I"] = similarity.real.mean
        for name, each in (("CLIP-I", similarity.to_set), ("CLIP-I, in pairs", similarity.in_pairs)):
            if each is not None:
                found["figures"][name], found["intervals"][name] = each.mean, each.interval
    sizes = [sizes_of(painted.paths), sizes_of(real.paths)]
    return {**found, "sizes": sizes, "warnings": [str(each.message) for each in told]}


def column(extractor: FeatureExtractor) -> str:
    """What a distance on an extractor's features is called in a table."""
    return extractor.name if extractor.name == "FID" else f"Fréchet, {extractor.name}"


def of_its_masks(painted: ImageSet, real: ImageSet) -> ImageSet:
    """Those real images whose masks were painted from, each once, so that there are as many of both.

    Raises:
        InputError: if a mask is not among the real ones.
    """
    rows = rows_of_origins(painted.origins, real.masks)
    if rows is None:
        raise InputError("some images were painted from masks that the real list has not; name another --out")
    return real.at(sorted(set(rows)))


def run_row(
    name: str,
    seed: int,
    model: Path,
    real: ImageSet,
    by: Measuring,
    settings: argparse.Namespace,
) -> dict[str, Any]:
    """Paint and measure, or take what was measured before of the same model, images and weights."""
    folder = paint(f"{settings.split}_{name}_{seed}", model, None, settings.split, settings, seed)
    record = Path(settings.out) / f"quality_{settings.split}_{name}_{seed}.json"
    of = {"model": model_digest(model, settings.base), "data": settings.data, "how": _digest(settings)}
    if record.is_file() and (known := json.loads(record.read_text()))["of"] == of:
        return known["found"]
    painted = read_set(folder)
    found = measure(painted, of_its_masks(painted, real), by)
    found["seen"] = seen_before(model, read_datalist(settings.dataset_dir, settings.protocol, settings.split))
    write_json(record, {"of": of, "found": found})
    return found


def _digest(settings: argparse.Namespace) -> str:
    # Of what the figures depend on besides model and images.
    told: list[Any] = [settings.sampling_steps, settings.guidance, settings.control_scale, settings.size]
    told.append(settings.resamples)
    inception = Path(settings.inception or kept_inception_weights())
    for path in (_order_weights(), inception if inception.is_file() else None, settings.clip):
        told.append(path and weights_digest(path))
    return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()


def show(found: Mapping[str, list[Mapping[str, Any]]], settings: argparse.Namespace) -> str:
    """The table, with its budget below it, also as files."""
    figures = VERSION_1 if settings.version == 1 else PAPER
    printed = figures.get((settings.table, settings.painter), {}) if settings.papers else {}
    every = [each for own in found.values() for each in own]
    columns = list(dict.fromkeys(name for each in every for name in each["figures"]))
    if "FID" not in columns:
        columns.insert(0, "FID")
    rows = []
    for name, own in found.items():
        label = COMPONENTS[name][0] if settings.table == 6 and name in COMPONENTS else NAMES.get(name, name)
        cells = [_cell(own, each_of) for each_of in columns]
        rows.append((label, *cells, *printed.get(name, ("–", "–"))))
    floor = [spread([every[0]["halves"].get(name)], 1, _digits(name)) for name in columns]
    rows.append(("two halves of the real images", *floor, "–", "–"))
    header = ("model", *columns, "paper: FID", "paper: CLIP-I")
    return reporting.publish(settings.out, f"table_{settings.table}", header, rows, _notes(every, settings))


def _cell(own: Sequence[Mapping[str, Any]], name: str) -> str:
    # Of several seeds their spread; of one model the interval over images.
    digits = _digits(name)
    shown = spread([each["figures"].get(name) for each in own], 1, digits)
    interval = own[0]["intervals"].get(name) if len(own) == 1 else None
    return shown if interval is None else f"{shown} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def _digits(name: str) -> int:
    return 3 if "CLIP" in name else 2


def _notes(every: Sequence[Mapping[str, Any]], settings: argparse.Namespace) -> str:
    models = [model for seeds in settings.models.values() for model in seeds.values()]
    seeds = sorted({seed for own in settings.models.values() for seed in own})
    counts = sorted({count for each in every for count in each["images"]})
    sizes = " and ".join(every[0]["sizes"]) if settings.size is None else f"both at {settings.size}²"
    lines = [
        f"table {settings.table}, {settings.painter}, protocol {settings.protocol or 'by default'}: painted from the "
        f"masks of {settings.split}, one image each, against the real images of these masks, "
        f"{' or '.join(map(str, counts))} of each, {sizes}; {settings.sampling_steps} steps of DDIM, guidance "
        f"{settings.guidance or 'the bundle’s own'}, control scale {settings.control_scale or 'the model’s own'}, "
        f"scale {scale_of(models)}; seeds of the models {', '.join(map(str, seeds))}",
        "mean ± standard deviation over these seeds; of one model [95 % interval over groups of images]; two halves: "
        "what images of one kind come to, half as many of each",
    ]
    lines += [] if settings.papers else [NOT_THE_PAPERS]
    lines += dict.fromkeys(f"warning: {told}" for each in every for told in each["warnings"])
    seen = max((each["seen"].get("training", 0) for each in every), default=0)
    if settings.split != "training" and seen:
        lines.append(f"warning: up to {seen} of these {settings.split} images were trained on by who paints")
    return "\n".join(lines)


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
    options.add_argument("--version", type=int, choices=(1, 2), default=2, help="of the paper, whose figures are shown")
    options.add_argument("--size", type=int, help="squash both sets to so many pixels first; as they are if not given")
    options.add_argument("--resamples", type=int, default=100, help="of the intervals; 0 leaves them out (100)")
    options.add_argument("--device", default="cpu", help="cpu, or cuda")
    return options.parse_args(arguments)


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    settings = parse(arguments)
    check_own_options(settings)
    settings.runs = train_painters(settings, components=settings.table == 6) or settings.runs
    settings = checked(settings)
    head = reporting.heading("benchmarks.law_quality", settings)
    extractors, clip, missing = _extractors(settings)
    by = Measuring(extractors, clip, settings.size, settings.resamples)
    print("".join(f"{line}\n" for line in missing), end="")
    real = read_set(settings.dataset_dir, settings.protocol, settings.split)
    found: dict[str, list[Mapping[str, Any]]] = {}
    for name, seeds in settings.models.items():
        found[name] = [run_row(name, seed, model, real, by, settings) for seed, model in seeds.items()]
        content = json.loads(json.dumps({**head, "results": found}, default=str))
        write_json(f"{settings.out}/table_{settings.table}.json", content)
    print(f"\n{show(found, settings)}")


if __name__ == "__main__":
    main()

"""One page about a trained LAW, which opens offline: samples, training, quality, recovery, audit and provenance."""

from __future__ import annotations

import base64
import csv
import importlib.metadata
import io
import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ..data.folder import load_json
from ..errors import InputError
from ..files import write_atomically
from ..law.generate import model_digest
from ..law.loading import SETTINGS
from ..law.presets import TINY
from .audit import CLEAR, CLOSE, COPIES
from .audit_report import QUANTILES
from .image_sets import digest_of, read_set

STRIPS = 4  # of a training, spread evenly
BLUE, ORANGE, GREY = "#0072b2", "#d55e00", "#7f7f7f"  # Okabe and Ito
PACKAGES = ("torch", "diffusers", "monai", "pytorch-fid", "transformers")
KINDS = {COPIES: "copies", CLOSE: "close", CLEAR: "clear"}
WORDS = {
    COPIES: "Copies of training images were found",
    CLOSE: "No copy, but the set keeps closer to the training images than held-out real images do",
    CLEAR: "No sign of copies, by the rule below and no more",
}


def write_report(
    painted: str | Path, out: str | Path, *, run: str | Path | None = None, training_images: bool = False
) -> Path:
    """Write ``report.html`` of what the other commands left in `out`.

    Args:
        painted: the prepared folder of painted images.
        out: with ``quality.json``, ``recovery.json`` and ``audit.json``; what is not there is told on the page.
        run: the output folder of the training, for its curve and strips.
        training_images: put the closest pairs on the page, which show patients' images.

    Raises:
        InputError: if `painted` was not painted by LAW, or what is in `out` was measured on other images than its own.
    """
    painted, out = Path(painted), Path(out)
    images = read_set(painted)
    if not any(images.origins):
        raise InputError(f"{painted} was not painted by LAW: no mask of its images is recorded; name what was painted")
    digest = digest_of(images)
    found = {name: _read(out / f"{name}.json", digest) for name in ("quality", "recovery", "audit")}
    generation = load_json(painted / "generation.json") if (painted / "generation.json").is_file() else {}
    context = {
        "title": f"{painted.name}: images painted by LAW",
        "lead": _lead(painted, found),
        **_overview(painted),
        **_training(run, generation),
        "quality": found["quality"] and _quality(found["quality"]),
        "recovery": found["recovery"] and _recovery(found["recovery"], out),
        "audit": found["audit"] and _audit(found["audit"], out, training_images),
        "missing": {name: f"Not measured: python -m common.metrics {name} … --out {out}" for name in found},
        "provenance": _provenance(painted, generation, digest),
    }
    environment = Environment(loader=PackageLoader(__package__, "."), autoescape=True, undefined=StrictUndefined)
    page = environment.get_template("report.html.j2").render(context)
    write_atomically(out / "report.html", page.encode())
    return out / "report.html"


def _read(path: Path, digest: str) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    content = load_json(path)
    if content.get("painted") != digest:
        raise InputError(f"{path} was measured on other images than are painted now; run that command again")
    return content


def _there(path: Path, command: str) -> Path:
    if not path.is_file():
        raise InputError(f"there is no {path}, which {command} left beside its figures; run that command again")
    return path


def _lead(painted: Path, found: Mapping[str, Any]) -> str:
    parts = [f"{len(read_set(painted))} images"]
    if recovered := found["recovery"]:
        own, ceiling = (recovered["measured"][name]["dice"][0] for name in ("painted", "real_at_size"))
        parts.append(f"mask Dice {100 * own:.1f}, where real images of that size come to {100 * ceiling:.1f}")
    if audited := found["audit"]:
        parts.append(WORDS[audited["verdict"]][0].lower() + WORDS[audited["verdict"]][1:])
    return "; ".join(parts) + "."


def _uri(content: bytes, kind: str = "png") -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _svg(figure: Figure) -> str:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", bbox_inches="tight", metadata={"Date": None})
    return _uri(stream.getvalue(), "svg+xml")


def _overview(painted: Path) -> dict[str, Any]:
    path = painted / "overview.png"
    caption = "Masks, what was painted for them, and the masks' outlines on that; spread evenly over all images."
    return {"overview": _uri(path.read_bytes()) if path.is_file() else None, "overview_caption": caption}


def _training(run: str | Path | None, generation: Mapping[str, Any]) -> dict[str, Any]:
    nothing = {"curve": None, "strips": [], "no_run": "No training is shown: name its output folder with --run."}
    if run is None:
        return nothing
    strips = sorted((Path(run) / "strips").glob("epoch_*.png"))
    history = Path(run) / "history.csv"
    if not history.is_file():
        raise InputError(f"--run {run}: there is no history.csv; give the output folder of a training of LAW")
    _check_painter(Path(run), generation)
    chosen = [strips[round(place)] for place in np.linspace(0, len(strips) - 1, min(STRIPS, len(strips)))]
    shown = [{"image": _uri(path.read_bytes()), "epoch": int(path.stem.rpartition("_")[2])} for path in chosen]
    return {"curve": _curve(history), "strips": shown, "no_run": "The training kept no strips (--strip_images 0)."}


def _check_painter(run: Path, generation: Mapping[str, Any]) -> None:
    # A model of Stable Diffusion's size is digested with the encoders that it was painted with, which a run may lack.
    settings = run / "model" / SETTINGS
    if not settings.is_file() or load_json(settings).get("preset") != TINY.name or "model" not in generation:
        return
    if model_digest(run / "model") != generation["model"]:
        raise InputError(f"--run {run}: its model is not the one that painted these images; give the run of that")


def _curve(history: Path) -> str | None:
    with history.open(newline="") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("val_error")]
    if len(rows) < 2:
        return None
    figure = Figure(figsize=(8, 2.6))
    axes = figure.subplots()
    for key, name, colour in (
        ("val_lesion_error", "on lesions", ORANGE),
        ("val_background_error", "elsewhere", BLUE),
        ("val_error", "whole image", GREY),
    ):
        points = [(float(row["epoch"]), float(row[key])) for row in rows if row.get(key)]
        axes.plot(*zip(*points, strict=True), label=name, color=colour)
    axes.set_xlabel("epoch")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("squared error")
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return _svg(figure)


def _quality(found: Mapping[str, Any]) -> dict[str, Any]:
    settings = found["settings"]
    where = f"protocol {settings['protocol'] or 'by default'}, list {settings['split']}"
    size = "as they are" if settings["size"] is None else f"both at {settings['size']} × {settings['size']}"
    note = (
        f"Against the real images ({where}), {size}. A Fréchet distance is biased: compare it with what two halves of "
        "the real images come to, and with sets of as many images."
    )
    return {"rows": found["rows"], "note": " ".join([note, *found["warnings"]])}


def _recovery(found: Mapping[str, Any], out: Path) -> dict[str, Any]:
    note = (
        "A frozen segmenter looks for the lesion; the real images of the same masks, as small as the painted ones, are "
        "a measure to hold it against, and no bound. In percent; the centre's distance in shares of the image's side."
    )
    figure = Figure(figsize=(8, 2.4))
    axes = figure.subplots()
    edges = np.linspace(0, 1, 21)
    for name, label, colour in (("painted", "painted", ORANGE), ("real_at_size", "real, at that size", BLUE)):
        with _there(out / name / "per_image.csv", "recovery").open(newline="") as stream:
            values = [float(row["dice"]) for row in csv.DictReader(stream)]
        axes.hist(values, edges, histtype="step", linewidth=1.8, label=label, color=colour)
    axes.set_xlabel("Dice")
    axes.set_ylabel("images")
    axes.legend(frameon=False, loc="upper center")
    axes.spines[["top", "right"]].set_visible(False)
    return {"rows": found["rows"], "note": note, "picture": _svg(figure)}


def _audit(found: Mapping[str, Any], out: Path, training_images: bool) -> dict[str, Any]:
    rows: list[Sequence[str]] = [("", *(f"{quantile:.0%}" for quantile in QUANTILES))]
    for what, title in (("similarity", "similarity of pixels"), ("ratio", "ratio of features")):
        for who, name in (("painted", "painted"), ("held_out", "held-out real")):
            rows.append((f"{title}, {name}", *(f"{value:.3f}" for value in found[what][who].values())))
    low, high = found["closer_interval"]
    share = f"in {found['closer']:.0%} of pairs [{low:.0%}, {high:.0%}] the painted image is the nearer one"
    verdict = f"{WORDS[found['verdict']]} ({found['copies']} of {found['images']} images; {share})."
    told = found["settings"]
    against = (
        f"Audited against the {told['known']} training and validation images, and {told['held_out']} held-out ones of "
        f"other patients, list {told['split']}, of {told['real']}, protocol {told['protocol'] or 'by default'}"
    )
    if told.get("looked_through"):
        against += "; of the {recorded} images that the painter was trained on, {found} are among them".format(
            **told["looked_through"]
        )
    else:
        against += "; that the painter was trained on these is not recorded"
    closest = _uri(_there(out / "closest.png", "audit").read_bytes()) if training_images else None
    return {
        "rows": rows,
        "verdict": verdict,
        "against": against,
        "kind": KINDS[found["verdict"]],
        "rule": found["rule"],
        "closest": closest,
    }


def _provenance(painted: Path, generation: Mapping[str, Any], digest: str) -> list[tuple[str, str]]:
    content = load_json(painted / "dataset.json") if (painted / "dataset.json").is_file() else {}
    told = [("folder", str(painted.resolve())), ("images, SHA-256", digest)]
    told += [(name.replace("_", " "), _plain(value)) for name, value in generation.items() if value is not None]
    told += (
        [("terms of use", str(content["licence"]))] if content.get("licence") and "licence" not in generation else []
    )
    told.append(("packages", ", ".join(f"{name} {_version(name)}" for name in PACKAGES)))
    told.append(("machine", f"Python {platform.python_version()}, {platform.platform()}"))
    told.append(("written", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")))
    return told


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"

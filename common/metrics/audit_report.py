"""What an audit leaves: a table, its rule in words, a row for each painted image, a picture of the closest pairs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..data.reading import encode_png
from ..files import write_atomically, write_csv, write_json
from .audit import CLOSE, COPIES, FEATURE_COPY, Audit
from .image_sets import ImageSet, digest_of
from .nearest import COPY, FLIPS, read_small

QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
COLUMNS = ("painted", "nearest by pixels", "similarity", "mirrored", "nearest by features", "ratio", "copy")
PAIRS, SIDE = 12, 128  # drawn; pixels
RULE = (
    f"a copy: similarity of pixels at least {COPY}, mirrored or not, or a distance of features below {FEATURE_COPY} of "
    "that between real images of two patients; too close: painted images are nearer to training images than held-out "
    "real ones are, by more than chance"
)


def table(found: Audit, split: str) -> list[tuple[str, ...]]:
    """Quantiles of the pixels' similarity and of the features' ratio, of painted and held-out images."""
    rows: list[tuple[str, ...]] = [("", "images", *(f"{quantile:.0%}" for quantile in QUANTILES), "copies")]
    for name, pixels, ratio in (
        ("painted", found.pixels.similarity, found.ratio),
        (f"real, {split}", found.held_out.similarity, found.held_out_ratio),
    ):
        lines = found.lines
        for what, values, counted in (("similarity", pixels, pixels >= lines[0]), ("ratio", ratio, ratio < lines[1])):
            shown = [f"{value:.3f}" for value in np.quantile(values, QUANTILES)]
            rows.append((f"{name}: {what}", str(len(values)), *shown, str(int(counted.sum()))))
    return rows


def sentence(found: Audit) -> str:
    """The verdict, and the rule that it is by."""
    low, high = found.closer_interval
    similarity, ratio = found.lines
    moved = similarity > COPY or ratio < FEATURE_COPY
    rule = f"the rule: {RULE}" + (
        f"\nhere from {similarity:.4f} on and below {ratio:.3f}: real images of other patients lie beyond the lines"
        if moved
        else ""
    )
    share = f"in {found.closer:.0%} of pairs [{low:.0%}, {high:.0%}] a painted image is the nearer one"
    if found.verdict == COPIES:
        return f"COPIES: {int(found.copies.sum())} of {len(found.copies)} painted images; {share}\n{rule}"
    if found.verdict == CLOSE:
        return f"TOO CLOSE: no copy, but {share} than a held-out real one\n{rule}"
    return f"no sign of copies, by this rule alone; {share} than a held-out real one\n{rule}"


def write(out: Path, found: Audit, painted: ImageSet, training: ImageSet, settings: Mapping[str, Any]) -> None:
    """Write ``audit.csv``, ``audit.json`` with `settings`, what it was audited against, and ``closest.png``."""
    order = np.lexsort((found.ratio, -found.pixels.similarity, ~found.copies))
    rows: list[tuple[Any, ...]] = [COLUMNS]
    for i in order:
        nearest, alike = training.paths[found.pixels.index[i]].name, training.paths[found.features[i]].name
        similarity, mirrored = f"{found.pixels.similarity[i]:.4f}", int(found.pixels.flip[i] > 0)
        ratio, copied = f"{found.ratio[i]:.4f}", int(found.copies[i])
        rows.append((painted.paths[i].name, nearest, similarity, mirrored, alike, ratio, copied))
    write_csv(out / "audit.csv", rows)
    write_json(out / "audit.json", {"painted": digest_of(painted), "settings": dict(settings), **plain(found)})
    write_atomically(out / "closest.png", encode_png(_closest(found, painted, training)))


def plain(found: Audit) -> dict[str, Any]:
    """The audit as numbers, lists and dicts."""

    def quantiles(values: np.ndarray) -> dict[str, float]:
        return dict(zip(map(str, QUANTILES), np.quantile(values, QUANTILES).astype(float).tolist(), strict=True))

    return {
        "verdict": found.verdict,
        "rule": RULE,
        "lines": {"similarity": found.lines[0], "ratio": found.lines[1]},
        "copies": int(found.copies.sum()),
        "images": len(found.copies),
        "closer": found.closer,
        "closer_interval": list(found.closer_interval),
        "similarity": {"painted": quantiles(found.pixels.similarity), "held_out": quantiles(found.held_out.similarity)},
        "ratio": {"painted": quantiles(found.ratio), "held_out": quantiles(found.held_out_ratio)},
    }


def _closest(found: Audit, painted: ImageSet, training: ImageSet) -> np.ndarray:
    # A row by pixels, and below it one by features; painted above its nearest, and mirrored as it met it.
    rows = []
    for order, index, values, flips in (
        (np.argsort(-found.pixels.similarity, kind="stable"), found.pixels.index, found.pixels.similarity, True),
        (np.argsort(found.ratio, kind="stable"), found.features, found.ratio, False),
    ):
        columns = []
        for i in order[:PAIRS]:
            axes = FLIPS[found.pixels.flip[i]] if flips else ()
            above = Image.fromarray(np.ascontiguousarray(np.flip(read_small(painted.paths[i], SIDE), axes)))
            shown = f"{values[i]:.3f}"
            ImageDraw.Draw(above).text((4, 2), shown, fill="white", stroke_width=1, stroke_fill="black")
            columns.append(np.concatenate([np.asarray(above), read_small(training.paths[index[i]], SIDE)]))
        rows.append(np.concatenate(columns, axis=1))
    gap = np.full((4, rows[0].shape[1], 3), 255, np.uint8)
    return np.concatenate([rows[0], gap, rows[1]])

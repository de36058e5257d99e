"""Pictures of an evaluation: best, median and worst cases of each source, and Dice against lesion size."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from PIL import Image

from ..files import write_with
from .records import ImageRecord
from .summary import SIZE_BINS, by_source, in_bin, size_bins

TRUTH, PREDICTION = "#00e5ff", "#ffd500"  # told apart by most colour-blind eyes, and rare in tissue
_ROUNDING = 1e-3  # a resize leaves white at a hair above 1
_LONGEST = 320  # px kept of an image: as large as a picture shows it
_SOURCES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000")  # Okabe and Ito


@dataclass(frozen=True)
class Case:
    """What a picture needs of one image, compressed: about 15 KB in place of 900."""

    image: bytes
    label: bytes
    pred: bytes


def _encoded(picture: Image.Image, form: str, resample: Image.Resampling) -> bytes:
    stream = io.BytesIO()
    picture.thumbnail((_LONGEST, _LONGEST), resample)
    picture.save(stream, form, quality=90)
    return stream.getvalue()


def displayed(image: np.ndarray) -> np.ndarray:
    """`(C, H, W)` of any range → `(H, W, 3)` uint8: 0–1 and 0–255 as they are, any other range stretched to fit."""
    image = np.asarray(image, dtype=np.float32)
    image = image[:3] if image.shape[0] >= 3 else np.repeat(image[:1], 3, axis=0)
    low, high = float(image.min()), float(image.max())
    if low >= -_ROUNDING and high <= 1 + _ROUNDING:
        image = image.clip(0, 1)
    elif low < 0 or high > 255:
        image = (image - low) / max(high - low, 1e-12)
    else:
        image = image / 255
    return (image.transpose(1, 2, 0) * 255).round().astype(np.uint8)


def make_case(image: np.ndarray, label: np.ndarray, pred: np.ndarray) -> Case:
    """Keep an image `(C, H, W)` and its masks `(H, W)` as JPEG and PNG, the longer side at most 320 px."""
    masks = [Image.fromarray(np.asarray(mask != 0, dtype=np.uint8) * 255) for mask in (label, pred)]
    picture = Image.fromarray(displayed(image))
    if picture.size != masks[0].size:  # masks may have been brought back to the original size, the image not
        picture = picture.resize(masks[0].size, Image.Resampling.BILINEAR)
    return Case(
        _encoded(picture, "JPEG", Image.Resampling.BILINEAR),
        *(_encoded(mask, "PNG", Image.Resampling.NEAREST) for mask in masks),
    )


def chosen_cases(records: Sequence[ImageRecord], each: int = 3) -> dict[str, list[ImageRecord]]:
    """The best, median and worst by Dice, `each` of them (fewer from fewer than 3·each images), none twice."""
    ranked = sorted(records, key=lambda record: (-record.dice, record.image))
    take = max(1, min(each, len(ranked) // 3))
    best, rest = ranked[:take], ranked[take:]
    worst, rest = rest[-take:], rest[:-take]
    start = (len(rest) - take) // 2 if len(rest) > take else 0
    return {"best": best, "median": rest[start : start + take], "worst": worst[::-1]}


def _outline(axes: Axes, mask: np.ndarray, colour: str, width: float) -> None:
    if not mask.any():
        return
    padded = np.pad(mask.astype(float), 1)  # so that a lesion at the border is closed there
    at = [np.arange(-1, side + 1) for side in mask.shape]
    drawn = axes.contour(at[1], at[0], padded, levels=[0.5], colors=[colour], linewidths=width)
    drawn.set_path_effects([withStroke(linewidth=width + 1.2, foreground="black", alpha=0.6)])


def _draw_case(axes: Axes, record: ImageRecord, case: Case) -> None:
    image, label, pred = (np.asarray(Image.open(io.BytesIO(part))) for part in (case.image, case.label, case.pred))
    axes.imshow(image)
    _outline(axes, label > 127, TRUTH, 2.6)  # wider, to be seen where the two coincide
    _outline(axes, pred > 127, PREDICTION, 1.2)
    axes.set(xlim=(-0.5, image.shape[1] - 0.5), ylim=(image.shape[0] - 0.5, -0.5), xticks=[], yticks=[])
    size = f"lesion {100 * record.area:.1f} %" if record.area else "no lesion"
    axes.set_title(f"Dice {100 * record.dice:.1f} · {size}", fontsize=9)
    name = Path(record.image).name
    axes.set_xlabel(name if len(name) <= 34 else f"…{name[-33:]}", fontsize=7, color="0.35")


def _save(figure: Figure, path: str | Path) -> None:
    # no software or date in the file: the same figures give the same bytes
    write_with(path, lambda stream: figure.savefig(stream, format="png", dpi=110, metadata={"Software": None}))


def draw_cases(path: str | Path, title: str, chosen: Mapping[str, Sequence[ImageRecord]], cases: Mapping[str, Case]):
    """Write one PNG: a row each for best, median and worst, label and prediction as outlines, Dice as the title."""
    rows = [(kind, records) for kind, records in chosen.items() if records]
    columns = max(len(records) for _, records in rows)
    figure = Figure(figsize=(max(2.7 * columns + 0.5, 4.2), 3.05 * len(rows) + 0.8), layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False)
    for line, (kind, records) in zip(grid, rows, strict=True):
        line[0].set_ylabel(kind, fontsize=11)
        for axes in line[len(records) :]:
            axes.set_axis_off()
        for axes, record in zip(line, records, strict=False):
            _draw_case(axes, record, cases[record.image])
    figure.suptitle(title, fontsize=11)
    handles = [Line2D([], [], color=c, lw=2, path_effects=[withStroke(linewidth=3.5, foreground="0.3")])
               for c in (TRUTH, PREDICTION)]  # fmt: skip
    figure.legend(handles, ["truth", "prediction"], loc="outside lower center", ncols=2, frameon=False, fontsize=9)
    _save(figure, path)


def draw_sizes(path: str | Path, records: Sequence[ImageRecord], bins: Sequence[float] = SIZE_BINS) -> None:
    """Write one PNG: Dice against lesion size, each image a dot, and a box for each lesion-size bin.

    Images without a lesion have no place on the axis and are left out.
    """
    records = [record for record in records if not record.label_empty]
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    dots, boxes = figure.subplots(1, 2, sharey=True, width_ratios=(1.4, 1))
    for i, (source, part) in enumerate(by_source(records).items()):
        areas, dices = [100 * r.area for r in part], [100 * r.dice for r in part]
        label = f"{source} ({len(part)})"
        dots.scatter(areas, dices, s=16, alpha=0.65, color=_SOURCES[i % len(_SOURCES)], linewidths=0, label=label)
    dots.set(xscale="log", xlabel="lesion, % of the image", ylabel="Dice %", ylim=(-3, 103))
    dots.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    figure.legend(*dots.get_legend_handles_labels(), loc="outside upper left", ncols=5, frameon=False, fontsize=9)
    parts = [(name, [100 * r.dice for r in records if in_bin(r, *span)]) for name, *span in size_bins(bins)]
    ticks = [f"{name}\nn = {len(values)}" for name, values in parts]
    boxes.boxplot([values for _, values in parts], tick_labels=ticks, widths=0.6, showmeans=True, flierprops={"ms": 3})
    boxes.tick_params(axis="x", labelsize=8)
    boxes.set_xlabel("lesion size (line: median, triangle: mean)")
    for axes in (dots, boxes):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _save(figure, path)

"""Summaries and comparisons as aligned text."""

from __future__ import annotations

from typing import Any

from ..columns import align
from .intervals import shown_interval
from .records import METRICS


def number(estimated: dict[str, Any], metric: str, signed: bool = False) -> str:
    """`84.1 [80.9, 87.0]`: percent for shares, pixels for HD95; `–` where nothing is defined."""
    if estimated["mean"] is None:
        return "–"
    factor, sign = (1 if metric == "hd95" else 100), ("+" if signed else "")
    interval = shown_interval(estimated)
    if interval is None:
        text = " " * len(f" [{10:{sign}.1f}, {10:{sign}.1f}]")  # the mean keeps its place under the others
    else:
        text = " [{}]".format(", ".join(f"{factor * end:{sign}.1f}" for end in interval))
    return f"{factor * estimated['mean']:{sign}.1f}{text}"


def _heads(summary: dict[str, Any]) -> list[str]:
    tolerance = summary["nsd_tolerance"]
    return ["Dice %", "IoU %", "HD95 px", "NSD %" if tolerance is None else f"NSD {tolerance:g} px %"]


def _line(name: str, row: dict[str, Any]) -> list[str]:
    counts = [str(row["images"])], [str(row["hd95"]["undefined"]), str(row["missed"])]
    return [name, *counts[0], *(number(row[metric], metric) for metric in METRICS), *counts[1]]


def _sources(section: dict[str, Any]) -> list[list[str]]:
    lines = [_line(name, row) for name, row in section["sources"].items()]
    return [*lines, _line("mean of sources", section["mean_over_sources"]), _line("all images", section["all_images"])]


def _kinds(section: dict[str, Any]) -> list[list[str]]:
    lines = []
    for kind, parts in section["kinds"].items():
        lines += [[""], [f"by {kind}"], *(_line(value, part) for value, part in parts.items())]
    return lines


def interval_note(settings: dict[str, Any], grouped: bool) -> str:
    """One line on what the brackets hold."""
    unit = "whole groups (the frames of one sequence stay together)" if grouped else "images"
    return (
        f"[…]: bootstrap {100 * settings['confidence']:g} % interval, {settings['resamples']} draws of {unit}, "
        f"seed {settings['seed']}"
    )


def summary_table(summary: dict[str, Any]) -> str:
    """The readable form of `summarise`'s result."""
    size, dice = summary["evaluated_size"], summary["all_images"]["dice"]
    where = f"at {size[0]} × {size[1]} px" if size else "at mixed sizes"
    rows = [["", "images", *_heads(summary), "no HD95", "missed"], *_sources(summary), [""]]
    rows += [["by lesion size (share of the image)"], *(_line(part["name"], part) for part in summary["sizes"])]
    rows += _kinds(summary)
    if empty := summary["images_without_lesion"]:
        rows += [[""], ["without the images that have no lesion"], *_sources(summary["without_empty"])]
        rows += _kinds(summary["without_empty"])
    lines = [f"{summary['images']} images {where}", "", *align(rows), ""]
    lines.append(interval_note(summary["bootstrap"], grouped=dice["groups"] < dice["n"]))
    lines.append("Dice counts as 1 where both masks are empty, as 0 where one is; HD95 has no value there (no HD95)")
    lines.append("missed: a lesion with Dice 0")
    if empty:
        alarms = summary["all_images"]["false_alarms"]
        lines.append(f"{empty} images have no lesion; in {alarms} of them the prediction marks one")
    return "\n".join(lines)


def comparison_table(comparison: dict[str, Any]) -> str:
    """The readable form of `compare_models`' result."""
    settings, grouped = comparison["bootstrap"], False
    lines = [f"A = {comparison['a']}", f"B = {comparison['b']}", f"{comparison['images']} images, B − A for each", ""]
    rows = [["", "images", "A", "B", "B − A", "better", "worse", "p"]]
    titles = {"dice": "Dice %", "iou": "IoU %", "hd95": "HD95 px (below zero is better)", "nsd": "NSD %"}
    for metric in METRICS:
        rows += [[titles[metric]]]
        for row in comparison["metrics"][metric]:
            difference = row["difference"]
            grouped |= difference["groups"] < difference["n"]
            factor = 1 if metric == "hd95" else 100
            means = ["–" if row[side] is None else f"{factor * row[side]:.1f}" for side in ("mean_a", "mean_b")]
            p = "" if row["p"] is None else f"{row['p']:.2g}"
            counts = [str(row["better"]), str(row["worse"])]
            rows.append(
                [f"  {row['name']}", str(difference["n"]), *means, number(difference, metric, True), *counts, p]
            )
    lines += [*align(rows), "", interval_note(settings, grouped)]
    lines.append("p: Wilcoxon signed-rank on the images, two-sided, not corrected for the number of rows")
    if grouped:
        lines.append("p counts the images of one group as independent; the interval does not: trust the interval")
    return "\n".join(lines)

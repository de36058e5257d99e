"""ORDER beside other segmenters, other attention and other skips (the paper's tables 7, 8 and 10), at one budget.

Every row is trained by the bundle's commands with the same recipe, epochs, size, data and seeds; a network whose own
paper trains it with another loss keeps that. The model kept is the best epoch on validation. The same command goes on
where it was stopped. Table 10 is measured on validation, which also chose the epoch: read it for the order of rows.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from common.data.folder import KEYS, join_faults
from common.errors import reports_input_errors
from common.files import write_json

from . import reporting, runs
from .order_complexity import measure
from .runs import spread
from .segmenter_rows import HEAVY, LIGHT, ROWS, TABLES
from .segmenter_runs import Outcome, add_options, check_options, run_row

# The protocols that hold the lists that the paper trains and tests on, None being a folder's default, and their sets.
PAPER_LISTS = {"order_polyps": (None, "order"), "order_brisc": ("order_released",)}
PAPER_SOURCES = {
    ("order_polyps", "test"): {"kvasir_seg", "cvc_clinicdb"},
    ("order_polyps", "validation"): {"kvasir_seg", "cvc_clinicdb", "cvc_colondb", "etis"},
    ("order_brisc", "test"): {"brisc2025"},
}


def checked(settings: argparse.Namespace) -> argparse.Namespace:
    """The options, once nothing in them is wrong that can be known before a training; see `check_options`."""
    settings.rows = list(dict.fromkeys(settings.rows or TABLES[settings.table]))
    development = settings.table == 10 and settings.version != 1  # the first version has no split of its own for it
    settings.split = settings.split or ("validation" if development else "test")
    if settings.recipe is None:
        settings.recipe = ["recipe_v1"] if settings.version == 1 else ["recipe_best"]
    return check_options(settings)


def _papers_list(sources: Sequence[str], settings: argparse.Namespace) -> str | None:
    # The key of the paper's figures that may stand beside ours, if what was measured is its list.
    split = "validation" if settings.table == 10 and settings.version != 1 else "test"
    own = settings.split == split and settings.protocol in PAPER_LISTS.get(settings.bundle, ())
    if not own or set(sources) != PAPER_SOURCES.get((settings.bundle, split)):
        return None
    if settings.version != 1:
        return f"{settings.bundle}, development" if settings.table == 10 else settings.bundle
    # That version has no SE or CBAM; its table 3 is our 7, its 5 and 6 are our 10.
    return {7: f"{settings.bundle}, version 1", 10: f"{settings.bundle}, version 1, stages"}.get(settings.table)


def _cells(
    name: str, outcomes: list[Outcome], counted: Mapping[str, Any], settings: argparse.Namespace
) -> tuple[str, ...]:
    row = ROWS[name]
    sources = sorted({source for each in outcomes for source in each["sources"]})
    printed = row.dice.get(_papers_list(sources, settings) or "", "–")
    return (
        row.name,
        f"{counted['parameters']:,}",
        f"{counted['convolutions'] / 1e9:.3f}",
        f"{counted['algorithm'] / 1e9:.3f}",
        spread([each["dice"] for each in outcomes]),
        spread([each["iou"] for each in outcomes]),
        spread([each["without_empty"] for each in outcomes]),
        ", ".join(f"{source} {spread([each['sources'].get(source) for each in outcomes])}" for source in sources),
        printed,
    )


def show(
    outcomes: Mapping[str, list[Outcome]], counted: Mapping[str, Mapping[str, Any]], settings: argparse.Namespace
) -> str:
    """The table, with its budget below it, also as files; `counted` is `order_complexity.measure` of each row."""
    header = (
        "row",
        "parameters",
        "conv. G at 256²",
        "with attention G",
        "Dice",
        "IoU",
        "Dice, lesions",
        "by source",
        "paper",
    )
    rows = [_cells(name, own, counted[name], settings) for name, own in outcomes.items() if own]
    shared = f" shared by {settings.processes} processes" if settings.processes > 1 else ""
    if shared and not torch.cuda.is_available():  # where they are synchronised
        shared += " with batch statistics of their own"
    budget = (
        f"{'version 1, ' if settings.version == 1 else ''}{settings.bundle}, "
        f"protocol {settings.protocol or 'by default'}, "
        f"{' + '.join(['train', *settings.recipe])}, {settings.epochs} epochs, "
        f"{settings.image_size}², batches of {settings.batch_size}{shared}, learning rate {settings.learning_rate:g}, "
        f"validated every {settings.val_interval}, seeds {', '.join(map(str, settings.seeds))}; "
        f"measured on {settings.split}; computed on {runs.device()}"
    )
    key = "Dice and IoU in percent, means of the sources' means; the paper's nnUNet is U-Net, its MK-UNet the backbone"
    if any(each["dice"] is None for own in outcomes.values() for each in own):
        key += "; (n of N): the loss of the other seeds ceased to be finite"
    if settings.version == 1 and settings.table == 10:
        key += (
            "; the paper's first version counts 35K, 38K and 50K parameters where ours are 31K, 36K and 47K, and calls "
            "{3, 2} its stages 3-4, early, and {2, 1} its stages 2-3"
        )
    if "pranet" in outcomes:
        key += "; PraNet begins without its authors' ImageNet weights"
    return reporting.publish(settings.out, f"table_{settings.table}", header, rows, f"{budget}\n{key}")


def in_turn(settings: argparse.Namespace) -> list[tuple[str, int]]:
    """Rows and seeds in the order of their runs: each row has one seed before any has two, and the heavy come last."""
    heavy = [name for name in settings.rows if name in HEAVY]
    groups = [name for name in settings.rows if name not in HEAVY], heavy
    return [(name, seed) for rows in groups for seed in settings.seeds for name in rows]


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options as they were given."""
    options = argparse.ArgumentParser(
        prog="python -m benchmarks.order_tables",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    options.add_argument("--table", type=int, choices=sorted(TABLES), required=True)
    add_options(options)
    options.add_argument("--version", type=int, choices=(1, 2), default=2, help="of the paper, whose figures are shown")
    options.add_argument("--rows", nargs="+", choices=list(ROWS), help=f"all of the table; light are {' '.join(LIGHT)}")
    options.add_argument("--seeds", type=int, nargs="+", default=[0])
    options.add_argument("--split", choices=KEYS, help="test, or for table 10 validation")
    return options.parse_args(arguments)


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    settings = checked(parse(arguments))
    head = reporting.heading("benchmarks.order_tables", settings)
    counted = {name: measure(ROWS[name].configuration) for name in settings.rows}
    outcomes, failed = runs.run_each(
        settings.rows,
        in_turn(settings),
        lambda name, seed: run_row(name, seed, settings),
        lambda found: write_json(f"{settings.out}/table_{settings.table}.json", {**head, **found}),
    )
    print(f"\n{show(outcomes, counted, settings)}")
    if failed:
        raise join_faults(failed, "the table's rows; the same command tries them again")


if __name__ == "__main__":
    main()

"""Objectives on one prior, with the same seeds and steps, by mask recovery (the paper's table 3).

The paper's figures are of Stable Diffusion 1.5 at 384², several runs; compare the order of rows.
"""

from __future__ import annotations

from typing import NamedTuple

from common.errors import reports_input_errors
from common.files import write_json

from . import reporting
from .law_runs import ERRORS, checked, errors_of, painted_with, parser, run_ceiling, run_row
from .papers_lists import NOT_THE_PAPERS, are_the_papers
from .runs import spread


class Printed(NamedTuple):
    """What table 3 prints, percent."""

    dice: str = "–"
    iou: str = "–"


LABELS = {
    "uniform": "ControlNet (uniform)",
    "ratio": "ArSDM (ratio)",
    "distillation": "Adaptive distillation",
    "law": "LAW",
    "law_v1": "LAW, version 1",
}
PAPER = {
    "law_polyps": {
        "uniform": Printed("68.1 ± 1.3", "58.2 ± 2.2"),
        "ratio": Printed("78.3 ± 4.1", "68.2 ± 2.3"),
        "distillation": Printed("79.4 ± 1.1", "70.1 ± 1.4"),
        "law": Printed("82.5 ± 0.3", "73.3 ± 0.5"),
    },
    "law_kits19": {
        "uniform": Printed("48.8 ± 1.1", "41.1 ± 2.3"),
        "ratio": Printed("53.2 ± 3.0", "45.3 ± 2.6"),
        "distillation": Printed("55.8 ± 1.5", "47.8 ± 1.9"),
        "law": Printed("58.6 ± 0.9", "50.2 ± 1.1"),
    },
    "law_brisc": {
        "uniform": Printed("51.1 ± 1.2", "46.0 ± 1.9"),
        "ratio": Printed("55.3 ± 1.4", "49.0 ± 2.2"),
        "distillation": Printed("59.6 ± 1.1", "52.0 ± 2.6"),
        "law": Printed("62.9 ± 1.4", "54.7 ± 1.3"),
    },
}


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = parser("benchmarks.law_objectives", __doc__)
    options.add_argument("--objectives", nargs="+", choices=list(LABELS), default=list(LABELS)[:4])
    options.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    settings = checked(options.parse_args(arguments))
    head = reporting.heading("benchmarks.law_objectives", settings)
    ceiling = run_ceiling(settings)
    outcomes = {
        name: [run_row(name, {"objective": name}, seed, settings) for seed in settings.seeds]
        for name in settings.objectives
    }
    theirs = settings.split == "test" and are_the_papers(
        settings.dataset_dir, settings.protocol, "test", settings.bundle
    )
    printed = PAPER.get(settings.bundle, {}) if theirs else {}
    rows = [
        (
            LABELS[name],
            spread([each.dice for each in own]),
            spread([each.iou for each in own]),
            *errors_of(own),
            *printed.get(name, Printed()),
        )
        for name, own in outcomes.items()
    ]
    rows.append(("the real images, at this size", *(spread([value]) for value in ceiling), *4 * ("–",)))
    header = ("objective", "mask Dice", "mask IoU", *ERRORS, "paper: Dice", "paper: IoU")
    notes = (
        f"seeds {', '.join(map(str, settings.seeds))}, {settings.steps} steps each, {painted_with(settings)}\n"
        "mean ± standard deviation; Dice and IoU in percent, errors in thousandths, of the validation images"
    )
    notes += "" if theirs else f"\n{NOT_THE_PAPERS}"
    print(f"\n{reporting.publish(settings.out, 'table_3', header, rows, notes)}")
    figures = {name: [each.figures() for each in own] for name, own in outcomes.items()}
    figures |= {"ceiling": [dict(zip(("dice", "iou"), ceiling, strict=True))]}
    write_json(f"{settings.out}/objectives.json", {**head, "results": figures})


if __name__ == "__main__":
    main()

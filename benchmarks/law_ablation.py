"""LAW's components, one after another (the paper's table 6), by mask recovery and stability.

Stable means here: the loss stays finite, and the validation error ends at most 1.1 times its lowest. The paper prints
Fréchet distance and its own judgement, of single runs; its first version, table 4 there, a Dice besides.
"""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from common.errors import reports_input_errors
from common.files import write_json, write_with
from common.law import TABLE_6

from . import reporting
from .law_runs import ERRORS, Outcome, checked, errors_of, painted_with, parser, run_row
from .runs import spread

PAPER = {
    "distillation": ("Adaptive distillation", "66.60", "stable"),
    "delta_map": ("+ delta map (no norm)", "70.34", "unstable"),
    "normalisation": ("+ normalisation", "70.11", "stable"),
    "min_clamp": ("+ min-weight clamp", "66.51", "stable"),
    "law": ("+ Dice regulariser (LAW)", "52.28", "stable"),
    "no_max_clamp": ("LAW without max-weight clamp", "80.22", "stable"),
}
VERSION_1 = {"distillation": "95.2", "delta_map": "93.3", "normalisation": "93.9", "min_clamp": "94.3", "law": "96.1"}
ALIKE = {"normalisation", "min_clamp"}  # w_min cannot bind after a mean of the sample, whose least weight is above 1/3
CURVES = ("mse", "val_error")


def overlay(row: str) -> dict[str, object]:
    """The config keys of a row of `TABLE_6`."""
    options = dict(TABLE_6[row])
    return {"objective": options.pop("name"), **{f"+loss#{key}": value for key, value in options.items()}}


def draw_curves(outcomes: dict[str, Outcome], path: str) -> None:
    """Training and validation error of each row against epochs, as a PNG file."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    for axes, key in zip(figure.subplots(1, 2), CURVES, strict=True):
        for number, (row, outcome) in enumerate(outcomes.items()):
            points = [(each["epoch"], each[key]) for each in outcome.history if key in each]
            style = "--" if number % 2 else "-"  # rows 3 and 4 lie on one another: dashes show both
            axes.plot(*zip(*points, strict=True), style, label=PAPER[row][0]) if points else None
        axes.set(xlabel="epoch", ylabel={"mse": "training error", "val_error": "validation error"}[key])
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    lines = figure.axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=3, fontsize="small")
    write_with(path, lambda stream: figure.savefig(stream, format="png", dpi=110, metadata={"Software": None}))


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = parser("benchmarks.law_ablation", __doc__)
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--version", type=int, choices=(1, 2), default=2, help="of the paper, whose figures are shown")
    options.add_argument("--rows", nargs="+", choices=list(TABLE_6), default=list(TABLE_6))
    settings = checked(options.parse_args(arguments))
    head = reporting.heading("benchmarks.law_ablation", settings)
    outcomes = {row: run_row(row, overlay(row), settings.seed, settings) for row in settings.rows}
    rows = [
        (
            PAPER[row][0],
            spread([each.dice]),
            spread([each.iou]),
            *errors_of([each]),
            "stable" if each.stable else "unstable",
            *PAPER[row][1:],
            *([VERSION_1.get(row, "–")] if settings.version == 1 else []),
        )
        for row, each in outcomes.items()
    ]
    header = ["configuration", "mask Dice", "mask IoU", *ERRORS, "training", "paper: FID", "paper"]
    header += ["paper: Dice"] if settings.version == 1 else []
    notes = (
        f"seed {settings.seed}, {settings.steps} steps each, {painted_with(settings)}\n"
        "Dice and IoU in percent, errors in thousandths, of the validation images"
    )
    if settings.version == 1:
        notes += "\nthe paper's first version does not say of which images its Dice is, nor whose masks"
    print(f"\n{reporting.publish(settings.out, 'table_6', header, rows, notes)}")
    if outcomes.keys() >= ALIKE:
        first, second = (str(outcomes[row].history) for row in sorted(ALIKE))  # text: nan is nan there
        same = first == second and outcomes["min_clamp"].history
        print(f"\nrows 3 and 4 are {'the same run, digit by digit' if same else 'two different runs'}")
    draw_curves(outcomes, f"{settings.out}/curves.png")
    figures = {row: {**each.figures(), "stable": each.stable} for row, each in outcomes.items()}
    write_json(f"{settings.out}/ablation.json", {**head, "results": figures})


if __name__ == "__main__":
    main()

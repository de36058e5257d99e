"""Speed and memory of inference (the paper's table 9): ORDER, MK-UNet and U-Net, eager, compiled and exported.

Times are taken in turns, one batch of each row a round, and are the medians over the rounds; "by eager" and "by U-Net"
are how many times as fast a row is as the same network in eager PyTorch, and as U-Net in eager PyTorch: the median of
the ratios within a round, so that they need not be the ratio of the medians; "quartiles" are those of "by eager". They
belong to the machine they were taken on: compare the rows with one another, not with the paper's, which are a GPU's.
"other pixels" is how many of a million mask pixels a runtime sets otherwise than eager, with random weights on random
images, where many logits are near 0. A compiled network has no peak memory here: it would be the compiler's.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from typing import Any

import numpy as np
from tqdm import tqdm

from common.errors import InputError, reports_input_errors

from . import reporting
from .configurations import ALL, BACKBONE, CONFIGURATIONS, MK_UNET, UNET, Configuration, check_least_size
from .order_memory import median_ratio, round_ratios, seconds_in_turns
from .peak_memory import MEBIBYTE, Step, measure
from .runtimes import EXPORTED, RUNTIMES, check_runtimes

OTHER_PIXELS = 50  # of a million, that --at-least lets an export set otherwise: logits that are 0 but for rounding
USUAL = (*(configuration.name for configuration in CONFIGURATIONS), MK_UNET, UNET)


def _where(configuration: Configuration, runtime: str, settings: argparse.Namespace) -> dict[str, Any]:
    common = {"form": "fused", "train": False, "device": settings.device, "channels_last": settings.channels_last}
    request = {"arguments": configuration.arguments, "network": configuration.network, "runtime": runtime}
    return {**request, "size": settings.size, "batch": settings.batch, **common}


def _other_pixels(steps: dict[tuple[str, str], Step], row: tuple[str, str]) -> float:
    # Of a million; a network is compared with itself in eager PyTorch.
    masks = [steps[each].logits().cpu() > 0 for each in (row, (row[0], "eager"))]
    return 1e6 * (masks[0] != masks[1]).float().mean().item()


def collect(settings: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds an image, images a second, peak memory, and the comparisons, of every row."""
    runtimes = dict.fromkeys(("eager", *settings.runtimes))
    asked = {(name, runtime): _where(ALL[name], runtime, settings) for name in settings.rows for runtime in runtimes}
    steps = {row: Step(**request) for row, request in tqdm(asked.items(), desc="prepare", leave=False)}
    seconds = seconds_in_turns(steps, settings.rounds)
    results = []
    for row, request in tqdm(asked.items(), desc="memory", leave=False):
        name, runtime = row
        each = statistics.median(seconds[row]) / settings.batch
        results.append(
            {
                "configuration": name,
                "runtime": runtime,
                "parameters": sum(parameter.numel() for parameter in steps[row].network.parameters()),
                "milliseconds": 1000 * each,
                "images_per_second": 1 / each,
                "by_eager": median_ratio(seconds[name, "eager"], seconds[row]),
                "by_eager_quartiles": _quartiles(seconds[name, "eager"], seconds[row]),
                "by_unet": median_ratio(seconds[UNET, "eager"], seconds[row]),
                "other_pixels": _other_pixels(steps, row),
                "peak_bytes": None if runtime == "compiled" else int(measure(**request)["bytes"]),
            }
        )
    return results


def _quartiles(numerators: list[float], denominators: list[float]) -> tuple[float, float]:
    first, third = np.percentile(round_ratios(numerators, denominators), [25, 75])
    return float(first), float(third)


def faults_of_exports(results: list[dict[str, Any]], at_least: float) -> list[str]:
    """A line for each ORDER that no exported runtime makes `at_least` times as fast as eager PyTorch.

    And one for each that an exported runtime draws otherwise, in more than `OTHER_PIXELS` of a million: a fast export
    of other masks is none.
    """
    fastest: dict[str, float] = {}
    judged = [row for row in results if row["configuration"].startswith("ORDER") and row["runtime"] in EXPORTED]
    for row in judged:
        fastest[row["configuration"]] = max(fastest.get(row["configuration"], 0.0), row["by_eager"])
    lines = [
        f"{name} is exported {ratio:.2f} times as fast as eager; {at_least:g} are wanted"
        for name, ratio in fastest.items()
        if ratio < at_least
    ]
    return lines + [
        f"{row['configuration']} by {row['runtime']} sets {row['other_pixels']:.1f} of a million pixels otherwise than "
        f"eager; {OTHER_PIXELS} are allowed"
        for row in judged
        if row["other_pixels"] > OTHER_PIXELS
    ]


def _check_judged(settings: argparse.Namespace) -> None:
    # Else nothing would be judged, and that would read as kept.
    if not set(settings.runtimes) & set(EXPORTED):
        raise InputError(f"--at-least judges exported networks; add --runtimes {' or '.join(EXPORTED)}")
    if not any(name.startswith("ORDER") for name in settings.rows):
        raise InputError("--at-least judges ORDER; add it to --rows, such as 'ORDER[0, 1]'")


def run(settings: argparse.Namespace) -> bool:
    """Print the table; whether what was wanted at least was kept."""
    head = reporting.heading("benchmarks.order_speed", settings)
    results = collect(settings)
    rows = [
        (
            result["configuration"],
            result["runtime"],
            f"{result['parameters']:,}",
            f"{result['milliseconds']:.2f}",
            f"{result['images_per_second']:.1f}",
            f"{result['by_eager']:.2f}",
            "{:.2f}–{:.2f}".format(*result["by_eager_quartiles"]),
            f"{result['by_unet']:.1f}",
            f"{result['other_pixels']:.1f}",
            f"{result['peak_bytes'] / MEBIBYTE:.1f}" if result["peak_bytes"] else "–",
            *_printed(result),
        )
        for result in results
    ]
    header = ("configuration", "runtime", "parameters", "ms/img", "img/s", "by eager", "quartiles", "by U-Net")
    header = (*header, "other pixels", "peak MiB", "paper ms", "paper img/s", "paper MB")
    print(reporting.table(header, rows))
    faults = faults_of_exports(results, settings.at_least) if settings.at_least is not None else []
    print("".join(f"\n{line}" for line in faults), end="\n" if faults else "")
    reporting.finish(settings, head, results, (header, rows))
    return not faults


def _printed(result: dict[str, Any]) -> tuple[str, str, str]:
    if result["runtime"] != "eager":
        return "", "", ""
    printed = ALL[result["configuration"]].printed
    return printed.milliseconds, printed.images_per_second, printed.peak_megabytes


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command. Exit code 1 if ``--at-least`` was given, and an exported ORDER is slower or draws other masks."""
    options = reporting.parser("benchmarks.order_speed", __doc__)
    reporting.add_machine_options(options)
    options.add_argument(
        "--rows", nargs="+", metavar="NAME", help=f"of {', '.join(map(repr, ALL))}; MK-UNet and U-Net are always there"
    )
    options.add_argument("--runtimes", nargs="+", choices=RUNTIMES, default=["eager"], help="besides eager PyTorch")
    options.add_argument("--size", type=int, help="height and width; 256, or 128 with --quick")
    options.add_argument("--batch", type=int, help="images a step; 4, or 2 with --quick; the paper's memory fits 16")
    options.add_argument("--rounds", type=int, help="timed steps of each; 5, or 2 with --quick")
    options.add_argument("--at-least", type=float, help="times as fast as eager that an exported ORDER has to be")
    options.add_argument("--channels-last", action="store_true", help="channels-last memory format")
    options.add_argument("--quick", action="store_true", help="smaller and shorter, and fewer rows")
    settings = options.parse_args(arguments)
    reporting.fill(settings, size=(128, 256), batch=(2, 4), rounds=(2, 5))
    if unknown := [name for name in settings.rows or () if name not in ALL]:
        raise InputError(f"--rows: there is no {unknown[0]!r}; there are {', '.join(map(repr, ALL))}")
    quick = [BACKBONE.name, "ORDER[0, 1]", MK_UNET, UNET]
    chosen = settings.rows or (quick if settings.quick else USUAL)
    settings.rows = list(dict.fromkeys([*chosen, MK_UNET, UNET]))  # no speed says anything by itself
    reporting.check(settings)
    check_least_size(settings.rows, settings.size)
    check_runtimes(settings.runtimes, settings.device)
    if settings.at_least is not None:
        _check_judged(settings)
    if not run(settings):
        sys.exit(1)


if __name__ == "__main__":
    main()

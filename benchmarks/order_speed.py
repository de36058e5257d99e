"""Speed and memory of inference for every ORDER configuration (the paper's table 9).

Times are taken in turns, one batch of each configuration a round, and are the medians over the rounds. They belong to
the machine they were taken on: compare the rows with one another, not with the paper's, which are a GPU's.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

from tqdm import tqdm

from common.errors import reports_input_errors

from . import reporting
from .configurations import CONFIGURATIONS
from .order_memory import seconds_in_turns
from .peak_memory import MEBIBYTE, Step, measure


def collect(settings: argparse.Namespace) -> list[dict[str, Any]]:
    """Milliseconds an image, images a second and peak memory of every configuration."""
    common = {"form": "fused", "train": False, "device": settings.device, "channels_last": settings.channels_last}
    where = {"size": settings.size, "batch": settings.batch, **common}
    steps = {configuration.name: Step(configuration.arguments, **where) for configuration in CONFIGURATIONS}
    seconds = seconds_in_turns(steps, settings.rounds)
    results = []
    for configuration in tqdm(CONFIGURATIONS, desc="memory", leave=False):
        each = statistics.median(seconds[configuration.name]) / settings.batch
        results.append(
            {
                "configuration": configuration.name,
                "parameters": sum(parameter.numel() for parameter in steps[configuration.name].network.parameters()),
                "milliseconds": 1000 * each,
                "images_per_second": 1 / each,
                "peak_bytes": int(measure(configuration.arguments, **where)["bytes"]),
            }
        )
    return results


def run(settings: argparse.Namespace) -> None:
    """Print the table."""
    head = reporting.heading("benchmarks.order_speed", settings)
    results = collect(settings)
    rows = [
        (
            result["configuration"],
            f"{result['parameters']:,}",
            f"{result['milliseconds']:.3f}",
            f"{result['images_per_second']:.1f}",
            f"{result['peak_bytes'] / MEBIBYTE:.1f}",
            configuration.printed.milliseconds,
            configuration.printed.images_per_second,
            configuration.printed.peak_megabytes,
        )
        for result, configuration in zip(results, CONFIGURATIONS, strict=True)
    ]
    header = ("configuration", "parameters", "ms/img", "img/s", "peak MiB", "paper ms", "paper img/s", "paper MB")
    print(reporting.table(header, rows))
    reporting.finish(settings, head, results)


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = reporting.parser("benchmarks.order_speed", __doc__)
    reporting.add_machine_options(options)
    options.add_argument("--size", type=int, help="height and width; 256, or 128 with --quick")
    options.add_argument("--batch", type=int, help="images a step; 4, or 2 with --quick; the paper's memory fits 16")
    options.add_argument("--rounds", type=int, help="timed steps of each; 5, or 2 with --quick")
    options.add_argument("--channels-last", action="store_true", help="channels-last memory format")
    options.add_argument("--quick", action="store_true", help="smaller and shorter")
    settings = options.parse_args(arguments)
    reporting.fill(settings, size=(128, 256), batch=(2, 4), rounds=(2, 5))
    reporting.check(settings)
    run(settings)


if __name__ == "__main__":
    main()

"""Memory and time of a training step: plain backbone, fused attention, and attention with its N×N matrices stored.

The three at the same skips, size and batch, side by side: peak memory each in a process of its own, times in turns
within one. What a form takes above the plain backbone is its excess; the fused form's is to be at most 1/20 of the
materialised form's at 256², and its step the faster one. MK-UNet and U-Net stand beside them. Last, all four skips
train at the same size.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from typing import Any

from tqdm import tqdm

from common.errors import InputError, reports_input_errors

from . import reporting
from .configurations import ALL, BACKBONE, MK_UNET, UNET
from .peak_memory import MEBIBYTE, Step, measure

LIMIT = 1 / 20
ALL_SKIPS = (0, 1, 2, 3)
FULL_SIZE = 256


def _forms(settings: argparse.Namespace) -> dict[str, dict[str, Any]]:
    common = {"train": True, "device": settings.device, "channels_last": settings.channels_last}
    attended = {"attention_skips": settings.skips}
    return {
        "backbone": {"arguments": BACKBONE.arguments, "form": "fused", **common},
        "fused": {"arguments": attended, "form": "fused", **common},
        "materialised": {"arguments": attended, "form": "materialised", **common},
        **{
            name: {"arguments": {}, "network": ALL[name].network, "form": "fused", **common} for name in (MK_UNET, UNET)
        },
    }


def seconds_in_turns(steps: dict[str, Step], rounds: int) -> dict[str, list[float]]:
    """Seconds of each step, one after another in every round, so that a busy machine slows all alike."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():  # twice: TorchScript optimises at the second call
        step()
        step()
    for _ in tqdm(range(rounds), desc="timing", leave=False):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def round_ratios(numerators: list[float], denominators: list[float]) -> list[float]:
    """The ratio within each round."""
    return [top / bottom for top, bottom in zip(numerators, denominators, strict=True)]


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return statistics.median(round_ratios(numerators, denominators))


def compare(settings: argparse.Namespace) -> dict[str, Any]:
    """Measure the three forms; memory in bytes, times in seconds."""
    forms = _forms(settings)
    where = {"size": settings.size, "batch": settings.batch}
    peaks = {name: int(measure(**form, **where)["bytes"]) for name, form in tqdm(forms.items(), "memory", leave=False)}
    seconds = seconds_in_turns({name: Step(**form, **where) for name, form in forms.items()}, settings.rounds)
    excess = {name: peaks[name] - peaks["backbone"] for name in ("fused", "materialised")}
    return {
        "peak_bytes": peaks,
        "excess_bytes": excess,
        "excess_ratio": max(0, excess["fused"]) / max(1, excess["materialised"]),
        "seconds": {name: statistics.median(values) for name, values in seconds.items()},
        "materialised_by_fused_seconds": median_ratio(seconds["materialised"], seconds["fused"]),
    }


def train_all_skips(settings: argparse.Namespace) -> dict[str, Any]:
    """Two steps with all four skips at batch 1, and what MK-UNet and U-Net take for them; each in a process of its own.

    The bytes as "peak_bytes" by network, the loss of ORDER's second step as "loss".
    """
    forms = _forms(settings)
    asked = {"all four skips": {**forms["fused"], "arguments": {"attention_skips": ALL_SKIPS}}}
    asked |= {name: forms[name] for name in (MK_UNET, UNET)}
    measured = {name: measure(**form, size=settings.size, batch=1) for name, form in asked.items()}
    return {
        "peak_bytes": {name: int(result["bytes"]) for name, result in measured.items()},
        "loss": measured["all four skips"]["loss"],
    }


def _print(results: dict[str, Any], all_skips: dict[str, Any], settings: argparse.Namespace) -> None:
    rows = [
        (
            name,
            f"{results['peak_bytes'][name] / MEBIBYTE:,.1f}",
            f"{results['excess_bytes'].get(name, 0) / MEBIBYTE:,.1f}",
            f"{results['seconds'][name]:.3f}",
        )
        for name in results["peak_bytes"]
    ]
    print(reporting.table(("training step", "peak MiB", "above backbone MiB", "median s"), rows))
    print(f"\nexcess, fused by materialised: {results['excess_ratio']:.4f} (limit {LIMIT} at {FULL_SIZE}²)")
    print(
        f"time, materialised by fused: {results['materialised_by_fused_seconds']:.2f} (median of the rounds; limit 1)"
    )
    peaks = ", ".join(f"{name} {peak / MEBIBYTE:,.1f}" for name, peak in all_skips["peak_bytes"].items())
    print(f"two steps at {settings.size}², batch 1, peak MiB: {peaks}; loss with all four {all_skips['loss']:.4f}")


def run(settings: argparse.Namespace) -> bool:
    """Print the comparison; whether both limits were kept (at a size below 256² nothing is judged)."""
    head = reporting.heading("benchmarks.order_memory", settings)
    results, all_skips = compare(settings), train_all_skips(settings)
    _print(results, all_skips, settings)
    kept = results["excess_ratio"] <= LIMIT and results["materialised_by_fused_seconds"] > 1
    judged = settings.size >= FULL_SIZE
    print(("limits kept" if kept else "limits NOT kept") if judged else "too small a size to judge the limits at")
    reporting.finish(settings, head, {**results, "all_skips": all_skips, "limits_kept": kept if judged else None})
    return kept or not judged


def _skips(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"has to be like 2,1; it is {text!r}") from None


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command. Exit code 1 if a limit was broken."""
    options = reporting.parser("benchmarks.order_memory", __doc__)
    reporting.add_machine_options(options)
    options.add_argument(
        "--skips", type=_skips, default=(2, 1), help="attention skips; 3 stores 2 GiB a matrix a sample"
    )
    options.add_argument("--size", type=int, help=f"height and width; {FULL_SIZE}, or 128 with --quick")
    options.add_argument("--batch", type=int, default=4, help="images a step, the same for all three")
    options.add_argument("--rounds", type=int, help="timed steps of each; 5, or 2 with --quick")
    options.add_argument("--channels-last", action="store_true", help="channels-last memory format")
    options.add_argument("--quick", action="store_true", help="a smaller size, too small to judge the limits at")
    settings = options.parse_args(arguments)
    reporting.fill(settings, size=(128, FULL_SIZE), rounds=(2, 5))
    if not settings.skips or not set(settings.skips) <= set(ALL_SKIPS):
        raise InputError(f"--skips takes some of 0,1,2,3; it is {','.join(map(str, settings.skips))}")
    reporting.check(settings)
    if not run(settings):
        sys.exit(1)


if __name__ == "__main__":
    main()

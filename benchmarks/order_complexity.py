"""Parameters and operations of ORDER and of what it is compared with at 256², beside the paper's (tables 7, 9, 10).

The paper's GFLOPs are those of the convolutions alone. The attention's matrix products come on top: three by the
algorithm, which computes S once and reads it twice, and four as executed by the fused form, which computes S once for
each direction and never stores it. All are 2×MAC, counted by torch's own counter on tensors without content.

The paper's 109.2 G of U-Net is 96.3 G: its counter takes a transposed convolution of 2×2 for a full 2×2 product at each
pixel of the result, of which each is made by one of the four weights (4 × 4.3 G in the place of 4.3 G).
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from common.errors import reports_input_errors

from . import reporting
from .configurations import BASELINES, CONFIGURATIONS, HEAVY, OTHER_READINGS, Configuration, materialised


def count_operations(network: nn.Module, size: int = 256) -> dict[str, int]:
    """2×MAC of one image of ``size``², as ``{"convolutions": …, "total": …}``; the network moves to ``meta``."""
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        network.eval().to("meta")(torch.empty(1, 3, size, size, device="meta"))
    convolutions = counter.get_flop_counts()["Global"].get(torch.ops.aten.convolution, 0)
    return {"convolutions": convolutions, "total": counter.get_total_flops()}


def measure(configuration: Configuration, size: int = 256) -> dict[str, Any]:
    """Parameters and the three operation counts of one configuration."""
    network = configuration.build()
    # Counted on the materialised form, which is the algorithm as written; its 1×1 projections count as matrix
    # products there, so that only its total is used. Other networks have one form.
    written = materialised(network) if configuration.network == "OrderNet" else network
    algorithm, fused = count_operations(written, size)["total"], count_operations(network, size)
    return {
        "configuration": configuration.name,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "convolutions": fused["convolutions"],
        "algorithm": algorithm,
        "fused": fused["total"],
        "paper": {"parameters": configuration.printed.parameters, "gflops": configuration.printed.gflops},
    }


def run(settings: argparse.Namespace) -> None:
    """Print the table."""
    head = reporting.heading("benchmarks.order_complexity", settings)
    chosen = [each for each in (*CONFIGURATIONS, *OTHER_READINGS, *BASELINES, *HEAVY) if each.can_be_built()]
    chosen = [each for each in chosen if each.least_size <= settings.size]
    results = [measure(configuration, settings.size) for configuration in chosen]
    header = ("configuration", "parameters", "paper", "conv. M", "paper G", "with attention M", "fused executes M")
    rows = [
        (
            result["configuration"],
            f"{result['parameters']:,}",
            result["paper"]["parameters"],
            f"{result['convolutions'] / 1e6:,.3f}",
            result["paper"]["gflops"],
            f"{result['algorithm'] / 1e6:,.1f}",
            f"{result['fused'] / 1e6:,.1f}",
        )
        for result in results
    ]
    print(reporting.table(header, rows))
    print(
        "\nM and G: million and thousand million operations, 2×MAC, for one image; paper: at 256², tables 7, 9 and 10."
    )
    for each in HEAVY:
        if not each.can_be_built():
            print(f"{each.name} is left out: it needs timm; pip install -c constraints.txt -e '.[train,baselines]'")
        elif each not in chosen:
            print(f"{each.name} is left out: it takes no image below {each.least_size}²")
    print("conv.: convolutions alone, as the paper counts. with attention: the algorithm's three products besides.")
    reporting.finish(settings, head, results, (header, rows))


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command."""
    options = reporting.parser("benchmarks.order_complexity", __doc__)
    options.add_argument("--size", type=int, default=256, help="height and width of the image")
    settings = options.parse_args(arguments)
    reporting.check(settings)
    run(settings)


if __name__ == "__main__":
    main()

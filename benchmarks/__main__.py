"""All benchmarks, one after another: ``python -m benchmarks [--quick] [--device D] [--threads N] [--out FOLDER]``."""

from __future__ import annotations

import argparse
import sys

from . import order_complexity, order_memory, order_speed


def main() -> None:
    """The command. Exit code 1 if a limit was broken."""
    options = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    options.add_argument("--quick", action="store_true", help="smaller and shorter")
    options.add_argument("--device", default="cpu", help="cpu, or cuda")
    options.add_argument("--threads", help="threads of the CPU")
    options.add_argument("--out", metavar="FOLDER", help="also write a JSON file for each into this folder")
    settings = options.parse_args()
    measured = ["--device", settings.device, *(["--quick"] if settings.quick else [])]
    measured += ["--threads", settings.threads] if settings.threads else []
    for module, arguments in ((order_complexity, []), (order_speed, measured), (order_memory, measured)):
        name = module.__name__.rpartition(".")[2]
        module.main([*arguments, *(["--out", f"{settings.out}/{name}.json"] if settings.out else [])])
        if module is not order_memory:
            print()


if __name__ == "__main__":
    sys.exit(main())

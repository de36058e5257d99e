"""What every benchmark prints around its figures: its own settings, the machine, a table; and the JSON file."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from common.columns import align
from common.devices import usable_device
from common.errors import InputError
from common.files import check_writable, write_atomically, write_csv, write_json


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def machine(device: str) -> dict[str, Any]:
    """Where the figures were taken, and how busy it was besides."""
    description = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": commit(),
    }
    if torch.device(device).type == "cuda":
        description["gpu"] = torch.cuda.get_device_name(device)
    return description


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """A text table: the first column to the left, the others to the right."""
    head, *lines = align([[str(cell) for cell in row] for row in (header, *rows)])
    return "\n".join([head, "─" * len(head), *lines])


def described(where: Mapping[str, Any]) -> str:
    """A machine in a line."""
    return ", ".join(f"{name} {value}" for name, value in where.items() if value is not None)


def publish(folder: str | Path, name: str, header: Sequence[str], rows: Sequence[Sequence[Any]], notes: str) -> str:
    """A table as text, and as ``name.md`` and ``name.csv`` in a folder.

    Below it stand `notes`, its budget and key, and in the file the machine and the commit too.
    """
    cells = [[str(cell) for cell in row] for row in (header, *rows)]
    lines = [f"| {' | '.join(cell.replace('|', '¦') for cell in row)} |" for row in cells]
    lines.insert(1, "|" + "---|" * len(header))
    below = [*notes.splitlines(), described(machine("cuda" if torch.cuda.is_available() else "cpu"))]
    write_atomically(Path(folder) / f"{name}.md", ("\n".join([*lines, "", *below]) + "\n").encode())
    every = [("budget", "machine"), *[(" ".join(notes.splitlines()), below[-1])] * len(rows)]
    write_csv(Path(folder) / f"{name}.csv", [(*row, *more) for row, more in zip(cells, every, strict=True)])
    return f"{table(header, rows)}\n\n{notes}"


def commit() -> str | None:
    """Of the checkout that runs, with a + where it was changed since; None where it is none."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        found = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True, check=True)
        changed = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip() + ("+" if changed.stdout.strip() else "")


def parser(module: str, description: str | None) -> argparse.ArgumentParser:
    """A command's parser with the options that all of them have."""
    options = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    options.add_argument("--out", metavar="FILE", help="also write the figures to this JSON file")
    return options


def add_machine_options(options: argparse.ArgumentParser) -> None:
    """``--device`` and ``--threads``, for commands that take times or memory themselves."""
    options.add_argument("--device", default="cpu", help="cpu, or cuda")
    options.add_argument("--threads", type=int, help="threads of the CPU; torch's own choice if not given")


def fill(settings: argparse.Namespace, **values: tuple[int, int]) -> None:
    """Give each setting that was left out its first value with ``--quick``, its second without."""
    for name, (quick, full) in values.items():
        if getattr(settings, name) is None:
            setattr(settings, name, quick if settings.quick else full)


def check(settings: argparse.Namespace) -> None:
    """Refuse at once what would fail later, and set the number of threads.

    Raises:
        InputError: on a size that does not divide by 32, a count below 1, a device that is not there.
    """
    given = vars(settings)
    if given.get("size") is not None and (settings.size < 32 or settings.size % 32):
        raise InputError(f"--size has to be a multiple of 32; it is {settings.size}")
    for name in ("batch", "threads", "rounds"):
        if given.get(name) is not None and given[name] < 1:
            raise InputError(f"--{name} has to be at least 1; it is {given[name]}")
    if given.get("device") is not None:
        usable_device(settings.device)
    if given.get("threads") is not None:
        torch.set_num_threads(settings.threads)
    if settings.out is not None:
        check_writable(Path(settings.out).parent)


def heading(module: str, settings: argparse.Namespace) -> dict[str, Any]:
    """Print the command with every setting, and the machine; return both for the report."""
    parameters = {name: value for name, value in vars(settings).items() if name != "out"}
    parameters = {name: sorted(value) if isinstance(value, set) else value for name, value in parameters.items()}
    shown = " ".join(
        f"{name}={value}" for name, value in parameters.items() if value is not None and not isinstance(value, dict)
    )
    where = machine(getattr(settings, "device", "cpu"))
    print(f"{module} {shown}".rstrip())
    print(described(where), end="\n\n", flush=True)
    return {"command": module, "parameters": parameters, "machine": where}


def finish(
    settings: argparse.Namespace,
    head: dict[str, Any],
    results: Any,
    shown: tuple[Sequence[str], Sequence[Sequence[Any]]] | None = None,
) -> None:
    """Write heading and results to ``--out``, where it was given; and beside it the table that was `shown`."""
    if settings.out is not None:
        write_json(settings.out, {**head, "results": results})
        if shown is not None:
            path = Path(settings.out)
            publish(path.parent, path.stem, *shown, " ".join(f"{k}={v}" for k, v in head["parameters"].items() if v))
        print(f"\nwritten: {settings.out}")

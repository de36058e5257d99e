"""Trainings and evaluations as the rows of a table: the bundles' own commands, their logs, and means over seeds."""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.files import write_json

REPOSITORY = Path(__file__).resolve().parents[1]
OVERLAY = "row.yaml"  # in the folder of a row: what sets it apart
DIVERGED = "error: the loss is "  # what StopOnNonFiniteLoss says


def given(settings: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the named options that were given."""
    return {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}


def bundle_command(run: str, files: str | Sequence[str], options: Mapping[str, Any]) -> list[str]:
    """``python -m monai.bundle run RUN --config_file FILES --key value …``."""
    shown = files if isinstance(files, str) else str(list(files))
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run", run, "--config_file", shown]
    return command + [part for key, value in options.items() for part in (f"--{key}", str(value))]


def succeeds(command: Sequence[str], log: Path) -> bool:
    """Run a command, its output at the end of a file.

    Returns False where the loss ceased to be finite.

    Raises:
        InputError: for every other failure, with what the command said last.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    before = log.stat().st_size if log.is_file() else 0
    with log.open("ab") as stream:
        code = subprocess.run(command, cwd=REPOSITORY, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    if code == 0:
        return True
    said = log.read_bytes()[before:].decode(errors="replace")  # not what an earlier call has said
    if DIVERGED in said:
        return False
    lines = [line for line in said.splitlines() if line.startswith("error: ")] or said.splitlines()[-1:]
    raise InputError(f"{shlex.join(command)} failed: {lines[-1] if lines else 'it said nothing'}; see {log}")


def settled_outcome(folder: Path, settled: Mapping[str, Any]) -> dict[str, Any] | None:
    """What came of a row that was run before with the same settings, which are written down if it was not.

    Raises:
        InputError: if the folder was begun with others.
    """
    done = folder / "outcome.json"
    content = json.loads(done.read_text()) if done.is_file() else dict(settled)
    if {key: content.get(key) for key in settled} != json.loads(json.dumps(settled)):
        raise InputError(f"{folder} was begun with other settings; name another --out")
    if "outcome" in content:
        return content["outcome"]
    write_json(done, dict(settled))
    return None


def write_outcome(folder: Path, settled: Mapping[str, Any], outcome: Mapping[str, Any]) -> None:
    """Write down what came of a row, for `settled_outcome`."""
    write_json(folder / "outcome.json", {**settled, "outcome": dict(outcome)})


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a history, without what was not measured in an epoch; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def spread(values: Sequence[float | None], scale: float = 100) -> str:
    """Mean ± standard deviation (n − 1) of shares, in percent, or times another scale; "–" where one is missing."""
    if not values or any(value is None for value in values):
        return "–"
    mean = sum(values) / len(values)
    if len(values) == 1:
        return f"{scale * mean:.1f}"
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{scale * mean:.1f} ± {scale * deviation:.1f}"

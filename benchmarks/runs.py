"""Trainings and evaluations as the rows of a table: the bundles' own commands, their logs, and means over seeds."""

from __future__ import annotations

import argparse
import ast
import csv
import hashlib
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from monai.bundle import ConfigParser

from common.errors import InputError
from common.files import write_atomically, write_json
from common.settings import setting_faults

from .reporting import commit

REPOSITORY = Path(__file__).resolve().parents[1]
OVERLAY = "row.yaml"  # in the folder of a row: what sets it apart
_PLACES = {
    "--dataset_dir",
    "--output_dir",
    "--cache_dir",
    "--checkpoint",
    "--weights",
    "--base",
    "--segmenter",
    "--synthetic_dir",
}
DIVERGED = "error: the loss is "  # what StopOnNonFiniteLoss says


def given(settings: argparse.Namespace, *names: str) -> dict[str, Any]:
    """Those of the named options that were given."""
    return {name: getattr(settings, name) for name in names if getattr(settings, name) is not None}


def bundle_command(run: str, files: str | Sequence[str], options: Mapping[str, Any], processes: int = 1) -> list[str]:
    """``python -m monai.bundle run RUN --config_file FILES --key value …``, under torchrun for several processes."""
    shown = files if isinstance(files, str) else str(list(files))
    several = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"] if processes > 1 else []
    command = [sys.executable, "-W", "ignore", *several, "-m", "monai.bundle", "run", run, "--config_file", shown]
    return command + [part for key, value in options.items() for part in (f"--{key}", str(value))]


@contextmanager
def _stops_are_exceptions() -> Iterator[None]:
    # By default SIGTERM ends this process at once and leaves the command that it started at work.
    before = signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit_code(command: Sequence[str], log: Path) -> int:
    with _stops_are_exceptions(), log.open("ab") as stream:
        started = subprocess.Popen(command, cwd=REPOSITORY, stdout=stream, stderr=subprocess.STDOUT)
        try:
            return started.wait()
        except BaseException:
            started.terminate()  # torchrun ends its processes then
            try:
                started.wait(timeout=30)
            except subprocess.TimeoutExpired:
                started.kill()
            raise


def succeeds(command: Sequence[str], log: Path) -> bool:
    """Run a command, its output at the end of a file; stopped by SIGTERM or Ctrl-C, it stops the command too.

    Returns False where the loss ceased to be finite.

    Raises:
        InputError: for every other failure, with what the command said last.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    before = log.stat().st_size if log.is_file() else 0
    if _exit_code(command, log) == 0:
        return True
    said = log.read_bytes()[before:].decode(errors="replace")  # not what an earlier call has said
    if DIVERGED in said:
        return False
    lines = [line for line in said.splitlines() if line.startswith("error: ")] or said.splitlines()[-1:]
    raise InputError(f"{shlex.join(command)} failed: {lines[-1] if lines else 'it said nothing'}; see {log}")


def run_row(
    folder: Path,
    training: Sequence[str],
    measuring: Sequence[str],
    overlay: Mapping[str, Any],
    of: Mapping[str, str],
    read: Callable[[bool], Mapping[str, Any]],
) -> dict[str, Any]:
    """Train and measure a row, or take what came of it where it was run before with the same settings.

    Args:
        folder: of the row.
        training, measuring: commands; the second runs where there is one and the first did not diverge.
        overlay: config keys and values that set the row apart, written to `OVERLAY` in the folder, which the commands
            name.
        of: digests of what the commands only name.
        read: makes the outcome once they are through, plain numbers, lists and dicts; told whether training diverged.

    Where its folders lie, and which Python runs it, is no setting: a table that was moved goes on. What it is computed
    on is one, since mixed precision is on by default on a GPU and not on a CPU.

    Raises:
        InputError: if the folder was begun with other settings, or a command fails for another reason than a loss that
            is not finite.
    """
    done = folder / "outcome.json"
    # The commands name files, of which the overlay is one; two tables have rows of one name.
    commands = {"training": _settings_of(training), "measuring": _settings_of(measuring)}
    settled = {"commands": commands, "overlay": dict(overlay), "of": {**of, "device": device()}}
    content = json.loads(done.read_text()) if done.is_file() else settled
    if other := differences({key: content.get(key) for key in settled}, settled):
        raise InputError(f"{folder} was begun with other settings ({other}); name another --out")
    if "outcome" in content:
        return content["outcome"]
    ran = {"training": shlex.join(training), "measuring": shlex.join(measuring)}
    write_json(done, settled)
    write_atomically(folder / OVERLAY, yaml.safe_dump(dict(overlay), sort_keys=False).encode())
    print(f"{folder.name}: {shlex.join(training)}", flush=True)
    try:
        diverged = not succeeds(training, folder / "training.log")
    except InputError:
        if not (folder / "run").exists():  # nothing was begun, so the next call may have other settings
            done.unlink()
        raise
    if measuring and not diverged:
        succeeds(measuring, folder / "evaluation.log")
    outcome = dict(read(diverged))
    write_json(done, {**settled, "ran": ran, "commit": commit(), "outcome": outcome})
    return outcome


def device() -> str:
    """Where a bundle's commands compute, by name of the GPU; "cpu" without one."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def run_each(
    names: Sequence[str],
    pairs: Iterable[tuple[str, int]],
    run: Callable[[str, int], Any],
    save: Callable[[Mapping[str, Any]], None],
) -> tuple[dict[str, list[Any]], list[str]]:
    """Runs of names and seeds, in the order of `pairs`; one that fails is told, and stops no other.

    Args:
        names: of all, in the order of the table.
        pairs: a name and a seed, each.
        run: one of them, to its outcome; an `InputError` says why it failed.
        save: gets ``{"results": …, "failed": …}`` after each.

    Returns:
        The outcomes by name, and a line for each that failed.
    """
    outcomes: dict[str, list[Any]] = {name: [] for name in names}
    failed: list[str] = []
    for name, seed in pairs:
        try:
            outcomes[name].append(run(name, seed))
        except InputError as error:
            failed.append(f"{name}, seed {seed}: {error}")
            print(f"not measured: {failed[-1]}", flush=True)
        save({"results": outcomes, "failed": failed})
    return outcomes, failed


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, which commands only name."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def config_digest(*configs: Sequence[str]) -> str:
    """SHA-256 of what config files say, which commands only name; each list of them is merged as MONAI does."""
    contents = [dict(ConfigParser.load_config_files(files)) for files in configs]
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()


def check_trainings(settings: argparse.Namespace, *numbers: str) -> None:
    """That ``seeds``, ``processes`` and `numbers`, those of them that were given, can be trained with.

    Raises:
        InputError: if one is out of range, or the processes do not divide the batch.
    """
    faults = setting_faults(given(settings, *numbers))
    faults += [fault for seed in settings.seeds for fault in setting_faults({"seed": seed})]
    if faults:
        raise InputError("; ".join(faults))
    if settings.processes < 1 or settings.batch_size % settings.processes:
        raise InputError(f"--processes has to divide the batch of {settings.batch_size}; got {settings.processes}")


def _settings_of(command: Sequence[str]) -> dict[str, str]:
    # Options but those that say where something lies; of a config file its name, since its content is digested.
    if not command:
        return {}
    options = dict(pairwise(command))
    found = {key: value for key, value in options.items() if key.startswith("--") and key not in _PLACES}
    files = ast.literal_eval(options["--config_file"]) if options["--config_file"].startswith("[") else None
    found["--config_file"] = " ".join(Path(file).name for file in files or [options["--config_file"]])
    return found


def differences(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> str:
    """What differs between two nested mappings, as "key: theirs, now ours; …"; "" where nothing does."""
    found = []
    for key in sorted({*theirs, *ours}):
        before, now = theirs.get(key), ours.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found.append(differences(before, now))
        elif before != now:
            found.append(f"{key.removeprefix('--')}: {before}, now {now}")
    return "; ".join(each for each in found if each)


def read_history(path: Path) -> list[dict[str, float]]:
    """The rows of a history, without what was not measured in an epoch; none where there is no file."""
    if not path.is_file():
        return []
    with path.open(newline="") as stream:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(stream)]


def spread(values: Sequence[float | None], scale: float = 100, digits: int = 1) -> str:
    """Mean ± standard deviation (n − 1) of shares, in percent, or times another scale.

    Where some are missing, of the others, with "(n of N)"; "–" where all are.
    """
    found = [value for value in values if value is not None]
    if not found:
        return "–"
    share = f" ({len(found)} of {len(values)})" if len(found) < len(values) else ""
    mean = sum(found) / len(found)
    if len(found) == 1:
        return f"{scale * mean:.{digits}f}{share}"
    deviation = (sum((value - mean) ** 2 for value in found) / (len(found) - 1)) ** 0.5
    return f"{scale * mean:.{digits}f} ± {scale * deviation:.{digits}f}{share}"

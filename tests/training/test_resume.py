"""A run that was killed and started again equals one that never stopped: through the command itself, on a CPU."""

from __future__ import annotations

import csv
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.weights import read_checkpoint
from tests.training.states import contents, differences, read

pytestmark = pytest.mark.slow

EPOCHS = 8
RECIPES = {
    # AdEMAMix, a learning rate an epoch, flips and rotation
    "paper": ({}, ["train.yaml"]),
    # AdamW, a learning rate an iteration, averaged weights, a resolution that grows (here, and is drawn for a while)
    "best": (
        {"train#resolution#stages": "[[0.25,32],[0.5,[32,64]],[0.25,64]]", "ema#momentum": 0.3},
        ["train.yaml", "recipe_best.yaml"],
    ),
}


def _command(recipe: str, overlay: Path, dataset: Path, output: Path) -> list[str]:
    more, configs = RECIPES[recipe]
    given = {
        "config_file": [*(f"order_polyps/configs/{name}" for name in configs), str(overlay)],
        "dataset_dir": dataset,
        "output_dir": output,
        "epochs": EPOCHS,
        "batch_size": 4,
        "image_size": 64,
        "learning_rate": 0.01,
        **more,
    }
    flags = [str(text) for key, value in given.items() for text in (f"--{key}", value)]
    return [sys.executable, "-m", "monai.bundle", "run", "training", *flags]


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done


def _kill_after_epoch(command: list[str], folder: Path, state: Path, epoch: int) -> int | None:
    """Kill a run half an epoch after it saved `epoch`; the last epoch it saved, or None if it came to its end."""
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    seen: dict[int, float] = {}  # when each epoch was first seen on the disk
    try:
        while process.poll() is None and max(seen, default=0) < epoch:
            if state.exists():  # read again and again while it is replaced: it must be whole at any time
                seen.setdefault(read_checkpoint(state)["epoch"], time.monotonic())
            time.sleep(0.01)
        if len(seen) > 1:
            first, last = min(seen), max(seen)
            time.sleep((seen[last] - seen[first]) / (last - first) / 2)
    finally:
        process.kill()
        process.wait()
    return read_checkpoint(state)["epoch"] if process.returncode == -signal.SIGKILL else None


@pytest.fixture(scope="module", params=list(RECIPES))
def runs(request, drawn_set, quick, repository, tmp_path_factory) -> tuple[Path, Path, int, list[str]]:
    """The folders of a whole run and of a killed and resumed one, where that was killed, and what each printed."""
    root = tmp_path_factory.mktemp(request.param)
    whole = _run(_command(request.param, quick, drawn_set, root / "whole"), repository)
    for attempt in range(5):
        stopped = root / f"stopped_{attempt}"
        command = _command(request.param, quick, drawn_set, stopped)
        killed = _kill_after_epoch(command, repository, stopped / "latest.pt", 4)
        if killed is not None and killed < EPOCHS:
            break
    else:
        pytest.fail("the run ended five times before it could be killed")
    (stopped / ".latest.pt.abcdefgh.part").write_bytes((stopped / "latest.pt").read_bytes()[:1000])
    resumed = _run(command, repository)
    return root / "whole", stopped, killed, [whole, resumed]


def test_it_was_killed_within_a_later_epoch_and_went_on_from_there(runs):
    _, stopped, killed, (whole, resumed) = runs
    assert 4 <= killed < EPOCHS
    assert f"resuming {stopped / 'latest.pt'} after epoch {killed}" in resumed.stdout
    told = [re.findall(r"epoch (\d+)/8: loss", run.stdout) for run in (whole, resumed)]
    assert told == [[str(e) for e in range(1, EPOCHS + 1)], [str(e) for e in range(killed + 1, EPOCHS + 1)]]


def test_weights_optimizer_and_all_else_are_the_same_bit_for_bit(runs):
    whole, stopped, _, _ = runs
    states = [read(folder / "latest.pt") for folder in (whole, stopped)]
    assert states[0]["epoch"] == EPOCHS and states[0]["optimizer"]["state"]
    assert (states[0]["ema"] is not None) == (states[0]["settings"]["recipe"] == "best")
    assert list(differences(*states)) == []
    assert list(differences(*(read(folder / "model.pt") for folder in (whole, stopped)))) == []


def test_history_has_a_row_an_epoch_and_is_the_same(runs):
    whole, stopped, _, _ = runs
    text = (whole / "history.csv").read_text()
    assert text == (stopped / "history.csv").read_text()
    rows = list(csv.DictReader(text.splitlines()))
    assert [int(row["epoch"]) for row in rows] == list(range(1, EPOCHS + 1))
    assert len({row["loss"] for row in rows}) == EPOCHS  # it did train
    metrics = [float(row["val_mean_dice"]) for row in rows]
    assert max(metrics) == read(whole / "latest.pt")["best"] and len(set(metrics)) > 3


def test_an_unfinished_file_of_the_killed_process_is_no_part_of_the_run(runs):
    whole, stopped, _, _ = runs
    assert {name for name in contents(stopped) if not name.endswith(".part")} == set(contents(whole))


def test_a_run_into_a_file_prints_little_and_warns_of_nothing_but_what_monai_always_does(runs):
    whole = runs[3][0]
    lines = [line for line in re.split(r"[\r\n]+", whole.stderr) if line.strip()]
    others = [line for line in lines if not re.match(r"(verify|Loading dataset): +\d+%", line)]
    assert len(others) == 2 and "GHSA-873f-pvrv-4x83" in others[0]  # the warning and the line of code it stands at
    assert len(whole.stdout.splitlines()) < 20 + 12 * EPOCHS

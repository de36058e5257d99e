"""Wrong inputs through the real commands: one clear line, an exit code other than 0, nothing written.

Each input that the checks know is tried in tests/test_guard.py; here is the way from a config to its check.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from common.order import OrderNet
from tests.bundles.drawn import SIDE, draw_prepared, remove_partner, tree, truncate_image
from tests.bundles.warm import Ended

ROOT = Path(__file__).resolve().parents[2] / "order_polyps"
SMALL = {"epochs": 1, "batch_size": 2, "image_size": SIDE}


def config(name: str) -> Path:
    return ROOT / "configs" / f"{name}.yaml"


def one_line(ended: Ended, *patterns: str) -> None:
    """The command failed, and said a line for each pattern and no more."""
    assert ended.code != 0, ended.out
    assert "Traceback" not in ended.out + ended.err, ended.err
    assert len(ended.said) == len(patterns), ended.err
    for line, pattern in zip(ended.said, patterns, strict=True):
        assert line.startswith("error: ") and re.search(pattern, line), line


@pytest.fixture
def at_work(tmp_path, drawn) -> Path:
    """A folder to work in that holds the drawn set as `data`, and a checkpoint of another architecture."""
    folder = tmp_path / "work"
    shutil.copytree(drawn, folder / "data")
    torch.save(OrderNet(attention_skips=()).state_dict(), folder / "other.pt")
    return folder


@pytest.mark.parametrize(
    ("name", "given", "patterns"),
    [
        (
            "train",
            {"dataset_dir": "data", "learning_rte": 1},
            ["unknown key --learning_rte.*did you mean --learning_rate"],
        ),
        ("train", {"dataset_dir": "data", "seed": "one"}, ["--seed has to be a whole number.*'one'"]),
        ("train", {"dataset_dir": "data", "network_def#channels": [4, 8]}, ["channels needs 5 positive widths"]),
        (
            "train",
            {"dataset_dir": "data", "network_def#attention_skip": [1]},
            ["unknown key --network_def#attention_skip: .*did you mean --network_def#attention_skips"],
        ),
        (
            "train",
            {
                "dataset_dir": "no/folder",
                "epochs": 0,
                "image_size": 100,
                "output_dir": "other.pt/o",
                "val_intervall": 1,
            },
            [
                "--val_intervall",
                "--epochs",
                "--image_size",
                "no/folder: no such folder",
                "cannot write to .*other.pt/o",
            ],
        ),
        ("evaluate", {"dataset_dir": "data", "checkpoint": "other.pt"}, [r"other\.pt holds the weights of another"]),
        ("inference", {}, ["give --dataset_dir, an image or a folder"]),
    ],
)
def test_a_wrong_input_is_told(warm, at_work, name, given, patterns):
    before = tree(at_work)
    small = SMALL if name == "train" else {}
    given = {"config_file": config(name), "output_dir": "out/of/this", **small, **given}
    one_line(warm.bundle("run", cwd=at_work, **given), *patterns)
    assert tree(at_work) == before


def test_every_fault_of_the_data_is_told_at_once(warm, at_work):
    truncate_image(at_work / "data")
    remove_partner(at_work / "data")
    ended = warm.bundle("run", "training", cwd=at_work, config_file=config("train"), dataset_dir="data")
    assert ended.code == 2 and "Traceback" not in ended.err
    head, *faults = ended.said
    assert head == "error: 2 faults in data:"
    assert "drawn_0.png" in faults[0] and "drawn_1.png" in faults[1] and len(faults) == 2


@pytest.mark.parametrize(
    "write",
    [
        lambda folder: (folder / "common.py").write_text(""),
        lambda folder: ((folder / "common").mkdir(), (folder / "common" / "__init__.py").write_text("1 / 0")),
    ],
    ids=["module", "package"],
)
def test_another_common_in_the_way_is_named_and_not_run(warm, at_work, write):
    write(at_work)
    ended = warm.bundle("run", cwd=at_work, config_file=config("evaluate"), dataset_dir="data")
    one_line(ended, rf"{at_work}/common.*is in the way.*start elsewhere, or rename it")


def test_a_folder_common_without_code_is_not_in_the_way(warm, at_work):
    (at_work / "common").mkdir()
    small = {"image_size": SIDE, "output_dir": "out"}
    ended = warm.bundle("run", cwd=at_work, config_file=config("inference"), dataset_dir="data", **small)
    assert (ended.code, ended.said) == (0, [])


def test_a_bundle_without_its_collection_says_so(warm, at_work):
    shutil.copytree(ROOT, at_work / "order_polyps")
    ended = warm.bundle("run", cwd=at_work, config_file="order_polyps/configs/evaluate.yaml", dataset_dir="data")
    one_line(ended, "the package common is missing; keep this bundle in its collection, or pip install the collection")


def test_a_run_of_another_network_is_not_resumed(warm, at_work):
    given: dict[str, Any] = {"config_file": config("train"), "dataset_dir": "data", "output_dir": "run", **SMALL}
    assert warm.bundle("run", cwd=at_work, **given).code == 0
    before = {name: content for name, content in tree(at_work / "run").items() if name.endswith(".pt")}
    ended = warm.bundle("run", cwd=at_work, **{**given, "epochs": 2, "network_def#attention_skips": []})
    one_line(ended, r"run/latest\.pt is a run with other settings \(network 'OrderNet ")
    assert {name: content for name, content in tree(at_work / "run").items() if name.endswith(".pt")} == before
    ended = warm.bundle(
        "run", cwd=at_work, config_file=config("evaluate"), dataset_dir="data", checkpoint="run/latest.pt"
    )
    one_line(ended, r"run/latest\.pt is where a run stands.*give the model\.pt")


FULL_DISK = """
import resource, runpy, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
sys.argv = {arguments}
runpy.run_module("monai.bundle", run_name="__main__", alter_sys=True)
"""


@pytest.mark.slow
def test_a_disk_that_fills_up_is_one_line_and_spoils_no_checkpoint(warm, at_work):
    """A limit on the size of files stands for the full disk."""
    given: dict[str, Any] = {"config_file": config("train"), "dataset_dir": "data", "output_dir": "run", **SMALL}
    assert warm.bundle("run", cwd=at_work, **given).code == 0
    weights = {name: content for name, content in tree(at_work / "run").items() if name.endswith(".pt")}
    flags = [str(part) for key, value in {**given, "epochs": 2}.items() for part in (f"--{key}", value)]
    ended = warm.code(FULL_DISK.format(arguments=["monai.bundle", "run", *flags]), cwd=at_work)
    one_line(ended, "File too large; make room or choose another folder")
    assert {
        name: content for name, content in tree(at_work / "run").items() if name.endswith((".pt", "part"))
    } == weights


def test_an_error_of_the_code_keeps_its_traceback(warm, at_work):
    """Only what a user can mend is one line."""
    overlay = at_work / "overlay.yaml"
    overlay.write_text(
        yaml.safe_dump({"inferer": {"_target_": "operator.truediv", "a": 1, "b": 0, "_mode_": "default"}})
    )
    files = str([str(config("inference")), str(overlay)])
    ended = warm.bundle("run", cwd=at_work, config_file=files, dataset_dir="data", output_dir="out")
    assert ended.code == 1
    assert "Traceback" in ended.err


@pytest.mark.slow
def test_a_cold_start_says_what_a_warm_one_says(warm, tmp_path):
    """The processes of these tests are forks of one that has imported the libraries; here is one that is not."""
    draw_prepared(tmp_path / "data")
    arguments = ["monai.bundle", "run", "training", "--config_file", config("train"), "--epoch", "3"]
    arguments += ["--dataset_dir", "data", "--image_size", "31", "--output_dir", "out"]
    forked = warm.module(*arguments, cwd=tmp_path)
    cold = subprocess.run([sys.executable, "-m", *map(str, arguments)], cwd=tmp_path, capture_output=True, text=True)
    cold = Ended(cold.returncode, cold.stdout, cold.stderr)
    assert (forked.code, forked.said) == (cold.code, cold.said)
    one_line(cold, "did you mean --epochs", "--image_size has to be a multiple of 32")

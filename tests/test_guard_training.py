"""What a training alone is checked for: that no other is at work in its folder, its smallest batch, painted pairs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import ignite.distributed as idist
import pytest
import torch

from common.data import read_datalist
from common.data.likeness import recognition_signs_of
from common.errors import InputError
from common.files import hold_folder, release_folder
from common.guard import check_training
from common.order import OrderNet
from common.provenance import GENERATION, training_record, write_record
from tests.bundles.drawn import draw_prepared, paint_prepared

HOLD = "import sys, time; from common.files import hold_folder; hold_folder(sys.argv[1]); print('held', flush=True); {}"
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="on GPUs they share batch statistics")
SETTINGS = {"epochs": 2, "val_interval": 1, "batch_size": 1, "image_size": 64}


@pytest.fixture
def holder(tmp_path):
    """A process that holds a folder until it is killed; it holds it now."""
    command = [sys.executable, "-c", HOLD.format("time.sleep(600)"), str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return draw_prepared(tmp_path_factory.mktemp("sound") / "data")


def test_a_folder_is_of_one_process_until_that_is_killed(holder, tmp_path):
    with pytest.raises(InputError, match=f"another process is at work in {tmp_path}"):
        hold_folder(tmp_path)
    holder.kill()
    holder.wait()
    hold_folder(tmp_path)
    hold_folder(tmp_path)  # it is ours
    release_folder(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_released_folder_is_free_for_another_process(tmp_path):
    hold_folder(tmp_path)
    command = [sys.executable, "-c", HOLD.format("0"), str(tmp_path)]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    release_folder(tmp_path)
    release_folder(tmp_path)  # which is not held
    subprocess.run(command, capture_output=True, check=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_that_loads_data_does_not_hold_the_folder_of_a_killed_one(tmp_path):
    """Such a process notices its parent's end seconds later; the training may be started anew before."""
    told = "import os; end, begin = os.pipe(); os.fork() or (os.write(begin, b'.'), time.sleep(600)); os.read(end, 1)"
    forked = f"{told}; os._exit(0)"  # once the other process runs
    with subprocess.Popen([sys.executable, "-c", HOLD.format(forked), str(tmp_path)], start_new_session=True) as parent:
        parent.wait()
        try:
            hold_folder(tmp_path)
        finally:
            os.killpg(parent.pid, 9)
            release_folder(tmp_path)


def test_a_second_training_in_a_folder_is_one_line(holder, data, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        check_training(str(data), None, str(tmp_path), OrderNet(), **SETTINGS)
    assert ended.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert f"another process is at work in {tmp_path}" in line and "name another folder" in line


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        ([[1.0, 1.0]], None),
        ([[0.5, 0.5], [0.5, 1.0]], "--batch_size 1 at 32², the smallest of train#resolution#stages at --image_size 64"),
        ([[0.5, 1.0]], "must sum to 1"),
        ([[0.01, 0.5], [0.99, 1.0]], None),  # ends before the first epoch does
    ],
    ids=["one", "coarse", "half", "not reached"],
)
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=WITHOUT_GPU)])
def test_the_smallest_batch_of_a_schedule_is_checked(data, tmp_path, capsys, monkeypatch, stages, told, processes):
    """Processes on a CPU do not share batch statistics."""
    monkeypatch.setattr(idist, "get_world_size", lambda: processes)

    def check() -> None:
        check_training(str(data), None, str(tmp_path / "out"), OrderNet(), stages=stages, **SETTINGS)

    if told is None:
        check()
        release_folder(tmp_path / "out")
        return
    with pytest.raises(SystemExit):
        check()
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_painted_pairs_are_checked_and_what_is_left_out_is_told(data, tmp_path, capsys):
    """Before training: a folder that is none, too large a dose, and pairs of masks that are held out."""
    held_out = Path(read_datalist(data, None, "test")[0]["label"]).name

    def check(**more: object) -> str:
        with suppress(SystemExit):
            check_training(str(data), None, str(tmp_path / "out"), OrderNet(), **SETTINGS, **more)
        release_folder(tmp_path / "out")
        return capsys.readouterr().err

    painted = paint_prepared(data, tmp_path / "painted", 6)
    assert "left out" not in check(synthetic_dir=str(painted), synthetic_images=6)
    assert "holds 6 pairs that may be trained on" in check(synthetic_dir=str(painted), synthetic_images=7)
    assert "no such folder" in check(synthetic_dir=str(tmp_path / "none"))
    assert "give that folder too" in check(synthetic_images=5)
    content = json.loads((painted / "dataset.json").read_text())
    content["training"][0]["source_mask"] = held_out
    (painted / "dataset.json").write_text(json.dumps(content))
    told = check(synthetic_dir=str(painted))
    assert "1 of its 6 pairs are of masks of the validation or test list, and are left out" in told
    assert "warning" not in told


def test_a_painter_that_saw_the_held_out_images_is_told(data, tmp_path, capsys):
    painted = paint_prepared(data, tmp_path / "painted", 6)
    lists = {key: len(read_datalist(data, None, key)) for key in ("validation", "test")}
    for protocol_of_painter, told in ((training_record(data), False), (held_out_record(data), True)):
        write_record(painted / GENERATION, protocol_of_painter)
        check_training(str(data), None, str(tmp_path / "out"), OrderNet(), **SETTINGS, synthetic_dir=str(painted))
        release_folder(tmp_path / "out")
        count = sum(lists.values())
        line = f"was trained on {count} of the {count} images of the validation and test lists"
        assert (line in capsys.readouterr().err) == told


def held_out_record(data: Path) -> dict[str, list[str]]:
    """As of a painter that was trained on what is held out here."""
    items = [item for key in ("validation", "test") for item in read_datalist(data, None, key)]
    signs = recognition_signs_of([Path(item["image"]) for item in items])[0]
    return {"training": [each.tobytes().hex() for each in signs], "validation": []}

"""Painting that is stopped: the same files however the run was cut, and nothing that looks finished before it is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.data.integrity import verify
from common.errors import InputError
from common.law.generate import generate
from tests.law.painting import QUICK, content, state_of, stop_after, stopped
from tests.law.small import no_file_larger_than


def test_a_killed_run_completes_to_the_same_files(model: Path, files: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of painting; what lies half-written in the folder beside is no hindrance either."""
    options = {"steps": 16, "batch_size": 2, "images_per_mask": 4, "progress": False}
    generate(model, files, tmp_path / "unstopped", **options)
    out = tmp_path / "out"
    call = (
        f"from common.law.generate import generate; generate({str(model)!r}, {str(files)!r}, {str(out)!r}, **{options})"
    )
    process = subprocess.Popen([sys.executable, "-c", call], cwd=Path(__file__).parents[2], env=os.environ)
    until = time.monotonic() + 120
    while len(list(state_of(out).glob("*.png"))) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    painted = list(state_of(out).glob("*.png"))
    assert 3 <= len(painted) < 20
    assert not out.exists()

    (state_of(out) / ".x0_3.png.abc.part").write_bytes(b"half an image")
    (state_of(out) / ".finished.abc.part" / "images").mkdir(parents=True)
    (state_of(out) / "finished").mkdir()
    generate(model, files, out, **options)
    assert content(out) == content(tmp_path / "unstopped")
    assert not state_of(out).exists()


def test_what_is_done_is_not_painted_again(
    model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stopped(monkeypatch, model, files, out)
    assert len(list(state_of(out).glob("*.png"))) == 2 and not out.exists()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)  # three masks are left, in batches of two
        generate(model, files, out, **QUICK)
    generate(model, files, tmp_path / "unstopped", **QUICK)
    assert content(out) == content(tmp_path / "unstopped")


@pytest.mark.parametrize("damage", ["cut short", "another image"])
def test_an_image_that_is_not_what_was_written_is_painted_again(
    model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    out = tmp_path / "out"
    stopped(monkeypatch, model, files, out)
    first, second = sorted(state_of(out).glob("*.png"))
    first.write_bytes(first.read_bytes()[:-9] if damage == "cut short" else second.read_bytes())
    generate(model, files, out, **QUICK)
    generate(model, files, tmp_path / "unstopped", **QUICK)
    assert content(out) == content(tmp_path / "unstopped")


def test_a_finished_call_is_left_as_it_is(
    model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = generate(model, files, out, **QUICK)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    stop_after(monkeypatch, 0)
    assert generate(model, files, out, **QUICK).lists == first.lists
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_empty_folder_is_taken(model: Path, files: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    generate(model, files, tmp_path / "out", **QUICK)
    assert verify(tmp_path / "out", progress=False).sound


def test_a_full_disk_is_one_line_and_no_loss(model: Path, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with no_file_larger_than(600), pytest.raises(InputError, match="make room") as error:
        generate(model, files, out, **QUICK)
    assert "\n" not in str(error.value)
    assert not out.exists()
    generate(model, files, out, **QUICK)
    assert verify(out, progress=False).sound

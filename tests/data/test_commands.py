"""Laws of the commands: wrong words are one line before any work, and a killed prepare leaves nothing finished."""

import os
import signal
import subprocess
import sys
import time

import pytest

from common.data.__main__ import main
from common.data.folder import protocol_files


@pytest.fixture
def run(monkeypatch, capsys):
    """A function that runs `python -m common.data WORDS` here and returns its exit code, output and errors."""

    def ran(*words):
        monkeypatch.setattr(sys, "argv", ["common.data", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        said = capsys.readouterr()
        return code, said.out, said.err

    return ran


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("verify", "--strict", "x"), "no option --strict; there are none"),
        (("verify",), "DIRECTORY missing"),
        (("verify", "gone"), "gone: no such folder"),
        (("verify", "gone", "more"), "'more' is one argument too many"),
        (("prepare", "pairs", "i", "m", "out", "--sed", "1"), "no option --sed; there are --name"),
        (("prepare", "pairs", "i", "m", "out", "--seed", "x"), "--seed has to be a whole number, not 'x'"),
        (("prepare", "pairs", "i", "m", "out", "--test_fraction", "x"), "--test_fraction has to be a number, not 'x'"),
        (("prepare", "pairs", "i", "m"), "OUT missing"),
        (("prepare", "polyps", "gone", "out"), "gone: no such folder"),
        (("prepare", "polyps", "out"), "name the folders of the sets"),
        (("prepare", "brisc", "gone", "out"), "gone: no such folder"),
        (("prepare", "brisc", "gone"), "OUT missing"),
        (("prepare", "kits19", "gone", "out"), "gone: no such folder"),
        (("prepare", "kits19", "gone", "out", "--window", "wide"), "--window has to be a number, not 'wide'"),
        (("prepare", "kits19", "gone", "out", "--level", "-1", "--window", "-5"), "window is -5 and level -1; "),
        (("prepare", "polyps", "a", "out", "--kvasir", "b"), "no option --kvasir; there are --seed, --kvasir_seg"),
    ],
)
def test_wrong_words_are_one_line_and_nothing_is_done(run, tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    code, out, errors = run(*words)
    assert code == 2
    assert out == ""
    assert errors.startswith("error: ")
    assert said in errors
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_prepare_reports_and_verify_agrees(run, tmp_path, save_set):
    save_set(tmp_path / "2024", tmp_path / "m", range(20), first=100)  # a name that Fire would take for a number
    code, out, _ = run(
        "prepare", "pairs", tmp_path / "2024", tmp_path / "m", tmp_path / "out", "--name=set", "--seed=3"
    )
    assert code == 0
    lines = out.splitlines()
    assert lines[:2] == [f"prepared {tmp_path / 'out'}", "protocol default (default)"]
    assert [line.split() for line in lines[2:]] == [["training", "validation", "test"], ["set", "16", "2", "2"]]
    code, out, _ = run("verify", tmp_path / "out")
    assert code == 0
    assert out.splitlines()[-1] == f"{tmp_path / 'out'}: 0 errors, 0 warnings"
    code, _, errors = run("prepare", "pairs", tmp_path / "2024", tmp_path / "m", tmp_path / "out")
    assert code == 2
    assert "exists already and is not empty" in errors


def test_phantoms_are_prepared_and_sound(run, tmp_path):
    code, out, _ = run("prepare", "phantoms", tmp_path / "out", "--count", 6, "--test_count", 2, "--size", 64)
    assert code == 0
    assert ["phantom", "5", "1", "2"] in [line.split() for line in out.splitlines()]
    code, out, _ = run("verify", tmp_path / "out")
    assert code == 0
    assert " 0 errors, " in out.splitlines()[-1]


def test_verify_exits_with_one_on_errors(run, tmp_path, save_set):
    save_set(tmp_path / "i", tmp_path / "m", range(8))
    run("prepare", "pairs", tmp_path / "i", tmp_path / "m", tmp_path / "out")
    (tmp_path / "out/masks/out_3.png").unlink()
    code, out, _ = run("verify", tmp_path / "out")
    assert code == 1
    assert "error: masks/out_3.png: no such file or directory\n" in out
    assert out.splitlines()[-1] == f"{tmp_path / 'out'}: 1 errors, 0 warnings"


@pytest.mark.skipif(os.name == "nt", reason="no such pipes")
def test_a_reader_that_leaves_ends_it_in_silence_and_not_with_success(tmp_path, save_set, repository, run):
    """As in `python -m common.data verify DIR | head -1`."""
    save_set(tmp_path / "i", tmp_path / "m", range(8))
    run("prepare", "pairs", tmp_path / "i", tmp_path / "m", tmp_path / "out")
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "common.data", "verify", str(tmp_path / "out")]
    ended = subprocess.run(command, cwd=repository, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (ended.returncode, "Traceback" in ended.stderr, "Broken" in ended.stderr) == (141, False, False)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device that is always full")
@pytest.mark.parametrize(("out", "code", "said"), [(">&-", 0, ""), (">/dev/full", 2, "error: No space left on device")])
def test_an_output_that_is_closed_or_full_is_no_traceback(tmp_path, save_set, repository, run, out, code, said):
    save_set(tmp_path / "i", tmp_path / "m", range(8))
    run("prepare", "pairs", tmp_path / "i", tmp_path / "m", tmp_path / "out")
    command = f"exec '{sys.executable}' -m common.data verify '{tmp_path / 'out'}' {out}"
    ended = subprocess.run(command, shell=True, cwd=repository, stderr=subprocess.PIPE, text=True)
    assert (ended.returncode, "Traceback" in ended.stderr, said in ended.stderr) == (code, False, True)


@pytest.mark.parametrize(
    "words",
    [
        ("verify", "--help"),
        *(("prepare", one, "--help") for one in ("polyps", "brisc", "kits19", "pairs", "phantoms")),
    ],
)
def test_help_tells_how_to_call(run, words):
    code, out, _ = run(*words)
    assert code == 0
    assert words[-2] in out


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_prepare_leaves_nothing_that_looks_finished(tmp_path, save_set, repository):
    save_set(tmp_path / "i", tmp_path / "m", range(120))
    command = [
        sys.executable,
        "-m",
        "common.data",
        "prepare",
        "pairs",
        tmp_path / "i",
        tmp_path / "m",
        tmp_path / "out",
    ]
    process = subprocess.Popen(command, cwd=repository, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*/images/*")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("**/dataset.json"))
    assert subprocess.run(command, cwd=repository, capture_output=True).returncode == 0  # the rest is in nobody's way
    assert protocol_files(tmp_path / "out")

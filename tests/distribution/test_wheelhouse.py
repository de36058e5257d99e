"""Locking a folder of wheels, and pip installing from it without a network, or refusing."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bundles.wheelhouse import lock
from common.errors import InputError


def _wheel(
    folder: Path, name: str, version: str = "1.0", needs: tuple[str, ...] = (), tag: str = "py3-none-any"
) -> Path:
    folder.mkdir(exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        + "".join(f"Requires-Dist: {each}\n" for each in needs),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: {tag}\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-{tag}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for each, text in files.items():
            archive.writestr(each, text)
    return path


@pytest.fixture
def wheels(tmp_path) -> Path:
    """`first` needs `second`, and `third` with an extra; `fourth` is for another Python."""
    folder = tmp_path / "wheels"
    _wheel(folder, "first", needs=("second>=2", 'fourth; python_version < "3"'))
    _wheel(folder, "second", "2.1+cpu")
    _wheel(folder, "other_name", needs=('third; extra == "more"',))
    return folder


def _requirements(folder: Path, *lines: str) -> Path:
    path = folder / "requirements.txt"
    path.write_text("# exact\n" + "\n".join(lines) + "\n")
    return path


def _refused(folder: Path, *lines: str) -> str:
    with pytest.raises(InputError) as caught:
        lock(folder, _requirements(folder.parent, *lines))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def _install(folder: Path, text: str, where: Path) -> subprocess.CompletedProcess[str]:
    (where.parent / "requirements.lock").write_text(text)
    command = [sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--no-index", "--require-hashes"]
    command += ["--find-links", folder, "--target", where, "-r", where.parent / "requirements.lock"]
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)


def test_every_wheel_is_locked_with_its_hash(wheels, tmp_path):
    text = lock(wheels, _requirements(tmp_path, "first==1.0"))
    told = dict(re.findall(r"^(\S+)==(\S+) ", text, re.MULTILINE))
    assert told == {"first": "1.0", "other-name": "1.0", "second": "2.1+cpu"}
    hashes = set(re.findall(r"--hash=sha256:([0-9a-f]{64})", text))
    assert hashes == {hashlib.sha256(path.read_bytes()).hexdigest() for path in wheels.iterdir()}


def test_wheels_for_several_machines_are_one_line(wheels, tmp_path):
    _wheel(wheels, "first", tag="cp311-cp311-win_amd64")
    text = lock(wheels, _requirements(tmp_path, "first==1.0"))
    assert text.count("first==") == 1 and text.count("--hash") == 4


def test_pip_installs_what_is_locked_and_refuses_what_was_changed(wheels, tmp_path):
    text = lock(wheels, _requirements(tmp_path, "first==1.0"))
    ended = _install(wheels, text, tmp_path / "good")
    assert ended.returncode == 0, ended.stderr
    assert {path.stem for path in (tmp_path / "good").glob("*.py")} == {"first", "second", "other_name"}
    changed = next(wheels.glob("second*"))
    with zipfile.ZipFile(changed, "a") as archive:
        archive.writestr("more.py", "")
    ended = _install(wheels, text, tmp_path / "bad")
    assert ended.returncode != 0 and "DO NOT MATCH THE HASHES" in ended.stderr
    assert not (tmp_path / "bad").exists()


def test_what_is_missing_is_told_at_once_with_who_wants_it(wheels):
    message = _refused(wheels, "first==1.1", "none", "Other.Name[more]")
    assert "first==1.1 (wanted by requirements.txt)" in message
    assert "none (wanted by requirements.txt)" in message and "third (wanted by other-name)" in message
    next(wheels.glob("second*")).unlink()
    assert "second>=2 (wanted by first)" in _refused(wheels, "first")


def test_a_wheel_for_another_machine_alone_is_as_good_as_none(wheels):
    next(wheels.glob("second*")).unlink()
    _wheel(wheels, "second", "2.1", tag="cp39-cp39-win_amd64")
    assert "lacks second for this Python and system (wanted by first)" in _refused(wheels, "first")


def test_what_only_another_machine_needs_is_not_missed(wheels, tmp_path):
    text = lock(wheels, _requirements(tmp_path, "first==1.0", 'none==1.0; python_version < "3"'))
    assert "first==1.0" in text and "none" not in text


@pytest.mark.parametrize("content", ["first==1.0".encode("utf-16"), bytes(range(256))])
def test_a_list_in_another_encoding_is_named(wheels, tmp_path, content):
    (tmp_path / "requirements.txt").write_bytes(content)
    assert "requirements.txt can not be read as text" in _message(lambda: lock(wheels, tmp_path / "requirements.txt"))


def test_what_cannot_be_locked_is_named(wheels, tmp_path):
    assert "none.txt does not exist" in _message(lambda: lock(wheels, tmp_path / "none.txt"))
    assert "nowhere is no folder" in _message(lambda: lock(tmp_path / "nowhere", _requirements(tmp_path, "first")))
    assert "line 2" in _refused(wheels, "-e .")
    (tmp_path / "empty").mkdir()
    assert "holds no wheel" in _refused(tmp_path / "empty", "first")
    (wheels / "first-0.9.tar.gz").write_bytes(b"")
    assert "source archive" in _refused(wheels, "first")
    (wheels / "first-0.9.tar.gz").unlink()
    _wheel(wheels, "first", "1.2")
    assert "first in the versions 1.0 and 1.2; keep one" in _refused(wheels, "first")


def _message(call) -> str:
    with pytest.raises(InputError) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize("fault", ["cut", "name", "version", "empty", "no metadata", "damaged"])
def test_a_broken_or_mislabelled_wheel_is_named(wheels, fault):
    path = next(wheels.glob("first*"))
    content = path.read_bytes()
    if fault == "name":
        path.rename(wheels / "first.whl")
    elif fault == "version":
        path.rename(wheels / "first-7.0-py3-none-any.whl")
    elif fault == "damaged":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("first-1.0.dist-info/METADATA", "Name: first\n" * 100)
        content = path.read_bytes()
        path.write_bytes(content.replace(content[60:80], b"\xff" * 20))
    elif fault == "no metadata":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("first.py", "")
    else:
        path.write_bytes(content[: len(content) // 2] if fault == "cut" else b"")
    message = _refused(wheels, "first")
    assert "first" in message and "fetch it anew" in message

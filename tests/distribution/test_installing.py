"""`install` puts a bundle in its place whole or not at all, keeps the one before, and writes nowhere else."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from bundles import installing
from bundles.installing import install, rollback
from bundles.manifest import json_bytes, packages_of
from bundles.opening import open_folder, sha256
from bundles.report import CATALOGUE
from bundles.sources import collection
from bundles.verifying import verify
from bundles.zip_writing import zip_bytes
from common.errors import InputError
from tests.distribution.built import ZIP, manifested, mini, raw_member, raw_zip, write_config, write_mini

PREVIOUS = ".previous/mini"


def version(folder: Path, number: str) -> Path:
    """The mini bundle's zip in another version, in a folder of its own."""
    files = mini()
    told = json.loads(files["configs/metadata.json"])
    told.update(version=number, changelog={number: "x"})
    files["configs/metadata.json"] = json_bytes(told)
    files["docs/README.md"] = f"# mini {number}\n".encode()
    assert packages_of(told)
    whole = manifested(files, change=lambda manifest: manifest.update(version=number))
    path = folder / f"mini_v{number}.zip"
    path.write_bytes(zip_bytes("mini", whole))
    return path


def readme(folder: Path) -> str:
    return (folder / "docs" / "README.md").read_text()


def test_what_is_installed_verifies_and_is_what_was_verified(tmp_path):
    path = write_mini(tmp_path)
    digest = sha256(path.read_bytes())
    place, report = install(path, tmp_path / "a" / "b", sha256=digest)
    assert place == tmp_path / "a" / "b" / "mini" and report.origin == CATALOGUE
    assert open_folder(place).files == manifested(mini())
    assert verify(place).errors == ()
    assert os.listdir(place.parent) == ["mini"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_files_and_folders_have_ordinary_modes(tmp_path, umask):
    before = os.umask(umask)
    try:
        place, _ = install(write_mini(tmp_path), tmp_path / "dest")
    finally:
        os.umask(before)
    for path in [place, *place.rglob("*")]:
        mode = stat.S_IMODE(path.stat().st_mode)
        assert mode == ((0o777 if path.is_dir() else 0o644) & ~umask), path


def test_a_refused_bundle_leaves_nothing(tmp_path):
    dest = tmp_path / "dest"
    path = write_config(tmp_path, lambda config: config.update(x="$exit()"))
    place, report = install(path, dest)
    assert place is None and not report.ok and not dest.exists()
    place, report = install(write_mini(tmp_path), dest, sha256="0" * 64)
    assert place is None and not dest.exists()
    path.write_bytes(raw_zip([raw_member(b"mini/../../out", b"x")]))
    assert install(path, dest)[0] is None
    assert not dest.exists() and sorted(os.listdir(tmp_path)) == [ZIP]


def test_a_refused_update_leaves_the_version_that_is_there(tmp_path):
    dest = tmp_path / "dest"
    install(version(tmp_path, "0.1.0"), dest)
    before = open_folder(dest / "mini").files
    assert install(version(tmp_path, "0.2.0"), dest, sha256="0" * 64)[0] is None
    assert open_folder(dest / "mini").files == before and os.listdir(dest) == ["mini"]


def test_the_version_before_is_kept_and_can_be_had_again(tmp_path):
    dest = tmp_path / "dest"
    for number in ("0.1.0", "0.2.0", "0.3.0"):
        install(version(tmp_path, number), dest)
    assert sorted(os.listdir(dest)) == [".previous", "mini"]
    assert (readme(dest / "mini"), readme(dest / PREVIOUS)) == ("# mini 0.3.0\n", "# mini 0.2.0\n")
    assert rollback("mini", dest) == dest / "mini"
    assert (readme(dest / "mini"), readme(dest / PREVIOUS)) == ("# mini 0.2.0\n", "# mini 0.3.0\n")
    assert verify(dest / "mini").ok
    rollback("mini", dest)
    assert readme(dest / "mini") == "# mini 0.3.0\n" and sorted(os.listdir(dest)) == [".previous", "mini"]


def test_the_same_bundle_again_changes_nothing(tmp_path):
    """Or the version before would be the same one, and nothing left to go back to."""
    dest = tmp_path / "dest"
    for number in ("0.1.0", "0.2.0"):
        install(version(tmp_path, number), dest)

    def files() -> dict[Path, tuple[int, int]]:
        return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in dest.rglob("*")}

    before = files()
    assert install(version(tmp_path, "0.2.0"), dest)[0] == dest / "mini"
    assert files() == before
    assert readme(dest / PREVIOUS) == "# mini 0.1.0\n"
    (dest / "mini" / "docs" / "README.md").write_text("changed")
    install(version(tmp_path, "0.2.0"), dest)
    assert (readme(dest / "mini"), readme(dest / PREVIOUS)) == ("# mini 0.2.0\n", "changed")


def test_no_search_for_bundles_finds_the_version_before(tmp_path):
    dest = tmp_path / "dest"
    for number in ("0.1.0", "0.2.0"):
        install(version(tmp_path, number), dest)
    assert [path.parents[1].name for path in dest.glob("*/configs/metadata.json")] == ["mini"]


@pytest.mark.parametrize("change", ["code", "another manifest", "more", "compiled"])
def test_a_version_before_that_was_changed_does_not_come_back(tmp_path, change):
    dest = tmp_path / "dest"
    for number in ("0.1.0", "0.2.0"):
        install(version(tmp_path, number), dest)
    package = next((dest / PREVIOUS).glob("law_order_*"))
    if change == "code":
        (package / "files.py").write_text("import os")
    elif change == "another manifest":
        (dest / PREVIOUS / "MANIFEST.json").write_text((dest / "mini" / "MANIFEST.json").read_text())
    elif change == "more":
        (package / "more.so").write_bytes(b"x")
    else:
        (package / "__pycache__").mkdir()
        (package / "__pycache__" / "files.cpython-311.pyc").write_bytes(b"evil")
        rollback("mini", dest)
        assert readme(dest / "mini") == "# mini 0.1.0\n" and not list(dest.rglob("*.pyc"))
        return
    with pytest.raises(InputError, match="not as it was installed"):
        rollback("mini", dest)
    assert readme(dest / "mini") == "# mini 0.2.0\n" and verify(dest / "mini").ok


def test_other_threads_files_keep_their_modes(tmp_path, monkeypatch):
    """The umask is the whole process's: whoever set it for a moment would open other threads' files to everyone."""
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask was set"))
    assert install(write_mini(tmp_path), tmp_path / "dest")[0]


@pytest.mark.parametrize("name", ["mini", "..", ".", "", "a/b", "../mini", ".previous", "/etc"])
def test_nothing_to_roll_back_to_is_one_line(tmp_path, name):
    install(write_mini(tmp_path), tmp_path / "dest")
    with pytest.raises(InputError):
        rollback(name, tmp_path / "dest")
    assert verify(tmp_path / "dest" / "mini").ok
    with pytest.raises(InputError):
        rollback("mini", tmp_path / "nothing")


@pytest.mark.parametrize("place", ["mini", ".previous", PREVIOUS])
@pytest.mark.parametrize("kind", ["link", "broken link", "file"])
def test_a_link_or_file_at_its_place_is_refused(tmp_path, place, kind):
    dest, elsewhere = tmp_path / "dest", tmp_path / "elsewhere"
    (dest / place).parent.mkdir(parents=True)
    elsewhere.mkdir()
    if kind == "file":
        (dest / place).write_text("mine")
    else:
        (dest / place).symlink_to(elsewhere if kind == "link" else tmp_path / "nothing")
    with pytest.raises(InputError, match="is a link or a file"):
        install(write_mini(tmp_path), dest)
    assert os.listdir(elsewhere) == [] and os.listdir(dest) == [place.partition("/")[0]]


def test_a_folder_is_no_zip(tmp_path):
    with pytest.raises(InputError, match="takes the zip"):
        install(tmp_path, tmp_path / "dest")


@pytest.mark.parametrize("step", ["_written", "_exchange", "sync_tree"])
def test_a_full_disk_leaves_nothing_and_is_one_line(tmp_path, monkeypatch, step):
    dest = tmp_path / "dest"

    def full(*_):
        raise OSError(28, "No space left on device")

    install(version(tmp_path, "0.1.0"), dest)
    before = open_folder(dest / "mini").files
    monkeypatch.setattr(installing, step, full)
    for folder in (dest, tmp_path / "new"):
        with pytest.raises(InputError, match="No space left on device"):
            install(version(tmp_path, "0.2.0"), folder)
    assert os.listdir(dest) == ["mini"] and open_folder(dest / "mini").files == before
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError):
        install(version(tmp_path, "0.2.0"), tmp_path / "new" / "a" / "b")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("number", range(3))
def test_a_rename_that_fails_leaves_the_version_that_was_there(tmp_path, monkeypatch, number):
    """Each of the three renames of an update: aside, into its place, kept as the one before."""
    dest, moves, move = tmp_path / "dest", [], os.rename
    install(version(tmp_path, "0.1.0"), dest)

    def fails(source, target):
        moves.append(source)
        if len(moves) == number + 1:
            raise OSError(5, "Input/output error")
        move(source, target)

    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(InputError, match="stays in" if number == 2 else "nothing was installed"):
        install(version(tmp_path, "0.2.0"), dest)
    monkeypatch.undo()
    assert readme(dest / "mini") == ("# mini 0.1.0\n" if number < 2 else "# mini 0.2.0\n")
    assert not list(dest.rglob("*.part"))
    install(version(tmp_path, "0.3.0"), dest)
    assert sorted(os.listdir(dest)) == [".previous", "mini"]
    assert readme(dest / "mini") == "# mini 0.3.0\n" and verify(dest / PREVIOUS) is not None


KILLED = """
import os, sys
from bundles.installing import install
moves, move = [], os.rename
def dies(source, target):
    moves.append(source)
    if len(moves) == int(sys.argv[3]): os._exit(9)
    move(source, target)
os.rename = dies
install(sys.argv[1], sys.argv[2])
"""


@pytest.mark.parametrize("number", [1, 2, 3, 4])
@pytest.mark.parametrize("then", ["install", "rollback"])
def test_a_killed_install_is_tidied_up_by_the_next(tmp_path, number, then):
    """Whenever it dies, one version or the other is there, and the one before it is the one that was there."""
    dest = tmp_path / "dest"
    for each in ("0.0.1", "0.1.0"):
        install(version(tmp_path, each), dest)
    command = [sys.executable, "-c", KILLED, str(version(tmp_path, "0.2.0")), str(dest), str(number)]
    assert subprocess.run(command, cwd=collection(), check=False).returncode == 9
    if then == "install":
        install(version(tmp_path, "0.3.0"), dest)
        assert readme(dest / "mini") == "# mini 0.3.0\n"
        assert readme(dest / PREVIOUS) == ("# mini 0.2.0\n" if number > 2 else "# mini 0.1.0\n")
    else:
        rollback("mini", dest)
        assert readme(dest / "mini") == ("# mini 0.1.0\n" if number > 2 else "# mini 0.0.1\n")
    assert sorted(os.listdir(dest)) == [".previous", "mini"] and os.listdir(dest / ".previous") == ["mini"]
    assert verify(dest / "mini").ok and verify(dest / PREVIOUS).ok


def test_a_version_before_is_put_back_where_the_bundle_was_removed(tmp_path):
    dest = tmp_path / "dest"
    for each in ("0.1.0", "0.2.0"):
        install(version(tmp_path, each), dest)
    shutil.rmtree(dest / "mini")
    rollback("mini", dest)
    assert readme(dest / "mini") == "# mini 0.1.0\n" and os.listdir(dest) == ["mini"]


def test_what_stands_in_for_the_source_is_removed_though_all_else_is_there(tmp_path):
    dest, path = tmp_path / "dest", write_mini(tmp_path)
    place, _ = install(path, dest)
    package = next(each for each in place.iterdir() if each.name.startswith("law_order_"))
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / "__init__.cpython-311.pyc").write_bytes(b"another program")
    stands = place.stat().st_ino
    assert install(path, dest)[0] == place and verify(place).ok and place.stat().st_ino == stands


def test_many_at_once_leave_one_whole_version_and_one_before(tmp_path):
    dest, numbers, faults = tmp_path / "dest", [f"0.{each}.0" for each in range(8)], []
    paths = [version(tmp_path, number) for number in numbers]

    def work(path: Path) -> None:
        try:
            place, report = install(path, dest)
            assert place is not None and report.ok
        except Exception as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(path,)) for path in paths[:4]]
    program = "import sys; from bundles.installing import install; assert install(sys.argv[1], sys.argv[2])[0]"
    commands = [[sys.executable, "-c", program, str(path), str(dest)] for path in paths[4:]]
    others = [subprocess.Popen(command, cwd=collection()) for command in commands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [other.wait() for other in others] == [0] * 4 and faults == []
    assert sorted(os.listdir(dest)) == [".previous", "mini"]
    # A folder that was renamed is still the bundle that it was.
    assert verify(dest / "mini").ok and verify(dest / PREVIOUS).ok
    assert readme(dest / "mini") != readme(dest / PREVIOUS)


def test_what_is_written_is_what_was_verified_whatever_becomes_of_the_file(tmp_path, monkeypatch):
    """The file is exchanged between the two: the bytes are not read again."""
    path, examined = write_mini(tmp_path), installing.examine

    def examine_then_exchange(*given, **options):
        found = examined(*given, **options)
        write_mini(tmp_path, {"docs/README.md": b"another"})
        return found

    monkeypatch.setattr(installing, "examine", examine_then_exchange)
    place, _ = install(path, tmp_path / "dest")
    assert readme(place) == "# mini\n"


def test_a_retrained_version_before_comes_back_with_what_was_learned(tmp_path):
    """What MONAI Label leaves beside the weights is somebody's work; weights with code in them are not."""
    dest = tmp_path / "dest"
    install(version(tmp_path, "0.1.0"), dest)
    models = dest / "mini" / "models"
    shutil.copy(models / "model.pt", models / "retrained.pt")
    (models / "retrained.trained_on.json").write_text("{}")
    (models / "retraining" / "tensorboard").mkdir(parents=True)
    (models / "retraining" / "history.csv").write_text("epoch\n1\n")
    state = {"network": {"a": torch.zeros(1)}, "epoch": 1, "settings": {"seed": 0}}  # as a run's latest.pt
    torch.save(state, models / "retraining" / "latest.pt")
    assert "retrained.pt" in verify(dest / "mini").errors[0]  # as a package it is not what was packed
    install(version(tmp_path, "0.2.0"), dest)
    rollback("mini", dest)
    assert (models / "retrained.pt").is_file() and readme(dest / "mini") == "# mini 0.1.0\n"
    rollback("mini", dest)
    (dest / PREVIOUS / "models" / "retrained.pt").write_bytes(pickle.dumps(print))
    with pytest.raises(InputError, match=r"not as it was installed.*retrained\.pt"):
        rollback("mini", dest)


def test_a_folder_that_holds_no_bundle_is_left_alone(tmp_path):
    (tmp_path / "dest" / "mini").mkdir(parents=True)
    (tmp_path / "dest" / "mini" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="holds no bundle"):
        install(write_mini(tmp_path), tmp_path / "dest")
    assert (tmp_path / "dest" / "mini" / "mine.txt").read_text() == "mine"
    assert os.listdir(tmp_path / "dest") == ["mini"]

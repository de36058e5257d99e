"""`install`: a verified zip into a folder, whole or not at all, with the version before kept for `rollback`."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import InputError
from common.files import hold_folder, release_folder, sync_tree

from .archives import Refused
from .manifest import NAME
from .opening import Contents, open_folder
from .report import Report
from .verifying import examine

_PATIENCE, _PAUSE = 60.0, 0.1  # seconds
_BEFORE = ".previous"  # the folder below dest of all versions before, and of what is not whole yet
_one_thread = threading.Lock()  # a folder is held for the whole process


def install(
    path: str | Path,
    dest: str | Path,
    *,
    sha256: str | None = None,
    model_info: str | Path | None = None,
    signature: str | Path | None = None,
    public_key: str | Path | None = None,
) -> tuple[Path | None, Report]:
    """Verify a zip, and unpack what was verified to ``<dest>/<name>``.

    What is written are the bytes that were verified, not the file read again. They are written below
    ``<dest>/.previous``, synced, and renamed to their place: other processes see the old version, for a moment none, or
    the new one. The old one is kept as ``<dest>/.previous/<name>``, where no search for ``*/configs/metadata.json``
    takes it for a bundle. What stands there already is left as it is, and so is the version before it. What a killed
    process has left, the next one tidies up.

    Args:
        path: of the zip.
        dest: the folder for bundles; it is made where there is none.
        sha256, model_info, signature, public_key: as of `verify`.

    Returns:
        The folder, and the report; None in place of the folder where the bundle was refused, and nothing was changed.

    Raises:
        InputError: if `path` is a folder, `dest` can not be written to, something that is no folder (also a link)
            stands at the bundle's place, or another process is installing for longer than a minute.
    """
    if Path(path).is_dir():
        raise InputError(f"{path} is a folder; install takes the zip")
    report, contents = examine(path, sha256=sha256, model_info=model_info, signature=signature, public_key=public_key)
    if not report.ok or contents is None:
        return None, report
    dest = Path(dest).absolute()
    with _held(dest):
        place, previous = _places(dest, contents.top)
        _remove_unfinished(place, previous)
        if _is_there(place, contents):
            return place, report
        written = _written(previous.parent, contents)
        try:
            _exchange(written, place, previous)
        except BaseException:
            shutil.rmtree(written, ignore_errors=True)
            raise
    return place, report


def rollback(name: str, dest: str | Path) -> Path:
    """Put the version before in the place of a bundle, and keep this one in its stead: twice is as if never.

    Returns:
        The bundle's folder.

    Raises:
        InputError: if there is no version before, or it does not verify any more, or another process is installing.
    """
    dest = Path(dest).absolute()
    if not dest.is_dir():
        raise InputError(f"there is no folder {dest}")
    if Path(name).name != name or name.startswith("."):
        raise InputError(f"{name!r} is no name of a bundle")
    with _held(dest):
        place, previous = _places(dest, name)
        _recover(place, previous)
        if not previous.is_dir():
            raise InputError(f"{dest} keeps no version before of {name}")
        _check(previous)
        aside = _aside(previous)
        _move(place, aside)
        _move(previous, place)
        _move(aside, previous)
        _sync(dest)
        _sync(previous.parent)
    return place


def _check(previous: Path) -> None:
    # It lay there for long. What Python has compiled of it is not looked at, and made anew.
    for folder, inside, _ in os.walk(previous):
        if "__pycache__" in inside:
            inside.remove("__pycache__")
            shutil.rmtree(Path(folder, "__pycache__"), ignore_errors=True)
    report, _ = examine(previous, retrained=True)
    if not report.ok or report.name != previous.name:
        cause = report.errors[0] if report.errors else f"it is {report.name}"
        raise InputError(f"{previous} is not as it was installed, and nothing was changed: {cause}")


def _is_there(place: Path, contents: Contents) -> bool:
    # Whether all of it stands in its place already, and nothing else but what Python has compiled of it.
    if not place.is_dir():
        return False
    try:
        found = open_folder(place).files
    except Refused:
        return False
    return {path: each for path, each in found.items() if "/__pycache__/" not in path} == contents.files


@contextmanager
def _held(dest: Path) -> Iterator[None]:
    # The folder for this thread alone; those that were made for nothing are removed.
    made = [folder for folder in (dest, *dest.parents) if not folder.exists()]
    try:
        dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        _remove_empty(made)
        raise InputError(f"cannot write to {dest}: {error.strerror}; choose a folder you may write to") from None
    with _one_thread:
        _hold(dest)
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot write to {dest}: {error.strerror or error}; nothing was installed") from None
        finally:
            _remove_empty([dest / _BEFORE, *made])
            release_folder(dest)


def _remove_empty(folders: list[Path]) -> None:
    for folder in folders:
        with suppress(OSError):  # what holds something stays
            folder.rmdir()


def _hold(dest: Path) -> None:
    until = time.monotonic() + _PATIENCE
    while True:
        try:
            return hold_folder(dest)
        except InputError:
            if time.monotonic() > until:
                raise
            time.sleep(_PAUSE)


def _places(dest: Path, name: str) -> tuple[Path, Path]:
    # Where the bundle goes, and where the version before is kept; none may be anything but a folder of its own.
    place, previous = dest / name, dest / _BEFORE / name
    for path in (place, previous.parent, previous):
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            raise InputError(f"{path} is a link or a file; remove it, or name another folder")
    if place.is_dir() and any(place.iterdir()) and not (place / NAME).is_file():
        raise InputError(f"{place} is a folder that holds no bundle; move it away, or name another --dest")
    previous.parent.mkdir(exist_ok=True)
    return place, previous


def _aside(previous: Path) -> Path:
    return previous.with_name(f".{previous.name}.aside")


def _remove_unfinished(place: Path, previous: Path) -> None:
    # What a killed process has left; nobody else is at work here.
    _recover(place, previous)
    for left in previous.parent.glob(f".{place.name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)


def _recover(place: Path, previous: Path) -> None:
    # A process that was killed between two renames has left the bundle aside, or its place empty.
    aside = _aside(previous)
    if aside.is_dir() and not aside.is_symlink():
        target = place if not os.path.lexists(place) else previous
        if os.path.lexists(target):
            shutil.rmtree(aside)
        else:
            _move(aside, target)


def _written(folder: Path, contents: Contents) -> Path:
    temporary = Path(tempfile.mkdtemp(prefix=f".{contents.top}.", suffix=".part", dir=folder))
    try:
        mode = _ordinary_mode(temporary)
        os.chmod(temporary, mode)
        for name, content in contents.files.items():
            path = temporary.joinpath(*name.split("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            # A new file, in a folder that this process has just made: "x" refuses whatever might stand there.
            with path.open("xb") as stream:
                stream.write(content)
            os.chmod(path, 0o644 & mode)
        sync_tree(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return temporary


def _ordinary_mode(folder: Path) -> int:
    # Of a new folder. To ask for the umask is to set it, for all threads of the process; one is made and looked at.
    probe = folder / "probe"
    probe.mkdir()
    mode = stat.S_IMODE(probe.stat().st_mode) & 0o777
    probe.rmdir()
    return mode


def _exchange(written: Path, place: Path, previous: Path) -> None:
    # The old version goes aside, the new one to its place; only then is the one before the old one gone.
    aside = _aside(previous)
    had = place.is_dir()
    if had:
        _move(place, aside)
    try:
        _move(written, place)
    except BaseException:
        if had:
            _move(aside, place)
        raise
    _sync(place.parent)
    if had:
        _keep(aside, previous)
        _sync(previous.parent)


def _keep(aside: Path, previous: Path) -> None:
    try:
        shutil.rmtree(previous, ignore_errors=True)
        _move(aside, previous)
    except OSError as error:
        raise InputError(f"installed, but the version before stays in {aside}: {error.strerror or error}") from None


def _move(source: Path, target: Path) -> None:
    os.rename(source, target)


def _sync(folder: Path) -> None:
    with suppress(OSError):  # Windows opens no folders
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""`install`: a verified zip into a folder, whole or not at all, with the version before kept for `rollback`."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import InputError
from common.files import hold_folder, release_folder, sync_tree

from .opening import Contents
from .report import Report
from .verifying import examine

_PATIENCE, _PAUSE = 60.0, 0.1  # seconds
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

    What is written are the bytes that were verified, not the file read again. They are written to a hidden folder
    beside their place, synced, and renamed to it: other processes see the old version, for a moment none, or the new
    one. The old one is kept as ``<dest>/.<name>.previous``. What a killed process has left, the next one tidies up.

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
        _remove_unfinished(dest, contents.top)
        written = _written(dest, contents)
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
        InputError: if there is no version before, or another process is installing.
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
        aside = _aside(place)
        _move(place, aside)
        _move(previous, place)
        _move(aside, previous)
        _sync(dest)
    return place


@contextmanager
def _held(dest: Path) -> Iterator[None]:
    # The folder for this thread alone; one that was made for nothing is removed.
    made = not dest.exists()
    try:
        dest.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write to {dest}: {error.strerror}; choose a folder you may write to") from None
    with _one_thread:
        _hold(dest)
        try:
            yield
        except OSError as error:
            raise InputError(f"cannot write to {dest}: {error.strerror or error}; nothing was installed") from None
        finally:
            if made:
                with suppress(OSError):  # it holds the bundle
                    dest.rmdir()
            release_folder(dest)


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
    # Where the bundle goes, and where the version before is kept; neither may be anything but a folder of its own.
    place, previous = dest / name, dest / f".{name}.previous"
    for path in (place, previous):
        if os.path.lexists(path) and (path.is_symlink() or not path.is_dir()):
            raise InputError(f"{path} is a link or a file; remove it, or name another folder")
    return place, previous


def _aside(place: Path) -> Path:
    return place.with_name(f".{place.name}.aside")


def _remove_unfinished(dest: Path, name: str) -> None:
    # What a killed process has left; nobody else is at work here.
    _recover(dest / name, dest / f".{name}.previous")
    for left in dest.glob(f".{name}.*.part"):
        shutil.rmtree(left, ignore_errors=True)


def _recover(place: Path, previous: Path) -> None:
    # A process that was killed between two renames has left the bundle aside, or its place empty.
    aside = _aside(place)
    if aside.is_dir() and not aside.is_symlink():
        target = place if not os.path.lexists(place) else previous
        if os.path.lexists(target):
            shutil.rmtree(aside)
        else:
            _move(aside, target)


def _written(dest: Path, contents: Contents) -> Path:
    temporary = Path(tempfile.mkdtemp(prefix=f".{contents.top}.", suffix=".part", dir=dest))
    try:
        os.chmod(temporary, 0o777 & ~_umask())
        for name, content in contents.files.items():
            path = temporary.joinpath(*name.split("/"))
            path.parent.mkdir(parents=True, exist_ok=True)
            # A new file, in a folder that this process has just made: "x" refuses whatever might stand there.
            with path.open("xb") as stream:
                stream.write(content)
            os.chmod(path, 0o644 & ~_umask())
        sync_tree(temporary)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return temporary


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _exchange(written: Path, place: Path, previous: Path) -> None:
    # The old version goes aside, the new one to its place; only then is the one before the old one gone.
    aside = _aside(place)
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
        _sync(place.parent)


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

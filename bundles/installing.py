"""`install`: a verified zip into a folder, whole or not at all, with the version before kept for `rollback`."""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import InputError
from common.files import hold_folder, release_folder, remove, remove_unfinished, sync_folder, sync_tree

from .archives import Refused
from .manifest import NAME
from .opening import Contents, open_folder
from .report import Report
from .verifying import examine

_PATIENCE = 60.0  # seconds
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
        _remove_compiled(place)
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
        Refused: if the version before does not verify any more.
        InputError: if there is none, or another process is installing.
    """
    dest = Path(dest).absolute()
    if not dest.is_dir():
        raise InputError(f"there is no folder {dest}")
    if Path(name).name != name or name.startswith("."):
        raise InputError(f"{name!r} is no name of a bundle")
    with _held(dest):
        place, previous = _places(dest, name)
        _remove_unfinished(place, previous)
        if not previous.is_dir():
            raise InputError(f"{dest} keeps no version before of {name}")
        _check(previous)
        aside = _aside(previous)
        had = place.is_dir()
        if had:
            _move(place, aside)
        _move(previous, place)
        if had:
            _move(aside, previous)
        sync_folder(dest)
        sync_folder(previous.parent)
    return place


def _check(previous: Path) -> None:
    # It lay there for long.
    _remove_compiled(previous)
    report, _ = examine(previous, retrained=True)
    if not report.ok or report.name != previous.name:
        cause = report.errors[0] if report.errors else f"it is {report.name}"
        raise Refused(f"{previous} is not as it was installed, and nothing was changed: {cause}")


def _remove_compiled(bundle: Path) -> None:
    # What Python has compiled, or somebody else has put there: Python runs it in place of the source that is verified.
    for folder, inside, _ in os.walk(bundle):
        if "__pycache__" in inside:
            inside.remove("__pycache__")
            remove(Path(folder, "__pycache__"))


def _is_there(place: Path, contents: Contents) -> bool:
    # Whether all of it stands in its place already, and nothing else.
    if not place.is_dir():
        return False
    try:
        return open_folder(place).files == contents.files
    except Refused:
        return False


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
        hold_folder(dest, _PATIENCE)
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
    # What a killed process has left; nobody else is at work here. Where it was killed between two renames, the bundle
    # aside goes back to its place; and where that is taken by the new one already, it is the version before.
    aside = _aside(previous)
    if aside.is_dir() and not aside.is_symlink():
        if os.path.lexists(place):
            _keep(aside, previous)
        else:
            _move(aside, place)
    remove_unfinished(previous.parent, [place.name])


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
    sync_folder(place.parent)
    if had:
        _keep(aside, previous)
        sync_folder(previous.parent)


def _keep(aside: Path, previous: Path) -> None:
    # The one that it takes the place of is first called unfinished, so that no half of it can be taken for whole.
    try:
        if os.path.lexists(previous):
            _move(previous, previous.with_name(f".{previous.name}.old.part"))
        _move(aside, previous)
    except OSError as error:
        raise InputError(
            f"the version before stays in {aside} until the next install or rollback: {error.strerror or error}"
        ) from None
    remove_unfinished(previous.parent, [previous.name])


def _move(source: Path, target: Path) -> None:
    os.rename(source, target)

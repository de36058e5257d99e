"""Writing so that a stopped process leaves either the old file or the new one, never a half."""

from __future__ import annotations

import csv
import glob
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError

try:
    import fcntl
except ImportError:  # Windows has none; nothing is held there
    fcntl = None

_held: dict[str, int] = {}  # folders by their real path, and the handles that hold them


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk: a rename is there only when the folder that holds the name is."""
    if os.name == "nt":  # Windows opens no folders
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: str | Path) -> None:
    """Bring a folder and all that is in it to the disk: once at the end, where each file for itself would take long."""
    for path in Path(folder).rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
        else:
            sync_folder(path)
    sync_folder(Path(folder))


def check_writable(folder: str | Path) -> None:
    """Make sure that files can be written to a folder, which is created.

    Raises:
        InputError: if it cannot be created or written to.
    """
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"cannot write to the folder {folder}: {error.strerror}; choose one you may write to"
        ) from None


def hold_folder(folder: str | Path, patience: float = 0.0) -> None:
    """Keep a folder for this process alone, until `release_folder` or the process's end, however that comes.

    No file is left by it. Held again by the same process it stays held. Where the system or the disk knows no locks
    (Windows, some network disks), nothing is held.

    Args:
        folder: to be held.
        patience: seconds to wait for another process to be done with it.

    Raises:
        InputError: if another process holds it.
    """
    until = time.monotonic() + patience
    while not _try_to_hold(folder):
        if time.monotonic() > until:
            raise InputError(f"another process is at work in {folder}; wait for its end, or name another folder")
        time.sleep(0.1)


def _try_to_hold(folder: str | Path) -> bool:
    name = os.path.realpath(folder)
    if fcntl is None or name in _held:
        return True
    handle = os.open(name, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        return False
    except OSError:
        os.close(handle)
        return True
    _held[name] = handle
    return True


def release_folder(folder: str | Path) -> None:
    """Let others have a folder that this process held; nothing where it did not."""
    handle = _held.pop(os.path.realpath(folder), None)
    if handle is not None:
        os.close(handle)


def _forget_held() -> None:
    # A process that loads data, and outlives a killed parent by seconds, would hold its folder.
    while _held:
        with suppress(OSError):
            os.close(_held.popitem()[1])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_held)


def write_with(path: str | Path, writer: Callable[[BinaryIO], Any]) -> None:
    """Let `writer` fill a temporary file beside `path`, flush and fsync it, then rename it to `path`.

    Raises:
        InputError: if the folder cannot be written to, or a folder stands in the file's place.
    """
    path = Path(path)
    if path.is_dir():
        raise InputError(f"{path} is a folder, where a file is to be written; move it away, or name another place")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise InputError(f"cannot write to {path.parent}: {error.strerror}; choose a folder you may write to") from None
    try:
        with os.fdopen(handle, "wb") as stream:
            writer(stream)
            stream.flush()
            os.fsync(stream.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes it private; a result is an ordinary file
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def remove(path: Path) -> None:
    """Remove a file, or a folder with all that is in it; nothing where there is none."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def remove_unfinished(folder: str | Path, names: Sequence[str]) -> None:
    """Remove what killed processes have left of writing the files or folders `names`. Nobody may be writing them."""
    for name in names:
        for left in Path(folder).glob(f".{glob.escape(name)}.*.part"):
            remove(left)


def write_atomically(path: str | Path, content: bytes) -> None:
    """Write bytes to `path`, whole or not at all."""
    write_with(path, lambda stream: stream.write(content))


def write_json(path: str | Path, content: Any) -> None:
    """Write `content` as indented JSON to `path`, whole or not at all."""
    write_atomically(path, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())


def write_csv(path: str | Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows, the first their header, as CSV to `path`, whole or not at all."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue().encode())


@contextmanager
def replace_folder_when_done(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path` and rename it to `path` when the block ends without an error.

    Raises:
        InputError: if `path` exists and is not an empty folder, or its parent cannot be written to.
    """
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"{path} exists already and is not empty; name a new folder, or remove it first")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent))
    except OSError as error:
        raise InputError(f"cannot write to {path.parent}: {error.strerror}; choose a folder you may write to") from None
    try:
        yield temporary
        sync_tree(temporary)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o777 & ~umask)
        if path.exists():
            path.rmdir()
        os.replace(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)

"""A packed bundle, as a zip or unpacked, read once into memory: what is checked is what is used."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from .archives import LIMITS, Limits, Refused, read_archive
from .names import collisions, name_fault


@dataclass(frozen=True)
class Contents:
    """What a packed bundle holds.

    Attributes:
        top: name of its one folder.
        files: contents by path below that folder.
        folders: of an unpacked bundle, those that hold no file; a zip has none.
    """

    top: str
    files: dict[str, bytes] = field(repr=False)
    folders: tuple[str, ...] = ()


def read_limited(path: str | Path, most: int = LIMITS.archive) -> bytes:
    """A plain file's content.

    Raises:
        Refused: if it is no plain file, can not be read, or has more than `most` bytes.
    """
    content = _read_plain(path, str(path), most)
    if len(content) > most:
        raise Refused(f"{path} has more than {most:,} bytes; no more are read")
    return content


def _read_plain(path: str | Path, name: str, most: int, flags: int = 0) -> bytes:
    # A byte more than `most` where there are more.
    try:
        # Without waiting: a pipe of that name would wait for its writer for ever.
        handle = os.open(path, os.O_RDONLY | flags | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        with os.fdopen(handle, "rb") as stream:
            if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                raise Refused(f"{name} is no plain file")
            return stream.read(most + 1)
    except OSError as error:
        raise Refused(f"cannot read {name}: {error.strerror}") from None


def open_zip(data: bytes, limits: Limits = LIMITS) -> Contents:
    """A zip's contents, without its one top folder.

    Raises:
        Refused: if it is no zip that every tool reads alike (`read_archive`), or has files outside of one folder.
    """
    members = read_archive(data, limits)
    tops = sorted({name.partition("/")[0] for name in members})
    if len(tops) != 1 or any("/" not in name for name in members):
        shown = ", ".join(tops[:4])
        raise Refused(f"the archive has more than one folder or file at its top ({shown}); a bundle has one folder")
    return Contents(tops[0], {name.partition("/")[2]: content for name, content in members.items()})


def open_folder(folder: str | Path, limits: Limits = LIMITS) -> Contents:
    """An unpacked bundle's contents. No link is followed.

    Raises:
        Refused: at a link, a device or a pipe, a name that is not the same on every system, a file or a whole larger
            than the limits.
    """
    folder = Path(os.path.abspath(folder))
    if folder.is_symlink():
        raise Refused(f"{folder} is a link; name the folder itself")
    files: dict[str, bytes] = {}
    empty: list[str] = []
    left = limits.total
    for path, name in _walk(folder):
        if name.endswith("/"):
            empty.append(name.rstrip("/"))
            continue
        if len(files) >= limits.members:
            raise Refused(f"{folder} has more than {limits.members:,} files; no more are read")
        files[name] = _read_inside(path, name, min(left, limits.member))
        left -= len(files[name])
    if faults := collisions(files):
        raise Refused(f"in {folder} {faults[0]}")
    return Contents(folder.name, dict(sorted(files.items())), tuple(sorted(empty)))


def sha256(content: bytes) -> str:
    """The SHA-256 of a content, in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _walk(folder: Path):
    # Files, and folders without one, in order; each is looked at without following what it may point to.
    waiting = [(folder, "")]
    while waiting:
        here, prefix = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda each: each.name)
        except OSError as error:
            raise Refused(f"cannot read the folder {here}: {error.strerror}") from None
        if not entries and prefix:
            yield here, prefix
        for entry in entries:
            name = prefix + entry.name
            if entry.is_symlink() or not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                raise Refused(f"{name!r} is {'a link' if entry.is_symlink() else 'no plain file (a device or a pipe)'}")
            if fault := name_fault(os.fsencode(name).decode("utf-8", "replace"), hidden=True):
                raise Refused(f"{name!r} has {fault}")
            if entry.is_dir(follow_symlinks=False):
                waiting.append((Path(entry.path), f"{name}/"))
            else:
                yield Path(entry.path), name


def _read_inside(path: Path, name: str, most: int) -> bytes:
    content = _read_plain(path, name, most, getattr(os, "O_NOFOLLOW", 0))
    if len(content) > most:
        raise Refused(f"{name} is larger than what is read of a bundle")
    return content

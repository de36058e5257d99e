"""Which names of files mean the same file to every system and every unzip tool, and nothing outside their folder."""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST_PART, LONGEST_PATH = 150, 240  # characters; Windows refuses paths of more than 260
_PLAIN = re.compile(r"[A-Za-z0-9_.+-]+\Z")
_DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9]|lpt[0-9])(\..*)?\Z", re.IGNORECASE)
_DRIVE = re.compile(r"[A-Za-z]:")


def name_fault(name: str, hidden: bool = False) -> str | None:
    """Why a path with ``/`` between its parts may not be unpacked; None where it may.

    Args:
        name: of a file, relative to the folder that it is unpacked to.
        hidden: whether parts may begin with a dot, as torch names some within a ``model.pt``.
    """
    if not name:
        return "an empty name"
    if any(ord(letter) < 32 or ord(letter) == 127 for letter in name):
        return "a control character in its name"
    if "\\" in name:
        return "a backslash in its name, which Windows takes for a folder"
    if name.startswith("/"):
        return "an absolute path"
    if _DRIVE.match(name):
        return "an absolute path (a Windows drive)"
    if not name.isascii():
        return "a letter outside ASCII in its name, which systems write in more than one way"
    if name.endswith("/"):
        return "an entry for a folder, which a bundle has none of"
    if len(name) > LONGEST_PATH:
        return f"a name of {len(name)} characters ({LONGEST_PATH} at most)"
    return next(filter(None, (_part_fault(part, hidden) for part in name.split("/"))), None)


def _part_fault(part: str, hidden: bool) -> str | None:
    if part == "..":
        return "'..' in its path, which leads out of the folder"
    if part in ("", "."):
        return "an empty part or '.' in its path"
    if len(part) > LONGEST_PART:
        return f"a part of {len(part)} characters in its path ({LONGEST_PART} at most)"
    if not _PLAIN.match(part):
        return "a character that is none of A-Z a-z 0-9 _ . + - in its name"
    if part.endswith("."):
        return "a dot at the end of a part of its path, which Windows leaves out"
    if part.startswith(".") and not hidden:
        return "a hidden name"
    if _DEVICES.match(part):
        return "a name that Windows keeps for a device"
    return None


def collisions(names: Iterable[str]) -> list[str]:
    """What names mean one file, on all systems or on some, each as a line; empty where all differ everywhere.

    Found are a name that stands twice, names and folders that differ in case alone, and a file where another name has
    a folder.
    """
    faults, spelled, files = [], {}, set()
    for name in names:
        if name in files:
            faults.append(f"{name} is there twice")
        files.add(name)
        parts = name.split("/")
        for length in range(1, len(parts) + 1):
            path = "/".join(parts[:length])
            other = spelled.setdefault(path.lower(), path)
            if other != path:
                faults.append(f"{path} and {other} differ in case alone, and are one file on some systems")
    folders = {"/".join(name.split("/")[:length]) for name in files for length in range(1, name.count("/") + 1)}
    return faults + [f"{name} is a file and a folder" for name in sorted(files & folders)]

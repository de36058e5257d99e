"""A lock file with the hash of every wheel in a folder, so that a machine without a network installs just those."""

from __future__ import annotations

import email.parser
import hashlib
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.tags import Tag, sys_tags
from packaging.utils import InvalidWheelFilename, canonicalize_name, parse_wheel_filename
from packaging.version import Version

from common.errors import InputError

_LONGEST = 4 << 20  # bytes of a wheel's METADATA
_UNSOUND = (InvalidWheelFilename, InvalidRequirement, zipfile.BadZipFile, zlib.error)


@dataclass(frozen=True)
class Wheel:
    """A wheel in a folder.

    Attributes:
        name: canonical, of the package.
        version: with its local part, as 2.13.0+cpu.
        sha256: hexadecimal, of the file.
        requires: what it says that it needs, markers and all.
        tags: of the Pythons and systems that it is for.
    """

    name: str
    version: Version
    sha256: str
    requires: tuple[Requirement, ...]
    tags: frozenset[Tag]


def lock(wheelhouse: Path, requirements: Path) -> str:
    """The text of a lock file for ``pip install --require-hashes``, from wheels that nothing of is run to read them.

    Each package in the folder is there with its exact version and the SHA-256 of each of its wheels, once the folder
    is known to hold all that the requirements need, and all that those need on this machine and this Python.

    Args:
        wheelhouse: a folder of wheels, as ``pip wheel -r requirements.txt -w FOLDER`` fills one.
        requirements: lines of ``name==version`` or ranges, as a packed bundle has them.

    Raises:
        InputError: if something is missing, is there in two versions, or is a source archive, whose installation would
            run its code.
    """
    wheels = read_wheels(wheelhouse)
    direct = _read_requirements(requirements)
    if faults := _missing(wheels, direct, requirements):
        raise InputError(f"{wheelhouse} lacks {'; '.join(faults)}; fill it with pip wheel -r {requirements} -w FOLDER")
    lines = [f"# {requirements.name}, from the wheels of a folder: pip install --require-hashes --no-index -r THIS"]
    for name in sorted(wheels):
        hashes = sorted(each.sha256 for each in wheels[name])
        lines.append(
            " \\\n    ".join([f"{name}=={wheels[name][0].version}", *(f"--hash=sha256:{each}" for each in hashes)])
        )
    return "\n".join(lines) + "\n"


def read_wheels(folder: Path) -> dict[str, list[Wheel]]:
    """The wheels of a folder by canonical package name; several of one version are for several machines.

    Raises:
        InputError: if there is none, or a file is no sound wheel, or one package has two versions.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; name the one that pip wheel -w has filled")
    found: dict[str, list[Wheel]] = {}
    for path in sorted(folder.iterdir()):
        if path.name.endswith((".tar.gz", ".zip", ".tar.bz2", ".tar.xz")):
            raise InputError(
                f"{path} is a source archive: its own code would run to install it; make a wheel of it where that is "
                f"allowed, with pip wheel --no-deps -w {folder} {path.name}, and remove it"
            )
        if path.suffix == ".whl":
            wheel = _read_wheel(path)
            found.setdefault(wheel.name, []).append(wheel)
    if not found:
        raise InputError(f"{folder} holds no wheel; fill it with pip wheel -r requirements.txt -w {folder}")
    for name, wheels in found.items():
        versions = sorted({each.version for each in wheels})
        if len(versions) > 1:
            raise InputError(f"{folder} holds {name} in the versions {' and '.join(map(str, versions))}; keep one")
    return found


def _read_wheel(path: Path) -> Wheel:
    try:
        name, version, _, tags = parse_wheel_filename(path.name)
        with zipfile.ZipFile(path) as archive:
            (member,) = [
                each for each in archive.namelist() if each.count("/") == 1 and each.endswith(".dist-info/METADATA")
            ]
            if archive.getinfo(member).file_size > _LONGEST:
                raise InputError(f"{path} says of itself more than {_LONGEST:,} bytes; fetch it anew")
            text = archive.read(member).decode("utf-8")
        told = email.parser.HeaderParser().parsestr(text)
        requires = tuple(map(Requirement, told.get_all("Requires-Dist") or []))
        if (canonicalize_name(told["Name"]), Version(told["Version"])) != (name, version):
            raise InputError(f"{path} holds {told['Name']} {told['Version']}, not what its name says; fetch it anew")
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except InputError:
        raise
    except (*_UNSOUND, OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is no sound wheel ({error}); fetch it anew") from None
    return Wheel(name, version, digest, requires, tags)


def _read_requirements(path: Path) -> list[Requirement]:
    if not path.is_file():
        raise InputError(f"{path} does not exist; a packed bundle has its requirements.txt inside")
    found = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can not be read as text in UTF-8: {error}") from None
    for number, line in enumerate(lines, start=1):
        if text := line.split("#")[0].strip():
            try:
                found.append(Requirement(text))
            except InvalidRequirement:
                raise InputError(f"{path}, line {number}: {text!r} is no requirement; write name==version") from None
    return found


def _missing(wheels: Mapping[str, list[Wheel]], direct: list[Requirement], source: Path) -> list[str]:
    # What of the whole is not in the folder, and who wants it.
    faults: dict[str, None] = {}
    waiting = [(each, source.name) for each in direct if each.marker is None or each.marker.evaluate()]
    here = frozenset(sys_tags())
    seen: set[tuple[str, str]] = set()
    while waiting:
        wanted, by = waiting.pop(0)
        name = canonicalize_name(wanted.name)
        if name not in wheels or not wanted.specifier.contains(wheels[name][0].version, prereleases=True):
            faults[f"{name}{wanted.specifier} (wanted by {by})"] = None
            continue
        if not any(each.tags & here for each in wheels[name]):
            faults[f"{name} for this Python and system (wanted by {by})"] = None
            continue
        for extra in ("", *sorted(wanted.extras)):
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            # Wheels of one version for other machines may need other things; what this one needs is in each of them.
            waiting += [
                (each, name)
                for each in wheels[name][0].requires
                if each.marker is None or each.marker.evaluate({"extra": extra})
            ]
    return list(faults)

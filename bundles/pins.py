"""The exact versions that the collection was tested with, and which package brings which."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from common.errors import InputError

CONSTRAINTS = "constraints.txt"


def read_pins(path: Path) -> dict[str, str]:
    """Exact versions by canonical package name, from a file of ``name==version`` lines.

    Raises:
        InputError: if it is missing, or has a line of another kind.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; it is the constraints.txt of the collection that is wanted")
    pins = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} can not be read as text in UTF-8: {error}") from None
    for number, line in enumerate(lines, start=1):
        text = line.split("#")[0].strip()
        if not text:
            continue
        try:
            requirement = Requirement(text)
            (exact,) = requirement.specifier
        except (InvalidRequirement, ValueError):
            exact = None
        if exact is None or exact.operator != "==" or "*" in exact.version:
            raise InputError(f"{path}, line {number}: {text!r} is no exact version; write name==version")
        pins[canonicalize_name(requirement.name)] = exact.version
    return pins


def installed_version(name: str) -> str | None:
    """The version of a package in this environment without its local part (2.13.0 of 2.13.0+cpu); None without it."""
    try:
        return metadata.version(name).split("+")[0]
    except metadata.PackageNotFoundError:
        return None


def closure(direct: Mapping[str, str], pins: Mapping[str, str]) -> tuple[dict[str, str], dict[str, list[str] | None]]:
    """All that packages bring, as far as what is installed here tells.

    What a package needs is read from its metadata, with the markers of this machine, where it is installed in the very
    version; what has no pin (torch's CUDA wheels, which only some machines get) is left out.

    Args:
        direct: exact versions by name.
        pins: exact versions of all that may be brought, by canonical name.

    Returns:
        The versions by canonical name, sorted; and by name the canonical names that it needs, sorted, or None where
        the package is not installed here in that version.
    """
    versions: dict[str, str] = {}
    needs: dict[str, list[str] | None] = {}
    waiting = [(canonicalize_name(name), version, frozenset()) for name, version in direct.items()]
    extras_done: set[tuple[str, str]] = set()
    while waiting:
        name, version, extras = waiting.pop()
        fresh = name not in versions
        versions.setdefault(name, version)
        wanted = {"", *extras} if fresh else set(extras)
        for extra in sorted(wanted):
            if (name, extra) in extras_done:
                continue
            extras_done.add((name, extra))
            if (below := _needs(name, version, extra)) is None:
                needs.setdefault(name, None)
                continue
            kept = [each for each in below if canonicalize_name(each.name) in pins]
            names = {canonicalize_name(each.name) for each in kept}
            needs[name] = sorted({*(needs.get(name) or []), *names} - {name})
            waiting += [(canonicalize_name(n.name), pins[canonicalize_name(n.name)], frozenset(n.extras)) for n in kept]
    return dict(sorted(versions.items())), needs


def _needs(name: str, version: str, extra: str) -> list[Requirement] | None:
    if installed_version(name) != version:
        return None
    found = map(Requirement, metadata.requires(name) or [])
    return [each for each in found if _applies(each, extra)]


def _applies(requirement: Requirement, extra: str) -> bool:
    if requirement.marker is None:
        return extra == ""
    with_extra = requirement.marker.evaluate({"extra": extra})
    # What is needed without the extra too was taken then.
    return with_extra and (extra == "" or not requirement.marker.evaluate({"extra": ""}))


def licence_of(name: str) -> str | None:
    """The SPDX licence expression that an installed package declares; None where it declares none in that form."""
    try:
        return metadata.metadata(name).get("License-Expression")
    except metadata.PackageNotFoundError:
        return None

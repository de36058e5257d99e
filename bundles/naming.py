"""The name of a packed bundle's Python: it holds a digest of all that is packed.

No two builds, not even two that differ in weights alone, share a module in one process; and code under another
bundle's name, which a process may have imported already, is found out by anyone who computes the name again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

_DIGITS = 12


def placeholder(name: str) -> str:
    """What stands in a bundle's files for the name of its Python while that is computed."""
    return f"law_order_{name}_{'0' * _DIGITS}"


def package_name(name: str, files: Mapping[str, bytes]) -> str:
    """The name of a bundle's Python.

    Args:
        name: of the bundle.
        files: contents by path, all but the manifest, with the `placeholder` in the place of the name.
    """
    return placeholder(name)[:-_DIGITS] + _digest(files)[:_DIGITS]


def named_anew(name: str, package: str, files: Mapping[str, bytes]) -> tuple[str, dict[str, bytes]]:
    """The name that files give the Python among them, and the files under that name.

    Args:
        name: of the bundle.
        package: name that the Python has in `files`.
        files: contents by path, all but the manifest.
    """
    plain = _renamed(package, placeholder(name), files)
    wanted = package_name(name, plain)
    return wanted, _renamed(placeholder(name), wanted, plain)


def package_fault(name: str, package: str, files: Mapping[str, bytes]) -> str | None:
    """Why the Python of a bundle may not be called `package`; None where this is the name that its files give.

    Args:
        name: of the bundle.
        package: as the manifest has it.
        files: contents by path, all but the manifest, with `package` in them.
    """
    stands = placeholder(name)
    if any(stands in path or stands.encode() in content for path, content in files.items()):
        return f"{stands} stands in it, which no packed bundle has"
    wanted = stands[:-_DIGITS] + _digest(files, package, stands)[:_DIGITS]
    if wanted == package:
        return None
    return f"the package {package!r} is not named after this bundle and its content; by rights it is {wanted!r}"


def _renamed(now: str, then: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    old, new = now.encode(), then.encode()
    return {path.replace(now, then): content.replace(old, new) for path, content in files.items()}


def _digest(files: Mapping[str, bytes], now: str = "", then: str = "") -> str:
    # With `now` taken for `then` where it is given, piece by piece: no second copy of all weights is made for it.
    whole = hashlib.sha256()
    for path, content in sorted((path.replace(now, then) if now else path, each) for path, each in files.items()):
        pieces = list(_pieces(content, now.encode())) if now else [(0, len(content))]
        length = sum(end - start for start, end in pieces) + (len(pieces) - 1) * len(then)
        whole.update(f"{path}\0{length}\0".encode())
        for number, (start, end) in enumerate(pieces):
            whole.update(then.encode() if number else b"")
            whole.update(memoryview(content)[start:end])
    return whole.hexdigest()


def _pieces(content: bytes, mark: bytes) -> Iterator[tuple[int, int]]:
    # Where the pieces between marks begin and end.
    start = 0
    while (found := content.find(mark, start)) >= 0:
        yield start, found
        start = found + len(mark)
    yield start, len(content)

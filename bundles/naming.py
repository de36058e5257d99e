"""The name of a packed bundle's Python: it holds a digest of all that is packed.

No two builds, not even two that differ in weights alone, share a module in one process; and code under another
bundle's name, which a process may have imported already, is found out by anyone who computes the name again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

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
    wanted = package_name(name, _renamed(package, stands, files))
    if wanted == package:
        return None
    return f"the package {package!r} is not named after this bundle and its content; by rights it is {wanted!r}"


def _renamed(now: str, then: str, files: Mapping[str, bytes]) -> dict[str, bytes]:
    old, new = now.encode(), then.encode()
    return {path.replace(now, then): content.replace(old, new) for path, content in files.items()}


def _digest(files: Mapping[str, bytes]) -> str:
    whole = hashlib.sha256()
    for path in sorted(files):
        whole.update(f"{path}\0{len(files[path])}\0".encode())
        whole.update(files[path])
    return whole.hexdigest()

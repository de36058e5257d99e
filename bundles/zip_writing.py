"""Zip archives whose bytes depend on nothing but names and contents.

Nothing is compressed: what deflates to which bytes differs between builds of zlib, and weights hardly get smaller.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping

_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first that a zip can tell
_FILE = 0o100644 << 16
_UNIX = 3


def zip_bytes(top: str, files: Mapping[str, bytes]) -> bytes:
    """A zip with one folder `top`: members sorted by name, stored, all of one time and mode.

    Args:
        top: name of the folder.
        files: contents by path below it, with ``/`` between folders.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(files):
            member = zipfile.ZipInfo(f"{top}/{name}", _EPOCH)
            member.compress_type = zipfile.ZIP_STORED
            member.create_system = _UNIX  # not the system's that packs
            member.external_attr = _FILE
            archive.writestr(member, files[name])
    return stream.getvalue()

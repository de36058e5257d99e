"""How large an image may be: told from what its header says, before any pixel is decoded."""

from __future__ import annotations

import struct
from pathlib import Path

from ..errors import InputError

MOST_PIXELS = 40_000_000  # nine million peaked at 1.9 GB; a colonoscope gives two million
_SIZES_FOLLOW = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # the markers SOF of JPEG, and JPEG-LS's


def check_pixels(path: str | Path, width: int, height: int) -> None:
    """Refuse the image at `path` if it has more than `MOST_PIXELS`.

    Raises:
        InputError: if so.
    """
    if width * height > MOST_PIXELS:
        raise InputError(
            f"{path}: {width} × {height} pixels are more than {MOST_PIXELS // 10**6} million, which takes too much "
            "memory; shrink it first"
        )


def coded_size(stream: bytes) -> tuple[int, int] | None:
    """Width and height that a JPEG, JPEG-LS or JPEG 2000 stream says of itself; None of another, or where it ends."""
    if stream[:4] == b"\xff\x4f\xff\x51" and len(stream) >= 24:
        right, bottom, left, top = struct.unpack(">4I", stream[8:24])
        return right - left, bottom - top
    at = 2 if stream[:2] == b"\xff\xd8" else len(stream)
    while at + 9 <= len(stream) and stream[at] == 0xFF:
        if stream[at + 1] in _SIZES_FOLLOW:
            height, width = struct.unpack(">2H", stream[at + 5 : at + 9])
            return width, height
        # A marker may be filled up with 0xFF; any other has its length behind it.
        at += 1 if stream[at + 1] == 0xFF else 2 + int.from_bytes(stream[at + 2 : at + 4])
    return None

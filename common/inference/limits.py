"""How large an image may be: told from what its header says, before any pixel is decoded."""

from __future__ import annotations

import struct
from pathlib import Path

from ..errors import InputError

MOST_PIXELS = 40_000_000  # nine million peaked at 1.9 GB; a colonoscope gives two million
_SIZES_FOLLOW = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # the markers SOF of JPEG, and JPEG-LS's
_SCAN = 0xDA  # SOS, behind which are the pixels
_ALONE = {0x01, *range(0xD0, 0xD9)}  # TEM, RST and SOI: nothing belongs to them


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
    """Width and height that a JPEG, JPEG-LS or JPEG 2000 stream says of itself; None of another, where it ends
    before, or says two.

    JPEG 2000 in the boxes of a JP2 file is another: DICOM has the bare stream.
    """
    if stream[:4] == b"\xff\x4f\xff\x51" and len(stream) >= 24:
        right, bottom, left, top = struct.unpack(">4I", stream[8:24])
        return right - left, bottom - top
    at, found = 2 if stream[:2] == b"\xff\xd8" else len(stream), set()
    while at + 4 <= len(stream) and stream[at] == 0xFF and stream[at + 1] != _SCAN:
        if stream[at + 1] in _SIZES_FOLLOW and at + 9 <= len(stream):
            height, width = struct.unpack(">2H", stream[at + 5 : at + 9])
            found.add((width, height))
        if stream[at + 1] == 0xFF:  # a marker may be filled up with it
            at += 1
        elif stream[at + 1] in _ALONE:
            at += 2
        else:  # any other has its length behind it
            at += 2 + int.from_bytes(stream[at + 2 : at + 4])
    return found.pop() if len(found) == 1 else None

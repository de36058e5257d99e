"""Zip archives that every tool must read alike: parsed byte for byte, with nothing left over and nothing said twice.

A zip tells names and sizes in two places, tools differ in which they believe, and `zipfile` looks away from most that
is odd. Accepted is one form alone: members without a gap from the first byte on, then the central directory with the
same members in the same order and the same words, then the end record, which is the last of the file.
"""

from __future__ import annotations

import stat
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from common.errors import InputError

from .names import collisions, name_fault

STORED, DEFLATED = 0, 8
_ENCRYPTED, _DESCRIPTOR, _UTF8 = 0x1, 0x8, 0x800
_HOW_HARD = 0x6  # how hard the packer tried, as `zip -9` tells it; no reader heeds it
_LOCAL, _CENTRAL, _END = b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06"
_END64, _LOCATOR64, _AFTER = b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08"
_PADDING = b"FB"  # torch's extra field, by which tensors begin at multiples of 64 bytes
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF


class Refused(InputError):
    """Why a bundle, an archive or a file in it can not be trusted to be what it says."""


def first_line(error: Exception) -> str:
    """What another library's error says, in a line of not more than 200 letters."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most, so that it can not fill memory or disk.

    Attributes:
        archive: bytes of the archive.
        members: how many.
        member, total: bytes of one member and of all, unpacked.
        ratio: unpacked over packed, of a member of more than `small` bytes.
        whole: the same of all members together, `small` bytes times sixteen aside.
    """

    archive: int = 1 << 30
    members: int = 4000
    member: int = 1 << 30
    total: int = 1 << 30
    ratio: int = 100
    whole: int = 20
    small: int = 1 << 20


LIMITS = Limits()


def inner_limits(content: bytes) -> Limits:
    """What an archive within an archive may hold: little more than its own size, as torch stores numbers unpacked."""
    most = 2 * len(content) + (4 << 20)
    return Limits(member=most, total=most)


@dataclass(frozen=True)
class _Member:
    name: str
    flags: int
    method: int
    stamp: int
    crc: int
    packed: int
    size: int
    offset: int


def read_archive(data: bytes, limits: Limits = LIMITS, torch: bool = False) -> dict[str, bytes]:
    """The members of a zip by name, in its order, each unpacked and compared with its checksum.

    Args:
        data: the archive.
        limits: what it may hold.
        torch: whether it is in the form of `torch.save` and `torch.jit.save`: padded members, sizes behind them,
            a second end record with 64 bits.

    Raises:
        Refused: if it is in any other form, which is named; if a limit is passed. No more than the limit is unpacked.
    """
    if len(data) > limits.archive:
        raise Refused(f"the archive has {len(data):,} bytes; at most {limits.archive:,} are read")
    start, count, end = _directory(data, torch)
    if count > limits.members:
        raise Refused(f"the archive has {count:,} members; at most {limits.members:,} are read (a bomb?)")
    members = list(_members(data, start, end, count, torch))
    for member in members:
        if fault := name_fault(member.name, hidden=torch):
            raise Refused(f"member {member.name[:100]!r} has {fault}")
    if faults := collisions(member.name for member in members):
        raise Refused(f"in the archive {faults[0]}")
    _check_sizes(members, limits)
    files, position = {}, 0
    for member in members:
        position, content = _content(data, member, position, torch)
        files[member.name] = content
    if position != start:
        raise Refused(f"{start - position:,} bytes lie between the last member and the central directory")
    return files


def _unpacked(form: str, data: bytes, position: int, what: str) -> tuple:
    try:
        return struct.unpack_from(form, data, position)
    except struct.error:
        raise Refused(f"the archive ends within {what}; it was cut off") from None


def _directory(data: bytes, torch: bool) -> tuple[int, int, int]:
    # Offset of the central directory, number of its entries, and its end, as the end of the file says.
    if not data.startswith(_LOCAL):
        raise Refused("the archive does not begin with a member; it is no zip, or something stands before it")
    end = len(data) - 22
    if end < 0 or data[end : end + 4] != _END:
        raise Refused("the archive does not end with its end record: it was cut off, or bytes or a comment follow it")
    disk, first, here, count, size, start, comment = _unpacked("<4H2IH", data, end + 4, "the end record")
    if comment:
        raise Refused("the archive has a comment")
    if disk or first or here != count:
        raise Refused("the archive says that it has several parts")
    if torch and data[end - 20 : end - 16] == _LOCATOR64:
        end -= 76
        wide = _unpacked("<4sQ2H2I4Q4sIQI", data, end, "the end record of 64 bits")
        if wide[0] != _END64 or wide[1] != 44 or wide[4:7] != (0, 0, wide[7]) or wide[10:] != (_LOCATOR64, 0, end, 1):
            raise Refused("the archive's two end records disagree")
        narrow = ((count, wide[7], _FULL16), (size, wide[8], _FULL32), (start, wide[9], _FULL32))
        if any(low not in (high, limit) for low, high, limit in narrow):
            raise Refused("the archive's two end records disagree")
        count, size, start = wide[7:10]
    elif count == _FULL16 or _FULL32 in (size, start):
        raise Refused("the archive has numbers of 64 bits (zip64), which tools read differently")
    if start + size != end:
        raise Refused("the central directory is not where the end record says; bytes were put in or taken out")
    return start, count, end


def _members(data: bytes, start: int, end: int, count: int, torch: bool) -> Iterator[_Member]:
    position = start
    for number in range(count):
        what = f"entry {number + 1} of the central directory"
        (signature, made, needed, flags, method, time, date, crc, packed, size, named, extra, comment, disk, internal,
         external, offset) = _unpacked("<4s6H3I5H2I", data, position, what)  # fmt: skip
        position += 46
        if signature != _CENTRAL:
            raise Refused(f"{what} is none")
        name = _name(data[position : position + named], flags)
        shown = f"member {name[:100]!r}"
        position += named
        if extra or comment:
            raise Refused(f"{shown} has an extra field or a comment")
        if disk or internal not in (0, 1) or needed > (45 if torch else 20) or _FULL32 in (packed, size, offset):
            raise Refused(f"{shown} is on another disk, or has numbers of 64 bits (zip64)")
        _check_kind(shown, made >> 8, flags, method, external, torch)
        if method == STORED and packed != size:
            raise Refused(f"{shown} is stored, with two sizes")
        yield _Member(name, flags, method, date << 16 | time, crc, packed, size, offset)
    if position != end:
        raise Refused("the central directory has another number of entries than the end record says")


def _name(raw: bytes, flags: int) -> str:
    try:
        return raw.decode("utf-8" if flags & _UTF8 else "ascii")
    except UnicodeDecodeError:
        raise Refused(f"member {raw[:100]!r} has a name that is no UTF-8, or is not marked as such") from None


def _check_kind(shown: str, system: int, flags: int, method: int, external: int, torch: bool) -> None:
    if flags & _ENCRYPTED:
        raise Refused(f"{shown} is encrypted")
    if flags & ~(_UTF8 | (_DESCRIPTOR if torch else 0) | (_HOW_HARD if method == DEFLATED else 0)):
        raise Refused(f"{shown} has the flags {flags:#06x}; none but UTF-8 is known here")
    if method not in (STORED, DEFLATED):
        raise Refused(f"{shown} has compression {method}; only stored (0) and deflate (8) are read")
    mode = external >> 16
    if system not in (0, 3) or stat.S_IFMT(mode) not in (0, stat.S_IFREG) or external & 0x10:
        kind = "a link" if stat.S_ISLNK(mode) else "no plain file (a folder or a device)"
        raise Refused(f"{shown} is {kind}")
    if mode & 0o7000:
        raise Refused(f"{shown} wants to run as its owner (mode {mode & 0o7777:o})")


def _check_sizes(members: list[_Member], limits: Limits) -> None:
    for member in members:
        if member.size > limits.member:
            raise Refused(
                f"member {member.name!r} unpacks to {member.size:,} bytes; at most {limits.member:,} are read"
            )
        if member.size > limits.small and member.size > limits.ratio * max(1, member.packed):
            raise Refused(
                f"member {member.name!r} unpacks to {member.size // max(1, member.packed):,} times its size, a bomb;"
                f" at most {limits.ratio} times is read"
            )
    if (total := sum(member.size for member in members)) > limits.total:
        raise Refused(f"the archive unpacks to {total:,} bytes, a bomb; at most {limits.total:,} are read")
    if total > 16 * limits.small + limits.whole * sum(member.packed for member in members):
        raise Refused(f"the archive unpacks to {total:,} bytes, more than {limits.whole} times its size, a bomb")


def _content(data: bytes, member: _Member, position: int, torch: bool) -> tuple[int, bytes]:
    # What the member holds, and where it ends.
    shown = f"member {member.name!r}"
    signature, needed, flags, method, time, date, crc, packed, size, named, extra = _unpacked(
        "<4s5H3I2H", data, position, f"the header of {shown}"
    )
    if member.offset != position:
        raise Refused(f"{shown} does not begin where the one before it ends: members overlap, or leave a gap")
    name = data[position + 30 : position + 30 + named]
    told = (crc, packed, size)
    after = bool(member.flags & _DESCRIPTOR)
    agree = told == (member.crc, member.packed, member.size) or (after and told == (0, 0, 0))
    same = (signature, flags, method, date << 16 | time) == (_LOCAL, member.flags, member.method, member.stamp)
    if not (agree and same) or name != member.name.encode() or needed > (45 if torch else 20):
        raise Refused(f"{shown} is described in two ways, by its own header and by the central directory")
    position += 30 + named
    if extra and not (torch and _is_padding(data[position : position + extra])):
        raise Refused(f"{shown} has an extra field")
    position += extra
    raw = data[position : position + member.packed]
    position += member.packed
    if after:
        (mark, *told) = _unpacked("<4s3I", data, position, f"the end of {shown}")
        if mark != _AFTER or tuple(told) != (member.crc, member.packed, member.size):
            raise Refused(f"{shown} is described in two ways, behind its content and by the central directory")
        position += 16
    content = raw if member.method == STORED else _inflated(raw, member.size, shown)
    if len(content) != member.size or zlib.crc32(content) != member.crc:
        raise Refused(f"{shown} is damaged: its content has another checksum or size than it says")
    return position, content


def _is_padding(extra: bytes) -> bool:
    return len(extra) >= 4 and extra[:2] == _PADDING and struct.unpack("<H", extra[2:4])[0] == len(extra) - 4


def _inflated(raw: bytes, size: int, shown: str) -> bytes:
    # One byte more than it says is asked for, and never more.
    inflater = zlib.decompressobj(-15)
    try:
        content = inflater.decompress(raw, size + 1)
    except zlib.error:
        raise Refused(f"{shown} is damaged: it can not be unpacked") from None
    if len(content) > size:
        raise Refused(f"{shown} unpacks to more than the {size:,} bytes that it says, a bomb")
    if not inflater.eof or inflater.unused_data or inflater.unconsumed_tail:
        raise Refused(f"{shown} is damaged: bytes are missing from its end, or follow it")
    return content

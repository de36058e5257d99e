"""A packed bundle is read from one form of zip alone: what tools could read in two ways, or to harm, is refused."""

from __future__ import annotations

import io
import os
import random
import shutil
import socket
import struct
import subprocess
import tracemalloc
import zipfile
import zlib

import pytest
import torch

from bundles.archives import Limits, Refused, read_archive
from bundles.names import collisions, name_fault
from bundles.opening import open_folder, open_zip
from bundles.zip_writing import zip_bytes
from tests.distribution.built import mini, raw_member, raw_zip, saved

A, B = raw_member(b"top/a"), raw_member(b"top/b", b"other")
LINK, FOLDER, DEVICE = 0o120777 << 16, 0o040755 << 16, 0o020644 << 16
_RAW = raw_member(b"x")["raw"]

# What is done to a zip, and by which words the refusal names it.
ATTACKS = {
    "out of the folder": ([raw_member(b"top/../../out")], {}, r"'\.\.' in its path"),
    "absolute": ([raw_member(b"/etc/cron.d/x")], {}, "absolute path"),
    "drive": ([raw_member(b"C:/Windows/x")], {}, "Windows drive"),
    "network share": ([raw_member(b"\\\\server\\share\\x")], {}, "backslash"),
    "backslash": ([raw_member(b"top\\..\\..\\out")], {}, "backslash"),
    "link": ([raw_member(b"top/a", b"/etc/passwd", attributes=LINK)], {}, "is a link"),
    "device": ([raw_member(b"top/a", attributes=DEVICE)], {}, "no plain file"),
    "folder by attribute": ([raw_member(b"top/a", attributes=FOLDER)], {}, "no plain file"),
    "folder by DOS attribute": ([raw_member(b"top/a", attributes=0x10)], {}, "no plain file"),
    "folder entry": ([raw_member(b"top/", b"")], {}, "entry for a folder"),
    "runs as owner": ([raw_member(b"top/a", attributes=0o104755 << 16)], {}, "run as its owner"),
    "twice": ([A, raw_member(b"top/a", b"second")], {}, "there twice"),
    "case": ([raw_member(b"top/a"), raw_member(b"top/A")], {}, "differ in case alone"),
    "case of a folder": ([raw_member(b"top/x/a"), raw_member(b"top/X/b")], {}, "differ in case alone"),
    "Unicode form": ([raw_member("top/é".encode(), flags=0x800)], {}, "outside ASCII"),
    "file and folder": ([raw_member(b"top/a"), raw_member(b"top/a/b")], {}, "a file and a folder"),
    "NUL": ([raw_member(b"top/a\0.txt")], {}, "control character"),
    "line break": ([raw_member(b"top/a\nb")], {}, "control character"),
    "name of a device": ([raw_member(b"top/con.json")], {}, "keeps for a device"),
    "dot at the end": ([raw_member(b"top/a.")], {}, "dot at the end"),
    "stream of Windows": ([raw_member(b"top/a:b")], {}, "none of A-Z"),
    "hidden": ([raw_member(b"top/.git")], {}, "hidden"),
    "long": ([raw_member(b"top/" + b"a" * 300)], {}, "300|304 characters"),
    "no UTF-8": ([raw_member(b"top/\xff", flags=0x800)], {}, "no UTF-8"),
    "encrypted": ([raw_member(b"top/a", flags=1)], {}, "encrypted"),
    "size behind the content": ([raw_member(b"top/a", flags=8)], {}, "flags"),
    "patched": ([raw_member(b"top/a", flags=32)], {}, "flags"),
    "compression": ([raw_member(b"top/a", method=12)], {}, "compression 12"),
    "overlap": ([raw_member(b"top/a"), raw_member(b"top/b", offset=0)], {}, "overlap|two ways"),
    "other name inside": ([raw_member(b"top/a", local_name=b"top/b")], {}, "two ways"),
    "other size inside": ([raw_member(b"top/a", local_size=3)], {}, "two ways"),
    "other checksum inside": ([raw_member(b"top/a", local_crc=3)], {}, "two ways"),
    "stored, and said to be pressed": ([raw_member(b"top/a", method=0, flags=2)], {}, "flags"),
    "other flags inside": ([raw_member(b"top/a", local_flags=0x800)], {}, "two ways"),
    "other method inside": ([raw_member(b"top/a", local_method=0)], {}, "two ways"),
    "stored, other method inside": ([raw_member(b"top/a", method=0, local_method=8)], {}, "two ways"),
    "stored, other size inside": ([raw_member(b"top/a", method=0, local_size=3, local_packed=3)], {}, "two ways"),
    "stored, other name inside": ([raw_member(b"top/a", method=0, local_name=b"top/b")], {}, "two ways"),
    "stored, other checksum inside": ([raw_member(b"top/a", method=0, local_crc=3)], {}, "two ways"),
    "stored, wrong checksum": ([raw_member(b"top/a", method=0, crc=3)], {}, "damaged"),
    "stored, shorter": ([raw_member(b"top/a", method=0, size=3, packed=3)], {}, "leave a gap|between|damaged"),
    "stored, longer": ([raw_member(b"top/a", method=0, size=9, packed=9)], {}, "damaged|overlap|two ways"),
    "stored, deflated inside": ([raw_member(b"top/a", method=0, raw=_RAW)], {}, "two sizes|damaged"),
    "deflated, stored inside": ([raw_member(b"top/a", raw=b"content")], {}, "damaged"),
    "stored, extra field inside": ([raw_member(b"top/a", method=0, local_extra=b"up\x02\x00ab")], {}, "extra field"),
    "extra field": ([raw_member(b"top/a", extra=b"up\x02\x00ab")], {}, "extra field"),
    "extra field inside": ([raw_member(b"top/a", local_extra=b"up\x02\x00ab")], {}, "extra field"),
    "comment of a member": ([raw_member(b"top/a", comment=b"x")], {}, "comment"),
    "comment": ([A], {"comment": b"hello"}, "comment|end record"),
    "before": ([A], {"before": b"#!/bin/sh\n"}, "something stands before"),
    "before, told": ([A], {"before": b"PK\x03\x04junk"}, "begin|two ways|overlap"),
    "between members": ([raw_member(b"top/a", after=b"junk"), B], {}, "overlap, or leave a gap"),
    "before the directory": ([A], {"between": b"junk"}, "between the last member"),
    "behind": ([A], {"behind": b"junk"}, "bytes or a comment follow"),
    "second end record": ([A], {"behind": raw_zip([B])}, "gap|not where|number of entries|two ways|between"),
    "fewer entries told": ([A, B], {"here": 1, "count": 1}, "number of entries"),
    "more entries told": ([A], {"here": 2, "count": 2}, "entry 2|cut off"),
    "several parts": ([A], {"disk": 1}, "several parts"),
    "zip64": ([A], {"here": 0xFFFF, "count": 0xFFFF}, "zip64"),
    "zip64 sizes": ([raw_member(b"top/a", size=0xFFFFFFFF)], {}, "zip64"),
    "stored, two sizes": ([raw_member(b"top/a", method=0, size=3)], {}, "two sizes"),
    "wrong checksum": ([raw_member(b"top/a", crc=1)], {}, "damaged"),
    "bytes behind its end": ([raw_member(b"top/a", raw=_RAW + b"junk")], {}, "follow it"),
    "cut within a member": ([raw_member(b"top/a", raw=_RAW[:-2])], {}, "missing from its end|can not be unpacked"),
    "two folders": ([A, raw_member(b"other/a")], {}, "more than one folder"),
    "file at the top": ([A, raw_member(b"a")], {}, "more than one folder"),
    "nothing": ([], {}, "begin with a member"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_odd_zip_is_refused_by_what_is_odd(attack):
    members, end, cause = ATTACKS[attack]
    with pytest.raises(Refused, match=cause):
        open_zip(raw_zip(members, **end))


def test_the_form_itself_is_accepted():
    """Or the attacks above would prove nothing."""
    assert open_zip(raw_zip([A, B])).files == {"a": b"content", "b": b"other"}
    for methods in ((0, 0), (8, 8), (0, 8)):
        members = [raw_member(name, method=method) for name, method in zip((b"top/a", b"top/b"), methods, strict=True)]
        assert open_zip(raw_zip(members)).files == {"a": b"content", "b": b"content"}
    assert open_zip(raw_zip([raw_member(b"top/a", flags=0x800)])).files == {"a": b"content"}
    assert open_zip(raw_zip([raw_member(b"top/a", flags=2)])).files == {"a": b"content"}  # as `zip -9` tells it


@pytest.mark.parametrize("length", [0, 3, 21, 40, 60, 100, -1, -22, -30])
def test_a_cut_zip_is_refused(length):
    with pytest.raises(Refused):
        open_zip(raw_zip([A, B])[:length])


def test_every_tool_reads_the_same(tmp_path):
    """Python's zipfile, and what else is installed, from the packer's own zip."""
    files = {f"top/{name}": content for name, content in mini().items()}
    path = tmp_path / "x.zip"
    path.write_bytes(zip_bytes("top", mini()))
    assert read_archive(path.read_bytes()) == dict(sorted(files.items()))
    with zipfile.ZipFile(path) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == files
    tools = [("unzip", "-qq"), ("bsdtar", "-xf"), ("7z", "x"), ("jar", "xf")]
    for number, tool in enumerate(each for each in tools if shutil.which(each[0])):
        folder = tmp_path / str(number)
        folder.mkdir()
        subprocess.run([*tool, path], cwd=folder, check=True, capture_output=True)
        found = {each.relative_to(folder).as_posix(): each.read_bytes() for each in folder.rglob("*") if each.is_file()}
        assert found == files, tool


# ---- bombs ---------------------------------------------------------------------------------------------------------


def _deflated_zeros(length: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 20)
    return b"".join(packer.compress(block) for _ in range(length >> 20)) + packer.flush()


@pytest.mark.parametrize(
    ("told", "cause"), [(200 << 20, "times its size, a bomb"), (100, "more than the 100 bytes that it says, a bomb")]
)
def test_a_bomb_is_refused_before_it_unpacks(told, cause):
    """Whether it says how large it is or not: no more is unpacked than it says, or than is allowed."""
    raw = _deflated_zeros(200 << 20)
    bomb = raw_zip([raw_member(b"top/a", raw=raw, size=told)])
    tracemalloc.start()
    with pytest.raises(Refused, match=cause):
        open_zip(bomb)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < (8 << 20)


def test_limits_hold_for_each_member_all_of_them_and_their_number():
    def zipped(count: int, size: int) -> bytes:
        random_bytes = random.Random(0).randbytes(size)
        return raw_zip([raw_member(b"top/%d" % number, random_bytes, method=0) for number in range(count)])

    limits = Limits(archive=10_000, members=5, member=1000, total=2000)
    assert len(read_archive(zipped(2, 1000), limits)) == 2
    for data, cause in (
        (zipped(1, 1001), "unpacks to 1,001"),
        (zipped(3, 1000), "unpacks to 3,000"),
        (zipped(6, 10), "6 members"),
        (zipped(1, 20_000), "the archive has"),
    ):
        with pytest.raises(Refused, match=cause):
            read_archive(data, limits)


def test_torchs_own_archives_are_read_in_their_own_form_only():
    data = saved({"a": torch.zeros(3)})
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert read_archive(data, torch=True) == {name: archive.read(name) for name in archive.namelist()}
    with pytest.raises(Refused):
        read_archive(data)
    end = data.rfind(b"PK\x06\x06")
    with pytest.raises(Refused, match="two end records disagree"):
        read_archive(data[: end + 32] + struct.pack("<Q", 1) + data[end + 40 :], torch=True)


# ---- names and folders -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "configs/train.json", "law_order_x_0/data/splits/a-b+c.csv", "LICENSE"])
def test_ordinary_names_pass(name):
    assert name_fault(name) is None


def test_collisions_are_found_whatever_their_order():
    assert collisions(["a/b", "a/c", "d"]) == []
    assert len(collisions(["a/b", "a"])) == len(collisions(["a", "a/b"])) == 1


def test_a_folder_reads_as_its_zip(tmp_path):
    with zipfile.ZipFile(io.BytesIO(zip_bytes("top", mini()))) as archive:
        archive.extractall(tmp_path)
    read = open_folder(tmp_path / "top")
    assert (read.top, read.files, read.folders) == ("top", mini(), ())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("kind", ["link", "link to a folder", "broken link", "pipe", "socket"])
def test_a_folder_with_what_is_no_file_is_refused(tmp_path, kind, monkeypatch):
    folder = tmp_path / "top"
    folder.mkdir()
    (tmp_path / "secret").write_text("x")
    path = folder / "x"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            monkeypatch.chdir(folder)  # a socket's path may not be long
            made.bind("x")
    else:
        path.symlink_to({"link": tmp_path / "secret", "link to a folder": tmp_path}.get(kind, tmp_path / "nothing"))
    with pytest.raises(Refused, match="no plain file" if kind in ("pipe", "socket") else "is a link"):
        open_folder(folder)


def test_a_folder_that_is_a_link_is_refused(tmp_path):
    (tmp_path / "top").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "top")
    with pytest.raises(Refused, match="is a link"):
        open_folder(tmp_path / "link")

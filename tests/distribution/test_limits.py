"""A small zip can neither keep `verify` busy nor fill its memory, whatever its parts are parsed to."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from bundles.code_free_config import inference_config
from bundles.manifest import CODE_FREE, NAME, json_bytes
from bundles.sources import collection
from bundles.verifying import verify
from tests.distribution.built import PACKAGE, ZIP, code_free, manifested, mini, write_config, write_mini, write_zip
from tests.distribution.test_verifying import refused

SECONDS, MEBIBYTES = 20, 256  # of one processor, and of memory beyond what a small sound bundle takes
VALUES = {"image_size": 64, "threshold": 0.5, "batch_size": 1, "num_workers": 0}
MEASURED = """
import json, sys, time
from pathlib import Path
from bundles.verifying import verify
report = verify(sys.argv[1])
# The peak since the program began; getrusage has that of the process it was forked from as well.
(peak,) = [line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")]
print(json.dumps([report.errors, int(peak) / 1024, time.process_time()]))
"""


def measured(path: Path) -> tuple[list[str], float, float]:
    """The errors of a bundle, and what memory (MiB) and time (seconds) it took to verify it in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", MEASURED, path]
    ended = subprocess.run(command, cwd=collection(), capture_output=True, text=True, check=True)
    return json.loads(ended.stdout)


@pytest.fixture(scope="module")
def usual(tmp_path_factory) -> float:
    errors, memory, _ = measured(write_mini(tmp_path_factory.mktemp("usual")))
    assert errors == []
    return memory


def _manifest(folder: Path, python: list) -> Path:
    files = manifested(mini())
    return write_zip(folder, {**files, NAME: json_bytes({**json.loads(files[NAME]), "python": python})})


def _lists(count: int) -> bytes:
    return ("[" + ",".join(["[]"] * count) + "]").encode()


def _config(folder: Path, config: dict) -> Path:
    return write_mini(folder, {"configs/x.json": json_bytes(config)})


def _python(folder: Path, text: str) -> Path:
    return write_mini(folder, {f"{PACKAGE}/more.py": text.encode()})


def _free(folder: Path, files: dict[str, bytes]) -> Path:
    config = inference_config("mini", **VALUES)
    return write_zip(folder, manifested({**code_free(config), **files}, CODE_FREE))


def _deflated(folder: Path, count: int) -> Path:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in manifested(
            {**mini(), **{f"docs/t{n}.txt": b"a" * (1 << 20) for n in range(count)}}
        ).items():
            info = zipfile.ZipInfo(f"mini/{name}", (1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr, info.create_system = zipfile.ZIP_DEFLATED, 0o100644 << 16, 3
            archive.writestr(info, content)
    (folder / ZIP).write_bytes(stream.getvalue())
    return folder / ZIP


ONE_AFTER_ANOTHER = [each for n in range(20_000) for each in (n, f"s{n}")]
HOSTILE = {
    "a list of numbers and texts": (lambda f: _manifest(f, ONE_AFTER_ANOTHER), "python#0"),
    "a manifest of a megabyte": (lambda f: _manifest(f, ["x" * 1000] * 1100), "at most 1,048,576"),
    "two large configs": (
        lambda f: write_mini(f, {"configs/a.json": _lists(200_000), "configs/b.json": _lists(200_000)}),
        "its configs have",
    ),
    "large weights of JSON": (lambda f: write_mini(f, {"models/a.json": _lists(2_900_000)}), "at most 8,388,608"),
    "many files of weights": (
        lambda f: write_mini(f, {f"models/{n}.json": b"{}" for n in range(100)}),
        "models/ holds 101 files",
    ),
    "nodes of ONNX": (lambda f: _free(f, {"models/model.onnx": b"\x0a\x00" * (2 << 20)}), "at most 2,097,152 of ONNX"),
    "a long chain of attributes": (lambda f: _python(f, ("a" + ".b" * 900 + "\n") * 140), None),
    "a long chain of calls": (lambda f: _python(f, ("a" + ".load()" * 150 + "\n") * 240), None),
    "brackets": (lambda f: _python(f, "[" + "[]," * 87_000 + "]\n"), None),
    "many names of its own": (
        lambda f: _config(f, {f"k{n}": {"_target_": f"{PACKAGE}.nets.A{n}"} for n in range(9_000)}),
        "more than these 500 lines say",
    ),
    "a whole that unpacks to much": (lambda f: _deflated(f, 40), "times its size, a bomb"),
    "its name in every place": (lambda f: write_mini(f, {"docs/a.md": PACKAGE.encode() * 1_000_000}), None),
}


@pytest.mark.skipif(sys.platform != "linux", reason="the peak of the memory is read as Linux tells it")
@pytest.mark.parametrize("kind", HOSTILE)
def test_a_small_zip_takes_little_time_and_memory(kind, usual, tmp_path):
    make, told = HOSTILE[kind]
    errors, memory, seconds = measured(make(tmp_path))
    assert [error for error in errors if told and told in error] if told else errors == [], errors[:5]
    assert memory - usual < MEBIBYTES and seconds < SECONDS


def test_the_limits_leave_room_for_what_is_packed(packages):
    """A tenth of each, at most, is what the collection's own bundles take."""
    for packed in packages.packed.values():
        sizes = {path: len(content) for path, content in packed.files.items()}
        configs = sum(size for path, size in sizes.items() if path.startswith("configs/"))
        assert sizes[NAME] < (1 << 20) / 10 and configs < (1 << 20) / 10
        assert sum(path.startswith("models/") for path in sizes) <= 64 / 4


def test_more_python_than_is_read_is_refused(tmp_path):
    files = {f"{PACKAGE}/x{number}.py": b"x = 1\n" * 80_000 for number in range(9)}
    refused(write_mini(tmp_path, files), "its Python has")
    refused(write_mini(tmp_path, {f"{PACKAGE}/x.py": b"x = 1\n" * 100_000}), f"{PACKAGE}/x.py")


def test_a_report_has_an_end(tmp_path):
    report = verify(write_config(tmp_path, lambda config: config.update(x=["$exit()"] * 5000)))
    assert not report.ok and len(report.findings) < 1000 and any("more than" in line for line in report.errors)

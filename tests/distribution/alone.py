"""`make alone`: each zip in an environment that has the packages it lists and nothing else, in a foreign folder.

    python -m tests.distribution.alone [--keep DIR] [NAME …]

For each bundle: the zip is unpacked, its requirements.txt installed into an environment of its own (bundles that ask
for the same share one), a set is drawn by its own code, it is trained, measured and run on it, and a segmenter is
exported. Of a segmenter the package without Python is tried too, on images drawn here. Prints a line for each step,
with its seconds; exit code 1 where one fails.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from bundles.code_free import pack_code_free
from bundles.packing import Packed, pack
from bundles.sources import bundle_names, collection
from common.data.phantoms import prepare_phantoms

SEGMENTER = {
    "training": {"epochs": 1, "batch_size": 4, "image_size": 64},
    "evaluate": {"image_size": 64},
    "inference": {"image_size": 64},
}
PAINTER = {
    "training": {
        "protocol": "phantoms",
        "steps": 2,
        "steps_per_epoch": 1,
        "batch_size": 2,
        "strip_images": 1,
        "strip_steps": 2,
    },
    "evaluate": {"protocol": "phantoms", "steps": 2, "batch_size": 2},
    "inference": {"steps": 2, "batch_size": 2},
}


NOT_THERE = """
from importlib.util import find_spec
assert [name for name in ("common", "bundles", "benchmarks") if find_spec(name)] == []
"""


class Failed(Exception):
    """A step that ended with another code than 0."""


def environment(folder: Path, requirements: bytes) -> Path:
    """The interpreter of an environment with just `requirements`, made where it is not there yet."""
    place = folder / f"environment_{hashlib.sha256(requirements).hexdigest()[:12]}"
    python = place / "bin" / "python"
    if not (place / "complete").exists():
        (folder / "requirements.txt").write_bytes(requirements)
        step("environment", [sys.executable, "-m", "venv", "--clear", place], folder)
        install = [python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", "-r", "requirements.txt"]
        step("packages", install, folder)
        (place / "complete").touch()
    return python


def step(what: str, command: list, folder: Path) -> None:
    """Run a command in a folder, with nothing of this process's Python about it, and print how long it took.

    Raises:
        Failed: if it ends with an error; what it wrote is printed.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))}
    began = time.monotonic()
    ended = subprocess.run(list(map(str, command)), cwd=folder, env=clean, capture_output=True, text=True, check=False)
    print(f"  {what:<12} {'ok' if ended.returncode == 0 else 'FAILED'}  {time.monotonic() - began:.0f} s", flush=True)
    if ended.returncode:
        print(ended.stdout[-2000:], ended.stderr[-4000:])
        raise Failed(what)


def try_alone(packed: Packed, folder: Path, segmenter: Path | None) -> None:
    """Draw, train, measure, run and export one bundle.

    Args:
        packed: the bundle.
        folder: for environments and the bundle's own foreign folder.
        segmenter: weights of ORDER, for the painter that brings none.
    """
    foreign, bundle = unpacked(packed, folder)
    python = environment(folder, (bundle / "requirements.txt").read_bytes())
    drawing = [f"{packed.package}.data", "prepare", "phantoms", "../data", "--count", "10", "--test_count", "4"]
    step("draw", [python, "-m", *drawing, "--size", "64"], bundle)
    segments = packed.name.startswith("order_")
    options = SEGMENTER if segments else PAINTER
    run = [python, "-W", "ignore", "-m", "monai.bundle", "run"]
    for what, alias in (("training", ["training"]), ("evaluate", []), ("inference", [])):
        config = bundle / "configs" / ("train.json" if what == "training" else f"{what}.json")
        given = ["--config_file", config, "--dataset_dir", "data", "--output_dir", what]
        given += [part for key, value in options[what].items() for part in (f"--{key}", value)]
        given += ["--segmenter", segmenter] if what == "evaluate" and segmenter else []
        step(what, [*run, *alias, *given], foreign)
    if segments:
        exporting = ["ckpt_export", "network_def", "--filepath", "models/exported.ts", "--ckpt_file", "models/model.pt"]
        exporting += ["--meta_file", "configs/metadata.json", "--config_file", "configs/inference.json"]
        step("export", [python, "-W", "ignore", "-m", "monai.bundle", *exporting], bundle)
    step("alone", [python, "-c", NOT_THERE], foreign)


def try_code_free_alone(packed: Packed, folder: Path) -> None:
    """Run a segmenter without Python on drawn images."""
    foreign, bundle = unpacked(packed, folder)
    prepare_phantoms(foreign / "data", count=6, test_count=2, size=64)
    python = environment(folder, (bundle / "requirements.txt").read_bytes())
    given = ["--config_file", bundle / "configs" / "inference.json", "--dataset_dir", "data/images"]
    run = [python, "-W", "ignore", "-m", "monai.bundle", "run", *given, "--output_dir", "masks"]
    step("inference", run, foreign)
    if len(list((foreign / "masks").glob("*.png"))) != 8:
        raise Failed("masks")
    step("alone", [python, "-c", NOT_THERE], foreign)


def unpacked(packed: Packed, folder: Path) -> tuple[Path, Path]:
    """A new folder with a zip and what it holds, and the bundle's folder in it."""
    foreign = folder / packed.name
    shutil.rmtree(foreign, ignore_errors=True)  # of an earlier try
    foreign.mkdir()
    (foreign / packed.file_name).write_bytes(packed.zip())
    with zipfile.ZipFile(foreign / packed.file_name) as archive:
        archive.extractall(foreign)
    return foreign, foreign / packed.name


def main(arguments: list[str] | None = None) -> int:
    """Try the bundles that are named, or all; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument(
        "--keep", type=Path, help="a folder in which all of it stays, and the environments are found again"
    )
    given = parser.parse_args(arguments)
    root = collection()
    with tempfile.TemporaryDirectory() as temporary:
        folder = given.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        segmenter = folder.resolve() / "segmenter.pt"  # as a user has it who trained one
        segmenter.write_bytes((root / "order_polyps" / "models" / "model.pt").read_bytes())
        failed = []
        for name in given.names or bundle_names(root):
            packed = pack(root, name)
            print(f"{packed.file_name}", flush=True)
            try:
                brings = "models/segmenter.pt" in packed.files or name.startswith("order_")
                try_alone(packed, folder.resolve(), None if brings else segmenter)
                if name.startswith("order_"):
                    code_free = pack_code_free(root, name)
                    print(f"{code_free.file_name}", flush=True)
                    try_code_free_alone(code_free, folder.resolve())
            except Failed as step_:
                failed.append(f"{name}: {step_}")
    print("\n".join(f"failed: {each}" for each in failed) or "all of them run alone")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

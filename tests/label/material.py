"""What the check works on: packed bundles, one of them of a changed collection, and images of every kind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from tests.label.server import REPOSITORY

NAMES = ("law_brisc", "law_kits19", "law_polyps", "order_brisc", "order_polyps")
CHANGED = "order_brisc"
# In the average over flips: what was lesion is background. Nobody can mistake one code for the other.
CONSTANT = ("(flipped(-2) + flipped(-2, -1))) / 4", "(flipped(-2) + flipped(-2, -1))) / -4")
PHANTOMS, SIDE = 24, 256


def pack(packer: str, name: str, out: Path, collection: Path = REPOSITORY, options: Sequence[str] = ()) -> None:
    """Pack a bundle, or all, of a collection.

    Args:
        packer: the Python that has the collection's own packages.
        options: of ``pack``.
    """
    command = [packer, "-W", "ignore", "-m", "bundles", "pack", name, "--out", str(out), *options]
    subprocess.run(command, cwd=collection, check=True, stdout=subprocess.DEVNULL)


def pack_changed(packer: str, work: Path, out: Path) -> None:
    """Pack `CHANGED` of a copy of the collection with one `CONSTANT` of the shared code changed."""
    copy = work / "changed"
    shutil.copytree(REPOSITORY, copy, ignore=shutil.ignore_patterns(".*", "__pycache__", "runs", "tests", "law_*"))
    path = copy / "common" / "inference" / "inferers.py"
    text = path.read_text()
    assert text.count(CONSTANT[0]) == 1
    path.write_text(text.replace(*CONSTANT))
    pack(packer, CHANGED, out, copy)


def unpack(zips: Path, models: Path, names: tuple[str, ...] = NAMES) -> None:
    """Unpack zips below a folder, with the standard library alone."""
    for name in names:
        (path,) = zips.glob(f"{name}_v*.zip")
        with zipfile.ZipFile(path) as archive:
            archive.extractall(models)


def package_of(bundle: Path) -> str:
    """The name of the Python package that a packed bundle carries."""
    return json.loads((bundle / "MANIFEST.json").read_text())["package"]


def draw_images(packer: str, work: Path, studies: Path) -> dict[str, Path]:
    """Phantoms, each kind of file among them, in a folder of images.

    Returns:
        The masks of all of them by the images' ids; those of the other sizes are scaled like their images.
    """
    drawn, masks = work / "phantoms", work / "masks"
    counts = ["--count", str(PHANTOMS), "--test_count", "4", "--size", str(SIDE)]
    subprocess.run([packer, "-m", "common.data", "prepare", "phantoms", drawn, *counts], cwd=REPOSITORY, check=True,
                   capture_output=True)  # fmt: skip
    for folder in (studies, masks):
        folder.mkdir()
    found = {}
    for number, path in enumerate(sorted((drawn / "images").iterdir())[:PHANTOMS]):
        mask = Image.open(drawn / "masks" / f"{path.stem}.png")
        image, name, options = _kind(number, Image.open(path).convert("RGB"))
        image.save(studies / name, **options)
        found[Path(name).stem] = masks / f"{Path(name).stem}.png"
        mask.resize(image.size, Image.Resampling.NEAREST).save(found[Path(name).stem])
    return found


def _kind(number: int, image: Image.Image) -> tuple[Image.Image, str, dict]:
    # Sizes that are no square tell a transposed mask, and odd ones a rounded one.
    turned = Image.Exif()
    turned[ExifTags.Base.Orientation] = 6
    if number == 0:
        return image.resize((301, 223)), "odd.png", {}
    if number == 1:
        return image.resize((223, 301)), "tall.jpg", {"quality": 95}
    if number == 2:
        return image.resize((320, 250)).convert("L"), "grey.png", {}
    if number == 3:
        alpha = Image.fromarray(np.tile(np.linspace(40, 255, 320).astype(np.uint8), (250, 1)))
        image = image.resize((320, 250)).convert("RGBA")
        image.putalpha(alpha)
        return image, "rgba.png", {}
    if number == 4:
        return image.resize((320, 250)), "turned.jpg", {"quality": 95, "exif": turned}
    if number == 5:
        return image.resize((300, 200)).convert("L"), "grey_jpeg.jpg", {"quality": 95}
    if number == 6:
        return image.convert("P"), "palette.png", {}
    return image, f"phantom_{number:02d}.{'jpg' if number % 2 else 'png'}", {"quality": 95} if number % 2 else {}


def run_masks(bundle: Path, images: Path, out: Path, **options: str) -> dict[str, np.ndarray]:
    """The masks that ``python -m monai.bundle run`` writes, by the images' ids."""
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    command += ["--config_file", str(bundle / "configs" / "inference.json"), "--dataset_dir", str(images)]
    command += ["--output_dir", str(out), "--device", "cpu", "--overlay", "False"]
    for key, value in options.items():
        command += [f"--{key}", value]
    subprocess.run(command, cwd=out.parent, check=True, capture_output=True)
    return {path.stem: np.asarray(Image.open(path)) for path in (out / "masks").glob("*.png")}

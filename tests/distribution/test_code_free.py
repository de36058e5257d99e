"""A segmenter without Python: the same masks, nothing but MONAI's classes."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundles.code_free import inference_config, pack_code_free
from bundles.configs import read_yaml
from bundles.executables import executables
from bundles.packing import Packed
from bundles.sources import collection
from bundles.verifying import verify
from common.errors import InputError
from tests.bundles.contract import REPOSITORY

SEGMENTERS = ("order_polyps", "order_brisc")
IMAGES = 100


@pytest.fixture(scope="module")
def code_free(tmp_path_factory) -> tuple[Packed, Path, Path]:
    """order_polyps_code_free: packed, its zip, and where it lies unpacked."""
    folder = tmp_path_factory.mktemp("code_free")
    packed = pack_code_free(collection(), "order_polyps")
    path = folder / packed.file_name
    path.write_bytes(packed.zip())
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return packed, path, folder / packed.name


@pytest.mark.parametrize("name", SEGMENTERS)
def test_its_config_takes_sizes_and_threshold_from_the_bundles_own(name):
    full = read_yaml(REPOSITORY / name / "configs" / "inference.yaml")
    config = inference_config(full, name)
    assert {key: config[key] for key in ("image_size", "threshold", "batch_size")} == {
        key: full[key] for key in ("image_size", "threshold", "batch_size")
    }
    assert not [part for part in executables(config) if "common" in part.text]


def test_a_painter_has_none():
    with pytest.raises(InputError, match="law_polyps paints"):
        pack_code_free(collection(), "law_polyps")


@pytest.mark.slow
def test_it_holds_no_python_and_verifies(code_free):
    packed, path, folder = code_free
    assert path.name == "order_polyps_code_free_v0.1.0.zip"
    assert not [each for each in folder.rglob("*") if each.suffix in (".py", ".pyc", ".so")]
    manifest = json.loads(packed.files["MANIFEST.json"])
    assert (manifest["kind"], manifest["package"], manifest["python"]) == ("code-free", None, [])
    assert (folder / "models" / "model.ts").is_file() and (folder / "models" / "model.onnx").is_file()
    report = verify(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    assert report.ok and report.kind == "code-free" and report.python == (), report.lines()


@pytest.mark.slow
def test_it_packs_to_the_same_bytes_again(code_free):
    assert pack_code_free(collection(), "order_polyps").zip() == code_free[1].read_bytes()


def _masks(folder: Path) -> dict[str, np.ndarray]:
    return {path.stem: np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))}


def _both(warm, packages, folder: Path, images: Path, tmp_path: Path) -> list[dict[str, np.ndarray]]:
    full = packages.unpacked / "order_polyps" / "configs" / "inference.json"
    outputs = {"full": (full, tmp_path / "full"), "free": (folder / "configs" / "inference.json", tmp_path / "free")}
    for config, out in outputs.values():
        ended = warm.bundle("run", cwd=tmp_path, config_file=config, dataset_dir=images, output_dir=out)
        assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
    return [_masks(tmp_path / "full" / "masks"), _masks(tmp_path / "free")]


@pytest.mark.slow
def test_its_masks_are_those_of_the_full_bundle(warm, packages, code_free, tmp_path):
    """Grey and colour, PNG, JPEG, TIFF and BMP, wide, high and odd: pixel for pixel."""
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for number, (suffix, side) in enumerate(
        [("png", (70, 113)), ("jpg", (301, 95)), ("tif", (64, 64)), ("bmp", (33, 40))]
    ):
        rows, columns = np.mgrid[: side[0], : side[1]]
        lesion = (rows - side[0] / 2) ** 2 + (columns - side[1] / 3) ** 2 < (min(side) / 4) ** 2
        image = (90 + random.integers(0, 30, (*side, 3)) + 100 * lesion[..., None] * [1, 0.4, 0.3]).astype(np.uint8)
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.{suffix}")
    Image.fromarray(image[..., 0]).save(tmp_path / "images" / "grey.png")
    full, free = _both(warm, packages, code_free[2], tmp_path / "images", tmp_path)
    assert full.keys() == free.keys() and len(full) == 5
    assert all(np.array_equal(full[name], free[name]) and free[name].dtype == np.uint8 for name in full)
    assert {value for mask in full.values() for value in np.unique(mask)} <= {0, 255}


@pytest.mark.slow
def test_its_masks_are_those_of_the_full_bundle_on_real_images(warm, packages, code_free, real_data, tmp_path):
    (tmp_path / "images").mkdir()
    found = sorted((real_data / "polyps" / "kvasir_seg" / "images").iterdir())[:IMAGES]
    for path in found:
        (tmp_path / "images" / path.name).symlink_to(path)
    full, free = _both(warm, packages, code_free[2], tmp_path / "images", tmp_path)
    assert full.keys() == free.keys() and len(full) == IMAGES
    assert [name for name in full if not np.array_equal(full[name], free[name])] == []
    assert np.mean([mask.any() for mask in full.values()]) > 0.9  # and they show something


@pytest.mark.slow
def test_wrong_inputs_are_a_line_each(warm, code_free, tmp_path):
    config = code_free[2] / "configs" / "inference.json"
    (tmp_path / "empty").mkdir()
    (tmp_path / "twins").mkdir()
    for name in ("a.png", "a.bmp"):
        Image.new("RGB", (64, 64)).save(tmp_path / "twins" / name)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "b.png").write_bytes(b"somebody's")
    cases = {
        "give --dataset_dir": {},
        "no image in": {"dataset_dir": tmp_path / "empty"},
        "two images have one name": {"dataset_dir": tmp_path / "twins"},
        "is not empty": {"dataset_dir": tmp_path / "used", "output_dir": tmp_path / "used"},
    }
    for text, given in cases.items():
        ended = warm.bundle("run", cwd=tmp_path, config_file=config, **{"output_dir": tmp_path / "out", **given})
        assert ended.code == 1 and len(ended.said) == 1 and text in ended.said[0], (text, ended.err[-1500:])
    assert (tmp_path / "used" / "b.png").read_bytes() == b"somebody's" and not (tmp_path / "out").exists()

"""A segmenter without Python: the same masks, nothing but MONAI's classes."""

from __future__ import annotations

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundles.code_free import pack_code_free
from bundles.code_free_config import VALUES, config_fault, inference_config
from bundles.configs import read_yaml
from bundles.packing import Packed
from bundles.sources import collection
from bundles.verifying import verify
from common.errors import InputError
from tests.bundles.contract import REPOSITORY

SEGMENTERS = ("order_polyps", "order_brisc")
IMAGES = 100


def _packed(folder: Path, name: str) -> tuple[Packed, Path, Path]:
    packed = pack_code_free(collection(), name)
    path = folder / packed.file_name
    path.write_bytes(packed.zip())
    with zipfile.ZipFile(path) as archive:
        archive.extractall(folder)
    return packed, path, folder / packed.name


@pytest.fixture(scope="module")
def code_free(tmp_path_factory) -> tuple[Packed, Path, Path]:
    """order_polyps_code_free: packed, its zip, and where it lies unpacked."""
    return _packed(tmp_path_factory.mktemp("code_free"), "order_polyps")


@pytest.mark.parametrize("name", SEGMENTERS)
def test_its_config_does_what_the_bundles_own_does(name):
    """The same steps with the same arguments, but for the reader, the turn that it needs, and who writes."""
    full = read_yaml(REPOSITORY / name / "configs" / "inference.yaml")
    config = inference_config(name, **{key: full[key] for key in VALUES})
    assert {key: config[key] for key in VALUES} == {key: full[key] for key in VALUES}

    def steps(of: dict, key: str, leave: set[str]) -> list[dict]:
        return [step for step in of[key]["transforms"] if step["_target_"] not in leave]

    own = {"LoadImaged", "Transposed", "CopyItemsd", "SaveImaged"}
    for key in ("preprocessing", "postprocessing"):
        assert steps(config, key, own) == steps(full, key, own)
    same = ("device", "dataloader", "evaluator")
    assert {key: config[key] for key in same} == {key: full[key] for key in same}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["postprocessing"]["transforms"][-1].update(output_dir="@dataset_dir"), "postprocessing is not as"),
        (lambda c: c.update(items=[{"image": "docs/figure.txt"}]), "items is not as"),
        (lambda c: c["evaluator"].update(compile=True), "evaluator is not as"),
        (lambda c: c["preprocessing"]["transforms"][3].update(anti_aliasing=1), "preprocessing is not as"),
        (lambda c: c.update(more="text"), "more is not as"),
        (lambda c: c.pop("inference"), "inference is not as"),
        (lambda c: c.update(batch_size=True), "batch_size is 'True'"),
        (lambda c: c.update(image_size="$[256]"), "image_size is"),
        (lambda c: c.update(threshold=float("nan")), "threshold is 'nan'"),
        (lambda c: c.update(threshold=0.0), "threshold is '0.0'; it has to be a number between 0 and 1"),
        (lambda c: c.update(image_size=48), "image_size is '48'; it has to be a multiple of 32"),
        (lambda c: c["run"].reverse(), "run is not as"),
    ],
)
def test_any_other_config_is_refused(change, told):
    values = {"image_size": 256, "threshold": 0.5, "batch_size": 4, "num_workers": 0}
    config = json.loads(json.dumps(inference_config("order_polyps", **values)))
    assert config_fault(config, "order_polyps_code_free") is None
    change(config)
    assert told in config_fault(config, "order_polyps_code_free")
    assert "output_dir is not as" in config_fault(inference_config("order_polyps", **values), "order_brisc_code_free")


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
    full = packages.unpacked / folder.name.removesuffix("_code_free") / "configs" / "inference.json"
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
@pytest.mark.parametrize("name", SEGMENTERS)
def test_its_masks_are_those_of_the_full_bundle_on_real_images(warm, packages, code_free, real_data, tmp_path, name):
    """A hundred images: Kvasir-SEG's first, and BRISC's of tumours, evenly from its test list."""
    (tmp_path / "images").mkdir()
    if name == "order_polyps":
        folder, found = code_free[2], sorted((real_data / "polyps" / "kvasir_seg" / "images").iterdir())
    else:
        folder, found = _packed(tmp_path, name)[2], sorted((real_data / "brisc" / "test" / "images").iterdir())
        found = found[:: len(found) // IMAGES]
    for path in found[:IMAGES]:
        (tmp_path / "images" / path.name).symlink_to(path)
    full, free = _both(warm, packages, folder, tmp_path / "images", tmp_path)
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
    sixteen = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    for folder in ("deep", "broken", "sound"):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (64, 64)).save(tmp_path / folder / "a.png")
    Image.fromarray(sixteen).save(tmp_path / "deep" / "b.png")
    (tmp_path / "broken" / "b.png").write_bytes((tmp_path / "broken" / "a.png").read_bytes()[:60])
    cases = {
        "give --dataset_dir": {},
        "no image in": {"dataset_dir": tmp_path / "empty"},
        "two images have one name": {"dataset_dir": tmp_path / "twins"},
        "is not empty": {"dataset_dir": tmp_path / "used", "output_dir": tmp_path / "used"},
        "deep/b.png has more than 8 bits a channel": {"dataset_dir": tmp_path / "deep"},
        "threshold has to be": {"dataset_dir": tmp_path / "sound", "threshold": 2},
    }
    for text, given in cases.items():
        ended = warm.bundle("run", cwd=tmp_path, config_file=config, **{"output_dir": tmp_path / "out", **given})
        assert ended.code == 1 and len(ended.said) == 1 and text in ended.said[0], (text, ended.err[-1500:])
        assert not list((tmp_path / "out").glob("*.png"))
    # What cannot be told in a line without code: MONAI's own error, which names it; and no mask is half the run's.
    ended = warm.bundle(
        "run", cwd=tmp_path, config_file=config, dataset_dir=tmp_path / "broken", output_dir=tmp_path / "out"
    )
    assert ended.code == 1 and not list((tmp_path / "out").glob("*.png")) and "image" in ended.err
    assert (tmp_path / "used" / "b.png").read_bytes() == b"somebody's"

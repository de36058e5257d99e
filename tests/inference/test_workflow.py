"""From files to masks through the workflow's own config."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from ignite.engine import Events
from PIL import ExifTags, Image, ImageOps
from torch import nn

from common.errors import InputError
from common.inference import check_inference_inputs
from common.order import OrderNet

SIZES = [(211, 37), (37, 211), (1, 1), (3000, 20), (1, 400), (640, 480), (300, 1000), (256, 256), (2, 3)]  # (w, h)
ONE_PASS = {"inferer#_target_": "SimpleInferer"}


def _mask(path: Path) -> np.ndarray:
    with Image.open(path) as mask:
        assert mask.format == "PNG" and mask.mode == "L"
        values = np.asarray(mask)
    assert set(np.unique(values)) <= {0, 255}
    return values == 255


def _rows(output: Path) -> list[dict[str, str]]:
    with (output / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def _files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _rectangle(width: int, height: int, box: tuple[int, int, int, int]) -> Image.Image:
    picture = Image.new("RGB", (width, height), (20, 20, 20))
    picture.paste((235, 235, 235), box)
    return picture


def _bounds(mask: np.ndarray) -> np.ndarray:
    columns, rows = np.flatnonzero(mask.any(0)), np.flatnonzero(mask.any(1))
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])


@pytest.mark.parametrize("overrides", [{}, ONE_PASS], ids=["flips", "one pass"])
@pytest.mark.parametrize(("width", "height"), [(211, 37), (37, 211), (640, 480), (300, 1000), (256, 256), (90, 40)])
def test_a_bright_rectangle_comes_back_where_it_was(tmp_path, infer, width, height, overrides):
    box = (width // 8, height // 2, width // 2 + 1, height * 7 // 8)  # in no place that a flip or transpose keeps
    _rectangle(width, height, box).save(_made(tmp_path / "in" / "x.png"))
    infer(tmp_path / "in", tmp_path / "out", **overrides)
    mask = _mask(tmp_path / "out" / "masks" / "x.png")
    assert mask.shape == (height, width)
    assert np.abs(_bounds(mask) - box).max() <= 1
    rows, columns = np.nonzero(mask)
    centre = np.array([columns.mean() + 0.5, rows.mean() + 0.5])
    assert np.abs(centre - [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]).max() <= 0.5


def _made(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def many(tmp_path, noise) -> Path:
    """A folder with an image of each of `SIZES`, in every format in turn."""
    suffixes = ["png", "jpg", "jpeg", "tif", "tiff", "bmp", "PNG", "JPG"]
    for index, (width, height) in enumerate(SIZES):
        suffix = suffixes[index % len(suffixes)]
        noise(width, height, index).save(_made(tmp_path / "in" / f"{index}_{width}x{height}.{suffix}"))
    return tmp_path / "in"


def test_every_size_and_format_comes_back_at_its_own_size(tmp_path, infer, many):
    before = _files(many)
    infer(many, tmp_path / "out")
    rows = _rows(tmp_path / "out")
    assert [row["image"] for row in rows] == sorted(before)
    for row, (width, height) in zip(rows, SIZES, strict=True):
        mask = _mask(tmp_path / "out" / row["mask"])
        assert mask.shape == (height, width) == (int(row["height"]), int(row["width"]))
        assert int(row["lesion_pixels"]) == mask.sum()
        assert float(row["area_fraction"]) == pytest.approx(mask.mean(), abs=1e-6)
        with Image.open(tmp_path / "out" / row["mask"].replace("masks", "overlays")) as overlay:
            assert overlay.size == (width, height) and overlay.mode == "RGB"
    assert _files(many) == before


def test_a_batch_gives_what_one_by_one_gives(tmp_path, infer, many):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Conv2d(3, 1, 5, padding=2), nn.InstanceNorm2d(1)).eval()
    infer(many, tmp_path / "one", network, batch_size=1)
    infer(many, tmp_path / "four", network, batch_size=4)
    for row in _rows(tmp_path / "one"):
        one, four = (_mask(tmp_path / run / row["mask"]) for run in ("one", "four"))
        assert (one != four).mean() <= 1e-3  # a logit of 0 may fall on either side
    assert 0.1 < np.mean([float(row["area_fraction"]) for row in _rows(tmp_path / "one")]) < 0.9


def test_the_same_run_again_gives_the_same_and_leaves_nothing_behind(tmp_path, infer, many):
    infer(many, tmp_path / "out")
    first = _files(tmp_path / "out")
    assert len(first) == 2 * len(SIZES) + 1
    infer(many, tmp_path / "out")
    assert _files(tmp_path / "out") == first


def test_a_run_without_overlays_leaves_none_of_an_earlier_run(tmp_path, infer, many):
    infer(many, tmp_path / "out")
    infer(many, tmp_path / "out", overlay=False)
    assert sum(name.startswith("overlays") for name in _files(tmp_path / "out")) == 0
    assert sum(name.startswith("masks") for name in _files(tmp_path / "out")) == len(SIZES)


def test_the_results_of_other_images_are_never_mixed_with(tmp_path, infer, many, noise):
    infer(many, tmp_path / "out")
    first = _files(tmp_path / "out")
    noise(9, 9).save(_made(tmp_path / "other" / "z.png"))
    with pytest.raises(InputError, match="which this run would not replace"):
        check_inference_inputs(tmp_path / "other", tmp_path / "out")
    assert _files(tmp_path / "out") == first


def test_a_stopped_run_looks_unfinished_and_can_be_run_again(tmp_path, infer, many, brightness):
    class Stop(Exception):
        pass

    class StopAtTheSecondBatch:
        def attach(self, engine):
            engine.add_event_handler(Events.ITERATION_STARTED(once=2), self)

        def __call__(self, engine):
            raise Stop

    infer(many, tmp_path / "whole")
    infer(many, tmp_path / "out")
    stopping = [{"_target_": "common.inference.InferenceWriter", "output_dir": str(tmp_path / "out")}]
    with pytest.raises(Exception) as caught:
        infer(many, tmp_path / "out", handlers=[*stopping, StopAtTheSecondBatch()])
    assert Stop in {type(caught.value), type(caught.value.__cause__)}
    assert not (tmp_path / "out" / "results.csv").exists()
    assert (tmp_path / "out" / "results.csv.unfinished").exists()
    infer(many, tmp_path / "out")
    assert _files(tmp_path / "out") == _files(tmp_path / "whole")


def test_one_stem_in_three_places_gives_three_masks(tmp_path, infer):
    boxes = {"a.png": (0, 0, 10, 10), "a.bmp": (10, 10, 20, 20), "sub/a.png": (10, 0, 20, 10)}
    for name, box in boxes.items():
        _rectangle(40, 40, box).save(_made(tmp_path / "in" / name))
    infer(tmp_path / "in", tmp_path / "out")
    masks = {row["image"]: row["mask"] for row in _rows(tmp_path / "out")}
    assert masks == {"a.bmp": "masks/a.bmp.png", "a.png": "masks/a.png.png", "sub/a.png": "masks/sub/a.png"}
    for name, box in boxes.items():
        assert tuple(_bounds(_mask(tmp_path / "out" / masks[name]))) == box


def test_one_file_and_a_prepared_folder(tmp_path, infer):
    _rectangle(40, 30, (5, 5, 20, 10)).save(_made(tmp_path / "set" / "images" / "x.png"))
    Image.new("L", (40, 30)).save(_made(tmp_path / "set" / "masks" / "x.png"))
    (tmp_path / "set" / "dataset.json").write_text(json.dumps({"training": []}))
    before = _files(tmp_path / "set")
    infer(tmp_path / "set", tmp_path / "out")
    infer(tmp_path / "set" / "images" / "x.png", tmp_path / "single")
    assert [row["image"] for row in _rows(tmp_path / "out")] == ["images/x.png"]
    assert _files(tmp_path / "out")["masks/x.png"] == _files(tmp_path / "single")["masks/x.png"]
    assert _files(tmp_path / "set") == before


@pytest.mark.parametrize("orientation", range(1, 9))
def test_mask_and_image_stay_together_whether_a_viewer_turns_them_or_not(tmp_path, infer, orientation):
    upright = _rectangle(120, 80, (10, 40, 60, 75))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    upright.save(_made(tmp_path / "in" / "x.jpg"), exif=exif, quality=100)
    infer(tmp_path / "in", tmp_path / "out")
    with Image.open(tmp_path / "in" / "x.jpg") as image, Image.open(tmp_path / "out" / "masks" / "x.png") as mask:
        assert mask.size == image.size
        for turn in (lambda one: one, ImageOps.exif_transpose):
            shown, over = turn(image), turn(mask)
            assert ((np.asarray(shown.convert("L")) > 127) == (np.asarray(over) > 0)).mean() > 0.95
        with Image.open(tmp_path / "out" / "overlays" / "x.png") as overlay:
            assert overlay.size == ImageOps.exif_transpose(image).size
            assert overlay.getexif().get(ExifTags.Base.Orientation, 1) == 1


def test_the_table_counts_lesions_and_tells_how_sure_the_network_is(tmp_path, infer, brightness):
    two = _rectangle(256, 256, (10, 10, 50, 50))
    two.paste((255, 255, 255), (100, 100, 120, 140))
    two.paste((255, 255, 255), (120, 140, 130, 150))  # touches it at a corner: still one lesion
    two.save(_made(tmp_path / "in" / "two.png"))
    Image.new("RGB", (256, 256), (102, 102, 102)).save(tmp_path / "in" / "none.png")  # 0.4
    infer(tmp_path / "in", tmp_path / "out", brightness(sharpness=10.0))
    none, two = _rows(tmp_path / "out")
    assert two["lesions"] == "2" and none["lesions"] == "0"
    assert int(two["lesion_pixels"]) == 40 * 40 + 20 * 40 + 10 * 10
    dim, bright = torch.sigmoid(10 * (torch.tensor([235.0, 255.0]) / 255 - 0.5)).tolist()
    assert float(two["confidence"]) == pytest.approx((1600 * dim + 900 * bright) / 2500, abs=1e-4)
    assert float(two["max_probability"]) == pytest.approx(bright, abs=1e-4)
    assert none["confidence"] == "" and float(none["lesion_pixels"]) == 0
    assert float(none["max_probability"]) == pytest.approx(torch.sigmoid(torch.tensor(-1.0)).item(), abs=1e-4)


@pytest.mark.parametrize(
    ("network", "overrides", "expected"),
    [
        (lambda image: image[:, :1] * float("nan"), {}, "x.png is not finite"),
        (lambda image: image, {}, "one channel"),
        (lambda image: image[:, :1], {"postprocessing#transforms#1#_disabled_": True}, "Invertd"),
    ],
)
def test_a_network_or_config_that_cannot_be_right_is_named(tmp_path, infer, network, overrides, expected):
    class Wrapped(nn.Module):
        def forward(self, image):
            return network(image)

    _rectangle(40, 30, (5, 5, 20, 10)).save(_made(tmp_path / "in" / "x.png"))
    with pytest.raises(Exception) as caught:
        infer(tmp_path / "in", tmp_path / "out", Wrapped(), **overrides)
    error = caught.value if isinstance(caught.value, InputError) else caught.value.__cause__
    assert isinstance(error, InputError) and expected in str(error)
    assert not (tmp_path / "out" / "results.csv").exists()


def test_the_real_network_runs_through(tmp_path, infer, many):
    infer(many, tmp_path / "out", OrderNet().eval())
    assert len(_rows(tmp_path / "out")) == len(SIZES)


def test_a_mask_that_a_person_has_corrected_is_not_replaced(tmp_path, infer, noise):
    for name in ("a", "b"):
        noise(40, 30, 0).save(_made(tmp_path / "in" / f"{name}.png"))
    infer(tmp_path / "in", tmp_path / "out")
    check_inference_inputs(tmp_path / "in", tmp_path / "out")  # its own results are replaced
    corrected = tmp_path / "out" / "masks" / "b.png"
    Image.new("L", (40, 30), 255).save(corrected)
    before = _files(tmp_path / "out")
    with pytest.raises(InputError, match=r"masks/b\.png was changed since it was written.*--output_dir"):
        check_inference_inputs(tmp_path / "in", tmp_path / "out")
    assert _files(tmp_path / "out") == before
    corrected.unlink()
    check_inference_inputs(tmp_path / "in", tmp_path / "out")

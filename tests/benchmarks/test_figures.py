"""Figures 6 to 9 at toy size: what they show lies where it should, and stands for the files it was made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks import figures
from benchmarks.figures import GAP, LABEL, SIDE, spread_evenly
from common.data import read_datalist
from common.files import write_json
from common.law.loading import build_tiny, save_denoiser
from common.law.pictures import draw_strip
from common.metrics.recovery import items_of
from tests.bundles.drawn import TEST, draw_prepared
from tests.law.small import PROMPT


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_prepared(tmp_path_factory.mktemp("data") / "set")


def cells(path: Path) -> list[list[np.ndarray]]:
    """The pictures of a figure, row by row."""
    drawn = np.asarray(Image.open(path))
    step = SIDE + GAP
    assert drawn.shape[0] % step == 0 and (drawn.shape[1] - LABEL) % step == 0
    columns = range(LABEL, drawn.shape[1], step)
    return [[drawn[top : top + SIDE, left : left + SIDE] for left in columns] for top in range(0, drawn.shape[0], step)]


def save_model(folder: Path, seed: int = 0) -> None:
    """A model that has learned nothing."""
    model = build_tiny(seed=seed, image_size=32, control=True)
    model.prompt = PROMPT
    save_denoiser(folder, model)


def test_places_are_spread_from_the_first_to_the_last() -> None:
    assert spread_evenly(10, 4) == [0, 3, 6, 9]
    assert spread_evenly(3, 6) == [0, 1, 2]


def test_a_segmenters_figure_has_the_image_the_truth_and_a_prediction(data, tmp_path, capsys) -> None:
    figures.main(["--figure", "9", "--dataset_dir", str(data), "--out", str(tmp_path)])
    assert "written: " in capsys.readouterr().out
    image, truth, prediction = cells(tmp_path / "figure_9.png")
    items = sorted(read_datalist(data, None, "test"), key=lambda item: Path(item["image"]).name)
    assert len(image) == len(items) == TEST
    for column, item in enumerate(items):
        mask = Image.open(item["label"]).resize((SIDE, SIDE), Image.Resampling.NEAREST)
        np.testing.assert_array_equal(truth[column][..., 0], np.asarray(mask))
        whole = Image.open(item["image"]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(image[column], np.asarray(whole))
        assert set(np.unique(prediction[column])) <= {0, 255}


def test_deltas_are_those_of_the_strips(tmp_path) -> None:
    generator = np.random.default_rng(0)
    (tmp_path / "run" / "strips").mkdir(parents=True)
    lesions = generator.random((2, 16, 16)) > 0.5
    deltas = {}
    for epoch in (1, 2, 3):
        deltas[epoch] = generator.random((2, 16, 16)).astype(np.float32)
        strip = draw_strip(generator.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8), lesions, deltas[epoch])
        Image.fromarray(strip).save(tmp_path / "run" / "strips" / f"epoch_{epoch:04d}.png")
    write_json(tmp_path / "run" / "model" / "law.json", {"objective": "law"})
    figures.main(["--figure", "8", "--run", str(tmp_path / "run"), "--out", str(tmp_path), "--columns", "2"])
    mask, first, last = cells(tmp_path / "figure_8.png")
    enlarged = SIDE // 16
    np.testing.assert_array_equal(mask[1][::enlarged, ::enlarged, 0], lesions[1] * 255)
    for row, epoch in ((first, 1), (last, 3)):
        np.testing.assert_array_equal(row[0][::enlarged, ::enlarged, 0], np.round(deltas[epoch][0] * 255))


def test_strips_without_a_map_are_told(tmp_path, capsys) -> None:
    (tmp_path / "run" / "strips").mkdir(parents=True)
    Image.new("RGB", (6 * 64, 3 * 64)).save(tmp_path / "run" / "strips" / "epoch_0001.png")  # as wide as four rows are
    write_json(tmp_path / "run" / "model" / "law.json", {"objective": "uniform"})
    with pytest.raises(SystemExit):
        figures.main(["--figure", "8", "--run", str(tmp_path / "run"), "--out", str(tmp_path)])
    assert "show no δ" in capsys.readouterr().err


@pytest.mark.slow
def test_two_painters_stand_below_the_masks_that_they_painted_from(data, tmp_path) -> None:
    for number, name in enumerate(("uniform", "law")):
        save_model(tmp_path / name, seed=number)
    models = [f"{name}={tmp_path / name}" for name in ("uniform", "law")]
    command = ["--figure", "6", "--dataset_dir", str(data), "--models", *models, "--sampling_steps", "2"]
    figures.main([*command, "--out", str(tmp_path / "out")])
    mask, *painted = cells(tmp_path / "out" / "figure_6.png")
    assert len(mask) == TEST and len(painted) == 2
    folder = tmp_path / "out" / "painted_test_law"
    own = {item["source_mask"]: item for item in items_of(folder)}
    for column, name in enumerate(sorted(own)):
        whole = Image.open(own[name]["image"]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        np.testing.assert_array_equal(painted[1][column], np.asarray(whole))
        assert (painted[0][column] != painted[1][column]).any()


@pytest.mark.slow
def test_painters_stand_below_the_masks_that_they_painted_from(data, tmp_path) -> None:
    save_model(tmp_path / "model")
    command = ["--figure", "7", "--dataset_dir", str(data), "--models", f"law={tmp_path / 'model'}"]
    figures.main([*command, "--sampling_steps", "2", "--out", str(tmp_path / "out")])
    mask, painted, overlay = cells(tmp_path / "out" / "figure_7.png")
    assert len(mask) == TEST and (painted[0] != painted[1]).any()
    lesion = mask[0][..., 0] > 0
    assert lesion.any() and (painted[0] != overlay[0]).any(axis=2)[lesion].mean() > 0.9


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--figure", "8"], "give --run"),
        (["--figure", "9"], "give --dataset_dir"),
        (["--figure", "9", "--dataset_dir", "{data}", "--columns", "0"], "--columns has to be"),
        (["--figure", "9", "--dataset_dir", "{data}", "--bundle", "order_lungs"], "there is no"),
        (["--figure", "9", "--dataset_dir", "{data}", "--checkpoint", "no.pt"], "no checkpoint at no.pt"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told(data, tmp_path, capsys, more: list[str], told: str) -> None:
    with pytest.raises(SystemExit) as ended:
        figures.main([*(each.format(data=data) for each in more), "--out", str(tmp_path / "out")])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err

"""Which images weights were trained on, and the warning of an evaluation on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from common.data import read_datalist
from common.data.pairs import prepare_pairs
from common.errors import InputError
from common.guard import check_evaluation, check_training
from common.order import OrderNet
from common.provenance import GENERATION, read_record, record_path, seen_before, training_record, write_record
from tests.bundles.drawn import TEST, TRAINING, VALIDATION, draw_prepared, paint_prepared


@pytest.fixture
def data(tmp_path) -> Path:
    return draw_prepared(tmp_path / "data")


@pytest.fixture
def weights(tmp_path) -> Path:
    path = tmp_path / "model.pt"
    torch.save(OrderNet().state_dict(), path)
    return path


def _evaluate(data: Path, weights: Path, split: str = "test") -> None:
    check_evaluation(str(data), None, split, str(weights.parent / "out"), OrderNet(), str(weights))


def _pictures(count: int, seed: int = 0) -> np.ndarray:
    """Soft patches of colour, as photographs have them and noise has not."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(20, 235, (count, 9, 9, 3)).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(one).resize((160, 120), Image.Resampling.BICUBIC)) for one in coarse])


def save(folder: Path, pictures: list[Image.Image], suffix: str) -> None:
    """`folder/images` and `folder/masks`."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number, picture in enumerate(pictures):
        picture.save(folder / "images" / f"{number}{suffix}", **({"quality": 90} if suffix == ".jpg" else {}))
        mask = Image.new("L", picture.size)
        mask.paste(255, (10, 10, 40, 40))
        mask.save(folder / "masks" / f"{number}.png")


def prepared(source: Path, out: Path) -> Path:
    """What `prepare pairs` makes of it."""
    prepare_pairs(source / "images", source / "masks", out, progress=False)
    return out


def _move_to_test(folder: Path, key: str) -> None:
    path = folder / "dataset.json"
    content = json.loads(path.read_text())
    content["test"].append(content[key].pop())
    path.write_text(json.dumps(content))


def test_a_run_leaves_the_record_of_its_lists_beside_the_weights(finished, drawn_set):
    record = read_record(finished / "model.pt")
    assert record == training_record(drawn_set)
    assert {key: len(digests) for key, digests in record.items()} == {"training": 9, "validation": 3}
    assert seen_before(finished / "model.pt", read_datalist(drawn_set)) == {"training": 9, "validation": 0}


def test_weights_to_begin_with_hand_on_what_they_saw(data, weights, finished, drawn_set):
    write_record(weights, training_record(data))
    record = training_record(drawn_set, pretrained=weights)
    assert {key: len(digests) for key, digests in record.items()} == {
        "training": 9 + TRAINING,
        "validation": 3 + VALIDATION,
    }
    assert set(read_record(finished / "model.pt")["training"]) < set(record["training"])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("scale", [1.0, 1.4, 2.0])
def test_a_picture_is_known_again_in_another_format_and_size(weights, tmp_path, suffix, scale):
    shown = [Image.fromarray(picture) for picture in _pictures(12)]
    save(tmp_path / "trained", shown, ".png")
    first = prepared(tmp_path / "trained", tmp_path / "a")
    write_record(weights, training_record(first))
    trained_on = {
        Path(item["image"]).stem for key in ("training", "validation") for item in read_datalist(first, None, key)
    }
    again = [
        picture.resize([round(side * scale) for side in picture.size], Image.Resampling.LANCZOS) for picture in shown
    ]
    save(tmp_path / "again", again[:5] + [Image.fromarray(picture) for picture in _pictures(12, seed=1)], suffix)
    other = prepared(tmp_path / "again", tmp_path / "b")
    items = [item for key in ("training", "validation", "test") for item in read_datalist(other, None, key)]
    seen = seen_before(weights, items)
    assert len(items) == 17
    assert seen["training"] + seen["validation"] == len(trained_on & {f"a_{number}" for number in range(5)}) > 1


def test_a_mirrored_picture_is_known_again(weights, tmp_path):
    shown = [Image.fromarray(picture) for picture in _pictures(12)]
    save(tmp_path / "trained", shown, ".png")
    write_record(weights, training_record(prepared(tmp_path / "trained", tmp_path / "a")))
    record = read_record(weights)
    save(tmp_path / "again", [ImageOps.mirror(picture) for picture in shown], ".jpg")
    other = prepared(tmp_path / "again", tmp_path / "b")
    items = [item for key in ("training", "validation", "test") for item in read_datalist(other, None, key)]
    assert seen_before(weights, items) == {key: len(signs) for key, signs in record.items()}


@pytest.mark.parametrize(
    ("moved", "said"),
    [
        ((), None),
        (("training",), f"was trained on 1 of the {TEST + 1} images"),
        (("validation",), f"was chosen by 1 of the {TEST + 1} images"),
        (("training", "validation", "training"), f"was trained on 2 and was chosen by 1 of the {TEST + 3} images"),
    ],
    ids=str,
)
def test_an_evaluation_warns_of_test_images_that_were_no_test(data, weights, capsys, moved, said):
    write_record(weights, training_record(data))
    for key in moved:
        _move_to_test(data, key)
    _evaluate(data, weights)
    warnings = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == (said is not None)
    assert said is None or (said in warnings[0] and str(weights) in warnings[0])


@pytest.mark.parametrize("split", ["training", "validation"])
def test_who_asks_for_the_images_of_the_run_is_not_warned(data, weights, capsys, split):
    write_record(weights, training_record(data))
    _evaluate(data, weights, split)
    assert "warning" not in capsys.readouterr().err


def test_the_validation_list_of_another_split_may_have_been_trained_on(data, weights, capsys):
    write_record(weights, training_record(data))
    path = data / "dataset.json"
    content = json.loads(path.read_text())
    content["training"], content["validation"] = content["validation"], content["training"]
    path.write_text(json.dumps(content))
    _evaluate(data, weights, "validation")
    assert f"was trained on {TRAINING} of the {TRAINING} images of this validation list" in capsys.readouterr().err


def test_without_a_record_nothing_is_claimed(data, weights, capsys):
    _evaluate(data, weights)
    assert "warning" not in capsys.readouterr().err
    assert seen_before(weights, read_datalist(data)) == {}


@pytest.mark.parametrize("content", ["{", "[]", '{"training": "all"}', '{"training": [["a"]], "validation": []}'])
def test_a_record_that_cannot_be_read_is_one_line_before_any_work(data, weights, tmp_path, capsys, content):
    record_path(weights).write_text(content)
    with pytest.raises(InputError, match="trained_on"):
        seen_before(weights, read_datalist(data))
    settings = {"epochs": 1, "val_interval": 1, "batch_size": 2, "image_size": 64}
    for check in (
        lambda: _evaluate(data, weights),
        lambda: check_training(str(data), None, str(tmp_path / "new"), OrderNet(), str(weights), **settings),
    ):
        with pytest.raises(SystemExit):
            check()
        assert "trained_on" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_the_record_moves_with_the_weights(finished, tmp_path):
    for path in (finished / "model.pt", record_path(finished / "model.pt")):
        shutil.copy(path, tmp_path / path.name.replace("model", "mine"))
    assert read_record(tmp_path / "mine.pt") == read_record(finished / "model.pt")


@pytest.mark.parametrize("where", ["beside the real ones", "alone"])
def test_what_the_painter_was_trained_on_is_remembered(data, tmp_path, where):
    """Weights that learned from its images have met those by way of it."""
    painted = paint_prepared(data, tmp_path / "painted", 6)
    seen = {"training": ["ab" * 32], "validation": ["cd" * 32]}
    write_record(painted / GENERATION, seen)
    if where == "alone":
        record, own = training_record(painted), read_datalist(painted)
    else:
        record, own = training_record(data, synthetic_dir=painted), read_datalist(data)
    assert all(set(seen[key]) <= set(record[key]) for key in seen)
    assert len(record["training"]) == len(own) + 1

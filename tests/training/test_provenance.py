"""Which images weights were trained on, and the warning of an evaluation on them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from common.data import read_datalist
from common.errors import InputError
from common.guard import check_evaluation
from common.order import OrderNet
from common.provenance import read_record, record_path, seen_before, training_record, write_record
from tests.bundles.drawn import TEST, TRAINING, VALIDATION, draw_prepared


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


def test_it_is_the_content_that_counts_and_not_the_name(data, weights, tmp_path):
    write_record(weights, training_record(data))
    other = draw_prepared(tmp_path / "other")
    for path in (other / "images").iterdir():
        path.rename(path.with_name(f"renamed_{path.name}"))
    listed = (other / "dataset.json").read_text()
    (other / "dataset.json").write_text(listed.replace("images/", "images/renamed_"))
    assert seen_before(weights, read_datalist(other)) == {"training": TRAINING, "validation": 0}


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
def test_who_asks_for_the_training_images_is_not_warned(data, weights, capsys, split):
    write_record(weights, training_record(data))
    _evaluate(data, weights, split)
    assert "warning" not in capsys.readouterr().err


def test_without_a_record_nothing_is_claimed(data, weights, capsys):
    _evaluate(data, weights)
    assert "warning" not in capsys.readouterr().err
    assert seen_before(weights, read_datalist(data)) == {}
    assert seen_before(weights, [{"image": "x"}]) == {}


@pytest.mark.parametrize("content", ["{", "[]", '{"training": "all"}'])
def test_a_record_that_cannot_be_read_is_one_line(data, weights, content):
    record_path(weights).write_text(content)
    with pytest.raises(InputError, match="trained_on"):
        seen_before(weights, read_datalist(data))


def test_the_record_moves_with_the_weights(finished, tmp_path):
    for path in (finished / "model.pt", record_path(finished / "model.pt")):
        shutil.copy(path, tmp_path / path.name.replace("model", "mine"))
    assert read_record(tmp_path / "mine.pt") == read_record(finished / "model.pt")

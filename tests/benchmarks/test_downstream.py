"""Tables 4 and 5 at toy size: painted, trained on, measured, and gone on with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks import downstream
from common.data import read_datalist
from common.data.likeness import recognition_signs_of
from common.errors import InputError
from common.law.loading import build_tiny, save_denoiser
from common.provenance import write_record
from tests.bundles.drawn import TRAINING, draw_prepared, paint_prepared
from tests.law.small import PROMPT

SHORT = ["--epochs", "1", "--image_size", "64", "--batch_size", "2", "--val_interval", "1", "--sampling_steps", "2"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A drawn set and a model that has learned nothing."""
    folder = tmp_path_factory.mktemp("downstream")
    model = build_tiny(image_size=32, control=True)
    model.prompt = PROMPT
    save_denoiser(folder / "model", model)
    data = draw_prepared(folder / "data")
    return ["--dataset_dir", str(data), "--models", f"law={folder / 'model'}", *SHORT]


@pytest.mark.slow
def test_doses_are_painted_once_trained_on_and_gone_on_with(given: list[str], tmp_path: Path, capsys) -> None:
    out = tmp_path / "table"
    command = ["--table", "5", *given, "--out", str(out), "--images", str(TRAINING + 1), "--seeds"]
    downstream.main([*command, "0", "--doses", "2"])
    first = (out / "order_law_2_0" / "outcome.json").read_bytes()
    capsys.readouterr()
    downstream.main([*command, "0", "--doses", "2", "4"])
    said = capsys.readouterr().out
    assert (out / "order_law_2_0" / "outcome.json").read_bytes() == first
    table = json.loads((out / "table_5.json").read_text())["results"]
    assert {label: len(own) for label, own in table.items()} == {"real": 1, "law_2": 1, "law_4": 1}
    assert len(list((out / "painted_law" / "images").iterdir())) == TRAINING + 1
    assert "real only" in said and "real + 4" in said and "against real only" in said
    assert "71.7 ± 0.4" not in said  # the paper's figure, of other images
    logs = {path.parent.name: path.read_text() for path in out.glob("order_*_0/training.log")}
    assert logs.keys() == {"order_real_0", "order_law_2_0", "order_law_4_0"}
    states = {name: torch.load(out / name / "run" / "latest.pt", weights_only=True) for name in logs}
    steps = {name: {each["step"] for each in state["optimizer"]["state"].values()} for name, state in states.items()}
    assert len(set(map(str, steps.values()))) == 1, steps  # as many steps, whatever joins the real images
    command = json.loads(first)["ran"]["training"]
    assert "--synthetic_images 2" in command and str(out / "painted_law") in command


def outcome(dice: float | None) -> dict:
    return {"dice": dice, "iou": dice, "without_empty": dice, "sources": {}, "best_epoch": 1}


def _settings(given: list[str], tmp_path: Path, *more: str):
    return downstream.checked(downstream.parse([*given, "--out", str(tmp_path / "table"), *more]))


def test_a_gain_is_that_of_equal_seeds(given: list[str], tmp_path: Path) -> None:
    """Seeds that differ by ten points, and a gain of one in each: an interval about one alone."""
    settings = _settings(given, tmp_path, "--table", "5", "--doses", "250", "--seeds", "0", "1", "2")
    rows = downstream.variants(settings)
    real, more = [0.5, 0.6, 0.7], [0.51, 0.61, 0.711]
    shown = downstream.show(
        {"real": [outcome(each) for each in real], "law_250": [outcome(each) for each in more]}, rows, settings
    )
    line = next(line for line in shown.splitlines() if line.startswith("real + 250"))
    assert "61.0 ± 10.1" in line and "+1.0 [+0.9, +1.2]" in line and line.endswith("–")


def test_a_seed_that_diverged_has_no_gain(given: list[str], tmp_path: Path) -> None:
    settings = _settings(given, tmp_path, "--table", "5", "--doses", "250", "--seeds", "0", "1")
    outcomes = {"real": [outcome(0.5), outcome(None)], "law_250": [outcome(0.6), outcome(0.7)]}
    line = downstream.show(outcomes, downstream.variants(settings), settings).splitlines()[3]
    assert "+10.0" in line and "[" not in line


def test_table_4_has_a_row_for_each_who_paints(given: list[str], tmp_path: Path) -> None:
    folder = given[3].partition("=")[2]
    models = ["--models", f"uniform={folder}", f"law={folder}", f"own={folder}"]
    settings = _settings([*given[:2], *given[4:]], tmp_path, "--table", "4", *models)
    assert [row.shown for row in downstream.variants(settings)] == [
        "real only",
        "real + ControlNet",
        "real + LAW",
        "real + own",
    ]
    settings.papers, settings.images = True, 1450
    assert [row.paper for row in downstream.variants(settings)] == ["71.7 ± 0.4", "72.3 ± 1.2", "74.1 ± 0.8", "–"]


@pytest.mark.parametrize(
    ("changed", "printed"),
    [
        ({}, ["71.7 ± 0.4", "72.3 ± 0.6"]),
        ({"papers": False}, ["–", "–"]),
        ({"split": "validation"}, ["–", "–"]),
        ({"painter": "law_brisc"}, ["87.7 ± 0.2", "–"]),
        ({"models": {"uniform": Path("x")}}, ["71.7 ± 0.4", "–"]),
        ({"version": 1}, ["78.3, IoU 70.9", "–"]),
    ],
    ids=str,
)
def test_the_papers_figures_stand_where_all_is_its_own(given, tmp_path: Path, changed: dict, printed: list) -> None:
    settings = _settings(given, tmp_path, "--table", "5", "--doses", "250", "--images", "250")
    vars(settings).update({"papers": True, **changed})
    assert [row.paper for row in downstream.variants(settings)] == printed


@pytest.mark.slow
def test_table_4_is_painted_trained_and_measured(given: list[str], tmp_path: Path, capsys) -> None:
    out, folder = tmp_path / "table", given[3].partition("=")[2]
    command = ["--table", "4", *given[:2], *given[4:], "--out", str(out), "--seeds", "0", "--images", "3"]
    downstream.main([*command, "--models", f"uniform={folder}", f"law={folder}"])
    said = capsys.readouterr().out
    results = json.loads((out / "table_4.json").read_text())["results"]
    assert {name: len(own) for name, own in results.items()} == {"real": 1, "uniform_3": 1, "law_3": 1}
    assert "real + ControlNet" in said and "3 pairs painted" in said
    assert (out / "table_4.md").is_file() and (out / "table_4.csv").is_file()


def test_a_painter_that_saw_the_held_out_images_is_told_below_the_table(given, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(given[3].partition("=")[2], model)
    data = Path(given[1])
    items = [item for key in ("validation", "test") for item in read_datalist(data, None, key)]
    signs = recognition_signs_of([Path(item["image"]) for item in items])[0]
    write_record(model, {"training": [each.tobytes().hex() for each in signs], "validation": []})
    command = ["--table", "5", *given[:2], *given[4:], "--models", f"law={model}", "--doses", "2"]
    settings = _settings(command, tmp_path, "--seeds", "0")
    outcomes = {"real": [outcome(0.5)], "law_2": [outcome(0.6)]}
    shown = downstream.show(outcomes, downstream.variants(settings), settings)
    assert f"warning: law was trained on {len(items)} of the validation and test images" in shown


def test_fewer_pairs_than_a_dose_are_told_before_any_training(given: list[str], tmp_path: Path) -> None:
    settings = _settings(given, tmp_path, "--table", "5", "--doses", "3", "--images", "4", "--seeds", "0")
    folder = paint_prepared(Path(given[1]), tmp_path / "painted", 4)
    rows = downstream.variants(settings)
    downstream.check_pairs({"law": folder}, rows, settings)
    content = json.loads((folder / "dataset.json").read_text())
    for item in content["training"][:2]:
        item["source_mask"] = Path(read_datalist(given[1], None, "test")[0]["label"]).name
    (folder / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"holds 2 pairs that may be trained on, and 3 are asked for \(2 are of masks"):
        downstream.check_pairs({"law": folder}, rows, settings)


@pytest.mark.parametrize(("bundle", "painter"), [("order_polyps", "law_polyps"), ("order_brisc", "law_brisc")])
def test_who_paints_is_of_the_segmenters_images(given: list[str], tmp_path: Path, bundle: str, painter: str) -> None:
    more = ["--table", "5", *given[:2], *given[4:], "--bundle", bundle, "--out", str(tmp_path / "out")]
    settings = downstream.checked(downstream.parse(more))
    assert settings.painter == painter and painter in str(settings.models["law"])


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--models", "a={model}", "b={model}"], "table 5 is of one model's pairs; --models names 2"),
        (["--models", "law"], "is not NAME=FOLDER"),
        (["--models", "law=no/such"], "there is no folder no/such"),
        (["--doses", "0", "5"], "whole numbers of 1 or more"),
        (["--doses", "5", "--images", "4"], "--doses 5: more than the 4 that are painted"),
        (["--sampling_steps", "0"], "--sampling_steps has to be"),
        (["--doses", "0", "--train", "--steps", "1"], "whole numbers of 1 or more"),
        (["--epochs", "0"], "--epochs has to be a whole number, 1 or more"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_before_any_work(given: list[str], tmp_path: Path, capsys, more, told: str) -> None:
    more = [each.format(model=given[3].partition("=")[2]) for each in more]
    with pytest.raises(SystemExit) as ended:
        downstream.main(["--table", "5", *given, "--out", str(tmp_path / "table"), *more])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "table").exists()

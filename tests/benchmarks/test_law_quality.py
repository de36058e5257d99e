"""Tables 1, 2 and 6's image quality at toy size: painted, measured, kept, and honest about what is missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import law_quality
from common.errors import InputError
from common.files import write_json
from common.law import TABLE_6
from common.law.loading import build_tiny, save_denoiser
from common.law.objectives import OBJECTIVES
from common.metrics.features import SegmenterFeatures
from common.metrics.image_sets import read_set
from common.metrics.inception import SHA256
from tests.bundles.contract import REPOSITORY
from tests.bundles.drawn import TRAINING, draw_prepared
from tests.law.small import PROMPT
from tests.metrics.weights import save_clip


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As table 3 leaves its models: two seeds of one objective, and one of another."""
    folder = tmp_path_factory.mktemp("table_3")
    for number, name in enumerate(("law_0", "law_1", "uniform_0")):
        model = build_tiny(seed=number, image_size=32, control=True)
        model.prompt = PROMPT
        save_denoiser(folder / name / "run" / "model", model)
        write_json(folder / name / "outcome.json", {"outcome": {"diverged": False}})
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_prepared(tmp_path_factory.mktemp("data") / "set")


def leave(folder: Path, name: str, content: dict | None) -> None:
    (folder / name / "run" / "model").mkdir(parents=True)
    if content is not None:
        write_json(folder / name / "outcome.json", content)


def test_rows_that_are_not_done_paint_nothing(tmp_path: Path) -> None:
    leave(tmp_path, "law_0", {"outcome": {"diverged": False}})
    leave(tmp_path, "law_1", {"outcome": {"diverged": True}})
    leave(tmp_path, "law_2", {"commands": []})  # stopped
    leave(tmp_path, "uniform_0", None)
    assert law_quality.trained_models(tmp_path) == {"law": {0: tmp_path / "law_0" / "run" / "model"}}


def test_rows_of_two_budgets_are_no_table(tmp_path: Path) -> None:
    for name, steps, seed in (("law_0", "100", "0"), ("law_1", "100", "1"), ("uniform_0", "500", "0")):
        commands = {"training": {"--steps": steps, "--seed": seed}}
        leave(tmp_path, name, {"commands": commands, "outcome": {"diverged": False}})
    with pytest.raises(InputError, match=r"law_0 and uniform_0 were .* different settings \(steps: 100, now 500\)"):
        law_quality.trained_models(tmp_path)


@pytest.mark.parametrize(
    ("table", "papers", "printed"),
    [(2, True, "108.43 ± 0.71"), (1, True, "52.32 ± 0.70"), (2, False, None)],
)
def test_a_figure_of_the_papers_stands_beside_its_own_images_alone(
    runs: Path, data: Path, tmp_path: Path, table: int, papers: bool, printed: str | None
) -> None:
    given = ["--table", str(table), "--dataset_dir", str(data), "--out", str(tmp_path), "--runs", str(runs)]
    settings = law_quality.checked(law_quality.parse(given))
    settings.papers = papers
    figures = {"Fréchet, ORDER's features": 1.5}
    found = {"figures": figures, "halves": figures, "images": [4, 4], "sizes": ["32 × 32"] * 2, "warnings": ["few"]}
    found["intervals"] = {"Fréchet, ORDER's features": [1.25, 1.75]}
    shown = law_quality.show({"law": [{**found, "seen": {}}], "own": [{**found, "seen": {"training": 3}}]}, settings)
    assert (printed in shown) if printed else ("±" not in shown.split("mean ± standard")[0])
    assert "warning: few" in shown and ("3 of these test images" in shown) == (table == 2)
    assert "two halves of the real images" in shown
    assert "1.50 [1.25, 1.75]" in shown  # one model has no spread over seeds
    several = law_quality.show({"law": 2 * [{**found, "seen": {}}]}, settings)
    assert "1.50 ± 0.00" in several and "[1.25" not in several


def test_features_of_the_real_images_are_computed_once(data: Path) -> None:
    extractor = SegmenterFeatures(REPOSITORY / "order_polyps" / "models" / "model.pt", image_size=32)
    by = law_quality.Measuring([extractor], None, None, 0)
    sets = [read_set(data, None, split) for split in ("training", "test")]
    first, other = (by.features(extractor, each) for each in sets)
    assert by.features(extractor, sets[0]) is first and len(first) == len(sets[0]) and len(other) == len(sets[1])
    assert np.array_equal(other, extractor(sets[1].paths, progress=False))


@pytest.mark.slow
@pytest.mark.parametrize("table", [1, 6])
def test_tables_of_the_training_masks(runs: Path, data: Path, tmp_path: Path, capsys, monkeypatch, table: int) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    command = ["--table", str(table), "--dataset_dir", str(data), "--out", str(tmp_path), "--sampling_steps", "2"]
    model = runs / "law_0" / "run" / "model"
    law_quality.main([*command, "--models", f"law={model}", "--size", "32"])
    said = capsys.readouterr().out
    assert ("+ Dice regulariser (LAW)" if table == 6 else "LAW") in said and "both at 32²" in said
    (found,) = json.loads((tmp_path / f"table_{table}.json").read_text())["results"]["law"]
    assert found["images"] == [TRAINING, TRAINING]


@pytest.mark.slow
def test_models_paint_once_and_are_measured_without_what_is_missing(runs, data, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    out = tmp_path / "table"
    command = ["--table", "2", "--dataset_dir", str(data), "--out", str(out), "--sampling_steps", "2"]
    law_quality.main([*command, "--runs", str(runs)])
    said = capsys.readouterr().out
    missing = [line for line in said.splitlines() if line.startswith("not measured: ")]
    assert len(missing) == 2 and SHA256 in missing[0]
    results = json.loads((out / "table_2.json").read_text())["results"]
    assert {name: len(own) for name, own in results.items()} == {"law": 2, "uniform": 1}
    assert results["law"][0]["images"] == [2, 2] and results["law"][0]["figures"] != results["law"][1]["figures"]
    with (out / "table_2.csv").open() as stream:
        rows = {row["model"]: row for row in csv.DictReader(stream)}
    assert rows["LAW"]["FID"] == "–" and "±" in rows["LAW"]["Fréchet, ORDER's features"]
    assert rows["LAW"]["paper: FID"] == "–"  # drawn images are not the paper's
    assert (out / "table_2.md").read_text().startswith("| model | FID |")
    painted = {path: path.stat().st_mtime_ns for path in out.rglob("*.png")}
    law_quality.main([*command, "--runs", str(runs), "--clip", str(save_clip(tmp_path / "clip"))])
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.png")} == painted
    with_clip = json.loads((out / "table_2.json").read_text())["results"]["law"][0]
    before, now = results["law"][0]["figures"], with_clip["figures"]
    assert now["Fréchet, ORDER's features"] == before["Fréchet, ORDER's features"]
    assert -1 <= now["CLIP-I"] <= 1 and -1 <= now["CLIP-I, in pairs"] <= 1


@pytest.mark.slow
def test_who_paints_is_trained_first_where_that_is_asked_for(data, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    save_denoiser(tmp_path / "prior", build_tiny(image_size=32))
    command = ["--table", "1", "--dataset_dir", str(data), "--out", str(tmp_path / "out"), "--sampling_steps", "2"]
    short = ["--weights", str(tmp_path / "prior"), "--steps", "1", "--steps_per_epoch", "1", "--batch_size", "2"]
    law_quality.main([*command, "--train", *short, "--seeds", "0", "--objectives", "uniform", "law"])
    said = capsys.readouterr().out
    assert "mask Dice" in said and "ControlNet (uniform)" in said  # table 3 comes with it
    results = json.loads((tmp_path / "out" / "table_1.json").read_text())["results"]
    assert results.keys() == {"uniform", "law"}
    before = (tmp_path / "out" / "trained" / "law_0" / "outcome.json").stat().st_mtime_ns
    law_quality.main([*command, "--train", *short, "--seeds", "0", "--objectives", "uniform", "law"])
    assert (tmp_path / "out" / "trained" / "law_0" / "outcome.json").stat().st_mtime_ns == before


def test_every_row_of_the_paper_is_one_that_can_be_trained() -> None:
    assert law_quality.PAPER[6, "law_polyps"].keys() == TABLE_6.keys() == law_quality.COMPONENTS.keys()
    rows = law_quality.NAMES.keys() - {"law_v1"}
    assert all(own.keys() == rows for (table, _), own in law_quality.PAPER.items() if table != 6)
    assert all(own.keys() <= OBJECTIVES.keys() for own in law_quality.VERSION_1.values())


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--runs", "{tmp}"], "holds no row that is done"),
        (["--models", "law={model}", "--device", "abacus"], "--device abacus cannot be used here"),
        (["--models", "law={model}", "--size", "0"], "--size has to be 1 or more"),
        (["--models", "law={model}", "--resamples", "-1"], "--resamples has to be 0 or more"),
        (["--models", "law={tmp}", "--runs", "{tmp}"], "both name who paints"),
        (
            ["--runs", "{tmp}", "--train", "--steps", "1"],
            "--train trains who paints, and --models or --runs names them",
        ),
        (["--clip", "{tmp}", "--train", "--steps", "1"], "there is no"),
        (["--models", "law={model}", "--inception", "{tmp}/no.pth"], SHA256),
        (["--models", "law={model}", "--clip", "{tmp}"], "there is no"),
        (["--models", "law={tmp}"], "is no model that a training saved"),
        (["--models", "law={tmp}", "--painter", "law_lungs"], "there is no bundle law_lungs"),
        (["--models", "law={model}", "--sampling_steps", "0"], "--sampling_steps has to be"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_before_any_work(runs, data, tmp_path, capsys, more: list[str], told: str) -> None:
    given = [each.format(tmp=tmp_path, model=runs / "law_0" / "run" / "model") for each in more]
    with pytest.raises(SystemExit) as ended:
        law_quality.main(["--table", "1", "--dataset_dir", str(data), "--out", str(tmp_path / "table"), *given])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "table").exists()

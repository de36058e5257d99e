"""The tables about ORDER, at toy size: every row's settings, and that a table goes on where it was stopped."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from importlib.util import find_spec
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from benchmarks import configurations, order_tables, segmenter_rows, segmenter_runs
from benchmarks.configurations import ALL
from benchmarks.runs import read_history
from benchmarks.segmenter_rows import ROWS
from common.files import hold_folder, release_folder
from tests.bundles.contract import REPOSITORY
from tests.bundles.drawn import SIDE, draw_prepared

TINY = ["--image_size", str(SIDE), "--batch_size", "2", "--val_interval", "1"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    data = draw_prepared(tmp_path_factory.mktemp("tables") / "data")
    return ["--dataset_dir", str(data), "--epochs", "1", *TINY]


def test_every_configuration_that_is_counted_can_be_trained_as_a_row() -> None:
    assert {row.name for row in ROWS.values()} == ALL.keys()


@pytest.mark.parametrize("bundle", ["order_polyps", "order_brisc"])
@pytest.mark.parametrize("name", sorted(ROWS))
def test_a_bundle_builds_the_network_that_is_counted(name: str, bundle: str) -> None:
    """The configs of a row, merged, and the configuration whose parameters the table shows."""
    if name == "pranet" and find_spec("timm") is None:
        pytest.skip("timm is not installed")
    row = ROWS[name]
    train = [str(REPOSITORY / bundle / "configs" / f"{each}.yaml") for each in ("train", "recipe_best")]
    parser = ConfigParser(ConfigParser.load_config_files([*train, *row.files]))
    parser.update(dict(row.changes))
    built = parser.get_parsed_content("network_def")
    counted = row.configuration.build()
    assert type(built) is type(counted)
    # Heads that only a deeply supervised training has are not counted.
    heads = {n: p.shape for n, p in built.named_parameters() if not n.startswith("deep_supervision_heads.")}
    assert heads == {n: p.shape for n, p in counted.named_parameters()}


@pytest.mark.slow
def test_a_row_of_the_other_bundle_is_trained_and_measured(given: list[str], tmp_path: Path) -> None:
    command = ["--table", "7", *given, "--bundle", "order_brisc", "--out", str(tmp_path), "--rows", "mk_unet"]
    order_tables.main(command)
    (outcome,) = json.loads((tmp_path / "table_7.json").read_text())["results"]["mk_unet"]
    assert 0 <= outcome["dice"] <= 1 and outcome["sources"].keys() == {"drawn"}
    configs = json.loads((tmp_path / "mk_unet_0" / "outcome.json").read_text())["ran"]["training"]
    assert "order_brisc/configs/train.yaml" in configs and "order_polyps" not in configs


@pytest.mark.slow
def test_a_table_is_trained_measured_and_goes_on(given: list[str], tmp_path: Path, capsys) -> None:
    out = tmp_path / "table"
    command = ["--table", "7", *given, "--out", str(out), "--rows"]
    order_tables.main([*command, "order"])
    first = (out / "order_0" / "outcome.json").read_bytes()
    order_tables.main([*command, "order", "ege_unet_small"])
    said = capsys.readouterr().out
    assert "42,265" in said and "53,374" in said and "1 epochs" in said and "76.3 ± 1.9" not in said
    assert (out / "order_0" / "outcome.json").read_bytes() == first
    results = json.loads((out / "table_7.json").read_text())["results"]
    assert results.keys() == {"order", "ege_unet_small"}
    for (outcome,) in results.values():
        assert 0 <= outcome["dice"] <= 1 and outcome["best_epoch"] == 1 and outcome["sources"].keys() == {"drawn"}
    with pytest.raises(SystemExit) as ended:
        order_tables.main([*command, "order", "--learning_rate", "0.1"])
    assert ended.value.code == 2
    assert "begun with other settings (learning_rate: 0.005, now 0.1); name another --out" in capsys.readouterr().err
    out.rename(tmp_path / "moved")
    order_tables.main([*command, "order", "--out", str(tmp_path / "moved")])
    assert (tmp_path / "moved" / "order_0" / "outcome.json").read_bytes() == first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "row", "parameters", "measured_on"),
    [(8, "cbam_21", "26,663", "test"), (10, "order_all", "46,969", "validation")],
)
def test_tables_of_attention_and_of_skips(
    given: list[str], tmp_path: Path, capsys, table: int, row: str, parameters: str, measured_on: str
) -> None:
    order_tables.main(["--table", str(table), *given, "--out", str(tmp_path), "--rows", row])
    said = capsys.readouterr().out
    assert parameters in said and f"measured on {measured_on}" in said and "±" not in said
    (outcome,) = json.loads((tmp_path / f"table_{table}.json").read_text())["results"][row]
    assert 0 <= outcome["dice"] <= 1


@pytest.mark.slow
def test_a_row_that_fails_does_not_stop_the_others(given: list[str], tmp_path: Path, capsys, monkeypatch) -> None:
    """As where a network runs out of memory; here its weights cannot be kept."""
    out = tmp_path / "table"
    (out / "backbone_0").mkdir(parents=True)
    (out / "backbone_0" / "run").write_text("in the way")
    with pytest.raises(SystemExit) as ended:
        order_tables.main(["--table", "7", *given, "--out", str(out), "--rows", "backbone", "order"])
    said = capsys.readouterr()
    assert ended.value.code == 2 and "backbone, seed 0: " in said.err
    assert "42,265" in said.out and "26,307" not in said.out
    table = json.loads((out / "table_7.json").read_text())
    assert len(table["results"]["order"]) == 1 and len(table["failed"]) == 1
    (out / "backbone_0" / "run").unlink()
    order_tables.main(["--table", "7", *given, "--out", str(out), "--rows", "backbone", "order"])
    assert "26,307" in capsys.readouterr().out


def test_heavy_rows_come_after_every_seed_of_the_light(given: list[str], tmp_path: Path) -> None:
    settings = _settings(given, tmp_path, "--seeds", "0", "1", "--rows", "unet", "order", "backbone")
    light = [("order", 0), ("backbone", 0), ("order", 1), ("backbone", 1)]
    assert order_tables.in_turn(settings) == [*light, ("unet", 0), ("unet", 1)]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["order", "mk_unet", "pranet"])
def test_two_processes_share_the_batches_of_a_row(given: list[str], tmp_path: Path, capsys, name: str) -> None:
    """Two steps at least: where a parameter has no gradient, the processes would wait for it in the second."""
    if name == "pranet" and find_spec("timm") is None:
        pytest.skip("timm is not installed")
    out = tmp_path / "table"
    order_tables.main(["--table", "7", *given, "--out", str(out), "--rows", name, "--processes", "2"])
    assert "batches of 2 shared by 2 processes" in capsys.readouterr().out
    command = json.loads((out / f"{name}_0" / "outcome.json").read_text())["ran"]["training"]
    assert "--nproc_per_node=2" in command and "multi_gpu_train.yaml" in command and "--batch_size 1" in command
    assert (out / f"{name}_0" / "run" / "history.csv").read_text().count("\n") == 2  # one process keeps the books


def _settings(given: list[str], tmp_path: Path, *more: str) -> Namespace:
    return order_tables.checked(order_tables.parse(["--table", "7", *given, "--out", str(tmp_path / "table"), *more]))


def test_a_changed_overlay_is_another_row(given: list[str], tmp_path: Path, monkeypatch) -> None:
    settings = _settings(given, tmp_path, "--rows", "order")
    before = segmenter_runs.digest("mk_unet", settings), segmenter_runs.digest("order", settings)
    changed = tmp_path / "mk_unet.yaml"
    changed.write_text((segmenter_rows.OVERLAYS / "mk_unet.yaml").read_text() + "  window: 0.5\n")
    monkeypatch.setattr(segmenter_rows, "OVERLAYS", tmp_path)
    assert segmenter_runs.digest("mk_unet", settings) != before[0]
    assert segmenter_runs.digest("order", settings) == before[1]


def test_seeds_and_rows_count_once(given: list[str], tmp_path: Path) -> None:
    settings = _settings(given, tmp_path, "--seeds", "1", "0", "1", "--rows", "order", "order")
    assert (settings.seeds, settings.rows) == ([1, 0], ["order"])


def test_the_first_version_is_measured_in_windows_as_it_trains(given: list[str], tmp_path: Path) -> None:
    for recipe, configs in (("recipe_v1", ["evaluate", "evaluate_v1", "unet"]), ("recipe_best", ["evaluate", "unet"])):
        settings = _settings(given, tmp_path, "--rows", "unet", "--recipe", recipe)
        assert [Path(file).stem for file in segmenter_runs.measuring_files("unet", settings)] == configs


@pytest.mark.parametrize(
    ("changed", "printed"),
    [
        ({}, "72.7 ± 0.8"),
        ({"sources": ["drawn"]}, "–"),
        ({"sources": ["kvasir_seg", "cvc_clinicdb", "mine"]}, "–"),
        ({"bundle": "order_brisc"}, "–"),
        ({"split": "test"}, "–"),
        ({"protocol": "grouped"}, "–"),
        ({"table": 7, "split": "test"}, "76.3 ± 1.9"),
        ({"table": 7, "split": "test", "version": 1}, "81.3"),
        ({"version": 1}, "–"),
        ({"split": "test", "version": 1}, "81.3"),
        ({"table": 8, "split": "test", "version": 1}, "–"),
        ({"table": 7, "split": "validation"}, "–"),
        ({"table": 7, "split": "test", "bundle": "order_brisc"}, "–"),
        ({"table": 7, "split": "test", "bundle": "order_brisc", "protocol": "order_released"}, "77.4 ± 0.8"),
    ],
    ids=str,
)
def test_a_figure_of_the_papers_stands_beside_its_own_lists_alone(
    given: list[str], tmp_path: Path, changed: dict[str, object], printed: str
) -> None:
    changed = {"table": 10, "split": "validation", "bundle": "order_polyps", **changed}
    own = sorted(order_tables.PAPER_SOURCES.get((changed["bundle"], changed["split"]), {"brisc2025"}))
    sources = dict.fromkeys(changed.pop("sources", own), 0.5)
    outcome = {"dice": 0.5, "iou": 0.4, "without_empty": 0.5, "sources": sources, "best_epoch": 1}
    counted = {"order": {"parameters": 42_265, "convolutions": 1, "algorithm": 1}}
    settings = _settings(given, tmp_path, "--rows", "order")
    vars(settings).update(changed)
    shown = order_tables.show({"order": [outcome]}, counted, settings)
    assert shown.splitlines()[2].split("  ")[-1].strip() == printed
    assert f"protocol {changed.get('protocol', 'by default')}" in shown


@pytest.mark.slow
def test_a_table_that_is_stopped_stops_its_training_and_goes_on_with_it(given: list[str], tmp_path: Path) -> None:
    """Within a row: its epochs are not trained twice, and no training is left at work by itself."""
    out, epochs = tmp_path / "table", 12
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.order_tables", "--table", "7", *given]
    command += ["--epochs", str(epochs), "--out", str(out), "--rows", "order"]
    history = out / "order_0" / "run" / "history.csv"
    with subprocess.Popen(command, cwd=REPOSITORY) as started:
        deadline = time.monotonic() + 300
        while len(read_history(history)) < 2 and started.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        started.send_signal(signal.SIGTERM)
        assert started.wait() == 128 + signal.SIGTERM
    assert 2 <= len(read_history(history)) < epochs
    hold_folder(history.parent)  # nobody is at work there
    release_folder(history.parent)
    subprocess.run(command, cwd=REPOSITORY, check=True)
    assert len(read_history(history)) == epochs
    resumed = re.search(r"latest\.pt after epoch (\d+)", (out / "order_0" / "training.log").read_text())
    assert int(resumed[1]) >= 1


def test_a_network_that_cannot_be_built_is_told_first(given: list[str], tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(configurations, "find_spec", lambda name: None)
    with pytest.raises(SystemExit) as ended:
        order_tables.main(["--table", "7", *given, "--out", str(tmp_path / "table")])
    assert ended.value.code == 2
    assert "pranet needs timm; pip install" in capsys.readouterr().err
    assert not (tmp_path / "table").exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--epochs", "0"], "--epochs has to be a whole number, 1 or more"),
        (["--image_size", "100"], "--image_size has to be a multiple of 32"),
        (["--val_interval", "2"], "nothing would be validated"),
        (["--bundle", "order_hearts"], "there is no"),
        (["--recipe", "best"], "--recipe: best is none; there are recipe_best, "),
        (["--recipe", "inference"], "--recipe: inference is none"),
        (["--recipe", "recipe_worst"], "there is no"),
        (["--seeds", "0", "-1"], "--seed has to be"),
        (
            ["--rows", "order", "nnunet_reference", "--epochs", "4"],
            "takes no image below 64², and recipe_best at --image_size 64 begins",
        ),
        (["--processes", "3"], "--processes has to divide the batch of 2; got 3"),
        (["--protocol", "grouped"], "no protocol 'grouped'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_before_any_training(given: list[str], tmp_path: Path, capsys, more, told: str) -> None:
    with pytest.raises(SystemExit) as ended:
        order_tables.main(["--table", "8", *given, "--out", str(tmp_path / "table"), *more])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "table").exists()

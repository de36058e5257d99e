"""What a run's folder holds, and what happens when a command meets one that is already there."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ignite.engine import Events
from ignite.handlers import EMAHandler
from ignite.metrics import Average
from monai.engines import SupervisedEvaluator, SupervisedTrainer, Trainer
from monai.handlers import ValidationHandler
from monai.handlers.utils import from_engine
from torch import nn

from common.training import History, RunCheckpoint
from tests.training.conftest import CONFIGS
from tests.training.states import contents, differences, history_rows, read

CPU = torch.device("cpu")


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the finished run of two epochs, to be changed at will."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


@pytest.fixture
def refused(train, capsys) -> Callable[..., str]:
    """A function that starts a training which must be refused with one line and change no file; the line."""

    def start(folder: Path, *overlays: str, **overrides: Any) -> str:
        before = contents(folder)
        with pytest.raises(SystemExit) as ended:
            train(folder, *overlays, **overrides)
        assert ended.value.code == 2
        assert contents(folder) == before
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert str(folder / "latest.pt") in line
        return line

    return start


def test_other_settings_are_told_with_both_values(copied, refused):
    line = refused(copied, epochs=4, seed=1, weight_decay=0.5)
    assert "seed 0 → 1" in line and "weight_decay 0.0001 → 0.5" in line
    assert "--output_dir" in line and "--resume False" in line and "learning_rate" not in line


def test_another_recipe_is_told(copied, refused):
    assert "recipe 'paper' → 'best'" in refused(copied, "recipe_best.yaml", learning_rate=0.01, weight_decay=0.0001)


def test_another_recipe_under_the_same_name_is_told(copied, refused, write_overlay):
    recipe = yaml.safe_load((CONFIGS / "recipe_best.yaml").read_text())
    kept = ("optimizer", "lr_scheduler", "train#handlers#0#epoch_level")  # the rest is told before, as other settings
    overlay = write_overlay({key: recipe[key] for key in kept})
    line = refused(copied, overlay, epochs=4, learning_rate=0.01, weight_decay=0.0001)
    assert "another learning rate schedule, optimizer" in line


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"loss": {"_target_": "common.training.StructureLoss"}}, "loss 'DiceCELoss "),
        ({"loss#lambda_ce": 0.5}, "loss 'DiceCELoss "),
        ({"train#random_transforms#0#prob": 0.25}, "preprocessing '["),
        ({"train#resolution#stages": [[1.0, 0.5]]}, "sizes '[[1.0, 1.0]]' → '[[1.0, 0.5]]'"),
        ({"network_def#attention_skips": []}, "network 'OrderNet "),
        ({"network_def#skip_refinement": "se"}, "network 'OrderNet "),
        ({"network_def#num_heads": 4, "network_def#head_dim": 16}, "network 'OrderNet "),
        (
            {"ema": {"_target_": "ignite.handlers.EMAHandler", "model": "@network", "momentum": 0.01}},
            "averaging None → 0.01",
        ),
    ],
    ids=[
        "another loss",
        "a loss made otherwise",
        "augmentation",
        "stages",
        "skips",
        "refinement",
        "heads",
        "averaging",
    ],
)
def test_what_is_made_otherwise_is_told(copied, refused, changed, told):
    """Else a trial of a loss in the folder of another would end at once as complete, with the other's model."""
    assert told in refused(copied, epochs=4, **changed)


def test_another_number_of_batches_is_told(copied, refused):
    line = refused(copied, epochs=4, **{"train#dataloader#drop_last": False})
    assert "2 batches an epoch, this one has 3" in line


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (lambda state: state[: len(state) // 2], "damaged"),
        (lambda state: b"", "damaged"),
        (lambda state: None, "not a run of this version"),
    ],
    ids=["half a file", "an empty file", "weights alone"],
)
def test_what_is_no_run_is_told(copied, refused, content, expected):
    written = content((copied / "latest.pt").read_bytes())
    (copied / "latest.pt").write_bytes((copied / "model.pt").read_bytes() if written is None else written)
    assert expected in refused(copied, epochs=4)


def test_to_begin_anew_is_to_forget_the_run_that_was_there(train, finished, tmp_path):
    train(tmp_path / "run", epochs=1, seed=1)
    other = read(tmp_path / "run" / "latest.pt")
    train(tmp_path / "run", resume=False)
    assert list(differences(read(finished / "latest.pt"), other))
    assert list(differences(read(finished / "latest.pt"), read(tmp_path / "run" / "latest.pt"))) == []
    assert (finished / "history.csv").read_text() == (tmp_path / "run" / "history.csv").read_text()
    assert list(differences(read(finished / "model.pt"), read(tmp_path / "run" / "model.pt"))) == []


def test_a_finished_run_says_so_and_changes_nothing(train, copied, caplog):
    before = contents(copied)
    train(copied)
    assert contents(copied) == before
    assert f"{copied / 'latest.pt'} is complete: 2 of 2 epochs; raise --epochs" in caplog.text


@pytest.mark.parametrize("overlays", [(), ("recipe_best.yaml",)], ids=["paper", "best"])
def test_more_epochs_go_on_at_the_rate_of_the_longer_schedule(train, tmp_path, overlays):
    folder = tmp_path / "run"
    stages = {"train#resolution#stages": [[1.0, 64]]} if overlays else {}
    train(folder, *overlays, epochs=2, **stages)
    short, first = read(folder / "latest.pt"), history_rows(folder)
    train(folder, *overlays, epochs=4, **stages)
    longer, rows = read(folder / "latest.pt"), history_rows(folder)
    assert rows[:2] == first and [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert longer["iteration"] == 2 * short["iteration"] == 8
    (before,), (after,) = short["optimizer"]["param_groups"], longer["optimizer"]["param_groups"]
    assert (before.get("t_alpha_beta3"), after.get("t_alpha_beta3")) == ((None, None) if overlays else (4, 8))
    if overlays:  # a step an iteration, 8 in all, no warm-up in so few; the table has the rate an epoch begins with
        expected = [0.01 * (1 + math.cos(math.pi * step / 8)) / 2 for step in (4, 6)]
    else:
        expected = [1e-6 + (0.01 - 1e-6) * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in (2, 3)]
    assert [float(row["learning_rate"]) for row in rows[2:]] == pytest.approx(expected)
    assert list(differences(short["network"], longer["network"]))


@pytest.mark.parametrize("overlays", [(), ("recipe_best.yaml",)], ids=["paper", "best"])
def test_given_weights_are_what_a_run_begins_with(train, finished, tmp_path, overlays):
    # At a rate of next to nothing they are also what it ends with, but for the batch statistics.
    still = {"learning_rate": 1e-30, "weight_decay": 0.0, "epochs": 1, "train#resolution#stages": [[1.0, 64]]}
    train(tmp_path / "run", *overlays, pretrained=str(finished / "model.pt"), **still)
    given = read(finished / "model.pt")
    for ended in (read(tmp_path / "run" / "latest.pt")["network"], read(tmp_path / "run" / "model.pt")):
        assert ended.keys() == given.keys()
        for key in [key for key in given if key.endswith((".weight", ".bias"))]:
            assert torch.allclose(ended[key], given[key], rtol=1e-6, atol=1e-12), key


# ---- the rules themselves, on a network of one weight, which is the number of the epoch ------------------


class _Epoch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image * self.weight


class _ScaledTrainer(SupervisedTrainer):
    """With a gradient scaler that counts on a CPU too."""

    def run(self) -> None:
        self.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
        super(Trainer, self).run()


def _run(
    folder: Path,
    epochs: int,
    metrics: dict[int, float],
    interval: int = 1,
    averaged: bool = False,
    resume: bool = True,
    trainer: type[SupervisedTrainer] = SupervisedTrainer,
) -> tuple[SupervisedTrainer, SupervisedEvaluator]:
    """Real engines, until `epochs`; the metric of the network after epoch e is `metrics[e]`."""
    data = [{"image": torch.ones(1, 1), "label": torch.ones(1, 1)}] * 2
    network = _Epoch()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.0)
    ema = EMAHandler(network, momentum=0.5) if averaged else None
    evaluator = SupervisedEvaluator(
        device=CPU,
        val_data_loader=data[:1],
        network=ema.ema_model if ema else network,
        key_val_metric={"score": Average(lambda output: metrics[round(from_engine("pred")(output)[0].item())])},
    )
    history = History(folder, optimizer, evaluator)
    settings = {"recipe": "one"}
    checkpoint = RunCheckpoint(folder, network, optimizer, evaluator, history, None, ema, settings, resume)
    engine = trainer(
        device=CPU,
        max_epochs=epochs,
        train_data_loader=data,
        network=network,
        optimizer=optimizer,
        loss_function=nn.MSELoss(),
        train_handlers=[ValidationHandler(interval, evaluator), history, checkpoint],
        amp=trainer is _ScaledTrainer,
        decollate=False,
    )

    @engine.on(Events.EPOCH_STARTED)
    def _count(engine: SupervisedTrainer) -> None:
        for each in [network, *([ema.ema_model] if ema else [])]:
            each.weight.data.fill_(engine.state.epoch)

    engine.run()
    return engine, evaluator


SCORES = {1: 0.2, 2: 0.6, 3: 0.4, 4: 0.6, 5: 0.1, 6: 0.9, 7: 0.3}


@pytest.mark.parametrize("averaged", [False, True], ids=["network", "average"])
@pytest.mark.parametrize("stops", [(), (2,), (3,), (1, 2, 3, 4, 5)], ids=str)
@pytest.mark.parametrize(("interval", "epochs", "best"), [(1, 5, 2), (1, 7, 6), (3, 5, 3), (2, 5, 2)])
def test_the_model_is_the_one_of_the_first_best_validation_however_often_it_stopped(
    tmp_path, averaged, stops, interval, epochs, best
):
    for stop in (*stops, epochs):
        _, evaluator = _run(tmp_path, stop, SCORES, interval, averaged)
    assert read(tmp_path / "model.pt")["weight"].item() == best
    assert read(tmp_path / "latest.pt")["best"] == SCORES[best]
    assert read(tmp_path / "latest.pt")["network"]["weight"].item() == epochs
    assert (evaluator.state.best_metric, evaluator.state.best_metric_epoch) == (SCORES[best], best)
    told = {int(row["epoch"]): row["score"] for row in history_rows(tmp_path)}
    assert told == {e: str(SCORES[e]) if e % interval == 0 else "" for e in range(1, epochs + 1)}


def test_to_begin_anew_leaves_nothing_of_the_run_that_was_there(tmp_path):
    """Else what is stopped before its first validation would leave the former model to be measured."""
    _run(tmp_path, 3, SCORES)
    for name in ("model.trained_on.json", ".history.csv.killed.part"):
        (tmp_path / name).touch()
    _run(tmp_path, 1, SCORES, interval=2, resume=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["history.csv", "latest.pt"]
    assert read(tmp_path / "latest.pt")["epoch"] == 1 and len(history_rows(tmp_path)) == 1


def test_averaging_that_comes_or_goes_is_told(tmp_path, capsys):
    _run(tmp_path, 1, SCORES)
    with pytest.raises(SystemExit):
        _run(tmp_path, 2, SCORES, averaged=True)
    assert "another weight averaging" in capsys.readouterr().err


def test_a_model_that_no_validation_preferred_is_not_touched(tmp_path):
    _run(tmp_path, 2, SCORES)
    before = (tmp_path / "model.pt").stat().st_mtime_ns
    _run(tmp_path, 5, SCORES)
    assert (tmp_path / "model.pt").stat().st_mtime_ns == before


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_the_scale_of_mixed_precision_is_part_of_the_run(tmp_path):
    whole, _ = _run(tmp_path / "whole", 4, SCORES, trainer=_ScaledTrainer)
    for epochs in (2, 4):
        parts, _ = _run(tmp_path / "parts", epochs, SCORES, trainer=_ScaledTrainer)
    assert whole.scaler.state_dict()["scale"] > 8.0 and whole.scaler.state_dict()["_growth_tracker"] > 0
    assert parts.scaler.state_dict() == whole.scaler.state_dict()
    assert list(differences(*(read(tmp_path / name / "latest.pt") for name in ("whole", "parts")))) == []
    _run(tmp_path / "parts", 5, SCORES)  # and a run may go on without it
    assert read(tmp_path / "parts" / "latest.pt")["epoch"] == 5


@pytest.mark.parametrize("value", [np.float64(0.5), Path("x"), nn.ReLU()], ids=lambda value: type(value).__name__)
def test_settings_that_could_not_be_read_back_are_refused_at_once(tmp_path, value):
    network = _Epoch()
    evaluator = SupervisedEvaluator(CPU, [], network)
    optimizer = torch.optim.SGD(network.parameters())
    with pytest.raises(TypeError, match="plain values"):
        RunCheckpoint(
            tmp_path, network, optimizer, evaluator, History(tmp_path, optimizer, evaluator), settings={"key": value}
        )


def test_the_settings_of_the_bundle_are_plain(finished):
    settings = read(finished / "latest.pt")["settings"]
    assert {type(value) for value in settings.values()} <= {str, int, float, bool, type(None)}
    assert settings["recipe"] == "paper" and settings["learning_rate"] == 0.01 and len(settings["data"]) == 16

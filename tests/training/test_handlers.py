"""What is shown and written on the way, and the stop where the loss is no number."""

from __future__ import annotations

import importlib.util
import io
import math
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
from ignite.engine import Engine
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from common.training import History, StopOnNonFiniteLoss, TensorBoardOverlays, TrainingProgressBar, loss_of
from tests.training.states import contents, history_rows, read

NAN = {"_target_": "Lambdad", "keys": "image", "func": "$lambda image: image * float('nan')"}


def _error(text: str) -> str:
    (line,) = [line for line in text.splitlines() if "error: " in line]
    return line


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_batch(
    train, finished, configured, write_overlay, tmp_path, capsys
):
    folder = Path(shutil.copytree(finished, tmp_path / "run"))
    before = contents(folder)
    settings = read(folder / "latest.pt")["settings"]  # else it would be refused as other preprocessing
    with pytest.raises(SystemExit) as ended:
        train(folder, write_overlay({"+train#random_transforms": [NAN], "train#settings": settings}), epochs=4)
    assert ended.value.code == 2
    assert contents(folder) == before  # the last good checkpoint above all
    sampler = configured(**{"train#dataset#progress": False}).get_parsed_content("train#sampler")
    sampler.set_epoch(3)
    batch = [sampler.dataset.data[index]["image"] for index in list(sampler)[:4]]
    line = _error(capsys.readouterr().err)
    assert f"the loss is nan at epoch 3, iteration 5, on the batch {', '.join(map(str, batch))};" in line


def test_a_rate_far_too_high_ends_it_too_and_nothing_is_kept(train, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        train(tmp_path / "run", learning_rate=1e30)
    assert ended.value.code == 2
    assert contents(tmp_path / "run") == {}
    assert re.search(r"the loss is (nan|-?inf) at epoch 1, .*lower --learning_rate", _error(capsys.readouterr().err))


@pytest.mark.parametrize("loss", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("decollated", [False, True])
def test_every_way_to_be_no_number_is_seen_in_every_form_of_a_batch(loss, decollated, capsys):
    def step(engine: Engine, batch: object) -> object:
        value = torch.tensor(loss if engine.state.iteration == 3 else 1.0)
        return [{"loss": value}] * 2 if decollated else {"loss": value}

    engine = Engine(step)
    StopOnNonFiniteLoss().attach(engine)
    batches = [[{"name": f"{i}a"}, {"name": f"{i}b"}] if decollated else {"name": [f"{i}a", f"{i}b"]} for i in "1234"]
    with pytest.raises(SystemExit):
        engine.run(batches)
    assert "iteration 3, on the batch 3a, 3b;" in _error(capsys.readouterr().err)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def bar():
    """A function that runs two epochs of 250 iterations under a progress bar; each half of an epoch has one loss."""

    def run(*handlers, first: float = 1.0, second: float = 0.5) -> None:
        rates = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.125)
        engine = Engine(lambda engine, batch: {"loss": torch.tensor(batch["loss"])})
        TrainingProgressBar(rates).attach(engine)
        for handler in handlers:
            handler.attach(engine)
        losses = [first] * 125 + [second] * 125
        engine.run([{"loss": loss, "name": ["x"]} for loss in losses], max_epochs=2)

    return run


def test_a_terminal_shows_a_bar_with_loss_and_rate(bar, monkeypatch):
    monkeypatch.setattr(sys, "stderr", _Terminal())
    bar()
    frames = re.split(r"[\r\n]+", sys.stderr.getvalue())
    for epoch in (1, 2):
        assert any(f"Epoch [{epoch}/2]: [250/250] 100%" in frame and "loss=0.5000" in frame for frame in frames)
    assert all("lr=1.25e-01" in frame for frame in frames if "loss=" in frame)


def test_a_file_gets_a_line_an_epoch(bar, monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with caplog.at_level("INFO", "common"):
        bar()
    assert caplog.messages == [f"epoch {epoch}/2: loss 0.7500, lr 1.25e-01" for epoch in (1, 2)]
    assert sys.stderr.getvalue() == ""


def test_the_error_has_a_line_of_its_own_below_a_bar(bar, monkeypatch):
    monkeypatch.setattr(sys, "stderr", _Terminal())
    with pytest.raises(SystemExit):
        bar(StopOnNonFiniteLoss(), second=math.nan)
    line = _error(sys.stderr.getvalue().replace("\r", "\n"))
    assert line.startswith("error: the loss is nan")


def test_the_history_is_the_mean_of_the_losses(tmp_path):
    rates = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.125)
    engine, evaluator = Engine(lambda engine, batch: {"loss": torch.tensor(batch)}), Engine(lambda engine, batch: None)
    History(tmp_path, rates, evaluator).attach(engine)
    engine.run([1.0, 2.0, 4.5], max_epochs=2)
    expected = [{"epoch": epoch, "loss": "2.5", "learning_rate": "0.125"} for epoch in "12"]
    assert history_rows(tmp_path) == expected


def test_accumulated_gradients_do_not_change_what_a_loss_is(train, tmp_path):
    # At a rate of next to nothing the weights stay, so the losses are those of the same batches.
    still = {"epochs": 1, "learning_rate": 1e-30, "weight_decay": 0.0}
    for steps in (1, 2):
        train(tmp_path / f"{steps}", **still, **{"train#trainer#accumulation_steps": steps})
    assert history_rows(tmp_path / "1")[0]["loss"] == history_rows(tmp_path / "2")[0]["loss"]


def test_a_decollated_output_has_the_same_loss():
    loss = torch.tensor(0.25, requires_grad=True)
    assert loss_of({"loss": loss}) == loss_of([{"loss": loss}, {"loss": loss}]) == 0.25
    assert not loss_of({"loss": loss}).requires_grad


def test_tensorboard_has_each_loss_each_metric_and_the_overlays(finished):
    events = EventAccumulator(str(finished / "tensorboard"), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    rows = history_rows(finished)
    metrics = {event.step: event.value for event in events.Scalars("val_mean_dice")}
    assert metrics == {int(row["epoch"]): pytest.approx(float(row["val_mean_dice"])) for row in rows}
    losses = [event.value for event in events.Scalars("train_loss")]
    assert [sum(losses[i : i + 2]) / 2 for i in (0, 2)] == pytest.approx([float(row["loss"]) for row in rows])
    pictures = events.Images("image, truth, prediction")
    assert [picture.step for picture in pictures] == [1, 2]
    assert {(picture.width, picture.height) for picture in pictures} == {(3 * 256, 3 * 256)}  # a row for each of three
    assert len(list((finished / "tensorboard").iterdir())) == 3  # the trainer's, the evaluator's, the overlays'


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(importlib.util.find_spec, ("mlflow", "alembic", "sqlalchemy"))), reason="needs the extra mlflow"
)
def test_tracking_by_mlflow_stays_in_the_folder_of_the_run(train, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "run"
    train(folder, tracking="mlflow")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}
    client = MlflowClient(f"sqlite:///{folder}/mlruns.db")
    (experiment,) = [each for each in client.search_experiments() if each.name != "Default"]
    (run,) = client.search_runs(experiment.experiment_id)
    told = {step.step: step.value for step in client.get_metric_history(run.info.run_id, "val_mean_dice")}
    assert told == {int(row["epoch"]): pytest.approx(float(row["val_mean_dice"])) for row in history_rows(folder)}
    assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 4


@pytest.mark.parametrize("channels", [1, 3])
def test_overlays_take_images_of_several_sizes_grey_or_in_colour(tmp_path, channels):
    evaluator = Engine(
        lambda engine, sides: [
            {"image": torch.rand(channels, *side), "label": torch.ones(1, *side), "pred": torch.zeros(1, *side)}
            for side in sides
        ]
    )
    TensorBoardOverlays(str(tmp_path), count=3, size=32).attach(evaluator)
    evaluator.run([[(64, 48)], [(33, 70), (16, 16)]])
    assert list(tmp_path.glob("events*"))

"""Training and measuring with the engines: order of things, averages, resuming to the bit."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.training_utils import EMAModel
from ignite.engine import Events
from monai.data import DataLoader
from monai.handlers import ValidationHandler
from PIL import Image
from safetensors.torch import load_file

from common.inference.overlay import draw_overlay
from common.law import (
    CachedLatents,
    DenoisingEvaluator,
    DenoisingLoss,
    DenoisingTrainer,
    LawCheckpoint,
    MeanError,
    ValidateAverage,
    ValidationStrips,
    build_objective,
    load_denoiser,
    parameter_groups,
)
from common.law.denoising import draw, learned_state
from common.law.validation import ERRORS, averaged_weights
from common.training import History, StepSampler, StopOnNonFiniteLoss
from tests.law.drawn import normal
from tests.law.small import PROMPT, SIDE, masks, pixel_parts, prompts
from tests.network_contract import assert_close

COUNT, BATCH, BATCHES = 6, 2, 2  # images, of a batch, batches an epoch
PARAMETERS = pytest.mark.parametrize("objective", ["uniform", "law", "law_v1"])


def _data(count: int = COUNT) -> CachedLatents:
    lesions = masks(count).to(torch.uint8)
    lesions[-1] = 0  # an image without a lesion
    items = [{"image": f"images/{number}.png"} for number in range(count)]
    return CachedLatents(normal(count, 3, SIDE, SIDE).clamp(-1, 1), lesions, items)


def _alike(some: Sequence[torch.Tensor], others: Sequence[torch.Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(some, others, strict=True))


class Run:
    """A small training, put together as a bundle's config does."""

    def __init__(
        self,
        folder: Path,
        objective: str = "law",
        epochs: int = 4,
        accumulation: int = 1,
        device: str = "cpu",
        **options: Any,
    ):
        self.parts = pixel_parts()
        self.parts.prompt, self.parts.objective = PROMPT, objective
        self.parts.denoiser.set_trainable("control")
        goal = build_objective(objective, in_channels=3)
        self.network = DenoisingLoss(self.parts.denoiser, goal, self.parts.scheduler, prompts(self.parts)).to(device)
        self.optimizer = torch.optim.AdamW(parameter_groups(self.network.trained_parameters(), goal, 1e-3, 1e-2))
        self.ema = EMAModel(self.parts.denoiser.trainable_parameters(), decay=0.5)
        data = _data()
        sampler = StepSampler(data, BATCH, BATCHES * accumulation, num_replicas=1, rank=0)
        loader = DataLoader(data, batch_size=BATCH, sampler=sampler)
        average = ValidateAverage(self.network, self.ema)
        strips = ValidationStrips(folder, self.network, data, self.parts.open_codec, count=2, steps=2)
        self.evaluator = DenoisingEvaluator(
            device,
            DataLoader(data, batch_size=4),
            self.network,
            key_val_metric={"val_score": MeanError("balanced", negative=True)},
            additional_metrics={"val_error": MeanError("error")},
            val_handlers=[average, strips],
        )
        history = History(folder, self.optimizer, self.evaluator, terms=True)
        checkpoint = LawCheckpoint(
            folder, self.parts, self.network, self.optimizer, self.evaluator, history, ema=self.ema
        )
        self.trainer = DenoisingTrainer(
            device,
            epochs,
            loader,
            self.network,
            self.optimizer,
            accumulation_steps=accumulation,
            ema=self.ema,
            train_handlers=[ValidationHandler(1, self.evaluator), history, checkpoint],
            **options,
        )

    def state(self) -> dict[str, torch.Tensor]:
        shadow = {f"ema.{place}": each for place, each in enumerate(self.ema.shadow_params)}
        return {key: value.clone() for key, value in {**learned_state(self.network), **shadow}.items()}


@PARAMETERS
def test_stopped_and_resumed_is_never_stopped(tmp_path, objective):
    whole = Run(tmp_path / "whole", objective)
    whole.trainer.run()
    first = Run(tmp_path / "parts", objective, epochs=2)
    first.trainer.run()
    second = Run(tmp_path / "parts", objective)
    second.trainer.run()
    assert second.trainer.state.iteration == 4 * BATCHES
    assert all(torch.equal(value, second.state()[key]) for key, value in whole.state().items())
    histories = [(tmp_path / run / "history.csv").read_text() for run in ("whole", "parts")]
    assert histories[0] == histories[1]
    name = "model/controlnet/diffusion_pytorch_model.safetensors"
    saved = [load_file(tmp_path / run / name) for run in ("whole", "parts")]
    assert saved[0].keys() == saved[1].keys() and all(torch.equal(saved[0][key], saved[1][key]) for key in saved[0])


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@PARAMETERS
def test_a_run_in_bfloat16_stays_on_its_device_and_resumes_there(tmp_path, objective, device):
    """On a GPU sums may come in another order, so that there a resumed run is only near the whole one."""
    options = {"amp": True, "device": device}
    runs = [Run(tmp_path / "whole", objective, epochs=2, **options)]
    runs[0].trainer.run()
    for epochs in (1, 2):
        runs.append(Run(tmp_path / "parts", objective, epochs=epochs, **options))
        runs[-1].trainer.run()
    whole, _, resumed = runs
    assert resumed.trainer.state.iteration == 2 * BATCHES
    there, expected = resumed.state(), whole.state()
    assert all(value.device.type == device for value in there.values())
    moments = [each for state in resumed.optimizer.state.values() for each in state.values() if each.ndim]
    assert moments and all(each.device.type == device for each in moments)
    assert all(value.isfinite().all() for value in there.values())
    for key, value in expected.items():
        assert_close(there[key].cpu().float(), value.cpu().float(), 0 if device == "cpu" else 2e-2)


def test_what_is_kept_is_the_average_without_the_weighter(tmp_path):
    run = Run(tmp_path, epochs=1)
    run.trainer.run()
    kept = load_denoiser(tmp_path / "model")
    assert kept.objective == "law" and kept.prompt == PROMPT
    for saved, shadow in zip(kept.denoiser.controlnet.parameters(), run.ema.shadow_params, strict=True):
        assert torch.equal(saved, shadow)
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"unet", "controlnet", "scheduler", "law.json"}
    assert json.loads((tmp_path / "model/law.json").read_text())["objective"] == "law"


def test_the_run_saves_what_learns_and_nothing_frozen(tmp_path):
    run = Run(tmp_path, epochs=1)
    run.trainer.run()
    state = torch.load(tmp_path / "latest.pt", weights_only=True)
    assert {key.split(".")[0] for key in state["network"]} == {"denoiser", "objective"}
    assert {key.split(".")[1] for key in state["network"]} == {"controlnet", "weighter"}


def test_the_average_moves_and_lags(tmp_path):
    run = Run(tmp_path, epochs=1)
    before = [each.clone() for each in run.ema.shadow_params]
    run.trainer.run()
    now = run.parts.denoiser.trainable_parameters()
    moved = [not torch.equal(old, shadow) for old, shadow in zip(before, run.ema.shadow_params, strict=True)]
    lags = [not torch.equal(new, shadow) for new, shadow in zip(now, run.ema.shadow_params, strict=True)]
    assert all(moved) and all(lags) and run.ema.optimization_step == BATCHES


def test_the_average_is_validated_and_then_gives_way(tmp_path):
    run = Run(tmp_path, epochs=1)
    run.trainer.run()
    weights = [each.clone() for each in run.parts.denoiser.trainable_parameters()]
    run.evaluator.run(1)
    with_average = run.evaluator.state.metrics["val_error"]
    assert all(
        torch.equal(old, new) for old, new in zip(weights, run.parts.denoiser.trainable_parameters(), strict=True)
    )
    with averaged_weights(run.parts.denoiser.trainable_parameters(), run.ema):
        shadow = [each.clone() for each in run.parts.denoiser.trainable_parameters()]
    assert _alike(shadow, run.ema.shadow_params)
    plain = DenoisingEvaluator("cpu", run.evaluator.data_loader, run.network, key_val_metric={"e": MeanError()})
    plain.run(1)
    assert plain.state.metrics["e"] != with_average


def test_the_weights_come_back_when_validation_fails(tmp_path):
    run = Run(tmp_path, epochs=1)
    run.trainer.run()
    weights = [each.clone() for each in run.parts.denoiser.trainable_parameters()]

    @run.evaluator.on(Events.ITERATION_COMPLETED)
    def fail(engine):
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        run.evaluator.run(1)
    assert all(
        torch.equal(old, new) for old, new in zip(weights, run.parts.denoiser.trainable_parameters(), strict=True)
    )


def test_the_optimiser_steps_once_for_all_accumulated_batches(tmp_path):
    run = Run(tmp_path, "uniform", epochs=1, accumulation=2, max_grad_norm=None)
    start = run.state()
    seen = []

    @run.trainer.on(Events.ITERATION_COMPLETED)
    def look(engine):
        seen.append(run.state())

    gradients = []
    run.optimizer.register_step_pre_hook(
        lambda *_: gradients.append([each.grad.clone() for each in run.network.trained_parameters()])
    )
    run.trainer.run()
    still = [
        all(torch.equal(old[key], new[key]) for key in new) for old, new in zip([start, *seen], seen, strict=False)
    ]
    assert still == [True, False, True, False] and run.ema.optimization_step == 2

    by_hand = Run(tmp_path / "other", "uniform", epochs=1, accumulation=2)
    losses = []
    for iteration, batch in zip((1, 2), by_hand.trainer.data_loader, strict=False):
        chance = draw(batch["latents"].shape, 1000, 0.05, (0, iteration, 0))
        losses.append(by_hand.network.train()(batch["latents"], batch["mask"], *chance).loss)
    (sum(losses) / 2).backward()
    for mean, parameter in zip(gradients[0], by_hand.network.trained_parameters(), strict=True):
        torch.testing.assert_close(mean, parameter.grad)


def test_the_measure_has_no_chance_and_knows_no_batches(tmp_path):
    network, results = Run(tmp_path).network, []
    for batch_size in (1, 4, COUNT):
        metrics = {"error": MeanError("error"), "inside": MeanError("lesion_error"), "both": MeanError("balanced")}
        loader = DataLoader(_data(), batch_size=batch_size)
        evaluator = DenoisingEvaluator(
            "cpu", loader, network, key_val_metric={"k": MeanError()}, additional_metrics=metrics
        )
        evaluator.run(1)
        results.append([evaluator.state.metrics[key] for key in metrics])
    assert results[0] == pytest.approx(results[1], rel=1e-5) and results[0] == pytest.approx(results[2], rel=1e-5)


def test_lesion_and_background_count_half_each():
    metric = MeanError("balanced")
    nan = float("nan")
    columns = {"error": [1.0, 5.0], "lesion_error": [9.0, nan], "background_error": [1.0, 5.0]}
    output = {"index": torch.tensor([0, 1]), **{key: torch.tensor(value) for key, value in columns.items()}}
    output["one_place"] = torch.tensor([False, True])
    metric.update(metric._chosen(output))
    assert metric.compute() == pytest.approx(((9 + 1) / 2 + 5) / 2)


def test_terms_of_the_loss_are_in_the_history(tmp_path):
    Run(tmp_path, "law_v1", epochs=1).trainer.run()
    header = (tmp_path / "history.csv").read_text().splitlines()[0].split(",")
    assert header[:2] == ["epoch", "loss"] and {"mse", "student", "dice", "teacher", "distillation"} <= set(header)
    assert {"learning_rate", "val_score", "val_error"} <= set(header)


@pytest.mark.parametrize(("objective", "rows"), [("law", 4), ("uniform", 3)])
def test_a_strip_shows_mask_sample_overlay_and_delta(tmp_path, objective, rows):
    run = Run(tmp_path, objective, epochs=1)
    run.trainer.run()
    (path,) = (tmp_path / "strips").iterdir()
    strip = np.asarray(Image.open(path))
    assert strip.shape == (rows * SIDE, 2 * SIDE, 3)
    lesions = _data().masks[:2, 0].numpy()
    assert np.array_equal(strip[:SIDE, :, 0], np.concatenate(255 * lesions, axis=1))
    again = ValidationStrips(tmp_path, run.network, _data(), run.parts.open_codec, count=2, steps=2)
    assert np.array_equal(again.draw(torch.device("cpu")), again.draw(torch.device("cpu")))
    assert any((tmp_path / "tensorboard").iterdir())


def test_a_loss_that_is_not_finite_stops_the_run_and_names_its_images(tmp_path, capsys):
    run = Run(tmp_path, epochs=1)
    StopOnNonFiniteLoss().attach(run.trainer)
    run.trainer.data_loader.dataset.latents[:] = float("nan")
    with pytest.raises(SystemExit) as ended:
        run.trainer.run()
    said = capsys.readouterr().err
    assert ended.value.code == 2 and "error: the loss is nan at epoch 1, iteration 1" in said and ".png, " in said
    assert not (tmp_path / "latest.pt").exists()


def _measured(network: DenoisingLoss, data: CachedLatents) -> dict[str, float]:
    metrics = {which: MeanError(which) for which in ERRORS}
    evaluator = DenoisingEvaluator("cpu", DataLoader(data, batch_size=4), network, key_val_metric=metrics)
    evaluator.run(1)
    return evaluator.state.metrics


def test_images_without_a_lesion_are_measured_by_their_whole(tmp_path):
    data = _data()
    data.masks[:] = 0
    measured = _measured(Run(tmp_path).network, data)
    assert np.isnan(measured["lesion_error"])
    assert measured["error"] == measured["balanced"] == pytest.approx(measured["background_error"])


def test_a_prediction_that_is_not_finite_is_not_passed_over(tmp_path):
    data = _data()
    data.latents[0] = float("nan")
    measured = _measured(Run(tmp_path).network, data)
    assert np.isnan(measured["error"]) and np.isnan(measured["balanced"])


@pytest.mark.parametrize("objective", ["uniform", "law_v1"])
def test_bfloat16_and_checkpointing_change_little(tmp_path, objective):
    states = []
    for options, checkpointing in (({}, False), ({}, True), ({"amp": True}, False)):
        run = Run(tmp_path / f"{len(states)}", objective, epochs=1, **options)
        run.parts.denoiser.set_gradient_checkpointing(checkpointing)
        run.trainer.run()
        states.append(run)
    plain, recomputed, half = ([float(each) for each in run.trainer.state.output.values()] for run in states)
    assert recomputed == pytest.approx(plain, rel=1e-5)
    assert half == pytest.approx(plain, rel=0.05, abs=1e-3) and half != plain
    assert all(each.dtype == torch.float32 for each in states[2].network.parameters())


def test_the_overlay_shows_the_sample_with_the_masks_outline(tmp_path):
    run = Run(tmp_path)
    strip = ValidationStrips(tmp_path, run.network, _data(), run.parts.open_codec, count=1, steps=2).draw(
        torch.device("cpu")
    )
    mask, picture, overlay, delta = strip.reshape(4, SIDE, SIDE, 3)
    assert np.array_equal(overlay, draw_overlay(picture, mask[..., 0] > 0)) and not np.array_equal(overlay, picture)
    assert (delta == delta[..., :1]).all() and 0 < delta.mean() < 255

"""What a training begins with, and Stable Diffusion's path from the hub's folder to diffusers' own pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from monai.data import DataLoader
from monai.handlers import ValidationHandler

from common.errors import InputError
from common.law import (
    DenoisingEvaluator,
    DenoisingLoss,
    DenoisingTrainer,
    LawCheckpoint,
    MaskPainter,
    MeanError,
    begin_stage,
    build_objective,
    cache_latents,
    cache_prompts,
    load_denoiser,
    parameter_groups,
    save_denoiser,
)
from common.law.denoising import learned_state
from common.law.loading import load_sd15
from common.training import History, StepSampler
from tests.law.small import PROMPT, awake, draw_pairs, masks, pixel_parts, save_stable_diffusion

SIZE = 64  # of Stable Diffusion's images here


@pytest.fixture(scope="module")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prior") / "model"
    save_denoiser(folder, pixel_parts(control=False))
    return folder


@pytest.fixture(scope="module")
def controlled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("controlled") / "model"
    save_denoiser(folder, pixel_parts())
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_stable_diffusion(tmp_path_factory.mktemp("hub") / "sd15")


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.state_dict().items(), other.state_dict().items(), strict=True)
    return all(key == other_key and torch.equal(value, now) for (key, value), (other_key, now) in pairs)


def test_a_prior_begins_from_nothing_and_learns_whole():
    parts = begin_stage("tiny", "prior", seed=3, image_size=32)
    assert parts.denoiser.controlnet is None and parts.preset.image_size == 32
    assert all(each.requires_grad for each in parts.denoiser.parameters())
    assert same(parts.denoiser, begin_stage("tiny", "prior", seed=3).denoiser)
    assert not same(parts.denoiser, begin_stage("tiny", "prior", seed=4).denoiser)


def test_a_control_network_begins_on_a_prior_that_stays(prior):
    parts = begin_stage("tiny", "control", prior, prompt=PROMPT, objective="law")
    assert same(parts.denoiser.unet, load_denoiser(prior).denoiser.unet)
    assert not any(each.requires_grad for each in parts.denoiser.unet.parameters())
    assert all(each.requires_grad for each in parts.denoiser.controlnet.parameters())
    assert (parts.prompt, parts.objective) == (PROMPT, "law")


def test_the_decoder_learns_with_it_where_asked_for(prior):
    parts = begin_stage("tiny", "control+decoder", prior)
    learning = {name.split(".")[1] for name, each in parts.denoiser.named_parameters() if each.requires_grad}
    assert {"up_blocks", "conv_out", "conv_norm_out"} <= learning
    assert not {"down_blocks", "mid_block", "conv_in"} & {
        name.split(".")[1] for name, each in parts.denoiser.unet.named_parameters("unet") if each.requires_grad
    }


def test_a_control_network_that_is_there_is_begun_anew_unless_kept(controlled):
    there = load_denoiser(controlled).denoiser.controlnet
    assert same(begin_stage("tiny", "control", controlled, keep_control=True).denoiser.controlnet, there)
    anew = begin_stage("tiny", "control", controlled).denoiser.controlnet
    assert not same(anew, there)
    assert not any(each.any() for block in anew.controlnet_down_blocks for each in block.parameters())


@pytest.mark.parametrize("place", [".", "controlnet"])
def test_a_control_network_of_ones_own_is_begun_with(prior, tmp_path, place):
    given = pixel_parts(seed=5).denoiser.controlnet
    given.save_pretrained(tmp_path / "given" / place)
    parts = begin_stage("tiny", "control", prior, control=tmp_path / "given")
    assert same(parts.denoiser.controlnet, given) and all(each.requires_grad for each in given.parameters())
    assert same(parts.denoiser.unet, load_denoiser(prior).denoiser.unet)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"control": "nowhere"}, r"control: no folder nowhere; give that of a control network"),
        ({"keep_control": True}, "give one of the two"),
        ({}, "in_channels is 4, and it has to be 12; give one of this U-Net"),
    ],
)
def test_a_control_network_that_cannot_be_begun_with_is_told(prior, hub, tmp_path, options, words):
    load_sd15(hub, SIZE).denoiser.controlnet.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=words):
        begin_stage("tiny", "control", prior, **{"control": tmp_path, **options})


def test_a_pickle_of_a_control_network_is_refused(prior, tmp_path):
    pixel_parts().denoiser.controlnet.save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(InputError, match="is a pickle"):
        begin_stage("tiny", "control", prior, control=tmp_path)


def test_a_model_carries_the_terms_of_all_that_it_learned_from(prior, tmp_path):
    for name, licence in (("first", "one"), ("second", "two; three")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dataset.json").write_text(json.dumps({"licence": licence}))
    parts = begin_stage("tiny", "control", prior, dataset_dir=tmp_path / "first")
    save_denoiser(tmp_path / "model", parts)
    assert load_denoiser(tmp_path / "model").licence == "one"
    assert begin_stage("tiny", "control", tmp_path / "model", dataset_dir=tmp_path / "first").licence == "one"
    save_denoiser(tmp_path / "on", begin_stage("tiny", "control", tmp_path / "model", dataset_dir=tmp_path / "second"))
    on = begin_stage("tiny", "control", tmp_path / "on", dataset_dir=tmp_path / "second")
    assert on.licence == "one; two; three"


def test_a_prior_goes_on_from_a_model_without_its_control_network(controlled):
    assert begin_stage("tiny", "prior", controlled).denoiser.controlnet is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny", "everything"), "trainable: 'everything' is none of prior, control"),
        (("huge", "prior"), "preset: 'huge' is none of sd15, tiny"),
        (("tiny", "control"), r"train that first .the overlay prior\.yaml"),
        (
            ("sd15", "control"),
            "needs Stable Diffusion 1.5: --weights FOLDER; missing unet/config.json.* download these",
        ),
        (("tiny", "control", "nowhere"), r"nowhere: no such folder; give a folder that a training"),
        (("sd15", "control", "nowhere"), "no folder nowhere: missing unet/config.json.* download these files"),
    ],
)
def test_what_cannot_be_begun_is_told(arguments, words):
    with pytest.raises(InputError, match=words):
        begin_stage(*arguments)


def test_weights_of_another_preset_are_told(prior):
    with pytest.raises(InputError, match="is of the preset tiny, not sd15"):
        begin_stage("sd15", "control", prior)


def _train(folder: Path, hub: Path, items: list[dict[str, str]], epochs: int, objective: str) -> DenoisingTrainer:
    # As law_polyps/configs/train.yaml with sd15.yaml puts it together.
    parts = begin_stage("sd15", "control+decoder", hub, image_size=SIZE, prompt=PROMPT, objective=objective)
    awake(parts.denoiser.controlnet)
    goal = build_objective(objective)
    cache = folder.parent / "cache"
    network = DenoisingLoss(parts.denoiser, goal, parts.scheduler, cache_prompts(PROMPT, parts, cache))
    optimizer = torch.optim.AdamW(parameter_groups(network.trained_parameters(), goal, 1e-3))
    data = cache_latents(items, parts, cache, pictures=goal.needs_teacher, progress=False)
    evaluator = DenoisingEvaluator("cpu", DataLoader(data), network, key_val_metric={"score": MeanError(negative=True)})
    history = History(folder, optimizer, evaluator, terms=True)
    checkpoint = LawCheckpoint(folder, parts, network, optimizer, evaluator, history, encoders=True)
    loader = DataLoader(data, batch_size=2, sampler=StepSampler(data, 2, 2, num_replicas=1, rank=0))
    trainer = DenoisingTrainer("cpu", epochs, loader, network, optimizer)
    for handler in (ValidationHandler(1, evaluator), history, checkpoint):
        handler.attach(trainer)
    trainer.run()
    return trainer


@pytest.mark.parametrize("objective", ["law", "distillation"])
def test_stable_diffusion_is_trained_saved_resumed_and_read_by_its_own_pipeline(hub, tmp_path, objective):
    from diffusers import StableDiffusionControlNetPipeline

    items = draw_pairs(tmp_path / "pairs", 4)
    whole = _train(tmp_path / "whole", hub, items, 2, objective)
    _train(tmp_path / "parts", hub, items, 1, objective)
    resumed = _train(tmp_path / "parts", hub, items, 2, objective)
    assert resumed.state.iteration == 4
    one, other = learned_state(whole.network), learned_state(resumed.network)
    assert all(torch.equal(value, other[key]) for key, value in one.items())

    model = tmp_path / "parts" / "model"
    loaded = load_denoiser(model)
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(model, low_cpu_mem_usage=False)
    assert same(pipeline.controlnet, loaded.denoiser.controlnet) and same(pipeline.unet, loaded.denoiser.unet)
    pipeline.set_progress_bar_config(disable=True)
    shown = masks(1, SIZE)
    theirs = pipeline(
        PROMPT,
        shown.repeat(1, 3, 1, 1),
        num_inference_steps=3,
        guidance_scale=2.0,
        generator=torch.Generator().manual_seed(7),
        output_type="pt",
    ).images
    ours = MaskPainter(loaded, steps=3, guidance=2.0, batch_size=1)(shown, [7])
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)

"""Saving and loading: diffusers' own layout, whole or not at all, safetensors only, and one line for what is wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants

from common.errors import InputError
from common.law.cache import cache_prompts
from common.law.denoiser import MaskConditionedDenoiser
from common.law.generate import model_digest
from common.law.libraries import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from common.law.loading import (
    TERMS_OF_SD15,
    build_tiny,
    load_denoiser,
    load_sd15,
    mend_replaced,
    save_denoiser,
)
from common.law.painter import MaskPainter
from common.law.presets import SD15
from common.law.pretrained import FOR_SD15, digest_of_parts, find_sd15
from common.law.sampling import sample
from tests.law.small import (
    PROMPT,
    awake,
    left_over,
    masks,
    no_file_larger_than,
    pixel_parts,
    prompts,
    save_stable_diffusion,
)
from tests.network_contract import assert_close

SIZE = 64  # of images: 8×8 latents


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Stable Diffusion as the hub has it, small. Not to be changed: take `own`."""
    return save_stable_diffusion(tmp_path_factory.mktemp("hub") / "sd15")


@pytest.fixture
def own(hub: Path, tmp_path: Path) -> Path:
    """A copy to break."""
    return Path(shutil.copytree(hub, tmp_path / "sd15"))


def assert_same_weights(one: MaskConditionedDenoiser, other: MaskConditionedDenoiser) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def one_line(error: pytest.ExceptionInfo) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


# Round trips


def test_what_is_saved_is_loaded_bit_for_bit(tmp_path: Path) -> None:
    parts = pixel_parts()
    parts.prompt = PROMPT
    save_denoiser(tmp_path / "saved", parts)
    loaded = load_denoiser(tmp_path / "saved")
    assert_same_weights(loaded.denoiser, parts.denoiser)
    assert (loaded.preset, loaded.prompt) == (parts.preset, PROMPT)
    assert torch.equal(loaded.scheduler.alphas_cumprod, parts.scheduler.alphas_cumprod)
    assert loaded.scheduler.config.prediction_type == "v_prediction"


def test_the_same_images_come_out(tmp_path: Path) -> None:
    parts = pixel_parts()
    save_denoiser(tmp_path / "saved", parts)

    def paint(which):
        given = {"prompts": prompts(which), "scheduler": which.scheduler, "codec": which.open_codec()}
        return sample(which.denoiser, masks(2), [1, 2], steps=4, batch_size=2, **given)

    assert torch.equal(paint(load_denoiser(tmp_path / "saved")), paint(parts))


def test_half_precision_rounds_once_and_is_half_as_large(tmp_path: Path) -> None:
    parts = build_tiny(control=True)
    save_denoiser(tmp_path / "half", parts, dtype=torch.float16)
    loaded = load_denoiser(tmp_path / "half").denoiser
    for name, one in parts.denoiser.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], one.half().float())
    size = sum(path.stat().st_size for path in (tmp_path / "half").rglob("*") if path.is_file())
    assert size <= 12e6
    assert {one.dtype for one in parts.denoiser.parameters()} == {torch.float32}


def test_a_prior_is_saved_without_a_control_network_and_gets_one_later(tmp_path: Path) -> None:
    prior = pixel_parts(control=False)
    save_denoiser(tmp_path / "prior", prior)
    loaded = load_denoiser(tmp_path / "prior")
    assert loaded.denoiser.controlnet is None
    assert_same_weights(loaded.add_control(seed=3).denoiser, prior.add_control(seed=3).denoiser)


def test_a_model_paints_with_the_scale_that_it_was_saved_with(tmp_path: Path) -> None:
    parts = pixel_parts()
    parts.control_scale = 1.75
    save_denoiser(tmp_path / "saved", parts)
    assert MaskPainter(load_denoiser(tmp_path / "saved")).control_scale == 1.75
    assert MaskPainter(load_denoiser(tmp_path / "saved"), control_scale=0.5).control_scale == 0.5
    (tmp_path / "saved" / "law.json").write_text('{"preset": "tiny", "image_size": 16, "prompt": ""}')
    assert load_denoiser(tmp_path / "saved").control_scale == 1.0


def test_a_saved_folder_does_not_say_where_its_parts_came_from(tmp_path: Path) -> None:
    save_denoiser(tmp_path / "first", pixel_parts())
    save_denoiser(tmp_path / "second", load_denoiser(tmp_path / "first"))
    for path in (tmp_path / "first").rglob("*"):
        again = tmp_path / "second" / path.relative_to(tmp_path / "first")
        assert path.is_dir() or path.read_bytes() == again.read_bytes()


def test_diffusers_reads_each_part_by_itself(tmp_path: Path) -> None:
    parts = pixel_parts()
    save_denoiser(tmp_path / "saved", parts)
    quiet = {"low_cpu_mem_usage": False, "use_safetensors": True}
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "saved" / "unet", **quiet)
    control = ControlNetModel.from_pretrained(tmp_path / "saved" / "controlnet", **quiet)
    assert_same_weights(MaskConditionedDenoiser(unet, control), parts.denoiser)
    assert DDIMScheduler.from_pretrained(tmp_path / "saved" / "scheduler").config.rescale_betas_zero_snr


# Stable Diffusion


@pytest.mark.parametrize(("guidance", "control_scale"), [(10.0, 1.0), (1.0, 1.0), (3.0, 1.7)])
def test_diffusers_own_pipeline_paints_the_same_from_the_saved_folder(
    hub: Path, tmp_path: Path, guidance: float, control_scale: float
) -> None:
    from diffusers import StableDiffusionControlNetPipeline

    parts = load_sd15(hub, image_size=SIZE)
    awake(parts.denoiser.controlnet)
    parts.prompt = PROMPT
    save_denoiser(tmp_path / "saved", parts)
    loaded, steps, seeds, shown = load_denoiser(tmp_path / "saved"), 5, [3, 2**40], masks(2, SIZE)

    ours = sample(
        loaded.denoiser,
        shown,
        seeds,
        prompts=cache_prompts(PROMPT, loaded, tmp_path / "cache"),
        scheduler=loaded.scheduler,
        codec=loaded.open_codec(),
        steps=steps,
        guidance=guidance,
        control_scale=control_scale,
        batch_size=2,
    )
    pipeline = StableDiffusionControlNetPipeline.from_pretrained(tmp_path / "saved", low_cpu_mem_usage=False)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        [PROMPT] * 2,
        shown.repeat(1, 3, 1, 1),
        num_inference_steps=steps,
        guidance_scale=guidance,
        controlnet_conditioning_scale=control_scale,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
    ).images
    assert ours.std() > 0.01
    assert (ours[0] - ours[1]).abs().max() > 0.01
    assert_close(ours, theirs)


def test_the_sd_preset_begins_as_the_hub_s_weights(hub: Path) -> None:
    parts = load_sd15(hub, image_size=SIZE)
    unet = UNet2DConditionModel.from_pretrained(hub / "unet", low_cpu_mem_usage=False)
    assert_same_weights(MaskConditionedDenoiser(parts.denoiser.unet), MaskConditionedDenoiser(unet))
    assert parts.denoiser.latent_factor == 8
    assert parts.preset.latent_size == 8
    assert load_sd15(hub).preset.image_size == 384


def test_the_hub_s_scheduler_becomes_the_preset_s(hub: Path) -> None:
    found, expected = load_sd15(hub, image_size=SIZE).scheduler, SD15.new_scheduler()
    assert torch.equal(found.alphas_cumprod, expected.alphas_cumprod)
    assert {key: found.config[key] for key in SD15.scheduler} == dict(SD15.scheduler)
    for one in (found, expected):
        one.set_timesteps(50)
    assert torch.equal(found.timesteps, expected.timesteps)


def test_a_folder_saved_without_its_encoders_takes_them_from_its_base(hub: Path, tmp_path: Path) -> None:
    parts = load_sd15(hub, image_size=SIZE)
    save_denoiser(tmp_path / "light", parts, encoders=False)
    assert left_over(tmp_path / "light", ["unet", "controlnet", "scheduler", "law.json"]) == []
    assert_same_weights(load_denoiser(tmp_path / "light", base=hub).denoiser, parts.denoiser)
    with pytest.raises(InputError, match=r"missing vae/config\.json.*as base") as error:
        load_denoiser(tmp_path / "light")
    one_line(error)


def test_weights_in_half_precision_alone_will_do(own: Path) -> None:
    for path in list(own.rglob("*.safetensors")):
        path.rename(path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")))
    parts = load_sd15(own, image_size=SIZE)
    assert {one.dtype for one in parts.denoiser.parameters()} == {torch.float32}
    save_denoiser(own.parent / "saved", parts)  # under the names that diffusers asks for by itself
    for part, name in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model")):
        assert (own.parent / "saved" / part / f"{name}.safetensors").is_file()


def test_a_repository_in_the_hub_s_cache_needs_no_connection(
    hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = "a" * 40
    repository = tmp_path / "models--someone--sd15"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(hub, repository / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    assert find_sd15("someone/sd15") == repository / "snapshots" / commit
    parts = load_sd15("someone/sd15", SIZE)
    save_denoiser(tmp_path / "saved", parts, encoders=False)  # a run's own model, whose encoders stay where they are
    again = load_denoiser(tmp_path / "saved", "someone/sd15")
    assert again.encoders == parts.encoders and again.licence == TERMS_OF_SD15
    assert model_digest(tmp_path / "saved", "someone/sd15") == model_digest(tmp_path / "saved", hub)


def test_the_digest_of_a_part_follows_its_weights_and_settings(own: Path) -> None:
    before = digest_of_parts(own, ["vae"])
    config = own / "vae" / "config.json"
    config.write_text(config.read_text().replace("0.18215", "0.5"))
    after = digest_of_parts(own, ["vae"])
    shutil.copyfile(
        own / "unet" / "diffusion_pytorch_model.safetensors", own / "vae/diffusion_pytorch_model.safetensors"
    )
    assert len({before, after, digest_of_parts(own, ["vae"])}) == 3


# What is wrong is one line


def test_without_a_folder_it_says_what_to_download_and_where_to_put_it(tmp_path: Path) -> None:
    with pytest.raises(InputError) as error:
        load_sd15(tmp_path / "nowhere")
    text = one_line(error)
    for name in (
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
        "tokenizer/merges.txt",
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
        f"--local-dir {tmp_path / 'nowhere'}",
    ):
        assert name in text


@pytest.mark.parametrize("part", FOR_SD15)
def test_a_part_that_is_missing_is_named_and_no_other(own: Path, part: str) -> None:
    shutil.rmtree(own / part)
    with pytest.raises(InputError) as error:
        load_sd15(own)
    named = one_line(error).split(";")[0]
    assert f"missing {part}/" in named
    assert not any(f"{other}/" in named for other in FOR_SD15 if other != part)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_a_pickle_is_refused_unread(own: Path, part: str) -> None:
    weights = next((own / part).glob("*.safetensors"))
    pickle = weights.with_name("pytorch_model.bin" if part == "text_encoder" else f"{weights.stem}.bin")
    weights.unlink()
    pickle.write_bytes(b"not even a pickle")
    with pytest.raises(InputError, match=r"is a pickle, which can run code") as error:
        load_sd15(own)
    assert str(pickle) in one_line(error)
    assert weights.name in one_line(error)


def test_a_pickle_in_a_saved_folder_is_refused_too(tmp_path: Path) -> None:
    save_denoiser(tmp_path / "saved", pixel_parts())
    weights = tmp_path / "saved" / "controlnet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    with pytest.raises(InputError, match="is a pickle"):
        load_denoiser(tmp_path / "saved")


@pytest.mark.parametrize(("name", "words"), [("v1-5.ckpt", "is a pickle"), ("v1-5.safetensors", "a single file")])
def test_a_single_file_is_no_folder(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(InputError, match=words) as error:
        load_sd15(tmp_path / name)
    one_line(error)


def test_a_mistyped_path_is_not_sent_to_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(InputError, match=r"no folder runs/sd15: missing unet/config\.json"):
        find_sd15("runs/sd15")


def test_a_repository_that_cannot_be_had_is_told_with_the_way_around() -> None:
    with pytest.raises(InputError, match=r"someone/nothing is no folder here, and the hub did not give it") as error:
        find_sd15("someone/nothing")
    assert "unet/diffusion_pytorch_model.safetensors" in one_line(error)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_damaged_weights_are_told(own: Path, part: str) -> None:
    weights = next((own / part).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=f"{part} cannot be read") as error:
        parts = load_sd15(own, image_size=SIZE)
        parts.open_codec()
        parts.open_text()
    one_line(error)


def test_weights_that_lack_a_tensor_are_told(own: Path) -> None:
    import safetensors.torch

    path = own / "unet" / "diffusion_pytorch_model.safetensors"
    weights = safetensors.torch.load_file(path)
    del weights["conv_out.bias"]
    safetensors.torch.save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"does not hold all of a UNet2DConditionModel .*conv_out\.bias") as error:
        load_sd15(own)
    one_line(error)


@pytest.mark.parametrize(
    ("part", "key", "words"),
    [("vae", "latent_channels", "latent_channels is 8"), ("text_encoder", "hidden_size", "hidden_size is 8")],
)
def test_parts_of_two_families_are_told(own: Path, part: str, key: str, words: str) -> None:
    path = own / part / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: 8}))
    with pytest.raises(InputError, match=f"{words}, and the U-Net reads"):
        load_sd15(own)


@pytest.mark.parametrize("size", [100, 0, -64, 64.0, True])
def test_a_size_that_cannot_be_halved_is_told_before_anything_is_read(tmp_path: Path, size: object) -> None:
    with pytest.raises(InputError, match=r"image_size: .* multiple of 64"):
        load_sd15(tmp_path, image_size=size)


@pytest.mark.parametrize(
    ("change", "words"),
    [({"preset": "large"}, "none of sd15, tiny"), ({"image_size": "64"}, "image_size missing or of the wrong kind")],
)
def test_settings_that_are_not_ours_are_told(tmp_path: Path, change: dict, words: str) -> None:
    save_denoiser(tmp_path / "saved", pixel_parts())
    path = tmp_path / "saved" / "law.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=words):
        load_denoiser(tmp_path / "saved")


def test_a_folder_of_something_else_is_told(hub: Path) -> None:
    with pytest.raises(InputError, match=r"holds no law\.json"):
        load_denoiser(hub)


def test_what_is_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"")
    (tmp_path / "model.safetensors").write_bytes(b"")
    for name, words in (("model.bin", "is a pickle"), ("model.safetensors", "is a single"), ("none", "no such folder")):
        with pytest.raises(InputError, match=f"{name}.* {words}|{name}: {words}"):
            load_denoiser(tmp_path / name)


def test_a_pickle_beside_a_whole_control_network_is_named(tmp_path: Path) -> None:
    save_denoiser(tmp_path / "saved", pixel_parts())
    unet = tmp_path / "saved" / "unet" / "diffusion_pytorch_model.safetensors"
    unet.rename(unet.with_suffix(".bin"))
    with pytest.raises(InputError, match=r"unet/diffusion_pytorch_model\.bin is a pickle"):
        load_denoiser(tmp_path / "saved")


# Whole or not at all


def test_a_folder_in_use_is_kept_unless_it_may_be_overwritten(tmp_path: Path) -> None:
    first, second = pixel_parts(seed=1), pixel_parts(seed=2)
    save_denoiser(tmp_path / "saved", first)
    with pytest.raises(InputError, match="exists already"):
        save_denoiser(tmp_path / "saved", second)
    assert_same_weights(load_denoiser(tmp_path / "saved").denoiser, first.denoiser)
    save_denoiser(tmp_path / "saved", second, overwrite=True)
    assert_same_weights(load_denoiser(tmp_path / "saved").denoiser, second.denoiser)
    assert left_over(tmp_path, ["saved"]) == []


def test_a_folder_killed_between_its_two_renames_comes_back(tmp_path: Path) -> None:
    folder, earlier = tmp_path / "model", tmp_path / ".model.earlier"
    save_denoiser(folder, pixel_parts())
    folder.rename(earlier)
    with pytest.raises(InputError, match=r"\.model\.earlier is what was there before"):
        load_denoiser(folder)
    mend_replaced(folder)
    assert load_denoiser(folder).denoiser.controlnet is not None and not earlier.exists()
    shutil.copytree(folder, earlier)  # a kill after the second rename
    mend_replaced(folder)
    assert folder.is_dir() and not earlier.exists()
    mend_replaced(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_a_control_network_of_an_earlier_save_does_not_linger(tmp_path: Path) -> None:
    save_denoiser(tmp_path / "saved", pixel_parts())
    save_denoiser(tmp_path / "saved", pixel_parts(control=False), overwrite=True)
    assert load_denoiser(tmp_path / "saved").denoiser.controlnet is None


def test_an_sd_folder_can_be_saved_over_itself(hub: Path, tmp_path: Path) -> None:
    save_denoiser(tmp_path / "saved", load_sd15(hub, image_size=SIZE))
    loaded = load_denoiser(tmp_path / "saved")
    save_denoiser(tmp_path / "saved", loaded, overwrite=True)
    assert digest_of_parts(tmp_path / "saved", FOR_SD15) == digest_of_parts(loaded.encoders, FOR_SD15)


@pytest.mark.parametrize("there_before", [False, True])
def test_a_full_disk_is_one_line_and_what_was_there_stays(tmp_path: Path, there_before: bool) -> None:
    parts = pixel_parts(seed=1)
    if there_before:
        save_denoiser(tmp_path / "saved", parts)
    with no_file_larger_than(2000), pytest.raises(InputError, match=r"cannot write .*make room") as error:
        save_denoiser(tmp_path / "saved", pixel_parts(seed=2), overwrite=True)
    one_line(error)
    assert left_over(tmp_path, ["saved"] if there_before else []) == []
    if there_before:
        assert_same_weights(load_denoiser(tmp_path / "saved").denoiser, parts.denoiser)

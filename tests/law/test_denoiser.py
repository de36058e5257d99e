"""The denoiser: what a fresh control network changes (nothing), what learns, and what is predicted."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from common.law.denoiser import (
    MaskConditionedDenoiser,
    denoising_target,
    noise_level,
    predicted_clean,
    predicted_noise,
)
from common.law.loading import build_tiny
from common.law.presets import PRESETS, SD15, TINY
from common.law.text import HashedText
from tests.law.drawn import normal
from tests.law.small import SIDE, awake, masks, pixel_parts, prompts
from tests.network_contract import assert_close

BATCH = 3


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Noisy latents, timesteps, text and masks."""
    text = HashedText(32).encode(["a", "b", ""])
    return normal(BATCH, 3, SIDE, SIDE), torch.tensor([3, 500, 999]), text, masks(BATCH)


def gradients(denoiser: MaskConditionedDenoiser) -> dict[str, Tensor]:
    denoiser.zero_grad()
    prediction = denoiser(*inputs())
    (prediction * normal(*prediction.shape, seed=9)).sum().backward()
    return {name: one.grad for name, one in denoiser.named_parameters() if one.grad is not None}


# The control network


def test_a_fresh_control_network_changes_nothing() -> None:
    denoiser = pixel_parts(control=False).add_control().denoiser
    *given, mask = inputs()
    assert torch.equal(denoiser(*given, mask), denoiser(*given))


def test_it_begins_as_the_encoder_of_the_unet() -> None:
    denoiser = pixel_parts(control=False).add_control().denoiser
    own = denoiser.controlnet.state_dict()
    shared = {key: value for key, value in denoiser.unet.state_dict().items() if key in own}
    assert {key.split(".")[0] for key in shared} == {"conv_in", "time_embedding", "down_blocks", "mid_block"}
    assert all(torch.equal(own[key], value) for key, value in shared.items())


def test_an_awake_one_reads_the_mask() -> None:
    denoiser = pixel_parts().denoiser
    *given, mask = inputs()
    moved = torch.roll(mask, 4, dims=3)
    assert (denoiser(*given, mask) - denoiser(*given, moved)).abs().max() > 1e-4
    assert (denoiser(*given, torch.zeros_like(mask)) - denoiser(*given)).abs().max() > 1e-4


def test_each_sample_is_by_itself() -> None:
    denoiser = pixel_parts().denoiser
    given = inputs()
    alone = [denoiser(*(one[[index]] for one in given)) for index in range(BATCH)]
    assert_close(denoiser(*given), torch.cat(alone))


def test_one_text_serves_all_samples() -> None:
    denoiser = pixel_parts().denoiser
    noisy, timesteps, text, mask = inputs()
    assert torch.equal(
        denoiser(noisy, timesteps, text[:1], mask), denoiser(noisy, timesteps, text[:1].repeat(BATCH, 1, 1), mask)
    )


def test_a_mask_is_repeated_and_a_whole_condition_is_taken_as_it_is() -> None:
    denoiser = pixel_parts().denoiser
    *given, mask = inputs()
    teacher = torch.cat([mask, mask, mask + 0.25], dim=1)
    assert torch.equal(denoiser(*given, mask), denoiser(*given, mask.repeat(1, 3, 1, 1)))
    assert not torch.allclose(denoiser(*given, mask), denoiser(*given, teacher))


@pytest.mark.parametrize("shape", [(BATCH, 1, 8, 8), (1, 1, SIDE, SIDE), (BATCH, 2, SIDE, SIDE), (BATCH, SIDE, SIDE)])
def test_a_mask_that_does_not_fit_is_told(shape: tuple[int, ...]) -> None:
    *given, _ = inputs()
    with pytest.raises(ValueError, match=r"the mask is .* has to be \(3, 1, 16, 16\)"):
        pixel_parts().denoiser(*given, torch.zeros(shape))


def test_a_prior_has_no_use_for_a_mask() -> None:
    with pytest.raises(ValueError, match="add_control"):
        pixel_parts(control=False).denoiser(*inputs())


def test_the_prediction_keeps_its_type_under_autocast() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert pixel_parts().denoiser(*inputs()).dtype == torch.float32


# What learns


def parts_that_learn(denoiser: MaskConditionedDenoiser) -> set[str]:
    return {".".join(name.split(".")[:2]) for name in gradients(denoiser)}


OUTPUT = {"unet.up_blocks", "unet.conv_norm_out", "unet.conv_out"}


@pytest.mark.parametrize(("what", "of_unet"), [("control", set()), ("control+decoder", OUTPUT)])
def test_gradients_reach_what_is_to_learn_and_nothing_else(what: str, of_unet: set[str]) -> None:
    denoiser = pixel_parts().denoiser.set_trainable(what)
    learning = parts_that_learn(denoiser)
    assert {name for name in learning if name.startswith("unet")} == of_unet
    assert {name for name, _ in denoiser.controlnet.named_parameters()} == {
        name.removeprefix("controlnet.") for name in gradients(denoiser) if name.startswith("controlnet.")
    }


def test_a_prior_learns_as_a_whole_and_without_the_control_network() -> None:
    denoiser = pixel_parts().denoiser.set_trainable("prior")
    assert {id(one) for one in denoiser.trainable_parameters()} == {id(one) for one in denoiser.unet.parameters()}


@pytest.mark.parametrize("what", ["prior", "control", "control+decoder"])
def test_one_step_moves_exactly_the_trainable_parameters(what: str) -> None:
    denoiser = pixel_parts().denoiser.set_trainable(what)
    before = {name: one.detach().clone() for name, one in denoiser.named_parameters()}
    trainable = {name for name, one in denoiser.named_parameters() if one.requires_grad}
    optimiser = torch.optim.AdamW(denoiser.trainable_parameters(), lr=1e-3, weight_decay=0.1)
    given = inputs() if what != "prior" else inputs()[:3]
    (denoiser(*given) - normal(BATCH, 3, SIDE, SIDE, seed=4)).square().mean().backward()
    optimiser.step()
    moved = {name for name, one in denoiser.named_parameters() if not torch.equal(one, before[name])}
    assert moved == trainable


def test_a_choice_can_be_changed() -> None:
    denoiser = pixel_parts().denoiser
    for first, second in itertools.permutations(("prior", "control", "control+decoder"), 2):
        denoiser.set_trainable(first).set_trainable(second)
        direct = pixel_parts().denoiser.set_trainable(second)
        assert [one.requires_grad for one in denoiser.parameters()] == [
            one.requires_grad for one in direct.parameters()
        ]


@pytest.mark.parametrize(("what", "words"), [("all", "none of prior, control"), ("control", "add_control")])
def test_a_choice_that_cannot_be_is_told(what: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        pixel_parts(control=False).denoiser.set_trainable(what)


def kept_for_backward(denoiser: MaskConditionedDenoiser) -> tuple[int, dict[str, Tensor]]:
    # Bytes that autograd holds on to, and the gradients.
    weights = {one.data_ptr() for one in denoiser.parameters()}
    held: dict[int, int] = {}

    def hold(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in weights:
            held[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    denoiser.zero_grad()
    with torch.autograd.graph.saved_tensors_hooks(hold, lambda tensor: tensor):
        prediction = denoiser(*inputs())
    size = sum(held.values())
    (prediction * normal(*prediction.shape, seed=9)).sum().backward()
    return size, {name: one.grad.clone() for name, one in denoiser.named_parameters() if one.grad is not None}


def test_checkpointing_holds_less_and_changes_no_gradient() -> None:
    denoiser = pixel_parts().denoiser.set_trainable("control+decoder").train()
    plain, expected = kept_for_backward(denoiser)
    less, found = kept_for_backward(denoiser.set_gradient_checkpointing(True))
    assert less < 0.6 * plain
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        assert_close(gradient, expected[name])
    again, _ = kept_for_backward(denoiser.set_gradient_checkpointing(False))
    assert again == plain


# What is predicted


@pytest.mark.parametrize("preset", [SD15, TINY], ids=lambda preset: preset.name)
def test_a_perfect_prediction_gives_noise_and_image_back(preset) -> None:
    scheduler = preset.new_scheduler()
    clean, noise = normal(4, 3, 8, 8, seed=1).double(), normal(4, 3, 8, 8, seed=2).double()
    timesteps = torch.tensor([1, 100, 500, 900])
    noisy = scheduler.add_noise(clean, noise, timesteps)
    target = denoising_target(scheduler, clean, noise, timesteps)
    assert_close(predicted_noise(scheduler, target, noisy, timesteps), noise, 1e-9)
    assert_close(predicted_clean(scheduler, target, noisy, timesteps), clean, 1e-9)


def test_the_velocity_is_the_scheduler_s_own() -> None:
    scheduler = TINY.new_scheduler()
    clean, noise, timesteps = normal(4, 3, 8, 8, seed=1), normal(4, 3, 8, 8, seed=2), torch.tensor([0, 7, 500, 999])
    expected = scheduler.get_velocity(clean, noise, timesteps)
    assert_close(denoising_target(scheduler, clean, noise, timesteps), expected, 1e-6)


def test_epsilon_is_the_target_itself() -> None:
    noise = normal(2, 4, 8, 8)
    assert denoising_target(SD15.new_scheduler(), noise + 1, noise, torch.tensor([1, 2])) is noise


@pytest.mark.parametrize("preset", [SD15, TINY], ids=lambda preset: preset.name)
def test_signal_and_noise_share_the_variance_and_the_noise_grows(preset) -> None:
    level = noise_level(preset.new_scheduler(), torch.arange(1000), torch.zeros(1, dtype=torch.float64))
    assert_close(level.signal.square() + level.noise.square(), torch.ones(1000, 1, 1, 1), 1e-6)
    assert (level.noise.flatten().diff() > 0).all()


def test_the_last_step_of_the_tiny_preset_is_noise_alone() -> None:
    clean, noise = normal(2, 3, 8, 8, seed=1), normal(2, 3, 8, 8, seed=2)
    assert torch.equal(TINY.new_scheduler().add_noise(clean, noise, torch.tensor([999, 999])), noise)


def test_paper_s_schedule() -> None:
    """Betas 0.00085 to 0.012, their roots linear, 1,000 steps."""
    betas = SD15.new_scheduler().betas
    assert len(betas) == 1000
    assert_close(betas[[0, -1]], torch.tensor([0.00085, 0.012]), 1e-8)
    assert betas.sqrt().diff().std() < 1e-6


def test_another_kind_of_prediction_is_told() -> None:
    scheduler = TINY.new_scheduler()
    scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(ValueError, match="'sample'"):
        predicted_noise(scheduler, normal(1, 3, 8, 8), normal(1, 3, 8, 8), torch.tensor([1]))


# Presets, seeds, text


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda preset: preset.name)
def test_the_control_network_reads_masks_at_the_size_of_the_image(preset) -> None:
    assert 2 ** (len(preset.embedding_channels) - 1) == preset.latent_factor * preset.patch
    assert preset.latent_size * preset.latent_factor == preset.image_size


def test_the_size_of_the_tiny_preset() -> None:
    """About 4 million parameters, and with the control network at most 12 MB in float16."""
    denoiser = build_tiny(control=True).denoiser
    unet = sum(one.numel() for one in denoiser.unet.parameters())
    assert 2e6 <= unet <= 4.2e6
    assert 2 * sum(one.numel() for one in denoiser.parameters()) <= 11.9e6


def test_weights_depend_on_the_seed_alone_and_leave_the_global_generator_as_it_was() -> None:
    before = torch.random.get_rng_state()
    first = build_tiny(seed=1, image_size=32, control=True).denoiser.state_dict()
    torch.rand(7)
    second = build_tiny(seed=1, image_size=32, control=True).denoiser.state_dict()
    torch.random.set_rng_state(before)
    third = build_tiny(seed=2, image_size=32, control=True).denoiser.state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert not torch.equal(first["unet.conv_in.weight"], third["unet.conv_in.weight"])
    assert not torch.equal(*(one["controlnet.controlnet_cond_embedding.conv_in.weight"] for one in (first, third)))


def test_no_prompt_is_zeros_and_two_prompts_are_as_good_as_orthogonal() -> None:
    one, other, none = HashedText(32).encode(["A photo of a polyp.", "A photo of a tumour.", ""])
    assert not none.any()
    assert one.abs().eq(1).all()
    assert abs((one * other).mean()) < 0.2


def test_the_embedding_of_a_prompt_stays_what_trained_weights_have_seen() -> None:
    """The first bits of SHA-256("0/A photo of a polyp."), lowest first, which `sha256sum` gives as well."""
    import hashlib

    bits = int.from_bytes(hashlib.sha256(b"0/A photo of a polyp.").digest(), "little")
    expected = torch.tensor([1.0 if bits >> place & 1 else -1.0 for place in range(256)])
    assert torch.equal(HashedText(32).encode(["A photo of a polyp."]).flatten(), expected)


def test_a_wide_embedding_has_no_repeated_block() -> None:
    embedding = HashedText(width=128, tokens=8).encode(["x"])[0]
    assert len({tuple(row.tolist()) for row in embedding.reshape(-1, 256)}) == 4


def test_dropping_chooses_sample_by_sample() -> None:
    both = prompts(pixel_parts(control=False))
    batch = both.batch(torch.tensor([False, True, False]))
    assert torch.equal(batch, torch.cat([both.given, both.dropped, both.given]))


def test_the_denoiser_hears_the_prompt() -> None:
    denoiser = pixel_parts(control=False).denoiser
    noisy, timesteps, text, _ = inputs()
    assert not torch.allclose(denoiser(noisy, timesteps, text[[0]]), denoiser(noisy, timesteps, text[[2]]))


def test_awake_leaves_no_zeros() -> None:
    assert all(one.any() for one in awake(nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1))).parameters())

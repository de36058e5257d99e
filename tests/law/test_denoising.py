"""One step: what goes in, what is compared, who learns."""

from __future__ import annotations

import pytest
import torch

from common.errors import InputError
from common.law.denoiser import denoising_target
from common.law.denoising import DenoisingLoss, draw, frozen_digest, learned_state, load_learned_state
from common.law.objectives import OBJECTIVES, build_objective
from tests.law.drawn import normal
from tests.law.small import SIDE, masks, pixel_parts, prompts

BATCH = 3


def _loss(name: str = "uniform", control: bool = True, trainable: str = "control", seed: int = 0) -> DenoisingLoss:
    parts = pixel_parts(control, seed)
    parts.denoiser.set_trainable(trainable)
    return DenoisingLoss(parts.denoiser, build_objective(name, in_channels=3), parts.scheduler, prompts(parts))


def _batch() -> tuple[torch.Tensor, torch.Tensor]:
    return normal(BATCH, 3, SIDE, SIDE).clamp(-1, 1), masks(BATCH)


def _draws(key: int = 0, dropout: float = 0.5) -> tuple[torch.Tensor, ...]:
    return draw((BATCH, 3, SIDE, SIDE), 1000, dropout, (key,))


def test_draws_are_of_their_key_alone():
    first, again, other = _draws(1), _draws(1), _draws(2)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first.noise, other.noise) and not torch.equal(first.timesteps, other.timesteps)
    state = torch.random.get_rng_state()
    _draws(3)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_draws_have_the_distributions_asked_for():
    many = draw((4000, 1, 2, 2), 10, 0.05, (0,))
    assert abs(many.noise.mean()) < 0.05 and abs(many.noise.std() - 1) < 0.05
    assert set(many.timesteps.tolist()) == set(range(10))
    assert abs(many.dropped.float().mean() - 0.05) < 0.02
    assert not _draws(dropout=0.0).dropped.any() and _draws(dropout=1.0).dropped.all()


def test_a_step_is_noise_predict_compare():
    module, (latents, lesions) = _loss().eval(), _batch()
    noise, times, dropped = _draws()
    result = module(latents, lesions, noise, times, dropped)
    level = module.scheduler.alphas_cumprod[times].view(-1, 1, 1, 1)
    noisy = level.sqrt() * latents + (1 - level).sqrt() * noise
    text = torch.cat([module.prompts.dropped if each else module.prompts.given for each in dropped])
    prediction = module.denoiser(noisy, times, text, lesions)
    target = denoising_target(module.scheduler, latents, noise, times)
    torch.testing.assert_close(result.loss, (prediction - target).square().mean())


def test_a_prior_sees_no_mask():
    module, (latents, lesions) = _loss(control=False, trainable="prior").eval(), _batch()
    losses = [module(latents, mask, *_draws()).loss for mask in (lesions, 1 - lesions)]
    assert torch.equal(*losses)


@pytest.mark.parametrize("name", [name for name, kind in OBJECTIVES.items() if kind.needs_teacher])
def test_a_prior_has_no_teacher(name):
    with pytest.raises(InputError, match="an image prior none"):
        _loss(name, control=False, trainable="prior")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_all_that_learns_gets_a_gradient_and_nothing_else_does(name):
    module, (latents, lesions) = _loss(name), _batch()
    module(latents, lesions, *_draws()).loss.backward()
    for key, parameter in module.named_parameters():
        assert (parameter.grad is not None) == parameter.requires_grad, key
    frozen = {key.split(".")[1] for key, each in module.named_parameters() if not each.requires_grad}
    assert frozen == {"unet"}


def test_the_teacher_sees_the_image_and_begins_as_the_student():
    module, (latents, lesions) = _loss("distillation").eval(), _batch()
    seen = module.teacher_condition(lesions, latents)
    assert torch.equal(seen, lesions + 0.25 * latents)
    with torch.no_grad():
        student = module.denoiser(latents, torch.tensor([5] * BATCH), module.given, seen)
        teacher = module._teacher()(latents, torch.tensor([5] * BATCH), module.given, seen)
        result = module(latents, lesions, *_draws())
    assert torch.equal(student, teacher)
    assert result.parts["distillation"] > 0  # for it does not see what the student sees


def test_the_teacher_shares_the_unet_and_has_its_own_control_network():
    module = _loss("distillation", trainable="control+decoder")
    names = [name for name, _ in module.named_parameters()]
    assert len({id(each) for each in module.parameters()}) == len(names)
    own = [id(each) for each in module.denoiser.controlnet.parameters()]
    assert not set(own) & {id(each) for each in module.teacher_control.parameters()}
    assert len(module.trained_parameters()) == len({id(each) for each in module.trained_parameters()})


def test_the_teacher_needs_pictures_of_the_masks_size():
    module, (latents, lesions) = _loss("distillation"), _batch()
    with pytest.raises(InputError, match="pictures=True"):
        module(latents, lesions, *_draws(), latents[..., : SIDE // 2, : SIDE // 2])


@pytest.mark.parametrize("name", ["law", "law_v1"])
def test_what_was_learned_is_given_back_whole(name):
    module, other = _loss(name), _loss(name, seed=1)
    state = {key: value.clone() for key, value in learned_state(module).items()}
    assert {key.split(".")[0] for key in state} >= {"denoiser", "objective"}
    assert not any(key.startswith("denoiser.unet") for key in state)
    load_learned_state(other, state, "latest.pt")
    assert all(torch.equal(value, state[key]) for key, value in learned_state(other).items())


def test_what_another_learned_is_refused_and_changes_nothing():
    module = _loss("law")
    before = {key: value.clone() for key, value in learned_state(module).items()}
    with pytest.raises(InputError, match=r"latest\.pt holds what another denoiser learned"):
        load_learned_state(module, learned_state(_loss("uniform", trainable="control+decoder")), "latest.pt")
    assert all(torch.equal(value, before[key]) for key, value in learned_state(module).items())


def test_the_teacher_saves_memory_where_the_student_does():
    parts = pixel_parts()
    parts.denoiser.set_trainable("control").set_gradient_checkpointing(True)
    goal = build_objective("distillation", in_channels=3)
    module = DenoisingLoss(parts.denoiser, goal, parts.scheduler, prompts(parts))
    assert module.teacher_control.is_gradient_checkpointing


def test_what_is_frozen_has_a_digest_of_its_own():
    module = _loss("law")
    before = frozen_digest(module)
    module.denoiser.controlnet.conv_in.weight.data += 1  # it learns
    assert frozen_digest(module) == before == frozen_digest(_loss("uniform"))
    module.denoiser.unet.conv_in.weight.data[0, 0, 0, 0] += 1
    assert frozen_digest(module) != before

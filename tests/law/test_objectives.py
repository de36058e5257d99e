"""The objectives (equations 2 and 8 to 10, and version 1's 10 to 12): values worked by hand, and their laws."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InputError
from common.law import (
    OBJECTIVES,
    TABLE_6,
    LearnableAdaptiveWeighter,
    Objective,
    ObjectiveResult,
    alignment_loss,
    build_objective,
    parameter_groups,
    ratio_prior,
    ratio_weights,
    weighted_error,
)
from tests.law.drawn import LATENT, PIXELS, mixed_masks, normal

SHAPES = pytest.mark.parametrize("shape", [LATENT, PIXELS], ids=["latent", "pixels"])
CORNER = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])  # r = 1/4
LAWS = ("law", "law_v1")


class GivenDelta(LearnableAdaptiveWeighter):
    """A weighter whose δ is given, so that what follows from it can be worked by hand."""

    def __init__(self, delta: Tensor, **options: object) -> None:
        super().__init__(**options)
        self.given = nn.Parameter(delta)

    def delta_map(self, features: Tensor, mask: Tensor) -> Tensor:
        return self.given.expand(mask.shape)


def call(objective: Objective, shape: tuple[int, ...], mask: Tensor | None = None) -> tuple[ObjectiveResult, Tensor]:
    """The result of a fixed batch, backward done, and the prediction that it went back to."""
    prediction = normal(*shape).requires_grad_()
    mask = mixed_masks(*shape[2:]) if mask is None else mask
    result = objective(prediction, normal(*shape, seed=1), mask, normal(*shape, seed=2))
    result.loss.backward()
    return result, prediction


def plain(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The plain mean squared error of the same batch, and its gradient."""
    prediction = normal(*shape).requires_grad_()
    loss = F.mse_loss(prediction, normal(*shape, seed=1))
    loss.backward()
    return loss.detach(), prediction.grad


# Values worked by hand: errors of student 1, 4, 9, 16; of teacher 1 everywhere; between the two 0, 1, 4, 9.

STUDENT = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
TEACHER = torch.ones(1, 1, 2, 2)
TARGET = torch.zeros(1, 1, 2, 2)


def by_hand(name: str, **options: object) -> ObjectiveResult:
    return build_objective(name, in_channels=1, **options)(STUDENT, TARGET, CORNER, TEACHER)


def test_equation_8_by_hand():
    weights = torch.tensor([[[[2.0, 0.0], [0.5, 1.0]]]])
    error = weighted_error(STUDENT.repeat(1, 2, 1, 1) * torch.tensor([1.0, 2.0]).view(1, 2, 1, 1), TARGET, weights)
    assert error.item() == pytest.approx((22.5 + 4 * 22.5) / 8)  # 2·1 + 0·4 + 0.5·9 + 1·16 in the first channel


def test_equation_9_by_hand():
    delta = torch.tensor([[[[0.8, 0.2], [0.4, 0.6]]]])
    assert alignment_loss(delta, CORNER).item() == pytest.approx(1 - 1.6 / 3.0, abs=1e-6)
    two = torch.cat([delta, CORNER]), torch.cat([CORNER, CORNER])
    assert alignment_loss(*two).item() == pytest.approx((1 - 1.6 / 3.0) / 2, abs=1e-6)


def test_uniform_and_ratio_by_hand():
    assert by_hand("uniform").loss.item() == pytest.approx(30 / 4)
    assert by_hand("ratio").loss.item() == pytest.approx((0.75 * 1 + 0.25 * (4 + 9 + 16)) / 4)


def test_distillation_by_hand():
    found = by_hand("distillation")
    teacher, distilled = (0.75 + 0.25 * 3) / 4, (0.75 * 0 + 0.25 * (1 + 4 + 9)) / 4
    assert found.loss.item() == pytest.approx(30 / 4 + teacher + distilled)
    assert {name: value.item() for name, value in found.parts.items()} == pytest.approx(
        {"mse": 7.5, "student": 7.5, "teacher": teacher, "distillation": distilled}
    )


@pytest.mark.parametrize("name", LAWS)
def test_law_by_hand(name):
    objective = build_objective(name)
    # As in the weighter's test: weights 2 (held), 0.2, 0.25 and 0.3 over 0.4125; Dice: Σδm = 1, Σδ = 2.5, Σm = 1.
    objective.weighter = GivenDelta(torch.tensor([[[[1.0, 0.0], [0.5, 1.0]]]]))
    student = (2.0 * 1 + (0.2 * 4 + 0.25 * 9 + 0.3 * 16) / 0.4125) / 4
    distilled = (2.0 * 0 + (0.2 * 1 + 0.25 * 4 + 0.3 * 9) / 0.4125) / 4
    dice = 1 - 2 / 3.5
    found = objective(STUDENT, TARGET, CORNER, TEACHER)
    teacher_terms = 0.05 * 1.0 + 0.05 * distilled if name == "law_v1" else 0.0
    assert found.loss.item() == pytest.approx(student + 1.0 * dice + teacher_terms, abs=1e-5)
    assert found.parts["student"].item() == pytest.approx(student, abs=1e-5)
    assert found.parts["dice"].item() == pytest.approx(dice, abs=1e-5)
    assert found.parts["mse"].item() == pytest.approx(7.5)


# The plain mean squared error, exactly


@SHAPES
def test_uniform_is_the_plain_loss_exactly(shape):
    result, prediction = call(build_objective("uniform"), shape)
    assert torch.equal(result.loss, plain(shape)[0]) and torch.equal(prediction.grad, plain(shape)[1])
    assert (result.weights == 1).all() and result.delta is None


@SHAPES
@pytest.mark.parametrize("pixels", ["none", "half", "all"])
def test_law_with_weights_of_one_and_lambda_0_is_the_plain_loss_exactly(shape, pixels):
    """Weights are 1 without a lesion, with nothing else, and where γ = 0 meets a lesion of half the image."""
    mask = torch.zeros(4, 1, *shape[2:])
    mask[:, :, : {"none": 0, "half": shape[2] // 2, "all": shape[2]}[pixels]] = 1
    result, prediction = call(build_objective("law", in_channels=shape[1], gamma=0.0, dice_weight=0.0), shape, mask)
    assert (result.weights == 1).all()
    assert torch.equal(result.loss, plain(shape)[0]) and torch.equal(prediction.grad, plain(shape)[1])


@SHAPES
def test_law_v1_without_its_coefficients_is_law(shape):
    options = {"in_channels": shape[1], "teacher_weight": 0.0, "distillation_weight": 0.0}
    (with_teacher, one), (law, other) = (
        call(objective, shape)
        for objective in (build_objective("law_v1", **options), build_objective("law", in_channels=shape[1]))
    )
    assert torch.equal(with_teacher.loss, law.loss) and torch.equal(one.grad, other.grad)


# Laws of every objective


@SHAPES
@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_batch_is_the_mean_of_its_samples(name, shape):
    objective = build_objective(name, in_channels=shape[1])
    whole, prediction = call(objective, shape)
    target, masks, teacher = normal(*shape, seed=1), mixed_masks(*shape[2:]), normal(*shape, seed=2)
    gradients = {key: parameter.grad.clone() for key, parameter in objective.named_parameters()}
    objective.zero_grad()
    losses = []
    for i in range(4):
        alone = normal(*shape)[i : i + 1].requires_grad_()
        result = objective(alone, target[i : i + 1], masks[i : i + 1], teacher[i : i + 1])
        (result.loss / 4).backward()
        torch.testing.assert_close(alone.grad, prediction.grad[i : i + 1])
        torch.testing.assert_close(result.weights, whole.weights[i : i + 1])
        losses.append(result.loss.detach())
    torch.testing.assert_close(torch.stack(losses).mean(), whole.loss.detach())
    for key, parameter in objective.named_parameters():
        torch.testing.assert_close(parameter.grad, gradients[key], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("value", [0.0, 1.0], ids=["lesion-free", "full"])
def test_masks_without_a_ratio_are_finite_both_ways(name, value):
    objective = build_objective(name)
    result, prediction = call(objective, LATENT, torch.full((4, 1, 128, 128), value))
    assert torch.isfinite(result.loss) and torch.isfinite(prediction.grad).all()
    assert (result.weights == 1).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in objective.parameters())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_mask_comes_at_any_size(name):
    small = mixed_masks(16, 16)
    large = small.repeat_interleave(8, dim=2).repeat_interleave(8, dim=3).expand(4, 3, 128, 128)
    one, other = (call(build_objective(name), LATENT, mask)[0] for mask in (small, large))
    assert torch.equal(one.loss, other.loss) and torch.equal(one.weights, other.weights)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_half_precision_is_reduced_in_float32(name):
    shape, masks = (4, 4, 16, 16), mixed_masks(16, 16)
    batch = [normal(*shape, seed=i).bfloat16() for i in range(3)]
    with torch.autocast("cpu", torch.bfloat16):
        inside = build_objective(name)(batch[0], batch[1], masks, batch[2])
    outside = build_objective(name)(batch[0].float(), batch[1].float(), masks, batch[2].float())
    assert inside.loss.dtype == torch.float32
    assert torch.equal(inside.loss, outside.loss) and torch.equal(inside.weights, outside.weights)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_parts_have_no_gradient_and_do_not_depend_on_the_objective_where_they_compare(name):
    result, _ = call(build_objective(name), LATENT)
    assert not any(part.requires_grad for part in result.parts.values())
    assert torch.equal(result.parts["mse"], plain(LATENT)[0])
    assert result.weights.shape == (4, 1, 16, 16)
    assert (result.delta is None) == (build_objective(name).weighter is None)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_building_one_leaves_the_global_generator_alone(name):
    before = torch.get_rng_state()
    build_objective(name)
    assert torch.equal(before, torch.get_rng_state())


# Where gradients go


@pytest.mark.parametrize("name", LAWS)
def test_the_dice_term_reaches_the_denoiser_only_if_features_are_not_detached(name):
    for detach in (True, False):
        prediction = normal(*LATENT).requires_grad_()
        objective = build_objective(name, detach_features=detach)
        delta = objective(prediction, normal(*LATENT, seed=1), mixed_masks(16, 16), prediction.detach()).delta
        dice = alignment_loss(delta, mixed_masks(16, 16))
        (gradient,) = torch.autograd.grad(dice, prediction, allow_unused=True)
        assert gradient is None if detach else gradient.abs().max() > 0
        gradients = [
            call(build_objective(name, detach_features=detach, dice_weight=weight), LATENT)[1].grad
            for weight in (0.0, 1.0)
        ]
        assert torch.equal(*gradients) == detach


def test_detached_laws_gradient_is_the_plain_one_times_the_weights():
    result, prediction = call(build_objective("law"), LATENT)
    torch.testing.assert_close(prediction.grad, result.weights.detach() * plain(LATENT)[1])


@pytest.mark.parametrize("name", LAWS)
def test_every_weight_of_phi_gets_a_gradient(name):
    objective = build_objective(name)
    call(objective, LATENT)
    assert all(parameter.grad.abs().max() > 0 for parameter in objective.parameters())


@pytest.mark.parametrize("name", ["distillation", "law_v1"])
def test_the_teacher_learns_from_the_target_and_not_from_the_student(name):
    objective, masks = build_objective(name), mixed_masks(16, 16)
    gradients = []
    for seed in (0, 5):
        teacher = normal(*LATENT, seed=2).requires_grad_()
        objective(normal(*LATENT, seed=seed), normal(*LATENT, seed=1), masks, teacher).loss.backward()
        gradients.append(teacher.grad)
    assert torch.equal(*gradients)
    error = 2 * (normal(*LATENT, seed=2) - normal(*LATENT, seed=1)) / gradients[0].numel()
    weights = ratio_weights(masks) if name == "distillation" else 0.05
    torch.testing.assert_close(gradients[0], weights * error)


# The Dice term


def test_the_better_the_alignment_the_lower():
    mask = mixed_masks(16, 16)[[0, 3]]
    losses = [alignment_loss(amount * mask + (1 - amount) * (1 - mask), mask).item() for amount in (1, 0.8, 0.5, 0)]
    assert losses == sorted(losses) and losses[0] == pytest.approx(0.0, abs=1e-6) and losses[-1] > 0.99


def test_an_empty_mask_is_left_out_or_counted():
    delta = torch.sigmoid(normal(4, 1, 16, 16)).requires_grad_()
    masks = mixed_masks(16, 16)
    others = alignment_loss(delta[[0, 2, 3]], masks[[0, 2, 3]]) * 3
    for rule, of_the_empty in (("leave_out", 0.0), ("count", 1.0)):
        loss = alignment_loss(delta, masks, rule)
        torch.testing.assert_close(loss * 4, others + of_the_empty)
        (gradient,) = torch.autograd.grad(loss, delta)
        assert torch.isfinite(gradient).all() and gradient[1].abs().max() < 1e-9  # no matter which: counted, it idles
        result, _ = call(build_objective("law", empty_masks=rule), LATENT, torch.zeros(4, 1, 16, 16))
        assert result.parts["dice"].item() == pytest.approx(of_the_empty, abs=1e-6)


def test_phi_settles_on_the_lesion_at_its_own_learning_rate_and_not_at_the_denoisers():
    masks = torch.stack([mixed_masks(16, 16)[0].roll((6 * i, 5 * i), dims=(1, 2)) for i in range(4)])
    target, contrast = normal(4, 4, 16, 16, seed=1), {}
    for rate in (1e-3, 1e-5):
        objective = build_objective("law")
        optimizer = torch.optim.AdamW(parameter_groups([nn.Parameter(torch.zeros(1))], objective, 1e-5, rate))
        for step in range(125):
            result = objective(normal(4, 4, 16, 16, seed=step), target, masks)
            optimizer.zero_grad()
            result.loss.backward()
            optimizer.step()
        contrast[rate] = (result.delta[masks > 0].mean() - result.delta[masks == 0].mean()).item()
    assert contrast[1e-3] > 0.7 and contrast[1e-5] < 0.1, contrast


# By name


def test_objectives_say_whether_they_need_a_teacher():
    needs = {name: build_objective(name).needs_teacher for name in OBJECTIVES}
    assert needs == {"uniform": False, "ratio": False, "distillation": True, "law": False, "law_v1": True}


def test_options_reach_objective_and_weighter():
    objective = build_objective("law_v1", in_channels=3, seed=4, dice_weight=0.5, teacher_weight=0.1, gamma=0.4)
    assert (objective.dice_weight, objective.teacher_weight, objective.weighter.gamma) == (0.5, 0.1, 0.4)
    expected = LearnableAdaptiveWeighter(3, seed=4).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in objective.weighter.state_dict().items())


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("LAW", {}, "there are uniform, ratio, distillation, law, law_v1"),
        ("uniform", {"gamma": 0.2}, "'uniform' has no option gamma; it has none"),
        ("law", {"teacher_weight": 0.1, "gama": 0.2}, "no option gama, teacher_weight; it has activation, detach"),
        ("law", {"empty_masks": "skip"}, "leave_out, count"),
    ],
    ids=["name", "uniform", "law", "value"],
)
def test_what_cannot_be_built_is_named(name, options, words):
    with pytest.raises(InputError, match=words):
        build_objective(name, **options)


@pytest.mark.parametrize(
    ("name", "changed", "words"),
    [
        ("law_v1", {"teacher": None}, "needs the teacher's prediction"),
        ("law", {"target": normal(4, 3, 16, 16)}, r"target \(4, 3, 16, 16\), but prediction \(4, 4, 16, 16\)"),
        ("distillation", {"teacher": normal(4, 4, 8, 8)}, r"teacher \(4, 4, 8, 8\), but"),
        ("ratio", {"mask": mixed_masks(16, 16)[:3]}, "3 masks for 4 predictions"),
    ],
    ids=["no teacher", "target", "teacher", "masks"],
)
def test_what_does_not_go_together_is_named(name, changed, words):
    batch = {"prediction": normal(*LATENT), "target": normal(*LATENT), "mask": mixed_masks(16, 16)}
    with pytest.raises(InputError, match=words):
        build_objective(name)(**{**batch, "teacher": normal(*LATENT), **changed})


# Optimiser groups


@pytest.mark.parametrize("name", OBJECTIVES)
def test_phi_has_a_group_of_its_own(name):
    denoiser = nn.Linear(2, 2)
    denoiser.bias.requires_grad_(False)
    objective = build_objective(name)
    groups = parameter_groups(denoiser.parameters(), objective, 1e-5, weighter_lr=1e-3)
    optimizer = torch.optim.AdamW(groups)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    expected = {id(denoiser.weight): 1e-5, **{id(parameter): 1e-3 for parameter in objective.parameters()}}
    assert rates == expected
    assert [group["name"] for group in groups] == ["denoiser", "weighter"][: 2 if name in LAWS else 1]


def test_a_denoiser_with_nothing_to_train_is_named():
    with pytest.raises(InputError, match="choose what is trained"):
        parameter_groups(nn.Linear(2, 2).requires_grad_(False).parameters(), build_objective("law"), 1e-5)


# Table 6


def row(name: str, **changes: object) -> tuple[ObjectiveResult, list[Tensor]]:
    """Result and gradients, of the prediction and of φ, after a few steps of φ that drive δ apart."""
    objective = build_objective(**{**TABLE_6[name], **changes})
    if objective.weighter is not None:
        with torch.no_grad():
            objective.weighter.phi[-1].weight.mul_(400)
    result, prediction = call(objective, LATENT)
    return result, [prediction.grad, *(parameter.grad for parameter in objective.parameters())]


def test_table_6_has_six_rows_that_can_be_built():
    assert len(TABLE_6) == 6
    for switches in TABLE_6.values():
        assert torch.isfinite(call(build_objective(**switches), LATENT)[0].loss)


def test_table_6_goes_from_distillation_to_the_whole_of_law_one_switch_at_a_time():
    whole = {"name": "law_v1", "normalise": True, "w_min": 1e-3, "w_max": 2.0, "dice_weight": 1.0}
    rows = [{**whole, **switches} for switches in list(TABLE_6.values())[1:]]
    changed = [{key for key in whole if one[key] != other[key]} for one, other in pairwise(rows)]
    assert changed == [{"normalise"}, {"w_min"}, {"dice_weight"}, {"w_max"}]
    assert rows[3] == whole
    assert TABLE_6["distillation"] == {"name": "distillation"}


def test_rows_3_and_4_of_table_6_are_one_and_the_same():
    """The lower bound cannot bind after a sample's mean: loss, weights and every gradient are equal to the last bit."""
    (third, of_third), (fourth, of_fourth) = row("normalisation"), row("min_clamp")
    assert third.delta.min() < 0.05 and third.delta.max() > 0.95
    assert torch.equal(third.loss, fourth.loss) and torch.equal(third.weights, fourth.weights)
    assert all(torch.equal(one, other) for one, other in zip(of_third, of_fourth, strict=True))


def test_the_upper_bound_is_idle_in_row_2_of_table_6_and_not_in_the_others():
    for name in ("delta_map", "normalisation", "law"):
        (with_bound, one), (without, other) = row(name), row(name, w_max=None)
        same = all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
        assert torch.equal(with_bound.weights, without.weights) == same == (name == "delta_map")


def test_row_2_of_table_6_weighs_by_the_prior_and_delta_alone():
    result, _ = row("delta_map")
    prior = ratio_prior(mixed_masks(16, 16))[[0, 3]]
    torch.testing.assert_close(result.weights[[0, 3]], prior * (0.8 + 0.4 * result.delta[[0, 3]]))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gamma": "high"}, "gamma has to be a number, such as 0.2; it is 'high'"),
        ({"kernel_sizes": 3}, "kernel_sizes has to be 3 numbers in brackets"),
        ({"dice_weight": None}, "dice_weight has to be a number"),
        ({"normalise": 1}, "normalise has to be True or False"),
        ({"hidden_channels": 32.5}, "hidden_channels has to be a number, such as 32"),
        ({"activation": 5}, "activation has to be a name"),
    ],
)
def test_an_option_of_another_kind_is_told(options, words):
    with pytest.raises(InputError, match=re.escape(words)):
        build_objective("law", **options)


def test_an_objective_says_what_it_was_made_of():
    made = build_objective("law", w_max=None, gamma=0)
    assert made.settings == {"name": "law", "w_max": None, "gamma": 0}

"""The weighter (equations 3 to 7): values worked by hand, its laws, and where its bounds bind."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from common.errors import InputError
from common.law import LearnableAdaptiveWeighter, ratio_prior, ratio_weights
from tests.law.drawn import LATENT, PIXELS, mixed_masks, normal, share

CORNER = torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]])  # r = 1/4


def weigh(delta: Tensor, mask: Tensor, **options: object) -> Tensor:
    return LearnableAdaptiveWeighter(**options).weigh(delta, mask)


def unbounded(delta: Tensor, mask: Tensor, **options: object) -> Tensor:
    return weigh(delta, mask, w_min=None, w_max=None, **options)


def extremes(mask: Tensor) -> list[Tensor]:
    """δ maps that push a weight as far as it goes: regions at 0 or 1, and one pixel against all others."""
    maps = [inside * mask + outside * (1 - mask) for inside in (0.0, 1.0) for outside in (0.0, 1.0)]
    for start in maps[:]:
        for position in (0, -1):  # a lesion pixel and a background pixel of `share`
            lone = start.clone().flatten()
            lone[position] = 1 - lone[position]
            maps.append(lone.view(mask.shape))
    return [*maps, torch.full_like(mask, 0.5), torch.sigmoid(9 * normal(*mask.shape))]


# Values worked by hand


def test_equation_3_by_hand():
    torch.testing.assert_close(ratio_prior(CORNER), torch.tensor([[[[0.75, 0.25], [0.25, 0.25]]]]))


def test_equation_4_by_hand():
    # φ = 3·relu(relu(f + 2m) − 1), so that δ = σ(relu(relu(f + 2m) − 1)) at τ = 3.
    weighter = LearnableAdaptiveWeighter(in_channels=1, hidden_channels=1, kernel_sizes=(1, 1, 1))
    first, second, third = (layer for layer in weighter.phi if isinstance(layer, nn.Conv2d))
    with torch.no_grad():
        for layer, weight, bias in ((first, [1.0, 2.0], 0.0), (second, [1.0], -1.0), (third, [3.0], 0.0)):
            layer.weight.copy_(torch.tensor(weight).view(layer.weight.shape))
            layer.bias.fill_(bias)
    features = torch.tensor([[[[0.5, 3.0], [-4.0, 1.0]]]])
    found = weighter(features, CORNER).delta
    expected = [1 / (1 + math.exp(-x)) for x in (1.5, 2.0, 0.0, 0.0)]
    torch.testing.assert_close(found.flatten(), torch.tensor(expected))


def test_equations_5_to_7_by_hand():
    delta = torch.tensor([[[[1.0, 0.0], [0.5, 1.0]]]])
    # μ = 1.2, 0.8, 1, 1.2; times 3/4 and 1/4: 0.9, 0.2, 0.25, 0.3, of mean 0.4125; the first exceeds 2 and is held.
    adapted = torch.tensor([0.9, 0.2, 0.25, 0.3])
    torch.testing.assert_close(unbounded(delta, CORNER, normalise=False).flatten(), adapted)
    torch.testing.assert_close(unbounded(delta, CORNER).flatten(), adapted / 0.4125)
    expected = torch.tensor([2.0, 0.2 / 0.4125, 0.25 / 0.4125, 0.3 / 0.4125])
    torch.testing.assert_close(weigh(delta, CORNER).flatten(), expected)


def test_it_divides_before_it_clamps():
    mask, delta = share(36), torch.full((1, 1, 60, 60), 0.5)  # r = 0.01
    # Lesion 0.99 and background 0.01; by the mean 0.0198 these are 50 and 1/1.98; then 50 is held at 2. Clamped first,
    # nothing would have been held, and the lesion would weigh 50.
    found = weigh(delta, mask).flatten()
    torch.testing.assert_close(found[[0, -1]], torch.tensor([2.0, 1 / 1.98]))


# The prior


@pytest.mark.parametrize("pixels", [0, 1, 9, 360, 1800, 3240, 3599, 3600])
def test_the_priors_mean_is_2r_1_minus_r(pixels):
    ratio = pixels / 3600
    assert ratio_prior(share(pixels)).mean().item() == pytest.approx(2 * ratio * (1 - ratio), abs=1e-7)


@pytest.mark.parametrize("pixels", [1, 9, 360, 1800, 3240])
def test_normalised_a_lesion_pixel_weighs_1_over_2r(pixels):
    ratio = pixels / 3600
    weights = unbounded(torch.full((1, 1, 60, 60), 0.5), share(pixels)).flatten()
    assert weights[0].item() == pytest.approx(1 / (2 * ratio), rel=1e-5)
    assert weights[-1].item() == pytest.approx(1 / (2 * (1 - ratio)), rel=1e-5)


def test_the_prior_does_not_tell_a_mask_from_its_complement():
    """So a lesion that fills more than half weighs less than its background."""
    mask = share(2700)
    torch.testing.assert_close(ratio_prior(mask), ratio_prior(1 - mask))
    assert ratio_prior(mask).flatten()[0] < ratio_prior(mask).flatten()[-1]


def test_gamma_0_gives_the_normalised_ratio_prior():
    mask, features = mixed_masks(16, 16)[[0, 3]], normal(2, 4, 16, 16)
    prior = ratio_prior(mask)
    found = LearnableAdaptiveWeighter(gamma=0.0, w_min=None, w_max=None)(features, mask).weights
    torch.testing.assert_close(found, prior / prior.mean(dim=(1, 2, 3), keepdim=True))
    held = LearnableAdaptiveWeighter(gamma=0.0)(features, mask).weights
    assert torch.equal(held, found.clamp(1e-3, 2.0))
    raw = LearnableAdaptiveWeighter(gamma=0.0, w_min=None, w_max=None, normalise=False)(features, mask).weights
    assert torch.equal(raw, prior)


# Mean and bounds


@pytest.mark.parametrize("shape", [LATENT, PIXELS], ids=["latent", "pixels"])
def test_mean_one_before_the_clamp_and_bounds_after(shape):
    features, mask = 20 * normal(*shape), mixed_masks(*shape[2:])
    free = LearnableAdaptiveWeighter(shape[1], w_min=None, w_max=None)(features, mask).weights
    torch.testing.assert_close(free.mean(dim=(1, 2, 3)), torch.ones(4))
    assert free.max() > 2
    for low, high in ((1e-3, 2.0), (0.9, 1.1), (None, 1.5), (0.8, None)):
        held = LearnableAdaptiveWeighter(shape[1], w_min=low, w_max=high)(features, mask)
        assert held.weights.shape == held.delta.shape == (4, 1, *shape[2:])
        assert torch.equal(held.weights, free.clamp(low, high))


@pytest.mark.parametrize("gamma", [0.0, 0.2, 1.0])
def test_multipliers_stay_within_gamma(gamma):
    mask = share(900)
    for delta in extremes(mask):
        ratio = unbounded(delta, mask, gamma=gamma, normalise=False) / ratio_prior(mask)
        assert 1 - gamma - 1e-5 <= ratio.min() and ratio.max() <= 1 + gamma + 1e-5


def test_no_weight_exceeds_the_upper_bound_without_the_mean():
    """w_max is idle there: Table 6's second row is the same with it and without."""
    for pixels in (1, 60, 900, 3599):
        for delta in extremes(share(pixels)):
            assert unbounded(delta, share(pixels), normalise=False).max() <= 1.2


def test_after_the_clamp_a_small_lesion_has_a_sixth_of_the_weight_not_half():
    mask = share(180)  # r = 0.05: normalised, lesion and background weigh the same in all; held, 2r against 1/2
    delta = torch.full_like(mask, 0.5)
    free, held = unbounded(delta, mask), weigh(delta, mask)
    assert ((free * mask).sum() / free.sum()).item() == pytest.approx(0.5, abs=1e-5)
    assert held.mean().item() == pytest.approx(0.6, abs=1e-5)
    assert ((held * mask).sum() / held.sum()).item() == pytest.approx(0.1 / 0.6, abs=1e-5)


def test_once_delta_is_the_mask_small_lesions_weigh_2_and_background_two_fifths_over_1_minus_r():
    """What the Dice term drives δ to: below r = 0.3 the weights are then constants of r, and no error moves them."""
    for pixels in (9, 90, 360, 1044):
        mask = share(pixels)
        weights, ratio = weigh(mask, mask).flatten(), pixels / 3600
        torch.testing.assert_close(weights[[0, -1]], torch.tensor([2.0, 0.4 / (1 - ratio)]))


# Where the bounds bind


def test_the_lower_bound_cannot_bind_after_a_samples_mean():
    """No weight falls to (1 − γ)/(2(1 + γ)), a third: so rows 3 and 4 of Table 6 are one and the same."""
    lowest = math.inf
    for pixels in (1, 2, 36, 360, 900, 1800, 2700, 3564, 3598, 3599):
        mask = share(pixels)
        for delta in extremes(mask):
            weights = unbounded(delta, mask)
            lowest = min(lowest, weights.min().item())
            assert torch.equal(weights, weigh(delta, mask, w_max=None))
    assert 1 / 3 < lowest < 1 / 3 + 1e-3  # a third is the bound, and no better one is


def test_the_lower_bound_can_bind_where_it_should():
    delta = torch.ones(1, 1, 60, 60)
    delta.view(-1)[-1] = 0.0
    assert weigh(delta, share(900), gamma=1.0).min().item() == pytest.approx(1e-3)  # multipliers down to 0
    masks = torch.cat([share(1800), share(1800), share(1)])  # a batch's mean lets a small lesion's background go under
    found = weigh(torch.full_like(masks, 0.5), masks, reduction="batch")
    assert (found[2] == 1e-3).sum() == 3599 and found[:2].min() > 0.5


def held_lesion_pixels(delta: Tensor, mask: Tensor) -> float:
    """Share of the lesion at w_max = 2, γ = 0.2."""
    return (weigh(delta, mask)[mask > 0] >= 2.0).float().mean().item()


def test_a_lesion_below_a_sixth_is_held_whatever_delta_is():
    for pixels in (1, 9, 90, 360, 594):  # to r = 0.165
        for delta in extremes(share(pixels)):
            assert held_lesion_pixels(delta, share(pixels)) == 1.0


def test_between_a_sixth_and_a_fifth_single_pixels_can_stand_out():
    mask = share(612)  # r = 0.17
    lone = torch.ones_like(mask)
    lone.view(-1)[0] = 0.0  # μ is 0.8 there and 1.2 elsewhere: 0.8/(0.17·2.4) = 1.96
    assert held_lesion_pixels(lone, mask) == pytest.approx(611 / 612)


@pytest.mark.parametrize(
    ("lesion", "background", "threshold"),
    [(0.0, 1.0, 0.2), (0.5, 0.5, 0.25), (1.0, 1.0, 0.25), (0.0, 0.0, 0.25), (1.0, 0.0, 0.3)],
)
def test_with_constant_regions_the_lesion_is_held_below_a_threshold(lesion, background, threshold):
    """μ_L/(r(μ_L + μ_B)) ≥ 2: from 0.2, where δ says the contrary of the mask, to 0.3, where it says the same."""
    for pixels, expected in ((round(3600 * threshold) - 4, 1.0), (round(3600 * threshold) + 4, 0.0)):
        mask = share(pixels)
        assert held_lesion_pixels(lesion * mask + background * (1 - mask), mask) == expected


def test_above_three_eighths_no_lesion_pixel_is_held():
    lone = torch.zeros(1, 1, 60, 60)
    lone.view(-1)[0] = 1.0  # μ is 1.2 there and 0.8 elsewhere: 1.2/(r·1.6)
    assert held_lesion_pixels(lone, share(1332)) > 0  # r = 0.37
    for delta in extremes(share(1368)):  # r = 0.38
        assert held_lesion_pixels(delta, share(1368)) == 0.0


def test_a_held_lesions_own_error_teaches_delta_nothing():
    """What is left to δ inside is the background's weight, through the mean: more inside is less outside."""
    mask = share(360)  # r = 0.1
    delta = torch.full_like(mask, 0.5).requires_grad_()
    gradients = []
    for lesion_error in (0.0, 1.0, 100.0):
        error = lesion_error * mask + (1 - mask)
        (gradient,) = torch.autograd.grad((weigh(delta, mask) * error).mean(), delta)
        gradients.append(gradient)
    assert torch.equal(gradients[0], gradients[1]) and torch.equal(gradients[0], gradients[2])
    assert (gradients[0][mask > 0] < 0).all()


def test_unheld_delta_falls_where_the_error_is_above_the_weighted_mean():
    """Equation 8 alone teaches φ to look away from errors: only the Dice term holds δ to the lesion."""
    mask, error = share(1800), normal(1, 1, 60, 60).square()
    delta = torch.sigmoid(normal(1, 1, 60, 60, seed=1)).requires_grad_()
    weights = unbounded(delta, mask)
    loss = (weights * error).mean()
    (gradient,) = torch.autograd.grad(loss, delta)
    away = (error - loss).abs() > 1e-4
    assert torch.equal((gradient > 0)[away], (error > loss)[away])


# Masks without a ratio


@pytest.mark.parametrize("options", [{}, {"normalise": False}, {"reduction": "batch"}], ids=str)
@pytest.mark.parametrize("value", [0.0, 1.0], ids=["lesion-free", "full"])
@pytest.mark.parametrize("shape", [LATENT, PIXELS], ids=["latent", "pixels"])
def test_without_lesion_or_background_weights_are_one_and_finite_both_ways(shape, value, options):
    weighter = LearnableAdaptiveWeighter(shape[1], detach_features=False, **options)
    features = normal(*shape).requires_grad_()
    weights, delta = weighter(features, torch.full((4, 1, *shape[2:]), value))
    assert torch.equal(weights, torch.ones_like(weights))
    ((weights * normal(*weights.shape)).sum() + delta.sum()).backward()
    gradients = [features.grad, *(parameter.grad for parameter in weighter.parameters())]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_ratio_weights_are_the_prior_but_for_masks_that_have_no_ratio():
    masks = mixed_masks(16, 12)
    found = ratio_weights(masks)
    assert torch.equal(found[[0, 3]], ratio_prior(masks[[0, 3]])) and (found[1:3] == 1).all()


# Batches


@pytest.mark.parametrize("shape", [LATENT, PIXELS], ids=["latent", "pixels"])
def test_a_batch_is_weighed_as_its_samples_are(shape):
    weighter = LearnableAdaptiveWeighter(shape[1])
    features, masks = normal(*shape), mixed_masks(*shape[2:])
    whole = weighter(features, masks)
    for i in range(4):
        alone = weighter(features[i : i + 1], masks[i : i + 1])
        torch.testing.assert_close(whole.weights[i : i + 1], alone.weights)
        torch.testing.assert_close(whole.delta[i : i + 1], alone.delta)


def test_a_batchs_mean_is_one_without_those_that_have_no_ratio():
    features, masks = normal(4, 4, 16, 12), mixed_masks(16, 12)
    free = LearnableAdaptiveWeighter(reduction="batch", w_min=None, w_max=None)
    found = free(features, masks).weights
    assert (found[1:3] == 1).all()
    assert found[[0, 3]].mean().item() == pytest.approx(1.0, abs=1e-5)
    assert abs(found[0].mean().item() - 1.0) > 0.1  # the small lesion weighs less as a whole, the large one more
    torch.testing.assert_close(free(features[[0, 3]], masks[[0, 3]]).weights, found[[0, 3]])


# φ


def test_phi_has_three_convolutions_of_32_channels():
    layers = [layer for layer in LearnableAdaptiveWeighter().phi if isinstance(layer, nn.Conv2d)]
    assert [(layer.in_channels, layer.out_channels) for layer in layers] == [(5, 32), (32, 32), (32, 1)]
    assert len(LearnableAdaptiveWeighter().phi) == 5  # nothing after the last but the sigmoid of equation 4


@pytest.mark.parametrize("sizes", [(1, 1, 1), (3, 3, 3), (5, 3, 1)], ids=str)
@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "tanh"])
def test_phis_kernels_and_activation_can_be_chosen(sizes, activation):
    weighter = LearnableAdaptiveWeighter(3, 8, kernel_sizes=sizes, activation=activation)
    mask = mixed_masks(16, 16)
    found = weighter(normal(4, 3, 16, 16), mask)
    reach = 1 + sum(size - 1 for size in sizes)
    moved = mask.clone()
    moved[1, 0, 8, 8] = 1
    changed = (weighter(normal(4, 3, 16, 16), moved).delta - found.delta)[1, 0] != 0
    rows, columns = changed.nonzero(as_tuple=True)
    assert len(rows) and rows.max() - rows.min() < reach and columns.max() - columns.min() < reach


def test_delta_starts_nearly_uniform_and_depends_on_features_and_mask():
    weighter, features = LearnableAdaptiveWeighter(), normal(4, 4, 16, 16)
    delta = weighter(features, mixed_masks(16, 16)).delta
    assert (delta - 0.5).abs().max() < 0.1
    assert not torch.equal(delta, weighter(features.flip(1), mixed_masks(16, 16)).delta)
    assert not torch.equal(delta, weighter(features, 1 - mixed_masks(16, 16)).delta)


def test_the_temperature_divides_the_logit():
    features, mask = normal(4, 4, 16, 16), mixed_masks(16, 16)
    warm, cold = (torch.logit(LearnableAdaptiveWeighter(temperature=t)(features, mask).delta) for t in (3.0, 1.0))
    torch.testing.assert_close(warm * 3.0, cold, atol=1e-5, rtol=1e-4)


def test_features_are_detached_unless_asked():
    mask = mixed_masks(16, 16)
    for detach in (True, False):
        features = normal(4, 4, 16, 16).requires_grad_()
        weights, delta = LearnableAdaptiveWeighter(detach_features=detach)(features, mask)
        for output in (weights, delta):
            (gradient,) = torch.autograd.grad(output.square().sum(), features, allow_unused=True, retain_graph=True)
            assert gradient is None if detach else gradient.abs().sum() > 0


def test_first_weights_come_from_the_seed_and_leave_the_global_generator_alone():
    before = torch.get_rng_state()
    one, same, other = (LearnableAdaptiveWeighter(seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.phi[0].weight, same.phi[0].weight)
    assert not torch.equal(one.phi[0].weight, other.phi[0].weight)
    bound = (5 * 9) ** -0.5  # as torch itself begins
    assert 0.95 * bound < one.phi[0].weight.abs().max() <= bound


def test_the_state_dict_round_trips():
    source, copy = LearnableAdaptiveWeighter(seed=1), LearnableAdaptiveWeighter(seed=2)
    features, mask = normal(4, 4, 16, 16), mixed_masks(16, 16)
    assert not torch.equal(source(features, mask).delta, copy(features, mask).delta)
    state = source.state_dict()
    assert all(value.is_contiguous() for value in state.values())  # safetensors takes no other
    copy.load_state_dict(state)
    assert torch.equal(source(features, mask).weights, copy(features, mask).weights)


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_autocast_changes_no_weight(dtype):
    weighter, mask = LearnableAdaptiveWeighter(), mixed_masks(16, 16)
    for scale in (1.0, 6e4):
        features = (scale * normal(4, 4, 16, 16).clamp(-1, 1)).to(dtype)
        with torch.autocast("cpu", dtype):
            inside = weighter(features, mask)
        outside = weighter(features.float(), mask)
        assert inside.weights.dtype == torch.float32 and torch.isfinite(inside.weights).all()
        assert torch.equal(inside.weights, outside.weights) and torch.equal(inside.delta, outside.delta)


def test_a_weighter_of_half_precision_weighs_in_float32():
    weighter = LearnableAdaptiveWeighter(w_max=None).bfloat16()
    weights, _ = weighter(normal(4, 4, 16, 16).bfloat16(), mixed_masks(16, 16))
    assert weights.dtype == torch.float32
    torch.testing.assert_close(weights.mean(dim=(1, 2, 3)), torch.ones(4))


def test_gradients_are_those_of_finite_differences():
    weighter = LearnableAdaptiveWeighter(2, 3, activation="tanh", w_max=None, detach_features=False).double()
    features = normal(2, 2, 5, 4).double().requires_grad_()
    mask = mixed_masks(5, 4)[[0, 3]]
    assert torch.autograd.gradcheck(lambda x: weighter(x, mask), features)


# Wrong arguments


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"temperature": 0.0}, "temperature is 0.0"),
        ({"gamma": 1.5}, "gamma is 1.5"),
        ({"w_min": 1.2}, "w_min is 1.2"),
        ({"w_max": 0.5}, "w_max is 0.5"),
        ({"reduction": "image"}, "sample, batch"),
        ({"kernel_sizes": (3, 3)}, "three odd numbers"),
        ({"kernel_sizes": (3, 2, 3)}, "three odd numbers"),
        ({"activation": "swish"}, "relu, silu"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named(options, words):
    with pytest.raises(InputError, match=words):
        LearnableAdaptiveWeighter(**options)


def test_every_wrong_argument_is_named_at_once():
    with pytest.raises(InputError, match=r"gamma is -1.*w_max is 0"):
        LearnableAdaptiveWeighter(gamma=-1, w_max=0)

"""Painting: equal to DDIM written out, the same image in whatever company, and no weighter anywhere."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

import common.law.sampling
from common.errors import InputError
from common.law.codec import PixelCodec
from common.law.loading import Parts
from common.law.painter import MaskPainter
from common.law.sampling import sample
from common.law.text import PromptEmbeddings
from tests.law.drawn import normal
from tests.law.small import PROMPT, SIDE, masks, pixel_parts, prompts
from tests.network_contract import assert_close

SEEDS = [5, 6, 2**62, 8, 9]


@pytest.fixture(scope="module")
def parts() -> Parts:
    return pixel_parts()


def paint(parts: Parts, shown: Tensor | None, seeds: list[int], **options) -> Tensor:
    given = {
        "prompts": prompts(parts),
        "scheduler": parts.scheduler,
        "codec": PixelCodec(),
        "steps": 4,
        "batch_size": 2,
    }
    return sample(parts.denoiser, shown, seeds, **{**given, **options})


@torch.no_grad()
def ddim_written_out(parts: Parts, mask: Tensor, seed: int, steps: int, guidance: float, eta: float) -> Tensor:
    """Song et al. 2021, equations 12 and 16, with v as Salimans and Ho have it, for one mask, in float64."""
    generator = torch.Generator().manual_seed(seed)
    cumulative = torch.cat([parts.scheduler.alphas_cumprod.double(), torch.ones(1).double()])  # the last is t = −1
    both = prompts(parts)
    x = torch.randn(1, 3, SIDE, SIDE, generator=generator)
    stride = 1000 // steps
    for t in range(999, -1, -stride):
        time = torch.tensor([t])
        without, given = (parts.denoiser(x.float(), time, text, mask[None]) for text in (both.dropped, both.given))
        v = without.double() + guidance * (given.double() - without.double())
        now, before = cumulative[t], cumulative[t - stride]
        clean = (now.sqrt() * x - (1 - now).sqrt() * v).clamp(-1, 1)
        noise = now.sqrt() * v + (1 - now).sqrt() * x
        sigma = eta * ((1 - before) / (1 - now) * (1 - now / before)).sqrt()
        x = before.sqrt() * clean + (1 - before - sigma**2).clamp(min=0).sqrt() * noise
        if eta > 0:
            x = x + sigma * torch.randn(1, 3, SIDE, SIDE, generator=generator)
    return (x / 2 + 0.5).clamp(0, 1)[0]


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("guidance", [3.0, 10.0])
def test_it_is_ddim_with_guidance(parts: Parts, guidance: float, eta: float) -> None:
    shown = masks(2)
    found = paint(parts, shown, SEEDS[:2], guidance=guidance, eta=eta, steps=5)
    for image, mask, seed in zip(found, shown, SEEDS, strict=False):
        assert_close(image, ddim_written_out(parts, mask, seed, 5, guidance, eta), 1e-4)


def test_images_are_between_black_and_white_and_differ(parts: Parts) -> None:
    found = paint(parts, masks(3), SEEDS[:3])
    assert (found.shape, found.dtype) == ((3, 3, SIDE, SIDE), torch.float32)
    assert found.min() >= 0 and found.max() <= 1
    assert all((found[i] - found[j]).abs().max() > 0.05 for i, j in ((0, 1), (0, 2), (1, 2)))


# The same image in whatever company


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("batch_size", [1, 2, 3, 4])
def test_an_image_does_not_depend_on_the_others(parts: Parts, batch_size: int, eta: float) -> None:
    """Bit for bit: alone, in another order, and in a run that was cut in two."""
    shown = masks(5)

    def painted(indices: list[int]) -> Tensor:
        return paint(parts, shown[indices], [SEEDS[index] for index in indices], batch_size=batch_size, eta=eta)

    together = painted([0, 1, 2, 3, 4])
    assert torch.equal(painted([3])[0], together[3])
    assert torch.equal(painted([4, 2, 0, 1, 3]), together[[4, 2, 0, 1, 3]])
    assert torch.equal(torch.cat([painted([0, 1, 2]), painted([3, 4])]), together)


def test_another_batch_size_is_rounding_alone(parts: Parts) -> None:
    one, other = (paint(parts, masks(5), SEEDS, batch_size=size) for size in (1, 5))
    assert_close(one, other, 1e-4)


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_device_paints_the_same_but_for_rounding(device: str) -> None:
    painted = []
    for where in ("cpu", device):
        parts = pixel_parts()
        parts.prompt = PROMPT
        painter = MaskPainter(parts, steps=4, guidance=3.0).to(where)
        painted.append(painter(masks(2).to(where), seeds=[1, 2]))
    assert painted[1].device.type == "cpu"
    assert (painted[0] - painted[1]).abs().mean() < 0.01


def test_the_seed_decides_and_the_global_generator_has_no_part(parts: Parts) -> None:
    state = torch.random.get_rng_state()
    first = paint(parts, masks(2), [1, 2], eta=1.0)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.rand(3)
    assert torch.equal(paint(parts, masks(2), [1, 2], eta=1.0), first)
    other = paint(parts, masks(2), [1, 3], eta=1.0)
    assert torch.equal(other[0], first[0])
    assert not torch.allclose(other[1], first[1])


def test_the_mask_decides_too(parts: Parts) -> None:
    shown = masks(1)
    assert not torch.allclose(paint(parts, shown, [1]), paint(parts, 1 - shown, [1]))


# Guidance


def test_without_guidance_only_the_prompt_counts(parts: Parts) -> None:
    given = prompts(parts)
    other = PromptEmbeddings(given.given, torch.ones_like(given.dropped))
    plain = paint(parts, masks(2), [1, 2], guidance=1.0)
    assert torch.equal(paint(parts, masks(2), [1, 2], guidance=1.0, prompts=other), plain)
    assert not torch.allclose(paint(parts, masks(2), [1, 2], guidance=3.0), plain)


def test_the_unconditional_branch_keeps_the_mask(parts: Parts) -> None:
    """With one prompt on both sides guidance amplifies nothing; it would, were the mask dropped on one."""
    both = PromptEmbeddings(*[prompts(parts).given] * 2)
    plain = paint(parts, masks(2), [1, 2], guidance=1.0, prompts=both)
    assert_close(paint(parts, masks(2), [1, 2], guidance=10.0, prompts=both), plain, 1e-4)


# What it costs, and what is not there


def flops(function) -> int:
    with FlopCounterMode(display=False) as counter:
        function()
    return counter.get_total_flops()


def test_the_scale_multiplies_what_the_control_network_adds(parts: Parts) -> None:
    shown = masks(2)
    plain = paint(parts, shown, SEEDS[:2])
    assert torch.equal(paint(parts, shown, SEEDS[:2], control_scale=1.0), plain)
    assert not torch.allclose(paint(parts, shown, SEEDS[:2], control_scale=2.0), plain)
    assert_close(paint(parts, shown, SEEDS[:2], control_scale=0.0), paint(parts, None, SEEDS[:2], image_size=SIDE))


@pytest.mark.parametrize(("guidance", "branches"), [(10.0, 2), (1.0, 1)])
def test_painting_costs_the_denoiser_and_nothing_else(parts: Parts, guidance: float, branches: int) -> None:
    text, shown = prompts(parts).given, masks(1)
    with torch.no_grad():
        once = flops(lambda: parts.denoiser(normal(1, 3, SIDE, SIDE), torch.tensor([5]), text, shown))
    assert once > 0
    assert flops(lambda: paint(parts, masks(4), SEEDS[:4], guidance=guidance, steps=3)) == 3 * 4 * branches * once


def test_no_weighter_is_anywhere_near() -> None:
    source = Path(common.law.sampling.__file__).read_text()
    imported = {node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)}
    assert imported & {"denoiser", "codec", "text"} == {"denoiser", "codec", "text"}
    assert not imported & {"weighter", "objectives", "alignment", None}


def test_no_gradient_is_kept(parts: Parts) -> None:
    assert not paint(parts, masks(1), [1]).requires_grad


def test_the_scheduler_stays_as_it_was(parts: Parts) -> None:
    before = parts.scheduler.timesteps.clone()
    paint(parts, masks(1), [1])
    assert torch.equal(parts.scheduler.timesteps, before)
    assert parts.scheduler.num_inference_steps is None


def test_progress_counts_every_step_of_every_batch(parts: Parts) -> None:
    seen: list[tuple[int, int]] = []
    paint(parts, masks(5), SEEDS, steps=4, batch_size=2, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(done, 12) for done in range(1, 13)]


# A prior


def test_a_prior_paints_without_masks() -> None:
    prior = pixel_parts(control=False)
    found = paint(prior, None, [1, 2, 3], image_size=SIDE)
    assert found.shape == (3, 3, SIDE, SIDE)
    assert torch.equal(paint(prior, None, [3], image_size=SIDE)[0], found[2])


def test_a_fresh_control_network_paints_what_the_prior_paints() -> None:
    parts = pixel_parts(control=False).add_control()
    assert torch.equal(paint(parts, masks(2), [1, 2]), paint(parts, None, [1, 2], image_size=SIDE))


# What is wrong is one line


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": [1]}, r"masks: \(2, 1, 16, 16\) has to be \(1, 1, H, W\)"),
        ({"seeds": [1, -1]}, "seeds: one number"),
        ({"seeds": []}, "seeds: one number"),
        ({"shown": masks(2)[:, 0]}, "masks: "),
        ({"shown": None}, "image_size: without masks"),
        ({"steps": 0}, "steps: 0"),
        ({"batch_size": 0}, "batch_size: 0"),
        ({"guidance": float("inf")}, "guidance: inf has to be a finite number"),
        ({"control_scale": -1.0}, "control_scale: -1.0 has to be a number, 0 or more"),
        ({"eta": 1.5}, "eta: 1.5 has to lie in"),
    ],
)
def test_what_does_not_fit_is_told(parts: Parts, change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        paint(parts, **{"shown": masks(2), "seeds": [1, 2], **change})


def test_a_codec_of_another_family_is_told(parts: Parts) -> None:
    codec = PixelCodec()
    codec.factor = 8
    with pytest.raises(InputError, match="load both from one folder"):
        paint(parts, masks(1), [1], codec=codec)

"""What an objective costs in a training step, and what the caches save, side by side in one run.

Weights are random: time and memory do not depend on them. With caches, a step reads latents and prompt from memory;
without, it encodes image and prompt in every step, with the autoencoder and CLIP's text encoder held beside the
denoiser. Pixel space has no encoders, so that the second table is Stable Diffusion's alone.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from typing import Any

import torch
from torch import Tensor

from common.errors import InputError, reports_input_errors
from common.law import DenoisingLoss, build_objective, parameter_groups
from common.law.codec import AutoencoderCodec
from common.law.denoiser import MaskConditionedDenoiser, private_seed
from common.law.denoising import draw
from common.law.engine import autocast
from common.law.libraries import AutoencoderKL, UNet2DConditionModel
from common.law.presets import PRESETS
from common.law.text import HashedText, PromptEmbeddings

from . import reporting
from .order_memory import median_ratio, seconds_in_turns
from .peak_memory import MEBIBYTE, ROOT, AllocatedMemory, ResidentMemory

OBJECTIVES = ("uniform", "ratio", "law", "distillation")
LIMITS = {"tiny": 1.05, "sd15": 1.01}  # of a step of law over one of uniform
CACHE_LIMIT = 1.3
TOKENS = 77
# The published configurations, for random weights; a tenth of the width with --narrow.
UNET = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, "cross_attention_dim": 768, "attention_head_dim": 8}
WIDTHS = {False: (320, 640, 1280, 1280), True: (32, 64, 128, 128)}
AUTOENCODER_WIDTHS = {False: (128, 256, 512, 512), True: (32, 32, 64, 64)}
TEXT = {False: (768, 3072, 12, 12), True: (64, 256, 4, 4)}  # width, of the hidden layer, layers, heads


def _unet(settings: argparse.Namespace) -> UNet2DConditionModel:
    preset = PRESETS[settings.preset].at(settings.size)
    if preset.unet is not None:
        return preset.new_unet(seed=0)
    shape = {**UNET, "block_out_channels": WIDTHS[settings.narrow]}
    if settings.narrow:
        shape["cross_attention_dim"] = TEXT[True][0]
    with private_seed(0):
        return UNet2DConditionModel(sample_size=preset.latent_size, **shape)


class Step:
    """A training step of an objective on a fixed random batch, as `DenoisingTrainer` does it without an average.

    Args:
        objective: by name.
        settings: of the command.
        denoiser: of another step, to share; None for a new one.
    """

    def __init__(
        self, objective: str, settings: argparse.Namespace, denoiser: MaskConditionedDenoiser | None = None
    ) -> None:
        self.preset, self.settings = PRESETS[settings.preset].at(settings.size), settings
        self.device = torch.device(settings.device)
        if denoiser is None:
            denoiser = MaskConditionedDenoiser(_unet(settings), patch=self.preset.patch)
            denoiser.add_control(self.preset.embedding_channels).set_trainable(settings.trainable)
        width = denoiser.unet.config.cross_attention_dim
        prompts = PromptEmbeddings(*HashedText(width, TOKENS).encode(["a prompt", ""]).split(1))
        goal = build_objective(objective, in_channels=self.preset.latent_channels)
        self.network = DenoisingLoss(denoiser, goal, self.preset.new_scheduler(), prompts).to(self.device).train()
        groups = parameter_groups(self.network.trained_parameters(), goal, 1e-5)
        self.optimizer = torch.optim.AdamW(groups)
        batch, side, latent = settings.batch, self.preset.image_size, self.preset.latent_size
        shape = (batch, self.preset.latent_channels, latent, latent)
        self.chance = draw(shape, 1000, 0.05, (0,)).to(self.device)
        generator = torch.Generator().manual_seed(0)
        self.images = (2 * torch.rand(batch, 3, side, side, generator=generator) - 1).to(self.device)
        self.latents = torch.randn(shape, generator=generator).to(self.device)
        self.masks = torch.zeros(batch, 1, side, side, device=self.device)
        self.masks[:, :, side // 4 : side // 2, side // 4 : side // 2] = 1

    def __call__(self) -> None:
        self.descend(self.latents)

    def descend(self, latents: Tensor) -> None:
        """Forward, backward and the optimiser."""
        with autocast(self.device, self.settings.amp):
            self.network(latents, self.masks, *self.chance, self.images).loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.trained_parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class EncodingStep(Step):
    """The same, where image and prompt are encoded first."""

    def __init__(self, objective: str, settings: argparse.Namespace) -> None:
        from transformers import CLIPTextConfig, CLIPTextModel

        super().__init__(objective, settings)
        width, hidden, layers, heads = TEXT[settings.narrow]
        with private_seed(0):
            autoencoder = AutoencoderKL(
                block_out_channels=AUTOENCODER_WIDTHS[settings.narrow],
                down_block_types=("DownEncoderBlock2D",) * 4,
                up_block_types=("UpDecoderBlock2D",) * 4,
                layers_per_block=2,
                latent_channels=4,
                scaling_factor=0.18215,
            )
            text = CLIPTextConfig(
                hidden_size=width, intermediate_size=hidden, num_hidden_layers=layers, num_attention_heads=heads
            )
            self.text = CLIPTextModel(text).to(self.device).eval().requires_grad_(False)
        self.codec = AutoencoderCodec(autoencoder.to(self.device))
        self.tokens = torch.randint(1000, (2, TOKENS), generator=torch.Generator().manual_seed(0)).to(self.device)

    def __call__(self) -> None:
        with torch.no_grad(), autocast(self.device, self.settings.amp):
            given, dropped = self.text(self.tokens)[0].float().split(1)
            self.network.given, self.network.dropped = given, dropped
            latents = self.codec.encode(self.images).float()
        self.descend(latents)


STEPS = {"cached": Step, "encoding": EncodingStep}


def _peak_here(which: str, settings: argparse.Namespace) -> int:
    # Of the denoiser with all that a step holds, weights and encoders with it.
    watch = (AllocatedMemory if torch.device(settings.device).type == "cuda" else ResidentMemory)()
    step = STEPS[which]("law", settings)
    step()
    step()
    return watch.peak()


def _peak(which: str, settings: argparse.Namespace) -> int:
    # In a process of its own, where nothing else is held; freed tensors go back to the system at once.
    given = json.dumps({**vars(settings), "threads": torch.get_num_threads()})
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.law_step", "--peak", which, "--given", given]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MEBIBYTE // 8)}
    environment = {key: value for key, value in environment.items() if key != "MALLOC_MMAP_MAX_"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"killed by signal {-done.returncode}"])[-1]
        raise InputError(f"measuring the memory of the {which} step failed: {last}; choose a smaller --batch")
    return int(done.stdout.split()[-1])


def objectives(settings: argparse.Namespace) -> dict[str, Any]:
    """Seconds of each objective's step, and its ratio to uniform's."""
    denoiser = Step("uniform", settings).network.denoiser  # one for all: it is large
    steps = {name: Step(name, settings, denoiser) for name in settings.objectives}
    seconds = seconds_in_turns(steps, settings.rounds)
    return {
        name: {"seconds": statistics.median(own), "by_uniform": median_ratio(own, seconds["uniform"])}
        for name, own in seconds.items()
    }


def caches(settings: argparse.Namespace) -> dict[str, Any]:
    """Seconds and bytes of a step with caches and without."""
    peaks = {which: _peak(which, settings) for which in STEPS}
    step = EncodingStep("law", settings)  # one denoiser for both: it is large
    turns = {"cached": lambda: step.descend(step.latents), "encoding": step}
    seconds = seconds_in_turns(turns, settings.rounds)
    return {
        **{which: {"seconds": statistics.median(seconds[which]), "peak_bytes": peaks[which]} for which in STEPS},
        "encoding_by_cached": median_ratio(seconds["encoding"], seconds["cached"]),
    }


def _kept(results: dict[str, Any], preset: str) -> bool:
    law = results.get("objectives", {}).get("law", {"by_uniform": 0.0})["by_uniform"] <= LIMITS[preset]
    found = results.get("caches")
    if found is None:
        return law
    smaller = found["cached"]["peak_bytes"] < found["encoding"]["peak_bytes"]
    return law and smaller and found["encoding_by_cached"] >= CACHE_LIMIT


def _print_objectives(found: dict[str, Any], preset: str) -> None:
    rows = [(name, f"{own['seconds']:.3f}", f"{own['by_uniform']:.3f}") for name, own in found.items()]
    print(reporting.table(("objective", "median s a step", "by uniform"), rows))
    print(f"law by uniform: limit {LIMITS[preset]}; median of the rounds")


def _print_caches(found: dict[str, Any]) -> None:
    rows = [
        (which, f"{found[which]['seconds']:.3f}", f"{found[which]['peak_bytes'] / MEBIBYTE:,.0f}") for which in STEPS
    ]
    print(reporting.table(("step of law", "median s", "peak MiB"), rows))
    print(f"encoding by cached: {found['encoding_by_cached']:.2f} (limit {CACHE_LIMIT}; median of the rounds)")


@reports_input_errors
def main(arguments: list[str] | None = None) -> None:
    """The command. Exit code 1 if a limit was broken, but with ``--narrow``, whose proportions are others."""
    options = reporting.parser("benchmarks.law_step", __doc__)
    reporting.add_machine_options(options)
    options.add_argument("--preset", choices=list(PRESETS), default="tiny")
    options.add_argument("--size", type=int, help="of the images; the preset's own if not given")
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--trainable", default="control", choices=["control", "control+decoder"])
    options.add_argument("--rounds", type=int, default=10, help="timed steps of each")
    options.add_argument("--narrow", action="store_true", help="a tenth of Stable Diffusion's width, for a CPU")
    options.add_argument("--amp", action="store_true", help="bfloat16 autocast")
    options.add_argument("--objectives", nargs="*", choices=OBJECTIVES, default=list(OBJECTIVES), help="none: no table")
    options.add_argument("--peak", choices=list(STEPS), help=argparse.SUPPRESS)  # what `_peak` asks of a process
    options.add_argument("--given", type=json.loads, help=argparse.SUPPRESS)
    settings = options.parse_args(arguments)
    if settings.peak:
        torch.set_num_threads(settings.given["threads"])
        print(_peak_here(settings.peak, argparse.Namespace(**settings.given)))
        return
    if settings.objectives and "uniform" not in settings.objectives:
        raise InputError("--objectives: name uniform too, which the others are compared to; or none")
    settings.size = PRESETS[settings.preset].at(settings.size).image_size
    reporting.check(argparse.Namespace(**{**vars(settings), "size": None}))
    head = reporting.heading("benchmarks.law_step", settings)
    results: dict[str, Any] = {}
    if settings.objectives:
        results["objectives"] = objectives(settings)
        _print_objectives(results["objectives"], settings.preset)
        print()
    if settings.preset == "sd15":
        results["caches"] = caches(settings)
        _print_caches(results["caches"])
    reporting.finish(settings, head, results)
    if not settings.narrow and not _kept(results, settings.preset):
        sys.exit(1)


if __name__ == "__main__":
    main()

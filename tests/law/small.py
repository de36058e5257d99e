"""Small parts of the real classes with random weights: one in pixel space, and Stable Diffusion as the hub has it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from common.law.denoiser import MaskConditionedDenoiser
from common.law.libraries import AutoencoderKL, UNet2DConditionModel
from common.law.loading import Parts
from common.law.presets import TINY
from common.law.text import PromptEmbeddings
from tests.network_contract import seeded

SIDE = 16  # of pixel-space images
PROMPT = "A photo of a polyp."
# Of another class than LAW's, as in the hub's copy.
HUB_SCHEDULER = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}


def awake(network: nn.Module, seed: int = 0) -> nn.Module:
    """Random numbers where a network begins with zeros, as the control network's convolutions do."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if not parameter.detach().any():
            nn.init.normal_(parameter, std=0.1, generator=generator)
    return network


def pixel_parts(control: bool = True, seed: int = 0) -> Parts:
    """The tiny preset with fewer channels, for images of 16×16; its control network already has an effect."""
    shape = dict(TINY.unet, block_out_channels=(16, 16), norm_num_groups=4, attention_head_dim=2)
    shape["down_block_types"] = ("DownBlock2D", "CrossAttnDownBlock2D")
    shape["up_block_types"] = ("CrossAttnUpBlock2D", "UpBlock2D")
    with seeded(seed):
        unet = UNet2DConditionModel(sample_size=SIDE // TINY.patch, **shape)
    parts = Parts(TINY.at(SIDE), MaskConditionedDenoiser(unet, patch=TINY.patch), TINY.new_scheduler())
    if control:
        awake(parts.add_control(seed).denoiser.controlnet)
    return parts


def prompts(parts: Parts, prompt: str = PROMPT) -> PromptEmbeddings:
    return PromptEmbeddings(*parts.open_text().encode([prompt, ""]).split(1))


def masks(count: int, side: int = SIDE, seed: int = 0) -> Tensor:
    """Rectangles that differ, ``(count, 1, side, side)``."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(count, 1, side, side)
    for mask in drawn:
        top, left = torch.randint(0, side // 2, (2,), generator=generator).tolist()
        mask[:, top : top + side // 3, left : left + side // 2] = 1
    return drawn


def draw_pairs(folder: Path, count: int, size: tuple[int, int] = (40, 30), seed: int = 0) -> list[dict[str, str]]:
    """Images of noise and rectangular masks as PNG files, as the items of a datalist."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(seed)
    items = []
    for number in range(count):
        pixels = generator.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        lesion = np.zeros((size[1], size[0]), np.uint8)
        lesion[number : number + 9, 5:20] = 255
        item = {"image": str(folder / f"image_{number}.png"), "label": str(folder / f"mask_{number}.png")}
        Image.fromarray(pixels).save(item["image"])
        Image.fromarray(lesion).save(item["label"])
        items.append(item)
    return items


def _tokenizer(folder: Path) -> int:
    # As in the hub's copy of Stable Diffusion 1.5: two files for byte pairs, two for settings.
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)] + ["."]
    merged = ["po", "ly", "ph", "oto</w>"]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "to</w>", *merged, "<|startoftext|>", "<|endoftext|>"]
    special = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    special["pad_token"] = "<|endoftext|>"
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\np o\nl y\np h\nt o</w>\no to</w>\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    settings = {**special, "model_max_length": 77, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(words)


def save_stable_diffusion(folder: Path, seed: int = 0) -> Path:
    """A folder as the hub has it for Stable Diffusion 1.5, every class the real one, every size small."""
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary = _tokenizer(folder / "tokenizer")
    with seeded(seed):
        unet = UNet2DConditionModel(
            sample_size=8,
            block_out_channels=(16, 32),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            norm_num_groups=4,
            attention_head_dim=2,
            cross_attention_dim=16,
        )
        autoencoder = AutoencoderKL(
            sample_size=64,
            block_out_channels=(4, 4, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            norm_num_groups=2,
            latent_channels=4,
            scaling_factor=0.18215,
        )
        config = CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=77,
            bos_token_id=vocabulary - 2,
            eos_token_id=vocabulary - 1,
        )
        text_encoder = CLIPTextModel(config)
    unet.save_pretrained(folder / "unet")
    autoencoder.save_pretrained(folder / "vae")
    text_encoder.save_pretrained(folder / "text_encoder")
    _older_names(folder)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(HUB_SCHEDULER))
    return folder


def _older_names(folder: Path) -> None:
    # The hub's files are of 2022: the libraries have since renamed tensors, and give them their new names on reading.
    text = folder / "text_encoder" / "model.safetensors"
    names = {f"text_model.{key.removeprefix('text_model.')}": value for key, value in load_file(text).items()}
    positions = {"text_model.embeddings.position_ids": torch.arange(77)[None]}
    save_file({**names, **positions}, text, metadata={"format": "pt"})

    image = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights = load_file(image)
    for new, old in {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}.items():
        weights = {key.replace(new, old): value for key, value in weights.items()}
    save_file(weights, image, metadata={"format": "pt"})


@contextmanager
def no_file_larger_than(size: int) -> Iterator[None]:
    """What a full disk does, at `size` bytes a file."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def left_over(folder: Path, expected: Sequence[str]) -> list[str]:
    """Names in a folder that nobody expects there, such as half-written files."""
    return sorted(path.name for path in folder.iterdir() if path.name not in expected)

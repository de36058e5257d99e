"""The parts of LAW together: from Stable Diffusion 1.5, from nothing, or from what was saved; and saving them.

A saved folder is in diffusers' own layout::

    unet/ controlnet/ scheduler/      always (controlnet/ not of a prior)
    vae/ text_encoder/ tokenizer/     in latent space, copied from where they came
    model_index.json                  with those: diffusers' StableDiffusionControlNetPipeline reads the folder
    law.json                          preset, image size, prompt, objective and terms of use
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import nn

from ..data.folder import load_json
from ..errors import InputError
from ..files import check_writable, replace_folder_when_done, sync_tree, write_json
from . import pretrained
from .codec import AutoencoderCodec, Codec, PixelCodec
from .denoiser import MaskConditionedDenoiser
from .libraries import ControlNetModel, DDIMScheduler, UNet2DConditionModel
from .presets import SD15, TINY, Preset, find_preset
from .text import ClipText, HashedText, TextEncoder

SETTINGS = "law.json"
TERMS_OF_SD15 = "CreativeML Open RAIL-M (Stable Diffusion 1.5)"


@dataclass
class Parts:
    """All that training and sampling need.

    Attributes:
        preset: sizes, at the image size in use.
        denoiser: the U-Net and, but for a prior, its control network.
        scheduler: the noise.
        encoders: the folder with vae/, text_encoder/ and tokenizer/; None in pixel space. They are read when asked
            for and belong to who asked, so that training on cached latents never holds them.
        prompt: that the denoiser was trained with; "" before.
        objective: the name of what it was trained with; "" where that is not known.
        control_scale: of the control network when it paints (`sampling.sample`), unless another is given.
        licence: the terms of all that the weights learned from; "" where they are not known.
    """

    preset: Preset
    denoiser: MaskConditionedDenoiser
    scheduler: DDIMScheduler
    encoders: Path | None = None
    prompt: str = ""
    objective: str = ""
    control_scale: float = 1.0
    licence: str = ""

    def open_codec(self, device: torch.device | str = "cpu") -> Codec:
        """The autoencoder, read from its folder; or the pixels as they are."""
        if self.encoders is None:
            return PixelCodec()
        return AutoencoderCodec(pretrained.read_autoencoder(self.encoders).to(device))

    def open_text(self, device: torch.device | str = "cpu") -> TextEncoder:
        """The text encoder, read from its folder; or the fixed embedding."""
        if self.encoders is None:
            return self._hashed()
        return ClipText(self.encoders, device)

    def codec_digest(self) -> str:
        """What latents depend on besides the image; nothing is read into memory for it."""
        return "pixels" if self.encoders is None else pretrained.digest_of_parts(self.encoders, ["vae"])

    def text_digest(self) -> str:
        """What a prompt's embedding depends on besides the prompt."""
        if self.encoders is None:
            return self._hashed().fingerprint
        return pretrained.digest_of_parts(self.encoders, ["text_encoder", "tokenizer"])

    def add_control(self, seed: int = 0) -> Parts:
        """Give the denoiser a control network (see `MaskConditionedDenoiser.add_control`)."""
        self.denoiser.add_control(self.preset.embedding_channels, seed=seed)
        return self

    def _hashed(self) -> HashedText:
        return HashedText(self.denoiser.unet.config.cross_attention_dim)


def load_sd15(path_or_id: str | Path, image_size: int | None = None, seed: int = 0) -> Parts:
    """Stable Diffusion 1.5 with a control network made of its encoder (table 11's backbone).

    Args:
        path_or_id: see `pretrained.find_sd15`.
        image_size: None for the preset's.
        seed: of the first weights of the layers that read the mask.

    Raises:
        InputError: if files are missing, pickled, damaged, or do not belong together.
    """
    preset = SD15.at(image_size)
    folder = pretrained.find_sd15(path_or_id)
    denoiser = MaskConditionedDenoiser(_read_unet(folder))
    has_own = (folder / "scheduler" / "scheduler_config.json").is_file()
    parts = Parts(preset, denoiser, _read_scheduler(folder) if has_own else preset.new_scheduler(), folder)
    parts.licence = TERMS_OF_SD15
    _check_encoders(parts)
    return parts.add_control(seed)


def build_tiny(seed: int = 0, image_size: int | None = None, control: bool = False) -> Parts:
    """The small denoiser with first weights: an image prior, to which `Parts.add_control` adds once it is trained.

    Args:
        seed: of the weights.
        image_size: None for the preset's.
        control: add the control network at once.

    Raises:
        InputError: for a size that the U-Net cannot halve as often as it has to.
    """
    preset = TINY.at(image_size)
    parts = Parts(preset, MaskConditionedDenoiser(preset.new_unet(seed), patch=preset.patch), preset.new_scheduler())
    return parts.add_control(seed) if control else parts


def save_denoiser(
    folder: str | Path,
    parts: Parts,
    *,
    dtype: torch.dtype = torch.float32,
    encoders: bool = True,
    overwrite: bool = False,
) -> None:
    """Write the parts to a folder, whole or not at all.

    Args:
        folder: new or empty, if not `overwrite`.
        parts: what to write.
        dtype: of the weights on disk; float16 halves them, and they are read back into float32.
        encoders: in latent space, copy autoencoder, text encoder and tokenizer too, so that the folder is complete.
        overwrite: a folder that is there stays until the new one is whole, then gives way to it.

    Raises:
        InputError: if the folder is in use or cannot be written.
    """
    with _replaced(Path(folder), overwrite) as temporary:
        try:
            _save_network(parts.denoiser.unet, temporary / "unet", dtype)
            if parts.denoiser.controlnet is not None:
                _save_network(parts.denoiser.controlnet, temporary / "controlnet", dtype)
            parts.scheduler.save_config(temporary / "scheduler")
            write_json(temporary / SETTINGS, _settings(parts))
            if encoders and parts.encoders is not None:
                _copy_encoders(parts.encoders, temporary)
                write_json(temporary / "model_index.json", _model_index(parts))
        except (OSError, safetensors.SafetensorError) as error:
            raise InputError(f"cannot write {folder}: {error}; make room, or choose another folder") from None


def load_denoiser(folder: str | Path, base: str | Path | None = None) -> Parts:
    """What `save_denoiser` wrote.

    Args:
        folder: that it wrote to.
        base: for a folder saved without its encoders, the one that has them, or an id on the hub (`find_sd15`).

    Raises:
        InputError: if the folder, or something in it, is missing, pickled, damaged, or does not belong together.
    """
    folder = Path(folder)
    if not (folder / SETTINGS).is_file():
        raise InputError(_no_model(folder))
    own = ["unet", *(["controlnet"] if (folder / "controlnet").is_dir() else [])]
    if missing := pretrained.missing_files(folder, own):
        raise InputError(f"{folder}: missing {', '.join(missing)}; copy the folder again")
    settings = _read_settings(folder)
    preset = find_preset(settings["preset"]).at(settings["image_size"])
    controlnet = None
    if (folder / "controlnet").is_dir():
        controlnet = pretrained.read_part(ControlNetModel, folder, "controlnet", low_cpu_mem_usage=False)
    denoiser = MaskConditionedDenoiser(_read_unet(folder), controlnet, preset.patch)
    if denoiser.latent_channels != preset.latent_channels:
        raise InputError(
            f"{folder / 'unet'}: in_channels is {denoiser.unet.config.in_channels}, and the preset {preset.name} has "
            f"{preset.latent_channels * preset.patch**2}; take both from one folder"
        )
    parts = Parts(preset, denoiser, _read_scheduler(folder), prompt=settings["prompt"])
    parts.objective, parts.licence = (str(settings.get(key, "")) for key in ("objective", "licence"))
    parts.control_scale = float(settings["control_scale"])
    if preset.text == "clip":
        if not base and (missing := pretrained.missing_files(folder, pretrained.ENCODERS)):
            raise InputError(f"{folder}: missing {', '.join(missing)}; name the folder of Stable Diffusion 1.5 as base")
        parts.encoders = pretrained.find_sd15(base, pretrained.ENCODERS) if base else folder
        _check_encoders(parts)
    return parts


def _settings(parts: Parts) -> dict[str, Any]:
    settings = {"preset": parts.preset.name, "image_size": parts.preset.image_size, "prompt": parts.prompt}
    settings |= {"control_scale": parts.control_scale}
    known = {"objective": parts.objective, "licence": parts.licence}
    return settings | {key: value for key, value in known.items() if value}


def _read_settings(folder: Path) -> dict[str, Any]:
    settings = {"control_scale": 1.0, **load_json(folder / SETTINGS)}
    kinds = {"preset": str, "image_size": int, "prompt": str, "control_scale": int | float}
    if wrong := [key for key, kind in kinds.items() if not isinstance(settings.get(key), kind)]:
        raise InputError(f"{folder / SETTINGS}: {', '.join(wrong)} missing or of the wrong kind; copy the folder again")
    return settings


def _read_unet(folder: Path) -> UNet2DConditionModel:
    return pretrained.read_part(UNet2DConditionModel, folder, "unet", low_cpu_mem_usage=False)


def _read_scheduler(folder: Path) -> DDIMScheduler:
    try:
        return DDIMScheduler.from_pretrained(folder / "scheduler", local_files_only=True)
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folder / 'scheduler'} cannot be read ({reason}); copy it again") from None


def _check_encoders(parts: Parts) -> None:
    # By their configs, so that weights of another family are told before a gigabyte of them is read.
    unet = parts.denoiser.unet.config
    for part, key, own in (
        ("vae", "latent_channels", unet.in_channels),
        ("text_encoder", "hidden_size", unet.cross_attention_dim),
    ):
        path = parts.encoders / part / "config.json"
        if (other := load_json(path).get(key)) != own:
            raise InputError(f"{path}: {key} is {other}, and the U-Net reads {own}; take both from one folder")


def _save_network(network: nn.Module, folder: Path, dtype: torch.dtype) -> None:
    # diffusers notes whence a network was read, which is nobody's business where the folder goes.
    config = {key: value for key, value in json.loads(network.to_json_string()).items() if key != "_name_or_path"}
    write_json(folder / network.config_name, config)
    weights = {
        key: (value.to(dtype) if value.is_floating_point() else value).detach().cpu().contiguous()
        for key, value in network.state_dict().items()
    }
    name = f"{pretrained.WEIGHTS[folder.name]}.safetensors"
    safetensors.torch.save_file(weights, folder / name, metadata={"format": "pt"})


def _copy_encoders(source: Path, folder: Path) -> None:
    for part in pretrained.ENCODERS:
        (folder / part).mkdir()
        texts = [path for path in (source / part).iterdir() if path.suffix in (".json", ".txt")]
        weights = pretrained.weight_file(source, part) if part in pretrained.WEIGHTS else None
        for path in texts:
            shutil.copyfile(path, folder / part / path.name)
        if weights is not None:
            # Under the plain name, which diffusers asks for, if they were there in half precision alone.
            shutil.copyfile(weights, folder / part / f"{pretrained.WEIGHTS[part]}.safetensors")


def _model_index(parts: Parts) -> dict[str, Any]:
    index: dict[str, Any] = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "feature_extractor": [None, None],
        "image_encoder": [None, None],
        "safety_checker": [None, None],
        "requires_safety_checker": False,
    }
    if parts.denoiser.controlnet is not None:
        index |= {"_class_name": "StableDiffusionControlNetPipeline", "controlnet": ["diffusers", "ControlNetModel"]}
    return index


def _no_model(folder: Path) -> str:
    if folder.is_file():
        return pretrained.of_one_file(folder, f"the folder that a training of LAW has saved ({SETTINGS} and more)")
    wanted = "give a folder that a training of LAW has saved (…/model)"
    earlier = _earlier(folder)
    hint = f"; {earlier} is what was there before" if earlier.is_dir() else ""
    if not folder.is_dir():
        return f"{folder}: no such folder; {wanted}{hint}"
    return f"{folder} holds no {SETTINGS}; {wanted}{hint}"


def _earlier(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.earlier")


def mend_replaced(folder: str | Path) -> None:
    """Undo what a kill has left between the two renames of an overwriting `save_denoiser`, or clear up after it."""
    folder = Path(folder)
    if folder.is_dir():
        shutil.rmtree(_earlier(folder), ignore_errors=True)
    elif _earlier(folder).is_dir():
        os.replace(_earlier(folder), folder)


def joined_licences(*licences: str | None) -> str:
    """All terms in one text, parted by semicolons, each once; "" for none."""
    return "; ".join(dict.fromkeys(term for text in licences if text for term in text.split("; ")))


@contextmanager
def _replaced(folder: Path, overwrite: bool) -> Iterator[Path]:
    if not overwrite or not folder.is_dir():
        with replace_folder_when_done(folder) as temporary:
            yield temporary
        return
    check_writable(folder.parent)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    earlier = _earlier(folder)
    try:
        yield temporary
        sync_tree(temporary)
        shutil.rmtree(earlier, ignore_errors=True)
        os.chmod(temporary, folder.stat().st_mode & 0o777)
        os.replace(folder, earlier)  # no system call that Python has exchanges two folders
        os.replace(temporary, folder)
        shutil.rmtree(earlier, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise

"""Reading trained weights in diffusers' folder layout, as the hub gives them: safetensors only, never a pickle."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from ..errors import InputError
from .libraries import AutoencoderKL, ControlNetModel

SD15_REPOSITORY = "stable-diffusion-v1-5/stable-diffusion-v1-5"
# The weight file of each sub-folder, without its suffix.
WEIGHTS = {
    ".": "diffusion_pytorch_model",  # a folder of one network alone
    "unet": "diffusion_pytorch_model",
    "controlnet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
# Each of these alone makes a tokenizer: transformers writes the second, and the hub's copy of SD 1.5 has the first.
TOKENIZERS = (("vocab.json", "merges.txt"), ("tokenizer.json",))
ENCODERS = ("vae", "text_encoder", "tokenizer")
FOR_SD15 = ("unet", *ENCODERS)

_SAFE = ".safetensors"
_HALF = ".fp16.safetensors"  # the hub's second copy, in half precision
_PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl", ".fp16.bin")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

Model = TypeVar("Model", bound=nn.Module)


def weight_file(folder: Path, part: str) -> Path | None:
    """The safetensors file of a part such as "unet", the full one before the one in half precision; None for none.

    Raises:
        InputError: if there is only a pickle.
    """
    stem = folder / part / WEIGHTS[part]
    for suffix in (_SAFE, _HALF):
        if (path := Path(f"{stem}{suffix}")).is_file():
            return path
    for suffix in _PICKLES:
        names = {Path(f"{stem}{suffix}"), stem.with_name(f"pytorch_model{suffix}")}
        if found := next((path for path in sorted(names) if path.is_file()), None):
            raise InputError(
                f"{found} is a pickle, which can run code when it is read, so it is refused; "
                f"put {stem.name}{_SAFE} in its place"
            )
    return None


def missing_files(folder: Path, parts: Sequence[str]) -> list[str]:
    """What the parts lack, as paths relative to `folder`.

    Raises:
        InputError: if one has its weights as a pickle.
    """
    missing = []
    for part in parts:
        if part == "tokenizer":
            if not any(all((folder / part / name).is_file() for name in names) for names in TOKENIZERS):
                missing += [f"{part}/{name}" for name in TOKENIZERS[0]]
            continue
        if not (folder / part / "config.json").is_file():
            missing.append(f"{part}/config.json")
        if weight_file(folder, part) is None:
            missing.append(f"{part}/{WEIGHTS[part]}{_SAFE}")
    return missing


def find_sd15(path_or_id: str | Path, parts: Sequence[str] = FOR_SD15) -> Path:
    """The folder with Stable Diffusion 1.5, or with the parts of it that are asked for.

    Args:
        path_or_id: a folder in diffusers' layout, or the id of a repository on the hub, of which only the files
            needed are fetched (or taken from the hub's cache; nothing else is, where ``HF_HUB_OFFLINE=1`` is set).
            What begins with the name of a folder that is here is a path.
        parts: of `FOR_SD15`.

    Raises:
        InputError: naming what is missing, from where to get it, and where to put it; or that it is a pickle.
    """
    folder = Path(path_or_id).expanduser()
    if folder.is_file():
        raise InputError(of_one_file(folder, f"the folder of {SD15_REPOSITORY} with its {_SAFE} files"))
    if folder.is_dir():
        if missing := missing_files(folder, parts):
            raise InputError(f"{folder} is not all of Stable Diffusion 1.5: {_how_to_mend(missing, folder)}")
        return folder
    if _HUB_ID.fullmatch(str(path_or_id)) and not folder.parent.is_dir():  # else it is a path, mistyped
        return _from_hub(str(path_or_id), parts)
    raise InputError(f"no folder {folder}: {_how_to_mend(missing_files(folder, parts), folder)}")


def of_one_file(path: Path, wanted: str) -> str:
    """What is wrong with a file in the place of the folder that is wanted."""
    if path.suffix in _PICKLES:
        return f"{path} is a pickle, which can run code when it is read, so it is refused; give {wanted}"
    return f"{path} is a single file; give {wanted}"


def _how_to_mend(missing: Sequence[str], folder: Path) -> str:
    return (
        f"missing {', '.join(missing)}; download these files from {SD15_REPOSITORY} on the Hugging Face hub and put "
        f"them into {folder} under these very names (hf download {SD15_REPOSITORY} {' '.join(missing)} "
        f"--local-dir {folder})"
    )


def how_to_get_sd15(parts: Sequence[str] = FOR_SD15) -> str:
    """What to download, from where, and where to put it, in a line."""
    return _how_to_mend(missing_files(Path("sd15"), parts), Path("sd15"))


def _patterns(parts: Sequence[str]) -> list[str]:
    # The tokenizer is a few small texts, so all of them; of the weights nothing that is not needed.
    wanted = [f"{part}/{name}" for part in parts if part in WEIGHTS for name in ("config.json", WEIGHTS[part] + _SAFE)]
    return [*wanted, "tokenizer/*.json", "tokenizer/*.txt", "scheduler/scheduler_config.json"]


def _from_hub(repository: str, parts: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download

    reason = "the hub has no such files"
    for offline in (True, False):  # what is in the cache already needs no connection
        try:
            folder = Path(snapshot_download(repository, allow_patterns=_patterns(parts), local_files_only=offline))
        except Exception as error:  # of many kinds: no such repository, no connection, no permission, no room
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            continue
        if not missing_files(folder, parts):
            return folder
    raise InputError(
        f"{repository} is no folder here, and the hub did not give it ({reason}); "
        f"{how_to_get_sd15(parts)}, and give that folder's path"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    # The libraries' notes on missing keys and the like; what is wrong is said once, in an error.
    loggers = [logging.getLogger(name) for name in ("diffusers", "transformers")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def read_part(kind: type[Model], folder: Path, part: str, **arguments: Any) -> Model:
    """One of diffusers' or transformers' networks, in float32 and whole.

    Args:
        kind: its class.
        folder: that holds the sub-folder `part`.
        part: a key of `WEIGHTS`.
        arguments: further ones of ``from_pretrained``.

    Raises:
        InputError: if a file is missing, is a pickle, is damaged, or holds the weights of another network.
    """
    if missing := missing_files(folder, [part]):
        raise InputError(f"{folder}: missing {', '.join(missing)}; copy the folder again")
    path = weight_file(folder, part)
    variant = "fp16" if path.name.endswith(_HALF) else None
    options = {"use_safetensors": True, "local_files_only": True, "dtype": torch.float32, "variant": variant}
    try:
        with _quiet():
            model, found = kind.from_pretrained(folder / part, output_loading_info=True, **options, **arguments)
    except Exception as error:  # of many kinds, whatever is wrong with the files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{folder / part} cannot be read ({reason}); copy it again") from None
    if wrong := [*found.get("missing_keys", ()), *found.get("mismatched_keys", ())]:
        raise InputError(
            f"{path} does not hold all of a {kind.__name__} ({len(wrong)} tensors are missing or of another shape, "
            f"such as {min(map(str, wrong))}); copy it again"
        )
    return model.eval()


def read_control_network(folder: str | Path) -> ControlNetModel:
    """A control network of diffusers' layout: the folder's own, or that of its sub-folder ``controlnet``.

    Raises:
        InputError: as of `read_part`, or if there is no such folder.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise InputError(f"control: no folder {folder}; give that of a control network, with config.json and {_SAFE}")
    part = "controlnet" if (folder / "controlnet").is_dir() else "."
    return read_part(ControlNetModel, folder, part, low_cpu_mem_usage=False)


def read_autoencoder(folder: Path) -> AutoencoderKL:
    """The autoencoder of a folder."""
    return read_part(AutoencoderKL, folder, "vae", low_cpu_mem_usage=False)


def read_text_encoder(folder: Path) -> nn.Module:
    """The text encoder of a folder, transformers' `CLIPTextModel`, without gradients."""
    from transformers import CLIPTextModel
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        return read_part(CLIPTextModel, folder, "text_encoder").requires_grad_(False)
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def digest_of_parts(folder: Path, parts: Sequence[str]) -> str:
    """A SHA-256 of the files that the parts are read from, so of all that they compute."""
    digest = hashlib.sha256()
    for part in parts:
        weights = weight_file(folder, part) if part in WEIGHTS else None
        texts = sorted(path for path in (folder / part).iterdir() if path.suffix in (".json", ".txt"))
        for path in [*texts, *([weights] if weights else [])]:
            with open(path, "rb") as stream:
                content = hashlib.file_digest(stream, "sha256").hexdigest()
            digest.update(f"{part}/{path.name} {content}\n".encode())
    return digest.hexdigest()

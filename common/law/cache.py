"""Latents and prompt embeddings, computed once and kept on disk, so that training needs no encoder.

A file is named after a digest of all that its content depends on: the bytes of the images and masks, the weights of
the encoder, the size and how pixels are scaled. What is stale is therefore never found; files that nothing asks for
any more can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import safetensors
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ..data.progress import bar
from ..data.reading import decode, lesion_at, read_bytes, to_rgb
from ..errors import InputError
from ..files import check_writable
from .loading import Parts
from .text import PromptEmbeddings

# What the code itself does to a picture. Whoever changes it changes this text, and no older file is found any more.
RECIPE = "1: RGB, squashed bicubic, x/127.5 - 1, mean of the posterior; mask binarised, nearest"

_WORKERS = 4


class CachedLatents(Dataset):
    """What a denoiser trains on: item i is ``{"latents", "mask", "index", "name"}``, and "pictures" for a teacher.

    Attributes:
        latents: ``(N, C, h, w)`` float32, scaled as the denoiser takes them.
        masks: ``(N, 1, H, W)`` uint8 in {0, 1}, at the size of the image; items have them as float32.
        items: of the datalist, in the same order.
        pictures: ``(N, 3, H, W)`` uint8; items have them as float32 in [−1, 1]. Or None.
    """

    def __init__(
        self,
        latents: Tensor,
        masks: Tensor,
        items: Sequence[Mapping[str, Any]],
        pictures: Tensor | None = None,
    ) -> None:
        self.latents = latents
        self.masks = masks
        self.items = list(items)
        self.pictures = pictures

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {"latents": self.latents[index], "mask": self.masks[index].float(), "index": index}
        item["name"] = Path(self.items[index]["image"]).name  # to tell which batch went wrong
        return item if self.pictures is None else item | {"pictures": self.pictures[index].float() / 127.5 - 1}


def cache_latents(
    items: Sequence[Mapping[str, Any]],
    parts: Parts,
    folder: str | Path,
    *,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
    pictures: bool = False,
    progress: bool = True,
) -> CachedLatents:
    """The latents and masks of a datalist, from the cache or into it.

    The autoencoder is read only if they are not in the cache, and let go before this returns. Latents are the mean of
    its posterior (see `AutoencoderCodec`); in pixel space they are the resized images, on the same path.

    Args:
        items: with "image" and "label", paths of an image and its mask.
        parts: whose preset and autoencoder are used.
        folder: of the cache; is created.
        batch_size: of encoding.
        device: that the autoencoder runs on, in float32.
        pictures: keep the resized images too, which a teacher sees; in pixel space the latents are they.
        progress: show a bar.

    Raises:
        InputError: for an image or mask that cannot be read, two that differ in size, or a folder that cannot be
            written.
    """
    progress = progress and idist.get_rank() == 0
    if not items:
        raise InputError("there are no images to train on; give a datalist that is not empty")
    key = _key(
        recipe=RECIPE,
        size=parts.preset.image_size,
        codec=parts.codec_digest(),
        pictures=(pictures := pictures and parts.preset.latent_factor > 1),
        files=_digests([path for item in items for path in (item["image"], item["label"])], progress),
    )
    path = Path(folder) / f"latents-{key[:24]}.safetensors"
    with idist.one_rank_first(local=True):  # the others of a machine then find it done
        content = _read(path, key)
        if content is None:
            check_writable(folder)
            content = _encode(items, parts, batch_size, device, pictures, progress)
            _write(path, content, key)
    return CachedLatents(content["latents"], content["masks"], items, content.get("pictures"))


def cache_prompts(
    prompt: str, parts: Parts, folder: str | Path, device: torch.device | str = "cpu"
) -> PromptEmbeddings:
    """The embeddings of a prompt and of the dropped one, from the cache or into it, on the CPU.

    The text encoder is read only if they are not in the cache, and let go before this returns.

    Args:
        prompt: any text but the empty one, which means the dropped prompt.
        parts: whose text encoder is used.
        folder: of the cache; is created.
        device: that the text encoder runs on.

    Raises:
        InputError: for an empty or too long prompt, or a folder that cannot be written.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise InputError(f"prompt: {prompt!r} says nothing; give a text such as 'A photo of a polyp.'")
    key = _key(prompt=prompt, text=parts.text_digest())
    path = Path(folder) / f"prompt-{key[:24]}.safetensors"
    with idist.one_rank_first(local=True):
        content = _read(path, key)
        if content is None:
            check_writable(folder)
            given, dropped = parts.open_text(device).encode([prompt, ""]).float().cpu().split(1)
            content = {"given": given.contiguous(), "dropped": dropped.contiguous()}
            _write(path, content, key)
    return PromptEmbeddings(content["given"], content["dropped"])


def read_picture(path: str | Path, size: int) -> Tensor:
    """An image squashed to a square and scaled: ``(3, size, size)`` float32 in [−1, 1].

    Raises:
        InputError: if it cannot be read.
    """
    return _picture(read_bytes(path), path, size)[0]


def read_mask(path: str | Path, size: int) -> Tensor:
    """A mask squashed to a square, nearest: ``(1, size, size)`` uint8 in {0, 1}.

    Raises:
        InputError: if it cannot be read.
    """
    return _mask(read_bytes(path), path, size)[0]


def _picture(content: bytes, path: str | Path, size: int) -> tuple[Tensor, tuple[int, int]]:
    image = to_rgb(decode(content, path), path)
    pixels = np.asarray(image.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1), image.size


def _mask(content: bytes, path: str | Path, size: int) -> tuple[Tensor, tuple[int, int]]:
    mask = decode(content, path)
    return torch.from_numpy(lesion_at(mask, size).astype(np.uint8))[None], mask.size


def _pair(item: Mapping[str, Any], size: int) -> tuple[Tensor, Tensor]:
    image, label = item["image"], item["label"]
    picture, picture_size = _picture(read_bytes(image), image, size)
    mask, mask_size = _mask(read_bytes(label), label, size)
    if picture_size != mask_size:
        sizes = [f"{one[0]}×{one[1]}" for one in (picture_size, mask_size)]
        raise InputError(f"{image} is {sizes[0]}, its mask {label} {sizes[1]}; both have to be of one size")
    return picture, mask


def _encode(
    items: Sequence[Mapping[str, Any]],
    parts: Parts,
    batch_size: int,
    device: torch.device | str,
    pictures: bool,
    progress: bool,
) -> dict[str, Tensor]:
    preset = parts.preset
    codec = parts.open_codec(device)
    latents = torch.empty(len(items), preset.latent_channels, preset.latent_size, preset.latent_size)
    masks = torch.empty(len(items), 1, preset.image_size, preset.image_size, dtype=torch.uint8)
    kept = torch.empty(len(items) if pictures else 0, 3, preset.image_size, preset.image_size, dtype=torch.uint8)
    for start, pairs in _batches(items, preset.image_size, batch_size, progress):
        stop = start + len(pairs)
        batch = torch.stack([picture for picture, _ in pairs])
        latents[start:stop] = codec.encode(batch.to(device)).cpu()
        masks[start:stop] = torch.stack([mask for _, mask in pairs])
        if pictures:
            kept[start:stop] = ((batch + 1) * 127.5).round().to(torch.uint8)
    return {"latents": latents, "masks": masks, **({"pictures": kept} if pictures else {})}


def _batches(
    items: Sequence[Mapping[str, Any]], size: int, batch_size: int, progress: bool
) -> Iterator[tuple[int, list[tuple[Tensor, Tensor]]]]:
    starts = range(0, len(items), batch_size)
    with ThreadPoolExecutor(_WORKERS) as pool:  # PIL decodes outside Python's lock
        for start in bar(starts, "latents", "batch", len(starts), progress):
            yield start, list(pool.map(lambda item: _pair(item, size), items[start : start + batch_size]))


def _digests(paths: Sequence[Any], progress: bool) -> list[str]:
    # Of the files as they are now, and not as a datalist says that they were.
    with ThreadPoolExecutor(_WORKERS) as pool:
        digests = pool.map(lambda path: hashlib.sha256(read_bytes(path)).hexdigest(), paths)
        return list(bar(digests, "check", "file", len(paths), progress))


def _key(**what: Any) -> str:
    return hashlib.sha256(json.dumps(what, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


def _digest(content: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(content):
        digest.update(content[name].numpy())
    return digest.hexdigest()


def _read(path: Path, key: str) -> dict[str, Tensor] | None:
    # None for what is not there, is of another key, or was damaged on the disk: it is then made again.
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as stream:
            about = stream.metadata() or {}
            content = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, safetensors.SafetensorError):
        return None
    return content if about.get("key") == key and about.get("content") == _digest(content) else None


def _write(path: Path, content: dict[str, Tensor], key: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    try:
        about = {"key": key, "content": _digest(content)}
        safetensors.torch.save_file(content, temporary, metadata=about)
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        Path(temporary).unlink(missing_ok=True)
        raise InputError(f"cannot write {path}: {error}; make room, or name another folder for the cache") from None
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise

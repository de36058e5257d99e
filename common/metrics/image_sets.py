"""The images that are measured: of a prepared folder's lists, or all of a plain folder."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..data import read_datalist
from ..data.folder import DATALIST, KEYS
from ..data.reading import is_image_file, open_image, read_bytes, to_rgb
from ..errors import InputError


@dataclass(frozen=True)
class ImageSet:
    """Images to measure.

    Attributes:
        paths: files.
        groups: of each, what may not be counted as independent of another: the sequence or patient that it, or the
            mask it was painted from, is of. Its own name where that is not known.
        masks: of each, the file of its lesion; empty of a plain folder.
        origins: of each, the file name of the mask that it was painted from; "" of one that was not.
    """

    paths: tuple[Path, ...]
    groups: tuple[str, ...]
    masks: tuple[Path, ...] = ()
    origins: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.paths)

    def drawn(self, count: int | None, seed: int = 0) -> ImageSet:
        """`count` of them by chance, in their order; all where it is None.

        Raises:
            InputError: if there are fewer.
        """
        if count is None:
            return self
        if not 2 <= count <= len(self):
            raise InputError(f"--images {count}: there are {len(self)}; give a number between 2 and that")
        return self.at(sorted(np.random.default_rng(seed).permutation(len(self))[:count].tolist()))

    def at(self, places: Sequence[int]) -> ImageSet:
        """Those at some places."""
        picked = {
            name: tuple(values[place] for place in places) if values else () for name, values in vars(self).items()
        }
        return ImageSet(**picked)

    def joined(self, other: ImageSet) -> ImageSet:
        """Both, without masks and origins where one has none."""
        both = {
            name: (*values, *getattr(other, name)) if values and getattr(other, name) else ()
            for name, values in vars(self).items()
        }
        return ImageSet(**both)

    def apart_from(self, other: ImageSet) -> ImageSet:
        """Those that are of none of the other's groups."""
        known = set(other.groups)
        return self.at([place for place, group in enumerate(self.groups) if group not in known])


def read_set(folder: str | Path, protocol: str | None = None, split: str | Sequence[str] | None = None) -> ImageSet:
    """The images of a folder, sorted by name.

    Args:
        folder: a prepared folder; or any folder of images, which has no masks.
        protocol: of a prepared folder; its default if None.
        split: its list, or several; all lists if None.

    Raises:
        InputError: if there is no such folder or list, or fewer than two images.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}; give a prepared folder, or one of images")
    if not (folder / DATALIST).is_file():
        if protocol is not None:
            raise InputError(f"{folder} holds no {DATALIST}, so no protocol {protocol!r}; prepare it first")
        paths = tuple(sorted(path for path in folder.iterdir() if is_image_file(path)))
        found = ImageSet(paths, tuple(path.name for path in paths))
    else:
        keys = (split,) if isinstance(split, str) else split or KEYS
        alone = isinstance(split, str)
        items = [item for key in keys for item in read_datalist(folder, protocol, key, may_be_empty=not alone)]
        items.sort(key=lambda item: Path(item["image"]).name)
        found = ImageSet(
            tuple(Path(item["image"]) for item in items),
            tuple(f"{item.get('source', '')}\0{item.get('group', Path(item['image']).name)}" for item in items),
            tuple(Path(item["label"]) for item in items),
            tuple(str(item.get("source_mask", "")) for item in items),
        )
    if len(found) < 2:
        raise InputError(f"{folder} holds {len(found)} images to measure; at least two are needed")
    return found


def digest_of(images: ImageSet) -> str:
    """SHA-256 of the images' names and bytes, hexadecimal: whether figures are of them."""
    digest = hashlib.sha256()
    for path in images.paths:
        digest.update(f"{path.name}/".encode() + hashlib.sha256(read_bytes(path)).digest())
    return digest.hexdigest()


def read_squashed(path: str | Path, size: int | None) -> Image.Image:
    """An image as 8-bit RGB, squashed to a square of `size` pixels as LAW reads its own; as it is where that is None.

    Raises:
        InputError: if it cannot be read.
    """
    image = to_rgb(open_image(path), path)
    return image if size is None else image.resize((size, size), Image.Resampling.BICUBIC)


def as_tensor(image: Image.Image) -> Tensor:
    """An RGB image as float32 ``(3, H, W)`` in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)


def sizes_of(paths: Sequence[Path]) -> str:
    """The size of the images in pixels, as "64 × 64"; "between … and …" where they differ."""
    sizes = set()
    for path in paths:
        with Image.open(path) as image:
            sizes.add(image.size)
    small, large = min(sizes, key=lambda each: each[0] * each[1]), max(sizes, key=lambda each: each[0] * each[1])
    shown = [f"{width} × {height}" for width, height in (small, large)]
    return shown[0] if len(sizes) == 1 else f"between {shown[0]} and {shown[1]}"

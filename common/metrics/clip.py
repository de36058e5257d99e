"""CLIP's image embeddings, through transformers from a local folder, and the CLIP-I that the paper prints."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from pickle import UnpicklingError

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor

from ..errors import InputError
from ..vision_operators import make_torchvision_importable
from .features import FeatureExtractor, Features

CONFIG, PROCESSOR = "config.json", "preprocessor_config.json"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def check_clip_folder(folder: str | Path) -> Path:
    """The folder of a CLIP, as its hub page has it.

    Raises:
        InputError: if a file is missing; the line names it.
    """
    folder = Path(folder)
    for name in (CONFIG, PROCESSOR):
        if not (folder / name).is_file():
            raise InputError(
                f"--clip: there is no {folder / name}; give the folder of a CLIP model (such as clip-vit-base-patch32) "
                f"with {CONFIG}, {PROCESSOR} and {WEIGHTS[0]}"
            )
    if not any((folder / name).is_file() for name in WEIGHTS):
        raise InputError(f"--clip: {folder} holds no weights; put {' or '.join(WEIGHTS)} there")
    return folder


class ClipFeatures(FeatureExtractor):
    """CLIP's embeddings of images, length 1.

    Args:
        folder: of any CLIP that transformers reads; nothing is fetched.
        device: that it runs on.

    Raises:
        InputError: if transformers is not installed, or the folder holds no whole CLIP.
    """

    name = "CLIP"

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu", batch_size: int = 32) -> None:
        folder = check_clip_folder(folder)
        if find_spec("transformers") is None:
            raise InputError("CLIP-I needs transformers; pip install -c constraints.txt -e '.[metrics]'")
        make_torchvision_importable()
        from transformers import CLIPImageProcessor, CLIPModel

        try:
            self.processor = CLIPImageProcessor.from_pretrained(folder, local_files_only=True)
            network, report = CLIPModel.from_pretrained(folder, local_files_only=True, output_loading_info=True)
        except (OSError, ValueError, RuntimeError, KeyError, SafetensorError, UnpicklingError) as error:
            raise InputError(f"--clip: {folder} cannot be read ({str(error).splitlines()[0]}); copy it again") from None
        if lost := sorted(report["missing_keys"]):
            raise InputError(f"--clip: {folder} lacks {len(lost)} weights, such as {lost[0]}; copy it again")
        self.network = network.to(device).eval()
        self.dimensions = network.config.projection_dim
        self.device, self.batch_size = device, batch_size

    def features_of(self, images: Sequence[Image.Image]) -> Tensor:
        """Embeddings of length 1, ``(B, dimensions)`` float64."""
        pixels = self.processor(images=list(images), return_tensors="pt")["pixel_values"].to(self.device)
        pooled = self.network.vision_model(pixel_values=pixels).pooler_output
        embeddings = self.network.visual_projection(pooled).double()
        return embeddings / embeddings.norm(dim=1, keepdim=True)


def similarity_to_set(painted: Features, real: Features) -> Features:
    """Of each painted image the mean cosine similarity to all real ones, ``(N,)``; of unit vectors.

    CLIP-I is the mean of these: "the mean cosine similarity between generated-image embeddings and the corresponding
    real reference set" (section 4.1.3).
    """
    return painted @ real.mean(axis=0)


def similarity_within(real: Features) -> Features:
    """Of each image of a set the mean cosine similarity to the others, ``(N,)``: what real images come to."""
    return (real @ real.sum(axis=0) - 1) / (len(real) - 1)


def similarity_in_pairs(painted: Features, real: Features) -> Features:
    """Of each painted image the cosine similarity to the real image of its mask, ``(N,)``; rows correspond."""
    return np.einsum("ij,ij->i", painted, real)


def rows_of_origins(origins: Sequence[str], masks: Sequence[Path]) -> list[int] | None:
    """Where the real image of each painted one's mask stands; None where some is not there."""
    place = {path.name: number for number, path in enumerate(masks)}
    rows = [place.get(origin) for origin in origins]
    return None if not rows or None in rows else [int(row) for row in rows]

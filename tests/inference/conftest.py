"""The inference workflow as the bundle has it, around a network whose answer is known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from PIL import Image
from torch import Tensor, nn

from common.inference import check_inference_inputs

WORKFLOW = Path(__file__).parents[2] / "order_polyps" / "configs" / "inference.yaml"


class Brightness(nn.Module):
    """The logit of a pixel is how far its mean over the channels lies above a half: bright is lesion."""

    def __init__(self, sharpness: float = 20.0) -> None:
        super().__init__()
        self.sharpness = sharpness

    def forward(self, image: Tensor) -> Tensor:
        return self.sharpness * (image.mean(1, keepdim=True) - 0.5)


@pytest.fixture
def brightness() -> Callable[..., nn.Module]:
    return Brightness


@pytest.fixture
def infer() -> Callable[..., None]:
    """Run the workflow with a network put in place of the trained one; `overrides` are config ids and values."""

    def run(dataset_dir: Path, output_dir: Path, network: nn.Module | None = None, **overrides: Any) -> None:
        parser = ConfigParser()
        parser.read_config(str(WORKFLOW))
        parser.update(
            {
                "dataset_dir": str(dataset_dir),
                "output_dir": str(output_dir),
                "network": Brightness() if network is None else network,
                "device": torch.device("cpu"),
                **overrides,
            }
        )
        # Without the guard of the `run` list, which wants a checkpoint of ORDER; the guard's own tests are elsewhere.
        check_inference_inputs(parser.get_parsed_content("dataset_dir"), parser.get_parsed_content("output_dir"))
        parser.get_parsed_content("evaluator").run()

    return run


@pytest.fixture
def noise() -> Callable[[int, int, int], Image.Image]:
    """A picture of random 8 × 8 blocks: `(width, height, seed)`."""

    def draw(width: int, height: int, seed: int = 0) -> Image.Image:
        blocks = np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        return Image.fromarray(blocks).resize((width, height), Image.Resampling.NEAREST)

    return draw

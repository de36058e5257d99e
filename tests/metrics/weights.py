"""Small random weights of the real classes, for what cannot be had offline."""

from __future__ import annotations

from pathlib import Path

import torch

from common.metrics.inception import WEIGHTS, import_pytorch_fid
from common.vision_operators import make_torchvision_importable


def save_inception(folder: Path) -> Path:
    """pytorch-fid's Inception with random weights, as its file is; `folder` can be a TORCH_HOME.

    pytorch-fid leaves the weights of its torchvision base as memory happens to be, so each is drawn here.
    """
    inception = import_pytorch_fid("inception")
    drawn: dict[str, torch.Tensor] = {}

    def keep(network: torch.nn.Module) -> None:
        generator = torch.Generator().manual_seed(0)
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                drawn[name] = torch.zeros_like(value)
            elif value.ndim > 1:  # as torch draws a convolution that a ReLU follows, so that no layer dies out
                deviation = (2 / value[0].numel()) ** 0.5
                drawn[name] = torch.randn(value.shape, generator=generator) * deviation
            else:
                drawn[name] = torch.ones_like(value) if name.endswith(("weight", "var")) else torch.zeros_like(value)

    network = inception._inception_v3(num_classes=1008, aux_logits=False, weights=None)
    for name, built in (
        ("Mixed_5b", inception.FIDInceptionA(192, pool_features=32)),
        ("Mixed_5c", inception.FIDInceptionA(256, pool_features=64)),
        ("Mixed_5d", inception.FIDInceptionA(288, pool_features=64)),
        ("Mixed_6b", inception.FIDInceptionC(768, channels_7x7=128)),
        ("Mixed_6c", inception.FIDInceptionC(768, channels_7x7=160)),
        ("Mixed_6d", inception.FIDInceptionC(768, channels_7x7=160)),
        ("Mixed_6e", inception.FIDInceptionC(768, channels_7x7=192)),
        ("Mixed_7b", inception.FIDInceptionE_1(1280)),
        ("Mixed_7c", inception.FIDInceptionE_2(2048)),
    ):
        setattr(network, name, built)
    keep(network)
    path = folder / "hub" / "checkpoints" / WEIGHTS
    path.parent.mkdir(parents=True)
    torch.save(drawn, path)
    return path


def save_clip(folder: Path) -> Path:
    """A CLIP of transformers' own classes, small, with random weights and its image processor."""
    make_torchvision_importable()
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**size, "vocab_size": 64, "max_position_embeddings": 8},
        vision_config={**size, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )
    torch.manual_seed(0)
    CLIPModel(config).save_pretrained(folder)
    sides = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**sides).save_pretrained(folder)
    return folder

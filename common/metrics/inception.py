"""Inception's features, by pytorch-fid's own network and its weights from a file: what FID is made of."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from unittest.mock import patch

import torch
from PIL import Image
from torch import Tensor, nn

from ..errors import InputError
from ..vision_operators import make_torchvision_importable
from ..weights import read_checkpoint, weights_digest
from .features import FeatureExtractor
from .image_sets import as_tensor

WEIGHTS = "pt_inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"
SIDE = 299


def kept_inception_weights() -> Path:
    """Where torch keeps what pytorch-fid's own command has fetched."""
    return Path(torch.hub.get_dir()) / "checkpoints" / WEIGHTS


def find_inception_weights(path: str | Path | None) -> Path:
    """The file of Inception's weights: `path`, or `kept_inception_weights`.

    Raises:
        InputError: if it is not there; the line names the file, its SHA-256 and where to put it.
    """
    kept = kept_inception_weights()
    found = Path(path) if path is not None else kept
    if found.is_file():
        return found
    raise InputError(
        f"FID needs Inception's weights, and there is no {found}: get {WEIGHTS} (SHA-256 {SHA256}; of pytorch-fid's "
        f"release fid_weights), and name it with --inception FILE or put it at {kept}"
    )


class InceptionFeatures(FeatureExtractor):
    """Features of Inception, as pytorch-fid computes them: FID is of the 2,048 of its last pooling.

    Images go in as they are, each brought to 299² by the network's own bilinear interpolation, as pytorch-fid's command
    does with images of one size.

    Args:
        weights: pytorch-fid's file; see `find_inception_weights`.
        device: that it runs on.
        batch_size: 50 is pytorch-fid's.
        dimensions: 2048; or 64, 192 or 768, of earlier layers, for fewer images: pytorch-fid's ``--dims``. Their
            distance is called by their number, and not to be held against an FID; nor is that of weights which are not
            the published file's, bit for bit.

    Raises:
        InputError: if pytorch-fid is not installed, there are no features of such number, or the file is not a state
            dict of its network.
    """

    def __init__(
        self, weights: str | Path, device: torch.device | str = "cpu", batch_size: int = 50, dimensions: int = 2048
    ) -> None:
        self.network = _read_network(weights, dimensions).to(device).eval()
        self.digest = weights_digest(weights)
        self.name = _name(dimensions, self.digest == SHA256)
        self.device, self.batch_size, self.dimensions = device, batch_size, dimensions

    def features_of(self, images: Sequence[Image.Image]) -> Tensor:
        """What the network pools, ``(B, dimensions)`` float32."""
        pixels = torch.cat([_to_side(as_tensor(image)[None].to(self.device)) for image in images])
        return nn.functional.adaptive_avg_pool2d(self.network(pixels)[0], 1)[:, :, 0, 0]


def _name(dimensions: int, published: bool) -> str:
    if dimensions == 2048 and published:
        return "FID"
    return f"Inception's {dimensions} features" + ("" if published else ", other weights")


def _to_side(image: Tensor) -> Tensor:
    # As the network would by itself, which finds nothing left to do then; here each image may have another size.
    return nn.functional.interpolate(image, size=(SIDE, SIDE), mode="bilinear", align_corners=False)


def _read_network(weights: str | Path, dimensions: int) -> nn.Module:
    inception = import_pytorch_fid("inception")
    blocks = inception.InceptionV3.BLOCK_INDEX_BY_DIM
    if dimensions not in blocks:
        raise InputError(f"Inception has no {dimensions} features; choose one of {', '.join(map(str, blocks))}")
    content = read_checkpoint(weights)
    with _weights_from(inception, content):
        try:
            return inception.InceptionV3([blocks[dimensions]])
        except RuntimeError:
            raise InputError(
                f"{weights} does not hold pytorch-fid's Inception; get {WEIGHTS} (SHA-256 {SHA256})"
            ) from None


def import_pytorch_fid(name: str) -> ModuleType:
    """A module of pytorch-fid, beside whatever torchvision there is.

    Raises:
        InputError: if it is not installed.
    """
    if find_spec("pytorch_fid") is None:
        raise InputError("FID needs pytorch-fid; pip install -c constraints.txt -e '.[metrics]'")
    make_torchvision_importable()
    from pytorch_fid import fid_score, inception

    return {"fid_score": fid_score, "inception": inception}[name]


@contextmanager
def _weights_from(inception: ModuleType, content: dict[str, Tensor]) -> Iterator[None]:
    # pytorch-fid would fetch a file and unpickle whatever it holds; what it is given here was read as tensors alone.
    with patch.object(inception, "load_state_dict_from_url", lambda *_, **__: content):
        yield

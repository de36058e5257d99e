"""A segmenter in a form that runs without its Python: TorchScript, ONNX or torch.export, with its parity.

TorchScript and ONNX of the same weights are the same bytes whenever a process of its own writes them: what tells of the
machine (paths of sources, traces of the stack) is taken out.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor, nn

from common.errors import InputError
from common.weights import load_weights

from .configs import read_yaml
from .sources import find_bundle, metadata_of

FORMATS = {"torchscript": "model.ts", "onnx": "model.onnx", "pt2": "model.pt2"}
TOLERANCE = 1e-4  # of logits; above it an export is refused
_IMAGES = 4


@dataclass(frozen=True)
class Parity:
    """How an exported network differs from the original, over images that were drawn for it.

    Attributes:
        largest: difference of the logits.
        pixels: that were compared.
        flipped: of these, how many change sides at logit 0, the threshold of 0.5.
    """

    largest: float
    pixels: int
    flipped: int

    def __str__(self) -> str:
        return f"logits differ by at most {self.largest:.2g}; of {self.pixels:,} mask pixels {self.flipped:,} differ"


class FlipAveraged(nn.Module):
    """A network with the average over four flips inside; to the bit what `FlipAverageInferer` makes of it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> Tensor:
        """Logits of ``(B, C, H, W)``."""
        straight = self.network(image) + torch.flip(self.network(torch.flip(image, [-1])), [-1])
        upside = torch.flip(self.network(torch.flip(image, [-2])), [-2])
        both = torch.flip(self.network(torch.flip(image, [-2, -1])), [-2, -1])
        return (straight + (upside + both)) / 4


def segmenter(root: Path, name: str, weights: str | Path | None = None) -> nn.Module:
    """The network of a bundle's `inference.yaml` with its weights, on the CPU, in eval mode.

    Args:
        root: of the collection.
        name: of the bundle.
        weights: a ``model.pt`` of a training in place of those that ship.

    Raises:
        InputError: if the bundle paints, or the weights do not fit.
    """
    folder = find_bundle(root, name)
    config = read_yaml(folder / "configs" / "inference.yaml")
    require_segmenter(config, name)
    network = ConfigParser(config).get_parsed_content("network_def")
    return load_weights(network, weights or folder / "models" / "model.pt").eval()


def require_segmenter(config: Mapping[str, Any], name: str) -> None:
    """See that an inference config is a segmenter's: one network, an image in, a mask out.

    Raises:
        InputError: if it is another's.
    """
    if "preprocessing" not in config or not isinstance(config.get("network_def"), Mapping):
        raise InputError(f"{name} paints images by many calls of its networks; only an order_… bundle can be exported")


def exported(
    root: Path, name: str, form: str, weights: str | Path | None = None, flips: bool = False
) -> tuple[bytes, Parity]:
    """The exported network, a file's content, and how it compares; nothing where it does not compute the same.

    Args:
        root, name, weights: as of `segmenter`.
        form: one of `FORMATS`.
        flips: whether the average over four flips, as inference makes it, is part of it.

    Raises:
        InputError: as `segmenter`; if a package is missing; if the logits differ by more than `TOLERANCE`.
    """
    if form not in FORMATS:
        raise InputError(f"no format {form!r}; there are {', '.join(FORMATS)}")
    network = segmenter(root, name, weights)
    image = metadata_of(find_bundle(root, name))["network_data_format"]["inputs"]["image"]
    shape = (image["num_channels"], *image["spatial_shape"])
    whole = FlipAveraged(network).eval() if flips else network
    with torch.no_grad():
        content = _WRITERS[form](whole, torch.zeros(1, *shape))
    found = parity(whole, _reader(form, content), shape)
    if not found.largest <= TOLERANCE:
        raise InputError(f"{name} as {form} is not the same network: {found}; nothing was written (limit {TOLERANCE})")
    return content, found


def parity(network: nn.Module, other: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Parity:
    """Compare two networks on smooth and on rough images in [0, 1], one by one."""
    generator = torch.Generator().manual_seed(0)
    largest, pixels, flipped = 0.0, 0, 0
    for number in range(_IMAGES):
        coarse = torch.rand((1, shape[0], 8 << number, 8 << number), generator=generator)
        image = nn.functional.interpolate(coarse, shape[1:], mode="bilinear", align_corners=False)
        with torch.no_grad():
            ours, theirs = network(image), other(image)
        difference = (ours - theirs).abs().max().item()
        largest = max(largest, difference) if difference == difference else float("nan")
        pixels += ours.numel()
        flipped += int(((ours > 0) != (theirs > 0)).sum())
    return Parity(largest, pixels, flipped)


# ---- the formats -----------------------------------------------------------------------------------------------


def _torchscript(network: nn.Module, image: Tensor) -> bytes:
    # Frozen: all code in one function to read, in an order that does not change from run to run. Its arithmetic stays.
    frozen = torch.jit.freeze(torch.jit.script(network), optimize_numerics=False)
    stream = io.BytesIO()
    torch.jit.save(frozen, stream)
    return _without_traces(stream.getvalue())


def _without_traces(archive: bytes) -> bytes:
    # The records named *.debug_pkl tell where each line of the sources lay on this disk; nothing needs them.
    with zipfile.ZipFile(io.BytesIO(archive)) as original:
        members = [(info, original.read(info)) for info in original.infolist()]
    kept = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(kept)
    for info, content in members:
        name = info.filename.partition("/")[2]
        if not name.endswith(".debug_pkl") and name not in ("version", ".data/serialization_id", "byteorder"):
            writer.write_record(name, content, len(content))
    writer.write_end_of_file()
    return kept.getvalue()


def _onnx(network: nn.Module, image: Tensor) -> bytes:
    try:
        import onnxruntime  # noqa: F401 (the result is compared by it)
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise InputError(f"--format onnx needs {error.name}; pip install -c constraints.txt -e '.[onnx]'") from None
    batch = torch.export.Dim("batch", min=1, max=1024)
    # torch's exporter copies with a class that torch itself has renamed, and says so.
    warnings.filterwarnings("ignore", category=FutureWarning, message=".*LeafSpec")
    program = torch.onnx.export(
        network,
        (torch.cat([image, image]),),
        input_names=["image"],
        output_names=["logits"],
        dynamo=True,
        verbose=False,
        dynamic_shapes=({0: batch},),
    )
    model = program.model_proto
    del model.metadata_props[:]
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, *model.functions):
        del part.metadata_props[:]
    del model.graph.metadata_props[:]
    return model.SerializeToString(deterministic=True)


def _pt2(network: nn.Module, image: Tensor) -> bytes:
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(network, (torch.cat([image, image]),), dynamic_shapes=({0: batch},), strict=True)
    stream = io.BytesIO()
    torch.export.save(program, stream)
    return stream.getvalue()


_WRITERS = {"torchscript": _torchscript, "onnx": _onnx, "pt2": _pt2}


def _reader(form: str, content: bytes) -> Callable[[Tensor], Tensor]:
    if form == "torchscript":
        return torch.jit.load(io.BytesIO(content), map_location="cpu")
    if form == "pt2":
        return torch.export.load(io.BytesIO(content)).module()
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    return lambda given: torch.from_numpy(session.run(None, {"image": given.numpy()})[0])

"""The ways in which a trained network is run: as it is, compiled, or exported."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import InputError

RUNTIMES = ("eager", "compiled", "torchscript", "onnx")

Runner = Callable[[Tensor], Tensor]


def runner(network: nn.Module, runtime: str, image: Tensor) -> Runner:
    """What computes the network's logits in one of `RUNTIMES`; gradients are off.

    Args:
        network: in eval mode, on its device.
        runtime: "torchscript" is traced and frozen; "onnx" is exported as `monai.bundle onnx_export` does and run by
            ONNX Runtime in as many threads as torch has.
        image: ``(B, C, H, W)``, of the shape that will be run.

    Raises:
        InputError: where a package that the runtime needs is missing.
    """
    if runtime == "compiled":
        return torch.compile(network)
    if runtime == "torchscript":
        with torch.no_grad():
            return torch.jit.freeze(torch.jit.trace(network, image))
    return _onnx(network, image) if runtime == "onnx" else network


def _onnx(network: nn.Module, image: Tensor) -> Runner:
    try:
        import onnxruntime
        import onnxscript  # noqa: F401 (torch's exporter needs it)
    except ImportError as error:
        raise InputError(f"--runtimes onnx needs {error.name}; pip install -c constraints.txt -e '.[onnx]'") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    kinds = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
    if kinds[image.device.type] not in onnxruntime.get_available_providers():
        raise InputError(f"--runtimes onnx: this ONNX Runtime cannot use {image.device.type}; leave onnx out")
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        file = Path(folder) / "network.onnx"
        torch.onnx.export(
            network, (image,), input_names=["image"], output_names=["logits"], dynamo=True, verbose=False
        ).save(file)
        session = onnxruntime.InferenceSession(file, options, providers=[kinds[image.device.type]])
    return lambda given: torch.from_numpy(session.run(None, {"image": given.cpu().numpy()})[0])

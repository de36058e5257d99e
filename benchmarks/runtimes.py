"""The ways in which a trained network is run: as it is, compiled, or exported."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from common.errors import InputError

RUNTIMES = ("eager", "compiled", "torchscript", "onnx")
EXPORTED = ("torchscript", "onnx")

Runner = Callable[[Tensor], Tensor]


def check_runtimes(runtimes: list[str], device: str) -> None:
    """See that what they need is there, before any work.

    Raises:
        InputError: where a package, a compiler or a build for the device is missing.
    """
    if "compiled" in runtimes and torch.device(device).type == "cpu" and not _compiler_is_there():
        raise InputError("--runtimes compiled needs a C++ compiler, such as g++; install one, or leave compiled out")
    if "onnx" in runtimes:
        if torch.device(device).type != "cpu":
            raise InputError("--runtimes onnx is timed on a CPU: to a GPU the images would travel at each call")
        try:
            import onnxruntime  # noqa: F401
            import onnxscript  # noqa: F401 (torch's exporter needs it)
        except ImportError as error:
            raise InputError(
                f"--runtimes onnx needs {error.name}; pip install -c constraints.txt -e '.[onnx]'"
            ) from None


def _compiler_is_there() -> bool:
    from torch._inductor import config

    return any(name and shutil.which(name) for name in config.cpp.cxx)


def export(network: nn.Module, runtime: str, image: Tensor, file: Path) -> None:
    """Write the network as one of `EXPORTED`, for images of the shape of this one; gradients are off.

    Args:
        network: in eval mode, on its device.
        runtime: "torchscript" is traced and frozen; "onnx" is exported as `monai.bundle onnx_export` does.
        image: ``(B, C, H, W)``.
        file: to write.
    """
    with torch.no_grad():
        if runtime == "torchscript":
            torch.jit.save(torch.jit.freeze(torch.jit.trace(network, image)), file)
        else:
            torch.onnx.export(
                network, (image,), input_names=["image"], output_names=["logits"], dynamo=True, verbose=False
            ).save(file)


def load(file: Path, runtime: str, device: str) -> Runner:
    """What computes an exported network's logits, in as many threads as torch has."""
    if runtime == "torchscript":
        return torch.jit.load(file, map_location=device)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # Its threads would else go on spinning after a call, on the cores of whatever is timed next.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    return lambda given: torch.from_numpy(session.run(None, {"image": given.numpy()})[0])


def runner(network: nn.Module, runtime: str, image: Tensor) -> Runner:
    """What computes the network's logits in one of `RUNTIMES`; see `export`."""
    if runtime == "compiled":
        torch._dynamo.config.recompile_limit = 64  # for each network's forward; beyond it, eager without a word
        return torch.compile(network, dynamic=False)
    if runtime not in EXPORTED:
        return network
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network"
        export(network, runtime, image, file)
        return load(file, runtime, str(image.device))

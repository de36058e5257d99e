"""Reading weights without running what a file might hold, and saying plainly when they do not fit."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import InputError
from .files import write_with
from .quiet import quietly


def weights_digest(path: str | Path) -> str:
    """SHA-256, hexadecimal, of a file; or of the names and contents of all files below a folder.

    Raises:
        InputError: if there is neither.
    """
    path = Path(path)
    if path.is_file():
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    if not path.is_dir():
        raise InputError(f"there is no {path}; name a file or a folder of weights")
    files = {each.relative_to(path).as_posix(): weights_digest(each) for each in path.rglob("*") if each.is_file()}
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a file of tensors and plain values (``weights_only``), onto the CPU.

    Raises:
        InputError: if the file is missing, damaged (its checksums are compared, which torch does not do), or holds
            anything but tensors and plain values.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no checkpoint at {path}; give the path of a model.pt, or train one first")
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    raise InputError(f"{path} is damaged: its checksums do not fit; copy it again, or train it again")
        with quietly():  # of what it is instead; the error below says enough
            content = torch.load(path, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except Exception:  # torch raises many kinds, and its texts advise to load the file without the check
        raise InputError(
            f"{path} is damaged, or holds more than tensors and plain values, which is refused because it could run "
            "code; give a state dict as torch.save writes it"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} holds a {type(content).__name__}, not a state dict")
    return content


def save_checkpoint(path: str | Path, content: Mapping[str, Any]) -> None:
    """Write tensors and plain values to `path`, whole or not at all."""
    write_with(path, lambda stream: torch.save(dict(content), stream))


def unwrapped(network: nn.Module) -> nn.Module:
    """The network inside a distributed or compiled wrapper."""
    if isinstance(network, nn.parallel.DistributedDataParallel):
        network = network.module
    return getattr(network, "_orig_mod", network)


def fit_weights(network: nn.Module, weights: Mapping[str, Tensor], origin: str) -> None:
    """Load a state dict strictly.

    Raises:
        InputError: if keys or shapes differ; the network is then unchanged.
    """
    network = unwrapped(network)
    own = network.state_dict()
    missing = sorted(own.keys() - weights.keys())
    unexpected = sorted(weights.keys() - own.keys())
    reshaped = sorted(
        key for key in own.keys() & weights.keys() if own[key].shape != getattr(weights[key], "shape", None)
    )
    if missing or unexpected or reshaped:
        parts = [
            f"{len(keys)} {what} (such as {keys[0]})"
            for keys, what in ((missing, "missing"), (unexpected, "unexpected"), (reshaped, "of another shape"))
            if keys
        ]
        raise InputError(
            f"{origin} holds the weights of another network than the config's {type(network).__name__}: "
            f"{', '.join(parts)}; use the config that it was trained with"
        )
    network.load_state_dict(dict(weights))


def load_weights(network: nn.Module, path: str | Path) -> nn.Module:
    """Fill `network` from a state dict on disk and return it.

    Raises:
        InputError: if the file cannot be read or belongs to another network.
    """
    fit_weights(network, read_checkpoint(path), str(path))
    return network

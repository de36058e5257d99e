"""Packed bundles small enough to verify thousands of times, and zips written field by field, as no tool writes them."""

from __future__ import annotations

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from bundles.boot import FIND_PACKAGE, IMPORTS
from bundles.executables import executables
from bundles.exporting import _torchscript
from bundles.manifest import FULL, NAME, build_manifest, json_bytes, packages_of
from bundles.naming import named_anew, package_name, placeholder
from bundles.opening import sha256
from bundles.sources import Tree, collection, metadata_of
from bundles.zip_writing import zip_bytes

VERSION = "0.1.0"
ZIP = f"mini_v{VERSION}.zip"
LOGGING = (collection() / "order_polyps" / "configs" / "logging.conf").read_bytes()
LICENCE = b"Terms\n=====\n\nDrawn images;\nfree to use.\n\nNo more.\n"


def saved(value: Any, **options: Any) -> bytes:
    """A value as `torch.save` writes it."""
    stream = io.BytesIO()
    torch.save(value, stream, **options)
    return stream.getvalue()


def network() -> torch.nn.Module:
    """Two layers with fixed weights."""
    torch.manual_seed(0)  # of this small network alone
    return torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3), torch.nn.BatchNorm2d(2)).eval()


class Small(torch.nn.Module):
    """`network` as a segmenter is: it takes an image."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of ``(B, 3, H, W)``."""
        return torch.relu(self.layers(image))


def frozen(module: torch.nn.Module) -> bytes:
    """A module as TorchScript, in the form that the collection exports."""
    return _torchscript(module.eval(), torch.zeros(0))


def rewritten(content: bytes, change: Callable[[dict[str, bytes]], Any]) -> bytes:
    """An archive of torch's form anew, with its records, by path, changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(records)
    stream = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(stream)
    for name, record in records.items():
        if name not in ("version", ".data/serialization_id", "byteorder"):
            writer.write_record(name, record, len(record))
    writer.write_end_of_file()
    return stream.getvalue()


def inference() -> dict[str, Any]:
    """A packed config in small: ours and MONAI's components, expressions of each kind, the boot expression."""
    return _inference(PACKAGE)


def _inference(package: str) -> dict[str, Any]:
    return {
        "bundle_root": {"_target_": f"{package}.bundle_folder", "name": "mini"},
        "image_size": 64,
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": {"_target_": f"{package}.nets.SmallNet"},
        "transform": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image", "reader": "PILReader"},
                {"_target_": "Resized", "keys": "image", "spatial_size": "$[@image_size, @image_size]"},
            ],
        },
        "imports": list(IMPORTS),
        "initialize": [FIND_PACKAGE, "$monai.utils.set_determinism(seed=0)"],
        "run": ["$@evaluator.run()"],
    }


def _metadata() -> dict[str, Any]:
    full = metadata_of(collection() / "order_polyps")
    packages = {name: full["required_packages_version"][name] for name in ("fire", "pillow", "pytorch-ignite", "tqdm")}
    return {**full, "required_packages_version": packages}


def mini() -> dict[str, bytes]:
    """The files of a small bundle with code, without its manifest."""
    return _mini(PACKAGE)


def _mini(package: str) -> dict[str, bytes]:
    metadata = _metadata()
    pins = "".join(f"{name}=={version}\n" for name, version in packages_of(metadata).items())
    return {
        "LICENSE": b"Apache-2.0\n",
        "configs/inference.json": json_bytes(_inference(package)),
        "configs/logging.conf": LOGGING,
        "configs/metadata.json": json_bytes(metadata),
        "docs/README.md": b"# mini\n",
        "docs/data_license.txt": LICENCE,
        "models/model.pt": saved(network().state_dict()),
        "requirements.txt": pins.encode(),
        f"{package}/__init__.py": b'"""Mini."""\n\n\ndef bundle_folder(name):\n    return name\n',
        f"{package}/files.py": b"import os\n\n\ndef names(folder):\n    return os.listdir(folder)\n",
        f"{package}/nets/__init__.py": b"from .small import SmallNet\n",
        f"{package}/nets/small.py": b"import torch\n\n\nclass SmallNet(torch.nn.Module):\n    pass\n",
    }


PACKAGE = package_name("mini", _mini(placeholder("mini")))


def code_free(config: Mapping[str, Any]) -> dict[str, bytes]:
    """The files of a small bundle without code, without its manifest."""
    kept = {path: content for path, content in mini().items() if not path.endswith(".py") and path != "models/model.pt"}
    return {**kept, "configs/inference.json": json_bytes(config), "models/model.ts": frozen(Small())}


def manifested(
    files: Mapping[str, bytes],
    kind: str = FULL,
    change: Callable[[dict], Any] | None = None,
    package: str | None = None,
) -> dict[str, bytes]:
    """Files with a manifest that fits them, as one makes who means to deceive as well.

    Args:
        change: what to do to the parsed manifest before it is put in.
        package: name that the Python has in `files`, and keeps; without it, it gets the name that they give it.
    """
    files = {path: content for path, content in files.items() if path != NAME}
    requires = packages_of(_metadata())
    if kind == FULL and package is None:
        package, files = named_anew("mini", PACKAGE, files)
    readable = {path: content if _is_readable(path, content) else b"{}" for path, content in files.items()}
    manifest = json.loads(build_manifest("mini", VERSION, kind, package, Tree("0" * 40, False), requires, readable))
    manifest["files"] = {path: {"sha256": sha256(each), "size": len(each)} for path, each in files.items()}
    if change is not None:
        change(manifest)
    return {**files, NAME: json_bytes(manifest)}


def _is_readable(path: str, content: bytes) -> bool:
    if not path.endswith(".json"):
        return True
    try:
        list(executables(json.loads(content)))
    except (ValueError, RecursionError):
        return False
    return True


def write_zip(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Files as the mini bundle's zip."""
    path = folder / ZIP
    path.write_bytes(zip_bytes("mini", files))
    return path


def write_mini(folder: Path, changed: Mapping[str, bytes] | None = None, **options: Any) -> Path:
    """The mini bundle's zip, with some files put in the place of its own or beside them, and a manifest that fits."""
    return write_zip(folder, manifested({**mini(), **(changed or {})}, **options))


def write_config(folder: Path, change: Callable[[dict], Any], name: str = "inference") -> Path:
    """The mini bundle's zip with a changed config, and a manifest that fits."""
    config = json.loads(mini()[f"configs/{name}.json"])
    change(config)
    return write_mini(folder, {f"configs/{name}.json": json_bytes(config)})


# ---- zips, field by field --------------------------------------------------------------------------------------


def raw_member(name: bytes, content: bytes = b"content", **fields: Any) -> dict[str, Any]:
    """A member for `raw_zip`; `fields` replace what the central directory says, ``local_…`` what its header says."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    method = fields.get("method", 8)
    raw = fields.pop("raw", None)
    if raw is None:
        raw = packer.compress(content) + packer.flush() if method == 8 else content
    told = {
        "name": name, "flags": 0, "method": method, "crc": zlib.crc32(content), "packed": len(raw),
        "size": len(content), "extra": b"", "comment": b"", "attributes": 0o100644 << 16, "made": 3 << 8 | 20,
        "needed": 20, "offset": None, "internal": 0, "after": b"", "raw": raw,
    }  # fmt: skip
    told |= {key: value for key, value in fields.items() if not key.startswith("local_")}
    own = {key.removeprefix("local_"): value for key, value in fields.items() if key.startswith("local_")}
    return {**told, "own": {**told, "extra": b"", **own}}


def raw_zip(members: list[dict[str, Any]], **end: Any) -> bytes:
    """A zip of `raw_member`s; `end` replaces what its end record says, or is ``before``, ``between`` or ``behind``."""
    body, directory = end.pop("before", b""), b""
    behind, between = end.pop("behind", b""), end.pop("between", b"")
    for member in members:
        own, offset = member["own"], len(body)
        body += struct.pack(
            "<4s5H3I2H", b"PK\x03\x04", own["needed"], own["flags"], own["method"], 0, 33, own["crc"], own["packed"],
            own["size"], len(own["name"]), len(own["extra"]),
        ) + own["name"] + own["extra"] + member["raw"] + member["after"]  # fmt: skip
        directory += struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", member["made"], member["needed"], member["flags"], member["method"], 0, 33,
            member["crc"], member["packed"], member["size"], len(member["name"]), len(member["extra"]),
            len(member["comment"]), 0, member["internal"], member["attributes"],
            offset if member["offset"] is None else member["offset"],
        ) + member["name"] + member["extra"] + member["comment"]  # fmt: skip
    body += between
    told = {"disk": 0, "first": 0, "here": len(members), "count": len(members), "size": len(directory)}
    told |= {"start": len(body), "comment": b"", **end}
    numbers = [told[key] for key in ("disk", "first", "here", "count", "size", "start")]
    return body + directory + struct.pack("<4s4H2IH", b"PK\x05\x06", *numbers, len(told["comment"])) + (
        told["comment"] + behind
    )  # fmt: skip

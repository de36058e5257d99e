"""From a bundle's sources to one self-contained zip: its part of `common` under a name of its own, JSON, manifest."""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors

from common.files import check_writable, hold_folder, release_folder, write_atomically, write_json
from common.provenance import SUFFIX as RECORD_SUFFIX

from .closure import PACKAGE, needed_files
from .configs import SEGMENTER, packed_config, read_yaml, render, sister_of
from .executables import executables
from .manifest import FULL, NAME, build_manifest, packages_of
from .model_card import model_card
from .model_info import FILE as MODEL_INFO
from .model_info import read_model_info
from .naming import package_name, placeholder
from .sbom import SUFFIX as SBOM_SUFFIX
from .sbom import sbom
from .sources import bundle_files, find_bundle, metadata_of, read_tree
from .texts import packed_text
from .zip_writing import zip_bytes

MODEL = "models/model.pt"
_PATIENCE = 600.0  # seconds; to write all zips takes a few
CARD = "docs/model_card.md"


@dataclass(frozen=True)
class Packed:
    """A packed bundle.

    Attributes:
        name, version, kind: of the bundle, as in its manifest.
        package: the name of its Python code; None where it has none.
        files: contents by path below its folder, the manifest among them.
    """

    name: str
    version: str
    kind: str
    package: str | None
    files: dict[str, bytes]

    @property
    def file_name(self) -> str:
        """As the Model Zoo names zips."""
        return f"{self.name}_v{self.version}.zip"

    def zip(self) -> bytes:
        """The zip, the same bytes for the same files."""
        return zip_bytes(self.name, self.files)


def pack(root: Path, name: str) -> Packed:
    """Pack a bundle of the collection at `root` with all the Python that it needs.

    Raises:
        InputError: if there is no such bundle, or it holds what may not be packed.
    """
    folder = find_bundle(root, name)
    metadata = metadata_of(folder)
    raw = bundle_files(folder)
    configs = {path: read_yaml(folder / path) for path in raw if path.startswith("configs/") and path.endswith(".yaml")}
    own = {path: content for path, content in raw.items() if path not in configs}
    own |= _weights(root, own, configs)
    own[CARD] = model_card(metadata, name=name).encode()
    own["requirements.txt"] = requirements(packages_of(metadata))
    targets = {
        part.text for config in configs.values() for part in executables(config) if part.text.startswith(f"{PACKAGE}.")
    }
    code = needed_files(root, targets)

    def named(path: str, content: bytes, package: str) -> bytes:
        return packed_text(path, content, package, name, [Path(each).stem for each in configs])

    def files_as(package: str) -> dict[str, bytes]:
        files = {path.replace(".yaml", ".json"): render(packed_config(each, package)) for path, each in configs.items()}
        files |= {path: named(path, content, package) for path, content in own.items()}
        return files | {
            package + path.removeprefix(PACKAGE): named(path, content, package) for path, content in code.items()
        }

    package = package_name(name, files_as(placeholder(name)))
    files = files_as(package)
    tree = read_tree(root, [name, PACKAGE, "bundles", *_sisters(configs)])
    files[NAME] = build_manifest(name, metadata["version"], FULL, package, tree, packages_of(metadata), files)
    return Packed(name, metadata["version"], FULL, package, files)


def write_zips(packed: list[Packed], out: Path) -> dict[str, str]:
    """Write zips and, beside them, the bill of materials of each, and ``model_info.json`` as the Model Zoo has it.

    Of the latter, lines of other zips are kept.

    Returns:
        The SHA-256 of each zip by its path.

    Raises:
        InputError: if the folder cannot be written to, or what writes bills of materials is not installed.
    """
    check_writable(out)
    hold_folder(out, _PATIENCE)  # two at once would each write the catalogue without the other's lines
    try:
        return _write_zips(packed, out)
    finally:
        release_folder(out)


def _write_zips(packed: list[Packed], out: Path) -> dict[str, str]:
    digests, info = {}, read_model_info(out / MODEL_INFO) if (out / MODEL_INFO).exists() else {}
    for each in packed:
        content = each.zip()
        digest = hashlib.sha256(content).hexdigest()
        bill = sbom(json.loads(each.files[NAME]), digest)
        write_atomically(out / each.file_name, content)
        write_atomically(out / f"{each.file_name.removesuffix('.zip')}{SBOM_SUFFIX}", bill)
        digests[str(out / each.file_name)] = digest
        info[each.file_name.removesuffix(".zip")] = {
            "checksum": hashlib.sha1(content, usedforsecurity=False).hexdigest(),  # what the Zoo's own tools compare
            "sha256": digest,
            "source": each.file_name,
        }
    write_json(out / MODEL_INFO, dict(sorted(info.items())))
    return digests


def _sisters(configs: Mapping[str, Mapping]) -> list[str]:
    return sorted({name for config in configs.values() if (name := sister_of(config))})


def _weights(root: Path, own: Mapping[str, bytes], configs: Mapping[str, Mapping]) -> dict[str, bytes]:
    # What a painter lacks: the segmenter that judges it, and the state dict that the Zoo asks of every bundle.
    found = {}
    for sister in _sisters(configs):
        weights = root / sister / MODEL
        found[SEGMENTER] = weights.read_bytes()
        found[SEGMENTER.replace(".pt", RECORD_SUFFIX)] = weights.with_suffix(RECORD_SUFFIX).read_bytes()
    if MODEL not in own:
        parts = {
            part: load_safetensors(own[path])
            for path in sorted(own)
            if path.endswith(".safetensors") and (part := Path(path).parent.name)
        }
        state = {f"denoiser.{part}.{key}": tensors[key] for part, tensors in parts.items() for key in sorted(tensors)}
        stream = io.BytesIO()
        torch.save(state, stream)
        found[MODEL] = stream.getvalue()
    return found


def requirements(packages: Mapping[str, str]) -> bytes:
    """A requirements file of exact versions."""
    lines = [f"{package}=={version}" for package, version in packages.items()]
    return "\n".join(["# What this bundle was tested with: pip install -r requirements.txt", *lines, ""]).encode()

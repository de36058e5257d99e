"""``MANIFEST.json``: what a packed bundle holds, needs and can execute."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from .executables import executable_texts
from .sources import Tree

NAME = "MANIFEST.json"
FORMAT = "law-order-bundle/1"
FULL, CODE_FREE = "full", "code-free"
PYTHON = ">=3.11"
CODE_LICENCE = "Apache-2.0"


def executed(files: Mapping[str, bytes]) -> dict[str, dict[str, list[str]]]:
    """What the JSON configs among `files` can execute: by config the sorted names and expressions."""
    names = sorted(name for name in files if name.startswith("configs/") and name.endswith(".json"))
    return {name: executable_texts(json.loads(files[name])) for name in names}


def packages_of(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Name and exact version of each package that a bundle was tested with, as its metadata says."""
    named = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
    first = {package: metadata[key] for package, key in named.items()}
    return dict(sorted({**first, **metadata["required_packages_version"]}.items()))


def first_paragraph(text: str) -> str:
    """The first paragraph below a title of plain text, as one line."""
    paragraphs = [part.strip().split("\n") for part in text.strip().split("\n\n")]
    body = [lines for lines in paragraphs if not (len(lines) == 2 and lines[1] and set(lines[1]) <= set("=-"))]
    return " ".join(line.strip() for line in body[0]) if body else ""


def build_manifest(
    name: str, version: str, kind: str, package: str | None, tree: Tree, requires: Mapping[str, str],
    files: Mapping[str, bytes],
) -> bytes:  # fmt: skip
    """The manifest of `files`, all that a bundle holds besides it, as bytes.

    Args:
        name, version: of the bundle.
        kind: `FULL` or `CODE_FREE`.
        package: of its Python code; None where it has none.
        tree: what was packed.
        requires: exact versions by package.
        files: contents by path.
    """
    content = {
        "format": FORMAT,
        "name": name,
        "version": version,
        "kind": kind,
        "package": package,
        "source": {"commit": tree.commit, "modified": tree.modified},
        "licence": {"code": CODE_LICENCE, "data": first_paragraph(files["docs/data_license.txt"].decode())},
        "requires": {"python": PYTHON, "packages": dict(requires)},
        "executes": executed(files),
        "python": sorted(path for path in files if path.endswith(".py")),
        "files": {
            path: {"sha256": hashlib.sha256(each).hexdigest(), "size": len(each)} for path, each in files.items()
        },
    }
    return json_bytes(content)


def json_bytes(content: Any) -> bytes:
    """Indented JSON with sorted keys: the same bytes for the same content."""
    return (json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()

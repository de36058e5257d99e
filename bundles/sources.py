"""What of the collection belongs to a bundle, and the state of the tree that it comes from."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import InputError

SUFFIXES = {
    "configs": (".yaml", ".json", ".conf"),
    "docs": (".md", ".txt"),
    "models": (".pt", ".json", ".safetensors"),
}
COMMIT_FILE = ".commit"  # `git archive` writes the commit into it, where there is no .git to ask
_UNFILLED = "$Format"
_NOT_SHIPPED = "retrain"  # models/retrained.pt, models/retraining/: what MONAI Label has left in this tree


@dataclass(frozen=True)
class Tree:
    """The source that is packed.

    Attributes:
        commit: of git, 40 hexadecimal digits; None where it cannot be known.
        modified: whether what is packed differs from that commit; None where there is no git to ask.
    """

    commit: str | None
    modified: bool | None


def collection() -> Path:
    """The folder that holds the bundles, around this package.

    Raises:
        InputError: if they are not there, as where the package alone was installed.
    """
    root = Path(__file__).resolve().parents[1]
    if not list(root.glob("*/configs/metadata.json")):
        raise InputError(f"{root} holds no bundle; run this in a checkout of the collection")
    return root


def bundle_names(root: Path) -> list[str]:
    """The bundles of a collection, sorted."""
    return sorted(path.parents[1].name for path in root.glob("*/configs/metadata.json"))


def find_bundle(root: Path, name: str) -> Path:
    """The folder of a bundle.

    Raises:
        InputError: if there is none of that name; it tells those there are.
    """
    names = bundle_names(root)
    if name not in names:
        raise InputError(f"no bundle {name!r}; there are {', '.join(names)}")
    return root / name


def bundle_files(folder: Path) -> dict[str, bytes]:
    """What a bundle's folder ships, by its path there: licence, configs, documents and weights; nothing hidden.

    Raises:
        InputError: if a link is among it: what it points to may lie anywhere.
    """
    files = {"LICENSE": (folder / "LICENSE").read_bytes()}
    for part, suffixes in SUFFIXES.items():
        for path in sorted((folder / part).rglob("*")):
            inside = path.relative_to(folder)
            if any(name.startswith(".") for name in inside.parts) or path.suffix not in suffixes:
                continue
            if part == "models" and inside.parts[1].startswith(_NOT_SHIPPED):
                continue
            if path.is_symlink():
                raise InputError(f"{path} is a link; put the file itself there")
            if path.is_file():
                files[inside.as_posix()] = path.read_bytes()
    return files


def metadata_of(folder: Path) -> dict[str, Any]:
    """A bundle's metadata."""
    return json.loads((folder / "configs" / "metadata.json").read_text(encoding="utf-8"))


def read_tree(root: Path, parts: Sequence[str]) -> Tree:
    """Commit of the collection, and whether the files or folders `parts` differ from it.

    Asked of git; or the commit read from what ``git archive`` left in `COMMIT_FILE`, a copy that may have been changed
    since.
    """
    filled = root / COMMIT_FILE
    if not (root / ".git").exists():
        text = filled.read_text(encoding="utf-8").strip() if filled.is_file() else _UNFILLED
        return Tree(text if re.fullmatch("[0-9a-f]{40}", text) else None, None)
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--untracked-files=all", "--", *parts)
    return Tree(commit, bool(changed) or commit is None)


def _git(root: Path, *arguments: str) -> str | None:
    # Another owner of the folder is no reason to refuse what is only read; file modes are no content.
    command = ["git", "-c", f"safe.directory={root}", "-c", "core.fileMode=false", *arguments]
    try:
        ended = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return ended.stdout.strip() if ended.returncode == 0 else None

"""``model_info.json``: the catalogue of zips in a folder, as the Model Zoo has it, with a SHA-256 beside its SHA-1."""

from __future__ import annotations

from pathlib import Path

from .archives import Refused
from .opening import read_limited
from .strict_json import parse_json

FILE = "model_info.json"


def read_model_info(path: Path) -> dict[str, dict[str, str]]:
    """The catalogue of zips in a file.

    Raises:
        Refused: if it is no such file.
    """
    found = parse_json(read_limited(path), str(path))
    if not isinstance(found, dict) or not all(isinstance(entry, dict) for entry in found.values()):
        raise Refused(f"{path} is no catalogue of zips (an object of objects by name); move it away")
    return found

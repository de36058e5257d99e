"""From a bundle's YAML sources to the JSON of a packed one, in which everything is found in the bundle's own folder."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from monai.bundle import ConfigParser

from .boot import FIND_PACKAGE, IMPORTS
from .closure import PACKAGE

# Lines of the sources' `run` that look for the collection around the bundle; a packed one has no collection.
_LOOKS_FOR_COLLECTION = re.compile(r"find_spec\('common'\)|sys\.path\.insert\(1, str\(next\(")
# The sister bundle whose weights judge what a painter paints.
_SISTER = re.compile(r"^\$str\(Path\(@bundle_root\)\.parent / '(\w+)/models/model\.pt'\)$")
SEGMENTER = "models/segmenter.pt"


def sister_of(config: Mapping[str, Any]) -> str | None:
    """The bundle whose weights a config reads besides its own, if there is one."""
    found = [match[1] for value in config.values() if isinstance(value, str) and (match := _SISTER.match(value))]
    return found[0] if found else None


def packed_config(config: Mapping[str, Any], package: str) -> dict[str, Any]:
    """A config of the sources, or an overlay, as it stands in a packed bundle.

    Args:
        config: parsed YAML.
        package: the name that `common` has in the bundle.
    """
    packed = {key: _renamed(value, package) for key, value in config.items()}
    for key, value in packed.items():
        if isinstance(value, str) and _SISTER.match(value):
            packed[key] = f"$@bundle_root + '/{SEGMENTER}'"
    if "run" not in packed:
        return packed  # an overlay
    packed["run"] = [entry for entry in packed["run"] if not _looks_for_collection(entry)]
    packed["initialize"] = [FIND_PACKAGE, *packed.get("initialize", [])]
    used = json.dumps([value for key, value in packed.items() if key != "imports"])
    imports = [each for each in packed.get("imports", []) if re.search(rf"\b{each.split()[-1]}\b", used)]
    packed["imports"] = [*IMPORTS, *(each for each in imports if each not in IMPORTS)]
    return packed


def render(config: Mapping[str, Any]) -> bytes:
    """A config as JSON, in its own order."""
    return (json.dumps(config, indent=1, ensure_ascii=False) + "\n").encode()


def read_yaml(path: Any) -> dict[str, Any]:
    """A YAML config, parsed as MONAI does, with its check for keys that stand twice."""
    return ConfigParser.load_config_file(path)


def _looks_for_collection(entry: Any) -> bool:
    return isinstance(entry, str) and bool(_LOOKS_FOR_COLLECTION.search(entry))


def _renamed(value: Any, package: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _renamed(each, package) for key, each in value.items()}
    if isinstance(value, list):
        return [_renamed(each, package) for each in value]
    if isinstance(value, str) and value.startswith(f"{PACKAGE}."):
        return f"{package}{value.removeprefix(PACKAGE)}"
    return value

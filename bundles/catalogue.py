"""The bundles of the collection at a glance."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .manifest import first_paragraph
from .sources import bundle_files, bundle_names, metadata_of


@dataclass(frozen=True)
class Entry:
    """A bundle as the catalogue tells it.

    Attributes:
        name, version, task, data: as in the metadata.
        parameters: of the network, as the metadata's description or the weights have it; None where neither does.
        metric: the first that was measured, with its value; "" where none was.
        size: of what it ships, in bytes, unpacked and without code.
        licence: of the data, its first paragraph.
    """

    name: str
    version: str
    task: str
    data: str
    parameters: int | None
    metric: str
    size: int
    licence: str

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return asdict(self)


def entries(root: Path) -> list[Entry]:
    """All bundles of a collection, by name."""
    return [_entry(root / name) for name in bundle_names(root)]


def _entry(folder: Path) -> Entry:
    metadata = metadata_of(folder)
    files = bundle_files(folder)
    metrics = metadata.get("eval_metrics", {})
    metric = next((f"{key} {value}" for key, value in metrics.items()), "")
    return Entry(
        name=folder.name,
        version=metadata["version"],
        task=metadata["task"],
        data=metadata["data_source"],
        parameters=_parameters(metadata, files),
        metric=metric,
        size=sum(map(len, files.values())),
        licence=first_paragraph(files["docs/data_license.txt"].decode()),
    )


def _parameters(metadata: dict[str, Any], files: dict[str, bytes]) -> int | None:
    told = re.search(r"([\d,]+) parameters", metadata["description"])
    if told:
        return int(told[1].replace(",", ""))
    from safetensors.torch import load

    tensors = [load(content) for path, content in files.items() if path.endswith(".safetensors")]
    return sum(value.numel() for each in tensors for value in each.values()) or None

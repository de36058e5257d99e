"""A model card as Hugging Face has them, made of a bundle's metadata alone, so that the two can't disagree."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, StrictUndefined

from .manifest import packages_of

_TEMPLATE = Path(__file__).with_name("model_card.md.j2")
_LINE = 10_000  # characters: YAML would fold a long text
_SEGMENTS = "segmentation"


def model_card(metadata: Mapping[str, Any], name: str) -> str:
    """The card, Markdown with a YAML head: licence, library, task, tags, and the measured metrics as a model index.

    Every text and figure is taken from the metadata as it stands there.

    Args:
        metadata: content of a bundle's ``configs/metadata.json``.
        name: of the bundle, ``<method>_<dataset>``.
    """
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=False, keep_trailing_newline=True, autoescape=False
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(
        front=yaml.safe_dump(_front(metadata, name), sort_keys=False, allow_unicode=True, width=_LINE),
        metadata=metadata,
        measured=[(_words(key), value) for key, value in metadata.get("eval_metrics", {}).items()],
        packages=", ".join(f"{package} {version}" for package, version in packages_of(metadata).items()),
        shape=_shape,
    )


def _front(metadata: Mapping[str, Any], name: str) -> dict[str, Any]:
    task = _task(metadata)
    front: dict[str, Any] = {
        "license": "other",
        "license_name": _licence_name(metadata["copyright"]),
        "license_link": "docs/data_license.txt",
        "library_name": "monai",
        "pipeline_tag": task,
        "tags": ["monai", "medical", "pytorch", name.split("_")[0], name],
    }
    if measured := metadata.get("eval_metrics"):
        results = {
            "task": {"type": task, "name": metadata["task"]},
            "dataset": {"type": name.split("_")[1], "name": _dataset(metadata["data_source"])},
            "metrics": [{"type": _kind(key), "value": value, "name": _words(key)} for key, value in measured.items()],
        }
        front["model-index"] = [{"name": metadata["name"], "results": [results]}]
    return front


def _task(metadata: Mapping[str, Any]) -> str:
    (output,) = metadata["network_data_format"]["outputs"].values()
    return "image-segmentation" if output["format"] == _SEGMENTS else "image-to-image"


def _licence_name(copyright: str) -> str:
    # "… Weights: CC BY 4.0 (KiTS19), see docs/…" to "apache-2.0-weights-cc-by-4.0-kits19", as the Hub wants it written.
    code = re.search(r"Code: ([^ ]+?)\. ", copyright)[1]
    weights = re.search(r"Weights: (.+?), see ", copyright)[1]
    return "-".join(re.findall(r"[a-z0-9.]+", f"{code} weights {weights}".lower()))


def _dataset(source: str) -> str:
    return re.split(r", (?:each )?from its owner", source)[0]


def _words(key: str) -> str:
    return key.replace("_", " ")


def _kind(key: str) -> str:
    # "mean_dice_one_pass" to "dice", as metrics are called on the Hub.
    return next((kind for kind in ("dice", "iou") if kind in key.split("_")), key)


def _shape(image: Mapping[str, Any]) -> str:
    size = " × ".join(str(side) for side in image["spatial_shape"])
    low, high = image["value_range"]
    return f"{image['num_channels']} × {size}, {image['dtype']}, {low} to {high}"

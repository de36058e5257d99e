"""A drawn set, and the training as the bundle's own configs have it, within the test's process."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from monai.bundle import ConfigParser, ConfigWorkflow

from common.data import Pair, Split, write_prepared_folder

CONFIGS = Path(__file__).parents[2] / "order_polyps" / "configs"
SMALL = {"image_size": 64, "batch_size": 4, "learning_rate": 0.01}  # what makes a run of a drawn set short


def _pairs(count: int, side: int = 64) -> Iterable[Pair]:
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:side, :side]
    for number in range(count):
        centre, radius = rng.uniform(side * 0.3, side * 0.7, 2), rng.uniform(side * 0.12, side * 0.3)
        disc = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2
        colours = np.where(disc[..., None], (190, 90, 80), (110, 60, 60)) + rng.normal(0, 15, (side, side, 3))
        yield Pair(colours.clip(0, 255).astype(np.uint8), disc, "drawn", f"scene_{number}", f"{number:02d}")


@pytest.fixture(scope="session")
def draw_set() -> Callable[..., Path]:
    """A function that writes a prepared folder with so many drawn pictures for training and for validation."""

    def draw(folder: Path, training: int, validation: int) -> Path:
        names = [f"drawn_{number:02d}" for number in range(training + validation)]
        split = Split(names[:training], (), names[training:])
        pairs = _pairs(training + validation)
        write_prepared_folder(folder, pairs, {"drawn": split}, name="drawn", licence="Apache-2.0", progress=False)
        return folder

    return draw


@pytest.fixture(scope="session")
def drawn_set(draw_set, tmp_path_factory) -> Path:
    """Nine pictures to train on, two batches of four an epoch, and three to validate."""
    return draw_set(tmp_path_factory.mktemp("drawn") / "set", 9, 3)


@pytest.fixture(scope="session")
def write_overlay(tmp_path_factory) -> Callable[[Mapping[str, Any]], Path]:
    """A function that writes a config, to be laid over another, and returns its path."""

    def write(content: Mapping[str, Any]) -> Path:
        path = tmp_path_factory.mktemp("overlay") / "overlay.yaml"
        path.write_text(yaml.safe_dump(dict(content), sort_keys=False))
        return path

    return write


@pytest.fixture(scope="session")
def quick(write_overlay) -> Path:
    """An overlay, to be the last: batch statistics follow within the few steps of a run here, so that metrics move."""
    return write_overlay({"+initialize": ["$@network_def.apply(lambda module: setattr(module, 'momentum', 0.5))"]})


@pytest.fixture(scope="session")
def configured(drawn_set) -> Callable[..., ConfigParser]:
    """A function that reads train.yaml and overlays, small, for single parts of it to be taken out."""

    def read(*overlays: str | Path, **overrides: Any) -> ConfigParser:
        parser = ConfigParser()
        parser.read_config([str(CONFIGS / "train.yaml"), *(str(CONFIGS / each) for each in overlays)])
        parser.update({"dataset_dir": str(drawn_set), **SMALL, **overrides})
        return parser

    return read


@pytest.fixture(scope="session")
def train(drawn_set, quick) -> Callable[..., ConfigParser]:
    """A function that does what `python -m monai.bundle run` does with train.yaml, and returns what was parsed."""

    def run(output_dir: Path, *overlays: str | Path, tracking: str | None = None, **overrides: Any) -> ConfigParser:
        search_path, level = list(sys.path), logging.getLogger().level
        try:
            workflow = ConfigWorkflow(
                config_file=[str(CONFIGS / "train.yaml"), *(str(CONFIGS / each) for each in (*overlays, quick))],
                workflow_type="train",
                logging_file=False,
                tracking=tracking,
                **{"dataset_dir": str(drawn_set), "output_dir": str(output_dir), "epochs": 2, **SMALL, **overrides},
            )
            logging.getLogger().setLevel(logging.INFO)
            workflow.initialize()
            workflow.run()
            workflow.finalize()
        finally:
            sys.path[:] = search_path
            logging.getLogger().setLevel(level)
        return workflow.parser

    return run


@pytest.fixture(scope="session")
def finished(train, tmp_path_factory) -> Path:
    """The folder of a run of two epochs; copy it before you change it."""
    folder = tmp_path_factory.mktemp("finished") / "run"
    train(folder)
    return folder

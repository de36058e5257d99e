"""The overlays of the baselines: each trains, is measured and is used by the commands of a bundle."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from tests.bundles.contract import REPOSITORY
from tests.bundles.drawn import SIDE, TEST

OVERLAYS = sorted((REPOSITORY / "common" / "baselines" / "configs").glob("*.yaml"))


@pytest.mark.parametrize("bundle", ["order_polyps", "order_brisc"])
def test_an_overlay_says_all_that_differs(bundle: str) -> None:
    """What it replaces is there, so that a key that is renamed in a bundle cannot stay behind in an overlay."""
    train = ConfigParser.load_config_file(REPOSITORY / bundle / "configs" / "train.yaml")
    for overlay in OVERLAYS:
        config = ConfigParser.load_config_file(overlay)
        assert {"network_def"} <= config.keys() <= {"network_def", "loss"}
        assert config.keys() <= train.keys()


@pytest.mark.parametrize(
    ("bundle", "overlay"),
    [
        *(("order_polyps", overlay) for overlay in OVERLAYS),
        ("order_brisc", next(o for o in OVERLAYS if o.stem == "mk_unet")),
    ],
    ids=lambda value: getattr(value, "stem", value),
)
def test_a_baseline_is_trained_measured_and_used(warm, drawn: Path, tmp_path: Path, bundle: str, overlay: Path) -> None:
    if overlay.stem == "pranet" and find_spec("timm") is None:
        pytest.skip("timm is not installed")
    configs = REPOSITORY / bundle / "configs"
    common = {"cwd": tmp_path, "dataset_dir": drawn, "image_size": SIDE}
    weights = tmp_path / "train" / "model.pt"
    runs = {
        "train": (["train", "recipe_best"], {"epochs": 1, "val_interval": 1, "batch_size": 2}),
        "evaluate": (["evaluate"], {"checkpoint": weights}),
        "inference": (["inference"], {"checkpoint": weights}),
    }
    for name, (files, given) in runs.items():
        paths = [*(configs / f"{each}.yaml" for each in files), overlay]
        ended = warm.bundle(
            "run", config_file=str([str(path) for path in paths]), output_dir=tmp_path / name, **common, **given
        )
        assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
    with open(tmp_path / "evaluate" / "per_image.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == TEST
    assert any((tmp_path / "inference" / "masks").iterdir())

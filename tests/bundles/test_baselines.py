"""The overlays of the baselines: each trains, is measured and is used by the commands of a bundle."""

from __future__ import annotations

import csv
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from monai.bundle import ConfigParser
from monai.losses import DiceCELoss

from common.training import DeepSupervision, StructureLoss
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


LOSSES = {
    "ege_unet": DeepSupervision,
    "mk_unet": StructureLoss,
    "nnunet_reference": DeepSupervision,
    "pranet": DeepSupervision,
    "unet": StructureLoss,  # the recipe's own
    "unext": DiceCELoss,
}


def needs(overlay: Path) -> None:
    if overlay.stem == "pranet" and find_spec("timm") is None:
        pytest.skip("timm is not installed")


@pytest.mark.parametrize("overlay", OVERLAYS, ids=lambda overlay: overlay.stem)
def test_a_baseline_has_its_own_loss_with_a_weight_for_each_of_its_maps(overlay: Path) -> None:
    needs(overlay)
    configs = REPOSITORY / "order_polyps" / "configs"
    files = [configs / "train.yaml", configs / "recipe_best.yaml", overlay]
    parser = ConfigParser(ConfigParser.load_config_files([str(file) for file in files]))
    network, loss = (parser.get_parsed_content(key) for key in ("network_def", "loss"))
    assert type(loss) is LOSSES[overlay.stem]
    maps = network.train()(torch.zeros(2, 3, 64, 64))
    assert isinstance(maps, list) == isinstance(loss, DeepSupervision)
    assert loss(maps, torch.zeros(2, 1, 64, 64)).isfinite()  # refuses another number of weights
    if overlay.stem == "nnunet_reference":
        assert sum(loss.weights) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("bundle", "overlay"),
    [
        *(("order_polyps", overlay) for overlay in OVERLAYS),
        *(
            pytest.param("order_brisc", overlay, marks=[] if overlay.stem == "mk_unet" else pytest.mark.slow)
            for overlay in OVERLAYS
        ),
    ],
    ids=lambda value: getattr(value, "stem", value),
)
def test_a_baseline_is_trained_measured_and_used(warm, drawn: Path, tmp_path: Path, bundle: str, overlay: Path) -> None:
    needs(overlay)
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
    network = ConfigParser(ConfigParser.load_config_file(overlay)).get_parsed_content("network_def")
    assert torch.load(weights, weights_only=True).keys() == network.state_dict().keys()  # and not ORDER's
    with open(tmp_path / "evaluate" / "per_image.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == TEST
    assert any((tmp_path / "inference" / "masks").iterdir())

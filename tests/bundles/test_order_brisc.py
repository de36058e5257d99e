"""The bundle order_brisc."""

from __future__ import annotations

from typing import Any

import pytest
from monai.bundle import ConfigParser

from tests.bundles.contract import REPOSITORY
from tests.bundles.segmenter_contract import SegmenterContract


def flat(config: Any, path: str = "") -> dict[str, Any]:
    """Every value of a config by its id."""
    if isinstance(config, dict):
        parts = config.items()
    elif isinstance(config, list):
        parts = enumerate(config)
    else:
        return {path: config}
    return {
        key: value for name, part in parts for key, value in flat(part, f"{path}#{name}" if path else str(name)).items()
    }


class TestOrderBrisc(SegmenterContract):
    bundle = "order_brisc"
    overlays = {  # noqa: RUF012
        "recipe_best": ("train", "recipe_best"),
        "recipe_best_second_cycle": ("train", "recipe_best", "recipe_best_second_cycle"),
        "recipe_best_third_cycle": ("train", "recipe_best", "recipe_best_third_cycle"),
        "recipe_v1": ("train", "recipe_v1"),
    }
    needs = {  # noqa: RUF012
        f"recipe_best_{cycle}_cycle": {"pretrained": REPOSITORY / "order_brisc" / "models" / "model.pt"}
        for cycle in ("second", "third")
    }

    def test_every_config_is_tested(self):
        tested = {*self.aliases, "multi_gpu_train", "evaluate_v1", *self.overlays}
        assert {path.stem for path in self.all_configs()} == tested

    @pytest.mark.parametrize("name", ["train", "inference", "multi_gpu_train", "recipe_v1", "evaluate_v1"])
    def test_it_is_the_sister_of_the_bundle_for_polyps(self, name):
        """One experiment on two sets of images: nothing differs but where things lie."""
        ours, theirs = (
            flat(ConfigParser.load_config_file(REPOSITORY / bundle / "configs" / f"{name}.yaml"))
            for bundle in ("order_brisc", "order_polyps")
        )
        assert ours.keys() == theirs.keys()
        differ = {key for key in ours if ours[key] != theirs[key]}
        assert all(str(ours[key]) == str(theirs[key]).replace("order_polyps", "order_brisc") for key in differ)

    def test_an_evaluation_is_told_apart_by_class_and_plane(self):
        ours, theirs = (
            flat(ConfigParser.load_config_file(REPOSITORY / bundle / "configs" / "evaluate.yaml"))
            for bundle in ("order_brisc", "order_polyps")
        )
        added = {key: value for key, value in ours.items() if key not in theirs}
        assert added == {"handlers#1#kinds#0": "class", "handlers#1#kinds#1": "plane"}

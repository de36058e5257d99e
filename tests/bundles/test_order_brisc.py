"""The bundle order_brisc."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from monai.bundle import ConfigParser

from common.data.folder import Pair, Split, write_prepared_folder
from common.provenance import read_record
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
    dataset = "brisc"
    overlays = {  # noqa: RUF012
        "recipe_best": ("train", "recipe_best"),
        "recipe_best_second_cycle": ("train", "recipe_best", "recipe_best_second_cycle"),
        "recipe_best_third_cycle": ("train", "recipe_best", "recipe_best_third_cycle"),
        "recipe_best_fourth_cycle": ("train", "recipe_best", "recipe_best_fourth_cycle"),
        "recipe_v1": ("train", "recipe_v1"),
    }
    needs = {  # noqa: RUF012
        f"recipe_best_{cycle}_cycle": {"pretrained": REPOSITORY / "order_brisc" / "models" / "model.pt"}
        for cycle in ("second", "third", "fourth")
    }

    def test_every_config_is_tested(self):
        tested = {*self.aliases, "multi_gpu_train", "evaluate_v1", *self.overlays}
        assert {path.stem for path in self.all_configs()} == tested

    def differences(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        """What a config gives otherwise than that of the bundle for polyps, and that gives in its place."""
        ours, theirs = (
            flat(ConfigParser.load_config_file(REPOSITORY / bundle / "configs" / f"{name}.yaml"))
            for bundle in ("order_brisc", "order_polyps")
        )
        theirs = {
            key: value.replace("order_polyps", "order_brisc") if isinstance(value, str) else value
            for key, value in theirs.items()
        }
        either = {key for key in ours.keys() | theirs.keys() if key not in ours or key not in theirs}
        either |= {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
        return tuple({key: side[key] for key in either if key in side} for side in (ours, theirs))

    @pytest.mark.parametrize("name", ["train", "inference", "multi_gpu_train", "recipe_v1", "evaluate_v1"])
    def test_it_is_the_sister_of_the_bundle_for_polyps(self, name):
        """One experiment on two sets of images: nothing differs but where things lie."""
        assert self.differences(name) == ({}, {})

    @pytest.mark.parametrize(
        ("name", "ours", "theirs"),
        [
            ("evaluate", {"handlers#1#kinds#0": "class", "handlers#1#kinds#1": "plane"}, {}),
            ("recipe_best", {"epochs": 12, "batch_size": 8}, {"epochs": 40}),
        ],
    )
    def test_nothing_but_what_these_images_want_is_different(self, name, ours, theirs):
        assert self.differences(name) == (ours, theirs)

    def test_an_evaluation_tells_class_and_plane_with_and_without_empty_images(self, warm, tmp_path):
        random = np.random.default_rng(0)
        kinds = [("glioma", "axial"), ("pituitary", "coronal"), ("none", "axial")]
        pairs = [
            Pair(
                random.integers(0, 200, (64, 64, 3), dtype=np.uint8),
                None if kind == "none" else np.eye(64) > 0,
                *("drawn", str(number), str(number)),
                extra={"class": kind, "plane": plane},
            )
            for number, (kind, plane) in enumerate(kinds)
        ]
        split = Split([], [pair.name for pair in pairs], [])
        write_prepared_folder(tmp_path / "data", pairs, {"order": split}, name="drawn", licence="none", progress=False)
        given = {"dataset_dir": tmp_path / "data", "output_dir": tmp_path / "out", "image_size": 64}
        ended = warm.bundle("run", cwd=tmp_path, config_file=self.config("evaluate"), **given)
        assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
        summary = json.loads((tmp_path / "out" / "summary.json").read_text())
        images = [
            {kind: {value: row["images"] for value, row in part.items()} for kind, part in section["kinds"].items()}
            for section in (summary, summary["without_empty"])
        ]
        assert images == [
            {"class": {"glioma": 1, "none": 1, "pituitary": 1}, "plane": {"axial": 2, "coronal": 1}},
            {"class": {"glioma": 1, "pituitary": 1}, "plane": {"axial": 1, "coronal": 1}},
        ]
        assert "1 images have no lesion" in ended.out

    def test_the_weights_saw_the_lists_that_metadata_counts(self):
        """Of 4,158 and 466 images; some are the same picture twice, of which the record keeps one."""
        record = read_record(self.root / "models" / "model.pt")
        assert {key: len(signs) for key, signs in record.items()} == {"training": 4134, "validation": 464}
        assert "4,158 slices" in self.metadata()["data_source"] and "466 chose" in self.metadata()["data_source"]

    @pytest.mark.slow
    def test_the_copies_that_the_page_counts_are_those_that_prepare_prints(self, prepared):
        page = " ".join((self.root / "docs" / "README.md").read_text().split())
        assert "358 are copies of 376 training images" in page and "4,158 training, 466 validation and 660 test" in page
        assert "376 training images left out as copies of 358 test images" in prepared[1]

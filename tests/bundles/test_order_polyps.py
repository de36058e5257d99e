"""The bundle order_polyps."""

from __future__ import annotations

import csv
import re
from collections import Counter

import numpy as np
import pytest
import torch

from common.data import Pair, Split, read_datalist, write_prepared_folder
from common.provenance import read_record
from tests.bundles.contract import REPOSITORY
from tests.bundles.segmenter_contract import SegmenterContract


class TestOrderPolyps(SegmenterContract):
    bundle = "order_polyps"
    dataset = "polyps"
    overlays = {  # noqa: RUF012
        "recipe_best": ("train", "recipe_best"),
        "recipe_best_second_cycle": ("train", "recipe_best", "recipe_best_second_cycle"),
        "recipe_best_third_cycle": ("train", "recipe_best", "recipe_best_third_cycle"),
        "recipe_best_fourth_cycle": ("train", "recipe_best", "recipe_best_fourth_cycle"),
        "recipe_v1": ("train", "recipe_v1"),
        "recipe_demo": ("train", "recipe_best", "recipe_demo"),
    }
    needs = {  # noqa: RUF012
        f"recipe_best_{cycle}_cycle": {"pretrained": REPOSITORY / "order_polyps" / "models" / "model.pt"}
        for cycle in ("second", "third", "fourth")
    }

    def test_every_config_is_tested(self):
        tested = {
            *self.aliases,
            "multi_gpu_train",
            "evaluate_v1",
            *(name for names in self.overlays.values() for name in names),
        }
        assert {path.stem for path in self.all_configs()} == tested

    def test_one_process_of_several_finds_its_code_from_a_foreign_folder(self, warm, drawn, tmp_path):
        """Joining the processes needs `common` before anything else does. Two processes: tests/training."""
        launched = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
        launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
        given = {
            "config_file": self.files("train", "multi_gpu_train"),
            "dataset_dir": drawn,
            "output_dir": tmp_path / "o",
        }
        flags = [part for key, value in {**given, **self.small["train"]}.items() for part in (f"--{key}", value)]
        ended = warm.module("monai.bundle", "run", "training", *flags, cwd=tmp_path, env=launched)
        assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
        self.check_output("train", tmp_path / "o")

    def test_flips_and_a_lower_threshold_are_options(self, warm, drawn, tmp_path):
        options = {"inferer#_target_": "common.inference.FlipAverageInferer", "threshold": 0.3, "amp": True}
        given = {"config_file": self.config("evaluate"), "dataset_dir": drawn, "output_dir": tmp_path / "out"}
        ended = warm.bundle("run", cwd=tmp_path, **given, **self.small["evaluate"], **options)
        assert (ended.code, ended.said) == (0, []), ended.err[-3000:]

    def test_the_first_version_is_measured_by_a_window_that_slides_over_images_of_any_size(self, warm, tmp_path):
        """A window of 64² over larger and smaller images: every figure is one of the image itself, without a border."""
        sides = [(64, 64)] * 5 + [(150, 100), (40, 48), (40, 200)]
        pairs = [
            Pair(np.full((*side, 3), 90, np.uint8), np.eye(*side) > 0, "drawn", str(n), str(n))
            for n, side in enumerate(sides)
        ]
        names = [pair.name for pair in pairs]
        data = tmp_path / "data"
        write_prepared_folder(
            data,
            pairs,
            {"drawn": Split(names[:4], names[5:], names[4:5])},
            name="drawn",
            licence="none",
            progress=False,
        )
        given = {
            "config_file": self.files("evaluate", "evaluate_v1"),
            "dataset_dir": data,
            "output_dir": tmp_path / "out",
        }
        ended = warm.bundle("run", cwd=tmp_path, image_size=64, checkpoint=self.root / "models" / "model.pt", **given)
        assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
        with open(tmp_path / "out" / "per_image.csv", newline="") as file:
            found = {(int(row["height"]), int(row["width"])) for row in csv.DictReader(file)}
        assert found == {(150, 100), (40, 48), (40, 200)}

    def test_the_record_of_the_weights_is_the_pool_of_the_paper(self):
        """Evaluation warns by it of images that the shipped weights saw, of which a few are there twice."""
        record = read_record(self.root / "models" / "model.pt")
        assert {key: len(digests) for key, digests in record.items()} == {"training": 1638, "validation": 185}

    @pytest.mark.slow
    def test_metadata_counts_what_the_weights_saw(self, prepared):
        pool = [item for key in ("training", "validation") for item in read_datalist(prepared[0], None, key)]
        told = re.search(r"saw ([\d, ]+) and (\d+) images of them", self.metadata()["data_source"])
        counted = Counter(item["source"] for item in pool)
        assert [*map(int, told[1].split(",")), int(told[2])] == sorted(counted.values(), reverse=True)

    def test_any_multiple_of_32_is_taken(self):
        from monai.bundle import ConfigParser

        parser = ConfigParser(ConfigParser.load_config_file(self.config("inference")))
        network = parser.get_parsed_content("network_def").eval()
        with torch.no_grad():
            assert network(torch.zeros(1, 3, 32, 3 * 32)).shape == (1, 1, 32, 96)

"""What a bundle that paints must keep."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from monai.bundle import ConfigParser

from common.data.integrity import verify
from common.law import load_denoiser
from common.law.checks import LAW_RULES, PAINTING_RULES
from common.provenance import read_record
from common.settings import Rule
from tests.bundles.contract import REPOSITORY, BundleContract
from tests.bundles.drawn import TEST, TRAINING

LARGEST_FOLDER = 12 * 2**20  # bytes, of weights that ship
TRAINED = {"model", "model.trained_on.json", "latest.pt", "history.csv", "strips", "tensorboard"}
OVERLAYS = ("prior", "sd15", "recipe_v1", "multi_gpu_train")


class PainterContract(BundleContract):
    """Weights in ``models/tiny``, images out of masks."""

    prompt: ClassVar[str]
    # By default the control stage on the prior that ships; sd15 wants weights that nobody ships.
    overlays: ClassVar[dict[str, tuple[str, ...]]] = {"prior": ("train", "prior")}
    small: ClassVar[dict[str, dict[str, Any]]] = {
        "train": {
            "protocol": "drawn",
            "steps": 1,
            "steps_per_epoch": 1,
            "batch_size": 2,
            "image_size": 32,
            "strip_images": 1,
            "strip_steps": 2,
        },
        "evaluate": {
            "protocol": "drawn",
            "steps": 2,
            "batch_size": 2,
            "segmenter": str(REPOSITORY / "order_polyps" / "models" / "model.pt"),
        },
        "inference": {"steps": 2, "batch_size": 2},
    }

    @property
    def shipped(self) -> Path:
        return self.root / "models" / "tiny"

    def rules(self, name: str) -> Mapping[str, Rule]:
        return LAW_RULES if name == "train" else PAINTING_RULES

    def places(self, name: str, folder: Path) -> dict[str, Any]:
        return {"cache_dir": folder / "cache"} if name == "train" else {}

    def test_every_config_is_there(self):
        assert {path.stem for path in self.all_configs()} == {*self.aliases, *OVERLAYS}

    def test_every_overlay_merges(self):
        """Those too that no test here trains with."""
        for names in (("sd15",), ("sd15", "recipe_v1"), ("multi_gpu_train",)):
            merged = ConfigParser.load_config_files([str(self.config(name)) for name in ("train", *names)])
            assert merged.keys() - ConfigParser.load_config_file(self.config("train")).keys() <= {"finalize"}

    def test_it_is_its_own_bundle(self):
        """The configs of the sister bundles are alike but for what is true of their images."""
        for path in self.all_configs():
            config = ConfigParser.load_config_file(path)
            assert config.get("bundle_root", {"name": self.bundle})["name"] == self.bundle
            assert str(config.get("output_dir", f"runs/{self.bundle}/")).startswith(f"runs/{self.bundle}/")
        assert ConfigParser.load_config_file(self.config("train"))["prompt"] == self.prompt

    def test_the_weights_that_ship_paint(self):
        """Safetensors and JSON alone, of finite numbers, with the prompt and objective of their training."""
        files = [path for path in self.shipped.rglob("*") if path.is_file()]
        assert {path.suffix for path in files} == {".json", ".safetensors"}
        assert sum(path.stat().st_size for path in files) <= LARGEST_FOLDER
        parts = load_denoiser(self.shipped)
        assert parts.denoiser.controlnet is not None
        assert (parts.preset.name, parts.objective, parts.prompt) == ("tiny", "law", self.prompt)
        state = parts.denoiser.state_dict().values()
        assert all(torch.isfinite(value).all() for value in state)
        assert read_record(self.shipped).keys() == {"training", "validation"}

    def test_metadata_says_what_is_painted(self):
        """Shapes, and that it is research."""
        data = self.metadata()["network_data_format"]
        size = load_denoiser(self.shipped).preset.image_size
        assert data["inputs"]["image"]["spatial_shape"] == data["outputs"]["pred"]["spatial_shape"] == [size, size]

    def check_output(self, name: str, out: Path) -> None:
        if name == "train":
            assert {path.name for path in out.iterdir()} == TRAINED
            with open(out / "history.csv", newline="") as file:
                assert len(list(csv.DictReader(file))) == self.small["train"]["steps"]
        elif name == "evaluate":
            assert verify(out / "painted", progress=False).sound
            with open(out / "per_image.csv", newline="") as file:
                assert len(list(csv.DictReader(file))) == TEST
        else:
            assert verify(out, progress=False).sound
            items = json.loads((out / "dataset.json").read_text())
            assert len(items["training"]) + len(items["validation"]) == TRAINING

    def test_what_was_trained_paints_and_is_measured(self, warm, drawn, tmp_path):
        """Prior, control stage, painting and mask recovery, each on what came before."""
        given = {"cwd": tmp_path, "dataset_dir": drawn}
        stages = (("prior", ("train", "prior"), {}), ("law", ("train",), {"weights": "prior/model"}))
        for out, configs, more in stages:
            options = {"config_file": self.files(*configs), "output_dir": out, **self.places("train", tmp_path)}
            ended = warm.bundle("run", **given, **options, **self.small["train"], **more)
            assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
            self.check_output("train", tmp_path / out)
        for name in ("inference", "evaluate"):
            options = {"config_file": self.config(name), "output_dir": name, "checkpoint": "law/model"}
            ended = warm.bundle("run", **given, **options, **self.small[name])
            assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
            self.check_output(name, tmp_path / name)

"""What a bundle that segments must keep."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from monai.bundle import ConfigParser

from common.provenance import read_record, training_record
from common.weights import read_checkpoint
from tests.bundles.contract import LARGEST_MODEL, REPOSITORY, BundleContract
from tests.bundles.drawn import SIDE, TEST, TRAINING, VALIDATION, paint_prepared


def _run(*arguments: Any) -> subprocess.CompletedProcess[str]:
    # Thousands of images take longer than the warm process lets a command take.
    command = [sys.executable, "-W", "ignore", "-m", *map(str, arguments)]
    ended = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    return ended


class SegmenterContract(BundleContract):
    """Weights in ``models/model.pt``, masks out of images."""

    dataset: str  # its name in `common.data prepare`
    small: ClassVar[dict[str, dict[str, Any]]] = {
        "train": {"epochs": 1, "val_interval": 1, "batch_size": 2, "image_size": SIDE},
        "evaluate": {"image_size": SIDE},
        "inference": {"image_size": SIDE},
    }

    def test_the_weights_that_ship_fit_and_are_plain(self):
        """A state dict of finite numbers, readable without running code, of the network that the configs define."""
        path = self.root / "models" / "model.pt"
        assert path.is_file(), "the bundle ships no weights"
        assert path.stat().st_size <= LARGEST_MODEL
        weights = read_checkpoint(path)
        assert all(isinstance(value, torch.Tensor) and value.isfinite().all() for value in weights.values())
        for name in self.aliases:
            parser = ConfigParser(ConfigParser.load_config_file(self.config(name)))
            parser.get_parsed_content("network_def").load_state_dict(weights, strict=True)

    def test_the_network_is_the_reported_one(self):
        weights = read_checkpoint(self.root / "models" / "model.pt")
        buffers = ("running_mean", "running_var", "num_batches_tracked")
        assert sum(value.numel() for name, value in weights.items() if not name.endswith(buffers)) == 42_265
        assert "42,265 parameters" in self.metadata()["description"]

    @pytest.fixture(scope="class")
    @classmethod
    def prepared(cls, real_data, tmp_path_factory) -> tuple[Path, str]:
        """The real images as a prepared folder, and what its preparation printed."""
        folder = tmp_path_factory.mktemp("real") / "data"
        return folder, _run("common.data", "prepare", cls.dataset, real_data / cls.dataset, folder).stdout

    @pytest.mark.slow
    def test_the_weights_measure_what_metadata_says(self, prepared, tmp_path):
        """The whole test list, in one pass and by four flips an image; else any weights could stand there."""
        inferers = {"one_pass": (), "four_flips": ("--inferer#_target_", "common.inference.FlipAverageInferer")}
        given = ("--config_file", self.config("evaluate"), "--dataset_dir", prepared[0], "--output_dir")
        found = {}
        for name, inferer in inferers.items():
            ended = _run("monai.bundle", "run", *given, tmp_path / name, *inferer)
            assert "warning: " not in ended.stderr  # of an image that they saw
            summary = json.loads((tmp_path / name / "summary.json").read_text())
            for kind, part in {"": summary, "_with_tumour": summary["without_empty"]}.items():
                found[f"mean_dice{kind}_{name}"] = part["mean_over_sources"]["dice"]["mean"]
        told = self.metadata()["eval_metrics"]
        assert told.keys() <= found.keys()
        assert {key: found[key] for key in told} == pytest.approx(told, abs=1e-4)

    @pytest.mark.slow
    def test_the_record_of_the_weights_is_that_of_the_default_lists(self, prepared):
        """Evaluation warns by it of images that the shipped weights saw; a picture that is there twice counts once."""
        assert read_record(self.root / "models" / "model.pt") == training_record(prepared[0])

    def test_network_takes_and_gives_what_metadata_says(self, warm):
        """Of one config; the weights that ship fit the network of each."""
        meta = self.root / "configs" / "metadata.json"
        ended = warm.bundle(
            "verify_net_in_out", "network_def", cwd=REPOSITORY, meta_file=meta, config_file=self.config("inference")
        )
        assert ended.code == 0, ended.err
        assert "verified with no error" in ended.out

    def export(self, warm, command: str, file: Path) -> torch.nn.Module:
        """Write the shipped weights to `file` by MONAI's command; the eager network with the same weights."""
        weights = self.root / "models" / "model.pt"
        ended = warm.bundle(
            command,
            "network_def",
            cwd=REPOSITORY,
            filepath=file,
            ckpt_file=weights,
            meta_file=self.root / "configs" / "metadata.json",
            config_file=self.config("inference"),
        )
        assert ended.code == 0, ended.err
        parser = ConfigParser(ConfigParser.load_config_file(self.config("inference")))
        eager = parser.get_parsed_content("network_def").eval()
        eager.load_state_dict(read_checkpoint(weights))
        return eager

    def test_export_to_torchscript_computes_the_same(self, warm, tmp_path):
        eager = self.export(warm, "ckpt_export", tmp_path / "model.ts")
        files = {"metadata.json": "", "inference.json": ""}
        exported = torch.jit.load(tmp_path / "model.ts", _extra_files=files).eval()
        assert json.loads(files["metadata.json"])["version"] == self.metadata()["version"]
        assert json.loads(files["inference.json"])["network_def"]
        image = self.example()
        with torch.no_grad():
            assert torch.allclose(exported(image), eager(image), atol=1e-5)

    @pytest.mark.slow
    def test_export_to_onnx_computes_the_same(self, warm, tmp_path):
        pytest.importorskip("onnxscript")
        onnxruntime = pytest.importorskip("onnxruntime")
        eager = self.export(warm, "onnx_export", tmp_path / "model.onnx")
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        image = self.example()[:1]
        (logits,) = session.run(None, {given.name: image.numpy()})
        with torch.no_grad():
            assert torch.allclose(torch.from_numpy(logits), eager(image), atol=1e-3)

    def example(self) -> torch.Tensor:
        """Two inputs of the network, of the shape that metadata says."""
        image = self.metadata()["network_data_format"]["inputs"]["image"]
        shape = (2, image["num_channels"], *image["spatial_shape"])
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))

    def check_output(self, name: str, out: Path) -> None:
        """What a run on the drawn images leaves in its folder."""
        there = {path.name for path in out.iterdir()}
        if name == "train":
            assert there == {"model.pt", "model.trained_on.json", "latest.pt", "history.csv", "tensorboard"}
            with open(out / "history.csv", newline="") as file:
                assert len(list(csv.DictReader(file))) == self.small["train"]["epochs"]
        elif name == "evaluate":
            assert {"per_image.csv", "summary.json"} <= there
            with open(out / "per_image.csv", newline="") as file:
                assert len(list(csv.DictReader(file))) == TEST
        else:
            assert there == {"masks", "overlays", "results.csv"}
            assert len(list((out / "masks").iterdir())) == TRAINING + VALIDATION + TEST

    def test_what_was_trained_is_measured_and_used(self, warm, drawn, tmp_path):
        """Training, then evaluation merged over its config, as `MonaiAlgo` does, and inference with its weights."""
        run = tmp_path / "run"
        common = {"cwd": tmp_path, "dataset_dir": drawn}
        ended = warm.bundle("run", config_file=self.config("train"), output_dir=run, **common, **self.small["train"])
        assert ended.code == 0, ended.err
        weights = {"checkpoint": "run/model.pt"}
        for configs, name in ((("train", "evaluate"), "evaluate"), (("inference",), "inference")):
            out = tmp_path / name
            given = {"config_file": self.files(*configs), "output_dir": out, **weights}
            ended = warm.bundle("run", **given, **common, **self.small[name])
            assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
            self.check_output(name, out)

    def test_painted_pairs_join_the_training_and_change_no_step(self, warm, drawn, tmp_path):
        """As many steps as without them, the same validation; and a run does not go on with other painted images."""
        painted = paint_prepared(drawn, tmp_path / "painted", 6)
        given = {"cwd": tmp_path, "config_file": self.config("train"), "dataset_dir": drawn}
        small = {**self.small["train"], "batch_size": 1, "image_size": 64}
        steps = {}
        for name, more in (("real", {}), ("both", {"synthetic_dir": painted, "synthetic_images": 5})):
            out = tmp_path / name
            ended = warm.bundle("run", **given, **small, **more, output_dir=out)
            assert ended.code == 0, ended.err[-3000:]
            state = read_checkpoint(out / "latest.pt")
            steps[name] = max(int(group["step"]) for group in state["optimizer"]["param_groups"])
            assert bool(state["settings"].get("synthetic")) == (name == "both")
        assert steps == {"real": TRAINING, "both": TRAINING}
        other = {**small, "epochs": 2, "synthetic_dir": painted, "synthetic_images": 6}
        ended = warm.bundle("run", **given, **other, output_dir=tmp_path / "both")
        assert ended.code != 0 and "synthetic" in ended.err.splitlines()[-1]
        ended = warm.bundle(
            "run", **given, **small, synthetic_dir=painted, synthetic_images=9, output_dir=tmp_path / "new"
        )
        assert (ended.code, ended.said[-1]) == (
            2,
            f"error: --synthetic_images 9: {painted} holds 6 pairs that may be trained on",
        )
        assert not (tmp_path / "new").exists()

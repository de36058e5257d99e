"""What every bundle must keep, by the real commands.

A test class inherits `BundleContract` and names its bundle:

    class TestOrderPolyps(BundleContract):
        bundle = "order_polyps"
        overlays = {"recipe_best": ("train", "recipe_best")}
"""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from common.command_line import command_line_faults
from common.settings import RULES
from common.weights import read_checkpoint
from tests.bundles.drawn import SIDE, TEST, TRAINING, VALIDATION, tree
from tests.bundles.warm import WarmPython

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")
LONGEST_EXPRESSION = 200
LARGEST_MODEL = 25 * 2**20  # bytes, a file of the Model Zoo
# Config, working folder, whether by its other name, whether the data's path is relative. All of training; of the
# others each folder, name and kind of path at least once.
OFTEN = {("train", "collection", True, False), ("train", "bundle", False, True), ("train", "foreign", True, True)}
TRAININGS = {("train", *rest) for rest in product(("collection", "bundle", "foreign"), (False, True), (False, True))}
COMMANDS = [
    *sorted(OFTEN),
    ("evaluate", "collection", False, True),
    ("evaluate", "bundle", False, False),
    ("evaluate", "foreign", True, True),
    ("inference", "configs", False, True),
    ("inference", "bundle", True, True),
    ("inference", "foreign", False, False),
    *(pytest.param(*each, marks=pytest.mark.slow) for each in sorted(TRAININGS - OFTEN)),
]
MAPPING = yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key that a section has twice."""


def _mapping(loader: _StrictLoader, node: yaml.MappingNode) -> dict[Any, Any]:
    keys = [loader.construct_object(key) for key, _ in node.value]
    twice = {key for key in keys if keys.count(key) > 1}
    if twice:
        raise ValueError(f"{sorted(twice)} twice, at {node.start_mark}")
    return {key: loader.construct_object(value, deep=True) for key, (_, value) in zip(keys, node.value, strict=True)}


_StrictLoader.add_constructor(MAPPING, _mapping)


def read_strictly(text: str) -> dict[str, Any]:
    """A YAML mapping; a `ValueError` where a section has a key twice."""
    return yaml.load(text, _StrictLoader)


def leaves(config: Any) -> Iterator[Any]:
    """Every value of a config that is no section or list."""
    if isinstance(config, Mapping):
        for value in config.values():
            yield from leaves(value)
    elif isinstance(config, list):
        for value in config:
            yield from leaves(value)
    else:
        yield config


def pins() -> dict[str, str]:
    """The tested version of each package, by its canonical name."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if re.match(r"^[\w.-]+==", line)]
    return {name.lower().replace("_", "-"): version.split()[0] for name, version in pairs}


class BundleContract:
    """See the head of the module. Override what differs."""

    bundle: ClassVar[str]
    # Configs that are trained with, in the order in which they are merged.
    overlays: ClassVar[dict[str, tuple[str, ...]]] = {}
    # What an overlay needs besides, and cannot know.
    needs: ClassVar[dict[str, dict[str, Any]]] = {}
    # Each config that is run, and the other name of its `run`.
    aliases: ClassVar[dict[str, str]] = {"train": "training", "evaluate": "evaluate", "inference": "inference"}
    # What makes a run on the drawn images short.
    small: ClassVar[dict[str, dict[str, Any]]] = {
        "train": {"epochs": 1, "val_interval": 1, "batch_size": 2, "image_size": SIDE},
        "evaluate": {"image_size": SIDE},
        "inference": {"image_size": SIDE},
    }

    # ---- where things are --------------------------------------------------------------------------------

    @property
    def root(self) -> Path:
        return REPOSITORY / self.bundle

    def config(self, name: str) -> Path:
        return self.root / "configs" / f"{name}.yaml"

    def files(self, *names: str) -> str:
        """The value of ``--config_file`` for several configs."""
        return str([str(self.config(name)) for name in names])

    def all_configs(self) -> list[Path]:
        return sorted((self.root / "configs").glob("*.yaml"))

    def metadata(self) -> dict[str, Any]:
        return json.loads((self.root / "configs" / "metadata.json").read_text())

    # ---- what is written in it ---------------------------------------------------------------------------

    def test_no_key_is_defined_twice(self):
        with pytest.raises(ValueError, match="twice"):
            read_strictly("a: {b: 1, b: 2}")
        for path in self.all_configs():
            read_strictly(path.read_text())

    def test_every_expression_is_short(self):
        expressions = [
            (path.name, value)
            for path in self.all_configs()
            for value in leaves(read_strictly(path.read_text()))
            if isinstance(value, str) and value.startswith("$")
        ]
        assert expressions
        assert [pair for pair in expressions if len(pair[1]) >= LONGEST_EXPRESSION] == []

    def test_an_overlay_changes_only_what_is_there(self):
        for names in self.overlays.values():
            merged = ConfigParser(ConfigParser.load_config_file(self.config(names[0])))
            for name in names[1:]:
                overlay = ConfigParser.load_config_file(self.config(name))
                unknown = [key for key in overlay if key.lstrip("+") not in merged and key != "finalize"]
                assert unknown == [], name
                merged = ConfigParser(ConfigParser.load_config_files([*map(str, map(self.config, names))]))

    def test_every_component_can_be_imported(self):
        for names in [(name,) for name in self.aliases] + list(self.overlays.values()):
            assert command_line_faults(["run", "--config_file", self.files(*names)]) == []

    def test_the_values_to_change_are_checked_and_sound(self):
        """The first section's values obey their own rules, and each that has a rule is handed to the check."""
        for name in self.aliases:
            parser = ConfigParser(ConfigParser.load_config_file(self.config(name)))
            check = next(entry for entry in parser["run"] if isinstance(entry, dict) and "dataset_dir" in entry)
            ruled = [key for key in parser.get() if key in RULES]
            assert [key for key in ruled if check.get(key) != f"@{key}"] == []
            values = {key: parser[key] for key in ruled if not str(parser[key]).startswith("$")}
            assert [key for key, value in values.items() if key != "dataset_dir" and not RULES[key][1](value)] == []
            assert values["dataset_dir"] is None

    def test_metadata_tells_what_was_tested_and_what_it_is_not(self):
        metadata, tested = self.metadata(), pins()
        assert metadata["version"] in metadata["changelog"]
        named = {"monai": "monai_version", "torch": "pytorch_version", "numpy": "numpy_version"}
        for package, key in named.items():
            assert metadata[key] == tested[package]
        assert {name: tested.get(name) for name in metadata["required_packages_version"]} == metadata[
            "required_packages_version"
        ]
        assert "research" in metadata["intended_use"].lower()
        assert "not a medical device" in metadata["intended_use"].lower()

    def test_licences_are_there(self):
        assert (self.root / "LICENSE").read_bytes() == (REPOSITORY / "LICENSE").read_bytes()
        assert len((self.root / "docs" / "data_license.txt").read_text()) > 200

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

    # ---- MONAI's own verification ------------------------------------------------------------------------

    def test_metadata_passes_the_schema(self, warm, tmp_path):
        """The schema lies beside this test: `verify_metadata` would fetch it, and takes the file that is there."""
        assert self.metadata()["schema"].endswith(f"/{SCHEMA.name}")
        wrong = tmp_path / "wrong.json"
        wrong.write_text(json.dumps({key: value for key, value in self.metadata().items() if key != "task"}))
        for path, fine in ((self.root / "configs" / "metadata.json", True), (wrong, False)):
            ended = warm.bundle("verify_metadata", cwd=tmp_path, meta_file=path, filepath=SCHEMA)
            assert (ended.code == 0) is fine, ended.err
            assert ("verified with no error" in ended.out) is fine

    def test_network_takes_and_gives_what_metadata_says(self, warm):
        """Of one config; the weights that ship fit the network of each."""
        meta = self.root / "configs" / "metadata.json"
        ended = warm.bundle(
            "verify_net_in_out", "network_def", cwd=REPOSITORY, meta_file=meta, config_file=self.config("inference")
        )
        assert ended.code == 0, ended.err
        assert "verified with no error" in ended.out

    def test_export_to_torchscript_computes_the_same(self, warm, tmp_path):
        ended = warm.bundle(
            "ckpt_export",
            "network_def",
            cwd=REPOSITORY,
            filepath=tmp_path / "model.ts",
            ckpt_file=self.root / "models" / "model.pt",
            meta_file=self.root / "configs" / "metadata.json",
            config_file=self.config("inference"),
        )
        assert ended.code == 0, ended.err
        files = {"metadata.json": "", "inference.json": ""}
        exported = torch.jit.load(tmp_path / "model.ts", _extra_files=files).eval()
        assert json.loads(files["metadata.json"])["version"] == self.metadata()["version"]
        assert json.loads(files["inference.json"])["network_def"]
        parser = ConfigParser(ConfigParser.load_config_file(self.config("inference")))
        eager = parser.get_parsed_content("network_def").eval()
        eager.load_state_dict(read_checkpoint(self.root / "models" / "model.pt"))
        image = self.example()
        with torch.no_grad():
            assert torch.allclose(exported(image), eager(image), atol=1e-5)

    def example(self) -> torch.Tensor:
        """Two inputs of the network, of the shape that metadata says."""
        image = self.metadata()["network_data_format"]["inputs"]["image"]
        shape = (2, image["num_channels"], *image["spatial_shape"])
        return torch.rand(shape, generator=torch.Generator().manual_seed(0))

    @pytest.mark.parametrize(
        ("kind", "name"),
        [("train", "train"), ("infer", "inference"), ("infer", "evaluate")],
        ids=["train", "inference", "evaluate"],
    )
    def test_no_property_of_the_workflow_is_missing(self, warm, drawn, tmp_path, name, kind):
        given = {"workflow_type": kind, "dataset_dir": str(drawn), "output_dir": str(tmp_path)}
        code = f"""
from monai.bundle import ConfigWorkflow
workflow = ConfigWorkflow({str(self.config(name))!r}, **{given!r})
workflow.initialize()
print("missing:", workflow.check_properties())
"""
        ended = warm.code(code, cwd=REPOSITORY)
        assert ended.code == 0, ended.err
        assert "missing: []" in ended.out

    # ---- the commands, from every folder -----------------------------------------------------------------

    def place(self, place: str, foreign: Path) -> tuple[Path, str]:
        """A working folder, and the path of the configs as one would type it there."""
        return {
            "collection": (REPOSITORY, f"{self.bundle}/configs/"),
            "bundle": (self.root, "configs/"),
            "configs": (self.root / "configs", ""),
            "foreign": (foreign, f"{self.root}/configs/"),
        }[place]

    def run_from(
        self, warm: WarmPython, place: str, name: str, run_id: str, relative: bool, drawn: Path, out: Path, **more: Any
    ) -> None:
        foreign = out.parent / "foreign"
        foreign.mkdir()
        folder, configs = self.place(place, foreign)
        data = os.path.relpath(drawn, folder) if relative else drawn
        before = set(tree(self.root))
        given = {"config_file": f"{configs}{name}.yaml", "dataset_dir": data, "output_dir": out}
        ended = warm.bundle("run", *filter(None, [run_id]), cwd=folder, **given, **self.small[name], **more)
        assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
        self.check_output(name, out)
        assert set(tree(self.root)) == before and list(foreign.iterdir()) == []

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

    @pytest.mark.parametrize(("name", "place", "alias", "relative"), COMMANDS)
    def test_runs_from_every_folder(self, warm, drawn, tmp_path, name, place, alias, relative):
        self.run_from(warm, place, name, self.aliases[name] if alias else "", relative, drawn, tmp_path / "out")

    def test_every_overlay_trains(self, warm, drawn, tmp_path):
        for name, names in self.overlays.items():
            given = {"config_file": self.files(*names), "dataset_dir": drawn, "output_dir": tmp_path / name}
            given |= {**self.small["train"], **self.needs.get(name, {})}
            ended = warm.bundle("run", "training", cwd=tmp_path, **given)
            assert (ended.code, ended.said) == (0, []), f"{name}: {ended.err[-3000:]}"
            self.check_output("train", tmp_path / name)

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

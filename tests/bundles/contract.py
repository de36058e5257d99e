"""What every bundle must keep, by the real commands.

A test class inherits what its kind of bundle keeps, `segmenter_contract` or `painter_contract`, and names its bundle:

    class TestOrderPolyps(SegmenterContract):
        bundle = "order_polyps"
        overlays = {"recipe_best": ("train", "recipe_best")}
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from monai.bundle import ConfigParser

from common.command_line import command_line_faults, override_fault
from common.settings import RULES, Rule
from tests.bundles.drawn import tree
from tests.bundles.warm import WarmPython

REPOSITORY = Path(__file__).resolve().parents[2]
SCHEMA = REPOSITORY / "bundles" / "meta_schema_20240725.json"
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
    # Keys that have no default: whoever runs it gives them.
    to_give: ClassVar[set[str]] = {"dataset_dir"}
    # What makes a run on the drawn images short, by config.
    small: ClassVar[dict[str, dict[str, Any]]] = {}

    def rules(self, name: str) -> Mapping[str, Rule]:
        """What a value of the first section of a config has to be."""
        return RULES

    def places(self, name: str, folder: Path) -> dict[str, Any]:
        """Keys of a config for what it writes besides its output, all in `folder`."""
        return {}

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
            for place, name in enumerate(names[1:], start=1):
                below = ConfigParser.load_config_files([str(self.config(each)) for each in names[:place]])
                overlay = ConfigParser.load_config_file(self.config(name))
                faults = [override_fault(below, key, value) for key, value in overlay.items() if key != "finalize"]
                assert [fault for fault in faults if fault] == [], name

    def test_an_overlay_with_a_slip_of_the_pen_is_told(self):
        names = next(names for names in self.overlays.values() if len(names) > 1)
        below = ConfigParser.load_config_files([str(self.config(name)) for name in names])
        assert "did you mean --output_dir?" in override_fault(below, "outpt_dir", "runs")
        assert "unknown key" in override_fault(below, "train#handler", [])

    def test_every_component_can_be_imported(self):
        for names in [(name,) for name in self.aliases] + list(self.overlays.values()):
            assert command_line_faults(["run", "--config_file", self.files(*names)]) == []

    def test_the_values_to_change_are_checked_and_sound(self):
        """The first section's values obey their own rules, and each that has a rule is handed to the check."""
        for name in self.aliases:
            parser = ConfigParser(ConfigParser.load_config_file(self.config(name)))
            check = next(entry for entry in parser["run"] if isinstance(entry, dict) and "dataset_dir" in entry)
            rules = self.rules(name)
            ruled = [key for key in parser.get() if key in rules]
            assert [key for key in ruled if check.get(key) != f"@{key}"] == []
            made = {key for key in ruled if isinstance(parser[key], Mapping) or str(parser[key]).startswith("$")}
            values = {key: parser[key] for key in ruled if key not in made}
            to_give = self.to_give & values.keys()
            assert [key for key, value in values.items() if key not in to_give and not rules[key][1](value)] == []
            assert all(values[key] is None for key in to_give) and "dataset_dir" in to_give

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

    @pytest.mark.parametrize(
        ("kind", "name"),
        [("train", "train"), ("infer", "inference"), ("infer", "evaluate")],
        ids=["train", "inference", "evaluate"],
    )
    def test_no_property_of_the_workflow_is_missing(self, warm, drawn, tmp_path, name, kind):
        given = {"workflow_type": kind, "dataset_dir": str(drawn), "output_dir": str(tmp_path / "out")}
        given |= {key: str(value) for key, value in self.places(name, tmp_path).items()} | self.small[name]
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
        given |= {**self.places(name, out.parent), **self.small[name], **more}
        ended = warm.bundle("run", *filter(None, [run_id]), cwd=folder, **given)
        assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
        self.check_output(name, out)
        assert set(tree(self.root)) == before and list(foreign.iterdir()) == []

    def check_output(self, name: str, out: Path) -> None:
        """What a run on the drawn images leaves in its folder."""
        raise NotImplementedError

    @pytest.mark.parametrize(("name", "place", "alias", "relative"), COMMANDS)
    def test_runs_from_every_folder(self, warm, drawn, tmp_path, name, place, alias, relative):
        self.run_from(warm, place, name, self.aliases[name] if alias else "", relative, drawn, tmp_path / "out")

    def test_every_overlay_trains(self, warm, drawn, tmp_path):
        for name, names in self.overlays.items():
            given = {"config_file": self.files(*names), "dataset_dir": drawn, "output_dir": tmp_path / name}
            given |= {**self.places("train", tmp_path), **self.small["train"], **self.needs.get(name, {})}
            ended = warm.bundle("run", "training", cwd=tmp_path, **given)
            assert (ended.code, ended.said) == (0, []), f"{name}: {ended.err[-3000:]}"
            self.check_output("train", tmp_path / name)

"""The bill of materials: valid, whole as far as can be known, and the same twice."""

from __future__ import annotations

import hashlib
import json
from importlib import metadata

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bundles.pins import closure, read_pins
from bundles.sbom import sbom
from common.errors import InputError
from tests.bundles.contract import REPOSITORY

ZIP = hashlib.sha256(b"a zip").hexdigest()
WEIGHTS = hashlib.sha256(b"weights").hexdigest()
PINS = read_pins(REPOSITORY / "constraints.txt")


def _manifest(**packages: str) -> dict:
    return {
        "name": "order_polyps",
        "version": "0.1.0",
        "kind": "full",
        "source": {"commit": "0" * 40, "modified": False},
        "licence": {"code": "Apache-2.0", "data": "Research and education only."},
        "requires": {"python": ">=3.11", "packages": packages or {"monai": PINS["monai"], "PyYAML": PINS["pyyaml"]}},
        "files": {
            "models/model.pt": {"sha256": WEIGHTS, "size": 7},
            "models/tiny/a.safetensors": {"sha256": WEIGHTS, "size": 7},
            "configs/train.json": {"sha256": ZIP, "size": 9},
        },
    }


def _bill(manifest: dict, zip_sha256: str = ZIP) -> dict:
    return json.loads(sbom(manifest, zip_sha256))


def _brought(name: str, seen: set[str]) -> set[str]:
    # What installed packages say that they need, here and now, without extras.
    if name not in seen:
        seen.add(name)
        for text in metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                _brought(canonicalize_name(requirement.name), seen)
    return seen


@pytest.mark.parametrize("bundle", ["order_polyps", "law_brisc"])
def test_it_keeps_the_schema(bundle):
    told = json.loads((REPOSITORY / bundle / "configs" / "metadata.json").read_text())
    bill = sbom(_manifest(**told["required_packages_version"]), ZIP).decode()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(bill) is None
    broken = bill.replace('"type": "library"', '"type": "book"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None


def test_the_same_bundle_has_the_same_bill_and_another_zip_another_serial_number():
    assert sbom(_manifest(), ZIP) == sbom(_manifest(), ZIP)
    one, other = _bill(_manifest()), _bill(_manifest(), WEIGHTS)
    assert one["serialNumber"] != other["serialNumber"]
    assert "timestamp" not in one["metadata"]


def test_it_names_the_bundle_its_weights_and_their_terms():
    bill = _bill(_manifest())
    bundle = bill["metadata"]["component"]
    assert (bundle["name"], bundle["version"]) == ("order_polyps", "0.1.0")
    assert bundle["hashes"] == [{"alg": "SHA-256", "content": ZIP}]
    licences = [each["license"] for each in bundle["licenses"]]
    assert {"id": "Apache-2.0"} in licences and "Research and education only." in json.dumps(licences)
    models = [each for each in bill["components"] if each["type"] == "machine-learning-model"]
    assert [each["name"] for each in models] == [
        "order_polyps/models/model.pt",
        "order_polyps/models/tiny/a.safetensors",
    ]
    assert all(each["hashes"] == [{"alg": "SHA-256", "content": WEIGHTS}] for each in models)
    assert all("Research and education only." in json.dumps(each["licenses"]) for each in models)


def test_it_lists_what_the_packages_bring_at_the_pinned_versions():
    packages = {"matplotlib": PINS["matplotlib"], "jsonschema": PINS["jsonschema"]}
    bill = _bill(_manifest(**packages))
    found = {each["name"]: each["version"] for each in bill["components"] if each["type"] == "library"}
    names = _brought("matplotlib", set()) | _brought("jsonschema", set())
    assert found == {name: PINS[name] for name in names} and len(names) > len(packages) + 5
    assert {each["purl"] for each in bill["components"] if "purl" in each} == {
        f"pkg:pypi/{name}@{version}" for name, version in found.items()
    }
    edges = {each["ref"]: each.get("dependsOn", []) for each in bill["dependencies"]}
    direct = edges["bundle:order_polyps@0.1.0"]
    assert {each.split("@")[0] for each in direct if each.startswith("pkg")} == {
        f"pkg:pypi/{name}" for name in packages
    }
    reached, waiting = set(), list(direct)
    while waiting:
        if (each := waiting.pop()) not in reached:
            reached.add(each)
            waiting += edges[each]
    assert reached == {each["bom-ref"] for each in bill["components"]}


def test_what_a_package_brings_is_not_guessed_from_another_version():
    bill = _bill(_manifest(matplotlib="0.1", nothing_of_this_name="1.0"))
    libraries = [each for each in bill["components"] if each["type"] == "library"]
    assert [(each["name"], each["version"]) for each in libraries] == [
        ("matplotlib", "0.1"),
        ("nothing-of-this-name", "1.0"),
    ]
    assert all("unknown" in json.dumps(each["properties"]) for each in libraries)


def test_extras_and_markers_are_heeded_and_circles_end(tmp_path, monkeypatch):
    needs = {
        "first": ["second[more]", "unpinned", 'third; python_version < "3"'],
        "second": ['fourth; extra == "more"', 'fifth; extra == "other"', "First"],
        "fourth": ["second[other]"],
        "fifth": [],
    }
    for name, lines in needs.items():
        folder = tmp_path / f"{name}-1.0.dist-info"
        folder.mkdir()
        required = "".join(f"Requires-Dist: {line}\n" for line in lines)
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0+local\n{required}")
    monkeypatch.syspath_prepend(tmp_path)
    pins = dict.fromkeys(("first", "second", "third", "fourth", "fifth"), "1.0")
    versions, edges = closure({"first": "1.0"}, pins)
    assert versions == dict.fromkeys(("fifth", "first", "fourth", "second"), "1.0")
    assert edges == {"first": ["second"], "second": ["fifth", "first", "fourth"], "fourth": ["second"], "fifth": []}


@pytest.mark.parametrize("line", ["torch", "torch>=2", "torch==2.*", "-e .", "torch==2.1,!=2.2"])
def test_a_line_that_pins_nothing_is_named(tmp_path, line):
    (tmp_path / "constraints.txt").write_text(f"# pins\nnumpy==2.4.6\n{line}\n")
    with pytest.raises(InputError, match="line 3"):
        read_pins(tmp_path / "constraints.txt")
    with pytest.raises(InputError, match="does not exist"):
        read_pins(tmp_path / "none.txt")

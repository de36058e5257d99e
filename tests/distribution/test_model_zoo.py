"""What the Model Zoo's own `ci/verify_bundle.py` asks of a bundle: `-m min` of all, `-m full` of those that segment."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
import torch

from bundles.sources import bundle_names, collection
from tests.bundles.contract import LARGEST_MODEL, SCHEMA

BUNDLES = bundle_names(collection())
SEGMENTERS = [name for name in BUNDLES if name.startswith("order_")]


@pytest.fixture
def zoo(packages, tmp_path) -> Path:
    """A folder `models/` as the Zoo has it, with each bundle unpacked in it."""
    for path in packages.zips.values():
        with zipfile.ZipFile(path) as archive:
            archive.extractall(tmp_path / "models")
    return tmp_path / "models"


@pytest.mark.parametrize("name", BUNDLES)
def test_minimal(warm, zoo, name):
    """The folder's files, the version in the changelog, the metadata by MONAI's own command."""
    folder = zoo / name
    metadata = json.loads((folder / "configs" / "metadata.json").read_text())
    assert (folder / "LICENSE").is_file() and (folder / "models" / "model.pt").is_file()
    assert not list(folder.glob("large_files.*"))  # nothing to fetch
    assert all(path.stat().st_size < LARGEST_MODEL for path in folder.rglob("*"))
    assert metadata["version"] in metadata["changelog"]
    meta = folder / "configs" / "metadata.json"
    ended = warm.bundle("verify_metadata", cwd=zoo, meta_file=meta, filepath=SCHEMA)
    assert ended.code == 0 and "verified with no error" in ended.out, ended.err
    assert torch.load(folder / "models" / "model.pt", weights_only=True)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_full(warm, zoo, name):
    """The properties of both workflows, the network's shapes, and TorchScript, as the Zoo calls them."""
    folder = zoo / name
    # As the Zoo does: the bundle's folder goes before all else on the path.
    code = f"""
import sys
sys.path = [{str(folder)!r}, *sys.path]
import torch
from monai.bundle import ConfigWorkflow, ckpt_export, verify_net_in_out
folder = {str(folder)!r}
for kind, file in (("train", "train"), ("infer", "inference")):
    workflow = ConfigWorkflow(workflow_type=kind, config_file=f"{{folder}}/configs/{{file}}.json", logging_file=False)
    workflow.initialize()
    required = [name for name, each in workflow.properties.items() if each["required"] and "dataset" not in name]
    missing = [name for name in required if workflow._get_prop_id(name, workflow.properties[name]) is None]
    assert missing == [], missing
given = dict(net_id="network_def", meta_file=f"{{folder}}/configs/metadata.json", bundle_root=folder)
given |= dict(config_file=f"{{folder}}/configs/inference.json")
verify_net_in_out(**given)
ckpt_export(**given, filepath=f"{{folder}}/models/verify_model.ts", ckpt_file=f"{{folder}}/models/model.pt")
torch.jit.load(f"{{folder}}/models/verify_model.ts")
print("all of it")
assert "common" not in sys.modules
"""
    ended = warm.code(code, cwd=zoo)
    assert ended.code == 0 and "all of it" in ended.out, ended.err[-3000:]

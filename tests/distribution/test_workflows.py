"""Packed bundles at work, in a folder and a process that know nothing of the repository."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from bundles.packing import pack
from tests.bundles.contract import REPOSITORY
from tests.bundles.drawn import TEST, TRAINING, VALIDATION
from tests.bundles.painter_contract import PainterContract
from tests.bundles.segmenter_contract import SegmenterContract
from tests.distribution.conftest import Packages

SEGMENTERS, PAINTERS = ("order_polyps", "order_brisc"), ("law_polyps", "law_kits19", "law_brisc")
CONFIGS = ("train", "evaluate", "inference")
# In a process that has imported nothing of the repository, nor can it.
WITHOUT = "import sys; assert not [name for name in sys.modules if name.split('.')[0] in ('common', 'bundles')]\n"


def _options(packages: Packages, name: str, config: str, drawn: Path, folder: Path) -> dict:
    given = {"dataset_dir": drawn, "output_dir": folder / config}
    if name in SEGMENTERS:
        return given | SegmenterContract.small[config]
    small = {key: value for key, value in PainterContract.small[config].items() if key != "segmenter"}
    if name == "law_kits19" and config == "evaluate":  # no segmenter for CT ships
        small["segmenter"] = packages.unpacked / "order_polyps" / "models" / "model.pt"
    return given | small | ({"cache_dir": folder / "cache"} if config == "train" else {})


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("name", [*SEGMENTERS, *PAINTERS])
def test_it_runs_in_a_foreign_folder_without_the_repository(warm, packages, drawn, tmp_path, name, config):
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    path = packages.unpacked / name / "configs" / f"{config}.json"
    options = _options(packages, name, config, drawn, tmp_path)
    ended = warm.bundle("run", *(["training"] if config == "train" else []), cwd=foreign, config_file=path, **options)
    assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
    left = {each.name for each in (tmp_path / config).iterdir()}
    wanted = {"train": "history.csv", "evaluate": "summary.json", "inference": "masks"}
    assert wanted[config] in left and list(foreign.iterdir()) == []


@pytest.mark.parametrize("name", SEGMENTERS)
def test_it_answers_as_the_collections_own(warm, packages, drawn, tmp_path, name):
    """The same masks, to the byte."""
    masks = []
    for label, config in (("own", REPOSITORY / name / "configs" / "inference.yaml"), ("packed", None)):
        config = config or packages.unpacked / name / "configs" / "inference.json"
        given = {"config_file": config, "dataset_dir": drawn, "output_dir": tmp_path / label}
        ended = warm.bundle("run", cwd=tmp_path, **given)
        assert ended.code == 0, ended.err[-3000:]
        found = sorted((tmp_path / label / "masks").rglob("*.png"))
        masks.append([(path.name, path.read_bytes()) for path in found])
    assert masks[0] == masks[1] and len(masks[0]) == TRAINING + VALIDATION + TEST


def test_a_set_is_drawn_and_checked_by_the_packed_code(warm, packages, tmp_path):
    package = packages.packed["order_polyps"].package
    folder = packages.unpacked / "order_polyps"
    drawing = ["prepare", "phantoms", "DIR", "--count", "6", "--test_count", "2", "--size", "64"]
    for arguments in (drawing, ["verify", "DIR"]):
        arguments = [str(tmp_path / "set") if each == "DIR" else each for each in arguments]
        ended = warm.module(f"{package}.data", *arguments, cwd=folder)
        assert ended.code == 0, ended.err
    assert (tmp_path / "set" / "dataset.json").is_file()


def test_a_wrong_input_is_one_line(warm, packages, tmp_path):
    """And the mend that it names is a command that is there."""
    (tmp_path / "data").mkdir()
    folder = packages.unpacked / "order_polyps"
    given = {"config_file": folder / "configs" / "train.json", "dataset_dir": tmp_path / "data"}
    ended = warm.bundle("run", cwd=tmp_path, **given, output_dir=tmp_path / "out")
    package = packages.packed["order_polyps"].package
    assert ended.code == 2 and len(ended.said) == 1 and f"python -m {package}.data prepare" in ended.said[0]
    ended = warm.bundle("run", cwd=tmp_path, **given, epoch=3)
    assert ended.code == 2 and "unknown key --epoch" in ended.said[0] and "--epochs" in ended.said[0]


# ---- MONAI's own ways in -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*SEGMENTERS, *PAINTERS])
def test_load_gives_the_network_with_its_weights(warm, packages, tmp_path, name):
    """From another folder, by the bundle's name alone; every weight of the state dict finds its place."""
    code = f"""{WITHOUT}
import torch
from monai.bundle import load
network = load({name!r}, bundle_dir={str(packages.unpacked)!r})
weights = torch.load({str(packages.unpacked / name / "models/model.pt")!r}, weights_only=True)
state = network.state_dict()
assert weights.keys() <= state.keys(), sorted(weights.keys() - state.keys())[:3]
assert all(torch.equal(state[key], value.to(state[key].dtype)) for key, value in weights.items())
assert type(network).__module__.split(".")[0] == {packages.packed[name].package!r}
{WITHOUT}"""
    ended = warm.code(code, cwd=tmp_path)
    assert ended.code == 0, ended.err[-3000:]


@pytest.mark.parametrize(("config", "kind"), [("train", "train"), ("inference", "infer"), ("evaluate", "infer")])
@pytest.mark.parametrize("name", [*SEGMENTERS, "law_polyps"])
def test_create_workflow_finds_every_property(warm, packages, drawn, tmp_path, name, config, kind):
    given = _options(packages, name, config, drawn, tmp_path)
    given = {key: str(value) if isinstance(value, Path) else value for key, value in given.items()}
    path = str(packages.unpacked / name / "configs" / f"{config}.json")
    code = f"""{WITHOUT}
from monai.bundle import create_workflow
workflow = create_workflow(config_file={path!r}, workflow_type={kind!r}, **{given!r})
assert workflow.check_properties() == [], workflow.check_properties()
assert workflow.bundle_root == {str(packages.unpacked / name)!r}, workflow.bundle_root
{WITHOUT}"""
    ended = warm.code(code, cwd=tmp_path)
    assert ended.code == 0, ended.err[-3000:]


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_federated_round_trains_from_the_servers_weights(warm, packages, drawn, tmp_path, name):
    """Each round begins with what the server sends, not with what this client had; the shipped weights stay."""
    options = {**SegmenterContract.small["train"], "epochs": 2, "dataset_dir": str(drawn)}
    options |= {"output_dir": str(tmp_path / "out"), "learning_rate": 1e-9, "device": "cpu"}
    before = (packages.unpacked / name / "models" / "model.pt").read_bytes()
    code = f"""{WITHOUT}
import torch
from monai.fl.client import MonaiAlgo
from monai.fl.utils.constants import ExtraItems
from monai.fl.utils.exchange_object import ExchangeObject
options = {options!r}
client = MonaiAlgo({name!r}, train_kwargs=options, send_weight_diff=False, eval_kwargs={{**options, "image_size": 64}})
client.initialize({{ExtraItems.CLIENT_NAME: "here", ExtraItems.APP_ROOT: {str(packages.unpacked)!r}}})
assert type(client.trainer.network).__module__.startswith({packages.packed[name].package!r})
sent = torch.load({str(packages.unpacked / name / "models/model.pt")!r}, weights_only=True)
learned = [key for key in sent if key.endswith("weight")]
for number in (1, 2):
    client.train(ExchangeObject(weights=sent))
    got = client.get_weights()
    # At this rate nothing moves: what differs is where the round began.
    assert all(torch.allclose(got.weights[key], sent[key], atol=1e-5) for key in learned), number
    assert client.trainer.state.epoch == number and got.statistics["num_executed_iterations"] == 2
    metrics = client.evaluate(ExchangeObject(weights=got.weights)).metrics
    assert 0 <= metrics["val_mean_dice"] <= 1
    sent = {{key: value * 1.5 if key in learned else value for key, value in sent.items()}}
client.finalize()
{WITHOUT}"""
    ended = warm.code(code, cwd=tmp_path)
    assert ended.code == 0, ended.err[-3000:]
    assert (packages.unpacked / name / "models" / "model.pt").read_bytes() == before


# ---- several in one process --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def newer(tmp_path_factory) -> Path:
    """order_polyps as a later version would be: other code, whose networks answer with 7 more."""
    root = tmp_path_factory.mktemp("newer")
    for name in ("common", "order_polyps"):
        shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    network = root / "common" / "order" / "network.py"
    text = network.read_text()
    assert text.count("return self.head(x)") == 1
    network.write_text(text.replace("return self.head(x)", "return self.head(x) + 7"))
    metadata = json.loads((root / "order_polyps" / "configs" / "metadata.json").read_text())
    metadata |= {"version": "0.2.0", "changelog": {**metadata["changelog"], "0.2.0": "seven more"}}
    (root / "order_polyps" / "configs" / "metadata.json").write_text(json.dumps(metadata))
    packed = pack(root, "order_polyps")
    for path, content in packed.files.items():
        (root / "unpacked" / "order_polyps" / path).parent.mkdir(parents=True, exist_ok=True)
        (root / "unpacked" / "order_polyps" / path).write_bytes(content)
    return root / "unpacked"


def test_two_versions_in_one_process_each_run_their_own_code(warm, packages, newer, tmp_path):
    """And two bundles besides, in any order; the same weights, and answers that differ by the newer code's 7."""
    code = f"""{WITHOUT}
import torch
from monai.bundle import load
old, new = {str(packages.unpacked)!r}, {str(newer)!r}
image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
answers = []
for name, folder in (("order_polyps", old), ("order_brisc", old), ("order_polyps", new), ("order_polyps", old)):
    network = load(name, bundle_dir=folder).eval()
    with torch.no_grad():
        answers.append(network(image))
assert torch.equal(answers[0], answers[3])
assert torch.allclose(answers[2], answers[0] + 7, atol=1e-5)
assert not torch.allclose(answers[1], answers[0], atol=1e-2)
names = {{name.split(".")[0] for name in sys.modules if name.startswith("law_order_")}}
assert len(names) == 3, names
{WITHOUT}"""
    ended = warm.code(code, cwd=tmp_path)
    assert ended.code == 0, ended.err[-3000:]

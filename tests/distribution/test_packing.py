"""A packed bundle holds all that it needs under a name of its own, and packs to the same bytes anywhere."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from bundles.boot import BOOT
from bundles.configs import packed_config, sister_of
from bundles.executables import executables
from bundles.manifest import first_paragraph
from bundles.model_info import read_model_info
from bundles.packing import pack, write_zips
from bundles.sources import bundle_names, collection
from bundles.verifying import verify
from common.errors import InputError
from tests.bundles.contract import REPOSITORY

BUNDLES = bundle_names(collection())
SEGMENTERS = [name for name in BUNDLES if name.startswith("order_")]
SCHEMES = re.compile(rb"(?<![\w.])common(?:\.[a-z]|/)")


@pytest.mark.parametrize("name", BUNDLES)
def test_a_zip_is_what_the_model_zoo_has(packages, name):
    """One folder of the bundle's name, no entries for folders, licence, metadata, weights, and JSON for `load`."""
    version = packages.packed[name].version
    assert packages.zips[name].name == f"{name}_v{version}.zip"
    with zipfile.ZipFile(packages.zips[name]) as archive:
        names = archive.namelist()
        assert archive.testzip() is None
    assert {each.split("/")[0] for each in names} == {name} and not any(each.endswith("/") for each in names)
    assert names == sorted(names)
    needed = {"LICENSE", "MANIFEST.json", "requirements.txt", "models/model.pt", "docs/data_license.txt"}
    needed |= {f"configs/{each}" for each in ("metadata.json", "train.json", "evaluate.json", "inference.json")}
    assert {f"{name}/{each}" for each in needed} <= set(names)
    assert not any(each.endswith((".yaml", ".pyc")) for each in names)


@pytest.mark.parametrize("name", BUNDLES)
def test_the_manifest_tells_every_file_and_all_that_is_executed(packages, name):
    folder = packages.unpacked / name
    manifest = json.loads((folder / "MANIFEST.json").read_bytes())
    there = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    del there["MANIFEST.json"]
    assert manifest["files"] == {
        each: {"sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        for each, path in there.items()
    }
    assert manifest["python"] == sorted(each for each in there if each.endswith(".py")) != []
    for each, told in manifest["executes"].items():
        found = list(executables(json.loads(there[each].read_bytes())))
        assert told["targets"] == sorted({part.text for part in found if part.kind == "target"})
        assert told["expressions"] == sorted({part.text for part in found if part.kind == "expression"})
    configs = {each for each in there if each.startswith("configs/") and each.endswith(".json")}
    assert manifest["executes"].keys() == configs
    assert re.fullmatch("[0-9a-f]{40}", manifest["source"]["commit"] or "") or manifest["source"]["modified"] is None


@pytest.mark.parametrize("name", BUNDLES)
def test_nothing_in_it_names_the_collection(packages, name):
    """Its code imports itself only relatively and stands under its own name; configs name that, and nothing missing."""
    folder = packages.unpacked / name
    package = json.loads((folder / "MANIFEST.json").read_bytes())["package"]
    assert re.fullmatch(rf"law_order_{name}_[0-9a-f]{{12}}", package)
    for path in (folder / package).rglob("*.py"):
        ast.parse(path.read_bytes())
        assert not SCHEMES.search(path.read_bytes()), path
    for path in (folder / "configs").glob("*.json"):
        for part in executables(json.loads(path.read_bytes())):
            assert "common" not in part.text.split("."), (path, part)
            if part.text.startswith("law_order_"):
                assert part.text.split(".")[0] == package
    page = (folder / "docs" / "README.md").read_text()
    assert f"python -m {package}.data prepare" in page
    there = {path.stem for path in (folder / "configs").iterdir()}
    others = [each for each in re.findall(r"(?<![\w/])(?:configs/)?(\w+)\.yaml", page) if each in there]
    assert others == []


@pytest.mark.parametrize("name", BUNDLES)
def test_a_packed_config_is_the_source_but_for_names_and_finding_itself(packages, name):
    """Every value of the YAML stands in the JSON, with `common` renamed; only the search for the collection left."""
    package = packages.packed[name].files["MANIFEST.json"]
    package = json.loads(package)["package"]
    for path in sorted((REPOSITORY / name / "configs").glob("*.yaml")):
        source = ConfigParser.load_config_file(path)
        text = json.dumps(source).replace('"common.', f'"{package}.')
        packed = json.loads((packages.unpacked / name / "configs" / f"{path.stem}.json").read_bytes())
        told = json.loads(text)
        changed = {key for key in told.keys() | packed.keys() if told.get(key) != packed.get(key)}
        own = {"run", "initialize", "imports"} if "run" in source else set()
        assert changed <= own | ({"segmenter"} if sister_of(source) else set())
        if own:
            assert [each for each in packed["run"] if each not in told["run"]] == []
            left_out = [each for each in told["run"] if each not in packed["run"]]
            assert left_out and all("find_spec" in each or "sys.path" in each for each in left_out)
            assert set(packed["initialize"]) - set(told["initialize"]) <= BOOT
            assert packed["initialize"][1:] == told["initialize"]


def test_a_painter_brings_the_segmenter_that_judges_it(packages):
    for name, sister in (("law_polyps", "order_polyps"), ("law_brisc", "order_brisc")):
        files = packages.packed[name].files
        assert files["models/segmenter.pt"] == (REPOSITORY / sister / "models" / "model.pt").read_bytes()
        assert "models/segmenter.trained_on.json" in files
    assert "models/segmenter.pt" not in packages.packed["law_kits19"].files


def test_an_overlay_gets_no_boot():
    assert packed_config({"epochs": 3, "train#loss#_target_": "common.training.StructureLoss"}, "p") == {
        "epochs": 3,
        "train#loss#_target_": "p.training.StructureLoss",
    }


# ---- the same bytes ------------------------------------------------------------------------------------------

_PACK = "import sys; from pathlib import Path; from bundles.packing import pack; root = Path.cwd();\n"
_PACK += "import hashlib\nfor name in sys.argv[1:]: print(hashlib.sha256(pack(root, name).zip()).hexdigest())"


def _copy(to: Path, umask: int, time: int, reverse: bool) -> Path:
    # The tree as git knows it, written in another order, with other modes and times.
    listing = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(listing, cwd=REPOSITORY, capture_output=True, text=True)
    names = [name for name in listed.stdout.splitlines() if (REPOSITORY / name).is_file()]
    before = os.umask(umask)
    try:
        for name in sorted(names, reverse=reverse):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            (to / name).write_bytes((REPOSITORY / name).read_bytes())
            os.utime(to / name, (time, time))
        shutil.copytree(REPOSITORY / ".git", to / ".git")
    finally:
        os.umask(before)
    return to


@pytest.mark.slow
def test_two_copies_of_a_tree_pack_to_the_same_bytes(tmp_path):
    """Other times, order of writing, umask, locale, time zone, hash seed and folder."""
    if not (REPOSITORY / ".git").is_dir():
        pytest.skip("not a git checkout")
    first = _copy(tmp_path / "a", 0o022, 1_000_000_000, False)
    second = _copy(tmp_path / "elsewhere" / "b", 0o077, 1_700_000_000, True)
    names = ["order_polyps", "law_polyps", "order_brisc"]
    digests = []
    for folder, settings in (
        (first, {"LC_ALL": "C", "TZ": "UTC", "PYTHONHASHSEED": "1"}),
        (second, {"LC_ALL": "C.UTF-8", "TZ": "Asia/Tokyo", "PYTHONHASHSEED": "77"}),
    ):
        environment = {**os.environ, **settings, "PYTHONPATH": str(folder)}
        command = [sys.executable, "-W", "ignore", "-c", _PACK, *names]
        ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        digests.append(ended.stdout.split())
    assert digests[0] == digests[1] and len(set(digests[0])) == 3


def test_what_is_packed_decides_the_name_of_its_code(tmp_path):
    """Weights, a config or code that differ: another name; the same again: the same."""

    def package_of(change=None) -> str:
        root = tmp_path / str(len(list(tmp_path.iterdir())))
        for name in ("common", "order_polyps"):
            shutil.copytree(REPOSITORY / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
        if change:
            (root / change).write_bytes((root / change).read_bytes() + b"\n")
        return json.loads(pack(root, "order_polyps").files["MANIFEST.json"])["package"]

    changes = ["common/order/network.py", "order_polyps/models/model.pt", "order_polyps/configs/logging.conf"]
    names = [package_of(), *(package_of(change) for change in changes)]
    assert len(set(names)) == 4 and package_of() == names[0]


def test_a_changed_tree_is_told(tmp_path):
    """Without git nothing is known of the commit; with it, a changed or a new file of the bundle is told."""
    for name in ("common", "order_polyps"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))

    def source() -> dict:
        return json.loads(pack(tmp_path, "order_polyps").files["MANIFEST.json"])["source"]

    assert source() == {"commit": None, "modified": None}
    (tmp_path / ".commit").write_text("a" * 40 + "\n")
    assert source() == {"commit": "a" * 40, "modified": None}
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main"]
    for arguments in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *arguments], cwd=tmp_path, check=True, capture_output=True)
    told = source()
    assert told["modified"] is False and re.fullmatch("[0-9a-f]{40}", told["commit"])
    (tmp_path / "order_polyps" / "models" / "new.pt").write_bytes(b"new")
    assert source() == {**told, "modified": True}


# ---- what is written ---------------------------------------------------------------------------------------


def test_the_catalogue_of_zips_keeps_other_lines_and_tells_both_digests(packages, tmp_path):
    (tmp_path / "model_info.json").write_text(json.dumps({"other_v1": {"checksum": "x", "source": "y"}}))
    digests = write_zips([packages.packed["order_polyps"]], tmp_path)
    info = read_model_info(tmp_path / "model_info.json")
    content = (tmp_path / "order_polyps_v0.1.0.zip").read_bytes()
    assert info.keys() == {"other_v1", "order_polyps_v0.1.0"}
    assert info["order_polyps_v0.1.0"]["sha256"] == hashlib.sha256(content).hexdigest() in digests.values()
    assert info["order_polyps_v0.1.0"]["checksum"] == hashlib.sha1(content).hexdigest()


def test_two_that_pack_at_once_leave_one_catalogue_of_both(packages, tmp_path):
    """Each by a process of its own; the slower one finds the lines of the other."""
    for name in SEGMENTERS:
        (tmp_path / name).write_bytes(pickle.dumps(packages.packed[name]))
    program = (
        "import pickle, sys; from pathlib import Path; from bundles.packing import write_zips;"
        " write_zips([pickle.loads(Path(sys.argv[1]).read_bytes())], Path(sys.argv[2]))"
    )
    commands = [[sys.executable, "-c", program, tmp_path / name, tmp_path / "out"] for name in SEGMENTERS]
    others = [subprocess.Popen(command, cwd=collection()) for command in commands]
    assert [other.wait() for other in others] == [0, 0]
    assert set(read_model_info(tmp_path / "out" / "model_info.json")) == {f"{name}_v0.1.0" for name in SEGMENTERS}


@pytest.mark.parametrize("name", ["model_info.json", "order_polyps_v0.1.0.zip"])
def test_a_folder_in_the_place_of_a_file_is_one_line(packages, tmp_path, name):
    (tmp_path / name).mkdir()
    with pytest.raises(InputError, match=f"{name}(: Is a directory| is a folder)"):
        write_zips([packages.packed["order_polyps"]], tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_link_among_the_files_is_refused(tmp_path):
    for name in ("common", "order_polyps"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    (tmp_path / "order_polyps" / "models" / "secret.json").symlink_to("/etc/hostname")
    with pytest.raises(InputError, match=r"secret\.json is a link"):
        pack(tmp_path, "order_polyps")


def test_what_a_label_server_left_in_the_tree_is_not_packed(tmp_path):
    for name in ("common", "order_polyps"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
    models = tmp_path / "order_polyps" / "models"
    (models / "retraining").mkdir()
    for name in ("retrained.pt", "retrained.trained_on.json", "retraining/history.json"):
        (models / name).write_bytes(b"{}")
    assert not [path for path in pack(tmp_path, "order_polyps").files if "retrain" in path and path[:6] == "models"]


def test_an_unknown_bundle_is_told_with_those_that_are_there(packages):
    with pytest.raises(InputError, match="no bundle 'order_polyp'; there are law_brisc"):
        pack(collection(), "order_polyp")


_DISTRIBUTIONS = {"PIL": "pillow", "yaml": "pyyaml", "ignite": "pytorch-ignite", "skimage": "scikit-image"}


@pytest.mark.parametrize("name", BUNDLES)
def test_what_its_code_imports_when_it_is_loaded_is_listed(packages, name):
    """`requirements.txt` names each package that a module imports at its head, where no `try` lets it be missing."""
    folder = packages.unpacked / name
    listed = {line.split("==")[0] for line in (folder / "requirements.txt").read_text().splitlines() if "==" in line}
    needed = set()
    for path in (folder / packages.packed[name].package).rglob("*.py"):
        for node in ast.parse(path.read_bytes()).body:
            if isinstance(node, ast.Import):
                needed |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                needed.add(node.module.split(".")[0])
    needed -= set(sys.stdlib_module_names)
    assert {"torch", "monai", "numpy"} <= needed
    assert {_DISTRIBUTIONS.get(each, each) for each in needed} - listed == set()


@pytest.mark.parametrize("name", BUNDLES)
def test_it_verifies(packages, name):
    """The zip by its hash, and the folder that it unpacks to."""
    digest = hashlib.sha256(packages.zips[name].read_bytes()).hexdigest()
    report = verify(packages.zips[name], sha256=digest)
    assert report.errors == () and report.origin == "catalogue"
    assert verify(packages.unpacked / name).errors == ()


@pytest.mark.parametrize(
    ("text", "paragraph"),
    [
        ("Title\n=====\n\nOne line\nand another.\n\nNext.\n", "One line and another."),
        ("One line.\n", "One line."),
        ("Two\nlines.\n\nNext.", "Two lines."),
        ("Title\n-----\n", ""),
        ("", ""),
    ],
)
def test_a_licence_is_told_by_its_first_paragraph(text, paragraph):
    assert first_paragraph(text) == paragraph


@pytest.mark.skipif(shutil.which("zip") is None, reason="the Zoo's own command needs zip")
@pytest.mark.parametrize("name", ["law_polyps", "order_polyps"])
def test_it_verifies_as_the_zoo_packs_it_anew(packages, name, tmp_path):
    """With the command of the Zoo's `ci/utils.py`; its zip has another hash, and the same content."""
    path = tmp_path / packages.packed[name].file_name
    command = ["zip", "-rq", "-D", "-X", "-9", "-A", "--compression-method", "deflate", path, name]
    subprocess.run(command, cwd=packages.unpacked, check=True)
    report = verify(path)
    assert report.errors == () and path.stat().st_size < len(packages.packed[name].zip())

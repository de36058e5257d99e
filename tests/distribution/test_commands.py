"""`python -m bundles …` as it is typed: what it prints, its exit codes, and one line for each wrong input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from bundles.catalogue import entries
from bundles.installing import install
from bundles.sources import bundle_names, collection
from tests.bundles.contract import REPOSITORY
from tests.distribution.built import PACKAGE, write_mini


def run(*arguments, cwd=REPOSITORY) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", "-m", "bundles", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def test_the_list_tells_each_bundle_once():
    ended = run("list")
    assert ended.returncode == 0, ended.stderr
    for name in bundle_names(collection()):
        assert sum(line.startswith(name) for line in ended.stdout.splitlines()) >= 1
    assert "42,265" in ended.stdout and "research and education only" in ended.stdout
    found = json.loads(run("list", "--json").stdout)
    assert found == [each.as_json() for each in entries(collection())]


def test_the_catalogues_figures_are_those_of_metadata_and_weights():
    by_name = {each.name: each for each in entries(collection())}
    for name, each in by_name.items():
        metadata = json.loads((REPOSITORY / name / "configs" / "metadata.json").read_text())
        assert each.version == metadata["version"] and each.task == metadata["task"]
        measured = metadata.get("eval_metrics", {})
        assert (each.metric == "") is not bool(measured)
        assert all(str(value) in each.metric for value in list(measured.values())[:1])
    assert by_name["order_brisc"].parameters == 42_265 and by_name["law_brisc"].parameters == 5_938_556


@pytest.mark.slow
def test_pack_verify_install_and_roll_back(tmp_path):
    """From the collection to a hospital's folder and back, by the commands of the page."""
    out, dest = tmp_path / "dist", tmp_path / "bundles"
    ended = run("pack", "order_polyps", "--out", out, "--json")
    assert ended.returncode == 0, ended.stderr
    (path,) = out.glob("*.zip")
    assert json.loads(ended.stdout) == {
        str(path): json.loads((out / "model_info.json").read_text())[path.stem]["sha256"]
    }
    assert json.loads((out / f"{path.stem}.cdx.json").read_text())["bomFormat"] == "CycloneDX"
    ended = run("verify", path)
    assert ended.returncode == 0 and "origin unproven" in ended.stdout and "own Python" in ended.stdout
    ended = run("verify", path, "--model_info", out / "model_info.json")
    assert ended.returncode == 0 and "origin unproven" not in ended.stdout
    changed = tmp_path / path.name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    changed.write_bytes(content)
    for command in (["verify", changed], ["install", changed, "--dest", dest]):
        ended = run(*command, "--model_info", out / "model_info.json")
        assert ended.returncode == 1 and "REFUSED" in ended.stdout and "SHA-256" in ended.stdout, ended.stderr
    assert not dest.exists()
    for _ in range(2):
        ended = run("install", path, "--dest", dest, "--model_info", out / "model_info.json", "--json")
        assert ended.returncode == 0, ended.stderr
    place = json.loads(ended.stdout)["folder"]
    assert place == str(dest / "order_polyps") and run("verify", place).returncode == 0
    ended = run("install", "order_polyps", "--dest", dest, "--rollback")
    assert ended.returncode == 2 and "no version before" in ended.stderr  # what was there already took no place
    shutil.copytree(place, dest / ".previous" / "order_polyps")
    ended = run("install", "order_polyps", "--dest", dest, "--rollback")
    assert ended.returncode == 0 and run("verify", place).returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["pack", "order_polyp", "--out", "OUT"], "no bundle 'order_polyp'; there are law_brisc"),
        (["pack", "order_polyps"], "--out missing"),
        (["pack"], "NAME missing"),
        (["pack", "law_polyps", "--out", "OUT", "--code_free"], "law_polyps paints images"),
        (["pack", "order_polyps", "--out", "OUT", "--codefree"], "no option --codefree; there are --out, --code_free"),
        (["export", "order_polyps"], "--format missing: one of torchscript, onnx, pt2"),
        (["export", "order_polyps", "--format", "h5"], "no format 'h5'"),
        (["export", "law_brisc", "--format", "onnx"], "law_brisc paints images"),
        (["install", "a.zip"], "--dest missing"),
        (["install", "a.zip", "--dest", "b"], "there is no a.zip"),
        (["verify", "nowhere.zip"], "there is no nowhere.zip"),
        (["verify", REPOSITORY / "LICENSE", "--sha256", "HEX"], "--sha256 'HEX' is no SHA-256"),
        (["verify", REPOSITORY / "LICENSE", "--model_info", "no.json"], "--model_info no.json: there is no such file"),
        (["verify", REPOSITORY / "LICENSE", "--model_info", REPOSITORY / "README.md"], "README.md is no JSON"),
        (["verify", REPOSITORY / "LICENSE", "--signature", "no.sig"], "--signature needs --public_key"),
        (["verify", REPOSITORY / "LICENSE", "--public_key", "no.pem"], "--public_key no.pem: there is no such file"),
        (["export", "order_polyps", "--format", "onnx", "--out", "."], "--out . is a folder"),
        (["install", "order_polyps", "--dest", "nowhere", "--rollback"], "nowhere"),
        (["sign", "a.zip"], "--private_key missing"),
        (["sign", "a.zip", "--private_key", "nowhere.pem"], "a.zip"),
        (["lock", "nowhere", "requirements.txt"], "nowhere"),
        (["pack", "order_polyps", "--out", ""], "--out needs a value"),
        (["verify", ""], "PATH missing"),
        (["verify", REPOSITORY / "bundles", "--sha256", "0" * 64], "--sha256 is of a zip"),
        (["verify", REPOSITORY / "LICENSE", "--public_key", REPOSITORY / "LICENSE"], "is no public EC key"),
        (["install", "mini", "--dest", "x", "--rollback", "--sha256", "zzz"], "--sha256 is of a zip; what is rolled"),
    ],
    ids=lambda each: " ".join(map(str, each))[-60:] if isinstance(each, list) else "",
)
def test_a_wrong_input_is_one_line_and_nothing_is_written(arguments, line, tmp_path):
    ended = run(*arguments, cwd=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1 and line in ended.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["[]", "[" * 100_000, '{"a": 1}'], ids=["a list", "too deep", "no entry"])
def test_what_is_no_catalogue_is_one_line(content, tmp_path):
    (tmp_path / "model_info.json").write_text(content)
    ended = run("verify", REPOSITORY / "LICENSE", "--model_info", "model_info.json", cwd=tmp_path)
    assert ended.returncode == 2 and ended.stderr.startswith("error: --model_info: no catalogue"), ended.stderr
    assert ended.stderr.count("\n") == 1


@pytest.mark.parametrize("json", [(), ("--json",)])
def test_a_terminal_without_some_letters_is_told_all_the_same(json, tmp_path, monkeypatch):
    """The report has an ellipsis, where it tells of what the bundle's Python calls."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    more = {f"{PACKAGE}/more.py": b"def get(x, name):\n    return getattr(x, 'name')\n"}
    ended = run("verify", write_mini(tmp_path, more), *json)
    assert (ended.returncode, ended.stderr) == (0, "") and "\\u2026" in ended.stdout


def test_a_version_before_that_was_changed_is_refused_and_not_put_back(tmp_path):
    place, _ = install(write_mini(tmp_path), tmp_path / "dest")
    shutil.copytree(place, tmp_path / "dest" / ".previous" / "mini")
    (tmp_path / "dest" / ".previous" / "mini" / "LICENSE").write_text("another")
    ended = run("install", "mini", "--dest", tmp_path / "dest", "--rollback")
    assert ended.returncode == 1 and ended.stderr.startswith("REFUSED: ") and "LICENSE was changed" in ended.stderr


@pytest.mark.parametrize("path", ["empty.zip", "text.zip", "folder"])
def test_what_is_no_bundle_is_refused_in_the_report(path, tmp_path):
    (tmp_path / "empty.zip").touch()
    (tmp_path / "text.zip").write_text("a text")
    (tmp_path / "folder").mkdir()
    ended = run("verify", path, cwd=tmp_path)
    assert ended.returncode == 1 and "REFUSED" in ended.stdout and ended.stderr == ""


def test_where_no_bundle_is_beside_the_package_it_is_told(tmp_path):
    """As where the packages were installed without the collection."""
    for name in ("bundles", "common"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-W", "ignore", "-m", "bundles", "list"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert (ended.returncode, ended.stdout) == (2, "") and "holds no bundle" in ended.stderr

"""`verify` accepts what the packer makes, names the cause of whatever else, runs nothing, and never falls over."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import re
import subprocess
import sys
from importlib import metadata

import pytest

from bundles import verifying
from bundles.boot import IMPORTS
from bundles.code_free_config import inference_config
from bundles.consistency import installed_findings
from bundles.manifest import CODE_FREE, FULL, NAME, json_bytes
from bundles.opening import sha256
from bundles.report import CATALOGUE, WARNING
from bundles.sources import collection
from bundles.strict_json import parse_json
from bundles.verifying import verify
from bundles.zip_writing import zip_bytes
from tests.distribution.built import (
    PACKAGE,
    ZIP,
    code_free,
    inference,
    manifested,
    mini,
    saved,
    write_config,
    write_mini,
    write_zip,
)
from tests.distribution.test_pickles import Touches

VALUES = {"image_size": 64, "threshold": 0.5, "batch_size": 1, "num_workers": 0}  # of a config without code


def refused(path, *words: str, **options) -> None:
    """Make sure that a bundle is refused, and that one line has all the words; whatever its package is called."""
    report = verify(path, **options)
    assert not report.ok and report.verdict.startswith("REFUSED")
    lines = [re.sub(r"law_order_mini_[0-9a-f]{12}", PACKAGE, line) for line in report.errors]
    assert [line for line in lines if all(word in line for word in words)], report.errors
    assert not [line for line in report.errors if verifying.UNEXPECTED in line], report.errors


# ---- what is accepted ----------------------------------------------------------------------------------------------


def test_what_the_packer_makes_is_accepted_zipped_and_unpacked(packages):
    for name, path in packages.zips.items():
        report = verify(path)
        assert report.errors == (), name
        assert (report.name, report.kind, report.origin) == (name, "full", None)
        assert "origin unproven" in report.verdict
        assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
        assert set(report.python) == {each for each in packages.packed[name].files if each.endswith(".py")}
    for name in ("order_polyps", "law_polyps"):
        assert verify(packages.unpacked / name).errors == ()


def test_the_small_bundles_of_these_tests_are_accepted(tmp_path):
    assert verify(write_mini(tmp_path)).errors == ()
    path = write_zip(tmp_path, manifested(code_free(inference_config("mini", **VALUES)), CODE_FREE))
    report = verify(path)
    assert report.errors == () and report.kind == CODE_FREE and report.python == ()


def test_the_report_says_what_would_run(tmp_path):
    report = verify(write_mini(tmp_path))
    assert set(IMPORTS) <= set(report.expressions) and f"{PACKAGE}.nets.SmallNet" in report.targets
    text = "\n".join(report.lines())
    assert all(path in text for path in report.python)
    assert f"{PACKAGE}/files.py uses os" in text
    assert json.loads(json.dumps(report.as_json()))["ok"] is True


def test_a_terminal_gets_no_control_sequences(tmp_path):
    path = write_config(tmp_path, lambda config: config.update({"x": "$\x1b[2J"}))
    report = verify(path)
    assert not report.ok and "\x1b" not in "\n".join(report.lines()) + json.dumps(report.as_json())


# ---- where it comes from -------------------------------------------------------------------------------------------


def test_the_catalogues_hash_proves_the_origin(tmp_path):
    path = write_mini(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    catalogue = tmp_path / "model_info.json"
    catalogue.write_text(json.dumps({ZIP.removesuffix(".zip"): {"checksum": "x", "sha256": digest, "source": ZIP}}))
    for proof in ({"sha256": digest}, {"sha256": f" {digest.upper()}\n"}, {"model_info": catalogue}):
        report = verify(path, **proof)
        assert report.ok and report.origin == CATALOGUE and "catalogue" in report.verdict


def test_another_hash_is_refused_before_anything_is_parsed(tmp_path, monkeypatch):
    path = write_mini(tmp_path)
    monkeypatch.setattr(verifying, "open_zip", lambda *_: pytest.fail("it was opened"))
    refused(path, "its SHA-256 is", sha256="0" * 64)
    refused(path, "no SHA-256", sha256="12")
    refused(path, "no SHA-256", sha256="")
    catalogue = tmp_path / "model_info.json"
    for content in ("{}", "[]", "{", '{"mini_v0.1.0": {"checksum": "x"}}', '{"mini_v0.1.0": {"sha256": 1}}'):
        catalogue.write_text(content)
        refused(path, "model_info.json", model_info=catalogue)
    refused(path, "nothing.json", model_info=tmp_path / "nothing.json")


def test_a_folder_has_no_hash(packages):
    refused(packages.unpacked / "order_polyps", "--sha256 is of a zip", sha256="0" * 64)


def test_what_is_no_bundle_is_one_line(tmp_path):
    refused(tmp_path / "nothing.zip", "cannot read")
    refused(tmp_path, NAME)
    (tmp_path / "empty.zip").write_bytes(b"")
    refused(tmp_path / "empty.zip", "no zip")
    os.mkfifo(tmp_path / "pipe.zip")
    refused(tmp_path / "pipe.zip", "no plain file")


# ---- files against the manifest ------------------------------------------------------------------------------------


def test_a_flipped_byte_in_any_member_is_refused_by_its_name(tmp_path):
    """As damage of the zip, which its checksum tells; and rewritten with a right one, which the manifest tells."""
    files = manifested(mini())
    data = zip_bytes("mini", files)
    for name, content in files.items():
        at = data.index(f"mini/{name}".encode()) + len(f"mini/{name}") + 1
        damaged = tmp_path / ZIP
        damaged.write_bytes(data[:at] + bytes([data[at] ^ 4]) + data[at + 1 :])
        refused(damaged, f"'mini/{name}'")
        if name != NAME:
            for place in {0, len(content) // 2, len(content) - 1}:
                changed = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
                refused(write_zip(tmp_path, {**files, name: changed}), name, "was changed")


def test_an_added_a_removed_and_a_renamed_file_are_refused_by_their_names(tmp_path):
    files = manifested(mini())
    for name in set(files) - {NAME}:
        refused(write_zip(tmp_path, {path: each for path, each in files.items() if path != name}), name, "was removed")
        suffix = os.path.splitext(name)[1]
        moved = {(f"moved{suffix}" if path == name else path): each for path, each in files.items()}
        refused(write_zip(tmp_path, moved), name, f"was renamed to moved{suffix}")
    refused(write_zip(tmp_path, {**files, "docs/more.md": b"x"}), "docs/more.md", "was added")
    refused(write_zip(tmp_path, {path: each for path, each in files.items() if path != NAME}), f"no {NAME}")


@pytest.mark.parametrize(
    "path",
    [
        "x.py", "configs/x.py", "models/x.py", f"{PACKAGE}/x.so", f"{PACKAGE}/__pycache__/x.pyc", "x.pth", "x.sh",
        "configs/x.yaml", "configs/x.yml", "configs/more/x.json", f"{PACKAGE}/x.yaml", "models/x.pkl", "models/x.npy",
        "models/x.pt2", "docs/x.html", "setup.py", "sitecustomize.py", "large_files.yml", "other/x.txt",
    ],
)  # fmt: skip
def test_a_file_where_none_of_its_kind_may_lie_is_refused(tmp_path, path):
    """Also where the manifest lists it."""
    refused(write_mini(tmp_path, {path: b"1"}), path)


@pytest.mark.parametrize("path", [f"{PACKAGE}/a.py", "a.py", "a.pyc", "models/a.so", "models/model.pt", "a.pth"])
def test_without_code_there_is_no_file_of_code(tmp_path, path):
    files = {**code_free(inference_config("mini", **VALUES)), path: b"x = 1\n"}
    refused(write_zip(tmp_path, manifested(files, CODE_FREE)), path)


def test_python_that_ran_is_told_with_its_mend(tmp_path, packages):
    folder = tmp_path / "mini"
    for name, content in manifested(mini()).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    assert verify(folder).ok
    (folder / PACKAGE / "__pycache__").mkdir()
    (folder / PACKAGE / "__pycache__" / "files.cpython-311.pyc").write_bytes(b"x")
    refused(folder, "files.cpython-311.pyc", "remove each __pycache__")


# ---- what it says of itself ----------------------------------------------------------------------------------------


NOTHING = {"targets": [], "expressions": []}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda manifest: manifest.update(name="other"), ("the folder is called 'mini'",)),
        (lambda manifest: manifest.update(version="0.2.0"), ("mini_v0.1.0.zip", "0.2.0")),
        (lambda manifest: manifest.update(version="0.2.0"), ("configs/metadata.json", "0.1.0")),
        (lambda manifest: manifest.update(format="law-order-bundle/2"), ("format",)),
        (lambda manifest: manifest.update(kind="code-free"), ("code in a bundle of kind 'code-free'",)),
        (lambda manifest: manifest.update(package=None), ("with the package None",)),
        (lambda manifest: manifest.update(package="torch"), ("package",)),
        (lambda manifest: manifest.update(more=1), ("more",)),
        (lambda manifest: manifest.pop("python"), ("python",)),
        (lambda manifest: manifest["python"].pop(), ("list of the bundle's Python files",)),
        (lambda manifest: manifest["licence"].update(data="Free for all."), ("data_license.txt",)),
        (lambda manifest: manifest["licence"].update(code="none"), ("licence#code",)),
        (lambda manifest: manifest["requires"]["packages"].pop("torch"), ("torch", "requirements.txt")),
        (lambda manifest: manifest["requires"]["packages"].update(evil="1.0"), ("evil",)),
        (lambda manifest: manifest["requires"].update(python=">=3.11; evil"), ("python",)),
        (lambda manifest: manifest["executes"].pop("configs/inference.json"), ("does not list",)),
        (lambda manifest: manifest["executes"].update({"configs/x.json": NOTHING}), ("x.json",)),
        (lambda manifest: manifest["files"]["LICENSE"].update(size=-1), ("LICENSE", "size")),
        (lambda manifest: manifest["source"].update(commit="main"), ("commit",)),
    ],
)  # fmt: skip
def test_a_manifest_that_says_another_thing_is_refused(tmp_path, change, words):
    refused(write_mini(tmp_path, change=change), *words)


def test_a_manifest_in_another_form_is_refused(tmp_path):
    files = manifested(mini())
    for changed in (files[NAME][:-1], files[NAME] + b"\n", files[NAME].replace(b": ", b":  ", 1), files[NAME].strip()):
        refused(write_zip(tmp_path, {**files, NAME: changed}), f"{NAME} was changed")


def test_an_origin_that_is_not_whole_is_a_warning(tmp_path):
    for change in ({"modified": True}, {"commit": None}):
        report = verify(write_mini(tmp_path, change=lambda manifest, told=change: manifest["source"].update(told)))
        assert report.ok and [each for each in report.findings if each.level == WARNING and "commit" in each.text]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda told: told.pop("network_data_format"), ("network_data_format",)),
        (lambda told: told.update(version=1), ("version",)),
        (lambda told: told.update(changelog={}), ("changelog",)),
        (lambda told: told.update(monai_version="0.1.0"), ("monai", "0.1.0")),
        (lambda told: told.update(description="$exit()"), ("description", "metadata may execute nothing")),
        (lambda told: told["network_data_format"]["inputs"]["image"].update(spatial_shape=[{}]), ("spatial_shape",)),
    ],
)
def test_metadata_that_break_the_schema_or_disagree_are_refused(tmp_path, change, words):
    refused(write_config(tmp_path, change, "metadata"), *words)


def test_no_schema_is_fetched(tmp_path, monkeypatch):
    """Metadata name the address of their schema, and could name any."""
    monkeypatch.setattr("socket.socket", lambda *_, **__: pytest.fail("the network was asked"))
    change = {
        "schema": "http://localhost:1/x.json",
        "$schema": "http://localhost:1/x.json",
        "$ref": "http://localhost:1/y",
    }
    assert verify(write_config(tmp_path, lambda told: told.update(change), "metadata")).ok


@pytest.mark.parametrize(
    "line",
    [
        "evil", "evil>=1", "-r other.txt", "--index-url http://x", "evil @ git+https://x/y", "evil==1.0 --pre", "-e .",
        "# coding: utf-7", "# +AAo-evil==1.0", "monai==1.6.1 \\", " monai==1.6.1", "", "tqdm==4.70.1;x", "${HOME}",
        "Tqdm==4.70.1", "tqdm==4.70.1\r",
    ],
)  # fmt: skip
def test_requirements_that_are_no_pins_are_refused(tmp_path, line):
    pins = mini()["requirements.txt"].decode() + line + "\n"
    refused(
        write_mini(tmp_path, {"requirements.txt": pins.encode()}),
        "requirements.txt",
        line.split(" ")[0].strip().split("=")[0],
    )


@pytest.mark.parametrize("kind", [FULL, CODE_FREE])
@pytest.mark.parametrize("package", ["evil-package", "torch-extra", "scipy"])
def test_a_package_that_no_bundle_needs_is_refused(tmp_path, kind, package):
    """Metadata, manifest and requirements agree, and a reader would install it."""
    files = mini() if kind == FULL else code_free(inference_config("mini", **VALUES))
    told = json.loads(files["configs/metadata.json"])
    told["required_packages_version"][package] = "1.0"
    files["configs/metadata.json"] = json_bytes(told)
    files["requirements.txt"] += f"{package}==1.0\n".encode()

    def change(manifest: dict) -> None:
        manifest["requires"]["packages"][package] = "1.0"

    path = write_zip(tmp_path, manifested(files, kind, change))
    if (kind, package) == (FULL, "scipy"):
        assert verify(path).ok
    else:
        refused(path, f"the package {package}")


def test_versions_are_compared_with_what_is_installed(tmp_path):
    report = verify(write_mini(tmp_path))
    assert not [each for each in report.findings if "was tested with" in each.text]
    files = mini()
    told = json.loads(files["configs/metadata.json"])
    told.update(numpy_version="1.0.0")
    pins = files["requirements.txt"].decode().replace(f"numpy=={metadata.version('numpy')}", "numpy==1.0.0")
    files |= {"configs/metadata.json": json_bytes(told), "requirements.txt": pins.encode()}

    def change(manifest: dict) -> None:
        manifest["requires"]["packages"].update({"numpy": "1.0.0"})

    report = verify(write_zip(tmp_path, manifested(files, change=change)))
    warnings = [each.text for each in report.findings if each.level == WARNING]
    assert report.ok and len(warnings) == 1 and "another major version" in warnings[0]
    needs = {"requires": {"python": ">=3.11", "packages": {"surely-not-installed": "1.2.3"}}}
    assert [each.text for each in installed_findings(needs)] == [
        "it needs surely-not-installed 1.2.3, which is not installed here"
    ]


# ---- what it would execute -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda config: config.update(x="$__import__('os').system('true')"), ("configs/inference.json, x", "a call")),
        (
            lambda config: config["transform"]["transforms"].append({"_target_": "os.system"}),
            ("transforms#2#_target_",),
        ),
        (lambda config: config.update({"a#_target_": "os.system"}), ("a#_target_",)),
        (lambda config: config.update(x=[{"y": "%other.json#z"}]), ("x#0#y", "macro")),
        (lambda config: config.update(x={"_mode_": "debug"}), ("_mode_", "debug")),
        (lambda config: config["network_def"].update(_target_=f"{PACKAGE}.files.os.system"), ("files.os",)),
    ],
)
def test_what_is_off_the_lists_is_refused_though_the_manifest_lists_it(tmp_path, change, words):
    refused(write_config(tmp_path, change), *words)


def test_a_logging_file_with_code_is_refused(tmp_path):
    content = mini()["configs/logging.conf"].replace(b"(sys.stdout,)", b"(exit(),)")
    refused(write_mini(tmp_path, {"configs/logging.conf": content}), "logging.conf", "args")


def test_a_pickle_with_code_is_refused_and_was_not_run(tmp_path):
    canary = tmp_path / "canary"
    for content in (saved({"a": Touches(canary)}), pickle.dumps(Touches(canary))):
        refused(write_mini(tmp_path, {"models/model.pt": content}), "models/model.pt")
    assert not canary.exists()


def test_nothing_of_a_bundle_is_run(tmp_path):
    """In a process of its own, in which the interpreter tells of every import, process, pickle and socket."""
    canary = tmp_path / "canary"
    touch = f"import pathlib; pathlib.Path({str(canary)!r}).touch()\n".encode()
    files = {**mini(), "models/model.pt": saved({"a": Touches(canary)})}
    files |= {path: touch + content for path, content in files.items() if path.endswith(".py")}
    config = {**inference(), "x": f"$__import__('pathlib').Path({str(canary)!r}).touch()"}
    path = write_zip(tmp_path, manifested({**files, "configs/inference.json": json_bytes(config)}))
    program = (
        "import sys; from bundles.verifying import verify\n"
        "bad = ('os.system', 'subprocess.Popen', 'os.exec', 'os.posix_spawn', 'os.fork', 'pickle.find_class',\n"
        " 'socket.connect')\n"
        "heard = []\n"
        "sys.addaudithook(lambda event, given: heard.append(event) if event in bad or "
        "(event == 'import' and str(given[0]).startswith('law_order')) else None)\n"
        f"report = verify({str(path)!r}); print(len(report.errors), heard)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=collection(), check=True
    )
    assert ended.stdout.split(" ", 1)[1].strip() == "[]" and int(ended.stdout.split()[0]) >= 2
    assert not canary.exists()


def test_to_verify_and_install_needs_no_torch(tmp_path):
    """Nor MONAI: who only looks at a bundle has not to have what it runs on, and starts in a second."""
    path = write_mini(tmp_path)
    (tmp_path / "model_info.json").write_bytes(json_bytes({path.stem: {"sha256": sha256(path.read_bytes())}}))
    program = (
        "import sys; from bundles.__main__ import install, verify; proof = {'model_info': sys.argv[2]};"
        " verify(sys.argv[1], **proof); install(sys.argv[1], dest=sys.argv[3], **proof);"
        " print({'torch', 'monai', 'onnx'} & set(sys.modules))"
    )
    command = [sys.executable, "-c", program, path, tmp_path / "model_info.json", tmp_path / "dest"]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=collection(), check=True)
    assert ended.stdout.count("accepted: its hash") == 2 and ended.stdout.endswith("set()\n")


# ---- hostile sizes and depths --------------------------------------------------------------------------------------

DEEP_JSON = b"[" * 100_000 + b"]" * 100_000
JSONS = {
    "deep": DEEP_JSON,
    "deeper than is read": b'{"a":' * 100 + b"1" + b"}" * 100,
    "key twice": b'{"a": 1, "a": 2}',
    "nested key twice": b'{"b": [{"a": 1, "a": 2}]}',
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "1e999": b'{"a": 1e999}',
    "long number": b'{"a": ' + b"9" * 10_000 + b"}",
    "lone surrogate": b'{"a": "\\ud800"}',
    "lone surrogate as key": b'{"\\udfff": 1}',
    "control character": b'{"a": "\\u0000"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "byte order mark": b"\xef\xbb\xbf{}",
    "no UTF-8": b'{"a": "\xff"}',
    "comment": b'{"a": 1} // b',
    "behind its end": b"{} {}",
    "nothing": b"",
}


@pytest.mark.parametrize("kind", JSONS)
def test_json_that_is_read_in_more_ways_than_one_is_refused(tmp_path, kind):
    refused(write_mini(tmp_path, {"configs/inference.json": JSONS[kind]}), "configs/inference.json")
    refused(write_mini(tmp_path, {"configs/metadata.json": JSONS[kind]}), "configs/metadata.json")
    refused(write_mini(tmp_path, {"models/law.json": JSONS[kind]}), "models/law.json")
    files = {**manifested(mini()), NAME: JSONS[kind]}
    refused(write_zip(tmp_path, files), NAME)


@pytest.mark.parametrize("value", [b"1", b"null", b'"x"', b"[]", b"true"])
def test_json_of_another_kind_is_refused(tmp_path, value):
    refused(write_mini(tmp_path, {"configs/inference.json": value}), "configs/inference.json")
    refused(write_mini(tmp_path, {"configs/metadata.json": value}), "configs/metadata.json")
    refused(write_zip(tmp_path, {**manifested(mini()), NAME: value}), NAME)


def test_json_as_it_should_be_is_what_it_was():
    value = {"a": [1, 2.5, None, True, "é\n\t", {"": {}}], "b": 10**30}
    assert parse_json(json_bytes(value), "x") == value


def test_python_that_is_too_deep_is_refused(tmp_path):
    for content in (b"x = " + b"(" * 10_000, b"x = " + b"-" * 200_000 + b"1", b"\xff", b"x = '''"):
        refused(write_mini(tmp_path, {f"{PACKAGE}/deep.py": content}), f"{PACKAGE}/deep.py")


def test_texts_that_are_no_utf8_are_refused(tmp_path):
    for path in ("docs/README.md", "LICENSE", f"{PACKAGE}/data/x.csv"):
        refused(write_mini(tmp_path, {path: b"\xff"}), path, "UTF-8")

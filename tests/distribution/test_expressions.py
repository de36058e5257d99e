"""What configs may execute: the lists hold what the collection's configs have, and nothing gets past them."""

from __future__ import annotations

import contextlib
import json

import pytest
from monai.bundle import ConfigParser, workflows
from monai.bundle.reference_resolver import ReferenceResolver

from bundles import allowed, code_free_config
from bundles.archives import Refused
from bundles.config_checks import config_faults, executes_faults
from bundles.executables import executables
from bundles.expressions import computes_only, expression_fault
from bundles.logging_checks import LOGGING as LOGGING_FILE
from bundles.logging_checks import STANDARD, logging_faults
from bundles.own_python import OwnPython, other_packages, parse_python, reaches_for
from bundles.sources import bundle_names, collection
from tests.distribution.built import LOGGING, PACKAGE, inference, mini

OWN = OwnPython(PACKAGE, {path: parse_python(content, path) for path, content in mini().items() if path[-3:] == ".py"})


def faults(config: object, own: OwnPython | None = OWN) -> list[str]:
    return list(config_faults("configs/x.json", config, own))


# ---- the lists -----------------------------------------------------------------------------------------------------


def test_the_lists_hold_what_packed_configs_execute_and_nothing_else(packages):
    targets, expressions = set(), set()
    for packed in packages.packed.values():
        manifest = json.loads(packed.files["MANIFEST.json"])
        for each in manifest["executes"].values():
            targets |= {name for name in each["targets"] if name.split(".")[0] != manifest["package"]}
            expressions |= set(each["expressions"])
    assert targets == allowed.TARGETS
    assert {text for text in expressions if computes_only(text)} == allowed.EXPRESSIONS


def _code_free_config() -> dict:
    return code_free_config.inference_config("order_polyps", image_size=256, threshold=0.5, batch_size=4, num_workers=0)


def test_the_list_without_code_holds_what_that_config_executes_and_nothing_else():
    parts = list(executables(_code_free_config()))
    assert {part.text for part in parts if part.kind == "target"} == allowed.CODE_FREE_TARGETS
    assert {part.text for part in parts if part.kind == "expression"} == allowed.CODE_FREE_EXPRESSIONS
    assert faults(_code_free_config(), None) == []


def test_neither_list_can_reach_a_process_a_pickle_or_another_module():
    """What a reviewer would look for first, said once more by a test."""
    words = ("system", "popen", "subprocess", "socket", "pickle", "eval(", "exec(", "__", "open(", "urllib", "hub")
    words += ("locate", "optional_import", "import_module", "torch.load", "run_path", "compile")
    for text in allowed.TARGETS | allowed.CODE_FREE_TARGETS | allowed.EXPRESSIONS | allowed.CODE_FREE_EXPRESSIONS:
        assert [word for word in words if word in text.replace("Image.open(", "")] == [], text


# ---- expressions ---------------------------------------------------------------------------------------------------

HOSTILE = [
    "$@x.__class__",
    "$@x.__class__.__base__.__subclasses__()",
    "$@network.forward",
    "$getattr(@x, 'y')",
    "$getattr(torch, 'load')",
    "$monai.utils.module.os.system('true')",
    "$torch.load('x')",
    "$torch.hub.load('a/b', 'c')",
    "$torch.hub",
    "$np.load('x', allow_pickle=True)",
    "$__import__('os').system('true')",
    "$eval('1')",
    "$exec('1')",
    "$open('x').read()",
    "$lambda: 1",
    "$[x for x in @a]",
    "${x for x in @a}",
    "$(x for x in @a)",
    "$f'{@a}'",
    "$(x := 1)",
    "$(await @a)",
    "$@a(1)",
    "$@a[0](1)",
    "$@train#trainer.run(1)",
    "$@train#trainer.run() or 1",
    "$@evaluator.run().__class__",
    "$import os",
    "$import sys; import os",
    "$import sys, os",
    "$import os as sys",
    "$from os import system",
    "$from pathlib import Path as sys",
    " $1",
    "$1 #",
    "$sys",
    "$torch",
    "$@a @ @b",
    "$9 ** 9",
    "$1 << 99",
    "$'%s' % @a",
    "$'@a'",
    "$'a' '@b'",
    "$'{}'.format(@a)",
    "$b'x'",
    "$1j",
    "$...",
    "$*@a",
    "$[*@a]",
    "${**@a}",
    "$10000000000 * [0]",
    "$@#a",
    "$@##a + 1",
    "$@::a",
    "$@a::",
    "$@a#",
    "$@",
    "$@é",
    "$ａ",
    "$'\\x40a'",
    "$1\n+1",
    "$" + "(" * 200 + "1" + ")" * 200,
    "$" + "-" * 290 + "1",
    "$" + "1+" * 5000 + "1",
    "$_reference_",
    "$",
    "",
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda text: text[:30])
def test_an_expression_off_the_list_is_refused(text):
    fault = expression_fault(text, allowed.EXPRESSIONS)
    if text == "$" + "-" * 290 + "1":  # nothing but a number
        assert fault is None
    else:
        assert fault


HARMLESS = [
    "$1",
    "$-0.5",
    "$15 * 3.14 / 180",
    "$[@a, @b#c]",
    "$@a + '/models'",
    "$@a::b // @c - 1",
    "$@a[:-1]",
    "$@a['key'][0]",
    "$@a if @b and not @c else None",
    "$@a in (1, 2)",
    "$1 < @a <= 3",
    "${'a': @b}",
    "$True",
]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_computes_passes_and_is_what_monai_evaluates(text):
    """The rule replaces references as MONAI does: what MONAI gives to eval has them at the same places."""
    assert computes_only(text) is None
    names = ReferenceResolver.match_refs_pattern(text)
    seen = ReferenceResolver.update_refs_pattern(text, dict.fromkeys(names, 0))
    assert "@" not in seen
    config = {"a": [1, 2, {"c": 3}], "b": {"c": 4}, "c": 5, "x": text}
    if text in ("$1", "$-0.5", "$15 * 3.14 / 180", "$[@a, @b#c]", "$@a[:-1]", "$True", "${'a': @b}"):
        values = {"$1": 1, "$-0.5": -0.5, "$15 * 3.14 / 180": 15 * 3.14 / 180, "$[@a, @b#c]": [config["a"], 4]}
        values |= {"$@a[:-1]": [1, 2], "$True": True, "${'a': @b}": {"a": {"c": 4}}}
        assert ConfigParser(config).get_parsed_content("x") == values[text]


def test_no_reference_changes_which_words_an_expression_has():
    """A reference within a text would end the text, in what MONAI evaluates: so those are refused."""
    text = "$'@a'"
    seen = ReferenceResolver.update_refs_pattern(text, {"a": 0})
    with pytest.raises(SyntaxError):
        compile(seen.removeprefix("$"), "", "eval")
    assert computes_only(text)


# ---- configs -------------------------------------------------------------------------------------------------------

BAD_CONFIGS = {
    "target": {"a": {"_target_": "os.system"}},
    "nested target": {"a": [{"b": {"c": [{"_target_": "subprocess.Popen"}]}}]},
    "target in an argument": {"a": {"_target_": "Compose", "transforms": [{"_target_": "builtins.exec"}]}},
    "target from afar": {"a#b#_target_": "os.system"},
    "target from afar, other sign": {"a::_target_": "os.system"},
    "target merged in": {"+_target_": "os.system"},
    "target as expression": {"a": {"_target_": "$@b"}},
    "target as reference": {"a": {"_target_": "@b"}},
    "target as macro": {"a": {"_target_": "%b"}},
    "target as object": {"a": {"_target_": {"_target_": "os.system"}}},
    "target as list": {"a": {"_target_": ["os.system"]}},
    "target as nothing": {"a": {"_target_": None}},
    "target of torch": {"a": {"_target_": "torch.load", "f": "x"}},
    "target by its long name": {"a": {"_target_": "monai.utils.module.optional_import"}},
    "target with a space": {"a": {"_target_": "Compose "}},
    "our package's import": {"a": {"_target_": f"{PACKAGE}.files.os.system"}},
    "our package's module": {"a": {"_target_": f"{PACKAGE}.files"}},
    "our package's nothing": {"a": {"_target_": f"{PACKAGE}.nets.Other"}},
    "our package's dunder": {"a": {"_target_": f"{PACKAGE}.nets.__builtins__.eval"}},
    "another package": {"a": {"_target_": f"{PACKAGE}x.nets.SmallNet"}},
    "expression": {"a": "$__import__('os')"},
    "nested expression": {"a": [[{"b": "$open('x')"}]]},
    "expression in disabled": {"a": {"_target_": "Compose", "_disabled_": "$exit()"}},
    "expression in requires": {"a": {"_target_": "Compose", "_requires_": ["$exit()"]}},
    "macro": {"a": "%/etc/x.json#y"},
    "nested macro": {"a": [{"b": "%c"}]},
    "debugger": {"a": {"_target_": "Compose", "_mode_": "debug"}},
    "debugger by reference": {"a": {"_target_": "Compose", "_mode_": "@b"}, "b": "debug"},
    "debugger from afar": {"a#_mode_": "debug"},
    "breakpoint": {"a": {"_target_": "Compose", "_debug_": True}},
    "reader by name": {"a": {"_target_": "LoadImaged", "keys": "x", "reader": "subprocess.getoutput"}},
    "reader in a list": {"a": {"_target_": "LoadImaged", "keys": "x", "reader": ["PILReader", "os.system"]}},
    "reader by reference": {"a": {"_target_": "LoadImaged", "reader": "@b"}, "b": "os.system"},
    "reader from afar": {"a#reader": "os.system"},
    "reader as expression": {"a": {"_target_": "LoadImaged", "reader": "$'os.' + 'system'"}},
    "reader that is passed on": {"a": {"reader": {"_target_": "monai.utils.first", "iterable": ["os.system"]}}},
    "reader in a list that is passed on": {
        "a": {"reader": [{"_target_": "monai.utils.first", "iterable": ["os.system"]}]}
    },
    "reader by a listed name": {"a": {"reader": {"_target_": "Compose"}}},
    "reader of our package": {"a": {"reader": {"_target_": f"{PACKAGE}.bundle_folder"}}},
    "reader in a list of its own": {"a": {"reader": [{"_target_": "PILReader"}]}},
    "reader in another's place": {"a": {"reader": {"_target_": "PILReader"}}, "a#reader#_target_": "Compose"},
    "reader's part from afar": {"a#reader#0": "os.system"},
    "reader without a target": {"a": {"reader": {"iterable": ["os.system"]}}},
    "reader merged in": {"+a#reader": {"_target_": "PILReader"}},
    "a text passed on": {"a": {"_target_": "monai.utils.first", "iterable": ["os.system"]}},
    "two passed on": {"a": {"_target_": "monai.utils.first", "iterable": ["@b", "@c"]}, "b": 1, "c": 1},
    "passed on by reference": {"a": {"_target_": "monai.utils.first", "iterable": "@b"}, "b": ["os.system"]},
    "passed on by default": {"a": {"_target_": "monai.utils.first", "iterable": [], "default": "os.system"}},
    "passing on, handed on": {"a": {"_target_": "monai.utils.first", "_mode_": "callable"}},
    "a loader, handed on": {"a": {"_target_": "LoadImaged", "_mode_": "callable"}},
    "handed on from afar": {"a": {"_target_": "LoadImaged"}, "a#_mode_": "callable"},
    "another handed on": {"a": {"_target_": f"{PACKAGE}.bundle_folder"}, "+a": {"_target_": "LoadImaged"}},
    "arguments taken apart": {"a": {"_target_": "Compose", "transforms": [], "unpack_items": True}},
    "a compiler": {"a": {"_target_": "SupervisedEvaluator", "compile": True}},
    "a compiler's options": {"a#compile_kwargs": {"options": {"cpp.cxx": ["sh"]}}},
    "writer": {"a": {"writer": "os.system"}},
    "writer by a listed name": {"a": {"writer": {"_target_": "PILReader"}}},
    "pickles in arrays": {"a": {"_target_": "LoadImaged", "allow_pickle": True}},
    "name of torch": {"model_dtype": "load"},
    "no object": ["$1"],
}


@pytest.mark.parametrize("kind", BAD_CONFIGS)
def test_a_config_that_executes_anything_else_is_refused(kind):
    assert faults(BAD_CONFIGS[kind])


@pytest.mark.filterwarnings("ignore::UserWarning")  # MONAI's, of a reader that is none
def test_the_reader_that_monai_would_import_runs_code(tmp_path):
    """Why `reader` has a list: MONAI calls whatever it names. This is the attack, and that it is refused."""
    canary = tmp_path / "canary"
    loader = {"_target_": "LoadImaged", "keys": "i", "reader": "subprocess.getoutput", "cmd": f"touch {canary}"}
    config = {"x": loader}
    assert faults(config)
    ConfigParser(config).get_parsed_content("x")
    assert canary.exists()


@pytest.mark.filterwarnings("ignore::UserWarning")  # MONAI's, of a reader that is none
def test_a_reader_that_a_component_returns_runs_code_too(tmp_path):
    """A listed function that returns what it is given gave the loader the name of anything."""
    canary = tmp_path / "canary"
    reader = {"_target_": "monai.utils.first", "iterable": ["subprocess.getoutput"]}
    config = {"x": {"_target_": "LoadImaged", "keys": "i", "reader": reader, "cmd": f"touch {canary}"}}
    assert any("may return the name of anything" in fault for fault in faults(config))
    ConfigParser(config).get_parsed_content("x")
    assert canary.exists()


def test_a_loader_that_is_called_with_a_texts_parts_runs_code_too(tmp_path):
    """Handed on and called with parts of the data, a listed class takes its reader from there."""
    canary = tmp_path / "canary"
    loader = {"_target_": "LoadImaged", "_mode_": "callable"}
    compose = {"_target_": "Compose", "transforms": [loader], "unpack_items": True, "map_items": False}
    more = [None, None, "meta", False, True, False, False, None, ".", False, True]
    given = f"$('i', 'subprocess.getoutput', {str(more)[1:-1]}, @command)"
    config = {"x": {"_target_": "Dataset", "data": [given], "transform": compose}, "command": f"touch {canary}"}
    found = faults(config)
    assert any("handed on" in fault for fault in found) and any("unpack_items: this key" in fault for fault in found)
    with contextlib.suppress(Exception):  # of what is loaded; nothing depends on it
        ConfigParser(config).get_parsed_content("x")[0]
    assert canary.exists()


def test_a_packed_config_passes():
    assert faults(inference()) == []
    for value in (
        {"_target_": f"{PACKAGE}.bundle_folder", "_mode_": "callable"},
        {"_target_": "monai.utils.first", "iterable": ["@train#history"]},
        {"_target_": "LoadImaged", "keys": "i", "reader": {"_target_": f"{PACKAGE}.inference.RGBReader"}},
        {"_target_": "LoadImaged", "keys": "i", "reader": "PILReader"},
    ):
        config = {**inference(), "x": value}
        assert [fault for fault in faults(config) if "RGBReader" not in fault or "has no module" not in fault] == []


def test_metadata_may_execute_nothing_not_even_what_is_listed():
    for value in ("$1", "%x", {"_target_": "Compose"}):
        assert list(config_faults("configs/metadata.json", {"a": {"b": value}}, OWN))
    assert not list(config_faults("configs/metadata.json", {"a": "costs 5 $, 3 %"}, OWN))


def test_without_code_the_short_list_alone_counts():
    for config in ({"a": {"_target_": "RandFlipd"}}, {"a": "$1"}, {"a": {"_target_": f"{PACKAGE}.bundle_folder"}}):
        assert faults(config, None)
    config = _code_free_config()
    for key, value in (("checkpoint", "/elsewhere/model.ts"), ("bundle_root", "/elsewhere")):
        assert faults({**config, key: value}, None)
    assert faults({**config, "network_def": {**config["network_def"], "f": "/elsewhere/model.ts"}}, None)
    assert faults({**config, "x": {"_target_": "torch.jit.load", "_mode_": "callable"}}, None)


def test_the_manifest_has_to_list_all_that_a_config_executes_and_no_more():
    config = {"a": {"_target_": "Compose"}, "b": "$1"}
    assert not list(executes_faults("x", config, {"x": {"targets": ["Compose"], "expressions": ["$1"]}}))
    for told in ({}, {"x": {"targets": [], "expressions": ["$1"]}}, {"x": {"targets": ["Compose"], "expressions": []}}):
        assert any("does not list" in fault for fault in executes_faults("x", config, told))
    more = {"x": {"targets": ["Compose", "Dataset"], "expressions": ["$1"]}}
    assert any("does not have" in fault for fault in executes_faults("x", config, more))


# ---- logging.conf ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"args=(sys.stdout,)", b"args=(__import__('os').system('true'),)"),
        (b"args=(sys.stdout,)", b"args=('/somewhere/log.txt',)"),
        (b"class=StreamHandler", b"class=FileHandler"),
        (b"class=StreamHandler", b"class=handlers.SocketHandler"),
        (b"class=StreamHandler", b"class=eval"),
        (b"class=StreamHandler", b"class=StreamHandler\nkwargs={'x': exit()}"),
        (b"format=", b"class=os.system\nformat="),
        (b"format=", b"defaults={'x': exit()}\nformat="),
        (b"level=INFO", b"level=exit()"),
        (b"[loggers]", b"[DEFAULT]\nclass=eval\n[loggers]"),
        (b"[loggers]", b"[more]\nx=1\n[loggers]"),
        (b"[loggers]", b"[loggers]\nkeys=a\nkeys=b"),
        (b"[loggers]", b"\xff"),
        (b"[loggers]", b"loggers"),
        (LOGGING, b""),
        (b"%(message)s", b"%(message)s\r[handler_x]\rclass=FileHandler\rargs=('x',)"),  # lines to MONAI
        (b"%(message)s", b"%(message)s\x1b]0;title\x07"),
        (b"%(message)s", "%(message)s\u2028[x]".encode()),
        (b"handlers=consoleHandler", b"handlers=%(level)s"),
        (b"keys=root", b"keys=root,%(keys)s"),
        (b"[logger_root]", b"[logger_other]"),
    ],
)
def test_a_logging_file_that_does_more_than_write_to_the_console_is_refused(old, new):
    assert old in LOGGING
    assert list(logging_faults(LOGGING.replace(old, new, 1)))
    assert not list(logging_faults(LOGGING))
    assert not list(logging_faults(LOGGING.replace(b"sys.stdout", b"sys.stderr")))


def test_of_a_bundle_without_python_no_letter_may_differ():
    assert LOGGING == STANDARD and not list(logging_faults(STANDARD, code_free=True))
    for content in (b"", STANDARD[:-1], STANDARD.replace(b"INFO", b"DEBUG"), STANDARD.replace(b"\n", b"\r\n")):
        assert list(logging_faults(content, code_free=True))


@pytest.mark.parametrize("name", bundle_names(collection()))
def test_the_collections_own_are_that_one(name):
    assert (collection() / name / LOGGING_FILE).read_bytes() == STANDARD


def test_what_passes_here_passes_monais_own_check(tmp_path):
    (tmp_path / "logging.conf").write_bytes(LOGGING)
    assert workflows._reject_executable_logging_config(str(tmp_path / "logging.conf")) == LOGGING.decode()


# ---- the bundle's own Python ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bundle_folder", "nets.SmallNet", "nets.small.SmallNet", "files.names"])
def test_what_the_package_defines_is_found(name):
    assert OWN.target_fault(f"{PACKAGE}.{name}") is None


def test_names_that_a_package_imports_when_used_are_found_in_its_table():
    modules = {"law/__init__.py": "_HOMES = {'A': 'a', 'B': 'a', 'C': '__init__'}", "law/a.py": "class A: pass"}
    own = OwnPython("law", {path: parse_python(text.encode(), path) for path, text in modules.items()})
    assert own.target_fault("law.A") is None
    assert own.target_fault("law.B") and own.target_fault("law.C") and own.target_fault("law.D")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"# -*- coding: utf-7 -*-\n# +AAo-print(1)\n", "declares the encoding utf-7"),
        (b"\n# vim: set fileencoding=latin-1 :\nx = 1\n", "declares the encoding iso-8859-1"),
        (b"\xef\xbb\xbfx = 1\n", "declares the encoding utf-8-sig"),
        (b"\r# coding: utf-7\nx = 1\n", "carriage return"),  # the second line to Python, the first to some readers
        (b"# coding: nothing\nx = 1\n", "can not be read as Python in UTF-8: unknown encoding"),
    ],
)
def test_python_in_another_encoding_is_refused(content, told):
    with pytest.raises(Refused, match=told) as caught:
        parse_python(content, "law/a.py")
    assert str(caught.value).count("law/a.py") == 1
    assert parse_python("# coding: utf-8\nx = 'ä'\n".encode(), "law/a.py")


def test_a_circle_of_imports_ends():
    modules = {"law/__init__.py": "from .a import X", "law/a.py": "from . import X"}
    own = OwnPython("law", {path: parse_python(text.encode(), path) for path, text in modules.items()})
    assert own.target_fault("law.X")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("import os.path, abc", "os.path"),
        ("from subprocess import run", "subprocess"),
        ("import importlib", "importlib"),
        ("from pathlib import Path", "pathlib"),
        ("from torch import load", "torch.load"),
        ("from torch import hub", "torch.hub"),
        ("from torch.utils import cpp_extension", "torch.utils.cpp_extension"),
        ("from torch.utils.cpp_extension import load_inline", "torch.utils.cpp_extension"),
        ("eval('1')", "eval()"),
        ("open('x', 'w')", "open()"),
        ("path.open('w')", "path.open()"),
        ("torch.load('x')", "torch.load()"),
        ("np.memmap('x')", "np.memmap()"),
        ("torch.serialization.load('x')", "torch.serialization.load()"),
        ("torch.hub.load('x', 'y')", "torch.hub"),
        ("torch.utils.cpp_extension.load_inline('x', 'y')", "torch.utils.cpp_extension"),
        ("torch.os.system('x')", "torch.os"),
        ("monai.utils.module.sys.exit()", "monai.utils.module.sys"),
        ("getattr(torch, 'load')('x')", "getattr(…, 'load')"),
        ("getattr(torch, name)", "getattr()"),
        ("__builtins__['eval']('1')", "__builtins__"),
        ("().__class__", "….__class__"),
        ("f.__globals__", "f.__globals__"),
    ],
)
def test_what_python_reaches_for_is_told(line, told):
    assert told in reaches_for(parse_python(line.encode(), "x"))


def test_what_only_computes_is_not_told():
    tree = parse_python(
        b"import math, torch\nfrom torch import nn\nx = torch.relu(nn.Linear(1, 1).weight) + math.pi", "x"
    )
    assert reaches_for(tree) == [] and other_packages({"x": tree}) == {"torch"}


@pytest.mark.parametrize(
    "content",
    [b"def", b"\xff", b"x = " + b"(" * 5000, b"x = " + b"-" * 100_000 + b"1", b"\0", b"# coding: rot13\nk=\xe9"],
)
def test_python_that_can_not_be_read_is_refused(content):
    with pytest.raises(Refused):
        parse_python(content, "x.py")

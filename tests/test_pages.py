"""The commands and figures of the pages: what is written there can be typed, and is what the metadata says."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import re
import shlex
from pathlib import Path

import pytest

from common.command_line import command_line_faults
from tests.bundles.contract import REPOSITORY

PAGES = sorted([REPOSITORY / "README.md", *REPOSITORY.glob("docs/*.md"), *REPOSITORY.glob("*/docs/README.md")])
COMMENTS = re.compile(r"\s+#\s.*$", re.MULTILINE)  # a comment behind a command; --key#inner has none before its #


def commands_of(page: Path) -> list[list[str]]:
    """What a page has one type: the arguments of each ``python -m MODULE …``, the module first."""
    found = []
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    for block in [block for language, block in blocks if not language]:
        text = COMMENTS.sub("", re.sub(r"\\\n\s*", "", block))
        for line in text.splitlines():
            words = shlex.split(line) if " -m " in line else []
            while "-m" in words:  # torchrun has one of its own
                words = words[words.index("-m") + 1 :]
                if words[0].split(".")[0] in ("monai", "benchmarks", "common", "bundles"):
                    found.append(words)
                    break
    return found


COMMANDS = [
    pytest.param(page, words, id=f"{page.relative_to(REPOSITORY).parts[0]}: {' '.join(words)[:70]}")
    for page in PAGES
    for words in commands_of(page)
]


def test_commands_are_found() -> None:
    assert len(COMMANDS) > 60 and {words.values[1][0] for words in COMMANDS} >= {"monai.bundle", "common.data"}


class _Parsed(Exception):
    pass


@pytest.mark.parametrize(("page", "words"), COMMANDS)
def test_a_command_of_a_page_can_be_typed(page: Path, words: list[str], monkeypatch) -> None:
    """Each option exists; of a bundle's command each key, its value's kind, and each class that it names."""
    module, *arguments = words
    monkeypatch.chdir(page.parents[1] if page.parent.name == "docs" and page.parents[1] != REPOSITORY else REPOSITORY)
    if module == "monai.bundle":
        assert command_line_faults(arguments) == []
    elif module.startswith("benchmarks."):
        _parse(module, arguments, monkeypatch)
    else:
        named_module = importlib.import_module(module)
        commands = importlib.import_module(f"{module}.__main__") if hasattr(named_module, "__path__") else named_module
        named = {name for _, each in inspect.getmembers(commands, inspect.isfunction) for name in _options(each)}
        given = {word[2:].partition("=")[0] for word in arguments if word.startswith("--")}
        assert given <= named, given - named


def _options(function) -> set[str]:
    return set(inspect.signature(function).parameters)


def _parse(module: str, arguments: list[str], monkeypatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parsed(self: argparse.ArgumentParser, given: list[str] | None = None) -> None:
        parse(self, given)
        raise _Parsed

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    with pytest.raises(_Parsed):
        importlib.import_module(module).main(arguments)


@pytest.mark.parametrize("name", ["order_polyps", "order_brisc"])
def test_the_figures_of_a_page_are_those_of_the_metadata(name: str) -> None:
    bundle = REPOSITORY / name
    measured = json.loads((bundle / "configs" / "metadata.json").read_text())["eval_metrics"]
    section = re.search(r"## Performance\n(.*?)\n## ", (bundle / "docs" / "README.md").read_text(), re.DOTALL)[1]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    told = [float(number) for line in rows for number in re.findall(r"\b\d\d\.\d\d?\b", line)]
    assert measured and all(min(abs(100 * value - each) for each in told) <= 0.051 for value in measured.values())


@pytest.mark.parametrize("name", ["law_polyps", "law_brisc"])
def test_the_recovery_on_a_page_is_that_of_the_metadata(name: str) -> None:
    bundle = REPOSITORY / name
    measured = json.loads((bundle / "configs" / "metadata.json").read_text())["eval_metrics"]
    row = re.search(r"^\| \d+ test.*$", (bundle / "docs" / "README.md").read_text(), re.MULTILINE)[0]
    told = [float(number) for number in re.findall(r"\| (\d\d\.\d) \[", row)[:2]]
    assert [100 * measured["mask_recovery_dice"], 100 * measured["mask_recovery_iou"]] == pytest.approx(told, abs=1e-6)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_what_a_page_links_to_is_there(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_what_cannot_be_typed_would_be_found(monkeypatch, capsys) -> None:
    monkeypatch.chdir(REPOSITORY / "order_polyps")
    assert command_line_faults(["run", "--config_file", "configs/train.yaml", "--datasetdir", "DIR"])
    with pytest.raises(SystemExit):
        _parse("benchmarks.order_tables", ["--table", "7", "--dataset_dir", "DIR", "--rows", "order"], monkeypatch)
    assert "--out" in capsys.readouterr().err

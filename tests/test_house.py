"""Rules of the house that no linter knows: pins, relative imports, short files, nothing of one machine."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from common.command_line import _parsed, command_line_faults
from common.law.checks import LAW_RULES, PAINTING_RULES
from common.settings import RULES, setting_faults

REPOSITORY = Path(__file__).parents[1]
LONGEST_FILE, LONGEST_FUNCTION = 450, 75  # lines, the function's without its docstring
PACKAGES = ("common", "benchmarks", "bundles")
# torch's own CUDA wheels: machines without such a card get none, so they are not pinned here but by torch.
OF_THE_MACHINE = re.compile(r"^(nvidia|cuda)-|^triton$")

# Written so that neither pattern matches this file.
OWN_FOLDER = re.compile(r"(?<![\w.:/~})>*-])/(?:work|home|root|Users|tmp|mnt|scratch)/|\b[A-Z]:\\Users\b")
REGISTRY = re.compile(r"\b(?:pypi\.org|pythonhosted\.org|download\.pytorch\.org|anaconda\.org|npmjs\.org)\b")


def bundle_commands() -> list[list[str]]:
    """What the Makefile runs by ``$(BUNDLE)``, each as the arguments behind ``python -m monai.bundle``."""
    text = (REPOSITORY / "Makefile").read_text().replace("\\\n", " ")
    names = dict(re.findall(r"^(\w+) := (\S+)$", text, re.MULTILINE))
    lines = [line for line in text.splitlines() if line.lstrip().startswith("@$(BUNDLE) ")]
    filled = [re.sub(r"\$\((\w+)\)", lambda name: names.get(name[1], name[0]), line) for line in lines]
    return [["run", *shlex.split(line)[1:]] for line in filled]


@pytest.mark.parametrize("arguments", bundle_commands(), ids=lambda each: " ".join(each)[:60])
def test_the_makefile_gives_what_the_configs_take(arguments, monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert command_line_faults(arguments) == []
    given = dict(_parsed(arguments)[1])
    files = given["config_file"]
    rules = RULES if "order_" in str(files) else PAINTING_RULES if "inference" in str(files) else LAW_RULES
    assert setting_faults({key: value for key, value in given.items() if key in rules}, rules) == []


def pin_of(line: str) -> tuple[str, str] | None:
    """Name and version of a constraints line ``name==version``; None where it is anything else."""
    try:
        requirement = Requirement(line)
    except ValueError:
        return None
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==" or "*" in specifiers[0].version:
        return None
    return canonicalize_name(requirement.name), specifiers[0].version


def constraint_lines(repository: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in (repository / "constraints.txt").read_text().splitlines())
    return [line for line in lines if line]


def needed_names(requirements: list[str], seen: set[str]) -> set[str]:
    """Canonical names of everything that `requirements` bring on this machine, through all that is installed."""
    for text in requirements:
        requirement = Requirement(text)
        name = canonicalize_name(requirement.name)
        if name in seen or (requirement.marker and not requirement.marker.evaluate({"extra": ""})):
            continue
        seen.add(name)
        try:
            below = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue  # not installed here: what it needs is unknown, but it must be pinned itself
        needed_names(below, seen)
    return seen


def import_faults(source: str, depth: int) -> list[str]:
    """Imports that would break in a copy of `common` under another name.

    Args:
        source: text of a module of `common`.
        depth: how many folders below the parent of `common` it lies: 1 for common/x.py, 2 for common/data/x.py.
    """
    faults = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level == 0:
                names = [node.module or ""]
            elif node.level > depth:
                faults.append(f"line {node.lineno}: climbs out of common")
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if function in {"import_module", "__import__", "optional_import"}:
                names = [str(node.args[0].value)]
        inside = [name for name in names if name.split(".")[0] in (*PACKAGES, "tests")]
        faults += [f"line {node.lineno}: imports {name} by its name" for name in inside]
    return faults


def tracked_texts(repository: Path) -> dict[str, str]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=repository, capture_output=True, text=True)
    if listing.returncode:
        pytest.skip("not a git checkout")
    texts = {}
    for name in filter(None, listing.stdout.split("\0")):
        path = repository / name
        content = path.read_bytes() if path.is_file() else b""
        if b"\0" not in content:
            texts[name] = content.decode("utf-8", errors="replace")
    return texts


@pytest.mark.parametrize("line", ["torch", "torch>=2", "torch==2.*", "torch==2.13.0,!=2.1", "-e ."])
def test_anything_but_an_exact_version_is_no_pin(line: str) -> None:
    assert pin_of(line) is None


def test_constraints_pin_exactly_and_once(repository: Path) -> None:
    lines = constraint_lines(repository)
    assert [line for line in lines if pin_of(line) is None] == []
    names = [pin_of(line)[0] for line in lines]
    assert sorted(names) == sorted(set(names))
    assert [name for name in names if OF_THE_MACHINE.search(name)] == []
    assert [line for line in lines if "+" in line] == []  # a local version is one machine's build


def test_constraints_cover_everything_and_keep_the_ranges(repository: Path) -> None:
    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    direct = [*project["dependencies"], *(text for texts in extras.values() for text in texts)]
    direct = [text for text in direct if not text.startswith(project["name"])]
    pins = dict(pin_of(line) for line in constraint_lines(repository))

    needed = {name for name in needed_names(direct, set()) if not OF_THE_MACHINE.search(name)}
    assert sorted(needed - set(pins)) == []
    ranges = map(Requirement, direct)
    assert [str(one) for one in ranges if pins[canonicalize_name(one.name)] not in one.specifier] == []


@pytest.mark.parametrize(
    ("source", "depth", "faults"),
    [
        ("from .errors import InputError", 1, 0),
        ("from ..errors import InputError", 2, 0),
        ("import commonplace, torch", 1, 0),
        ("from ..errors import InputError", 1, 1),
        ("import common.errors", 1, 1),
        ("from common import errors", 2, 1),
        ("def f():\n    from common.order import OrderNet", 1, 1),
        ("import_module('common.order')", 1, 1),
        ("from benchmarks import cost", 1, 1),
    ],
)
def test_import_faults_are_found(source: str, depth: int, faults: int) -> None:
    assert len(import_faults(source, depth)) == faults


def test_common_imports_itself_only_relatively(repository: Path) -> None:
    modules = sorted((repository / "common").rglob("*.py"))
    assert modules
    faults = {}
    for path in modules:
        name = path.relative_to(repository)
        if found := import_faults(path.read_text(), depth=len(name.parts) - 1):
            faults[str(name)] = found
    assert faults == {}


def test_no_file_is_too_long_to_read(repository: Path) -> None:
    lengths = {
        str(path.relative_to(repository)): len(path.read_text().splitlines())
        for package in PACKAGES
        for path in (repository / package).rglob("*.py")
    }
    assert {name: length for name, length in lengths.items() if length > LONGEST_FILE} == {}


def _length(function: ast.FunctionDef) -> int:
    described = ast.get_docstring(function, clean=False)
    return function.end_lineno - function.lineno + 1 - (len(described.splitlines()) if described else 0)


def test_functions_fit_a_screen(repository):
    long = {
        f"{path.relative_to(repository)}: {each.name}": _length(each)
        for package in (*PACKAGES, "tests")
        for path in (repository / package).rglob("*.py")
        for each in ast.walk(ast.parse(path.read_text()))
        if isinstance(each, ast.FunctionDef) and _length(each) > LONGEST_FUNCTION
    }
    assert long == {}


@pytest.mark.parametrize("kind", ["train", "prior", "recipe_*", "evaluate*", "sd15", "ablation*"])
def test_a_config_says_which_row_of_the_paper_it_is(repository, kind):
    """Or that it is none; in the comment at its head."""
    for path in sorted(repository.glob(f"*_*/configs/{kind}.yaml")):
        head = "".join(itertools.takewhile(lambda line: line.startswith("#"), path.open()))
        assert re.search(r"\b(no row|tables? \d+|section \d+)\b", head, re.IGNORECASE), path


@pytest.mark.parametrize(
    ("pattern", "text", "found"),
    [
        (OWN_FOLDER, "open('/" + "home/me/x.png')", True),
        (OWN_FOLDER, "--dataset_dir /" + "tmp/polyps", True),
        (OWN_FOLDER, "runs/" + "work/x and https://example.org/" + "home/x and ~/" + "work/x", False),
        (REGISTRY, "https://" + "pypi" + ".org/simple", True),
        (REGISTRY, "pip install -c constraints.txt", False),
    ],
)
def test_what_belongs_to_one_machine_is_found(pattern: re.Pattern[str], text: str, found: bool) -> None:
    assert bool(pattern.search(text)) is found


def test_tracked_texts_name_no_machine(repository: Path) -> None:
    texts = tracked_texts(repository)
    faults = [
        f"{name}:{number}: {line.strip()[:100]}"
        for name, text in texts.items()
        for number, line in enumerate(text.splitlines(), start=1)
        if OWN_FOLDER.search(line) or REGISTRY.search(line)
    ]
    assert faults == []

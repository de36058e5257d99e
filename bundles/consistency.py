"""Whether a packed bundle is what its manifest says: files, names, versions, licence, metadata."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata as installed
from itertools import islice
from pathlib import Path
from typing import Any

import jsonschema

from .allowed import CODE_FREE_PACKAGES, PACKAGES
from .config_checks import METADATA
from .manifest import CODE_FREE, FULL, NAME, first_paragraph, packages_of
from .opening import Contents, sha256
from .report import ERROR, NOTE, WARNING, Finding

_MOST_ERRORS = 20  # of a schema
REQUIREMENTS, DATA_LICENCE = "requirements.txt", "docs/data_license.txt"
REQUIREMENTS_HEAD = "# What this bundle was tested with: pip install -r requirements.txt"
_ALWAYS_NEEDED = frozenset({"monai", "numpy", "torch"})
_ALWAYS = ("LICENSE", REQUIREMENTS, METADATA, "docs/README.md", DATA_LICENCE)
_NEEDED = {FULL: ("models/model.pt",), CODE_FREE: ("models/model.ts", "configs/inference.json")}
# Where which kinds of files may lie. What is here has a check of its own, or is text that nothing executes.
_COMMON_PLACES = r"LICENSE|MANIFEST\.json|requirements\.txt|configs/logging\.conf|docs/\w+\.(md|txt)"
_PLACES = {
    FULL: _COMMON_PLACES + r"|configs/\w+\.json|models/([\w-]+/){0,3}[\w.-]+\.(pt|safetensors|json)",
    CODE_FREE: _COMMON_PLACES + r"|configs/(inference|metadata)\.json|models/model\.(ts|onnx)",
}
_PACKAGE_PLACES = r"(\w+/)*(\w+\.py|[\w.]+\.(csv|txt|json|j2))"
_COMPILED = (".pyc", ".pyo")
_CODE = (".py", ".pyc", ".pyo", ".pyd", ".so", ".dll", ".dylib", ".pth", ".exe", ".sh", ".bat", ".whl", ".egg", ".zip")
_PIN = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([0-9][A-Za-z0-9.!+_-]*)")
_FILE_NAME = re.compile(r"([a-z][a-z0-9_]*)_v([0-9][0-9a-z.+-]*)\.zip")


def manifest_faults(manifest: Any) -> list[str]:
    """Where a parsed manifest is not of the form that `bundles.manifest` writes."""
    return _schema_faults(manifest, "manifest_schema.json", NAME)


def metadata_faults(metadata: Any) -> list[str]:
    """Where parsed metadata breaks MONAI's schema, of which a copy is at hand; nothing is fetched."""
    return _schema_faults(metadata, "meta_schema_20240725.json", METADATA)


@cache
def _validator(file: str) -> Any:
    schema = json.loads(Path(__file__).with_name(file).read_text(encoding="utf-8"))
    return jsonschema.validators.validator_for(schema)(schema)


def _schema_faults(content: Any, file: str, name: str) -> list[str]:
    errors = list(islice(_validator(file).iter_errors(content), _MOST_ERRORS))
    return [f"{name}, {'#'.join(map(str, each.absolute_path)) or 'top'}: {each.message[:300]}" for each in errors]


def file_findings(contents: Contents, manifest: Mapping[str, Any], is_zip: bool) -> Iterator[Finding]:
    """Every file against the manifest: changed, removed, added; and one that was renamed as that."""
    told, found = manifest["files"], {path: each for path, each in contents.files.items() if path != NAME}
    missing = {path for path in told if path not in found}
    digests = {path: sha256(content) for path, content in found.items()}
    twins = {told[path]["sha256"]: path for path in sorted(missing, reverse=True)}
    for path in sorted(set(found) - set(told)):
        if twin := twins.pop(digests[path], None):
            missing.discard(twin)
            yield Finding(ERROR, f"{twin} was renamed to {path}: the manifest has its content under the first name")
        elif not path.endswith(_COMPILED):
            yield Finding(ERROR, f"{path} is not in the manifest: it was added")
    if compiled := sorted(path for path in set(found) - set(told) if path.endswith(_COMPILED)):
        yield Finding(
            ERROR, f"{compiled[0]} is not in the manifest; Python runs it in place of the source ({len(compiled)} such"
            " files): remove each __pycache__, and set PYTHONDONTWRITEBYTECODE=1 where the bundle runs"
        )  # fmt: skip
    for path in sorted(missing):
        yield Finding(ERROR, f"{path} is in the manifest, and not there: it was removed")
    for path in sorted(set(found) & set(told)):
        if len(found[path]) != told[path]["size"] or digests[path] != told[path]["sha256"]:
            yield Finding(ERROR, f"{path} was changed: its content is not the one that the manifest has the hash of")
    for folder in contents.folders:
        yield Finding(WARNING, f"{folder}/ is an empty folder, of which the manifest knows nothing")
    if not is_zip:
        yield Finding(
            NOTE, "a folder was verified: it may change after this; the hash of its zip is what can be proved"
        )


def place_findings(contents: Contents, manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Each file against where which kind may lie, and what may not be missing."""
    kind, package = manifest["kind"], manifest["package"]
    if (kind == FULL) != (package is not None):
        yield Finding(ERROR, f"{NAME}: a bundle of kind {kind!r} with the package {package!r}")
    pattern = _PLACES[kind] + (rf"|{package}/{_PACKAGE_PLACES}" if kind == FULL else "")
    for path in contents.files:
        if re.fullmatch(pattern, path, re.ASCII):
            continue
        if path.endswith(_COMPILED) and path not in manifest["files"]:
            continue  # `file_findings` tells all of these in one line
        is_code = path.endswith(_CODE)
        what = f"code in a bundle of kind {kind!r}, where there may be none" if is_code else "of no kind that is known"
        yield Finding(ERROR, f"{path} is {what} at this place; nobody has looked into it")
    needed = [*_ALWAYS, *_NEEDED[kind], *([f"{package}/__init__.py"] if kind == FULL else [])]
    for path in needed:
        if path not in contents.files:
            yield Finding(ERROR, f"{path} is missing")
    python = sorted(path for path in contents.files if path.endswith(".py"))
    if python != manifest["python"]:
        different = sorted(set(python) ^ set(manifest["python"]))
        shown = different[0] if different else "order"
        yield Finding(ERROR, f"{NAME}, python: it is not the list of the bundle's Python files ({shown})")


def name_findings(
    contents: Contents, manifest: Mapping[str, Any], metadata: Mapping[str, Any] | None, file: str | None
) -> Iterator[Finding]:
    """Name and version, as folder, file, metadata and manifest say.

    Args:
        metadata: parsed; None where it could not be.
        file: name of the zip; None of a folder.
    """
    name, version = manifest["name"], manifest["version"]
    if contents.top != name:
        yield Finding(ERROR, f"the folder is called {contents.top!r}, and {NAME} says {name!r}")
    if file is not None and file != f"{name}_v{version}.zip":
        told = _FILE_NAME.fullmatch(file)
        level = ERROR if told else WARNING
        yield Finding(
            level, f"the file is called {file!r}, and holds {name} {version}: {name}_v{version}.zip by rights"
        )
    if metadata is None:
        return
    if metadata.get("version") != version:
        yield Finding(ERROR, f"{METADATA} says version {metadata.get('version')!r}, and {NAME} {version!r}")
    if version not in metadata.get("changelog", {}):
        yield Finding(ERROR, f"{METADATA}: the changelog does not have version {version}")


def requirement_findings(
    contents: Contents, manifest: Mapping[str, Any], metadata: Mapping[str, Any] | None
) -> Iterator[Finding]:
    """What the bundle needs, as manifest, metadata and requirements.txt say, and licence of its data."""
    packages = {_canonical(name): version for name, version in manifest["requires"]["packages"].items()}
    pinned: dict[str, str] = {}
    yield from _package_findings(manifest, metadata)
    # Line for line what the packer writes: pip reads declared encodings, continued lines and variables, too.
    lines = _text(contents, REQUIREMENTS).split("\n")
    for number, line in enumerate(lines, start=1):
        if (number == 1 and line == REQUIREMENTS_HEAD) or (number == len(lines) and not line):
            continue
        if not (match := _PIN.fullmatch(line)):
            yield Finding(ERROR, f"{REQUIREMENTS}, line {number}: {line[:100]!r} is no exact pin (name==version)")
        elif _canonical(match[1]) in pinned:
            yield Finding(ERROR, f"{REQUIREMENTS}, line {number}: {match[1]} is there twice")
        else:
            pinned[_canonical(match[1])] = match[2]
    for name in sorted(pinned.keys() | packages.keys()):
        if pinned.get(name) != packages.get(name):
            told = f"{pinned.get(name, 'no')} {name}, and {NAME} {packages.get(name, 'none')}"
            yield Finding(ERROR, f"{REQUIREMENTS} asks for {told}")
    if metadata is not None:
        wanted = {_canonical(name): version for name, version in packages_of(metadata).items()}
        for name in sorted(wanted.keys() | packages.keys()):
            if wanted.get(name) != packages.get(name):
                told = f"{wanted.get(name, 'no')} {name}, and {NAME} {packages.get(name, 'none')}"
                yield Finding(ERROR, f"{METADATA} says {told}")
    if manifest["licence"]["data"] != first_paragraph(_text(contents, DATA_LICENCE)):
        yield Finding(ERROR, f"{NAME}, licence#data: it is not the first paragraph of {DATA_LICENCE}")


def _package_findings(manifest: Mapping[str, Any], metadata: Mapping[str, Any] | None) -> Iterator[Finding]:
    names = {_canonical(name) for name in manifest["requires"]["packages"]}
    known = PACKAGES if manifest["kind"] == FULL else CODE_FREE_PACKAGES
    needed = _ALWAYS_NEEDED if manifest["kind"] == FULL else CODE_FREE_PACKAGES
    optional = (metadata or {}).get("optional_packages_version", {})
    for name in sorted((names | {_canonical(name) for name in optional}) - known):
        yield Finding(ERROR, f"it asks for the package {name}, which no bundle of kind {manifest['kind']!r} needs")
    for name in sorted(needed - names):
        yield Finding(ERROR, f"{NAME}, requires: the package {name} is missing")


def installed_findings(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """Versions against what is installed here. Warnings: where a bundle is verified need not be where it runs."""
    least = tuple(map(int, manifest["requires"]["python"].removeprefix(">=").split(".")))
    if sys.version_info[:2] < least:
        told = manifest["requires"]["python"]
        yield Finding(WARNING, f"it needs Python {told}; here is {sys.version_info[0]}.{sys.version_info[1]}")
    for name, version in manifest["requires"]["packages"].items():
        try:
            here = installed.version(name).partition("+")[0]
        except installed.PackageNotFoundError:
            yield Finding(WARNING, f"it needs {name} {version}, which is not installed here")
            continue
        if here != version:
            grave = " (another major version: expect it to fail)" if here.split(".")[0] != version.split(".")[0] else ""
            yield Finding(WARNING, f"it was tested with {name} {version}; here is {here}{grave}")


def source_findings(manifest: Mapping[str, Any]) -> Iterator[Finding]:
    """The commit that it was packed from, by its own word."""
    commit, modified = manifest["source"]["commit"], manifest["source"]["modified"]
    if commit is None:
        yield Finding(WARNING, "it does not say which commit it was packed from")
    elif modified is None:
        yield Finding(WARNING, f"it was packed from a copy of commit {commit} that may have been changed since")
    elif modified:
        yield Finding(WARNING, f"it was packed from commit {commit} with changes that are not in it")
    else:
        yield Finding(NOTE, f"by its own word packed from commit {commit}")


def _text(contents: Contents, path: str) -> str:
    return contents.files.get(path, b"").decode("utf-8", "replace")


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()

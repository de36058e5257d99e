"""`verify`: whether a packed bundle is what it says, and whether it says all that it can execute.

Nothing of the bundle is imported, unpickled, evaluated or unpacked to disk. Every fault is a finding of the report,
also what is hostile: too deep, too large, cut off.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from .archives import Refused
from .config_checks import METADATA, code_free_faults, config_faults, executes_faults
from .consistency import (
    file_findings,
    installed_findings,
    manifest_faults,
    metadata_faults,
    name_findings,
    place_findings,
    requirement_findings,
    source_findings,
)
from .executables import executable_texts
from .logging_checks import LOGGING, logging_faults
from .manifest import FULL, NAME, json_bytes
from .model_info import read_model_info
from .naming import package_fault
from .opening import Contents, open_folder, open_zip, read_limited
from .opening import sha256 as sha256_of
from .own_python import LARGEST, OwnPython, other_packages, parse_python, reaches_for
from .report import CATALOGUE, ERROR, NOTE, SIGNATURE, WARNING, Finding, Report
from .strict_json import parse_json
from .weights import check_weights

_TEXTS = (".md", ".txt", ".csv", ".j2", "LICENSE", ".conf")
# What `common.label` leaves. Of the folder of a retraining nothing is ever read: the next one empties it first.
_RETRAINED = re.compile(r"models/(?:retrained\.(?:pt|trained_on\.json)|retraining/.+)")
UNEXPECTED = "could not be checked"
_MOST_FINDINGS = 500  # of one check
# Bytes and files: many times what ours have, and few enough that what they are parsed to can not fill a memory.
_LARGEST_MANIFEST, _LARGEST_CONFIGS, _LARGEST_JSON, _MOST_WEIGHTS = 1 << 20, 1 << 20, 16 << 20, 64


def verify(
    path: str | Path,
    *,
    sha256: str | None = None,
    model_info: str | Path | None = None,
    signature: str | Path | None = None,
    public_key: str | Path | None = None,
) -> Report:
    """Verify a packed bundle, a zip or an unpacked folder.

    Args:
        path: of the zip or the folder.
        sha256: of the zip, in hexadecimal, from a catalogue that you trust.
        model_info: a catalogue's ``model_info.json``, looked up by the zip's name.
        signature: a file by `bundles.signing.sign`; beside the zip as ``<zip>.sig`` where only `public_key` is given.
        public_key: PEM file of the key that has to have signed it.

    Returns:
        The report; ``report.ok`` is whether to trust that it is what it says, ``report.origin`` what proves where it
        comes from. Never raises for what is in the bundle, nor for a wrong path.
    """
    return examine(path, sha256=sha256, model_info=model_info, signature=signature, public_key=public_key)[0]


def examine(
    path: str | Path,
    *,
    sha256: str | None = None,
    model_info: str | Path | None = None,
    signature: str | Path | None = None,
    public_key: str | Path | None = None,
    retrained: bool = False,
) -> tuple[Report, Contents | None]:
    """As `verify`, with the contents that were verified; None where they could not be read.

    Args:
        retrained: of a folder, whether it may hold what a retraining in MONAI Label leaves (`common.label`); its
            weights are looked into, and it is no part of the contents.
    """
    path = Path(path)
    proofs = {"--sha256": sha256, "--model_info": model_info, "--signature": signature, "--public_key": public_key}
    if path.is_dir():
        report = Report(str(path))
        if given := [option for option, value in proofs.items() if value is not None]:
            return _refused(report, f"{given[0]} is of a zip; {path} is a folder, of which no such proof exists"), None
        return _examined(report, lambda: _set_apart(open_folder(path)) if retrained else open_folder(path), None)
    try:
        data = read_limited(path)
    except Refused as error:
        return _refused(Report(str(path)), str(error)), None
    return examine_bytes(data, path, **{option.removeprefix("--"): value for option, value in proofs.items()})


def examine_bytes(
    data: bytes,
    path: Path,
    *,
    sha256: str | None = None,
    model_info: str | Path | None = None,
    signature: str | Path | None = None,
    public_key: str | Path | None = None,
) -> tuple[Report, Contents | None]:
    """As `examine`, of a zip that has been read; `path` gives its name."""
    report = Report(str(path), sha256=sha256_of(data))
    try:
        wanted = _wanted(path, sha256, model_info)
        for source, digest in wanted.items():
            if not hmac.compare_digest(digest, report.sha256):
                # Before a byte is parsed: whatever it is, it is not what the catalogue has.
                return _refused(report, f"its SHA-256 is {report.sha256}, and {source} says {digest}"), None
        if wanted:
            report = replace(report, origin=CATALOGUE)
        if signature is not None or public_key is not None:
            _check_signature(data, path, signature, public_key)
            report = replace(report, origin=report.origin or SIGNATURE)
    except Refused as error:
        return _refused(replace(report, origin=None), str(error)), None
    return _examined(report, lambda: open_zip(data), path.name)


def _set_apart(contents: Contents) -> Contents:
    left = {path for path in contents.files if _RETRAINED.fullmatch(path)}
    for path in left:
        if "/retraining/" not in path:
            check_weights(path, contents.files[path])
    return replace(contents, files={path: each for path, each in contents.files.items() if path not in left})


# ---- where it comes from -----------------------------------------------------------------------------------------


def _wanted(path: Path, digest: str | None, model_info: str | Path | None) -> dict[str, str]:
    # The hashes that it has to have, by who says so.
    wanted = {}
    if digest is not None:
        wanted["--sha256"] = digest.strip().lower()
    if model_info is not None:
        entry = read_model_info(Path(model_info)).get(path.name.removesuffix(".zip"), {})
        if not isinstance(entry.get("sha256"), str):
            raise Refused(f"{model_info} has no sha256 of {path.name.removesuffix('.zip')!r}; was the zip renamed?")
        wanted[str(model_info)] = entry["sha256"].lower()
    for source, each in wanted.items():
        if not re.fullmatch("[0-9a-f]{64}", each):
            raise Refused(f"{source} gives {each[:80]!r}, which is no SHA-256 (64 hexadecimal digits)")
    return wanted


def _check_signature(data: bytes, path: Path, signature: str | Path | None, public_key: str | Path | None) -> None:
    from .signing import check_signature

    if public_key is None:
        raise Refused("--signature needs --public_key, the key that has to have signed it")
    check_signature(data, path.name, signature or path.with_name(f"{path.name}.sig"), public_key)


# ---- what it holds -------------------------------------------------------------------------------------------------


@dataclass
class _Bundle:
    # What the checks share.
    contents: Contents
    manifest: Mapping[str, Any]
    file: str | None
    configs: dict[str, Any] = field(default_factory=dict)
    own: OwnPython | None = None


def _refused(report: Report, text: str) -> Report:
    return replace(report, findings=(*report.findings, Finding(ERROR, text)))


def _examined(report: Report, opened: Callable[[], Contents], file: str | None) -> tuple[Report, Contents | None]:
    try:
        contents = opened()
        manifest = _manifest(contents)
    except Refused as error:
        return _refused(report, str(error)), None
    except Exception as error:
        return _refused(report, _unexpected("the bundle", error)), None
    bundle = _Bundle(contents, manifest, file)
    report = replace(report, name=manifest["name"], version=manifest["version"], kind=manifest["kind"])
    findings = list(report.findings)
    for check in _CHECKS:
        findings += _collected(check, bundle)
    parts = [executable_texts(config) for name, config in bundle.configs.items() if name != METADATA]
    return replace(
        report,
        findings=tuple(findings),
        python=tuple(sorted(path for path in contents.files if path.endswith(".py"))),
        targets=tuple(sorted({text for part in parts for text in part["targets"]})),
        expressions=tuple(sorted({text for part in parts for text in part["expressions"]})),
    ), contents


def _collected(check: Callable[[_Bundle], Iterator[Finding]], bundle: _Bundle) -> list[Finding]:
    found: list[Finding] = []
    try:
        found += islice(check(bundle), _MOST_FINDINGS)
    except Refused as error:
        found.append(Finding(ERROR, str(error)))
    except Exception as error:  # what nobody has thought of refuses the bundle, too
        found.append(Finding(ERROR, _unexpected(check.__name__.strip("_"), error)))
    if len(found) >= _MOST_FINDINGS:
        found.append(
            Finding(ERROR, f"{check.__name__.strip('_')}: there is more than these {_MOST_FINDINGS} lines say")
        )
    return found


def _unexpected(what: str, error: Exception) -> str:
    return f"{what} {UNEXPECTED}: {type(error).__name__}: {str(error)[:200]}"


def _manifest(contents: Contents) -> Mapping[str, Any]:
    if NAME not in contents.files:
        raise Refused(f"it has no {NAME}: it is no packed bundle (`python -m bundles pack` makes them)")
    manifest = parse_json(contents.files[NAME], NAME, _LARGEST_MANIFEST)
    if faults := manifest_faults(manifest):
        raise Refused(faults[0])
    if json_bytes(manifest) != contents.files[NAME]:
        raise Refused(f"{NAME} was changed: it says what it says in another form than the packer's")
    return manifest


def _files(bundle: _Bundle) -> Iterator[Finding]:
    yield from file_findings(bundle.contents, bundle.manifest, bundle.file is not None)
    yield from place_findings(bundle.contents, bundle.manifest)


def _package(bundle: _Bundle) -> Iterator[Finding]:
    # Under another bundle's name its code would be taken for that one's, by people and by Python.
    manifest, files = bundle.manifest, {path: each for path, each in bundle.contents.files.items() if path != NAME}
    if manifest["package"] and (fault := package_fault(manifest["name"], manifest["package"], files)):
        yield Finding(ERROR, f"{NAME}: {fault}")


def _texts(bundle: _Bundle) -> Iterator[Finding]:
    for path, content in bundle.contents.files.items():
        if path.endswith(_TEXTS):
            try:
                content.decode("utf-8")
            except UnicodeDecodeError as error:
                yield Finding(ERROR, f"{path} is not UTF-8 (byte {error.start})")


def _python(bundle: _Bundle) -> Iterator[Finding]:
    # Before the configs: what they name of the package is looked up in it.
    modules = {}
    files = {path: content for path, content in bundle.contents.files.items() if path.endswith(".py")}
    if (size := sum(map(len, files.values()))) > LARGEST:
        yield Finding(ERROR, f"its Python has {size:,} bytes; at most {LARGEST:,} are read")
        files = {}
    for path, content in files.items():
        try:
            modules[path] = parse_python(content, path)
        except Refused as error:
            yield Finding(ERROR, str(error))
    if bundle.manifest["kind"] == FULL:
        bundle.own = OwnPython(bundle.manifest["package"] or "", modules)
    for path, tree in modules.items():
        if found := reaches_for(tree):
            yield Finding(NOTE, f"{path} uses {', '.join(found)}")
    if packages := sorted(other_packages(modules) - {bundle.manifest["package"]}):
        yield Finding(NOTE, f"its Python imports the packages {', '.join(packages)}")


def _configs(bundle: _Bundle) -> Iterator[Finding]:
    files = bundle.contents.files
    found = {path: each for path, each in files.items() if path.startswith("configs/") and path.endswith(".json")}
    if (size := sum(map(len, found.values()))) > _LARGEST_CONFIGS:
        raise Refused(f"its configs have {size:,} bytes; at most {_LARGEST_CONFIGS:,} are read")
    for path, content in found.items():
        try:
            bundle.configs[path] = parse_json(content, path)
        except Refused as error:
            yield Finding(ERROR, str(error))
    told = bundle.manifest["executes"]
    for path, config in bundle.configs.items():
        for fault in [*config_faults(path, config, bundle.own), *executes_faults(path, config, told)]:
            yield Finding(ERROR, fault)
        if bundle.own is None:
            yield from (Finding(ERROR, fault) for fault in code_free_faults(path, config, bundle.manifest["name"]))
    for path in sorted(set(told) - set(bundle.contents.files)):
        yield Finding(ERROR, f"{NAME}, executes: there is no {path}")
    if LOGGING in bundle.contents.files:
        for fault in logging_faults(bundle.contents.files[LOGGING], code_free=bundle.own is None):
            yield Finding(ERROR, fault)


def _described(bundle: _Bundle) -> Iterator[Finding]:
    metadata = bundle.configs.get(METADATA)
    if metadata is not None:
        faults = metadata_faults(metadata)
        yield from (Finding(ERROR, fault) for fault in faults)
        metadata = None if faults else metadata
    yield from name_findings(bundle.contents, bundle.manifest, metadata, bundle.file)
    yield from requirement_findings(bundle.contents, bundle.manifest, metadata)
    yield from installed_findings(bundle.manifest)
    yield from source_findings(bundle.manifest)


def _weights(bundle: _Bundle) -> Iterator[Finding]:
    found = {path: each for path, each in bundle.contents.files.items() if path.startswith("models/")}
    if len(found) > _MOST_WEIGHTS:
        raise Refused(f"models/ holds {len(found):,} files; at most {_MOST_WEIGHTS} are looked into")
    if (size := sum(len(each) for path, each in found.items() if path.endswith(".json"))) > _LARGEST_JSON:
        raise Refused(f"the JSON below models/ has {size:,} bytes; at most {_LARGEST_JSON:,} are read")
    for path, content in found.items():
        try:
            if unseen := check_weights(path, content):
                yield Finding(WARNING, unseen)
        except Refused as error:
            yield Finding(ERROR, str(error))


def _other_json(bundle: _Bundle) -> Iterator[Finding]:
    for path, content in bundle.contents.files.items():
        if path.endswith(".json") and not path.startswith(("configs/", "models/")) and path != NAME:
            try:
                parse_json(content, path, _LARGEST_MANIFEST)
            except Refused as error:
                yield Finding(ERROR, str(error))


_CHECKS = (_files, _package, _texts, _python, _configs, _described, _weights, _other_json)

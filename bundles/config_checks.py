"""What a packed bundle's configs can execute, held against the allow-lists and against its own manifest."""

from __future__ import annotations

import configparser
import re
from collections.abc import Iterator, Mapping
from typing import Any

from .allowed import (
    CODE_FREE_EXPRESSIONS,
    CODE_FREE_LITERALS,
    CODE_FREE_TARGETS,
    EXPRESSIONS,
    FORBIDDEN_KEYS,
    LITERALS,
    TAKES_COMPONENT,
    TARGETS,
)
from .code_free_config import config_fault
from .executables import TARGET, executables
from .expressions import expression_fault
from .own_python import OwnPython

METADATA, LOGGING = "configs/metadata.json", "configs/logging.conf"
_SEPARATOR = re.compile(r"#|::")


def config_faults(name: str, config: Any, own: OwnPython | None) -> Iterator[str]:
    """What of a config may not be executed, each with where it stands and why.

    Args:
        name: path of the config; the metadata, which MONAI parses with every config, may execute nothing.
        config: parsed.
        own: the bundle's Python; None where it has none, and the lists of code-free bundles hold.
    """
    if not isinstance(config, Mapping):
        yield f"{name} is no JSON object"
        return
    for part in executables(config):
        place = f"{name}, {part.path}: {part.kind if part.kind != 'target' else TARGET} {part.text[:200]!r}"
        if name == METADATA:
            yield f"{place}: metadata may execute nothing"
        elif part.kind == "macro":
            yield f"{place}: a macro puts in another file's content; none are allowed"
        elif part.kind == "expression":
            listed = EXPRESSIONS if own else CODE_FREE_EXPRESSIONS
            if fault := expression_fault(part.text, listed, computing=own is not None):
                yield f"{place}: {fault}"
        elif fault := _target_fault(part.text, own):
            yield f"{place}: {fault}"
    yield from _key_faults(name, config, "", LITERALS if own else CODE_FREE_LITERALS)


def code_free_faults(path: str, config: Any, name: str) -> Iterator[str]:
    """Where the config of a bundle without code is another than the one that all of them have."""
    if isinstance(config, Mapping) and path not in (METADATA,) and (fault := config_fault(config, name)):
        yield f"{path}: {fault}"


def _target_fault(target: str, own: OwnPython | None) -> str | None:
    if own is None:
        return None if target in CODE_FREE_TARGETS else "it is not on the list of names for bundles without code"
    if target in TARGETS:
        return None
    if target.split(".")[0] == own.package:
        return own.target_fault(target)
    return "it is not on the list of names"


def _key_faults(name: str, value: Any, path: str, literals: Mapping[str, frozenset[str]]) -> Iterator[str]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            place = f"{path}#{key}" if path else key
            last = _SEPARATOR.split(key.lstrip("+"))[-1]
            if last in FORBIDDEN_KEYS:
                yield f"{name}, {place}: this key is not allowed"
            elif last in literals and not _is_literal(last, inner, literals[last]):
                known = ", ".join(sorted(literals[last])) or "nothing"
                yield f"{name}, {place}: {str(inner)[:100]!r} may be looked up as a name; allowed: {known}"
            yield from _key_faults(name, inner, place, literals)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _key_faults(name, inner, f"{path}#{number}", literals)


def _is_literal(key: str, value: Any, known: frozenset[str]) -> bool:
    if key in TAKES_COMPONENT and isinstance(value, list):
        return all(_is_literal(key, each, known) for each in value)
    if key in TAKES_COMPONENT and isinstance(value, Mapping):
        return TARGET in value  # which is looked at by itself
    return value is None or (isinstance(value, str) and (value in known or value == f"@{key}"))


def executes_faults(name: str, config: Any, told: Mapping[str, Any]) -> Iterator[str]:
    """Where the manifest's ``executes`` says anything else than what a config can execute."""
    parts = list(executables(config))
    found = {
        "targets": {part.text for part in parts if part.kind == "target"},
        "expressions": {part.text for part in parts if part.kind != "target"},
    }
    for kind, texts in found.items():
        listed = set(told.get(name, {}).get(kind, []))
        for text in sorted(texts - listed):
            yield f"{name} can execute {text[:200]!r}, which the manifest does not list"
        for text in sorted(listed - texts):
            yield f"{name} does not have {text[:200]!r}, which the manifest lists"


# ---- logging.conf ----------------------------------------------------------------------------------------------

# `logging.config.fileConfig` gives classes, arguments and defaults to eval; what it may be told is listed here.
_LONGEST = 1 << 16
_SECTIONS = {
    "logger": {"level", "handlers", "qualname", "propagate"},
    "handler": {"class", "level", "formatter", "args"},
    "formatter": {"format", "datefmt", "style"},
}
_VALUES = {
    "class": {"StreamHandler"},
    "args": {"(sys.stdout,)", "(sys.stderr,)", "()"},
    "level": {"NOTSET", "DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"},
    "propagate": {"0", "1"},
    "style": {"%"},
}


def logging_faults(content: bytes) -> Iterator[str]:
    """What of ``logging.conf`` is anything but streams of the console, each as a line."""
    parser = configparser.RawConfigParser()
    if len(content) > _LONGEST:
        yield f"{LOGGING} has {len(content):,} bytes; at most {_LONGEST:,} are read"
        return
    try:
        parser.read_string(content.decode("utf-8"))
    except (configparser.Error, UnicodeDecodeError) as error:
        yield f"{LOGGING} can not be read: {str(error).splitlines()[0]}"
        return
    if parser.defaults():
        yield f"{LOGGING} has a section [DEFAULT], whose options would be every section's"
    for section in parser.sections():
        kind = section.partition("_")[0]
        if section in ("loggers", "handlers", "formatters"):
            known = {"keys"}
        elif "_" in section and kind in _SECTIONS:
            known = _SECTIONS[kind]
        else:
            yield f"{LOGGING} has a section [{section}]"
            continue
        for option, value in parser.items(section):
            if option not in known:
                yield f"{LOGGING}, [{section}]: the option {option!r} is not allowed"
            elif option in _VALUES and value not in _VALUES[option]:
                allowed = ", ".join(sorted(_VALUES[option]))
                yield f"{LOGGING}, [{section}]: {option} = {value[:100]!r} could run code; allowed: {allowed}"

"""What a packed bundle's configs can execute, held against the allow-lists and against its own manifest."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from .allowed import (
    CODE_FREE_EXPRESSIONS,
    CODE_FREE_LITERALS,
    CODE_FREE_TARGETS,
    COMPONENTS,
    EXPRESSIONS,
    FORBIDDEN_KEYS,
    LITERALS,
    OWN_COMPONENTS,
    PASSES_ON,
    TARGETS,
)
from .code_free_config import config_fault
from .executables import TARGET, executable_texts, executables
from .expressions import REFERENCE, expression_fault
from .own_python import OwnPython

METADATA = "configs/metadata.json"
MODE = "_mode_"
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
    yield from _Keys(own).faults(config, name)


def code_free_faults(path: str, config: Any, name: str) -> Iterator[str]:
    """Where the config of a bundle without code is another than the one that all of them have."""
    if isinstance(config, Mapping) and path != METADATA and (fault := config_fault(config, name)):
        yield f"{path}: {fault}"


def _target_fault(target: str, own: OwnPython | None) -> str | None:
    if own is None:
        return None if target in CODE_FREE_TARGETS else "it is not on the list of names for bundles without code"
    if target in TARGETS:
        return None
    if target.split(".")[0] == own.package:
        return own.target_fault(target)
    return "it is not on the list of names"


class _Keys:
    # What keys say that MONAI, torch or we look up as a name, or call.

    def __init__(self, own: OwnPython | None) -> None:
        self.package = own.package if own else None
        self.literals: Mapping[str, frozenset[str]] = LITERALS if own else CODE_FREE_LITERALS

    def faults(self, value: Any, name: str, path: str = "") -> Iterator[str]:
        if isinstance(value, Mapping):
            if fault := self._component_fault(value):
                yield f"{name}, {path or 'top'}: {fault}"
            for key, inner in value.items():
                place = f"{path}#{key}" if path else key
                if fault := self._fault(key, inner):
                    yield f"{name}, {place}: {fault}"
                yield from self.faults(inner, name, place)
        elif isinstance(value, list):
            for number, inner in enumerate(value):
                yield from self.faults(inner, name, f"{path}#{number}")

    def _fault(self, key: str, value: Any) -> str | None:
        *around, last = _SEPARATOR.split(key.lstrip("+"))
        if last in FORBIDDEN_KEYS:
            return "this key is not allowed"
        # An overlay could make another component of one that was looked at.
        if (around and last in (TARGET, MODE)) or (key.startswith("+") and isinstance(value, Mapping)):
            return "a component is changed from afar; give it whole"
        if any(part in COMPONENTS for part in around):
            return "a part of a reader or writer is changed from afar; give it whole"
        if last in COMPONENTS and isinstance(value, Mapping):
            if not self._is_one_of(last, value.get(TARGET)):
                return f"a {last} of {str(value.get(TARGET))[:100]!r} may return the name of anything; it is not listed"
        elif last in self.literals and not self._is_literal(last, value):
            known = ", ".join(sorted(self.literals[last])) or "nothing"
            return f"{str(value)[:100]!r} may be looked up as a name; allowed: {known}"
        return None

    def _is_literal(self, key: str, value: Any) -> bool:
        return value is None or (isinstance(value, str) and (value in self.literals[key] or value == f"@{key}"))

    def _is_one_of(self, key: str, target: Any) -> bool:
        own = {f"{self.package}.{each}" for each in OWN_COMPONENTS[key]} if self.package else set()
        return isinstance(target, str) and target in COMPONENTS[key] | own

    def _component_fault(self, value: Mapping[str, Any]) -> str | None:
        target = value.get(TARGET)
        if isinstance(target, str) and target in PASSES_ON:
            given = value.get("iterable")
            one = isinstance(given, list) and len(given) == 1 and isinstance(given[0], str)
            if set(value) != {TARGET, "iterable"} or not one or not REFERENCE.fullmatch(given[0]):
                return f"{target} passes on what it is given: it takes one reference, iterable: ['@…'], and no more"
        # To be called later, with arguments that nobody has looked at, only what the bundle itself brings.
        elif value.get(MODE, "default") != "default" and str(target).split(".")[0] != self.package:
            return f"{str(target)[:100]} may not be handed on to be called ({MODE})"
        return None


def executes_faults(name: str, config: Any, executes: Mapping[str, Any]) -> Iterator[str]:
    """Where the manifest's ``executes`` says anything else than what a config can execute."""
    for kind, texts in executable_texts(config).items():
        listed = executes.get(name, {}).get(kind, [])
        for text in sorted(set(texts) - set(listed)):
            yield f"{name} can execute {text[:200]!r}, which the manifest does not list"
        for text in sorted(set(listed) - set(texts)):
            yield f"{name} does not have {text[:200]!r}, which the manifest lists"
        if listed != texts and set(listed) == set(texts):
            yield f"the manifest lists the {kind} of {name} unsorted, or one twice"

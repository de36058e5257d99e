"""What of a bundle's configs can be executed: `_target_` components, `$` expressions and `%` macros.

MONAI resolves a ``_target_`` to any importable callable and gives an expression to ``eval``; a macro puts in part of
another file. All of them may stand at any depth, in overlays also in a key's path (``a#b#_target_``), and `_target_`
itself may be an expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TARGET = "_target_"
_SEPARATOR = re.compile(r"#|::")


@dataclass(frozen=True)
class Executable:
    """One executable part of a config.

    Attributes:
        kind: "target", "expression" or "macro".
        text: the target's name, or the expression with its ``$``, or the macro with its ``%``.
        path: where it stands, keys joined by ``#``.
    """

    kind: str
    text: str
    path: str


def executables(config: Any, path: str = "") -> Iterator[Executable]:
    """Each executable part of a parsed config, in its order.

    A key that ends in ``_target_`` counts as one whatever its value is; a value that is no text is given by its
    `repr`, which is on no list. References (``@id``) by themselves execute nothing.
    """
    if isinstance(config, Mapping):
        for key, value in config.items():
            place = f"{path}#{key}" if path else str(key)
            # An overlay may add to or name a key from afar: "+train#handlers", "train#loss#_target_".
            if _SEPARATOR.split(str(key).lstrip("+"))[-1] == TARGET:
                yield Executable("target", value if isinstance(value, str) else repr(value), place)
                if not isinstance(value, str) or value.startswith(("$", "%")):
                    yield from executables(value, place)
                continue
            yield from executables(value, place)
    elif isinstance(config, list | tuple):
        for number, value in enumerate(config):
            yield from executables(value, f"{path}#{number}" if path else str(number))
    elif isinstance(config, str):
        if config.startswith("$"):
            yield Executable("expression", config, path)
        elif config.startswith("%"):
            yield Executable("macro", config, path)


def executable_texts(config: Any) -> dict[str, list[str]]:
    """What a parsed config can execute, as a manifest tells it: ``targets`` and ``expressions``, each sorted, once."""
    parts = list(executables(config))
    return {
        "targets": sorted({part.text for part in parts if part.kind == "target"}),
        "expressions": sorted({part.text for part in parts if part.kind != "target"}),
    }

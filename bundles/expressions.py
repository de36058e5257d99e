"""Which `$` expressions a packed bundle may have: those on a list, and those that only compute with values.

MONAI replaces each ``@reference`` in an expression's text and gives the whole to ``eval``. Attributes, names and calls
lead from any object to any other, so nothing that has one is let through by its form; such an expression has to be on
the list to the letter (`bundles.allowed`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Collection

_LONGEST, _LARGEST, _DEEPEST = 300, 10**9, 20
# An absolute reference as MONAI finds it, without what it also takes: empty parts, letters outside ASCII.
REFERENCE = re.compile(r"@\w+(?:(?:#|::)\w+)*", re.ASCII)
_STANDS_FOR = "_reference_"
_NODES = (
    ast.Expression, ast.Constant, ast.Name, ast.Load, ast.List, ast.Tuple, ast.Dict, ast.Subscript, ast.Slice,
    ast.IfExp, ast.BinOp, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.UnaryOp, ast.UAdd, ast.USub,
    ast.Not,
    ast.BoolOp, ast.And, ast.Or, ast.Compare, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE, ast.Is, ast.IsNot,
    ast.In, ast.NotIn,
)  # fmt: skip


def expression_fault(text: str, listed: Collection[str], computing: bool = True) -> str | None:
    """Why an expression may not be evaluated; None where it may.

    Args:
        text: with its ``$``.
        listed: expressions that are allowed to the letter.
        computing: whether those that only compute (`computes_only`) are allowed too.
    """
    if text in listed:
        return None
    if not computing:
        return "it is not on the list of expressions"
    if fault := computes_only(text):
        return f"it is not on the list of expressions, and does more than compute with values: {fault}"
    return None


def computes_only(text: str) -> str | None:
    """What an expression has besides numbers, texts, references, arithmetic, comparison, choice, lists and indices.

    None where it has nothing else: then it can neither call nor look up anything, whatever its references stand for
    but for the operators of these.
    """
    source = text.removeprefix("$").strip(" ")
    if len(source) > _LONGEST:
        return f"{len(source)} characters ({_LONGEST} at most)"
    if not source.isascii() or not source.isprintable() or _STANDS_FOR in source:
        return "letters outside ASCII, a line break or a reserved name"
    if (depth := max(_depths(source), default=0)) > _DEEPEST:
        return f"brackets {depth} deep"
    source = REFERENCE.sub(_STANDS_FOR, source)
    if left := next((sign for sign in ("@", "#", "::", "\\", "$") if sign in source), None):
        return f"{left!r} where it is no part of an absolute reference"
    try:
        tree = ast.parse(source, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return "no expression of Python, as an import"
    return next(filter(None, map(_node_fault, ast.walk(tree))), None)


def _depths(source: str):
    depth = 0
    for letter in source:
        depth += (letter in "([{") - (letter in ")]}")
        yield depth


def _node_fault(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        # In a text, what stands for a reference would be MONAI's quotes within the text's own.
        return None if node.id == _STANDS_FOR else f"the name {node.id!r}"
    if isinstance(node, ast.Constant):
        return _constant_fault(node.value)
    if isinstance(node, ast.Attribute):
        return f"the attribute .{node.attr}"
    if isinstance(node, ast.Dict) and None in node.keys:
        return "a dictionary taken apart"
    if isinstance(node, _NODES):
        return None
    kinds = {ast.Call: "a call", ast.Lambda: "a lambda", ast.JoinedStr: "an f-string", ast.Pow: "a power"}
    return kinds.get(type(node), f"a {type(node).__name__}")


def _constant_fault(value: object) -> str | None:
    if isinstance(value, str):
        if _STANDS_FOR in value:
            return "a reference within a text"
        return "'%' within a text" if "%" in value else None
    if isinstance(value, bool | None):
        return None
    if isinstance(value, int | float):
        return None if abs(value) <= _LARGEST else f"a number above {_LARGEST:,}"
    return f"the constant {value!r}"

"""What a component of a config is, in a few characters, so that a resumed run can tell that it was changed."""

from __future__ import annotations

import enum
import hashlib
import random
from collections.abc import Mapping, Sequence, Set
from functools import partial
from pathlib import PurePath
from types import CodeType, MethodType
from typing import Any

import numpy as np
import torch
from torch import nn

# What says all of itself by `repr`.
_PLAIN = (str, bytes, int, float, bool, complex, type(None), type(...), slice, range, PurePath)
_PLAIN += (np.generic, np.dtype, torch.dtype, torch.device, torch.memory_format)
# Where these stand differs between runs that are the same.
_GENERATORS = (np.random.RandomState, np.random.Generator, random.Random, torch.Generator)
# Private, and yet what a module was made with.
_OF_MODULES = ("_modules", "_parameters", "_buffers")


def identified(component: Any) -> str:
    """The class of a component, or those of a sequence or a `Compose`, and a digest of all that they were made with.

    Two components have one text if their classes and their public attributes, and those of what they are made of, are
    the same. Random generators are passed over, and of a network's parameters all but the shape, since they follow from
    the seed. A function counts by its name, and one that has none, or stands within another, by what it does. Example:
    ``"DiceCELoss 3f9a01c2"``.
    """
    parts = getattr(component, "transforms", component)
    if isinstance(parts, Sequence) and not isinstance(parts, str):
        name = f"[{', '.join(type(part).__name__ for part in parts)}]"
    else:
        name = type(component).__name__
    return f"{name} {hashlib.sha256(_described(component, ()).encode()).hexdigest()[:8]}"


def _described(thing: Any, within: tuple[int, ...]) -> str:
    if isinstance(thing, enum.Enum):  # some are text besides
        return f"{type(thing).__name__}.{thing.name}"
    if isinstance(thing, _PLAIN):
        return repr(thing)
    if id(thing) in within:
        return "…"
    within = (*within, id(thing))
    if isinstance(thing, nn.Parameter):
        return f"parameter {tuple(thing.shape)} {thing.dtype}"
    if isinstance(thing, torch.Tensor | np.ndarray):
        return f"{tuple(thing.shape)} {thing.dtype} {thing.tolist()}"
    if isinstance(thing, Mapping):
        return "{" + ", ".join(f"{key}: {_described(value, within)}" for key, value in thing.items()) + "}"
    if isinstance(thing, Set):
        return "{" + ", ".join(sorted(_described(value, within) for value in thing)) + "}"
    if isinstance(thing, Sequence):
        return "[" + ", ".join(_described(value, within) for value in thing) + "]"
    if isinstance(thing, partial):
        return f"partial{_described((thing.func, thing.args, thing.keywords), within)}"
    name = getattr(thing, "__qualname__", None)  # of a function or a class
    if name is not None:
        return f"{thing.__module__}.{name}{_described(_made_here(thing, name), within)}"
    attributes = {
        key: value
        for key, value in sorted(getattr(thing, "__dict__", {}).items())
        if (not key.startswith("_") or key in _OF_MODULES) and not isinstance(value, _GENERATORS) and key != "training"
    }
    return f"{type(thing).__module__}.{type(thing).__qualname__}{_described(attributes, within)}"


def _made_here(function: Any, name: str) -> list[Any]:
    # What sets a function apart from others of its name; the byte code of a library's may differ between Pythons.
    if isinstance(function, MethodType):
        return [function.__self__]
    code = getattr(function, "__code__", None)
    if code is None or "<" not in name:
        return []
    closure = [cell.cell_contents for cell in function.__closure__ or ()]
    return [_instructions(code), function.__defaults__, function.__kwdefaults__, closure]


def _instructions(code: CodeType) -> list[Any]:
    # Not by `repr`, which says where in memory an inner function's code lies.
    constants = [_instructions(each) if isinstance(each, CodeType) else each for each in code.co_consts]
    return [code.co_code, code.co_names, constants]

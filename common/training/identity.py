"""What a component of a config is, in a few characters, so that a resumed run can tell that it was changed."""

from __future__ import annotations

import enum
import hashlib
import random
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch

_PLAIN = (str, bytes, int, float, bool, complex, type(None))
# Where these stand differs between runs that are the same.
_GENERATORS = (np.random.RandomState, np.random.Generator, random.Random, torch.Generator)
# Private, and yet what a module was made with.
_OF_MODULES = ("_modules", "_parameters", "_buffers")


def identified(component: Any) -> str:
    """The class of a component, or those of a sequence or a `Compose`, and a digest of all that they were made with.

    Two components have one text if their classes and their public attributes, and those of what they are made of, are
    the same; random generators are passed over. Example: ``"DiceCELoss 3f9a01c2"``.
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
    if isinstance(thing, torch.Tensor | np.ndarray):
        return f"{tuple(thing.shape)} {thing.dtype} {thing.tolist()}"
    if isinstance(thing, Mapping):
        return "{" + ", ".join(f"{key}: {_described(value, within)}" for key, value in thing.items()) + "}"
    if isinstance(thing, Set):
        return "{" + ", ".join(sorted(_described(value, within) for value in thing)) + "}"
    if isinstance(thing, Sequence):
        return "[" + ", ".join(_described(value, within) for value in thing) + "]"
    name = getattr(thing, "__qualname__", None)  # of a function or a class
    if name is not None:
        return f"{thing.__module__}.{name}"
    attributes = {
        key: value
        for key, value in sorted(getattr(thing, "__dict__", {}).items())
        if (not key.startswith("_") or key in _OF_MODULES) and not isinstance(value, _GENERATORS) and key != "training"
    }
    return f"{type(thing).__module__}.{type(thing).__qualname__}{_described(attributes, within)}"

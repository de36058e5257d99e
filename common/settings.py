"""What the values in the first section of a config may be."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch

from .data.folder import KEYS

Rule = tuple[str, Callable[[Any], bool]]


def whole(value: Any, smallest: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= smallest


def number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _device_is_there(value: Any) -> bool:
    try:
        torch.empty(0, device=value)
    except Exception:  # torch raises RuntimeError, AssertionError, TypeError … for a device that is not there
        return False
    return True


def at_least(smallest: int) -> Rule:
    return f"a whole number, {smallest} or more", lambda value: whole(value, smallest)


YES_OR_NO: Rule = ("True or False", lambda value: isinstance(value, bool))
TEXT: Rule = (
    "text (for a name that reads as a number write ./2024)",
    lambda value: isinstance(value, str) and value != "",
)

RULES: dict[str, Rule] = {
    "epochs": at_least(1),
    "batch_size": at_least(1),
    "val_interval": at_least(1),
    "num_workers": at_least(0),
    "seed": at_least(0),
    "image_size": ("a multiple of 32, such as 256", lambda value: whole(value, 32) and value % 32 == 0),
    "learning_rate": ("a number above 0", lambda value: number(value) and value > 0),
    "weight_decay": ("a number, 0 or more", lambda value: number(value) and value >= 0),
    "cache_rate": ("a number from 0 to 1", lambda value: number(value) and 0 <= value <= 1),
    "threshold": ("a number between 0 and 1", lambda value: number(value) and 0 < value < 1),
    "split": (f"one of {', '.join(KEYS)}", lambda value: value in KEYS),
    "amp": YES_OR_NO,
    "amp_dtype": (
        'a type of torch, as "$torch.bfloat16" or "$torch.float16"',
        lambda value: value in (torch.bfloat16, torch.float16),
    ),
    "channels_last": YES_OR_NO,
    "overlay": YES_OR_NO,
    "resume": YES_OR_NO,
    "device": ("a device of this machine, such as cpu or cuda:0", _device_is_there),
    "checkpoint": TEXT,
    "output_dir": TEXT,
    "recipe": TEXT,
    "dataset_dir": TEXT,
    "pretrained": ("the path of a model.pt, or null", lambda value: value is None or TEXT[1](value)),
    "synthetic_dir": ("a prepared folder that LAW painted, or null", lambda value: value is None or TEXT[1](value)),
    "synthetic_images": ("a whole number, 1 or more, or null", lambda value: value is None or whole(value, 1)),
    "protocol": ("the name of a protocol, or null", lambda value: value is None or isinstance(value, str)),
}


def setting_faults(settings: Mapping[str, Any], rules: Mapping[str, Rule] = RULES) -> list[str]:
    """A line for each value that its rule does not allow; names without a rule are passed over."""
    wrong = {name: value for name, value in settings.items() if name in rules and not rules[name][1](value)}
    if wrong:
        return [
            f"--{name} needs a value"
            if rules[name] is TEXT and value in (True, "")
            else f"--{name} has to be {rules[name][0]}; it is {value!r}"
            for name, value in wrong.items()
        ]
    if "epochs" in settings and settings["val_interval"] > settings["epochs"]:
        return [
            f"--val_interval {settings['val_interval']} is more than --epochs {settings['epochs']}: nothing would be "
            "validated and no model kept; lower it"
        ]
    return []

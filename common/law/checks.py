"""What a LAW bundle checks before any work starts, so that a wrong input is one clear line and not a traceback."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import nn

from ..data import read_datalist
from ..errors import reports_input_errors
from ..files import check_writable
from ..guard import (
    check_data,
    check_output,
    check_weights,
    collect,
    faults_of_keys,
    is_text,
    raise_faults,
    warn_of_seen,
)
from ..provenance import LISTS, read_record
from ..settings import RULES, TEXT, YES_OR_NO, Rule, at_least, number, whole
from .denoiser import TRAINABLE
from .objectives import OBJECTIVES
from .presets import PRESETS

_NOT_NEGATIVE: Rule = ("a number, 0 or more", lambda value: number(value) and value >= 0)
_SAMPLING_STEPS: Rule = (
    "a whole number from 1 to 1000, the steps of training's noise",
    lambda value: whole(value, 1) and value <= 1000,
)


def _one_of(names: Any) -> Rule:
    return f"one of {', '.join(names)}", lambda value: value in tuple(names)


def _text_or_null(what: str) -> Rule:
    return f"{what}, or null in a config file", lambda value: value is None or is_text(value)


LAW_RULES: dict[str, Rule] = {
    **RULES,
    "image_size": (
        "a number of pixels that divides by 8, or null in a config file",
        lambda value: value is None or _size(value),
    ),
    "cache_dir": TEXT,
    "prompt": TEXT,
    "objective": _one_of(OBJECTIVES),
    "preset": _one_of(PRESETS),
    "trainable": _one_of(TRAINABLE),
    "weights": _text_or_null("a model folder, or that of Stable Diffusion 1.5"),
    "base": _text_or_null("the folder of Stable Diffusion 1.5, or its id on the hub"),
    "keep_control": YES_OR_NO,
    "control": _text_or_null("a folder with a control network"),
    "gradient_checkpointing": YES_OR_NO,
    "prompt_dropout": ("a number from 0 to 1", lambda value: number(value) and 0 <= value <= 1),
    "steps": at_least(1),
    "steps_per_epoch": at_least(1),
    "accumulation_steps": at_least(1),
    "weighter_lr": _NOT_NEGATIVE,
    "max_grad_norm": _NOT_NEGATIVE,
    "strip_images": at_least(0),
    "strip_steps": _SAMPLING_STEPS,
    "strip_guidance": ("a number", number),
    "segmenter": ("a file of ORDER's weights trained on such images, a model.pt of order_polyps' train.yaml", is_text),
    "segmenter_size": RULES["image_size"],
    "model_dtype": _one_of(("float32", "float16")),
    "save_encoders": YES_OR_NO,
    "licence": _text_or_null("a text"),
    "keep_empty": YES_OR_NO,
    "guidance": ("a number", number),
    "control_scale": _NOT_NEGATIVE,
    "eta": ("a number from 0 to 1", lambda value: number(value) and 0 <= value <= 1),
    "key": RULES["split"],
    "into": RULES["split"],
    "name": TEXT,
    "images_per_mask": at_least(0),
    "augmented_per_mask": at_least(0),
    "total_images": ("a whole number, 1 or more, or null", lambda value: value is None or whole(value, 1)),
}


PAINTING_RULES: dict[str, Rule] = {
    **LAW_RULES,
    "steps": _SAMPLING_STEPS,
    "prompt": _text_or_null("a text"),
    "control_scale": (
        f"{_NOT_NEGATIVE[0]}, or null in a config file",
        lambda value: value is None or _NOT_NEGATIVE[1](value),
    ),
}


def _size(value: Any) -> bool:
    return value is None or (whole(value, 8) and value % 8 == 0)


@reports_input_errors
def check_law_training(
    dataset_dir: str | None,
    protocol: str | None,
    output_dir: str,
    cache_dir: str,
    weights: str | None,
    base: str | None,
    **settings: Any,
) -> None:
    """All that can be known to be wrong before a denoiser's training: keys, values, data, folders.

    The weights are read only after this; what is wrong with them is a line of its own then.

    Args:
        dataset_dir: a prepared folder.
        protocol: one that it holds; None or "" for its default.
        output_dir, cache_dir: folders that can be written to.
        weights, base: as of `begin_stage`.
        settings: whatever else has a rule in `LAW_RULES`.
    """
    named = {"output_dir": output_dir, "protocol": protocol, "cache_dir": cache_dir, "weights": weights, "base": base}
    faults = faults_of_keys(dataset_dir, {**named, **settings}, rules=LAW_RULES)
    if not faults:
        faults += steps_faults(settings["steps"], settings["steps_per_epoch"])
        if settings["trainable"] == "prior" and settings["objective"] != "uniform":
            faults.append(f"--objective {settings['objective']} weighs by a mask, and a prior sees none; give uniform")
    check_data(faults, dataset_dir, protocol, LISTS, "prepare it again with more images")
    if is_text(cache_dir) and not faults:
        collect(faults, lambda: check_writable(Path(cache_dir)))
    check_output(faults, output_dir, held=True)
    raise_faults(faults)


@reports_input_errors
def check_painting(dataset_dir: str | None, output_dir: str, checkpoint: str, **settings: Any) -> None:
    """The keys and values of a painting. Masks, model and output are checked by `Painting`, before it paints.

    Args:
        dataset_dir: a prepared folder, or one with masks.
        output_dir: to paint into.
        checkpoint: a model folder.
        settings: whatever else has a rule in `LAW_RULES`.
    """
    named = {"output_dir": output_dir, "checkpoint": checkpoint}
    raise_faults(faults_of_keys(dataset_dir, {**named, **settings}, "masks", PAINTING_RULES))


@reports_input_errors
def check_recovery(
    dataset_dir: str | None,
    protocol: str | None,
    split: str,
    output_dir: str,
    checkpoint: str,
    segmenter: str,
    network: nn.Module,
    **settings: Any,
) -> None:
    """What can be known to be wrong before masks are painted from and looked for again.

    Warns of images in a test or validation list that the painter or the segmenter was trained on or chosen by.

    Args:
        dataset_dir: a prepared folder.
        protocol: one that it holds; None or "" for its default.
        split: the list whose masks are taken.
        output_dir: a folder that can be written to.
        checkpoint: a model folder.
        segmenter: weights that fit `network`, which they fill.
        network: that looks for the lesion.
        settings: whatever else has a rule in `LAW_RULES`.
    """
    named = {"output_dir": output_dir, "protocol": protocol, "split": split, "checkpoint": checkpoint}
    faults = faults_of_keys(dataset_dir, {**named, "segmenter": segmenter, **settings}, rules=PAINTING_RULES)
    if is_text(segmenter):
        collect(faults, lambda: check_weights(network, segmenter))
        collect(faults, lambda: read_record(segmenter))
    check_data(faults, dataset_dir, protocol, [split], "choose another --split or --protocol")
    check_output(faults, output_dir)
    raise_faults(faults)
    items = read_datalist(dataset_dir, protocol or None, split)
    for weights in (segmenter, checkpoint):
        warn_of_seen(weights, items, split)


def steps_faults(steps: int, steps_per_epoch: int) -> list[str]:
    """What is wrong with a number of steps, after which an epoch has to end."""
    if steps % steps_per_epoch == 0:
        return []
    nearest = max(1, math.ceil(steps / steps_per_epoch)) * steps_per_epoch
    return [
        f"--steps {steps} is no multiple of --steps_per_epoch {steps_per_epoch}, after which it validates and saves; "
        f"give --steps {nearest}, or another --steps_per_epoch"
    ]

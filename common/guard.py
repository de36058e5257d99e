"""What a bundle checks before any work starts, so that a wrong input is one clear line and not a traceback.

Called by the first entries of a config's ``run`` list. Each check tells all faults that it finds, a line each, and
ends the process with exit code 2.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

import ignite.distributed as idist
import torch
from torch import nn

from .command_line import command_line_faults, is_bundle_command
from .data import read_datalist
from .data.folder import KEYS
from .data.integrity import check_prepared
from .data.synthetic import HELD_OUT, painted_pairs
from .errors import InputError, disk_error_line, reports_input_errors
from .files import check_writable, hold_folder
from .inference import check_inference_inputs
from .provenance import GENERATION, LISTS, read_record, seen_before
from .settings import RULES, Rule, setting_faults
from .training.resolution import ResolutionSchedule
from .weights import fit_weights, read_checkpoint


def report_config_errors() -> None:
    """Show what goes wrong later on as one line too, where this process is ``python -m monai.bundle``.

    MONAI wraps whatever a component of a config raises in tracebacks of its parser. A `ValueError` that began in
    this package says by itself what is wrong, and so does a machine without memory or disk. Behind a `TypeError` may
    be a key that was misspelt: then that is said. Every other error keeps its traceback.
    """
    if is_bundle_command():
        sys.excepthook = partial(_show, sys.argv[1:])


def _show(
    arguments: Sequence[str], kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    first = error
    while first.__cause__ is not None:
        first = first.__cause__
    line = _one_line(first)
    lines = [line] if line else _misspelt(arguments, first)
    for each in lines:
        print(f"error: {each}", file=sys.stderr, flush=True)
    if not lines:
        sys.__excepthook__(kind, error, trace)


def _misspelt(arguments: Sequence[str], error: BaseException) -> list[str]:
    # What a component was given and does not take, which stops a config before its checks; no other error is ours.
    if isinstance(error, TypeError):
        with suppress(Exception):
            return command_line_faults(arguments)
    return []


def _one_line(error: BaseException) -> str | None:
    # What a user can do about it; None for what is not the user's to mend.
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "out of memory; lower --batch_size or --image_size"
    if line := disk_error_line(error):
        return line
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    ours = place is not None and place.tb_frame.f_globals.get("__name__", "").startswith(f"{__package__}.")
    return str(error) if ours and isinstance(error, ValueError) else None


def check_weights(network: nn.Module, path: str | Path) -> None:
    """Make sure that a checkpoint can be read and fits the network, which it fills.

    Raises:
        InputError: if not; the network is then unchanged.
    """
    content = read_checkpoint(path)
    if {"network", "settings"} <= content.keys():
        raise InputError(f"{path} is where a run stands, for resuming it; give the model.pt beside it")
    fit_weights(network, content, str(path))


@reports_input_errors
def check_training(
    dataset_dir: str | None,
    protocol: str | None,
    output_dir: str,
    network: nn.Module,
    pretrained: str | None = None,
    stages: Sequence[Sequence[Any]] = ((1.0, 1.0),),
    **settings: Any,
) -> None:
    """All that can be known to be wrong before training: keys, values, data, weights to begin with, output folder.

    Args:
        dataset_dir: a prepared folder.
        protocol: one that it holds; None or "" for its default.
        output_dir: a folder that can be written to.
        network: that is trained.
        pretrained: weights of such a network, or None.
        stages: those of the run's `ResolutionSchedule`.
        settings: whatever else has a rule in `settings.RULES`, `synthetic_dir` and `synthetic_images` among them.
    """
    named = {"output_dir": output_dir, "protocol": protocol, "pretrained": pretrained}
    faults = faults_of_keys(dataset_dir, {**named, **settings})
    if not faults:
        collect(faults, lambda: _check_smallest_batch(stages, settings))
    if is_text(pretrained):
        collect(faults, lambda: check_weights(copy.deepcopy(network), pretrained))
        collect(faults, lambda: read_record(pretrained))
    check_data(faults, dataset_dir, protocol, LISTS, "prepare it again with more images")
    if settings.get("synthetic_images") is not None and settings.get("synthetic_dir") is None:
        faults.append("--synthetic_images says how many of --synthetic_dir; give that folder too")
    if not faults and settings.get("synthetic_dir") is not None:
        _check_synthetic(faults, dataset_dir, protocol, settings["synthetic_dir"], settings.get("synthetic_images"))
    check_output(faults, output_dir, held=True)
    raise_faults(faults)


def _check_synthetic(
    faults: list[str], dataset_dir: str, protocol: str | None, synthetic_dir: str, images: int | None
) -> None:
    # Its images and masks as those of any prepared folder; that some may be trained on, and what was left out.
    check_data(faults, synthetic_dir, None, (), "")
    if faults:
        return
    try:
        pairs = painted_pairs(synthetic_dir, dataset_dir, protocol)
        _warn_of_painter(synthetic_dir, dataset_dir, protocol)
    except InputError as error:
        faults.append(str(error))
        return
    for reason, count in pairs.left_out.items():
        _tell(
            f"{synthetic_dir}: {count} of its {len(pairs.usable) + sum(pairs.left_out.values())} pairs {reason}, and "
            "are left out"
        )
    if images is not None and images > len(pairs.usable):
        faults.append(
            f"--synthetic_images {images}: {synthetic_dir} holds {len(pairs.usable)} pairs that may be trained on"
        )


def _warn_of_painter(synthetic_dir: str | Path, dataset_dir: str, protocol: str | None) -> None:
    # Images are new where their painter has seen what they are tested against, and figures then too high.
    items = [item for key in HELD_OUT for item in read_datalist(dataset_dir, protocol or None, key)]
    if count := seen_before(Path(synthetic_dir) / GENERATION, items).get("training"):
        _tell(
            f"warning: what painted {synthetic_dir} was trained on {count} of the {len(items)} images of the "
            "validation and test lists; figures on these are not those of unseen images"
        )


def _tell(line: str) -> None:
    if idist.get_rank() == 0:
        print(line, file=sys.stderr, flush=True)


def _check_smallest_batch(stages: Sequence[Sequence[Any]], settings: Mapping[str, Any]) -> None:
    schedule = ResolutionSchedule(stages, settings["epochs"], image_size=settings["image_size"])
    smallest = schedule.smallest()
    sharing = idist.get_world_size() if torch.cuda.is_available() else 1  # processes that share batch statistics
    if smallest == 32 and settings["batch_size"] * sharing == 1:
        raise InputError(
            f"--batch_size 1 at {smallest}², the smallest of train#resolution#stages at --image_size "
            f"{settings['image_size']}, leaves one value to normalise over; raise either"
        )


@reports_input_errors
def check_evaluation(
    dataset_dir: str | None,
    protocol: str | None,
    split: str,
    output_dir: str,
    network: nn.Module,
    checkpoint: str,
    **settings: Any,
) -> None:
    """As `check_training`; and that the list is there and the checkpoint fits the network, which it fills.

    Warns, on standard error, of images in a test or validation list that the checkpoint was trained on or, for a test
    list, chosen by, as far as is recorded.
    """
    named = {"output_dir": output_dir, "protocol": protocol, "split": split, "checkpoint": checkpoint}
    faults = faults_of_keys(dataset_dir, {**named, **settings})
    if is_text(checkpoint):
        collect(faults, lambda: check_weights(network, checkpoint))
        collect(faults, lambda: read_record(checkpoint))
    check_data(faults, dataset_dir, protocol, [split], "choose another --split or --protocol")
    check_output(faults, output_dir)
    raise_faults(faults)
    warn_of_seen(checkpoint, read_datalist(dataset_dir, protocol or None, split), split)


# What makes the figures of a list too high, in words.
_NOT_UNSEEN = {"test": {"training": "trained on", "validation": "chosen by"}, "validation": {"training": "trained on"}}


def warn_of_seen(checkpoint: str, items: Sequence[Mapping[str, Any]], split: str) -> None:
    """Say, on standard error, which images of a test or validation list are known to weights."""
    seen = seen_before(checkpoint, items) if split in _NOT_UNSEEN else {}
    told = [f"was {words} {seen[key]}" for key, words in _NOT_UNSEEN.get(split, {}).items() if seen.get(key)]
    if told:
        _tell(
            f"warning: {checkpoint} {' and '.join(told)} of the {len(items)} images of this {split} list; "
            "its figures there are not those of unseen images"
        )


@reports_input_errors
def check_inference(
    dataset_dir: str | None, output_dir: str, network: nn.Module, checkpoint: str, **settings: Any
) -> None:
    """All that can be known to be wrong before inference: keys, values, checkpoint, images, output folder."""
    faults = faults_of_keys(dataset_dir, {"output_dir": output_dir, "checkpoint": checkpoint, **settings}, "images")
    if is_text(checkpoint):
        collect(faults, lambda: check_weights(network, checkpoint))
    both = is_text(dataset_dir) and is_text(output_dir)
    if both and collect(faults, lambda: check_inference_inputs(dataset_dir, output_dir)):
        check_output(faults, output_dir)
    raise_faults(faults)


# ---- what checks are made of, here and in `law.checks` -------------------------------------------------------


def is_text(value: Any) -> bool:
    """Whether a value can be a path or a name."""
    return isinstance(value, str) and value != ""


_WANTED = {
    "prepared folder": "a prepared folder; python -m common.data prepare writes one",
    "images": "an image or a folder of images",
    "masks": "a prepared folder, or a folder of masks",
}


def faults_of_keys(
    dataset_dir: Any,
    settings: dict[str, Any],
    wanted: str = "prepared folder",
    rules: Mapping[str, Rule] = RULES,
) -> list[str]:
    """What is wrong with the keys of the command line and with the values in the first section, a line each."""
    faults = command_line_faults()
    if dataset_dir is not None:
        settings["dataset_dir"] = dataset_dir
    elif not faults:  # else it may be the misspelt key that was meant
        faults.append(f"give --dataset_dir, {_WANTED[wanted]}")
    return faults + setting_faults(settings, rules)


def check_data(faults: list[str], dataset_dir: Any, protocol: Any, keys: Sequence[str], otherwise: str) -> None:
    """Add to `faults` what is wrong with a prepared folder, of which each of the lists `keys` has to hold something."""
    if not is_text(dataset_dir) or not (protocol is None or isinstance(protocol, str)) or not {*keys} <= {*KEYS}:
        return  # said already
    found: list[str] = []
    if collect(found, lambda: check_prepared(dataset_dir, protocol or None)):
        empty = [key for key in keys if not read_datalist(dataset_dir, protocol or None, key, may_be_empty=True)]
        found += [f"its {' and its '.join(empty)} list is empty; {otherwise}"] if empty else []
    folder = str(Path(dataset_dir))
    faults += [fault if folder in fault.split(":")[0] else f"{folder}: {fault}" for fault in found]


def check_output(faults: list[str], output_dir: Any, held: bool = False) -> None:
    """Add to `faults` if a folder cannot be written to; it is made, and stays only where nothing else is wrong.

    Args:
        faults: found so far.
        output_dir: the folder.
        held: whether, of all processes, those of this run alone may write there until `files.release_folder`.
    """
    if not is_text(output_dir):
        return  # said already
    folders = (Path(output_dir), *Path(output_dir).parents)
    made = [folder for folder in folders if not folder.exists()]
    collect(faults, lambda: check_writable(output_dir))
    if held and not faults and idist.get_rank() == 0:
        collect(faults, lambda: hold_folder(output_dir))
    for folder in made if faults else ():
        with suppress(OSError):
            folder.rmdir()


def collect(faults: list[str], check: Callable[[], Any]) -> bool:
    """Run a check and add what it says to `faults`; whether it passed."""
    try:
        check()
    except InputError as error:
        faults.append(str(error))
        return False
    return True


def raise_faults(faults: list[str]) -> None:
    """Raise an `InputError` of all faults, if there is one."""
    if faults:
        raise InputError("\nerror: ".join(faults))

"""What a bundle checks before any work starts, so that a wrong input is one clear line and not a traceback.

Called by the first entries of a config's ``run`` list. MONAI takes a misspelt ``--key`` in silence and wraps
every exception of a config in its parser's traceback; these functions end the process with one line instead.
"""

from __future__ import annotations

import difflib
import inspect
import pydoc
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import fire.parser
import monai.bundle
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from monai.utils import ensure_tuple
from torch import nn

from .data import read_datalist
from .data.integrity import check_prepared
from .errors import InputError, reports_input_errors
from .files import check_writable
from .inference import check_inference_inputs
from .weights import fit_weights, read_checkpoint

SEPARATORS = ("::", "#")
COMPONENT_KEYS = {"_target_", "_mode_", "_disabled_", "_requires_", "_desc_"}


def _given_flags(arguments: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The ``--key value`` and ``--key=value`` pairs of a command line, read as Fire reads them."""
    for place, argument in enumerate(arguments):
        name = argument.lstrip("-")
        if not argument.startswith("-") or not (name[:1].isalpha() or name[:1] in "_+%"):
            continue
        key, equals, value = name.partition("=")
        if not equals:
            following = arguments[place + 1] if place + 1 < len(arguments) else "True"
            value = "True" if following.startswith("--") else following
        yield key.replace("-", "_"), fire.parser.DefaultParseValue(value)


def _known_ids(config: Any, prefix: str = "") -> Iterator[str]:
    items = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield f"{prefix}{key}"
        yield from _known_ids(value, f"{prefix}{key}#")


def _takes(component: Mapping[str, Any], argument: str) -> bool:
    """Whether the class or function that a component names has the argument."""
    module_name = ConfigComponent(dict(component), "", ComponentLocator()).resolve_module_name()
    target = pydoc.locate(module_name) if isinstance(module_name, str) else module_name
    if target is None:
        return True  # not ours to judge: the parser will say that it cannot find the target
    parameters = inspect.signature(target).parameters.values()
    return any(each.name == argument or each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)


def _check_override(config: Mapping[str, Any], key: str, value: Any) -> None:
    parts = key.lstrip("+").replace("::", "#").split("#")
    node: Any = config
    for depth, part in enumerate(parts):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            new_argument = depth == len(parts) - 1 and isinstance(node, Mapping) and "_target_" in node
            if new_argument and (part in COMPONENT_KEYS or _takes(node, part)):
                return
            near = difflib.get_close_matches("#".join(parts), list(_known_ids(config)), n=1)
            hint = f"did you mean --{near[0]}?" if near else "see the first section of the config for the keys"
            raise InputError(f"unknown key --{key}: the config has none of that name; {hint}")
    _check_value(key, node, value)


def _check_value(key: str, now: Any, value: Any) -> None:
    if isinstance(value, str) and value[:1] in "$@%" and value:
        return
    if isinstance(now, bool) and not isinstance(value, bool):
        raise InputError(f"--{key} takes True or False; got {value!r}")
    if isinstance(now, int | float) and not isinstance(now, bool) and isinstance(value, bool | str):
        raise InputError(f"--{key} takes a number such as {now}; got {value!r}")


def check_command_line(arguments: Sequence[str] | None = None) -> None:
    """Refuse ``--key``s that the config of a ``python -m monai.bundle run`` does not have.

    Args:
        arguments: the command line after the program's name; by default this process's, where it is that command.

    Raises:
        InputError: naming the key, and the nearest that exists.
    """
    if arguments is None:
        if Path(sys.argv[0]).parts[-3:] != ("monai", "bundle", "__main__.py"):
            return
        arguments = sys.argv[1:]
    flags = list(_given_flags(arguments))
    given = dict(flags)
    own = {
        name for name, each in inspect.signature(monai.bundle.run).parameters.items() if each.kind != each.VAR_KEYWORD
    }
    if "args_file" in given:
        given = {**ConfigParser.load_config_file(given["args_file"]), **given}
    files = given.get("config_file")
    if files is None:
        return
    config = ConfigParser.load_config_files(list(ensure_tuple(files)))
    if given.get("tracking"):
        config = {**DEFAULT_MLFLOW_SETTINGS["configs"], **config}
    for key, value in flags:
        if key not in own:
            _check_override(config, key, value)


def check_weights(network: nn.Module, path: str | Path) -> None:
    """Make sure that a checkpoint can be read and fits the network.

    Raises:
        InputError: if not; the network is then unchanged.
    """
    fit_weights(network, read_checkpoint(path), str(path))


@reports_input_errors
def check_training(dataset_dir: str | None, protocol: str | None, output_dir: str) -> None:
    """All that can be known to be wrong before training: keys, data, output folder.

    Ends the process with one line and exit code 2.
    """
    check_command_line()
    check_prepared(_given(dataset_dir), protocol or None)
    check_writable(output_dir)


@reports_input_errors
def check_evaluation(
    dataset_dir: str | None, protocol: str | None, split: str, output_dir: str, network: nn.Module, checkpoint: str
) -> None:
    """As `check_training`; and that the list is there and the checkpoint fits the network, which it fills."""
    check_command_line()
    check_weights(network, checkpoint)
    check_prepared(_given(dataset_dir), protocol or None)
    if not read_datalist(str(dataset_dir), protocol or None, split):
        raise InputError(f"{dataset_dir}: its {split} list is empty; choose another --split or --protocol")
    check_writable(output_dir)


@reports_input_errors
def check_inference(dataset_dir: str | None, output_dir: str, network: nn.Module, checkpoint: str) -> None:
    """All that can be known to be wrong before inference: keys, checkpoint, images, output folder."""
    check_command_line()
    check_weights(network, checkpoint)
    if dataset_dir is None:
        raise InputError("give --dataset_dir, an image or a folder of images")
    check_inference_inputs(dataset_dir, output_dir)
    check_writable(output_dir)


def _given(dataset_dir: str | None) -> str:
    if dataset_dir is None:
        raise InputError("give --dataset_dir, a prepared folder; python -m common.data prepare writes one")
    return str(dataset_dir)

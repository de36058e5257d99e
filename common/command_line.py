"""What was typed behind ``python -m monai.bundle run``, checked against the config that it is meant for.

MONAI takes a misspelt ``--key`` in silence, and tells a missing package or a misspelt ``_target_`` by a traceback.
"""

from __future__ import annotations

import copy
import difflib
import inspect
import pydoc
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import NoneType
from typing import Any

import fire.parser
import monai.bundle
from monai.bundle import ConfigParser
from monai.bundle.config_item import ComponentLocator, ConfigComponent
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS
from monai.utils import ensure_tuple

from .settings import RULES

COMPONENT_KEYS = {"_target_", "_mode_", "_disabled_", "_requires_", "_desc_"}
COMMANDS = {"run": (monai.bundle.run,), "run_workflow": (monai.bundle.run_workflow, monai.bundle.ConfigWorkflow)}


def is_bundle_command() -> bool:
    """Whether this process is ``python -m monai.bundle …``, also under torchrun."""
    return Path(sys.argv[0]).parts[-3:] == ("monai", "bundle", "__main__.py")


def command_line_faults(arguments: Sequence[str] | None = None) -> list[str]:
    """A line for each ``--key`` that the config does not have, with the nearest that it has; for each value of
    another kind than the config's; for what belongs to no key; for each ``_target_`` that cannot be imported; and for
    each that is given and does not take what its section holds.

    Args:
        arguments: the command line behind ``python -m monai.bundle``; by default this process's, and nothing if
            this process is another command.
    """
    if arguments is None:
        arguments = sys.argv[1:] if is_bundle_command() else []
    if not arguments or arguments[0] not in COMMANDS:
        return []
    places, flags = _parsed(arguments[1:])
    given = dict(flags)
    own = {
        name
        for function in COMMANDS[arguments[0]]
        for name, each in inspect.signature(function).parameters.items()
        if each.kind != each.VAR_KEYWORD
    }
    # MONAI takes a + off: it means something only beside an args_file.
    overrides = {key.removeprefix("+"): value for key, value in flags if key not in own}
    if "args_file" in given:
        in_file = ConfigParser.load_config_file(given["args_file"])
        given = {**in_file, **given}
        overrides = {**{key: value for key, value in in_file.items() if key not in own}, **overrides}
    files = given.get("config_file")
    if files is None:
        return []
    config = ConfigParser.load_config_files(files if isinstance(files, str) else list(ensure_tuple(files)))
    if given.get("tracking"):
        config = {**DEFAULT_MLFLOW_SETTINGS["configs"], **config}
    faults = [f"{place!r} belongs to no --key; put quotes around what has blanks in it" for place in places[1:]]
    faults += [fault for key, value in overrides.items() if (fault := override_fault(config, key, value))]
    if faults:
        return faults
    components = list(_components(_overridden(config, overrides)))
    renamed = {key.replace("::", "#").removesuffix("#_target_") for key in overrides if key.endswith("_target_")}
    lost = [fault for path, component in components if (fault := _lost(path, component))]
    return lost or [f for path, each in components if path in renamed and (f := _left_over(path, each))]


def _parsed(arguments: Sequence[str]) -> tuple[list[str], list[tuple[str, Any]]]:
    """The arguments without a name, and the ``--key value`` and ``--key=value`` pairs, read as Fire reads them."""
    places, flags = [], []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name = argument.lstrip("-")
        if not argument.startswith("-") or not (name[:1].isalpha() or name[:1] in "_+%"):
            places.append(argument)
            continue
        key, equals, value = name.partition("=")
        if not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "True"
        flags.append((key.replace("-", "_"), fire.parser.DefaultParseValue(value)))
    return places, flags


def _known_ids(config: Any, prefix: str = "") -> Iterator[str]:
    items = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield f"{prefix}{key}"
        yield from _known_ids(value, f"{prefix}{key}#")


@cache
def _locator() -> ComponentLocator:
    return ComponentLocator()  # which reads all of MONAI once


def _module_name(component: Mapping[str, Any]) -> Any:
    return ConfigComponent(dict(component), "", _locator()).resolve_module_name()


def _parameters(component: Mapping[str, Any]) -> Mapping[str, inspect.Parameter] | None:
    # Of the class or function that a component names; None where they cannot be known.
    name = _module_name(component)
    target = pydoc.locate(name) if isinstance(name, str) else name
    try:
        return inspect.signature(target).parameters
    except (TypeError, ValueError):  # no such target, which `_lost` says; or one of those that do not tell
        return None


def override_fault(config: Mapping[str, Any], key: str, value: Any) -> str | None:
    """What is wrong with `value` for `key` of a config, in one line; None where nothing is.

    A key is one that the config has, or an argument that the component it names takes.
    """
    parts = key.lstrip("+").replace("::", "#").split("#")
    node: Any = config
    for depth, part in enumerate(parts):
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            of_component = depth == len(parts) - 1 and isinstance(node, Mapping) and "_target_" in node
            return _unknown_key(config, key, parts, node if of_component else None)
    return None if parts[0] in RULES and len(parts) == 1 else _value_fault(key, node, value)


def _unknown_key(config: Mapping[str, Any], key: str, parts: Sequence[str], component: Any) -> str | None:
    # None for what a component takes, though the config does not give it yet.
    known = list(_known_ids(config))
    if component is not None:
        parameters = _parameters(component)
        if parts[-1] in COMPONENT_KEYS or parameters is None or parts[-1] in parameters:
            return None
        takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
        if takes_any and not difflib.get_close_matches(parts[-1], parameters, n=1, cutoff=0.75):
            return None
        known += ["#".join([*parts[:-1], name]) for name in parameters]
    near = difflib.get_close_matches("#".join(parts), known, n=1)
    hint = f"did you mean --{near[0]}?" if near else "see the first section of the config for the keys"
    return f"unknown key --{key}: the config has none of that name; {hint}"


def _value_fault(key: str, now: Any, value: Any) -> str | None:
    if isinstance(value, str) and value[:1] in "$@%" and value:
        return None
    if isinstance(now, bool) and not isinstance(value, bool):
        return f"--{key} takes True or False; got {value!r}"
    if isinstance(now, int | float) and not isinstance(now, bool) and not _is_number(value):
        return f"--{key} takes a number such as {now}; got {value!r}"
    if isinstance(now, list) and not isinstance(value, list | tuple | NoneType):
        return f'--{key} takes a list in brackets, such as "{str(now)[:60]}"; got {value!r}'
    if isinstance(now, Mapping) and isinstance(value, bool | int | float | list | tuple):
        return f"--{key} is a section of the config and cannot be {value!r}; its keys are {', '.join(now)}"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _overridden(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Any:
    parser = ConfigParser(copy.deepcopy(dict(config)))
    parser.update(copy.deepcopy(dict(overrides)))
    return parser.get()


def _components(config: Any, path: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    if ConfigComponent.is_instantiable(config) and config.get("_disabled_") is not True:
        yield path, config
    items = config.items() if isinstance(config, Mapping) else enumerate(config) if isinstance(config, list) else ()
    for key, value in items:
        yield from _components(value, f"{path}#{key}" if path else str(key))


def _lost(path: str, component: Mapping[str, Any]) -> str | None:
    # What hinders the import of a component's target.
    name = _module_name(component)
    if not isinstance(name, str) or name[:1] in "$@%":
        return None
    try:
        found, why = pydoc.locate(name), ""
    except pydoc.ErrorDuringImport as error:
        found, why = None, f" ({error.value})"
    if found is not None:
        return None
    return f"{path}: there is no {name} here{why}; mend the name, or install the package that has it"


def _left_over(path: str, component: Mapping[str, Any]) -> str | None:
    # Keys that stood in a section for its former target, and that the one given now does not take.
    parameters = _parameters(component)
    if parameters is None or any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values()):
        return None
    unknown = [key for key in component if key not in parameters and key not in COMPONENT_KEYS]
    if not unknown:
        return None
    name = component["_target_"]
    return (
        f"--{path}#_target_: {name} takes no {', '.join(unknown)}, which stands in that section; give the whole "
        f"section, as --{path} \"{{'_target_': '{name}'}}\""
    )

"""Commands by Fire that refuse what they do not know before any work starts."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from fire.decorators import SetParseFn

from .errors import InputError, reports_input_errors


def _converted(name: str, text: Any, hint: Any) -> Any:
    # Fire's own guess would turn a folder called 2024 into a number, so texts come as they were typed.
    # What Fire makes of an option with nothing behind it; and an empty text, as of a variable that is not set, would be
    # the current folder as a path.
    if hint in (str, str | None) and text in ("True", ""):
        raise InputError(f"--{name} needs a value")
    if hint is bool:
        if text not in ("True", "False", True, False):
            raise InputError(f"--{name} is True where it is given; it takes no {text!r}")
        return text in ("True", True)
    for kind, words in ((int, "a whole number"), (float, "a number")):
        if hint in (kind, kind | None) and isinstance(text, str):
            try:
                return kind(text)
            except ValueError:
                raise InputError(f"--{name} has to be {words}, not {text!r}") from None
    return text


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a function a command: its `InputError` is one line, and so is an argument that it does not have.

    Fire by itself calls the function first and then complains of what was left over. Options have to be keyword-only
    and annotated; int, float and bool are converted, all else stays text.
    """
    signature, hints = inspect.signature(function), get_type_hints(function)
    parameters = signature.parameters.values()
    places = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    options = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    takes_more = any(p.kind is p.VAR_POSITIONAL for p in parameters)

    @functools.wraps(function)
    def run(*args: Any, **given: Any) -> None:
        if given.pop("help", None):
            print(inspect.getdoc(function))
            return
        if unknown := sorted(set(given) - {p.name for p in options}):
            known = ", ".join(f"--{p.name}" for p in options)
            raise InputError(f"no option --{unknown[0]}; there are {known or 'none'}")
        if missing := [name.upper() for name, value in zip(places, args, strict=False) if value in (None, "")]:
            raise InputError(f"{' and '.join(missing)} missing; add --help to see how it is called")
        if not takes_more and len(args) > len(places):
            raise InputError(f"{args[len(places)]!r} is one argument too many; options are given as --name value")
        function(*args, **{name: _converted(name, value, hints[name]) for name, value in given.items()})

    # What Fire sees takes anything and needs nothing, so that it is `run` that answers.
    seen = [inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None) for name in places]
    more = inspect.Parameter("more", inspect.Parameter.VAR_POSITIONAL)
    rest = inspect.Parameter("others", inspect.Parameter.VAR_KEYWORD)
    run.__signature__ = inspect.Signature([*seen, more, *options, rest])
    return SetParseFn(str)(reports_input_errors(run))

"""The one exception that means "your input is wrong", and how a command shows it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class InputError(ValueError):
    """A wrong file, key, shape or value given by the user; its text names it and says how to mend it."""


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turn an `InputError` into one line on standard error and exit code 2; everything else passes.

    `SystemExit` on purpose: MONAI's config parser wraps every ``Exception`` of an expression in a traceback
    of its own, and lets this one through.
    """
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        raise SystemExit(2) from None


def reports_input_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command so that its `InputError` is shown as one line (see `one_line_errors`)."""
    return one_line_errors()(function)

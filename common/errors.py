"""The one exception that means "your input is wrong", and how a command shows it."""

from __future__ import annotations

import os
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


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    # `… | head` closes the pipe when it has seen enough: no error of the command, and nothing to show a traceback for.
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is flushed at the end goes there


def reports_input_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command so that its `InputError` is shown as one line (see `one_line_errors`).

    It ends in silence where the reader of its output has left, as ``head`` does.
    """
    return one_line_errors()(_reader_may_leave()(function))

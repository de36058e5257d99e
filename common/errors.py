"""The one exception that means "your input is wrong", and how a command shows it."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES)


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


def disk_error_line(error: BaseException | None) -> str | None:
    """What to say of an error of the disk (full, over a quota, not to be written to); None for every other error.

    The errors that it was raised in handling of are looked at too: `torch.save` tells a full disk by one of its own.
    """
    while error is not None:
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            place = f": {error.filename}" if error.filename else ""
            return f"{error.strerror}{place}; make room or choose another folder"
        error = error.__context__
    return None


@contextmanager
def _output_may_fail() -> Iterator[None]:
    try:
        yield
        if sys.stdout is not None:  # as where a service closes it
            sys.stdout.flush()
    except BrokenPipeError:
        # `… | head` closes the pipe when it has seen enough: nothing to show a traceback for.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is flushed at the end goes there
        raise SystemExit(128 + 13) from None  # as a shell tells SIGPIPE
    except OSError as error:
        if (line := disk_error_line(error)) is None:
            raise
        raise InputError(line) from None


def reports_input_errors(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command so that its `InputError` is shown as one line (see `one_line_errors`).

    Where the reader of its output has left, as ``head`` does, it ends in silence with exit code 141; a full disk is one
    line too.
    """
    return one_line_errors()(_output_may_fail()(function))

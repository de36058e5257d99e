"""Silence that holds for all threads as long as any of them needs it, and ends with the last."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager


class Shared:
    """A context manager that the first thread enters for all, and the last one leaves.

    For what is the whole process's, as filters of warnings and levels of loggers are: of two threads that each save it,
    change it and put it back, the first to leave ends the other's silence, and the last may put that back for good.

    Args:
        make: a context manager, made anew whenever none is entered.
    """

    def __init__(self, make: Callable[[], AbstractContextManager]) -> None:
        self._make, self._lock, self._inside = make, threading.Lock(), 0
        self._entered: AbstractContextManager | None = None
        if hasattr(os, "register_at_fork"):  # the threads within it are not there in a child
            os.register_at_fork(after_in_child=self._leave_all)

    def _leave_all(self) -> None:
        self._lock = threading.Lock()
        if self._inside:
            self._entered.__exit__(None, None, None)
            self._inside = 0

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Hold it for a block."""
        with self._lock:
            if not self._inside:
                self._entered = self._make()
                self._entered.__enter__()
            self._inside += 1
        try:
            yield
        finally:
            with self._lock:
                self._inside -= 1
                if not self._inside:
                    self._entered.__exit__(None, None, None)


# No warning is shown.
quietly = Shared(lambda: warnings.catch_warnings(action="ignore"))

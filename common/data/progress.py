"""The one progress bar of all data work."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")


def bar(items: Iterable[Item], description: str, unit: str, total: int | None, shown: bool = True) -> Iterable[Item]:
    """`items` with a bar on standard error; rare lines instead of a moving bar where that is a file."""
    pause = 0.2 if sys.stderr.isatty() else 10.0
    return tqdm(
        items, desc=description, unit=unit, total=total, disable=not shown, mininterval=pause, maxinterval=pause
    )

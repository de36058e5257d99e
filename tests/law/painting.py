"""Painting by few steps, what it leaves, and how it is stopped in the middle."""

from __future__ import annotations

from pathlib import Path

import pytest

import common.law.painter
from common.law.generate import generate

QUICK = {"steps": 2, "batch_size": 2, "progress": False}


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pictures(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(folder).items() if name.startswith("images/")}


def state_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.painting")


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Raise what Ctrl-C raises, before the batch after these."""
    painted = 0
    real_sample = common.law.painter.sample

    def sample(*arguments, **options):
        nonlocal painted
        painted += 1
        if painted > batches:
            raise KeyboardInterrupt
        return real_sample(*arguments, **options)

    monkeypatch.setattr(common.law.painter, "sample", sample)


def stopped(monkeypatch: pytest.MonkeyPatch, *arguments, **options) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 1)
        generate(*arguments, **{**QUICK, **options})

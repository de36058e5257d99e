"""What the tests of bundles share: commands, and something to run them on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bundles.drawn import draw_prepared
from tests.bundles.warm import WarmPython

for module in ("contract", "painter_contract", "segmenter_contract"):
    pytest.register_assert_rewrite(f"tests.bundles.{module}")  # their asserts show their values then


@pytest.fixture(scope="session")
def warm(tmp_path_factory) -> Iterator[WarmPython]:
    """Runs `python -m …` (see `WarmPython`)."""
    if not hasattr(os, "fork"):
        pytest.skip("needs a system that forks")
    with WarmPython(tmp_path_factory.mktemp("streams")) as python:
        yield python


@pytest.fixture(scope="session")
def drawn(tmp_path_factory) -> Path:
    """A sound prepared folder; copy it before you change it."""
    return draw_prepared(tmp_path_factory.mktemp("drawn") / "set")

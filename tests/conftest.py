"""What every test shares. Settings come before any import of torch; processes that tests start inherit them."""

from __future__ import annotations

import os
from pathlib import Path

# One thread a process: the suite runs one process a core, and threads that share a core only slow each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["MPLBACKEND"] = "Agg"  # pictures go to files; no test opens a window
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the hub for anything

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests marked `gpu` where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real datasets (`polyps/`, `brisc/`, …), from ``LAW_ORDER_DATA``; the test is skipped without it."""
    folder = os.environ.get("LAW_ORDER_DATA")
    if not folder:
        pytest.skip("LAW_ORDER_DATA is not set")
    # A path that is set but wrong would otherwise skip in silence what somebody meant to run.
    if not Path(folder).is_dir():
        pytest.fail(f"LAW_ORDER_DATA={folder} is not a folder; unset it or name the folder that holds polyps/")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def repository() -> Path:
    """Root folder of the checkout."""
    return Path(__file__).resolve().parent.parent

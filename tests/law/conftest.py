"""A tiny model and masks to paint from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from common.data.folder import Pair, Split, write_prepared_folder
from common.law.loading import save_denoiser
from tests.law.small import PROMPT, pixel_parts


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "law"
    parts = pixel_parts()
    parts.prompt = PROMPT
    save_denoiser(folder, parts)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder as of real pairs: six to train on, the last without a lesion, and one to test."""
    folder = tmp_path_factory.mktemp("real") / "polyps"
    generator = np.random.default_rng(0)
    pairs = []
    for number in range(7):
        lesion = np.zeros((30, 40), bool)
        if number != 5:
            lesion[4 + number : 16 + number, 10 + number : 25] = True
        pixels = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        pairs.append(Pair(pixels, lesion, "kvasir", f"sequence_{number // 2}", f"x{number}"))
    names = [pair.name for pair in pairs]
    lists = {"law": Split(names[:6], names[6:], [])}
    write_prepared_folder(folder, pairs, lists, name="polyps", licence="research only", progress=False)
    return folder


@pytest.fixture
def files(real: Path, tmp_path: Path) -> Path:
    """The masks with a lesion as plain files, to add to."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(5):
        shutil.copyfile(real / "masks" / f"kvasir_x{number}.png", folder / f"x{number}.png")
    return folder

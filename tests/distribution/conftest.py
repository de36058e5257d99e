"""What the tests of packages share: the five zips, unpacked in a folder that knows nothing of the repository."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

from bundles.packing import Packed, pack
from bundles.sources import bundle_names, collection
from tests.bundles.conftest import drawn, warm

__all__ = ["drawn", "warm"]


@dataclass(frozen=True)
class Packages:
    """Packed bundles by name, their zips, and the folder where each lies unpacked under its name."""

    packed: dict[str, Packed]
    zips: dict[str, Path]
    unpacked: Path


@pytest.fixture(scope="session")
def packages(tmp_path_factory) -> Packages:
    """Every bundle, packed in full."""
    folder = tmp_path_factory.mktemp("packages")
    packed = {name: pack(collection(), name) for name in bundle_names(collection())}
    zips = {}
    for name, each in packed.items():
        zips[name] = folder / each.file_name
        zips[name].write_bytes(each.zip())
        with zipfile.ZipFile(zips[name]) as archive:
            archive.extractall(folder / "unpacked")
    return Packages(packed, zips, folder / "unpacked")

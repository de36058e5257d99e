"""What lies beside a folder of painted images until it is whole, so that a stopped run goes on."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..data.folder import DATALIST, load_json
from ..data.reading import encode_png
from ..errors import InputError
from ..files import check_writable, write_atomically, write_json
from ..provenance import GENERATION

RECORD = GENERATION  # in the output: all that its images depend on

_DIGITS = 32  # of the digest in the name of a painted image


class PaintingState:
    """The folder beside an output: the settings of the run, and an image a file, `<stem>.<digest of its bytes>.png`.

    A file gets that name when it is whole, so what a killed process or a bad disk left behind does not fit its name.

    Args:
        out: the folder that is to be.
        settings: all that its images depend on.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out = out
        self.settings = dict(settings)
        whole = Path(os.path.abspath(out))
        self.folder = whole.with_name(f".{whole.name}.painting")

    @property
    def finished(self) -> Path:
        """The output on its way out, in this folder."""
        return self.folder / "finished"

    def is_done(self) -> bool:
        """Whether the output is there, painted with these settings.

        Raises:
            InputError: if it holds anything else.
        """
        if not self.out.exists() or (self.out.is_dir() and not any(self.out.iterdir())):
            return False
        if not (self.out / RECORD).is_file() or not (self.out / DATALIST).is_file():
            raise InputError(f"{self.out} exists already and is not empty; name a new folder, or remove it first")
        if other := self._differences(load_json(self.out / RECORD)):
            raise InputError(f"{self.out} was painted with other settings ({other}); name a new folder")
        shutil.rmtree(self.folder, ignore_errors=True)  # of a process killed at its last breath
        return True

    def begin(self) -> None:
        """Make the folder, or go on in the one that a stopped run has left.

        Raises:
            InputError: if that run had other settings, or the folder cannot be written to.
        """
        record = self.folder / RECORD
        check_writable(self.out.parent)
        if any(self.folder.glob("*.png")):
            other = self._differences(load_json(record)) if record.is_file() else "it does not say which"
            if other:
                raise InputError(
                    f"{self.out} was begun with other settings ({other}); finish it with those, or remove {self.folder}"
                )
        check_writable(self.folder)
        write_json(record, self.settings)
        for left in [self.finished, *self.folder.glob(".*.part")]:
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)

    def _differences(self, theirs: Mapping[str, Any]) -> str:
        keys = [key for key in {**self.settings, **theirs} if self.settings.get(key) != theirs.get(key)]
        return ", ".join(
            f"{key}: {theirs.get(key)}, now {self.settings.get(key)}" if key not in ("model", "masks") else f"its {key}"
            for key in keys
        )

    def painted(self) -> dict[str, Path]:
        """The images that are there, by stem; those that are not what they were are removed."""
        there = {}
        for path in self.folder.glob("*.png"):
            stem, digest = path.stem.rsplit(".", 1)
            if hashlib.sha256(path.read_bytes()).hexdigest()[:_DIGITS] == digest:
                there[stem] = path
            else:
                path.unlink()
        return there

    def keep(self, stem: str, image: Tensor) -> None:
        """Write an image, ``(3, H, W)`` in [0, 1].

        Raises:
            InputError: if the disk does not take it; the call can be given again then.
        """
        pixels = (image * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()
        content = encode_png(pixels)
        digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
        try:
            write_atomically(self.folder / f"{stem}.{digest}.png", content)
        except OSError as error:
            raise InputError(f"{self.folder}: {error.strerror}; make room, then give the same call to go on") from None

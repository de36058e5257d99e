"""Phantoms: drawn colonoscopy pictures with exact masks, for whoever has no real ones at hand.

A scope looks down a folded tube; its light falls off with distance; polyps are ellipsoids melted into the wall. The
mask is what is visible of them, to the pixel. Numbers are drawn by lot first (`sample_phantom`) and painted after,
without further chance (`render`): see `phantoms_scene` for what they mean, `phantoms_sampling` and `phantoms_polyps`
for how they fall, `phantoms_surface`, `phantoms_texture`, `phantoms_shading` and `phantoms_optics` for the painting.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from .folder import Pair, Prepared, Split, write_prepared_folder
from .phantoms_optics import develop, frame_opening
from .phantoms_sampling import sample_phantom
from .phantoms_scene import PhantomParameters
from .phantoms_shading import shade
from .phantoms_surface import surface

__all__ = ["Phantom", "PhantomParameters", "draw_phantom", "prepare_phantoms", "render", "sample_phantom"]

SOURCE = "phantom"
PROTOCOL = "phantoms"
_SEEDS = 1_000_000  # of a folder: no two folders of different seeds share a phantom


@dataclass(frozen=True)
class Phantom:
    """A drawn picture and its mask.

    Attributes:
        image: (size, size, 3) uint8 RGB.
        mask: (size, size) uint8, 255 where a polyp is visible, else 0.
        parameters: all that it was drawn from.
    """

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    parameters: PhantomParameters


def _check_size(size: int) -> None:
    if size < 64 or size % 32:
        raise InputError(f"a phantom of size {size} cannot be drawn; size has to be a multiple of 32, at least 64")


def render(parameters: PhantomParameters) -> Phantom:
    """Paint a phantom; the same parameters give the same pixels.

    Raises:
        InputError: if the size is not a multiple of 32 or less than 64.
    """
    _check_size(parameters.size)
    seen = surface(parameters)
    image = develop(shade(parameters, seen), parameters.light, parameters.optics, parameters.frame)
    mask = (seen.owner >= 0) & frame_opening(parameters.frame, parameters.size)
    return Phantom(image, np.where(mask, np.uint8(255), np.uint8(0)), parameters)


def draw_phantom(seed: int, size: int = 256, *, empty_fraction: float = 0.0) -> Phantom:
    """The phantom of a seed: the same scene at every size.

    Args:
        seed: any whole number from 0.
        size: side of the picture, a multiple of 32, at least 64.
        empty_fraction: chance that it shows no polyp.

    Raises:
        InputError: for another seed or size.
    """
    _check_size(size)
    if seed < 0:
        raise InputError(f"seed is {seed}; it has to be a whole number from 0")
    return render(sample_phantom(np.random.default_rng(seed), size, empty_fraction=empty_fraction))


def prepare_phantoms(
    out: str | Path,
    count: int = 400,
    size: int = 256,
    seed: int = 0,
    test_count: int = 50,
    *,
    empty_fraction: float = 0.0,
    progress: bool = True,
) -> Prepared:
    """Draw a prepared folder: source "phantom", a group for each picture, one protocol, "phantoms".

    Args:
        out: a new or empty folder.
        count: of the pictures to train on; a tenth of them becomes validation.
        size: side of the pictures, a multiple of 32, at least 64.
        seed: folders of different seeds have no phantom in common.
        test_count: of the test pictures, drawn beside `count`; they stay the same whatever `count` is.
        empty_fraction: of pictures without a polyp.
        progress: show a bar.

    Raises:
        InputError: if `out` is in use or cannot be written, or a number makes no sense. Nothing is left behind.
    """
    _check_size(size)
    half = _SEEDS // 2
    if not 1 <= count <= half or not 0 <= test_count <= half:
        raise InputError(f"count is {count} and test_count {test_count}; they have to be from 1 and 0 to {half}")
    if seed < 0:
        raise InputError(f"seed is {seed}; it has to be a whole number from 0")
    if not 0 <= empty_fraction <= 1:
        raise InputError(f"empty_fraction is {empty_fraction}; it has to be from 0 to 1")
    training = range(seed * _SEEDS, seed * _SEEDS + count)
    test = range(seed * _SEEDS + half, seed * _SEEDS + half + test_count)

    def pairs() -> Iterator[Pair]:
        for number in (*training, *test):
            drawn = draw_phantom(number, size, empty_fraction=empty_fraction)
            yield Pair(drawn.image, drawn.mask, SOURCE, f"{SOURCE}_{number}", f"{number:06d}")

    def names(numbers: range) -> list[str]:
        return [f"{SOURCE}_{number:06d}" for number in numbers]

    lists = write_prepared_folder(
        out,
        pairs(),
        {PROTOCOL: Split(names(training), names(test))},
        name="phantoms",
        labels={"0": "background", "1": "polyp"},
        licence="Apache-2.0; drawn, no patient's picture",
        description=f"Drawn colonoscopy pictures of {size} x {size} pixels.",
        seed=seed,
        total=count + test_count,
        progress=progress,
    )
    return Prepared(lists)

"""CT volumes in NIfTI, in any orientation, read as axial slices with little memory.

Axial means here as a radiologist looks at a slice, and as KiTS19 was released: the first axis runs from the head down
(I), rows from front to back (P), columns from the patient's right to the left (L). A stored axis that lies oblique
counts as the direction that it is nearest to; nothing is resampled.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from nibabel.filebasedimages import ImageFileError
from nibabel.fileholders import FileHolder
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError, SpatialImage

from ..errors import InputError

AXIAL = ("I", "P", "L")
SUFFIXES = (".nii.gz", ".nii")

_BLOCK_BYTES = 2**25  # of a volume held at a time
_GRID_TOLERANCE = 0.5  # voxels: less, and each voxel still lies on its own one of the other grid
_GZIP = b"\x1f\x8b"
_BROKEN = (OSError, EOFError, zlib.error, ImageFileError, HeaderDataError, ValueError)

Box = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Volume:
    """The header of a volume.

    Attributes:
        path: the file.
        shape: (slices, rows, columns), axial.
        affine: `(4, 4)`, from axial voxel indices to millimetres (right, front, up).
        turn: `(3, 2)`, nibabel's orientation transform from stored to axial.
    """

    path: Path
    shape: tuple[int, int, int]
    affine: np.ndarray
    turn: np.ndarray


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except PermissionError as error:
        raise InputError(f"{path}: {error.strerror.lower()}") from None
    except _BROKEN as error:
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path}: unreadable or cut short ({said}); copy it again") from None


@contextmanager
def _opened(path: Path) -> Iterator[tuple[SpatialImage, BinaryIO]]:
    # One stream for header and voxels, so that a compressed file is read forward, once.
    with open(path, "rb") as file:
        zipped = file.read(2) == _GZIP
    with gzip.open(path, "rb") if zipped else open(path, "rb") as stream:
        kind = type(nibabel.load(path))
        yield kind.from_file_map({"image": FileHolder(fileobj=stream)}), stream


def _fault(image: SpatialImage) -> str | None:
    # What keeps a volume from being read as axial slices, by its header.
    if not isinstance(image, nibabel.Nifti1Image):
        return f"not NIfTI but {type(image).__name__}"
    if len(image.shape) != 3 or 0 in image.shape:
        return f"of shape {'×'.join(map(str, image.shape))}; a volume has three axes"
    if image.get_data_dtype().kind not in "iuf":
        return f"voxels of type {image.get_data_dtype()}, not numbers"
    if not int(image.header["sform_code"]) and not int(image.header["qform_code"]):
        return "its header states no orientation (sform_code and qform_code are 0)"
    if not np.isfinite(image.affine).all() or np.isnan(io_orientation(image.affine)).any():
        return "its header's affine does not span three axes"
    return None


def open_volume(path: str | Path) -> Volume:
    """Read the header of a NIfTI file, `.nii` or `.nii.gz`.

    Raises:
        InputError: if it is missing, not NIfTI, cut short, not of three axes, or states no orientation.
    """
    path = Path(path)
    with _reading(path), _opened(path) as (image, _):
        if fault := _fault(image):
            raise InputError(f"{path}: {fault}")
        turn = ornt_transform(io_orientation(image.affine), axcodes2ornt(AXIAL))
        shape = [0, 0, 0]
        for length, (axis, _) in zip(image.shape, turn, strict=True):
            shape[int(axis)] = int(length)
        affine = image.affine @ inv_ornt_aff(turn, image.shape)
        return Volume(path, tuple(shape), affine, turn)


def grid_fault(one: Volume, other: Volume) -> str | None:
    """How the voxels of two volumes fail to lie on each other, None if they do to within half a voxel."""
    shapes = ["×".join(map(str, volume.shape)) for volume in (one, other)]
    if one.shape != other.shape:
        return f"{one.path.name} has {shapes[0]} voxels (slices, rows, columns), {other.path.name} {shapes[1]}"
    corners = np.array([(*corner, 1) for corner in product(*((0, length - 1) for length in one.shape))])
    apart = np.abs(np.linalg.solve(one.affine, other.affine) @ corners.T - corners.T)[:3].max()
    if apart > _GRID_TOLERANCE:
        return f"the affines of {one.path.name} and {other.path.name} lay their voxels up to {apart:.1f} voxels apart"
    return None


def _box(volume: Volume, first: int, last: int) -> Box:
    # Where the stored slab [..., first:last] lies in the axial volume.
    axis, flip = int(volume.turn[2, 0]), volume.turn[2, 1]
    box = [slice(0, length) for length in volume.shape]
    length = volume.shape[axis]
    box[axis] = slice(first, last) if flip > 0 else slice(length - last, length - first)
    return tuple(box)


def read_blocks(volume: Volume) -> Iterator[tuple[Box, np.ndarray]]:
    """Read the voxels once, in blocks of about 32 MB.

    Yields:
        The place of a block in the axial volume, and its values there, of the stored type (or float64 where the
        header scales them).

    Raises:
        InputError: if the file is cut short or damaged, or holds a value that is not finite.
    """
    with _reading(volume.path), _opened(volume.path) as (image, stream):
        stored = image.shape
        slab = max(1, _BLOCK_BYTES // (stored[0] * stored[1] * image.get_data_dtype().itemsize))
        for first in range(0, stored[2], slab):
            last = min(first + slab, stored[2])
            values = np.asarray(image.dataobj[..., first:last])
            if values.dtype.kind == "f" and not np.isfinite(values).all():
                raise InputError(f"{volume.path}: has voxels that are not finite (NaN or infinite); replace the file")
            yield _box(volume, first, last), apply_orientation(values, volume.turn)
        while stream.read(2**20):  # to the end, where gzip compares its checksum
            pass


def read_slices(volume: Volume, wanted: Sequence[int], convert: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """Some axial slices, `(len(wanted), rows, columns)`, of the type that `convert` makes of a block.

    The whole file is read and checked, as by `read_blocks`; no more than a block and the slices are held.
    """
    out = None
    places = np.asarray(wanted, dtype=int)
    for box, values in read_blocks(volume):
        here = np.flatnonzero((places >= box[0].start) & (places < box[0].stop))
        part = convert(values[places[here] - box[0].start])
        if out is None:
            out = np.zeros((len(places), *volume.shape[1:]), part.dtype)
        out[here, box[1], box[2]] = part
    return out


def window_8bit(values: np.ndarray, window: float, level: float) -> np.ndarray:
    """CT values as uint8: level − window/2 and below is 0, level + window/2 and above is 255, linear between."""
    low = level - window / 2
    return np.round((np.clip(values, low, low + window) - low) * (255 / window)).astype(np.uint8)

"""New lesion masks from real ones: moved, scaled, rotated and elastically deformed. Not of the paper.

What to do is drawn by lot first (`sample_change`) and done after, without further chance (`change_mask`);
`augment_mask` is the two together. The rules that its result keeps:

- it has a lesion, and no more pieces than the source;
- its share of the image is within `MaskRanges.area`, or between that and the source's share, where that is outside;
- a lesion that lies wholly in the image stays wholly in it. One that the frame cuts off is thought on beyond the frame
  as its mirror image, so that a straight cut never becomes the outline of a lesion, and no greater part of its height
  or width than in the source comes to lie outside.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from ..data.reading import binarise
from ..errors import InputError

KNOTS = 5  # of the elastic deformation, along each side

_TOUCHING = np.ones((3, 3), bool)  # pieces that meet at a corner are one
_FULL_ATTEMPTS = 12
_TEMPERED_ATTEMPTS = 8  # each half as strong as the one before
_ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class MaskChange:
    """What is done to a mask; as it stands, nothing.

    Attributes:
        shift: pixels down and to the right.
        scale: of lengths, about the lesion's centre of mass.
        angle: degrees, from the row axis towards the column axis, about the same.
        bend: ``(2, KNOTS, KNOTS)``, where the outline is taken from: coefficients of a cubic B-spline of the
            displacement down and to the right, on the square about the centre that just holds the lesion. 1 is half
            its side. Below 0.25 nothing folds along an axis.
    """

    shift: tuple[int, int] = (0, 0)
    scale: float = 1.0
    angle: float = 0.0
    bend: NDArray[np.float64] = field(default_factory=lambda: np.zeros((2, KNOTS, KNOTS)))

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and math.isfinite(self.angle)):
            raise InputError(f"scale {self.scale} has to be positive and angle {self.angle} a number")
        if self.bend.shape != (2, KNOTS, KNOTS):
            raise InputError(f"bend: {self.bend.shape} has to be {(2, KNOTS, KNOTS)}")


@dataclass(frozen=True)
class MaskRanges:
    """What `sample_change` draws from, everything uniform.

    Attributes:
        shift: at most this share of the image's height and width, to either side.
        scale: least and most; its logarithm is uniform.
        angle: at most, in degrees, to either side.
        bend: at most, see `MaskChange.bend`.
        area: least and greatest share of the image that the lesion may have afterwards.
    """

    shift: float = 0.3
    scale: tuple[float, float] = (0.6, 1.6)
    angle: float = 180.0
    bend: float = 0.15
    area: tuple[float, float] = (0.003, 0.4)

    def __post_init__(self) -> None:
        if not 0 <= self.shift <= 1:
            raise InputError(f"shift: {self.shift} has to be from 0 to 1, a share of the image")
        if not 0 < self.scale[0] <= self.scale[1] < math.inf:
            raise InputError(f"scale: {self.scale} has to be two positive numbers, the lesser first")
        if not 0 <= self.angle <= 180:
            raise InputError(f"angle: {self.angle} has to be from 0 to 180 degrees")
        if not 0 <= self.bend < 0.25:
            raise InputError(f"bend: {self.bend} has to be at least 0 and below 0.25, where outlines fold")
        if not 0 <= self.area[0] <= self.area[1] <= 1:
            raise InputError(f"area: {self.area} has to be two shares of the image from 0 to 1, the lesser first")


@dataclass(frozen=True)
class _Lesion:
    # The lesion of a mask, thought on beyond the frame. Positions are in pixels of the mask.
    frame: tuple[int, int]
    whole: NDArray[np.bool_]  # just the box about it
    corner: NDArray[np.float64]  # where the box begins; negative beyond the frame
    centre: NDArray[np.float64]  # of mass, of what is seen
    outside: NDArray[np.int64]  # (2, 2): rows and columns of the box before and behind the frame
    pieces: int
    seen: int  # pixels

    @property
    def share(self) -> float:
        return self.seen / math.prod(self.frame)

    @property
    def reach(self) -> float:
        # Half the side of the square about the centre that holds the box.
        ends = np.stack([self.corner, self.corner + self.whole.shape - 1])
        return float(np.abs(ends - self.centre).max()) + 0.5


def augment_mask(mask: ArrayLike, seed: int, ranges: MaskRanges | None = None) -> NDArray[np.bool_]:
    """A new mask from a real one; the same seed gives the same.

    Args:
        mask: ``(H, W)``: bool, 0 and 1, or anything whose lesion is > 127.
        seed: any whole number from 0.
        ranges: of what is drawn; the defaults if None.

    Returns:
        ``(H, W)`` bool, which keeps the rules above.

    Raises:
        InputError: for a mask of another shape, or without a lesion.
    """
    return change_mask(mask, sample_change(mask, np.random.default_rng(seed), ranges))


def sample_change(mask: ArrayLike, generator: np.random.Generator, ranges: MaskRanges | None = None) -> MaskChange:
    """Draw a change of this mask that keeps the rules above.

    What does not is drawn again, then ever weaker; the last resort is no change at all.

    Raises:
        InputError: as `augment_mask`.
    """
    ranges = ranges or MaskRanges()
    lesion = _read(mask)
    least, greatest = min(ranges.area[0], lesion.share), max(ranges.area[1], lesion.share)
    for attempt in range(_FULL_ATTEMPTS + _TEMPERED_ATTEMPTS):
        strength = 0.5 ** max(0, attempt + 1 - _FULL_ATTEMPTS)
        form = _draw_form(lesion, generator, ranges, (least, greatest), strength)
        shape, corner = _form(lesion, form)
        shift = _draw_shift(lesion, shape, corner, generator, ranges.shift * strength)
        if shift is None:
            continue
        result = _place(lesion, shape, corner, shift)
        if result.any() and least <= result.mean() <= greatest:
            return MaskChange(shift, form.scale, form.angle, form.bend)
    return MaskChange()


def change_mask(mask: ArrayLike, change: MaskChange) -> NDArray[np.bool_]:
    """The mask after a change: deformed, then rotated and scaled about its centre, then shifted.

    The outline is that of the signed distance to the lesion, interpolated linearly. Of pieces that the change breaks
    off, the largest are kept, as many as the source has. What leaves the image is cut off.

    Args:
        mask: as `augment_mask`.
        change: what to do.

    Returns:
        ``(H, W)`` bool; equal to the source's lesion for `MaskChange()`.

    Raises:
        InputError: as `augment_mask`.
    """
    lesion = _read(mask)
    return _place(lesion, *_form(lesion, change), change.shift)


def _read(mask: ArrayLike) -> _Lesion:
    mask = np.asarray(mask)
    if mask.ndim != 2:
        raise InputError(f"the mask has shape {mask.shape}; give (height, width)")
    seen = binarise(mask)
    if not seen.any():
        raise InputError("the mask has no lesion, so there is nothing to move or deform; leave it out")
    box = ndimage.find_objects(seen.astype(np.uint8))[0]
    size = np.array([side.stop - side.start for side in box])
    start = np.array([side.start for side in box])
    touched = np.array([[side.start == 0, side.stop == length] for side, length in zip(box, seen.shape, strict=True)])
    outside = touched * size[:, None]
    return _Lesion(
        frame=seen.shape,
        whole=_thought_on(seen[box], outside),
        corner=(start - outside[:, 0]).astype(float),
        centre=np.array(ndimage.center_of_mass(seen)),
        outside=outside,
        pieces=ndimage.label(seen, _TOUCHING)[1],
        seen=int(seen.sum()),
    )


def _thought_on(seen: NDArray[np.bool_], outside: NDArray[np.int64]) -> NDArray[np.bool_]:
    # Mirrored at the edges that it touches, without mirror images of pieces that do not touch them.
    if not outside.any():
        return seen
    labels, _ = ndimage.label(np.pad(seen, outside, mode="symmetric"), _TOUCHING)
    middle = tuple(slice(before, before + side) for (before, _), side in zip(outside, seen.shape, strict=True))
    return np.isin(labels, np.unique(labels[middle][seen]))


def _form(lesion: _Lesion, change: MaskChange) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    # Deformed, rotated and scaled: just the box about it, and where that begins. Empty if nothing is left.
    padded = np.pad(lesion.whole, 2)
    distance = ndimage.distance_transform_edt(padded) - ndimage.distance_transform_edt(~padded)
    reach = lesion.reach * math.sqrt(2) * change.scale * (1 + np.abs(change.bend).max()) + 2
    first, last = np.floor(lesion.centre - reach), np.ceil(lesion.centre + reach)
    rows, columns = (np.arange(low, high + 1) for low, high in zip(first, last, strict=True))
    down, right = rows[:, None] - lesion.centre[0], columns[None, :] - lesion.centre[1]
    cosine, sine = math.cos(math.radians(change.angle)), math.sin(math.radians(change.angle))
    offset = np.stack([cosine * down + sine * right, -sine * down + cosine * right]) / change.scale
    if change.bend.any():
        places = (offset / lesion.reach + 1) * (KNOTS - 1) / 2
        bent = [
            ndimage.map_coordinates(knots, places, order=3, mode="nearest", prefilter=False) for knots in change.bend
        ]
        offset += lesion.reach * np.stack(bent)
    source = offset + (lesion.centre - lesion.corner + 2)[:, None, None]
    shape = ndimage.map_coordinates(distance, source, order=1, mode="nearest") > 0
    if not shape.any():
        return np.zeros((0, 0), bool), first.astype(int)
    box = ndimage.find_objects(shape.astype(np.uint8))[0]
    return shape[box], first.astype(int) + [side.start for side in box]


def _place(
    lesion: _Lesion, shape: NDArray[np.bool_], corner: NDArray[np.int64], shift: tuple[int, int]
) -> NDArray[np.bool_]:
    # What is seen of it in the frame.
    placed = np.zeros(lesion.frame, bool)
    start = corner + np.array(shift)
    stop = np.minimum(start + shape.shape, lesion.frame)
    low = np.maximum(start, 0)
    if (low < stop).all():
        inside = tuple(slice(a - s, b - s) for a, b, s in zip(low, stop, start, strict=True))
        placed[low[0] : stop[0], low[1] : stop[1]] = shape[inside]
    labels, count = ndimage.label(placed, _TOUCHING)
    if count <= lesion.pieces:
        return placed
    sizes = np.bincount(labels.ravel())[1:]
    return np.isin(labels, 1 + np.argsort(-sizes, kind="stable")[: lesion.pieces])


def _draw_form(
    lesion: _Lesion,
    generator: np.random.Generator,
    ranges: MaskRanges,
    area: tuple[float, float],
    strength: float,
) -> MaskChange:
    # All but the shift. Scales that would leave the range of areas are not drawn.
    limits = [math.log(scale) * strength for scale in ranges.scale]
    allowed = [math.log(max(share, _ROUNDING) / lesion.share) / 2 for share in area]
    scale = math.exp(generator.uniform(*np.clip(limits, *allowed)))
    angle = generator.uniform(-1, 1) * ranges.angle * strength
    bend = generator.uniform(-1, 1, (2, KNOTS, KNOTS)) * generator.uniform(0, ranges.bend) * strength
    return MaskChange(scale=scale, angle=angle, bend=bend)


def _draw_shift(
    lesion: _Lesion,
    shape: NDArray[np.bool_],
    corner: NDArray[np.int64],
    generator: np.random.Generator,
    limit: float,
) -> tuple[int, int] | None:
    # One that keeps the rule of the frame; None if the lesion has become too large for any.
    shift = []
    for axis, side in enumerate(lesion.frame):
        before, behind = np.floor(
            lesion.outside[axis] * shape.shape[axis] / lesion.whole.shape[axis] + _ROUNDING
        ).astype(int)
        least, most = -before - corner[axis], side + behind - corner[axis] - shape.shape[axis]
        if least > most:
            return None
        near = np.clip([-round(limit * side), round(limit * side)], least, most)
        shift.append(int(generator.integers(near[0], near[1], endpoint=True)))
    return shift[0], shift[1]

"""The visible surface of a phantom: rays from the scope against the tube and the polyps on it.

All arrays are float32. Rays are flat lists of pixels in row order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from .phantoms_scene import Camera, Lobe, PhantomParameters, Polyp, Tube

Array = NDArray[np.float32]
FARTHEST = np.float32(9.0)
COARSE = 48
_FOLDS = 64  # of the table; a power of two, because a mask is quicker than a remainder
CHUNK = 12288  # points whose intermediate results stay in a core's cache


@dataclass(frozen=True)
class Surface:
    """What each pixel sees; every field is (size, size), vectors have a leading axis."""

    rays: Array  # (3, …) unit directions
    wall: Array  # distance to the bare wall along the ray
    distance: Array  # distance to what is visible
    owner: NDArray[np.int8]  # index of the polyp that is visible, -1 for the wall
    weight: Array  # 0 wall .. 1 polyp, soft where a polyp rises from the wall


def image_grid(size: int) -> tuple[Array, Array]:
    """Image coordinates (x, y) of the pixel centres of a (size, size) picture."""
    line = ((np.arange(size, dtype=np.float32) + 0.5) * np.float32(2.0 / size) - 1).astype(np.float32)
    return np.broadcast_to(line, (size, size)), np.broadcast_to(line[:, None], (size, size))


def camera_rays(camera: Camera, x: Array, y: Array) -> Array:
    """Unit directions (3, …) of the rays through image points (x, y)."""
    right, down, forward = np.asarray(camera.axes, np.float32)
    shape = (3,) + (1,) * x.ndim
    rays = forward.reshape(shape) + camera.tangent * (x * right.reshape(shape) + y * down.reshape(shape))
    rays /= np.sqrt((rays * rays).sum(0))
    return rays.astype(np.float32, copy=False)


class Wall:
    """The tube with its folds, as a function whose sign tells inside from outside."""

    def __init__(self, tube: Tube) -> None:
        self.tube = tube
        rows = [(f.height, f.position, 1 / f.width, *f.facing, f.extent, f.slant) for f in tube.folds]
        repeated = [rows[number % len(rows)] for number in range(_FOLDS)]
        self.table = np.array(repeated, np.float32).T.copy()
        self.phase = np.cos(tube.triangle_phase), np.sin(tube.triangle_phase)

    def axis(self, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """Coordinates across the tube, from its bent axis."""
        zz = z * z
        bent = zz / (1 + np.float32(0.12) * zz)
        return x - np.float32(self.tube.bend[0]) * bent, y - np.float32(self.tube.bend[1]) * bent

    def clearance(self, x: Array, y: Array, z: Array) -> Array:
        """Distance left to the wall, across the tube: positive inside the lumen."""
        tube, single = self.tube, np.float32
        x, y = self.axis(x, y, z)
        rho = np.sqrt(x * x + y * y) + single(1e-6)
        c, s = x / rho, y / rho
        triangle = c * (4 * c * c - 3) * single(self.phase[0]) + s * (3 - 4 * s * s) * single(self.phase[1])
        cell = (z + single(tube.tilt[0]) * x + single(tube.tilt[1]) * y) * single(1 / tube.spacing)
        floor = np.floor(cell)
        index = floor.astype(np.int32) & (_FOLDS - 1)
        height, position, steepness, facing_x, facing_y, extent, slant = (np.take(row, index) for row in self.table)
        towards = c * facing_x + s * facing_y
        side = np.maximum(extent + (1 - extent) * towards, 0)
        across = (cell - floor - position + slant * towards) * steepness
        radius = 1 + single(tube.triangularity) * triangle
        radius -= height * side * (1 + single(0.35) * triangle) * np.exp(-across * across)
        return radius - rho

    def along(self, camera: Camera, rays: Array, t: Array) -> Array:
        """Clearance at distance `t` along each of the rays (3, n)."""
        room = np.empty_like(t)
        for first in range(0, t.size, CHUNK):
            part = slice(first, first + CHUNK)
            x, y, z = (np.float32(o) + t[part] * d[part] for o, d in zip(camera.origin, rays, strict=True))
            room[part] = self.clearance(x, y, z)
        return room


def _march(wall: Wall, camera: Camera, rays: Array, start: Array, steps: int) -> Array:
    """Distance to the first crossing of the wall at or after `start`; at most `FARTHEST`."""
    # For each ray the last point inside, the first outside, and the clearance at both.
    brackets = np.empty((4, start.size), np.float32)
    left = np.arange(start.size)
    near, t, active = start, start, rays
    room_near = room = wall.along(camera, rays, t)
    for _ in range(steps):
        hit = (room <= 0) | (t >= FARTHEST)
        if hit.any():
            for row, values in zip(brackets, (near, t, room_near, room), strict=True):
                row[left[hit]] = values[hit]
            keep = np.flatnonzero(~hit)
            left, active, t, room = left[keep], active[:, keep], t[keep], room[keep]
        if not left.size:
            return _refine(wall, camera, rays, *brackets)
        near, room_near = t, room
        # Folds are steep: the clearance may shrink about twice as fast as the ray advances.
        t = np.minimum(t + np.maximum(np.float32(0.45) * room, np.float32(0.03) * (1 + t)), FARTHEST)
        room = wall.along(camera, active, t)
    brackets[:, left] = near, t, room_near, room  # out of steps, grazing the wall: take it as met
    return _refine(wall, camera, rays, *brackets)


def _refine(wall: Wall, camera: Camera, rays: Array, a: Array, b: Array, fa: Array, fb: Array) -> Array:
    """Root between `a` (inside) and `b` (outside) by two steps of the Illinois method; `b` where there is none."""
    t = b
    for _ in range(2):
        fa, fb = np.maximum(fa, np.float32(1e-6)), np.minimum(fb, np.float32(0))
        t = np.where(fb < 0, a + (b - a) * (fa / (fa - fb)), b)
        f = wall.along(camera, rays, t)
        outside = f <= 0
        fa = np.where(outside, fa * np.float32(0.5), f)
        a, b, fb = np.where(outside, a, t), np.where(outside, t, b), np.where(outside, f, fb)
    return t


@lru_cache(maxsize=2)
def coarse_wall(tube: Tube, camera: Camera) -> Array:
    """Distance (COARSE, COARSE) to the bare wall. Cached: the sampler, the exposure and the drawing all ask for it."""
    x, y = image_grid(COARSE)
    rays = camera_rays(camera, x, y).reshape(3, -1)
    start = np.full(rays.shape[1], 0.03, np.float32)
    distance = _march(Wall(tube), camera, rays, start, 90).reshape(COARSE, COARSE)
    distance.setflags(write=False)
    return distance


def enlarge(values: Array, size: int) -> Array:
    """Linear interpolation of (n, n) `values` to (size, size), pixel centres kept in place."""
    old = values.shape[0]
    place = np.clip((np.arange(size) + 0.5) * old / size - 0.5, 0, old - 1)
    low = np.minimum(place.astype(int), old - 2)
    matrix = np.zeros((size, old), np.float32)
    matrix[np.arange(size), low] = 1 - (place - low)
    matrix[np.arange(size), low + 1] = place - low
    return matrix @ values @ matrix.T


def wall_distance(tube: Tube, camera: Camera, size: int) -> Array:
    """Distance (size, size) to the bare wall: from the coarse picture to half the size to all of it."""
    distance = coarse_wall(tube, camera)
    for step in (size // 2, size) if size > COARSE else (size,):
        distance = _sharpen(tube, camera, distance, step)
    return distance


def _sharpen(tube: Tube, camera: Camera, rough: Array, size: int) -> Array:
    """A larger picture of the wall: one secant step where it is smooth, marched anew near the edges of folds."""
    wall = Wall(tube)
    rays = camera_rays(camera, *image_grid(size)).reshape(3, -1)
    near, far = ndimage.minimum_filter(rough, 3), ndimage.maximum_filter(rough, 3)
    guess = enlarge(rough, size).ravel()
    behind, before = guess * np.float32(1.004), guess * np.float32(0.996)
    room_before, room_behind = wall.along(camera, rays, before), wall.along(camera, rays, behind)
    fall = np.maximum(room_before - room_behind, np.float32(1e-6))
    distance = before + (behind - before) * (room_before / fall)
    nearest = (np.arange(size) * rough.shape[0]) // size
    edge = (far > near * np.float32(1.12))[nearest[:, None], nearest].ravel()
    again = np.flatnonzero(edge | (np.abs(distance - guess) > np.float32(0.03) * guess))
    start = near[nearest[:, None], nearest].ravel()[again] * np.float32(0.985) - np.float32(0.004)
    distance[again] = _march(wall, camera, rays[:, again], start, 60)
    return np.minimum(distance, FARTHEST).reshape(size, size)


def _ellipsoid(lobe: Lobe, origin: Array, rays: Array) -> Array:
    """Distance along rays (3, …) to an ellipsoid, infinite where it is missed."""
    to_unit = np.asarray(lobe.axes, np.float32) / np.asarray(lobe.radii, np.float32)[:, None]
    centre = to_unit @ (np.asarray(lobe.centre, np.float32) - origin)
    d = np.tensordot(to_unit, rays, 1)
    dd, dc = (d * d).sum(0), np.tensordot(centre, d, 1)
    root = dc * dc - dd * np.float32(centre @ centre - 1)
    t = (dc - np.sqrt(np.maximum(root, 0))) / dd
    return np.where((root > 0) & (t > 0.02), t, np.float32(np.inf))


def smooth_minimum(a: Array, b: Array, width: float) -> Array:
    """Minimum of `a` and `b`, rounded where they differ by less than `width` (polynomial, exact elsewhere)."""
    far = np.float32(1e6)  # stands for infinity, which cannot be subtracted from itself
    melt = np.maximum(np.float32(width) - np.abs(np.minimum(a, far) - np.minimum(b, 2 * far)), 0)
    return np.minimum(a, b) - melt * melt * np.float32(0.25 / width)


def polyp_box(polyp: Polyp, size: int) -> tuple[slice, slice]:
    """Rows and columns of a (size, size) picture that may show the polyp."""

    def side(middle: float) -> slice:
        low, high = ((middle + sign * polyp.reach + 1) * size / 2 for sign in (-1, 1))
        return slice(max(0, int(np.floor(low))), min(size, int(np.ceil(high)) + 1))

    return side(polyp.centre[1]), side(polyp.centre[0])


def polyp_distance(polyp: Polyp, camera: Camera, x: Array, y: Array) -> Array:
    """Distance to the polyp alone through image points (x, y), infinite beside it."""
    px, py = (x - polyp.centre[0]) / polyp.reach, (y - polyp.centre[1]) / polyp.reach
    shift_x, shift_y = np.zeros_like(px), np.zeros_like(py)
    for kx, ky, phase, dx, dy in polyp.waves:
        wave = np.sin(np.float32(kx) * px + np.float32(ky) * py + np.float32(phase))
        shift_x += np.float32(dx * polyp.reach) * wave
        shift_y += np.float32(dy * polyp.reach) * wave
    rays = camera_rays(camera, x + shift_x, y + shift_y)
    origin = np.asarray(camera.origin, np.float32)
    distance = _ellipsoid(polyp.lobes[0], origin, rays)
    for lobe in polyp.lobes[1:]:
        distance = smooth_minimum(distance, _ellipsoid(lobe, origin, rays), 0.3 * polyp.radius)
    return distance


def surface(parameters: PhantomParameters) -> Surface:
    """Trace the wall, set the polyps on it, and say what each pixel sees."""
    size, camera = parameters.size, parameters.camera
    x, y = image_grid(size)
    rays = camera_rays(camera, x, y)
    wall = wall_distance(parameters.tube, camera, size)
    distance, weight = wall.copy(), np.zeros((size, size), np.float32)
    owner = np.full((size, size), -1, np.int8)
    for number, polyp in enumerate(parameters.polyps):
        box = polyp_box(polyp, size)
        bare = polyp_distance(polyp, camera, x[box], y[box])
        width = polyp.fillet * polyp.radius
        seen = bare < np.where(owner[box] >= 0, distance[box], wall[box])
        depth = np.clip((wall[box] - bare) / np.float32(width), -1, 1)  # -inf beside the polyp
        weight[box] = np.maximum(weight[box], np.float32(0.5) + np.float32(0.5) * depth)
        owner[box] = np.where(seen, np.int8(number), owner[box])
        distance[box] = smooth_minimum(distance[box], bare, width)
    return Surface(rays, wall, distance, owner, weight)

"""Chance: which polyps a phantom shows. They are tried out on a small plan of the scene until their size is right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .phantoms_optics import frame_opening, writing_area
from .phantoms_scene import Camera, Frame, Lobe, Polyp, Tube, plain
from .phantoms_surface import Wall, camera_rays, coarse_wall, enlarge, image_grid, polyp_box, polyp_distance

SMALLEST, LARGEST = 0.003, 0.20  # of the picture, for one polyp
_GRID = 192  # the side of the plan, on which visible areas are measured
_ATTEMPTS = 60

# Albedo of polyps relative to their wall's: alike, redder, paler, brownish, yellowish.
_TINTS = np.array([[1, 0.97, 0.97], [0.98, 0.74, 0.74], [1.12, 1.25, 1.25], [0.82, 0.72, 0.68], [1.08, 1.1, 0.9]])

Generator = np.random.Generator


def any_direction(rng: Generator) -> tuple[float, float]:
    """A unit vector of the plane, every direction as likely as any other."""
    angle = rng.uniform(0, 2 * np.pi)
    return float(np.cos(angle)), float(np.sin(angle))


def _frame_on(normal: NDArray[np.float64], rng: Generator) -> NDArray[np.float64]:
    """An orthonormal frame (rows) whose last row is `normal`, turned at random about it."""
    first = np.cross(normal, rng.normal(size=3))
    first /= np.linalg.norm(first)
    return np.stack([first, np.cross(normal, first), normal])


class _Shape:
    """The ellipsoids of one polyp in units of its radius, around a point of the wall; z is the wall's normal."""

    def __init__(self, rng: Generator) -> None:
        self.kind = str(rng.choice(["sessile", "pedunculated", "flat"], p=(0.58, 0.2, 0.22)))
        stretch = np.array([rng.uniform(0.8, 1.35), rng.uniform(0.75, 1.1)])
        self.parts: list[tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]] = []
        if self.kind == "flat":
            self._body(np.zeros(3), np.array([*stretch * 1.1, rng.uniform(0.22, 0.45)]))
            self._satellites(rng, int(rng.integers(0, 4)), 0.7)
        elif self.kind == "sessile":
            lift = rng.uniform(0.0, 0.5)
            self._body(np.array([0, 0, lift]), np.array([*stretch, rng.uniform(0.65, 1.05)]))
            self._satellites(rng, int(rng.choice([0, 0, 1, 2, 3, 5])), rng.uniform(0.4, 0.8))
        else:
            lean = np.array([*rng.normal(0, 0.55, 2), 1.0])
            lean /= np.linalg.norm(lean)
            length = rng.uniform(1.3, 2.6)
            self._body(lean * length, np.array([*stretch, rng.uniform(0.8, 1.25)]), _frame_on(lean, rng))
            self._satellites(rng, int(rng.choice([0, 0, 0, 1, 2])), 0.5)
            thick = rng.uniform(0.25, 0.45)
            stalk = np.array([thick, thick, 0.62 * length])
            self.parts.append((lean * length * 0.45, stalk, _frame_on(lean, rng)))

    def _body(
        self, centre: NDArray[np.float64], radii: NDArray[np.float64], frame: NDArray[np.float64] | None = None
    ) -> None:
        self.parts.append((centre, radii, np.eye(3) if frame is None else frame))

    def _satellites(self, rng: Generator, count: int, spread: float) -> None:
        middle, radii, _ = self.parts[0]
        for _ in range(count):
            way = rng.normal(size=3)
            way /= np.linalg.norm(way)
            centre = middle + way * radii * spread * rng.uniform(0.8, 1.3)
            self.parts.append((centre, radii * rng.uniform(0.35, 0.75), np.eye(3)))

    def lobes(self, point: NDArray[np.float64], frame: NDArray[np.float64], radius: float) -> tuple[Lobe, ...]:
        """The ellipsoids at a point of the wall with the given frame (rows), at the given radius."""
        return tuple(
            Lobe(
                centre=plain(point + radius * (centre @ frame)),
                radii=plain(radius * radii),
                axes=tuple(plain(row) for row in own @ frame),
            )
            for centre, radii, own in self.parts
        )


def _in_picture(camera: Camera, point: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Image coordinates of a point of the scene, and its depth along the line of sight."""
    right, down, forward = np.asarray(camera.axes) @ (point - np.asarray(camera.origin))
    depth = max(float(forward), 1e-3)
    return np.array([right, down]) / (depth * camera.tangent), depth


def _bounds(camera: Camera, lobes: tuple[Lobe, ...]) -> tuple[tuple[float, float], float]:
    """Centre and half side, in image coordinates, of a square that holds the lobes."""
    low, high = np.full(2, np.inf), np.full(2, -np.inf)
    for lobe in lobes:
        middle, depth = _in_picture(camera, np.asarray(lobe.centre))
        largest = max(lobe.radii)
        half = 1.12 * largest / (max(depth - 0.6 * largest, 0.05) * camera.tangent)
        low, high = np.minimum(low, middle - half), np.maximum(high, middle + half)
    return plain((low + high) / 2), float((high - low).max() / 2) * 1.1


def _wall_normal(wall: Wall, point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vector from the wall at `point` into the lumen."""
    step = 0.02
    around = np.float32(point[:, None] + step * np.concatenate([np.eye(3), -np.eye(3)], 1))
    rooms = wall.clearance(*around)
    normal = (rooms[:3] - rooms[3:]).astype(float)
    return normal / (np.linalg.norm(normal) + 1e-9)


class Plan:
    """The bare scene on a small grid, on which polyps are tried out before one is chosen."""

    def __init__(self, tube: Tube, camera: Camera, frame: Frame) -> None:
        self.camera, self.wall = camera, Wall(tube)
        self.distance = enlarge(coarse_wall(tube, camera), _GRID)
        self.opening = frame_opening(frame, _GRID)
        self.taken = np.zeros((_GRID, _GRID), bool)
        self.grid = image_grid(_GRID)
        light = 1 / (self.distance**2 + 0.2)
        bright = light / np.quantile(light[self.opening], 0.7)
        fit = self.opening & (bright > 0.12) & (self.distance > 0.3) & (self.distance < 4.0)
        self.fit = np.flatnonzero(fit & ~writing_area(frame, _GRID))

    def visible(self, polyp: Polyp) -> tuple[NDArray[np.bool_], float]:
        """Where the polyp would be seen, and the fraction of the whole polyp that this is."""
        seen = np.zeros((_GRID, _GRID), bool)
        box = polyp_box(polyp, _GRID)
        x, y = self.grid
        bare = polyp_distance(polyp, self.camera, x[box], y[box])
        if not bare.size:
            return seen, 0.0
        seen[box] = (bare < self.distance[box]) & self.opening[box] & ~self.taken[box]
        return seen, float(seen.sum()) / max(1, int(np.isfinite(bare).sum()))


def _look(rng: Generator) -> dict[str, object]:
    """The colour and the surface of a polyp."""
    tint = _TINTS[rng.choice(len(_TINTS), p=(0.12, 0.38, 0.24, 0.13, 0.13))]
    tint = 1 + (tint - 1) * rng.uniform(0.7, 1.5) + rng.normal(0, 0.03, 3)
    return {
        "tint": plain(tint),
        "vessels": float(rng.uniform(0.0, 0.5)),
        "relief": float(rng.uniform(0.003, 0.018)),
        "pits": float(rng.choice([rng.uniform(0.0, 0.02), rng.uniform(0.02, 0.08)])),
        "offset": plain(rng.uniform(0, 256, 2)),
        "gloss": float(rng.uniform(0.4, 3.0)),
    }


def _waves(rng: Generator) -> tuple[tuple[float, float, float, float, float], ...]:
    """A wavy outline: a few waves, the shorter the lower."""
    roughness = rng.uniform(0.3, 1.3)
    waves = []
    for number in np.exp(rng.uniform(np.log(2.5), np.log(11), 5)):
        kx, ky = number * np.array(any_direction(rng))
        shift = roughness * 0.12 / number * rng.normal(size=2)
        waves.append(plain(np.array([kx, ky, rng.uniform(0, 2 * np.pi), *shift])))
    return tuple(waves)


def _try_polyp(rng: Generator, plan: Plan, target: float) -> tuple[Polyp, NDArray[np.bool_]] | None:
    """One attempt to set a polyp that fills `target` of the picture at a random place of the wall."""
    # Whoever holds the scope brings what there is to see towards the middle: of two places mostly the more central.
    rows, columns = np.divmod(plan.fit[rng.integers(plan.fit.size, size=2)], _GRID)
    order = np.argsort(np.hypot(rows - _GRID / 2, columns - _GRID / 2))
    pick = order[0] if rng.random() < 0.7 else order[1]
    row, column = rows[pick], columns[pick]
    x, y = (np.float32((place + 0.5) * 2 / _GRID - 1) for place in (column, row))
    ray = camera_rays(plan.camera, np.array([x]), np.array([y]))[:, 0]
    point = np.asarray(plan.camera.origin) + float(plan.distance[row, column]) * ray
    frame = _frame_on(_wall_normal(plan.wall, point), rng)
    shape, look, waves = _Shape(rng), _look(rng), _waves(rng)
    fillet = float(rng.uniform(0.2, 0.7) if shape.kind != "pedunculated" else rng.uniform(0.08, 0.2))
    pits = rng.uniform(5, 13) * 10
    _, depth = _in_picture(plan.camera, point)
    radius = np.sqrt(target * 4 / np.pi) * depth * plan.camera.tangent
    for _ in range(5):
        radius = float(np.clip(radius, 0.01, 0.7))
        lobes = shape.lobes(point, frame, radius)
        centre, reach = _bounds(plan.camera, lobes)
        # Pits finer than three pixels of a 256² picture would only flicker.
        scale = float(min(pits, reach * 128 * 3.5))
        polyp = Polyp(shape.kind, lobes, radius, centre, reach, waves, fillet, pit_scale=scale, **look)
        seen, share = plan.visible(polyp)
        area = float(seen.mean())
        if abs(area - target) < 0.15 * target + 2 / _GRID**2:
            return (polyp, seen) if share > 0.4 else None
        radius *= float(np.clip(np.sqrt(target / max(area, 1e-5)), 0.6, 1.6))
    return None


def sample_polyps(rng: Generator, plan: Plan, count: int) -> tuple[Polyp, ...]:
    """`count` polyps, each with a visible area drawn log-uniformly from `SMALLEST` to `LARGEST` of the picture."""
    polyps: list[Polyp] = []
    for number in range(count):
        target = float(np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST if number == 0 else 0.05))))
        for _ in range(_ATTEMPTS):
            if plan.fit.size and (tried := _try_polyp(rng, plan, target)):
                polyps.append(tried[0])
                plan.taken |= tried[1]
                break
    return tuple(polyps)

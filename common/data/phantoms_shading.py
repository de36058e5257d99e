"""Light and colour on the visible surface of a phantom: relief, vessels, polyps, highlights, residue and bubbles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .phantoms_scene import Bubble, PhantomParameters, Polyp, Residue
from .phantoms_surface import FARTHEST, Surface, Wall, coarse_wall, image_grid, polyp_box
from .phantoms_texture import BLOTCH, GRAIN, PITS, RELIEF, TILE, VESSELS, look_up, noise_tiles, vessel_tile

Array = NDArray[np.float32]
_CREEP = np.float32(0.35)
_REPEATS = 3  # how often a tile goes round the bowel
# What blood takes from red, green and blue.
_BLOOD = np.array([0.35, 1.15, 1.0], np.float32)[:, None, None]


def _column(colour: tuple[float, ...]) -> Array:
    return np.asarray(colour, np.float32)[:, None, None]


def wall_places(parameters: PhantomParameters, seen: Surface) -> tuple[Array, Array]:
    """Places (u, v) of the noise tile on the bare wall that each pixel looks at, in tile cells."""
    points = _column(parameters.camera.origin) + seen.wall * seen.rays
    x, y = Wall(parameters.tube).axis(*points)
    per_radius = np.float32(_REPEATS * TILE / (2 * np.pi))
    return np.arctan2(y, x) * per_radius, points[2] * per_radius


def polyp_places(polyp: Polyp, x: Array, y: Array) -> tuple[Array, Array]:
    """Places of the noise tile on a polyp, for image points (x, y): laid on as if it were a sphere."""
    px, py = (x - polyp.centre[0]) / polyp.reach, (y - polyp.centre[1]) / polyp.reach
    bulge = 1 + np.float32(0.5) * (px * px + py * py)  # the pattern closes up towards the rim
    scale = np.float32(polyp.pit_scale)
    return px * bulge * scale + np.float32(polyp.offset[0]), py * bulge * scale + np.float32(polyp.offset[1])


def exposure_gain(parameters: PhantomParameters) -> float:
    """Gain that brings the bare wall to the mean brightness the scene asks for; polyps do not move it."""
    distance = coarse_wall(parameters.tube, parameters.camera)
    light = 1 / (distance * distance + np.float32(parameters.light.softness**2))
    middle = float(np.quantile(light, 0.65))
    return parameters.light.exposure / float(np.minimum(light, 2 * middle).mean())


def _slope(points: Array, distance: Array, axis: int) -> Array:
    """Tangent of the surface along an image axis, from whichever neighbour is on the same side of an edge."""
    step = np.diff(points, axis=axis + 1)
    jump = np.abs(np.diff(distance, axis=axis))
    last = (slice(None),) * axis
    ahead = np.concatenate([step, step[(slice(None), *last, slice(-1, None))]], axis + 1)
    behind = np.concatenate([step[(slice(None), *last, slice(0, 1))], step], axis + 1)
    jump_ahead = np.concatenate([jump, jump[(*last, slice(-1, None))]], axis)
    jump_behind = np.concatenate([jump[(*last, slice(0, 1))], jump], axis)
    return np.where(jump_ahead < jump_behind, ahead, behind)


def normals(rays: Array, distance: Array) -> Array:
    """Unit normals (3, H, W), towards the scope, of the surface at `distance` along `rays`."""
    points = distance * rays
    a, b = _slope(points, distance, 1), _slope(points, distance, 0)
    normal = np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])
    normal /= np.sqrt((normal * normal).sum(0)) + np.float32(1e-12)
    return np.where((normal * rays).sum(0) > 0, -normal, normal)


def illuminate(parameters: PhantomParameters, rays: Array, distance: Array, gloss: Array) -> tuple[Array, Array]:
    """Diffuse and specular light (H, W) that come back from the surface, for a gain of 1."""
    light, axes = parameters.light, np.asarray(parameters.camera.axes, np.float32)
    normal = normals(rays, distance)
    points = distance * rays
    diffuse = np.zeros_like(distance)
    specular = np.zeros_like(distance)
    for right, down in light.guides:
        to_light = _column(right * axes[0] + down * axes[1]) - points
        square = (to_light * to_light).sum(0)
        to_light /= np.sqrt(square)
        fall = 1 / (square + np.float32(light.softness**2))
        # Light also creeps through the tissue: a surface seen edge-on is dimmer, not black.
        diffuse += fall * np.maximum(((normal * to_light).sum(0) + _CREEP) / (1 + _CREEP), 0)
        half = to_light - rays
        half /= np.sqrt((half * half).sum(0))
        shine = np.maximum((normal * half).sum(0), 0)
        specular += fall * np.exp(np.float32(parameters.mucosa.sharpness) * (shine - 1))
    count = (1 - (distance / FARTHEST) ** 2) / len(light.guides)  # nothing comes back from where no wall was met
    diffuse = count * (diffuse + np.float32(light.ambient * len(light.guides)) / (distance * distance + 1))
    return diffuse, specular * count * gloss


class Skin:
    """Albedo, relief and gloss of the surface, filled first by the wall and then by each polyp."""

    def __init__(self, parameters: PhantomParameters, seen: Surface) -> None:
        mucosa = parameters.mucosa
        generator = np.random.default_rng(mucosa.seed)
        noise = noise_tiles(generator)
        vessels = vessel_tile(generator) if mucosa.vessels else np.zeros_like(noise[0])
        self.tiles = np.stack([*noise, vessels], -1)
        u, v = wall_places(parameters, seen)
        self.wall = look_up(self.tiles, u, v)
        self.relief = np.float32(mucosa.relief) * self.wall[RELIEF] + np.float32(mucosa.swell) * self.wall[BLOTCH]
        self.blood = np.float32(mucosa.vessels) * self.wall[VESSELS]
        blotch = np.clip(np.float32(0.5) + np.float32(0.35) * self.wall[BLOTCH], 0, 1) * np.float32(mucosa.blotchiness)
        self.albedo = _column(mucosa.albedo) + blotch * (_column(mucosa.blotch) - _column(mucosa.albedo))
        self.shade = 1 + np.float32(mucosa.grain) * (self.wall[GRAIN] + np.float32(0.7) * self.wall[RELIEF])
        # The film on the wall is wet in places only.
        self.gloss = np.float32(mucosa.gloss) * np.clip(np.float32(0.6) - np.float32(0.7) * self.wall[BLOTCH], 0.03, 1)

    def add(self, polyp: Polyp, seen: Surface, number: int) -> None:
        """Give the pixels of a polyp its own colour, pits and relief; they fade in where it rises from the wall."""
        size = seen.distance.shape[0]
        box = polyp_box(polyp, size)
        x, y = image_grid(size)
        own = look_up(self.tiles, *polyp_places(polyp, x[box], y[box]))
        near = seen.weight[box] * (seen.owner[box] == number)
        rising = np.clip(2 * seen.weight[box] - np.float32(0.6), 0, 1) * (seen.owner[box] == number)
        self.albedo[:, *box] *= 1 + near * (_column(polyp.tint) - 1)
        self.blood[box] *= 1 - near * np.float32(1 - polyp.vessels)
        self.shade[box] *= 1 + rising * np.float32(polyp.pits) * (own[PITS] + np.float32(0.5) * own[GRAIN])
        bumps = np.float32(polyp.relief * polyp.radius) * (own[RELIEF] + np.float32(polyp.pits * 4) * own[PITS])
        self.relief[box] += rising * (bumps - 0.7 * self.relief[box])
        self.gloss[box] += rising * (np.float32(polyp.gloss) - self.gloss[box])


def _cover_with_residue(residue: Residue, skin: Skin, seen: Surface) -> Array:
    """Lay mucus and stool on the skin; returns how thickly each pixel is covered, 0..1."""
    size = seen.distance.shape[0]
    x, y = image_grid(size)
    thick = np.zeros((size, size), np.float32)
    if residue.cover > 0:
        field = skin.wall[BLOTCH] + np.float32(0.4) * skin.wall[RELIEF] + np.float32(residue.offset[0])
        thick = np.clip((field - np.float32(residue.scale)) * np.float32(1.3), 0, 1) * np.float32(residue.cover)
        if not residue.over_polyps:
            thick = thick * (1 - seen.weight)
    level = residue.pool_facing[0] * x + residue.pool_facing[1] * y - np.float32(residue.pool_level)
    shore = level + np.float32(0.05) * skin.wall[BLOTCH] + np.float32(0.02) * skin.wall[RELIEF]
    pool = np.clip(shore * 4, 0, 1) * np.float32(0.6)  # the deeper, the murkier
    thick = np.maximum(thick, pool)
    skin.albedo += thick * (_column(residue.colour) - skin.albedo)
    skin.blood *= 1 - thick
    skin.relief *= 1 - np.float32(0.9) * pool
    return thick


def _blow_bubbles(bubbles: tuple[Bubble, ...], light: Array) -> None:
    """Draw the rim and the glint of each bubble into linear light (3, size, size)."""
    size = light.shape[1]
    x, y = image_grid(size)
    for bubble in bubbles:
        reach = bubble.radius + 4 / size
        rows, columns = (
            slice(max(0, int((c - reach + 1) * size / 2)), max(0, int((c + reach + 1) * size / 2) + 2))
            for c in (bubble.centre[1], bubble.centre[0])
        )
        dx, dy = (x[rows, columns] - bubble.centre[0]), (y[rows, columns] - bubble.centre[1])
        if not dx.size:
            continue
        distance = np.hypot(dx, dy) / np.float32(bubble.radius)
        softness = np.float32(max(0.18, 1.2 / (size * bubble.radius)))
        rim = np.exp(-(((distance - np.float32(0.9)) / softness) ** 2))
        inside = distance < 0.85
        spot = np.exp(
            -((dx + bubble.radius * 0.35) ** 2 + (dy + bubble.radius * 0.35) ** 2) / (0.2 * bubble.radius) ** 2
        )
        patch = light[:, rows, columns]
        patch *= 1 - np.float32(0.25 * bubble.strength) * inside
        # It shines by the light around it, so it is dim in the depth of the lumen.
        around = np.float32(min(1.0, 2 * float(patch[0].mean())))
        patch += np.float32(bubble.strength) * (
            rim * np.float32(0.4) * patch + around * (np.float32(0.04) * rim + spot)
        )


def shade(parameters: PhantomParameters, seen: Surface) -> Array:
    """Linear light (3, size, size) that reaches the sensor; 1 is where it saturates."""
    skin = Skin(parameters, seen)
    for number, polyp in enumerate(parameters.polyps):
        skin.add(polyp, seen, number)
    _cover_with_residue(parameters.residue, skin, seen)
    distance = np.minimum(seen.distance - skin.relief, FARTHEST)
    diffuse, specular = illuminate(parameters, seen.rays, distance, skin.gloss)
    gain = np.float32(exposure_gain(parameters))
    light = skin.albedo * np.exp(-_BLOOD * skin.blood) * (np.maximum(skin.shade, 0.2) * diffuse * gain)
    light *= _column(parameters.light.colour)
    light += np.minimum(specular * gain, np.float32(4.0))
    _blow_bubbles(parameters.bubbles, light)
    return light

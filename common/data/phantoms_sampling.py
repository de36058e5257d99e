"""Chance: which bowel and which view a phantom shows. All of it happens here, before any drawing."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .phantoms_polyps import Plan, any_direction, sample_polyps
from .phantoms_scene import Bubble, Camera, Fold, Frame, Light, Mucosa, Optics, PhantomParameters, Residue, Tube, plain
from .phantoms_surface import Wall

# Mucosa as scopes show it, in display RGB: pink, salmon, orange, brownish, pale, red.
_MUCOSAE = np.array(
    [[214, 112, 98], [222, 116, 80], [218, 114, 58], [176, 98, 68], [210, 140, 118], [200, 84, 72]], float
)
_RESIDUES = np.array([[222, 168, 56], [204, 136, 44], [140, 92, 44], [232, 196, 130], [196, 148, 70]], float)

Generator = np.random.Generator


def _linear(display: NDArray[np.float64]) -> NDArray[np.float64]:
    return (np.clip(display, 4, 252) / 255) ** 2.1


def sample_tube(rng: Generator) -> Tube:
    """A stretch of bowel: some are smooth, some crowded with folds."""
    spacing = rng.uniform(0.6, 1.5)
    prominence = rng.uniform(0.35, 1.0)
    folds = tuple(
        Fold(
            height=float(prominence * rng.uniform(0.2, 0.62)),
            width=float(min(rng.uniform(0.09, 0.24) / spacing, 0.19)),
            position=float(rng.uniform(0.42, 0.58)),
            facing=any_direction(rng),
            extent=float(rng.uniform(0.1, 0.7)),
            slant=float(np.clip(rng.normal(0, 0.09), -0.16, 0.16)),
        )
        for _ in range(10)
    )
    return Tube(
        bend=plain(rng.normal(0, 0.2, 2)),
        tilt=plain(rng.normal(0, 0.2, 2)),
        spacing=float(spacing),
        triangularity=float(rng.uniform(0.0, 0.16)),
        triangle_phase=float(rng.uniform(0, 2 * np.pi)),
        folds=folds,
    )


def sample_camera(rng: Generator, tube: Tube) -> Camera:
    """A place within the lumen, and a view down it, aslant, or onto the wall."""
    low, high = ((8, 35), (35, 60), (60, 85))[rng.choice(3, p=(0.45, 0.35, 0.20))]
    tilt, turn, roll = np.radians(rng.uniform(low, high)), rng.uniform(0, 2 * np.pi), rng.uniform(0, 2 * np.pi)
    forward = np.array([np.sin(tilt) * np.cos(turn), np.sin(tilt) * np.sin(turn), np.cos(tilt)])
    side = np.cross(forward, [np.cos(turn + 2), np.sin(turn + 2), 0.3])
    side /= np.linalg.norm(side)
    up = np.cross(forward, side)
    right = np.cos(roll) * side + np.sin(roll) * up
    axes = tuple(plain(row) for row in (right, np.cross(forward, right), forward))
    wall = Wall(tube)
    room = 0.16 if rng.random() < 0.35 else 0.3  # close to a wall, that wall is overexposed
    for shrink in np.linspace(1, 0, 12):
        # Backed off from the wall it looks at, so that more than a patch is seen.
        across = shrink * (rng.normal(0, 0.33, 2) - 0.35 * np.sin(tilt) * forward[:2])
        origin = np.array([*across, rng.uniform(0, tube.spacing)])
        if wall.clearance(*np.float32(origin).reshape(3, 1))[0] > room:
            break
    return Camera(origin=plain(origin), axes=axes, tangent=float(rng.uniform(0.9, 1.45)))


def sample_light(rng: Generator) -> Light:
    """Lamp and automatic gain."""
    angle, gap = rng.uniform(0, 2 * np.pi), rng.uniform(0.03, 0.12)
    guide = np.array([np.cos(angle), np.sin(angle)]) * gap
    warm = rng.normal(0.02, 0.03)
    return Light(
        guides=(plain(guide), plain(-guide + rng.normal(0, 0.03, 2))),
        softness=float(rng.uniform(0.2, 0.5)),
        ambient=float(rng.uniform(0.0, 0.06)),
        exposure=float(np.exp(rng.uniform(np.log(0.55), np.log(1.7)))),
        gamma=float(rng.uniform(1.7, 2.2)),
        colour=plain(np.array([1 + warm, 1.0, 1 - warm])),
    )


def sample_mucosa(rng: Generator) -> Mucosa:
    """Colour and relief of the wall."""
    kind = rng.choice(len(_MUCOSAE), p=(0.3, 0.25, 0.12, 0.13, 0.1, 0.1))
    base = _MUCOSAE[kind] * rng.normal(1, 0.05) + rng.normal(0, 6, 3)
    # Blood comes and goes: green and blue change together.
    blotch = base + rng.normal() * np.array([4, 16, 13]) + rng.normal(0, 3, 3)
    return Mucosa(
        seed=int(rng.integers(2**31)),
        albedo=plain(_linear(base)),
        blotch=plain(_linear(blotch)),
        blotchiness=float(rng.uniform(0.3, 1.0)),
        vessels=float(rng.choice([0.0, rng.uniform(0.05, 0.3), rng.uniform(0.3, 0.8)], p=(0.25, 0.45, 0.3))),
        relief=float(rng.uniform(0.001, 0.0045)),
        swell=float(rng.uniform(0.0, 0.05)),
        grain=float(rng.uniform(0.01, 0.05)),
        gloss=float(rng.uniform(0.2, 2.2)),
        sharpness=float(np.exp(rng.uniform(np.log(150), np.log(900)))),
    )


def sample_residue(rng: Generator) -> Residue:
    """Mucus, stool and liquid: most bowels are clean."""
    colour = _RESIDUES[rng.choice(len(_RESIDUES))] + rng.normal(0, 10, 3)
    return Residue(
        colour=plain(_linear(colour)),
        cover=float(rng.uniform(0.2, 0.85)) if rng.random() < 0.3 else 0.0,
        scale=float(rng.uniform(1.1, 2.2)),
        offset=plain(rng.normal(0, 0.3, 2)),
        over_polyps=bool(rng.random() < 0.3),
        pool_level=float(rng.uniform(0.3, 0.8)) if rng.random() < 0.12 else 9.0,
        pool_facing=any_direction(rng),
    )


def sample_bubbles(rng: Generator) -> tuple[Bubble, ...]:
    """None mostly; else a few, or a foam around one or two places."""
    if rng.random() > 0.3:
        return ()
    count = int(rng.integers(3, 12)) if rng.random() < 0.5 else int(rng.integers(15, 45))
    places = rng.uniform(-0.8, 0.8, (2, 2))
    spread = rng.uniform(0.08, 0.3)
    return tuple(
        Bubble(
            centre=plain(places[rng.integers(2)] + rng.normal(0, spread, 2)),
            radius=float(np.clip(np.exp(rng.normal(-3.9, 0.45)), 0.009, 0.09)),
            strength=float(rng.uniform(0.3, 1.0)),
        )
        for _ in range(count)
    )


def sample_frame(rng: Generator) -> Frame:
    """The black surround of one of several makes of processor, its box and its writing."""
    shape = str(rng.choice(["octagon", "rounded", "circle", "full"], p=(0.5, 0.2, 0.1, 0.2)))
    width, height = (1.0, 1.0) if shape == "full" else rng.uniform(0.93, 1.0, 2)
    corner = {"octagon": rng.uniform(0.3, 0.75), "rounded": rng.uniform(0.1, 0.5)}.get(shape, 0.0)
    inset = None
    if rng.random() < 0.3:
        green = (0.05, 0.65, 0.45) if rng.random() < 0.3 else (0.0, 0.0, 0.0)
        inset = (float(rng.uniform(0.35, 0.68)), float(rng.uniform(0.35, 0.68)), green)
    text = ()
    if rng.random() < 0.45:
        top = rng.uniform(-0.75, -0.2)
        text = tuple(
            (float(-1 + 0.02 + rng.uniform(0, 0.06)), float(top + 0.075 * line), int(rng.integers(3, 11)))
            for line in range(int(rng.integers(2, 8)))
        )
    return Frame(
        shape=shape,
        half_width=float(width if shape != "circle" else max(width, 0.95)),
        half_height=float(height),
        corner=float(corner),
        inset=inset,
        text=text,
        black=float(rng.uniform(0.0, 0.05)),
    )


def sample_optics(rng: Generator) -> Optics:
    """Sharp mostly; sometimes out of focus or moved."""
    motion = np.array(any_direction(rng)) * (rng.uniform(0.02, 0.07) if rng.random() < 0.15 else 0.0)
    return Optics(
        defocus=float(rng.uniform(0.0, 0.006) if rng.random() < 0.8 else rng.uniform(0.006, 0.012)),
        motion=plain(motion),
        sharpening=float(rng.choice([0.0, rng.uniform(0.2, 0.9)])),
        noise=float(rng.uniform(0.003, 0.014)),
        quality=int(rng.integers(45, 96)),
        vignette=float(rng.uniform(0.0, 0.6)),
        seed=int(rng.integers(2**31)),
    )


def sample_phantom(rng: Generator, size: int, *, empty_fraction: float = 0.0) -> PhantomParameters:
    """Draw by lot everything that `phantoms.render` needs.

    Args:
        rng: its state alone decides; `size` changes nothing but the number of pixels.
        size: side of the picture.
        empty_fraction: chance of a bowel without any polyp; every other phantom shows at least one.
    """
    count = 0 if rng.random() < empty_fraction else 1 + int(rng.random() < 0.15)
    while True:
        tube = sample_tube(rng)
        camera = sample_camera(rng, tube)
        frame = sample_frame(rng)
        polyps = sample_polyps(rng, Plan(tube, camera, frame), count)
        if polyps or not count:
            break
    return PhantomParameters(
        size=size,
        tube=tube,
        camera=camera,
        light=sample_light(rng),
        mucosa=sample_mucosa(rng),
        polyps=polyps,
        residue=sample_residue(rng),
        bubbles=sample_bubbles(rng),
        frame=frame,
        optics=sample_optics(rng),
    )

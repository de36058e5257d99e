"""What a phantom is made of: plain, frozen numbers from which the drawing follows without any further chance.

Lengths are in radii of the bowel (about 2.5 cm); image coordinates run from -1 to 1, x to the right, y down;
colours are linear-light RGB in 0..1. The frame of reference of the scene is the tube's: z along its axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Vector = tuple[float, float, float]
Colour = tuple[float, float, float]


def plain(values: NDArray[np.floating]) -> tuple[float, ...]:
    """The numbers of an array, as dataclasses that can be hashed and compared hold them."""
    return tuple(float(value) for value in values)


@dataclass(frozen=True)
class Fold:
    """One haustral fold: a semilunar ledge that narrows the tube."""

    height: float  # how far it reaches into the lumen
    width: float  # its half width, as a fraction of the distance between folds
    position: float  # where it sits between its neighbours, 0..1
    facing: tuple[float, float]  # unit vector across the tube towards the side where the fold is highest
    extent: float  # 0 a ledge on one side only .. 1 a full ring
    slant: float  # how far its two sides lie apart along the tube, in distances between folds


@dataclass(frozen=True)
class Tube:
    """The wall of the bowel as radius over angle and depth."""

    bend: tuple[float, float]  # sideways curvature of the axis
    tilt: tuple[float, float]  # slant of the folds against the axis
    spacing: float  # distance between folds
    triangularity: float  # the three taeniae make the lumen a rounded triangle
    triangle_phase: float
    folds: tuple[Fold, ...]  # repeated along the tube


@dataclass(frozen=True)
class Camera:
    """A pinhole at the tip of the scope."""

    origin: Vector
    axes: tuple[Vector, Vector, Vector]  # rows: right, down, forward
    tangent: float  # of half the field of view


@dataclass(frozen=True)
class Light:
    """Two light guides beside the lens, and what the processor makes of them."""

    guides: tuple[tuple[float, float], ...]  # offsets from the lens, to the right and down
    softness: float  # distance below which light no longer grows
    ambient: float  # light that the walls pass on to one another
    exposure: float  # mean linear brightness that the automatic gain aims at
    gamma: float
    colour: Colour


@dataclass(frozen=True)
class Mucosa:
    """Colour, relief and vessels of the wall."""

    seed: int  # of all noise tiles
    albedo: Colour
    blotch: Colour  # the colour that low-frequency blotches lean to
    blotchiness: float
    vessels: float  # 0 none .. 1 strong
    relief: float  # height of the fine relief, in bowel radii
    swell: float  # height of its long, low waves
    grain: float
    gloss: float  # strength of the specular highlights
    sharpness: float  # exponent of the specular lobe


@dataclass(frozen=True)
class Lobe:
    """One ellipsoid of a polyp."""

    centre: Vector
    radii: Vector
    axes: tuple[Vector, Vector, Vector]  # rows: the directions of the three radii


@dataclass(frozen=True)
class Polyp:
    """Ellipsoids, melted into one another and into the wall, under a wavy outline."""

    kind: str  # "sessile", "pedunculated" or "flat"
    lobes: tuple[Lobe, ...]
    radius: float  # a typical radius, in bowel radii
    centre: tuple[float, float]  # in image coordinates
    reach: float  # half the side, in image coordinates, of a square that holds all of it
    waves: tuple[tuple[float, float, float, float, float], ...]  # outline: wave vector, phase, shift right and down
    fillet: float  # how softly it rises from the wall, in its radii
    tint: Colour  # its albedo, relative to the wall's
    vessels: float  # how much of the wall's vessels shows on it
    relief: float  # height of its own relief, in its radii
    pits: float  # contrast of its pit pattern
    pit_scale: float  # tile cells per radius
    offset: tuple[float, float]  # into the noise tile
    gloss: float


@dataclass(frozen=True)
class Bubble:
    """A bubble of gas in the film on the wall: a ring with a glint."""

    centre: tuple[float, float]
    radius: float
    strength: float


@dataclass(frozen=True)
class Residue:
    """Mucus and stool that cling to the wall, and liquid that lies at its lowest side."""

    colour: Colour
    cover: float  # fraction of the wall under residue
    scale: float
    offset: tuple[float, float]
    over_polyps: bool
    pool_level: float  # in image coordinates along `pool_facing`; above 1.5 there is none
    pool_facing: tuple[float, float]


@dataclass(frozen=True)
class Frame:
    """What the processor puts around and on the picture."""

    shape: str  # "octagon", "rounded", "circle" or "full"
    half_width: float
    half_height: float
    corner: float  # size of the cut or rounded corners
    inset: tuple[float, float, Colour] | None  # width, height and colour of the box at the lower left
    text: tuple[tuple[float, float, int], ...]  # lines of writing: left, top, number of letters
    black: float


@dataclass(frozen=True)
class Optics:
    """Blur, sharpening, sensor noise and compression, in this order."""

    defocus: float  # standard deviation, in image coordinates
    motion: tuple[float, float]  # the way moved during exposure, in image coordinates
    sharpening: float
    noise: float  # standard deviation at mid grey, 0..1
    quality: int  # of the JPEG-like compression, 1..100
    vignette: float
    seed: int


@dataclass(frozen=True)
class PhantomParameters:
    """Everything about one phantom. `render` draws it; leave out the polyps and the same bowel is drawn without."""

    size: int
    tube: Tube
    camera: Camera
    light: Light
    mucosa: Mucosa
    polyps: tuple[Polyp, ...]
    residue: Residue
    bubbles: tuple[Bubble, ...]
    frame: Frame
    optics: Optics

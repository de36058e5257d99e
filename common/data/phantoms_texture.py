"""Tiles of noise and vessels that wrap around, so that they can be laid on the wall without a seam."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

Array = NDArray[np.float32]
TILE = 256
_CHUNK = 8192  # places whose intermediate results stay in a core's cache
RELIEF, BLOTCH, GRAIN, PITS, VESSELS = range(5)


def _spectra() -> Array:
    """Amplitude over frequency of the four noises, (4, TILE, TILE // 2 + 1)."""
    rows, columns = np.fft.fftfreq(TILE, 1 / TILE)[:, None], np.arange(TILE // 2 + 1)[None]
    f = np.hypot(rows, columns)
    f[0, 0] = np.inf
    relief = f**-1.5 * (f >= 2) + 0.012 * np.exp(-(((f - 26) / 9) ** 2))
    blotch = f**-2.0
    grain = np.exp(-(((f - 70) / 32) ** 2))
    pits = np.exp(-(((f - 24) / 5) ** 2))
    return np.stack([relief, blotch, grain, pits]).astype(np.float32)


_SPECTRA = _spectra()


def noise_tiles(generator: np.random.Generator) -> Array:
    """Four independent noises (4, TILE, TILE) of mean 0 and variance 1: relief, blotches, grain, pit pattern."""
    white = generator.standard_normal((*_SPECTRA.shape, 2), np.float32).view(np.complex64)[..., 0]
    tiles = fft.irfft2(white * _SPECTRA, (TILE, TILE), axes=(1, 2))
    return (tiles / tiles.std((1, 2), keepdims=True)).astype(np.float32)


def vessel_tile(generator: np.random.Generator) -> Array:
    """A network of branching vessels, (TILE, TILE) in 0..1, drawn by walkers that bend, thin out and fork."""
    side_by_side = 4  # trunks start one in each cell of a grid, so that no part stays bare
    count = side_by_side**2
    cells = np.stack(np.divmod(np.arange(count), side_by_side))
    place = (cells + generator.random((2, count))) * (TILE / side_by_side)
    heading = generator.uniform(0, 2 * np.pi, count)
    width = generator.uniform(0.7, 1.0, count) ** 2 * 1.7
    bend = np.zeros(count)
    tracks = []
    for _ in range(80):
        bend = 0.65 * bend + generator.normal(0, 0.09, bend.size)
        heading = heading + bend
        step = 0.9 * np.stack([np.cos(heading), np.sin(heading)])
        width = width * 0.992
        tracks += [np.concatenate([place + step, width[None]]), np.concatenate([place + 2 * step, width[None]])]
        place = place + 2 * step
        fork = (generator.random(width.size) < 0.052) & (width > 0.5)
        if not fork.any():
            continue
        side = np.where(generator.random(int(fork.sum())) < 0.5, -1, 1) * generator.uniform(0.4, 1.0, int(fork.sum()))
        thinner = width[fork] * generator.uniform(0.5, 0.85, side.size)
        place = np.concatenate([place, place[:, fork]], 1)
        heading = np.concatenate([heading, heading[fork] + side])
        width, bend = np.concatenate([width, thinner]), np.concatenate([bend, 0 * side])
        alive = width > 0.32
        place, heading, width, bend = place[:, alive], heading[alive], width[alive], bend[alive]
    return _ink(np.concatenate(tracks, 1))


def _ink(track: NDArray[np.float64]) -> Array:
    """Draw points (2 coordinates and a width each) with a brush of three sizes."""
    column, row = (np.floor(c).astype(np.int64) % TILE for c in track[:2])
    ink = np.zeros((TILE, TILE), np.float32)
    for low, high, brush in ((0.0, 0.6, 0.7), (0.6, 1.1, 1.0), (1.1, 9.0, 1.6)):
        chosen = (track[2] >= low) & (track[2] < high)
        amount = np.bincount((row * TILE + column)[chosen], track[2][chosen], TILE * TILE)
        drawn = ndimage.gaussian_filter(amount.reshape(TILE, TILE).astype(np.float32), brush, mode="wrap", truncate=3)
        ink += drawn * np.float32(2.2 * brush)
    return 1 - np.exp(-ink)


def look_up(tiles: Array, u: Array, v: Array) -> Array:
    """Read tiles (TILE, TILE, channels) at places (u, v) in tile cells, linearly: (channels, *u.shape)."""
    packed = tiles.reshape(TILE * TILE, -1)
    u, v, shape = u.ravel(), v.ravel(), u.shape
    values = np.empty((packed.shape[1], u.size), np.float32)
    for first in range(0, u.size, _CHUNK):
        part = slice(first, first + _CHUNK)
        values[:, part] = _look_up_chunk(packed, u[part], v[part]).T
    return values.reshape(-1, *shape)


def _look_up_chunk(packed: Array, u: Array, v: Array) -> Array:
    iu, iv = np.floor(u), np.floor(v)
    fu, fv = (u - iu)[:, None], (v - iv)[:, None]
    left, top = iu.astype(np.int32) & (TILE - 1), iv.astype(np.int32) & (TILE - 1)
    right, bottom = (left + 1) & (TILE - 1), ((top + 1) & (TILE - 1)) * TILE
    top *= TILE
    upper, lower = packed.take(top + left, 0), packed.take(bottom + left, 0)
    upper += fu * (packed.take(top + right, 0) - upper)
    lower += fu * (packed.take(bottom + right, 0) - lower)
    upper += fv * (lower - upper)
    return upper

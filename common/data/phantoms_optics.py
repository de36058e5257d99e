"""From linear light to the picture that a processor stores: blur, tone curve, frame, noise and compression."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import fft, ndimage

from .phantoms_scene import Frame, Light, Optics
from .phantoms_surface import image_grid

Array = NDArray[np.float32]

# Quantisation tables of ITU-T T.81, Annex K, for luminance and chrominance.
_LUMINANCE = np.array(
    [
        [16, 11, 10, 16, 24, 40, 51, 61],
        [12, 12, 14, 19, 26, 58, 60, 55],
        [14, 13, 16, 24, 40, 57, 69, 56],
        [14, 17, 22, 29, 51, 87, 80, 62],
        [18, 22, 37, 56, 68, 109, 103, 77],
        [24, 35, 55, 64, 81, 104, 113, 92],
        [49, 64, 78, 87, 103, 121, 120, 101],
        [72, 92, 95, 98, 112, 100, 103, 99],
    ],
    np.float32,
)
_CHROMINANCE = np.full((8, 8), 99, np.float32)
_CHROMINANCE[:4, :4] = [[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]]
_COSINES = fft.dct(np.eye(8, dtype=np.float32), axis=0, norm="ortho")
_TO_YCC = np.array([[0.299, 0.587, 0.114], [-0.1687, -0.3313, 0.5], [0.5, -0.4187, -0.0813]], np.float32)
_TO_RGB = np.linalg.inv(_TO_YCC).astype(np.float32)


def expose(light: Array, optics: Optics, lamp: Light) -> Array:
    """Blur the light and lay the tone curve on it: (3, H, W) linear → (3, H, W) display values in 0..1."""
    size = light.shape[-1]
    x, y = image_grid(size)
    light = light * (1 - np.float32(optics.vignette) * np.minimum(x * x + y * y, 2) * np.float32(0.5))
    spread = max(optics.defocus * size / 2, 0.45)  # half a pixel stands for the area of a pixel
    light = ndimage.gaussian_filter(light, (0, spread, spread), truncate=3, mode="nearest")
    light = _smear(light, np.asarray(optics.motion) * size / 2)
    # A soft shoulder: linear up to mid grey, bright parts lose colour towards white.
    return (1 - np.exp(np.float32(-1.35) * light)) ** np.float32(1 / lamp.gamma)


def _smear(light: Array, way: NDArray[np.float64]) -> Array:
    """Average over a straight way of the camera, given in pixels and centred on where it is."""
    length = float(np.hypot(*way))
    if length < 1:
        return light
    reach = int(np.ceil(length / 2)) + 1
    padded = np.pad(light, ((0, 0), (reach, reach), (reach, reach)), mode="edge")
    height, width = light.shape[1:]
    total = np.zeros_like(light)
    stops = 2 * int(np.ceil(length / 2)) + 1
    for part in np.linspace(-0.5, 0.5, stops):
        column, row = np.rint(way * part).astype(int) + reach
        total += padded[:, row : row + height, column : column + width]
    return total / np.float32(stops)


def sharpen(picture: Array, amount: float) -> Array:
    """Edge enhancement as processors apply it, with its halos."""
    if amount <= 0:
        return picture
    size = picture.shape[-1]
    blurred = ndimage.gaussian_filter(picture, (0, size / 200, size / 200), truncate=2.5, mode="nearest")
    return np.clip(picture + np.float32(amount) * (picture - blurred), 0, 1)


def frame_opening(frame: Frame, size: int) -> NDArray[np.bool_]:
    """Where the picture is not covered by the frame or by the box in its corner, (size, size)."""
    x, y = image_grid(size)
    ax, ay = np.abs(x), np.abs(y)
    opening = (ax < frame.half_width) & (ay < frame.half_height)
    if frame.shape == "octagon":
        opening &= (frame.half_width - ax) + (frame.half_height - ay) > frame.corner
    elif frame.shape == "rounded":
        cx = np.maximum(ax - (frame.half_width - frame.corner), 0)
        cy = np.maximum(ay - (frame.half_height - frame.corner), 0)
        opening &= cx * cx + cy * cy < frame.corner**2
    elif frame.shape == "circle":
        opening &= x * x + y * y < frame.half_width**2
    if frame.inset:
        opening &= ~((x < frame.inset[0] - 1) & (y > 1 - frame.inset[1]))
    return opening


def writing_area(frame: Frame, size: int) -> NDArray[np.bool_]:
    """Where the lines of writing stand, (size, size)."""
    x, y = image_grid(size)
    area = np.zeros((size, size), bool)
    for left, top, letters in frame.text:
        area |= (x >= left) & (x <= left + letters * 0.033) & (y >= top) & (y <= top + 0.05)
    return area


def put_frame(picture: Array, frame: Frame, seed: int) -> None:
    """Draw frame, box and writing onto display values (3, size, size), in place."""
    size = picture.shape[-1]
    picture[:, ~frame_opening(frame, size)] = frame.black
    x, y = image_grid(size)
    if frame.inset:
        box = (x < frame.inset[0] - 1.04) & (y > 1.04 - frame.inset[1]) & (x > -0.98) & (y < 0.98)
        picture[:, box] = np.asarray(frame.inset[2], np.float32)[:, None]
    generator = np.random.default_rng((seed, 1))
    high, wide = max(3, round(size * 0.018)), max(2, round(size * 0.012))
    for left, top, letters in frame.text:
        row, column = int((top + 1) * size / 2), int((left + 1) * size / 2)
        for _ in range(letters):
            strokes = generator.random((5, 3)) < 0.62
            glyph = strokes[np.ix_(np.arange(high) * 5 // high, np.arange(wide) * 3 // wide)]
            patch = picture[:, row : row + high, column : column + wide]
            glyph = glyph[: patch.shape[1], : patch.shape[2]]
            patch[:, glyph] = 0.9
            column += wide + 1


def add_noise(picture: Array, optics: Optics) -> Array:
    """Sensor noise: most of it in luminance, a little of it in colour, more where the picture is dark."""
    size = picture.shape[-1]
    generator = np.random.default_rng((optics.seed, 0))
    noise = generator.standard_normal((2, size, size), np.float32) * np.float32(optics.noise)
    grey = (noise[0] + np.float32(0.25) * np.roll(noise[0], 1, 1)) * (1.25 - picture[1])
    tint = np.array([0.35, -0.1, -0.35], np.float32)[:, None, None]
    return picture + grey + tint * noise[1]


def _quantise(plane: Array, table: Array) -> Array:
    """One channel (H, W) around 0 through the 8 × 8 cosine transform, its rounding, and back."""
    height, width = plane.shape
    blocks = plane.reshape(height // 8, 8, width // 8, 8).swapaxes(1, 2)
    waves = np.rint(_COSINES @ blocks @ _COSINES.T / table) * table
    return (_COSINES.T @ waves @ _COSINES).swapaxes(1, 2).reshape(height, width)


def compress(picture: Array, quality: int) -> Array:
    """What JPEG of this quality, chrominance at half resolution, leaves of (3, H, W) in 0..255; 16 divides H and W."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality  # as the reference library scales its tables
    luminance, chrominance = (np.clip((table * percent + 50) // 100, 1, 255) for table in (_LUMINANCE, _CHROMINANCE))
    height, width = picture.shape[1:]
    channels = np.tensordot(_TO_YCC, picture, 1)
    channels[0] = _quantise(channels[0] - 128, luminance) + 128
    small = channels[1:].reshape(2, height // 2, 2, width // 2, 2).mean((2, 4))
    for channel, plane in zip(channels[1:], small, strict=True):
        channel[...] = _quantise(plane, chrominance).repeat(2, 0).repeat(2, 1)
    return np.tensordot(_TO_RGB, channels, 1)


def develop(light: Array, lamp: Light, optics: Optics, frame: Frame) -> NDArray[np.uint8]:
    """The stored picture (H, W, 3) uint8 of linear light (3, H, W)."""
    picture = sharpen(expose(light, optics, lamp), optics.sharpening)
    picture = np.clip(add_noise(picture, optics), 0, 1)
    put_frame(picture, frame, optics.seed)
    picture *= np.float32(255)
    picture = compress(picture, optics.quality)
    return np.ascontiguousarray(np.moveaxis(np.clip(np.rint(picture), 0, 255).astype(np.uint8), 0, -1))

"""Which images are one and the same, or nearly so: what tells whether a split is honest.

Of pictures in colour, two signatures of a few bytes: the signs of 64 horizontal grey differences (the "dHash" of an
8×9 thumbnail) and a 16×16 colour thumbnail. Near-identical means that at most `HASH_DISTANCE` signs differ and the
thumbnails differ by at most `COLOUR_DISTANCE` grey levels (root mean square). On the 612 frames of CVC-ClinicDB,
whose 29 sequences are known, that links 411 pairs of frames within a sequence and none across two.

Pictures without colour are slices of MRI or CT: heads of one shape that differ in the detail. Near-identical means
there that their 64×64 thumbnails correlate by at least `CORRELATION`. Among the training images of BRISC (660 of the
test images at hand, long side 288) the best match of a test image has 0.9995 or more, for 67 of them, or less than
0.98: those are one picture saved twice, these are not. The measure for colour would link 446 of the 660. A picture and
its mirror image, left for right, are one as well: BRISC has 1,464 such pairs, of 0.99 and more, 294 of those test
images among them, and none between 0.98 and 0.99. (None is turned or upside down, and of the polyps' 2,015 pictures one
pair is mirrored, within CVC-ColonDB.)

Neither sees through turning or a strong crop, nor that for colour through mirroring.

A third is finer and knows one picture again, whatever its format and size: `recognition_signs`. Of 300 polyp pictures
enlarged 1.4 or 2 times and saved as JPEG of quality 90, none lost more than 9 of the 256 signs, and all but two at
most `SAME_DISTANCE`; the 162 published test pictures of Kvasir-SEG and CVC-ClinicDB, many of them frames of a video
that is also in training, differ from every training picture in 10 or more.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .progress import bar
from .reading import open_image

HASH_DISTANCE = 10
COLOUR_DISTANCE = 12.0
CORRELATION = 0.98
SAME_DISTANCE = 8

_TINT = 8  # grey levels between the channels of a thumbnail: what JPEG may give a picture without colour
_GREY_SIDE = 64
_WORKERS = 4
_BLOCK = 512  # rows of the distance matrix held at a time
_BITS = np.array([bin(byte).count("1") for byte in range(256)], dtype=np.uint8)

Input = TypeVar("Input")
Output = TypeVar("Output")


@dataclass(frozen=True)
class Signature:
    """What is kept of an image to compare it by.

    Attributes:
        pixels: a digest of size and pixels; equal means identical to the pixel.
        gradient: `(8,)` uint8, 64 signs of grey differences.
        thumbnail: `(768,)` uint8, 16×16 RGB.
        grey: `(4096,)` uint8, 64×64, of a picture without colour; None of one in colour, or of one value alone.
    """

    pixels: bytes
    gradient: np.ndarray
    thumbnail: np.ndarray
    grey: np.ndarray | None = None


def _grey(image: Image.Image, thumbnail: np.ndarray) -> np.ndarray | None:
    channels = thumbnail.reshape(-1, 3)
    if int((channels.max(axis=1) - channels.min(axis=1)).max()) > _TINT:
        return None
    grey = np.asarray(image.convert("L").resize((_GREY_SIDE, _GREY_SIDE), Image.Resampling.BOX)).ravel()
    return grey if np.ptp(grey) else None


def signature(image: Image.Image) -> Signature:
    """The `Signature` of a decoded image."""
    image = image if image.mode == "RGB" else image.convert("RGB")
    digest = hashlib.blake2b(image.tobytes(), digest_size=16, salt=b"%d" % image.size[0])
    thumbnail = np.asarray(image.resize((16, 16), Image.Resampling.BOX)).ravel()
    return Signature(digest.digest(), _signs(image, 8), thumbnail, _grey(image, thumbnail))


def _signs(image: Image.Image, rows: int) -> np.ndarray:
    grey = np.asarray(image.resize((rows + 1, rows), Image.Resampling.BOX).convert("L"))
    return np.packbits(grey[:, 1:] > grey[:, :-1])


def recognition_signs(image: Image.Image) -> np.ndarray:
    """`(32,)` uint8: the signs of the 256 horizontal grey differences of a 16×17 thumbnail."""
    return _signs(image if image.mode == "RGB" else image.convert("RGB"), 16)


def recognition_signs_of(paths: Sequence[Path]) -> np.ndarray:
    """The signs of image files and of their mirror images, left to right: ``(2, n, 32)`` uint8.

    Raises:
        InputError: if one cannot be read.
    """
    both = in_threads(lambda path: _signs_both_ways(open_image(path)), paths, "compare", progress=False)
    return np.stack(both, axis=1) if both else np.empty((2, 0, 32), np.uint8)


def _signs_both_ways(picture: Image.Image) -> np.ndarray:
    return np.stack([recognition_signs(picture), recognition_signs(ImageOps.mirror(picture))])


def recognised(signs: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Which of `signs` `(n, 32)` belong to a picture whose signs are among `known` `(m, 32)`: bool `(n,)`."""
    if not len(known):
        return np.zeros(len(signs), bool)
    return np.array([bool((_BITS[known ^ one].sum(axis=1) <= SAME_DISTANCE).any()) for one in signs], bool)


def in_threads(
    function: Callable[[Input], Output], inputs: Sequence[Input], description: str, progress: bool = True
) -> list[Output]:
    """`[function(x) for x in inputs]` by a few threads (PIL decodes outside Python's lock), with a bar."""
    with ThreadPoolExecutor(_WORKERS) as pool:
        results = pool.map(function, inputs)
        return list(bar(results, description, "image", len(inputs), progress))


def sign_files(paths: Sequence[Path], progress: bool = True) -> list[Signature]:
    """The `Signature` of each image file."""
    return in_threads(lambda path: signature(open_image(path)), paths, "compare", progress)


def near_pairs(
    signatures: Sequence[Signature], hash_distance: int = HASH_DISTANCE, colour_distance: float = COLOUR_DISTANCE
) -> list[tuple[int, int]]:
    """All pairs `(i, j)`, `i < j`, of near-identical images, the identical ones among them, in order.

    Two pictures without colour are compared by correlation, as they are and mirrored left to right, whatever the
    arguments; all others by hash and colour.
    """
    if len(signatures) < 2:
        return []
    plain = [place for place, one in enumerate(signatures) if one.grey is not None]
    correlated = [] if len(plain) < 2 else _correlated([signatures[place].grey for place in plain])
    found = [(plain[i], plain[j]) for i, j in correlated]
    if len(plain) < len(signatures):
        found += _alike_in_colour(signatures, hash_distance, colour_distance)
    return sorted(found)


def _correlated(greys: Sequence[np.ndarray]) -> Iterator[tuple[int, int]]:
    values = np.stack(greys).astype(np.float32)
    values -= values.mean(axis=1, keepdims=True)
    values /= np.linalg.norm(values, axis=1, keepdims=True)
    mirrored = values.reshape(-1, _GREY_SIDE, _GREY_SIDE)[:, :, ::-1].reshape(values.shape)
    for start in range(0, len(values), _BLOCK):
        rows = values[start : start + _BLOCK]
        alike = np.maximum(rows @ values[start:].T, rows @ mirrored[start:].T)
        first, second = np.nonzero(alike >= CORRELATION)
        later = second > first
        yield from zip((first[later] + start).tolist(), (second[later] + start).tolist(), strict=True)


def _alike_in_colour(
    signatures: Sequence[Signature], hash_distance: int, colour_distance: float
) -> Iterator[tuple[int, int]]:
    signs = np.stack([one.gradient for one in signatures])
    colours = np.stack([one.thumbnail for one in signatures]).astype(np.float32)
    plain = np.array([one.grey is not None for one in signatures])
    for start in range(0, len(signs), _BLOCK):
        rows = signs[start : start + _BLOCK]
        distance = np.zeros((len(rows), len(signs)), np.uint8)
        for byte in range(signs.shape[1]):
            distance += _BITS[rows[:, byte, None] ^ signs[None, :, byte]]
        first, second = np.nonzero(distance <= hash_distance)
        first = first + start
        wanted = (second > first) & ~(plain[first] & plain[second])
        first, second = first[wanted], second[wanted]
        for part in range(0, len(first), _BLOCK * 16):  # the few that are left, by colour
            i, j = first[part : part + _BLOCK * 16], second[part : part + _BLOCK * 16]
            close = np.square(colours[i] - colours[j]).mean(axis=1) <= colour_distance**2
            yield from zip(i[close].tolist(), j[close].tolist(), strict=True)


def identical_pairs(signatures: Sequence[Signature]) -> list[tuple[int, int]]:
    """All pairs `(i, j)`, `i < j`, of images that are identical to the pixel."""
    same: dict[bytes, list[int]] = {}
    for place, one in enumerate(signatures):
        same.setdefault(one.pixels, []).append(place)
    return [(i, j) for places in same.values() for k, i in enumerate(places) for j in places[k + 1 :]]


def clusters(count: int, pairs: Iterable[tuple[int, int]]) -> list[int]:
    """A label for each of `count` things, equal where a chain of `pairs` links them."""
    links = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    graph = coo_array((np.ones(len(links), bool), (links[:, 0], links[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].tolist()

"""Reading images and masks of the formats that public sets come in; every fault is one `InputError` line."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import InputError
from ..quiet import quietly

SUFFIXES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".bmp")
MASK_THRESHOLD = 127  # of 255; JPEG masks have noisy edges, and the paper's polyp masks are cut here

_ORIENTATION = 0x0112  # the EXIF tag
_PNG_BIT_DEPTH = 24  # where the header of a PNG holds it
_NOT_8_BIT = ("I", "F")


def is_image_file(path: Path, suffixes: tuple[str, ...] = SUFFIXES) -> bool:
    """Whether `path` is a visible file with one of the suffixes, in upper or lower case."""
    return path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file()


def read_bytes(path: str | Path) -> bytes:
    """The content of a file.

    Raises:
        InputError: if it is missing or may not be read.
    """
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {(error.strerror or str(error)).lower()}") from None


def decode(
    content: bytes,
    path: str | Path,
    *,
    formats: tuple[str, ...] | None = None,
    check: Callable[[Image.Image], None] | None = None,
) -> Image.Image:
    """Decode an image whole, so that a truncated one is found here and not in the middle of a training.

    Args:
        content: the file's bytes.
        path: names it in an error.
        formats: Pillow's names of those that are read, whatever the suffix says; None: all that Pillow knows.
        check: called with the opened image, whose size and format are known, before any pixel is decoded.

    Raises:
        InputError: if `content` is no image, is cut short, or has more pixels than Pillow takes for honest.
    """
    try:
        with quietly():  # large scans and odd metadata are no fault
            image = Image.open(io.BytesIO(content), formats=formats)
            if check:
                check(image)
            image.load()
    except InputError:
        raise
    except Image.DecompressionBombError:
        raise InputError(f"{path}: far too many pixels for the memory; shrink it first") from None
    except UnidentifiedImageError:
        raise InputError(f"{path}: not an image that can be read; replace or remove it") from None
    except Exception as error:  # PIL raises OSError, SyntaxError, ValueError, struct.error … for broken files
        raise InputError(f"{path}: unreadable or cut short ({error}); copy it again or remove it") from None
    return image


def open_image(path: str | Path) -> Image.Image:
    """Read and `decode` an image file."""
    return decode(read_bytes(path), path)


def _as_shown_or_stored(image: Image.Image, mask: Image.Image) -> tuple[Image.Image, Image.Image]:
    # A camera's EXIF tag may turn an image; whoever drew the mask saw it either turned (most viewers) or as stored.
    # Turn each by its own tag; only if the sizes then differ and the stored ones agree, is the tag left out.
    turned = ImageOps.exif_transpose(image), ImageOps.exif_transpose(mask)
    if turned[0].size != turned[1].size and image.size == mask.size:
        return image, mask
    return turned


def to_rgb(image: Image.Image, path: str | Path) -> Image.Image:
    """An 8-bit RGB copy of a decoded image.

    Raises:
        InputError: if it has more than 8 bits a channel: how to window it is not ours to guess.
    """
    if image.mode.startswith(_NOT_8_BIT):
        raise InputError(f"{path}: more than 8 bits a channel ({image.mode}); convert it to 8-bit RGB first")
    return image if image.mode == "RGB" else image.convert("RGB")


def binarise(values: np.ndarray, *, label_value: int | None = None, noisy: bool = False) -> np.ndarray:
    """The lesion of a mask as `(H, W)` bool.

    Args:
        values: `(H, W)`, bool or any integer or float type.
        label_value: the pixels equal to it are the lesion; without it those > 127, or, in a label map whose
            largest value is 1, those > 0.
        noisy: the values come from a JPEG, where a 1 is noise and no label.
    """
    if values.dtype == bool:
        return values
    if label_value is not None:
        return values == label_value
    if not noisy and values.size and values.max() == 1:
        return values > 0
    return values > MASK_THRESHOLD


def mask_values(mask: Image.Image, *, indices: bool = False) -> np.ndarray:
    """The values of a decoded mask, `(H, W)`.

    Grey ones as they are, also of 16 and 32 bits; of a palette its `indices` or, as of any colour, the luminance.
    """
    plain = mask.mode == "L" or mask.mode.startswith(_NOT_8_BIT) or (indices and mask.mode == "P")
    return np.asarray(mask if plain else mask.convert("L"))


def lesion_at(mask: Image.Image, size: int) -> np.ndarray:
    """The lesion of a decoded mask squashed to a square of `size` pixels, nearest, `(size, size)` bool."""
    lesion = Image.fromarray(binarise(mask_values(mask), noisy=mask.format == "JPEG").astype(np.uint8))
    return np.array(lesion.resize((size, size), Image.Resampling.NEAREST)) > 0


def _copied_suffix(content: bytes, image: Image.Image) -> str | None:
    # The suffix under which the very bytes may be kept, or None where the file has to be written anew.
    if image.mode != "RGB" or image.getexif().get(_ORIENTATION, 1) != 1:
        return None
    if image.format == "JPEG":
        return ".jpg"
    if image.format == "PNG" and content[_PNG_BIT_DEPTH] == 8:
        return ".png"
    return None


def encode_png(values: np.ndarray | Image.Image) -> bytes:
    """The bytes of a PNG of an array `(H, W)` or `(H, W, 3)` uint8, or of an image."""
    image = values if isinstance(values, Image.Image) else Image.fromarray(values)
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _decoded(image: str | Path | np.ndarray, name: str) -> tuple[Image.Image, bytes]:
    # The picture and, of a file, its bytes.
    if not isinstance(image, np.ndarray):
        content = read_bytes(image)
        return decode(content, image), content
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise InputError(f"{name}: the image has to be (H, W, 3) uint8, not {image.shape} {image.dtype}")
    return Image.fromarray(image), b""


def read_pair(
    image: str | Path | np.ndarray,
    mask: str | Path | np.ndarray | None,
    *,
    name: str = "",
    label_value: int | None = None,
) -> tuple[bytes, str, np.ndarray]:
    """Read one pair for a prepared folder.

    Args:
        image: a file, or `(H, W, 3)` uint8.
        mask: a file, or `(H, W)`; see `binarise` for its values. None: there is no lesion.
        name: names the pair in an error where there is no file to name.
        label_value: see `binarise`.

    Returns:
        The image's bytes (copied where the file is an upright 8-bit RGB JPEG or PNG, else a new PNG), the suffix
        they go by, and the lesion `(H, W)` bool.

    Raises:
        InputError: if one cannot be read, or their sizes differ.
    """
    picture, content = _decoded(image, name)
    suffix = _copied_suffix(content, picture) if content else None
    if mask is None:
        mask = np.zeros(ImageOps.exif_transpose(picture).size[::-1], bool)
    if isinstance(mask, np.ndarray):
        if mask.ndim != 2:
            raise InputError(f"{name}: the mask has to be (H, W), not {mask.shape}")
        drawn = Image.fromarray(np.where(binarise(mask, label_value=label_value), np.uint8(255), np.uint8(0)))
        label_value = None
    else:
        drawn = open_image(mask)
    noisy = drawn.format == "JPEG"
    picture, drawn = _as_shown_or_stored(picture, drawn)
    if picture.size != drawn.size:
        sizes = [f"{one.size[0]}×{one.size[1]}" for one in (picture, drawn)]
        raise InputError(f"{name or image}: the image is {sizes[0]}, its mask {sizes[1]}; both have to be of one size")
    lesion = binarise(mask_values(drawn, indices=label_value is not None), label_value=label_value, noisy=noisy)
    if suffix:
        return content, suffix, lesion
    return encode_png(to_rgb(picture, name or image)), ".png", lesion

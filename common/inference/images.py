"""One way to turn any image file into 8-bit RGB whose pixels lie as the file stores them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import PILReader
from monai.utils import ensure_tuple
from PIL import ExifTags, Image

from ..data.reading import decode, read_bytes, to_rgb
from ..errors import InputError
from .dicom import is_dicom, read_dicom
from .limits import check_pixels

# Others are not for a suffix to bring in: PostScript, for one, would be run by Ghostscript.
_FORMATS = ("JPEG", "PNG", "TIFF", "BMP")


def read_rgb(path: str | Path) -> tuple[Image.Image, int]:
    """Read an image file as 8-bit RGB of its own size, and its EXIF orientation: 1 (upright) to 8.

    Grey, palette, bilevel, CMYK and YCbCr are converted as Pillow does, 16-bit RGB by its high bytes. Transparent
    pixels are laid over black, like the border of an endoscope's picture. The orientation is told and not applied:
    the pixels stay where PIL, MONAI and numpy see them. (TIFF is the exception: Pillow itself turns it upright.)
    A DICOM file (.dcm, .dicom) is read by `read_dicom`, and has none.

    Raises:
        InputError: naming the file, if it is of another format inside, has more pixels than `check_pixels` allows
            (told before any is decoded), cannot be read whole, holds several pages, has grey or floating-point pixels
            of 16 or 32 bits (nobody knows their white), or a colour space that Pillow cannot convert.
    """
    if is_dicom(path):
        return read_dicom(path), 1
    # Through the file's bytes: by its name, Pillow 13 maps an uncompressed TIFF into memory and scrambles a turned one.
    content = read_bytes(path)
    image = decode(content, path, formats=_FORMATS, check=lambda opened: check_pixels(path, *opened.size))
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if image.format == "TIFF":
        with Image.open(io.BytesIO(content)) as pages:  # anew: counting them would unload `image`
            if pages.n_frames > 1:
                raise InputError(f"{path}: it holds {pages.n_frames} pages; save each as a file of its own")
    return _flattened(image, path), orientation if orientation in range(1, 9) else 1


def _flattened(image: Image.Image, path: str | Path) -> Image.Image:
    try:
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image)
        return to_rgb(image, path)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{path}: its colours cannot be made RGB ({error}); save it as RGB") from None


class RGBReader(PILReader):
    """Reader for `LoadImaged`: `read_rgb` as ``(height, width, 3)``, not transposed.

    A file that cannot be read is an `InputError`, and not handed on to MONAI's other readers.
    """

    def __init__(self) -> None:
        super().__init__(reverse_indexing=False)

    def read(self, data: Sequence[str | Path] | str | Path, **kwargs: Any) -> list[str | Path]:
        """Pass on the paths. `LoadImage` tries its next reader where `read` fails, but not where `get_data` does."""
        return list(ensure_tuple(data))

    def get_data(self, img: Sequence[str | Path]) -> tuple[np.ndarray, dict[str, Any]]:
        """Read the files; several are stacked as MONAI does."""
        return super().get_data([read_rgb(path)[0] for path in img])

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from monai.transforms import LoadImage
from PIL import ExifTags, Image, ImageOps

from common.errors import InputError
from common.inference import RGBReader, read_rgb

COLOURS = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]], [[255, 255, 255], [0, 0, 0], [255, 255, 0]]], np.uint8)
GREYS = np.array([[0, 40, 80], [120, 200, 255]], np.uint8)


def _pixels(path) -> np.ndarray:
    return np.asarray(read_rgb(path)[0])


@pytest.mark.parametrize("suffix", ["png", "tif", "tiff", "bmp", "PNG", "Tif"])
@pytest.mark.parametrize("mode", ["RGB", "P", "L", "1"])
def test_lossless_files_give_their_own_pixels(tmp_path, suffix, mode):
    original = Image.fromarray(GREYS if mode in "L1" else COLOURS)
    original = original.convert("P", palette=Image.Palette.ADAPTIVE, colors=8) if mode == "P" else original
    original = original.convert(mode)
    original.save(tmp_path / f"x.{suffix}")
    pixels = _pixels(tmp_path / f"x.{suffix}")
    assert pixels.shape == (2, 3, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.asarray(original.convert("RGB")))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_of_one_colour_gives_that_colour(tmp_path, mode):
    Image.new("RGB", (24, 16), (200, 100, 100)).convert(mode).save(tmp_path / "x.jpeg", quality=100)
    expected = np.asarray(Image.new("RGB", (24, 16), (200, 100, 100)).convert(mode).convert("RGB"))
    pixels = _pixels(tmp_path / "x.jpeg")
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels.astype(int) - expected).max() <= 2


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_black_and_what_is_opaque_stays(tmp_path, mode):
    alpha = np.array([[255, 255, 255], [0, 0, 0]], np.uint8)
    white = Image.fromarray(np.dstack([np.full((2, 3, 3), 255, np.uint8), alpha]))
    if mode == "P":
        picture = Image.fromarray((alpha == 0).astype(np.uint8), mode="L").convert("P")
        picture.putpalette([255, 255, 255] * 2)
        picture.save(tmp_path / "x.png", transparency=1)
    else:
        white.convert(mode).save(tmp_path / "x.png")
    assert (_pixels(tmp_path / "x.png")[0] == 255).all()
    assert (_pixels(tmp_path / "x.png")[1] == 0).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_orientation_is_told_and_not_applied(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.fromarray(COLOURS).save(tmp_path / "x.png", exif=exif)
    image, told = read_rgb(tmp_path / "x.png")
    assert told == orientation
    assert np.array_equal(np.asarray(image), COLOURS)


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "P", "CMYK"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_tiff_is_upright_for_the_network_and_the_overlay(tmp_path, mode, orientation, noise):
    path = tmp_path / "x.tif"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    stored = noise(19, 7).convert(mode)
    stored.save(path, exif=exif)
    upright = stored.convert("RGB")
    upright.getexif()[ExifTags.Base.Orientation] = orientation
    upright = np.asarray(ImageOps.exif_transpose(upright))
    image, told = read_rgb(path)
    assert told == 1
    assert np.array_equal(np.asarray(image), upright)
    loaded = LoadImage(reader=RGBReader(), ensure_channel_first=True)(path)
    assert np.array_equal(np.moveaxis(loaded.numpy(), 0, 2), upright)


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_grey_without_a_known_white_is_refused(tmp_path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "deep.tif")
    with pytest.raises(InputError, match=r"deep\.tif.*8 bits") as caught:
        read_rgb(tmp_path / "deep.tif")
    assert "\n" not in str(caught.value)


def test_pages_are_refused(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    with pytest.raises(InputError, match=r"pages\.tif: it holds 2 pages"):
        read_rgb(tmp_path / "pages.tif")


def _claim(path: Path, side: int) -> None:
    # Writes another width and height into the header of a small image file; the pixels stay what they are.
    content = bytearray(path.read_bytes())
    if path.suffix == ".png":
        content[16:24] = struct.pack(">2I", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    elif path.suffix == ".bmp":
        content[18:26] = struct.pack("<2i", side, side)
    elif path.suffix == ".jpg":
        at = content.index(b"\xff\xc0") + 5
        content[at : at + 4] = struct.pack(">2H", side, side)
    else:
        for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength):
            at = content.index(struct.pack("<2HI", tag, 4, 1)) + 8
            content[at : at + 4] = struct.pack("<I", side)
    path.write_bytes(content)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize(("side", "said"), [(7000, "7000 × 7000 pixels are more than"), (60000, "pixels")])
def test_a_bomb_is_refused_by_its_header(tmp_path, noise, suffix, side, said):
    """The pixels are not there: whoever decodes first finds the file cut short, and says that."""
    path = tmp_path / f"x.{suffix}"
    noise(64, 48).save(path)
    _claim(path, 6000)
    with pytest.raises(InputError, match="cut short"):
        _damaged(path)
    _claim(path, side)
    with pytest.raises(InputError, match=rf"x\.{suffix}: .*{said}.*shrink it first$"):
        read_rgb(path)


def _damaged(path: Path) -> None:
    # Pillow fills up a JPEG with grey where libjpeg does; a byte less is a fault in each format.
    path.write_bytes(path.read_bytes()[:-3])
    read_rgb(path)


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n", "GIF", "PPM"])
def test_what_is_another_format_inside_is_not_opened(tmp_path, noise, content):
    path = tmp_path / "x.png"
    if isinstance(content, str):
        noise(8, 8).save(path, content)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.png: not an image that can be read"):
        read_rgb(path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif"])
@pytest.mark.parametrize("kept", [0.0, 0.02, 0.6])
def test_a_file_cut_short_is_one_line_that_names_it(tmp_path, suffix, kept, noise):
    path = tmp_path / f"cut.{suffix}"
    noise(64, 64).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(InputError) as caught:
        read_rgb(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_refused_file_is_not_read_by_another_reader(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "pages.tif", save_all=True, append_images=[Image.new("RGB", (4, 4))])
    with pytest.raises(InputError, match="it holds 2 pages"):
        LoadImage(reader=RGBReader())(tmp_path / "pages.tif")

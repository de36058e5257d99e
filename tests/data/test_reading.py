"""Laws of reading: every format gives its pixels, masks their lesion, and a broken file one line that names it."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from common.data.reading import SUFFIXES, binarise, open_image, read_pair
from common.errors import InputError

ALL = [*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES)]


def pixels(content, tmp_path):
    path = tmp_path / "copy"
    path.write_bytes(content)
    with Image.open(path) as image:
        return np.asarray(image)


@pytest.mark.parametrize("suffix", ALL)
def test_every_format_keeps_its_pixels(tmp_path, drawn, save, suffix):
    image, mask = drawn(1)
    picture, ground = save(image, tmp_path / f"a{suffix}"), save(mask, tmp_path / f"m{suffix}")
    content, written, lesion = read_pair(picture, ground)
    with Image.open(picture) as decoded:
        assert np.array_equal(pixels(content, tmp_path), np.asarray(decoded))
    copied = {".jpg": ".jpg", ".jpeg": ".jpg", ".png": ".png"}.get(suffix.lower())
    assert written == (copied or ".png")
    assert (content == picture.read_bytes()) == (copied is not None)
    with Image.open(ground) as decoded:
        assert np.array_equal(lesion, np.asarray(decoded) > 127)


def test_noise_of_a_jpeg_mask_is_cut_away(tmp_path, drawn, save):
    image, mask = drawn(1, (64, 64))
    noisy = save(mask, tmp_path / "m.jpg")
    assert len(np.unique(np.asarray(Image.open(noisy)))) > 2, "the mask has no noise to cut"
    _, _, lesion = read_pair(image, noisy, name="a")
    assert np.array_equal(lesion, mask > 0)


@pytest.mark.parametrize("kind", [np.bool_, np.uint8, np.uint16, np.int32, np.float32])
def test_a_mask_of_zero_and_one_is_a_label_map(kind):
    mask = np.eye(5).astype(kind)
    assert np.array_equal(binarise(mask), np.eye(5) > 0)


def test_a_one_in_a_jpeg_is_noise():
    assert not binarise(np.eye(5, dtype=np.uint8), noisy=True).any()


@pytest.mark.parametrize("palette", [False, True])
def test_label_value_picks_that_label_alone(tmp_path, drawn, palette):
    image, _ = drawn(0, (8, 9))
    labels = (np.arange(72).reshape(8, 9) % 3).astype(np.uint8)
    mask = Image.fromarray(labels)
    if palette:
        mask.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
    mask.save(tmp_path / "m.png")
    for value in range(3):
        _, _, lesion = read_pair(image, tmp_path / "m.png", label_value=value)
        assert np.array_equal(lesion, labels == value)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "CMYK"])
def test_other_modes_become_rgb(tmp_path, drawn, mode):
    image, mask = drawn(2)
    other = Image.fromarray(image).convert(mode)
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    other.save(path)
    content, suffix, _ = read_pair(path, mask)
    assert suffix == ".png"
    assert np.array_equal(pixels(content, tmp_path), np.asarray(other.convert("RGB")))


def test_sixteen_bits_are_refused_and_not_guessed(tmp_path, drawn):
    _, mask = drawn(0)
    Image.fromarray(np.full(mask.shape, 3000, np.uint16)).save(tmp_path / "deep.png")
    with pytest.raises(InputError, match=r"deep\.png: more than 8 bits"):
        read_pair(tmp_path / "deep.png", mask)


# Where turning keeps the size (2, 3, 4), nothing tells a mask drawn on the stored image; as shown is taken.
TURNS = [*((turn, "as shown") for turn in range(1, 9)), *((turn, "as stored") for turn in (1, 5, 6, 7, 8))]


@pytest.mark.parametrize(("orientation", "seen_by_annotator"), TURNS)
def test_a_camera_orientation_keeps_image_and_mask_together(tmp_path, orientation, seen_by_annotator):
    """The lesion is the one bright place of the image; wherever the mask was drawn, it must end up on it."""
    stored = np.zeros((24, 40, 3), np.uint8)
    stored[2:10, 4:16] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "a.png", exif=exif)
    mask = Image.fromarray(stored[..., 0])
    if seen_by_annotator == "as shown":
        mask = Image.fromarray(np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png")))[..., 0])
    mask.save(tmp_path / "m.png")
    content, _, lesion = read_pair(tmp_path / "a.png", tmp_path / "m.png")
    image = pixels(content, tmp_path)
    assert image.shape[:2] == lesion.shape
    assert np.array_equal(image[..., 0] > 0, lesion)
    with Image.open(tmp_path / "copy") as written:
        assert written.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_named(tmp_path, drawn, save, suffix):
    path = save(drawn(0, (64, 64))[0], tmp_path / f"cut{suffix}")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(InputError, match=f"cut{suffix}: (unreadable|not an image)") as caught:
        open_image(path)
    assert "\n" not in str(caught.value)


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "page.png").write_text("<html>")
    with pytest.raises(InputError, match=r"page\.png: not an image"):
        open_image(tmp_path / "page.png")
    with pytest.raises(InputError, match=r"gone\.png: no such file"):
        open_image(tmp_path / "gone.png")


def test_sizes_that_differ_are_named(tmp_path, drawn, save):
    image, mask = drawn(0)
    save(image, tmp_path / "a.png")
    save(mask[:-2, :-1], tmp_path / "m.png")
    with pytest.raises(InputError, match=r"a\.png: the image is 40×32, its mask 39×30"):
        read_pair(tmp_path / "a.png", tmp_path / "m.png")

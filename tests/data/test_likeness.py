"""Laws of the comparison of pictures without colour: the correlation of thumbnails, and never a mix with colour's."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from common.data import likeness
from common.data.likeness import CORRELATION, near_pairs, signature


def grey(number, size=(70, 66)):
    """Coarse grey noise, unlike that of any other number."""
    coarse = np.random.default_rng(number).integers(0, 256, (6, 7), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def blended(one, other, share):
    return Image.blend(one, other, share)


def test_pairs_are_those_that_correlate(monkeypatch):
    monkeypatch.setattr(likeness, "_BLOCK", 4)  # more than one block of rows
    steps = [blended(grey(0), grey(1), share) for share in np.linspace(0, 0.5, 9)]
    signatures = [signature(image) for image in [*steps, *map(grey, range(2, 6))]]
    correlation = np.corrcoef(np.stack([one.grey for one in signatures]).astype(float))
    expected = [(i, j) for i, j in zip(*np.nonzero(correlation >= CORRELATION), strict=True) if i < j]
    assert 5 < len(expected) < 36
    assert near_pairs(signatures) == expected


@pytest.mark.parametrize("size", [(70, 66), (210, 198), (64, 64)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_picture_saved_twice_is_known(tmp_path, mode, size):
    grey(3).convert(mode).resize(size, Image.Resampling.BICUBIC).save(tmp_path / "a.jpg", quality=80)
    assert near_pairs([signature(grey(3)), signature(grey(4)), signature(Image.open(tmp_path / "a.jpg"))]) == [(0, 2)]


def test_a_picture_and_its_mirror_image_are_one_and_turned_ones_are_not(monkeypatch):
    monkeypatch.setattr(likeness, "_BLOCK", 2)
    mirrored, upside_down = ImageOps.mirror(grey(3)), ImageOps.flip(grey(3))
    pictures = [grey(3), upside_down, grey(4), mirrored, grey(3).transpose(Image.Transpose.ROTATE_90)]
    assert near_pairs([signature(picture) for picture in pictures]) == [(0, 3)]


def test_light_and_contrast_do_not_matter():
    brighter = grey(5).point(lambda value: 40 + value // 2)
    assert near_pairs([signature(grey(5)), signature(brighter)]) == [(0, 1)]


def test_a_picture_in_colour_has_no_grey_signature_and_one_of_one_value_none_either(drawn):
    coloured = signature(Image.fromarray(drawn(0)[0]))
    flat = signature(Image.new("L", (40, 40), 90))
    assert coloured.grey is None
    assert flat.grey is None
    assert near_pairs([coloured, flat, signature(grey(0)), flat, coloured]) == [(0, 4), (1, 3)]

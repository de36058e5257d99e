"""Pixels of DICOM images, against the standard's formulas, pydicom's own files and the same pictures as PNG."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import jpeg_ls
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import convert_color_space
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEG2000Lossless

from common.errors import InputError
from common.inference import read_rgb
from common.inference.dicom import read_dicom
from common.inference.limits import coded_size
from tests.inference.drawn_dicom import PLANTED, SEGMENTATION, WORD, dicom, marks_in, with_syntax

SHIPPED = Path(pydicom.__file__).parent / "data" / "test_files"  # what lies in the wheel; nothing is downloaded


def _pixels(path: Path) -> np.ndarray:
    return np.asarray(read_dicom(path))


def _grey(path: Path) -> np.ndarray:
    pixels = _pixels(path)
    assert np.array_equal(pixels[..., 0], pixels[..., 1]) and np.array_equal(pixels[..., 0], pixels[..., 2])
    return pixels[..., 0]


def _refused(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_rgb(path)
    message = str(caught.value)
    assert message.startswith(str(path)) and "\n" not in message
    assert not marks_in(message)
    return message


@pytest.fixture
def grey() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (7, 5), dtype=np.uint8)


@pytest.fixture
def deep() -> np.ndarray:
    """12 bits, as an MR or CT writes them."""
    return np.random.default_rng(1).integers(0, 4096, (9, 6), dtype=np.uint16)


@pytest.fixture
def coloured(noise) -> np.ndarray:
    return np.asarray(noise(14, 10))


@pytest.mark.parametrize("planar", [0, 1])
def test_rgb_gives_its_own_pixels(tmp_path, coloured, planar):
    path = dicom(tmp_path / "x.dcm", coloured, "RGB", PlanarConfiguration=planar)
    assert np.array_equal(_pixels(path), coloured)
    image, orientation = read_rgb(path)
    assert (image.mode, image.size, orientation) == ("RGB", (14, 10), 1)


def test_rgb_of_16_bits_is_scaled(tmp_path, coloured):
    path = dicom(tmp_path / "x.dcm", coloured.astype(np.uint16) * 257, "RGB")
    assert np.array_equal(_pixels(path), coloured)


@pytest.mark.parametrize("planar", [0, 1])
def test_ybr_is_turned_to_rgb(tmp_path, coloured, planar):
    path = dicom(tmp_path / "x.dcm", convert_color_space(coloured, "RGB", "YBR_FULL"), "YBR_FULL")
    assert np.abs(_pixels(path).astype(int) - coloured).max() <= 2


@pytest.mark.parametrize("photometric", ["YBR_FULL_422", "YBR_FULL"])
def test_a_jpeg_inside_gives_what_the_jpeg_gives(tmp_path, coloured, photometric):
    stream = io.BytesIO()
    large = Image.fromarray(coloured).resize((64, 48))
    large.save(stream, "JPEG", quality=95, subsampling=1 if photometric.endswith("422") else 0)
    path = dicom(tmp_path / "x.dcm", stream.getvalue(), photometric, Rows=48, Columns=64)
    assert np.abs(_pixels(path).astype(int) - np.asarray(Image.open(stream))).max() <= 3


@pytest.mark.parametrize("bits", [8, 16])
def test_a_palette_gives_its_colours(tmp_path, grey, bits):
    colours = np.random.default_rng(2).integers(0, 256, (256, 3))
    stored = colours.astype(f"<u{bits // 8}") * (257 if bits == 16 else 1)
    palette = {}
    for channel, name in enumerate(("Red", "Green", "Blue")):
        palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, bits]
        palette[f"{name}PaletteColorLookupTableData"] = stored[:, channel].tobytes()
    path = dicom(tmp_path / "x.dcm", grey, "PALETTE COLOR", **palette)
    assert np.array_equal(_pixels(path), colours[grey])


def test_8_bits_without_a_window_stay(tmp_path, grey):
    assert np.array_equal(_grey(dicom(tmp_path / "x.dcm", grey)), grey)


def test_a_rescaling_that_changes_nothing_makes_no_other_picture(tmp_path, grey, deep):
    narrow = grey // 4 + 60
    for name, values in (("narrow", narrow), ("deep", deep), ("signed", narrow.astype(np.int8))):
        without = _grey(dicom(tmp_path / f"{name}.dcm", values))
        identity = {"RescaleSlope": "1", "RescaleIntercept": "0.0", "RescaleType": "US"}
        assert np.array_equal(_grey(dicom(tmp_path / f"{name}_1.dcm", values, **identity)), without)
        window = {"WindowCenter": 90, "WindowWidth": 40}
        windowed = _grey(dicom(tmp_path / f"{name}_w.dcm", values, **window))
        assert np.array_equal(_grey(dicom(tmp_path / f"{name}_1w.dcm", values, **identity, **window)), windowed)
    assert np.array_equal(_grey(tmp_path / "narrow_1.dcm"), narrow)


def test_a_modality_lut_goes_before_a_rescaling_that_changes_nothing(tmp_path, grey):
    item = Dataset()
    item.LUTDescriptor = [256, 0, 16]
    item.add_new("LUTData", "US", [(255 - value) * 257 for value in range(256)])
    path = dicom(tmp_path / "x.dcm", grey, ModalityLUTSequence=[item], RescaleSlope=1, RescaleIntercept=0)
    low, high = int(grey.min()), int(grey.max())
    assert np.abs(_grey(path) - 255 * (high - grey.astype(float)) / (high - low)).max() <= 0.51


@pytest.mark.parametrize("window", [{}, {"WindowCenter": 100, "WindowWidth": 50}], ids=["no window", "window"])
def test_monochrome1_is_monochrome2_inverted(tmp_path, grey, deep, window):
    for name, values in (("8", grey), ("12", deep)):
        one = _grey(dicom(tmp_path / f"{name}_1.dcm", values, "MONOCHROME1", **window))
        two = _grey(dicom(tmp_path / f"{name}_2.dcm", values, "MONOCHROME2", **window))
        assert np.array_equal(one, 255 - two) and two.min() < two.max()


def test_more_bits_without_a_window_span_the_image(tmp_path, deep):
    low, high = int(deep.min()), int(deep.max())
    shown = _grey(dicom(tmp_path / "x.dcm", deep, BitsStored=12, HighBit=11))
    assert np.abs(shown - 255 * (deep.astype(float) - low) / (high - low)).max() <= 0.51
    # Another unit and zero of the same values is the same picture (but for what lies half-way), and signed ones are.
    others = [
        dicom(tmp_path / "y.dcm", deep * 3 + 7),
        dicom(tmp_path / "z.dcm", deep.astype(np.int16) - 2000),
        dicom(tmp_path / "r.dcm", deep, RescaleSlope=0.5, RescaleIntercept=-1024),
    ]
    for other in others:
        assert np.abs(_grey(other).astype(int) - shown).max() <= 1


def test_padding_does_not_darken_the_picture(tmp_path, deep):
    deep = deep.astype(np.int16)
    padded = deep.copy()
    padded[0] = -2000
    shown = _grey(dicom(tmp_path / "padded.dcm", padded, PixelPaddingValue=-2000))
    assert np.array_equal(shown[1:], _grey(dicom(tmp_path / "without.dcm", deep[1:]))) and (shown[0] == 0).all()


def test_one_value_everywhere_is_black(tmp_path, deep):
    assert (_grey(dicom(tmp_path / "x.dcm", np.full_like(deep, 700))) == 0).all()


def test_a_window_is_the_standards(tmp_path, deep):
    """PS3.3 C.11.2.1.2, over the rescaled values; of two windows the first."""
    slope, intercept, centre, width = 2, -1024, 300, 900
    window = {"WindowCenter": [centre, 9], "WindowWidth": [width, 9]}
    rescale = {"RescaleSlope": slope, "RescaleIntercept": intercept}
    shown = _grey(dicom(tmp_path / "x.dcm", deep, BitsStored=12, HighBit=11, **window, **rescale))
    values = deep.astype(float) * slope + intercept
    expected = np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1) * 255
    assert np.abs(shown - expected).max() <= 0.51
    assert {0, 255} <= set(np.unique(shown))


def test_a_window_that_the_standard_forbids_is_none(tmp_path, deep):
    forbidden = dicom(tmp_path / "x.dcm", deep, WindowCenter=0, WindowWidth=0)
    assert np.array_equal(_grey(forbidden), _grey(dicom(tmp_path / "y.dcm", deep)))


def test_a_voi_lut_goes_before_a_window(tmp_path, grey):
    item = Dataset()
    item.LUTDescriptor = [256, 0, 16]
    item.add_new("LUTData", "US", [(255 - value) * 257 for value in range(256)])
    window = {"WindowCenter": 10, "WindowWidth": 2}
    assert np.array_equal(_grey(dicom(tmp_path / "x.dcm", grey, VOILUTSequence=[item], **window)), 255 - grey)


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ({"NumberOfFrames": 2}, "it holds 2 frames; save each as a file"),
        ({"PixelData": None}, "no pixel data (Secondary Capture Image Storage)"),
        ({"PixelData": None, "SOPClassUID": "1.2.840.10008.5.1.4.1.1.88.33"}, "no pixel data (Comprehensive SR"),
        ({"PixelData": b"\0\0"}, "Explicit VR Little Endian) cannot be decoded here, or is cut short"),
        ({"PhotometricInterpretation": "HSV"}, "photometric interpretation HSV with 1 samples"),
        ({"PhotometricInterpretation": "RGB"}, "photometric interpretation RGB with 1 samples"),
        ({"SamplesPerPixel": 255}, "photometric interpretation MONOCHROME2 with 255 samples"),
        ({"PhotometricInterpretation": PLANTED[0][:16].upper()}, "photometric interpretation unknown"),
        ({"BitsAllocated": 32}, "32 bits a pixel"),
        ({"SharedFunctionalGroupsSequence": [Dataset()]}, "export it as single-frame images"),
        ({"Rows": 700}, "or is cut short"),
        ({"Rows": 7000, "Columns": 6000}, "6000 × 7000 pixels are more than 40 million"),
        ({"PixelData": None, "SOPClassUID": WORD}, "no pixel data (an unknown kind of object)"),
        ({"NumberOfFrames": 2, "SOPClassUID": WORD}, "a file of its own (an unknown kind of object)"),
    ],
)
def test_what_is_no_image_of_one_frame_is_one_line(tmp_path, grey, attributes, said):
    assert said in _refused(dicom(tmp_path / "x.dcm", grey, **attributes))


def test_a_file_that_is_no_dicom_or_not_there_is_one_line(tmp_path, grey):
    (tmp_path / "x.dcm").write_bytes(b"not DICOM" * 40)
    assert "no DICOM file" in _refused(tmp_path / "x.dcm")
    assert "no such file" in _refused(tmp_path / "y.dcm")
    (tmp_path / "empty.dicom").write_bytes(b"")
    assert "no DICOM file" in _refused(tmp_path / "empty.dicom")


def test_a_file_cut_short_is_one_line_wherever_it_ends(tmp_path, coloured):
    whole = dicom(tmp_path / "whole.dcm", coloured, "RGB").read_bytes()
    path = tmp_path / "cut.dcm"
    for end in [*range(0, len(whole) - 1, 97), len(whole) - 2]:
        path.write_bytes(whole[:end])
        _refused(path)


def test_a_text_in_place_of_a_number_or_a_transfer_syntax_is_not_shown(tmp_path, grey):
    assert "an unknown transfer syntax" in _refused(with_syntax(dicom(tmp_path / "x.dcm", grey), WORD))
    for tag, said in ((0x00280002, "an unknown number of samples"), (0x00280100, "an unknown number of bits")):
        broken = pydicom.dcmread(dicom(tmp_path / "y.dcm", grey))
        del broken[tag]
        broken.add_new(tag, "LO", WORD)
        broken.save_as(tmp_path / "y.dcm")
        assert said in _refused(tmp_path / "y.dcm")


def test_a_deflated_file_is_refused_before_it_is_inflated(tmp_path, grey):
    dataset = pydicom.dcmread(dicom(tmp_path / "x.dcm", grey))
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(tmp_path / "x.dcm")
    content = (tmp_path / "x.dcm").read_bytes()
    for kept in (len(content), len(content) - 200):  # of which the second cannot be inflated
        (tmp_path / "x.dcm").write_bytes(content[:kept])
        assert "the whole file is deflated; save it uncompressed" in _refused(tmp_path / "x.dcm")


def _encoded(image: Image.Image, kind: str) -> bytes:
    if kind == "JPEG-LS":
        return bytes(jpeg_ls.encode_array(np.asarray(image)))
    stream = io.BytesIO()
    image.save(stream, kind, **({"no_jp2": True} if kind == "JPEG2000" else {"progressive": kind == "MPO"}))
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "JPEG2000", "JPEG-LS"])
def test_a_compressed_stream_says_its_size(noise, kind):
    stream = _encoded(noise(61, 43), kind)
    assert coded_size(stream) == (61, 43)
    assert all(coded_size(stream[:end]) in (None, (61, 43)) for end in range(len(stream)))
    assert coded_size(b"") is None and coded_size(bytes(100)) is None


@pytest.mark.parametrize("number", [0x01, 0xD0, 0xD7])
def test_markers_without_a_length_hide_no_size(noise, number):
    stream = _encoded(noise(61, 43), "JPEG")
    assert coded_size(stream[:2] + bytes([0xFF, number]) + stream[2:]) == (61, 43)


def test_a_stream_that_says_two_sizes_says_none(noise):
    small, large = (_encoded(noise(*size), "JPEG") for size in ((61, 43), (640, 430)))
    at = large.index(b"\xff\xc0")
    frame = large[at : at + 2 + int.from_bytes(large[at + 2 : at + 4])]
    assert coded_size(small[:2] + frame + small[2:]) is None


@pytest.mark.parametrize("kind", ["JP2", "no JPEG"])
def test_a_stream_that_says_no_size_is_refused_before_it_is_decoded(tmp_path, noise, kind, monkeypatch):
    stream = io.BytesIO(b"" if kind == "JP2" else bytes(2000))
    if kind == "JP2":
        noise(64, 48).save(stream, "JPEG2000")  # in boxes, as DICOM has it not, though decoders would read it
    path = dicom(tmp_path / "x.dcm", stream.getvalue(), "RGB", Rows=48, Columns=64)
    told = pydicom.dcmread(path)
    told.file_meta.TransferSyntaxUID = JPEG2000Lossless
    told.save_as(path)
    monkeypatch.setattr(Dataset, "pixel_array", property(lambda _: pytest.fail("it was decoded")))
    assert "does not say how large it is; save it uncompressed" in _refused(path)


def test_a_stream_larger_than_its_header_says_is_refused_before_it_is_decoded(tmp_path, noise):
    stream = _encoded(noise(64, 48), "JPEG")[:640]  # all but the header left out: it cannot be decoded
    assert coded_size(stream) == (64, 48)
    path = dicom(tmp_path / "x.dcm", stream, "YBR_FULL", Rows=8, Columns=8)
    assert "not of its Rows and Columns" in _refused(path)
    path = dicom(tmp_path / "x.dcm", stream, "YBR_FULL", Rows=48, Columns=64)
    assert "or is cut short" in _refused(path)
    path = dicom(tmp_path / "x.dcm", stream, "YBR_FULL", Rows=48, Columns=64, PixelData=encapsulate([stream] * 3))
    assert "its pixel data holds 3 frames" in _refused(path)


@pytest.mark.parametrize("photometric", ["YBR_ICT", "YBR_RCT"])
def test_a_colour_transform_of_jpeg_2000_is_refused_elsewhere(tmp_path, coloured, photometric):
    assert "outside JPEG 2000" in _refused(dicom(tmp_path / "x.dcm", coloured, photometric))


def test_a_compression_without_a_decoder_is_named_with_what_to_do():
    message = _refused(SHIPPED / "SC_rgb_jpeg_gdcm.dcm")
    assert "JPEG Lossless" in message and "pip install pylibjpeg" in message


def test_without_pydicom_it_is_said_what_to_install(tmp_path, grey, monkeypatch):
    path = dicom(tmp_path / "x.dcm", grey)
    monkeypatch.setitem(sys.modules, "pydicom", None)  # as where it is not installed
    assert "pydicom, which is not installed here; pip install" in _refused(path)


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.dcm")), ids=lambda path: path.stem)
def test_pydicoms_own_files_are_pictures_or_one_line(path):
    try:
        image = read_rgb(path)[0]
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
        return
    header = pydicom.dcmread(path, stop_before_pixels=True)
    assert header.SOPClassUID != SEGMENTATION
    assert (image.mode, image.size) == ("RGB", (header.Columns, header.Rows))


@pytest.mark.parametrize("other", ["RLE", "bigendian", "expb", "implicit", "jp2klossless", "jpeg_ls_lossless"])
def test_one_picture_is_the_same_in_every_encoding(other):
    assert np.array_equal(_pixels(SHIPPED / f"MR_small_{other}.dcm"), _pixels(SHIPPED / "MR_small.dcm"))

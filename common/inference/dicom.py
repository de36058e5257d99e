"""Single-frame DICOM images as 8-bit RGB, by pydicom 2.4 or 3; no value of a patient's data gets into a message."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..errors import InputError
from ..quiet import Shared, quietly
from .limits import check_pixels, coded_size

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

DICOM_SUFFIXES = (".dcm", ".dicom")
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_PALETTE = "PALETTE COLOR"
_DEFLATED = "1.2.840.10008.1.2.1.99"
_RLE = "1.2.840.10008.1.2.5"
_JPEG_2000 = tuple(f"1.2.840.10008.1.2.4.{end}" for end in (90, 91, 92, 93, 201, 202, 203))
_UNKNOWN_SYNTAX = "an unknown transfer syntax"
_BEYOND = 1e9  # no image's values reach so far: what lies there is at the end of any window


def is_dicom(path: str | Path) -> bool:
    """Whether a file is taken for DICOM: by its suffix, .dcm or .dicom in either case, and by nothing else."""
    return Path(path).suffix.lower() in DICOM_SUFFIXES


@contextmanager
def discreet(path: str | Path, what: str = "cannot be read as DICOM; copy it again or remove it") -> Iterator[None]:
    """Let nothing that pydicom or highdicom say get out: their warnings, log lines and errors quote a file's values.

    Raises:
        InputError: for any error inside, with `path`, `what`, and of the error no more than its type.
    """
    try:
        with quietly(), _without_log():
            yield
    except (InputError, MemoryError):
        raise
    except ImportError as error:
        raise InputError(
            f"{path}: DICOM needs {error.name or 'a package'}, which is not installed here; "
            "pip install 'pydicom>=2.4,<4' highdicom, or save the image as PNG"
        ) from None
    except Exception as error:
        raise InputError(f"{path}: {what} ({type(error).__name__})") from None


@Shared
@contextmanager
def _without_log() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def open_dicom(path: str | Path) -> Dataset:
    """Read a DICOM file, pixel data included but not decoded.

    Raises:
        InputError: if it is missing, is no DICOM file, is no image of one frame, has more pixels than
            `check_pixels` allows, or is deflated as a whole.
    """
    with discreet(path):
        import pydicom
        from pydicom.errors import InvalidDicomError
        from pydicom.filereader import read_file_meta_info

        try:
            # Reading anything beyond the file meta information would inflate all of it, a thousandfold at worst.
            if read_file_meta_info(path).get("TransferSyntaxUID") == _DEFLATED:
                raise InputError(f"{path}: the whole file is deflated; save it uncompressed (dcmconv +te)")
            _check_header(pydicom.dcmread(path, stop_before_pixels=True), path)
            dataset = pydicom.dcmread(path)
        except InvalidDicomError:
            raise InputError(f"{path}: no DICOM file (it has no DICOM header); remove it, or mend its suffix") from None
        except OSError as error:
            raise InputError(f"{path}: {(error.strerror or 'cut short').lower()}") from None
        _check_single_frame(dataset, path)
        return dataset


def standard_name(uid: Any, otherwise: str) -> str:
    """The standard's name of a UID, or `otherwise`: any text may stand in its place in a broken file."""
    from pydicom.uid import UID

    return uid.name if isinstance(uid, UID) and uid.name != str(uid) else otherwise


def _check_header(header: Dataset, path: str | Path) -> None:
    frames = int(header.get("NumberOfFrames") or 1)
    if frames != 1:
        raise InputError(f"{path}: it holds {frames} frames; save each as a file of its own{_kind(header)}")
    check_pixels(path, int(header.get("Columns") or 0), int(header.get("Rows") or 0))


def _kind(dataset: Dataset) -> str:
    return f" ({standard_name(dataset.get('SOPClassUID'), 'an unknown kind of object')})"


def _number(value: Any) -> str:
    # Of a broken file the value may be any text.
    return str(int(value)) if isinstance(value, int) else "an unknown number of"


def _check_single_frame(dataset: Dataset, path: str | Path) -> None:
    kind = _kind(dataset)
    if "PixelData" not in dataset:
        raise InputError(f"{path}: it holds no pixel data{kind}, or is cut short; give images only")
    if "SharedFunctionalGroupsSequence" in dataset:
        # Its window and place stand in other tags than a single frame's, and would be missed.
        raise InputError(f"{path}: an enhanced, multi-frame object{kind}; export it as single-frame images")
    bits, samples = dataset.get("BitsAllocated"), dataset.get("SamplesPerPixel", 1)
    if bits not in (8, 16):
        told = "no BitsAllocated" if bits is None else f"{_number(bits)} bits a pixel"
        raise InputError(f"{path}: {told}{kind}; images of 8 or 16 bits are read")
    known = (*_GREY, _PALETTE) if samples == 1 else _COLOUR if samples == 3 else ()
    photometric = dataset.get("PhotometricInterpretation")
    if photometric not in known:
        # Shown only where it is a word that the standard could have: any text may stand in a broken file.
        word = photometric if photometric in _OTHER_PHOTOMETRICS else "unknown"
        raise InputError(
            f"{path}: photometric interpretation {word} with {_number(samples)} samples a pixel; known are, with 1, "
            f"{', '.join((*_GREY, _PALETTE))}; with 3, {', '.join(_COLOUR)}; save it as one of these"
        )
    if photometric in ("YBR_ICT", "YBR_RCT") and dataset.file_meta.get("TransferSyntaxUID") not in _JPEG_2000:
        # They are steps of JPEG 2000, which its decoder undoes; elsewhere nobody would.
        raise InputError(f"{path}: photometric interpretation {photometric} outside JPEG 2000; save it as RGB")


_OTHER_PHOTOMETRICS = (*_GREY, _PALETTE, *_COLOUR, "HSV", "ARGB", "CMYK", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "XYB")


def read_dicom(path: str | Path) -> Image.Image:
    """Read a single-frame DICOM image as 8-bit RGB of its own Columns and Rows, its pixels where the file has them.

    - Grey (MONOCHROME1, MONOCHROME2): the modality LUT or rescaling, then the first VOI LUT of the file or its first
      window, as pydicom applies them, and the output's whole range to 0…255. Without LUT and window, unsigned values
      of 8 bits that no rescaling changes stay as they are (of less, their stored range becomes 0…255), and of all
      others the image's own smallest to largest value become 0…255 (pixel padding left out): a stored range is mostly
      far wider than what is in it, and the picture would be black. MONOCHROME1 is inverted last.
    - Colour: RGB, YBR_FULL, YBR_FULL_422 (and YBR_ICT, YBR_RCT in JPEG 2000) as RGB, either planar configuration;
      PALETTE COLOR by its palette; 16 bits to 8 by their stored range.
    - Compressed files as far as pydicom has a decoder here: with Pillow JPEG baseline and JPEG 2000, RLE always.

    Overlays, shutters, ICC profiles and PatientOrientation are not heeded; non-square pixels stay as stored.

    Raises:
        InputError: as `open_dicom`; if it cannot be decoded here, or holds other pixels than its header says.
    """
    dataset = open_dicom(path)
    syntax = standard_name(dataset.file_meta.get("TransferSyntaxUID"), _UNKNOWN_SYNTAX)
    fault = f"its pixel data ({syntax}) cannot be decoded here, or is cut short; copy it again, or save it uncompressed"
    with discreet(path, fault):
        _check_decodable(dataset, path)
        if dataset.file_meta.TransferSyntaxUID.is_compressed:
            _check_coded(dataset, path)
        stored = dataset.pixel_array
        if dataset.PhotometricInterpretation in _GREY:
            grey = _grey(dataset, stored)
            shown = np.repeat(grey[..., None], 3, axis=2)
        else:
            shown = _colour(dataset, stored)
        if shown.shape != (dataset.Rows, dataset.Columns, 3):
            raise InputError(f"{path}: its pixel data is not of its Rows and Columns; copy it again or remove it")
        return Image.fromarray(np.ascontiguousarray(shown))


def _processing() -> Any:
    # pydicom 3 has moved its functions; their names are the same.
    try:
        from pydicom import pixels
    except ImportError:
        from pydicom.pixel_data_handlers import util as pixels
    return pixels


def _check_decodable(dataset: Dataset, path: str | Path) -> None:
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        from pydicom.pixels import get_decoder
    except ImportError:  # pydicom 2
        from pydicom import config

        able = any(each.is_available() and each.supports_transfer_syntax(syntax) for each in config.pixel_data_handlers)
    else:
        try:
            able = get_decoder(syntax).is_available
        except NotImplementedError:
            able = False
    if not able:
        raise InputError(
            f"{path}: compressed as {standard_name(syntax, _UNKNOWN_SYNTAX)}, for which no decoder is installed; pip "
            "install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg, or save it uncompressed (gdcmconv --raw)"
        )


def _check_coded(dataset: Dataset, path: str | Path) -> None:
    # A decoder makes what the compressed stream says, however large, whatever the header says.
    try:
        from pydicom.encaps import generate_frames
    except ImportError:  # pydicom 2
        from pydicom.encaps import generate_pixel_data_frame

        frames = list(generate_pixel_data_frame(dataset.PixelData, 1))
    else:
        table = [dataset.get(f"ExtendedOffsetTable{end}") for end in ("", "Lengths")]
        extended = tuple(table) if all(table) else None
        frames = list(generate_frames(dataset.PixelData, number_of_frames=1, extended_offsets=extended))
    if len(frames) != 1:
        raise InputError(f"{path}: its pixel data holds {len(frames)} frames; save each as a file of its own")
    if dataset.file_meta.TransferSyntaxUID == _RLE:
        return  # it says no size; its decoder makes what the header says
    size, told = coded_size(frames[0]), (int(dataset.Columns), int(dataset.Rows))
    if size is None:
        raise InputError(f"{path}: its compressed pixel data does not say how large it is; save it uncompressed")
    if size != told:
        raise InputError(f"{path}: its pixel data is not of its Rows and Columns; copy it again or remove it")


def _grey(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    pixels = _processing()
    values = stored if _is_identity(dataset) else pixels.apply_modality_lut(stored, dataset)
    if dataset.get("VOILUTSequence"):
        values = pixels.apply_voi(values, dataset)
        low, high = 0, 2 ** int(dataset.VOILUTSequence[0].LUTDescriptor[2]) - 1
    elif _has_window(dataset):
        values = pixels.apply_windowing(values, dataset)
        low, high = pixels.apply_windowing(np.array([-_BEYOND, _BEYOND]), dataset)
    elif values is stored and dataset.BitsStored <= 8 and not dataset.PixelRepresentation:
        low, high = 0, 2**dataset.BitsStored - 1
    else:
        inside = values[~_padding(dataset, stored)]
        low, high = (inside.min(), inside.max()) if inside.size else (0, 0)
    shown = _to_8_bit(values, low, high)
    return 255 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown


def _is_identity(dataset: Dataset) -> bool:
    # Many devices write a rescaling that changes nothing, which must not make another picture.
    rescaling = dataset.get("RescaleSlope"), dataset.get("RescaleIntercept")
    return rescaling == (1, 0) and not dataset.get("ModalityLUTSequence")


def _has_window(dataset: Dataset) -> bool:
    # A width that the standard forbids, as some devices write for an empty image, is no window.
    width, centre = dataset.get("WindowWidth"), dataset.get("WindowCenter")
    if width in (None, "") or centre in (None, ""):
        return False
    width = float(width[0] if hasattr(width, "__getitem__") else width)
    return width >= 1 or (width > 0 and dataset.get("VOILUTFunction", "LINEAR") != "LINEAR")


def _padding(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    ends = [dataset.get(name) for name in ("PixelPaddingValue", "PixelPaddingRangeLimit")]
    ends = [int(end) for end in ends if end is not None]
    if not ends or dataset.get("PixelPaddingValue") is None:
        return np.zeros(stored.shape, dtype=bool)
    return (stored >= min(ends)) & (stored <= max(ends))


def _colour(dataset: Dataset, stored: np.ndarray) -> np.ndarray:
    pixels = _processing()
    if dataset.PhotometricInterpretation == _PALETTE:
        coloured = pixels.apply_color_lut(stored, dataset)
        return _to_8_bit(coloured, 0, np.iinfo(coloured.dtype).max)
    # pydicom 3 has made it RGB; 2 gives YBR_FULL as it is stored.
    if dataset.PhotometricInterpretation in ("YBR_FULL", "YBR_FULL_422") and not hasattr(pixels, "get_decoder"):
        stored = pixels.convert_color_space(stored, dataset.PhotometricInterpretation, "RGB")
    return _to_8_bit(stored, 0, 2**dataset.BitsStored - 1)


def _to_8_bit(values: np.ndarray, low: float, high: float) -> np.ndarray:
    # (…) numbers to uint8, linearly from low…high to 0…255; what lies outside is cut off.
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    if not high > low:
        return np.zeros(values.shape, np.uint8)
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
    return (np.clip(scaled, 0, 255) + 0.5).astype(np.uint8)

"""A mask as a DICOM Segmentation object that lies where its image lies, by highdicom."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError
from .dicom import discreet, open_dicom, standard_name

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

# All that is taken of the image, and so all that can be in the mask. Patient and General Study modules, type 1 and 2:
# without them no archive files the mask beside its image.
_PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
_STUDY = ("StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID")
_PLACE = ("FrameOfReferenceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_OTHER = (
    "Modality",
    "SliceThickness",
    "PositionReferenceIndicator",
    "LossyImageCompression",
    "LossyImageCompressionRatio",
    "LossyImageCompressionMethod",
)
_NUMBER = 1000  # added to the series number of the image


class SegmentationSeries:
    """Makes the Segmentation objects of one run: those of the images of a series are a series too.

    Each has one frame and one segment, "lesion" (also where it is empty), and the Rows and Columns of its image; it
    refers to the image as its source, locations preserved. It takes over the image's place (frame of reference,
    position, orientation, pixel spacing) where all four are told; an image without one (endoscopy, secondary capture)
    has its mask tied to it by the reference alone, as the Segmentation IOD has it, and by PatientOrientation if it
    tells that. SOPInstanceUID and SeriesInstanceUID are new.

    Of patient and study it carries what the standard requires of every object (types 1 and 2): name, ID, birth date,
    sex; study UID, date, time, ID, accession number, referring physician. Nothing else.

    Args:
        weights_digest: SHA-256 of the weights, hexadecimal; its beginning goes by as the algorithm's version.
    """

    def __init__(self, weights_digest: str = "") -> None:
        self._version = weights_digest[:16] or "unknown"
        self._series: dict[str, str] = {}
        self._counts: dict[str, int] = {}

    def encode(self, path: str | Path, mask: np.ndarray) -> bytes:
        """The content of a DICOM file with a mask `(H, W)` bool of the single-frame DICOM image at `path`.

        Raises:
            InputError: as `open_dicom`; if the image lacks what a mask has to refer to, or highdicom does not know
                its kind.
        """
        source = _reference(open_dicom(path), path)
        kind = standard_name(source.SOPClassUID, "an unknown kind of object")
        fault = (
            f"what a DICOM mask refers to or takes over of its image ({kind}) is missing or has no valid form; save "
            "the image as PNG"
        )
        with discreet(path, fault):
            from highdicom import UID

            series = self._series.setdefault(source.SeriesInstanceUID, UID())
            number = self._counts[series] = self._counts.get(series, 0) + 1
            stream = io.BytesIO()
            _segmentation(source, mask, series, number, self._version).save_as(stream)
            return stream.getvalue()


def check_dicom_libraries(path: str | Path) -> None:
    """Make sure that what reads DICOM and writes its masks is installed; `path`, of a DICOM file, is for the message.

    Raises:
        InputError: if it is not.
    """
    with discreet(path):
        import highdicom
        import pydicom

        _ = (highdicom, pydicom)


def check_dicom_mask(path: str | Path) -> None:
    """Make sure that a mask of the DICOM image at `path` can be encoded.

    Raises:
        InputError: as `SegmentationSeries.encode`.
    """
    dataset = open_dicom(path)
    with discreet(path):
        shape = (int(dataset.Rows), int(dataset.Columns))
    SegmentationSeries().encode(path, np.zeros(shape, dtype=bool))


def _segmentation(source: Dataset, mask: np.ndarray, series: str, number: int, version: str) -> Dataset:
    from highdicom import UID, AlgorithmIdentificationSequence
    from highdicom.seg import Segmentation, SegmentDescription
    from pydicom.sr.codedict import codes

    lesion = SegmentDescription(
        segment_number=1,
        segment_label="lesion",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name="ORDER", family=codes.DCM.ArtificialIntelligence, version=version
        ),
    )
    segmentation = Segmentation(
        source_images=[source],
        pixel_array=mask.astype(np.uint8),
        segmentation_type="BINARY",
        segment_descriptions=[lesion],
        series_instance_uid=series,
        series_number=source.SeriesNumber,
        sop_instance_uid=UID(),
        instance_number=number,
        manufacturer="LAW & ORDER Bundles",
        manufacturer_model_name="ORDER",
        software_versions=version,
        device_serial_number=version,
        content_label="LESION",
        content_description="lesion mask, research only",
        series_description="lesion masks (ORDER), research only",
        omit_empty_frames=False,
    )
    if "ImagePositionPatient" not in source:  # type 2C: which side is the patient's left, where the image tells
        segmentation.PatientOrientation = source.get("PatientOrientation")
    return segmentation


def _reference(dataset: Dataset, path: str | Path) -> Dataset:
    # What a mask takes over, in UTF-8 and without what highdicom would stop at: it compares words with the standard's.
    from pydicom.dataset import Dataset

    with discreet(path):
        if missing := [name for name in _UIDS if not dataset.get(name)]:
            raise InputError(
                f"{path}: no {missing[0]}, so that a mask can not refer to it; mend the file, or save it as PNG"
            )
        source = Dataset()
        source.SpecificCharacterSet = "ISO_IR 192"
        for name in (*_UIDS, *_OTHER):
            if dataset.get(name) not in (None, ""):
                setattr(source, name, dataset.get(name))
        if all(dataset.get(name) for name in _PLACE):
            for name in _PLACE:
                setattr(source, name, dataset.get(name))
        else:
            source.PatientOrientation = dataset.get("PatientOrientation")
        for name in (*_PATIENT, *_STUDY):
            setattr(source, name, _text(dataset.get(name)))
        _drop_what_is_no_value(source)
        source.Rows, source.Columns = dataset.Rows, dataset.Columns
        source.SeriesNumber = _NUMBER + max(0, int(dataset.get("SeriesNumber") or 0))
        source.Modality = source.get("Modality") or "OT"
        return source


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _drop_what_is_no_value(source: Dataset) -> None:
    # Type 2: empty is allowed, a text that is no date or sex is not.
    from pydicom.valuerep import DA, TM

    if source.PatientSex not in ("M", "F", "O"):
        source.PatientSex = ""
    for name, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(source.get(name))
        except ValueError:
            setattr(source, name, "")

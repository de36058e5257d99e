"""DICOM files as tests draw them, each with something recognisable in whatever tells of a patient."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit, generate_uid

MR, SECONDARY, SEGMENTATION = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("4", "7", "66.4"))
WORD, DAY, NUMBER = "Zwetschgenknoedel", "19570313", "86421357"
# Marks of a patient: texts, dates and numbers that stand nowhere else. A year stands by itself: its four digits
# are within microseconds, new UIDs, fractions and digests by chance.
PLANTED = (WORD, DAY, NUMBER)
_MARK = re.compile(rf"{WORD}|{DAY}|{NUMBER}|(?<![.0-9a-f]){DAY[:4]}(?![0-9a-f])")
PLACE = {
    "FrameOfReferenceUID": generate_uid(entropy_srcs=["place"]),
    "ImagePositionPatient": [-17.25, 31.5, 4.125],
    "ImageOrientationPatient": [0.8, 0.6, 0, -0.6, 0.8, 0],
    "PixelSpacing": [0.75, 0.5],
    "SliceThickness": 2.5,
}
_TEXTS = {"LO": WORD, "SH": WORD[:16], "PN": f"{WORD}^Anna", "LT": WORD, "ST": WORD, "UT": WORD, "UC": WORD}
_TEXTS |= {"DA": DAY, "TM": "101112", "DT": DAY, "DS": NUMBER, "IS": NUMBER, "AS": "086Y"}
# fmt: off
_BESIDE = (
    "AccessionNumber", "ReferringPhysicianName", "InstitutionName", "InstitutionAddress", "StationName",
    "StudyDescription", "StudyID", "SeriesDescription", "PerformingPhysicianName", "OperatorsName",
    "NameOfPhysiciansReadingStudy", "ProtocolName", "StudyDate", "StudyTime", "SeriesDate", "AcquisitionDate",
    "ContentDate", "DeviceSerialNumber", "ImageComments", "RequestingPhysician",
)
# fmt: on


def marks_in(text: str) -> list[str]:
    """The marks of a patient that a text holds, in its order."""
    return _MARK.findall(text)


def plant(dataset: Dataset) -> None:
    """Put the marks into every tag of group 0010 that takes a text, and where else a person is told of."""
    group = {entry[4]: entry[0] for tag, entry in DicomDictionary.items() if tag >> 16 == 0x0010}
    beside = {entry[4]: entry[0] for entry in DicomDictionary.values() if entry[4] in _BESIDE}
    for keyword, kind in {**group, **beside}.items():
        if kind in _TEXTS:
            setattr(dataset, keyword, _TEXTS[kind])
    dataset.PatientSex = "F"


def with_syntax(path: Path, text: str) -> Path:
    """Put a text in the place of the transfer syntax's UID of a file of `dicom`, of not more than its length."""
    content, uid = path.read_bytes(), f"{ExplicitVRLittleEndian}\0".encode()
    assert content.count(uid) == 1 and len(text) <= len(uid)
    path.write_bytes(content.replace(uid, text.encode().ljust(len(uid), b"\0")))
    return path


def dicom(path: Path, pixels: np.ndarray | bytes, photometric: str = "MONOCHROME2", **attributes: Any) -> Path:
    """Write a single-frame DICOM file, of an array `(H, W)` or `(H, W, 3)`, or of a JPEG's bytes.

    `attributes` go over what is drawn; None removes. Rows and Columns of a JPEG have to be given.
    """
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if isinstance(pixels, bytes) else ExplicitVRLittleEndian
    plant(dataset)
    dataset.SOPClassUID = MR if "FrameOfReferenceUID" in attributes else SECONDARY
    for name in ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"):
        setattr(dataset, name, generate_uid(entropy_srcs=[name, path.name if name == "SOPInstanceUID" else ""]))
    dataset.Modality, dataset.SeriesNumber = "OT", 3
    dataset.PhotometricInterpretation = photometric
    deep = not isinstance(pixels, bytes) and pixels.dtype.itemsize == 2
    dataset.BitsAllocated = dataset.BitsStored = 16 if deep else 8
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(not isinstance(pixels, bytes) and pixels.dtype.kind == "i")
    if isinstance(pixels, bytes):
        dataset.SamplesPerPixel, dataset.PlanarConfiguration = 3, 0
        dataset.PixelData = encapsulate([pixels])
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = attributes.get("PlanarConfiguration", 0)
            pixels = np.moveaxis(pixels, 2, 0) if dataset.PlanarConfiguration else pixels
        content = np.ascontiguousarray(pixels).tobytes()
        dataset.PixelData = content + b"\0" * (len(content) % 2)
    for name, value in attributes.items():
        if value is None:
            delattr(dataset, name)
        else:
            setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path

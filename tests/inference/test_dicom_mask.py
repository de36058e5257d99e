"""From DICOM files to masks in their place, with nothing of the patient anywhere but in the DICOM mask."""

from __future__ import annotations

import csv
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from PIL import Image

from common.errors import InputError
from common.inference import check_inference_inputs, inference_items
from common.inference.dicom_mask import SegmentationSeries
from tests.inference.drawn_dicom import MR, PLACE, PLANTED, SEGMENTATION, WORD, dicom, marks_in, with_syntax

REPOSITORY = Path(__file__).parents[2]
# Types 1 and 2 of the Patient and General Study modules: PS3.3 C.7.1.1 and C.7.2.1.
PATIENT = ("PatientName", "PatientID", "PatientBirthDate", "PatientSex")
STUDY = ("StudyInstanceUID", "StudyDate", "StudyTime", "StudyID", "AccessionNumber", "ReferringPhysicianName")
REQUIRED = (*PATIENT, *STUDY)


@pytest.fixture
def picture(noise) -> np.ndarray:
    return np.asarray(noise(61, 43))


def _rows(output: Path) -> list[dict[str, str]]:
    with (output / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_dicom_gives_the_mask_of_the_same_picture_as_png(tmp_path, infer, picture):
    dicom(tmp_path / "dicom" / "a.dcm", picture, "RGB")
    dicom(tmp_path / "dicom" / "sub" / "b.DICOM", picture[::-1], "RGB")
    for name, values in (("a", picture), ("sub/b", picture[::-1])):
        path = tmp_path / "png" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(values)).save(path)
    for kind in ("dicom", "png"):
        infer(tmp_path / kind, tmp_path / f"out_{kind}")
    for name in ("masks/a.png", "masks/sub/b.png", "overlays/a.png"):
        assert (tmp_path / "out_dicom" / name).read_bytes() == (tmp_path / "out_png" / name).read_bytes()
    assert [row["segmentation"] for row in _rows(tmp_path / "out_png")] == ["", ""]
    assert not (tmp_path / "out_png" / "segmentations").exists()
    rows = _rows(tmp_path / "out_dicom")
    assert [row["image"] for row in rows] == ["a.dcm", "sub/b.DICOM"]
    for row in rows:
        segmentation = pydicom.dcmread(tmp_path / "out_dicom" / row["segmentation"])
        mask = np.asarray(Image.open(tmp_path / "out_dicom" / row["mask"])) == 255
        assert np.array_equal(segmentation.pixel_array == 1, mask) and mask.any() and not mask.all()


@pytest.mark.parametrize("empty", [False, True])
def test_a_mask_lies_where_its_image_lies(tmp_path, picture, empty):
    path = dicom(tmp_path / "x.dcm", picture[..., 0], **PLACE)
    image = pydicom.dcmread(path)
    mask = np.zeros(picture.shape[:2], dtype=bool) if empty else picture[..., 0] > 128
    (tmp_path / "mask.dcm").write_bytes(SegmentationSeries("ab" * 32).encode(path, mask))
    found = highdicom.seg.segread(tmp_path / "mask.dcm")
    assert np.array_equal(found.pixel_array == 1, mask)
    assert (found.SOPClassUID, found.Rows, found.Columns, found.NumberOfFrames) == (SEGMENTATION, 43, 61, 1)
    assert found.FrameOfReferenceUID == image.FrameOfReferenceUID
    shared, own = found.SharedFunctionalGroupsSequence[0], found.PerFrameFunctionalGroupsSequence[0]
    measures = shared.PixelMeasuresSequence[0]
    assert list(measures.PixelSpacing) == PLACE["PixelSpacing"] and measures.SliceThickness == PLACE["SliceThickness"]
    orientation = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    assert list(orientation) == PLACE["ImageOrientationPatient"]
    assert list(own.PlanePositionSequence[0].ImagePositionPatient) == PLACE["ImagePositionPatient"]
    source = own.DerivationImageSequence[0].SourceImageSequence[0]
    assert (source.ReferencedSOPClassUID, source.ReferencedSOPInstanceUID) == (MR, image.SOPInstanceUID)
    assert source.SpatialLocationsPreserved == "YES"
    segment = found.SegmentSequence[0]
    assert (segment.SegmentLabel, segment.SegmentAlgorithmType) == ("lesion", "AUTOMATIC")
    version = segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion
    assert version == "ab" * 8  # of the weights


def test_an_image_without_a_place_is_tied_by_reference(tmp_path, picture):
    path = dicom(tmp_path / "x.dcm", picture, "RGB", PatientOrientation=["L", "F"])
    image = pydicom.dcmread(path)
    (tmp_path / "mask.dcm").write_bytes(SegmentationSeries().encode(path, picture[..., 0] > 128))
    found = pydicom.dcmread(tmp_path / "mask.dcm")
    assert "FrameOfReferenceUID" not in found and list(found.PatientOrientation) == ["L", "F"]
    assert found.SourceImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID


def test_masks_of_a_series_are_a_series_of_new_objects_in_the_same_study(tmp_path, picture):
    made = SegmentationSeries()
    mask = np.zeros(picture.shape[:2], dtype=bool)
    found = []
    for name, attributes in (("a", {}), ("b", {}), ("c", {"SeriesInstanceUID": "1.2.3"})):
        path = dicom(tmp_path / f"{name}.dcm", picture, "RGB", **attributes)
        (tmp_path / "mask").write_bytes(made.encode(path, mask))
        found.append((pydicom.dcmread(path), pydicom.dcmread(tmp_path / "mask")))
    assert all(image.StudyInstanceUID == mask.StudyInstanceUID for image, mask in found)
    series = [mask.SeriesInstanceUID for _, mask in found]
    assert series[0] == series[1] != series[2]
    assert [mask.InstanceNumber for _, mask in found] == [1, 2, 1]
    uids = [getattr(each, name) for pair in found for each in pair for name in ("SOPInstanceUID",)]
    assert len(set(uids)) == 6 and not {image.SeriesInstanceUID for image, _ in found} & set(series)


def test_a_mask_holds_of_the_patient_what_the_standard_requires_and_nothing_else(tmp_path, picture):
    path = dicom(tmp_path / "x.dcm", picture[..., 0], **PLACE)
    image = pydicom.dcmread(path)
    (tmp_path / "mask.dcm").write_bytes(SegmentationSeries().encode(path, picture[..., 0] > 128))
    found = pydicom.dcmread(tmp_path / "mask.dcm")
    assert {name: str(found.get(name)) for name in REQUIRED} == {name: str(image.get(name)) for name in REQUIRED}
    told = {element.keyword for element in found.iterall() if marks_in(repr(element.value))}
    assert {"PatientName", "PatientBirthDate"} <= told <= set(REQUIRED)
    assert {element.keyword for element in found if element.tag.group == 0x0010} == set(PATIENT)


def test_values_that_are_none_are_left_empty_and_other_alphabets_stay(tmp_path, picture):
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    wrong = {"PatientSex": "?", "StudyDate": "", "PatientBirthDate": None, "StudyID": None}
    path = dicom(
        tmp_path / "x.dcm", picture, "RGB", SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name, **wrong
    )
    (tmp_path / "mask.dcm").write_bytes(SegmentationSeries().encode(path, picture[..., 0] > 128))
    found = pydicom.dcmread(tmp_path / "mask.dcm")
    assert str(found.PatientName) == name
    assert [found.get(each) or "" for each in wrong] == ["", "", "", ""]


@pytest.mark.parametrize("uid", ["SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID"])
def test_what_a_mask_cannot_refer_to_is_refused_before_the_run(tmp_path, picture, uid):
    path = dicom(tmp_path / "in" / "x.dcm", picture, "RGB")
    broken = pydicom.dcmread(path)
    setattr(broken, uid, "")
    broken.save_as(path)
    with pytest.raises(InputError, match=rf"x\.dcm: no {uid}, so that a mask can not refer to it"):
        check_inference_inputs(tmp_path / "in", tmp_path / "out")


def test_a_kind_that_wants_a_place_is_refused_without_one(tmp_path, picture):
    dicom(tmp_path / "in" / "x.dcm", picture[..., 0], SOPClassUID=MR)
    with pytest.raises(
        InputError, match=r"refers to or takes over of its image \(MR Image Storage\) is missing.*; save .* PNG"
    ):
        check_inference_inputs(tmp_path / "in", tmp_path / "out")


def test_an_identifier_longer_than_allowed_is_not_made_another_patients(tmp_path, picture):
    path = dicom(tmp_path / "in" / "x.dcm", picture, "RGB")
    content, mark = path.read_bytes(), b"LO\x12\x00" + PLANTED[0].encode() + b" "
    assert content.count(b"\x10\x00\x20\x00" + mark) == 1
    longer = b"LO\x46\x00" + (PLANTED[0] * 5)[:70].encode()
    path.write_bytes(content.replace(b"\x10\x00\x20\x00" + mark, b"\x10\x00\x20\x00" + longer))
    (tmp_path / "mask.dcm").write_bytes(SegmentationSeries().encode(path, picture[..., 0] > 128))
    found = pydicom.dcmread(tmp_path / "mask.dcm")
    assert found.PatientID == pydicom.dcmread(path).PatientID and len(found.PatientID) == 70


def test_without_highdicom_it_is_said_once_what_to_install(tmp_path, picture, monkeypatch):
    for name in ("x.dcm", "y.dcm"):
        dicom(tmp_path / "in" / name, picture, "RGB")
    monkeypatch.setitem(sys.modules, "highdicom", None)  # as where it is not installed
    with pytest.raises(InputError, match=r"x\.dcm: DICOM needs highdicom, which is not .*; pip install [^:]*$"):
        check_inference_inputs(tmp_path / "in", tmp_path / "out")


def test_a_dicom_beside_its_png_has_a_result_of_its_own_and_one_without_a_suffix_is_left(tmp_path, picture):
    dicom(tmp_path / "a.dcm", picture, "RGB")
    (tmp_path / "b").write_bytes((tmp_path / "a.dcm").read_bytes())
    Image.fromarray(picture).save(tmp_path / "a.png")
    assert [item["name"] for item in inference_items(tmp_path)] == ["a.dcm", "a.png"]


def test_a_dicom_mask_that_was_changed_is_not_replaced(tmp_path, infer, picture):
    dicom(tmp_path / "in" / "x.dcm", picture, "RGB")
    infer(tmp_path / "in", tmp_path / "out")
    check_inference_inputs(tmp_path / "in", tmp_path / "out")
    with (tmp_path / "out" / "segmentations" / "x.dcm").open("ab") as stream:
        stream.write(b"\0")
    with pytest.raises(InputError, match=r"segmentations/x\.dcm was changed since it was written"):
        check_inference_inputs(tmp_path / "in", tmp_path / "out")


def test_a_year_is_a_mark_where_it_stands_by_itself():
    for text in ("'1957'", "born 1957, female", "1957-03-13", "19570313"):
        assert marks_in(text)
    # As clocks, UIDs, fractions and digests have it.
    for text in ("101957.250000", "034501.195712", "2.25.3195741", "0.1957", "ce1957b0", "1957f3"):
        assert not marks_in(text)


def _told(folder: Path, ended: subprocess.CompletedProcess[str]) -> list[str]:
    # Where a mark of the patient is found: files but the DICOM masks, their names, and what was printed.
    texts = {"stdout": ended.stdout.encode(), "stderr": ended.stderr.encode()}
    for path in folder.rglob("*"):
        texts[f"name {path.name}"] = path.name.encode()
        if path.is_file() and path.parent.name != "segmentations":
            texts[path.name] = path.read_bytes()
            if path.suffix == ".png":
                texts[f"{path.name}'s notes"] = repr(Image.open(path).info).encode()
    return [name for name, text in texts.items() if marks_in(text.decode("latin-1"))]


@pytest.mark.parametrize("sound", [True, False], ids=["a run", "a refusal"])
def test_nothing_of_the_patient_is_in_results_or_messages(tmp_path, picture, sound):
    dicom(tmp_path / "in" / "x.dcm", picture[..., 0], WindowCenter=100, WindowWidth=90, **PLACE)
    bad = dicom(tmp_path / "in" / "y.dcm", picture, "RGB", PatientBirthDate=f"{PLANTED[1]}?", PatientSex=PLANTED[0][:9])
    if not sound:
        # A number that is a name: pydicom's own error and warning quote it.
        bad.write_bytes(bad.read_bytes().replace(b"IS\x02\x003 ", b"IS\x02\x00Zw"))
        dicom(tmp_path / "in" / "z.dcm", picture, "RGB", PixelData=b"\0\0")
        for name, attributes in (("a", {}), ("b", {"PixelData": None}), ("c", {"NumberOfFrames": 2})):
            dicom(tmp_path / "in" / f"{name}.dcm", picture, "RGB", SOPClassUID=WORD, **attributes)
        with_syntax(dicom(tmp_path / "in" / "d.dcm", picture, "RGB"), WORD)
    command = [
        "-m",
        "monai.bundle",
        "run",
        "--config_file",
        "order_polyps/configs/inference.yaml",
        "--image_size",
        "32",
    ]
    given = ["--dataset_dir", tmp_path / "in", "--output_dir", tmp_path / "out"]
    ended = subprocess.run(
        [sys.executable, *command, *map(str, given)], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert ended.returncode == (0 if sound else 2), ended.stderr[-2000:]
    assert all(f"{name}.dcm: " in ended.stderr for name in "yzabcd") != sound
    assert len(_told(tmp_path / "in", ended)) == (2 if sound else 7)  # what is looked for is there to be found
    assert _told(tmp_path / "out", ended) == []
    assert (tmp_path / "out" / "results.csv").exists() == sound

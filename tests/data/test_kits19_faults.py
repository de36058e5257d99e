"""Faults of KiTS19's files: each is one line that names its file, all come at once, and nothing is left behind."""

import gzip
import os
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
from PIL import Image

from common.data.kits19 import prepare_kits19
from common.errors import InputError
from tests.data.drawn_volumes import RELEASED, TEST, draw_ct, draw_segmentation, save_volume


def prepare(out, root, **rest):
    return prepare_kits19(out, root, progress=False, **rest)


def spoiled(number):
    """Segmentation and CT of a case, drawn."""
    segmentation = draw_segmentation(number)
    return segmentation, draw_ct(segmentation, number)


def without_imaging(folder):
    (folder / "imaging.nii.gz").unlink()


def without_segmentation(folder):
    (folder / "segmentation.nii.gz").unlink()


def wrong_label(folder):
    segmentation, _ = spoiled(1)
    segmentation[0, 0, 0] = 3
    save_volume(segmentation, folder / "segmentation.nii.gz")


def half_a_label(folder):
    segmentation, _ = spoiled(1)
    save_volume(segmentation.astype(np.float32) + 0.5, folder / "segmentation.nii.gz")


def other_shape(folder):
    _, ct = spoiled(1)
    save_volume(ct[:-1], folder / "imaging.nii.gz")


def other_affine(folder):
    _, ct = spoiled(1)
    shifted = RELEASED.copy()
    shifted[0, 3] = 1.0  # mm; 1.25 voxels
    save_volume(ct, folder / "imaging.nii.gz", affine=shifted)


def cut_short(folder, name="imaging"):
    path = folder / f"{name}.nii.gz"
    path.write_bytes(path.read_bytes()[:-500])


def segmentation_cut_short(folder):
    path = folder / "segmentation.nii.gz"
    path.write_bytes(path.read_bytes()[:200])


def cut_in_the_header(folder):
    path = folder / "imaging.nii.gz"
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:100]))


def damaged(folder):
    path = folder / "imaging.nii.gz"
    content = bytearray(path.read_bytes())
    content[-6] ^= 1  # of the checksum
    path.write_bytes(bytes(content))


def not_finite(folder):
    values = spoiled(1)[1].astype(np.float32)
    values[0, 0, 0] = np.nan  # in a slice that is not wanted
    save_volume(values, folder / "imaging.nii.gz")


def infinite_label(folder):
    values = spoiled(1)[0].astype(np.float32)
    values[0, 0, 0] = np.inf
    save_volume(values, folder / "segmentation.nii.gz")


def four_axes(folder):
    nibabel.save(nibabel.Nifti1Image(np.zeros((4, 5, 6, 2), np.int16), RELEASED), folder / "imaging.nii.gz")


def no_orientation(folder):
    image = nibabel.Nifti1Image(spoiled(1)[1], None)
    nibabel.save(image, folder / "imaging.nii.gz")


def no_volume(folder):
    (folder / "imaging.nii.gz").write_text("<html>not found</html>")


def met_twice(folder):
    again = folder.parent / "more" / folder.name
    again.mkdir(parents=True)
    for path in folder.iterdir():
        (again / path.name).write_bytes(path.read_bytes())


FAULTS = {
    without_imaging: "1 cases without imaging.nii.gz: ",
    without_segmentation: "1 cases without segmentation.nii.gz: ",
    wrong_label: "segmentation.nii.gz: has the value 3; the values of KiTS19 are 0 background, 1 kidney and 2 tumour",
    half_a_label: "segmentation.nii.gz: has the value 0.5; ",
    other_shape: "imaging.nii.gz has 8×40×36 voxels (slices, rows, columns), segmentation.nii.gz 9×40×36",
    other_affine: "the affines of imaging.nii.gz and segmentation.nii.gz lay their voxels up to 1.2 voxels apart",
    cut_short: "imaging.nii.gz: unreadable or cut short",
    segmentation_cut_short: "segmentation.nii.gz: unreadable or cut short",
    cut_in_the_header: "imaging.nii.gz: unreadable or cut short",
    damaged: "imaging.nii.gz: unreadable or cut short (CRC check failed",
    not_finite: "imaging.nii.gz: has voxels that are not finite",
    infinite_label: "segmentation.nii.gz: has voxels that are not finite",
    four_axes: "imaging.nii.gz: of shape 4×5×6×2; a volume has three axes",
    no_orientation: "imaging.nii.gz: its header states no orientation",
    no_volume: "imaging.nii.gz: unreadable or cut short",
    met_twice: "case_00001 too; keep one",
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_one_fault_is_one_line_that_names_the_case_and_nothing_is_left(tmp_path, save_case, spoil):
    for number in (0, 1, 2):
        save_case(tmp_path / "raw", number)
    spoil(tmp_path / "raw/case_00001")
    with pytest.raises(InputError) as caught:
        prepare(tmp_path / "out", tmp_path / "raw")
    said = str(caught.value)
    assert "\n" not in said
    assert FAULTS[spoil] in said
    assert "case_00001" in said
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_all_faults_come_at_once(tmp_path, save_case):
    for number in range(6):
        save_case(tmp_path / "raw", number)
    for number, spoil in ((0, wrong_label), (1, other_shape), (2, segmentation_cut_short), (4, without_imaging)):
        spoil(tmp_path / f"raw/case_{number:05d}")
    with pytest.raises(InputError, match="4 faults in ") as caught:
        prepare(tmp_path / "out", tmp_path / "raw")
    assert len(str(caught.value).splitlines()) == 5
    for number in (0, 1, 2, 4):
        (tmp_path / f"raw/case_{number:05d}").rename(tmp_path / str(number))
    for number, spoil in ((3, not_finite), (5, cut_short)):  # seen only when the images are cut
        spoil(tmp_path / f"raw/case_{number:05d}")
    save_case(tmp_path / "raw", 8)
    with pytest.raises(InputError, match=r"2 faults in kits19:\n.*case_00003.*\n.*case_00005"):
        prepare(tmp_path / "out", tmp_path / "raw")
    assert not (tmp_path / "out").exists()


def test_a_shift_within_a_voxel_is_no_fault(tmp_path, save_case):
    folder = save_case(tmp_path / "raw", 1)
    shifted = RELEASED.copy()
    shifted[0, 3] = 0.3  # mm; 0.375 voxels
    save_volume(spoiled(1)[1], folder / "imaging.nii.gz", affine=shifted)
    assert prepare(tmp_path / "out", tmp_path / "raw").lists["law"]["numTraining"] == 4


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("masks/case_00000_004.png", 255, "case_00000_004.png: has the value 255; the values are 0 background"),
        ("masks/case_00000_005.png", None, "case_00000_005.png: an image without a mask"),
        ("images/case_00000_005.png", None, "case_00000_005.png: a mask without an image"),
    ],
)
def test_faults_of_slices_are_one_line(tmp_path, save_slices, name, value, said):
    save_slices(tmp_path / "raw", 0)
    path = tmp_path / "raw" / name
    if value is None:
        path.unlink()
    else:
        Image.fromarray(np.full((40, 36), value, np.uint8)).save(path)
    with pytest.raises(InputError) as caught:
        prepare(tmp_path / "out", tmp_path / "raw")
    assert "\n" not in str(caught.value)
    assert said in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_names_that_tell_no_slice_are_a_fault(tmp_path, save_set):
    save_set(tmp_path / "raw/images", tmp_path / "raw/masks", ["a"])
    with pytest.raises(InputError, match=r"a\.png: its name tells no case and slice, as case_00025_064 does"):
        prepare(tmp_path / "out", tmp_path / "raw")


def test_what_cannot_be_prepared_says_why(tmp_path, save_case):
    with pytest.raises(InputError, match="gone: no such folder"):
        prepare(tmp_path / "out", tmp_path / "gone")
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match=r"raw: no case_00000 with imaging\.nii\.gz and segmentation\.nii\.gz in it"):
        prepare(tmp_path / "out", tmp_path / "raw")
    save_case(tmp_path / "raw", TEST)
    with pytest.raises(InputError, match="nothing to train on; 4 slices have enough tumour, all of test cases"):
        prepare(tmp_path / "out", tmp_path / "raw")
    for wrong in ({"window": 0}, {"window": float("nan")}, {"level": float("inf")}):
        with pytest.raises(InputError, match="they have to be numbers, and the window over 0"):
            prepare(tmp_path / "out", tmp_path / "raw", **wrong)
    with pytest.raises(InputError, match="min_pixels is -1"):
        prepare(tmp_path / "out", tmp_path / "raw", min_pixels=-1)


@pytest.mark.skipif(os.name == "nt", reason="needs SIGKILL")
def test_a_killed_prepare_leaves_nothing_that_looks_finished(tmp_path, save_case, repository):
    for number in range(30):
        save_case(tmp_path / "raw", number)
    command = [sys.executable, "-m", "common.data", "prepare", "kits19", tmp_path / "raw", tmp_path / "out"]
    process = subprocess.Popen(command, cwd=repository, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".out.*/images/*")):
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob("**/dataset.json"))

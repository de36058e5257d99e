"""Laws of `prepare kits19`: any orientation gives the same slices, cases stay together, each fault is one line.

The CT values of all volumes here are drawn; the segmentations too, but for those of the real set.
"""

import csv
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from functools import partial
from itertools import permutations, product
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform
from PIL import Image

from common.data import volumes
from common.data.folder import read_datalist
from common.data.integrity import verify
from common.data.kits19 import count_tumour, find, held_out_cases, prepare_kits19, split_cases
from common.data.volumes import AXIAL, open_volume, read_blocks, read_slices, window_8bit
from common.errors import InputError

RELEASED = np.array([[0, 0, -0.8, 0], [0, -0.8, 0, 0], [-3, 0, 0, 0], [0, 0, 0, 1.0]])
TEST, OTHERS = 3, (0, 1, 2, 4)  # case 3 is one of the 21
TURNS = ["".join(code) for axes in permutations(("LR", "AP", "IS")) for code in product(*axes)]


def draw_segmentation(number, shape=(9, 40, 36)):
    """A kidney 1 and in it a tumour 2 that grows from slice to slice: 0, 0, 4, 16, 36, 64 … pixels."""
    segmentation = np.zeros(shape, np.uint8)
    segmentation[1:, 5:35, 4 + number % 5 : 30 + number % 5] = 1
    for place in range(2, shape[0]):
        side = 2 * (place - 1)
        segmentation[place, 8 : 8 + side, 10 : 10 + side] = 2
    return segmentation


def draw_ct(segmentation, number):
    """HU of air, soft tissue, an enhanced kidney and a tumour, with noise; int16 of the segmentation's shape."""
    generator = np.random.default_rng(number)
    values = np.array([40, 180, 90], np.int16)[segmentation] + generator.integers(-30, 30, segmentation.shape)
    values[:, :3] = -1000
    values[:, -1] = 1500
    return values.astype(np.int16)


def save_volume(values, path, code="IPL", affine=RELEASED):
    """Save an axial volume with its axes stored in the order of `code`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    turn = ornt_transform(axcodes2ornt(AXIAL), axcodes2ornt(tuple(code)))
    image = nibabel.Nifti1Image(apply_orientation(values, turn), affine @ inv_ornt_aff(turn, values.shape))
    nibabel.save(image, path)
    return path


@pytest.fixture
def save_case():
    """A function that writes case_NNNNN of drawn values, with its axes stored in the order of `code`."""

    def saved(root, number, code="IPL", suffix=".nii.gz"):
        segmentation = draw_segmentation(number)
        folder = root / f"case_{number:05d}"
        save_volume(segmentation, folder / f"segmentation{suffix}", code)
        save_volume(draw_ct(segmentation, number), folder / f"imaging{suffix}", code)
        return folder

    return saved


@pytest.fixture
def save_slices(save):
    """A function that writes every slice of a drawn case as 8-bit PNGs, image and mask 0, 1, 2."""

    def saved(root, number):
        segmentation = draw_segmentation(number)
        images = window_8bit(draw_ct(segmentation, number), 500, 50)
        for place, (image, mask) in enumerate(zip(images, segmentation, strict=True)):
            save(image, root / f"images/case_{number:05d}_{place:03d}.png")
            save(mask, root / f"masks/case_{number:05d}_{place:03d}.png")

    return saved


def prepare(out, root, **rest):
    return prepare_kits19(out, root, progress=False, **rest)


def content_of(out):
    """Pixels of image and mask by file name."""
    files = {path.stem: path for path in (out / "images").iterdir()}
    return {
        stem: (np.asarray(Image.open(path)), np.asarray(Image.open(out / f"masks/{stem}.png")))
        for stem, path in files.items()
    }


def cases_of(out):
    content = json.loads((out / "dataset.json").read_text())
    return {key: {item["case"] for item in content[key]} for key in ("training", "validation", "test")}


@pytest.mark.parametrize("code", TURNS)
def test_a_volume_in_any_orientation_is_the_same(tmp_path, code):
    values = np.arange(6 * 5 * 4, dtype=np.int16).reshape(6, 5, 4)
    volume = open_volume(save_volume(values, tmp_path / "v.nii", code))
    assert volume.shape == values.shape
    assert np.allclose(volume.affine, RELEASED, atol=1e-5)
    whole = np.zeros_like(values)
    for box, block in read_blocks(volume):
        whole[box] = block
    assert np.array_equal(whole, values)


@pytest.mark.parametrize("code", ["IPL", "RAS", "SAL", "PIR"])
def test_small_blocks_read_the_same(tmp_path, monkeypatch, code):
    values = draw_ct(draw_segmentation(0), 0)
    volume = open_volume(save_volume(values, tmp_path / "v.nii.gz", code))
    monkeypatch.setattr(volumes, "_BLOCK_BYTES", 2000)
    assert len(list(read_blocks(volume))) >= 9
    wanted = [1, 4, 8]
    images = read_slices(volume, wanted, partial(window_8bit, window=400, level=40))
    assert np.array_equal(images, window_8bit(values[wanted], 400, 40))


def test_memory_is_a_few_blocks_whatever_the_volume(tmp_path, monkeypatch):
    monkeypatch.setattr(volumes, "_BLOCK_BYTES", 2**20)
    volume = open_volume(save_volume(np.zeros((160, 256, 256), np.int16), tmp_path / "v.nii.gz"))  # 20 MiB
    tracemalloc.start()
    read_slices(volume, [5, 9], partial(window_8bit, window=500, level=50))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 2**20


@pytest.mark.parametrize("kind", [np.int16, np.float32, np.float64])
def test_stored_values_are_scaled_to_hounsfield(tmp_path, kind):
    values = draw_ct(draw_segmentation(0), 0)
    image = nibabel.Nifti1Image(values.astype(kind), RELEASED)
    image.header.set_slope_inter(0.5, -100)  # what is stored is taken as it is
    nibabel.save(image, tmp_path / "v.nii.gz")
    for box, block in read_blocks(open_volume(tmp_path / "v.nii.gz")):
        assert np.allclose(block, values[box] * 0.5 - 100)


def test_the_window_is_linear_between_its_ends():
    values = np.array([-1000, -200, -75, 50, 175, 300, 3000])
    assert window_8bit(values, 500, 50).tolist() == [0, 0, 64, 128, 191, 255, 255]
    assert window_8bit(np.linspace(0, 255, 256), 255, 127.5).tolist() == list(range(256))


def test_slices_are_those_with_enough_tumour_and_hold_what_the_volume_holds(tmp_path, save_case):
    for number in (*OTHERS, TEST):
        save_case(tmp_path / "raw/data", number)
    prepare(tmp_path / "out", tmp_path / "raw", window=400, level=30)
    written = content_of(tmp_path / "out")
    expected = {}
    for number in (*OTHERS, TEST):
        segmentation = draw_segmentation(number)
        values = window_8bit(draw_ct(segmentation, number), 400, 30)
        for place in range(5, 9):  # 64 pixels and more; 36 in slice 4
            name = f"kits19_case_{number:05d}_{place:03d}"
            expected[name] = values[place], np.where(segmentation[place] == 2, 255, 0)
    assert set(written) == set(expected)
    for name, (image, mask) in expected.items():
        assert np.array_equal(written[name][0], np.repeat(image[..., None], 3, axis=2))
        assert np.array_equal(written[name][1], mask)
    head = json.loads((tmp_path / "out/dataset.json").read_text())
    assert head["description"].endswith("at least 50 tumour pixels; of volumes, -170 to 230 HU are 0 to 255.")
    assert verify(tmp_path / "out", progress=False).sound


@pytest.mark.parametrize("code", ["RAS", "LPS", "PIL"])
def test_orientation_and_suffix_do_not_matter(tmp_path, save_case, code):
    for number in (0, 1, TEST):
        save_case(tmp_path / "a", number)
        save_case(tmp_path / "b", number, code, ".nii")
    for name in ("a", "b"):
        prepare(tmp_path / f"out_{name}", tmp_path / name)
    one, other = ((tmp_path / f"out_{name}/dataset.json").read_bytes() for name in ("a", "b"))
    assert one == other  # with the sha256 of each image
    masks = [content_of(tmp_path / f"out_{name}") for name in ("a", "b")]
    assert all(np.array_equal(masks[0][name][1], masks[1][name][1]) for name in masks[0])


def test_slices_cut_before_give_what_the_volumes_give(tmp_path, save_case, save_slices):
    for number in (0, 1, TEST):
        save_case(tmp_path / "raw/volumes", number)
        save_slices(tmp_path / "raw/slices", number)
    first = prepare(tmp_path / "a", tmp_path / "raw/volumes").lists["law"]
    second = prepare(tmp_path / "b", tmp_path / "raw/slices")
    assert {**first, "description": ""} == {**second.lists["law"], "description": ""}
    assert "15 slices left out: fewer than 50 tumour pixels" in second.notes
    both = prepare(tmp_path / "c", tmp_path / "raw")
    assert {**both.lists["law"], "description": ""} == {**first, "description": ""}
    assert "12 slices left out: their cases are there as volumes" in both.notes


@pytest.mark.parametrize(("pixels", "first"), [(0, 0), (1, 2), (36, 4), (37, 5)])
def test_the_number_of_pixels_is_a_choice(tmp_path, save_case, pixels, first):
    save_case(tmp_path / "raw", 0)
    items = prepare(tmp_path / "out", tmp_path / "raw", min_pixels=pixels).lists["law"]["training"]
    assert [item["slice"] for item in items] == list(range(first, 9))
    assert {item["case"] for item in items} == {"case_00000"}


def test_the_test_cases_are_those_of_the_stated_rule():
    cases = list(range(210))
    random.Random(42).shuffle(cases)
    assert held_out_cases() == set(cases[:21])
    assert len(held_out_cases()) == 21
    assert TEST in held_out_cases()
    assert held_out_cases().isdisjoint(OTHERS)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_case_is_on_two_sides_and_test_never_moves(seed):
    generator = random.Random(seed)
    names = {f"{case}_{place}": case for case in range(210) for place in range(generator.randint(4, 60))}
    split = split_cases(names, seed)
    sides = [{names[name] for name in own} for own in (split.training, split.validation, split.test)]
    assert sum(map(len, sides)) == 210
    assert sides[2] == held_out_cases()
    pool = len(split.training) + len(split.validation)
    assert 0.09 * pool < len(split.validation) <= 0.1 * pool + 1
    other = split_cases(names, seed + 1)
    assert other.test == split.test
    assert other.validation != split.validation


def test_items_say_case_and_slice_and_the_group_is_the_case(tmp_path, save_case):
    for number in (0, 1, TEST):
        save_case(tmp_path / "raw", number)
    prepare(tmp_path / "out", tmp_path / "raw")
    for item in read_datalist(tmp_path / "out") + read_datalist(tmp_path / "out", key="test"):
        assert Path(item["image"]).stem == f"kits19_{item['case']}_{item['slice']:03d}"
        assert item["group"] == f"kits19_{item['case']}"
    assert cases_of(tmp_path / "out")["test"] == {f"case_{TEST:05d}"}


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


def test_cases_that_kits19_keeps_back_are_passed_over(tmp_path, save_case):
    for number in (0, 1, 210, 299):
        save_case(tmp_path / "raw", number)
    for number in (210, 299):
        without_segmentation(tmp_path / f"raw/case_{number:05d}")
    notes = prepare(tmp_path / "out", tmp_path / "raw").notes
    assert "2 cases from 210 on left out: KiTS19 gives no segmentation of them" in notes
    assert cases_of(tmp_path / "out")["training"] == {"case_00000", "case_00001"}


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


def rows_of(real_data):
    with open(real_data / "kits19/slices_per_case.csv", newline="") as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def test_real_counts_are_the_papers(real_data):
    rows = rows_of(real_data)
    names = {
        f"{case}_{place}": int(case[-5:])
        for case, row in rows.items()
        for place in range(int(row["tumour_slices_ge_50px"]))
    }
    split = split_cases(names, 0)
    assert (len(split.training) + len(split.validation), len(split.test)) == (5003, 531)


@pytest.mark.slow
def test_real_segmentations_have_the_counts_that_were_published(real_data):
    rows = rows_of(real_data)
    folders = sorted((real_data / "kits19/volumes").iterdir())
    assert folders
    for folder in folders:
        volume = open_volume(folder / "segmentation.nii.gz")
        counts = count_tumour(volume)
        found = len(counts), int((counts > 0).sum()), int((counts >= 50).sum())
        row = rows[folder.name]
        assert found == tuple(int(row[key]) for key in ("slices", "tumour_slices", "tumour_slices_ge_50px"))


def test_real_masks_with_drawn_ct_come_out_as_they_went_in(real_data, tmp_path):
    case = real_data / "kits19/volumes/case_00038/segmentation.nii.gz"
    image = nibabel.load(case)
    segmentation = np.asarray(image.dataobj)
    turned = nibabel.as_closest_canonical(image)  # no more as released
    folder = tmp_path / "raw/case_00038"
    folder.mkdir(parents=True)
    nibabel.save(turned, folder / "segmentation.nii.gz")
    drawn = draw_ct(np.asarray(turned.dataobj), 38)
    nibabel.save(nibabel.Nifti1Image(drawn, turned.affine), folder / "imaging.nii.gz")
    prepare(tmp_path / "out", tmp_path / "raw")
    written = content_of(tmp_path / "out")
    places = np.flatnonzero((segmentation == 2).sum(axis=(1, 2)) >= 50)
    assert set(written) == {f"kits19_case_00038_{place:03d}" for place in places}
    for place in places:
        assert np.array_equal(written[f"kits19_case_00038_{place:03d}"][1] > 0, segmentation[place] == 2)


def test_real_slices_are_those_of_the_real_volumes(real_data):
    """The released orientation is the one that slices are cut in here."""
    found = find(real_data / "kits19/slices", 50, progress=False)
    both = [pair for pair in found.slices if (real_data / "kits19/volumes" / pair.extra["case"]).is_dir()]
    assert both
    for pair in both:
        volume = open_volume(real_data / "kits19/volumes" / pair.extra["case"] / "segmentation.nii.gz")
        mask = read_slices(volume, [pair.extra["slice"]], lambda values: values)[0]
        assert np.array_equal(mask, np.asarray(Image.open(pair.mask)))

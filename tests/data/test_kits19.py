"""Laws of `prepare kits19`: slices hold what the volumes hold, cases stay together, counts are the published ones.

The CT values of all volumes here are drawn; the segmentations too, but for those of the real set.
"""

import csv
import json
import random
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from common.data.folder import read_datalist
from common.data.integrity import verify
from common.data.kits19 import count_tumour, find, held_out_cases, prepare_kits19, split_cases
from common.data.volumes import open_volume, read_slices, window_8bit
from tests.data.drawn_volumes import OTHERS, TEST, draw_ct, draw_segmentation


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


def test_cases_that_kits19_keeps_back_are_passed_over(tmp_path, save_case):
    for number in (0, 1, 210, 299):
        save_case(tmp_path / "raw", number)
    for number in (210, 299):
        (tmp_path / f"raw/case_{number:05d}/segmentation.nii.gz").unlink()
    notes = prepare(tmp_path / "out", tmp_path / "raw").notes
    assert "2 cases from 210 on left out: KiTS19 gives no segmentation of them" in notes
    assert cases_of(tmp_path / "out")["training"] == {"case_00000", "case_00001"}


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

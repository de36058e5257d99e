"""Laws of `prepare pairs`: any two folders, split by group, every fault at once."""

import numpy as np
import pytest

from common.data.folder import read_datalist
from common.data.pairs import prepare_pairs, read_groups
from common.errors import InputError

KEYS = ("training", "validation", "test")


def sides(out):
    return {item["image"].split("/")[-1].split(".")[0]: key for key in KEYS for item in read_datalist(out, key=key)}


def prepare(tmp_path, **options):
    return prepare_pairs(tmp_path / "i", tmp_path / "m", tmp_path / "out", name="set", progress=False, **options)


def test_split_has_the_fractions_and_repeats_with_the_seed(tmp_path, save_set):
    save_set(tmp_path / "i", tmp_path / "m", range(40), ".jpg", ending="_mask")
    splits = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / f"out{number}"
        prepare_pairs(tmp_path / "i", tmp_path / "m", out, name="set", test_fraction=0.25, seed=seed, progress=False)
        splits.append(sides(out))
    assert [list(splits[0].values()).count(key) for key in KEYS] == [27, 3, 10]
    assert splits[0] == splits[1]
    assert splits[0] != splits[2]


def test_a_group_stays_on_one_side(tmp_path, save_set):
    save_set(tmp_path / "i", tmp_path / "m", range(30))
    rows = "\n".join(f"{i},patient {i // 3}" for i in range(30))
    (tmp_path / "groups.csv").write_text(f"stem,group\n{rows}\n")
    prepare(tmp_path, groups=tmp_path / "groups.csv", test_fraction=0.2)
    side = sides(tmp_path / "out")
    assert all(len({side[f"set_{i}"] for i in range(start, start + 3)}) == 1 for start in range(0, 30, 3))
    assert list(side.values()).count("test") == 6


def test_near_identical_images_stay_on_one_side(tmp_path, drawn, save):
    for i in range(30):
        image, mask = drawn(i // 2, (64, 64))
        save(image, tmp_path / f"i/{i}.{'jpg' if i % 2 else 'png'}")
        save(mask, tmp_path / f"m/{i}.png")
    prepare(tmp_path, test_fraction=0.3, validation_fraction=0.3)
    side = sides(tmp_path / "out")
    assert all(side[f"set_{i}"] == side[f"set_{i + 1}"] for i in range(0, 30, 2))
    assert set(side.values()) == set(KEYS)


def test_one_folder_may_hold_both(tmp_path, save_set):
    save_set(tmp_path / "both", tmp_path / "both", ["benign (1)", "benign (2)"], ending="_mask")
    prepare_pairs(tmp_path / "both", tmp_path / "both", tmp_path / "out", name="set", test_fraction=0, progress=False)
    assert set(sides(tmp_path / "out")) == {"set_benign (1)", "set_benign (2)"}


def test_a_list_that_no_group_fits_is_said(tmp_path, save_set):
    save_set(tmp_path / "i", tmp_path / "m", range(6))
    (tmp_path / "groups.csv").write_text("".join(f"{i},one\n" for i in range(6)))
    prepared = prepare(tmp_path, groups=tmp_path / "groups.csv", validation_fraction=0)
    assert prepared.notes == ["the test list is empty: no group is small enough for 10% of the images"]


def test_all_faults_at_once_and_nothing_left(tmp_path, save_set, save, drawn):
    save_set(tmp_path / "i", tmp_path / "m", ["good", "alone", "cut", "small"], ".jpg")
    save_set(tmp_path / "x", tmp_path / "m", ["widow"])
    (tmp_path / "m/alone.png").unlink()
    cut = tmp_path / "i/cut.jpg"
    cut.write_bytes(cut.read_bytes()[:300])
    save(drawn(0)[1][:10], tmp_path / "m/small.png")
    (tmp_path / "groups.csv").write_text("good,a\ncut,b\nalone,c\n")
    with pytest.raises(InputError) as caught:
        prepare(tmp_path, groups=tmp_path / "groups.csv")
    lines = str(caught.value).splitlines()
    expected = [
        "alone.jpg: an image without a mask",
        "widow.png: a mask without an image",
        "groups.csv: names no group for small",
        "cut.jpg: unreadable or cut short",
        "set_small: the image is 40×32, its mask 40×10",
    ]
    assert lines[0] == "5 faults in set:"
    assert [sum(word in line for line in lines[1:]) for word in expected] == [1] * 5
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [({"test_fraction": 1.0}, "test_fraction is 1.0"), ({"validation_fraction": -0.1}, "validation_fraction is -0.1")],
)
def test_fractions_are_checked(tmp_path, save_set, options, said):
    save_set(tmp_path / "i", tmp_path / "m", range(3))
    with pytest.raises(InputError, match=said):
        prepare(tmp_path, **options)


def test_folders_are_checked(tmp_path, save_set):
    with pytest.raises(InputError, match="i: no such folder"):
        prepare(tmp_path)
    (tmp_path / "i").mkdir()
    with pytest.raises(InputError, match=r"no image in it; looked for \.jpg"):
        prepare(tmp_path)
    save_set(tmp_path / "i", tmp_path / "elsewhere", range(3))
    with pytest.raises(InputError, match="m: no such folder"):
        prepare(tmp_path)


def test_groups_file_is_checked(tmp_path):
    with pytest.raises(InputError, match=r"gone\.csv: cannot be read"):
        read_groups(tmp_path / "gone.csv")
    (tmp_path / "bad.csv").write_text("a,b\nc\nd,e,f\n")
    with pytest.raises(InputError, match=r"(?s)line 2 has 1 fields.*line 3 has 3 fields"):
        read_groups(tmp_path / "bad.csv")


def test_label_maps_need_a_label_value(tmp_path, drawn, save):
    for i in range(4):
        save(drawn(i)[0], tmp_path / f"i/{i}.png")
        save((np.arange(32 * 40).reshape(32, 40) % 3).astype(np.uint8), tmp_path / f"m/{i}.png")
    with pytest.raises(InputError, match="all 4 masks are empty; of label maps, say which value"):
        prepare(tmp_path)
    prepare(tmp_path, label_value=2)
    assert len(sides(tmp_path / "out")) == 4

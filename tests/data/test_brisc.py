"""Laws of `prepare brisc`: each way the set comes in gives the same folder, and training has no copy of test."""

import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from common.data.brisc import RELEASED, find_images, parse_name, prepare_brisc, protocols_of, split_without_copies
from common.data.folder import read_datalist, split_validation
from common.data.integrity import verify
from common.data.likeness import near_pairs, sign_files
from common.errors import InputError

TUMOURS = {
    "train": [f"brisc2025_train_{i:05d}_{('gl', 'me', 'pi')[i % 3]}_{('ax', 'co', 'sa')[i % 2]}_t1" for i in range(20)],
    "test": [f"brisc2025_test_{i:05d}_me_sa_t1" for i in range(3)],
}
NONE = {
    "train": [f"brisc2025_train_{i:05d}_no_co_t1" for i in range(20, 30)],
    "test": [f"brisc2025_test_{i:05d}_no_ax_t1" for i in range(3, 5)],
}
NAMES = [name for names in (TUMOURS, NONE) for own in names.values() for name in own]


@pytest.fixture
def write(drawn, save):
    """A function that writes a grey image of a number and, where a folder is given for it, its mask."""

    def written(number, image: Path, mask: Path | None = None, mode="L"):
        picture, lesion = drawn(number, (64, 60))
        save(np.asarray(Image.fromarray(picture[..., 0]).convert(mode)), image)
        if mask:
            save(lesion, mask)

    return written


def fill(write, root, folders, suffix=".jpg"):
    """The drawn set; `folders(part)` names those of images, of masks, and of images without a tumour."""
    for part in ("train", "test"):
        images, masks, none = (root / folder for folder in folders(part))
        for name in TUMOURS[part]:
            write(NAMES.index(name), images / f"{name}{suffix}", masks / f"{name}.png")
        for name in NONE[part]:
            write(NAMES.index(name), none / f"{name}{suffix}")


def released(part):
    return (
        f"segmentation_task/{part}/images",
        f"segmentation_task/{part}/masks",
        f"classification_task/{part}/no_tumor",
    )


def plain(part):
    return f"{part}/images", f"{part}/masks", f"{part}/no_tumor"


def loud(part):
    return f"{part.upper()}/Images", f"{part.upper()}/MASKS", f"{part.upper()}/No Tumor"


def lists_of(out, protocol):
    path = out / ("dataset.json" if protocol == "order" else f"protocols/{protocol}.json")
    content = json.loads(path.read_text())
    return {key: [Path(item["image"]).stem for item in content[key]] for key in ("training", "validation", "test")}


@pytest.mark.parametrize(("layout", "suffix"), [(released, ".jpg"), (plain, ".png"), (loud, ".JPG")])
def test_every_layout_gives_the_same_protocols(tmp_path, write, layout, suffix):
    fill(write, tmp_path / "raw/brisc2025", layout, suffix)
    if layout is released:  # the same images, sorted by class: those with a tumour are not read from here
        write(0, tmp_path / f"raw/brisc2025/classification_task/train/glioma/{TUMOURS['train'][0]}.jpg")
    prepared = prepare_brisc(tmp_path / "out", tmp_path / "raw", progress=False)
    assert {path.stem for path in (tmp_path / "out/images").iterdir()} == set(NAMES)
    for protocol, pool, test in (
        ("order", TUMOURS["train"] + NONE["train"], TUMOURS["test"] + NONE["test"]),
        ("law", TUMOURS["train"], TUMOURS["test"]),
    ):
        lists = lists_of(tmp_path / "out", protocol)
        assert sorted(lists["training"] + lists["validation"]) == sorted(pool)
        assert len(lists["validation"]) == len(pool) // 10
        assert lists["test"] == sorted(test)
        assert lists == lists_of(tmp_path / "out", f"{protocol}_released")
    assert prepared.notes[-1].startswith("missing against the release: train glioma 1,140 of 1,147, train meningioma")


def test_class_and_plane_are_kept_and_no_tumour_is_an_empty_mask(tmp_path, write):
    fill(write, tmp_path / "raw", plain)
    prepare_brisc(tmp_path / "out", tmp_path / "raw", progress=False)
    kinds = {"gl": "glioma", "me": "meningioma", "pi": "pituitary", "no": "none"}
    planes = {"ax": "axial", "co": "coronal", "sa": "sagittal"}
    items = [item for key in ("training", "validation", "test") for item in read_datalist(tmp_path / "out", None, key)]
    assert len(items) == len(NAMES)
    for item in items:
        kind, plane = Path(item["image"]).stem.split("_")[3:5]
        assert (item["class"], item["plane"]) == (kinds[kind], planes[plane])
        mask = np.asarray(Image.open(item["label"]))
        assert mask.any() == (kind != "no")
        assert mask.shape == (64, 60)


def test_names_tell_or_they_do_not():
    assert parse_name("BRISC2025_test_00001_GL_ax_t1").stem == "test_00001_gl_ax_t1"
    assert parse_name("train_7_nt_sa").kind == "none"
    for stem in ("brisc2025_train_00001_xx_ax_t1", "Tr-gl_0010", "brisc2025_valid_00001_gl_ax_t1", "train_1_gl_ax_t2"):
        assert parse_name(stem) is None


def test_copies_of_test_images_leave_training_and_those_of_validation_images_go_with_them(tmp_path, write):
    raw = tmp_path / "raw"
    fill(write, raw, plain)
    of_test, other = (f"brisc2025_train_{i}_gl_ax_t1" for i in ("00900", "00901"))
    write(NAMES.index(TUMOURS["test"][0]), raw / f"train/images/{of_test}.png", raw / f"train/masks/{of_test}.png")
    write(NAMES.index(NONE["test"][0]), raw / f"train/images/{other}.jpg", raw / f"train/masks/{other}.png")
    for number in range(len(TUMOURS["train"])):  # a copy of each, in another format
        name = f"brisc2025_train_{902 + number:05d}_me_co_t1"
        write(number, raw / f"train/images/{name}.png", raw / f"train/masks/{name}.png", "RGB")
    mirrored = raw / "train/images/brisc2025_train_00899_gl_ax_t1.png"
    write(NAMES.index(TUMOURS["test"][1]), mirrored, raw / "train/masks" / mirrored.name)
    ImageOps.mirror(Image.open(mirrored)).save(mirrored)
    notes = prepare_brisc(tmp_path / "out", raw, progress=False).notes
    report = verify(tmp_path / "out", progress=False)
    for protocol, left_out in (("order", {of_test, other, mirrored.stem}), ("law", {of_test, mirrored.stem})):
        assert report.across[protocol] == {"identical": {}, "near-identical": {}}
        lists, whole = (lists_of(tmp_path / "out", name) for name in (protocol, f"{protocol}_released"))
        assert lists["test"] == whole["test"]
        assert {*whole["training"], *whole["validation"]} - {*lists["training"], *lists["validation"]} == left_out
        number = len(left_out)
        said = f"{protocol}: {number} training images left out as copies of {number} test images; 0 test images are"
        assert said in "\n".join(notes)
    shared = [pairs for kind in report.across["order_released"].values() for pairs in kind.values()]
    assert sum(map(len, shared)) > 2
    groups = {item["group"] for item in read_datalist(tmp_path / "out", "order_released", "test")}
    pool = [
        item for key in ("training", "validation") for item in read_datalist(tmp_path / "out", "order_released", key)
    ]
    assert {Path(item["image"]).stem for item in pool if item["group"] in groups} == {of_test, other, mirrored.stem}


@pytest.mark.parametrize("seed", range(5))
def test_no_link_crosses_the_lists_and_nothing_leaves_without_one(seed):
    generator = random.Random(seed)
    names = [f"brisc2025_{part}_{i:03d}" for part, count in (("train", 80), ("test", 20)) for i in range(count)]
    items = {name: {"image": f"images/{name}.png"} for name in names}
    links = [tuple(generator.sample(names, 2)) for _ in range(60)]
    split, copies = split_without_copies(items, [*links, ("gone", names[0])], seed)
    side = {name: key for key in ("training", "validation", "test") for name in getattr(split, key)}
    assert all(side[a] == side[b] for a, b in links if a in side and b in side)
    assert [name for name in names if side.get(name) == "test"] == names[80:]
    left_out = set(names) - set(side)
    reached = {name: {name} for name in names[80:]}  # by a chain of links, of each test image
    for _ in links:
        for own in reached.values():
            own |= {name for pair in links if own.intersection(pair) for name in pair}
    test = set(names[80:])
    assert left_out == set().union(*reached.values()) - test
    assert copies.of_test == len(left_out)
    assert copies.tests == sum(not own <= test for own in reached.values())
    assert copies.within_test == len(test) - len({frozenset(own & test) for own in reached.values()})
    assert 0 < len(split.validation) < len(split.training)


def test_without_copies_it_is_the_fixed_split():
    items = {f"brisc2025_train_{i:03d}": {"image": f"images/brisc2025_train_{i:03d}.jpg"} for i in range(57)}
    split, _ = split_without_copies(items, [], 4)
    training, validation = split_validation(list(items.values()), 4)
    for names, expected in ((split.training, training), (split.validation, validation)):
        assert [items[name] for name in names] == expected


def remove_mask(root, write):
    (root / "train/masks" / f"{TUMOURS['train'][0]}.png").unlink()


def remove_image(root, write):
    (root / "train/images" / f"{TUMOURS['train'][0]}.jpg").unlink()


def remove_masks(root, write):
    (root / "train/masks").rename(root / "elsewhere")


def rename(root, write):
    write(90, root / "test/no_tumor/mine.jpg")


def misplace(root, write):
    write(90, root / "test/no_tumor/brisc2025_train_00077_no_ax_t1.jpg")


def mistake(root, write):
    write(90, root / "test/no_tumor/brisc2025_test_00077_pi_ax_t1.jpg")


def shorten(root, write):
    cut = root / "test/no_tumor" / f"{NONE['test'][0]}.jpg"
    cut.write_bytes(cut.read_bytes()[:400])


def resize(root, write):
    path = root / "train/masks" / f"{TUMOURS['train'][0]}.png"
    Image.open(path).resize((30, 32)).save(path)


FAULTS = {
    remove_mask: "_00000_gl_ax_t1.jpg: an image without a mask",
    remove_image: "_00000_gl_ax_t1.png: a mask without an image",
    remove_masks: "images: no folder masks beside it",
    rename: "mine.jpg: the name tells no list, class and plane",
    misplace: "_00077_no_ax_t1.jpg: named as one of train, but in the folder test",
    mistake: "_00077_pi_ax_t1.jpg: named as a pituitary, but in a folder of images without a tumour",
    shorten: "_00003_no_ax_t1.jpg: unreadable or cut short",
    resize: "the image is 60×64, its mask 30×32",
}


@pytest.mark.parametrize("spoil", FAULTS, ids=lambda spoil: spoil.__name__)
def test_one_fault_is_one_line_and_nothing_is_left(tmp_path, write, spoil):
    fill(write, tmp_path / "raw", plain)
    spoil(tmp_path / "raw", write)
    with pytest.raises(InputError) as caught:
        prepare_brisc(tmp_path / "out", tmp_path / "raw", progress=False)
    said = str(caught.value)
    if spoil is not remove_masks:  # then nothing is left to train on either
        assert "\n" not in said
    assert said.count(FAULTS[spoil]) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["raw"]


def test_folders_that_hold_no_training_are_named(tmp_path, write):
    (tmp_path / "raw").mkdir()
    with pytest.raises(InputError, match=r"raw: no image of BRISC in it; looked for images with masks beside it"):
        prepare_brisc(tmp_path / "out", tmp_path / "raw", progress=False)
    fill(write, tmp_path / "raw", plain)
    with pytest.raises(InputError, match="no training image with a mask"):
        prepare_brisc(tmp_path / "out", tmp_path / "raw/test", progress=False)
    with pytest.raises(InputError, match="gone: no such folder"):
        prepare_brisc(tmp_path / "out", tmp_path / "gone", progress=False)


def test_what_is_met_twice_counts_once(tmp_path, write):
    fill(write, tmp_path / "raw/a", plain)
    fill(write, tmp_path / "raw/b", plain)
    pairs, notes, faults = find_images(tmp_path / "raw")
    assert (sorted(pairs), faults) == (sorted(NAMES), [])
    assert sorted(int(note.split(": ")[1].split()[0]) for note in notes) == [2, 3, 10, 20]


def test_the_release_has_the_papers_counts():
    sums = {part: (sum(kinds.values()), sum(kinds.values()) - kinds["none"]) for part, kinds in RELEASED.items()}
    assert sums == {"train": (5000, 3933), "test": (1000, 860)}


@pytest.mark.slow
def test_real_images_are_whole_and_their_lists_share_no_copy(real_data):
    pairs, notes, faults = find_images(real_data / "brisc")
    assert (notes, faults) == ([], [])
    counts = Counter((name.split("_")[1], pair.extra["class"]) for name, pair in pairs.items())
    assert {kind: counts["train", kind] for kind in RELEASED["train"]} == RELEASED["train"]
    assert all(counts["test", kind] <= whole for kind, whole in RELEASED["test"].items())

    pairs = {name: pair for name, pair in pairs.items() if pair.extra["class"] == "meningioma"}  # most copies by far
    names = list(pairs)
    signatures = sign_files([pair.image for pair in pairs.values()], progress=False)
    links = [(names[i], names[j]) for i, j in near_pairs(signatures)]
    items = {name: {"image": str(pair.image), **pair.extra} for name, pair in pairs.items()}
    splits, _ = protocols_of(items, links, 0)
    for protocol, crossing in (("order", 0), ("law", 0), ("order_released", 60), ("law_released", 60)):
        split = splits[protocol]
        sides = {name: "test" if "_test_" in name else "training" for name in [*split.training, *split.test]}
        sides |= dict.fromkeys(split.validation or (), "validation")
        crossed = [pair for pair in links if len({sides[name] for name in pair if name in sides}) == 2]
        assert len(crossed) >= crossing
        assert crossing or not crossed

"""Laws of the prepared folder: what is written is what is read, faults come all at once, splits obey their rule."""

import hashlib
import json
import random

import numpy as np
import pytest
from PIL import Image

from common.data.folder import Pair, Split, fingerprint, read_datalist, split_validation, write_prepared_folder
from common.errors import InputError


@pytest.fixture
def drawn_pairs(drawn):
    """A function that makes so many drawn pairs, two of each group."""
    return lambda count: [Pair(*drawn(i), source="drawn", group=f"g{i // 2}", stem=str(i)) for i in range(count)]


def write(out, pairs, protocols, **rest):
    return write_prepared_folder(out, pairs, protocols, name="drawn", licence="none", progress=False, **rest)


def names(pairs):
    return [pair.name for pair in pairs]


def test_written_equals_read(tmp_path, drawn_pairs):
    pairs = drawn_pairs(12)
    write(tmp_path / "out", iter(pairs), {"a": Split(names(pairs)[:10], names(pairs)[10:])}, total=12)
    items = [item for key in ("training", "validation", "test") for item in read_datalist(tmp_path / "out", key=key)]
    assert len(items) == 12
    by_name = {pair.name: pair for pair in pairs}
    for item in items:
        pair = by_name[item["image"].split("/")[-1].removesuffix(".png")]
        assert np.array_equal(np.asarray(Image.open(item["image"])), pair.image)
        assert np.array_equal(np.asarray(Image.open(item["label"])), pair.mask)
        assert item["group"] == pair.group
        with open(item["image"], "rb") as file:
            assert item["sha256"] == hashlib.sha256(file.read()).hexdigest()


def test_protocols_share_images_and_the_first_is_default(tmp_path, drawn_pairs):
    pairs = drawn_pairs(6)
    write(tmp_path / "out", pairs, {"a": Split(names(pairs)[:4], names(pairs)[4:]), "b": Split(names(pairs))}, seed=3)
    assert len(read_datalist(tmp_path / "out", "b")) + len(read_datalist(tmp_path / "out", "b", "validation")) == 6
    assert read_datalist(tmp_path / "out", "a") == read_datalist(tmp_path / "out")
    assert read_datalist(tmp_path / "out", "b", "test") == []
    head = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert (head["protocol"], head["seed"], head["numTest"]) == ("a", 3, 2)
    assert not any(item["image"].startswith("/") for item in head["training"])


@pytest.mark.parametrize("seed", [0, 7])
def test_split_rule_is_the_fixed_one(seed):
    items = [{"image": f"images/{i}.png"} for i in range(57)]
    training, validation = split_validation(items[::-1], seed)
    ordered = sorted(items, key=lambda item: item["image"])
    order = list(range(57))
    random.Random(seed).shuffle(order)
    assert validation == sorted((ordered[i] for i in order[:6]), key=lambda item: item["image"])
    assert sorted(item["image"] for item in training + validation) == [item["image"] for item in ordered]


def test_split_leaves_the_global_generator_alone():
    random.seed(1)
    state = random.getstate()
    split_validation([{"image": str(i)} for i in range(20)], 0)
    assert random.getstate() == state


def test_all_faults_at_once_and_nothing_left(tmp_path, drawn_pairs, drawn):
    good = drawn_pairs(3)
    image, mask = drawn(1)
    bad = [
        Pair(image, mask[:-1], "drawn", "g", "size"),
        Pair(tmp_path / "gone.png", mask, "drawn", "g", "gone"),
        Pair(image, mask, "drawn", "g", "1"),
        Pair(image, mask, "Drawn", "g", "2"),
        Pair(image, mask, "drawn", "g", "a/b"),
    ]
    with pytest.raises(InputError) as caught:
        write(tmp_path / "out", good + bad, {"a": Split([])}, faults=["known before"])
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("6 faults")
    for line, word in zip(
        lines[1:], ["known before", "drawn_size", "gone.png", "two of this name", "case", "'a/b'"], strict=True
    ):
        assert word in line
    assert list(tmp_path.iterdir()) == []


def test_a_stop_leaves_nothing(tmp_path, drawn_pairs):
    def stopping():
        yield from drawn_pairs(2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "out", stopping(), {"a": Split([])})
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fills_up_is_one_line_and_leaves_nothing(tmp_path, drawn_pairs):
    """A limit on the size of files stands for the full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, before[1]))
    try:
        with pytest.raises(InputError, match="out: file too large; make room or choose another folder") as caught:
            write(tmp_path / "out", drawn_pairs(4), {"a": Split([])})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_never_overwrites(tmp_path, drawn_pairs):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="not empty"):
        write(tmp_path / "out", drawn_pairs(2), {"a": Split([])})
    assert (tmp_path / "out" / "mine.txt").read_text() == "kept"


def test_reading_names_what_is_wrong_and_the_mend(tmp_path, drawn_pairs):
    with pytest.raises(InputError, match="no such folder"):
        read_datalist(tmp_path / "gone")
    with pytest.raises(InputError, match=r"not prepared: run python -m common\.data prepare polyps"):
        read_datalist(tmp_path)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    with pytest.raises(InputError, match=r"prepare pairs .*images .*masks OUT"):
        read_datalist(tmp_path)
    for folder, command in (("a/segmentation_task", "brisc"), ("b/train/images", "brisc"), ("c/case_00000", "kits19")):
        (tmp_path / folder).mkdir(parents=True)
        with pytest.raises(InputError, match=rf"run python -m common\.data prepare {command} .* OUT"):
            read_datalist(tmp_path / folder[0])
    pairs = drawn_pairs(4)
    write(tmp_path / "out", pairs, {"a": Split(names(pairs)), "b": Split([], names(pairs))})
    with pytest.raises(InputError, match="no protocol 'c'; there are a, b"):
        read_datalist(tmp_path / "out", "c")
    with pytest.raises(InputError, match="no list 'train'; there are training, validation, test"):
        read_datalist(tmp_path / "out", "a", "train")
    with pytest.raises(InputError, match="training list is empty"):
        read_datalist(tmp_path / "out", "b")
    (tmp_path / "out" / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="not valid JSON"):
        read_datalist(tmp_path / "out")


def test_a_source_that_monai_would_take_for_a_path_is_refused(tmp_path, drawn):
    with pytest.raises(InputError, match="'masks' cannot serve"):
        write(tmp_path / "out", [Pair(*drawn(0), "masks", "g", "0")], {"a": Split([])})


def test_further_keys_and_a_mask_that_is_none(tmp_path, drawn):
    from monai.data import list_data_collate

    pairs = [Pair(*drawn(i), "drawn", f"g{i}", str(i), extra={"class": "none", "slice": i}) for i in range(3)]
    pairs += [Pair(drawn(3)[0], None, "drawn", "g3", "3", extra={"class": "gl", "slice": 3})]
    write(tmp_path / "out", pairs, {"a": Split(names(pairs), validation=[])})
    items = read_datalist(tmp_path / "out")
    assert [(item["class"], item["slice"]) for item in items] == [("none", 0), ("none", 1), ("none", 2), ("gl", 3)]
    batch = list_data_collate([{key: item[key] for key in ("class", "slice")} for item in items])
    assert batch["slice"].tolist() == [0, 1, 2, 3]
    empty = np.asarray(Image.open(items[3]["label"]))
    assert empty.shape == drawn(3)[1].shape
    assert not empty.any()
    with pytest.raises(ValueError, match="extra: group are keys that every item has"):
        Pair(*drawn(0), "drawn", "g", "0", extra={"group": "x"})
    with pytest.raises(InputError, match="'images' cannot serve as its class"):
        write(tmp_path / "other", [Pair(*drawn(0), "drawn", "g", "0", extra={"class": "images"})], {"a": Split([])})


def test_faults_that_come_while_pairs_are_drawn_are_reported(tmp_path, drawn_pairs):
    faults = ["known before"]

    def failing():
        yield from drawn_pairs(2)
        faults.append("met on the way")

    with pytest.raises(InputError) as caught:
        write(tmp_path / "out", failing(), {"a": Split([])}, faults=faults)
    assert str(caught.value).splitlines()[1:] == ["  known before", "  met on the way"]
    assert list(tmp_path.iterdir()) == []


def test_all_masks_empty_is_a_fault(tmp_path, drawn):
    image, mask = drawn(0)
    pairs = [Pair(image, np.zeros_like(mask), "drawn", "g", str(i)) for i in range(3)]
    with pytest.raises(InputError, match="all 3 masks are empty; of label maps, say which value"):
        write(tmp_path / "out", pairs, {"a": Split([])})
    assert list(tmp_path.iterdir()) == []


def test_protocols_may_wait_for_the_written_images(tmp_path, drawn_pairs):
    pairs = drawn_pairs(4)

    def protocols(folder, items):
        assert all((folder / item["image"]).is_file() for item in items.values())
        return {"late": Split(sorted(items)[:3], sorted(items)[3:])}

    lists = write(tmp_path / "out", pairs, protocols)
    assert [lists["late"][f"num{key}"] for key in ("Training", "Validation", "Test")] == [3, 0, 1]


def test_the_fingerprint_follows_images_masks_and_lists_alone(tmp_path):
    def pairs(turned: bool = False):
        for number in range(6):
            noise = np.random.default_rng(number)
            mask = np.zeros((32, 32), bool)
            mask[4:9, 3:12] = True
            image = noise.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            yield Pair(image, ~mask if turned and number == 5 else mask, "set", f"g{number}", f"{number}")

    names = [f"set_{number}" for number in range(6)]

    def written(folder: str, turned: bool = False, names: list[str] = names) -> str:
        split = Split(names[1:], [], names[:1])
        write_prepared_folder(tmp_path / folder, pairs(turned), {"p": split}, name="n", licence="l", progress=False)
        return fingerprint(tmp_path / folder)

    first = written("a")
    assert first == written("b")
    assert len({first, written("c", turned=True), written("d", names=names[1:])}) == 3

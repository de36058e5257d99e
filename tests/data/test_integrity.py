"""Laws of `verify` and of the check before a training: one fault, one report; a sound folder, none."""

import json

import numpy as np
import pytest
from PIL import Image

from common.data.folder import Pair, Split, read_datalist, write_prepared_folder
from common.data.integrity import check_prepared, verify
from common.errors import InputError


@pytest.fixture
def folder(tmp_path, drawn):
    """A sound prepared folder of ten drawn pairs, protocols `a` (the default) and `b`."""
    pairs = [Pair(*drawn(i, (64, 64)), "drawn", f"g{i}", str(i)) for i in range(10)]
    names = [pair.name for pair in pairs]
    splits = {"a": Split(names[:6], names[8:], names[6:8]), "b": Split(names[:5], names[5:], [])}
    write_prepared_folder(tmp_path / "out", pairs, splits, name="drawn", licence="none", progress=False)
    return tmp_path / "out"


def edit(path, change):
    """Change the JSON of a datalist in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def replace_pixels(path, change):
    values = np.array(Image.open(path))
    Image.fromarray(change(values)).save(path)


def spoil(folder, name):
    """One fault, by name."""
    image, mask, lists = folder / "images/drawn_0.png", folder / "masks/drawn_0.png", folder / "dataset.json"
    if name == "image missing":
        image.unlink()
    elif name == "mask missing":
        mask.unlink()
    elif name == "image truncated":
        image.write_bytes(image.read_bytes()[:-200])
    elif name == "mask truncated":
        mask.write_bytes(mask.read_bytes()[:60])
    elif name == "not an image":
        mask.write_text("nothing")
    elif name == "size mismatch":
        replace_pixels(mask, lambda values: values[:-1])
    elif name == "mask not binary":
        replace_pixels(mask, lambda values: values // 2)
    elif name == "mask in colour":
        replace_pixels(mask, lambda values: np.stack([values] * 3, -1))
    elif name == "image in grey":
        replace_pixels(image, lambda values: values[..., 0])
    elif name == "masks all empty":
        for path in (folder / "masks").iterdir():
            replace_pixels(path, np.zeros_like)
    elif name == "path leads out":
        edit(lists, lambda content: content["training"][0].update(image="../../secret.png"))
    elif name == "path absolute":
        edit(lists, lambda content: content["training"][0].update(label="/etc/hostname"))
    elif name == "item without label":
        edit(lists, lambda content: content["training"][0].pop("label"))
    elif name == "no training list":
        edit(lists, lambda content: content.pop("training"))
    elif name == "lists empty":
        edit(lists, lambda content: content.update(training=[], validation=[], test=[]))
    else:
        raise AssertionError(name)


FAULTS = {
    "image missing": "images/drawn_0.png: no such file",
    "mask missing": "masks/drawn_0.png: no such file",
    "image truncated": "images/drawn_0.png: unreadable or cut short",
    "mask truncated": "masks/drawn_0.png: unreadable or cut short",
    "not an image": "masks/drawn_0.png: not an image",
    "size mismatch": "images/drawn_0.png: is 64×64 but its mask 64×63",
    "mask not binary": "masks/drawn_0.png: has values other than 0 and 255",
    "mask in colour": "masks/drawn_0.png: has values other than 0 and 255",
    "image in grey": "images/drawn_0.png: not 8-bit RGB but L",
    "masks all empty": "masks are empty",
    "path leads out": "item 0 of 'training': ../../secret.png leads out of the folder",
    "path absolute": "item 0 of 'training': /etc/hostname leads out of the folder",
    "item without label": "item 0 of 'training' lacks its image or label",
    "no training list": "no list 'training'",
    "lists empty": "all its lists are empty",
}


def test_a_sound_folder_has_nothing_to_report(folder):
    report = verify(folder, progress=False)
    assert (report.errors, report.warnings) == ([], [])
    assert report.counts["a"] == {"training": {"drawn": 6}, "validation": {"drawn": 2}, "test": {"drawn": 2}}
    assert list(report.counts) == ["a", "b"]
    quick = check_prepared(folder, progress=False)
    assert quick.warnings == []
    assert quick.counts == {"a": report.counts["a"]}
    assert check_prepared(folder, "b", progress=False).counts == {"b": report.counts["b"]}


def test_a_folder_to_test_on_alone_is_sound(folder):
    edit(folder / "dataset.json", lambda content: content.update(test=content.pop("training"), training=[]))
    report = verify(folder, progress=False)
    assert report.errors == []
    assert any("training list is empty" in warning for warning in report.warnings)
    assert read_datalist(folder, key="training", may_be_empty=True) == []


@pytest.mark.parametrize("name", FAULTS)
def test_one_fault_one_error(folder, name):
    spoil(folder, name)
    errors = verify(folder, progress=False).errors
    if name == "image in grey":  # written anew, so it is not what was prepared either
        assert "sha256" in errors.pop()
    assert len(errors) == 1, errors
    assert FAULTS[name] in errors[0]
    assert "\n" not in errors[0]


@pytest.mark.parametrize("name", FAULTS)
def test_the_check_before_training_finds_the_same(folder, name):
    spoil(folder, name)
    with pytest.raises(InputError) as caught:
        check_prepared(folder, progress=False)
    assert FAULTS[name] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_all_faults_at_once(folder):
    spoil(folder, "path leads out")
    (folder / "masks/drawn_2.png").unlink()
    replace_pixels(folder / "masks/drawn_3.png", lambda values: values[1:])
    replace_pixels(folder / "masks/drawn_8.png", lambda values: values // 3)
    with pytest.raises(InputError) as caught:
        check_prepared(folder, progress=False)
    assert str(caught.value).startswith("4 faults in")
    assert str(caught.value).splitlines()[1:] == [f"  {error}" for error in verify(folder, progress=False).errors]


def test_changed_pixels_are_found_by_their_digest(folder):
    replace_pixels(folder / "images/drawn_0.png", lambda values: values ^ 1)
    errors = verify(folder, progress=False).errors
    assert len(errors) == 1
    assert "images/drawn_0.png: not the image that was prepared (sha256)" in errors[0]


def test_a_link_out_of_the_folder_is_an_error(folder, tmp_path):
    image = folder / "images/drawn_0.png"
    image.rename(tmp_path / "moved.png")
    image.symlink_to(tmp_path / "moved.png")
    assert all("leads out of the folder" in error for error in verify(folder, progress=False).errors)
    assert len(verify(folder, progress=False).errors) == 2  # of both protocols


def test_a_broken_protocol_does_not_hide_the_others(folder):
    (folder / "protocols/b.json").write_text("[]")
    spoil(folder, "mask missing")
    errors = verify(folder, progress=False).errors
    assert len(errors) == 2
    assert "b.json: holds a list, not a datalist" in errors[0]


@pytest.mark.parametrize("name", ["empty", "unlisted", "twice", "same image", "same group"])
def test_one_oddity_one_counted_warning(folder, name):
    lists, expected = folder / "dataset.json", ""
    (folder / "protocols/b.json").unlink()
    if name == "empty":
        replace_pixels(folder / "masks/drawn_0.png", np.zeros_like)
        expected = "1 empty masks: masks/drawn_0.png"
    elif name == "unlisted":
        (folder / "images/stray.png").write_text("")
        expected = "1 files are in no list: images/stray.png"
    elif name == "twice":
        edit(lists, lambda content: content["training"].append(content["training"][0]))
        expected = "a: 1 images are twice in training: images/drawn_0.png"
    elif name == "same image":
        edit(lists, lambda content: content["test"].append({**content["training"][0], "group": "other"}))
        expected = "a: 1 images are in both training and test: images/drawn_0.png"
    elif name == "same group":
        edit(lists, lambda content: content["validation"][0].update(group="g0"))
        expected = "a: 1 groups are in both training and validation: g0"
    report = verify(folder, progress=False)
    assert report.errors == []
    assert report.warnings == [expected]


def test_identical_and_near_identical_images_across_lists_are_counted_and_named(tmp_path, drawn):
    images = [drawn(i, (64, 64)) for i in range(8)]
    brighter = (np.minimum(images[1][0].astype(int) + 4, 255).astype(np.uint8), images[1][1])
    images[6], images[7] = images[0], brighter
    pairs = [Pair(*pair, "drawn", f"g{i}", str(i)) for i, pair in enumerate(images)]
    names = [pair.name for pair in pairs]
    split = {"a": Split(names[:5], names[6:], names[5:6])}
    write_prepared_folder(tmp_path / "out", pairs, split, name="drawn", licence="none", progress=False)
    report = verify(tmp_path / "out", progress=False)
    same, near = [("images/drawn_0.png", "images/drawn_6.png")], [("images/drawn_1.png", "images/drawn_7.png")]
    assert report.errors == []
    assert report.across["a"] == {
        "identical": {("training", "test"): same},
        "near-identical": {("training", "test"): near},
    }
    assert report.warnings == [
        "1 images repeat another to the pixel: images/drawn_0.png ~ images/drawn_6.png",
        "a: 1 identical pairs across training and test, 1 of 2 images of test: images/drawn_0.png ~ images/drawn_6.png",
        "a: 1 near-identical pairs across training and test, 1 of 2 images of test: "
        "images/drawn_1.png ~ images/drawn_7.png",
    ]

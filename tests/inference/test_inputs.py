from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from common.errors import InputError
from common.inference import check_inference_inputs, inference_items, list_images


@pytest.fixture
def folder(tmp_path) -> Path:
    """`in/` with four images, two of them in a subfolder."""
    for name in ("b.png", "a.JPG", "sub/c.tif", "sub/deep/d.BMP"):
        _image(tmp_path / "in" / name)
    return tmp_path / "in"


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 6)).save(path)


def _contents(path: Path) -> dict[str, bytes | None]:
    return {str(one.relative_to(path)): one.read_bytes() if one.is_file() else None for one in path.rglob("*")}


def _refused(dataset_dir: object, output_dir: object) -> str:
    with pytest.raises(InputError) as caught:
        check_inference_inputs(dataset_dir, output_dir)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_folder_means_every_image_under_it(folder):
    (folder / "notes.txt").write_text("not an image")
    _image(folder / ".thumbnails" / "b.png")
    (folder / "._b.png").write_bytes(b"what macOS leaves")
    assert [path.relative_to(folder).as_posix() for path in list_images(folder)] == [
        "a.JPG",
        "b.png",
        "sub/c.tif",
        "sub/deep/d.BMP",
    ]


def test_one_file_means_itself_and_a_relative_path_the_same_as_an_absolute(folder, monkeypatch):
    assert list_images(folder / "b.png") == [folder / "b.png"]
    monkeypatch.chdir(folder.parent)
    assert list_images("in") == list_images(folder)
    assert list_images("in/b.png") == [folder / "b.png"]


@pytest.mark.parametrize("marker", ["dataset.json", "masks/a.png"])
def test_of_a_folder_of_pairs_only_the_images_are_meant(tmp_path, marker):
    _image(tmp_path / "images" / "a.png")
    (tmp_path / marker).parent.mkdir(exist_ok=True)
    (tmp_path / marker).write_bytes(b"{}")
    assert list_images(tmp_path) == [tmp_path / "images" / "a.png"]
    assert inference_items(tmp_path) == [
        {"image": str(tmp_path / "images" / "a.png"), "file": "images/a.png", "name": "a"}
    ]


@pytest.mark.parametrize(
    ("files", "names"),
    [
        (["a.jpg", "b.png"], ["a", "b"]),
        (["a.jpg", "a.png"], ["a.jpg", "a.png"]),
        (["sub/a.png", "a.png"], ["a", "sub/a"]),
        (["a.v1.png", "a.v2.png"], ["a.v1", "a.v2"]),
        (["a.jpg", "a.jpg.png", "a.png"], ["a.jpg", "a.jpg.png", "a.png"]),
        (["A.png", "a.png"], ["A.png", "a.png_2"]),
        (["A.png", "a.jpg"], ["A.png", "a.jpg"]),
    ],
)
def test_every_image_has_a_result_of_its_own(tmp_path, files, names):
    for file in files:
        _image(tmp_path / file)
    if len(list(tmp_path.rglob("*.*g"))) < len(files):
        pytest.skip("this disk does not tell upper from lower case")
    found = [item["name"] for item in inference_items(tmp_path)]
    assert found == names
    assert len({name.casefold() for name in found}) == len(files)


def test_what_is_not_there_is_one_line(tmp_path, folder):
    (tmp_path / "empty").mkdir()
    (folder / "slide.gif").write_bytes(b"GIF89a")
    out = tmp_path / "out"
    assert "nowhere does not exist" in _refused(tmp_path / "nowhere", out)
    assert "empty holds no image" in _refused(tmp_path / "empty", out)
    assert "slide.gif is not an image of a known kind" in _refused(folder / "slide.gif", out)
    assert "--dataset_dir" in _refused(None, out)
    assert "--output_dir" in _refused(folder, None)


def test_every_broken_image_is_named_at_once_and_nothing_is_written(tmp_path, folder):
    (folder / "x.png").write_bytes(b"not an image")
    (folder / "sub" / "y.jpg").write_bytes(b"")
    before = _contents(tmp_path)
    message = _refused(folder, tmp_path / "out")
    assert "2 of 6 images" in message and "x.png" in message and "y.jpg" in message and "b.png" not in message
    assert _contents(tmp_path) == before


def test_a_sound_folder_passes_and_nothing_is_written(tmp_path, folder):
    before = _contents(tmp_path)
    check_inference_inputs(folder, tmp_path / "new" / "out")
    check_inference_inputs(str(folder), str(tmp_path / "out"))
    check_inference_inputs(folder / "b.png", folder / "out")
    assert _contents(tmp_path) == before


@pytest.mark.parametrize("output", ["in", "in/out", "in/sub", ".", "in/../in/sub/deep"])
def test_results_never_lie_among_the_images(tmp_path, folder, output):
    assert "one in the other" in _refused(folder, tmp_path / output)


def test_a_symbolic_link_to_the_images_does_not_deceive(tmp_path, folder):
    (tmp_path / "link").symlink_to(folder, target_is_directory=True)
    assert "one in the other" in _refused(folder, tmp_path / "link")
    (tmp_path / "out" / "sub").mkdir(parents=True)
    (tmp_path / "out" / "masks").symlink_to(folder, target_is_directory=True)
    assert "overwrite the input" in _refused(folder, tmp_path / "out")


def test_an_output_folder_with_anything_else_in_it_is_refused(tmp_path, folder):
    _image(tmp_path / "mine" / "masks" / "b.png")
    assert "mine is not empty" in _refused(folder, tmp_path / "mine")
    (tmp_path / "file").write_text("text")
    assert "is a file" in _refused(folder, tmp_path / "file")
    assert "cannot write" in _refused(folder, tmp_path / "file" / "out")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_write_permission_is_refused(tmp_path, folder):
    (tmp_path / "locked").mkdir(mode=0o500)
    assert "cannot write" in _refused(folder, tmp_path / "locked" / "out")


def test_an_image_too_large_for_the_memory_is_refused_by_name(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("common.inference.limits.MOST_PIXELS", 47)
    assert "b.png: 8 × 6 pixels are more than" in _refused(folder / "b.png", tmp_path / "out")
    monkeypatch.setattr("common.inference.limits.MOST_PIXELS", 48)
    check_inference_inputs(folder / "b.png", tmp_path / "out")

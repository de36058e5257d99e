"""The nearest training image: planted copies are found, and an independent set is not accused."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from common.data import read_datalist
from common.data.phantoms import prepare_phantoms
from common.errors import InputError
from common.metrics import nearest_images
from common.metrics.nearest import COPY


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "set"
    prepare_phantoms(folder, count=40, test_count=12, size=96, progress=False)
    return folder


def paths(folder: Path, key: str) -> list[Path]:
    return [Path(item["image"]) for item in read_datalist(folder, key=key)]


def jpeg(image: Image.Image, path: Path) -> Image.Image:
    image.save(path.with_suffix(".jpg"), quality=50)
    return Image.open(path.with_suffix(".jpg"))


SPOILED = {
    "exact": lambda image, path: image,
    "mirrored": lambda image, path: image.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    "upside down": lambda image, path: image.transpose(Image.Transpose.FLIP_TOP_BOTTOM),
    "turned by half": lambda image, path: image.transpose(Image.Transpose.ROTATE_180),
    "JPEG": jpeg,
    "darker": lambda image, path: Image.eval(image, lambda value: int(0.8 * value)),
    "brighter": lambda image, path: Image.eval(image, lambda value: min(255, value + 20)),
    "smaller": lambda image, path: image.resize((64, 64)),
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_copy_is_found_whatever_was_done_to_it(real, tmp_path, how) -> None:
    known = paths(real, "training")
    for place in (0, 7, 20):
        with Image.open(known[place]) as image:
            SPOILED[how](image, tmp_path / f"{place}").save(tmp_path / f"{place}.png")
    found = nearest_images([tmp_path / f"{place}.png" for place in (0, 7, 20)], known, progress=False)
    assert found.index.tolist() == [0, 7, 20]
    assert (found.similarity >= COPY).all()
    assert (found.flip > 0).all() == (how in ("mirrored", "upside down", "turned by half"))


def test_mirrored_counts_only_where_it_is_asked_for(real, tmp_path) -> None:
    known = paths(real, "training")
    with Image.open(known[3]) as image:
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(tmp_path / "m.png")
    found = nearest_images([tmp_path / "m.png"], known, flips=False, progress=False)
    assert found.similarity[0] < COPY and found.flip[0] == 0


def test_other_pictures_of_the_kind_are_not_accused(real) -> None:
    assert (nearest_images(paths(real, "test"), paths(real, "training"), progress=False).similarity < COPY).all()


def test_a_picture_of_one_value_is_like_nothing(real, tmp_path) -> None:
    Image.new("RGB", (64, 64), (90, 20, 20)).save(tmp_path / "grey.png")
    assert abs(nearest_images([tmp_path / "grey.png"], paths(real, "training"), progress=False).similarity[0]) < 0.5


def test_nothing_to_compare_is_told(real) -> None:
    with pytest.raises(InputError, match="at least one of each"):
        nearest_images([], paths(real, "training"))

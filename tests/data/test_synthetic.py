"""Painted pairs among the training images: which may join, how many, and what stays as it was."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data import Pair, Split, read_datalist, synthetic_digest, with_synthetic, write_prepared_folder
from common.data.phantoms import prepare_phantoms
from common.data.synthetic import SYNTHETIC, painted_pairs
from common.errors import InputError

SIDE = 64


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("real") / "set"
    prepare_phantoms(folder, count=20, test_count=6, size=SIDE, progress=False)
    return folder


def paint(folder: Path, masks: list[str], extra: bool = True) -> Path:
    def pairs() -> Iterator[Pair]:
        for number, name in enumerate(masks):
            image = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            lesion = np.eye(SIDE, dtype=bool)
            more = {"source_mask": name, "seed": number} if extra else {}
            yield Pair(image, lesion, "law", f"group {number}", f"{number:03d}", extra=more)

    names = [f"law_{number:03d}" for number in range(len(masks))]
    split = Split(names[2:], [], names[:2])
    write_prepared_folder(folder, pairs(), {"painted": split}, name="law", licence="none", progress=False)
    return folder


def masks_of(folder: Path, key: str) -> list[str]:
    return [Path(item["label"]).name for item in read_datalist(folder, None, key)]


def joined(real: Path, painted: Path | None, images: int | None = None, seed: int = 0) -> list[dict]:
    return with_synthetic(read_datalist(real), painted, images, dataset_dir=real, seed=seed)


def test_without_a_folder_the_list_is_as_it_was(real: Path) -> None:
    assert joined(real, None) == read_datalist(real)
    assert synthetic_digest(joined(real, None)) is None


def test_pairs_of_all_lists_join_behind_the_real_ones(real: Path, tmp_path: Path) -> None:
    items = joined(real, paint(tmp_path / "painted", masks_of(real, "training")[:8]))
    own = read_datalist(real)
    assert [item["image"] for item in items[: len(own)]] == [item["image"] for item in own]
    assert [item[SYNTHETIC] for item in items] == [0] * len(own) + [1] * 8
    assert len({frozenset(item) for item in items}) == 1  # the same keys: a batch of both can be put together


def test_what_was_painted_from_validation_and_test_masks_is_left_out(real: Path, tmp_path: Path) -> None:
    masks = [masks_of(real, key)[0] for key in ("training", "validation", "test")]
    painted = paint(tmp_path / "painted", [*masks, masks_of(real, "training")[1]])
    pairs = painted_pairs(painted, real, None)
    assert {item["source_mask"] for item in pairs.usable} == {masks[0], masks_of(real, "training")[1]}
    assert pairs.left_out == {"are of masks of the validation or test list": 2}
    with pytest.raises(InputError, match=": 4 are of masks of the validation or test list; give images painted from"):
        painted_pairs(paint(tmp_path / "leak", masks[1:] * 2), real, None)


def resaved(real: Path, folder: Path, keys: tuple[str, ...], extra: bool, noise: bool = False) -> Path:
    """A real folder's images under new names, with other masks; or noise with its masks."""
    items = [item for key in keys for item in read_datalist(real, None, key)]

    def pairs() -> Iterator[Pair]:
        for number, item in enumerate(items):
            pixels, lesion = np.asarray(Image.open(item["image"])), np.eye(SIDE, dtype=bool)
            if noise:
                pixels = np.random.default_rng(number).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
                lesion = np.asarray(Image.open(item["label"])) > 127
            more = {"source_mask": f"renamed_{number}.png"} if extra else {}
            yield Pair(pixels, lesion, "other", f"g{number}", f"{number:03d}", extra=more)

    names = [f"other_{number:03d}" for number in range(len(items))]
    split = {"painted": Split(names, validation=[])}
    write_prepared_folder(folder, pairs(), split, name="other", licence="none", progress=False)
    return folder


def test_held_out_lesions_under_other_names_are_left_out(real: Path, tmp_path: Path) -> None:
    keys = ("training", "test")
    painted = resaved(real, tmp_path / "painted", keys, extra=True, noise=True)
    pairs = painted_pairs(painted, real, None)
    lesions = sum(np.asarray(Image.open(item["label"])).any() for item in read_datalist(real, None, "test"))
    assert pairs.left_out == {"are of masks of the validation or test list": lesions} and lesions > 0
    assert len(pairs.usable) == len(read_datalist(real)) + len(read_datalist(real, None, "test")) - lesions


def test_held_out_images_saved_anew_are_left_out(real: Path, tmp_path: Path) -> None:
    """A copy of the real set is no painted one; what it has of the training list may stay."""
    pairs = painted_pairs(resaved(real, tmp_path / "copy", ("training", "validation", "test"), extra=False), real, None)
    held_out = len(read_datalist(real, None, "validation")) + len(read_datalist(real, None, "test"))
    assert pairs.left_out == {"are images of the validation or test list": held_out}
    assert len(pairs.usable) == len(read_datalist(real))


def test_the_real_folder_is_not_its_own_painted_one(real: Path) -> None:
    with pytest.raises(InputError, match="is the real folder itself; name one that LAW painted"):
        joined(real, real)


def test_a_smaller_dose_is_a_part_of_a_larger_one(real: Path, tmp_path: Path) -> None:
    painted = paint(tmp_path / "painted", masks_of(real, "training")[:12])
    count = len(read_datalist(real))
    doses = {dose: {item["image"] for item in joined(real, painted, dose)[count:]} for dose in (3, 7, 12)}
    assert [len(each) for each in doses.values()] == [3, 7, 12]
    assert doses[3] < doses[7] < doses[12]
    assert {item["image"] for item in joined(real, painted, 3, seed=1)[count:]} != doses[3]


def test_a_dose_that_is_not_there_is_told(real: Path, tmp_path: Path) -> None:
    painted = paint(tmp_path / "painted", masks_of(real, "training")[:4])
    with pytest.raises(InputError, match=r"--synthetic_images 5: .* holds 4 that may be trained on"):
        joined(real, painted, 5)


def test_other_pairs_than_laws_may_join_too(real: Path, tmp_path: Path) -> None:
    """Of a folder that does not say which masks its images were painted from, by its own training list alone."""
    painted = paint(tmp_path / "own", ["a"] * 6, extra=False)
    kept = len(read_datalist(painted))
    assert len(joined(real, painted)) == len(read_datalist(real)) + kept and kept < 6
    assert painted_pairs(painted, real, None).left_out == {"stand in its own validation or test list": 6 - kept}


def test_the_digest_is_of_what_was_painted_and_not_of_where_it_lies(real: Path, tmp_path: Path) -> None:
    painted = paint(tmp_path / "painted", masks_of(real, "training")[:4])
    elsewhere = shutil.copytree(painted, tmp_path / "copy")
    first, copy = synthetic_digest(joined(real, painted)), synthetic_digest(joined(real, elsewhere))
    assert first == copy and len(first) == 16
    assert synthetic_digest(joined(real, painted, 3)) != first

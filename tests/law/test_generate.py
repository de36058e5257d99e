"""Painting a prepared folder: what comes out, and that seeds alone decide it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.data.folder import read_datalist
from common.data.integrity import verify
from common.errors import InputError
from common.law.generate import Painting, generate, model_digest
from common.law.loading import save_denoiser
from common.law.mask_augmentation import augment_mask
from common.law.painted_set import OVERVIEW, seed_of
from common.law.painting_state import RECORD
from common.provenance import read_record, write_record
from tests.law.painting import QUICK, pictures, state_of
from tests.law.small import PROMPT, SIDE, pixel_parts, save_stable_diffusion


def test_what_is_painted_keeps_the_terms_of_the_model_whatever_the_masks_say(real: Path, files: Path, tmp_path: Path):
    parts = pixel_parts()
    parts.prompt, parts.licence = PROMPT, "no commercial use"
    save_denoiser(tmp_path / "restricted", parts)
    stated = {}
    for name, masks, options in (
        ("prepared", real, {}),
        ("plain", files, {}),
        ("own", files, {"licence": "Apache-2.0"}),
    ):
        generate(tmp_path / "restricted", masks, tmp_path / name, **QUICK, **options)
        stated[name] = json.loads((tmp_path / name / "dataset.json").read_text())["licence"]
    assert stated == {
        "prepared": "no commercial use; research only",
        "plain": "no commercial use",
        "own": "no commercial use; Apache-2.0",
    }


def test_it_is_a_prepared_folder_that_says_where_each_pair_is_from(model: Path, real: Path, tmp_path: Path) -> None:
    out = tmp_path / "painted"
    report = generate(model, real, out, objective="law", images_per_mask=2, augmented_per_mask=1, **QUICK)
    found = verify(out, progress=False)
    assert found.sound and not [line for line in found.warnings if "list" in line]
    items = read_datalist(out) + read_datalist(out, key="validation")
    assert len(items) == 15 and 0 < len(read_datalist(out, key="validation")) < 15  # one of three groups
    assert read_datalist(out, key="test") == []
    assert report.notes == ["1 of 6 masks left out: no lesion at 16×16"]
    sources = {f"kvasir_x{number}": f"sequence_{number // 2}" for number in range(5)}
    for item in items:
        source = Path(item["source_mask"]).stem
        assert item["group"] == sources[source]
        assert (item["source"], item["model"], item["objective"]) == ("law", model_digest(model), "law")
        assert (item["guidance"], item["control_scale"], item["steps"]) == (10.0, 1.0, 2)
        with (
            Image.open(item["image"]) as image,
            Image.open(item["label"]) as mask,
            Image.open(real / "masks" / item["source_mask"]) as drawn,
        ):
            assert image.size == mask.size == (SIDE, SIDE)
            expected = np.asarray(drawn.resize((SIDE, SIDE), Image.Resampling.NEAREST)) > 0
            if item["augmented"]:
                expected = augment_mask(expected, item["seed"])
            assert np.array_equal(np.asarray(mask) > 0, expected)
    assert len({item["seed"] for item in items}) == len({item["sha256"] for item in items}) == 15
    assert json.loads((out / "dataset.json").read_text())["licence"] == "research only"
    assert json.loads((out / RECORD).read_text())["prompt"] == PROMPT
    assert not state_of(out).exists()
    with Image.open(out / OVERVIEW) as overview:
        assert overview.size == (8 * 128, 2 * 3 * 128)
    painting = Painting(model, real, out, objective="law", images_per_mask=2, augmented_per_mask=1, **QUICK)
    assert painting.is_done
    assert painting.pairs == [
        {key: str(item[key]) for key in ("image", "label", "source", "group")}
        for item in sorted(items, key=lambda item: item["image"])
    ]


def test_what_the_painter_was_trained_on_goes_with_its_images(files: Path, tmp_path: Path) -> None:
    parts = pixel_parts()
    parts.prompt = PROMPT
    save_denoiser(tmp_path / "law", parts)
    known = {"training": ["ab" * 32], "validation": []}
    write_record(tmp_path / "law", known)
    generate(tmp_path / "law", files, tmp_path / "out", **QUICK)
    assert read_record(tmp_path / "out" / RECORD) == known


@pytest.mark.parametrize("into", ["validation", "test"])
def test_pairs_go_into_the_list_that_is_asked_for(model: Path, files: Path, tmp_path: Path, into: str) -> None:
    lists = generate(model, files, tmp_path / "out", into=into, **QUICK).lists["painted"]
    assert {key: len(lists[key]) for key in ("training", "validation", "test")} == {
        "training": 0,
        "validation": 0,
        "test": 0,
        into: 5,
    }


def test_no_mask_stands_on_two_sides(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(20):
        lesion = np.zeros((SIDE, SIDE), np.uint8)
        lesion[2 : 5 + number % 8, 3:9] = 255
        Image.fromarray(lesion).save(folder / f"m{number}.png")
    generate(model, folder, tmp_path / "out", images_per_mask=3, **QUICK)
    sides = [
        {item["group"] for item in read_datalist(tmp_path / "out", None, key)} for key in ("training", "validation")
    ]
    assert len(sides[1]) == 2 and not sides[0] & sides[1] and len(sides[0] | sides[1]) == 20


def test_a_prepared_folder_gives_the_list_that_is_asked_for(model: Path, real: Path, tmp_path: Path) -> None:
    generate(model, real, tmp_path / "out", key="test", protocol="law", **QUICK)
    assert [item["source_mask"] for item in read_datalist(tmp_path / "out")] == ["kvasir_x6.png"]


def test_masks_without_a_lesion_are_painted_if_asked_for(model: Path, real: Path, tmp_path: Path) -> None:
    report = generate(model, real, tmp_path / "out", keep_empty=True, augmented_per_mask=1, **QUICK)
    lists = report.lists["painted"]
    assert report.notes == []
    assert len(lists["training"] + lists["validation"]) == 6 + 5  # nothing to augment in an empty one


def test_images_of_another_size(model: Path, files: Path, tmp_path: Path) -> None:
    generate(model, files, tmp_path / "out", image_size=24, **QUICK)
    for item in read_datalist(tmp_path / "out"):
        with Image.open(item["image"]) as image, Image.open(item["label"]) as mask:
            assert image.size == mask.size == (24, 24)


def test_latent_space_is_painted_on_the_same_path(files: Path, tmp_path: Path) -> None:
    from common.law.loading import load_sd15

    parts = load_sd15(save_stable_diffusion(tmp_path / "sd15"), image_size=64)
    parts.prompt = PROMPT
    save_denoiser(tmp_path / "model", parts, encoders=False)
    with pytest.raises(InputError, match="as base"):
        generate(tmp_path / "model", files, tmp_path / "out", **QUICK)
    generate(tmp_path / "model", files, tmp_path / "out", base=tmp_path / "sd15", **QUICK)
    assert verify(tmp_path / "out", progress=False).sound
    assert read_datalist(tmp_path / "out")[0]["model"] == model_digest(tmp_path / "model", tmp_path / "sd15")
    assert model_digest(tmp_path / "model", tmp_path / "sd15") != model_digest(tmp_path / "model")


# Seeds


def test_a_run_split_in_two_paints_the_same_images(model: Path, files: Path, tmp_path: Path) -> None:
    generate(model, files, tmp_path / "whole", augmented_per_mask=1, **QUICK)
    halves: dict[str, bytes] = {}
    for half in (0, 1):
        part = tmp_path / f"masks_{half}"
        part.mkdir()
        for path in sorted(files.iterdir())[half::2]:
            shutil.copyfile(path, part / path.name)
        generate(model, part, tmp_path / f"half_{half}", augmented_per_mask=1, **QUICK)
        halves |= pictures(tmp_path / f"half_{half}")
    assert halves == pictures(tmp_path / "whole")


def test_more_images_a_mask_keep_the_first_ones(model: Path, files: Path, tmp_path: Path) -> None:
    generate(model, files, tmp_path / "one", **QUICK)
    generate(model, files, tmp_path / "two", images_per_mask=2, **QUICK)
    assert pictures(tmp_path / "one").items() < pictures(tmp_path / "two").items()


def test_so_many_images_in_all_are_spread_over_the_masks(model: Path, files: Path, tmp_path: Path) -> None:
    generate(model, files, tmp_path / "all", total_images=7, **QUICK)
    generate(model, files, tmp_path / "two", images_per_mask=2, **QUICK)
    some, more = pictures(tmp_path / "all"), pictures(tmp_path / "two")
    assert len(some) == 7 and some.items() < more.items()
    assert sum(name.endswith("_0.png") for name in some) == 5  # each of five masks once, two of them again
    generate(model, files, tmp_path / "few", total_images=3, **QUICK)
    assert pictures(tmp_path / "few").items() < some.items()


def test_another_seed_is_another_image_of_each_mask(model: Path, files: Path, tmp_path: Path) -> None:
    generate(model, files, tmp_path / "one", seed=1, **QUICK)
    generate(model, files, tmp_path / "two", seed=2, **QUICK)
    one, two = pictures(tmp_path / "one"), pictures(tmp_path / "two")
    assert one.keys() == two.keys()
    assert not set(one.values()) & set(two.values())


def test_seeds_are_of_all_three_and_fit_63_bits() -> None:
    found = {seed_of(seed, name, number) for seed in range(5) for name in "abcde" for number in range(5)}
    assert len(found) == 125
    assert all(0 <= seed < 2**63 for seed in found)
    assert max(found) > 2**61

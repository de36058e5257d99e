"""Painting a prepared folder: the same files however the run was cut, and nothing that looks finished before it is."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import common.law.painter
from common.data.folder import Pair, Split, read_datalist, write_prepared_folder
from common.data.integrity import verify
from common.errors import InputError
from common.law.generate import Painting, generate, model_digest
from common.law.loading import save_denoiser
from common.law.mask_augmentation import augment_mask
from common.law.painted_set import OVERVIEW, seed_of
from common.law.painting_state import RECORD
from common.provenance import read_record, write_record
from tests.law.small import PROMPT, SIDE, no_file_larger_than, pixel_parts, save_stable_diffusion

QUICK = {"steps": 2, "batch_size": 2, "progress": False}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "law"
    parts = pixel_parts()
    parts.prompt = PROMPT
    save_denoiser(folder, parts)
    return folder


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared folder as of real pairs: six to train on, the last without a lesion, and one to test."""
    folder = tmp_path_factory.mktemp("real") / "polyps"
    generator = np.random.default_rng(0)
    pairs = []
    for number in range(7):
        lesion = np.zeros((30, 40), bool)
        if number != 5:
            lesion[4 + number : 16 + number, 10 + number : 25] = True
        pixels = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        pairs.append(Pair(pixels, lesion, "kvasir", f"sequence_{number // 2}", f"x{number}"))
    names = [pair.name for pair in pairs]
    lists = {"law": Split(names[:6], names[6:], [])}
    write_prepared_folder(folder, pairs, lists, name="polyps", licence="research only", progress=False)
    return folder


@pytest.fixture
def files(real: Path, tmp_path: Path) -> Path:
    """The masks with a lesion as plain files, to add to."""
    folder = tmp_path / "files"
    folder.mkdir()
    for number in range(5):
        shutil.copyfile(real / "masks" / f"kvasir_x{number}.png", folder / f"x{number}.png")
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def pictures(folder: Path) -> dict[str, bytes]:
    return {name: data for name, data in content(folder).items() if name.startswith("images/")}


def state_of(out: Path) -> Path:
    return out.with_name(f".{out.name}.painting")


def stop_after(monkeypatch: pytest.MonkeyPatch, batches: int) -> None:
    """Raise what Ctrl-C raises, before the batch after these."""
    painted = 0
    real_sample = common.law.painter.sample

    def sample(*arguments, **options):
        nonlocal painted
        painted += 1
        if painted > batches:
            raise KeyboardInterrupt
        return real_sample(*arguments, **options)

    monkeypatch.setattr(common.law.painter, "sample", sample)


def stopped(monkeypatch: pytest.MonkeyPatch, *arguments, **options) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        stop_after(patch, 1)
        generate(*arguments, **{**QUICK, **options})


# What comes out


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


# Stopped and begun again


def test_a_killed_run_completes_to_the_same_files(model: Path, files: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle of painting; what lies half-written in the folder beside is no hindrance either."""
    options = {"steps": 16, "batch_size": 2, "images_per_mask": 4, "progress": False}
    generate(model, files, tmp_path / "unstopped", **options)
    out = tmp_path / "out"
    call = (
        f"from common.law.generate import generate; generate({str(model)!r}, {str(files)!r}, {str(out)!r}, **{options})"
    )
    process = subprocess.Popen([sys.executable, "-c", call], cwd=Path(__file__).parents[2], env=os.environ)
    until = time.monotonic() + 120
    while len(list(state_of(out).glob("*.png"))) < 3 and process.poll() is None and time.monotonic() < until:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    painted = list(state_of(out).glob("*.png"))
    assert 3 <= len(painted) < 20
    assert not out.exists()

    (state_of(out) / ".x0_3.png.abc.part").write_bytes(b"half an image")
    (state_of(out) / ".finished.abc.part" / "images").mkdir(parents=True)
    (state_of(out) / "finished").mkdir()
    generate(model, files, out, **options)
    assert content(out) == content(tmp_path / "unstopped")
    assert not state_of(out).exists()


def test_what_is_done_is_not_painted_again(
    model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stopped(monkeypatch, model, files, out)
    assert len(list(state_of(out).glob("*.png"))) == 2 and not out.exists()
    with monkeypatch.context() as patch:
        stop_after(patch, 2)  # three masks are left, in batches of two
        generate(model, files, out, **QUICK)
    generate(model, files, tmp_path / "unstopped", **QUICK)
    assert content(out) == content(tmp_path / "unstopped")


@pytest.mark.parametrize("damage", ["cut short", "another image"])
def test_an_image_that_is_not_what_was_written_is_painted_again(
    model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    out = tmp_path / "out"
    stopped(monkeypatch, model, files, out)
    first, second = sorted(state_of(out).glob("*.png"))
    first.write_bytes(first.read_bytes()[:-9] if damage == "cut short" else second.read_bytes())
    generate(model, files, out, **QUICK)
    generate(model, files, tmp_path / "unstopped", **QUICK)
    assert content(out) == content(tmp_path / "unstopped")


def test_a_finished_call_is_left_as_it_is(
    model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = generate(model, files, out, **QUICK)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    stop_after(monkeypatch, 0)
    assert generate(model, files, out, **QUICK).lists == first.lists
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_an_empty_folder_is_taken(model: Path, files: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    generate(model, files, tmp_path / "out", **QUICK)
    assert verify(tmp_path / "out", progress=False).sound


def test_a_full_disk_is_one_line_and_no_loss(model: Path, files: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with no_file_larger_than(600), pytest.raises(InputError, match="make room") as error:
        generate(model, files, out, **QUICK)
    assert "\n" not in str(error.value)
    assert not out.exists()
    generate(model, files, out, **QUICK)
    assert verify(out, progress=False).sound


# What is wrong is one line, before anything is painted


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"steps": 3}, "steps: 2, now 3"),
        ({"seed": 5}, "seed: 0, now 5"),
        ({"guidance": 3.0}, "guidance: 10.0, now 3.0"),
        ({"control_scale": 2}, "control_scale: 1.0, now 2.0"),
        ({"batch_size": 1}, "batch_size: 2, now 1"),
        ({"images_per_mask": 2}, "images_per_mask: 1, now 2"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_other_settings_in_one_output_are_refused(
    model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict, words: str, finished: bool
) -> None:
    out = tmp_path / "out"
    if finished:
        generate(model, files, out, **QUICK)
    else:
        stopped(monkeypatch, model, files, out)
    with pytest.raises(InputError, match=words) as error:
        generate(model, files, out, **{**QUICK, **change})
    assert "\n" not in str(error.value)


def test_other_masks_and_models_in_one_output_are_refused(
    model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    stopped(monkeypatch, model, files, out)
    other = pixel_parts(seed=1)
    other.prompt = PROMPT
    save_denoiser(tmp_path / "other", other)
    with pytest.raises(InputError, match=r"other settings \(its model\)"):
        generate(tmp_path / "other", files, out, **QUICK)
    shutil.copyfile(files / "x1.png", files / "x0.png")
    with pytest.raises(InputError, match=r"other settings \(its masks\)"):
        generate(model, files, out, **QUICK)


def test_a_folder_in_use_is_refused(model: Path, files: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="exists already and is not empty"):
        generate(model, files, tmp_path / "out", **QUICK)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine.txt"]


def _photo(folder: Path) -> None:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)).save(folder / "p.png")


def _labels(folder: Path) -> None:
    Image.fromarray(np.arange(1200).reshape(30, 40).astype(np.uint8) % 4).save(folder / "p.png")


def _classes(folder: Path) -> None:
    values = np.array([0, 127, 255], np.uint8)[np.arange(1200).reshape(30, 40) // 400]
    Image.fromarray(values).save(folder / "p.png")


def _dark(folder: Path) -> None:
    Image.fromarray(np.uint8(100) * (np.arange(1200).reshape(30, 40) > 600)).save(folder / "p.png")


def _text(folder: Path) -> None:
    (folder / "p.png").write_text("no image")


def _twice(folder: Path) -> None:
    shutil.copyfile(folder / "x0.png", folder / "X0.bmp")


def _odd_name(folder: Path) -> None:
    shutil.copyfile(folder / "x0.png", folder / "a:b.png")


def _none(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()


def _empty(folder: Path) -> None:
    for path in folder.iterdir():
        Image.new("L", (40, 30)).save(path)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_photo, "p.png: not a mask"),
        (_labels, "p.png: a label map with values to 3"),
        (_classes, "p.png: has the values 0, 127, 255; a mask has two"),
        (_dark, "p.png: its largest value is 100"),
        (_text, "p.png: not an image"),
        (_twice, "there is .* beside it; keep one"),
        (_odd_name, "a:b.png: this name cannot serve"),
        (_none, "no image in it"),
        (_empty, "none of its 5 masks has a lesion"),
    ],
)
def test_masks_that_cannot_be_painted_from_are_told(
    model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault, words: str
) -> None:
    fault(files)
    stop_after(monkeypatch, 0)
    with pytest.raises(InputError, match=words) as error:
        generate(model, files, tmp_path / "out", **QUICK)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists() and not state_of(tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images_per_mask": 0}, "leave nothing to paint"),
        ({"total_images": 0}, "total_images: 0 has to be at least 1"),
        ({"total_images": 9, "images_per_mask": 2}, "total_images counts for itself"),
        ({"into": "train"}, "into: 'train' is none of"),
        ({"key": "test"}, None),  # of a prepared folder alone; here without meaning, and without harm
        ({"protocol": "law"}, "holds no dataset.json"),
        ({"steps": 0}, "steps: 0"),
        ({"image_size": 17}, "image_size: 17"),
        ({"name": "a/b"}, "name: 'a/b'"),
        ({"prompt": " "}, "prompt: "),
        ({"device": "gpu"}, "device: 'gpu'"),
        ({"seed": 1.5}, "seed: 1.5"),
        ({"control_scale": -1}, "control_scale: -1"),
        ({"control_scale": "firm"}, "control_scale: 'firm'"),
        ({"guidance": float("nan")}, "guidance: nan"),
        ({"eta": 2}, "eta: 2"),
    ],
)
def test_options_that_make_no_sense_are_told(
    model: Path, files: Path, tmp_path: Path, options: dict, words: str | None
) -> None:
    if words is None:
        generate(model, files, tmp_path / "out", **{**QUICK, **options})
        return
    with pytest.raises(InputError, match=words) as error:
        generate(model, files, tmp_path / "out", **{**QUICK, **options})
    assert "\n" not in str(error.value)


def test_a_prior_is_told(files: Path, tmp_path: Path) -> None:
    save_denoiser(tmp_path / "prior", pixel_parts(control=False))
    with pytest.raises(InputError, match="an image prior without a control network"):
        generate(tmp_path / "prior", files, tmp_path / "out", **QUICK)


def test_a_mask_that_changes_meanwhile_is_told(
    model: Path, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_sample = common.law.painter.sample

    def sample(*arguments, **options):
        shutil.copyfile(files / "x1.png", files / "x4.png")
        return real_sample(*arguments, **options)

    monkeypatch.setattr(common.law.painter, "sample", sample)
    with pytest.raises(InputError, match=r"x4.png: has changed"):
        generate(model, files, tmp_path / "out", **QUICK)
    assert not (tmp_path / "out").exists()

"""What is wrong with masks, folders or options is one line, before anything is painted."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import common.law.painter
from common.errors import InputError
from common.law.generate import generate
from common.law.loading import save_denoiser
from tests.law.painting import QUICK, state_of, stop_after, stopped
from tests.law.small import PROMPT, pixel_parts


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

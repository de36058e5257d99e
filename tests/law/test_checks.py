"""Wrong values of a LAW bundle's first section: a line each, before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from common.law import check_law_training, check_painting
from tests.bundles.drawn import draw_prepared

RIGHT: dict[str, Any] = {
    "protocol": None,
    "weights": "model",
    "base": None,
    "recipe": "tiny",
    "objective": "law",
    "preset": "tiny",
    "trainable": "control",
    "prompt": "A photo of a polyp.",
    "prompt_dropout": 0.05,
    "seed": 0,
    "steps": 4,
    "steps_per_epoch": 2,
    "batch_size": 2,
    "accumulation_steps": 1,
    "learning_rate": 1e-4,
    "weighter_lr": 1e-3,
    "weight_decay": 0.01,
    "max_grad_norm": 0,
    "image_size": None,
    "resume": True,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_prepared(tmp_path_factory.mktemp("drawn") / "set")


def _check(prepared: Path, folder: Path, **changed: Any) -> None:
    places = {"dataset_dir": str(prepared), "output_dir": str(folder / "run"), "cache_dir": str(folder / "cache")}
    check_law_training(**{**places, **RIGHT, **changed})


def test_what_is_right_passes(prepared, tmp_path):
    _check(prepared, tmp_path)
    assert (tmp_path / "run").is_dir() and (tmp_path / "cache").is_dir()


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"objective": "lwa"}, "--objective has to be one of uniform, ratio, distillation, law, law_v1; it is 'lwa'"),
        ({"preset": "sd2"}, "--preset has to be one of sd15, tiny"),
        ({"trainable": "all"}, "--trainable has to be one of prior, control, control+decoder"),
        (
            {"image_size": 100},
            "--image_size has to be a number of pixels that divides by 8, or null in a config file; it is 100",
        ),
        ({"prompt": ""}, "--prompt needs a value"),
        ({"prompt_dropout": 2}, "--prompt_dropout has to be a number from 0 to 1"),
        ({"accumulation_steps": 0}, "--accumulation_steps has to be a whole number, 1 or more"),
        (
            {"weights": 5},
            "--weights has to be a model folder, or that of Stable Diffusion 1.5, or null in a config file",
        ),
        ({"steps": 5}, "--steps 5 is no multiple of --steps_per_epoch 2"),
        ({"max_grad_norm": -1}, "--max_grad_norm has to be a number, 0 or more"),
        ({"strip_steps": 2000}, "--strip_steps has to be a whole number from 1 to 1000"),
        ({"protocol": "law"}, "no protocol 'law'; there are drawn"),
        ({"dataset_dir": None}, "give --dataset_dir, a prepared folder"),
    ],
)
def test_what_is_wrong_is_one_line(prepared, tmp_path, capsys, changed, line):
    with pytest.raises(SystemExit) as ended:
        _check(prepared, tmp_path, **changed)
    (said,) = [each for each in capsys.readouterr().err.splitlines() if each.startswith("error: ")]
    assert ended.value.code == 2 and line in said
    assert not (tmp_path / "run").exists() and not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"steps": 0}, "--steps has to be a whole number from 1 to 1000"),
        ({"guidance": "high"}, "--guidance has to be a number"),
        ({"control_scale": -1}, "--control_scale has to be a number, 0 or more"),
        ({"steps": 2000}, "--steps has to be a whole number from 1 to 1000"),
        ({"eta": 1.5}, "--eta has to be a number from 0 to 1"),
        ({"into": "train"}, "--into has to be one of training, validation, test"),
        ({"dataset_dir": None}, "give --dataset_dir, a prepared folder, or a folder of masks"),
    ],
)
def test_what_cannot_be_painted_is_one_line(capsys, changed, line):
    right = {"dataset_dir": "masks", "output_dir": "out", "checkpoint": "model", "steps": 50}
    with pytest.raises(SystemExit) as ended:
        check_painting(**{**right, **changed})
    assert ended.value.code == 2 and line in capsys.readouterr().err

"""The bundle law_polyps, and by its commands what all painting bundles share: stages, overlays, resuming, processes."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from common.data.integrity import verify
from common.law import load_denoiser
from tests.bundles.contract import REPOSITORY
from tests.bundles.drawn import TRAINING, tree
from tests.bundles.painter_contract import PainterContract
from tests.law.small import save_stable_diffusion

BUNDLE = REPOSITORY / "law_polyps"
SMALL = {"steps": 2, "steps_per_epoch": 1, "batch_size": 2, "image_size": 32, "strip_images": 1, "strip_steps": 2}


def files(*names: str) -> str:
    """The value of ``--config_file``."""
    return str([str(BUNDLE / "configs" / f"{name}.yaml") for name in names])


class TestLawPolyps(PainterContract):
    bundle = "law_polyps"
    prompt = "A photo of a polyp."


@pytest.fixture(scope="module")
def prior(warm, drawn, tmp_path_factory) -> Path:
    """A run of `prior.yaml`, of two steps."""
    folder = tmp_path_factory.mktemp("prior")
    given = {"dataset_dir": drawn, "output_dir": folder / "run", "cache_dir": folder / "cache"}
    ended = warm.bundle("run", "training", cwd=folder, config_file=files("train", "prior"), **given, **SMALL)
    assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
    return folder / "run"


@pytest.fixture(scope="module")
def control(warm, drawn, prior, tmp_path_factory) -> Path:
    """A run of `train.yaml` on that prior, of two steps."""
    folder = tmp_path_factory.mktemp("control")
    given = {"dataset_dir": drawn, "output_dir": folder / "run", "cache_dir": folder / "cache"}
    ended = warm.bundle("run", cwd=folder, config_file=files("train"), weights=prior / "model", **given, **SMALL)
    assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
    return folder / "run"


def history(run: Path) -> list[dict[str, str]]:
    with open(run / "history.csv", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_prior_is_trained_without_masks(prior):
    assert {path.name for path in (prior / "model").iterdir()} == {"unet", "scheduler", "law.json"}
    assert {path.name for path in prior.iterdir()} == {
        "history.csv",
        "latest.pt",
        "model",
        "model.trained_on.json",
        "strips",
        "tensorboard",
    }


def test_the_control_stage_stands_on_the_prior(prior, control):
    own, first = load_denoiser(control / "model"), load_denoiser(prior / "model")
    assert own.objective == "law" and own.preset.image_size == 32
    pairs = zip(own.denoiser.unet.state_dict().values(), first.denoiser.unet.state_dict().values(), strict=True)
    assert all(torch.equal(*pair) for pair in pairs)
    rows = history(control)
    assert len(rows) == 2 and {"student", "dice", "mse", "val_score", "val_lesion_error"} <= rows[0].keys()
    assert len(list((control / "strips").iterdir())) == 2


def test_stopped_and_resumed_is_never_stopped(warm, drawn, prior, tmp_path):
    """With what `train.yaml` has besides: schedule, flips, averaged weights; and here two batches to a step."""
    given = {"config_file": files("train"), "dataset_dir": drawn, "weights": prior / "model", **SMALL}
    given |= {"accumulation_steps": 2, "cache_dir": tmp_path / "cache"}
    stop = {"train#trainer#max_epochs": 1}
    for run, more in (("whole", {}), ("parts", stop), ("parts", {})):
        ended = warm.bundle("run", cwd=tmp_path, output_dir=tmp_path / run, **given, **more)
        assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
    states = [torch.load(tmp_path / run / "latest.pt", weights_only=True) for run in ("whole", "parts")]
    assert states[0]["iteration"] == states[1]["iteration"] == 4
    assert all(torch.equal(value, states[1]["network"][key]) for key, value in states[0]["network"].items())
    shadows = zip(states[0]["ema"]["shadow_params"], states[1]["ema"]["shadow_params"], strict=True)
    assert all(torch.equal(*pair) for pair in shadows)
    assert history(tmp_path / "whole") == history(tmp_path / "parts")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"batch_size": 1}, "batch_size 2 → 1"),
        ({"loss#gamma": 0.1}, "'gamma': 0.1"),
        ({"max_grad_norm": 0}, "max_grad_norm 1.0 → 0"),
        ({"steps_per_epoch": 2}, "steps_per_epoch 1 → 2"),
    ],
)
def test_a_run_goes_on_with_its_own_settings_alone(warm, drawn, prior, control, tmp_path, changed, told):
    given = {"config_file": files("train"), "dataset_dir": drawn, "weights": prior / "model", "output_dir": control}
    given |= {"cache_dir": tmp_path / "cache", **SMALL, **changed}
    before = (control / "latest.pt").read_bytes()
    ended = warm.bundle("run", cwd=tmp_path, **given)
    assert ended.code == 2 and len(ended.said) == 1 and told in ended.said[0]
    assert (control / "latest.pt").read_bytes() == before


def test_a_run_does_not_go_on_upon_another_prior(warm, drawn, control, tmp_path):
    given = {"dataset_dir": drawn, "cache_dir": tmp_path / "cache", **SMALL, "seed": 1}
    ended = warm.bundle("run", cwd=tmp_path, config_file=files("train", "prior"), output_dir=tmp_path / "p", **given)
    assert ended.code == 0, ended.err[-3000:]
    given |= {"weights": tmp_path / "p" / "model", "seed": 0}
    ended = warm.bundle("run", cwd=tmp_path, config_file=files("train"), output_dir=control, **given)
    assert ended.code == 2 and len(ended.said) == 1 and "(weights " in ended.said[0]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"objectiv": "law"}, "unknown key --objectiv: .* did you mean --objective"),
        ({"objective": "lwa"}, "--objective has to be one of uniform, ratio"),
        ({"trainable": "prior"}, "--objective law weighs by a mask, and a prior sees none"),
        ({"model_dtype": "half"}, "--model_dtype has to be one of float32, float16"),
        ({"loss#temperature": 0}, "temperature is 0; it must be above 0"),
        ({"weights": "nowhere"}, r"nowhere: no such folder"),
        ({"loss#gamma": 7}, r"gamma is 7; it must lie in \[0, 1\]"),
        ({"loss#gama": 0.1}, "gama"),
        ({"steps": 3, "steps_per_epoch": 2}, "give --steps 4"),
    ],
)
def test_what_is_wrong_is_one_line(warm, drawn, prior, tmp_path, given, told):
    right = {
        "dataset_dir": drawn,
        "output_dir": tmp_path / "o",
        "cache_dir": tmp_path / "c",
        "weights": prior / "model",
    }
    ended = warm.bundle("run", cwd=tmp_path, config_file=files("train"), **{**right, **SMALL, **given})
    assert ended.code != 0
    assert len(ended.said) == 1 and ended.said[0].startswith("error: "), ended.err[-2000:]
    assert re.search(told, ended.said[0])


def test_no_stable_diffusion_is_one_line_that_says_what_to_get(warm, drawn, tmp_path):
    given = {"dataset_dir": drawn, "output_dir": tmp_path / "o", "cache_dir": tmp_path / "c", "protocol": "drawn"}
    given |= {"config_file": files("train", "sd15"), "weights": tmp_path / "sd15"}
    ended = warm.bundle("run", cwd=tmp_path, **given)
    assert ended.code != 0 and len(ended.said) == 1
    assert "unet/config.json" in ended.said[0] and "download" in ended.said[0]


@pytest.mark.parametrize("overlays", [("sd15",), ("sd15", "recipe_v1")], ids="+".join)
def test_stable_diffusions_overlays_train(warm, drawn, tmp_path, overlays):
    hub = save_stable_diffusion(tmp_path / "hub")
    given = {"dataset_dir": drawn, "output_dir": tmp_path / "o", "cache_dir": tmp_path / "c", "protocol": "drawn"}
    given |= {**SMALL, "image_size": 64, "weights": hub, "save_encoders": True}
    ended = warm.bundle("run", cwd=tmp_path, config_file=files("train", *overlays), **given)
    assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
    assert {"vae", "text_encoder", "tokenizer", "model_index.json"} <= {
        path.name for path in (tmp_path / "o" / "model").iterdir()
    }


def test_masks_become_a_prepared_folder(warm, drawn, control, tmp_path):
    out = tmp_path / "painted"
    given: dict[str, Any] = {"config_file": BUNDLE / "configs" / "inference.yaml", "checkpoint": control / "model"}
    given |= {"dataset_dir": drawn, "output_dir": out, "steps": 2, "batch_size": 2}
    ended = warm.bundle("run", "inference", cwd=tmp_path, **given)
    assert (ended.code, ended.said) == (0, []), ended.err[-3000:]
    assert verify(out, progress=False).sound
    items = json.loads((out / "dataset.json").read_text())
    assert len(items["training"]) + len(items["validation"]) == TRAINING
    before = tree(out)
    assert warm.bundle("run", cwd=tmp_path, **given).code == 0  # finished: nothing to do
    assert tree(out) == before
    ended = warm.bundle("run", cwd=tmp_path, **{**given, "steps": 3})
    assert ended.code != 0 and len(ended.said) == 1 and "other settings (steps: 2, now 3)" in ended.said[0]


@pytest.mark.slow
def test_two_processes_stay_together(drawn, prior, tmp_path):
    """Two batches to a step on each of two processes: both end with the same weights, and rank 0 alone writes."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    given = {
        "config_file": files("train", "multi_gpu_train"),
        "dataset_dir": drawn,
        "weights": prior / "model",
        **SMALL,
    }
    given |= {"output_dir": tmp_path / "o", "cache_dir": tmp_path / "c", "accumulation_steps": 2, "objective": "law_v1"}
    given["finalize"] = [
        "$torch.save({**@network_def.state_dict(), **{f'ema.{n}': each for n, each in enumerate(@ema.shadow_params)}}, "
        f"'{tmp_path}/' + str(torch.distributed.get_rank()) + '.pt')",
        {"_target_": "ignite.distributed.finalize"},
    ]
    flags = [str(part) for key, value in given.items() for part in (f"--{key}", value)]
    command = [*launch, "-m", "monai.bundle", "run", "training", *flags]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    ends = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert all(torch.equal(value, ends[1][key]) for key, value in ends[0].items())
    assert len(history(tmp_path / "o")) == 2

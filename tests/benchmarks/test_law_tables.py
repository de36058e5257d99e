"""The tables about LAW, at toy size: every command of theirs, and that a table goes on where it was stopped."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import law_ablation, law_objectives, law_step, law_weights
from benchmarks.law_runs import RISE, Outcome, checked, errors_of, parser, run_row, spread
from common.baselines import UNet
from common.errors import InputError
from common.law import TABLE_6
from common.law.loading import build_tiny, save_denoiser
from tests.bundles.contract import REPOSITORY
from tests.bundles.drawn import draw_prepared
from tests.law.small import save_stable_diffusion

SHORT = ["--steps", "1", "--steps_per_epoch", "1", "--batch_size", "2", "--sampling_steps", "2"]


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """A drawn set and a prior that knows nothing."""
    folder = tmp_path_factory.mktemp("tables")
    save_denoiser(folder / "prior", build_tiny(image_size=32))
    data = draw_prepared(folder / "data")
    return ["--dataset_dir", str(data), "--weights", str(folder / "prior"), *SHORT]


@pytest.mark.slow
def test_objectives_are_trained_painted_with_and_measured_beside_the_ceiling(given, tmp_path, capsys) -> None:
    out = tmp_path / "table"
    command = [*given, "--out", str(out), "--seeds", "0", "--objectives"]
    law_objectives.main([*command, "uniform"])
    first = (out / "uniform_0" / "outcome.json").read_bytes()
    law_objectives.main([*command, "uniform", "law"])
    said = capsys.readouterr().out
    assert "LAW" in said and "the real images, at this size" in said and "82.5 ± 0.3" not in said
    assert (out / "uniform_0" / "outcome.json").read_bytes() == first
    figures = json.loads((out / "objectives.json").read_text())["results"]
    assert figures.keys() == {"uniform", "law", "ceiling"}
    assert all(0 <= each["dice"] <= 1 and 0 <= each["iou"] <= 1 for own in figures.values() for each in own)
    with pytest.raises(SystemExit) as ended:
        law_objectives.main([*command, "uniform", "--steps", "2"])
    assert ended.value.code != 0
    with pytest.raises(SystemExit) as ended:  # a row of the same name, which is version 1 with its teacher
        law_ablation.main([*given, "--out", str(out), "--rows", "law"])
    assert ended.value.code != 0


@pytest.mark.slow
def test_rows_3_and_4_of_table_6_are_one_run(given, tmp_path, capsys) -> None:
    out = tmp_path / "table"
    law_ablation.main([*given, "--out", str(out), "--rows", "normalisation", "min_clamp"])
    assert "the same run, digit by digit" in capsys.readouterr().out
    assert (out / "curves.png").stat().st_size > 0
    assert json.loads((out / "ablation.json").read_text())["results"].keys() == {"normalisation", "min_clamp"}


def test_every_row_of_table_6_is_a_choice_of_keys() -> None:
    overlays = [law_ablation.overlay(row) for row in TABLE_6]
    assert len({json.dumps(one) for one in overlays}) == len(overlays) == 6
    assert law_ablation.PAPER.keys() == TABLE_6.keys()


def test_what_stable_means() -> None:
    def outcome(*errors: float, diverged: bool = False) -> Outcome:
        return Outcome(None, None, [{"epoch": n, "val_error": error} for n, error in enumerate(errors)], diverged)

    assert outcome(1.0, 0.5, 0.5 * RISE).stable
    assert not outcome(1.0, 0.5, 0.5 * RISE + 0.01).stable
    assert not outcome(1.0, 0.5, diverged=True).stable
    assert not outcome().stable


def test_the_errors_shown_are_those_of_the_checkpoint_that_is_kept() -> None:
    rows = [{"epoch": 1, "val_score": -3.0, "val_lesion_error": 0.04, "val_background_error": 0.02}]
    rows += [{"epoch": 2, "val_score": -2.0, "val_lesion_error": 0.03, "val_background_error": 0.01}, {"epoch": 3}]
    rows += [{"epoch": 4, "val_score": -4.0, "val_lesion_error": 0.02, "val_background_error": 0.06}]
    outcome = Outcome(0.5, 0.4, rows, False)
    assert (outcome.error("lesion"), outcome.error("background")) == (0.03, 0.01)
    assert errors_of([outcome, outcome]) == ("30.0 ± 0.0", "10.0 ± 0.0")
    assert Outcome(None, None, [], True).figures() == dict.fromkeys(("dice", "iou", "lesion_error", "background_error"))


def test_a_spread_is_that_of_a_sample() -> None:
    assert spread([0.5, 0.7]) == "60.0 ± 14.1"
    assert spread([0.5]) == "50.0"
    assert spread([0.5, None, 0.7]) == "60.0 ± 14.1 (2 of 3)"
    assert spread([0.5, None]) == "50.0 (1 of 2)"
    assert spread([None]) == spread([]) == "–"


def test_a_command_that_fails_ends_the_table_in_one_line(given, tmp_path) -> None:
    settings = _settings([*given, "--out", str(tmp_path), "--weights", str(tmp_path / "nowhere")])
    with pytest.raises(InputError, match=r"run training .* failed: error: .*nowhere: no such folder.*training\.log"):
        run_row("uniform", {"objective": "uniform"}, 0, settings)
    assert "outcome" not in json.loads((tmp_path / "uniform_0" / "outcome.json").read_text())
    # Stopped between training and measuring, a row has no outcome either, and its run does not say how many steps.
    with pytest.raises(InputError, match="other settings"):
        run_row("uniform", {"objective": "uniform"}, 0, _settings([*given, "--out", str(tmp_path)]))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_is_an_outcome_and_no_failure(given, tmp_path) -> None:
    settings = _settings([*given, "--out", str(tmp_path), "--steps", "3", "--steps_per_epoch", "3"])
    overlay = {"objective": "uniform", "learning_rate": 1e30}
    outcome = run_row("wild", overlay, 0, settings)
    assert outcome.diverged and not outcome.stable and outcome.dice is None
    assert run_row("wild", overlay, 0, settings) == outcome


def _settings(options: list[str]) -> argparse.Namespace:
    return checked(parser("benchmarks.test", None).parse_args(options))


@pytest.mark.slow
def test_a_step_is_timed_by_objective_and_with_and_without_caches(tmp_path, capsys) -> None:
    """At a tenth of the width: that each figure is there and means what it says; the limits are for the full size."""
    file = tmp_path / "step.json"
    short = ["--rounds", "2", "--batch", "1", "--size", "64", "--threads", "1", "--out", str(file)]
    law_step.main(["--preset", "sd15", "--narrow", "--objectives", "uniform", "law", *short])
    said = capsys.readouterr().out
    assert "law by uniform: limit 1.01" in said and "encoding by cached" in said
    results = json.loads(file.read_text())["results"]
    assert results["objectives"]["uniform"]["by_uniform"] == 1 and results["objectives"]["law"]["seconds"] > 0
    cached, encoding = (results["caches"][which]["peak_bytes"] for which in ("cached", "encoding"))
    assert encoding > cached + 10 * 2**20  # the two encoders alone are more


def test_objectives_are_compared_to_uniform_or_not_at_all() -> None:
    with pytest.raises(SystemExit) as ended:
        law_step.main(["--objectives", "law"])
    assert ended.value.code != 0


@pytest.mark.slow
def test_a_table_runs_at_the_papers_size_too(given, tmp_path) -> None:
    """On small random weights: latents of 384², the ceiling at that size, encoders from the folder that was given."""
    hub = save_stable_diffusion(tmp_path / "hub")
    data = given[given.index("--dataset_dir") + 1]
    command = ["--dataset_dir", data, "--weights", str(hub), *SHORT, "--overlays", "sd15", "--protocol", "drawn"]
    out = tmp_path / "table"
    law_objectives.main([*command, "--out", str(out), "--seeds", "0", "--objectives", "uniform", "--guidance", "0"])
    assert json.loads((out / "uniform_0" / "evaluation" / "painted" / "generation.json").read_text())["guidance"] == 0
    with Image.open(next((out / "ceiling" / "data" / "images").iterdir())) as image:
        assert image.size == (384, 384)


def test_a_ceiling_is_that_of_its_own_settings(given, tmp_path) -> None:
    (tmp_path / "ceiling").mkdir()
    (tmp_path / "ceiling" / "ceiling.json").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        law_objectives.main([*given, "--out", str(tmp_path), "--objectives", "uniform"])
    assert ended.value.code != 0


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--control_scale", "-1"], "--control_scale has to be a number, 0 or more"),
        (["--guidance", "nan"], "--guidance has to be a number"),
        (["--sampling_steps", "0"], "--sampling_steps has to be a whole number from 1 to 1000"),
        (["--segmenter", "nowhere.pt"], "--segmenter: there is no file"),
        (["--steps", "3", "--steps_per_epoch", "2"], "--steps 3 is no multiple of --steps_per_epoch 2"),
        (["--batch_size", "0"], "--batch_size has to be"),
    ],
)
@pytest.mark.parametrize("table", [law_objectives, law_ablation], ids=["3", "6"])
def test_what_is_wrong_is_told_before_any_training(given, tmp_path, capsys, table, wrong, said) -> None:
    with pytest.raises(SystemExit):
        table.main([*given, "--out", str(tmp_path), *wrong])
    assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("*"))


@pytest.mark.slow
def test_a_row_of_another_prior_is_not_taken_for_this_ones(given, tmp_path, capsys) -> None:
    prior, out = tmp_path / "prior", tmp_path / "out"
    command = [*given, "--weights", str(prior), "--out", str(out), "--seeds", "0", "--objectives", "uniform"]
    save_denoiser(prior, build_tiny(image_size=32))
    law_objectives.main(command)
    save_denoiser(prior, build_tiny(seed=1, image_size=32), overwrite=True)
    with pytest.raises(SystemExit):
        law_objectives.main(command)
    assert "other settings" in capsys.readouterr().err


def test_a_bundle_without_a_segmenter_is_told_before_any_training(given, tmp_path, capsys) -> None:
    with pytest.raises(SystemExit):
        law_objectives.main([*given, "--out", str(tmp_path), "--bundle", "law_kits19", "--protocol", "drawn"])
    assert "--segmenter: law_kits19 has none of its own" in capsys.readouterr().err
    assert not list(tmp_path.rglob("*.log"))


def test_each_bundle_is_measured_by_its_own_segmenter(given, tmp_path) -> None:
    found = [_settings([*given, "--out", str(tmp_path), "--bundle", bundle]) for bundle in ("law_polyps", "law_brisc")]
    assert [Path(settings.segmenter).parts[-3] for settings in found] == ["order_polyps", "order_brisc"]
    assert found[0].of["segmenter"] != found[1].of["segmenter"]


@pytest.mark.slow
def test_the_papers_segmenter_looks_where_it_is_asked_for(given, tmp_path, capsys) -> None:
    """A U-Net that finds no lesion anywhere: the weights that were given look, in painted and in real images."""
    blind = UNet(3, 1)
    for parameter in blind.parameters():
        torch.nn.init.constant_(parameter, -1e-3)
    torch.save(blind.state_dict(), tmp_path / "unet.pt")
    out = tmp_path / "table"
    command = [*given, "--out", str(out), "--seeds", "0", "--objectives", "uniform", "--network", "unet"]
    law_objectives.main([*command, "--segmenter", str(tmp_path / "unet.pt")])
    assert "unet looks for the lesions" in capsys.readouterr().out
    results = json.loads((out / "objectives.json").read_text())["results"]
    assert results["uniform"][0]["dice"] == results["ceiling"][0]["dice"] == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--network", "unet"], "--network unet needs weights of its own: give --segmenter MODEL"),
        (["--network", "unet", "--segmenter", str(REPOSITORY / "order_polyps" / "models" / "model.pt")], "model.pt"),
        (["--network", "hearts", "--segmenter", str(REPOSITORY / "order_polyps" / "models" / "model.pt")], "hearts"),
    ],
)
def test_a_segmenter_that_does_not_fit_is_told_before_any_training(given, tmp_path, capsys, more, said) -> None:
    with pytest.raises(SystemExit) as ended:
        law_objectives.main([*given, "--out", str(tmp_path), *more])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and said in told and "Traceback" not in told
    assert not list(tmp_path.rglob("*"))


def test_where_the_weight_lies_by_hand() -> None:
    masks = torch.zeros(2, 1, 10, 10)
    masks[0, 0, :2, :2] = masks[1, 0, :5] = 1  # r = 0.04 and 0.5
    weights = dict(law_weights.weights_of(masks))
    found = {name: law_weights.measure(masks, each) for name, each in weights.items()}
    # Normalised, the small lesion weighs 0.96 / (2 · 0.04 · 0.96) = 12.5, which w_max makes 2; its background 25/48.
    assert found["uniform"] == pytest.approx(
        {"contrast": 1, "lesions": 54 / 200, "small_lesions": 4 / 200, "small_images": 0.5}
    )
    assert found["law, δ constant"]["contrast"] == pytest.approx(1.0)  # torch's median is the lower of two
    assert found["law, δ constant"]["small_lesions"] == pytest.approx(8 / 158)
    assert found["law without w_max, δ constant"]["small_lesions"] == pytest.approx(50 / 200)
    assert found["ratio"]["small_images"] == pytest.approx(7.68 / 57.68)
    assert law_weights.measure(masks[:1], weights["law, δ = mask"][:1])["contrast"] == pytest.approx(
        2 / (0.8 * 0.04 / (0.04 * 0.96 * (1.2 + 0.8)))
    )


def test_the_weights_of_a_prepared_folder(tmp_path, capsys) -> None:
    data = draw_prepared(tmp_path / "data")
    law_weights.main(["--dataset_dir", str(data), "--size", "32", "--out", str(tmp_path / "weights.json")])
    results = json.loads((tmp_path / "weights.json").read_text())["results"]
    said = capsys.readouterr().out
    assert f"{results['masks']['count']} masks with a lesion" in said and results["masks"]["count"] > 0
    assert 0 < results["uniform"]["lesions"] < results["law, δ constant"]["lesions"] < 1
    with pytest.raises(SystemExit) as ended:
        law_weights.main(["--dataset_dir", str(data), "--size", "1"])
    assert ended.value.code != 0

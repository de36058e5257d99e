"""The trials of the recipe: each changes what it says, and nothing of ORDER where it should not."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser
from monai.transforms import RandAffine
from torch import nn

from benchmarks import order_complexity, order_trials
from benchmarks.order_trials import TRIALS
from benchmarks.trial_parts import (
    AddTeacher,
    GateClosed,
    HalfResolution,
    Pooled21,
    PooledAttention,
    PostNorm,
    PostNormAttention,
    StructureAndBoundary,
    Supervised,
    ZeroStart,
)
from common.order import OrderNet
from common.order.attention import BidirectionalSkipAttention
from tests.bundles.contract import REPOSITORY
from tests.bundles.drawn import draw_prepared
from tests.network_contract import assert_close, images, seeded

CONFIGS = REPOSITORY / "order_polyps" / "configs"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    data = draw_prepared(tmp_path_factory.mktemp("trials") / "data")
    return ["--dataset_dir", str(data), "--epochs", "1", "--image_size", "64", "--batch_size", "2"]


@pytest.mark.parametrize("name", TRIALS)
def test_a_trial_changes_what_the_recipe_has(name: str, tmp_path: Path) -> None:
    """Its keys are there, so that none that is renamed is set in vain, and something of the config is another."""
    overlay = tmp_path / "row.yaml"
    overlay.write_text(yaml.safe_dump(dict(TRIALS[name].overlay)))
    files = [str(CONFIGS / "train.yaml"), str(CONFIGS / "recipe_best.yaml")]
    before = ConfigParser(ConfigParser.load_config_files(files))
    after = ConfigParser(ConfigParser.load_config_files([*files, str(overlay)]))
    for key in TRIALS[name].overlay:
        parent = key.rpartition("#")[0]
        assert not parent or before[parent] is not None
    assert (before.get() != after.get()) == bool(TRIALS[name].overlay)
    network = after.get_parsed_content("network_def")
    assert network.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 1, 64, 64)


def with_weights_of(network: OrderNet, other: OrderNet) -> OrderNet:
    network.load_state_dict(other.state_dict(), strict=False)
    return network.eval()


def test_attention_that_begins_at_zero_is_the_backbone() -> None:
    with seeded(0):
        zero = ZeroStart().eval()
    backbone = with_weights_of(OrderNet(attention_skips=()), zero)
    image = images(2, 3, 64, 64)
    assert torch.equal(zero(image), backbone(image))


def test_a_closed_gate_lets_an_eighth_through() -> None:
    with seeded(0):
        skip = GateClosed().skips[0]
    decoder, encoder = images(4, 24, 8, 8), images(4, 24, 8, 8, seed=1)
    assert (skip.confidence(decoder, encoder) < 0.3).all() and isinstance(skip, BidirectionalSkipAttention)


def test_keys_pooled_by_one_are_the_plain_attention() -> None:
    with seeded(0):
        plain = BidirectionalSkipAttention(8)
    pooled = PooledAttention(8, 1, plain.num_heads, plain.head_dim)
    pooled.load_state_dict(plain.state_dict())
    decoder, encoder = images(2, 8, 6, 5), images(2, 8, 6, 5, seed=1)
    assert_close(pooled(decoder, encoder), plain(decoder, encoder))


def test_the_networks_have_the_sizes_that_are_told() -> None:
    sizes = {network: sum(each.numel() for each in network().parameters()) for network in (HalfResolution, Pooled21)}
    assert sizes == {HalfResolution: 42_170, Pooled21: 35_793}


def test_deep_supervision_adds_heads_and_leaves_the_logits() -> None:
    with seeded(0):
        supervised = Supervised()
    plain = OrderNet()
    plain.load_state_dict({k: v for k, v in supervised.state_dict().items() if not k.startswith("heads.")})
    image = images(2, 3, 64, 64)
    maps = supervised(image)
    assert [each.shape for each in maps] == [(2, 1, 64, 64)] * 4
    sum(each.square().mean() for each in maps).backward()
    assert all(head.weight.grad.any() for head in supervised.heads)
    assert_close(maps[0], plain(image))


def test_the_networks_of_trials_keep_the_budget() -> None:
    """At most 42,265 parameters and 0.54 GFLOPs at 256², pooled attention's four products counted."""
    for network in (Pooled21(), HalfResolution()):
        assert order_complexity.count_operations(network)["total"] <= 0.541e9
        assert sum(each.numel() for each in network.parameters()) <= 42_265


def test_what_is_normalised_afterwards_adds_one_to_the_square_of_a_position() -> None:
    with seeded(0):
        skip = PostNorm().skips[0]
    assert isinstance(skip, PostNormAttention) and not isinstance(
        PostNorm(attention_skips=()).skips[0], PostNormAttention
    )
    nn.init.zeros_(skip.project_encoder[0].weight)
    nn.init.zeros_(skip.project_encoder[0].bias)
    decoder, encoder = images(2, 24, 8, 8), images(2, 24, 8, 8, seed=1)
    added = (skip(decoder, encoder) - decoder - encoder) / skip.confidence(decoder, encoder)
    assert_close(added.square().mean(dim=1), torch.ones(2, 8, 8), tolerance=1e-3)


def test_a_mark_farther_off_costs_more_by_its_boundary() -> None:
    loss, target = StructureAndBoundary(), torch.zeros(1, 1, 64, 64)
    target[..., 20:26, 10:16] = 1
    marked = [torch.roll(target, shift, dims=-1) for shift in (0, 8, 16, 24, 32)]
    costs = [float(loss(20 * mark - 10, target)) for mark in marked]
    assert costs[0] < 0.01 and costs == sorted(costs) and costs[-1] > costs[1] + 0.05
    logits = torch.zeros_like(target, requires_grad=True)
    loss(logits, target).backward()
    assert logits.grad.isfinite().all() and logits.grad.any()


def test_a_teacher_is_half_of_the_label(tmp_path: Path) -> None:
    with seeded(0):
        network = OrderNet(attention_skips=())
    torch.save(network.state_dict(), tmp_path / "model.pt")
    item = {"image": images(1, 3, 64, 64)[0], "label": torch.ones(1, 64, 64)}
    teach = AddTeacher(str(tmp_path / "model.pt"), OrderNet(attention_skips=()), size=64)
    taught = teach(item)["label"]
    turned = teach({**item, "image": item["image"].flip(-1)})["label"]
    assert 0.5 <= float(taught.min()) < float(taught.max()) <= 1
    assert_close(turned.flip(-1), taught)  # it looks at all four flips


def test_shapes_change_along_both_axes() -> None:
    ranges = {key: value for key, value in order_trials.SHAPES.items() if key in ("scale_range", "padding_mode")}
    shape = RandAffine(prob=1.0, translate_range=[12, 12], mode="nearest", **ranges).set_random_state(0)
    square = torch.zeros(1, 128, 128)
    square[:, 44:84, 44:84] = 1
    sides, centres = [], []
    for _ in range(8):
        rows, columns = shape(square)[0].nonzero(as_tuple=True)
        sides.append((int(rows.max() - rows.min()), int(columns.max() - columns.min())))
        centres.append((float(rows.float().mean()), float(columns.float().mean())))
    for axis in (0, 1):
        assert len({side[axis] for side in sides}) > 4
        assert torch.tensor([centre[axis] for centre in centres]).std() > 3


def test_an_outcome_is_not_taken_for_that_of_another_teacher(tmp_path: Path) -> None:
    first, second = tmp_path / "a.pt", tmp_path / "b.pt"
    for number, path in enumerate((first, second)):
        path.write_bytes(bytes([number]))
    overlay = TRIALS["larger_teacher"].overlay
    made = [
        order_trials._made_of(overlay, Namespace(bundle="order_polyps", teacher=str(each))) for each in (first, second)
    ]
    assert made[0]["teacher"] != made[1]["teacher"] and made[0]["parts"] == made[1]["parts"]
    assert "teacher" in order_trials._made_of(TRIALS["teacher"].overlay, Namespace(bundle="order_polyps", teacher=None))
    assert not order_trials._made_of(TRIALS["colours"].overlay, Namespace(bundle="order_polyps", teacher=None))


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [["base", "no_average"], ["supervised", "half"], ["teacher", "colours", "shapes"], ["boundary", "one_cycle"]],
    ids=str,
)
def test_trials_are_trained_and_gone_on_with(given: list[str], tmp_path: Path, capsys, names: list[str]) -> None:
    command = [*given, "--out", str(tmp_path), "--trials", *names]
    order_trials.main(command)
    results = json.loads((tmp_path / "trials.json").read_text())["results"]
    assert results.keys() == set(names)
    assert all(0 <= each["dice"] <= 1 and each["loss"] > 0 for (each,) in results.values())
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.pt")}
    assert len(before) == len(names)
    capsys.readouterr()
    order_trials.main(command)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("model.pt")} == before
    said = capsys.readouterr().out
    assert all(TRIALS[name].what in said for name in names)


@pytest.mark.slow
def test_a_trial_that_fails_is_told_and_does_not_stop_the_others(given: list[str], tmp_path: Path, capsys, monkeypatch):
    broken = order_trials.Trial("no such loss", {"loss": {"_target_": "benchmarks.trial_parts.Nothing"}})
    monkeypatch.setitem(TRIALS, "broken", broken)
    command = [*given, "--out", str(tmp_path), "--trials", "broken", "base"]
    with pytest.raises(SystemExit) as ended:
        order_trials.main(command)
    assert ended.value.code == 2
    content = json.loads((tmp_path / "trials.json").read_text())
    assert not content["results"]["broken"] and content["results"]["base"] and "broken, seed 0" in content["failed"][0]


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--epochs", "0"], "--epochs has to be"),
        (["--seeds", "-1"], "--seed has to be"),
        (["--processes", "3"], "--processes has to divide the batch of 2; got 3"),
        (["--bundle", "law_polyps"], "there is no law_polyps with a recipe_best"),
        (["--protocol", "none"], "no protocol 'none'"),
        (["--trials", "larger_teacher"], "larger_teacher: give --teacher"),
        (["--trials", "larger_teacher", "--teacher", "nowhere.pt"], "nowhere.pt"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_before_any_training(given: list[str], tmp_path: Path, capsys, more, told: str) -> None:
    with pytest.raises(SystemExit) as ended:
        order_trials.main([*given, "--out", str(tmp_path / "out"), *more])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

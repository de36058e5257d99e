"""The trials of the recipe: each changes what it says, and nothing of ORDER where it should not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from monai.bundle import ConfigParser

from benchmarks import order_trials
from benchmarks.order_trials import TRIALS
from benchmarks.trial_parts import GateClosed, HalfResolution, Pooled21, PooledAttention, Supervised, ZeroStart
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


@pytest.mark.slow
@pytest.mark.parametrize(
    "names", [["base", "no_average"], ["supervised", "half"], ["teacher", "colours", "shapes"]], ids=str
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


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--epochs", "0"], "--epochs has to be"),
        (["--seeds", "-1"], "--seed has to be"),
        (["--processes", "3"], "--processes has to divide the batch of 2; got 3"),
        (["--bundle", "law_polyps"], "there is no law_polyps with a recipe_best"),
        (["--protocol", "none"], "no protocol 'none'"),
    ],
    ids=str,
)
def test_what_is_wrong_is_told_before_any_training(given: list[str], tmp_path: Path, capsys, more, told: str) -> None:
    with pytest.raises(SystemExit) as ended:
        order_trials.main([*given, "--out", str(tmp_path / "out"), *more])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()

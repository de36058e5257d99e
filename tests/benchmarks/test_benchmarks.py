"""The benchmarks: their counts against arithmetic, their memory against a known allocation, and a run of each."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import configurations, order_complexity, order_memory, order_speed
from benchmarks.configurations import ALL, BACKBONE, CONFIGURATIONS, MK_UNET, UNET
from benchmarks.order_memory import LIMIT, median_ratio, seconds_in_turns
from benchmarks.peak_memory import MEBIBYTE, measure
from benchmarks.reporting import table
from benchmarks.runtimes import runner
from common.data.phantoms import draw_phantom
from common.order import OrderNet
from common.weights import load_weights
from tests.network_contract import COMPILERS

REPOSITORY = Path(__file__).parents[2]
SPEED_ROWS = ("ORDER[0, 1]", MK_UNET, UNET)
WIDTH = 64  # two heads of 32
TOKENS = {0: 16**2, 1: 32**2, 2: 64**2, 3: 128**2}  # of each skip at 256²


def test_a_convolution_counts_two_operations_a_product() -> None:
    counted = order_complexity.count_operations(nn.Conv2d(3, 5, 3, padding=1), size=32)
    assert counted == {"convolutions": 2 * 3 * 5 * 9 * 32**2, "total": 2 * 3 * 5 * 9 * 32**2}


@pytest.fixture(scope="module")
def complexity(tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What `order_complexity` writes."""
    file = tmp_path_factory.mktemp("complexity") / "figures.json"
    order_complexity.main(["--out", str(file)])
    return json.loads(file.read_text())


def test_attention_adds_three_products_by_the_algorithm_and_four_as_executed(complexity: dict) -> None:
    for result, configuration in zip(complexity["results"], CONFIGURATIONS, strict=False):
        attended = "skip_refinement" not in configuration.arguments and configuration.arguments["attention_skips"]
        product = sum(2 * TOKENS[skip] ** 2 * WIDTH for skip in attended or ())
        assert result["algorithm"] - result["convolutions"] == 3 * product, result["configuration"]
        assert result["fused"] - result["convolutions"] == 4 * product, result["configuration"]


def test_parameters_are_those_the_paper_prints() -> None:
    for configuration in CONFIGURATIONS:
        parameters = sum(parameter.numel() for parameter in configuration.build().parameters())
        printed = configuration.printed.parameters
        assert printed == (f"{parameters / 1000:.0f}K" if printed.endswith("K") else f"{parameters:,}")


ALLOCATION = """
import torch
from benchmarks.peak_memory import MEBIBYTE, ResidentMemory
torch.ones(1)
watch = ResidentMemory()
tensor = torch.ones(64 * MEBIBYTE // 4)
del tensor
print(watch.peak() / MEBIBYTE)
"""


def test_resident_memory_sees_what_was_freed_again() -> None:
    """In a process of its own, as where it is used: one that has trained may hold enough memory already."""
    ended = subprocess.run([sys.executable, "-c", ALLOCATION], capture_output=True, text=True, cwd=REPOSITORY)
    assert ended.returncode == 0, ended.stderr
    assert 63 < float(ended.stdout) < 80


def test_steps_take_turns() -> None:
    order: list[str] = []
    steps = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    seconds = seconds_in_turns(steps, rounds=2)
    assert "".join(order) == "aabb" + "abab"  # two warm-ups of each, not timed
    assert [len(values) for values in seconds.values()] == [2, 2]


def test_a_slow_round_does_not_move_the_median_ratio() -> None:
    assert median_ratio([2.0, 200.0, 2.0], [1.0, 100.0, 1.0]) == 2.0


def test_table_columns_line_up() -> None:
    lines = table(("name", "figure"), [("a", "1.0"), ("longer", "1,000.0")]).splitlines()
    assert [len(line) for line in lines] == [15] * 4


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_least_size_of_a_network_is_that(name: str) -> None:
    configuration = ALL[name]
    if not configuration.can_be_built():
        pytest.skip("timm is not installed")
    network, least = configuration.build().eval(), configuration.least_size
    with torch.no_grad():
        assert network(torch.zeros(1, 3, least, least)).shape[2:] == (least, least)
    if least > 32:
        with pytest.raises(ValueError, match="32x32"):
            network(torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize("rows", [["nnU-Net reference"], ["ORDER[0, 1]", "nnU-Net reference"]], ids=len)
def test_a_size_that_a_network_does_not_take_is_told(rows: list[str], capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        order_speed.main(["--size", "32", "--rows", *rows])
    assert stopped.value.code == 2
    assert "'nnU-Net reference' takes no image below 64²; --size is 32" in capsys.readouterr().err


@pytest.mark.parametrize("command", [order_memory, order_speed], ids=lambda module: module.__name__)
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--size", "100"], "--size has to be a multiple of 32; it is 100"),
        (["--size", "0"], "--size"),
        (["--batch", "0"], "--batch has to be at least 1"),
        (["--rounds", "0"], "--rounds"),
        (["--threads", "0"], "--threads"),
        (["--device", "abacus"], "--device abacus"),
        (["--sise", "64"], "--sise"),
    ],
    ids=str,
)
def test_a_wrong_option_is_told_before_any_work(command, arguments: list[str], told: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.main(arguments)
    output = capsys.readouterr()
    assert stopped.value.code == 2
    assert told in output.err.splitlines()[-1]
    assert output.out == ""


@pytest.mark.parametrize(("size", "told"), [("100", "--size has to be a multiple of 32"), ("0", "--size")])
def test_a_wrong_size_to_count_at_is_told(size: str, told: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        order_complexity.main(["--size", size])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


def test_what_is_not_counted_is_told(capsys, monkeypatch) -> None:
    monkeypatch.setattr(configurations, "find_spec", lambda name: None)
    for others in ("CONFIGURATIONS", "OTHER_READINGS", "BASELINES"):
        monkeypatch.setattr(order_complexity, others, ())
    order_complexity.main(["--size", "32"])
    said = capsys.readouterr().out
    assert "PraNet is left out: it needs timm" in said
    assert "nnU-Net reference is left out: it takes no image below 64²" in said


@pytest.mark.parametrize("skips", ["2,4", "two", ""])
def test_wrong_skips_are_told(skips: str, capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        order_memory.main(["--skips", skips])
    assert stopped.value.code == 2
    assert "--skips" in capsys.readouterr().err


def test_complexity_writes_the_figures_known_of_the_method(complexity: dict) -> None:
    assert complexity["parameters"] == {"size": 256}
    known = {
        "backbone": (26_307, "94.595", "94.6", "94.6"),
        "ORDER[0, 1]": (42_265, "111.898", "539.7", "682.3"),
        "ORDER[2, 1]": (35_793, "132.344", "6977.4", "9259.1"),
    }
    found = {
        row["configuration"]: (
            row["parameters"],
            f"{row['convolutions'] / 1e6:.3f}",
            f"{row['algorithm'] / 1e6:.1f}",
            f"{row['fused'] / 1e6:.1f}",
        )
        for row in complexity["results"]
    }
    assert {name: found[name] for name in known} == known


def test_the_papers_count_of_unet_takes_its_transposed_convolutions_four_times(complexity: dict) -> None:
    (unet,) = (row for row in complexity["results"] if row["configuration"] == "U-Net")
    transposed = sum(2 * 4 * deep * (deep // 2) * (16 * 1024 // deep) ** 2 for deep in (1024, 512, 256, 128))
    assert f"{(unet['convolutions'] + 3 * transposed) / 1e9:.3f}" == unet["paper"]["gflops"]


def test_complexity_prints_the_command_and_the_machine(capsys, monkeypatch) -> None:
    monkeypatch.setattr(order_complexity, "CONFIGURATIONS", (BACKBONE,))
    for others in ("OTHER_READINGS", "BASELINES", "HEAVY"):
        monkeypatch.setattr(order_complexity, others, ())
    order_complexity.main(["--size", "64"])
    first, second = capsys.readouterr().out.splitlines()[:2]
    assert first == "benchmarks.order_complexity size=64"
    assert f"torch {torch.__version__}" in second


@pytest.mark.slow
def test_fused_attention_takes_a_twentieth_of_the_materialised_memory() -> None:
    """At skips {2, 1} and 256², above the plain backbone's training step."""
    settings = {"size": 256, "batch": 1, "train": True, "device": "cpu", "channels_last": False}
    skips = {"attention_skips": (2, 1)}
    backbone = measure(BACKBONE.arguments, form="fused", **settings)["bytes"]
    fused = measure(skips, form="fused", **settings)["bytes"]
    materialised = measure(skips, form="materialised", **settings)["bytes"]
    # Two stored softmaxes of 2 heads × 4,096² are 256 MiB, so the materialised form has its matrices indeed.
    assert materialised - backbone > 256 * MEBIBYTE
    assert fused - backbone <= LIMIT * (materialised - backbone)


@pytest.mark.slow
@pytest.mark.parametrize("command", [order_memory, order_speed], ids=lambda module: module.__name__)
def test_the_command_prints_and_writes_what_it_measured(command, tmp_path: Path, capsys) -> None:
    file = tmp_path / "figures.json"
    speed = ["--rows", SPEED_ROWS[0], "--runtimes", "torchscript", "onnx", "--at-least", "0.001"]
    chosen = [] if command is order_memory else speed
    command.main(["--size", "64", "--batch", "2", "--rounds", "1", "--out", str(file), *chosen])
    report, printed = json.loads(file.read_text()), capsys.readouterr().out
    assert report["command"] in printed
    assert report["parameters"]["batch"] == 2
    if command is order_memory:
        assert "backbone" in printed
        assert set(report["results"]["peak_bytes"]) == {"backbone", "fused", "materialised", MK_UNET, UNET}
        assert set(report["results"]["all_skips"]["peak_bytes"]) == {"all four skips", MK_UNET, UNET}
        assert report["results"]["limits_kept"] is None
    else:
        rows = report["results"]
        wanted = [(name, runtime) for name in SPEED_ROWS for runtime in ("eager", "torchscript", "onnx")]
        assert [(row["configuration"], row["runtime"]) for row in rows] == wanted
        assert all(row["peak_bytes"] > 0 and row["milliseconds"] > 0 for row in rows)
        assert all(row["by_eager"] == 1 and row["other_pixels"] == 0 for row in rows if row["runtime"] == "eager")
        assert all(row["by_unet"] > 0 and row["other_pixels"] < 1000 for row in rows)


def test_an_exported_order_is_judged_by_its_fastest_runtime() -> None:
    def row(name: str, runtime: str, ratio: float, other: float = 0.0) -> dict[str, object]:
        return {"configuration": name, "runtime": runtime, "by_eager": ratio, "other_pixels": other}

    rows = [row("ORDER[0, 1]", "eager", 1.0), row("ORDER[0, 1]", "torchscript", 1.3), row(UNET, "onnx", 1.1)]
    assert order_speed.faults_of_exports([*rows, row("ORDER[0, 1]", "onnx", 1.51)], 1.5) == []
    (line,) = order_speed.faults_of_exports([*rows, row("ORDER[0, 1]", "onnx", 1.49)], 1.5)
    assert line == "ORDER[0, 1] is exported 1.49 times as fast as eager; 1.5 are wanted"
    (line,) = order_speed.faults_of_exports([*rows, row("ORDER[0, 1]", "onnx", 4.0, other=51)], 1.5)
    assert line == "ORDER[0, 1] by onnx sets 51.0 of a million pixels otherwise than eager; 50 are allowed"


@pytest.mark.slow
def test_the_command_fails_where_an_export_is_slower_than_wanted(capsys) -> None:
    command = ["--size", "32", "--batch", "1", "--rounds", "1", "--rows", "ORDER[0, 1]", "--runtimes", "torchscript"]
    with pytest.raises(SystemExit) as stopped:
        order_speed.main([*command, "--at-least", "1000"])
    assert stopped.value.code == 1
    assert "1000 are wanted" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("chosen", "told"),
    [
        (["--rows", "ORDER[0, 1]"], "add --runtimes torchscript or onnx"),
        (["--rows", UNET, "--runtimes", "torchscript"], "add it to --rows"),
    ],
    ids=["nothing exported", "no ORDER"],
)
def test_a_wanted_speed_asks_for_an_exported_order(capsys, chosen: list[str], told: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        order_speed.main([*chosen, "--at-least", "1.5"])
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
def test_a_compiled_network_is_timed_and_draws_the_same_masks(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    chosen = ["--rows", "backbone", "--runtimes", "compiled"]
    order_speed.main(["--size", "64", "--batch", "1", "--rounds", "1", "--out", str(file), *chosen])
    results = json.loads(file.read_text())["results"]
    eager, compiled = (each for each in results if each["configuration"] == "backbone")
    assert (eager["runtime"], compiled["runtime"]) == ("eager", "compiled")
    assert compiled["milliseconds"] > 0 and compiled["other_pixels"] < 1000 and compiled["peak_bytes"] is None


@pytest.mark.parametrize("runtime", ["torchscript", "onnx"])
@pytest.mark.parametrize("bundle", ["order_polyps", "order_brisc"])
def test_the_shipped_weights_draw_the_same_masks_in_every_runtime(bundle: str, runtime: str) -> None:
    """On drawn lesions: no pixel differs but where a logit is at the threshold, to the digits that float32 keeps.

    The threshold is one that a tenth of the pixels exceed: of drawings, the weights for brains mark nothing at 0.
    """
    if runtime == "onnx":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
    network = load_weights(OrderNet(), REPOSITORY / bundle / "models" / "model.pt").eval()
    pictures = [draw_phantom(seed).image for seed in range(4)]
    images = torch.stack([torch.from_numpy(picture.copy()).permute(2, 0, 1) / 255 for picture in pictures])
    with torch.no_grad():
        logits, other = network(images), runner(network, runtime, images)(images)
    assert (logits - other).abs().max() < 1e-3
    level = logits.flatten().kthvalue(int(0.9 * logits.numel())).values
    differs = (logits > level) != (other > level)
    assert not differs[(logits - level).abs() > 1e-4].any()


def test_an_unknown_row_is_told(capsys) -> None:
    with pytest.raises(SystemExit) as stopped:
        order_speed.main(["--rows", "W-Net"])
    assert stopped.value.code == 2
    assert "'W-Net'; there are 'backbone'" in capsys.readouterr().err

"""What a bundle checks before any work starts."""

from __future__ import annotations

import errno
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml

from common import guard
from common.command_line import command_line_faults
from common.errors import InputError
from common.guard import check_evaluation, check_inference, check_training, check_weights
from common.order import OrderNet
from common.settings import RULES, setting_faults
from tests.bundles.drawn import FAULTS, draw_prepared, tree

CONFIG = {
    "dataset_dir": None,
    "epochs": 3,
    "rate": 0.1,
    "resume": True,
    "name": "x",
    "sizes": [1, 2],
    "loss": {"_target_": "DiceCELoss", "sigmoid": True},
    "optimizer": {"_target_": "torch.optim.AdamW", "params": "$[]", "lr": "@rate"},
    "open": {"_target_": "LoadImaged", "keys": "image"},  # takes any keyword
    "plain": {"_target_": "builtins.dict", "a": 1},  # has no signature
    "train": {"handlers": [{"_target_": "StatsHandler"}]},
}
TRAIN = Path(__file__).parents[1] / "order_polyps" / "configs" / "train.yaml"
SETTINGS = {"epochs": 2, "val_interval": 1, "batch_size": 2, "image_size": 64}


@pytest.fixture
def told(tmp_path):
    """The faults of `python -m monai.bundle run --config_file CONFIG …`."""
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(CONFIG))

    def faults(*arguments: str, command: str = "run") -> list[str]:
        return command_line_faults([command, "--config_file", str(path), *arguments])

    return faults


# ---- the command line --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["training"],
        ["--epochs", "4"],
        ["--epochs=4", "--name", "a b"],
        ["--rate", "1"],
        ["--resume", "False"],
        ["--dataset-dir", "some/folder"],
        ["--sizes", "[3]"],
        ["--sizes", "$[3]"],
        ["--epochs", "@rate"],
        ["--train#handlers#0#_disabled_", "True"],
        ["--train::handlers::0::name", "x"],
        ["--loss#lambda_ce", "0.5"],
        ["--loss#_target_", "DiceLoss"],
        ["--optimizer", "%other.yaml#optimizer"],
        ["--open#anything", "1"],
        ["--plain#anything", "1"],
        ["--+sizes", "[3]"],
        ["--+loss#sigmoid", "False"],
        ["--run_id", "training", "--meta_file", "x.json", "--logging_file", "y.conf"],
        ["--tracking", "mlflow", "--experiment_name", "x"],
    ],
)
def test_what_the_config_or_the_command_has_is_taken(told, arguments):
    assert told(*arguments) == []


@pytest.mark.parametrize(
    ("arguments", "pattern"),
    [
        (["--epoch", "4"], r"unknown key --epoch:.*did you mean --epochs\?"),
        (["--epoch=4"], r"did you mean --epochs\?"),
        (["--dataset-dirr", "x"], r"unknown key --dataset_dirr.*did you mean --dataset_dir\?"),
        (["--loss#sigmoyd", "True"], r"did you mean --loss#sigmoid\?"),
        (["--loss::sigmoyd", "True"], r"unknown key --loss::sigmoyd"),
        (["--optimizer#lrr", "1"], r"did you mean --optimizer#lr\?"),
        (["--open#readr", "1"], r"did you mean --open#reader\?"),
        (["--train#handlers#1", "x"], r"unknown key --train#handlers#1"),
        (["--+loss#sigmoyd", "True"], r"did you mean --loss#sigmoid\?"),
        (["--xyzzy", "1"], "unknown key --xyzzy.*see the first section"),
        (["--experiment_name", "x"], "unknown key --experiment_name"),
        (["--rate", "fast"], "--rate takes a number such as 0.1; got 'fast'"),
        (["--rate", "True"], "--rate takes a number"),
        (["--loss#sigmoid", "yes"], "--loss#sigmoid takes True or False; got 'yes'"),
        (["--sizes", "3"], r"--sizes takes a list in brackets, such as .\[1, 2\].; got 3"),
        (["--loss", "3"], "--loss is a section of the config and cannot be 3; its keys are _target_, sigmoid"),
        (["--loss#_target_", "DiceLos"], "loss: there is no DiceLos here"),
        (["--optimizer#_target_", "torch.optm.Adam"], "optimizer: there is no torch.optm.Adam here"),
        (["--name", "a", "b"], "'b' belongs to no --key; put quotes"),
    ],
)
def test_what_it_does_not_have_is_told_in_one_line(told, arguments, pattern):
    arguments = ["training", *arguments]
    faults = told(*arguments)
    assert len(faults) == 1 and re.search(pattern, faults[0]) and "\n" not in faults[0], faults


def test_several_are_told_together(told):
    assert len(told("training", "--epoch", "4", "--rate", "fast", "--lost#x", "1")) == 3


def test_a_package_that_is_not_installed_is_named(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        yaml.safe_dump({"loss": {"_target_": "nowhere_at_all.Loss"}, "off": {"_target_": "no.X", "_disabled_": True}})
    )
    (fault,) = command_line_faults(["run", "--config_file", str(path)])
    assert "loss: there is no nowhere_at_all.Loss here" in fault and "install" in fault


def test_keys_of_an_args_file_are_checked_too(told, tmp_path):
    given = tmp_path / "args.yaml"
    given.write_text(yaml.safe_dump({"epochs": 4, "epoch": 4, "run_id": "training"}))
    (fault,) = told("--args_file", str(given))
    assert "unknown key --epoch:" in fault


def test_the_other_commands_of_monai_are_let_be(told):
    assert told("--workflow_type", "train", "--properties_path", "x", command="run_workflow") == []
    assert len(told("--epoch", "3", command="run_workflow")) == 1
    assert told("--epoch", "3", command="ckpt_export") == []
    assert command_line_faults() == []  # this process is none of them


def test_a_target_that_does_not_take_its_section_is_told_with_the_mend(told):
    (line,) = told("--optimizer#_target_", "torch.optim.LBFGS", "--optimizer#betas", "[0.9,0.9]")
    assert line.startswith("--optimizer#_target_: torch.optim.LBFGS takes no betas")
    assert "--optimizer \"{'_target_': 'torch.optim.LBFGS'}\"" in line
    assert told("--optimizer#_target_", "torch.optim.SGD") == []


# ---- values ------------------------------------------------------------------------------------------------

GOOD = {
    "epochs": [1, 40],
    "batch_size": [1, 16],
    "val_interval": [1],
    "num_workers": [0, 4],
    "seed": [0, 7],
    "image_size": [32, 256],
    "learning_rate": [1e-4, 1],
    "weight_decay": [0, 0.01],
    "cache_rate": [0, 0.5, 1.0],
    "threshold": [0.3],
    "split": ["training", "validation", "test"],
    "amp": [True, False],
    "channels_last": [True, False],
    "amp_dtype": [torch.bfloat16, torch.float16],
    "overlay": [True],
    "resume": [False],
    "device": ["cpu", torch.device("cpu")],
    "checkpoint": ["model.pt"],
    "output_dir": ["out", "./2024"],
    "recipe": ["best"],
    "dataset_dir": ["data"],
    "pretrained": [None, "model.pt"],
    "protocol": [None, "", "law"],
    "synthetic_dir": [None, "painted"],
    "synthetic_images": [None, 1, 1450],
}
BAD = {
    "epochs": [0, -1, 1.5, "3", True, None, float("nan")],
    "batch_size": [0, "x"],
    "val_interval": [0],
    "num_workers": [-1],
    "seed": [-1, 0.5, "one"],
    "image_size": [0, 31, 100, 256.0, [256, 256]],
    "learning_rate": [0, -1, float("inf"), float("nan"), "0,001", "1e-3"],
    "weight_decay": [-0.1],
    "cache_rate": [-0.1, 1.1],
    "threshold": [0, 1, 2, "half"],
    "split": ["tests", None],
    "amp": ["yes", 1, None],
    "channels_last": ["yes", 1, None],
    "amp_dtype": ["bfloat16", torch.float64, None],
    "overlay": ["no"],
    "resume": [0],
    "device": ["gpu", 7.5],
    "checkpoint": [None, 3],
    "output_dir": ["", None, 2024, True],
    "recipe": [None],
    "dataset_dir": [2024, True, ["a"]],
    "pretrained": [3, ""],
    "protocol": [1],
    "synthetic_dir": [3, ""],
    "synthetic_images": [0, -1, 2.5, True, "all"],
}


def test_every_rule_is_tried():
    assert GOOD.keys() == BAD.keys() == RULES.keys()


@pytest.mark.parametrize("name", RULES)
def test_a_rule_takes_what_is_sound_and_names_what_is_not(name):
    assert [value for value in GOOD[name] if setting_faults({name: value, **_rest(name)})] == []
    for value in BAD[name]:
        (fault,) = setting_faults({name: value})
        assert fault.startswith(f"--{name} ") and "\n" not in fault
        assert repr(value) in fault or "needs a value" in fault


def _rest(name: str) -> dict[str, int]:
    return {key: value for key, value in {"epochs": 50, **SETTINGS}.items() if key != name} if name == "epochs" else {}


def test_values_that_are_sound_alone_and_wrong_together():
    assert setting_faults(SETTINGS) == []
    (fault,) = setting_faults({**SETTINGS, "val_interval": 3})
    assert "--val_interval 3 is more than --epochs 2" in fault


# ---- data, checkpoint, output ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sound(tmp_path_factory) -> Path:
    """A folder with a prepared folder, and a checkpoint that fits."""
    folder = tmp_path_factory.mktemp("sound")
    draw_prepared(folder / "data")
    torch.save(OrderNet().state_dict(), folder / "model.pt")
    return folder


@pytest.fixture
def here(sound, tmp_path, monkeypatch) -> Path:
    """A copy of `sound`, as the working folder."""
    folder = tmp_path / "here"
    shutil.copytree(sound, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def refused(here, capsys):
    """What a check says, line by line, when it ends the process; nothing must be left behind."""

    def lines(check, *arguments, **settings) -> list[str]:
        before = tree(here)
        with pytest.raises(SystemExit) as ended:
            check(*arguments, **settings)
        assert ended.value.code == 2
        assert tree(here) == before
        said = capsys.readouterr().err.replace("\r", "\n").splitlines()
        return [line for line in said if line and "image/s]" not in line and not line.startswith("checking")]

    return lines


def train(dataset_dir="data", output_dir="a/new/folder", **settings):
    check_training(dataset_dir, None, output_dir, OrderNet(), **{**SETTINGS, **settings})


def evaluate(dataset_dir="data", output_dir="out", checkpoint="model.pt", split="test", **settings):
    check_evaluation(dataset_dir, None, split, output_dir, OrderNet(), checkpoint, **settings)


def infer(dataset_dir="data", output_dir="out", checkpoint="model.pt", **settings):
    check_inference(dataset_dir, output_dir, OrderNet(), checkpoint, **settings)


@pytest.mark.parametrize("check", [train, evaluate, infer])
def test_what_is_sound_passes_in_silence(here, capsys, check):
    check()
    assert "error" not in capsys.readouterr().err


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_of_the_data_is_one_line(here, refused, fault):
    damage, pattern = FAULTS[fault]
    damage(here / "data")
    (line,) = refused(train)
    assert line.startswith("error: data") and re.search(pattern, line)
    if fault not in ("training", "validation"):  # which an evaluation of the test list does not need
        assert refused(evaluate) == [line]


def test_an_empty_list_to_evaluate_is_one_line(here, refused):
    FAULTS["validation"][0](here / "data")
    (line,) = refused(evaluate, split="validation")
    assert "its validation list is empty; choose another --split" in line


@pytest.mark.parametrize("check", [train, evaluate, infer])
def test_no_data_given_is_one_line(refused, check):
    (line,) = refused(check, None)
    assert line.startswith("error: give --dataset_dir")


@pytest.mark.parametrize("check", [train, evaluate, infer])
def test_an_output_folder_that_cannot_be_written_is_one_line(here, refused, check):
    (line,) = refused(check, output_dir="model.pt/below")
    assert "write to" in line and "model.pt" in line
    (line,) = refused(check, output_dir="/proc/below")
    assert "write to" in line and "/proc" in line


@pytest.mark.parametrize("check", [evaluate, infer])
@pytest.mark.parametrize("kind", ["missing", "folder", "junk", "empty", "cut", "pickle", "architecture", "run"])
def test_a_checkpoint_that_does_not_serve_is_one_line(here, refused, check, kind):
    path = here / "bad.pt"
    weights = OrderNet().state_dict()
    write = {
        "missing": lambda: None,
        "folder": path.mkdir,
        "junk": lambda: path.write_text("not a checkpoint"),
        "empty": lambda: path.write_bytes(b""),
        "cut": lambda: path.write_bytes((here / "model.pt").read_bytes()[:1000]),
        "pickle": lambda: torch.save(OrderNet(), path),
        "architecture": lambda: torch.save(OrderNet(attention_skips=(2, 1)).state_dict(), path),
        "run": lambda: torch.save({"network": weights, "settings": {}, "epoch": 1}, path),
    }
    write[kind]()
    (line,) = refused(check, checkpoint="bad.pt")
    assert line.startswith("error: ") and "bad.pt" in line
    if kind == "architecture":
        assert "another network" in line
    if kind == "run":
        assert "give the model.pt beside it" in line


def test_weights_to_begin_with_are_looked_at_and_not_yet_taken(here, refused):
    torch.save(OrderNet(attention_skips=()).state_dict(), here / "other.pt")
    (line,) = refused(train, pretrained="other.pt")
    assert "other.pt holds the weights of another network" in line
    network = OrderNet()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    check_training("data", None, "out", network, "model.pt", **SETTINGS)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_a_checkpoint_that_serves_fills_the_network(here):
    network = OrderNet()
    check_weights(network, "model.pt")
    saved = torch.load("model.pt", weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in network.state_dict().items())


def test_all_faults_are_told_a_line_each(refused):
    lines = refused(train, "nowhere", "model.pt/x", epochs=0, image_size=100)
    patterns = ["--epochs", "--image_size", "nowhere: no such folder", "cannot write"]
    assert [bool(re.search(pattern, line)) for pattern, line in zip(patterns, lines, strict=True)] == [True] * 4
    assert all(line.startswith("error: ") for line in lines)


def test_a_wrong_name_of_a_list_is_told_once(refused):
    (line,) = refused(evaluate, split="tests")
    assert "--split has to be one of training, validation, test" in line


# ---- what goes wrong later ---------------------------------------------------------------------------------


def _wrapped(error: Exception) -> Exception:
    # As MONAI's parser raises what a component or an expression raised.
    try:
        try:
            try:
                raise error
            except Exception as first:
                raise RuntimeError("Failed to instantiate component") from first
        except RuntimeError as second:
            raise RuntimeError("Failed to evaluate") from second
    except RuntimeError as outer:
        return outer


def _refusal() -> Exception:
    try:
        OrderNet(channels=(1, 2))
    except ValueError as error:
        return error


def _while_handling(first: Exception, second: Exception) -> Exception:
    try:
        try:
            raise first
        except Exception:
            raise second  # noqa: B904 (as torch does)
    except Exception as error:
        return error


NO_SPACE = OSError(errno.ENOSPC, "No space left on device", "a.pt")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (_refusal(), "error: channels needs 5 positive widths, one a stage; got (1, 2)\n"),
        (torch.OutOfMemoryError("CUDA out of memory"), "error: out of memory; lower --batch_size or --image_size\n"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "error: out of memory; lower --batch_size"),
        (NO_SPACE, "error: No space left on device: a.pt; make room"),
        (_while_handling(NO_SPACE, RuntimeError("unexpected pos 64 vs 0")), "error: No space left on device: a.pt"),
    ],
)
def test_what_a_user_can_mend_is_shown_alone(capsys, error, line):
    outer = _wrapped(error)
    guard._show([], type(outer), outer, outer.__traceback__)
    said = capsys.readouterr().err
    assert said.startswith(line) and said.count("\n") == 1


@pytest.mark.parametrize("error", [ValueError("from elsewhere"), RuntimeError("a bug"), FileNotFoundError(2, "gone")])
def test_what_is_not_the_users_keeps_its_traceback(capsys, error):
    outer = _wrapped(error)
    misspelt = ["run", "--config_file", str(TRAIN), "--epoch", "4"]
    guard._show(misspelt, type(outer), outer, outer.__traceback__)
    said = capsys.readouterr().err
    assert "Traceback" in said and str(error) in said


def test_this_process_keeps_its_own_way_of_showing_errors():
    import sys

    before = sys.excepthook
    guard.report_config_errors()  # pytest is no bundle command
    assert sys.excepthook is before


def test_an_input_error_is_a_value_error():
    assert issubclass(InputError, ValueError)

"""Files of weights: read without running anything, refused in a line, written whole."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from common.errors import InputError
from common.order import OrderNet
from common.weights import fit_weights, load_weights, read_checkpoint, save_checkpoint, unwrapped
from tests.training.states import differences


class _Command:
    """Once unpickled it has run a command."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self):
        return os.system, (f"touch {self.proof}",)


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return OrderNet().state_dict()


def test_what_was_saved_is_read(tmp_path, weights):
    state = {"network": dict(weights), "epoch": 3, "best": 0.5, "history": [{"loss": 1.0}], "ema": None, "name": "x"}
    save_checkpoint(tmp_path / "new folder" / "x.pt", state)
    assert list(differences(read_checkpoint(tmp_path / "new folder" / "x.pt"), state)) == []


@pytest.mark.parametrize("way", ["torch", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, way):
    proof = tmp_path / "it ran"
    if way == "torch":
        torch.save({"weight": _Command(proof)}, tmp_path / "x.pt")
    else:
        (tmp_path / "x.pt").write_bytes(pickle.dumps({"weight": _Command(proof)}))
    with pytest.raises(InputError, match="could run code") as refused:
        read_checkpoint(tmp_path / "x.pt")
    assert not proof.exists() and "\n" not in str(refused.value) and str(tmp_path / "x.pt") in str(refused.value)


def test_a_damaged_file_is_refused_wherever_the_damage_is(tmp_path, weights):
    save_checkpoint(tmp_path / "whole.pt", weights)
    whole = (tmp_path / "whole.pt").read_bytes()
    flipped = bytearray(whole)
    place = whole.index(weights["head.weight"].numpy().tobytes())  # in a tensor, where torch would not notice
    flipped[place] ^= 1
    damaged = [b"", b"not a checkpoint at all", whole[:1000], whole[: len(whole) // 2], whole[:-1], bytes(flipped)]
    for number, content in enumerate([*damaged, bytes(len(whole))]):
        path = tmp_path / f"{number}.pt"
        path.write_bytes(content)
        with pytest.raises(InputError, match="is damaged") as refused:
            read_checkpoint(path)
        assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_other_things_than_a_state_dict_are_named(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(InputError, match="holds a list, not a state dict"):
        read_checkpoint(tmp_path / "list.pt")
    torch.jit.script(nn.Conv2d(1, 1, 1)).save(tmp_path / "script.pt")
    with pytest.raises(InputError, match="more than tensors"):
        read_checkpoint(tmp_path / "script.pt")
    for missing in (tmp_path / "none.pt", tmp_path):
        with pytest.raises(InputError, match="no checkpoint at"):
            read_checkpoint(missing)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda own: own.pop("head.bias"), "1 missing (such as head.bias)"),
        (lambda own: own.update(extra=torch.zeros(1)), "1 unexpected (such as extra)"),
        (lambda own: own.update({"head.weight": torch.zeros(2, 4, 1, 1)}), "1 of another shape (such as head.weight)"),
        (lambda own: own.update({"head.weight": 3}), "1 of another shape (such as head.weight)"),
        (lambda own: own.clear(), "missing"),
    ],
)
def test_weights_that_do_not_fit_leave_the_network_as_it_was(tmp_path, weights, change, expected):
    network = OrderNet()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    other = dict(weights)
    change(other)
    save_checkpoint(tmp_path / "other.pt", other)
    for attempt in (lambda: fit_weights(network, other, "other"), lambda: load_weights(network, tmp_path / "other.pt")):
        with pytest.raises(InputError) as refused:
            attempt()
        assert expected in str(refused.value) and "OrderNet" in str(refused.value)
        assert list(differences(dict(network.state_dict()), before)) == []


def test_weights_that_fit_are_the_networks_own_from_then_on(tmp_path, weights):
    save_checkpoint(tmp_path / "x.pt", weights)
    network = load_weights(OrderNet(), tmp_path / "x.pt")
    assert list(differences(dict(network.state_dict()), dict(weights))) == []
    compiled = torch.compile(OrderNet())  # a wrapper: the state dict is of the network inside
    assert unwrapped(compiled) is compiled._orig_mod
    fit_weights(compiled, weights, "x")
    assert list(differences(dict(unwrapped(compiled).state_dict()), dict(weights))) == []


KILLED_WHILE_WRITING = """
import os, signal, sys, torch
from common.weights import save_checkpoint
class Kill:
    def __reduce__(self):
        os.kill(os.getpid(), signal.SIGKILL)
save_checkpoint(sys.argv[1], {"epoch": 1, "weights": torch.zeros(1000)})
from common import files
if sys.argv[2] == "renaming":  # all is written and nothing renamed
    os.replace = lambda *paths: os.kill(os.getpid(), signal.SIGKILL)
    save_checkpoint(sys.argv[1], {"epoch": 2, "weights": torch.ones(1000)})
save_checkpoint(sys.argv[1], {"epoch": 2, "weights": torch.ones(1000), "then": Kill()})
"""


@pytest.mark.parametrize("moment", ["writing", "renaming"])
def test_killed_while_it_writes_leaves_the_old_file_and_an_unfinished_one_beside_it(tmp_path, repository, moment):
    path = tmp_path / "latest.pt"
    command = [sys.executable, "-c", KILLED_WHILE_WRITING, str(path), moment]
    done = subprocess.run(command, cwd=repository, capture_output=True, timeout=120)
    assert done.returncode == -signal.SIGKILL
    state = read_checkpoint(path)
    assert state["epoch"] == 1 and torch.equal(state["weights"], torch.zeros(1000))
    (unfinished,) = [each for each in tmp_path.iterdir() if each != path]
    assert unfinished.name.startswith(".latest.pt.") and unfinished.suffix == ".part"
    save_checkpoint(path, {"epoch": 3})
    assert read_checkpoint(path) == {"epoch": 3}

"""Weights are read without being loaded: what would run code, or is not all there, is refused, and nothing was run."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save as save_safetensors

from bundles.archives import Refused
from bundles.pickles import read_state_dict
from bundles.weights import check_weights
from tests.distribution.built import network, rewritten, saved


class Touches:
    """What touches a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self):
        return os.system, (f"touch {self.canary}",)


def with_pickle(orders: bytes) -> bytes:
    """A ``model.pt`` whose pickle is replaced, in torch's own form of archive."""
    stream = io.BytesIO()
    writer = torch._C.PyTorchFileWriter(stream)
    writer.write_record("data.pkl", orders, len(orders))
    writer.write_end_of_file()
    return stream.getvalue()


# ---- model.pt ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["as it is", "parameters", "shared", "views", "kinds of numbers", "ordered"])
def test_a_state_dict_is_read_as_torch_reads_it(how):
    state = dict(network().state_dict())
    if how == "parameters":
        state = {key: torch.nn.Parameter(each.float()) for key, each in state.items()}
    elif how == "shared":
        state["again"] = state["0.weight"]
    elif how == "views":
        state["view"] = torch.arange(24.0).reshape(4, 6).t()[1:3, ::2]
    elif how == "kinds of numbers":
        kinds = (torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
        state = {str(kind): torch.zeros(3, 2, dtype=kind) for kind in kinds}
    elif how == "ordered":
        state = collections.OrderedDict(state)
    content = saved(network().state_dict() if how == "as it is" else state)
    loaded = torch.load(io.BytesIO(content), weights_only=True)
    read = read_state_dict(content, "model.pt")
    assert {key: tuple(each.shape) for key, each in loaded.items()} == {key: each.shape for key, each in read.items()}
    assert {key: each.element_size() for key, each in loaded.items()} == {key: each.item for key, each in read.items()}


def test_the_weights_that_ship_are_read(repository):
    for path in sorted(repository.glob("*_*/models/**/*")):
        if path.suffix in (".pt", ".safetensors", ".json"):
            check_weights(path.name, path.read_bytes())


def _hostile(canary: Path) -> dict[str, bytes]:
    command = f"touch {canary}".encode()
    old = b"cos\nsystem\n(S'%s'\ntR." % command
    stack = b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c%c%s\x85R." % (len(command), command)
    instance = b"(S'%s'\nios\nsystem\n." % command
    chosen = b"\x80\x02(S'%s'\ncposix\nsystem\no." % command
    return {
        "os.system": saved({"a": Touches(canary)}),
        "among tensors": saved({**network().state_dict(), "z": Touches(canary)}),
        "deep": saved({"a": [[{"b": (Touches(canary),)}]]}),
        "by protocol 4": saved({"a": Touches(canary)}, pickle_protocol=4),
        "bare pickle": pickle.dumps(Touches(canary)),
        "older form": saved({"a": Touches(canary)}, _use_new_zipfile_serialization=False),
        "older form of tensors": saved(network().state_dict(), _use_new_zipfile_serialization=False),
        "whole module": saved(network()),
        "GLOBAL": with_pickle(old),
        "STACK_GLOBAL": with_pickle(stack),
        "INST": with_pickle(instance),
        "OBJ": with_pickle(chosen),
        "name of torch": with_pickle(b"\x80\x02ctorch\nload\n(S'x'\ntR."),
        "name like ours": with_pickle(b"\x80\x02ccollections\nOrderedDict.x\n)R."),
        "extension": with_pickle(b"\x80\x02\x82\x01)R."),
        "sets an attribute": with_pickle(b"\x80\x02ccollections\nOrderedDict\n)R}X\x01\x00\x00\x00aNsb."),
        "calls what it built": with_pickle(b"\x80\x02}q\x00)R."),
        "builds from what it computed": with_pickle(b"\x80\x02ccollections\nOrderedDict\n]\x85R."),
        "behind its end": with_pickle(pickle.dumps({}, protocol=2) + old),
        "without an end": with_pickle(b"\x80\x02}"),
        "nothing": with_pickle(b""),
        "empty stack": with_pickle(b"\x80\x02R."),
        "mark only": with_pickle(b"\x80\x02(."),
        "no mark": with_pickle(b"\x80\x02}u."),
        "a tuple without a mark": with_pickle(b"\x80\x02t."),
        "huge memo": with_pickle(b"\x80\x02}r\xff\xff\xff\xff."),
        "a gap in the memo": with_pickle(b"\x80\x02}q\x05."),
        "a tensor that repeats its numbers": saved({"a": torch.zeros(1).expand(1 << 40)}),
        "a tensor of very many sides": saved({"a": torch.zeros((1,) * 20)}),
        "long number": with_pickle(b"\x80\x02I" + b"9" * 6000 + b"\n."),
        "key that is hard to hash": with_pickle(b"\x80\x02})" + b"\x86".join([b"2"] * 40) + b"Ns."),
        "a number": saved({"a": 1}),
        "a list": saved([torch.zeros(1)]),
        "a sparse tensor": saved({"a": torch.eye(3).to_sparse()}),
    }


@pytest.mark.parametrize("kind", _hostile(Path("x")))
def test_a_pickle_with_anything_else_is_refused_and_was_not_run(kind, tmp_path):
    canary = tmp_path / "canary"
    content = _hostile(canary)[kind]
    with pytest.raises(Refused, match=r"model\.pt"):
        read_state_dict(content, "model.pt")
    assert not canary.exists()


def test_the_canary_would_have_sung(tmp_path):
    """Or the test above would prove nothing."""
    canary = tmp_path / "canary"
    torch.load(io.BytesIO(saved({"a": Touches(canary)})), weights_only=False)
    assert canary.exists()


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda records: records.pop("data/0"), "storage '0'"),
        (lambda records: records.update({"data/0": records["data/0"][:-1]}), "storage '0'"),
        (lambda records: records.update({"data/0": records["data/0"] + b"x"}), "storage '0'"),
        (lambda records: records.update({"code/x.py": b"x"}), "writes nowhere"),
        (lambda records: records.pop("data.pkl"), "no data.pkl"),
        (lambda records: records.update({"data.pkl": records["data.pkl"][:-9]}), "data.pkl"),
    ],
)
def test_numbers_that_are_not_all_there_are_refused(change, cause):
    content = saved(network().state_dict())
    assert read_state_dict(rewritten(content, lambda records: None), "model.pt")
    with pytest.raises(Refused, match=cause):
        read_state_dict(rewritten(content, change), "model.pt")


def test_a_tensor_beyond_its_numbers_is_refused():
    content = saved({"a": torch.zeros(2, 3)})
    inside = b"K\x02K\x03\x86"  # its shape
    wider = rewritten(content, lambda records: records.update({"data.pkl": _once(records["data.pkl"], inside)}))
    with pytest.raises(Refused, match="beyond the end"):
        read_state_dict(wider, "model.pt")


def _once(pickled: bytes, shape: bytes) -> bytes:
    assert pickled.count(shape) == 1
    return pickled.replace(shape, b"K\x09K\x03\x86")


# ---- safetensors, ONNX, descriptions -----------------------------------------------------------------------------


def test_safetensors_are_what_their_header_says():
    content = save_safetensors({"a": torch.zeros(2, 3), "b": torch.ones(4, dtype=torch.int64)})
    check_weights("x.safetensors", content)
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    moved = json.loads(json.dumps(header))
    moved["a"]["data_offsets"] = [0, 10_000]
    lying = json.loads(json.dumps(header))
    lying["a"]["shape"] = [2, 4]

    def again(told: dict) -> bytes:
        text = json.dumps(told).encode()
        return struct.pack("<Q", len(text)) + text + content[8 + length :]

    check_weights("x.safetensors", again(header))
    for bad in (
        b"",
        content[:5],
        content[:-1],
        content + b"x",
        struct.pack("<Q", 1 << 60) + content[8:],
        again(moved),
        again(lying),
        again({}),
        struct.pack("<Q", 4) + b"[[[[",
        content[:8] + content[8:].replace(b'"b"', b'"a"', 1),
    ):
        with pytest.raises(Refused, match=r"x\.safetensors"):
            check_weights("x.safetensors", bad)


def test_onnx_with_foreign_operators_or_numbers_elsewhere_is_refused():
    onnx = pytest.importorskip("onnx")
    helper, tensor = onnx.helper, onnx.TensorProto
    shape = [helper.make_tensor_value_info(name, tensor.FLOAT, [1]) for name in ("x", "y")]

    def model(domain: str = "", weights: list | None = None) -> onnx.ModelProto:
        node = helper.make_node("Relu", ["x"], ["y"], domain=domain)
        graph = helper.make_graph([node], "g", [shape[0]], [shape[1]], weights or [])
        return helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, 17)])

    check_weights("x.onnx", model().SerializeToString())
    elsewhere = helper.make_tensor("w", tensor.FLOAT, [1], [0.0])
    elsewhere.ClearField("float_data")
    elsewhere.data_location = tensor.EXTERNAL
    elsewhere.external_data.add(key="location", value="../../etc/passwd")
    for bad, cause in (
        (model("com.example").SerializeToString(), "operators of 'com.example'"),
        (model(weights=[elsewhere]).SerializeToString(), "another file"),
        (b"", "no ONNX"),
        (b"\xff" * 100, "no ONNX"),
    ):
        with pytest.raises(Refused, match=cause):
            check_weights("x.onnx", bad)


@pytest.mark.parametrize(
    "value", [{"auto_map": {"A": "b.c"}}, {"a": [{"trust_remote_code": True}]}, {"_class_name": "os"}, {"_x": 1}]
)
def test_a_description_that_would_fetch_code_is_refused(value):
    check_weights("config.json", b'{"_class_name": "UNet2DConditionModel", "a": [1]}')
    with pytest.raises(Refused, match=r"config\.json"):
        check_weights("config.json", json.dumps(value).encode())

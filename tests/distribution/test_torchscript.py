"""TorchScript that is not a frozen network of listed operators, or whose numbers are not all there, is refused."""

from __future__ import annotations

import ast
import io
import struct

import pytest
import torch

from bundles.archives import Refused
from bundles.exporting import exported, segmenter
from bundles.sources import collection
from bundles.torchscript import OPERATORS, check_torchscript, program_faults
from tests.distribution.built import Small, frozen, rewritten


def scripted(module: torch.nn.Module) -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(module), stream)
    return stream.getvalue()


class Writes(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        torch.save(image, "written")
        return image


class Reads(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.from_file("read", False, 10)


class Prints(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        print(image)
        return image


class Forks(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return torch.jit.wait(torch.jit.fork(torch.sigmoid, image))


@pytest.mark.parametrize("module", [Writes, Reads, Prints, Forks])
@pytest.mark.parametrize("form", [frozen, scripted])
def test_torchscript_that_does_more_than_compute_is_refused(module, form):
    """The first of these writes a file when it runs: TorchScript has operators for that."""
    with pytest.raises(Refused, match=r"model\.ts"):
        check_torchscript(form(module()), "model.ts")


@pytest.mark.parametrize("name", ["order_polyps", "order_brisc"])
@pytest.mark.parametrize("flips", [False, True])
def test_exported_segmenters_pass(name, flips):
    check_torchscript(exported(collection(), name, "torchscript", flips=flips)[0], "model.ts")
    assert not {"save", "load", "from_file", "fork", "wait", "print"} & OPERATORS


def test_one_that_is_not_frozen_is_refused():
    """It has many classes and methods, more than a person reads."""
    with pytest.raises(Refused, match="frozen"):
        check_torchscript(scripted(segmenter(collection(), "order_polyps")), "model.ts")


# ---- programs ------------------------------------------------------------------------------------------------------


def with_lines(lines: str, after: str = "") -> bytes:
    """A frozen network with lines put before the rest of its method, or behind it."""

    def change(records):
        path = next(name for name in records if name.endswith(".py"))
        head, arrow, body = records[path].decode().partition(" -> Tensor:\n")
        records[path] = f"{head}{arrow}{lines}{body}{after}".encode()

    return rewritten(frozen(Small()), change)


def test_a_program_with_a_harmless_line_more_passes_and_runs():
    """Or the refusals below could be of what puts the lines in."""
    content = with_lines("    more = torch.add(image, 1)\n")
    check_torchscript(content, "model.ts")
    images = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    assert torch.equal(torch.jit.load(io.BytesIO(content))(images), Small().eval()(images))


METHOD = "  def save(self: __torch__.X) -> int:\n    return 0\n"


@pytest.mark.parametrize(
    ("lines", "after"),
    [
        ('    p = ops.prim\n    q = getattr(p, "autograd")\n    q.save(image, "x")\n', METHOD),
        ("    p = ops.prim\n", ""),
        ("    p = torch\n", ""),
        ("    torch = image\n", ""),
        ("    annotate = image\n", ""),
        ("    print = image\n", ""),
        ("    print(image)\n", "    print = 0\n"),
        ("    more = image\n    more(image)\n", ""),
        ("    image.save(image)\n", METHOD),
        ("    y = image.tril(0)\n", "  def tril(self: __torch__.X) -> int:\n    return 0\n"),
        ("    y = torch.add(image, 1).tril(0)\n", ""),
        ("    y = torch.tril(image, 0)\n", ""),
        ('    y = getattr(self, "save")\n', ""),
        ("    y = self.weight\n", ""),
        ("    self.weight = image\n", ""),
        ("    y = ops.aten.save(image)\n", ""),
        ("    y = ops.prim.data(image)\n", ""),
        ("    y = ops.prim.autograd.save(image)\n", ""),
        ("    y = torch.add.save(image)\n", ""),
        ("    y = CONSTANTS.c0.save(image)\n", ""),
        ("    y = CONSTANTS.c99\n", ""),
        ("    y = torch.add(image, other=1)\n", ""),
        ("    y = later\n    later = image\n", ""),
        ('    ops.prim.RaiseException("x", "os.system")\n', ""),
        ("    while True:\n      pass\n", ""),
        ("    for y in image:\n      pass\n", ""),
        ("    y = [z for z in image]\n", ""),
        ("    y = annotate(Future[Tensor], [])\n", ""),
        ("    y = fork(image)\n", ""),
        ("    y, z = image\n", ""),
        ("    y = image  # type: int\n", ""),
        ('    y = "a\\x00"\n', ""),
        ("    y = image[image]\n", ""),
        ("    import os\n", ""),
        ("    y = lambda: 1\n", ""),
        ("    y = (((\n", ""),
        ("", METHOD),
        ("", "def save(x: Tensor) -> int:\n  return 0\n"),
        ("", "class Other(Module):\n  pass\n"),
        ("", "    pass\n"),
    ],
)
def test_a_changed_program_is_refused(lines, after):
    with pytest.raises(Refused, match=r"model\.ts, code/__torch__"):
        check_torchscript(with_lines(lines, after), "model.ts")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"(Module):", b"(NamedTuple):"),
        (b"__parameters__ = []", b'__parameters__ = ["weight", ]'),
        (b"  __buffers__ = []\n", b""),
        (b"  __buffers__ = []\n", b"  __buffers__ = []\n  weight : Tensor\n"),
        (b"def forward(", b"def other("),
        (b"image: Tensor)", b"image: Tensor, more: int=1)"),
        (b"-> Tensor:", b"-> int:"),
        (b"class Small", b"class Smaller"),
    ],
)
def test_another_class_than_a_frozen_networks_is_refused(old, new):
    def change(records):
        path = next(name for name in records if name.endswith(".py"))
        assert records[path].count(old) == 1
        records[path] = records[path].replace(old, new)

    with pytest.raises(Refused, match=r"model\.ts, code/__torch__"):
        check_torchscript(rewritten(frozen(Small()), change), "model.ts")


def test_names_that_a_program_sets_unlock_nothing():
    source = """class M(Module):
  __parameters__ = []
  __buffers__ = []
  def forward(self: __torch__.M, image: Tensor) -> Tensor:
    {}
    return image
"""
    for line, faults in (("y = torch.relu(image)", 0), ("print(image)", 1), ("y = image.tril(0)", 1)):
        tree = ast.parse(source.format(f"tril = 0\n    {line}"))
        assert len(list(program_faults(tree, "__torch__.M", 0))) == faults, line


# ---- records -------------------------------------------------------------------------------------------------------


def _memo(records):
    content = records["constants.pkl"]
    records["constants.pkl"] = content[:-1] + b"r" + struct.pack("<I", 0x0FFFFFFF) + content[-1:]


def _longer_shape(records):
    # The bias of two numbers says three.
    assert records["constants.pkl"].count(b"(K\x02t") > 0
    records["constants.pkl"] = records["constants.pkl"].replace(b"(K\x02t", b"(K\x03t", 1)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        (lambda records: records.update({"constants/0": records["constants/0"][:64]}), "storage '0'"),
        (lambda records: records.update({"constants/0": records["constants/0"] + b"x"}), "storage '0'"),
        (lambda records: records.pop("constants/1"), "storage '1'"),
        (lambda records: records.update({"constants/99": b"x"}), "constants/99"),
        (lambda records: records.update({"data/0": b"x"}), "data/0"),
        (lambda records: records.update({"x.pkl": b"x"}), r"x\.pkl"),
        (lambda records: records.update({"code/__torch__/more.py": b""}), "not one program"),
        (lambda records: records.update({"data.pkl": b"\x80\x02}."}), r"data\.pkl"),
        (lambda records: records.update({"data.pkl": records["data.pkl"].replace(b"Small", b"small")}), "declared"),
        (lambda records: records.update({"data.pkl": records["data.pkl"].replace(b"built", b"other")}), "not there"),
        (lambda records: records.update({"constants.pkl": b"\x80\x02K\x01\x85."}), "no tensor"),
        (lambda records: records.pop("constants.pkl"), r"constants\.pkl"),
        (_longer_shape, "beyond the end"),
        (_memo, "at place 268,435,455"),
    ],
)
def test_records_that_do_not_fit_are_refused(change, cause):
    check_torchscript(rewritten(frozen(Small()), lambda records: None), "model.ts")
    with pytest.raises(Refused, match=cause):
        check_torchscript(rewritten(frozen(Small()), change), "model.ts")


def test_a_pickle_with_code_in_torchscript_is_refused(tmp_path):
    evil = b"cos\nsystem\n(S'touch %s'\ntR." % str(tmp_path / "canary").encode()
    for record, cause in (("data.pkl", "one object"), ("constants.pkl", r"os\.system")):
        content = rewritten(frozen(Small()), lambda records, name=record: records.update({name: evil}))
        with pytest.raises(Refused, match=cause):
            check_torchscript(content, "model.ts")
    assert not (tmp_path / "canary").exists()

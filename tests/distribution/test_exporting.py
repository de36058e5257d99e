"""Exports compute what the network computes, or are not written."""

from __future__ import annotations

import copy
import io
import zipfile

import pytest
import torch
from torch import nn

from bundles import exporting
from bundles.exporting import FlipAveraged, exported, parity, segmenter
from bundles.sources import collection
from common.errors import InputError
from common.inference import FlipAverageInferer

SEGMENTERS = ("order_polyps", "order_brisc")


@pytest.mark.parametrize("name", SEGMENTERS)
def test_torchscript_is_the_network_to_the_bit_at_any_size(name):
    content, found = exported(collection(), name, "torchscript")
    assert found.largest == 0 and found.flipped == 0 and found.pixels >= 4 * 256 * 256
    network, script = segmenter(collection(), name), torch.jit.load(io.BytesIO(content))
    image = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(network(image), script(image))


def test_flips_inside_are_those_of_the_inferer_to_the_bit():
    network = segmenter(collection(), "order_polyps")
    image = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(FlipAveraged(network)(image), FlipAverageInferer()(image, network))


def test_torchscript_tells_nothing_of_this_machine():
    """No source path, no debug record; one file of code, of the network alone."""
    content, _ = exported(collection(), "order_polyps", "torchscript")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = archive.namelist()
        code = [archive.read(name) for name in names if name.endswith(".py")]
    assert not [name for name in names if "debug" in name] and len(code) == 1
    assert str(collection()).encode() not in content


@pytest.mark.slow
@pytest.mark.parametrize("form", ["onnx", "pt2"])
def test_other_formats_are_within_a_tenth_of_the_limit(form):
    content, found = exported(collection(), "order_polyps", form)
    assert found.largest < exporting.TOLERANCE / 2 and found.flipped / found.pixels < 1e-5
    assert str(collection()).encode() not in content or form == "pt2"  # torch.export keeps traces of its own


@pytest.mark.parametrize("size", [1, 3])
def test_onnx_takes_any_number_of_images(size, onnx_network):
    content, network = onnx_network
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    image = torch.rand(size, 3, 256, 256, generator=torch.Generator().manual_seed(size))
    with torch.no_grad():
        assert torch.allclose(
            torch.from_numpy(session.run(None, {"image": image.numpy()})[0]), network(image), atol=1e-4
        )


@pytest.fixture(scope="module")
def onnx_network() -> tuple[bytes, nn.Module]:
    pytest.importorskip("onnxscript")
    return exported(collection(), "order_polyps", "onnx")[0], segmenter(collection(), "order_polyps")


def test_parity_finds_what_differs():
    """By how much, on how many pixels; and what is not a number."""

    class Shifted(nn.Module):
        def __init__(self, shift: float) -> None:
            super().__init__()
            self.shift = shift

        def forward(self, image):
            return image[:, :1] - 0.5 + self.shift

    found = parity(Shifted(0), Shifted(0.25), (3, 64, 64))
    assert found.largest == pytest.approx(0.25) and 0 < found.flipped < found.pixels == 4 * 64 * 64
    assert parity(Shifted(0), Shifted(0), (3, 64, 64)).largest == 0
    broken = parity(Shifted(0), Shifted(float("nan")), (3, 64, 64))
    assert broken.largest != broken.largest


@pytest.mark.parametrize("by", [2e-4, float("nan")])
def test_an_export_that_differs_is_refused(monkeypatch, by):
    """A writer that puts out a network whose last bias is off; at a tenth of that it would pass."""
    write = exporting._WRITERS["torchscript"]

    def off(by: float):
        def written(network: nn.Module, image) -> bytes:
            changed = copy.deepcopy(network)
            with torch.no_grad():
                changed.head.bias += by
            return write(changed, image)

        return written

    monkeypatch.setitem(exporting._WRITERS, "torchscript", off(by))
    with pytest.raises(
        InputError, match="order_polyps as torchscript is not the same network: logits differ by at most"
    ):
        exported(collection(), "order_polyps", "torchscript")
    monkeypatch.setitem(exporting._WRITERS, "torchscript", off(2e-5))
    assert 1e-5 < exported(collection(), "order_polyps", "torchscript")[1].largest < 3e-5


def test_what_cannot_be_exported_is_told():
    with pytest.raises(InputError, match="law_polyps paints images"):
        exported(collection(), "law_polyps", "torchscript")
    with pytest.raises(InputError, match="no format 'onx'; there are torchscript, onnx, pt2"):
        exported(collection(), "order_polyps", "onx")
    with pytest.raises(InputError, match=r"no checkpoint at nowhere\.pt"):
        exported(collection(), "order_polyps", "torchscript", weights="nowhere.pt")

"""What every segmentation network of the collection must keep.

A test class inherits `NetworkContract`, `ExportContract` and, for a network of ours, `CompiledContract`, and says how
to build one:

    class TestMyNet(NetworkContract, ExportContract, CompiledContract):
        def build(self):
            return MyNet()
"""

from __future__ import annotations

import io
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

TOLERANCE = 1e-5
COMPILERS = ("g++", "clang++")


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Layers draw their weights from torch's global generator: seed it in here, and put it back afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield


def images(*shape: int, seed: int = 0) -> Tensor:
    """Standard normal images, float32."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = TOLERANCE) -> None:
    """Largest difference at most ``tolerance``, relative to the largest entry where that exceeds 1."""
    scale = max(1.0, expected.abs().max().item())
    difference = (actual.double() - expected.double()).abs().max().item()
    assert difference <= tolerance * scale, f"differs by {difference:.3g}, allowed {tolerance * scale:.3g}"


def step(network: nn.Module, image: Tensor) -> dict[str, Tensor]:
    """One forward and backward with a fixed linear loss.

    The logits, as ``"logits"``, and the gradients of the image, as ``"image"``, and of every parameter, by name.
    """
    image = image.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    network.zero_grad()
    logits = network(image)
    (logits * images(*logits.shape, seed=7).to(logits)).sum().backward()
    found = {name.removeprefix("_orig_mod."): parameter.grad for name, parameter in network.named_parameters()}
    found["image"] = image.grad
    idle = tuple(getattr(network, "idle", ()))  # of a published definition, and said to be so by the network
    missing = [name for name, gradient in found.items() if gradient is None and not name.startswith(idle)]
    found = {name: gradient for name, gradient in found.items() if gradient is not None}
    assert not missing, f"no gradient at all reaches {missing}"
    return {"logits": logits.detach(), **found}


def assert_same_step(actual: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = TOLERANCE) -> None:
    """`assert_close` for the logits and every gradient of two `step`."""
    assert actual.keys() == expected.keys()
    for name in expected:
        try:
            assert_close(actual[name], expected[name], tolerance)
        except AssertionError as error:
            raise AssertionError(f"{name} {error}") from None


class NetworkBuilder:
    """How a contract gets its network."""

    in_channels = 3
    out_channels = 1
    size = 64

    def build(self) -> nn.Module:
        """A fresh network in training mode, on the CPU, in float32."""
        raise NotImplementedError

    def trained(self, seed: int = 0) -> nn.Module:
        """A network in eval mode whose batch norms have seen data, so that they are no identity."""
        with seeded(seed):
            network = self.build()
        with torch.no_grad():
            for batch in range(3):
                network(1.0 + 2.0 * self.images(4, seed=100 + batch))
        return network.eval()

    def images(self, batch: int, height: int | None = None, width: int | None = None, seed: int = 0) -> Tensor:
        return images(batch, self.in_channels, height or self.size, width or self.size, seed=seed)


class NetworkContract(NetworkBuilder):
    """Laws of the network in eager mode and TorchScript."""

    stride = 32
    least = 1  # strides that one side has to have
    bfloat16_tolerance = 0.05
    tolerance = TOLERANCE  # of another memory format
    dtype_of_formats = torch.float32  # in which memory formats are compared
    scripts = True  # else it is traced, at one size

    @pytest.mark.parametrize("size", [(1, 1), (1, 3), (2, 1)], ids=str)
    def test_logits_have_the_size_of_the_image(self, size: tuple[int, int]) -> None:
        height, width = (self.stride * max(factor, self.least) for factor in size)
        logits = self.trained()(self.images(2, height, width))
        assert logits.shape == (2, self.out_channels, height, width)
        assert logits.isfinite().all()

    @pytest.mark.parametrize("extra", [(1, 0), (0, -1), "half"], ids=str)
    def test_a_size_that_does_not_divide_is_named(self, extra: tuple[int, int] | str) -> None:
        extra = (self.stride // 2,) * 2 if extra == "half" else extra
        height, width = (2 * self.stride + more for more in extra)
        with pytest.raises(ValueError, match=rf"{self.stride}.*\b{height}x{width}\b"):
            self.build()(self.images(1, height, width))

    def test_an_empty_image_is_refused(self) -> None:
        with pytest.raises(ValueError, match="0x64"):
            self.build()(torch.zeros(1, self.in_channels, 0, 64))

    def test_a_batch_equals_its_images_one_by_one(self) -> None:
        network, batch = self.trained(), self.images(3)
        with torch.no_grad():
            one_by_one = torch.cat([network(image.unsqueeze(0)) for image in batch])
            assert_close(network(batch), one_by_one)

    def test_saved_weights_give_the_same_logits(self) -> None:
        network, image, file = self.trained(seed=0), self.images(2), io.BytesIO()
        torch.save(network.state_dict(), file)
        file.seek(0)
        other = self.trained(seed=1)
        assert not torch.equal(other(image), network(image))
        other.load_state_dict(torch.load(file, weights_only=True), strict=True)
        assert torch.equal(other(image), network(image))

    def test_gradients_reach_every_parameter(self) -> None:
        # A narrow ReLU layer can be dead by the draw of its weights, so a parameter has several draws to move in.
        still = {"all"}
        for seed in range(8):
            with seeded(seed):
                network = self.build()
            found = step(network, self.images(2, seed=seed))
            assert all(gradient.isfinite().all() for gradient in found.values())
            dead = {name for name, gradient in found.items() if not gradient.any()}
            still = dead if still == {"all"} else still & dead
            if not still:
                break
        assert not still, f"no gradient other than 0 reaches {sorted(still)}"

    def test_the_same_step_twice_is_the_same_bit_for_bit(self) -> None:
        first, second = (step(self.trained().train(), self.images(2)) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)

    def test_the_image_is_left_as_it_was(self) -> None:
        image = self.images(2)
        before = image.clone()
        self.trained()(image)
        assert torch.equal(image, before)

    def test_channels_last_changes_nothing(self) -> None:
        # In eval mode: torch's batch norm sums a channels-last batch in float32 (an NCHW one in float64), which
        # moves the batch statistics by up to 1e-3 and has nothing to do with the network.
        network, image = self.trained().to(self.dtype_of_formats), self.images(2).to(self.dtype_of_formats)
        expected = step(network, image)
        network, image = network.to(memory_format=torch.channels_last), image.to(memory_format=torch.channels_last)
        assert_same_step(step(network, image), expected, self.tolerance)

    def test_bfloat16_autocast_is_close(self) -> None:
        network, image = self.trained(), self.images(2)
        expected = network(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = network(image).float()
            found = step(network.train(), image)
        assert (actual - expected).abs().max() <= self.bfloat16_tolerance * expected.abs().max()
        assert all(gradient.isfinite().all() for gradient in found.values())

    def test_torchscript_equals_eager(self, tmp_path: Path) -> None:
        network = self.trained()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # torch's word on TorchScript as a whole
            frozen = torch.jit.script(network) if self.scripts else torch.jit.trace(network, self.images(2, 64, 64))
            frozen.save(tmp_path / "network.ts")
            scripted = torch.jit.load(tmp_path / "network.ts")
        for batch, width in ((1, 64), (2, 96 if self.scripts else 64)):
            image = self.images(batch, 64, width)
            assert_close(scripted(image), network(image))


class ExportContract(NetworkBuilder):
    """Laws of the compiled and the exported network; each takes seconds."""

    def test_captured_graph_equals_eager(self) -> None:
        """The whole network is one graph, of which forward and backward equal eager; no compiler needed.

        In float64: in float32 a value beside the kink of a ReLU may fall to its other side, and its gradient with it.
        """
        network, image = self.trained().double(), self.images(2).double()
        expected = step(network, image)
        torch.compiler.reset()
        assert_same_step(step(torch.compile(network, backend="aot_eager", fullgraph=True), image), expected)

    def test_onnx_equals_eager_at_any_batch(self, tmp_path: Path) -> None:
        pytest.importorskip("onnxscript")
        onnxruntime = pytest.importorskip("onnxruntime")
        network, file = self.trained(), tmp_path / "network.onnx"
        program = torch.onnx.export(
            network,
            (self.images(2),),
            input_names=["image"],
            output_names=["logits"],
            dynamic_shapes=({0: "batch"},),
            dynamo=True,
            verbose=False,
        )
        program.save(file)
        session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        for batch in (1, 2, 5):
            image = self.images(batch, seed=batch)
            (logits,) = session.run(None, {"image": image.numpy()})
            assert_close(torch.from_numpy(logits), network(image).detach())


class CompiledContract(NetworkBuilder):
    """Law of the compiled network, minutes of a small machine: for the networks that are ours."""

    @pytest.mark.slow
    @pytest.mark.skipif(not any(map(shutil.which, COMPILERS)), reason="needs a C++ compiler")
    def test_compiled_code_equals_eager(self) -> None:
        """The same through the inductor."""
        network, image = self.trained(), self.images(2)
        torch.compiler.reset()
        with torch.no_grad():
            assert_close(torch.compile(network)(image), network(image))

"""The networks that ORDER is compared with: the contract of every network, and their exact size."""

from __future__ import annotations

import re
from importlib.util import find_spec

import pytest
import torch
from torch import nn

from common.baselines import EGEUNet, MKUNet, NNUNetReference, PraNet, UNet, UNeXt
from common.baselines.norms import normalised_over_channels
from tests.network_contract import ExportContract, NetworkContract, assert_close, images, seeded, step

TIMM = find_spec("timm") is not None  # not imported: that needs a torchvision that imports, which PraNet sees to


class TestUNet(NetworkContract, ExportContract):
    """Of as many stages as the shipped one; narrow, so that it is tested in seconds."""

    stride = 16

    def build(self) -> nn.Module:
        return UNet(channels=(4, 8, 16, 32, 64))


class TestMKUNet(NetworkContract, ExportContract):
    scripts = False

    def build(self) -> nn.Module:
        return MKUNet()


def with_torchs_weights(network: nn.Module) -> nn.Module:
    """Convolutions as torch begins them: its own first weights make logits of tens, and rounding errors to match."""
    for module in network.modules():
        if isinstance(module, nn.Conv1d | nn.Conv2d):
            module.reset_parameters()
    return network


class TestEGEUNet(NetworkContract, ExportContract):
    scripts = False

    def build(self) -> nn.Module:
        return with_torchs_weights(EGEUNet())


class TestUNeXt(NetworkContract, ExportContract):
    scripts = False

    def build(self) -> nn.Module:
        return UNeXt()


class TestNNUNetReference(NetworkContract, ExportContract):
    """Narrow, so that it is tested in seconds."""

    least = 2
    scripts = False
    tolerance = 1e-4  # norms over the four pixels of the deepest stage enlarge what a short format loses
    bfloat16_tolerance = 0.1

    def build(self) -> nn.Module:
        return NNUNetReference(channels=(4, 8, 16, 16, 16, 16))

    def test_an_image_that_leaves_nothing_to_normalise_is_refused(self) -> None:
        with pytest.raises(ValueError, match="32x32"):
            self.build()(self.images(1, 32, 32))


class TestGreyToThreeClasses(NetworkContract):
    in_channels = 1
    out_channels = 3
    scripts = False
    tolerance = 1e-4  # of gradients of some hundreds, summed in another order

    def build(self) -> nn.Module:
        return with_torchs_weights(EGEUNet(1, 3))


class TestPraNet(NetworkContract, ExportContract):
    scripts = False
    dtype_of_formats = torch.float64  # through fifty layers, a sum in another order flips a ReLU here and there

    def build(self) -> nn.Module:
        if not TIMM:
            pytest.skip("timm is not installed")
        return PraNet()


@pytest.mark.parametrize(
    ("network", "arguments", "parameters"),
    [
        (UNet, {}, 31_037_633),
        (MKUNet, {}, 27_384),
        (EGEUNet, {}, 53_374),
        (EGEUNet, {"channels": (16, 32, 64, 128, 192, 256)}, 514_702),
        (UNeXt, {}, 1_471_921),
        (PraNet, {}, 32_547_319),
        (NNUNetReference, {}, 20_611_713),  # MONAI's, counted; no paper has it
    ],
)
def test_the_public_definition_to_the_parameter(network: type[nn.Module], arguments: dict, parameters: int) -> None:
    if network is PraNet and not TIMM:
        pytest.skip("timm is not installed")
    assert sum(each.numel() for each in network(**arguments).parameters()) == parameters


@pytest.mark.parametrize("network", [UNet, MKUNet, EGEUNet, UNeXt, NNUNetReference, PraNet])
def test_one_channel_in_and_three_out(network: type[nn.Module]) -> None:
    if network is PraNet and not TIMM:
        pytest.skip("timm is not installed")
    narrow = {UNet: {"channels": (4, 8, 16)}, NNUNetReference: {"channels": (4, 8, 16, 16)}}
    with seeded(0):
        built = network(1, 3, **narrow.get(network, {}))
    found = step(built, images(2, 1, 64, 64))
    assert found["logits"].shape == (2, 3, 64, 64) and found["image"].any()
    assert not torch.equal(found["logits"][:, 0], found["logits"][:, 1])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "arguments"),
    [(UNet, {}), (NNUNetReference, {}), (EGEUNet, {}), (EGEUNet, {"channels": (16, 32, 64, 128, 192, 256)})],
)
def test_the_shipped_widths_are_kept_loaded_and_exported(network, arguments: dict, tmp_path) -> None:
    """With their own first weights; the contract above has narrow ones, or torch's."""
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    with seeded(0):
        built, other = network(**arguments).eval(), network(**arguments).eval()
    image, file = images(1, 3, 64, 64), tmp_path / "network.onnx"
    torch.save(built.state_dict(), tmp_path / "model.pt")
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True), strict=True)
    with torch.no_grad():
        expected = built(image)
        assert torch.equal(other(image), expected)
        torch.onnx.export(built, (image,), dynamo=True, verbose=False).save(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    assert_close(torch.from_numpy(logits), expected, 1e-4)


@pytest.mark.parametrize(
    ("network", "channels", "told"),
    [
        (UNet, [8], "UNet takes two or more positive widths as channels; got [8]"),
        (UNet, [8, 0], "UNet takes two or more positive widths"),
        (MKUNet, [5, 10, 20, 30, 40], "MKUNet takes 5 widths that divide by 2"),
        (MKUNet, [4, 8, 16], "MKUNet takes 5 widths that divide by 2"),
        (EGEUNet, [10, 16, 24, 32, 48, 64], "EGEUNet takes 6 widths that divide by 8"),
        (UNeXt, [16, 32], "UNeXt takes 5 positive widths"),
        (UNeXt, [16, 32, 128, 160, 2.5], "UNeXt takes 5 positive widths"),
        (NNUNetReference, [], "NNUNetReference takes two or more positive widths"),
    ],
    ids=str,
)
def test_widths_that_cannot_be_built_are_told(network: type[nn.Module], channels: list, told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        network(channels=channels)


def test_networks_begin_as_their_public_definitions_do() -> None:
    """The standard deviations of first weights, by hand from kernels and fan-outs; torch's own are others."""
    with seeded(0):
        ege, unext, mk = EGEUNet(channels=(16, 32, 64, 128, 192, 256)), UNeXt(), MKUNet(channels=(16, 32, 64, 96, 160))
    bridge = ege.bridges[0]
    token = unext.encoder_mlps[1]
    for weight, deviation in [
        (bridge.reduce.weight, (2 / 192) ** 0.5),
        (bridge.groups[0][1].weight, (2 / 9) ** 0.5),  # depthwise: one output a group
        (ege.decoder[0].row_filter[0].weight, (2 / (3 * 64)) ** 0.5),  # along one axis: all outputs
        (unext.embed[1].weight, (2 / (9 * 256)) ** 0.5),
        (token.depthwise.weight, (2 / 9) ** 0.5),
        (token.first.weight, 0.02),
        (mk.encoder[4].depthwise[2][0].weight, 0.02),
        (mk.gates[0].gate_skip[0].weight, 0.02),
    ]:
        assert weight.numel() > 150
        assert weight.std().item() == pytest.approx(deviation, rel=0.15)
    assert not bridge.reduce.bias.any() and not token.first.bias.any() and not mk.gates[0].gate_skip[0].bias.any()
    assert mk.heads[-1].bias.any()


@pytest.mark.parametrize(("network", "maps"), [(MKUNet, 4), (EGEUNet, 6), (NNUNetReference, 4), (PraNet, 4)])
def test_deep_supervision_is_for_training_and_reaches_every_head(network: type[nn.Module], maps: int) -> None:
    if network is PraNet and not TIMM:
        pytest.skip("timm is not installed")
    with seeded(0):
        supervised = network(deep_supervision=True)
    image = images(2, 3, 64, 64)
    logits = supervised(image)
    assert len(logits) == maps and all(each.shape == (2, 1, 64, 64) for each in logits)
    asked = [each for each in supervised.parameters() if each.requires_grad]
    reached = []
    for each in logits:
        found = torch.autograd.grad(each.sum(), asked, retain_graph=True, allow_unused=True)
        reached.append(sum(gradient is not None and bool(gradient.any()) for gradient in found))
    assert reached == sorted(set(reached), reverse=True)  # finest first, as the weights of the losses fall
    sum(each.square().sum() for each in logits).backward()
    silent = [name for name, each in supervised.named_parameters() if each.grad is None]
    assert all(name.startswith("backbone.fc.") for name in silent)
    with seeded(0):
        plain = network().eval()
    supervised.zero_grad()
    kept = plain.state_dict().keys()  # MONAI's network has no coarser heads where nothing asks for them
    plain.load_state_dict({name: value for name, value in supervised.state_dict().items() if name in kept})
    with torch.no_grad():
        assert torch.equal(supervised.eval()(image), plain(image))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_norm_over_channels_is_torchs_layer_norm(dtype: torch.dtype) -> None:
    norm = nn.LayerNorm(5, eps=1e-3).to(torch.float64 if dtype == torch.float64 else torch.float32)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    image = images(2, 5, 6, 7).to(dtype)
    normalised = normalised_over_channels(norm, image)
    torch.testing.assert_close(normalised, norm(image.to(norm.weight).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    assert normalised.is_contiguous()

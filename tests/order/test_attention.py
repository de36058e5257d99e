"""Bidirectional skip attention (equations 12–17): equal to its written-out form, and the laws of its parts."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from common.order import AdditiveSkip, BidirectionalSkipAttention, CBAMSkip, OrderNet, SqueezeExcitationSkip
from common.order.attention import TokenRMSNorm
from tests.network_contract import assert_close, assert_same_step, images, seeded, step
from tests.order.materialised import MaterialisedSkipAttention, materialise
from tests.order.test_blocks import permuted, shuffled

SKIP_SETS = [(), (0,), (0, 1), (2, 1), (3, 2), (0, 1, 2, 3)]
FORMATS = [torch.contiguous_format, torch.channels_last]
CHANNELS = 16


def network(skips: tuple[int, ...], sharpness: float = 6.0) -> OrderNet:
    """An `OrderNet` in training mode. Larger queries make its attention peaked, where mistakes are seen."""
    with seeded(0):
        net = OrderNet(attention_skips=skips)
    for skip in net.skips:
        if isinstance(skip, BidirectionalSkipAttention):
            skip.query_decoder.weight.data.mul_(sharpness)
    return net


def attention() -> BidirectionalSkipAttention:
    """A block with no weight at a special value such as 1."""
    with seeded(1):
        block = BidirectionalSkipAttention(CHANNELS)
        for norm in (block.norm_decoder, block.norm_encoder):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
    block.query_decoder.weight.data.mul_(6.0)
    return block


def features(*, batch: int = 2) -> tuple[Tensor, Tensor]:
    """A decoder feature and an encoder skip."""
    return images(batch, CHANNELS, 6, 5, seed=1), images(batch, CHANNELS, 6, 5, seed=2)


# The fused form against the materialised one


@pytest.mark.parametrize("skips", SKIP_SETS, ids=str)
def test_fused_equals_materialised_in_float32(skips: tuple[int, ...]) -> None:
    """Logits and every gradient within 1e-5, of a mean loss and in training mode."""
    fused, image = network(skips), images(2, 3, 64, 64)
    found, expected = step(fused, image), step(materialise(fused), image)
    for name in expected:
        count = 1 if name == "logits" else expected["logits"].numel()  # the gradients of a mean, not of a sum
        assert_close(found[name] / count, expected[name] / count)


@pytest.mark.parametrize("skips", SKIP_SETS, ids=str)
def test_fused_equals_materialised_in_float64(skips: tuple[int, ...]) -> None:
    """The same to the last digits, which rounding hides in float32."""
    fused, image = network(skips).double(), images(2, 3, 64, 64).double()
    assert_same_step(step(fused, image), step(materialise(fused), image), tolerance=1e-11)


def test_each_direction_reads_its_own_softmax() -> None:
    """softmax(Sᵀ), not the transpose of softmax(S): the reference would notice the difference."""

    class Transposed(MaterialisedSkipAttention):
        def _read(self, similarity: Tensor, value_decoder: Tensor, value_encoder: Tensor) -> tuple[Tensor, Tensor]:
            weights = similarity.softmax(dim=-1)
            return weights @ value_encoder, weights.mT @ value_decoder

    block, (decoder, encoder) = attention(), features()
    assert_close(block(decoder, encoder), MaterialisedSkipAttention(block)(decoder, encoder))
    assert (block(decoder, encoder) - Transposed(block)(decoder, encoder)).abs().max() > 0.01


class StridedAttention(BidirectionalSkipAttention):
    """The mistake that the tests below must see: tokens as the projections leave them, with strides."""

    def tokens(self, x: Tensor) -> Tensor:
        return x.flatten(2).unflatten(1, (self.num_heads, self.head_dim)).transpose(2, 3)


def with_strided_tokens(net: OrderNet) -> OrderNet:
    wrong = copy.deepcopy(net)
    for index, width in enumerate((24, 16, 8, 4)):
        strided = StridedAttention(width)
        strided.load_state_dict(net.skips[index].state_dict())
        wrong.skips[index] = strided
    return wrong


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_both_directions_run_with_the_flash_kernel_alone(memory_format: torch.memory_format) -> None:
    net = network((0, 1, 2, 3)).to(memory_format=memory_format)
    image = images(2, 3, 64, 64).to(memory_format=memory_format)
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        step(net, image)


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch names each kernel and why it can't
def test_strided_tokens_have_no_flash_kernel() -> None:
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION), pytest.raises(RuntimeError, match="No available kernel"):
        with_strided_tokens(network((0, 1, 2, 3)))(images(2, 3, 64, 64))


class RecordedOperators(TorchDispatchMode):
    """Names of the operators that run, and the largest tensor that one of them returns."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []
        self.largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.append(str(func))
        tensors = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        self.largest = max([self.largest, *(tensor.numel() for tensor in tensors)])
        return result


def recorded(net: OrderNet, image: Tensor) -> RecordedOperators:
    with RecordedOperators() as operators:
        step(net, image)
    return operators


@pytest.mark.parametrize("memory_format", FORMATS, ids=str)
def test_left_to_itself_torch_takes_the_flash_kernel_and_stores_no_square_matrix(
    memory_format: torch.memory_format,
) -> None:
    net = network((0, 1, 2, 3)).to(memory_format=memory_format)
    image = images(1, 3, 64, 64).to(memory_format=memory_format)
    tokens = (64 // 2) ** 2  # of the shallowest skip
    operators = recorded(net, image)
    flash = [name for name in operators.names if "flash_attention" in name]
    assert len([name for name in flash if "backward" not in name]) == 8  # two directions of four skips
    assert len([name for name in flash if "backward" in name]) == 8
    assert not [name for name in operators.names if "bmm" in name or "softmax" in name]
    assert operators.largest < tokens**2


def test_the_record_above_would_show_a_square_matrix() -> None:
    operators = recorded(with_strided_tokens(network((0, 1, 2, 3))), images(1, 3, 64, 64))
    assert [name for name in operators.names if "softmax" in name]
    assert operators.largest >= (64 // 2) ** 4


def test_all_four_skips_train_at_256() -> None:
    """Shallowest skip: 16,384 tokens, whose matrices would take 2 GiB each."""
    found = step(network((0, 1, 2, 3)), images(1, 3, 256, 256))
    assert all(tensor.isfinite().all() for tensor in found.values())


# Laws of the block


def test_a_closed_gate_leaves_the_additive_skip() -> None:
    block, (decoder, encoder) = attention(), features()
    nn.init.constant_(block.gate[2].bias, -1e4)
    assert torch.equal(block(decoder, encoder), AdditiveSkip()(decoder, encoder))


def test_an_open_gate_adds_both_updates_in_full() -> None:
    block, (decoder, encoder) = attention(), features()
    half = copy.deepcopy(block)
    for gate, bias in ((block.gate, 1e4), (half.gate, 0.0)):
        nn.init.zeros_(gate[2].weight)
        nn.init.constant_(gate[2].bias, bias)
    plain = decoder + encoder
    assert_close(block(decoder, encoder) - plain, 2 * (half(decoder, encoder) - plain))


def test_the_gate_is_one_scalar_a_sample() -> None:
    block, (decoder, encoder) = attention(), features(batch=3)
    confidence = block.confidence(decoder, encoder)
    assert confidence.shape == (3, 1, 1, 1)
    assert confidence.unique().numel() == 3
    assert ((confidence > 0) & (confidence < 1)).all()
    alone = block.confidence(decoder[1:2], encoder[1:2])
    assert_close(confidence[1:2], alone, 1e-6)


def test_token_order_is_carried_through() -> None:
    block, (decoder, encoder) = attention(), features()
    moved, order = shuffled(decoder)
    assert_close(block(moved, permuted(encoder, order)), permuted(block(decoder, encoder), order))


def test_each_stream_sees_the_other_as_a_set() -> None:
    """Moving the encoder's tokens about leaves what the decoder reads from them."""
    block, (decoder, encoder) = attention(), features()
    moved, order = shuffled(encoder)
    (read_encoder, read_decoder), (moved_encoder, moved_decoder) = (
        block.attend(decoder, encoder),
        block.attend(decoder, moved),
    )
    assert_close(moved_encoder, read_encoder)
    assert_close(moved_decoder, read_decoder[:, :, order])


def test_a_constant_stream_is_read_as_it_is() -> None:
    """Weights of a softmax add up to 1, so the mean of equal values is the value."""
    block, (decoder, encoder) = attention(), features()
    flat = encoder[..., :1, :1].expand_as(encoder)
    read_encoder, _ = block.attend(decoder, flat)
    assert_close(read_encoder, block.projections(decoder, flat)[3])


def test_decoder_and_encoder_are_alike() -> None:
    """Changing the two streams about, and the weights with them, changes nothing."""
    block, (decoder, encoder) = attention(), features()
    weights = block.state_dict()
    pairs = {"query_decoder": "key_encoder", "value_decoder": "value_encoder"}
    pairs |= {"norm_decoder": "norm_encoder", "project_decoder": "project_encoder"}
    pairs |= {right: left for left, right in pairs.items()}
    swapped = {name: weights[f"{pairs.get(name.split('.')[0], 'gate')}.{name.split('.', 1)[1]}"] for name in weights}
    swapped["gate.0.weight"] = weights["gate.0.weight"].roll(CHANNELS, dims=1)
    other = BidirectionalSkipAttention(CHANNELS)
    other.load_state_dict(swapped, strict=True)
    assert_close(other(encoder, decoder), block(decoder, encoder))


@pytest.mark.parametrize("factors", [(0.1, 10.0), (10.0, 0.1), (1000.0, 1000.0)], ids=str)
def test_reading_knows_no_scale_of_its_streams(factors: tuple[float, float]) -> None:
    block, (decoder, encoder) = attention(), features()
    scaled_reads = block.attend(factors[0] * decoder, factors[1] * encoder)
    for scaled, plain in zip(scaled_reads, block.attend(decoder, encoder), strict=True):
        assert_close(scaled, plain, 1e-3)  # the epsilon under the root is all that tells them apart


def test_token_norm_makes_each_position_one_in_root_mean_square() -> None:
    normalised = TokenRMSNorm(CHANNELS)(50 * images(2, CHANNELS, 6, 5))
    root = normalised.square().mean(1).sqrt()
    assert_close(root, torch.ones_like(root))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_token_norm_does_not_overflow_in_half_precision(dtype: torch.dtype) -> None:
    x = 2000 * images(2, CHANNELS, 6, 5)
    norm = TokenRMSNorm(CHANNELS)
    assert norm(x.to(dtype)).dtype == dtype
    assert_close(norm(x.to(dtype)), norm(x), 0.02)


# The two controls (table 8)


@pytest.mark.parametrize("build", [AdditiveSkip, lambda: SqueezeExcitationSkip(CHANNELS), lambda: CBAMSkip(CHANNELS)])
def test_controls_leave_the_decoder_alone(build) -> None:
    with seeded(0):
        skip = build()
    decoder, encoder = features()
    assert_close(skip(decoder, encoder) - decoder, skip(torch.zeros_like(decoder), encoder))


def test_squeeze_excitation_scales_a_channel_of_the_skip_as_a_whole() -> None:
    with seeded(0):
        skip = SqueezeExcitationSkip(CHANNELS, 4)
    _, encoder = features()
    gate = skip(torch.zeros_like(encoder), encoder) / encoder
    assert_close(gate, gate[..., :1, :1].expand_as(gate))
    assert gate[:, :, 0, 0].unique().numel() == 2 * CHANNELS


@pytest.mark.parametrize(
    ("skip", "share"), [(SqueezeExcitationSkip(CHANNELS), 0.5), (CBAMSkip(CHANNELS), 0.25)], ids=["se", "cbam"]
)
def test_controls_with_zero_weights_pass_a_half_of_the_skip_a_gate(skip: nn.Module, share: float) -> None:
    for parameter in skip.parameters():
        nn.init.zeros_(parameter)
    decoder, encoder = features()
    assert_close(skip(decoder, encoder), decoder + share * encoder, 1e-6)


def test_cbam_gates_channels_before_positions() -> None:
    with seeded(0):
        skip = CBAMSkip(CHANNELS)
    decoder, encoder = features()
    assert torch.equal(skip(decoder, encoder), decoder + skip.spatial(skip.channel(encoder)))
    assert not torch.allclose(skip(decoder, encoder), decoder + skip.channel(skip.spatial(encoder)), atol=1e-3)

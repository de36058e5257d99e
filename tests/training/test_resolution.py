"""The resolution that a batch is trained at."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from monai.data import MetaTensor

from common.errors import InputError
from common.training import ResolutionSchedule

CPU = torch.device("cpu")


def _batch(side: int, count: int = 2) -> dict[str, torch.Tensor]:
    """Images whose channels all are the label, a rectangle of ones: the two must stay in step."""
    label = torch.zeros(count, 1, side, side)
    label[:, :, side // 4 : side // 2, side // 8 : side * 3 // 4] = 1
    return {"image": label.repeat(1, 3, 1, 1), "label": label}


@pytest.mark.parametrize("epochs", [1, 2, 7, 10, 40, 100])
def test_each_stage_lasts_its_share_of_the_epochs(epochs):
    schedule = ResolutionSchedule([[0.45, 128], [0.3, 192], [0.25, 256]], epochs)
    sizes = [schedule.size(epoch, 1) for epoch in range(1, epochs + 1)]
    assert sizes == sorted(sizes) and sizes[-1] == 256
    for size, share in ((128, 0.45), (192, 0.3), (256, 0.25)):
        assert abs(sizes.count(size) - share * epochs) <= 1


def test_shares_that_no_float_can_hold_still_add_up():
    schedule = ResolutionSchedule([[0.1, 32 * (stage + 1)] for stage in range(10)], 10)
    assert [schedule.size(epoch, 1) for epoch in range(1, 11)] == [32 * stage for stage in range(1, 11)]


def test_a_draw_depends_on_seed_and_iteration_alone():
    stages = [[1.0, [64, 96, 128]]]
    one, other = ResolutionSchedule(stages, 4), ResolutionSchedule(stages, 9)
    forward = [one.size(1, iteration) for iteration in range(300)]
    assert forward == [other.size(5, iteration) for iteration in reversed(range(300))][::-1]
    assert forward != [ResolutionSchedule(stages, 4, seed=1).size(1, iteration) for iteration in range(300)]
    assert all(70 < count < 130 for count in Counter(forward).values()) and len(Counter(forward)) == 3


def test_a_batch_of_that_size_is_handed_on_as_it_is():
    batch = _batch(64)
    image, label = ResolutionSchedule([[1.0, 64]], 1)(batch, CPU)
    assert torch.equal(image, batch["image"]) and torch.equal(label, batch["label"])


@pytest.mark.parametrize(("side", "size"), [(64, 32), (64, 96), (96, 64), (256, 64)])
def test_image_and_label_are_resized_together(side, size):
    batch = _batch(side)
    image, label = ResolutionSchedule([[1.0, size]], 1)(batch, CPU)
    assert image.shape == (2, 3, size, size) and label.shape == (2, 1, size, size)
    assert image.dtype == label.dtype == torch.float32
    assert set(label.unique().tolist()) == {0.0, 1.0}
    assert torch.equal((image[:, :1] >= 0.5).float(), label)
    assert label.mean().item() == pytest.approx(batch["label"].mean().item(), abs=2 / size)
    rows, columns = (label[0, 0].amax(axis).nonzero().squeeze(1) for axis in (1, 0))
    bounds = torch.stack([rows.min(), rows.max() + 1, columns.min(), columns.max() + 1]) / size
    assert (bounds - torch.tensor([1 / 4, 1 / 2, 1 / 8, 3 / 4])).abs().max() <= 1 / size


@pytest.mark.parametrize("channels_last", [True, False])
def test_images_come_in_the_memory_format_asked_for(channels_last):
    schedule = ResolutionSchedule([[1.0, 32]], 1, channels_last=channels_last)
    for side in (32, 64):
        image, _ = schedule(_batch(side), CPU)
        assert image.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_images_come_as_plain_tensors():
    """A MetaTensor, with its book-keeping, would be carried through every operation of the network."""
    batch = {key: MetaTensor(value) for key, value in _batch(64).items()}
    assert all(
        type(part) is torch.Tensor for size in (32, 64) for part in ResolutionSchedule([[1.0, size]], 1)(batch, CPU)
    )


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ([[1.0, 100]], "multiples of 32; got [100]"),
        ([[0.5, 0], [0.5, [64, -32]]], "multiples of 32; got [0, -32]"),
        ([[0.5, 64], [0.4, 128]], "sum to 1; they sum to 0.9"),
    ],
)
def test_a_schedule_that_cannot_be_is_named(stages, expected):
    with pytest.raises(InputError) as refused:
        ResolutionSchedule(stages, 10)
    assert expected in str(refused.value)


def test_shares_are_of_the_image_size_in_multiples_of_32():
    stages = [[0.5, 0.5], [0.3, [0.625, 0.75]], [0.2, 1.0]]
    assert ResolutionSchedule(stages, 10, image_size=256).sizes == [(128,), (160, 192), (256,)]
    assert ResolutionSchedule(stages, 10, image_size=64).sizes == [(32,), (32, 64), (64,)]


@pytest.mark.parametrize(("share", "image_size"), [(1.5, 256), (0.0, 256), (0.5, None)])
def test_a_wrong_share_is_told(share, image_size):
    with pytest.raises(InputError, match="share of image_size"):
        ResolutionSchedule([[1.0, share]], 4, image_size=image_size)

"""Laws of the per-image overlap and of its means."""

from __future__ import annotations

import pytest
import torch
from ignite.engine import Engine
from monai.data import MetaTensor
from monai.metrics import DiceMetric

from common.errors import InputError
from common.evaluation.overlap import MeanDice, MeanIoU, image_dice, image_iou


def masks(count: int, share: float, seed: int) -> torch.Tensor:
    return (torch.rand(count, 1, 24, 20, generator=torch.Generator().manual_seed(seed)) < share).float()


def named(pred: torch.Tensor, label: torch.Tensor, names: list[str]) -> list[dict[str, torch.Tensor]]:
    return [
        {"image": MetaTensor(torch.zeros(3, 2, 2), meta={"filename_or_obj": name}), "pred": p, "label": q}
        for p, q, name in zip(pred, label, names, strict=True)
    ]


def mean_of(metric: type, batches: list) -> float:
    engine = Engine(lambda _, batch: batch)
    metric().attach(engine, "value")
    return engine.run(batches).metrics["value"]


@pytest.mark.parametrize("score", [image_dice, image_iou])
def test_perfect_is_one_and_disjoint_is_zero(score):
    label = masks(5, 0.3, 0)
    assert score(label, label).tolist() == [1.0] * 5
    assert score(1 - label, label).tolist() == [0.0] * 5


@pytest.mark.parametrize("score", [image_dice, image_iou])
def test_empty_rule_in_all_four_cases(score):
    empty, full = torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8)
    full[..., 2:5, 2:5] = 1
    pred, label = torch.cat([empty, full, empty, full]), torch.cat([empty, empty, full, full])
    assert score(pred, label).tolist() == [1.0, 0.0, 0.0, 1.0]


def test_equal_to_counting_by_hand_and_to_monai():
    pred, label = masks(6, 0.4, 1), masks(6, 0.2, 2)
    both, either = (pred * label).sum((1, 2, 3)), ((pred + label) > 0).sum((1, 2, 3))
    torch.testing.assert_close(image_dice(pred, label), 2 * both / (pred.sum((1, 2, 3)) + label.sum((1, 2, 3))))
    torch.testing.assert_close(image_iou(pred, label), both / either)
    assert torch.equal(image_dice(pred, label), DiceMetric(reduction="none")(pred, label)[:, 0])


@pytest.mark.parametrize("score", [image_dice, image_iou])
def test_batched_equals_one_by_one_in_every_dtype(score):
    pred, label = masks(4, 0.5, 3), masks(4, 0.1, 4)
    whole = score(pred, label)
    assert torch.equal(whole, torch.cat([score(p[None], q[None]) for p, q in zip(pred, label, strict=True)]))
    for dtype in (torch.bool, torch.uint8, torch.float16, torch.int64):
        assert torch.equal(whole, score(pred.to(dtype), label.to(dtype)))


@pytest.mark.parametrize("score", [image_dice, image_iou])
def test_large_half_precision_masks_stay_exact(score):
    label = torch.ones(1, 1, 512, 512, dtype=torch.float16)  # 262,144 pixels: beyond what float16 can count
    pred = label.clone()
    pred[..., 256:] = 0
    assert score(pred, label).item() == pytest.approx(2 / 3 if score is image_dice else 0.5, abs=1e-7)


def test_wrong_input_is_named():
    mask = masks(2, 0.3, 5)
    with pytest.raises(InputError, match=r"\(2, 1, 24, 20\).*\(2, 1, 24, 19\)"):
        image_dice(mask, mask[..., 1:])
    with pytest.raises(InputError, match="prediction holds values other than 0 and 1"):
        image_dice(mask * 0.7, mask)
    with pytest.raises(InputError, match="label holds values other than 0 and 1"):
        image_iou(mask, mask * 255)


@pytest.mark.parametrize(("metric", "score"), [(MeanDice, image_dice), (MeanIoU, image_iou)])
def test_metric_is_the_mean_whatever_the_batches(metric, score):
    pred, label = masks(7, 0.4, 6), masks(7, 0.3, 7)
    items = named(pred, label, [f"{i}.png" for i in range(7)])
    expected = score(pred, label).double().mean().item()
    assert mean_of(metric, [items]) == pytest.approx(expected, abs=1e-12)
    assert mean_of(metric, [items[5:], items[:2], items[2:5]]) == mean_of(metric, [items])


def test_metric_counts_an_image_file_once_and_nameless_images_each():
    pred, label = masks(3, 0.4, 8), masks(3, 0.3, 9)
    items = named(pred, label, ["a.png", "b.png", "c.png"])
    assert mean_of(MeanDice, [items, items[:1]]) == mean_of(MeanDice, [items])
    nameless = [{"pred": p, "label": q} for p, q in zip(pred, label, strict=True)]
    first, whole = image_dice(pred, label)[0].item(), image_dice(pred, label).double().sum().item()
    assert mean_of(MeanDice, [nameless, nameless[:1]]) == pytest.approx((whole + first) / 4, abs=1e-12)


def test_metric_takes_images_of_different_sizes_in_one_batch():
    small, large = masks(1, 0.5, 10)[..., :8, :8], masks(1, 0.5, 11)
    truth = [masks(1, 0.5, 12)[..., :8, :8], masks(1, 0.5, 13)]
    items = [{"pred": p[0], "label": q[0]} for p, q in zip((small, large), truth, strict=True)]
    expected = (image_dice(small, truth[0]) + image_dice(large, truth[1])).item() / 2
    assert mean_of(MeanDice, [items]) == pytest.approx(expected, abs=1e-7)


@pytest.mark.gpu
@pytest.mark.parametrize("score", [image_dice, image_iou])
def test_same_on_a_gpu(score):
    pred, label = masks(4, 0.5, 14), masks(4, 0.1, 15)
    found = score(pred.cuda(), label.cuda())
    assert found.device.type == "cuda"
    assert torch.equal(found.cpu(), score(pred, label))

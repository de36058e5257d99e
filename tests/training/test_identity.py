"""What tells a component of a run from another."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from functools import partial

import pytest
import torch
from monai.losses import DiceCELoss, DiceLoss
from monai.transforms import Compose, EnsureTyped, Lambdad, RandAffined, RandFlipd
from torch import Tensor, nn

from common.order import OrderNet
from common.training import StructureLoss, identified


def _times(number: int) -> Callable[[Tensor], Tensor]:
    return lambda image: image * number


def test_the_same_made_anew_is_the_same():
    def made() -> Compose:
        affine = RandAffined(["image", "label"], prob=0.5, rotate_range=0.3, mode=["bilinear", "nearest"])
        return Compose([RandFlipd(["image"], prob=0.5), affine])

    assert identified(made()) == identified(made())
    assert identified(Lambdad("image", _times(2))) == identified(Lambdad("image", _times(2)))


def test_a_network_is_its_architecture():
    torch.manual_seed(0)
    one, other = OrderNet(), OrderNet()
    assert not torch.equal(one.head.weight, other.head.weight)
    assert identified(one) == identified(other)


def test_drawing_random_numbers_changes_nothing():
    transform = Compose([RandFlipd(["image"], prob=0.5)])
    before = identified(transform)
    transform.set_random_state(seed=7)
    assert identified(transform) == before


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (DiceCELoss(sigmoid=True), DiceCELoss()),
        (DiceCELoss(), DiceCELoss(lambda_ce=0.5)),
        (DiceCELoss(), StructureLoss()),
        (StructureLoss(), StructureLoss(window=0.1)),
        (nn.BCEWithLogitsLoss(), nn.BCEWithLogitsLoss(reduction="sum")),
        ([RandFlipd(["image"])], [RandFlipd(["label"])]),
        ([RandFlipd(["image"], spatial_axis=0)], [RandFlipd(["image"], spatial_axis=1)]),
        (Compose([RandFlipd(["image"])]), Compose([RandFlipd(["image"])] * 2)),
        (Lambdad("image", lambda x: x * 2), Lambdad("image", lambda x: x * 3)),
        (Lambdad("image", _times(2)), Lambdad("image", _times(3))),
        (Lambdad("image", lambda x: [y + 1 for y in x]), Lambdad("image", lambda x: [y + 2 for y in x])),
        (DiceLoss(other_act=partial(torch.clamp, min=0)), DiceLoss(other_act=partial(torch.clamp, min=1))),
        (EnsureTyped("image", dtype=torch.float32), EnsureTyped("image", dtype=torch.float16)),
        (OrderNet(), OrderNet(num_heads=4, head_dim=16)),
        (nn.BatchNorm2d(4), nn.BatchNorm2d(4, momentum=0.01)),
    ],
    ids=[
        *("activation", "weight", "class", "window", "reduction", "keys", "axis", "number", "lambda", "closure"),
        *("inner function", "partial", "type", "heads", "momentum"),
    ],
)
def test_what_is_made_otherwise_is_another(one, other):
    assert identified(one) != identified(other)


def test_it_names_the_classes():
    assert identified(StructureLoss()).startswith("StructureLoss ")
    assert identified(Compose([RandFlipd(["image"])])).startswith("[RandFlipd] ")


def test_a_component_that_holds_itself_has_an_end():
    first, second = nn.Identity(), nn.Identity()
    first.other, second.__dict__["other"] = second, first
    assert identified(first) == identified(first)


def test_another_process_sees_the_same():
    """Neither the hashes of strings nor the places of objects in memory enter."""
    made = "[DiceCELoss(), OrderNet(), lambda x: [y + 1 for y in x]]"
    code = (
        "from common.order import OrderNet; from common.training import identified; from monai.losses import DiceCELoss"
    )
    command = [sys.executable, "-W", "ignore", "-c", f"{code}; print(identified({made}))"]
    assert len({subprocess.check_output(command, text=True) for _ in range(2)}) == 1

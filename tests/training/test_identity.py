"""What tells a component of a run from another."""

from __future__ import annotations

import subprocess
import sys

import pytest
from monai.losses import DiceCELoss
from monai.transforms import Compose, RandAffined, RandFlipd
from torch import nn

from common.training import StructureLoss, identified


def test_the_same_made_anew_is_the_same():
    def made() -> Compose:
        affine = RandAffined(["image", "label"], prob=0.5, rotate_range=0.3, mode=["bilinear", "nearest"])
        return Compose([RandFlipd(["image"], prob=0.5), affine])

    assert identified(made()) == identified(made())


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
    ],
    ids=["activation", "weight", "class", "window", "reduction", "keys", "axis", "number"],
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
    code = (
        "from common.training import identified; from monai.losses import DiceCELoss; print(identified(DiceCELoss()))"
    )
    said = {subprocess.check_output([sys.executable, "-W", "ignore", "-c", code], text=True) for _ in range(2)}
    assert said == {identified(DiceCELoss()) + "\n"}

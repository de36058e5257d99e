"""The rows of the paper's tables 7 to 10: networks, their arguments, and what the paper prints of size and speed."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

from torch import nn

from common.baselines import EGEUNet, MKUNet, NNUNetReference, PraNet, UNet, UNeXt
from common.errors import InputError
from common.order import OrderNet

NETWORKS: dict[str, type[nn.Module]] = {
    network.__name__: network for network in (OrderNet, EGEUNet, MKUNet, NNUNetReference, PraNet, UNet, UNeXt)
}


@dataclass(frozen=True)
class Printed:
    """What the paper prints, as it prints it: table 9, or table 10 where the row is only there."""

    parameters: str = "–"
    gflops: str = "–"
    milliseconds: str = "–"
    images_per_second: str = "–"
    peak_megabytes: str = "–"


@dataclass(frozen=True)
class Configuration:
    """One row: a network of `NETWORKS`, its arguments, and the paper's figures."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)
    printed: Printed = field(default_factory=Printed)
    network: str = "OrderNet"

    def build(self) -> nn.Module:
        """The network, with the first weights that torch's generator gives it."""
        return NETWORKS[self.network](**self.arguments)

    @property
    def least_size(self) -> int:
        """The least height and width of an image, pixels: of one of 32², nnU-Net has one value left to normalise."""
        return 64 if self.network == "NNUNetReference" else 32

    def can_be_built(self) -> bool:
        """Whether the packages are there that the network needs besides torch and MONAI."""
        return self.network != "PraNet" or find_spec("timm") is not None


BACKBONE = Configuration("backbone", {"attention_skips": ()}, Printed("26,307", "0.095", "0.230", "4356.4", "180.2"))
CONFIGURATIONS = (
    BACKBONE,
    Configuration("ORDER[0, 1]", {"attention_skips": (0, 1)}, Printed("42,265", "0.112", "0.399", "2509.0", "559.5")),
    Configuration("ORDER[2, 1]", {"attention_skips": (2, 1)}, Printed("35,793", "0.132", "2.954", "338.5", "8290.8")),
    Configuration("ORDER[3, 2]", {"attention_skips": (3, 2)}, Printed("31K")),
    Configuration("ORDER[0, 1, 2, 3]", {"attention_skips": (0, 1, 2, 3)}, Printed("47K")),
    Configuration("backbone + SE", {"skip_refinement": "se"}, Printed("26,467", "0.095", "0.238", "4197.2", "189.2")),
    Configuration(
        "backbone + CBAM", {"skip_refinement": "cbam"}, Printed("26,663", "0.096", "0.254", "3940.1", "189.4")
    ),
)
# The paper's SE and CBAM counts also fit skips {1, 2} with reduction 4, and CBAM's 0.096 G fits only there.
OTHER_READINGS = tuple(
    Configuration(
        f"backbone + {kind.upper()}, skips [2, 1], reduction 4",
        {"skip_refinement": kind, "attention_skips": (2, 1), "refinement_reduction": 4},
        Printed(parameters, gflops),
    )
    for kind, parameters, gflops in (("se", "26,467", "0.095"), ("cbam", "26,663", "0.096"))
)
MK_UNET, UNET = "MK-UNet, as published", "U-Net"
BASELINES = (
    Configuration(MK_UNET, {}, network="MKUNet"),
    Configuration("EGE-UNet, as published", {"channels": (8, 16, 24, 32, 48, 64)}, network="EGEUNet"),
    Configuration(
        "EGE-UNet, the paper's size", {"channels": (16, 32, 64, 128, 192, 256)}, Printed("0.51M", "0.62"), "EGEUNet"
    ),
    Configuration("UNeXt", {}, network="UNeXt"),
    Configuration(UNET, {}, Printed("31,037,633", "109.220", "2.667", "375.0", "1901.7"), "UNet"),
)
HEAVY = (
    Configuration("PraNet", {}, Printed("24.2M", "11.3"), "PraNet"),
    Configuration("nnU-Net reference", {}, network="NNUNetReference"),
)
ALL = {each.name: each for each in (*CONFIGURATIONS, *OTHER_READINGS, *BASELINES, *HEAVY)}


def check_least_size(names: Iterable[str], size: int) -> None:
    """That configurations take images of a size.

    Raises:
        InputError: if one does not.
    """
    for name in names:
        if size < (least := ALL[name].least_size):
            raise InputError(f"{name!r} takes no image below {least}²; --size is {size}")


def materialised(network: OrderNet) -> nn.Module:
    """The same network with its N×N matrices stored: the reference that the tests keep, as the paper ran it.

    Raises:
        InputError: where there are no tests, as in an installed package.
    """
    try:
        from tests.order.materialised import materialise
    except ModuleNotFoundError:
        raise InputError("the materialised form is kept with the tests; run this from the root of a checkout") from None
    return materialise(copy.deepcopy(network))

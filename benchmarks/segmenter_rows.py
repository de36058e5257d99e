"""The rows of the paper's tables 7, 8 and 10: a configuration, how a bundle trains it, and what the paper prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .configurations import ALL, Configuration
from .runs import REPOSITORY

OVERLAYS = REPOSITORY / "common" / "baselines" / "configs"


@dataclass(frozen=True)
class SegmenterRow:
    """One row.

    Attributes:
        name: of its configuration.
        overlay: a config of `common/baselines/configs` by name; None for ORDER.
        dice: what the paper prints, percent, by bundle; "order_polyps, development" is table 10's own split,
            "order_polyps, version 1" that version's table 3, and with ", stages" its tables 5 and 6.
    """

    name: str
    overlay: str | None = None
    dice: Mapping[str, str] = field(default_factory=dict)

    @property
    def configuration(self) -> Configuration:
        """What is counted."""
        return ALL[self.name]

    @property
    def changes(self) -> dict[str, Any]:
        """The config keys that set it apart, on top of `overlay`."""
        given = self.configuration.arguments.items()
        return {f"network_def#{key}": list(value) if isinstance(value, tuple) else value for key, value in given}

    @property
    def files(self) -> list[str]:
        """The overlay's path, in a list that is empty where there is none."""
        return [] if self.overlay is None else [str(OVERLAYS / f"{self.overlay}.yaml")]


def _row(
    name: str,
    overlay: str | None = None,
    *,
    development: str | None = None,
    version_1: str | None = None,
    stages: str | None = None,
    **dice: str,
) -> SegmenterRow:
    others = {"development": development, "version 1": version_1, "version 1, stages": stages or version_1}
    others = {f"order_polyps, {key}": value for key, value in others.items()}
    return SegmenterRow(name, overlay, dice | {key: value for key, value in others.items() if value})


SE, CBAM = ({"order_polyps": dice} for dice in ("75.3 ± 2.7", "73.3 ± 1.6"))
ROWS: dict[str, SegmenterRow] = {
    "backbone": _row(
        "backbone", order_polyps="70.3 ± 1.5", order_brisc="75.4 ± 1.2", development="73.4 ± 0.9", version_1="75.3"
    ),  # the paper's MK-UNet
    "order": _row(
        "ORDER[0, 1]", order_polyps="76.3 ± 1.9", order_brisc="77.4 ± 0.8", development="72.7 ± 0.8", version_1="81.3"
    ),
    "order_21": _row("ORDER[2, 1]", development="75.7 ± 1.1", stages="78.3"),
    "order_32": _row("ORDER[3, 2]", development="73.2 ± 0.7", stages="78.1"),
    "order_all": _row("ORDER[0, 1, 2, 3]", development="16.7 ± 1.4", stages="79.2, in its table 5 77.3"),
    "se": _row("backbone + SE", **SE),
    "cbam": _row("backbone + CBAM", **CBAM),
    "se_21": _row("backbone + SE, skips [2, 1], reduction 4", **SE),
    "cbam_21": _row("backbone + CBAM, skips [2, 1], reduction 4", **CBAM),
    "mk_unet": _row("MK-UNet, as published", "mk_unet"),
    "ege_unet": _row(
        "EGE-UNet, the paper's size", "ege_unet", order_polyps="65.5 ± 0.3", order_brisc="78.3 ± 0.6", version_1="74.1"
    ),
    "ege_unet_small": _row("EGE-UNet, as published", "ege_unet"),
    "unext": _row("UNeXt", "unext", version_1="74.9"),
    "unet": _row(
        "U-Net", "unet", order_polyps="87.2 ± 0.4", order_brisc="87.7 ± 0.2", version_1="85.7"
    ),  # the paper's nnUNet
    "pranet": _row("PraNet", "pranet", order_polyps="90.1 ± 0.7", order_brisc="84.1 ± 0.1"),
    "nnunet_reference": _row("nnU-Net reference", "nnunet_reference"),
}
LIGHT = ("mk_unet", "ege_unet_small", "ege_unet", "unext", "backbone", "order")
HEAVY = ("unet", "pranet", "nnunet_reference")  # may run out of memory or time, so they come last
TABLES: dict[int, tuple[str, ...]] = {
    7: (*LIGHT, *HEAVY),
    8: ("backbone", "se", "cbam", "se_21", "cbam_21", "order"),
    10: ("backbone", "order_32", "order_21", "order", "order_all"),
}

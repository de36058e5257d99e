"""The rows of the paper's tables 7, 8 and 10: a configuration, how a bundle trains it, and what the paper prints."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .configurations import EGE_WIDTHS, Configuration
from .runs import REPOSITORY

OVERLAYS = REPOSITORY / "common" / "baselines" / "configs"
NOTHING: Mapping[str, str] = {}


@dataclass(frozen=True)
class SegmenterRow:
    """One row.

    Attributes:
        label: as the table shows it.
        configuration: what is counted.
        changes: config keys that set it apart, on top of `overlay`.
        overlay: a config of `common/baselines/configs` by name; None for ORDER.
        dice: what the paper prints, percent, by bundle; "development" is table 10's own split of the polyps.
    """

    label: str
    configuration: Configuration
    changes: Mapping[str, Any] = field(default_factory=dict)
    overlay: str | None = None
    dice: Mapping[str, str] = field(default_factory=dict)

    @property
    def files(self) -> list[str]:
        """The overlay's path, in a list that is empty where there is none."""
        return [] if self.overlay is None else [str(OVERLAYS / f"{self.overlay}.yaml")]


def _order(label: str, arguments: dict[str, Any], **dice: str) -> SegmenterRow:
    changes = {f"network_def#{key}": list(v) if isinstance(v, tuple) else v for key, v in arguments.items()}
    return SegmenterRow(label, Configuration(label, arguments), changes, dice=dice)


def _baseline(label: str, network: str, overlay: str, arguments: dict[str, Any] = NOTHING, **dice: str) -> SegmenterRow:
    changes = {f"network_def#{key}": list(value) for key, value in arguments.items()}
    return SegmenterRow(label, Configuration(label, dict(arguments), network=network), changes, overlay, dice)


SMALL_EGE = (8, 16, 24, 32, 48, 64)
ROWS: dict[str, SegmenterRow] = {
    "backbone": _order(
        "ORDER backbone (the paper's MK-UNet)",
        {"attention_skips": ()},
        order_polyps="70.3 ± 1.5",
        order_brisc="75.4 ± 1.2",
        development="73.4 ± 0.9",
    ),
    "order": _order(
        "ORDER[0, 1]",
        {"attention_skips": (0, 1)},
        order_polyps="76.3 ± 1.9",
        order_brisc="77.4 ± 0.8",
        development="72.7 ± 0.8",
    ),
    "order_21": _order("ORDER[2, 1]", {"attention_skips": (2, 1)}, development="75.7 ± 1.1"),
    "order_32": _order("ORDER[3, 2]", {"attention_skips": (3, 2)}, development="73.2 ± 0.7"),
    "order_all": _order("ORDER[0, 1, 2, 3]", {"attention_skips": (0, 1, 2, 3)}, development="16.7 ± 1.4"),
    "se": _order("backbone + SE, skips [0, 1]", {"skip_refinement": "se"}, order_polyps="75.3 ± 2.7"),
    "cbam": _order("backbone + CBAM, skips [0, 1]", {"skip_refinement": "cbam"}, order_polyps="73.3 ± 1.6"),
    "se_21": _order(
        "backbone + SE, skips [2, 1], reduction 4",
        {"skip_refinement": "se", "attention_skips": (2, 1), "refinement_reduction": 4},
        order_polyps="75.3 ± 2.7",
    ),
    "cbam_21": _order(
        "backbone + CBAM, skips [2, 1], reduction 4",
        {"skip_refinement": "cbam", "attention_skips": (2, 1), "refinement_reduction": 4},
        order_polyps="73.3 ± 1.6",
    ),
    "mk_unet": _baseline("MK-UNet, as published", "MKUNet", "mk_unet"),
    "ege_unet": _baseline(
        "EGE-UNet, the paper's size",
        "EGEUNet",
        "ege_unet",
        {"channels": EGE_WIDTHS},
        order_polyps="65.5 ± 0.3",
        order_brisc="78.3 ± 0.6",
    ),
    "ege_unet_small": _baseline("EGE-UNet, as published", "EGEUNet", "ege_unet", {"channels": SMALL_EGE}),
    "unext": _baseline("UNeXt", "UNeXt", "unext"),
    "unet": _baseline(
        "U-Net (the paper's nnUNet)", "UNet", "unet", order_polyps="87.2 ± 0.4", order_brisc="87.7 ± 0.2"
    ),
    "pranet": _baseline("PraNet", "PraNet", "pranet", order_polyps="90.1 ± 0.7", order_brisc="84.1 ± 0.1"),
    "nnunet_reference": _baseline("nnU-Net reference", "NNUNetReference", "nnunet_reference"),
}
LIGHT = ("mk_unet", "ege_unet_small", "ege_unet", "unext", "backbone", "order")
TABLES: dict[int, tuple[str, ...]] = {
    7: ("unet", "pranet", "nnunet_reference", *LIGHT),
    8: ("backbone", "se", "cbam", "se_21", "cbam_21", "order"),
    10: ("backbone", "order_32", "order_21", "order", "order_all"),
}

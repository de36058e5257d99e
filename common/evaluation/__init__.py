"""Evaluation of a binary segmenter: overlap, boundary, the report with its intervals, pictures, paired comparison.

The names below are imported when they are first used, so that `python -m common.evaluation compare` starts
without torch and MONAI.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "MeanDice": "overlap",
    "MeanIoU": "overlap",
    "SegmentationReport": "report",
    "compare_models": "comparison",
    "hausdorff95": "boundary",
    "image_dice": "overlap",
    "image_iou": "overlap",
    "read_records": "records",
    "summarise": "summary",
    "surface_dice": "boundary",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)

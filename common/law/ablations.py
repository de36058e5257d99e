"""The component ablation of LAW (Table 6) as switches of `build_objective`."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

# Our reading of Table 6. Its first row is the baseline, and the others build on a teacher as version 1 had it: the rows
# that both versions print have the same figures there, so they are the same runs. Each row from the third on changes
# the one thing that its label names. That needs w_max in rows 2 to 5, though no label before the last speaks of it:
# only so is the step from 4 to 5 the Dice term alone, and the step from 5 to 6 the upper bound alone. In row 2 it is
# idle: without the mean no weight exceeds 1 + γ. Row 4 equals row 3 bit for bit, as w_min cannot bind after a sample's
# mean. The rows without a teacher are `{**row, "name": "law"}`.
TABLE_6: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "distillation": {"name": "distillation"},  # Adaptive Distillation
        "delta_map": {"name": "law_v1", "normalise": False, "w_min": None, "dice_weight": 0.0},  # + Delta map (no norm)
        "normalisation": {"name": "law_v1", "w_min": None, "dice_weight": 0.0},  # + Normalization
        "min_clamp": {"name": "law_v1", "dice_weight": 0.0},  # + Min-weight clamp
        "law": {"name": "law_v1"},  # + Dice regularizer (LAW)
        "no_max_clamp": {"name": "law_v1", "w_max": None},  # LAW w/o max-weight clamp
    }
)

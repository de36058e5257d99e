"""LAW: a learned weight for every position of the denoising error, so that lesions land where the mask says (3.1)."""

from .ablations import TABLE_6
from .alignment import alignment_loss
from .masks import has_background, has_lesion, latent_mask
from .objectives import (
    OBJECTIVES,
    Objective,
    ObjectiveResult,
    build_objective,
    error_map,
    parameter_groups,
    weighted_error,
)
from .weighter import LearnableAdaptiveWeighter, Weighting, ratio_prior, ratio_weights

__all__ = [
    "OBJECTIVES",
    "TABLE_6",
    "LearnableAdaptiveWeighter",
    "Objective",
    "ObjectiveResult",
    "Weighting",
    "alignment_loss",
    "build_objective",
    "error_map",
    "has_background",
    "has_lesion",
    "latent_mask",
    "parameter_groups",
    "ratio_prior",
    "ratio_weights",
    "weighted_error",
]

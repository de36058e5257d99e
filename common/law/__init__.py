"""LAW: a learned weight for every position of the denoising error, so that lesions land where the mask says (3.1)."""

from .ablations import TABLE_6
from .alignment import alignment_loss
from .cache import CachedLatents, cache_latents, cache_prompts
from .checkpoints import LawCheckpoint
from .checks import check_law_training, check_painting, check_recovery
from .denoising import DenoisingLoss, frozen_digest
from .engine import DenoisingEvaluator, DenoisingTrainer, computes_bfloat16
from .generate import Painting, generate, load_painter, masks_and_seeds
from .loading import load_denoiser, save_denoiser
from .mask_augmentation import augment_mask
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
from .painter import MaskPainter
from .sampling import sample
from .stages import begin_stage
from .validation import MeanError, ValidateAverage, ValidationStrips
from .weighter import LearnableAdaptiveWeighter, Weighting, ratio_prior, ratio_weights

__all__ = [
    "OBJECTIVES",
    "TABLE_6",
    "CachedLatents",
    "DenoisingEvaluator",
    "DenoisingLoss",
    "DenoisingTrainer",
    "LawCheckpoint",
    "LearnableAdaptiveWeighter",
    "MaskPainter",
    "MeanError",
    "Objective",
    "ObjectiveResult",
    "Painting",
    "ValidateAverage",
    "ValidationStrips",
    "Weighting",
    "alignment_loss",
    "augment_mask",
    "begin_stage",
    "build_objective",
    "cache_latents",
    "cache_prompts",
    "check_law_training",
    "check_painting",
    "check_recovery",
    "computes_bfloat16",
    "error_map",
    "frozen_digest",
    "generate",
    "has_background",
    "has_lesion",
    "latent_mask",
    "load_denoiser",
    "load_painter",
    "masks_and_seeds",
    "parameter_groups",
    "ratio_prior",
    "ratio_weights",
    "sample",
    "save_denoiser",
    "weighted_error",
]

"""LAW: a learned weight for every position of the denoising error, so that lesions land where the mask says (3.1)."""

from .masks import has_background, has_lesion, latent_mask
from .weighter import LearnableAdaptiveWeighter, Weighting, ratio_prior, ratio_weights

__all__ = [
    "LearnableAdaptiveWeighter",
    "Weighting",
    "has_background",
    "has_lesion",
    "latent_mask",
    "ratio_prior",
    "ratio_weights",
]

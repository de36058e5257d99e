"""Whether what was painted is any good, and whether it is anybody's.

Fréchet distances (FID by pytorch-fid), CLIP-I, mask recovery with the layout's drift, and the memorisation audit; each
by ``python -m common.metrics``. Inception, CLIP and MONAI's engines are imported where they are asked for.
"""

from .frechet import FrechetDistance, fid, frechet_distance
from .nearest import Nearest, nearest_images

__all__ = ["FrechetDistance", "Nearest", "fid", "frechet_distance", "nearest_images"]

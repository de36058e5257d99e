"""Whether what was painted is any good, and whether it is anybody's: so far, the nearest training image."""

from .nearest import Nearest, nearest_images

__all__ = ["Nearest", "nearest_images"]

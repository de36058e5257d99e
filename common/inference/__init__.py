"""From image files to masks at their own size: reading, checking, flip averaging, and writing the results."""

from .images import RGBReader, read_rgb
from .inferers import FlipAverageInferer
from .inputs import check_inference_inputs, inference_items, list_images
from .overlay import draw_overlay
from .writer import InferenceWriter

__all__ = [
    "FlipAverageInferer",
    "InferenceWriter",
    "RGBReader",
    "check_inference_inputs",
    "draw_overlay",
    "inference_items",
    "list_images",
    "read_rgb",
]

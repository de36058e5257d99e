"""The networks that the paper compares ORDER with (table 7; UNeXt: the first version's table 3), from their papers.

Called without arguments each is the public definition, exact in its count of parameters.
"""

from .ege_unet import EGEUNet
from .mk_unet import MKUNet
from .nnunet import NNUNetReference
from .pranet import PraNet
from .unet import UNet
from .unext import UNeXt

__all__ = ["EGEUNet", "MKUNet", "NNUNetReference", "PraNet", "UNeXt", "UNet"]

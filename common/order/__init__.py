"""ORDER: a 42 K-parameter segmenter with bidirectional attention on its late skips (paper section 3.2)."""

from .attention import AdditiveSkip, BidirectionalSkipAttention, CBAMSkip, SqueezeExcitationSkip
from .blocks import ChannelAttention, MultiKernelInvertedResidual, SpatialAttention
from .network import OrderNet

__all__ = [
    "AdditiveSkip",
    "BidirectionalSkipAttention",
    "CBAMSkip",
    "ChannelAttention",
    "MultiKernelInvertedResidual",
    "OrderNet",
    "SpatialAttention",
    "SqueezeExcitationSkip",
]

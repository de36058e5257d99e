"""The 2-D network of nnU-Net, by MONAI's DynUNet: a reference, and no row of the paper."""

from __future__ import annotations

from collections.abc import Sequence

from monai.networks.nets import DynUNet
from torch import Tensor

from ..order.sizes import check_size, check_widths


class NNUNetReference(DynUNet):
    """The 2-D network of nnU-Net (Isensee et al. 2021) of 20,611,713 parameters: instance norm, strided convolutions.

    The paper's "nnUNet" is `UNet`. This is the network alone: of nnU-Net's pipeline, its folds and its ensembles
    nothing is here. nnU-Net would plan a seventh stage of 512 channels for images of 256²; six are the default, so that
    every multiple of 32 fits.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        channels: widths of the stages, shallow to deep; each stage but the first halves the image.
        deep_supervision: in training mode, return a list: the logits, then those of the coarser stages but the two
            coarsest, finest first, each resized to the image (its own training; weights 1, 1/2, 1/4 …, summing to 1).

    Returns logits ``(B, out_channels, H, W)`` for an image ``(B, in_channels, H, W)``.

    Raises:
        ValueError: for fewer than two widths, or one below 1; where H or W is not a positive multiple of 2 to the
            number of halvings (32), or the deepest stage would be of one pixel, over which there is nothing to
            normalise.
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: Sequence[int] = (32, 64, 128, 256, 512, 512),
        deep_supervision: bool = False,
    ) -> None:
        check_widths(channels, "NNUNetReference", None)
        halvings = len(channels) - 1
        super().__init__(
            spatial_dims=2,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=[3] * len(channels),
            strides=[1] + [2] * halvings,
            upsample_kernel_size=[2] * halvings,
            filters=list(channels),
            norm_name=("INSTANCE", {"affine": True}),
            act_name=("leakyrelu", {"inplace": True, "negative_slope": 0.01}),
            deep_supervision=deep_supervision,
            deep_supr_num=max(1, halvings - 2),
        )
        self.stride = 2**halvings

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        check_size(image, "NNUNetReference", self.stride)
        if image.shape[2] * image.shape[3] == self.stride**2:
            raise ValueError(f"NNUNetReference takes no image of {self.stride}x{self.stride}; give it a larger one")
        logits = super().forward(image)
        return list(logits.unbind(1)) if self.deep_supervision and self.training else logits

"""PraNet: a coarse map from deep features, refined by attention to what it left out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..order.sizes import check_size
from ..vision_operators import make_torchvision_importable

BACKBONE = "res2net50d"  # timm's name of Res2Net-50 26w×4s with the deep stem
FEATURES = (512, 1024, 2048)


def _conv_bn(
    in_channels: int, out_channels: int, kernel: int | tuple[int, int] = 1, dilation: int = 1
) -> nn.Sequential:
    sizes = (kernel, kernel) if isinstance(kernel, int) else kernel
    padding = tuple(dilation * (size // 2) for size in sizes)
    convolution = nn.Conv2d(in_channels, out_channels, sizes, padding=padding, dilation=dilation, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(out_channels))


def _resize(x: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(x, size=like.shape[2:], mode="bilinear", align_corners=False)


def _twice(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


class ReceptiveField(nn.Module):
    """PraNet's receptive field block: four branches of growing reach, joined, with a shortcut.

    ``(B, in_channels, H, W)`` → ``(B, channels, H, W)``.
    """

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.branches = nn.ModuleList([_conv_bn(in_channels, channels)])
        for reach in (3, 5, 7):
            self.branches.append(
                nn.Sequential(
                    _conv_bn(in_channels, channels),
                    _conv_bn(channels, channels, (1, reach)),
                    _conv_bn(channels, channels, (reach, 1)),
                    _conv_bn(channels, channels, 3, dilation=reach),
                )
            )
        self.join = _conv_bn(4 * channels, channels, 3)
        self.shortcut = _conv_bn(in_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        joined = self.join(torch.cat([branch(x) for branch in self.branches], dim=1))
        return torch.relu(joined + self.shortcut(x))


class PartialDecoder(nn.Module):
    """PraNet's parallel partial decoder: the coarse map from three features.

    ``(B, channels, H/4, W/4)``, ``(B, channels, H/2, W/2)`` and ``(B, channels, H, W)``, which PraNet takes at strides
    32, 16 and 8 → logits ``(B, out_channels, H, W)``.
    """

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__()
        self.deep_to_middle, self.deep_to_fine, self.middle_to_fine, self.deep_joined = (
            _conv_bn(channels, channels, 3) for _ in range(4)
        )
        self.both_joined = _conv_bn(2 * channels, 2 * channels, 3)
        self.join_two = _conv_bn(2 * channels, 2 * channels, 3)
        self.join_three = _conv_bn(3 * channels, 3 * channels, 3)
        self.last = _conv_bn(3 * channels, 3 * channels, 3)
        self.head = nn.Conv2d(3 * channels, out_channels, 1)

    def forward(self, deep: Tensor, middle: Tensor, fine: Tensor) -> Tensor:
        risen = _twice(deep)
        gated = self.deep_to_middle(risen) * middle
        finest = self.deep_to_fine(_twice(risen)) * self.middle_to_fine(_twice(middle)) * fine
        two = self.join_two(torch.cat([gated, self.deep_joined(risen)], dim=1))
        three = self.join_three(torch.cat([finest, self.both_joined(_twice(two))], dim=1))
        return self.head(self.last(three))


class ReverseAttention(nn.Module):
    """PraNet's reverse attention: refine a map by the features where it is low.

    Args:
        in_channels: of the features.
        channels: that they are reduced to.
        convolutions: how many follow, each of `kernel` pixels.
        kernel: their size.
        last: size of the kernel that makes logits.
        out: number of logits a pixel.

    Features ``(B, C, H, W)`` and logits ``(B, K, ·, ·)`` of any size → logits ``(B, K, H, W)``.
    """

    def __init__(self, in_channels: int, channels: int, convolutions: int, kernel: int, last: int, out: int) -> None:
        super().__init__()
        self.reduce = _conv_bn(in_channels, channels)
        self.filters = nn.ModuleList(_conv_bn(channels, channels, kernel) for _ in range(convolutions))
        self.head = _conv_bn(channels, out, last)

    def forward(self, features: Tensor, logits: Tensor) -> Tensor:
        coarse = _resize(logits, features)
        # One map for all of them: what no class has claimed.
        x = self.reduce((1 - torch.sigmoid(coarse).amax(dim=1, keepdim=True)) * features)
        for layer in self.filters:
            x = torch.relu(layer(x))
        return self.head(x) + coarse


class PraNet(nn.Module):
    """PraNet (Fan et al. 2020) on Res2Net-50: 32,547,319 parameters.

    That is with the backbone's ImageNet classifier, which the public definition keeps and never calls; the paper's
    "24.2 M" is no public definition.

    Args:
        in_channels: channels of the image.
        out_channels: channels of the logits.
        deep_supervision: in training mode, return a list: the logits, then the maps that they refine, finest first,
            each resized to the image (its own training sums the structure loss over the four).
        pretrained: load timm's ImageNet weights of the backbone; they are downloaded unless timm has them.

    Returns logits ``(B, out_channels, H, W)`` for an image ``(B, in_channels, H, W)``.

    Raises:
        InputError: where timm is missing.
        ValueError: where H or W is not a positive multiple of 32.
    """

    idle = ("backbone.fc.",)  # frozen: no output depends on it

    def __init__(
        self, in_channels: int = 3, out_channels: int = 1, deep_supervision: bool = False, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.deep_supervision = deep_supervision
        self.backbone = _backbone(in_channels, pretrained)
        self.backbone.fc.requires_grad_(False)  # several processes would wait for its gradient
        self.fields = nn.ModuleList(ReceptiveField(width, 32) for width in FEATURES)
        self.coarse = PartialDecoder(32, out_channels)
        self.refine = nn.ModuleList(
            [
                ReverseAttention(FEATURES[2], 256, 3, 5, 1, out_channels),
                ReverseAttention(FEATURES[1], 64, 2, 3, 3, out_channels),
                ReverseAttention(FEATURES[0], 64, 2, 3, 3, out_channels),
            ]
        )

    def forward(self, image: Tensor) -> Tensor | list[Tensor]:
        check_size(image, "PraNet", 32)
        features = self._features(image)
        fine, middle, deep = (field(x) for field, x in zip(self.fields, features, strict=True))
        maps = [self.coarse(deep, middle, fine)]
        for refine, x in zip(self.refine, reversed(features), strict=True):
            maps.append(refine(x, maps[-1]))
        if self.deep_supervision and self.training:
            return [_resize(each, image) for each in reversed(maps)]
        return _resize(maps[-1], image)

    def _features(self, image: Tensor) -> list[Tensor]:
        net = self.backbone
        x = net.layer1(net.maxpool(net.act1(net.bn1(net.conv1(image)))))
        features = []
        for layer in (net.layer2, net.layer3, net.layer4):
            x = layer(x)
            features.append(x)
        return features


def _backbone(in_channels: int, pretrained: bool) -> nn.Module:
    make_torchvision_importable()
    try:
        import timm
    except ImportError as error:
        raise InputError(f"PraNet needs timm ({error}); pip install -c constraints.txt -e '.[baselines]'") from None
    # Residual branches that start at nothing are timm's, not the public definition's.
    return timm.create_model(BACKBONE, pretrained=pretrained, in_chans=in_channels, zero_init_last=False)

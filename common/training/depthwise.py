"""Depthwise convolutions that train as fast on a CPU as they infer.

oneDNN, which torch calls on a CPU, has no fast kernel for the weights' gradient of a depthwise convolution wider than
3: one of 5×5 takes several times as long as two of 5×3, which together hold the same numbers. And a depthwise 1×1 is a
factor a channel, for which small maps go through a slow path, channel by channel.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn.grad import conv2d_input, conv2d_weight

_NARROW = 3  # columns; what oneDNN is fast for


class _Depthwise5(torch.autograd.Function):
    """A depthwise 5×5 convolution, padded by 2, whose weights' gradient is computed as two of 5×3."""

    @staticmethod
    def forward(ctx: FunctionCtx, image: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(image, weight)
        return F.conv2d(image, weight, padding=2, groups=image.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        image, weight = ctx.saved_tensors
        channels = image.shape[1]
        of_image = of_weight = None
        if ctx.needs_input_grad[0]:
            of_image = conv2d_input(image.shape, weight, gradient, padding=2, groups=channels)
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty_like(weight)
            padded, width = F.pad(image, (2, 2)), image.shape[3]
            for first in (0, 2):  # columns 0 to 2, then 2 to 4: the middle one comes out twice, and equal
                part = padded[..., first : first + width + _NARROW - 1]
                columns = slice(first, first + _NARROW)
                narrow = weight[..., columns].shape
                of_weight[..., columns] = conv2d_weight(part, narrow, gradient, padding=(2, 0), groups=channels)
        return of_image, of_weight


class DepthwiseConv2d(nn.Conv2d):
    """A depthwise 1×1 or 5×5 convolution without bias, quick to train on a CPU: ``(B, C, H, W)`` → the same shape."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        quick = self.training and input.device.type == "cpu" and not torch.is_autocast_enabled("cpu")
        if quick and self.kernel_size == (1, 1):
            return input * weight.view(1, -1, 1, 1)
        if quick:
            return _Depthwise5.apply(input, weight)
        return super()._conv_forward(input, weight, bias)


def _can_be_quick(module: nn.Module) -> bool:
    return (
        type(module) is nn.Conv2d
        and module.groups == module.in_channels == module.out_channels
        and module.bias is None
        and (module.kernel_size, module.padding) in (((1, 1), (0, 0)), ((5, 5), (2, 2)))
        and (module.stride, module.dilation, module.padding_mode) == ((1, 1), (1, 1), "zeros")
    )


def placed(network: nn.Module, device: torch.device | str, channels_last: bool = False) -> nn.Module:
    """The network where it trains: on `device`, in its memory format, and quick there.

    On a CPU its depthwise 1×1 and 5×5 convolutions without bias become `DepthwiseConv2d`: the same parameters under
    the same names, the same gradients to rounding. It can no longer be scripted; export one that was built anew.
    """
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    network = network.to(device, memory_format=memory_format)
    if torch.device(device).type == "cpu":
        for parent in list(network.modules()):
            for name, module in parent.named_children():
                if _can_be_quick(module):
                    setattr(parent, name, _quick(module))
    return network


def _quick(convolution: nn.Conv2d) -> DepthwiseConv2d:
    quick = DepthwiseConv2d(
        convolution.in_channels,
        convolution.out_channels,
        convolution.kernel_size,
        padding=convolution.padding,
        groups=convolution.groups,
        bias=False,
        device="meta",
    )
    quick.weight = convolution.weight
    return quick.train(convolution.training)

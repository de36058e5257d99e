"""How EGE-UNet and the token stages of UNeXt begin, as their public definitions have it."""

from __future__ import annotations

import math

from torch import nn


def initialise_by_fan_out(module: nn.Module) -> None:
    """Weights of a convolution from N(0, 2 / fan-out of its group), biases 0; those along one axis by all outputs.

    A function for ``nn.Module.apply``: other modules are left as they are, and so is the bias along one axis.
    """
    if isinstance(module, nn.Conv1d):
        nn.init.normal_(module.weight, std=math.sqrt(2 / (module.kernel_size[0] * module.out_channels)))
    elif isinstance(module, nn.Conv2d):
        height, width = module.kernel_size
        nn.init.normal_(module.weight, std=math.sqrt(2 / (height * width * module.out_channels // module.groups)))
        if module.bias is not None:
            nn.init.zeros_(module.bias)

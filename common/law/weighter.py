"""The learnable adaptive weighter: a weight for every position of the denoising error (equations 3 to 7)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import InputError
from .masks import has_background, has_lesion, latent_mask

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "tanh": nn.Tanh}
REDUCTIONS = ("sample", "batch")


class Weighting(NamedTuple):
    """What the weighter says of a batch: `weights` of the error and `delta`, δ in [0, 1], both ``(B, 1, h, w)``."""

    weights: Tensor
    delta: Tensor


def ratio_prior(mask: Tensor) -> Tensor:
    """w_ratio = m·(1 − r) + (1 − m)·r, with r the lesion's share of each sample (equation 3).

    Its mean is 2r(1 − r), so without a lesion, or without background, it is 0 everywhere: `ratio_weights` mends that.

    Args:
        mask: ``(B, 1, h, w)`` in [0, 1], floating or boolean.

    Returns:
        ``(B, 1, h, w)`` in [0, 1], at least float32.
    """
    mask = _at_least_float32(mask)
    ratio = mask.mean(dim=(2, 3), keepdim=True)
    return mask * (1.0 - ratio) + (1.0 - mask) * ratio


def ratio_weights(mask: Tensor) -> Tensor:
    """`ratio_prior` as a loss can use it: ones for a sample without lesion or without background.

    ``(B, 1, h, w)`` → ``(B, 1, h, w)``.
    """
    return torch.where(_weighable(mask), ratio_prior(mask), 1.0)


class LearnableAdaptiveWeighter(nn.Module):
    """Weights that adapt the ratio prior to what the denoiser predicts (equations 3 to 7).

    A sample without lesion, or without background, at the resolution of the features has no ratio to go by (0/0 in
    equation 7): it gets ones. All is computed in float32 or wider, under autocast too.

    Some of equation 7 cannot happen. With the mean of a sample, a weight is above (1 − γ)/(2(1 + γ)), a third at
    γ = 0.2, so w_min never binds. w_max = 2 holds every lesion pixel, whatever δ is, from r = (1 − γ)/(4(1 + γ)) = 1/6
    down (0.2 where δ is constant in the lesion and in the background), and none from r = (1 + γ)/(4(1 − γ)) = 3/8 up.
    A lesion so held gives φ no gradient of its own error.

    Args:
        in_channels: channels of the features: 4 for Stable Diffusion's latents, 3 for pixels.
        hidden_channels: of φ, three convolutions.
        temperature: τ.
        gamma: γ in [0, 1]: multipliers lie in [1 − γ, 1 + γ]. 0 leaves the ratio prior as it is.
        w_min: lower bound, at most 1; None for none.
        w_max: upper bound, at least 1; None for none.
        normalise: divide by the mean before the bounds.
        detach_features: keep the gradient of φ's input from the denoiser. The paper does not say; without it the
            denoiser can also lower its loss by steering its own weights.
        reduction: the mean of each ``"sample"``, or of the ``"batch"`` (of this process; samples that get ones are
            left out of it). r is of the sample in both.
        kernel_sizes: of φ's convolutions, odd. The paper does not say; 3, 1, 1 sees 3×3, of features that have seen
            far, at a quarter of the cost of 3, 3, 3.
        activation: between φ's convolutions, a name of `ACTIVATIONS`. The paper does not say.
        seed: of φ's first weights. torch's global generator is left alone, so that a training with a weighter and
            one without see the same noise.

    Raises:
        InputError: an argument out of its range.
    """

    def __init__(
        self,
        in_channels: int = 4,
        hidden_channels: int = 32,
        temperature: float = 3.0,
        gamma: float = 0.2,
        w_min: float | None = 1e-3,
        w_max: float | None = 2.0,
        normalise: bool = True,
        detach_features: bool = True,
        reduction: str = "sample",
        kernel_sizes: Sequence[int] = (3, 1, 1),
        activation: str = "relu",
        seed: int = 0,
    ) -> None:
        super().__init__()
        _check_ranges(hidden_channels, temperature, gamma, w_min, w_max, reduction, kernel_sizes, activation)
        self.temperature = temperature
        self.gamma = gamma
        self.w_min = w_min
        self.w_max = w_max
        self.normalise = normalise
        self.detach_features = detach_features
        self.reduction = reduction
        self.phi = _three_convolutions(in_channels + 1, hidden_channels, kernel_sizes, activation, seed)

    def forward(self, features: Tensor, mask: Tensor) -> Weighting:
        """Weigh a batch.

        Args:
            features: f_t, the denoiser's prediction, ``(B, in_channels, h, w)``.
            mask: anything that `latent_mask` takes.
        """
        mask = latent_mask(mask, features.shape[-2:])
        delta = self.delta_map(features, mask)
        return Weighting(self.weigh(delta, mask), delta)

    def delta_map(self, features: Tensor, mask: Tensor) -> Tensor:
        """δ = σ(φ(f_t, m)/τ) (equation 4): features and mask ``(B, 1, h, w)`` → ``(B, 1, h, w)``."""
        if self.detach_features:
            features = features.detach()
        # φ is a few thousand weights: half precision would save nothing, and large predictions could overflow in it.
        with torch.autocast(features.device.type, enabled=False):
            dtype = self.phi[0].weight.dtype
            x = torch.cat([features.to(dtype), mask.to(dtype)], dim=1)
            x = self.phi(x.contiguous(memory_format=torch.channels_last))  # half the time on a CPU
            return torch.sigmoid(_at_least_float32(x) / self.temperature)

    def weigh(self, delta: Tensor, mask: Tensor) -> Tensor:
        """w_final of a given δ and mask, all ``(B, 1, h, w)`` (equations 3 and 5 to 7)."""
        multiplier = 1.0 + self.gamma * (2.0 * delta - 1.0)  # equation 5
        adapted = ratio_prior(mask) * multiplier  # equations 3 and 6
        weighable = _weighable(mask)
        weights = torch.where(weighable, adapted, 1.0)
        if self.normalise:  # equation 7: first the mean, then the bounds
            weights = weights / self._mean(weights, weighable)
        if self.w_min is not None or self.w_max is not None:
            weights = weights.clamp(self.w_min, self.w_max)
        return weights

    def _mean(self, weights: Tensor, weighable: Tensor) -> Tensor:
        if self.reduction == "sample":
            mean = weights.mean(dim=(1, 2, 3), keepdim=True)
        else:
            count = weighable.sum().clamp(min=1) * weights[0].numel()
            mean = (weights * weighable).sum() / count
        return torch.where(weighable, mean, 1.0)


def _three_convolutions(
    in_channels: int, hidden_channels: int, kernel_sizes: Sequence[int], activation: str, seed: int
) -> nn.Sequential:
    # φ of equation 4, with torch's usual first weights, but from a generator of its own.
    generator = torch.Generator().manual_seed(seed)
    widths = (in_channels, hidden_channels, hidden_channels, 1)
    layers: list[nn.Module] = []
    for inputs, outputs, size in zip(widths[:-1], widths[1:], kernel_sizes, strict=True):
        convolution = nn.utils.skip_init(nn.Conv2d, inputs, outputs, size, padding=size // 2)
        bound = (inputs * size**2) ** -0.5
        for parameter in convolution.parameters():
            nn.init.uniform_(parameter, -bound, bound, generator=generator)
        layers += [convolution, ACTIVATIONS[activation]()]
    return nn.Sequential(*layers[:-1])


def _weighable(mask: Tensor) -> Tensor:
    # Samples that have a ratio to weigh by, 0 < r < 1: (B, 1, 1, 1).
    return (has_lesion(mask) & has_background(mask)).view(-1, 1, 1, 1)


def _at_least_float32(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _check_ranges(
    hidden_channels: int,
    temperature: float,
    gamma: float,
    w_min: float | None,
    w_max: float | None,
    reduction: str,
    kernel_sizes: Sequence[int],
    activation: str,
) -> None:
    faults = []
    numbers = {"temperature": temperature, "gamma": gamma, "w_min": w_min, "w_max": w_max}
    if wrong := [name for name, value in numbers.items() if value is not None and not math.isfinite(value)]:
        faults.append(f"{', '.join(wrong)} has to be finite")
    if hidden_channels < 1:
        faults.append(f"hidden_channels is {hidden_channels}; it must be at least 1")
    if temperature <= 0:
        faults.append(f"temperature is {temperature}; it must be above 0")
    if not 0 <= gamma <= 1:
        faults.append(f"gamma is {gamma}; it must lie in [0, 1], or multipliers turn negative")
    if w_min is not None and not 0 <= w_min <= 1:
        faults.append(f"w_min is {w_min}; it must lie in [0, 1], or be None for no lower bound")
    if w_max is not None and w_max < 1:
        faults.append(f"w_max is {w_max}; it must be at least 1, the mean, or None for no upper bound")
    if reduction not in REDUCTIONS:
        faults.append(f"reduction is {reduction!r}; choose one of {', '.join(REDUCTIONS)}")
    if len(kernel_sizes) != 3 or not all(isinstance(size, int) and size > 0 and size % 2 for size in kernel_sizes):
        faults.append(f"kernel_sizes is {list(kernel_sizes)}; give three odd numbers")
    if activation not in ACTIVATIONS:
        faults.append(f"activation is {activation!r}; choose one of {', '.join(ACTIVATIONS)}")
    if faults:
        raise InputError("weighter: " + "; ".join(faults))

"""The bidirectional attention written out with its N×N matrix: the reference of the fused form, never shipped."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from common.order import BidirectionalSkipAttention, OrderNet


def _linear(tokens: Tensor, conv: nn.Module) -> Tensor:
    """Apply the weights of a 1×1 convolution to tokens ``(…, C)``."""
    return nn.functional.linear(tokens, conv.weight.flatten(1), conv.bias)


def _rms_norm(tokens: Tensor, norm: nn.Module) -> Tensor:
    """RMSNorm of each token of ``(B, N, C)``."""
    return tokens / (tokens.square().mean(-1, keepdim=True) + norm.epsilon).sqrt() * norm.weight


class MaterialisedSkipAttention(nn.Module):
    """Equations 12–17 on tokens ``(B, N, C)``, with one similarity matrix S shared by both directions.

    Takes over the parameters of ``fused`` (same names, same tensors) and none of its code.
    """

    def __init__(self, fused: BidirectionalSkipAttention) -> None:
        super().__init__()
        self.num_heads = fused.num_heads
        for name, child in fused.named_children():
            self.add_module(name, child)

    def _heads(self, tokens: Tensor) -> Tensor:
        """``(B, N, heads·dim)`` → ``(B, heads, N, dim)``."""
        return tokens.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def _read(self, similarity: Tensor, value_decoder: Tensor, value_encoder: Tensor) -> tuple[Tensor, Tensor]:
        """R_d and R_e, each ``(B, heads, N, dim)`` (equation 14); the rows of Sᵀ are the columns of S."""
        return similarity.softmax(dim=-1) @ value_encoder, similarity.softmax(dim=-2).mT @ value_decoder

    def _updates(self, decoder: Tensor, encoder: Tensor) -> tuple[Tensor, Tensor]:
        """Δ_d and Δ_e, each ``(B, N, C)`` (equations 12–15)."""
        d, e = _rms_norm(decoder, self.norm_decoder), _rms_norm(encoder, self.norm_encoder)
        query, value_decoder = self._heads(_linear(d, self.query_decoder)), self._heads(_linear(d, self.value_decoder))
        key, value_encoder = self._heads(_linear(e, self.key_encoder)), self._heads(_linear(e, self.value_encoder))
        # Scaling the query instead of S saves one N×N matrix: the reference is as thrifty as its form allows.
        similarity = (query / query.shape[-1] ** 0.5) @ key.mT  # (B, heads, N, N)
        read_decoder, read_encoder = self._read(similarity, value_decoder, value_encoder)
        return (
            _linear(read_decoder.transpose(1, 2).flatten(2), self.project_decoder),
            _linear(read_encoder.transpose(1, 2).flatten(2), self.project_encoder),
        )

    def _confidence(self, decoder: Tensor, encoder: Tensor) -> Tensor:
        """One scalar a sample, ``(B, 1, 1)`` (equation 17)."""
        pooled = torch.cat([encoder.mean(1), decoder.mean(1)], dim=-1)
        hidden = torch.relu(_linear(pooled, self.gate[0]))
        return torch.sigmoid(_linear(hidden, self.gate[2])).unsqueeze(-1)

    def forward(self, decoder: Tensor, encoder: Tensor) -> Tensor:
        d, e = decoder.flatten(2).mT, encoder.flatten(2).mT
        delta_decoder, delta_encoder = self._updates(d, e)
        confidence = self._confidence(d, e)
        refined_decoder, refined_encoder = d + confidence * delta_decoder, e + confidence * delta_encoder  # eq. 16
        return (refined_decoder + refined_encoder).mT.unflatten(2, decoder.shape[2:])


def materialise(network: OrderNet) -> OrderNet:
    """A copy of ``network`` with the same weights whose bidirectional skips store their N×N matrices."""
    reference = copy.deepcopy(network)
    for index, skip in enumerate(reference.skips):
        if isinstance(skip, BidirectionalSkipAttention):
            reference.skips[index] = MaterialisedSkipAttention(skip)
    return reference

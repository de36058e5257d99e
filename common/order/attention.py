"""Refinements of a skip connection: bidirectional attention (section 3.2.2), and its two controls (table 8).

Each takes the decoder feature ``d`` and the encoder skip ``e``, both ``(B, C, H, W)``, and returns the
fused feature of the same shape, which for the plain backbone is ``d + e``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import ChannelAttention, SpatialAttention


class AdditiveSkip(nn.Module):
    """The plain skip, ``d + e``: ``(B, C, H, W)`` twice → ``(B, C, H, W)``."""

    def forward(self, decoder: Tensor, encoder: Tensor) -> Tensor:
        return decoder + encoder


class NoSkip(nn.Module):
    """The last decoder stage has no skip: returns ``decoder``, ``(B, C, H, W)``."""

    def forward(self, decoder: Tensor, encoder: Tensor) -> Tensor:
        return decoder


class TokenRMSNorm(nn.Module):
    """Divide each position's channel vector by its root mean square, with a learned weight a channel.

    ``(B, C, H, W)`` → ``(B, C, H, W)``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.epsilon = 1e-6

    def forward(self, x: Tensor) -> Tensor:
        # The square is taken in float32 at least: in half precision it overflows from 256 on.
        wide = x if x.dtype == torch.float64 else x.float()
        mean_square = wide.square().mean(dim=1, keepdim=True)
        scale = torch.rsqrt(mean_square + self.epsilon) * self.weight.view(1, -1, 1, 1)
        return x * scale.to(x.dtype)


class BidirectionalSkipAttention(nn.Module):
    """Let decoder and encoder attend to one another, scaled by one confidence a sample (equations 12–17).

    ``(B, C, H, W)`` twice → ``d' + e'`` of the same shape. Both directions run as fused scaled
    dot-product attention, softmax(S)·V_e as that of (Q_d, K_e, V_e) and softmax(Sᵀ)·V_d as that of
    (K_e, Q_d, V_d), so that the N×N matrix S, N = H·W, is never stored.
    """

    def __init__(self, channels: int, num_heads: int = 2, head_dim: int = 32) -> None:
        super().__init__()
        width = num_heads * head_dim
        self.num_heads = num_heads
        self.head_dim = head_dim
        self.norm_decoder = TokenRMSNorm(channels)
        self.norm_encoder = TokenRMSNorm(channels)
        self.query_decoder = nn.Conv2d(channels, width, 1, bias=False)
        self.value_decoder = nn.Conv2d(channels, width, 1, bias=False)
        self.key_encoder = nn.Conv2d(channels, width, 1, bias=False)
        self.value_encoder = nn.Conv2d(channels, width, 1, bias=False)
        self.project_decoder = nn.Conv2d(width, channels, 1)
        self.project_encoder = nn.Conv2d(width, channels, 1)
        hidden = max(1, channels // 4)
        self.gate = nn.Sequential(nn.Conv2d(2 * channels, hidden, 1), nn.ReLU(), nn.Conv2d(hidden, 1, 1), nn.Sigmoid())

    def tokens(self, x: Tensor) -> Tensor:
        """``(B, heads·dim, H, W)`` → ``(B, heads, H·W, dim)``, contiguous (equation 12)."""
        heads = x.flatten(2).unflatten(1, (self.num_heads, self.head_dim))
        # Contiguous on purpose: with a strided last dimension torch falls back to the kernel that
        # stores the N×N matrix, without a word.
        return heads.transpose(2, 3).contiguous()

    def feature_map(self, tokens: Tensor, like: Tensor) -> Tensor:
        """``(B, heads, H·W, dim)`` → ``(B, heads·dim, H, W)`` (equation 15)."""
        return tokens.transpose(2, 3).flatten(1, 2).unflatten(2, (like.shape[2], like.shape[3]))

    def confidence(self, decoder: Tensor, encoder: Tensor) -> Tensor:
        """One scalar a sample in [0, 1], ``(B, 1, 1, 1)`` (equation 17)."""
        pooled = torch.cat([encoder.mean(dim=(2, 3), keepdim=True), decoder.mean(dim=(2, 3), keepdim=True)], dim=1)
        return self.gate(pooled)

    def projections(self, decoder: Tensor, encoder: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Q_d, V_d, K_e, V_e, each ``(B, heads, H·W, dim)`` (equation 12)."""
        d, e = self.norm_decoder(decoder), self.norm_encoder(encoder)
        return (
            self.tokens(self.query_decoder(d)),
            self.tokens(self.value_decoder(d)),
            self.tokens(self.key_encoder(e)),
            self.tokens(self.value_encoder(e)),
        )

    def attend(self, decoder: Tensor, encoder: Tensor) -> tuple[Tensor, Tensor]:
        """R_d and R_e, each ``(B, heads, H·W, dim)`` (equations 13 and 14)."""
        query, value_decoder, key, value_encoder = self.projections(decoder, encoder)
        read_encoder = F.scaled_dot_product_attention(query, key, value_encoder)
        read_decoder = F.scaled_dot_product_attention(key, query, value_decoder)
        return read_encoder, read_decoder

    def forward(self, decoder: Tensor, encoder: Tensor) -> Tensor:
        read_encoder, read_decoder = self.attend(decoder, encoder)
        delta_decoder = self.project_decoder(self.feature_map(read_encoder, decoder))
        delta_encoder = self.project_encoder(self.feature_map(read_decoder, encoder))
        return decoder + encoder + self.confidence(decoder, encoder) * (delta_decoder + delta_encoder)


class SqueezeExcitationSkip(nn.Module):
    """Recalibrate the skip's channels before it is added (table 8, "SE skip").

    ``(B, C, H, W)`` twice → ``(B, C, H, W)``.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(2, channels // reduction)
        self.reduce = nn.Conv2d(channels, hidden, 1, bias=False)
        self.restore = nn.Conv2d(hidden, channels, 1, bias=False)

    def forward(self, decoder: Tensor, encoder: Tensor) -> Tensor:
        pooled = encoder.mean(dim=(2, 3), keepdim=True)
        return decoder + encoder * torch.sigmoid(self.restore(torch.relu(self.reduce(pooled))))


class CBAMSkip(nn.Module):
    """Recalibrate the skip's channels, then its positions, before it is added (table 8, "CBAM skip").

    ``(B, C, H, W)`` twice → ``(B, C, H, W)``.
    """

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        self.channel = ChannelAttention(channels, max(2, channels // reduction), bias=False)
        self.spatial = SpatialAttention(7)

    def forward(self, decoder: Tensor, encoder: Tensor) -> Tensor:
        return decoder + self.spatial(self.channel(encoder))

"""The prompt and the dropped prompt as the denoiser's cross-attention reads them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import InputError


class PromptEmbeddings(NamedTuple):
    """The two embeddings that training and guidance need, each ``(1, L, D)`` float32."""

    given: Tensor
    dropped: Tensor

    def batch(self, dropped: Tensor) -> Tensor:
        """The dropped prompt where `dropped`, ``(B,)`` bool, else the prompt: ``(B, L, D)``."""
        return torch.where(dropped.to(self.given.device)[:, None, None], self.dropped, self.given)

    def to(self, device: torch.device | str) -> PromptEmbeddings:
        return PromptEmbeddings(self.given.to(device), self.dropped.to(device))


class TextEncoder(Protocol):
    """Prompts → ``(number, L, D)`` float32; "" is the dropped prompt."""

    def encode(self, prompts: Sequence[str]) -> Tensor: ...


class HashedText:
    """A fixed embedding of a prompt that needs no weights: the bits of its digests as ±1, and zeros for "".

    Two prompts are as good as orthogonal, and what they mean is learned behind them, in the cross-attention.

    Args:
        width: D, of the denoiser's cross-attention.
        tokens: L.
    """

    def __init__(self, width: int, tokens: int = 8) -> None:
        self.width = width
        self.tokens = tokens

    @property
    def fingerprint(self) -> str:
        """What the embedding depends on besides the prompt."""
        return f"sha256 signs {self.tokens}x{self.width}"

    def encode(self, prompts: Sequence[str]) -> Tensor:
        return torch.stack([self._signs(prompt) if prompt else self._nothing() for prompt in prompts])

    def _nothing(self) -> Tensor:
        return torch.zeros(self.tokens, self.width)

    def _signs(self, prompt: str) -> Tensor:
        count = self.tokens * self.width
        blocks = (hashlib.sha256(f"{block}/{prompt}".encode()).digest() for block in range(-(-count // 256)))
        bits = [byte >> place & 1 for digest in blocks for byte in digest for place in range(8)]
        return (torch.tensor(bits[:count], dtype=torch.float32) * 2 - 1).reshape(self.tokens, self.width)


class ClipText:
    """The last hidden states of transformers' CLIP, padded to its full length, as Stable Diffusion reads prompts.

    Args:
        folder: with ``text_encoder/`` and ``tokenizer/``.
        device: that it runs on.

    Raises:
        InputError: if one of them cannot be read.
    """

    def __init__(self, folder: str | Path, device: torch.device | str = "cpu") -> None:
        from transformers import CLIPTokenizer

        from .pretrained import read_text_encoder

        try:
            self.tokenizer = CLIPTokenizer.from_pretrained(Path(folder) / "tokenizer", local_files_only=True)
        except Exception as error:  # of many kinds, whatever is wrong with its files
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{Path(folder) / 'tokenizer'} cannot be read ({reason}); copy it again") from None
        self.model = read_text_encoder(Path(folder)).to(device)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        longest = min(self.tokenizer.model_max_length, self.model.config.max_position_embeddings)
        needed = max(len(tokens) for tokens in self.tokenizer(list(prompts)).input_ids)
        if needed > longest:
            raise InputError(f"prompt: {needed} tokens, and CLIP reads {longest}; shorten it")
        tokens = self.tokenizer(list(prompts), padding="max_length", max_length=longest, return_tensors="pt")
        return self.model(tokens.input_ids.to(self.model.device))[0].float()

"""From masks to images as one module: what a saved denoiser is for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from .codec import Codec
from .engine import autocast
from .loading import Parts
from .sampling import sample
from .text import PromptEmbeddings


class MaskPainter(nn.Module):
    """Masks ``(B, 1, H, W)`` in {0, 1} → images ``(B, 3, H, W)`` float32 in [0, 1], on the CPU.

    Its only weights are those of U-Net, control network and, in latent space, autoencoder. The weighter has no part.

    Args:
        parts: of `load_denoiser`, with a control network and a prompt.
        steps, guidance, eta, batch_size: as of `sample`.
        control_scale: as of `sample`; None for that of `parts`.
        amp: bfloat16 autocast.

    Attributes:
        progress: called with the number of steps done and of all, after each; or None.
    """

    def __init__(
        self,
        parts: Parts,
        steps: int = 50,
        guidance: float = 10.0,
        control_scale: float | None = None,
        eta: float = 0.0,
        batch_size: int = 8,
        amp: bool = False,
    ) -> None:
        super().__init__()
        self.parts, self.denoiser = parts, parts.denoiser.eval()
        self.steps, self.guidance, self.eta, self.batch_size, self.amp = steps, guidance, eta, batch_size, amp
        self.control_scale = parts.control_scale if control_scale is None else control_scale
        self.progress: Callable[[int, int], None] | None = None
        self._codec: Codec | None = None
        self._prompts: PromptEmbeddings | None = None

    @torch.no_grad()
    def forward(self, masks: Tensor, seeds: Sequence[int] | None = None) -> Tensor:
        """Paint an image for each mask; `seeds` are 0, 1, … if not given. Errors are those of `sample`."""
        if self._codec is None:  # read when they are needed: checks of what is to be painted come first
            given, dropped = self.parts.open_text().encode([self.parts.prompt, ""]).float().split(1)
            self._prompts = PromptEmbeddings(given, dropped)
            self._codec = self.parts.open_codec(self.denoiser.unet.device)
        with autocast(self.denoiser.unet.device, self.amp):
            return sample(
                self.denoiser,
                masks,
                list(range(len(masks))) if seeds is None else [int(seed) for seed in seeds],
                prompts=self._prompts,
                scheduler=self.parts.scheduler,
                codec=self._codec,
                steps=self.steps,
                guidance=self.guidance,
                control_scale=self.control_scale,
                eta=self.eta,
                batch_size=self.batch_size,
                progress=self.progress,
            )

"""Checkpoints of a denoiser's training: what was learned, to go on with, and a folder to paint with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..training.checkpoints import RunCheckpoint
from ..training.history import History
from ..weights import unwrapped
from .denoising import learned_state, load_learned_state
from .loading import Parts, mend_replaced, save_denoiser
from .validation import averaged_weights

MODEL_FOLDER = "model"


class LawCheckpoint(RunCheckpoint):
    """A `RunCheckpoint` of a `DenoisingLoss`: saved is what learns, the weighter included, and the model is a folder.

    ``<output_dir>/latest.pt`` holds what takes a gradient and nothing that is frozen; ``<output_dir>/model/`` the
    denoiser with the best validation metric, its moving average where there is one, without the weighter.

    Args:
        parts: whose denoiser the network trains.
        network: a `DenoisingLoss`, wrapped or not.
        ema: diffusers' ``EMAModel`` over the denoiser's trainable parameters, or None.
        dtype: of the model's weights on disk.
        encoders: in latent space, copy autoencoder and text encoder into the model's folder, so that it is whole and
            diffusers' own pipeline reads it; else painting asks for the folder that has them.
        output_dir, optimizer, evaluator, history, lr_scheduler, settings, resume, record: as of `RunCheckpoint`.
    """

    longer = "--steps"

    def __init__(
        self,
        output_dir: str | Path,
        parts: Parts,
        network: nn.Module,
        optimizer: Optimizer,
        evaluator: Engine,
        history: History,
        *,
        lr_scheduler: LRScheduler | None = None,
        ema: Any = None,
        settings: Mapping[str, Any] | None = None,
        resume: bool = True,
        record: Callable[[], Mapping[str, Sequence[str]]] | None = None,
        dtype: torch.dtype = torch.float32,
        encoders: bool = False,
    ) -> None:
        super().__init__(
            output_dir, network, optimizer, evaluator, history, lr_scheduler, ema, settings, resume, record=record
        )
        self.model_path = Path(output_dir) / MODEL_FOLDER
        self.parts, self.dtype, self.encoders = parts, dtype, encoders

    @property
    def model(self) -> nn.Module:
        return unwrapped(self.network)

    def restore(self, trainer: Engine) -> None:
        """As of `RunCheckpoint`; a model folder that a kill left under its other name comes back first."""
        if idist.get_rank() == 0:
            mend_replaced(self.model_path)
        super().restore(trainer)

    def write_model(self) -> None:
        with averaged_weights(self.parts.denoiser.trainable_parameters(), self.ema):
            save_denoiser(self.model_path, self.parts, dtype=self.dtype, encoders=self.encoders, overwrite=True)

    def learned(self) -> dict[str, Any]:
        ema = None if self.ema is None else self.ema.state_dict()
        return {"network": learned_state(unwrapped(self.network)), "ema": ema}

    def load_learned(self, state: Mapping[str, Any]) -> None:
        load_learned_state(unwrapped(self.network), state["network"], str(self.state_path))
        if self.ema is not None:
            self.ema.load_state_dict(state["ema"])  # its decay too, which the settings of the run hold fast
            self.ema.to(next(unwrapped(self.network).parameters()).device)

    def begin(self) -> None:
        """The parts begin as they were loaded; the average goes where they are."""
        if self.ema is not None:
            self.ema.to(next(unwrapped(self.network).parameters()).device)

"""Ignite handlers that MONAI and Ignite do not have ready: a bar with loss and rate, a stop on NaN, previews."""

from __future__ import annotations

import logging
import sys
from typing import Any

import ignite.distributed as idist
import torch
import torch.nn.functional as F
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.visualize import blend_images
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from ..errors import InputError, one_line_errors

logger = logging.getLogger(__name__)


def loss_of(output: Any) -> torch.Tensor:
    """The loss in the output of a MONAI trainer's step, decollated (a list of dicts) or not."""
    return torch.as_tensor(output[0]["loss"] if isinstance(output, list) else output["loss"]).detach()


class TrainingProgressBar(ProgressBar):
    """A tqdm bar an epoch with the present loss and learning rate, on rank 0; into a file, a logged line an epoch."""

    def __init__(self, optimizer: Optimizer, **kwargs: Any) -> None:
        super().__init__(persist=True, disable=idist.get_rank() != 0, **kwargs)
        self.optimizer = optimizer
        self._losses: list[float] = []
        self._rate = 0.0

    def attach(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        """Register on the trainer."""
        if sys.stderr.isatty():
            super().attach(engine, output_transform=self._shown)
        elif idist.get_rank() == 0:
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._tell)

    def _shown(self, output: Any) -> dict[str, str]:
        rate = self.optimizer.param_groups[0]["lr"]
        return {"loss": f"{float(loss_of(output)):.4f}", "lr": f"{rate:.2e}"}

    def _collect(self, engine: Engine) -> None:
        self._losses.append(float(loss_of(engine.state.output)))
        self._rate = self.optimizer.param_groups[0]["lr"]  # now, for a schedule may step before the epoch ends

    def _tell(self, engine: Engine) -> None:
        loss = sum(self._losses) / max(1, len(self._losses))
        logger.info(f"epoch {engine.state.epoch}/{engine.state.max_epochs}: loss {loss:.4f}, lr {self._rate:.2e}")
        self._losses.clear()


class StopOnNonFiniteLoss:
    """End the run with one line that names the batch where the loss is NaN or infinite.

    No checkpoint of that epoch is written, so the last one stays good. `name_key` is the batch's entry that
    names its images.

    Raises:
        InputError: as one line and exit code 2.
    """

    def __init__(self, name_key: str = "name") -> None:
        self.name_key = name_key

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        loss = loss_of(engine.state.output)
        if torch.isfinite(loss).all():
            return
        batch = engine.state.batch
        items = batch if isinstance(batch, list) else [batch]
        names: list[str] = []
        for item in items:
            value = item.get(self.name_key, [])
            names.extend([value] if isinstance(value, str) else value)
        # tqdm takes the bar away first, which would otherwise share the line.
        with tqdm.external_write_mode(sys.stderr), one_line_errors():
            raise InputError(
                f"the loss is {float(loss):g} at epoch {engine.state.epoch}, iteration {engine.state.iteration}, "
                f"on the batch {', '.join(names)}; look at these images, or lower --learning_rate"
            )


class TensorBoardOverlays:
    """Write the first images of each validation, with prediction and truth blended in, to TensorBoard.

    The evaluator's output holds decollated dicts with "image" ``(1 or 3, H, W)`` in [0, 1], "pred" and "label"
    ``(1, H, W)`` binary; their sizes may differ. `count` images a validation, shown at `size` pixels a side.
    """

    def __init__(self, log_dir: str, count: int = 4, size: int = 256) -> None:
        self.log_dir = log_dir
        self.count = count
        self.size = size
        self._shown: list[torch.Tensor] = []
        self._writer: SummaryWriter | None = None

    def attach(self, engine: Engine) -> None:
        """Register on the evaluator."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._clear)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _clear(self, engine: Engine) -> None:
        self._shown.clear()

    def _collect(self, engine: Engine) -> None:
        for item in engine.state.output:
            if len(self._shown) >= self.count:
                return
            image, label, pred = (self._thumbnail(item[key]) for key in ("image", "label", "pred"))
            image = image.expand(3, -1, -1)
            layers = [
                blend_images(image, mask, alpha=0.4, cmap=colours, transparent_background=True)
                for mask, colours in ((label, "summer"), (pred, "autumn"))
            ]
            self._shown.append(torch.cat([image, *map(torch.as_tensor, layers)], dim=2))

    def _thumbnail(self, picture: torch.Tensor) -> torch.Tensor:
        # One size for all, since images that are not resized differ; masks stay 0 and 1.
        picture = torch.as_tensor(picture).detach().float().cpu()
        return F.interpolate(picture[None], (self.size, self.size), mode="nearest-exact")[0]

    def _write(self, engine: Engine) -> None:
        if not self._shown or idist.get_rank() != 0:
            return
        self._writer = self._writer or SummaryWriter(self.log_dir)  # one a run: each writes a file of its own
        picture = torch.cat(self._shown, dim=1).clamp(0, 1)
        self._writer.add_image("image, truth, prediction", picture, engine.state.epoch)
        self._writer.flush()

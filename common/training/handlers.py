"""Ignite handlers that MONAI and Ignite do not have ready: a bar with loss and rate, a stop on NaN, previews."""

from __future__ import annotations

import sys
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import ProgressBar
from monai.visualize import blend_images
from torch.optim import Optimizer
from torch.utils.tensorboard import SummaryWriter

from ..errors import InputError, one_line_errors


def loss_of(output: Any) -> torch.Tensor:
    """The loss in the output of a MONAI trainer's step, decollated (a list of dicts) or not."""
    return torch.as_tensor(output[0]["loss"] if isinstance(output, list) else output["loss"]).detach()


class TrainingProgressBar(ProgressBar):
    """A tqdm bar an epoch with the present loss and learning rate, on rank 0; into a file, a line an epoch."""

    def __init__(self, optimizer: Optimizer, **kwargs: Any) -> None:
        super().__init__(persist=True, disable=idist.get_rank() != 0, **kwargs)
        self.optimizer = optimizer

    def attach(self, engine: Engine, *args: Any, **kwargs: Any) -> None:
        """Register on the trainer."""

        def shown(output: Any) -> dict[str, str]:
            rate = self.optimizer.param_groups[0]["lr"]
            return {"loss": f"{float(loss_of(output)):.4f}", "lr": f"{rate:.2e}"}

        event = Events.ITERATION_COMPLETED if sys.stderr.isatty() else Events.ITERATION_COMPLETED(every=100)
        super().attach(engine, output_transform=shown, event_name=event)


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
        with one_line_errors():
            raise InputError(
                f"the loss is {float(loss):g} at epoch {engine.state.epoch}, iteration {engine.state.iteration}, "
                f"on the batch {', '.join(names)}; look at these images, or lower --learning_rate"
            )


class TensorBoardOverlays:
    """Write the first images of each validation, with prediction and truth blended in, to TensorBoard.

    The evaluator's output holds decollated dicts with "image" ``(3, H, W)`` in [0, 1], "pred" and "label"
    ``(1, H, W)`` binary. `count` images a validation.
    """

    def __init__(self, log_dir: str, count: int = 4) -> None:
        self.log_dir = log_dir
        self.count = count
        self._shown: list[torch.Tensor] = []

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
            image = item["image"].detach().float().cpu()
            layers = [
                blend_images(
                    image, item[key].detach().float().cpu(), alpha=0.4, cmap=colours, transparent_background=True
                )
                for key, colours in (("label", "summer"), ("pred", "autumn"))
            ]
            self._shown.append(torch.cat([image, *map(torch.as_tensor, layers)], dim=2))

    def _write(self, engine: Engine) -> None:
        if not self._shown or idist.get_rank() != 0:
            return
        with SummaryWriter(self.log_dir) as writer:
            picture = torch.cat(self._shown, dim=1).clamp(0, 1)
            writer.add_image("image, truth, prediction", picture, engine.state.epoch)

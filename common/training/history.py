"""A table of each epoch's loss, learning rate and validation metrics, as a CSV file."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import ignite.distributed as idist
from ignite.engine import Engine, Events
from torch.optim import Optimizer

from ..files import write_atomically
from .handlers import loss_of


class History:
    """An Ignite handler that writes ``<output_dir>/history.csv``, a row an epoch.

    Columns: epoch, loss (mean over the epoch's batches, of all processes), learning_rate, and the evaluator's
    metrics where that epoch was validated. Attach it after validation and before `RunCheckpoint`, which resumes `rows`.
    """

    def __init__(self, output_dir: str | Path, optimizer: Optimizer, evaluator: Engine) -> None:
        self.path = Path(output_dir) / "history.csv"
        self.optimizer = optimizer
        self.evaluator = evaluator
        self.rows: list[dict[str, float]] = []
        self._losses: list[float] = []
        self._learning_rate = 0.0

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _begin(self, engine: Engine) -> None:
        self._losses.clear()
        self._learning_rate = float(self.optimizer.param_groups[0]["lr"])

    def _collect(self, engine: Engine) -> None:
        self._losses.append(float(loss_of(engine.state.output)))

    def _write(self, engine: Engine) -> None:
        loss = sum(self._losses) / max(1, len(self._losses))
        row = {
            "epoch": engine.state.epoch,
            "loss": idist.all_reduce(loss) / idist.get_world_size(),  # every process has as many batches
            "learning_rate": self._learning_rate,
        }
        if self.evaluator.state.epoch == engine.state.epoch:
            row.update({name: float(value) for name, value in self.evaluator.state.metrics.items()})
        self.rows.append(row)
        if idist.get_rank() == 0:
            names = list(dict.fromkeys(name for each in self.rows for name in each))
            text = io.StringIO()
            writer = csv.DictWriter(text, names, lineterminator="\n")
            writer.writeheader()
            writer.writerows(self.rows)
            write_atomically(self.path, text.getvalue().encode())

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

    Columns: epoch, loss (mean over the batches of all processes), learning_rate (that the epoch began with), and the
    evaluator's metrics where it was validated. Attach it after validation and before `RunCheckpoint`, which resumes
    `rows`.

    Args:
        output_dir: folder of the run.
        optimizer: the rate of its first group is told.
        evaluator: the validation engine.
        terms: whether the trainer's output is scalars by name, of which each gets a column as the loss does.
    """

    def __init__(self, output_dir: str | Path, optimizer: Optimizer, evaluator: Engine, terms: bool = False) -> None:
        self.path = Path(output_dir) / "history.csv"
        self.optimizer = optimizer
        self.evaluator = evaluator
        self.terms = terms
        self.rows: list[dict[str, float]] = []
        self._sums: dict[str, list[float]] = {}
        self._learning_rate = 0.0

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._begin)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._write)

    def _begin(self, engine: Engine) -> None:
        self._sums.clear()
        self._learning_rate = float(self.optimizer.param_groups[0]["lr"])

    def _collect(self, engine: Engine) -> None:
        output = engine.state.output
        for name, value in (output if self.terms else {"loss": loss_of(output)}).items():
            self._sums.setdefault(name, []).append(float(value))

    def _write(self, engine: Engine) -> None:
        row = {"epoch": engine.state.epoch}
        for name, values in self._sums.items():  # every process has as many batches
            row[name] = idist.all_reduce(sum(values) / len(values)) / idist.get_world_size()
        row["learning_rate"] = self._learning_rate
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

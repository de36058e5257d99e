"""Checkpoints that survive a kill, and resuming by running the same command again."""

from __future__ import annotations

import io
import logging
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import EMAHandler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ..errors import InputError, one_line_errors
from ..files import release_folder, remove, remove_unfinished
from ..provenance import record_path, write_record
from ..quiet import quietly
from ..weights import fit_weights, load_weights, read_checkpoint, save_checkpoint, unwrapped
from .history import History

logger = logging.getLogger(__name__)

FORMAT = 2
STATE_NAME = "latest.pt"
MODEL_NAME = "model.pt"
# What of a scheduler's state is progress; the rest is configuration, which the new command may change.
SCHEDULER_PROGRESS = ("last_epoch", "_step_count", "_last_lr")
# Of an optimizer's groups, what the schedule sets and what names the parameters.
NOT_MADE_WITH = ("lr", "initial_lr", "params")


def _check_plain(settings: Mapping[str, Any]) -> None:
    # What cannot be read back would be noticed only when the run is to be resumed.
    file = io.BytesIO()
    torch.save(dict(settings), file)
    file.seek(0)
    try:
        torch.load(file, weights_only=True)
    except pickle.UnpicklingError:
        raise TypeError(f"the settings of a run must be plain values; got {settings}") from None


class RunCheckpoint:
    """Save the whole run after every epoch, keep the best model, and resume on start.

    ``<output_dir>/latest.pt`` holds all that the run needs to go on as if never stopped;
    ``<output_dir>/model.pt`` the evaluated weights with the best validation metric. Both are written whole or
    not at all. Attach it after every handler that changes what it saves.

    Args:
        output_dir: folder of the run.
        network, optimizer, lr_scheduler, ema: what is saved; with `ema` its averaged network is the model.
        evaluator: the validation engine, whose key metric (larger is better) chooses the model.
        history: the table of metrics, resumed with the run.
        settings: plain values that a resumed run must share (data, network, recipe); compared on resume.
        resume: go on from ``latest.pt`` where there is one; if not, the files of the run that was there are removed.
        pretrained: weights to begin with, where there is nothing to resume.
        record: gives which images the weights are trained on (`provenance.training_record`), to be kept beside
            ``model.pt``; called once, before the first model is written.

    With more epochs than before, a run goes on: the learning rate is the one that the longer schedule has there, and
    what the optimizer was made with is what the command has now, its progress what the run has.

    Raises:
        InputError: as one line and exit code 2, if ``latest.pt`` belongs to other settings, another network or
            recipe, or as many processes that an epoch has another number of batches.
        TypeError: if `settings` holds what could not be read back from ``latest.pt``.
    """

    longer = "--epochs"  # the option that makes a run longer

    def __init__(
        self,
        output_dir: str | Path,
        network: nn.Module,
        optimizer: Optimizer,
        evaluator: Engine,
        history: History,
        lr_scheduler: LRScheduler | None = None,
        ema: EMAHandler | None = None,
        settings: Mapping[str, Any] | None = None,
        resume: bool = True,
        pretrained: str | Path | None = None,
        record: Callable[[], Mapping[str, Sequence[str]]] | None = None,
    ) -> None:
        self.state_path = Path(output_dir) / STATE_NAME
        self.model_path = Path(output_dir) / MODEL_NAME
        self.network, self.optimizer, self.lr_scheduler, self.ema = network, optimizer, lr_scheduler, ema
        self.evaluator, self.history = evaluator, history
        self.settings = dict(settings or {})
        _check_plain(self.settings)
        self.resume = resume
        self.pretrained = pretrained
        self.record = record
        self._recorded = record is None
        self._restored = False
        self.best: float | None = None
        # Before any step: some optimizers keep their progress beside what they were made with.
        self._made_with = [
            {key: value for key, value in group.items() if key not in NOT_MADE_WITH} for group in optimizer.param_groups
        ]

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.STARTED, self.restore)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self.save)
        engine.add_event_handler(Events.COMPLETED, lambda: release_folder(self.state_path.parent))  # guard held it
        self.evaluator.add_event_handler(Events.STARTED, self._share_statistics)

    @property
    def files(self) -> tuple[Path, ...]:
        """What a run leaves for the next to find, the state that it resumes from first."""
        return self.state_path, self.model_path, record_path(self.model_path), self.history.path

    @property
    def model(self) -> nn.Module:
        """The network that is validated and kept."""
        return self.ema.ema_model if self.ema is not None else unwrapped(self.network)

    def _share_statistics(self, evaluator: Engine) -> None:
        # Unless they are synchronised, each process has batch statistics of its own; rank 0's are those saved,
        # so they are the ones to validate.
        if idist.get_world_size() > 1:
            for buffer in self.model.buffers():
                torch.distributed.broadcast(buffer, src=0)

    def save(self, trainer: Engine) -> None:
        """Write the model if it is the best so far, then the state of the run."""
        metric = self.evaluator.state.metrics.get(self.evaluator.state.key_metric_name)
        validated = self.evaluator.state.epoch == trainer.state.epoch
        if idist.get_rank() == 0:
            # The model first: stopped between the two, the resumed run repeats the epoch and writes it again.
            if metric is not None and validated and (self.best is None or metric > self.best):
                self.best = float(metric)
                if not self._recorded:  # before the weights, so that they are never without it
                    write_record(self.model_path, self.record())
                    self._recorded = True
                self.write_model()
            save_checkpoint(self.state_path, self._state(trainer))
        idist.barrier()

    def _state(self, trainer: Engine) -> dict[str, Any]:
        scaler = getattr(trainer, "scaler", None)
        return {
            "format": FORMAT,
            "settings": self.settings,
            "epoch": trainer.state.epoch,
            "iteration": trainer.state.iteration,
            "best": self.best,
            "history": self.history.rows,
            "optimizer": self.optimizer.state_dict(),
            "optimizer_made_with": self._made_with,
            "lr_scheduler": self.lr_scheduler.state_dict() if self.lr_scheduler else None,
            **self.learned(),
            "scaler": scaler.state_dict() if scaler else None,
        }

    # What a training of other networks saves in its own way.

    def write_model(self) -> None:
        """Write the weights that are kept."""
        save_checkpoint(self.model_path, self.model.state_dict())

    def learned(self) -> dict[str, Any]:
        """What was learned so far, as ``{"network": …, "ema": … or None}``."""
        ema = self.ema.ema_model.state_dict() if self.ema else None
        return {"network": unwrapped(self.network).state_dict(), "ema": ema}

    def load_learned(self, state: Mapping[str, Any]) -> None:
        """Take `learned` back.

        Raises:
            InputError: if it is another network's.
        """
        fit_weights(self.network, state["network"], str(self.state_path))
        if self.ema is not None:
            fit_weights(self.ema.ema_model, state["ema"], str(self.state_path))

    def begin(self) -> None:
        """Where there is nothing to resume, begin with `pretrained`.

        Raises:
            InputError: if it does not fit.
        """
        if self.pretrained:
            load_weights(self.network, self.pretrained)
            self.model.load_state_dict(unwrapped(self.network).state_dict())

    def restore(self, trainer: Engine) -> None:
        """Set everything back to where ``latest.pt`` stands, if there is one; else begin with `pretrained`.

        Once: a trainer that is run again in one process, as in each round of federated learning, goes on with what it
        has in memory, which may be others' weights.
        """
        if self._restored:
            return
        self._restored = True
        if idist.get_rank() == 0:
            remove_unfinished(self.state_path.parent, [path.name for path in self.files])
        if not self.resume or not self.state_path.is_file():
            with one_line_errors():
                self.begin()
            self._forget_the_former()
            return
        with one_line_errors():
            state = self._checked_state(trainer)
            self.load_learned(state)
        self._restore_optimizer(state)
        if self.lr_scheduler is not None:
            self._restore_schedule(state["lr_scheduler"])
        scaler = getattr(trainer, "scaler", None)
        if scaler is not None and state["scaler"]:
            scaler.load_state_dict(state["scaler"])
        self.best = state["best"]
        self._recorded |= record_path(self.model_path).is_file()  # of the same data, as the settings say
        self.history.rows[:] = state["history"]
        if self.best is not None:
            key = self.evaluator.state.key_metric_name
            self.evaluator.state.best_metric = self.best
            # Without its epoch MONAI would take the next metric for the best.
            self.evaluator.state.best_metric_epoch = max(self.history.rows, key=lambda row: row.get(key, -math.inf))[
                "epoch"
            ]
        trainer.state.epoch, trainer.state.iteration = state["epoch"], state["iteration"]
        if state["epoch"] >= trainer.state.max_epochs:
            logger.info(
                f"{self.state_path} is complete: {state['epoch']} of {trainer.state.max_epochs} epochs; "
                f"raise {self.longer} to train on, or name another --output_dir to begin anew"
            )
        else:
            logger.info(f"resuming {self.state_path} after epoch {state['epoch']}")

    def _forget_the_former(self) -> None:
        # Else a stop before the first epoch's end would leave what the next command resumes or measures.
        if not self.resume:
            idist.barrier()  # `pretrained` may be one of these files, and another process still reading it
            if idist.get_rank() == 0:
                for path in self.files:
                    remove(path)

    def _restore_optimizer(self, state: Mapping[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        made = zip(self.optimizer.param_groups, self._made_with, state["optimizer_made_with"], strict=True)
        for group, now, before in made:
            group.update({key: value for key, value in now.items() if key not in before or before[key] != value})

    def _restore_schedule(self, saved: dict[str, Any]) -> None:
        own = self.lr_scheduler.state_dict()
        progress = {key: saved[key] for key in SCHEDULER_PROGRESS}
        if {**own, **progress} == saved:
            self.lr_scheduler.load_state_dict(saved)
            return
        # A schedule of another length: step it from its beginning to where the run stands.
        for group, rate in zip(self.optimizer.param_groups, own["_last_lr"], strict=True):
            group["lr"] = rate
        with quietly():  # that the optimizer made no step between
            for _ in range(saved["last_epoch"]):
                self.lr_scheduler.step()

    def _checked_state(self, trainer: Engine) -> dict[str, Any]:
        state = read_checkpoint(self.state_path)
        if state.get("format") != FORMAT:
            raise InputError(f"{self.state_path} is not a run of this version; name another --output_dir")
        changed = sorted(
            key
            for key in self.settings.keys() | state["settings"].keys()
            if self.settings.get(key) != state["settings"].get(key)
        )
        if changed:
            pairs = [(key, state["settings"].get(key), self.settings.get(key)) for key in changed]
            told = ", ".join(f"{key} {_shortened(was)} → {_shortened(now)}" for key, was, now in pairs)
            raise InputError(
                f"{self.state_path} is a run with other settings ({told}); "
                "name another --output_dir, or give --resume False to begin anew there"
            )
        other = []
        if (self.ema is None) != (state["ema"] is None):
            other.append("weight averaging")
        schedule = self.lr_scheduler.state_dict() if self.lr_scheduler else {}
        if schedule.keys() != (state["lr_scheduler"] or {}).keys():
            other.append("learning rate schedule")
        if self.optimizer.param_groups[0].keys() - state["optimizer"]["param_groups"][0].keys():
            other.append("optimizer")
        if other:
            raise InputError(
                f"{self.state_path} is a run of another recipe (another {', '.join(other)}); name another --output_dir"
            )
        batches = trainer.state.epoch_length
        if state["iteration"] != state["epoch"] * batches:
            before = state["iteration"] // state["epoch"]
            raise InputError(
                f"{self.state_path} is a run with {before} batches an epoch, this one has {batches}; "
                "start as many processes as before, or name another --output_dir"
            )
        return state


def _shortened(value: Any) -> str:
    # A digest tells a reader that something differs, and its beginning does so too.
    text = repr(value)
    is_digest = isinstance(value, str) and len(value) == 64 and set(value) <= set("0123456789abcdef")
    return f"{text[:9]}…'" if is_digest else text

"""Training from MONAI Label, which puts lists of labelled images into a config that asks for a prepared folder.

The lists become a prepared folder, and the rest is a training like any other, from the weights that ship. What comes of
it is kept beside those, as ``models/retrained.pt``, which inference there takes first; they themselves stay.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from monai.bundle import ConfigParser, ConfigWorkflow
from PIL import ExifTags

from .data import read_datalist
from .data.folder import Pair, Split, write_prepared_folder
from .data.reading import open_image
from .errors import InputError, reports_input_errors
from .files import check_writable, hold_folder, remove
from .inference import read_rgb
from .provenance import read_record, write_record
from .training import RunCheckpoint
from .weights import read_checkpoint, save_checkpoint

logger = logging.getLogger(__name__)

RETRAINED = "retrained.pt"
WORK = "retraining"  # beside it: history.csv and the curves of the last one
DATA = "data"
SOURCE = "label"  # of the pairs
LISTS = {"training": "train#dataset#data", "validation": "validate#dataset#data"}
LOADER = "CheckpointLoader"  # MONAI Label's own, by which it says what to begin with
# For a dozen images and weights that are good already: small batches, for an epoch is then more than one step.
SETTINGS = {"recipe": "label", "learning_rate": 0.001, "batch_size": 4}


@reports_input_errors
def adopt_label_lists() -> None:
    """Where the config that is running has lists of images in place of a prepared folder, make it train on these.

    A no-op in every other run. Each item has ``image`` and ``label``, files; the label's lesion is what
    `data.reading.binarise` says. Without a validation list, the training list chooses the model.

    Raises:
        InputError: as one line and exit code 2, if a list is empty or an image or label cannot be used; all are told.
    """
    config = _running_config()
    if config is None or config.get("dataset_dir") is not None or not isinstance(config.get(LISTS["training"]), list):
        return
    models = Path(config.get_parsed_content("bundle_root")) / "models"
    given = {key: config.get(place) for key, place in LISTS.items()}
    given = {key: items if isinstance(items, list) else [] for key, items in given.items()}
    work = models / WORK
    if idist.get_rank() == 0:
        check_writable(work)
        hold_folder(work)
        for left in work.iterdir():  # of the last one
            remove(left)
        prepare_lists(work / DATA, given["training"], given["validation"])
    idist.barrier()
    _redirect(config, models)


def prepare_lists(folder: Path, training: Sequence[Mapping[str, Any]], validation: Sequence[Mapping[str, Any]]) -> None:
    """Write a prepared folder of labelled images, each as it is stored, like the masks that MONAI Label is answered.

    Raises:
        InputError: if there is none to train on, or one cannot be used.
    """
    if not training:
        raise InputError("there is no labelled image to train on; save the labels of some first")
    if not validation:
        logger.warning("no image is left for validation: the model is chosen by the images that it is trained on")
    faults: list[str] = []
    items = {str(item["image"]): item for item in [*training, *validation]}.values()
    names = [[f"{SOURCE}_{Path(item['image']).stem}" for item in each] for each in (training, validation or training)]
    write_prepared_folder(
        folder,
        _pairs(list(items), faults),
        {"default": Split(names[0], validation=names[1])},
        name="labels from MONAI Label",
        licence="not stated",
        progress=False,
        faults=faults,
    )


def _pairs(items: Sequence[Mapping[str, Any]], faults: list[str]) -> Iterator[Pair]:
    for item in items:
        stem = Path(item["image"]).stem
        try:
            image, _ = read_rgb(item["image"])
            mask = open_image(item["label"])
        except InputError as error:
            faults.append(str(error))
            continue
        # A mask of its own orientation was drawn on the image as it is shown; so was one of the turned size.
        stored = image.size == mask.size and mask.getexif().get(ExifTags.Base.Orientation, 1) == 1
        yield Pair(np.asarray(image) if stored else Path(item["image"]), Path(item["label"]), SOURCE, stem, stem)


def _running_config() -> ConfigParser | None:
    # A component cannot ask for the config that it stands in; the workflow that runs it is among the callers.
    frame = inspect.currentframe()
    while frame is not None:
        workflow = frame.f_locals.get("self")
        if isinstance(workflow, ConfigWorkflow):
            return workflow.parser
        frame = frame.f_back
    return None


def _redirect(config: ConfigParser, models: Path) -> None:
    work = models / WORK
    handlers = [each for each in config.get("train#handlers") if each.get("_target_") != LOADER]
    begins = [each["load_path"] for each in config.get("train#handlers") if each.get("_target_") == LOADER]
    checkpoint = next(n for n, each in enumerate(handlers) if str(each["_target_"]).endswith(RunCheckpoint.__name__))
    keep = {
        "_target_": f"{__name__}.{KeepRetrained.__name__}",
        "path": str(models / RETRAINED),
        "checkpoint": f"@train#handlers#{checkpoint}",
    }
    config.update(
        {
            "dataset_dir": str(work / DATA),
            "protocol": None,
            "synthetic_dir": None,
            "output_dir": str(work),
            **SETTINGS,
            "resume": False,
            "pretrained": begins[0] if begins else None,
            "epochs": config.get("train#trainer#max_epochs"),
            "train#handlers": [*handlers, keep],
            **{place: read_datalist(work / DATA, None, key) for key, place in LISTS.items()},
        }
    )


class KeepRetrained:
    """An Ignite handler that keeps what a retraining has made better, and says by how much.

    The network that it begins with is validated too; only what does better than that is written to `path`, whole, with
    its record beside it, when the training has ended. The images of the training are removed however it ends.

    Args:
        path: the weights that inference takes first.
        checkpoint: of the run, attached before this.
    """

    def __init__(self, path: str | Path, checkpoint: RunCheckpoint) -> None:
        self.path, self.checkpoint = Path(path), checkpoint
        self.before = float("nan")

    def attach(self, engine: Engine) -> None:
        """Register on the trainer."""
        engine.add_event_handler(Events.STARTED, self._measure)
        engine.add_event_handler(Events.COMPLETED, self._keep)
        engine.add_event_handler(Events.TERMINATE, self._remove_images)
        engine.add_event_handler(Events.EXCEPTION_RAISED, self._failed)

    def _measure(self, engine: Engine) -> None:
        evaluator = self.checkpoint.evaluator
        evaluator.run()
        self.before = float(evaluator.state.metrics[evaluator.state.key_metric_name])
        self.checkpoint.best = self.before

    def _keep(self, engine: Engine) -> None:
        if idist.get_rank() > 0:
            return
        self._remove_images(engine)
        made = self.checkpoint.model_path
        if not made.is_file():
            logger.info(f"no epoch was better than {self.before:.4f}, which it began with: nothing is changed")
            return
        # The record first: were this stopped between the two, it would tell of images too many, never of too few.
        write_record(self.path, read_record(made))
        save_checkpoint(self.path, read_checkpoint(made))
        logger.info(f"mean Dice on the validation images {self.before:.4f} → {self.checkpoint.best:.4f}: {self.path}")

    def _remove_images(self, engine: Engine) -> None:
        if idist.get_rank() == 0:
            remove(self.checkpoint.model_path.parent / DATA)

    def _failed(self, engine: Engine, error: Exception) -> None:
        # No copy of an image stays, however the training ends; ignite leaves it to a handler to raise again.
        self._remove_images(engine)
        raise error

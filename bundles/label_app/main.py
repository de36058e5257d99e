"""A MONAI Label app for the bundles that are unpacked below its folder `model`; nothing is fetched, ever.

It offers those that segment, for inference and training, and the images that a model is least certain of first. What
paints images (LAW) segments nothing, and is left aside.

    monailabel start_server --app APP --studies IMAGES [--conf models order_polyps,order_brisc]
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import monailabel
import torch
from monailabel.interfaces.app import MONAILabelApp
from monailabel.interfaces.datastore import Datastore
from monailabel.interfaces.tasks.infer_v2 import InferTask
from monailabel.interfaces.tasks.scoring import ScoringMethod
from monailabel.interfaces.tasks.strategy import Strategy
from monailabel.interfaces.tasks.train import TrainTask
from monailabel.tasks.activelearning.epistemic import Epistemic
from monailabel.tasks.activelearning.first import First
from monailabel.tasks.activelearning.random import Random
from monailabel.tasks.infer.bundle import BundleInferTask
from monailabel.tasks.train.bundle import BundleTrainTask
from monailabel.transform.post import FindContoursd
from monailabel.transform.writer import PolygonWriter
from monailabel.utils.others.generic import name_to_device

logger = logging.getLogger(__name__)

LEAST_CERTAIN = "least_certain"
MARKED = 255  # the lesion in a mask file
OUTLINES_ALONE = ("asap", "dsa")  # kinds of files that hold polygons


def segments(bundle: Path) -> bool:
    """Whether a bundle's metadata says that what it predicts is a segmentation."""
    metadata = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8"))
    outputs = metadata["network_data_format"]["outputs"]
    return all(each.get("format") == "segmentation" for each in outputs.values())


def find_segmenters(models: Path, names: str = "all") -> dict[str, Path]:
    """The bundles below a folder that segment, by name.

    Args:
        models: with a folder a bundle.
        names: those to take, with commas between; or "all".

    Raises:
        ValueError: if there is none of a name, or none at all.
    """
    found = (path.parents[1] for path in sorted(models.glob("*/configs/metadata.json")))
    there = {path.name: path for path in found if not path.name.startswith(".")}
    wanted = list(there) if names == "all" else [name.strip() for name in names.split(",")]
    if missing := [name for name in wanted if name not in there]:
        raise ValueError(f"{models} holds no bundle {', '.join(missing)}; there are {', '.join(there) or 'none'}")
    found = {name: there[name] for name in wanted if segments(there[name])}
    for name in wanted:
        if name not in found:
            logger.info(f"{name} paints images and segments none: it is not offered here")
    if not found:
        raise ValueError(f"{models} holds no bundle that segments; unpack one there")
    return found


class SegmenterTask(BundleInferTask):
    """A bundle's inference, with the outlines of its mask beside it for clients that ask for JSON, as CVAT's does."""

    def post_transforms(self, data: dict[str, Any] | None = None) -> list[Callable]:
        """The bundle's, and the polygons of what they mark; `info` keeps the labels as the metadata number them."""
        labels = dict.fromkeys(self.labels, MARKED)
        outlines = FindContoursd(keys=self.key_pred, labels=labels, min_positive=1, min_poly_area=1)
        return [*super().post_transforms(data), outlines]

    def writer(self, data: dict[str, Any], extension: str | None = None, dtype: Any = None) -> tuple[Any, dict]:
        """The mask file, and outlines beside it; for who asks for outlines alone, as QuPath's plugin does, those."""
        if data.get("output") in OUTLINES_ALONE:
            return PolygonWriter(label=self.output_label_key, json=self.output_json_key)(data)
        file, told = super().writer(data, extension, dtype)
        return file, {**told, "annotations": [dict(told)]}


class EntropyScoring(ScoringMethod):
    """How uncertain each model is of each image that has no label yet, kept with the image until its weights change.

    The entropy of the network's probabilities in bits, summed over the image at the network's size and divided by the
    expected area of the lesion (the sum of the probabilities, one pixel at least): high where what is found is unsure
    for its size. The plain mean over the image tells much less, as most of an image is surely background.

    Args:
        infer_tasks: of the models, by name.
    """

    def __init__(self, infer_tasks: dict[str, BundleInferTask]) -> None:
        super().__init__("Entropy of what each model predicts, a pixel of lesion")
        self.infer_tasks = infer_tasks

    def __call__(self, request: dict[str, Any], datastore: Datastore) -> dict[str, int]:
        """Score what has no score by the present weights.

        Returns:
            How many images have no label, and how many scores were made now.
        """
        images, made = datastore.get_unlabeled_images(), 0
        for name, task in self.infer_tasks.items():
            stamp = _stamp(task)
            for image in images:
                if datastore.get_image_info(image).get(f"{name}_weights") == stamp:
                    continue
                score = _entropy(task, datastore.get_image_uri(image), request.get("device", "cuda"))
                datastore.update_image_info(image, {f"{name}_entropy": score, f"{name}_weights": stamp})
                made += 1
        return {"total": len(images), "executed": made}


def _stamp(task: BundleInferTask) -> str:
    # Of all weights beside it: which of them a request takes is for the bundle to say.
    weights = sorted(Path(task.get_path()).parent.glob("*.[pt][ts]"))
    return " ".join(f"{path.name}:{path.stat().st_mtime_ns}" for path in weights)


def _entropy(task: BundleInferTask, image: str, device: str) -> float:
    data = {**task.config(), "image": image, "device": name_to_device(device)}
    data = task.run_pre_transforms(data, task.pre_transforms(data))
    logits = task.run_inferer(data, device=data["device"])[task.output_label_key]
    lesion = torch.as_tensor(logits).float().cpu().sigmoid().clamp(1e-7, 1 - 1e-7)
    bits = -(lesion * lesion.log2() + (1 - lesion) * (1 - lesion).log2())
    return float(bits.sum() / lesion.sum().clamp(min=1))


class BundleApp(MONAILabelApp):
    """The segmenters, each with a strategy of its own that serves the least certain image first."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        self.bundles = find_segmenters(Path(app_dir) / "model", conf.get("models", "all"))
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name=f"LAW & ORDER bundles ({monailabel.__version__})",
            description="Bundles that segment lesions which fill few pixels; for research",
            version=monailabel.__version__,
        )

    def init_infers(self) -> dict[str, InferTask]:
        """A task for each bundle."""
        return {name: SegmenterTask(str(bundle), self.conf) for name, bundle in self.bundles.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        """A task for each bundle that holds a training; a code-free one holds none."""
        tasks = {name: BundleTrainTask(str(bundle), self.conf) for name, bundle in self.bundles.items()}
        return {name: task for name, task in tasks.items() if task.is_valid()}

    def init_strategies(self) -> dict[str, Strategy]:
        """First, random, and of each bundle the least certain first."""
        least = {
            f"{LEAST_CERTAIN}_{name}": Epistemic(key=f"{name}_entropy", desc=f"What {name} is least certain of first")
            for name in self.bundles
        }
        return {**least, "first": First(), "random": Random()}

    def init_scoring_methods(self) -> dict[str, ScoringMethod]:
        """What the strategies choose by; MONAI Label runs it at its start, and after a training or a choice."""
        return {LEAST_CERTAIN: EntropyScoring(self._infers)}

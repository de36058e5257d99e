"""Writing what an inference run finds: a mask and an overlay an image, and one table."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from PIL import ExifTags, Image, ImageOps
from scipy import ndimage
from torch import Tensor

from ..errors import InputError
from ..files import write_atomically
from ..weights import weights_digest
from .dicom import is_dicom
from .dicom_mask import SegmentationSeries
from .images import read_rgb
from .layout import COLUMNS, MASKS, OVERLAYS, RESULTS, RESULTS_UNFINISHED, SEGMENTATIONS
from .overlay import draw_overlay

_TOUCHING = np.ones((3, 3), dtype=bool)  # pixels that meet at a corner belong to one lesion


class InferenceWriter:
    """Ignite handler that writes the results of a MONAI evaluator whose batches are decollated.

    The dataset's items come from `inference_items`. After postprocessing, each output holds under `mask_key` the mask
    and under `probability_key` the lesion's probability, both ``(1, H, W)`` at the size of the image file. Written:

    - ``masks/<name>.png``: 8 bit, 0 or 255, of the width and height of the image. Where the image has an EXIF
      orientation, the mask carries the same one, so that both are seen alike by programs that heed it and by those
      that do not.
    - ``overlays/<name>.png``: the image, upright, with the mask outlined and lightly filled.
    - ``segmentations/<name>.dcm``, of a DICOM image: the mask as a DICOM Segmentation object, see `SegmentationSeries`.
      It is the one result that names the patient; nothing of a DICOM file but its name gets into the others.
    - ``results.csv``, last of all, in the order of the dataset: image, width, height, lesion_pixels, area_fraction,
      lesions (connected parts, corners touching), confidence (mean probability inside the mask; blank where it is
      empty), max_probability (the highest in the image: for an empty mask, how near it came), mask, mask_sha256 (of
      its file: by it a later run into the same folder knows a mask that a person has corrected, and stops),
      segmentation and segmentation_sha256 (the same of the DICOM mask; blank where there is none).

    Every file is written whole or not at all. Until the run has ended, ``results.csv.unfinished`` stands in for the
    table. An earlier run's results of the same images are replaced; call `check_inference_inputs` first.

    Args:
        output_dir: the folder of results; made if it is not there.
        overlay: whether to draw overlays.
        mask_key, probability_key: where the postprocessing leaves both.
        checkpoint: the weights' file, by whose digest a DICOM mask tells what made it.
    """

    def __init__(
        self,
        output_dir: str | Path,
        overlay: bool = True,
        mask_key: str = "pred",
        probability_key: str = "probability",
        checkpoint: str | Path | None = None,
    ) -> None:
        self.output_dir = Path(os.path.abspath(os.path.expanduser(str(output_dir))))
        self.overlay = overlay
        self.mask_key = mask_key
        self.probability_key = probability_key
        self.checkpoint = checkpoint
        self._segmentations = SegmentationSeries()
        self._rows: list[dict[str, Any]] = []

    def attach(self, engine: Engine) -> None:
        """Write at each iteration's end, and the table when the run has completed."""
        engine.add_event_handler(Events.STARTED, self.start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self.write_batch)
        engine.add_event_handler(Events.COMPLETED, self.finish)

    def start(self, engine: Engine) -> None:
        """Mark the folder as one whose run has not ended.

        Raises:
            InputError: if the folder cannot be written to.
        """
        self._rows = []
        self._segmentations = SegmentationSeries(weights_digest(self.checkpoint) if self.checkpoint else "")
        write_atomically(self.output_dir / RESULTS_UNFINISHED, _table([]))
        (self.output_dir / RESULTS).unlink(missing_ok=True)

    def write_batch(self, engine: Engine) -> None:
        """Write the masks and overlays of one batch.

        Raises:
            InputError: if a prediction is not finite, or not of the image's size.
        """
        for item, output in zip(engine.state.batch, engine.state.output, strict=True):
            mask = _plane(output[self.mask_key]) > 0.5
            self._rows.append(self._write_image(item, mask, _plane(output[self.probability_key])))

    def finish(self, engine: Engine) -> None:
        """Write the table: the sign that the run is whole."""
        write_atomically(self.output_dir / RESULTS, _table(self._rows))
        (self.output_dir / RESULTS_UNFINISHED).unlink(missing_ok=True)
        found = sum(row["lesion_pixels"] > 0 for row in self._rows)
        engine.logger.info(f"{len(self._rows)} images, {found} with a lesion: {self.output_dir / RESULTS}")

    def _write_image(self, item: dict[str, Any], mask: np.ndarray, probability: np.ndarray) -> dict[str, Any]:
        image, orientation = read_rgb(item["image"].meta["filename_or_obj"])
        size = (image.height, image.width)
        if mask.shape != size or probability.shape != size:
            raise InputError(
                f"{item['file']} is {image.width}x{image.height} and its mask {mask.shape[1]}x{mask.shape[0]}; "
                "the postprocessing must resize the prediction back (Invertd)"
            )
        if not np.isfinite(probability).all():
            raise InputError(f"the network's output for {item['file']} is not finite; its weights are broken")
        mask_name = f"{MASKS}/{item['name']}.png"
        # The orientation is a note beside the pixels: both files keep theirs as stored.
        exif = Image.Exif()
        if orientation != 1:
            exif[ExifTags.Base.Orientation] = orientation
        content = _png(Image.fromarray(mask.astype(np.uint8) * 255), exif)
        write_atomically(self.output_dir / mask_name, content)
        segmentation, digest = self._write_segmentation(item, mask)
        self._write_overlay(item["name"], image, mask, exif)
        pixels = int(mask.sum())
        return {
            "image": item["file"],
            "width": image.width,
            "height": image.height,
            "lesion_pixels": pixels,
            "area_fraction": f"{pixels / mask.size:.6f}",
            "lesions": ndimage.label(mask, structure=_TOUCHING)[1],
            "confidence": f"{probability[mask].mean(dtype=np.float64):.4f}" if pixels else "",
            "max_probability": f"{probability.max():.4f}",
            "mask": mask_name,
            "mask_sha256": hashlib.sha256(content).hexdigest(),
            "segmentation": segmentation,
            "segmentation_sha256": digest,
        }

    def _write_segmentation(self, item: dict[str, Any], mask: np.ndarray) -> tuple[str, str]:
        # Its name and digest; both blank where the image is no DICOM.
        path = item["image"].meta["filename_or_obj"]
        if not is_dicom(path):
            return "", ""
        name = f"{SEGMENTATIONS}/{item['name']}.dcm"
        content = self._segmentations.encode(path, mask)
        write_atomically(self.output_dir / name, content)
        return name, hashlib.sha256(content).hexdigest()

    def _write_overlay(self, name: str, image: Image.Image, mask: np.ndarray, exif: Image.Exif) -> None:
        path = self.output_dir / OVERLAYS / f"{name}.png"
        if not self.overlay:
            path.unlink(missing_ok=True)  # an earlier run's, of another mask
            return
        drawn = Image.fromarray(draw_overlay(np.asarray(image), mask))
        drawn.getexif().update(exif)
        write_atomically(path, _png(ImageOps.exif_transpose(drawn)))


def _plane(tensor: Tensor) -> np.ndarray:
    if tensor.ndim != 3 or tensor.shape[0] != 1:
        raise InputError(f"a prediction has shape {tuple(tensor.shape)}; the network must give one channel, the lesion")
    return tensor[0].detach().float().cpu().numpy()


def _png(image: Image.Image, exif: Image.Exif | None = None) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="PNG", **({"exif": exif} if exif else {}))
    return stream.getvalue()


def _table(rows: list[dict[str, Any]]) -> bytes:
    stream = io.StringIO(newline="")
    table = csv.DictWriter(stream, COLUMNS, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    return stream.getvalue().encode(errors="surrogateescape")  # a file name need not be UTF-8

"""A drawn test set and a real evaluator over it; run as a script it evaluates as one of several processes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import ignite.distributed as idist
import numpy as np
import torch
from ignite.metrics import Metric
from monai.data import DataLoader, Dataset, DistributedSampler
from monai.engines import SupervisedEvaluator
from monai.transforms import (
    Activationsd,
    AsDiscreted,
    Compose,
    CopyItemsd,
    EnsureChannelFirstd,
    LoadImaged,
    ScaleIntensityd,
)
from PIL import Image

from common.evaluation.overlap import MeanDice, MeanIoU
from common.evaluation.report import SegmentationReport

SIDE = 64


def disc(centre: tuple[float, float], radius: float, side: int = SIDE) -> np.ndarray:
    """A filled circle as a boolean mask."""
    rows, columns = np.mgrid[:side, :side]
    return (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 <= radius**2


def draw_set(folder: Path, counts: dict[str, int], seed: int = 0, empty: Sequence[int] = ()) -> list[dict[str, str]]:
    """Noisy pictures of one disc each, two to a group; the numbers in `empty` (over the whole set) show none."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    items = []
    for source, count in counts.items():
        for i in range(count):
            mask = disc(tuple(rng.uniform(16, SIDE - 16, 2)), rng.uniform(3, 20))
            mask &= len(items) not in empty
            colour = np.where(mask[..., None], (190, 90, 80), (120, 60, 60)) + rng.normal(0, 40, (SIDE, SIDE, 3))
            name = f"{source}_{i}.png"
            Image.fromarray(colour.clip(0, 255).astype(np.uint8)).save(folder / "images" / name)
            Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / name)
            paths = {"image": str(folder / "images" / name), "label": str(folder / "masks" / name)}
            items.append(paths | {"source": source, "group": f"{source}_{i // 2}"})
    return items


def network(threshold: float = 0.55) -> torch.nn.Module:
    """One 5×5 average of the red channel against a threshold: a segmenter that is often nearly right."""
    layer = torch.nn.Conv2d(3, 1, 5, padding=2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[0, 0] = 1.0
        layer.bias.fill_(-25 * threshold)
    return layer


def evaluator(
    items: list[dict[str, str]],
    handlers: list,
    *,
    batch_size: int = 3,
    metrics: dict[str, Metric] | None = None,
    threshold: float = 0.55,
    discrete: bool = True,
) -> SupervisedEvaluator:
    """A `SupervisedEvaluator` as a bundle has it, over files on disk."""
    keys = ("image", "label")
    load = [
        LoadImaged(keys=keys, reader="PILReader", reverse_indexing=False),
        EnsureChannelFirstd(keys=keys),
        ScaleIntensityd(keys="image", minv=None, maxv=None, factor=1 / 255 - 1),
        AsDiscreted(keys="label", threshold=127.5),
    ]
    after = [Activationsd(keys="pred", sigmoid=True), CopyItemsd(keys="pred", names="probability")]
    data = Dataset(items, Compose(load))
    sampler = DistributedSampler(data, shuffle=False) if idist.get_world_size() > 1 else None
    return SupervisedEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(data, batch_size=batch_size, sampler=sampler, num_workers=0),
        network=network(threshold),
        postprocessing=Compose([*after, *([AsDiscreted(keys="pred", threshold=0.5)] if discrete else [])]),
        key_val_metric=metrics or {"val_mean_dice": MeanDice()},
        additional_metrics={"val_mean_iou": MeanIoU()},
        val_handlers=handlers,
    )


def main(folder: str, output_dir: str) -> None:
    """Evaluate a folder of `draw_set` under torchrun's environment variables; print the key metric."""
    root = Path(folder)
    paths = sorted((root / "images").iterdir())
    items = [
        {"image": str(path), "label": str(root / "masks" / path.name), "source": path.name.rsplit("_", 1)[0],
         "group": f"{path.name.rsplit('_', 1)[0]}_{int(path.stem.rsplit('_', 1)[1]) // 2}"}
        for path in paths
    ]  # fmt: skip
    with idist.Parallel(backend="gloo") as parallel:
        report = SegmentationReport(output_dir, root, bootstrap=100, cases=2, show=lambda table: None)
        engine = evaluator(items, [report])
        parallel.run(lambda rank: engine.run())
        print(repr(engine.state.metrics["val_mean_dice"]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

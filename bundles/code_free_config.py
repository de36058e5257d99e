"""The one config of a bundle without Python. It is made here, and `verify` makes it again and compares.

A list of names is no sandbox: what a name on it does depends on its arguments, and a saver that is on the list writes
wherever it is told. So all of this config is fixed but five plain values.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from .boot import FIND_FOLDER, IMPORTS

SUFFIX = "_code_free"
READS = ".png .jpg .jpeg .bmp .tif .tiff"

# Wrong inputs, told in a line each before any work; a config has no other means without code.
_CHECKS = (
    "$@dataset_dir or exit('error: give --dataset_dir, a folder of images')",
    f"$@items or exit('error: no image in ' + str(@dataset_dir) + '; the kinds are {READS}')",
    "$len({Path(i['image']).stem for i in @items}) == len(@items) or exit('error: two images have one name')",
    "$not any(Path(@output_dir).glob('*')) or exit('error: ' + @output_dir + ' is not empty; name a new folder')",
    "$0 < @threshold < 1 or exit('error: threshold has to be a number between 0 and 1')",
    # All are decoded before the first mask is written; one that is broken, or none of these, ends in an error.
    "$[Image.open(i['image'], formats=('PNG', 'JPEG', 'BMP', 'TIFF')).load() for i in @items] and None",
)
_ITEMS = (
    "$[{'image': str(p)} for p in sorted(Path(@dataset_dir).glob('*'))"
    f" if p.suffix.lower() in {tuple(READS.split())!r}] if @dataset_dir else []"
)
_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "La", "RGBa")  # of 8 bits a channel at most
_RGB = (
    f"$lambda image: image.convert('RGB') if image.mode in {_MODES!r}"
    " else exit('error: ' + image.filename + ' has more than 8 bits a channel; convert it to 8-bit RGB first')"
)

# What may differ between bundles, and what each may be.
VALUES: dict[str, tuple[type, Callable[[Any], bool], str]] = {
    "image_size": (int, lambda side: 32 <= side <= 4096 and side % 32 == 0, "a multiple of 32, 4096 at most"),
    "threshold": (float, lambda value: 0 < value < 1, "a number between 0 and 1"),
    "batch_size": (int, lambda count: 1 <= count <= 1024, "a whole number, 1 to 1024"),
    "num_workers": (int, lambda count: 0 <= count <= 64, "a whole number, 0 to 64"),
}


def inference_config(name: str, *, image_size: int, threshold: float, batch_size: int, num_workers: int) -> dict:
    """Masks for a folder of images, by MONAI's classes alone.

    Args:
        name: of the bundle, without `SUFFIX`.
        image_size: a side of what the network sees, pixels; divides by 32.
        threshold: of the probability.
        batch_size, num_workers: as of any inference.
    """
    after = _after()
    return {
        "dataset_dir": None,
        "output_dir": f"runs/{name}{SUFFIX}/masks",
        "batch_size": batch_size,
        "num_workers": num_workers,
        "image_size": image_size,
        "threshold": threshold,
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "imports": [*IMPORTS, "$from pathlib import Path", "$from PIL import Image"],
        "bundle_root": FIND_FOLDER,
        "checkpoint": "$@bundle_root + '/models/model.ts'",
        "network_def": {"_target_": "torch.jit.load", "f": "@checkpoint", "map_location": "@device"},
        "network": "@network_def",
        "preprocessing": {"_target_": "Compose", "transforms": _before()},
        "items": _ITEMS,
        "dataset": {"_target_": "Dataset", "data": "@items", "transform": "@preprocessing"},
        "dataloader": {
            "_target_": "DataLoader",
            "dataset": "@dataset",
            "batch_size": "@batch_size",
            "num_workers": "@num_workers",
        },
        "inferer": {"_target_": "SimpleInferer"},
        "postprocessing": {"_target_": "Compose", "transforms": [*after, *_saved()]},
        "displayable_configs": {"result_extension": ".png"},
        "post_transforms": {"_target_": "Compose", "transforms": [*after, *_as_file()]},
        "handlers": [{"_target_": "ignite.handlers.ProgressBar", "desc": "inference"}],
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
            "val_handlers": "@handlers",
        },
        "initialize": ["$monai.utils.set_determinism(seed=0)"],
        "run": [*_CHECKS, "$@evaluator.run()"],
        "inference": "@run",
    }


def _before() -> list[dict[str, Any]]:
    image = {"keys": "image"}
    # MONAI's reader and writer both turn width and height; what the network sees is turned back between them.
    return [
        {"_target_": "LoadImaged", **image, "reader": {"_target_": "PILReader", "converter": _RGB}},
        {"_target_": "EnsureChannelFirstd", **image},
        {"_target_": "Transposed", **image, "indices": [0, 2, 1]},
        {
            "_target_": "Resized", **image, "spatial_size": "$[@image_size, @image_size]", "mode": "bilinear",
            "anti_aliasing": True,
        },
        {"_target_": "ScaleIntensityRanged", **image, "a_min": 0, "a_max": 255, "b_min": 0.0, "b_max": 1.0},
    ]  # fmt: skip


def _after() -> list[dict[str, Any]]:
    pred = {"keys": "pred"}
    return [
        {"_target_": "Activationsd", **pred, "sigmoid": True},
        {"_target_": "Invertd", **pred, "orig_keys": "image", "transform": "@preprocessing", "nearest_interp": False},
        {"_target_": "AsDiscreted", **pred, "threshold": "@threshold"},
    ]


def _saved() -> list[dict[str, Any]]:
    pred = {"keys": "pred"}
    return [
        {
            "_target_": "SaveImaged", **pred, "output_dir": "@output_dir", "output_postfix": "", "output_ext": ".png",
            "output_dtype": "$np.uint8", "scale": 255, "resample": False, "separate_folder": False,
            "writer": "PILWriter", "print_log": False,
        },
    ]  # fmt: skip


def _as_file() -> list[dict[str, Any]]:
    pred = {"keys": "pred"}
    # What MONAI Label makes a file of: (W, H) of 0 and 255; it takes `post_transforms` in place of `postprocessing`.
    return [
        {"_target_": "SqueezeDimd", **pred, "dim": 0},
        {
            "_target_": "ScaleIntensityRanged",
            **pred,
            "a_min": 0,
            "a_max": 1,
            "b_min": 0,
            "b_max": 255,
            "dtype": "uint8",
        },
    ]


def config_fault(config: Mapping[str, Any], name: str) -> str | None:
    """Where a config is not the one that its bundle has to have, in one line; None where it is.

    Args:
        config: parsed JSON of ``configs/inference.json``.
        name: of the bundle.
    """
    values = {}
    for key, (kind, fits, told) in VALUES.items():
        value = config.get(key)
        if type(value) is not kind or not fits(value):
            return f"{key} is {str(value)[:100]!r}; it has to be {told}"
        values[key] = value
    wanted = inference_config(name.removesuffix(SUFFIX), **values)
    if _canonical(config) == _canonical(wanted):
        return None
    keys = [*wanted, *(key for key in config if key not in wanted)]
    found = next(
        key
        for key in keys
        if key not in config or key not in wanted or _canonical(config[key]) != _canonical(wanted[key])
    )
    return f"{found[:100]} is not as in every bundle without code"


def _canonical(value: Any) -> str:
    # As text: in Python true is 1 and 1 is 1.0.
    return json.dumps(value, sort_keys=True)

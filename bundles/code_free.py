"""A segmenter's bundle without any Python: TorchScript and MONAI's own classes, for who lets no code in."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from common.errors import InputError

from .code_free_config import READS, SUFFIX, VALUES, inference_config
from .configs import read_yaml, render
from .exporting import FORMATS, TOLERANCE, require_segmenter
from .logging_checks import LOGGING, STANDARD
from .manifest import CODE_FREE, NAME, build_manifest, json_bytes, packages_of
from .model_card import model_card
from .packing import CARD, Packed, requirements
from .sources import find_bundle, metadata_of, read_tree

_PACKAGES = ("fire", "pillow", "pytorch-ignite", "tqdm")  # of the full bundle's; MONAI's reader, engine and commands


def pack_code_free(root: Path, name: str) -> Packed:
    """Pack a segmenter's bundle as ``<name>_code_free``.

    Its masks are those of the full bundle: the same weights, the average over four flips, the same way to the image's
    own size. What it does not have: training, evaluation, overlays and table, alpha laid over black, DICOM.

    Raises:
        InputError: if there is no such bundle, it paints, or its exports do not compute the same.
    """
    folder = find_bundle(root, name)
    full = read_yaml(folder / "configs" / "inference.yaml")
    require_segmenter(full, name)
    metadata = _metadata(metadata_of(folder))
    files = {
        "LICENSE": (folder / "LICENSE").read_bytes(),
        "docs/data_license.txt": (folder / "docs" / "data_license.txt").read_bytes(),
        "docs/README.md": _page(name, metadata).encode(),
        CARD: model_card(metadata, name=name).encode(),
        "configs/metadata.json": json_bytes(metadata),
        LOGGING: STANDARD,
        "configs/inference.json": render(inference_config(name, **{key: full[key] for key in VALUES})),
        "requirements.txt": requirements(packages_of(metadata)),
    }
    for form in ("torchscript", "onnx"):
        files[f"models/{FORMATS[form]}"] = _exported_apart(root, name, form)
    tree = read_tree(root, [name, "common", "bundles"])
    whole, version = name + SUFFIX, metadata["version"]
    files[NAME] = build_manifest(whole, version, CODE_FREE, None, tree, packages_of(metadata), files)
    return Packed(whole, version, CODE_FREE, None, files)


def _metadata(full: dict[str, Any]) -> dict[str, Any]:
    packages = {name: full["required_packages_version"][name] for name in _PACKAGES}
    told = "Without Python code: TorchScript and MONAI's own classes; flips are averaged inside the network. "
    return {**full, "required_packages_version": packages, "description": told + full["description"]}


def _page(name: str, metadata: dict[str, Any]) -> str:
    figures = "\n".join(f"- {key}: {value}" for key, value in metadata["eval_metrics"].items())
    return f"""# {metadata["name"]}, without code

{metadata["task"]}.
The masks are those of the bundle `{name}` {metadata["version"]}, whose page tells how it was trained and measured.
This package holds its network as TorchScript (`models/model.ts`) and as ONNX (`models/model.onnx`, 256 × 256), with the
average over four flips inside, and no Python. `configs/inference.json` names MONAI's and PyTorch's own classes alone;
`MANIFEST.json` lists all that it can execute.

```
pip install -r requirements.txt
python -m monai.bundle run --config_file configs/inference.json --dataset_dir IMAGES --output_dir MASKS
```

`IMAGES` is a folder of images ({READS}), without its subfolders. `MASKS` is a new folder, which receives a mask for
each: PNG, 8 bit, 0 and 255, of the image's width and height. Colours other than RGB are converted; of an image with
transparency the colours below it are taken, where the full bundle lays it over black. There is no training, no table
and no overlay.

Measured, the mean Dice of the test images (the full bundle's figures, whose masks these are):

{figures}

{metadata["intended_use"]} The weights carry the terms of the images that they were trained on: `docs/data_license.txt`.
"""


def _exported_apart(root: Path, name: str, form: str) -> bytes:
    # In a process of its own, with the collection's own code: TorchScript numbers its classes by what came before.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FORMATS[form]
        command = [sys.executable, "-W", "ignore", "-m", "bundles", "export", name, "--format", form, "--flips"]
        ended = subprocess.run(
            [*command, "--out", str(file), "--json"], cwd=root, capture_output=True, text=True, check=False
        )
        if ended.returncode:
            raise InputError((ended.stderr.strip().splitlines() or ["export failed"])[-1].removeprefix("error: "))
        if not json.loads(ended.stdout)["largest_difference"] <= TOLERANCE:
            raise InputError(f"{name} as {form} is not the same network; nothing was packed")
        return file.read_bytes()

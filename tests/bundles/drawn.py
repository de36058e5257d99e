"""A prepared folder of tiny drawn images, sound or with one fault."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from common.data.folder import Pair, Split, write_prepared_folder

SIDE = 64  # pixels
TRAINING, VALIDATION, TEST = 4, 2, 2


def _pair(number: int) -> Pair:
    random = np.random.default_rng(number)
    rows, columns = np.mgrid[:SIDE, :SIDE]
    centre, radius = random.integers(20, SIDE - 20, 2), random.integers(6, 15)
    mask = (rows - centre[0]) ** 2 + (columns - centre[1]) ** 2 < radius**2
    image = (80 + random.integers(0, 40, (SIDE, SIDE, 3)) + 90 * mask[..., None]).astype(np.uint8)
    return Pair(image, mask, "drawn", f"scene_{number}", str(number))


def draw_prepared(folder: Path) -> Path:
    """Write `TRAINING`, `VALIDATION` and `TEST` pairs, one protocol, and return the folder."""
    pairs = [_pair(number) for number in range(TRAINING + VALIDATION + TEST)]
    names = [pair.name for pair in pairs]
    split = Split(names[:TRAINING], names[TRAINING + VALIDATION :], names[TRAINING : TRAINING + VALIDATION])
    write_prepared_folder(folder, pairs, {"drawn": split}, name="drawn", licence="Apache-2.0", progress=False)
    return folder


def paint_prepared(real: Path, folder: Path, count: int) -> Path:
    """A folder as LAW leaves one, of other drawn pairs, each told to be of the first training mask of `real`."""
    mask = Path(json.loads((real / "dataset.json").read_text())["training"][0]["label"]).name
    pairs = [
        Pair(pair.image, pair.mask, "law", f"mask {number}", str(number), extra={"source_mask": mask, "seed": number})
        for number, pair in ((number, _pair(100 + number)) for number in range(count))
    ]
    split = Split([pair.name for pair in pairs[1:]], [], [pairs[0].name])
    write_prepared_folder(folder, pairs, {"painted": split}, name="law", licence="Apache-2.0", progress=False)
    return folder


def truncate_image(folder: Path) -> None:
    path = folder / "images" / "drawn_0.png"
    path.write_bytes(path.read_bytes()[:300])


def remove_partner(folder: Path) -> None:
    (folder / "masks" / "drawn_1.png").unlink()


def resize_mask(folder: Path) -> None:
    Image.new("L", (SIDE + 1, SIDE), 255).save(folder / "masks" / "drawn_2.png")


def empty_masks(folder: Path) -> None:
    for path in (folder / "masks").iterdir():
        Image.new("L", (SIDE, SIDE)).save(path)


def unprepare(folder: Path) -> None:
    (folder / "dataset.json").unlink()


def break_datalist(folder: Path) -> None:
    (folder / "dataset.json").write_text("{")


def empty_validation(folder: Path) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    content["training"] += content.pop("validation")
    (folder / "dataset.json").write_text(json.dumps({**content, "validation": []}))


def empty_training(folder: Path) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    content["test"] += content.pop("training")
    (folder / "dataset.json").write_text(json.dumps({**content, "training": []}))


# What is done to a sound folder, and what the one line about it has to name.
FAULTS = {
    "missing": (shutil.rmtree, r"no such folder"),
    "unprepared": (unprepare, r"not prepared.*python -m common\.data prepare pairs"),
    "datalist": (break_datalist, r"dataset\.json.*not valid JSON"),
    "partner": (remove_partner, r"drawn_1\.png: no such file"),
    "truncated": (truncate_image, r"drawn_0\.png: unreadable or cut short"),
    "size": (resize_mask, rf"drawn_2\.png: is {SIDE}×{SIDE} but its mask {SIDE + 1}×{SIDE}"),
    "empty": (empty_masks, r"all 8 masks are empty"),
    "training": (empty_training, r"training list is empty"),
    "validation": (empty_validation, r"validation list is empty"),
}


def tree(folder: Path) -> dict[str, bytes | None]:
    """Everything below a folder, by relative path: the bytes of a file, None for a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }

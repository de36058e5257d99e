"""Which images an inference run reads, what it will call its results, and the checks before it starts."""

from __future__ import annotations

import csv
import hashlib
import os
from collections import defaultdict
from pathlib import Path

from tqdm import tqdm

from ..data.reading import SUFFIXES, is_image_file
from ..errors import InputError
from .dicom import DICOM_SUFFIXES, is_dicom
from .dicom_mask import check_dicom_libraries, check_dicom_mask
from .images import read_rgb
from .layout import MASKS, OVERLAYS, RESULTS, RESULTS_UNFINISHED, SEGMENTATIONS, is_results_table

_SHOWN = 10
_KINDS = (*SUFFIXES, *DICOM_SUFFIXES)


def list_images(path: str | Path) -> list[Path]:
    """List the images that `path` means, sorted, as absolute paths.

    - One file: that file.
    - A prepared folder (with ``dataset.json`` and ``images/``), or any with ``images/`` beside ``masks/``: what is
      under its ``images/``.
    - Any other folder: every image under it, subfolders included. Names that begin with a dot are left out.

    Suffixes, in either case: .jpg .jpeg .png .tif .tiff .bmp, and .dcm .dicom; a file without one is not looked into.

    Raises:
        InputError: if the path does not exist, is a file of another kind, or holds no image.
    """
    path = _given_path(path)
    kinds = " ".join(_KINDS)
    if not path.exists():
        raise InputError(f"{path} does not exist; give --dataset_dir an image or a folder of images")
    if not path.is_dir():
        if path.suffix.lower() not in _KINDS:
            raise InputError(f"{path} is not an image of a known kind; those are {kinds}")
        return [path]
    root = _images_root(path)
    images = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        images += [Path(folder, name) for name in names if is_image_file(Path(folder, name), _KINDS)]
    if not images:
        raise InputError(f"{root} holds no image; the kinds are {kinds}")
    return sorted(images, key=lambda image: image.relative_to(root).as_posix())


def inference_items(dataset_dir: str | Path) -> list[dict[str, str]]:
    """Make the items of an inference dataset, one an image of `list_images`.

    Each has ``image``, the absolute path; ``file``, the path below `dataset_dir`; and ``name``, the path of its results
    below ``masks/``, ``overlays/`` and ``segmentations/`` without a suffix. The name is the path below the images'
    folder without its suffix; images that would share one (``a.jpg`` beside ``a.png``) keep theirs (``a.jpg``,
    ``a.png``).

    Raises:
        InputError: as `list_images`.
    """
    path = _given_path(dataset_dir)
    images = list_images(path)
    base = path if path.is_dir() else path.parent
    root = _images_root(path) if path.is_dir() else path.parent
    names = _distinct_names([image.relative_to(root) for image in images])
    return [
        {"image": str(image), "file": image.relative_to(base).as_posix(), "name": name}
        for image, name in zip(images, names, strict=True)
    ]


def check_inference_inputs(dataset_dir: str | Path, output_dir: str | Path) -> None:
    """Check everything that can be known before an inference run starts; nothing is written.

    Every image is read whole, so a broken one is found here and not after an hour. `output_dir` must be new, empty,
    or the folder of an earlier run, finished or stopped, of which this run replaces every result: results of other
    images, or files of any other origin, are never mixed with or overwritten.

    Raises:
        InputError: as `list_images`; naming the broken images, all at once; if `output_dir` lies in the input folder
            or around it, holds anything that this run does not replace, or cannot be written to.
    """
    items = inference_items(dataset_dir)
    if output_dir is None or str(output_dir) == "":
        raise InputError("no output folder given; add --output_dir FOLDER")
    _check_output_folder(items, _given_path(dataset_dir), Path(os.path.abspath(os.path.expanduser(str(output_dir)))))
    if of_dicom := [item["image"] for item in items if is_dicom(item["image"])]:
        check_dicom_libraries(of_dicom[0])  # told once, and not for each
    faults = []
    for item in tqdm(items, desc="checking images", leave=False, disable=None):
        try:
            read_rgb(item["image"])
            if is_dicom(item["image"]):
                check_dicom_mask(item["image"])
        except InputError as error:
            faults.append(str(error))
    if len(faults) == 1:
        raise InputError(faults[0])
    if faults:
        more = f"; and {len(faults) - _SHOWN} more" if len(faults) > _SHOWN else ""
        raise InputError(f"{len(faults)} of {len(items)} images cannot be used: {'; '.join(faults[:_SHOWN])}{more}")


def _given_path(path: str | Path) -> Path:
    if path is None or str(path) == "":
        raise InputError("no images given; add --dataset_dir and an image or a folder of images")
    return Path(os.path.abspath(os.path.expanduser(str(path))))  # str(): the command line may read 2024 as a number


def _images_root(folder: Path) -> Path:
    images = folder / "images"
    if images.is_dir() and ((folder / "dataset.json").is_file() or (folder / "masks").is_dir()):
        return images
    return folder


def _distinct_names(paths: list[Path]) -> list[str]:
    # Compared without case, since the results may be copied to a disk that knows none. An image that shares its name
    # takes its full file name; those that still share one (Linux lets A.png lie beside a.png) are numbered.
    names = [path.with_suffix("").as_posix() for path in paths]
    attempts = [0] * len(paths)
    while True:
        groups = defaultdict(list)
        for index, name in enumerate(names):
            groups[name.casefold()].append(index)
        shared = [indices for indices in groups.values() if len(indices) > 1]
        if not shared:
            return names
        for indices in shared:
            fresh = [index for index in indices if attempts[index] == 0]
            for index in fresh or indices[1:]:
                number = "" if attempts[index] == 0 else f"_{attempts[index] + 1}"
                names[index] = paths[index].as_posix() + number
                attempts[index] += 1


def _check_output_folder(items: list[dict[str, str]], source: Path, output: Path) -> None:
    real_source, real_output = source.resolve(), output.resolve()
    if real_output.is_relative_to(real_source) or real_source.is_relative_to(real_output):
        raise InputError(
            f"the output folder {output} and the input {source} lie one in the other, and results would mix with "
            "images; name a folder elsewhere with --output_dir"
        )
    kinds = ((MASKS, "png"), (OVERLAYS, "png"), (SEGMENTATIONS, "dcm"))
    own = {output / kind / f"{item['name']}.{suffix}" for item in items for kind, suffix in kinds}
    read = {Path(item["image"]).resolve() for item in items}
    overwritten = sorted(read & {path.parent.resolve() / path.name for path in own})  # through a symbolic link
    if overwritten:
        raise InputError(f"results would overwrite the input {overwritten[0]}; name a new folder with --output_dir")
    if output.exists() and not output.is_dir():
        raise InputError(f"{output} is a file; name a folder with --output_dir")
    existing = next(folder for folder in (output, *output.parents) if folder.exists())
    if not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"cannot write to {existing}; name a folder that you may write to with --output_dir")
    if not output.is_dir() or not any(output.iterdir()):
        return
    if not any(is_results_table(output / name) for name in (RESULTS, RESULTS_UNFINISHED)):
        raise InputError(f"{output} is not empty and is no earlier result; name a new folder with --output_dir")
    _check_untouched(output)
    own |= {output / RESULTS, output / RESULTS_UNFINISHED}
    for folder, _, names in os.walk(output):
        for name in sorted(names):
            if Path(folder, name) not in own and not (name.startswith(".") and name.endswith(".part")):
                raise InputError(
                    f"{output} holds {Path(folder, name).relative_to(output)}, which this run would not replace; "
                    "name a new folder with --output_dir"
                )


def _check_untouched(output: Path) -> None:
    # A mask that is no longer the one that was written is somebody's work.
    if not (output / RESULTS).is_file():
        return
    with (output / RESULTS).open(newline="", errors="surrogateescape") as stream:
        rows = list(csv.DictReader(stream))
    written = {output / row["mask"]: row["mask_sha256"] for row in rows}
    written |= {output / row["segmentation"]: row["segmentation_sha256"] for row in rows if row.get("segmentation")}
    for path, digest in written.items():
        if path.is_file() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
            raise InputError(
                f"{path} was changed since it was written, and this run would replace it; name a new folder with "
                "--output_dir, or remove that file to have it written anew"
            )

"""Finding the polyp sets on a disk: each as it was released, or as PraNet and others have sorted it."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from ..errors import InputError
from .folder import Pair
from .matching import image_files, match, part_mixed

# What the paper counts of each (METHOD: 900 + 100, 550 + 62, 380, 196, 60).
PAPER_COUNTS = {"kvasir_seg": 1000, "cvc_clinicdb": 612, "cvc_colondb": 380, "etis": 196, "cvc_300": 60}
SOURCES = tuple(PAPER_COUNTS)

_SPLITS = Path(__file__).parent / "splits"
_WORDS = {
    "kvasir": "kvasir_seg",
    "clinicdb": "cvc_clinicdb",
    "colondb": "cvc_colondb",
    "etis": "etis",
    "cvc300": "cvc_300",
}
_IMAGE_FOLDERS = ("images", "image", "original")
_MASK_FOLDERS = ("masks", "mask", "ground truth", "groundtruth", "ground_truth", "gt")
_DEPTH = 4  # folders below the given one that are searched
_NUMBERED = re.compile(r"p?\d+")


@cache
def published_names(source: str, part: str) -> tuple[str, ...]:
    """Item names of the published split of "kvasir_seg" (900/100) or "cvc_clinicdb" (550/62).

    It is the split of PraNet (Fan et al. 2020), which the paper and most others report on; `part` is "train" or "test".
    """
    return tuple(f"{source}_{stem}" for stem in (_SPLITS / f"{source}_{part}.txt").read_text().split())


@cache
def clinicdb_sequences() -> tuple[tuple[int, int, int], ...]:
    """`(first frame, last frame, sequence)` of the 29 sequences of CVC-ClinicDB, as published with the set."""
    with open(_SPLITS / "cvc_clinicdb_sequences.csv", newline="") as file:
        rows = csv.DictReader(file)
        return tuple((int(row["first_frame"]), int(row["last_frame"]), int(row["sequence"])) for row in rows)


def group_of(source: str, stem: str) -> str:
    """The group of an image, as far as its set tells: a sequence of CVC-ClinicDB, a whole set of unknown sequences
    (CVC-300 was cut from the videos of CVC-ColonDB, so they share one), or the image of Kvasir-SEG alone."""
    if source == "cvc_clinicdb":
        for first, last, sequence in clinicdb_sequences():
            if stem.isdigit() and first <= int(stem) <= last:
                return f"cvc_clinicdb_seq_{sequence:02d}"
    if source == "kvasir_seg":
        return f"kvasir_seg_{stem}"
    return "cvc_colondb" if source == "cvc_300" else source


def _subfolders(folder: Path) -> dict[str, Path]:
    try:
        return {path.name.lower(): path for path in sorted(folder.iterdir()) if path.is_dir() and path.name[0] != "."}
    except OSError as error:
        raise InputError(f"{folder}: {(error.strerror or str(error)).lower()}") from None


def _layouts(folder: Path, depth: int = _DEPTH) -> Iterator[tuple[Path, Path | None]]:
    # Every (images, masks) at or below a folder. Equal paths: both lie in one folder, as 1.bmp and p1.bmp; None for
    # an images/ that has no masks/ beside it.
    below = _subfolders(folder)
    masks = next((below[name] for name in _MASK_FOLDERS if name in below), None)
    images = next((below[name] for name in _IMAGE_FOLDERS if name in below), None)
    if masks and not images:
        others = [path for path in below.values() if path != masks and image_files(path)]
        images = others[0] if len(others) == 1 else folder
    if images and image_files(images):
        yield images, masks
        return
    if part_mixed(image_files(folder))[1]:
        yield folder, folder
    if depth:
        for path in below.values():
            yield from _layouts(path, depth - 1)


def _read_layout(images: Path, masks: Path) -> tuple[list[tuple[str, Path, Path]], list[str]]:
    if images != masks:
        return match(image_files(images), image_files(masks))
    # CVC-ColonDB as released has further drawings, s1.bmp and c1.bmp, in the same folder
    return match(*part_mixed(path for path in image_files(images) if _NUMBERED.fullmatch(path.stem)))


def _named_source(folder: Path, root: Path) -> str | None:
    # The innermost folder name, from `folder` up to `root`, that names a set.
    for path in (folder, *folder.parents):
        plain = re.sub("[^a-z0-9]", "", path.name.lower())
        for word, source in _WORDS.items():
            if word in plain:
                return source
        if path == root:
            break
    return None


@cache
def _published_stems(source: str) -> frozenset[str]:
    names = [*published_names(source, "train"), *published_names(source, "test")]
    return frozenset(name.removeprefix(f"{source}_") for name in names)


def _mixed_sources(stems: Iterable[str]) -> dict[str, str] | None:
    # PraNet's TrainDataset holds Kvasir-SEG and CVC-ClinicDB in one folder; their names tell them apart.
    found = {}
    for stem in stems:
        source = next((s for s in ("kvasir_seg", "cvc_clinicdb") if stem in _published_stems(s)), None)
        if source is None:
            return None
        found[stem] = source
    return found if "kvasir_seg" in found.values() else None  # numbers alone could be of any set


def _plain_stem(stem: str, source: str) -> str:
    return str(int(stem)) if stem.isdigit() and source != "kvasir_seg" else stem


def find_sets(
    folders: Sequence[str | Path], named: Mapping[str, str | Path]
) -> tuple[list[Pair], list[str], list[str]]:
    """Find the pairs of every polyp set.

    A set is a folder with images/ and masks/ (or Original/ and "Ground Truth"/, or image/ and mask/), or one in which
    p1.bmp is the mask of 1.bmp. Its source is told by the innermost folder name that has kvasir, clinicdb, colondb,
    etis or cvc-300 in it, whatever the case; of PraNet's TrainDataset by the published names of its files. A pair that
    is met again, as in TestDataset beside the released sets, counts once, and images of Kvasir-SEG and CVC-ClinicDB
    that the published split does not know are left out.

    Args:
        folders: to search, down to four folders below.
        named: a folder by source, where names do not tell.

    Returns:
        The pairs sorted by source and name, notes for the reader, and faults (a partner that is missing).

    Raises:
        InputError: if a given folder is not there.
    """
    found: dict[str, Pair] = {}
    notes: list[str] = []
    faults: list[str] = []
    given = [(Path(folder), None) for folder in folders] + [(Path(folder), source) for source, folder in named.items()]
    for root, source in given:
        if not root.is_dir():
            raise InputError(f"{root}: no such folder; name the folder that holds the polyp sets")
        root = Path(os.path.abspath(root))  # "." has no name of its own
        before = len(found), len(notes)
        for images, masks in _layouts(root):
            _add_layout(images, masks, root, source, found, notes, faults)
        if (len(found), len(notes)) == before and not faults:
            notes.append(f"{root}: no polyp set in it")
    return sorted(found.values(), key=lambda pair: pair.name), notes, faults


def _add_layout(
    images: Path,
    masks: Path | None,
    root: Path,
    source: str | None,
    found: dict[str, Pair],
    notes: list[str],
    faults: list[str],
) -> None:
    if masks is None:
        if source or _named_source(images, root):
            faults.append(f"{images}: no folder of masks beside it; looked for {', '.join(_MASK_FOLDERS)}")
        return
    matched, own_faults = _read_layout(images, masks)
    mixed = None if source else _mixed_sources(stem for stem, _, _ in matched)
    source = source or _named_source(images, root)
    if source is None and mixed is None:
        flags = " or ".join(f"--{name}" for name in SOURCES)
        notes.append(f"{images}: passed over, no folder name tells which polyp set it is; say it with {flags}")
        return
    faults += own_faults
    unknown = twice = 0
    for stem, image, mask in matched:
        own = mixed[stem] if mixed else source
        stem = _plain_stem(stem, own)
        if own in ("kvasir_seg", "cvc_clinicdb") and stem not in _published_stems(own):
            unknown += 1
            continue
        pair = Pair(image, mask, own, group_of(own, stem), stem)
        twice += found.setdefault(pair.name, pair) is not pair
    if unknown:
        notes.append(f"{images}: {unknown} left out, the published split does not know their names")
    if twice:
        notes.append(f"{images}: {twice} left out, met before under the same name")

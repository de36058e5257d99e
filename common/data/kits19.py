"""`prepare kits19`: KiTS19 → one prepared folder of axial slices that show a tumour.

Read are, at or below the folder given:

- volumes: case_00000/ with imaging.nii.gz and segmentation.nii.gz (0 background, 1 kidney, 2 tumour), in any
  orientation; see `volumes` for how a slice comes out. CT values go through a window: by default 500 HU wide at level
  50 HU, so −200 to 300 HU become 0 to 255. The paper gives none.
- slices cut before: images/ and masks/ of case_00000_000.png (or .jpg), 8 bit, with masks of the same three values.
  Their window is whatever it was.

A slice is taken if at least 50 of its pixels are tumour; the mask is the tumour alone. An item has its "case" and
"slice", counted from the head down and from 0, as in the released files.

Protocol `law`: the slices of 21 of the 210 cases are test. They are the first 21 of `list(range(210))` once
`random.Random(42)` has shuffled it. With the 50 pixels this gives the paper's counts of 5,003 and 531; the paper states
neither. Of the other cases, whole ones of at most a tenth of the slices together are validation. A case is a group.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np

from ..errors import InputError
from .folder import VALIDATION_FRACTION, Pair, Prepared, Split, join_faults, write_prepared_folder
from .grouping import join_groups, take_groups
from .matching import image_files, match
from .progress import bar
from .reading import mask_values, open_image
from .volumes import SUFFIXES, Volume, grid_fault, open_volume, read_blocks, read_slices, window_8bit

SOURCE = "kits19"
LICENCE = "CC BY-NC-SA 4.0 (KiTS19, Heller et al.)"
PROTOCOL = "law"
KIDNEY, TUMOUR = 1, 2
LABELLED = 210  # cases 0 to 209; KiTS19 gives no segmentation of the others
TEST_CASES = 21
SPLIT_SEED = 42
MIN_PIXELS = 50
WINDOW, LEVEL = 500.0, 50.0  # HU
PAPER_COUNTS = {"training": 5003, "test": 531}

_CASE = re.compile(r"case_(\d{5})", re.IGNORECASE)
_SLICE = re.compile(r"case_(\d{5})_(\d+)", re.IGNORECASE)
_DEPTH = 3  # folders below the given one that are searched
_NAMED = 3  # examples in a line that counts


def held_out_cases() -> frozenset[int]:
    """The numbers of the cases whose slices are test."""
    cases = list(range(LABELLED))
    random.Random(SPLIT_SEED).shuffle(cases)
    return frozenset(cases[:TEST_CASES])


@dataclass(frozen=True)
class Case:
    """A case as volumes.

    Attributes:
        number: of the case.
        imaging: CT values in HU.
        segmentation: 0, 1 and 2, on the same grid.
        wanted: the slices to take, once they are counted.
    """

    number: int
    imaging: Volume
    segmentation: Volume
    wanted: tuple[int, ...] = ()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


def _file(folder: Path, name: str) -> Path | None:
    return next((path for suffix in SUFFIXES if (path := folder / f"{name}{suffix}").is_file()), None)


def _walk(folder: Path, depth: int = _DEPTH) -> Iterator[Path]:
    # The folder and those below it; not what lies in a case.
    yield folder
    if depth and not _CASE.fullmatch(folder.name):
        try:
            below = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError as error:
            raise InputError(f"{folder}: {(error.strerror or str(error)).lower()}") from None
        for path in below:
            yield from _walk(path, depth - 1)


def find_cases(folders: Iterable[Path]) -> tuple[list[tuple[int, Path, Path]], list[str], list[str]]:
    """The number, imaging file and segmentation file of each case folder; notes; faults: a partner that is missing.

    A case from 210 on without a segmentation is none: KiTS19 has kept those back.
    """
    found: dict[int, tuple[int, Path, Path]] = {}
    lacking: dict[str, list[str]] = {"imaging": [], "segmentation": []}
    notes, faults, kept_back = [], [], 0
    for folder in folders:
        if not (named := _CASE.fullmatch(folder.name)):
            continue
        number, imaging, segmentation = int(named[1]), _file(folder, "imaging"), _file(folder, "segmentation")
        if imaging and segmentation:
            if number in found:
                faults.append(f"{folder}: there is {found[number][1].parent} too; keep one")
            found[number] = number, imaging, segmentation
        elif segmentation is None and number >= LABELLED:
            kept_back += 1
        else:
            lacking["imaging" if imaging is None else "segmentation"].append(str(folder))
    for name, where in lacking.items():
        if where:
            mend = "KiTS19's starter_code.get_imaging fetches them" if name == "imaging" else "fetch them again"
            mend += ", or remove the cases, or name a folder of slices alone"
            faults.append(f"{len(where)} cases without {name}.nii.gz: {_some(where)}; {mend}")
    if kept_back:
        notes.append(f"{kept_back} cases from {LABELLED} on left out: KiTS19 gives no segmentation of them")
    return [found[number] for number in sorted(found)], notes, faults


def count_tumour(segmentation: Volume) -> np.ndarray:
    """Tumour pixels of each axial slice, `(slices,)`.

    Raises:
        InputError: for a value other than 0, 1 and 2, and as `volumes.read_blocks`.
    """
    counts = np.zeros(segmentation.shape[0], np.int64)
    for box, values in read_blocks(segmentation):
        tumour = values == TUMOUR
        wrong = ~(tumour | (values == KIDNEY) | (values == 0))
        if wrong.any():
            raise InputError(
                f"{segmentation.path}: has the value {values[wrong].flat[0]:g}; the values of KiTS19 are 0 background, "
                f"1 kidney and 2 tumour"
            )
        counts[box[0]] += tumour.sum(axis=(1, 2))
    return counts


def survey(
    found: Sequence[tuple[int, Path, Path]], min_pixels: int, faults: list[str], progress: bool = True
) -> list[Case]:
    """Check the headers of each case and its segmentation, and choose its slices; what is wrong goes to `faults`."""
    cases = []
    for number, imaging, segmentation in bar(found, "look", "case", None, progress and bool(found)):
        try:
            case = Case(number, open_volume(imaging), open_volume(segmentation))
            if fault := grid_fault(case.imaging, case.segmentation):
                raise InputError(f"{imaging.parent}: {fault}; fetch the case again, or remove it")
            counts = count_tumour(case.segmentation)
        except InputError as error:
            faults.append(str(error))
            continue
        wanted = tuple(np.flatnonzero(counts >= min_pixels).tolist())
        cases.append(Case(number, case.imaging, case.segmentation, wanted))
    return cases


def _stem(number: int, place: int) -> str:
    return f"case_{number:05d}_{place:03d}"


def _pair(number: int, place: int, image: Path | np.ndarray, mask: Path | np.ndarray, value: int | None) -> Pair:
    case = f"case_{number:05d}"
    extra = {"case": case, "slice": place}
    return Pair(image, mask, SOURCE, f"{SOURCE}_{case}", _stem(number, place), value, extra)


def cut(cases: Iterable[Case], window: float, level: float, faults: list[str]) -> Iterator[Pair]:
    """The chosen slices of each case, one volume at a time; a volume that cannot be read goes to `faults`."""
    for case in cases:
        if not case.wanted:
            continue
        try:
            images = read_slices(case.imaging, case.wanted, partial(window_8bit, window=window, level=level))
            masks = read_slices(case.segmentation, case.wanted, lambda values: values == TUMOUR)
        except InputError as error:
            faults.append(str(error))
            continue
        for place, image, mask in zip(case.wanted, images, masks, strict=True):
            yield _pair(case.number, place, np.repeat(image[..., None], 3, axis=2), mask, None)


def find_slices(
    folders: Iterable[Path], min_pixels: int, faults: list[str], progress: bool = True
) -> tuple[list[Pair], int]:
    """The pairs of every images/ with masks/ beside it that show enough tumour, and how many show less."""
    matched: list[tuple[str, Path, Path]] = []
    for folder in folders:
        if (folder / "images").is_dir() and (folder / "masks").is_dir():
            own, missing = match(image_files(folder / "images"), image_files(folder / "masks"))
            matched += own
            faults += missing
    pairs, fewer = [], 0
    for stem, image, mask in bar(matched, "look", "slice", None, progress and bool(matched)):
        if not (named := _SLICE.fullmatch(stem)):
            faults.append(f"{image}: its name tells no case and slice, as case_00025_064 does; rename it")
            continue
        try:
            values = mask_values(open_image(mask), indices=True)
        except InputError as error:
            faults.append(str(error))
            continue
        if wrong := set(np.unique(values).tolist()) - {0, KIDNEY, TUMOUR}:
            faults.append(f"{mask}: has the value {min(wrong)}; the values are 0 background, 1 kidney and 2 tumour")
        elif (values == TUMOUR).sum() >= min_pixels:
            pairs.append(_pair(int(named[1]), int(named[2]), image, mask, TUMOUR))
        else:
            fewer += 1
    return pairs, fewer


def split_cases(names: Mapping[str, int], seed: int, description: str = "") -> Split:
    """The lists of `law`: test by `held_out_cases`, validation of whole cases in an order that `seed` draws.

    Args:
        names: the number of the case of each pair's name.
        seed: of the validation list alone.
        description: of the protocol.
    """
    held = held_out_cases()
    pool = {name: f"{number:05d}" for name, number in names.items() if number not in held}
    count = round(VALIDATION_FRACTION * len(pool))
    validation = set(take_groups(join_groups(pool), count, f"{SOURCE} validation {seed}"))
    training = [name for name in pool if name not in validation]
    return Split(training, [name for name in names if name not in pool], sorted(validation), description)


@dataclass(frozen=True)
class Found:
    """What there is to prepare.

    Attributes:
        cases: volumes, with the slices to take.
        slices: pairs cut before, of other cases.
        fewer: slices cut before that show too little tumour.
        notes: a line each.
    """

    cases: Sequence[Case]
    slices: Sequence[Pair]
    fewer: int
    notes: Sequence[str]

    def names(self) -> dict[str, int]:
        """The number of the case of each `Pair.name`."""
        taken = [(case.number, place) for case in self.cases for place in case.wanted]
        taken += [(int(pair.extra["case"][-5:]), pair.extra["slice"]) for pair in self.slices]
        return {f"{SOURCE}_{_stem(number, place)}": number for number, place in taken}


def find(folder: str | Path, min_pixels: int, progress: bool = True) -> Found:
    """Find and check all that KiTS19 has in a folder, but for the CT values themselves.

    Raises:
        InputError: with every fault at once.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; name the folder that holds KiTS19's cases")
    folders = list(_walk(Path(folder).resolve()))
    files, notes, faults = find_cases(folders)
    cases = survey(files, min_pixels, faults, progress)
    slices, fewer = find_slices(folders, min_pixels, faults, progress)
    times = Counter(pair.name for pair in slices)
    faults += [f"{name}: there are two slices of this name; keep one" for name in times if times[name] > 1]
    numbers = {number for number, _, _ in files}
    others = [pair for pair in slices if int(pair.extra["case"][-5:]) not in numbers]
    if len(others) < len(slices):
        notes.append(f"{len(slices) - len(others)} slices left out: their cases are there as volumes")
    if not faults and not files and not others and not fewer:
        faults.append(f"{folder}: no case_00000 with imaging.nii.gz and segmentation.nii.gz in it, and no slices")
    if faults:
        raise join_faults(faults, str(folder))
    return Found(cases, others, fewer, notes)


def _notes(found: Found, split: Split, min_pixels: int) -> list[str]:
    notes = list(found.notes)
    if without := [f"case_{case.number:05d}" for case in found.cases if not case.wanted]:
        notes.append(f"{len(without)} cases have no slice with {min_pixels} tumour pixels: {_some(without)}")
    if found.fewer:
        notes.append(f"{found.fewer} slices left out: fewer than {min_pixels} tumour pixels")
    if not split.validation:
        notes.append("the validation list is empty: no case is small enough for a tenth of the slices")
    counts = {"training": len(split.training) + len(split.validation or ()), "test": len(split.test)}
    if min_pixels == MIN_PIXELS and any(counts[key] < whole for key, whole in PAPER_COUNTS.items()):
        parts = [f"{key} {counts[key]:,} of {whole:,}" for key, whole in PAPER_COUNTS.items()]
        notes.append(f"against the paper's counts of slices: {', '.join(parts)} (training with its validation)")
    return notes


def _description(found: Found, min_pixels: int, window: float, level: float) -> str:
    parts = [f"Split by case; slices with at least {min_pixels} tumour pixels"]
    if found.cases:
        parts.append(f"of volumes, {level - window / 2:g} to {level + window / 2:g} HU are 0 to 255")
    if found.slices:
        parts.append("of slices cut before, the window is not known")
    return "; ".join(parts) + "."


def prepare_kits19(
    out: str | Path,
    folder: str | Path,
    *,
    window: float = WINDOW,
    level: float = LEVEL,
    min_pixels: int = MIN_PIXELS,
    seed: int = 0,
    progress: bool = True,
) -> Prepared:
    """Write a prepared folder of KiTS19.

    Args:
        out: a new or empty folder.
        folder: holds case_00000/ …, or images/ and masks/ of slices, down to three folders below.
        window: width in HU of what becomes 0 to 255.
        level: its centre in HU.
        min_pixels: tumour pixels that a slice has at least; 0 takes every slice.
        seed: of the validation list.
        progress: show bars.

    Raises:
        InputError: with every fault of folders, headers and segmentations at once (a missing partner, another shape or
            affine, a wrong value, a file that is cut short), then of the images (cut short, voxels that are not
            finite). Nothing is left behind.
    """
    if not (np.isfinite([window, level]).all() and window > 0):
        raise InputError(f"window is {window:g} and level {level:g}; they have to be numbers, and the window over 0")
    if min_pixels < 0:
        raise InputError(f"min_pixels is {min_pixels}; it has to be 0 or more")
    found = find(folder, min_pixels, progress)
    names = found.names()
    split = split_cases(names, seed, _description(found, min_pixels, window, level))
    if not split.training:
        raise InputError(f"{folder}: nothing to train on; {len(names)} slices have enough tumour, all of test cases")
    faults: list[str] = []
    lists = write_prepared_folder(
        out,
        chain(cut(found.cases, window, level, faults), found.slices),
        {PROTOCOL: split},
        name="kits19",
        labels={"0": "background", "1": "tumour"},
        licence=LICENCE,
        seed=seed,
        progress=progress,
        total=len(names),
        faults=faults,
    )
    return Prepared(lists, _notes(found, split, min_pixels))

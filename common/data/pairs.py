"""`prepare pairs`: any folder of images and folder of masks, matched by name → one prepared folder."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import InputError
from .folder import Pair, Prepared, Split, join_faults, write_prepared_folder
from .grouping import join_groups, take_groups
from .likeness import near_pairs, sign_files
from .matching import image_files, match, no_images, part_mixed

PROTOCOL = "default"
DESCRIPTION = "Split by group; near-identical images are of one group."


def read_groups(path: str | Path) -> dict[str, str]:
    """The group of each stem, from a CSV with the columns stem and group, in this order; a heading is optional.

    Raises:
        InputError: if it cannot be read, or a row has not two fields.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = [(number, row) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); it has to be a CSV of stem,group") from None
    if rows and [field.strip().lower() for field in rows[0][1]] == ["stem", "group"]:
        rows = rows[1:]
    faults = [f"{path}: line {number} has {len(row)} fields, not stem,group" for number, row in rows if len(row) != 2]
    if faults:
        raise join_faults(faults, str(path))
    return {stem.strip(): group.strip() for _, (stem, group) in rows}


def _share(count: int, fraction: float) -> int:
    # At least one where a share is asked for and enough are left to train on.
    return max(round(fraction * count), 1 if fraction > 0 and count >= 3 else 0)


def split_groups(
    groups: Mapping[str, str], links: list[tuple[str, str]], test_fraction: float, validation_fraction: float, seed: int
) -> Split:
    """Test, then validation of the rest, each of whole groups and as near to its fraction as these allow from below.

    Args:
        groups: the group of each name.
        links: further pairs of names that belong together.
        test_fraction: of all.
        validation_fraction: of what is not test.
        seed: of both.
    """
    joined = join_groups(groups, links)
    test = set(take_groups(joined, _share(len(groups), test_fraction), f"test {seed}"))
    rest = [group for group in joined if group[0] not in test]
    left = sum(map(len, rest))
    validation = set(take_groups(rest, _share(left, validation_fraction), f"validation {seed}"))
    training = [name for group in rest for name in group if name not in validation]
    return Split(training, sorted(test), sorted(validation), DESCRIPTION)


def _groups_of(stems: list[str], groups: str | Path | None, source: str, faults: list[str]) -> dict[str, str]:
    if groups is None:
        return {stem: f"{source}_{stem}" for stem in stems}
    given = read_groups(groups)
    faults += [f"{groups}: names no group for {stem}" for stem in stems if stem not in given]
    return {stem: f"{source}_{given.get(stem, stem)}" for stem in stems}


def _check_fractions(**fractions: float) -> None:
    for name, value in fractions.items():
        if not 0 <= value < 1:
            raise InputError(f"{name} is {value}; it has to be at least 0 and less than 1")


def prepare_pairs(
    images: str | Path,
    masks: str | Path,
    out: str | Path,
    *,
    name: str | None = None,
    label: str = "lesion",
    licence: str = "not stated",
    test_fraction: float = 0.1,
    validation_fraction: float = 0.1,
    seed: int = 0,
    groups: str | Path | None = None,
    label_value: int | None = None,
    progress: bool = True,
) -> Prepared:
    """Write a prepared folder of any images and masks.

    Args:
        images: a folder of images, `.jpg .jpeg .png .tif .tiff .bmp`.
        masks: a folder of masks that have the image's stem, or it and `_mask`, `_segmentation`, `_seg`, `_label`,
            `_groundtruth` or `_gt`, or a leading `p`; may be the same folder.
        out: a new or empty folder.
        name: of the dataset, and the source of its items; the name of `out` if not given.
        label: what the lesion is called.
        licence: the terms of the images.
        test_fraction: of all; those near-identical, and those of a group, stay together.
        validation_fraction: of what is not test.
        seed: of the split.
        groups: a CSV of stem,group, as patients or sequences.
        label_value: the mask value that is the lesion; without it, those > 127 (or > 0 where the largest is 1).
        progress: show bars.

    Raises:
        InputError: with every fault at once: missing partners, unreadable files, sizes that differ, images without a
            group. Nothing is left behind.
    """
    _check_fractions(test_fraction=test_fraction, validation_fraction=validation_fraction)
    images, masks, name = Path(images), Path(masks), name or Path(out).resolve().name
    found = image_files(images)
    if not found:
        raise no_images(images)
    same = masks.is_dir() and images.samefile(masks)
    matched, faults = match(*part_mixed(found)) if same else match(found, image_files(masks))
    group_of = _groups_of([stem for stem, _, _ in matched], groups, name, faults)
    pairs = [Pair(image, mask, name, group_of[stem], stem, label_value) for stem, image, mask in matched]
    lists = write_prepared_folder(
        out,
        pairs,
        _protocols(test_fraction, validation_fraction, seed, progress),
        name=name,
        labels={"0": "background", "1": label},
        licence=licence,
        seed=seed,
        progress=progress,
        faults=faults,
    )
    return Prepared(lists, _empty_lists(lists, test_fraction, validation_fraction))


def _protocols(test_fraction: float, validation_fraction: float, seed: int, progress: bool) -> Callable:
    def protocols(folder: Path, items: Mapping[str, Mapping[str, str]]) -> dict[str, Split]:
        names = list(items)
        signatures = sign_files([folder / items[key]["image"] for key in names], progress)
        links = [(names[i], names[j]) for i, j in near_pairs(signatures)]
        own = {key: item["group"] for key, item in items.items()}
        return {PROTOCOL: split_groups(own, links, test_fraction, validation_fraction, seed)}

    return protocols


def _empty_lists(lists: Mapping[str, Mapping], test_fraction: float, validation_fraction: float) -> list[str]:
    wanted = {"test": test_fraction, "validation": validation_fraction}
    return [
        f"the {key} list is empty: no group is small enough for {fraction:.0%} of the images"
        for key, fraction in wanted.items()
        if fraction and not lists[PROTOCOL][key]
    ]

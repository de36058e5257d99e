"""`prepare brisc`: BRISC 2025, as released or in plain folders → one prepared folder.

Read are, at or below the folder given, in upper or lower case:

- images/ with masks/ beside it, as in the release's segmentation_task/{train,test};
- no_tumor/, as in its classification_task/{train,test}: images with an empty mask each.

Each name tells the list, the class and the plane: brisc2025_test_00001_gl_ax_t1.jpg is of the test list, a glioma,
axial; an item has the latter two as "class" and "plane". The release names no patient; copies of one image are a group.

Protocols over the same images, of which the first is the default; test lists are the release's and never move:

- `order`: all images (5,000 for training and 1,000 test images in the release);
- `law`: those with a tumour alone (3,933 and 860);
- `order_released`, `law_released`: the same, with every copy left where the release has it.

The release holds pictures twice, as they are and mirrored left to right, also across its two lists: of the 560 test
images with a tumour at hand, more than half stand in training. The rule: training has no copy of what it is measured
on. A copy is a near-identical picture in the sense of `likeness`, and copies of copies are copies, in one group. So
images that are copies of a test image leave the training pool first; then a tenth of what is left is validation, by
`folder.split_validation` over the first image of each group, whose others go with it. The notes count the copies.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from .folder import Pair, Prepared, Split, join_faults, split_validation, write_prepared_folder
from .grouping import join_groups
from .likeness import near_pairs, sign_files
from .matching import image_files, match

SOURCE = "brisc2025"
LICENCE = "CC BY 4.0 (BRISC 2025, Fateh et al.)"
CLASSES = {"gl": "glioma", "me": "meningioma", "pi": "pituitary", "no": "none", "nt": "none"}
PLANES = {"ax": "axial", "co": "coronal", "sa": "sagittal"}
RELEASED = {
    "train": {"glioma": 1147, "meningioma": 1329, "pituitary": 1457, "none": 1067},
    "test": {"glioma": 254, "meningioma": 306, "pituitary": 300, "none": 140},
}

_NAME = re.compile(r"(?:brisc2025_)?((train|test)_\d+_(gl|me|pi|no|nt)_(ax|co|sa)(?:_t1)?)", re.IGNORECASE)
_NO_TUMOUR = ("no_tumor", "notumor", "no_tumour", "notumour")
_DEPTH = 5  # folders below the given one that are searched
_DESCRIPTIONS = {
    "order": "All images; training has no copy of a validation or test image.",
    "law": "Images with a tumour; training has no copy of a validation or test image.",
    "order_released": "All images, every copy where the release has it.",
    "law_released": "Images with a tumour, every copy where the release has it.",
}


@dataclass(frozen=True)
class Named:
    """What the name of an image tells: its stem here, list ("train" or "test"), class and plane."""

    stem: str
    part: str
    kind: str
    plane: str


def parse_name(stem: str) -> Named | None:
    """The `Named` of a file's stem, None if it is not of BRISC's form."""
    found = _NAME.fullmatch(stem)
    if not found:
        return None
    whole, part, kind, plane = (text.lower() for text in found.groups())
    return Named(whole, part, CLASSES[kind], PLANES[plane])


def _plain(name: str) -> str:
    return name.lower().replace(" ", "_").replace("-", "_")


def _subfolders(folder: Path) -> dict[str, Path]:
    try:
        below = sorted(path for path in folder.iterdir() if path.is_dir())
    except OSError as error:
        raise InputError(f"{folder}: {(error.strerror or str(error)).lower()}") from None
    return {_plain(path.name): path for path in below if not path.name.startswith((".", "__MACOSX"))}


def _layouts(folder: Path, depth: int = _DEPTH) -> Iterator[tuple[Path, Path | None]]:
    # Every images/ with its masks/, and every no_tumor/ with None.
    below = _subfolders(folder)
    if _plain(folder.name) in _NO_TUMOUR:
        yield folder, None
    if "images" in below:
        yield below["images"], below.get("masks", folder / "masks")
    if depth:
        for name, path in below.items():
            if name not in ("images", "masks"):
                yield from _layouts(path, depth - 1)


def _name_fault(image: Path, root: Path, named: Named | None, masked: bool) -> str | None:
    if named is None:
        return f"{image}: the name tells no list, class and plane, as brisc2025_train_00001_gl_ax_t1 does; rename it"
    above = [part.lower() for part in image.relative_to(root).parts[:-1]]
    folder = next((part for part in reversed(above) if part in ("train", "test")), named.part)
    if folder != named.part:
        return f"{image}: named as one of {named.part}, but in the folder {folder}; move or rename it"
    if not masked and named.kind != "none":
        return f"{image}: named as a {named.kind}, but in a folder of images without a tumour; move or rename it"
    return None


def find_images(folder: str | Path) -> tuple[dict[str, Pair], list[str], list[str]]:
    """Find the images of BRISC and their masks.

    Args:
        folder: the release, or any folder that has images/ with masks/, or no_tumor/, down to five folders below.

    Returns:
        The pairs by name, sorted; notes for the reader; faults: a name that does not tell, one that contradicts its
        folder, a partner that is missing.

    Raises:
        InputError: if there is no such folder.
    """
    if not Path(folder).is_dir():
        raise InputError(f"{folder}: no such folder; name the folder that BRISC was unpacked to")
    root = Path(folder).resolve()
    found: dict[str, Pair] = {}
    notes: list[str] = []
    faults: list[str] = []
    for images, masks in _layouts(root):
        if masks is None:
            matched: list[tuple[str, Path, Path | None]] = [(one.stem, one, None) for one in image_files(images)]
        elif not masks.is_dir():
            faults.append(f"{images}: no folder masks beside it")
            continue
        else:
            matched, own = match(image_files(images), image_files(masks))
            faults += own
        twice = 0
        for stem, image, mask in matched:
            named = parse_name(stem)
            if fault := _name_fault(image, root, named, masks is not None):
                faults.append(fault)
                continue
            name = f"{SOURCE}_{named.stem}"
            extra = {"class": named.kind, "plane": named.plane}
            pair = Pair(image, mask, SOURCE, group=name, stem=named.stem, extra=extra)
            twice += found.setdefault(name, pair) is not pair
        if twice:
            notes.append(f"{images}: {twice} left out, met before under the same name")
    return dict(sorted(found.items())), notes, faults


def _part(name: str) -> str:
    return name.removeprefix(f"{SOURCE}_").split("_")[0]


@dataclass(frozen=True)
class Copies:
    """How many copies a protocol met.

    Attributes:
        of_test: training images left out for a copy in test.
        tests: the test images concerned.
        within_test: test images that are copies of another one there; they stay.
    """

    of_test: int
    tests: int
    within_test: int


def split_without_copies(
    items: Mapping[str, Mapping[str, Any]], links: Iterable[tuple[str, str]], seed: int, description: str = ""
) -> tuple[Split, Copies]:
    """The lists of a protocol by the rule of the module.

    Args:
        items: of a datalist, by name; only these are in the protocol.
        links: pairs of names that are copies of each other.
        seed: of the validation list.
        description: of the protocol.
    """
    links = [(one, other) for one, other in links if one in items and other in items]
    groups = join_groups({name: name for name in items}, links)
    test = {name for name in items if _part(name) == "test"}
    of_test = [group for group in groups if not test.isdisjoint(group)]
    pool = {items[group[0]]["image"]: group for group in groups if test.isdisjoint(group)}
    parts = split_validation([items[group[0]] for group in pool.values()], seed)
    training, validation = ([name for item in part for name in pool[item["image"]]] for part in parts)
    left_out = [group for group in of_test if not test.issuperset(group)]
    copies = Copies(
        of_test=sum(len(set(group) - test) for group in left_out),
        tests=sum(len(test.intersection(group)) for group in left_out),
        within_test=sum(len(test.intersection(group)) - 1 for group in of_test),
    )
    return Split(sorted(training), sorted(test), sorted(validation), description), copies


def protocols_of(
    items: Mapping[str, Mapping[str, Any]], links: Sequence[tuple[str, str]], seed: int
) -> tuple[dict[str, Split], list[str]]:
    """The four protocols of the module, and a note on the copies that the first two met."""
    chosen = {"order": list(items), "law": [name for name, item in items.items() if item["class"] != "none"]}
    splits, notes = {}, []
    for protocol, names in chosen.items():
        own = {name: items[name] for name in names}
        splits[protocol], copies = split_without_copies(own, links, seed, _DESCRIPTIONS[protocol])
        notes.append(
            f"{protocol}: {copies.of_test} training images left out as copies of {copies.tests} test images; "
            f"{copies.within_test} test images are copies of others there and stay"
        )
    for protocol, names in chosen.items():
        lists = {part: [name for name in names if _part(name) == part] for part in ("train", "test")}
        name = f"{protocol}_released"
        splits[name] = Split(lists["train"], lists["test"], description=_DESCRIPTIONS[name])
    return splits, notes


def _missing(pairs: Iterable[Pair]) -> list[str]:
    counts = Counter((_part(pair.name), pair.extra["class"]) for pair in pairs)
    parts = [
        f"{part} {kind} {whole - counts[part, kind]:,} of {whole:,}"
        for part, kinds in RELEASED.items()
        for kind, whole in kinds.items()
        if counts[part, kind] < whole
    ]
    return [f"missing against the release: {', '.join(parts)}"] if parts else []


def prepare_brisc(out: str | Path, folder: str | Path, *, seed: int = 0, progress: bool = True) -> Prepared:
    """Write a prepared folder of BRISC 2025.

    Args:
        out: a new or empty folder.
        folder: the release, or plain folders; see `find_images`.
        seed: of the validation lists.
        progress: show bars.

    Raises:
        InputError: with every fault of the folders at once (a missing partner, a name that does not tell or that
            contradicts its folder, nothing to train on), then of the files (unreadable, sizes that differ). Nothing
            is left behind.
    """
    pairs, notes, faults = find_images(folder)
    if not pairs and not faults:
        faults.append(f"{folder}: no image of BRISC in it; looked for images with masks beside it, and for no_tumor")
    if pairs and not any(_part(name) == "train" and pair.mask is not None for name, pair in pairs.items()):
        faults.append(f"{folder}: no training image with a mask; it has to hold train/images and train/masks")
    if faults:
        raise join_faults(faults, str(folder))

    def protocols(directory: Path, items: Mapping[str, dict[str, Any]]) -> dict[str, Split]:
        names = list(items)
        signatures = sign_files([directory / items[name]["image"] for name in names], progress)
        links = [(names[i], names[j]) for i, j in near_pairs(signatures)]
        for group in join_groups({name: name for name in names}, links):
            for name in group:
                items[name]["group"] = group[0]
        splits, said = protocols_of(items, links, seed)
        notes.extend(said)
        return splits

    lists = write_prepared_folder(
        out,
        list(pairs.values()),
        protocols,
        name="brisc",
        description="T1 MRI slices of the head and tumour masks",
        labels={"0": "background", "1": "tumour"},
        licence=LICENCE,
        seed=seed,
        progress=progress,
    )
    return Prepared(lists, [*notes, *_missing(pairs.values())])

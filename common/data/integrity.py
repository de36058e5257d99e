"""`verify` and the check before a training: every fault of a prepared folder at once.

Errors: a missing, unreadable or truncated file, sizes that differ, an image that is not 8-bit RGB or not the one that
was prepared (sha256), a mask that is not 0 and 255 alone, masks that are all empty, a path that leads out of the
folder, an item without its keys, an empty training list. Warnings, counted: empty masks, files in no list, and, of
each protocol, the same image twice, a group on two sides, and pairs of identical and near-identical images
(`likeness`) across its lists.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from itertools import combinations
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from ..errors import InputError
from .folder import KEYS, datalist_path, join_faults, load_json, protocol_files
from .likeness import Signature, identical_pairs, in_threads, near_pairs, signature
from .reading import decode, read_bytes

_NAMED = 3  # examples in a line that counts


@dataclass
class Report:
    """What a check found.

    Attributes:
        directory: the folder.
        errors: a line each; with any, the folder must not be trained on.
        warnings: a line each, with counts.
        counts: pairs by list and source, of each protocol: `counts[protocol][key][source]`.
        across: what two lists of a protocol share, in full:
            `across[protocol]["identical" or "near-identical"][key, key]` → pairs of image paths.
    """

    directory: Path
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    across: dict[str, dict[str, dict[tuple[str, str], list[tuple[str, str]]]]] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        """No error, whatever the warnings."""
        return not self.errors

    def raise_errors(self) -> None:
        """Raise an `InputError` of all errors, if there are any."""
        if self.errors:
            raise join_faults(self.errors, str(self.directory))


@dataclass(frozen=True)
class _File:
    # What is kept of one pair once it was looked at.
    faults: tuple[str, ...]
    lesion: bool | None = None  # None: not known, for a fault
    signature: Signature | None = None


def _examples(names: Iterable[str]) -> str:
    names = list(names)
    more = f" … and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return "; ".join(names[:_NAMED]) + more


def _path_fault(directory: Path, text: Any) -> str | None:
    if not isinstance(text, str) or not text:
        return f"{text!r} is no path"
    if PurePosixPath(text).is_absolute() or not (directory / text).resolve().is_relative_to(directory.resolve()):
        return f"{text} leads out of the folder"
    return None


def _check_pair(directory: Path, item: Mapping[str, Any], thorough: bool) -> _File:
    faults: list[str] = []
    decoded = []
    for key in ("image", "label"):
        try:
            content = read_bytes(directory / item[key])
            decoded.append((content, decode(content, item[key])))
        except InputError as error:
            faults.append(str(error).replace(f"{directory / item[key]}", item[key]))
    if faults:
        return _File(tuple(faults))
    (content, image), (_, mask) = decoded
    if image.size != mask.size:
        sizes = [f"{one.size[0]}×{one.size[1]}" for one in (image, mask)]
        faults.append(f"{item['image']}: is {sizes[0]} but its mask {sizes[1]}; prepare the folder again")
    if image.mode != "RGB":
        faults.append(f"{item['image']}: not 8-bit RGB but {image.mode}; prepare the folder again")
    values = np.asarray(mask)
    if mask.mode != "L" or not np.isin(np.flatnonzero(np.bincount(values.ravel())), (0, 255)).all():
        faults.append(f"{item['label']}: has values other than 0 and 255; prepare the folder again")
    if thorough and item.get("sha256") not in (None, hashlib.sha256(content).hexdigest()):
        faults.append(f"{item['image']}: not the image that was prepared (sha256); restore it or prepare again")
    return _File(tuple(faults), bool(values.any()), signature(image) if thorough and not faults else None)


def _items_of(directory: Path, path: Path, content: Mapping[str, Any], report: Report) -> dict[str, list[dict]]:
    # The sound items of each list; the others are errors.
    lists: dict[str, list[dict]] = {}
    for key in KEYS:
        items = content.get(key)
        if not isinstance(items, list):
            report.errors.append(f"{path}: no list {key!r}; prepare the folder again")
            continue
        lists[key] = []
        for place, item in enumerate(items):
            if not isinstance(item, dict) or not {"image", "label"} <= set(item):
                report.errors.append(f"{path}: item {place} of {key!r} lacks its image or label")
                continue
            faults = [fault for name in ("image", "label") if (fault := _path_fault(directory, item[name]))]
            report.errors += [f"{path}: item {place} of {key!r}: {fault}" for fault in faults]
            if not faults:
                lists[key].append(item)
    if all(isinstance(content.get(key), list) and not content[key] for key in KEYS):
        report.errors.append(f"{path}: all its lists are empty")
    elif content.get("training") == []:
        report.warnings.append(f"{path}: its training list is empty, so that it serves to test on alone")
    return lists


def _look_at(directory: Path, items: Mapping[str, dict], report: Report, thorough: bool, progress: bool) -> dict:
    # What is in the files of each item; faults go to the report.
    check = partial(_check_pair, directory, thorough=thorough)
    files = dict(zip(items, in_threads(check, list(items.values()), "verify", progress), strict=True))
    report.errors += [fault for file in files.values() for fault in file.faults]
    known = {image: file.lesion for image, file in files.items() if file.lesion is not None}
    empty = [items[image]["label"] for image, lesion in known.items() if not lesion]
    if known and len(empty) == len(known):
        report.errors.append(f"all {len(known)} masks are empty; prepare the folder again from the right masks")
    elif empty:
        report.warnings.append(f"{len(empty)} empty masks: {_examples(empty)}")
    return files


def _sides(protocol: str, lists: Mapping[str, list[dict]], report: Report) -> None:
    # Which images and groups a protocol has on two sides, by what its lists say.
    counted: dict[str, dict[str, int]] = {}
    for key, items in lists.items():
        counted[key] = dict(Counter(str(item.get("source", "")) for item in items))
        times = Counter(item["image"] for item in items)
        if twice := sorted(name for name, number in times.items() if number > 1):
            report.warnings.append(f"{protocol}: {len(twice)} images are twice in {key}: {_examples(twice)}")
    report.counts[protocol] = counted
    for one, other in combinations(lists, 2):
        for what, word in (("image", "images"), ("group", "groups")):
            first, second = ({str(item[what]) for item in lists[key] if what in item} for key in (one, other))
            if shared := sorted(first & second):
                text = f"{len(shared)} {word} are in both {one} and {other}: {_examples(shared)}"
                report.warnings.append(f"{protocol}: {text}")


def _across(
    protocol: str, lists: Mapping[str, list[dict]], pairs: Mapping[str, list[tuple[str, str]]], report: Report
) -> None:
    # Which identical and near-identical pairs of images a protocol has on two sides.
    sides = {key: {item["image"] for item in items} for key, items in lists.items()}
    report.across[protocol] = {}
    for kind, linked in pairs.items():
        found = report.across[protocol][kind] = {}
        for one, other in combinations(lists, 2):
            both_ways = [*linked, *((b, a) for a, b in linked)]
            shared = [(a, b) for a, b in both_ways if a in sides[one] and b in sides[other]]
            if not shared:
                continue
            found[one, other] = shared
            touched = f"{len({b for _, b in shared})} of {len(sides[other])} images of {other}"
            names = _examples(f"{a} ~ {b}" for a, b in shared)
            report.warnings.append(
                f"{protocol}: {len(shared)} {kind} pairs across {one} and {other}, {touched}: {names}"
            )


def _likeness(images: list[str], signatures: list[Signature]) -> dict[str, list[tuple[str, str]]]:
    same = set(identical_pairs(signatures))
    near = [pair for pair in near_pairs(signatures) if pair not in same]
    return {
        kind: [(images[i], images[j]) for i, j in pairs]
        for kind, pairs in (("identical", sorted(same)), ("near-identical", near))
    }


def _unlisted(directory: Path, items: Iterable[Mapping[str, Any]], report: Report) -> None:
    listed = {item[key] for item in items for key in ("image", "label")}
    there = {f"{part}/{path.name}" for part in ("images", "masks") for path in (directory / part).glob("[!.]*")}
    if extra := sorted(there - listed):
        report.warnings.append(f"{len(extra)} files are in no list: {_examples(extra)}")


def _read(directory: Path, files: Mapping[str, Path], report: Report) -> tuple[dict[str, dict], dict[str, dict]]:
    # The lists of each protocol, and the items by image.
    protocols: dict[str, dict[str, list[dict]]] = {}
    items: dict[str, dict] = {}
    for protocol, path in files.items():
        try:
            protocols[protocol] = _items_of(directory, path, load_json(path), report)
        except InputError as error:
            report.errors.append(str(error))
            continue
        for listed in protocols[protocol].values():
            for item in listed:
                same = items.setdefault(item["image"], item)
                if same["label"] != item["label"]:
                    report.errors.append(f"{path}: {item['image']} has another mask there than elsewhere")
    return protocols, items


def verify(directory: str | Path, *, progress: bool = True) -> Report:
    """Check a prepared folder, all protocols and every file, and report all there is to say.

    Raises:
        InputError: only if there is no such folder, or it is not a prepared one.
    """
    directory = Path(directory)
    report = Report(directory)
    protocols, items = _read(directory, protocol_files(directory), report)
    files = _look_at(directory, items, report, True, progress)
    signed = {image: file.signature for image, file in files.items() if file.signature}
    pairs = _likeness(list(signed), list(signed.values()))
    if pairs["identical"]:
        repeated = len(signed) - len({one.pixels for one in signed.values()})
        names = _examples(f"{a} ~ {b}" for a, b in pairs["identical"])
        report.warnings.append(f"{repeated} images repeat another to the pixel: {names}")
    _unlisted(directory, items.values(), report)
    for protocol, lists in protocols.items():
        _sides(protocol, lists, report)
        _across(protocol, lists, pairs, report)
    return report


def check_prepared(directory: str | Path, protocol: str | None = None, *, progress: bool = True) -> Report:
    """The check before a training: the files of one protocol, all decoded, but neither hashed nor compared.

    Args:
        directory: a prepared folder.
        protocol: None or "" for the default one.
        progress: show a bar.

    Returns:
        The report, for its counts and warnings.

    Raises:
        InputError: with every error at once.
    """
    directory = Path(directory)
    report = Report(directory)
    path = datalist_path(directory, protocol or None)
    name = next(name for name, file in protocol_files(directory).items() if file == path)
    protocols, items = _read(directory, {name: path}, report)
    _look_at(directory, items, report, False, progress)
    for lists in protocols.values():
        _sides(name, lists, report)
    report.raise_errors()
    return report

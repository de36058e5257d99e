"""The prepared folder, the one form in which every bundle reads its data: written, read and split here.

DIR/images/<source>_<stem>.<png|jpg>   RGB, 8 bit
DIR/masks/<source>_<stem>.png          one channel, 0 or 255
DIR/dataset.json                       the default protocol, a datalist of the Medical Segmentation Decathlon
DIR/protocols/<name>.json              the other protocols over the same images, in the same form

An item of a list has the keys image, label, source, group (patient, sequence or scene) and sha256 (of the image file),
and those that a set adds to all of its items (`Pair.extra`): class and plane (BRISC), case and slice (KiTS19).
"""

from __future__ import annotations

import errno
import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import replace_folder_when_done, write_json
from .progress import bar
from .reading import encode_png, read_pair

DATALIST = "dataset.json"
PROTOCOLS = "protocols"
KEYS = ("training", "validation", "test")
VALIDATION_FRACTION = 0.1
ITEM_KEYS = ("image", "label", "source", "group", "sha256")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

# MONAI's loader turns any text of an item that happens to name something in the folder into a path.
_RESERVED = {"", ".", "..", "images", "masks", PROTOCOLS, DATALIST}


@dataclass(frozen=True)
class Pair:
    """An image and its mask on their way into a prepared folder.

    Attributes:
        image: a file, or `(H, W, 3)` uint8.
        mask: a file, or `(H, W)`: bool, 0/1, or anything whose lesion is > 127 (see `reading.binarise`); None where
            there is no lesion.
        source: the set it comes from; `<source>_<stem>` names its files.
        group: the patient, sequence or scene; pairs of one group are not independent.
        stem: its name within the source.
        label_value: the mask value that is the lesion, where the mask is a label map.
        extra: further keys of the item, the same for all pairs of a folder, as MONAI puts items of a batch together.
    """

    image: Path | np.ndarray
    mask: Path | np.ndarray | None
    source: str
    group: str
    stem: str
    label_value: int | None = None
    extra: Mapping[str, str | int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if taken := set(self.extra) & set(ITEM_KEYS):
            raise ValueError(f"extra: {', '.join(sorted(taken))} are keys that every item has")

    @property
    def name(self) -> str:
        """`<source>_<stem>`, by which protocols and files know it."""
        return f"{self.source}_{self.stem}"


@dataclass(frozen=True)
class Split:
    """The lists of one protocol, each of `Pair.name`; names of pairs that are not given are passed over.

    Attributes:
        training: what may be trained on. Without `validation`, a tenth of it becomes that (`split_validation`).
        test: never moved, whatever the seed.
        validation: where it is not to be drawn at random, as in a split by group.
        description: one line for the reader of the datalist.
    """

    training: Sequence[str]
    test: Sequence[str] = ()
    validation: Sequence[str] | None = None
    description: str = ""


@dataclass(frozen=True)
class Prepared:
    """What a `prepare` reports.

    Attributes:
        lists: the datalists written, by protocol.
        notes: a line each on what was missing, left out or met twice.
    """

    lists: Mapping[str, Mapping[str, Any]]
    notes: Sequence[str] = ()


def split_validation(
    items: Iterable[Mapping[str, Any]], seed: int, fraction: float = VALIDATION_FRACTION
) -> tuple[list[Mapping[str, Any]], list[Mapping[str, Any]]]:
    """Split a training list into training and validation; shipped weights depend on this rule, so it is fixed.

    The items sorted by "image"; `order = list(range(n))`, shuffled by `random.Random(seed)`; the first
    `round(fraction * n)` of `order` are validation. Both lists come back sorted by "image".
    """
    items = sorted(items, key=lambda item: item["image"])
    order = list(range(len(items)))
    random.Random(seed).shuffle(order)
    chosen = set(order[: round(fraction * len(items))])
    return (
        [item for place, item in enumerate(items) if place not in chosen],
        [item for place, item in enumerate(items) if place in chosen],
    )


def join_faults(faults: Sequence[str], what: str) -> InputError:
    """One `InputError` of all faults: the fault itself if it is alone, else a line each under a line that counts."""
    if len(faults) == 1:
        return InputError(faults[0])
    return InputError("\n".join([f"{len(faults)} faults in {what}:", *(f"  {fault}" for fault in faults)]))


def _name_fault(pair: Pair, seen: dict[str, str]) -> str | None:
    for text in (pair.source, pair.group, pair.stem):
        if text in _RESERVED or set(text) & set('/\\:*?"<>|\n\0'):
            return f"{pair.name}: {text!r} cannot serve as a source, group or stem; rename it"
    for key, value in pair.extra.items():
        if value in _RESERVED:
            return f"{pair.name}: {value!r} cannot serve as its {key}; rename it"
    same = seen.setdefault(pair.name.casefold(), pair.name)  # some file systems know no case
    if same != pair.name:
        return f"{pair.name} and {same} differ in case only; rename one"
    return None


def _write_pair(folder: Path, pair: Pair) -> tuple[dict[str, Any], bool]:
    # The item of the datalist, and whether there is a lesion in it.
    content, suffix, lesion = read_pair(pair.image, pair.mask, name=pair.name, label_value=pair.label_value)
    item = {
        "image": f"images/{pair.name}{suffix}",
        "label": f"masks/{pair.name}.png",
        "source": pair.source,
        "group": pair.group,
        "sha256": hashlib.sha256(content).hexdigest(),
        **pair.extra,
    }
    (folder / item["image"]).write_bytes(content)
    (folder / item["label"]).write_bytes(encode_png(np.where(lesion, np.uint8(255), np.uint8(0))))
    return item, bool(lesion.any())


def _write_pairs(
    folder: Path, pairs: Iterable[Pair], faults: list[str], total: int | None, progress: bool
) -> dict[str, dict[str, Any]]:
    items: dict[str, dict[str, Any]] = {}
    seen: dict[str, str] = {}
    lesions = 0
    for pair in bar(pairs, "prepare", "pair", total, progress):
        if pair.name in items:
            faults.append(f"{pair.name}: there are two of this name; rename one")
            continue
        if fault := _name_fault(pair, seen):
            faults.append(fault)
            continue
        try:
            items[pair.name], lesion = _write_pair(folder, pair)
        except InputError as error:
            faults.append(str(error))
        else:
            lesions += lesion
    if items and not lesions:
        faults.append(f"all {len(items)} masks are empty; of label maps, say which value is the lesion (label_value)")
    return items


def _datalist(head: Mapping[str, Any], protocol: str, split: Split, items: Mapping[str, Mapping], seed: int) -> dict:
    def pick(names: Iterable[str]) -> list[Mapping]:
        return sorted((items[name] for name in set(names) if name in items), key=lambda item: item["image"])

    training, test = pick(split.training), pick(split.test)
    if split.validation is None:
        training, validation = split_validation(training, seed)
    else:
        validation = pick(split.validation)
    lists = dict(zip(KEYS, (training, validation, test), strict=True))
    counts = {f"num{key.capitalize()}": len(chosen) for key, chosen in lists.items()}
    own = {"description": split.description} if split.description else {}
    return {**head, **own, "protocol": protocol, "seed": seed, **counts, **lists}


@contextmanager
def _room_for(out: str | Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise InputError(f"{out}: {error.strerror.lower()}; make room or choose another folder") from None


def write_prepared_folder(
    out: str | Path,
    pairs: Iterable[Pair],
    protocols: Mapping[str, Split] | Callable[[Path, Mapping[str, dict[str, Any]]], Mapping[str, Split]],
    *,
    name: str,
    labels: Mapping[str, str] | None = None,
    licence: str,
    description: str = "",
    seed: int = 0,
    progress: bool = True,
    total: int | None = None,
    faults: Sequence[str] = (),
) -> dict[str, dict[str, Any]]:
    """Write a prepared folder, whole or not at all.

    Args:
        out: a new or empty folder.
        pairs: read one by one, so a generator keeps the memory small.
        protocols: lists by name; the first is the default and becomes `dataset.json`. Or a function that makes them
            once all pairs are written, where they depend on the images: of the folder and its items by `Pair.name`,
            whose "group" it may set.
        name: of the dataset.
        labels: what the mask's values mean; a background and a lesion if not given.
        licence: the terms of the images, in a line.
        description: of the dataset; a protocol's own takes its place in that protocol's file.
        seed: of the validation lists that a protocol does not name itself.
        progress: show a bar.
        total: how many pairs there will be, where `pairs` has no length.
        faults: found by the caller, to be reported together with those found here; looked at when all pairs are
            drawn, so a generator of pairs may still add to them.

    Returns:
        The datalists written, by protocol.

    Raises:
        InputError: with every fault of every pair at once; nothing is left behind. Also for an `out` that is in use,
            or has no room.
    """
    total = len(pairs) if total is None and isinstance(pairs, Sized) else total
    head = {
        "name": name,
        "description": description or name,
        "tensorImageSize": "2D",
        "modality": {"0": "RGB"},
        "labels": dict(labels or {"0": "background", "1": "lesion"}),
        "licence": licence,
    }
    with _room_for(out), replace_folder_when_done(out) as folder:
        (folder / "images").mkdir()
        (folder / "masks").mkdir()
        own: list[str] = []
        items = _write_pairs(folder, pairs, own, total, progress)
        faults = [*faults, *own]
        if not items and not faults:
            faults.append(f"{name}: no image was found, so there is nothing to write to {out}")
        if faults:
            raise join_faults(faults, name)
        if callable(protocols):
            protocols = protocols(folder, items)
        lists = {key: _datalist(head, key, split, items, seed) for key, split in protocols.items()}
        for key, content in list(lists.items())[1:]:
            write_json(folder / PROTOCOLS / f"{key}.json", content)
        write_json(folder / DATALIST, next(iter(lists.values())))  # last: what has no datalist is not prepared
    return lists


def _how_to_prepare(folder: Path) -> str:
    if (folder / "images").is_dir() and (folder / "masks").is_dir():
        return f"python -m common.data prepare pairs {folder / 'images'} {folder / 'masks'} OUT"
    for sign, command in (("segmentation_task", "brisc"), ("train/images", "brisc"), ("case_*", "kits19")):
        if any(folder.glob(sign)):
            return f"python -m common.data prepare {command} {folder} OUT"
    return f"python -m common.data prepare polyps {folder} OUT (or `prepare pairs IMAGES MASKS OUT`)"


def load_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: if it cannot be read or holds something else.
    """
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); prepare the folder again") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds a {type(content).__name__}, not a datalist; prepare the folder again")
    return content


def protocol_files(directory: str | Path) -> dict[str, Path]:
    """The protocols of a prepared folder, the default one first.

    Raises:
        InputError: if there is no such folder, or it is not a prepared one; the text names the command to run.
    """
    directory = Path(directory)
    if not directory.exists():
        raise InputError(f"{directory}: no such folder; a prepared one is wanted here")
    if not directory.is_dir():
        raise InputError(f"{directory}: a file; a prepared folder is wanted here")
    default = directory / DATALIST
    if not default.is_file():
        raise InputError(f"{directory} holds no {DATALIST}, so it is not prepared: run {_how_to_prepare(directory)}")
    found = {str(load_json(default).get("protocol", "default")): default}
    for path in sorted((directory / PROTOCOLS).glob("*.json")):
        found.setdefault(path.stem, path)
    return found


def datalist_path(directory: str | Path, protocol: str | None = None) -> Path:
    """The datalist file of a protocol, the default one for None.

    Raises:
        InputError: as `protocol_files`, and for a protocol that the folder does not hold: it lists those it does.
    """
    files = protocol_files(directory)
    if protocol is None:
        return next(iter(files.values()))
    if protocol not in files:
        raise InputError(f"{directory}: no protocol {protocol!r}; there are {', '.join(files)}")
    return files[protocol]


def read_datalist(
    directory: str | Path, protocol: str | None = None, key: str = "training", *, may_be_empty: bool = False
) -> list[dict[str, Any]]:
    """One list of a prepared folder, read with MONAI's own loader; "image" and "label" are full paths.

    Args:
        directory: a prepared folder.
        protocol: None or "" for the default one.
        key: "training", "validation" or "test".
        may_be_empty: that "training" may be, as the others always may.

    Raises:
        InputError: if the folder, the protocol or the list is not there, or a list to train on is empty.
    """
    path = datalist_path(directory, protocol or None)
    content = load_json(path)
    if not isinstance(content.get(key), list):
        raise InputError(f"{path}: no list {key!r}; there are {', '.join(k for k in KEYS if k in content)}")
    if not content[key]:
        if key == "training" and not may_be_empty:
            raise InputError(f"{path}: its training list is empty; prepare the folder again with more images")
        return []
    if not all(isinstance(item, dict) and "image" in item and "label" in item for item in content[key]):
        raise InputError(f"{path}: an item of {key!r} lacks its image or label; prepare the folder again")
    from monai.data import load_decathlon_datalist  # here: MONAI takes seconds to import

    return load_decathlon_datalist(path, True, key, base_dir=Path(directory))


def fingerprint(
    directory: str | Path, protocol: str | None = None, keys: Sequence[str] = ("training", "validation")
) -> str:
    """A digest of lists, those that a training sees if not given, and of their images and masks, 16 hexadecimal digits.

    Equal for two folders exactly if a model cannot tell their data apart.
    """
    digest = hashlib.sha256()
    for key in keys:
        for item in read_datalist(directory, protocol, key):
            for role in ("image", "label"):
                path = Path(item[role])
                digest.update(f"{key}/{role}/{path.name}/".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]

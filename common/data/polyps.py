"""`prepare polyps`: the released polyp sets → one prepared folder with the protocols that papers use.

Read are the released folders of Kvasir-SEG (images/, masks/), CVC-ClinicDB (Original/, Ground Truth/), CVC-ColonDB,
ETIS-Larib and CVC-300, and the folders that PraNet made of them (TrainDataset, TestDataset/<set>); see
`polyp_sets.find_sets`.

Protocols over the same images, of which the first is the default:

- `order`: training on the published 900 of Kvasir-SEG and 550 of CVC-ClinicDB and on all of CVC-ColonDB and ETIS;
  test on the published 100 and 62.
- `law`: training on the 1,450 alone; the same test.
- `pranet`: training on the 1,450; test on the 162 and on all of CVC-ColonDB, ETIS and CVC-300, unseen sets.
- `grouped`: the images of `order`, but nothing that belongs together stands on two sides. What belongs together:
  the frames of a sequence of CVC-ClinicDB (29, published with the set); all of CVC-ColonDB and all of ETIS, whose
  15 and 34 sequences are published without the frames that belong to each; and, whatever the source, near-identical
  images (`likeness`), for Kvasir-SEG by a wider measure, as it names no patient and a link too many costs nothing
  there. Of each source a tenth is test, of the rest a tenth is validation, in whole groups: so the last two sets, a
  group each, are training. The test list does not depend on the seed. A patient may have given more than one sequence
  of CVC-ClinicDB: nothing published tells, so that much may remain.

In the other three a tenth of training is validation, by `folder.split_validation`. CVC-300 is part of the videos of
CVC-ColonDB, so they are one group; it is in `pranet` only.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from .folder import Prepared, Split, join_faults, write_prepared_folder
from .grouping import join_groups, take_groups
from .likeness import Signature, near_pairs, sign_files
from .polyp_sets import PAPER_COUNTS, SOURCES, find_sets, published_names

LICENCE = (
    "Kvasir-SEG and CVC-ClinicDB: research and education only; CVC-ColonDB, ETIS-Larib, CVC-300: research. "
    "Each set keeps its owners' terms."
)
HELD_OUT = 0.1  # of each source, in `grouped`
WIDE_COLOUR_DISTANCE = 20.0  # of Kvasir-SEG: 10 links among its 1,000, where the usual 12 makes 4

_DESCRIPTIONS = {
    "order": "Published train of Kvasir-SEG and CVC-ClinicDB, all of CVC-ColonDB and ETIS; published test of the two.",
    "law": "Published train of Kvasir-SEG and CVC-ClinicDB; published test of the two.",
    "pranet": "Published train of Kvasir-SEG and CVC-ClinicDB; their test, and CVC-ColonDB, ETIS, CVC-300 unseen.",
    "grouped": "The images of `order`, split by sequence or source: nothing that belongs together is on two sides.",
}


def published_protocols(names: Mapping[str, Iterable[str]]) -> dict[str, Split]:
    """`order`, `law` and `pranet` of METHOD, given the item names (`<source>_<stem>`) of each source.

    The published lists are complete here; the writer passes over what is not given.
    """
    train = [name for source in ("kvasir_seg", "cvc_clinicdb") for name in published_names(source, "train")]
    test = [name for source in ("kvasir_seg", "cvc_clinicdb") for name in published_names(source, "test")]
    extra = [*names.get("cvc_colondb", ()), *names.get("etis", ())]
    return {
        "order": Split(train + extra, test, description=_DESCRIPTIONS["order"]),
        "law": Split(train, test, description=_DESCRIPTIONS["law"]),
        "pranet": Split(train, [*test, *extra, *names.get("cvc_300", ())], description=_DESCRIPTIONS["pranet"]),
    }


def grouped_protocol(items: Mapping[str, Mapping[str, str]], signatures: Mapping[str, Signature], seed: int) -> Split:
    """`grouped`, as the module says.

    Args:
        items: "source" and "group" of each name; those of CVC-300 are passed over.
        signatures: of each name's image.
        seed: of the validation list alone.
    """
    names = sorted(name for name, item in items.items() if item["source"] != "cvc_300")
    groups = {name: items[name]["group"] for name in names}
    links = [(names[i], names[j]) for i, j in near_pairs([signatures[name] for name in names])]
    kvasir = [name for name in names if items[name]["source"] == "kvasir_seg"]
    wide = near_pairs([signatures[name] for name in kvasir], colour_distance=WIDE_COLOUR_DISTANCE)
    links += [(kvasir[i], kvasir[j]) for i, j in wide]

    by_source: dict[str, list[list[str]]] = {}
    for group in join_groups(groups, links):
        by_source.setdefault(items[group[0]]["source"], []).append(group)
    training, validation, test = [], [], []
    for source, own in by_source.items():
        taken = take_groups(own, round(HELD_OUT * sum(map(len, own))), f"{source} test")
        rest = [group for group in own if group[0] not in set(taken)]
        held = take_groups(rest, round(HELD_OUT * sum(map(len, rest))), f"{source} validation {seed}")
        test += taken
        validation += held
        training += [name for group in rest for name in group if name not in set(held)]
    return Split(training, test, validation, _DESCRIPTIONS["grouped"])


def _missing(counts: Mapping[str, int]) -> list[str]:
    parts = [
        f"{source} {'all' if not counts.get(source) else whole - counts[source]} of {whole}"
        for source, whole in PAPER_COUNTS.items()
        if counts.get(source, 0) < whole
    ]
    return [f"missing against the paper's counts: {', '.join(parts)}"] if parts else []


def _missing_lists(lists: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return [f"{name}: nothing to train on" for name, content in lists.items() if not content["training"]]


def prepare_polyps(
    out: str | Path,
    folders: Sequence[str | Path] = (),
    *,
    named: Mapping[str, str | Path] | None = None,
    seed: int = 0,
    progress: bool = True,
) -> Prepared:
    """Write a prepared folder of the polyp sets found.

    Args:
        out: a new or empty folder.
        folders: searched for the sets, which are known by their folders' names.
        named: a folder by source (`polyp_sets.SOURCES`), where its name does not tell.
        seed: of the validation lists.
        progress: show bars.

    Raises:
        InputError: with every fault at once: a set without a partner folder, a missing partner, an unreadable file,
            sizes that differ; also if there is no set at all. Nothing is left behind.
    """
    if unknown := set(named or {}) - set(SOURCES):
        raise InputError(f"no polyp set is called {', '.join(sorted(unknown))}; there are {', '.join(SOURCES)}")
    pairs, notes, faults = find_sets(folders, named or {})
    if not pairs:
        raise join_faults(faults or [f"{', '.join(map(str, folders))}: no polyp set found there"], "the polyp sets")
    names: dict[str, list[str]] = {}
    for pair in pairs:
        names.setdefault(pair.source, []).append(pair.name)

    def protocols(folder: Path, items: Mapping[str, Mapping[str, str]]) -> dict[str, Split]:
        signatures = sign_files([folder / item["image"] for item in items.values()], progress)
        signatures = dict(zip(items, signatures, strict=True))
        return {**published_protocols(names), "grouped": grouped_protocol(items, signatures, seed)}

    lists = write_prepared_folder(
        out,
        pairs,
        protocols,
        name="polyps",
        description="Colonoscopy images and polyp masks",
        labels={"0": "background", "1": "polyp"},
        licence=LICENCE,
        seed=seed,
        progress=progress,
        faults=faults,
    )
    counts = {source: len(own) for source, own in names.items()}
    return Prepared(lists, [*notes, *_missing(counts), *_missing_lists(lists)])

"""Splitting by groups, so that what belongs together (a patient, a sequence, near-identical images) stays together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from .likeness import clusters


def join_groups(groups: Mapping[str, str], links: Iterable[tuple[str, str]] = ()) -> list[list[str]]:
    """Join names that share a group or are linked, directly or by a chain.

    Args:
        groups: the group of each name.
        links: further pairs of names that belong together.

    Returns:
        The joined names, each list sorted, and the lists sorted by their first name.
    """
    names = sorted(groups)
    place = {name: i for i, name in enumerate(names)}
    first_of = {}
    pairs = [(place[first_of.setdefault(groups[name], name)], place[name]) for name in names]
    pairs += [(place[a], place[b]) for a, b in links]
    joined: dict[int, list[str]] = {}
    for name, label in zip(names, clusters(len(names), pairs), strict=True):
        joined.setdefault(label, []).append(name)
    return sorted(joined.values())


def take_groups(groups: Sequence[Sequence[str]], count: int, seed: int | str) -> list[str]:
    """Names of whole groups, at most `count` together: in an order that `seed` draws, each group that still fits.

    The order ranks each group by a digest of the seed and its first name, so a group that is added, missing or
    joined otherwise leaves the rank of the others as it was.
    """

    def rank(group: Sequence[str]) -> bytes:
        return hashlib.sha256(f"{seed} {group[0]}".encode()).digest()

    taken: list[str] = []
    for group in sorted(groups, key=rank):
        if len(taken) + len(group) <= count:
            taken.extend(group)
    return sorted(taken)

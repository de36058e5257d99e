"""The paper's figures stand beside its own lists: the sets and the protocol's name, the default's too."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.papers_lists import are_the_papers
from common.data import Pair, Split, write_prepared_folder


def prepare(folder: Path, sources: list[str], protocols: list[str]) -> Path:
    pairs = [
        Pair(
            np.full((32, 32, 3), number, np.uint8),
            np.eye(32, dtype=bool),
            source,
            f"g{number}{part}",
            f"{number}{part}",
        )
        for number, source in enumerate(sources)
        for part in "abcd"
    ]
    names = [pair.name for pair in pairs]
    split = Split([name for name in names if name[-1] in "ab"], [name for name in names if name[-1] in "cd"])
    tests = dict.fromkeys(protocols, split)
    write_prepared_folder(folder, pairs, tests, name="set", licence="none", progress=False)
    return folder


POLYPS = ["kvasir_seg", "cvc_clinicdb"]


@pytest.mark.parametrize(
    ("sources", "protocols", "protocol", "painter", "own"),
    [
        (POLYPS, ["law"], None, "law_polyps", True),
        (POLYPS, ["order", "law"], "law", "law_polyps", True),
        (POLYPS, ["order", "law"], None, "law_polyps", False),
        (POLYPS, ["grouped"], "grouped", "law_polyps", False),
        ([*POLYPS, "mine"], ["law"], None, "law_polyps", False),
        (POLYPS[:1], ["law"], None, "law_polyps", False),
        (POLYPS, ["law"], None, "law_brisc", False),
        (["brisc2025"], ["law", "law_released"], "law", "law_brisc", False),
        (["brisc2025"], ["law", "law_released"], "law_released", "law_brisc", True),
    ],
)
def test_sets_protocol_and_painter_have_to_be_the_papers(
    tmp_path: Path, sources: list[str], protocols: list[str], protocol: str | None, painter: str, own: bool
) -> None:
    folder = prepare(tmp_path / "set", sources, protocols)
    assert are_the_papers(folder, protocol, "test", painter) == own

"""Whether what is measured is of the paper's own lists: its figures stand beside those, and beside no others."""

from __future__ import annotations

from pathlib import Path

from common.data import read_datalist
from common.data.folder import datalist_path, load_json

# Of each LAW bundle the sets that the paper paints from and measures on, and the protocol that holds its lists.
PAPER_LISTS = {
    "law_polyps": ({"kvasir_seg", "cvc_clinicdb"}, "law"),
    "law_kits19": ({"kits19"}, "law"),
    "law_brisc": ({"brisc2025"}, "law_released"),
}


NOT_THE_PAPERS = "the paper's columns are empty: these are not the images that its figures are of"


def are_the_papers(dataset_dir: str | Path, protocol: str | None, split: str, painter: str) -> bool:
    """Whether a list of a prepared folder is the paper's, by its sets and the name of its protocol.

    Args:
        dataset_dir: a prepared folder.
        protocol: of it; None for its default, which has a name too.
        split: the list.
        painter: the LAW bundle.

    Raises:
        InputError: if the folder, the protocol or the list is not there.
    """
    sources = {item.get("source") for item in read_datalist(dataset_dir, protocol, split)}
    name = protocol or load_json(datalist_path(dataset_dir, None)).get("protocol")
    return (sources, name) == PAPER_LISTS.get(painter)

"""Texts of a packed bundle: commands and paths as they are there, in error lines and pages alike."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .closure import PACKAGE

_CODE = (".py", ".txt")
_NOTE = """> **This is the packed bundle**; it needs nothing of the collection. `pip install -r requirements.txt`, and
> type the commands in this bundle's folder. Its code is `{package}`; `MANIFEST.json` lists each file's digest and all
> that its configs can execute. What is called by `make`, `benchmarks`, `common.metrics` or an overlay of `baselines` is
> the collection's.
"""


def packed_text(path: str, content: bytes, package: str, name: str, configs: Iterable[str]) -> bytes:
    """The content of a file as it stands in a packed bundle; what is no text for people comes back as it is.

    Args:
        path: of the file in the bundle.
        content: of the sources.
        package: the name that `common` has in the bundle.
        name: of the bundle.
        configs: its configs' names without their suffix, which are JSON there.
    """
    if path.startswith("configs/") or not path.endswith((*_CODE, ".md")):
        return content
    # `common.metrics` is not packed, and stays the collection's.
    text = re.sub(rf"(?<![\w./]){PACKAGE}(?=\.(?!metrics\b)[a-z_]+)", package, content.decode())
    if path.endswith(".md"):
        text = re.sub(rf"(?<![\w./]){PACKAGE}/(?!baselines|metrics)", f"{package}/", text)
        stems = "|".join(sorted(map(re.escape, configs), key=len, reverse=True))
        text = re.sub(rf"(?<![\w/])((?:{name}/)?(?:configs/)?(?:{stems}))\.yaml", r"\1.json", text)
        text = text.replace(f"{name}/configs/", "configs/")
        title, _, rest = text.partition("\n")
        text = f"{title}\n\n{_NOTE.format(package=package)}{rest}"
    return text.encode()

"""`python -m bundles {list,pack,verify,install,export,sign} …`: the bundles as something to hand on."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import fire

from common.columns import align
from common.commands import command
from common.errors import InputError

from .sources import bundle_names, collection


def _tell(as_json: bool, content: Any, lines: list[str]) -> None:
    print(json.dumps(content, indent=1, ensure_ascii=False) if as_json else "\n".join(lines))


@command
def catalogue(*, json: bool = False) -> None:
    """The bundles of this collection: list [--json]

    Bundle, version, parameters, measured metric, size of its files, task; then the licence of each one's data.
    """
    from .catalogue import entries

    found = entries(collection())
    rows = [["bundle", "version", "parameters", "size", "measured", "task"]]
    for each in found:
        size = f"{each.size / 2**20:.1f} MB"
        parameters = f"{each.parameters:,}" if each.parameters else ""
        rows.append([each.name, each.version, parameters, size, each.metric, each.task])
    licences = [f"{each.name}: {each.licence}" for each in found]
    lines = [*align(rows), "", "Licences of the data, and so of the weights:", *licences]
    _tell(json, [each.as_json() for each in found], lines)


@command
def pack(name: str, *, out: str | None = None, code_free: bool = False, json: bool = False) -> None:
    """Make zips to hand on: pack NAME|all --out DIR [--code_free] [--json]

    A Model Zoo zip for each bundle, self-contained, with its MANIFEST.json; beside it its bill of materials, and
    model_info.json with the hash of each zip. The same tree packs to the same bytes anywhere. --code_free: a segmenter
    as <name>_code_free, TorchScript and MONAI's own classes, no Python; `all` is then the two segmenters.
    """
    from .code_free import pack_code_free
    from .packing import pack as pack_full
    from .packing import write_zips

    if out is None:
        raise InputError("--out missing: the folder for the zips")
    root = collection()
    names = [name] if name != "all" else [each for each in bundle_names(root) if not code_free or _segments(each)]
    packed = [pack_code_free(root, each) if code_free else pack_full(root, each) for each in names]
    digests = write_zips(packed, Path(out))
    _tell(json, digests, [f"{digest}  {path}" for path, digest in digests.items()])


def _segments(name: str) -> bool:
    return name.startswith("order_")


@command
def export(
    name: str, *, format: str | None = None, out: str | None = None, weights: str | None = None, flips: bool = False,
    json: bool = False,
) -> None:  # fmt: skip
    """Write a segmenter's network: export NAME --format torchscript|onnx|pt2 [--out FILE] [--weights MODEL] [--flips]

    From the weights that ship, or a model.pt of yours. --flips puts the average over four flips into the network, as
    inference makes it. Says how the export differs from the original, and writes nothing where logits differ by more
    than 1e-4. FILE is by default model.ts, model.onnx or model.pt2 here.
    """
    from .exporting import FORMATS, exported, write_export

    if format is None:
        raise InputError(f"--format missing: one of {', '.join(FORMATS)}")
    content, found = exported(collection(), name, format, weights, flips)
    path = Path(out or FORMATS[format])
    write_export(path, content)
    told = {"file": str(path), "largest_difference": found.largest, "pixels": found.pixels, "flipped": found.flipped}
    _tell(json, told, [f"{path}: {found}"])


def main() -> None:
    """Run the command that the arguments name."""
    commands = {"list": catalogue, "pack": pack, "export": export}
    try:
        fire.Fire(commands, name="python -m bundles")
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

"""`python -m bundles {list,pack,verify,install,export,sign,lock} …`: the bundles as something to hand on."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import fire

from common.columns import align
from common.commands import command
from common.data.folder import load_json
from common.data.reading import read_bytes
from common.errors import InputError
from common.files import write_atomically

from .archives import Refused
from .manifest import NAME
from .sources import bundle_names, collection

REFUSED = 1  # exit code; a wrong input is 2


def _tell(as_json: bool, content: Any, lines: list[str]) -> None:
    print(json.dumps(content, indent=1) if as_json else "\n".join(lines))


@command
def catalogue(*, json: bool = False) -> None:
    """The bundles of this collection: list [--json]

    Bundle, version, parameters, size of its files (without code), measured metric; then task, data and licence of each.
    """
    from .catalogue import entries

    found = entries(collection())
    rows = [["bundle", "version", "parameters", "size", "measured"]]
    for each in found:
        size = f"{each.size / 2**20:.1f} MB"
        parameters = f"{each.parameters:,}" if each.parameters else ""
        rows.append([each.name, each.version, parameters, size, each.metric or "not measured"])
    told = [
        line
        for each in found
        for line in ("", each.name, f"  {each.task}", f"  data: {each.data}", f"  licence: {each.licence}")
    ]
    lines = [*align(rows), *told]
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
    from .exporting import FORMATS, exported

    if format is None:
        raise InputError(f"--format missing: one of {', '.join(FORMATS)}")
    if format not in FORMATS:
        raise InputError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    path = Path(out or FORMATS[format])
    if path.is_dir():
        raise InputError(f"--out {path} is a folder; name a file")
    content, found = exported(collection(), name, format, weights, flips)
    write_atomically(path, content)
    told = {"file": str(path), "largest_difference": found.largest, "pixels": found.pixels, "flipped": found.flipped}
    _tell(json, told, [f"{path}: {found}"])


@command
def verify(
    path: str, *, sha256: str | None = None, model_info: str | None = None, signature: str | None = None,
    public_key: str | None = None, json: bool = False,
) -> None:  # fmt: skip
    """Is it what it says, and what would it execute? verify ZIP|FOLDER [--sha256 HEX] [--model_info FILE]
    [--public_key PEM [--signature FILE]] [--json]

    Runs nothing of the bundle. --sha256 or --model_info, a catalogue that reached you by another way, or a signature
    by a key that you trust, prove where it comes from; without any the report says so, and lists the Python that the
    bundle would run. Exit code 0: accepted; 1: refused, with the cause.
    """
    from .verifying import verify as verified

    proofs = {"sha256": sha256, "model_info": model_info, "signature": signature, "public_key": public_key}
    _check_call(path, **proofs)
    report = verified(path, **proofs)
    _tell(json, report.as_json(), report.lines())
    if not report.ok:
        sys.exit(REFUSED)


def _check_call(path: str, **proofs: str | None) -> None:
    # A slip in what was typed is told as such, and is no word against the bundle.
    from .model_info import read_model_info
    from .signing import check_public_key

    sha256, model_info, signature, public_key = map(proofs.get, ("sha256", "model_info", "signature", "public_key"))
    if not Path(path).exists():
        raise InputError(f"there is no {path}; give a zip, or the folder that one was unpacked to")
    if sha256 is not None and not re.fullmatch("[0-9a-fA-F]{64}", sha256.strip()):
        raise InputError(f"--sha256 {sha256!r} is no SHA-256: 64 hexadecimal digits")
    if signature is not None and public_key is None:
        raise InputError("--signature needs --public_key, the key that has to have signed it")
    for option, file in (("model_info", model_info), ("signature", signature), ("public_key", public_key)):
        if file is not None and not Path(file).is_file():
            raise InputError(f"--{option} {file}: there is no such file")
    if Path(path).is_dir() and (given := [option for option, value in proofs.items() if value is not None]):
        raise InputError(f"--{given[0]} is of a zip; {path} is a folder, of which no such proof exists")
    if model_info is not None:
        try:
            read_model_info(Path(model_info))
        except InputError as error:
            raise InputError(f"--model_info: no catalogue that can be read ({error})") from None
    if public_key is not None:
        check_public_key(public_key)


@command
def install(
    path: str, *, dest: str | None = None, rollback: bool = False, sha256: str | None = None,
    model_info: str | None = None, signature: str | None = None, public_key: str | None = None, json: bool = False,
) -> None:  # fmt: skip
    """Verify a zip and unpack it: install ZIP --dest DIR [the options of verify] [--json]
    Put the version before back: install NAME --dest DIR --rollback

    To DIR/NAME, whole or not at all; what is refused changes nothing. The version before is kept. Exit code 1: refused.
    """
    from . import installing

    if dest is None:
        raise InputError("--dest missing: the folder for bundles")
    proofs = {"sha256": sha256, "model_info": model_info, "signature": signature, "public_key": public_key}
    if rollback:
        if given := [option for option, value in proofs.items() if value is not None]:
            raise InputError(f"--{given[0]} is of a zip; what is rolled back to was proved when it was installed")
        try:
            place = installing.rollback(path, dest)
        except Refused as error:
            print(f"REFUSED: {error}", file=sys.stderr)
            sys.exit(REFUSED)
        version = load_json(place / NAME)["version"]
        told = [f"{place}: the version before, {version}, is back"]
        _tell(json, {"folder": str(place), "version": version}, told)
        return
    _check_call(path, **proofs)
    place, report = installing.install(path, dest, **proofs)
    told = {"folder": str(place) if place else None, "report": report.as_json()}
    _tell(json, told, [*report.lines(), f"installed to {place}" if place else "nothing was installed"])
    if place is None:
        sys.exit(REFUSED)


@command
def sign(
    path: str, *, private_key: str | None = None, password_file: str | None = None, json: bool = False
) -> None:  # fmt: skip
    """Sign a zip: sign ZIP --private_key PEM [--password_file FILE] [--json]

    Writes ZIP.sig, for verify and install with --public_key. The key is an EC key of yours (openssl genpkey); nothing
    is sent anywhere. --password_file: the key's password is its first line.
    """
    from .signing import sign as signed

    if private_key is None:
        raise InputError("--private_key missing: a PEM file")
    password = None
    if password_file is not None:
        password = (read_bytes(password_file).decode(errors="replace").splitlines() or [""])[0]
    written = signed(path, private_key, password=password)
    _tell(json, {"signature": str(written)}, [str(written)])


@command
def lock(wheelhouse: str, requirements: str) -> None:
    """Exact versions and hashes of a folder of wheels: lock WHEELHOUSE REQUIREMENTS > requirements.lock

    For pip install --require-hashes on a machine without a network; stops where the folder lacks something that the
    requirements, or what they bring, need.
    """
    from .wheelhouse import lock as locked

    print(locked(Path(wheelhouse), Path(requirements)), end="")


def main() -> None:
    """Run the command that the arguments name."""
    commands = {"list": catalogue, "pack": pack, "verify": verify, "install": install, "export": export}
    commands |= {"sign": sign, "lock": lock}
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # where a terminal lacks a letter, all else is told
            stream.reconfigure(errors="backslashreplace")
    try:
        fire.Fire(commands, name="python -m bundles")
    except KeyboardInterrupt:
        print("stopped; whole files that were written stay, no half one does", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()

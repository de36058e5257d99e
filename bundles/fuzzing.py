"""How `verify` stands up to changed zips: thousands of mutations, of bytes, of members and of what they say.

    python -m bundles.fuzzing ZIP [--mutations 5000] [--seed 0]

Each mutation is verified twice. Against the hash of the original none may be accepted. Without it one may be accepted
only where all that is read from it is what is read from the original, or where it is a forgery: content changed and
the manifest made to fit, which only a hash or a signature can tell, and which may still execute nothing off the lists.
What is accepted has to be read by `zipfile` as it was here. Networks that were changed and are accepted are loaded and
run in processes that are watched: none may write, start or reach for anything, nor end its process.
"""

from __future__ import annotations

import io
import itertools
import json
import random
import sys
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import fire

from common.commands import command
from common.errors import InputError

from .archives import read_archive
from .fuzzing_weights import mutated, run_each
from .manifest import NAME, executed, json_bytes
from .naming import named_anew
from .opening import read_limited, sha256
from .verifying import UNEXPECTED, examine_bytes
from .zip_writing import zip_bytes

_NAMES = (
    "../out",
    "/out",
    "C:/out",
    "a\\b",
    "con",
    "CONFIGS/x.json",
    "configs/é.json",
    "x\x00y",
    ".hidden",
    "a/../../b",
)
_HOSTILE = (
    "__import__",
    "__class__",
    "os.system",
    "%x.json",
    '"_mode_": "debug"',
    '"_target_": "$',
    '"_target_": null',
)
_NUMBERS = (0, 1, 0x7F, 0xFF, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
_FORBIDDEN = (
    "os.system",
    "subprocess.Popen",
    "os.exec",
    "os.posix_spawn",
    "os.fork",
    "pickle.find_class",
    "socket.connect",
)


@dataclass
class Outcome:
    """What became of the mutations.

    Attributes:
        mutations: how many there were, by kind.
        accepted: with the hash of the original; has to stay empty.
        differing: accepted without it though other content was read and the manifest was not forged; likewise.
        failed: tracebacks, and faults that no check has foreseen; likewise.
        executed: what was run or reached for meanwhile; likewise.
        same: accepted without the hash, with the content of the original.
        forged: accepted without the hash, with a manifest made to fit.
        run: of these, with a changed network that torch was given, in a process that is watched.
    """

    mutations: Counter = field(default_factory=Counter)
    accepted: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    same: int = 0
    forged: int = 0
    run: int = 0

    @property
    def ok(self) -> bool:
        """Whether what has to stay empty has."""
        return not (self.accepted or self.differing or self.failed or self.executed)

    def lines(self) -> list[str]:
        """To be read."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.mutations.items()))
        lines = [f"{self.mutations.total():,} mutations: {kinds}"]
        lines.append(f"against the hash of the original: {len(self.accepted)} accepted")
        refused = self.mutations.total() - self.same - self.forged - len(self.differing)
        told = f"{self.same:,} with the same content, {self.forged:,} forged, {len(self.differing)} others"
        lines.append(f"without it: {refused:,} refused; accepted {told}")
        lines.append(f"{self.run:,} of these with a changed network, loaded and run")
        lines.append(f"tracebacks and unforeseen faults: {len(self.failed)}; executed: {len(self.executed)}")
        return lines + [*self.accepted, *self.differing, *self.failed, *self.executed][:20]


def fuzz(data: bytes, name: str, mutations: int, seed: int = 0) -> Outcome:
    """Mutate a zip and verify what comes out, with the hash of the original and without.

    Args:
        data: a zip that verifies.
        name: of its file.
        mutations: how many; what leaves the zip as it is counts for none.
        seed: of what is done to it; the same seed does the same.
    """
    generator, outcome, path = random.Random(seed), Outcome(), Path(name)
    report, contents = examine_bytes(data, path)
    if not report.ok:
        raise InputError(f"{name} does not verify before it is changed: {report.errors[0]}")
    digest, files, networks = sha256(data), read_archive(data), {}
    with _watched(outcome.executed):
        for number in itertools.count():
            if outcome.mutations.total() == mutations:
                break
            kind = generator.choice(sorted(_KINDS))
            changed = _KINDS[kind](data, files, generator)
            # What is only written in another way is no mutation of the content.
            if changed == data or (kind in _OF_CONTENT and _by_zipfile(changed) == files):
                continue
            outcome.mutations[kind] += 1
            label = f"mutation {number} of seed {seed} ({kind})"
            try:
                if examine_bytes(changed, path, sha256=digest)[0].ok:
                    outcome.accepted.append(label)
                found, read = examine_bytes(changed, path)
            except Exception as error:
                outcome.failed.append(f"{label}: {type(error).__name__}: {error}")
                continue
            if unforeseen := [text for text in found.errors if UNEXPECTED in text]:
                outcome.failed.append(f"{label}: {unforeseen[0]}")
            if found.ok and (hostile := _hostile(read.files)):
                outcome.differing.append(f"{label}: accepted with {hostile!r}")
            elif found.ok and _by_zipfile(changed) != {f"{read.top}/{each}": text for each, text in read.files.items()}:
                outcome.differing.append(f"{label}: zipfile reads another content")
            elif found.ok and read.files == contents.files and read.top == contents.top:
                outcome.same += 1
            elif found.ok and kind in ("forged", "networks"):
                outcome.forged += 1
                networks |= {
                    f"{number}-{Path(each).name}": content
                    for each, content in read.files.items()
                    if each.startswith("models/")
                    and each.endswith((".ts", ".pt"))
                    and content != contents.files.get(each)
                }
            elif found.ok:
                outcome.differing.append(label)
    outcome.run = len(networks)
    outcome.executed += run_each(networks)
    return outcome


def _by_zipfile(data: bytes) -> dict[str, bytes] | None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name: archive.read(name) for name in archive.namelist()}
    except Exception:
        return None


def _hostile(files: dict[str, bytes]) -> str | None:
    # What `_value_changed` puts into configs to be executed, looked for without any of the checks' own code.
    configs = b"".join(content for name, content in files.items() if name.startswith("configs/"))
    return next((text for text in _HOSTILE if text.encode() in configs), None)


# ---- what is watched -----------------------------------------------------------------------------------------------

_watching: list[list[str]] = []


def _heard(event: str, arguments: tuple) -> None:
    if _watching and (event in _FORBIDDEN or (event == "import" and str(arguments[0]).startswith("law_order_"))):
        _watching[-1].append(f"{event} {str(arguments)[:100]}")


@contextmanager
def _watched(heard: list[str]) -> Iterator[None]:
    # Python tells of processes, sockets, pickles and imports; a hook can not be taken out again, so there is one.
    if not getattr(_watched, "hooked", False):
        sys.addaudithook(_heard)
        _watched.hooked = True
    _watching.append(heard)
    try:
        yield
    finally:
        _watching.pop()


# ---- mutations -----------------------------------------------------------------------------------------------------


def _place(data: bytes, generator: random.Random) -> int:
    # Half of the time in or near a header, where most can be said in two ways.
    if generator.random() < 0.5:
        return generator.randrange(len(data))
    marks = [at for at in (data.find(b"PK", generator.randrange(len(data))), data.rfind(b"PK")) if at >= 0]
    return min(len(data) - 1, generator.choice(marks) + generator.randrange(60))


def _bits(data: bytes, files: dict, generator: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(generator.choice((1, 1, 1, 2, 8))):
        changed[_place(data, generator)] ^= 1 << generator.randrange(8)
    return bytes(changed)


def _number(data: bytes, files: dict, generator: random.Random) -> bytes:
    at, width = _place(data, generator), generator.choice((2, 4))
    value = generator.choice(_NUMBERS) & (256**width - 1)
    return (data[:at] + value.to_bytes(width, "little") + data[at + width :])[: len(data)]


def _blocks(data: bytes, files: dict, generator: random.Random) -> bytes:
    first, second = sorted((_place(data, generator), _place(data, generator)))
    length = generator.choice((1, 4, 46, 1000))
    block = data[first : first + length]
    return generator.choice(
        (
            data[:first] + data[first + length :],  # cut out
            data[:second] + block + data[second:],  # put in once more
            data[:second] + block + data[second + length :],  # laid over
            data[:first],  # cut off
            data + block,
            block + data,
            data[:first] + generator.randbytes(length) + data[first:],
        )
    )


def _headers(data: bytes, files: dict, generator: random.Random) -> bytes:
    # Two members described anew by zipfile, with another attribute, method, flag or name.
    stream, hostile = io.BytesIO(), generator.choice(sorted(files))
    with zipfile.ZipFile(stream, "w") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that stand twice
        for name, content in files.items():
            info = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o100644 << 16
            if name == hostile:
                what = generator.randrange(5)
                info.external_attr = (0o120777 << 16, 0o040755 << 16, 0o104755 << 16, 0x10, 0)[what]
                info.compress_type = generator.choice((0, 8, 12, 14))
                info.extra = generator.choice((b"", b"up\x04\x00abcd"))
                info.comment = generator.choice((b"", b"a comment"))
            archive.writestr(info, content)
            if name == hostile and generator.random() < 0.3:
                archive.writestr(info, b"again")
    return stream.getvalue()


def _members(data: bytes, files: dict, generator: random.Random) -> bytes:
    changed, name = dict(files), generator.choice(sorted(files))
    what = generator.randrange(6)
    if what == 0:
        del changed[name]
    elif what == 1:
        changed[generator.choice((*_NAMES, f"{name}.pyc", f"{name}/x"))] = changed.pop(name)
    elif what == 2:
        changed[f"{name.partition('/')[0]}/{generator.choice(_NAMES)}"] = b"more"
    elif what == 3:
        other = generator.choice(sorted(files))
        changed[name], changed[other] = changed[other], changed[name]
    else:
        changed[name] = _bytes_changed(changed[name], generator)
    return _zip(changed)


def _forged(data: bytes, files: dict, generator: random.Random) -> bytes:
    # As one would who knows the format: content changed, manifest to fit.
    top, inside, manifest = _taken_apart(files)
    name = generator.choice(sorted(inside))
    if name.endswith(".json") and generator.random() < 0.8:
        inside[name] = json_bytes(_value_changed(json.loads(inside[name]), generator))
    else:
        inside[name] = _bytes_changed(inside[name], generator)
    return _fitting(top, inside, manifest, generator)


def _network(data: bytes, files: dict, generator: random.Random) -> bytes:
    # The same, of what torch reads.
    top, inside, manifest = _taken_apart(files)
    name = generator.choice([each for each in sorted(inside) if each.endswith((".ts", ".pt"))])
    inside[name] = mutated(inside[name], generator)
    return _fitting(top, inside, manifest)


def _taken_apart(files: dict) -> tuple[str, dict[str, bytes], dict]:
    top = next(iter(files)).partition("/")[0]
    inside = {name.partition("/")[2]: content for name, content in files.items()}
    return top, inside, json.loads(inside.pop(NAME))


def _fitting(top: str, inside: dict, manifest: dict, generator: random.Random | None = None) -> bytes:
    if manifest["package"]:
        manifest["package"], inside = named_anew(manifest["name"], manifest["package"], inside)
        manifest["python"] = sorted(each for each in inside if each.endswith(".py"))
    manifest["files"] = {each: {"sha256": sha256(content), "size": len(content)} for each, content in inside.items()}
    with suppress(ValueError, AttributeError):  # where it is no JSON any more
        manifest["executes"] = executed(inside)
    if generator is not None and generator.random() < 0.2:
        manifest = _value_changed(manifest, generator)
    return zip_bytes(top, {**inside, NAME: json_bytes(manifest)})


def _zip(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x", (1980, 1, 1, 0, 0, 0))
            info.filename, info.compress_type, info.external_attr = name, zipfile.ZIP_DEFLATED, 0o100644 << 16
            archive.writestr(info, content)
    return stream.getvalue()


def _bytes_changed(content: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(content) + 1)
    more = generator.choice(
        (b"", b"\x00", b"{", b"cos\nsystem\n(S'x'\ntR.", b"\xff\xfe", b"\n", generator.randbytes(3))
    )
    return content[:at] + more + content[at + generator.choice((0, 1, 1, 100)) :]


def _value_changed(value: Any, generator: random.Random) -> Any:
    if isinstance(value, dict | list) and value and generator.random() < 0.85:
        key = generator.choice(sorted(value) if isinstance(value, dict) else range(len(value)))
        changed = dict(value) if isinstance(value, dict) else list(value)
        if generator.random() < 0.1:
            del changed[key]
        else:
            changed[key] = _value_changed(value[key], generator)
        return changed
    deep: Any = "$1"
    for _ in range(generator.choice((3, 70, 300))):
        deep = [deep]
    return generator.choice(
        (None, True, -1, 10**400, 1e308, "", "x", [], {}, deep, "%x.json#a",
         "$__import__('os').system('exit 1')", {"_target_": "os.system", "command": "exit 1"}, {"_target_": None},
         "$@a.__class__", {"reader": "os.system"}, {"_mode_": "debug"}, {"_target_": "$@x"}, "@" * 999,
         "$" + "(" * 500)
    )  # fmt: skip


_KINDS: dict[str, Callable[[bytes, dict, random.Random], bytes]] = {
    "bits": _bits,
    "numbers": _number,
    "blocks": _blocks,
    "headers": _headers,
    "members": _members,
    "forged": _forged,
    "networks": _network,
}
_OF_CONTENT = ("members", "forged", "networks")


@command
def run(path: str, *, mutations: int = 5000, seed: int = 0, json: bool = False) -> None:
    """Mutate a zip and verify each: python -m bundles.fuzzing ZIP [--mutations 5000] [--seed 0] [--json]

    Ends with code 1 if one is accepted that may not be, if there is a traceback, or if anything is executed.
    """
    outcome = fuzz(read_limited(path), Path(path).name, mutations, seed)
    if json:
        _tell(outcome)
    else:
        print("\n".join(outcome.lines()))
    if not outcome.ok:
        raise SystemExit(1)


def _tell(outcome: Outcome) -> None:
    print(json.dumps({**vars(outcome), "ok": outcome.ok}, indent=1))


if __name__ == "__main__":
    fire.Fire(run)

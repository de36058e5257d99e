"""Mutations of networks for `bundles.fuzzing`, and what those that are accepted do when torch reads and runs them."""

from __future__ import annotations

import io
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_PATIENCE = 20  # seconds for one network; a loop may be long, which is no harm beyond that
_MEMORY = 8 << 30  # bytes more than torch itself
_SIDE = 64  # pixels
_LINES = (
    'p = ops.prim', 'q = getattr(image, "save")', 'torch.save(image, "written")', 'image.save("written")',
    'y = torch.from_file("written", True, 8)', 'print(image)', 'y = torch.add(image, image)', 'torch = image',
    'y = fork(image)', 'y = ops.aten.save(image)', 'y = image', 'pass', 'return image', 'y = CONSTANTS.c0',
    'self.x = image', 'import os', 'for i in range(3):', 'y = torch.mul(CONSTANTS.c0, image)',
)  # fmt: skip
_WORDS = (
    ("torch.", "ops.aten."), ("torch.", "ops.prim."), ("conv2d", "save"), ("conv2d", "from_file"), ("relu", "sigmoid"),
    ("image", "self"), ("CONSTANTS", "self"), ("c0", "c999"), ("None", "True"), ("[1, 1]", "[999, 1]"),
    ("(Module)", ""), ("False", "True"), ("forward", "save"), ("1", "0"), ("2", "-1"), ("torch.relu(", "image.relu("),
)  # fmt: skip
_ORDERS = (
    b"cos\nsystem\n(S'x'\ntR", b"r\xff\xff\xff\x0f", b"r\x00\x00\x10\x00", b"h\x00", b"K\x00", b"0", b"}", b"(", b")R",
    b"ctorch\nload\n", b"ctorch._utils\n_rebuild_parameter\n", b"\x8a\x08" + b"\xff" * 8, b"J\xff\xff\xff\xff",
)  # fmt: skip
_FORBIDDEN = ("os.system", "subprocess.Popen", "os.exec", "os.posix_spawn", "os.remove", "os.rename", "socket.connect")


def mutated(content: bytes, generator: random.Random) -> bytes:
    """A ``model.ts`` or ``model.pt`` with its program, a pickle or a record of numbers changed."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    suffix = generator.choice((".py", ".pkl", ".pkl", ""))
    names = [name for name in sorted(records) if name.endswith(suffix)] or sorted(records)
    name = generator.choice(names)
    change = {".py": _program, ".pkl": _pickle}.get(Path(name).suffix, _numbers)
    records[name] = change(records[name], generator)
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for each, record in records.items():
            archive.writestr(zipfile.ZipInfo(each), record)
    return stream.getvalue()


def _program(content: bytes, generator: random.Random) -> bytes:
    lines = content.decode().split("\n")
    at = generator.randrange(len(lines))
    what = generator.randrange(5)
    if what == 0:
        lines.insert(at, "    " + generator.choice(_LINES))
    elif what == 1:
        lines.pop(at)
    elif what == 2:
        lines.insert(at, generator.choice(lines))
    else:
        old, new = generator.choice(_WORDS)
        told = [number for number, line in enumerate(lines) if old in line]
        if told:
            at = generator.choice(told)
            lines[at] = lines[at].replace(old, new, 1)
    return "\n".join(lines).encode()


def _pickle(content: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(content))
    if generator.random() < 0.4:
        return content[:at] + generator.choice(_ORDERS) + content[at:]
    numbers = [place for place, byte in enumerate(content[:-1]) if byte in b"KMJ"]  # of counts, shapes, strides
    if numbers and generator.random() < 0.7:
        at = generator.choice(numbers) + 1
    return content[:at] + generator.randbytes(1) + content[at + 1 :]


def _numbers(content: bytes, generator: random.Random) -> bytes:
    at = generator.randrange(len(content) + 1)
    return generator.choice(
        (content[:at], content + b"\0" * 4, content[:at] + generator.randbytes(1) + content[at + 1 :])
    )


# ---- what is accepted --------------------------------------------------------------------------------------------


def run_each(networks: Mapping[str, bytes]) -> list[str]:
    """Load and run networks, each in a process of its own that is watched.

    Args:
        networks: contents by name, with the suffix ``.ts`` or ``.pt``.

    Returns:
        A line for each that wrote, started or reached for anything, or ended the process.
    """
    if not networks:
        return []
    root = str(Path(__file__).resolve().parents[1])
    with tempfile.TemporaryDirectory() as folder:
        here, work = Path(folder, "networks"), Path(folder, "work")
        here.mkdir()
        work.mkdir()
        for name, content in networks.items():
            (here / name).write_bytes(content)
        environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-W", "ignore", "-m", "bundles.fuzzing_weights", str(here)]
        ended = subprocess.run(command, cwd=work, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        return [f"networks could not be run: {ended.stderr[-300:]}"]
    return json.loads(ended.stdout.splitlines()[-1])


def _run_all(folder: Path) -> list[str]:
    import torch

    torch.set_num_threads(1)
    found = []
    for path in sorted(folder.iterdir()):
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            heard = _watched_run(path)
            os.write(writing, "; ".join(heard).encode()[:1000])
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            heard = stream.read().decode(errors="replace")
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        for left in Path.cwd().iterdir():
            heard += f"; it wrote {left.name}"
            left.unlink()
        if status not in (0, -signal.SIGALRM):
            heard += f"; it ended its process ({status})"
        if heard:
            found.append(f"{path.name}: {heard.removeprefix('; ')}")
    return found


def _watched_run(path: Path) -> list[str]:
    import torch

    heard: list[str] = []

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        mode = str(arguments[1]) if event == "open" else ""
        if event.startswith(_FORBIDDEN) or (set(mode) & set("wax+")):
            heard.append(f"{event} {str(arguments)[:100]}")

    signal.alarm(_PATIENCE)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + _MEMORY, used + _MEMORY))
    sys.addaudithook(hear)
    with suppress(Exception), torch.no_grad():  # what torch itself refuses does nothing
        if path.suffix == ".ts":
            torch.jit.load(str(path), map_location="cpu")(torch.zeros(1, 3, _SIDE, _SIDE))
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
            [each.double().sum() for each in state.values()]
    return heard


if __name__ == "__main__":
    print(json.dumps(_run_all(Path(sys.argv[1]))))

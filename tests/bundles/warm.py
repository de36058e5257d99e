"""Many commands for the price of one start.

``python -m monai.bundle …`` spends seconds on imports before it does anything. A `WarmPython` is one process that has
imported the libraries, but nothing of this repository, and forks itself for each command. The fork has the command's
own folder, arguments, path and streams, and ends as an interpreter ends: what is tested is the command, not a
function that it calls.
"""

from __future__ import annotations

import inspect
import json
import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
LIBRARIES = (
    "ignite.handlers",
    "matplotlib.pyplot",
    "monai.bundle",
    "monai.engines",
    "monai.visualize",
    "scipy.ndimage",
)
LIBRARIES += ("pytorch_optimizer", "torch._dynamo", "torch.utils.tensorboard")
LONGEST = 600  # seconds, far beyond what any takes; the command is then killed


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        code: its exit code, negative for a signal.
        out, err: what it wrote to standard output and standard error.
    """

    code: int
    out: str
    err: str

    @property
    def said(self) -> list[str]:
        """The lines that a user reads on standard error, without warnings, the code they show, and progress bars."""
        without_warnings = re.sub(r"^.*Warning: .*\n(  .*\n)?", "", self.err.replace("\r", "\n"), flags=re.MULTILINE)
        bar = re.compile(r"(it|image|pair)/s\]|\[\d\d:\d\d<")
        return [line for line in without_warnings.splitlines() if line.strip() and not bar.search(line)]


class WarmPython:
    """A context that runs commands; `scratch` is a folder for their output.

    Whatever makes ``common`` importable from everywhere (an installation, ``PYTHONPATH``) is taken away, so that a
    bundle has to find it by itself, as in a checkout that was only downloaded.
    """

    def __init__(self, scratch: Path) -> None:
        self.scratch = scratch
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        self._server = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def __enter__(self) -> WarmPython:
        return self

    def __exit__(self, *exception: Any) -> None:
        # Not by closing its input alone: a process that was forked off meanwhile may hold that end open too.
        self._server.kill()
        self._server.wait(LONGEST)
        self._server.stdin.close()
        self._server.stdout.close()

    def module(self, *arguments: Any, cwd: Path, env: Mapping[str, str] | None = None) -> Ended:
        """``python -m ARGUMENTS`` in the folder `cwd`."""
        return self._ask({"module": [str(each) for each in arguments]}, cwd, env)

    def code(self, text: str, *, cwd: Path) -> Ended:
        """``python -c TEXT`` in the folder `cwd`."""
        return self._ask({"code": text}, cwd, None)

    def bundle(self, *arguments: Any, cwd: Path, **overrides: Any) -> Ended:
        """``python -m monai.bundle ARGUMENTS --key value …`` in the folder `cwd`."""
        keys = [part for key, value in overrides.items() for part in (f"--{key}", value)]
        return self.module("monai.bundle", *arguments, *keys, cwd=cwd)

    def _ask(self, what: dict[str, Any], cwd: Path, env: Mapping[str, str] | None) -> Ended:
        files = [str(self.scratch / name) for name in ("stdout", "stderr")]
        self._server.stdin.write(json.dumps({**what, "cwd": str(cwd), "env": dict(env or {}), "files": files}) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the warm process has died"
        code = json.loads(answer)
        assert code != -signal.SIGALRM, f"{what} took more than {LONGEST} seconds"
        return Ended(code, *(Path(name).read_text(errors="replace") for name in files))


def _forget_the_repository() -> None:
    # An editable installation is a path, or a finder of its own.
    sys.path[:] = [each for each in sys.path if Path(each or ".").resolve() not in (REPOSITORY, Path(__file__).parent)]
    sys.meta_path[:] = [
        each for each in sys.meta_path if not getattr(each, "__module__", "").startswith("__editable__")
    ]


def _warm_up() -> None:
    for name in LIBRARIES:
        __import__(name)
    from monai.bundle.config_item import ComponentLocator

    ComponentLocator().get_component_module_name("Compose")  # reads all of MONAI, as the first config does
    inspect.stack()  # as Fire does: it looks up the file of every module


def _next_request() -> dict[str, Any] | None:
    # Returns in a fork, with what it has to do, or in the server, with None, when there is no more to do.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else is printed here is no answer
    for line in sys.stdin:
        request = json.loads(line)
        process = os.fork()
        if not process:
            return request
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        answers.write(f"{json.dumps(code)}\n")
        answers.flush()
    return None


def _become(request: Mapping[str, Any]) -> None:
    signal.alarm(LONGEST)
    os.chdir(request["cwd"])
    for number, name in enumerate((os.devnull, *request["files"])):
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
    os.environ.update(request["env"])
    added = [folder for folder in request["env"].get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:0] = [os.getcwd(), *added]
    if "code" in request:
        sys.argv = ["-c"]
        exec(request["code"], {"__name__": "__main__"})
    else:
        sys.argv = request["module"]
        runpy.run_module(request["module"][0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _forget_the_repository()
    _warm_up()
    request = _next_request()
    if request is not None:
        _become(request)

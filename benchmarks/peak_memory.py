"""The peak memory of one network's step, measured in a process of its own.

On a CPU it is the process's highest resident memory during the steps less what was resident before the first, after
a small step has loaded all that is loaded once; weights are in it. An exported network is exported before. On a GPU it
is the same of torch's allocator. A compiled network has none: its peak would be that of the compiler.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from common.errors import InputError

from .configurations import NETWORKS, materialised
from .runtimes import EXPORTED, export, load, runner

ROOT = Path(__file__).resolve().parent.parent
MEBIBYTE = 2**20
FORMS = ("fused", "materialised")


def random_image(batch: int, size: int, device: str, channels_last: bool) -> Tensor:
    """``(batch, 3, size, size)`` of normal noise, always the same."""
    image = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0))
    return image.to(device, memory_format=torch.channels_last if channels_last else torch.contiguous_format)


class Step:
    """One inference or one training step of a network on a fixed random batch.

    Args:
        arguments: of the network.
        form: ``"fused"``, or ``"materialised"`` with ORDER's N×N matrices stored.
        train: forward, backward and AdamW; else forward alone, in eval mode without gradients.
        network: a name of `NETWORKS`.
        runtime: of `runtimes.RUNTIMES`; training is eager.
    """

    def __init__(
        self,
        arguments: dict[str, Any],
        size: int,
        batch: int,
        *,
        form: str,
        train: bool,
        device: str,
        channels_last: bool,
        network: str = "OrderNet",
        runtime: str = "eager",
    ) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            built = NETWORKS[network](**arguments)
        built = built if form == "fused" else materialised(built)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network: nn.Module = built.train(train).to(device, memory_format=memory_format)
        self.optimiser = torch.optim.AdamW(self.network.parameters()) if train else None
        self.device = device
        self.image = random_image(batch, size, device, channels_last)
        noise = torch.rand(batch, 1, size, size, generator=torch.Generator().manual_seed(1))
        self.mask = (noise > 0.9).float().to(device)
        self.runner = self.network if train else runner(self.network, runtime, self.image)

    def logits(self) -> Tensor:
        """What the network computes of the batch, in its runtime."""
        with torch.no_grad():
            return self.runner(self.image)

    def __call__(self) -> float:
        """Do it once; the loss of a training step, else 0."""
        if self.optimiser is None:
            self.logits()
            loss = 0.0
        else:
            self.optimiser.zero_grad()
            value = binary_cross_entropy_with_logits(self.network(self.image), self.mask)
            value.backward()
            self.optimiser.step()
            loss = value.item()
        if torch.device(self.device).type == "cuda":
            torch.cuda.synchronize()
        return loss


def _status(field: str) -> int:
    """A line of Linux's /proc/self/status in bytes; its VmHWM, unlike ru_maxrss, does not start at the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


class ResidentMemory:
    """Peak resident memory since it was made, in bytes, above what was resident then."""

    def __init__(self) -> None:
        self.linux = Path("/proc/self/status").exists()
        if self.linux:
            with contextlib.suppress(OSError):  # sets the peak back to the present; without it, imports may hide it
                Path("/proc/self/clear_refs").write_text("5")
        self.before = _status("VmRSS") if self.linux else self._maximum()

    @staticmethod
    def _maximum() -> int:
        import resource  # Windows has none

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

    def peak(self) -> int:
        return (_status("VmHWM") if self.linux else self._maximum()) - self.before


class AllocatedMemory:
    """Peak of torch's CUDA allocator since it was made, in bytes, above what was allocated then."""

    def __init__(self) -> None:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        self.before = torch.cuda.memory_allocated()

    def peak(self) -> int:
        return torch.cuda.max_memory_allocated() - self.before


def measure_here(request: dict[str, Any]) -> dict[str, float]:
    """Peak memory in bytes of two steps, and the loss of the second, in this process."""
    torch.set_num_threads(request.pop("threads"))
    runtime = request.pop("runtime", "eager")
    small = {**request, "size": 64, "batch": 2}
    Step(**small, runtime=runtime)()
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network"
        if runtime in EXPORTED:
            whole = Step(**request)
            export(whole.network, runtime, whole.image, file)
            del whole
            _give_back()
        watch = AllocatedMemory() if torch.device(request["device"]).type == "cuda" else ResidentMemory()
        step = _loaded(request, runtime, file) if runtime in EXPORTED else Step(**request)
        step()
        return {"loss": step(), "bytes": watch.peak()}


def _loaded(request: dict[str, Any], runtime: str, file: Path) -> Callable[[], float]:
    image = random_image(request["batch"], request["size"], request["device"], request["channels_last"])
    network = load(file, runtime, request["device"])

    def step() -> float:
        with torch.no_grad():
            network(image)
        return 0.0

    return step


def _give_back() -> None:
    # What exporting has left behind, so that running it does not find its memory there.
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):  # glibc alone
        ctypes.CDLL(None).malloc_trim(0)


def measure(arguments: dict[str, Any], size: int, batch: int, **settings: Any) -> dict[str, float]:
    """`measure_here` in a fresh process: ``{"bytes": …, "loss": …}``. Settings are those of `Step`.

    Raises:
        InputError: if the process died, of too little memory as a rule.
    """
    request = {"arguments": arguments, "size": size, "batch": batch, "threads": torch.get_num_threads(), **settings}
    # With a fixed threshold, freed tensors go back to the system at once, and resident means in use.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(MEBIBYTE // 8)}
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.peak_memory", json.dumps(request)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"killed by signal {-done.returncode}"])[-1]
        what = f"{request.get('network', 'OrderNet')} {arguments} ({settings['form']}) at {size}², batch {batch}"
        raise InputError(
            f"measuring {what}, failed: {last}; with too little memory, choose a smaller --batch or --size"
        )
    return json.loads(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    print(json.dumps(measure_here(json.loads(sys.argv[1]))))

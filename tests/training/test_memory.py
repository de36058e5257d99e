"""Freed memory is kept for the next step."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys

import pytest
import torch

from common.training import keep_freed_memory

FAULTS = """
import resource, sys, torch
from common.training import keep_freed_memory
if sys.argv[1] == "kept":
    assert keep_freed_memory()
for _ in range(3):  # until the heap is as large as it needs to be
    torch.empty(2**24).fill_(1.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    torch.empty(2**24).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of the GNU C library")
def test_tensors_of_the_same_size_fault_no_new_pages():
    """64 MiB eight times over: 16,384 pages of 4 KiB each time, or 32 of 2 MiB."""
    # Without settings of this process's own.
    env = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUNABLES"))}
    ended = {
        mode: int(subprocess.check_output([sys.executable, "-c", FAULTS, mode], text=True, env=env))
        for mode in ("given back", "kept")
    }
    assert ended["kept"] < ended["given back"] / 10
    assert ended["given back"] * resource.getpagesize() > 2**20


def test_nothing_is_changed_for_a_gpu():
    assert keep_freed_memory(torch.device("cuda")) is False

"""Memory of a training on a CPU."""

from __future__ import annotations

import ctypes
import platform

import torch

# From malloc.h of the GNU C library.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_LARGEST = 2**31 - 1


def keep_freed_memory(device: torch.device | str = "cpu") -> bool:
    """Let this process keep the memory that tensors free, for the next ones, which makes a training step faster.

    By default the GNU C library gives large blocks back to the system at once, and every step pays again for having
    them zeroed page by page. The process then holds, until it ends, at least the most that it ever needed.

    Args:
        device: nothing is changed unless it is the CPU.

    Returns whether the library took the setting; others than the GNU C library have none.
    """
    if torch.device(device).type != "cpu" or platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return bool(library.mallopt(_M_MMAP_MAX, 0)) and bool(library.mallopt(_M_TRIM_THRESHOLD, _LARGEST))

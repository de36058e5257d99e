"""Which device a command may compute on."""

from __future__ import annotations

import torch

from .errors import InputError


def usable_device(name: str) -> torch.device:
    """A device by its name, such as cpu, cuda or cuda:1.

    Raises:
        InputError: if there is no such device here.
    """
    try:
        found = torch.device(name)
        torch.zeros(1, device=found)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"--device {name} cannot be used here ({reason}); leave it out for the CPU") from None
    return found

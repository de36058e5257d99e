"""Processes that train together, started by torchrun."""

from __future__ import annotations

from datetime import timedelta

import ignite.distributed as idist
import torch
from torch import nn

from ..errors import InputError, reports_input_errors

# One process encodes or checks a whole set while the others wait, which torch's ten minutes may not cover.
PATIENCE = timedelta(hours=4)


@reports_input_errors
def begin_distributed() -> None:
    """Join the other processes, over NCCL on GPUs and gloo on a CPU.

    Raises:
        InputError: as one line and exit code 2, where torchrun has not started this process.
    """
    if not torch.distributed.is_torchelastic_launched():
        raise InputError("multi_gpu_train.yaml runs under torchrun: torchrun --nproc_per_node=N -m monai.bundle run …")
    if not torch.distributed.is_initialized():
        idist.initialize("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)


def distributed_network(network: nn.Module, sync_bn: bool = False) -> nn.Module:
    """The network for several processes (Ignite's ``auto_model``), or as it is where there is one.

    Args:
        network: on this process's device.
        sync_bn: share batch statistics between the processes; on GPUs alone.
    """
    if idist.get_world_size() == 1:  # auto_model would take all GPUs of the machine for it
        return network
    return idist.auto_model(network, sync_bn=sync_bn and torch.cuda.is_available())


def local_device() -> torch.device:
    """This process's GPU, or the CPU."""
    return idist.device()

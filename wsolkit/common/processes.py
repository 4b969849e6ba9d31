"""The processes that `torchrun` started together, as far as this package needs to know of them."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from wsolkit.common.cores import torchrun_processes
from wsolkit.common.errors import WsolkitError


def rank() -> int:
    """Number of this process in the process group, 0 where there is none."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes in the process group, 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def share(n: int) -> range:
    """This process's contiguous share of n items; the shares of all processes differ by one item at most."""
    return range(n * rank() // world_size(), n * (rank() + 1) // world_size())


def agreed(value: Any) -> Any:
    """The first process's value, on every process; all of them must call it, and wait for each other."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def total(numbers: torch.Tensor) -> torch.Tensor:
    """Sum of `numbers` (any shape, on the group's device) over all processes; `numbers` itself is left alone."""
    numbers = numbers.clone()
    if world_size() > 1:
        dist.all_reduce(numbers)
    return numbers


def device_named(name: str = "") -> torch.device:
    """The device that a user names: cpu, cuda or cuda:N; "" is cuda where there is one.

    Raises: WsolkitError: another name, or a CUDA device that is not there.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
    except RuntimeError:
        raise WsolkitError(f"unknown device '{name}'; choose cpu, cuda or cuda:N") from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise WsolkitError(f"device '{name}' is not there: {torch.cuda.device_count()} CUDA devices found; choose cpu")
    return device


@contextmanager
def process_group(device: str = "", timeout: float = 1800.0) -> Iterator[torch.device]:
    """Join the processes that torchrun started (WORLD_SIZE > 1 in the environment); without torchrun nothing happens.

    Args:
        device: "cpu", "cuda" or "" (cuda where there is one). Under torchrun "cuda" is the device of LOCAL_RANK; alone,
            "cuda:N" will do too.
        timeout: seconds after which a process that waits for the others gives up.

    Yields:
        the device of this process; gloo is the backend on the CPU, nccl on CUDA.

    Raises: ValueError: "cuda:N" under torchrun, or fewer CUDA devices than processes on this machine.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if torchrun_processes() == 1 or dist.is_initialized():
        yield device_named(device)
        return
    chosen = torch.device("cpu")
    if kind != "cpu":
        chosen = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
        if kind != "cuda" or chosen.index >= torch.cuda.device_count():
            most = f"at most as many processes on this machine as its {torch.cuda.device_count()} CUDA devices"
            raise WsolkitError(f"device '{kind}' under torchrun: choose cpu, or cuda with {most}")
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
    yield chosen  # after an error nothing below runs: the others may wait for this process, and torchrun ends them
    gc.collect()  # networks that hold on to the group
    if chosen.type == "cpu":
        dist.barrier()
    dist.destroy_process_group()

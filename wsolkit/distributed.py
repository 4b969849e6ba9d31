"""The processes that `torchrun` started together, as far as this package needs to know of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist


def rank() -> int:
    """Number of this process in the process group, 0 where there is none."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes in the process group, 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def process_group(device: str = "", timeout: float = 1800.0) -> Iterator[torch.device]:
    """Join the processes that torchrun started (WORLD_SIZE > 1 in the environment); without torchrun nothing happens.

    Args:
        device: "cpu", "cuda", "cuda:N" or "" (cuda where there is one). Under torchrun "cuda" is the device of LOCAL_RANK.
        timeout: seconds after which a process that waits for the others gives up.

    Yields:
        the device of this process; gloo is the backend on the CPU, nccl on CUDA.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    together = int(os.environ.get("WORLD_SIZE", "1")) > 1 and not dist.is_initialized()
    if not together:
        yield torch.device(kind)
        return
    chosen = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if kind == "cuda" else kind)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", timeout=timedelta(seconds=timeout))
    try:
        yield chosen
    finally:
        dist.destroy_process_group()

"""One network on several processes: DistributedDataParallel, and what has to be the same on all of them."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wsolkit.common.processes import world_size


def replicate(model: nn.Module) -> tuple[nn.Module, nn.Module]:
    """The network whose weights are trained, and the module to call in a step: the same `model` twice without torchrun.

    With several processes the second is a DistributedDataParallel around the first. On CUDA the first is a copy of `model`
    whose batch normalisation looks at the whole batch (SyncBatchNorm). That does not exist on the CPU: there each
    process normalises with the statistics of its share, and the running statistics are those of the first process.
    """
    if world_size() == 1:
        return model, model
    if next(model.parameters()).is_cuda:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    return model, DistributedDataParallel(model)


def alone(network: nn.Module) -> AbstractContextManager:
    """While a part of a batch that is not the last goes through `network`: gradients stay in this process."""
    network = getattr(network, "_orig_mod", network)  # of torch.compile
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's running statistics."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)

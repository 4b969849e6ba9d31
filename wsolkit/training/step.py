"""One step of a training run: the gradient of the mean loss over a batch, whatever it is cut into and on how many processes."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from wsolkit.common.processes import world_size
from wsolkit.networks.models import WSOLModel
from wsolkit.training.objective import Objective
from wsolkit.training.recipe import Recipe


def replicate(model: WSOLModel) -> tuple[WSOLModel, nn.Module]:
    """The network whose weights are trained, and the module to call in a step: the same `model` twice without torchrun.

    With several processes the second is a DistributedDataParallel around the first. On CUDA the first is a copy of `model`
    whose batch normalisation takes the statistics of the whole batch (SyncBatchNorm). That does not exist on the CPU: there
    each process normalises with the statistics of its share, and the running statistics are those of the first process.
    """
    if world_size() == 1:
        return model, model
    if next(model.parameters()).is_cuda:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    return model, DistributedDataParallel(model)


@torch.no_grad()
def share_buffers(model: nn.Module) -> None:
    """Give every process the first one's running statistics."""
    if world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, src=0)


def add_gradients(
    network: nn.Module, images: Tensor, labels: Tensor, together: int, recipe: Recipe, objective: Objective
) -> Tensor:
    """Add the gradient of the mean loss over a batch to the gradients of `network`'s parameters.

    Args:
        images, labels: (b, 3, H, W) and (b,), this process's share of the batch; b may be 0 in a last batch of fewer
            images than processes.
        together: images in the batch over all processes.

    Returns:
        (3,) float64 on the device of `images`, of this process: loss times images, right ones, images.
    """
    criterion = partial(cross_entropy, smoothing=recipe.label_smoothing)
    sums = torch.zeros(3, dtype=torch.float64, device=images.device)
    parts = min(recipe.accumulate, max(1, together // world_size()))  # the same number in every process
    for number, (some, answers) in enumerate(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)):
        with _alone(network) if number < parts - 1 else nullcontext():
            with torch.autocast(images.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
                changed, target = objective.change(some, answers)
                loss, logits = objective.loss(network, changed, target, criterion)
            # the processes' gradients are averaged, so that each must count by its share of the batch
            (loss * (len(some) * world_size() / together)).backward()
        if len(some):  # the mean loss of no image is NaN, its gradient 0
            sums[0] += loss.detach().double() * len(some)
            sums[1] += (logits.detach().argmax(1) == answers).sum()
            sums[2] += len(some)
    return sums


def _alone(network: nn.Module) -> AbstractContextManager:
    """While a part of a batch that is not the last goes through `network`: gradients stay in this process."""
    network = getattr(network, "_orig_mod", network)  # of torch.compile
    return network.no_sync() if isinstance(network, DistributedDataParallel) else nullcontext()


def cross_entropy(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean over the batch, in float32 under autocast too."""
    return functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)


def step_seed(*numbers: int) -> int:
    """A seed for torch from whole numbers of at least 0: other numbers, another stream."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])

"""Training with image labels only: one loop from top to bottom, which resumes exactly and picks its best epoch on val.

Order, crops and flips of an epoch are drawn from (seed, epoch), and everything else random from (seed, epoch, step,
process). So no generator has a state that could be lost: a training run that was killed goes on after its last saved
step, with the same result as an uninterrupted one (bit for bit on the CPU with the same number of threads).
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import check_out, digest
from wsolkit.common.processes import agreed, device_named, rank, share, total, world_size
from wsolkit.common.progress import progress
from wsolkit.data.base import WSOLDataset
from wsolkit.networks.models import WSOLModel
from wsolkit.training import HISTORY_COLUMNS
from wsolkit.training.checkpoints import Files, Progress, checksum, load_state
from wsolkit.training.frozen import check_head, fit_head
from wsolkit.training.recipe import Objective, Recipe

LOOK_EVERY = 16  # steps between two readings of the loss on CUDA, where a reading waits for all steps before it

# Parameters that wsolevaluation (Choe et al., CVPR 2020) trains at the plain rate, by the start of the backbone's name
# and of the parameter's; all others are its "classifier". Where it says nothing (other backbones), the body is plain.
_STEM_TO_LAYER3 = ("body.conv1.", "body.bn1.", "body.layer1.", "body.layer2.", "body.layer3.")
_PLAIN_RATE = {"vgg": ("body.features.",), "resnet": _STEM_TO_LAYER3, "inception": ("body.Conv2d", "body.Mixed")}


def fit(
    model: WSOLModel,
    train: WSOLDataset,
    val: WSOLDataset | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    device: str | torch.device | None = None,
    recipe: Recipe | None = None,
    objective: Objective | None = None,
    compile: bool = False,
    checkpoint_seconds: float = 300.0,
    **changes,
) -> list[dict]:
    """Train `model` in place and leave it with the weights of its best epoch on `val` (the last one without `val`).

    Inside a process group (`wsolkit.common.processes.process_group`, torchrun) every process calls it with the same
    arguments and trains on its share of every batch; the gradient is that of the whole batch, and the first process
    alone writes.

    Args:
        model: from `build_model`; trained and returned on `device` (None: where it is).
        train, val: datasets; only images and labels are used. Pass no test split here: the best epoch is chosen on val.
        out: folder for last.pt, previous.pt, best.pt and history.csv. None keeps everything in memory.
        resume: continue from out/last.pt if it belongs to the same recipe, network and data; False removes it first.
        objective: what a step minimises: a training-time WSOL method, or None for plain classification.
        compile: run the steps through torch.compile; not for objectives that attach something to the network.
        checkpoint_seconds: last.pt is written after every epoch, and within one that takes longer than this (0: never).
        recipe: all values; `changes` replace single ones, e.g. fit(..., epochs=12, lr=0.01).

    Returns:
        One dictionary per epoch, keys as in history.csv; losses in nats, top1 in percent, seconds per epoch.

    Raises: ValueError: if last.pt and previous.pt are damaged or from another run, or if the loss is no longer finite.
    """
    recipe = (recipe or Recipe()).changed(**changes)
    recipe = recipe.changed(epochs=1) if recipe.frozen else recipe
    objective = objective or Objective()
    folder = None if out is None else check_out(out)
    device = next(model.parameters()).device if device is None else device_named(str(device))
    if model.num_classes != len(train.classes):
        raise WsolkitError(
            f"the model has {model.num_classes} classes, but {train} has {len(train.classes)}; build it for these"
        )
    require(len(train) >= 2, f"{train} is too small to train on: two images at least")
    trained = type(objective) is not Objective and not objective.frozen
    require(not (recipe.frozen and trained), f"'{objective.name}' trains the body: it has no meaning with frozen")
    require(recipe.frozen or not objective.frozen, f"'{objective.name}' is fitted on a frozen body: give frozen=True")
    if compile and objective.hooks:
        raise WsolkitError(f"'{objective.name}' attaches hooks, which torch.compile does not see: pass compile=False")
    if recipe.frozen:
        check_head(model)
    objective.prepare(model)
    about = {"classes": train.classes, "geometry": asdict(train.geometry), "recipe": recipe.plain()}
    start = {"model": model.spec, "start": checksum(model.state_dict())}
    # boxes stand in for the images (they are never trained on): synthetic images of another seed have other boxes
    data = [[(s.id, s.label, s.boxes) for s in part.samples] for part in (train, val) if part is not None]
    identity = digest({**about, **start, "data": data, "objective": [objective.name, objective.settings()]})
    state = agreed(load_state(folder, identity, resume) if folder is not None and rank() == 0 else None)

    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # fastest for convolutions
    if state is not None:
        model.load_state_dict(state["model"])
    bare, network = replicate(model)
    optimiser = make_optimiser(bare, recipe)
    now, files = Progress(), Files(folder, identity, {"spec": model.spec, **about}, checkpoint_seconds)
    if state is not None:
        load_optimiser(optimiser, state["optimiser"])
        now = Progress(**state["progress"])
        files.write_results(now)
    called: Any = torch.compile(network) if compile else network

    while now.epoch < recipe.epochs:
        begin = time.perf_counter() - now.seconds
        rate = recipe.rate(now.epoch)
        set_rate(optimiser, rate)
        if recipe.frozen:
            loss, top1 = fit_head(bare, train, recipe, objective)
        else:
            loss, top1 = _train_epoch(bare, called, optimiser, train, recipe, objective, now, files)
        for buffer in bare.buffers() if world_size() > 1 else ():
            dist.broadcast(buffer, src=0)  # the first process's running statistics count
        val_loss, val_top1 = classify(bare, val, precision=recipe.precision) if val is not None else (None, None)
        _check_finite("validation", 0.0 if val_loss is None else val_loss, now, recipe)
        score = [now.epoch, 0.0] if val_loss is None else [val_top1, -val_loss]
        now = replace(now, epoch=now.epoch + 1, step=0, sums=[0.0, 0.0, 0.0], seconds=0.0)
        row = (now.epoch, rate, loss, top1, val_loss, val_top1, time.perf_counter() - begin)
        now.history.append(dict(zip(HISTORY_COLUMNS, row, strict=True)))
        improved = not now.best or score > now.best["score"]
        if improved:
            weights = {key: value.detach().clone() for key, value in bare.state_dict().items()}
            now.best = {"score": score, "epoch": now.epoch, "model": weights}
        files.write_last(now, bare, optimiser)
        files.write_results(now, improved)
        if rank() == 0:
            validated = "" if val_loss is None else f"  val loss {val_loss:.3f} top-1 {val_top1:5.1f} %"
            step = "head fitted" if recipe.frozen else f"epoch {now.epoch}/{recipe.epochs}  lr {rate:.2g}"
            shown = f"{step}  loss {loss:.3f} top-1 {top1:5.1f} %{validated}"
            print(f"{shown}  {row[-1]:.1f} s", flush=True)
    model.load_state_dict(now.best["model"])
    model.eval()
    return now.history


def _check_finite(name: str, loss: float, now: Progress, recipe: Recipe) -> None:
    require(np.isfinite(loss), f"{name} loss no longer finite in epoch {now.epoch + 1}; lower lr (now {recipe.lr})")


def _train_epoch(bare, network, optimiser, train, recipe, objective, now, files) -> tuple[float, float]:
    """What is left of an epoch; mean loss and Top-1 in percent over all its images, in training mode."""
    network.train()
    device = next(bare.parameters()).device
    pretrained = [parameter for name, parameter in bare.named_parameters() if not bare.is_new(name)]
    # of this process, on its device, since reading them waits for the steps before; what is resumed is the first one's
    sums = torch.tensor(now.sums if rank() == 0 else [0.0] * 3, dtype=torch.float64, device=device)
    begin = time.perf_counter() - now.seconds
    batches = train.train_batches(
        recipe.batch_size, recipe.seed, now.epoch, device=device, rank=rank(), world_size=world_size(), skip=now.step
    )
    steps = -(-len(train) // recipe.batch_size)

    way = train.decoded(train.geometry.enlarged).way
    bar = progress(
        batches, f"epoch {now.epoch + 1} of {recipe.epochs}, images {way}", steps, "steps", now.step, quiet=rank() != 0
    )
    # the caller's generators stay as they were
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(step_seed(recipe.seed, now.epoch, rank()))
        with objective.attached(bare):
            for images, labels in bar:
                torch.manual_seed(step_seed(recipe.seed, now.epoch, rank(), now.step + 1))
                together = min(recipe.batch_size, len(train) - now.step * recipe.batch_size)
                optimiser.zero_grad(set_to_none=True)
                sums += add_gradients(network, images, labels, together, recipe, objective)
                scale_gradients(pretrained, recipe.backbone_grad_scale)
                optimiser.step()
                now.step += 1
                if device.type == "cpu" or now.step % LOOK_EVERY == 0:
                    _check_finite("training", float(sums[0]), now, recipe)
                    if files.due():
                        now.sums, now.seconds = total(sums).tolist(), time.perf_counter() - begin
                        files.write_last(now, bare, optimiser)
    _check_finite("training", float(sums[0]), now, recipe)
    loss, right, seen = total(sums).tolist()
    return loss / seen, 100.0 * right / seen


@torch.inference_mode()
def classify(
    model: WSOLModel, dataset: WSOLDataset, batch_size: int = 64, precision: str = "float32"
) -> tuple[float, float]:
    """Mean cross-entropy (nats) and Top-1 Cls (percent) of `model` on the whole of `dataset`.

    Inside a process group every process must call it: each takes its share and gets the numbers of the whole.
    """
    model.eval()
    device = next(model.parameters()).device
    sums = torch.zeros(2, dtype=torch.float64, device=device)
    mine, answers = share(len(dataset)), torch.from_numpy(dataset.labels)
    for start in range(mine.start, mine.stop, batch_size):
        indices = range(start, min(start + batch_size, mine.stop))
        labels = answers[start : indices.stop].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(dataset.images(indices, device))
        sums[0] += cross_entropy(logits.float(), labels, reduction="sum").double()
        sums[1] += (logits.argmax(1) == labels).sum()
    loss, right = total(sums).tolist()
    return loss / len(dataset), 100.0 * right / len(dataset)


def make_optimiser(model: WSOLModel, recipe: Recipe) -> torch.optim.SGD:
    """SGD over two groups of parameters, whose rates `set_rate` keeps at `recipe.lr_classifier_ratio` to each other.

    On CUDA its update is one fused kernel. On the CPU it is the plain one: the fused one rounds the last bit otherwise.
    """
    plain = next((names for family, names in _PLAIN_RATE.items() if model.backbone.startswith(family)), ("body.",))
    groups: list[dict] = [{"params": [], "ratio": ratio} for ratio in (1.0, recipe.lr_classifier_ratio)]
    for name, parameter in model.named_parameters():
        groups[not name.startswith(plain)]["params"].append(parameter)
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        fused=True if all(p.is_cuda and p.is_floating_point() for p in model.parameters()) else None,
    )


def load_optimiser(optimiser: torch.optim.SGD, state: dict) -> None:
    """Restore momentum and rates; how the update is computed stays that of this device."""
    kinds = [group["fused"] for group in optimiser.param_groups]
    optimiser.load_state_dict(state)
    for group, kind in zip(optimiser.param_groups, kinds, strict=True):
        group["fused"] = kind


def set_rate(optimiser: torch.optim.SGD, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group["ratio"]


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], scale: float) -> None:
    """Multiply gradients in place, before SGD adds weight decay to them (RethinkingCAM's factor of 0.1)."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if scale != 1.0 and gradients:
        torch._foreach_mul_(gradients, scale)


def replicate(model: WSOLModel) -> tuple[WSOLModel, nn.Module]:
    """The network whose weights are trained, and the module to call in a step: the same `model` twice without torchrun.

    With several processes the second is a DistributedDataParallel around the first. On CUDA the first is a copy of
    `model` whose batch normalisation takes the statistics of the whole batch (SyncBatchNorm). There is none on the CPU:
    each process normalises by the statistics of its share, and the running statistics are the first process's.
    """
    if world_size() == 1:
        return model, model
    if next(model.parameters()).is_cuda:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    return model, DistributedDataParallel(model)


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

    def criterion(logits: Tensor, labels: Tensor) -> Tensor:  # in float32 under autocast too
        return cross_entropy(logits.float(), labels, label_smoothing=recipe.label_smoothing)

    replicas = getattr(network, "_orig_mod", network)  # of torch.compile
    alone = replicas.no_sync if isinstance(replicas, DistributedDataParallel) else nullcontext
    sums = torch.zeros(3, dtype=torch.float64, device=images.device)
    parts = min(recipe.accumulate, max(1, together // world_size()))  # the same number in every process
    for number, (some, answers) in enumerate(zip(images.tensor_split(parts), labels.tensor_split(parts), strict=True)):
        with alone() if number < parts - 1 else nullcontext():  # the last part shares the gradients of all
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


def step_seed(*numbers: int) -> int:
    """A seed for torch from whole numbers of at least 0: other numbers, another stream."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0])

"""Training with image labels only: one loop that reads from top to bottom, resumes exactly, and picks its best epoch on val.

Order, crops and flips of an epoch are drawn from (seed, epoch), and everything else random from (seed, epoch, step,
process). So no generator has a state that could be lost: a training run that was killed goes on after its last saved step,
with the same result as an uninterrupted one (bit for bit on the CPU with the same number of threads).
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import digest
from wsolkit.common.processes import agreed, rank, share, total, world_size
from wsolkit.common.progress import progress
from wsolkit.data.base import WSOLDataset
from wsolkit.networks.models import WSOLModel
from wsolkit.training.checkpoints import HISTORY, Files, Progress, checksum, load_state, start_anew
from wsolkit.training.objective import Objective
from wsolkit.training.optimiser import load_optimiser, make_optimiser, pretrained_parameters, scale_gradients, set_rate
from wsolkit.training.recipe import Recipe
from wsolkit.training.step import add_gradients, replicate, share_buffers, step_seed

LOOK_EVERY = 16  # steps between two readings of the loss on CUDA, where a reading waits for all steps before it


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

    Inside a process group (`wsolkit.common.processes.process_group`, torchrun) every process calls it with the same arguments
    and trains on its share of every batch; the gradient is that of the whole batch, and the first process alone writes.

    Args:
        model: from `build_model`; trained and returned on `device` (None: where it is).
        train, val: datasets; only images and labels are used. Pass no test split here: the best epoch is chosen on val.
        out: folder for last.pt, previous.pt, best.pt and history.csv. None keeps everything in memory.
        resume: continue from out/last.pt if it belongs to the same recipe, network and data; False removes it first.
        objective: what a step minimises: a training-time WSOL method, or None for plain classification.
        compile: run the steps through torch.compile; not for objectives that attach something to the network.
        checkpoint_seconds: last.pt is written after every epoch, and within one where the last is so long ago (0: never).
        recipe: all values; `changes` replace single ones, e.g. fit(..., epochs=12, lr=0.01).

    Returns:
        One dictionary per epoch, keys as in history.csv; losses in nats, top1 in percent, seconds per epoch.

    Raises:
        ValueError: if last.pt and previous.pt are damaged or from another run, or if the loss is no longer finite.
    """
    recipe = (recipe or Recipe()).changed(**changes)
    objective = objective or Objective()
    folder = None if out is None else Path(out)
    device = torch.device(device) if device is not None else next(model.parameters()).device
    _check(model, train, objective, compile)
    # boxes stand in for the images (they are never trained on): synthetic images of another seed have other boxes
    data = [[(s.id, s.label, s.boxes) for s in part.samples] for part in (train, val) if part is not None]
    about = {"spec": model.spec, "classes": train.classes, "geometry": asdict(train.geometry), "recipe": recipe.plain()}
    identity = digest({"recipe": about["recipe"], "model": model.spec, "data": data, "classes": train.classes,
                       "geometry": about["geometry"], "start": checksum(model.state_dict()),
                       "objective": [objective.name, objective.settings()]})  # fmt: skip
    state = None
    if folder is not None and rank() == 0:
        if not resume:
            start_anew(folder)
        state = load_state(folder, identity)
    state = agreed(state)

    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # convolutions run fastest so
    if state is not None:
        model.load_state_dict(state["model"])
    bare, network = replicate(model)
    optimiser = make_optimiser(bare, recipe)
    now, files = Progress(), Files(folder, identity, about, checkpoint_seconds)
    if state is not None:
        load_optimiser(optimiser, state["optimiser"])
        now = Progress(**state["progress"])
        files.write_best(now)
        files.write_history(now)
    called: Any = torch.compile(network) if compile else network

    while now.epoch < recipe.epochs:
        begin = time.perf_counter() - now.seconds
        rate = recipe.rate(now.epoch)
        set_rate(optimiser, rate)
        loss, top1 = _train_epoch(bare, called, optimiser, train, recipe, objective, now, files)
        share_buffers(bare)
        val_loss, val_top1 = classify(bare, val, precision=recipe.precision) if val is not None else (None, None)
        row = (now.epoch + 1, rate, loss, top1, val_loss, val_top1, time.perf_counter() - begin)
        now.history.append(dict(zip(HISTORY, row, strict=True)))
        score = [now.epoch, 0.0] if val_loss is None else [val_top1, -val_loss]
        improved = not now.best or score > now.best["score"]
        if improved:
            weights = {key: value.detach().clone() for key, value in bare.state_dict().items()}
            now.best = {"score": score, "epoch": now.epoch + 1, "model": weights}
        now.finish_epoch()
        files.write_last(now, bare, optimiser)
        if improved:
            files.write_best(now)
        files.write_history(now)
        if rank() == 0:
            print(_line(row, recipe.epochs), flush=True)
    model.load_state_dict(now.best["model"])
    model.eval()
    return now.history


def _train_epoch(bare, network, optimiser, train, recipe, objective, now, files) -> tuple[float, float]:
    """What is left of an epoch; mean loss and Top-1 in percent over all its images, in training mode."""
    network.train()
    device = next(bare.parameters()).device
    pretrained = pretrained_parameters(bare)
    # of this process, on its device, since reading them waits for the steps before; what is resumed is the first one's
    sums = torch.tensor(now.sums if rank() == 0 else [0.0] * 3, dtype=torch.float64, device=device)
    begin = time.perf_counter() - now.seconds
    batches = train.train_batches(
        recipe.batch_size, recipe.seed, now.epoch, device=device, rank=rank(), world_size=world_size(), skip=now.step
    )
    steps = -(-len(train) // recipe.batch_size)
    bar = progress(batches, f"epoch {now.epoch + 1} of {recipe.epochs}", steps, "steps", now.step, quiet=rank() != 0)
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
                    _check_finite(sums, now.epoch, recipe.lr)
                    if files.due():
                        now.sums, now.seconds = total(sums).tolist(), time.perf_counter() - begin
                        files.write_last(now, bare, optimiser)
    _check_finite(sums, now.epoch, recipe.lr)
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
        sums[0] += functional.cross_entropy(logits.float(), labels, reduction="sum").double()
        sums[1] += (logits.argmax(1) == labels).sum()
    loss, right = total(sums).tolist()
    return loss / len(dataset), 100.0 * right / len(dataset)


def _check(model: WSOLModel, train: WSOLDataset, objective: Objective, compile: bool) -> None:
    if model.num_classes != len(train.classes):
        raise WsolkitError(f"the model has {model.num_classes} classes, but {train} has {len(train.classes)}")
    if len(train) < 2:
        raise WsolkitError(f"{train} is too small to train on: two images at least")
    if compile and objective.hooks:
        raise WsolkitError(f"'{objective.name}' attaches hooks, which torch.compile does not see: pass compile=False")


def _check_finite(sums: Tensor, epoch: int, lr: float) -> None:
    if not np.isfinite(float(sums[0])):
        raise WsolkitError(f"the training loss is no longer finite in epoch {epoch + 1}; lower lr (now {lr})")


def _line(row: tuple, epochs: int) -> str:
    epoch, lr, loss, top1, val_loss, val_top1, seconds = row
    val = "" if val_loss is None else f"  val loss {val_loss:.3f} top-1 {val_top1:5.1f} %"
    return f"epoch {epoch}/{epochs}  lr {lr:.2g}  loss {loss:.3f} top-1 {top1:5.1f} %{val}  {seconds:.1f} s"

"""Training with image labels only: one loop that reads from top to bottom, resumes exactly, and picks its best epoch on val.

Everything random in an epoch (order, crops, flips, dropout) is drawn from (seed, epoch), and the epoch's end is on disk
before the next begins. So an interrupted run that is started again repeats at most one epoch, with the same result as an
uninterrupted run (bit for bit on the CPU with the same number of threads).
"""

from __future__ import annotations

import csv
import io
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from tqdm import tqdm

from ..data.base import WSOLDataset
from ..files import atomic_write_text, digest
from ..models import WSOLModel
from .checkpoints import load_state, save
from .objective import Objective
from .recipe import Recipe

HISTORY = ("epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "seconds")


def fit(
    model: WSOLModel,
    train: WSOLDataset,
    val: WSOLDataset | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    device: str | torch.device | None = None,
    recipe: Recipe | None = None,
    objective: Objective | None = None,
    **changes,
) -> list[dict]:
    """Train `model` in place and leave it with the weights of its best epoch on `val` (the last one without `val`).

    Args:
        model: from `build_model`; trained and returned on `device` (None: where it is).
        train, val: datasets; only images and labels are used. Pass no test split here: the best epoch is chosen on val.
        out: folder for last.pt, best.pt and history.csv, each replaced by rename. None keeps everything in memory.
        resume: continue from out/last.pt if it belongs to the same recipe, network and data; False starts anew.
        objective: what a step minimises: a training-time WSOL method, or None for plain classification.
        recipe: all values; `changes` replace single ones, e.g. fit(..., epochs=12, lr=0.01).

    Returns:
        One dictionary per epoch, keys as in history.csv; losses in nats, top1 in percent, seconds per epoch.

    Raises:
        ValueError: if out/last.pt is damaged or from another run, or if the loss is no longer finite.
    """
    recipe = Recipe(**{**asdict(recipe or Recipe()), **changes})
    objective = objective or Objective()
    device = torch.device(device) if device is not None else next(model.parameters()).device
    model.to(device)
    if model.num_classes != len(train.classes):
        raise ValueError(f"the model has {model.num_classes} classes, but {train} has {len(train.classes)}")
    if len(train) < 2:
        raise ValueError(f"{train} is too small to train on: two images at least")
    # boxes stand in for the pictures (they are never trained on): drawings of another seed have other boxes
    data = [[(s.id, s.label, s.boxes) for s in part.samples] for part in (train, val) if part is not None]
    identity = digest({"recipe": asdict(recipe), "model": model.spec, "data": data, "classes": train.classes,
                       "geometry": asdict(train.geometry), "start": _fingerprint(model),
                       "objective": [objective.name, objective.settings()]})  # fmt: skip
    optimiser = torch.optim.SGD(
        model.parameters(), lr=recipe.lr, momentum=recipe.momentum, weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
    )  # fmt: skip
    state = {"epoch": 0, "history": [], "best": None}
    out = Path(out) if out is not None else None
    if out is not None and resume and (out / "last.pt").exists():
        state = load_state(out / "last.pt", identity)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
    history: list[dict] = state["history"]
    best = state["best"]  # {"score": [top1, -loss], "epoch": int, "model": state_dict}

    for epoch in range(state["epoch"], recipe.epochs):
        start = time.perf_counter()
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(epoch)
        loss, top1 = _train_epoch(model, optimiser, train, recipe, objective, epoch, device)
        val_loss, val_top1 = classify(model, val) if val is not None else (None, None)
        seconds = time.perf_counter() - start
        row = (epoch + 1, recipe.rate(epoch), loss, top1, val_loss, val_top1, seconds)
        history.append(dict(zip(HISTORY, row, strict=True)))
        score = [epoch, 0.0] if val is None else [val_top1, -val_loss]
        improved = best is None or score > best["score"]
        if improved:
            best = {"score": score, "epoch": epoch + 1, "model": _copy(model.state_dict())}
        if out is not None:
            if improved:
                save(out / "best.pt", {"format": 1, "spec": model.spec, "classes": train.classes, "epoch": epoch + 1,
                                        "geometry": asdict(train.geometry), "model": best["model"],
                                        "recipe": recipe.plain()})  # fmt: skip
            save(out / "last.pt", {"format": 1, "identity": identity, "epoch": epoch + 1, "history": history, "best": best,
                                    "model": model.state_dict(), "optimiser": optimiser.state_dict()})  # fmt: skip
            _write_history(out / "history.csv", history)
        print(_line(row, recipe.epochs), flush=True)
    model.load_state_dict(best["model"])
    model.eval()
    return history


def _train_epoch(model, optimiser, train, recipe, objective, epoch, device) -> tuple[float, float]:
    """One epoch; mean loss and Top-1 in percent over its images, in training mode."""
    model.train()
    total = right = seen = 0.0
    pretrained = [p for name, p in model.named_parameters() if not model.is_new(name)]
    batches = train.train_batches(recipe.batch_size, recipe.seed, epoch)
    bar = tqdm(batches, total=-(-len(train) // recipe.batch_size), desc=f"epoch {epoch + 1}", leave=False,
               disable=not _watched())  # fmt: skip
    devices = [device] if device.type == "cuda" else []
    # dropout follows (seed, epoch) too, and the caller's generator stays as it was
    with torch.random.fork_rng(devices=devices), objective.attached(model):
        torch.manual_seed((recipe.seed * 1_000_003 + epoch) % 2**63)
        for images, labels in bar:
            images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
            changed, target = objective.change(images, labels)
            loss, logits = objective.loss(model, changed, target, functional.cross_entropy)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            if recipe.backbone_grad_scale != 1.0:
                for parameter in pretrained:
                    if parameter.grad is not None:
                        parameter.grad.mul_(recipe.backbone_grad_scale)
            optimiser.step()
            total += float(loss.detach()) * len(labels)
            right += int((logits.detach().argmax(1) == labels).sum())
            seen += len(labels)
            if not np.isfinite(total):
                raise ValueError(
                    f"the training loss is no longer finite in epoch {epoch + 1}; lower lr (now {recipe.lr})"
                )
    return total / seen, 100.0 * right / seen


@torch.inference_mode()
def classify(model: WSOLModel, dataset: WSOLDataset, batch_size: int = 64) -> tuple[float, float]:
    """Mean cross-entropy (nats) and Top-1 Cls (percent) of `model` on the whole of `dataset`."""
    model.eval()
    device = next(model.parameters()).device
    total = right = 0.0
    for start in range(0, len(dataset), batch_size):
        indices = range(start, min(start + batch_size, len(dataset)))
        labels = torch.from_numpy(dataset.labels[list(indices)]).to(device)
        logits = model(dataset.images(indices).to(device))
        total += float(functional.cross_entropy(logits, labels, reduction="sum"))
        right += int((logits.argmax(1) == labels).sum())
    return total / len(dataset), 100.0 * right / len(dataset)


def _copy(state: dict) -> dict:
    return {key: value.detach().clone() for key, value in state.items()}


def _fingerprint(model: WSOLModel) -> float:
    """Tells models that start from different weights apart."""
    with torch.no_grad():
        return float(sum(p.double().abs().sum() for p in model.parameters()))


def _write_history(path: Path, history: list[dict]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    atomic_write_text(path, text.getvalue())


def _watched() -> bool:
    """A person is watching: a terminal, or a notebook that is not run in batch."""
    return sys.stderr.isatty() or ("ipykernel" in sys.modules and not os.environ.get("WSOLKIT_BATCH"))


def _line(row: tuple, epochs: int) -> str:
    epoch, lr, loss, top1, val_loss, val_top1, seconds = row
    val = "" if val_loss is None else f"  val loss {val_loss:.3f} top-1 {val_top1:5.1f} %"
    return f"epoch {epoch}/{epochs}  lr {lr:.2g}  loss {loss:.3f} top-1 {top1:5.1f} %{val}  {seconds:.1f} s"

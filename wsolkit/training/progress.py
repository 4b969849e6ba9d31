"""Where a training is, and the files that say so."""

from __future__ import annotations

import csv
import io
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch

from wsolkit.common.files import atomic_write_text
from wsolkit.common.processes import agreed, rank
from wsolkit.data.base import WSOLDataset
from wsolkit.networks.models import WSOLModel
from wsolkit.training.checkpoints import save, save_state
from wsolkit.training.recipe import Recipe

HISTORY = ("epoch", "lr", "train_loss", "train_top1", "val_loss", "val_top1", "seconds")


@dataclass
class Progress:
    """Where a training is.

    Attributes:
        epoch: finished epochs.
        step, sums, seconds: done in the epoch after them; sums are loss times images, right ones, images.
        history: one dictionary per finished epoch, keys HISTORY.
        best: {"score": [top1, -loss], "epoch": int, "model": weights} of the best finished epoch.
    """

    epoch: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0
    history: list[dict] = field(default_factory=list)
    best: dict | None = None

    def finish_epoch(self) -> None:
        self.epoch, self.step, self.sums, self.seconds = self.epoch + 1, 0, [0.0, 0.0, 0.0], 0.0


@dataclass
class Files:
    """Writes a training's folder (None: nothing is written); the first of several processes does it alone."""

    folder: str | Path | None
    identity: str
    model: WSOLModel
    optimiser: torch.optim.Optimizer
    recipe: Recipe
    data: WSOLDataset
    every: float
    written: float = field(default_factory=time.monotonic)

    def due(self) -> bool:
        """Whether last.pt is older than `every` seconds; all processes get the first one's answer."""
        return self.folder is not None and self.every > 0 and agreed(time.monotonic() - self.written >= self.every)

    def write_last(self, now: Progress) -> None:
        if self.folder is None or rank() != 0:
            return
        save_state(Path(self.folder), {
            "identity": self.identity, "progress": dict(vars(now)), "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        })  # fmt: skip
        self.written = time.monotonic()

    def write_best(self, now: Progress) -> None:
        """best.pt, from what last.pt knows; never before it."""
        if self.folder is None or rank() != 0 or now.best is None:
            return
        save(Path(self.folder) / "best.pt", {
            "spec": self.model.spec, "classes": self.data.classes, "epoch": now.best["epoch"],
            "geometry": asdict(self.data.geometry), "model": now.best["model"], "recipe": self.recipe.plain(),
        })  # fmt: skip

    def write_history(self, now: Progress) -> None:
        if self.folder is None or rank() != 0:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, HISTORY, lineterminator="\n")
        writer.writeheader()
        writer.writerows(now.history)
        atomic_write_text(Path(self.folder) / "history.csv", text.getvalue())

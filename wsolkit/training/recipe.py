"""The values of a training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """Every value of a training. The defaults are RethinkingCAM's for CUB (Bae et al., ECCV 2020), but for the epochs.

    `backbone_grad_scale` multiplies the gradients of pretrained layers before weight decay is added, which is not the
    same as a smaller learning rate. `lr_steps` are the epochs after which the learning rate is divided by ten;
    `schedule="cosine"` falls smoothly to zero over all epochs instead.
    """

    epochs: int = 50
    batch_size: int = 40
    lr: float = 3e-3
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    backbone_grad_scale: float = 0.1
    schedule: str = "step"
    lr_steps: tuple[int, ...] = (60, 120, 180)
    warmup_epochs: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, but is {getattr(self, name)}")
        if self.schedule not in ("step", "cosine"):
            raise ValueError(f"schedule must be 'step' or 'cosine', but is '{self.schedule}'")
        object.__setattr__(self, "lr_steps", tuple(int(step) for step in self.lr_steps))

    def plain(self) -> dict[str, Any]:
        """All values as JSON and a weights-only checkpoint hold them."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch, counted from 0."""
        if epoch < self.warmup_epochs:
            return self.lr * (epoch + 1) / (self.warmup_epochs + 1)
        if self.schedule == "cosine":
            done = (epoch - self.warmup_epochs) / max(1, self.epochs - self.warmup_epochs)
            return self.lr * 0.5 * (1.0 + float(np.cos(np.pi * done)))
        return self.lr * 0.1 ** sum(epoch >= step for step in self.lr_steps)

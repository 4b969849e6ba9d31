"""The values of a training."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Recipe:
    """Every value of a training. The defaults are RethinkingCAM's for CUB (Bae et al., ECCV 2020), but for the epochs.

    Attributes:
        epochs, batch_size: passes over the images, and images in a step (over all processes together).
        lr, momentum, nesterov, weight_decay: of SGD.
        backbone_grad_scale: multiplies the gradients of pretrained layers before weight decay is added, which is not the
            same as a smaller learning rate.
        lr_classifier_ratio: multiplies the learning rate of the layers that wsolevaluation calls the classifier: layer4 and
            head of a ResNet, elsewhere what comes after torchvision's convolutions.
        schedule: "step" multiplies the rate by `lr_gamma` at the epochs `lr_steps`, or every `lr_period` epochs where that
            is not 0; "cosine" falls smoothly to zero over all epochs.
        warmup_epochs: epochs over which the rate rises to `lr`.
        label_smoothing: share of the target that is spread over all classes, in [0, 1). Validation knows none.
        precision: "float32", or "bf16" for bfloat16 autocast of network and loss in training and validation; weights,
            gradients and SGD stay float32.
        accumulate: cut a batch into so many parts, one after another, so that it fits a small memory. The gradient is that
            of the whole batch; batch normalisation sees the parts, and so do methods that mix the images of a batch.
        seed: of order, crops, flips and whatever is drawn in the network.
    """

    epochs: int = 50
    batch_size: int = 40
    lr: float = 3e-3
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    backbone_grad_scale: float = 0.1
    lr_classifier_ratio: float = 1.0
    schedule: str = "step"
    lr_steps: tuple[int, ...] = (60, 120, 180)
    lr_period: int = 0
    lr_gamma: float = 0.1
    warmup_epochs: int = 0
    label_smoothing: float = 0.0
    precision: str = "float32"
    accumulate: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "lr", "lr_gamma", "lr_classifier_ratio", "accumulate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be greater than 0, but is {getattr(self, name)}")
        if self.batch_size < 2:  # batch normalisation cannot train on one value per channel
            raise ValueError(f"batch_size must be at least 2, but is {self.batch_size}")
        for name in ("momentum", "weight_decay", "backbone_grad_scale", "lr_period", "warmup_epochs"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be at least 0, but is {getattr(self, name)}")
        for name, allowed in (("schedule", ("step", "cosine")), ("precision", ("float32", "bf16"))):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be '{allowed[0]}' or '{allowed[1]}', but is '{getattr(self, name)}'")
        if not 0.0 <= self.label_smoothing < 1.0:
            raise ValueError(f"label_smoothing must lie in [0, 1), but is {self.label_smoothing}")
        if self.accumulate > self.batch_size:
            raise ValueError(
                f"accumulate={self.accumulate} parts are more than the {self.batch_size} images of a batch"
            )
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
        falls = epoch // self.lr_period if self.lr_period else sum(epoch >= step for step in self.lr_steps)
        return self.lr * self.lr_gamma**falls

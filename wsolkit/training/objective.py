"""What one training step minimises. Training-time WSOL methods are subclasses that change images, layers or loss."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

from wsolkit.common.parameters import Parameters

if TYPE_CHECKING:
    from torch import Tensor, nn

Criterion = Callable[["Tensor", "Tensor"], "Tensor"]  # logits (B, K), labels (B,) -> mean loss in nats


class Objective(Parameters):
    """Plain classification. A method declares its parameters and overrides what it needs; the loop knows nothing else.

    Everything random is drawn from torch's global generator of the CPU, which the loop seeds, so that an epoch can be
    repeated exactly after an interruption.
    """

    name: ClassVar[str] = "plain"
    hooks: ClassVar[bool] = False  # whether `attached` hooks something into the network, which torch.compile misses

    def settings(self) -> dict[str, Any]:
        """Plain values that define the method beyond its name, and belong to the identity of a training run."""
        return self.model_dump()

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        """What the method changes in the model while an epoch lasts (hooks); undone at its end, exceptions included."""
        yield

    def change(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Any]:
        """(B, 3, H, W) normalised images and (B,) labels -> what the network sees, and what `loss` needs to know."""
        return images, labels

    def loss(self, model: nn.Module, images: Tensor, target: Any, criterion: Criterion) -> tuple[Tensor, Tensor]:
        """Mean loss of the batch, and the logits (B, K) by which its Top-1 is counted."""
        logits = model(images)
        return criterion(logits, target), logits

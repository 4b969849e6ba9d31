"""Adversarial complementary learning (ACoL): the loss of a network with two branches, see `wsolkit.networks.models.ACoLModel`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from wsolkit.networks.models import ACoLModel
from wsolkit.training.objective import Criterion, Objective


class ACoL(Objective):
    """loss = CE(branch A) + CE(branch B), each for the image's own class, as B sees the features without what A found for it.

    Erasing and its threshold delta belong to the network (`build_model(..., pooling="acol", delta=0.6)`), because the
    score map needs them too; 0.6 as in the authors' CUB command (the default of wsolevaluation's code is 0.7).

    Source: Zhang et al., "Adversarial Complementary Learning for Weakly Supervised Object Localization", CVPR 2018.
    """

    name = "acol"

    @contextmanager
    def attached(self, model: nn.Module) -> Iterator[None]:
        if not isinstance(model, ACoLModel):
            kind = getattr(model, "pooling", type(model).__name__)
            raise ValueError(f"acol trains a network with two branches: build_model(..., pooling='acol'), not '{kind}'")
        yield

    def loss(self, model: nn.Module, images: Tensor, target: Any, criterion: Criterion) -> tuple[Tensor, Tensor]:
        logits_a, logits_b = model(images, target)
        return criterion(logits_a, target) + criterion(logits_b, target), logits_a

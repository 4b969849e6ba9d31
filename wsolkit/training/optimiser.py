"""SGD as the published recipes use it: learning rates by layer, and damped gradients of pretrained layers."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from wsolkit.networks.models import WSOLModel
from wsolkit.training.recipe import Recipe

# Parameters that wsolevaluation (Choe et al., CVPR 2020) trains at the plain rate, by the start of the backbone's name
# and of the parameter's; all others are its "classifier". Where it says nothing (other backbones), the body is plain.
_STEM_TO_LAYER3 = ("body.conv1.", "body.bn1.", "body.layer1.", "body.layer2.", "body.layer3.")
_PLAIN_RATE = {"vgg": ("body.features.",), "resnet": _STEM_TO_LAYER3}


def make_optimiser(model: WSOLModel, recipe: Recipe) -> torch.optim.SGD:
    """SGD over two groups of parameters, whose rates `set_rate` keeps at `recipe.lr_classifier_ratio` to each other.

    On CUDA its update is one fused kernel. On the CPU it is the plain one: the fused one rounds the last bit differently.
    """
    plain = next((names for family, names in _PLAIN_RATE.items() if model.backbone.startswith(family)), ("body.",))
    named = list(model.named_parameters())
    groups: list[dict] = [
        {"params": [p for name, p in named if name.startswith(plain)], "ratio": 1.0},
        {"params": [p for name, p in named if not name.startswith(plain)], "ratio": recipe.lr_classifier_ratio},
    ]
    return torch.optim.SGD(
        [group for group in groups if group["params"]],
        lr=recipe.lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        nesterov=recipe.nesterov and recipe.momentum > 0,
        fused=True if all(p.is_cuda and p.is_floating_point() for _, p in named) else None,
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


def pretrained_parameters(model: WSOLModel) -> list[nn.Parameter]:
    """Parameters of the layers that started from pretrained weights."""
    return [parameter for name, parameter in model.named_parameters() if not model.is_new(name)]


@torch.no_grad()
def scale_gradients(parameters: Iterable[nn.Parameter], scale: float) -> None:
    """Multiply gradients in place, before SGD adds weight decay to them (RethinkingCAM's factor of 0.1)."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    if scale != 1.0 and gradients:
        torch._foreach_mul_(gradients, scale)

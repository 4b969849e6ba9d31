"""The map of ACoL's two branches."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsolkit.methods.registry import Context, in_precision, register
from wsolkit.networks.models import ACoLModel, erase, unit_range


def _check(model: nn.Module) -> str:
    if isinstance(model, ACoLModel):
        return ""
    kind = f"{getattr(model, 'backbone', type(model).__name__)} with pooling '{getattr(model, 'pooling', 'unknown')}'"
    return f"acol joins the maps of two branches, which {kind} has not; use a network trained with pooling 'acol'"


@register(
    "acol",
    needs="features",
    description="maps of ACoL's two branches, the larger value at each position",
    relu=False,
    eigen=False,
    check=_check,
)
def acol(context: Context, delta: float | None = None) -> Tensor:
    """max(minmax A_y, minmax B_y), where B looks at the features that A's map of class y left over. Zhang et al., CVPR 2018.

    `delta` is the share of A's maximum from which on features are erased; None is the one the network was trained with.
    """
    model, rows = context.model, torch.arange(len(context.labels), device=context.labels.device)
    delta = model.delta if delta is None else delta
    if not 0.0 < delta <= 1.0:
        raise ValueError(f"delta is a share of a map's maximum and must lie in (0, 1], but is {delta}")
    with torch.no_grad():
        map_a = in_precision(model.branch_a, context.precision)(context.features)[rows, context.labels]
        left = erase(context.features, map_a, delta)
        map_b = in_precision(model.branch_b, context.precision)(left)[rows, context.labels]
    return torch.maximum(unit_range(map_a), unit_range(map_b))

"""LayerCAM: every position of every channel has a weight of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsolkit.methods.registry import register

if TYPE_CHECKING:
    from torch import Tensor

    from wsolkit.methods.context import Context


@register(
    "layer_cam",
    label="LayerCAM",
    needs="gradient",
    description="each position weighed by its own positive gradient",
)
def layer_cam(context: Context) -> Tensor:
    """w[c, h, w] = max(G, 0). Jiang et al., TIP 2021."""
    return context.gradients.clamp(min=0)

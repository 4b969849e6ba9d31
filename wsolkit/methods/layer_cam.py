"""LayerCAM: every position of every channel has a weight of its own."""

from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import register


@register("layer_cam", "gradient", "each position weighed by its own positive gradient", label="LayerCAM")
def layer_cam(context: Context) -> Tensor:
    """w[c, h, w] = max(G, 0). Jiang et al., TIP 2021."""
    return context.gradients.clamp(min=0)

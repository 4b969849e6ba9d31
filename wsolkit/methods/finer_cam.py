"""FinerCAM: Grad-CAM of what separates a class from its nearest neighbours."""

from typing import Annotated

from pydantic import Field

from wsolkit.common.errors import WsolkitError
from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import register


@register(
    "finer_cam",
    "gradient",
    "grad_cam of the class's lead over the nearest others",
    label="Finer-CAM",
    uses_classes=True,
)
def finer_cam(
    context: Context, alpha: Annotated[float, Field(ge=0, le=1000)] = 1.0, comparisons: Annotated[int, Field(ge=1)] = 3
) -> Tensor:
    """grad_cam of sum_i p_i (z_y - alpha z_i) / (sum_i p_i + 1e-9), p the softmax. Zhang et al., CVPR 2025.

    i runs over the `comparisons` other classes with the nearest logits, as in the package. The package sorts around the
    predicted class unless told otherwise; here it is always the label.
    """
    comparisons = min(comparisons, context.logits.shape[1] - 1)
    if comparisons < 1:
        raise WsolkitError("finer_cam needs at least one other class to compare with, and this network has one class")
    distance = (context.logits - context.of_label(context.logits)[:, None]).abs()
    distance.scatter_(1, context.labels[:, None], float("inf"))
    nearest = distance.argsort(dim=1, stable=True)[:, :comparisons]

    def lead(logits: Tensor) -> Tensor:
        weights = logits.softmax(dim=1).gather(1, nearest)
        leads = context.of_label(logits)[:, None] - alpha * logits.gather(1, nearest)
        return (weights * leads).sum(dim=1) / (weights.sum(dim=1) + 1e-9)

    return context.differentiate(lead)[1].mean(dim=(2, 3))

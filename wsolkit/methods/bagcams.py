"""BagCAMs: every position has a classifier of its own, the gradient there; the map is what all of them say together."""

from typing import Literal

from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import Published, register

SOURCE = "BagCAMs, Zhu et al., ECCV 2022, on networks trained by DA-WSOL"


@register(
    "bagcams",
    needs="gradient",
    description="each position weighed by its own gradient, each channel by what it adds to the score",
    label="BagCAMs",
    published=(Published("resnet50", SOURCE, {"gt_known_loc": 94.01, "top1_loc": 69.67, "max_box_acc_v2": 84.88}),),
    differs="plain training; gradients are not clipped at ReLUs; the logit itself, not its logarithm",
)
def bagcams(context: Context, score: Literal["logit", "log_softmax"] = "logit") -> Tensor:
    """sum_c max(0, a[c] G[c] A[c]) with a[c] = mean_hw(G[c] A[c] + 1), at any layer. Zhu et al., ECCV 2022.

    G is the gradient of `score`: "logit", z_y, or "log_softmax", log p_y, which other classes lower. The authors' code
    takes the logarithm of the logit, G / z_y: a negative logit turns the sign of every weight. It also clips gradients
    at each ReLU on the way, which is not done here.
    """
    gradients, features = context.gradients if score == "logit" else _of_share(context), context.features
    added = gradients * features
    weights = (added + 1).mean(dim=(2, 3), keepdim=True) * gradients
    return weights.where(weights * features > 0, 0.0)


def _of_share(context: Context) -> Tensor:
    """(B, C, h, w): the gradient of log p_y, the softmax of each image's class."""
    return context.differentiate(lambda logits: context.of_label(logits.log_softmax(dim=1)))[1]

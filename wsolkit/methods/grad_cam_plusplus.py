"""Grad-CAM++: positive gradients only, each position weighed by its share alpha of the channel."""

from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import STUDY, Published, register


@register(
    "grad_cam++",
    needs="gradient",
    description="channels weighed by their positive gradients, each by its share alpha",
    label="Grad-CAM++",
    aliases=("grad_cam_plus_plus",),
    chapter="05_grad_cam_plusplus.ipynb",
    published=(
        Published("vgg16_fc", STUDY, {"top1_cls": 77.91, "top1_loc": 57.34}),
        Published("vgg16_fc", STUDY, {"top1_cls": 77.91}, "(Top-1 Loc in a figure only)", row="eigen+aug"),
    ),
)
def grad_cam_plusplus(context: Context) -> Tensor:
    """w = sum_hw alpha max(G, 0), alpha = G^2 / (2 G^2 + (sum_hw A) G^3 + 1e-6). Chattopadhay et al., WACV 2018.

    Positions with G <= 0 add nothing, so alpha is computed from max(G, 0) alone, whose denominator has no other zero.
    """
    positive = context.gradients.clamp(min=0)
    square = positive.square()
    cube = positive.mul_(square)  # in place, as fresh memory of this size costs more than the arithmetic
    total = context.features.sum(dim=(2, 3), keepdim=True)
    below = square.mul_(2).addcmul_(total, cube).add_(1e-6)
    return cube.div_(below).sum(dim=(2, 3))

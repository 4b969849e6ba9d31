"""Grad-CAM: the mean gradient of the class score weighs each channel, on any differentiable network."""

from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import STUDY, Published, Variant, register


@register(
    "grad_cam",
    needs="gradient",
    description="channels weighed by the mean gradient of the class score",
    label="Grad-CAM",
    variants=("gap", Variant("fc", "FC", pooling="fc")),
    chapter="04_grad_cam.ipynb",
    published=(
        Published("vgg16_fc", STUDY, {"top1_cls": 77.91, "top1_loc": 42.51}),
        Published("vgg16_fc", STUDY, {"top1_loc": 43.94}, row="eigen+aug"),
    ),
)
def grad_cam(context: Context) -> Tensor:
    """w[c] = mean_hw(G[c]). Selvaraju et al., ICCV 2017. On GAP and one linear layer, w = W[y]/(hw): ReLU(CAM)."""
    return context.gradients.mean(dim=(2, 3))

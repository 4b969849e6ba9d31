"""Class activation map (CAM): the classifier's own weights say how much each channel speaks for a class."""

from typing import Any

from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import LIST, TABLE, Published, Variant, register

# what all methods share whose map is a signed sum of channels, weighed by a linear head
LINEAR: dict[str, Any] = {"needs": "features", "relu": False, "linear_head": True}


@register(
    "cam",
    label="CAM",
    description="class activation map: the head's weights of the class",
    **LINEAR,
    variants=(Variant("gap"),),
    chapter="02_cam.ipynb",
    published=(
        Published("vgg16", LIST, {"top1_cls": 76.6, "gt_known_loc": 56.0, "top1_loc": 44.2}),
        Published("vgg16", TABLE, {"max_box_acc_v2": 63.7}),
        Published("resnet50", TABLE, {"max_box_acc_v2": 63.0}),
    ),
)
def cam(context: Context) -> Tensor:
    """w[c] = W[y, c], without the bias and without a ReLU. Zhou et al., CVPR 2016."""
    return context.class_weights

"""Class activation map (CAM): the classifier's own weights say how much each channel speaks for a class."""

from typing import Any

from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import LIST, Published, Variant, register, table
from wsolkit.training.recipe import Objective

# what all methods share whose map is a signed sum of channels, weighed by a linear head
LINEAR: dict[str, Any] = {"needs": "features", "relu": False, "linear_head": True}


@register(
    "cam",
    label="CAM",
    description="class activation map: the head's weights of the class",
    **LINEAR,
    variants=(Variant("gap", "GAP"),),
    chapter="02_cam.ipynb",
    published=(
        Published("vgg16", LIST, {"top1_cls": 76.6, "gt_known_loc": 56.0, "top1_loc": 44.2}),
        *table(vgg16=63.7, resnet50=63.0, inception_v3=56.7),
    ),
)
def cam(context: Context) -> Tensor:
    """w[c] = W[y, c], without the bias and without a ReLU. Zhou et al., CVPR 2016."""
    return context.class_weights


def trained_cam(objective: type[Objective], label: str, description: str, **declaration: Any) -> None:
    """Register a way to train a network: plain CAM on it, under the name of the objective."""
    variants = (Variant(objective.name, label, makes_objective=objective), "gap")
    register(objective.name, label=label, description=description, **LINEAR, variants=variants, **declaration)(cam)

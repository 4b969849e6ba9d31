"""Adversarial complementary learning (ACoL): two classifiers, the second of which learns from what the first left over.

The network with its two branches is `wsolkit.networks.models.ACoLModel`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import Field

from wsolkit.common.errors import WsolkitError
from wsolkit.methods.context import Context, Module, Tensor
from wsolkit.methods.registry import Variant, register, table
from wsolkit.training.recipe import Criterion, Objective


class ACoL(Objective):
    """loss = CE(branch A) + CE(branch B), each for the image's own class; B sees the features without what A found.

    Erasing and its threshold delta belong to the network (`build_model(..., pooling="acol", delta=0.6)`), because the
    score map needs them too; 0.6 as in the authors' CUB command (the default of wsolevaluation's code is 0.7).

    Source: Zhang et al., "Adversarial Complementary Learning for Weakly Supervised Object Localization", CVPR 2018.
    """

    name = "acol"

    @contextmanager
    def attached(self, model: Module) -> Iterator[None]:
        if reason := _lacks_branches(model):
            raise WsolkitError(reason)
        yield

    def loss(self, model: Module, images: Tensor, target: Any, criterion: Criterion) -> tuple[Tensor, Tensor]:
        logits_a, logits_b = model(images, target)
        return criterion(logits_a, target) + criterion(logits_b, target), logits_a


def _lacks_branches(model: Module) -> str:
    if hasattr(model, "branch_b"):
        return ""
    kind = f"{getattr(model, 'backbone', type(model).__name__)} with pooling '{getattr(model, 'pooling', 'unknown')}'"
    return f"acol joins the maps of two branches, which {kind} has not; use a network with pooling 'acol'"


@register(
    "acol",
    needs="features",
    description="maps of ACoL's two branches, the larger value at each position",
    label="ACoL",
    relu=False,
    eigen=False,
    uses_classes=True,
    check=_lacks_branches,
    variants=(Variant("acol", "ACoL", pooling="acol", makes_objective=ACoL), "gap"),
    published=table(vgg16=57.4, resnet50=66.5, inception_v3=56.2),
    differs="no mean pooling before the branches, delta not searched",
)
def acol(context: Context, delta: Annotated[float, Field(gt=0, le=1)] | None = None) -> Tensor:
    """max(minmax A_y, minmax B_y), where B sees the features that A's map of y left over. Zhang et al., CVPR 2018.

    `delta` is the share of A's maximum from which on features are erased; None is the one the network was trained with.
    """
    from wsolkit.networks.models import erase, unit_range
    from wsolkit.networks.modules import in_precision

    model = context.model
    delta = float(model.delta if delta is None else delta)
    map_a = context.of_label(in_precision(model.branch_a, context.precision)(context.features))
    left = erase(context.features, map_a, delta)
    map_b = context.of_label(in_precision(model.branch_b, context.precision)(left))
    return unit_range(map_a).maximum(unit_range(map_b))

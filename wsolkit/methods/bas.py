"""BAS, background activation suppression: a map is right when the classifier finds nothing of the class outside of it.

The network with its generator is `wsolkit.networks.models.BASModel`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

from pydantic import Field

from wsolkit.common.errors import WsolkitError
from wsolkit.common.parameters import parameter
from wsolkit.methods.context import Context, Module, Tensor
from wsolkit.methods.registry import LIST, Published, Variant, register
from wsolkit.methods.rethinking_cam import from_gap
from wsolkit.training.recipe import Criterion, Objective

AREA = {"vgg": 0.7, "mobilenet": 1.5, "inception": 1.0}  # published weights of the area on CUB; ResNet50 has
OTHER_AREA = 1.2


class BAS(Objective):
    """loss = CE(S) + w CE(S of the foreground) + mean(S_bg / S_y) + area mean(M).

    S_bg is the score of the image's class y where the features are multiplied by 1 - M, S_y that of the whole image, a
    constant. Where S_bg is at least S_y, the quotient is the constant 1: there is nothing to be learnt from it. w is
    0.5, and 0 on a VGG, as published.

    Args:
        area: weight of the foreground's area, without which M = 1 would be the best; 0 is the published one of the
            family on CUB (VGG16 0.7, MobileNet 1.5, InceptionV3 1.0, ResNet50 and all others 1.2).

    Source: Wu et al., "Background Activation Suppression for Weakly Supervised Object Localization", CVPR 2022.
    """

    name = "bas"
    area: float = parameter(0.0, "weight of the foreground's area; 0 is the published one of the network", ge=0)

    @contextmanager
    def attached(self, model: Module) -> Iterator[None]:
        if reason := _lacks_generator(model):
            raise WsolkitError(reason)
        self._family = str(model.backbone)  # the loss sees the network inside of wrappers
        yield

    def loss(self, model: Module, images: Tensor, target: Any, criterion: Criterion) -> tuple[Tensor, Tensor]:
        logits, foreground, background, area = model(images, target)
        published = next((value for family, value in AREA.items() if self._family.startswith(family)), OTHER_AREA)
        whole = logits.gather(1, target[:, None])[:, 0].detach()
        left = (background / (whole + 1e-8)).where(background < whole, 1.0)
        value = criterion(logits, target) + left.mean() + (self.area or published) * area.mean()
        return value + (0.0 if self._family.startswith("vgg") else 0.5) * criterion(foreground, target), logits


def _lacks_generator(model: Module) -> str:
    if hasattr(model, "generator"):
        return ""
    kind = f"{getattr(model, 'backbone', type(model).__name__)} with pooling '{getattr(model, 'pooling', 'unknown')}'"
    if hasattr(model, "layer"):
        kind = f"{model.backbone}, cut at layer '{model.layer}',"
    return f"bas uses a generator of maps, which {kind} has not; use a network with pooling 'bas'"


@register(
    "bas",
    needs="forward",
    description="a generator's map of foreground, outside of which the classifier finds nothing",
    label="BAS",
    relu=False,
    eigen=False,
    uses_classes=True,
    check=_lacks_generator,
    threshold=0.15,
    variants=(Variant("bas", "BAS", "bas", BAS, start="gap", changes=from_gap, parameters=("tap_epochs",)), "gap"),
    chapter="14_bas.ipynb",
    published=(
        Published("vgg16", LIST, {"top1_loc": 71.33, "gt_known_loc": 91.07}),
        Published("resnet50", LIST, {"top1_loc": 77.25, "gt_known_loc": 95.13}),
        Published("inception_v3", LIST, {"top1_loc": 73.29, "gt_known_loc": 92.24}, "generator before Mixed_7a to 7c"),
    ),
    differs="all classes averaged on VGG16 too (published: 80)",
)
def bas(context: Context, top: Annotated[int, Field(ge=0)] = 0) -> Tensor:
    """(B, h', w') at the resolution of the body's middle: the mean of the foreground maps M of the `top` most probable
    classes, 0 is all of them; no true label has a part in it. Wu et al., CVPR 2022.
    """
    if context.images is None:
        raise WsolkitError("bas runs the first half of the body: give images, not features alone")
    model = context.model
    maps = model.maps(model.halves()[0](context.images.clone()))
    count = min(top or maps.shape[1], maps.shape[1])
    best = context.logits.topk(count, dim=1).indices
    return maps.take_along_dim(best[:, :, None, None], 1).mean(1)

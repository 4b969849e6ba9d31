"""Attention-based dropout layer (ADL): the network's own attention hides the strongest positions, or stresses them."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

from wsolkit.common.errors import WsolkitError
from wsolkit.common.parameters import parameter
from wsolkit.methods.cam import trained_cam
from wsolkit.methods.context import Module, Tensor
from wsolkit.methods.registry import LIST, Published, table
from wsolkit.training.recipe import Objective


class ADL(Objective):
    """At three layers, in training, one draw per layer and forward pass: with probability `rate` positions are dropped
    whose attention is at least `gamma` times the image's largest, else every position is multiplied by the sigmoid of
    its attention. The layers have no parameters and exist only as hooks while an epoch lasts: the trained network is a
    plain one, and evaluation and localisation see nothing of them.

    Where: VGG after pool3, conv4_3 and conv5_3, ResNet after layer3[0], layer4[0] and layer4[2], Inception V3 after
    Mixed_5d, Mixed_6e and the added convolutions, as in wsolevaluation (resnet18 has no layer4[2]: after the last
    block, layer4[1]). For mobilenet_v2 and convnext_tiny nothing is published; the choice here is after the last block
    before each of the last two halvings, and after the last layer. Networks of timm are not known.

    Args:
        gamma: in [0, 1]; 0.8 as in wsolevaluation's layer (0.9 on its command line and in the authors' own command for
            ResNet50-SE).
        rate: probability of the drop mask, in [0, 1]; 0.75 in all three.

    Source: Choe and Shim, "Attention-based Dropout Layer for Weakly Supervised Object Localization", CVPR 2019.
    """

    name, hooks = "adl", True
    gamma: float = parameter(0.8, "share of the largest attention", ge=0, le=1)
    rate: float = parameter(0.75, "the probability of the drop mask", ge=0, le=1)

    def lacks(self, backbone: str) -> str:
        known = ", ".join(["vgg16", "resnet50", "resnet18", *_LAYERS])
        good = backbone.startswith(("vgg16", "resnet")) or backbone in _LAYERS
        return "" if good else f"adl knows no layers for {backbone}: it works on {known}"

    @contextmanager
    def attached(self, model: Module) -> Iterator[None]:
        import torch

        def hook(module: Module, _inputs: tuple, output: Tensor) -> Tensor | None:
            if not module.training:
                return None
            drop = float(torch.rand(())) < self.rate
            return output * (drop_mask(output, self.gamma) if drop else importance_map(output))

        with ExitStack() as hooks:
            for layer in layers(model):
                hooks.enter_context(layer.register_forward_hook(hook))
            yield


def attention(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 1, h, w): the mean over channels. Only positive values count, which changes nothing after a
    ReLU and gives the linear layers that end a block of mobilenet_v2 and convnext_tiny an attention too."""
    return features.clamp(min=0).mean(dim=1, keepdim=True)


def drop_mask(features: Tensor, gamma: float) -> Tensor:
    """(B, C, h, w) -> (B, 1, h, w): 1 where the attention is below gamma times its maximum, else 0; no gradient."""
    import torch

    with torch.no_grad():
        seen = attention(features)
        return (seen < gamma * seen.amax(dim=(2, 3), keepdim=True)).to(features.dtype)


def importance_map(features: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, 1, h, w) in [0.5, 1): the sigmoid of the attention, through which gradients run."""
    return attention(features).sigmoid()


_LAYERS = {  # of the body
    "mobilenet_v2": ("features.6", "features.13", "features.18"),
    "convnext_tiny": ("features.3", "features.5", "features.7"),
    "inception_v3": ("Mixed_5d", "Mixed_6e", "added"),
}


def layers(model: Module) -> list[Module]:
    """The three layers of a `WSOLModel` whose outputs ADL changes; ValueError for another network."""
    from torch import nn

    backbone, body = getattr(model, "backbone", type(model).__name__), cast(Any, getattr(model, "body", None))
    if backbone.startswith("vgg16"):
        pools, relus = ([m for m in body.features if isinstance(m, kind)] for kind in (nn.MaxPool2d, nn.ReLU))
        return [pools[2], relus[9], relus[12]]
    if backbone.startswith("resnet"):
        return [body.layer3[0], body.layer4[0], body.layer4[-1]]
    if reason := ADL().lacks(backbone):
        raise WsolkitError(reason)
    return [body.get_submodule(name) for name in _LAYERS[backbone]]


_LISTED = Published("vgg16", LIST, {"top1_cls": 65.3, "gt_known_loc": 75.4, "top1_loc": 52.4})
trained_cam(
    ADL,
    "ADL",
    "attention-based dropout layer: CAM on a network trained with it",
    published=(_LISTED, *table(vgg16=66.3, resnet50=58.4, inception_v3=58.8)),
    differs="values not searched",
)

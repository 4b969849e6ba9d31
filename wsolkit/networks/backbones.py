"""The bodies of all networks: image -> feature map, under torchvision's names of layers and weights.

`BACKBONES` declares each in one place. A sweep plans with it, so that torch is imported only where a body is built.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    Build = Callable[[int, float, bool], tuple[nn.Module, int]]


@dataclass(frozen=True)
class Backbone:
    """One family of networks.

    Attributes:
        build: (stride, width, batch_norm) -> body and its number of channels.
        strides: that the feature map can have; the first is the published one and the default.
        torchvision: name of the published weights. head_keys: their classifier's keys, which are left out.
        poolings: the first is the default.
        extra: parts of the body that no published file has.
        branched: `build` for ACoL, whose branches bring their own convolutions; None where it is the same.
        batch_norm: True and False where the family leaves no choice, None where it does.
        own_start: keep torchvision's own initialisation instead of He's.
        middle: the layer of the body after which BAS's generator stands, without and with batch normalisation.
    """

    build: Build
    strides: tuple[int, ...]
    torchvision: str
    head_keys: tuple[str, ...]
    poolings: tuple[str, ...] = ("gap", "tap", "acol", "bas")
    extra: tuple[str, ...] = ()
    branched: Build | None = None
    batch_norm: bool | None = True
    own_start: bool = False
    middle: tuple[str, str] = ("layer3", "layer3")


def scaled(channels: int, width: float) -> int:
    """The number of channels at this width, at least 8."""
    return max(8, round(channels * width))


def _vgg16(added: bool) -> Build:
    """torchvision's VGG16 `features` under their indices, without the last poolings; `added`: one more convolution."""

    def build(stride: int, width: float, norm: bool) -> tuple[nn.Module, int]:
        from torch import nn
        from torchvision.models import vgg

        sizes = [item if item == "M" else scaled(int(item), width) for item in vgg.cfgs["D"]]
        layers, reached, channels, out = OrderedDict(), 1, int(sizes[-2]), scaled(1024, width)
        for index, layer in vgg.make_layers(sizes, norm).named_children():
            reached *= 2 if isinstance(layer, nn.MaxPool2d) else 1
            if reached <= stride or not isinstance(layer, nn.MaxPool2d):
                layers[index] = layer
        body = nn.Sequential(OrderedDict(features=nn.Sequential(layers)))
        if not added:
            return body, channels
        norms = [nn.BatchNorm2d(out)] if norm else []
        convolution = nn.Conv2d(channels, out, 3, padding=1)
        body.add_module("added", nn.Sequential(convolution, *norms, nn.ReLU(inplace=True)))
        return body, out

    return build


def _resnet(block: str, *depths: int) -> Build:
    """A ResNet of torchvision's blocks of this name, so many in each of its four layers."""

    def build(stride: int, width: float, norm: bool) -> tuple[nn.Module, int]:
        from torch import nn
        from torchvision.models import resnet

        class ResNet(resnet.ResNet):
            def _make_layer(self, block, planes, *args, **options):  # the stem keeps its 64 channels
                return super()._make_layer(block, scaled(planes, width), *args, **options)

        net = ResNet(getattr(resnet, block), list(depths))
        for layer in [net.layer4] * (stride <= 16) + [net.layer3] * (stride <= 8):
            for module in layer[0].modules():
                if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                    module.stride = (1, 1)
        parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        return nn.Sequential(OrderedDict((part, getattr(net, part)) for part in parts)), net.inplanes

    return build


def _mobilenet_v2(stride: int, width: float, norm: bool) -> tuple[nn.Module, int]:
    from torch import nn
    from torchvision.models import mobilenet_v2

    net = mobilenet_v2(weights=None, width_mult=width)
    if stride == 16:
        net.features[14].conv[1][0].stride = (1, 1)  # the depthwise convolution that halves the map for the last time
    return nn.Sequential(OrderedDict(features=net.features)), net.last_channel


def _convnext_tiny(stride: int, width: float, norm: bool) -> tuple[nn.Module, int]:
    """ConvNeXt-Tiny (Liu et al., CVPR 2022) up to its last LayerNorm, which comes before the pooling here.

    torchvision pools first and normalises the vector, so that the linear layer does not act on a feature map's channels
    and CAM is not defined. With the same LayerNorm at every position it is, exactly; all weights load and the
    features before the norm are torchvision's, but a vector is now the mean of normalised positions.

    Stride 16: the last downsampling (2x2, stride 2) moves by one position instead of two, and each position takes the
    mean of the four 2x2 windows that hold it. So the map keeps its size and is centred on its cells; a single window
    would shift it by half a cell."""
    from torch import nn
    from torchvision.models.convnext import CNBlockConfig, ConvNeXt

    stages = [(96, 192, 3), (192, 384, 3), (384, 768, 9), (768, None, 3)]
    setting = [CNBlockConfig(scaled(c, width), out and scaled(out, width), n) for c, out, n in stages]
    net = ConvNeXt(setting, stochastic_depth_prob=0.1, num_classes=1)
    if stride == 16:
        layers = net.features[6]
        layers[1].stride, layers[1].padding = (1, 1), (1, 1)
        layers.append(nn.AvgPool2d(2, stride=1))
    norms = nn.Sequential(OrderedDict({"0": net.classifier[0]}))  # torchvision's name of the norm is classifier.0
    return nn.Sequential(OrderedDict(features=net.features, classifier=norms)), setting[-1].input_channels


BACKBONES = {
    "vgg16": Backbone(
        _vgg16(True), (16, 8), "vgg16", ("classifier.",), extra=("body.added",), branched=_vgg16(False),
        batch_norm=None, middle=("features.22", "features.32"),
    ),
    "resnet50": Backbone(_resnet("Bottleneck", 3, 4, 6, 3), (16, 8, 32), "resnet50", ("fc.",)),
    "resnet18": Backbone(_resnet("BasicBlock", 2, 2, 2, 2), (16, 8, 32), "resnet18", ("fc.",)),
    "mobilenet_v2": Backbone(
        _mobilenet_v2, (16, 32), "mobilenet_v2", ("classifier.",), middle=("features.13", "features.13")
    ),
    "convnext_tiny": Backbone(
        _convnext_tiny, (16, 32), "convnext_tiny", ("classifier.2.",), batch_norm=False, own_start=True,
        middle=("features.5", "features.5"),
    ),
    "vgg16_fc": Backbone(_vgg16(False), (16,), "vgg16", ("classifier.6.",), poolings=("fc",), batch_norm=None),
}  # fmt: skip

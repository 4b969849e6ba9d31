"""The bodies of all networks: image -> feature map, under torchvision's names of layers and weights.

`BACKBONES` declares each in one place; `family` also knows those of the library timm, of which timm itself tells. A
sweep plans with both, so that torch is imported only where a body is built, or a network of timm is named.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from wsolkit.common.errors import WsolkitError

if TYPE_CHECKING:
    from torch import nn

    Build = Callable[[int, float, bool], tuple[nn.Module, int]]

TIMM = "timm:"  # begins the names of timm's networks


@dataclass(frozen=True)
class Backbone:
    """One family of networks.

    Attributes:
        build: (stride, width, batch_norm) -> body and its number of channels.
        strides: that the feature map can have; the first is the published one and the default.
        torchvision: name of the published weights. head_keys: their classifier's keys, which are left out.
        size: side of the images that a network with position embeddings is made for, where nothing else is said; 0 is
            any. scales: whether channels can be multiplied.
        loads: makes a body with published weights or those of a file: (stride, width, size, weights) -> body and its
            channels; None where `build` makes the body and its weights are torchvision's.
        poolings: the first is the default.
        extra: parts of the body that no published file has.
        branched: `build` for ACoL, whose branches bring their own convolutions; None where it is the same.
        batch_norm: True and False where the family leaves no choice, None where it does.
        own_start: keep torchvision's own initialisation instead of He's.
        middle: the layer of the body after which BAS's generator stands, without and with batch normalisation; "" is
            the last.
    """

    build: Build | None
    strides: tuple[int, ...]
    torchvision: str = ""
    head_keys: tuple[str, ...] = ()
    poolings: tuple[str, ...] = ("gap", "tap", "acol", "bas")
    extra: tuple[str, ...] = ()
    branched: Build | None = None
    batch_norm: bool | None = True
    own_start: bool = False
    middle: tuple[str, str] = ("layer3", "layer3")
    size: int = 0
    scales: bool = True
    loads: Callable[..., tuple[nn.Module, int]] | None = None


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


def _inception_v3(added: bool) -> Build:
    """torchvision's Inception V3 up to Mixed_6e, with the paddings of wsolevaluation (Choe et al., CVPR 2020), which
    make the map a whole fraction of the image. `added`: its two 3x3 convolutions to 1024 channels, with its dropout.

    Stride 16 is torchvision's own Mixed_6a (wsolevaluation pools before it); 8 is wsolevaluation's large feature map,
    with that block's steps of 1. As in torchvision the weights see images with mean and standard deviation 0.5, which
    wsolevaluation leaves out."""

    def build(stride: int, width: float, norm: bool) -> tuple[nn.Module, int]:
        import torch
        from torch import nn
        from torch.nn.functional import max_pool2d
        from torchvision.models import inception

        from wsolkit.networks.modules import evaluation_mode, renormalised

        class Conv(inception.BasicConv2d):
            def __init__(self, inputs: int, outputs: int, **options: Any) -> None:
                super().__init__(1, scaled(outputs, width), **options)
                self.conv = nn.LazyConv2d(scaled(outputs, width), bias=False, **options)  # its inputs are joined blocks

        class Mixed6a(inception.InceptionB):
            def _forward(self, x: torch.Tensor) -> list[torch.Tensor]:
                deep = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
                return [self.branch3x3(x), deep, max_pool2d(x, 3, stride // 8, padding=1)]

        def unused(*_args: Any, **_options: Any) -> nn.Module:
            return nn.Identity()

        inner = [partial(block, conv_block=Conv) for block in (inception.InceptionA, Mixed6a, inception.InceptionC)]
        blocks: list[Any] = [Conv, *inner, unused, unused, unused]
        net: Any = inception.Inception3(init_weights=False, aux_logits=False, inception_blocks=blocks)
        for convolution in (net.Mixed_6a.branch3x3.conv, net.Mixed_6a.branch3x3dbl_3.conv):
            convolution.stride, convolution.padding = (stride // 8,) * 2, (1, 1)
        net.Conv2d_1a_3x3.conv.padding = (1, 1)
        net.maxpool1, net.maxpool2 = (nn.MaxPool2d(3, 2, padding=1, ceil_mode=True) for _ in range(2))
        names = [name for name, _ in net.named_children()]
        parts = {name: getattr(net, name) for name in names[: names.index("Mixed_6e") + 1]}
        body = nn.Sequential(OrderedDict(input=renormalised((0.5,) * 3, (0.5,) * 3), **parts))
        with torch.no_grad(), evaluation_mode(body):
            channels = body(torch.zeros(1, 3, 64, 64)).shape[1]  # now every convolution knows its inputs
        if not added:
            return body, channels
        out = scaled(1024, width)
        both = [nn.Conv2d(inputs, out, 3, padding=1) for inputs in (channels, out)]
        layers = [layer for conv in both for layer in (nn.Dropout(0.5), conv, nn.ReLU(inplace=True))]
        body.add_module("added", nn.Sequential(*layers, nn.Dropout(0.5)))
        return body, out

    return build


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
    "inception_v3": Backbone(
        _inception_v3(True), (16, 8), "inception_v3", ("Mixed_7", "AuxLogits.", "fc."), extra=("body.added",),
        branched=_inception_v3(False), middle=("", ""),
    ),
    "vgg16_fc": Backbone(_vgg16(False), (16,), "vgg16", ("classifier.6.",), poolings=("fc",), batch_norm=None),
}  # fmt: skip


def matching(pattern: str) -> list[str]:
    """Names of backbones that fit a pattern with * and ?; those of timm where it begins with "timm:".

    Raises: WsolkitError: none fits; timm is not installed.
    """
    known = list(BACKBONES)
    if pattern.startswith(TIMM):
        from wsolkit.networks import timm_bodies

        known = [TIMM + name for name in timm_bodies.library().list_models()]
    names = [name for name in known if fnmatchcase(name, pattern)]
    if not names:
        raise WsolkitError(f"no backbone fits '{pattern}'; '*' lists the kit's own, '{TIMM}*' those of timm")
    return names


@cache
def family(name: str) -> Backbone:
    """What is declared of a backbone: an entry of `BACKBONES`, or "timm:NAME" for a network of timm, whose name may
    have the tag of its weights behind a point ("timm:resnet18.a1_in1k").

    Raises: WsolkitError: no such backbone, or one of timm that has no feature map; timm is not installed.
    """
    if name in BACKBONES:
        return BACKBONES[name]
    if not name.startswith(TIMM):
        known = ", ".join((*BACKBONES, f"{TIMM}NAME"))
        raise WsolkitError(f"unknown backbone '{name}'; choose from {known} (wsolkit backbones lists them)")
    from wsolkit.networks import timm_bodies

    own = name.removeprefix(TIMM)
    strides, size, _, norm = timm_bodies.facts(own)
    return Backbone(
        None, strides, batch_norm=norm, own_start=True, middle=("", ""), size=size, scales=False,
        loads=partial(timm_bodies.build, own),
    )  # fmt: skip

"""Backbones as body, pool and head: image -> feature map -> vector -> logits."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torchvision
from torch import nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from .config import BACKBONE_STRIDES
from .pooling import GlobalAveragePool, ThresholdedAveragePool
from .weights import load_pretrained


class WSOLModel(nn.Module):
    """A classifier in three parts, `head(pool(body(images)))`.

    Attributes:
        body: (B, 3, H, W) -> feature map (B, C, h, w) after its last ReLU. Child names are torchvision's, so a
            parameter is called "body." + torchvision's name.
        pool: feature map -> (B, D).
        head: Linear(D, K); logits are (B, K).
        rest: feature map -> logits, the part through which gradients of localisation methods run.
        pooling: "gap", "tap" or "fc". new_parts: modules whose weights came from no pretrained file.
        spec: the arguments that rebuild this model with `build_model(**spec)`.
    """

    def __init__(self, body: nn.Module, pool: nn.Module, head: nn.Linear, spec: dict, new_parts: tuple[str, ...]):
        super().__init__()
        self.body, self.pool, self.head = body, pool, head
        self.spec, self.new_parts = spec, new_parts

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.body(images)))

    @property
    def rest(self) -> nn.Sequential:
        return nn.Sequential(OrderedDict(pool=self.pool, head=self.head))

    @property
    def backbone(self) -> str:
        return self.spec["backbone"]

    @property
    def pooling(self) -> str:
        return self.spec["pooling"]

    @property
    def stride(self) -> int:
        return self.spec["stride"]

    @property
    def num_classes(self) -> int:
        return self.head.out_features

    @property
    def has_cam(self) -> bool:
        """True where the head weighs the channels of the feature map: only then CAM and RethinkingCAM are defined."""
        return self.pooling in ("gap", "tap")

    def is_new(self, parameter_name: str) -> bool:
        """Whether a parameter belongs to a layer that did not start from pretrained weights."""
        return parameter_name.startswith(tuple(part + "." for part in self.new_parts))


@dataclass(frozen=True)
class Backbone:
    """How to build one family: its function, poolings (the first is the default), torchvision's name, its head's keys."""

    build: Callable[[int, float, bool], tuple[nn.Module, int]]
    poolings: tuple[str, ...]
    torchvision: str
    head_keys: tuple[str, ...]
    extra: tuple[str, ...] = ()


_VGG16 = (64, 64, "M", 128, 128, "M", 256, 256, 256, "M", 512, 512, 512, "M", 512, 512, 512, "M")


def _vgg_features(width: float, dropped: tuple[int, ...], norm: bool) -> tuple[nn.Sequential, int]:
    """torchvision's VGG16 `features` under its own indices; `dropped` counts the poolings (from 1) to leave out."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    index, channels, pools = 0, 3, 0
    for item in _VGG16:
        if item == "M":
            pools += 1
            if pools not in dropped:
                layers[str(index)] = nn.MaxPool2d(2, 2)
            index += 1
            continue
        out = _scaled(item, width)
        for layer in _convolution(channels, out, norm):
            layers[str(index)] = layer
            index += 1
        channels = out
    return nn.Sequential(layers), channels


def _convolution(channels: int, out: int, norm: bool) -> list[nn.Module]:
    norms = [nn.BatchNorm2d(out)] if norm else []
    return [nn.Conv2d(channels, out, 3, padding=1), *norms, nn.ReLU(inplace=True)]


def _scaled(channels: int, width: float) -> int:
    return max(8, round(channels * width))


def _vgg16(stride: int, width: float, norm: bool) -> tuple[nn.Module, int]:
    features, channels = _vgg_features(width, (5,) if stride == 16 else (4, 5), norm)
    out = _scaled(1024, width)
    added = nn.Sequential(*_convolution(channels, out, norm))
    return nn.Sequential(OrderedDict(features=features, added=added)), out


def _vgg16_fc(stride: int, width: float, norm: bool) -> tuple[nn.Module, int]:
    features, channels = _vgg_features(width, (5,), norm)
    return nn.Sequential(OrderedDict(features=features)), channels


def _resnet(block: type[nn.Module], depths: list[int]) -> Callable[[int, float, bool], tuple[nn.Module, int]]:
    def build(stride: int, width: float, norm: bool) -> tuple[nn.Module, int]:
        class ResNet(torchvision.models.ResNet):
            def _make_layer(self, block, planes, *args, **options):  # the stem keeps its 64 channels
                return super()._make_layer(block, _scaled(planes, width), *args, **options)

        net = ResNet(block, depths)
        for layer in [net.layer4] * (stride <= 16) + [net.layer3] * (stride <= 8):
            for module in layer[0].modules():
                if isinstance(module, nn.Conv2d) and module.stride == (2, 2):
                    module.stride = (1, 1)
        parts = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
        return nn.Sequential(OrderedDict((part, getattr(net, part)) for part in parts)), net.inplanes

    return build


def _mobilenet_v2(stride: int, width: float, norm: bool) -> tuple[nn.Module, int]:
    net = torchvision.models.mobilenet_v2(weights=None, width_mult=width)
    if stride == 16:
        net.features[14].conv[1][0].stride = (1, 1)  # the depthwise convolution that halves the map for the last time
    return nn.Sequential(OrderedDict(features=net.features)), net.last_channel


class _FullyConnected(nn.Module):
    """VGG16's own way from the feature map to a vector: pool5, 7x7, two hidden layers of 4096."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        hidden = _scaled(4096, width)
        self.before = nn.Sequential(nn.MaxPool2d(2, 2), nn.AdaptiveAvgPool2d(7), nn.Flatten())
        self.classifier = nn.Sequential(
            *(nn.Linear(channels * 49, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)),
            *(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        )
        self.out_features = hidden

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.before(features))


_LINEAR = ("gap", "tap")
BACKBONES = {
    "vgg16": Backbone(_vgg16, _LINEAR, "vgg16", ("classifier.",), ("body.added",)),
    "resnet50": Backbone(_resnet(Bottleneck, [3, 4, 6, 3]), _LINEAR, "resnet50", ("fc.",)),
    "resnet18": Backbone(_resnet(BasicBlock, [2, 2, 2, 2]), _LINEAR, "resnet18", ("fc.",)),
    "mobilenet_v2": Backbone(_mobilenet_v2, _LINEAR, "mobilenet_v2", ("classifier.",)),
    "vgg16_fc": Backbone(_vgg16_fc, ("fc",), "vgg16", ("classifier.6.",)),
}


def build_model(
    backbone: str,
    num_classes: int,
    pooling: str | None = None,
    weights: str = "imagenet",
    stride: int | None = None,
    tau: float = 0.1,
    width: float = 1.0,
    batch_norm: bool | None = None,
    seed: int = 0,
) -> WSOLModel:
    """Build a classifier as body, pool and head.

    Args:
        backbone: "vgg16" (13 convolutions, one added 3x3 convolution to 1024 channels), "resnet50", "resnet18",
            "mobilenet_v2", or "vgg16_fc" (plain VGG16 with its fully connected layers).
        pooling: "gap", "tap" (thresholded average pooling with `tau`); "fc" is the only one of vgg16_fc.
        weights: "imagenet" (torchvision's file, downloaded once), "none", or a file (.safetensors or weights-only .pth)
            with torchvision's key names or this package's own.
        stride: of the feature map: vgg16 16, 8; resnets 16, 8, 32; mobilenet_v2 16, 32; vgg16_fc 16; None is the first.
        width: channels multiplied by this (1.0 is the published network), for training from scratch on small machines.
        batch_norm: True inserts batch normalisation into a VGG (torchvision's vgg16_bn), without which thirteen
            convolutions hardly train from scratch; None is the family's own: VGG without, the others always with.
        seed: of the random initialisation; the global random state is left as it was.

    Raises:
        ValueError: for a combination that does not exist, or weights that do not fit (naming the keys).
    """
    if backbone not in BACKBONES:
        raise ValueError(f"unknown backbone '{backbone}'; choose from {', '.join(BACKBONES)}")
    family = BACKBONES[backbone]
    pooling = family.poolings[0] if pooling is None else pooling
    stride = BACKBONE_STRIDES[backbone][0] if stride is None else stride
    for name, value, allowed in (("pooling", pooling, family.poolings), ("stride", stride, BACKBONE_STRIDES[backbone])):
        if value not in allowed:
            raise ValueError(f"{backbone} has no {name} {value!r}; choose from {', '.join(map(str, allowed))}")
    if not 0.0 < width <= 4.0:
        raise ValueError(f"width multiplies the channels and must lie in (0, 4], but is {width}")
    if batch_norm is None:
        batch_norm = not backbone.startswith("vgg")
    elif not batch_norm and not backbone.startswith("vgg"):
        raise ValueError(f"{backbone} always has batch normalisation; leave batch_norm at None")
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, but is {num_classes}")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body, channels = family.build(stride, width, batch_norm)
        pool: nn.Module = {"gap": GlobalAveragePool, "tap": lambda: ThresholdedAveragePool(tau)}.get(
            pooling, lambda: _FullyConnected(channels, width)
        )()
        head = nn.Linear(getattr(pool, "out_features", channels), num_classes)
        spec = {"backbone": backbone, "num_classes": num_classes, "pooling": pooling, "stride": stride}
        spec |= {"tau": tau, "width": width, "batch_norm": batch_norm}
        # a network that starts from scratch has no pretrained layer whose gradients a recipe could damp
        new = ("body", "pool", "head") if weights == "none" else (*family.extra, "head")
        model = WSOLModel(body, pool, head, spec, new)
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(head.weight, 0.0, 0.01)
        nn.init.zeros_(head.bias)
    if weights != "none":
        published = family.torchvision + ("_bn" if batch_norm and backbone.startswith("vgg") else "")
        load_pretrained(model, weights, published, family.head_keys)
    return model

"""Networks as body, pool and head: image -> feature map -> vector -> logits."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
from torch import nn

from wsolkit.common.errors import WsolkitError
from wsolkit.networks.backbones import BACKBONES, scaled
from wsolkit.networks.pooling import GlobalAveragePool, ThresholdedAveragePool
from wsolkit.networks.weights import load_pretrained


class WSOLModel(nn.Module):
    """A classifier in three parts, `head(pool(body(images)))`.

    Attributes:
        body: (B, 3, H, W) -> feature map (B, C, h, w) after its last ReLU (convnext_tiny: after its last LayerNorm, so
            with negative values). Child names are torchvision's: a parameter is called "body." + torchvision's name.
        pool: feature map -> (B, D).
        head: Linear(D, K); logits are (B, K).
        rest: feature map -> logits, the part through which gradients of localisation methods run.
        pooling: "gap", "tap", "fc" or "acol". new_parts: modules whose weights came from no pretrained file.
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


class ACoLModel(WSOLModel):
    """Adversarial complementary learning: two classifiers, the second of which sees what the first did not need.

    `branch_a` and `branch_b` turn a feature map (B, C, h, w) into K class maps (B, K, h, w): conv3x3 to 1024 channels and
    ReLU, twice, then conv1x1; logits are the means of the maps. Branch B looks at the feature map without the positions
    where A's map of the class, scaled to [0, 1], reaches `delta`. The erasing mask is a constant for the gradient.

    `model(images)` gives A's logits, those that classify; `model(images, labels)` gives (A's, B's), as training needs
    them. Plain CAM is not defined, as a branch is no linear head: the method is "acol".

    Differs from the published networks: no 3x3 mean pooling before the branches, poolings 2x2 with stride 2 throughout.

    Source: Zhang et al., "Adversarial Complementary Learning for Weakly Supervised Object Localization", CVPR 2018.
    """

    def __init__(
        self, body: nn.Module, branch_a: nn.Module, branch_b: nn.Module, spec: dict, new_parts: tuple[str, ...]
    ):
        nn.Module.__init__(self)
        self.body, self.branch_a, self.branch_b, self.pool = body, branch_a, branch_b, GlobalAveragePool()
        self.spec, self.new_parts = spec, new_parts

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None):
        features = self.body(images)
        maps_a = self.branch_a(features)
        if labels is None:
            return self.pool(maps_a)
        seen = maps_a.detach()[torch.arange(len(labels), device=labels.device), labels]
        return self.pool(maps_a), self.pool(self.branch_b(erase(features, seen, self.delta)))

    @property
    def rest(self) -> nn.Sequential:
        return nn.Sequential(OrderedDict(branch=self.branch_a, pool=self.pool))

    @property
    def delta(self) -> float:
        return self.spec["delta"]

    @property
    def num_classes(self) -> int:
        return self.spec["num_classes"]


def unit_range(maps: torch.Tensor) -> torch.Tensor:
    """(B, h, w) -> the same, each map scaled to [0, 1] by its own minimum and maximum; a constant one is all zeros."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), torch.zeros_like(maps))


def erase(features: torch.Tensor, seen: torch.Tensor, delta: float) -> torch.Tensor:
    """(B, C, h, w) features, 0 where the map `seen` (B, h, w), scaled to [0, 1], is at least `delta`."""
    return features * (unit_range(seen) < delta)[:, None].to(features.dtype)


def _branch(channels: int, width: float, num_classes: int) -> nn.Sequential:
    hidden = scaled(1024, width)
    return nn.Sequential(
        *(nn.Conv2d(channels, hidden, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.Conv2d(hidden, hidden, 3, padding=1), nn.ReLU(inplace=True)),
        nn.Conv2d(hidden, num_classes, 1),
    )


class _FullyConnected(nn.Module):
    """VGG16's own way from the feature map to a vector: pool5, 7x7, two hidden layers of 4096."""

    def __init__(self, channels: int, width: float) -> None:
        super().__init__()
        hidden = scaled(4096, width)
        self.before = nn.Sequential(nn.MaxPool2d(2, 2), nn.AdaptiveAvgPool2d(7), nn.Flatten())
        self.classifier = nn.Sequential(
            *(nn.Linear(channels * 49, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)),
            *(nn.Linear(hidden, hidden), nn.ReLU(inplace=True), nn.Dropout(0.5)),
        )
        self.out_features = hidden

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.before(features))


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
    delta: float = 0.6,
) -> WSOLModel:
    """Build a classifier as body, pool and head.

    Args:
        backbone: "vgg16" (13 convolutions, one added 3x3 convolution to 1024 channels), "resnet50", "resnet18",
            "mobilenet_v2", "convnext_tiny" (with its last LayerNorm before the pooling, `backbones._convnext_tiny`), or
            "vgg16_fc" (plain VGG16 with its fully connected layers).
        pooling: "gap", "tap" (thresholded average pooling with `tau`; on the signed feature map of convnext_tiny it is
            that of its positive part), "acol" (two branches, `ACoLModel`); "fc" is the only one of vgg16_fc.
        weights: "imagenet" (torchvision's file, downloaded once), "none", or a file (.safetensors or weights-only .pth)
            with torchvision's key names or this package's own.
        stride: of the feature map: vgg16 16, 8; resnets 16, 8, 32; mobilenet_v2 and convnext_tiny 16, 32; vgg16_fc 16; None is the
            first.
        width: channels multiplied by this (1.0 is the published network), for training from scratch on small machines.
        batch_norm: True inserts batch normalisation into a VGG (torchvision's vgg16_bn), without which thirteen
            convolutions hardly train from scratch; None is the family's own: VGG and ConvNeXt without, others with.
        seed: of the random initialisation; the global random state is left as it was.
        delta: share of the maximum at which ACoL erases, in (0, 1]; 0.6 is the published one.

    Raises:
        ValueError: for a combination that does not exist, or weights that do not fit (naming the keys).
    """
    if backbone not in BACKBONES:
        raise WsolkitError(f"unknown backbone '{backbone}'; choose from {', '.join(BACKBONES)}")
    family = BACKBONES[backbone]
    pooling = family.poolings[0] if pooling is None else pooling
    stride = family.strides[0] if stride is None else stride
    for name, value, allowed in (("pooling", pooling, family.poolings), ("stride", stride, family.strides)):
        if value not in allowed:
            raise WsolkitError(f"{backbone} has no {name} {value!r}; choose from {', '.join(map(str, allowed))}")
    if not 0.0 < width <= 4.0:
        raise WsolkitError(f"width multiplies the channels and must lie in (0, 4], but is {width}")
    if not 0.0 < delta <= 1.0:
        raise WsolkitError(f"delta is a share of a map's maximum and must lie in (0, 1], but is {delta}")
    if batch_norm is None:
        batch_norm = bool(family.batch_norm)
    elif family.batch_norm not in (None, batch_norm):
        raise WsolkitError(f"{backbone} {'always' if family.batch_norm else 'never'} has batch normalisation; "
                         "leave batch_norm at None")  # fmt: skip
    if num_classes < 2:
        raise WsolkitError(f"num_classes must be at least 2, but is {num_classes}")

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        build = (family.branched if pooling == "acol" else None) or family.build
        body, channels = build(stride, width, batch_norm)
        spec = {"backbone": backbone, "num_classes": num_classes, "pooling": pooling, "stride": stride}
        spec |= {"tau": tau, "width": width, "batch_norm": batch_norm}
        if pooling == "acol":
            spec["delta"] = delta
            branch_a, branch_b = _branch(channels, width, num_classes), _branch(channels, width, num_classes)
            model: WSOLModel = ACoLModel(body, branch_a, branch_b, spec, ("branch_a", "branch_b"))
            heads: list[Any] = [branch_a[-1], branch_b[-1]]
        else:
            if pooling == "fc":
                pool: nn.Module = _FullyConnected(channels, width)
            else:
                pool = ThresholdedAveragePool(tau) if pooling == "tap" else GlobalAveragePool()
            head = nn.Linear(getattr(pool, "out_features", channels), num_classes)
            model, heads = WSOLModel(body, pool, head, spec, (*family.extra, "head")), [head]
        if weights == "none":  # no layer is pretrained, so there is none whose gradients a recipe could damp
            model.new_parts = tuple(name for name, _ in model.named_children())
        own = set(body.modules()) if family.own_start else set()
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module not in own:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in heads:
            nn.init.normal_(layer.weight, 0.0, 0.01)
            nn.init.zeros_(layer.bias)
    if weights != "none":
        published = family.torchvision + ("_bn" if batch_norm and backbone.startswith("vgg") else "")
        load_pretrained(model, weights, published, family.head_keys)
    return model

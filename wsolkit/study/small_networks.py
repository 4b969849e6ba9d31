"""Small networks on which exercises are tried: they are built in a moment, and what must hold on them is known."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsolkit.networks.models import GlobalAveragePool, WSOLModel, build_model

CLASSES = 5
STEPS = 4  # pixels of the image in one position of the feature map of `ring` and `lamps`


def small_network(pooling: str = "gap", backbone: str = "resnet18", seed: int = 0) -> tuple[WSOLModel, Tensor, Tensor]:
    """A thin network of this package with random weights, images (3, 3, 32, 32) and labels (3,)."""
    stride = 16 if backbone == "vgg16_fc" else 8
    model = build_model(backbone, CLASSES, pooling, weights="none", stride=stride, width=0.0625, seed=seed).eval()
    draw = torch.Generator().manual_seed(seed)
    nn.init.normal_(model.head.weight, generator=draw)  # a fresh head is nearly zero
    return model, torch.randn(3, 3, 32, 32, generator=draw), torch.tensor([1, 4, 2])


def _with_gap(body: nn.Module, head: nn.Linear) -> WSOLModel:
    """Body, GAP and linear head."""
    spec = {"backbone": "toy", "pooling": "gap", "stride": STEPS, "num_classes": head.out_features}
    return WSOLModel(spec, (), body, pool=GlobalAveragePool(), head=head).eval()


def ring() -> WSOLModel:
    """Two convolutions with left-right symmetric kernels on an image without edges: mirrored in, mirrored out."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 6), (6, 8)):
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, padding_mode="circular")
        kernels = torch.randn_like(convolution.weight)
        convolution.weight.data = kernels + kernels.flip(3)
        layers += [convolution, nn.ReLU(), nn.AvgPool2d(2)]
    head = nn.Linear(8, 4)
    nn.init.normal_(head.weight)
    return _with_gap(nn.Sequential(*layers), head)


def lamps() -> WSOLModel:
    """The feature map is the image in coarse: channel 0 speaks for class 0 and against class 1, channel 1 the reverse
    (and more against than for), channel 2 for neither."""
    head = nn.Linear(3, 2)
    head.weight.data = torch.tensor([[1.0, -1.5, 0.1], [-1.5, 1.0, 0.1]])
    nn.init.zeros_(head.bias)
    return _with_gap(nn.Sequential(nn.AvgPool2d(STEPS), nn.ReLU()), head)


def positive(channels: int) -> WSOLModel:
    """The feature map is the image, and all weights of the head are positive: CAM's map has no negative value."""
    head = nn.Linear(channels, CLASSES)
    nn.init.uniform_(head.weight, 0.1, 1.0)
    return _with_gap(nn.Identity(), head).requires_grad_(False)

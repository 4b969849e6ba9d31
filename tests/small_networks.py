"""Small networks of torchvision, and the grad-cam package on the whole of them, for the tests of score maps."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from pytorch_grad_cam.utils.image import scale_cam_image
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import nn
from torchvision import models

SIZE = 64
CLASSES = 7


def vit(layers: int = 3) -> nn.Module:
    """16 px patches of a 64 px image: a class token and 4 x 4 patches. torchvision starts its head at zero."""
    torch.manual_seed(0)
    net = models.VisionTransformer(SIZE, 16, layers, 2, 16, 32, num_classes=CLASSES)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.eval()


def swin() -> nn.Module:
    torch.manual_seed(0)
    net = models.SwinTransformer([4, 4], 16, [2, 2], [2, 2], [4, 4], num_classes=CLASSES)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.3)
    return net.eval()


def convolutional(build: Callable[..., nn.Module], **options) -> nn.Module:
    """With the batch norm statistics of random images, without which the signal of random weights vanishes."""
    torch.manual_seed(0)
    net = build(num_classes=CLASSES, **options)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    if norms:
        with torch.no_grad():
            net.train()(pictures(8, seed=9))
    return net.eval()


def vgg11(**options) -> nn.Module:
    """With narrow fully connected layers: torchvision's have 124 million weights, a hundred times as many as the test needs."""
    net = models.vgg11(**options)
    net.classifier[0], net.classifier[3], net.classifier[6] = (
        nn.Linear(25088, 64),
        nn.Linear(64, 64),
        nn.Linear(64, CLASSES),
    )
    return net


NETWORKS = {
    "resnet18": lambda: convolutional(models.resnet18),
    "vgg11": lambda: convolutional(vgg11, init_weights=False),
    "mobilenet_v2": lambda: convolutional(models.mobilenet_v2, width_mult=0.35),
    "densenet121": lambda: convolutional(models.densenet121),
    "vit": vit,
    "swin": swin,
}


def pictures(n: int = 2, size: int = SIZE, seed: int = 1) -> torch.Tensor:
    images = torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(seed))
    return images.contiguous(memory_format=torch.channels_last)  # the layout of the body, so that rounding is the same


def at_input_size(maps: torch.Tensor, size: int = SIZE) -> np.ndarray:
    """What the package does to a raw map: min-max, resize to the input, min-max."""
    return scale_cam_image(scale_cam_image(maps.numpy(), (size, size)))


def by_package(cls: type, net: nn.Module, layer: str, images: torch.Tensor, labels: list[int], reshape=None):
    """Maps at input size of a class of the package that hooks the whole network, and its activations of the layer."""
    with cls(net, [net.get_submodule(layer)], reshape_transform=reshape) as made:
        maps = made(images.clone(), targets=[ClassifierOutputTarget(label) for label in labels])
        activations = made.activations_and_grads.activations[0].clone()
    net.zero_grad(set_to_none=True)
    return maps, activations

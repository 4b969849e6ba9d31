"""The part of a network after the feature map, and networks in lower precision."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsolkit.networks.hooked import HookedModel


def rest_of(model: nn.Module, images: Tensor | None = None) -> nn.Module:
    """The network from the feature map to the logits: `model.rest`, or pool and head one after the other.

    Of a hooked model it is the rest for these images.
    """
    if isinstance(model, HookedModel):
        if images is None:
            raise ValueError("this network could not be split, so its methods need images, not only features")
        return model.rest_for(images)
    rest = getattr(model, "rest", None)
    return rest if isinstance(rest, nn.Module) else nn.Sequential(model.pool, model.head)


PRECISIONS = ("float32", "bf16")


class _Bfloat16(nn.Module):
    """A network under bfloat16 autocast: matrix products and convolutions in 16 bits, everything outside in float32."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return self.network(x).float()


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """The network itself for "float32", or one that runs it under autocast for "bf16"."""
    return network if precision == "float32" else _Bfloat16(network)

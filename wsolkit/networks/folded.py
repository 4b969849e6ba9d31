"""The body of a network with batch normalisation folded into its convolutions, on a CPU and without gradients.

The numbers stay those of the network up to rounding. A body that cannot be traced, that has hooks, or whose folded copy
gives other numbers than itself runs as it is. The choice depends on the call alone, not on what was called before, so
that the same call gives the same bits. The copy is kept as long as the body lives; before every use it is checked that
weights and modules of the body are still what they were.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from wsolkit.networks.modules import same_values, structure

_WORTH = 100_000  # pixels in a call (two images of 224 px): below, making the copy costs more than it saves

_kept: weakref.WeakKeyDictionary[nn.Module, tuple[Hashable, nn.Module | None]] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def run(body: nn.Module, images: Tensor, precision: str = "float32") -> Tensor:
    """(B, c, H, W) -> feature map (B, C, h, w), as `body(images)` gives it in evaluation mode, without a graph.

    Args:
        body: images -> feature map, every image on its own.
        images: float, best in channels last; they are copied, as a body may work in place.
        precision: "float32", or "bf16", which is bfloat16 autocast inside; the result is float32 either way.
    """
    images = images.clone()
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        if precision == "bf16":
            return body(images).float()
        copy = _copy_of(body, images)
        return (body if copy is None else copy)(images)


def _copy_of(body: nn.Module, images: Tensor) -> nn.Module | None:
    """The folded copy of a body, or None where the body is to run as it is."""
    small = len(images) < 2 or images[:, 0].numel() < _WORTH
    if small or images.device.type != "cpu" or images.dtype != torch.float32 or not isinstance(body, nn.Module):
        return None
    if not any(isinstance(module, nn.BatchNorm2d) for module in body.modules()):
        return None  # nothing to win
    if any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in body.modules()):
        return None
    with _lock:
        state, (kept, copy) = _state(body), _kept.get(body, (None, None))
        if kept != state:
            try:
                copy = _make(body, images[:2])
            except Exception:  # forward methods of any kind are traced here; what cannot be is run as it is
                copy = None
            _kept[body] = (state, copy)
        return copy


def _make(body: nn.Module, images: Tensor) -> nn.Module | None:
    folded = fuse(body).to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # of a copy
    expected = body(images.clone())
    given = torch.cat([folded(image[None].clone()) for image in images])  # one by one: each image must be on its own
    return folded if same_values(given, expected) else None


def _state(body: nn.Module) -> Hashable:
    """Changes when a module or a value of the body does, also where `.data` was written behind torch's back."""
    tensors = [*body.parameters(), *body.buffers()]
    versions = tuple((t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors)
    # of every tensor one sum, weighed by position so that values that change places show too
    flat = [t.detach().reshape(-1) for t in tensors if t.dtype == torch.float32]
    weights = _weights(max(map(len, flat), default=0))
    sums = torch.tensor([float(torch.dot(values, weights[: len(values)])) for values in flat])
    return structure(body), versions, sums.numpy().tobytes()


@lru_cache(maxsize=2)
def _weights(length: int) -> Tensor:
    return torch.rand(length, generator=torch.Generator().manual_seed(0))

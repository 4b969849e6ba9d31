"""What is asked of any nn.Module: its mode for a while, its attributes as they were, bfloat16, whether it changed."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from wsolkit.common.errors import WsolkitError, require
from wsolkit.data.base import IMAGENET_MEAN, IMAGENET_STD

PRECISIONS = ("float32", "bf16")


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode inside; afterwards every module is in the mode it was in, exceptions included.

    Raises: WsolkitError: the model is no nn.Module, or has no evaluation mode.
    """
    require(isinstance(model, nn.Module), f"a network must be a torch.nn.Module, but this is {type(model).__name__}")
    # a frozen TorchScript network has no modes
    modes = [(module, module.training) for module in model.modules() if hasattr(module, "training")]
    try:
        try:
            if hasattr(model, "training"):
                model.eval()
        except NotImplementedError as error:  # eval() of a module that torch.export made
            kind = f"{type(model).__name__} has no evaluation mode ({error})"
            raise WsolkitError(f"{kind}: give the nn.Module that it was made from, with the same weights") from error
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Attributes of all modules are afterwards what they were, exceptions included: tracing stores constants on the
    model, and forward methods that keep something would keep traced values."""
    before = [(module, dict(vars(module))) for module in model.modules()]
    try:
        yield
    finally:
        for module, attributes in before:
            now = vars(module)  # never empty, as another thread may look through the model meanwhile
            for name in now.keys() - attributes.keys():
                del now[name]
            now.update({name: value for name, value in attributes.items() if now.get(name, now) is not value})


def copied(model: nn.Module) -> nn.Module:
    """A deep copy, also where modules keep tensors with a graph, as the weight norm of earlier torch its weight."""
    kept = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    return copy.deepcopy(model, {id(tensor): tensor.detach().clone() for tensor in kept if not tensor.is_leaf})


def structure(model: nn.Module) -> Hashable:
    """Changes when a module is replaced or a plain attribute of one is set; weights do not count."""
    plain = (int, float, bool, str, tuple, type(None))
    parts: list[Hashable] = []
    for module in model.modules():
        attributes = vars(module)
        parts += [id(module), id(attributes.get("forward"))]
        parts += [item for item in attributes.items() if type(item[1]) in plain and item[0] != "training"]
    return tuple(parts)


def same_values(given: Tensor, expected: Tensor) -> bool:
    """Equal shapes, and values equal up to 1e-4 of the largest, or the step of a coarser dtype; NaN equals NaN."""
    if given.shape != expected.shape:
        return False
    step = max((torch.finfo(t.dtype).eps for t in (given, expected) if t.dtype.is_floating_point), default=0.0)
    both = torch.promote_types(given.dtype, expected.dtype)
    given, expected = given.to(both), expected.to(both)
    tolerance = max(1e-4, step) * expected.abs().nan_to_num().max().clamp(min=1e-6)
    return bool(torch.allclose(given, expected, rtol=0, atol=float(tolerance), equal_nan=True))


class _Bfloat16(nn.Sequential):
    """A network under bfloat16 autocast: matrix products and convolutions in 16 bits, everything outside in float32."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            return super().forward(x).float()


def in_precision(network: nn.Module, precision: str) -> nn.Module:
    """The network itself for "float32", or one that runs it under autocast for "bf16"."""
    return network if precision == "float32" else _Bfloat16(network)


class _Affine(nn.Module):
    """x * scale + shift by channel, neither of which is a weight."""

    scale: Tensor
    shift: Tensor

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale[:, None, None], persistent=False)
        self.register_buffer("shift", shift[:, None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


def renormalised(mean: Sequence[float], std: Sequence[float]) -> nn.Module:
    """A layer for images (B, 3, H, W) that are normalised with ImageNet's mean and standard deviation, as all of the
    kit's are: it makes of them what these `mean` and `std` (of values in [0, 1]) would have made."""
    if (*mean, *std) == (*IMAGENET_MEAN, *IMAGENET_STD):
        return nn.Identity()
    given, own = torch.tensor([IMAGENET_MEAN, IMAGENET_STD]), torch.tensor([[*mean], [*std]])
    return _Affine(given[1] / own[1], (given[0] - own[0]) / own[1])

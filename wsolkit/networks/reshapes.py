"""From the output of a layer to a feature map (B, C, h, w), and back.

Convolutional networks need nothing. Swin keeps its channels last, ViT has a list of tokens: a class token, then the
patches row by row.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Reshape:
    """A way to move the entries of a layer's output: any function that only permutes or drops them.

    Attributes:
        name: what the user calls it. move: output (B, ...) -> (B, C, h, w).
        inverse: (B, C, h, w) -> output; None where entries are dropped, or for a function of the user's own.
    """

    name: str
    move: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor] | None = None

    def __call__(self, output: Tensor) -> Tensor:
        return self.move(output)

    def put(self, features: Tensor, output: Tensor) -> Tensor:
        """The output with the entries that the feature map shows replaced by it; what was dropped stays.

        Where each entry comes from is found by moving an output that holds its own positions.

        Raises:
            ValueError: a function that does not only move entries, as it would have no meaning for gradients.
        """
        positions = torch.arange(output[0].numel(), dtype=torch.float64, device=output.device)
        source = self.move(positions.reshape(1, *output.shape[1:])).long()
        source, whole = source.flatten(), output.flatten(1)
        inside = bool(((source >= 0) & (source < len(positions))).all())
        if not inside or not torch.equal(whole[:, source], self.move(output).flatten(1)):
            raise ValueError(f"reshape {self.name!r} changes values; it may only permute or drop entries")
        return whole.index_copy(1, source, features.flatten(1)).reshape(output.shape)


def tokens(output: Tensor) -> Tensor:
    """(B, 1 + n*n, C) -> (B, C, n, n), without the class token, which comes first. As in the grad-cam package."""
    side = math.isqrt(max(output.shape[1] - 1, 0)) if output.ndim == 3 else 0
    if side * side + 1 != output.shape[1] or side == 0:
        raise ValueError(
            f'reshape "tokens" takes (B, 1 + n*n, C), a class token and a square of patches, not {tuple(output.shape)}; '
            "give a function from the layer's output to (B, C, h, w) instead"
        )
    return output[:, 1:].transpose(1, 2).reshape(len(output), output.shape[2], side, side)


def nhwc(output: Tensor) -> Tensor:
    """(B, h, w, C) -> (B, C, h, w)."""
    return output.permute(0, 3, 1, 2)


def _back_to_nhwc(features: Tensor) -> Tensor:
    return features.permute(0, 2, 3, 1)


RESHAPES = {"tokens": Reshape("tokens", tokens), "nhwc": Reshape("nhwc", nhwc, _back_to_nhwc)}


def as_reshape(reshape: str | Callable | Reshape | None) -> Reshape | None:
    """A `Reshape` from its name or from a function; ValueError for an unknown name."""
    if reshape is None or isinstance(reshape, Reshape):
        return reshape
    if callable(reshape):
        return Reshape(getattr(reshape, "__name__", type(reshape).__name__), reshape)
    if reshape not in RESHAPES:
        raise ValueError(f"unknown reshape {reshape!r}; valid are {', '.join(RESHAPES)}, or a function to (B, C, h, w)")
    return RESHAPES[reshape]


def feature_map_of(output: Tensor, reshape: Reshape | None, layer: str) -> Tensor:
    """The layer's output as (B, C, h, w), or a ValueError that says what it is and what to do."""
    if not isinstance(output, Tensor):
        raise ValueError(
            f"layer '{layer}' returns a {type(output).__name__}, not a tensor: choose a layer inside or after it"
        )
    features = output if reshape is None else reshape(output)
    if features.ndim != 4:
        hint = 'give reshape="tokens" (class token first) or a function' if features.ndim == 3 else "choose another"
        raise ValueError(
            f"layer '{layer}' must give a feature map (B, C, h, w), but gave {tuple(features.shape)}: {hint}"
        )
    return features

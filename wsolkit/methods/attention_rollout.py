"""Attention rollout: what the class token of a vision transformer attends to, through all layers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from wsolkit.common.errors import WsolkitError
from wsolkit.methods.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torchvision.models.vision_transformer import EncoderBlock

    from wsolkit.methods.context import Context


def _has_attention(model: nn.Module) -> str:
    return "" if _blocks(model) else "attention_rollout is defined on the vision transformers of torchvision only"


@register(
    "attention_rollout",
    needs="forward",
    description="attention from the class token to the patches, followed through all layers; the class plays no part",
    eigen=False,
    check=_has_attention,
)
def attention_rollout(context: Context) -> Tensor:
    """First row of the product over layers of (A + I) / 2, A the mean attention of the heads.

    Abnar and Zuidema, ACL 2020. (B, h, w), the share that each patch has in the class token after the last layer.
    """
    import torch

    rolled: Tensor | None = None
    for attention in attention_maps(context.model, images_of(context, "attention_rollout")):
        identity = torch.eye(attention.shape[-1], device=attention.device, dtype=attention.dtype)
        mixed = (attention + identity) / 2  # half of each token comes along the skip connection; rows still sum to 1
        rolled = mixed if rolled is None else mixed @ rolled
    return on_grid(rolled[:, 0, 1:])


def attention_maps(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Attention of every block of a torchvision ViT anywhere in the model: L tensors (B, 1+N, 1+N).

    Mean over the heads; row i says from which tokens token i takes, and sums to 1; token 0 is the class token. One
    forward pass, during which hooks ask the attention layers for the weights that they compute anyway.
    """
    import torch

    found: list[Tensor] = []

    def ask(_layer: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": True}

    def keep(_layer: nn.Module, _args: tuple, output: tuple[Tensor, Tensor]) -> None:
        found.append(output[1].detach())

    handles = []
    try:
        for block in _blocks(model):
            handles.append(block.self_attention.register_forward_pre_hook(ask, with_kwargs=True))
            handles.append(block.self_attention.register_forward_hook(keep))
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _blocks(model: nn.Module) -> list[EncoderBlock]:
    from torchvision.models.vision_transformer import EncoderBlock

    return [module for module in model.modules() if isinstance(module, EncoderBlock)]


def images_of(context: Context, method: str) -> Tensor:
    if context.images is None:
        raise WsolkitError(f"{method} reads the attention of the whole network and needs images, not only features")
    return context.images


def on_grid(rows: Tensor) -> Tensor:
    """(B, n*n) -> (B, n, n)."""
    side = math.isqrt(rows.shape[1])
    return rows.reshape(len(rows), side, side)

"""Attention rollout: what the class token of a vision transformer attends to, through all layers."""

import math
from contextlib import ExitStack
from typing import Any

from wsolkit.common.errors import WsolkitError
from wsolkit.methods.context import Context, Module, Tensor
from wsolkit.methods.registry import register


@register(
    "attention_rollout",
    needs="forward",
    description="attention of the class token, layer by layer",
    eigen=False,
    check=lambda net: "" if _blocks(net) else "attention_rollout is defined on torchvision's vision transformers only",
)
def attention_rollout(context: Context) -> Tensor:
    """First row of the product over layers of (A + I) / 2, A the mean attention of the heads.

    Abnar and Zuidema, ACL 2020. (B, h, w), the share that each patch has in the class token after the last layer.
    """
    rolled: Any = None
    for attention in attention_maps(context.model, context.images):
        mixed = attention / 2  # half of each token comes along the skip connection; rows still sum to 1
        mixed.diagonal(dim1=1, dim2=2).add_(0.5)
        rolled = mixed if rolled is None else mixed @ rolled
    return attended(rolled)


def attention_maps(model: Module, images: Tensor | None) -> list[Tensor]:
    """Attention of every block of a torchvision ViT anywhere in the model: L tensors (B, 1+N, 1+N).

    Mean over the heads; row i says from which tokens token i takes, and sums to 1; token 0 is the class token. One
    forward pass, during which hooks ask the attention layers for the weights that they compute anyway.
    """
    import torch

    if images is None:
        raise WsolkitError("attention is read from a pass of the whole network, which needs images, not only features")
    attention: list[Tensor] = []

    def ask(_layer: Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        return args, {**kwargs, "need_weights": True, "average_attn_weights": True}

    def keep(_layer: Module, _args: tuple, output: tuple[Tensor, Tensor]) -> None:
        attention.append(output[1].detach())

    with ExitStack() as hooks, torch.no_grad():
        for block in _blocks(model):
            hooks.enter_context(block.self_attention.register_forward_pre_hook(ask, with_kwargs=True))
            hooks.enter_context(block.self_attention.register_forward_hook(keep))
        model(images)
    return attention


def _blocks(model: Module) -> list[Any]:
    from torchvision.models.vision_transformer import EncoderBlock

    return [module for module in model.modules() if isinstance(module, EncoderBlock)]


def attended(maps: Tensor) -> Tensor:
    """(B, 1+n*n, 1+n*n) attention -> (B, n, n): what the class token takes from the patches."""
    return maps[:, 0, 1:].unflatten(1, (math.isqrt(maps.shape[2] - 1), -1))

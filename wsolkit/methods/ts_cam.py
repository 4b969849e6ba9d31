"""TS-CAM: the class map of the patches times the attention of the class token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wsolkit.methods.attention_rollout import attention_maps, images_of, on_grid
from wsolkit.methods.registry import register

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsolkit.methods.context import Context


def _is_ts_cam(model: nn.Module) -> str:
    from wsolkit.networks.ts_cam import TSCAM

    defined = isinstance(model, TSCAM)
    return "" if defined else "ts_cam needs a network trained for it: wsolkit.networks.ts_cam.ts_cam(vit, K)"


@register(
    "ts_cam",
    label="TS-CAM",
    needs="forward",
    description="semantic map of the class times the attention of the class token (TS-CAM networks only)",
    relu=False,
    eigen=False,
    check=_is_ts_cam,
)
def ts_cam(context: Context) -> Tensor:
    """S[y] * sum_l mean_heads A_l[class token, patches]. Gao et al., ICCV 2021 (without the bilinear upsampling).

    S are the class maps, of which the logits are the means.
    """
    import torch

    attention = sum(layer[:, 0, 1:] for layer in attention_maps(context.model, images_of(context, "ts_cam")))
    with torch.no_grad():
        semantic = context.model.head(context.features)
    return semantic[torch.arange(len(semantic), device=semantic.device), context.labels] * on_grid(attention)

"""TS-CAM: the class map of the patches times the attention of the class token."""

from wsolkit.methods.attention_rollout import attended, attention_maps
from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import register


@register(
    "ts_cam",
    needs="forward",
    description="semantic map of the class times the attention of the class token (TS-CAM networks only)",
    label="TS-CAM",
    relu=False,
    eigen=False,
    uses_classes=True,
    check=lambda model: (
        ""
        if getattr(model, "backbone", "") == "ts_cam"
        else "ts_cam needs a network trained for it: wsolkit.ts_cam(vit, K)"
    ),
)
def ts_cam(context: Context) -> Tensor:
    """S[y] * sum_l mean_heads A_l[class token, patches]. Gao et al., ICCV 2021 (without the bilinear upsampling).

    S are the class maps, of which the logits are the means.
    """
    attention = sum(map(attended, attention_maps(context.model, context.images)))
    return context.of_label(context.model.head(context.features)) * attention

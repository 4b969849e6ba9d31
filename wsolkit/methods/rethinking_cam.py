"""RethinkingCAM: three changes to CAM, one in the network (TAP), one in the map (NWC), one in the box (PaS)."""

from typing import Any

from wsolkit.methods.cam import LINEAR
from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import Variant, register


def from_gap(recipe: Any, parameters: Any) -> Any:
    """Without pretrained weights such a network starts from the trained GAP network, where the published recipe starts
    from ImageNet's: a short training run at a third of the rate."""
    if parameters.weights != "none" or parameters.frozen:
        return recipe
    warmup = min(1, recipe.warmup_epochs)
    return recipe.changed(epochs=parameters.tap_epochs, lr=recipe.lr / 3, warmup_epochs=warmup)


TAP = Variant("tap", pooling="tap", label="TAP", start="gap", changes=from_gap, parameters=("tau", "tap_epochs"))


@register(
    "rethinking_cam",
    label="RethinkingCAM",
    description="class activation map with negative weight clamping (NWC), meant for networks trained with TAP",
    **LINEAR,
    variants=(TAP, "gap"),
    percentile=90.0,
    chapter="03_rethinking_cam.ipynb",
)
def rethinking_cam(context: Context, nwc: bool = True) -> Tensor:
    """w[c] = max(W[y, c], 0); `nwc=False` is `cam`. Bae, Noh, Kim, ECCV 2020.

    The clamping acts on a copy of the weights for the map only: logits keep the full head. The paper's other two parts
    are not the map's business: thresholded average pooling is in the network, the percentile in the box. On a network
    with another pooling this is NWC alone.
    """
    return context.class_weights.clamp(min=0) if nwc else context.class_weights

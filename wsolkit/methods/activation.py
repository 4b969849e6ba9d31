"""Methods that need the feature map and, at most, the weights of a linear head."""

from __future__ import annotations

from torch import Tensor, ones_like

from wsolkit.methods.registry import Context, register


@register(
    "cam",
    needs="features",
    description="class activation map: the head's weights of the class",
    relu=False,
    linear_head=True,
)
def cam(context: Context) -> Tensor:
    """w[c] = W[y, c], without the bias and without a ReLU. Zhou et al., CVPR 2016."""
    return context.class_weights


@register(
    "rethinking_cam",
    needs="features",
    description="class activation map with negative weight clamping (NWC), meant for networks trained with TAP",
    relu=False,
    linear_head=True,
)
def rethinking_cam(context: Context, nwc: bool = True) -> Tensor:
    """w[c] = max(W[y, c], 0); `nwc=False` is `cam`. Bae, Noh, Kim, ECCV 2020.

    The clamping acts on a copy of the weights for the map only: logits keep the full head. The paper's other two parts
    are not the map's business: thresholded average pooling is in the network, the percentile in the box. On a network
    with another pooling this is NWC alone.
    """
    return context.class_weights.clamp(min=0) if nwc else context.class_weights


@register(
    "eigen_cam",
    needs="features",
    description="first principal component of the feature map; the class plays no part",
    project=True,
)
def eigen_cam(context: Context) -> Tensor:
    """Muhammad and Yeasin, IJCNN 2020. The sign is that of the sum of all channels."""
    return ones_like(context.features[:, :, 0, 0])


@register(
    "fem",
    needs="features",
    description="channels weighed by the share of their positions above mean + k sigma; the class plays no part",
    aliases=("fem_cam",),
)
def fem(context: Context, k: float = 2.0) -> Tensor:
    """w[c] = mean_hw 1[A > mean(A) + k std(A)]. Fuad et al., IPTA 2020."""
    features = context.features
    mean = features.mean(dim=(2, 3), keepdim=True)
    std = features.std(dim=(2, 3), keepdim=True, correction=0)
    return (features > mean + k * std).to(features.dtype).mean(dim=(2, 3))

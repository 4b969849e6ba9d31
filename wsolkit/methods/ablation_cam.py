"""Ablation-CAM: what the class score loses without a channel weighs the channel."""

from wsolkit.methods.context import Context, Tensor, in_chunks
from wsolkit.methods.registry import register
from wsolkit.methods.score_cam import Channels, strongest


@register("ablation_cam", "forward", "channels weighed by the score lost without them", label="Ablation-CAM")
def ablation_cam(context: Context, channels: Channels = None) -> Tensor:
    """w[c] = (z_y - z_y without channel c) / z_y. Desai and Ramaswamy, WACV 2020.

    A channel is taken away by setting it to 0 (the package writes -1e7 where no value of a feature map is 0, which
    does not happen after a ReLU). Only pool and head run again. A score of exactly 0 is not divided by.
    `channels=k` as in `score_cam`; here channels that are left out keep the whole score, so weight 0.
    """
    import torch

    features = context.features
    wanted = strongest(features, channels) & (features != 0).flatten(2).any(dim=2)
    whole = context.of_label(context.logits)
    without = whole[:, None].expand(features.shape[:2]).clone()

    def look(image: Tensor, channel: Tensor) -> Tensor:
        ablated = features[image]
        ablated[torch.arange(len(image), device=image.device), channel] = 0
        return context.of_label(context.rest_for(image)(ablated), image)

    with torch.no_grad():
        without[wanted] = in_chunks(look, context.chunk, *wanted.nonzero(as_tuple=True)).to(without.dtype)
    return (whole[:, None] - without) / whole.masked_fill(whole == 0, 1.0)[:, None]

"""Methods that perturb and look again: Score-CAM on the image, Ablation-CAM on the feature map.

Both stream over (image, channel) pairs, at most `context.chunk` at a time: what they hold at once depends on the chunk
alone, not on the number of channels and not on any batch size of training.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wsolkit.methods.chunks import in_chunks
from wsolkit.methods.registry import Context, register

# pixels per pass of the body whose activations still fit a CPU's cache (8 images of 224 px): more are slower there
_CPU_PIXELS = 8 * 224 * 224


@register(
    "score_cam",
    needs="forward",
    description="channels weighed by the class score of the image seen through them",
)
def score_cam(context: Context, channels: int | None = None) -> Tensor:
    """w = softmax over channels of z_y(x * minmax(upsample(A[c]))), the raw logit. Wang et al., CVPRW 2020.

    As in the grad-cam package: bilinear upsampling to input size with aligned corners, 1e-8 in the min-max. A channel
    without contrast masks everything, so its input is the zero image, and one look at that serves all such channels.

    `channels=k` looks only at the k channels of largest energy (sum of squares) of each image; the softmax runs over
    these and the others get weight 0. That is an approximation, k/C of the cost.
    """
    if context.images is None:
        raise ValueError("score_cam masks the input and needs images, not only features")
    # channels last is the layout in which convolutions run fastest; the numbers are the same
    images = context.images.contiguous(memory_format=torch.channels_last)
    features, size = context.features.contiguous(), images.shape[-2:]
    wanted = strongest(features, channels)
    flat = features.amax(dim=(2, 3)) == features.amin(dim=(2, 3))
    scores = torch.full(features.shape[:2], -torch.inf, dtype=torch.float32, device=features.device)
    chunk = context.chunk
    if images.device.type == "cpu":
        chunk = min(chunk, max(1, _CPU_PIXELS // (size[0] * size[1])))

    def look(image: Tensor, channel: Tensor) -> Tensor:
        mask = F.interpolate(features[image, channel][:, None], size=size, mode="bilinear", align_corners=True)
        low, high = mask.amin(dim=(2, 3), keepdim=True), mask.amax(dim=(2, 3), keepdim=True)
        mask = (mask - low) / (high - low + 1e-8)
        return context.of_label(context.look(images[image] * mask), image).float()

    with torch.no_grad():
        if bool((wanted & flat).any()):
            unseen = context.look(torch.zeros_like(images[:1]))
            of_zero = context.of_label(unseen.expand(len(images), -1)).float()
            scores = torch.where(wanted & flat, of_zero[:, None], scores)
        seen = wanted & ~flat
        scores[seen] = in_chunks(look, chunk, *seen.nonzero(as_tuple=True))
    return scores.softmax(dim=1)


@register(
    "ablation_cam",
    needs="forward",
    description="channels weighed by what the class score loses without them",
)
def ablation_cam(context: Context, channels: int | None = None) -> Tensor:
    """w[c] = (z_y - z_y without channel c) / z_y. Desai and Ramaswamy, WACV 2020.

    A channel is taken away by setting it to 0 (the package writes -1e7 where no value of a feature map is 0, which
    does not happen after a ReLU). Only pool and head run again. A score of exactly 0 is not divided by.
    `channels=k` as in `score_cam`; here channels that are left out keep the whole score, so weight 0.
    """
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
    loss = whole[:, None] - without
    return loss / torch.where(whole == 0, torch.ones_like(whole), whole)[:, None]


def strongest(features: Tensor, channels: int | None) -> Tensor:
    """(B, C, h, w) -> (B, C) bool: the `channels` channels of largest energy of each image, or all.

    Raises:
        ValueError: `channels` is not None and not a whole number of at least 1.
    """
    wanted = torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)
    if channels is None:
        return wanted
    if isinstance(channels, bool) or not isinstance(channels, int) or channels < 1:
        raise ValueError(f"channels={channels!r}: give the number of channels to look at (at least 1), or None for all")
    if channels >= features.shape[1]:
        return wanted
    best = features.float().square().sum(dim=(2, 3)).topk(channels, dim=1).indices
    return torch.zeros_like(wanted).scatter_(1, best, True)

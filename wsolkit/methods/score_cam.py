"""Score-CAM: each channel masks the image, and the class score of what is left weighs the channel."""

import warnings
from typing import Annotated

from pydantic import Field

from wsolkit.common.errors import WsolkitError, require
from wsolkit.methods.context import Context, Tensor, in_chunks
from wsolkit.methods.registry import STUDY, Published, register

Channels = Annotated[int, Field(ge=1)] | None
# pixels per pass of the body whose activations still fit a CPU's cache (8 images of 224 px): more are slower there
_CPU_PIXELS = 8 * 224 * 224


@register(
    "score_cam",
    needs="forward",
    description="channels weighed by the class score of the image seen through them",
    label="Score-CAM",
    chapter="06_score_cam.ipynb",
    published=(Published("vgg16_fc", STUDY, {"top1_cls": 76.06, "top1_loc": 43.99}, "(retrained at batch 4)"),),
)
def score_cam(context: Context, channels: Channels = None, clusters: Channels = None) -> Tensor:
    """w = softmax over channels of z_y(x * minmax(upsample(A[c]))), the raw logit. Wang et al., CVPRW 2020.

    As in the grad-cam package: bilinear upsampling to input size with aligned corners, 1e-8 in the min-max. A channel
    without contrast masks everything, so its input is the zero image, and one pass of that serves all such channels.

    `channels=k` uses only the k channels of largest energy (sum of squares) of each image; the softmax runs over
    these and the others get weight 0. `clusters=k` masks the image with k channels too, each of which represents all
    that are like it (`representatives`): these get its score, and no channel is left out. Both are approximations at
    k/C of the cost; chapter 06 compares them.
    """
    import torch
    import torch.nn.functional as F

    if context.images is None:
        raise WsolkitError("score_cam masks the input and needs images, not only features")
    # channels last is the layout in which convolutions run fastest; the numbers are the same
    images = context.images.contiguous(memory_format=torch.channels_last)
    features, size = context.features.contiguous(), images.shape[-2:]
    require(channels is None or clusters is None, "give channels= or clusters= to score_cam, not both")
    speaker = None if clusters is None else representatives(features, clusters)
    wanted = strongest(features, channels)
    wanted = wanted if speaker is None else torch.zeros_like(wanted).scatter_(1, speaker, True)
    flat = features.amax(dim=(2, 3)) == features.amin(dim=(2, 3))
    scores = features.new_full(features.shape[:2], -torch.inf, dtype=torch.float32)
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
    return (scores if speaker is None else scores.gather(1, speaker)).softmax(dim=1)


def representatives(features: Tensor, clusters: int) -> Tensor:
    """(B, C, h, w) -> (B, C) int64: for each channel of each image the one that represents it.

    The clusters are those of k-means on the channels' maps, each scaled to [0, 1] as a mask is; the channel nearest to
    the mean represents its cluster. All channels without contrast make the same mask and are one cluster more. The
    same maps give the same clusters.
    """
    import numpy as np
    import torch
    from scipy.cluster.vq import kmeans2, vq

    maps = features.detach().float().flatten(2).cpu().numpy().astype(np.float64)
    low, high = maps.min(axis=2, keepdims=True), maps.max(axis=2, keepdims=True)
    speakers = np.tile(np.arange(features.shape[1]), (len(maps), 1))
    for own, every, flat in zip(speakers, (maps - low) / (high - low + 1e-8), low == high, strict=True):
        dead = flat[:, 0]
        own[dead] = dead.argmax()
        seen, points = np.flatnonzero(~dead), every[~dead]
        _, first, member = np.unique(points, axis=0, return_index=True, return_inverse=True)
        if len(first) > clusters:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # of a cluster without a member, which nobody then needs
                means, member = kmeans2(points, clusters, minit="++", rng=0)
            first = vq(means, points)[0]
        own[seen] = seen[first[member.reshape(-1)]]
    return torch.from_numpy(speakers).to(features.device)


def strongest(features: Tensor, channels: int | None) -> Tensor:
    """(B, C, h, w) -> (B, C) bool: the `channels` channels of largest energy of each image, or all."""
    wanted = features.new_ones(features.shape[:2]).bool()
    if channels is None or channels >= features.shape[1]:
        return wanted
    best = features.float().square().sum(dim=(2, 3)).topk(channels, dim=1).indices
    return (~wanted).scatter_(1, best, True)

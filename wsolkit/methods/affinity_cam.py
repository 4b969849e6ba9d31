"""Affinity CAM: class evidence, spread over the positions of the image that look alike to the network."""

from typing import Annotated

from pydantic import Field

from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import register

LARGEST = 2**24  # entries of T that are held at a time: 64 MiB
MOST = 1000  # far beyond what has a use; a cosine that is rounded up, 1 + 1e-7, to a power of a billion is infinite


@register(
    "affinity_cam",
    needs="forward",
    description="CAM averaged over positions whose finer features are alike",
    label="Affinity CAM",
    relu=False,
    eigen=False,
    threshold=0.5,
    chapter="15_what_labels_can_tell.ipynb",
)
def affinity_cam(
    context: Context,
    power: Annotated[float, Field(ge=0, le=MOST)] = 2.0,
    steps: Annotated[int, Field(ge=1, le=MOST)] = 2,
) -> Tensor:
    """(B, H', W') at the resolution of the last finer feature map g of the network (`Context.finer`): the evidence of
    the class, sum_c mean_hw(G[c]) A[c] (on GAP and one linear layer: CAM divided by hw), enlarged to H' x W' and
    `spread` over positions that are alike in g.

    Evidence says *what* the object is, and lies on its most discriminative part; likeness within one image says *how
    far* it goes. The fixed threshold, power and steps were chosen on training and validation images of six CUB classes.

    Source: ours, put together from ideas of SEAM (Wang et al., CVPR 2020: a map refined by cosines of finer features,
    there in training) and DDT (Wei et al., 2017: descriptors less their mean).
    """
    from torch.nn.functional import interpolate

    weights, finer = context.gradients.mean(dim=(2, 3)), context.finer.float()
    evidence = (weights[:, :, None, None] * context.features).sum(dim=1, keepdim=True)
    grown = interpolate(evidence, finer.shape[2:], mode="bilinear", align_corners=False)[:, 0]
    return spread(grown, finer, power, steps)


def spread(maps: Tensor, features: Tensor, power: float = 2.0, steps: int = 2) -> Tensor:
    """(B, h, w) and (B, C, h, w) -> (B, h, w): M <- T M, `steps` times.

    T[i, j] is in proportion to max(0, cos(g_i, g_j)) ** power, rows of sum 1; g_i are an image's descriptors less their
    mean, without which all of them point the same way and the map is only blurred.

    Args:
        power: 0 to 1000; the larger, the fewer positions are averaged.
        steps: 1 to 1000; many of them forget the map and end in the image's largest cluster.
    """
    import torch
    from torch.nn.functional import normalize

    results = []
    for values, descriptors in zip(maps.flatten(1), features.flatten(2), strict=True):
        unit = normalize(descriptors - descriptors.mean(dim=1, keepdim=True), dim=0)
        blocks = unit.T.split(max(1, LARGEST // len(values)))  # rows of T, which as a whole has (hw)**2 entries
        held: list[Tensor] = []  # of all steps, where it is small enough
        for _ in range(steps):
            rows = held or (normalize((block @ unit).clamp_(min=0).pow_(power), p=1, dim=1) for block in blocks)
            if len(blocks) == 1:
                rows = held = list(rows)
            values = torch.cat([row @ values for row in rows])
        results.append(values)
    return torch.stack(results).view_as(maps)

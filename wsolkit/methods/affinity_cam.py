"""Affinity CAM: class evidence, spread over the positions of the image that look alike to the network."""

from wsolkit.common.errors import require
from wsolkit.methods.context import Context, Tensor
from wsolkit.methods.registry import register


@register(
    "affinity_cam",
    needs="gradient",
    description="CAM averaged over positions with similar features, at twice the resolution",
    label="Affinity CAM",
    relu=False,
    eigen=False,
    threshold=0.5,
)
def affinity_cam(context: Context, power: float = 2.0, steps: int = 2) -> Tensor:
    """(B, H', W'): M <- T M, `steps` times, with T[i, j] proportional to max(0, cos(g_i, g_j)) ** power, rows of sum 1.

    M is the evidence of the class, sum_c mean_hw(G[c]) A[c] (on GAP and one linear layer: CAM divided by hw), grown
    to the positions of g; g_i are descriptors of the last finer feature map of the network (`Context.finer`), less
    their mean over the image. Evidence says *what* the object is, and sits on its most telling part; likeness of
    descriptors within one image says *how far* it goes. Without the mean, all descriptors of an image point the same
    way, and the map is only blurred.

    Args:
        power: the larger, the fewer positions each one listens to; at least 0.
        steps: how often; at least 1. Many steps forget the class: they end in the image's largest cluster.

    Source: ours, put together from ideas of SEAM (Wang et al., CVPR 2020: a map refined by the cosines of finer
    features, there inside training) and DDT (Wei et al., 2017: descriptors less their mean).
    """
    from torch.nn.functional import interpolate, normalize

    require(power >= 0, f"power={power}: at least 0")
    require(steps == int(steps) and steps >= 1, f"steps={steps}: a whole number of at least 1")
    weights, finer = context.gradients.mean(dim=(2, 3)), context.finer.float()
    evidence = (weights[:, :, None, None] * context.features).sum(dim=1, keepdim=True)
    maps = interpolate(evidence, finer.shape[2:], mode="bilinear", align_corners=False).flatten(1)
    for one, descriptors in zip(maps, finer.flatten(2), strict=True):  # image by image: T has (H'W')**2 entries
        unit = normalize(descriptors - descriptors.mean(dim=1, keepdim=True), dim=0)
        moves = normalize((unit.T @ unit).clamp_(min=0).pow_(power), p=1, dim=1)
        for _ in range(int(steps)):
            one.copy_(moves @ one)
    return maps.view(-1, *finer.shape[2:])

"""Methods that weigh the channels by gradients of the class score, and the rest of what the grad-cam package offers.

Where a method is a line of mathematics, that line stands here, in torch: on the device of the features, without a copy to
the host. The tests hold these lines to the numbers of the grad-cam package. Larger methods are the package's own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wsolkit.methods.grad_cam_package import map_by, offered, piece, to_numpy, whole_network_by
from wsolkit.methods.registry import Context, register
from wsolkit.methods.smoothing import first_component, fix_sign


@register("grad_cam", needs="gradient", description="channels weighed by the mean gradient of the class score")
def grad_cam(context: Context) -> Tensor:
    """w[c] = mean_hw(G[c]). Selvaraju et al., ICCV 2017. On GAP and one linear layer, w = W[y]/(hw): ReLU(CAM)."""
    return context.gradients.mean(dim=(2, 3))


@register(
    "grad_cam++",
    needs="gradient",
    description="channels weighed by their positive gradients, each by its share alpha",
    aliases=("grad_cam_plusplus", "grad_cam_plus_plus"),
)
def grad_cam_plusplus(context: Context) -> Tensor:
    """w = sum_hw alpha max(G, 0), alpha = G^2 / (2 G^2 + (sum_hw A) G^3 + 1e-6). Chattopadhay et al., WACV 2018.

    Positions with G <= 0 add nothing, so alpha is computed from max(G, 0) alone, where its denominator has no other zero.
    """
    positive = context.gradients.clamp(min=0)
    square = positive.square()
    cube = positive.mul_(square)  # in place, as fresh memory of this size costs more than the arithmetic
    total = context.features.sum(dim=(2, 3), keepdim=True)
    below = square.mul_(2).addcmul_(total, cube).add_(1e-6)
    return cube.div_(below).sum(dim=(2, 3))


@register("xgrad_cam", needs="gradient", description="channels weighed by the gradient, averaged where they are active")
def xgrad_cam(context: Context) -> Tensor:
    """w[c] = sum_hw G A / (sum_hw A + 1e-7). Fu et al., BMVC 2020."""
    features = context.features
    return (context.gradients * features).sum(dim=(2, 3)) / (features.sum(dim=(2, 3)) + 1e-7)


@register("layer_cam", needs="gradient", description="each position weighed by its own positive gradient")
def layer_cam(context: Context) -> Tensor:
    """w[c, h, w] = max(G, 0). Jiang et al., TIP 2021."""
    return context.gradients.clamp(min=0)


@register("hires_cam", needs="gradient", description="each position weighed by its own gradient")
def hires_cam(context: Context) -> Tensor:
    """w[c, h, w] = G. Draelos and Carin, 2020."""
    return context.gradients


@register("grad_cam_elementwise", needs="gradient", description="positive part of gradient times activation")
def grad_cam_elementwise(context: Context) -> Tensor:
    """max(G A, 0) at each position and channel, then the sum."""
    gradients = context.gradients
    return torch.where(gradients * context.features > 0, gradients, torch.zeros_like(gradients))


@register(
    "eigen_grad_cam",
    needs="gradient",
    description="first principal component of gradient times activation",
    project=True,
)
def eigen_grad_cam(context: Context) -> Tensor:
    """The eigen projection of G * A; its sign is that of HiResCAM's map."""
    return context.gradients


@register(
    "refine_cam",
    needs="gradient",
    description="product of the grad_cam++ maps of several layers; of the one feature map here, so grad_cam++",
)
def refine_cam(context: Context) -> Tensor:
    """With one target layer the package's RefineCAM is its base method, scaled to [0, 1]."""
    return grad_cam_plusplus(context)


@register(
    "finer_cam",
    needs="gradient",
    description="grad_cam of the class's lead over the classes that score nearest to it",
)
def finer_cam(context: Context, alpha: float = 1.0, comparisons: int = 3) -> Tensor:
    """grad_cam of sum_i p_i (z_y - alpha z_i) / (sum_i p_i + 1e-9), p the softmax. Zhang et al., CVPR 2025.

    i runs over the `comparisons` other classes with the nearest logits, as in the package. The package sorts around the
    predicted class unless told otherwise; here it is always the label.
    """
    comparisons = min(comparisons, context.logits.shape[1] - 1)
    if comparisons < 1:
        raise ValueError("finer_cam needs at least one other class to compare with (comparisons >= 1, two classes)")
    distance = (context.logits - context.of_label(context.logits)[:, None]).abs()
    distance.scatter_(1, context.labels[:, None], float("inf"))
    nearest = distance.argsort(dim=1, stable=True)[:, :comparisons]

    def lead(logits: Tensor) -> Tensor:
        weights = logits.softmax(dim=1).gather(1, nearest)
        leads = context.of_label(logits)[:, None] - alpha * logits.gather(1, nearest)
        return (weights * leads).sum(dim=1) / (weights.sum(dim=1) + 1e-9)

    return context.differentiate(lead)[1].mean(dim=(2, 3))


@register("shapley_cam", needs="gradient", description="grad_cam with a second-order correction of the gradient")
def shapley_cam(context: Context) -> Tensor:
    """w[c] = mean_hw(G - H A / 2), H the Hessian of the class score. Cai, 2025."""
    leaf, gradients = context.differentiate(create_graph=True)
    if gradients.requires_grad:  # else the rest is linear: no second derivative, and nothing for autograd to follow
        (product,) = torch.autograd.grad(gradients, leaf, grad_outputs=leaf.detach(), allow_unused=True)
        gradients = gradients if product is None else gradients - product / 2
    return gradients.detach().mean(dim=(2, 3))


@register(
    "random_cam",
    needs="features",
    description="random channel weights, a baseline (numpy's global generator)",
    check=offered("RandomCAM"),
)
def random_cam(context: Context) -> Tensor:
    """w[c] uniform in [-1, 1); repeatable after `numpy.random.seed`."""
    return piece(context, "RandomCAM", "get_cam_weights", None, to_numpy(context.features))


@register(
    "kpca_cam",
    needs="features",
    description="first kernel principal component of the feature map; the class plays no part",
    check=offered("KPCA_CAM"),
)
def kpca_cam(context: Context, kernel: str = "sigmoid", gamma: float | None = None) -> Tensor:
    """Karmani et al., 2024. The sign is that of the sum of all channels, where the package's is arbitrary."""
    maps = map_by("KPCA_CAM", context, gradient=False, kernel=kernel, gamma=gamma)
    flat = (context.features == context.features[:, :, :1, :1]).flatten(1).all(dim=1)
    maps = torch.where(flat[:, None, None], torch.zeros_like(maps), maps)  # the solver returns noise there
    return fix_sign(maps, context.features.float().sum(dim=1))


@register(
    "seg_eigen_cam",
    needs="gradient",
    description="first principal component of |gradient| times activation, larger side up",
)
def seg_eigen_cam(context: Context) -> Tensor:
    """Chung and Ying, Appl. Sci. 2025, with that paper's own rule for the sign: max >= -min."""
    maps = first_component(context.gradients.abs() * context.features)
    up = maps.amax(dim=(1, 2), keepdim=True) >= -maps.amin(dim=(1, 2), keepdim=True)
    return torch.where(up, maps, -maps)


def _has_biased_layers(model: nn.Module) -> str:
    layers = [m for m in model.modules() if type(m) in (nn.Conv2d, nn.BatchNorm2d) and m.bias is not None]
    return "" if layers else "full_grad is not defined on a network without biases in convolutions or batch norms"


@register(
    "full_grad",
    needs="forward",
    description="input gradient and bias gradients of every layer; backward through the whole network",
    eigen=False,
    aliases=("full_grad_cam",),
    check=_has_biased_layers,
)
def full_grad(context: Context) -> Tensor:
    """Srinivas and Fleuret, NeurIPS 2019. The one method that differentiates the body; made on a copy of the model.

    MethodNotDefined where a layer with a bias runs several times or never: its bias has no one gradient.
    """
    return whole_network_by("FullGrad", context, hooks_itself=True)


@register(
    "sess",
    needs="forward",
    description="grad_cam of many windows of the image at many scales, put together",
    eigen=False,
    aliases=("sess_cam",),
    check=offered("SESS"),
)
def sess(context: Context, **options) -> Tensor:
    """Tursun et al., ECCV 2022; options are those of the package's SESS. Made on a copy of the model."""
    return whole_network_by("SESS", context, **{"batch_size": context.chunk, **options})

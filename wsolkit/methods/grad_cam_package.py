"""The grad-cam package's other methods: an adapter to its classes, and those whose formula is a line written here.

A class of the package runs on a copy of the model, whose hooks and gradients it may change, and its map is averaged
down to the feature map's size. Each formula is written here as a line of torch, on the features' device, without
a backward pass through the body, and the tests hold it to the numbers of the package.
"""

import inspect
import re
from collections import Counter
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing
from wsolkit.methods.context import Context, Module, Tensor
from wsolkit.methods.grad_cam_plusplus import grad_cam_plusplus
from wsolkit.methods.registry import ADAPTER, MethodNotDefined, find, register


def whole_network(class_name: str, context: Context, hooks_itself: bool = False, **options) -> Tensor:
    """(B, h, w) map from a class of the package, averaged down from input size, made on a copy of the whole network."""
    import pytorch_grad_cam
    import torch
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
    from torch import nn

    from wsolkit.networks.modules import copied
    from wsolkit.networks.split import HookedModel, rest_of

    class Copy(nn.Module):  # of the images, which the body may change, and which the package differentiates by
        def forward(self, images: Tensor) -> Tensor:
            return images.clone()

    if context.images is None:
        raise WsolkitError(f"{class_name} runs the whole network and needs images, not only features")
    # backward passes of the package need parameters with gradients: frozen ones are thawed in the copy
    model: Any = copied(context.model).requires_grad_(True)
    layer: Module = nn.Identity()
    if isinstance(model, HookedModel):
        network, layer = nn.Sequential(Copy(), model.model), model.model.get_submodule(model.layer)
        options |= {} if hooks_itself else {"reshape_transform": model.reshape}
    else:
        network = nn.Sequential(Copy(), model.body, layer, rest_of(model))
    failed: Exception | None = None
    with torch.enable_grad():
        made = getattr(pytorch_grad_cam, class_name)(network, [] if hooks_itself else [layer], **options)
        counted, runs = made.target_layers if hooks_itself else [], Counter[Module]()
        for layer in counted:
            layer.register_forward_hook(lambda layer, *_: runs.update([layer]))
        try:
            targets = [ClassifierOutputTarget(label) for label in context.labels.tolist()]
            maps = made(context.images.detach(), targets=targets)
        except (AssertionError, ValueError) as error:  # there are not as many gradients as layers, or of other shapes
            failed = error
    often = {name: runs[layer] for name, layer in model.named_modules() if layer in counted}
    odd = [f"{name} ({times})" for name, times in often.items() if times != 1]
    if odd or isinstance(failed, AssertionError):
        raise MethodNotDefined(
            f"{class_name} needs every convolution and batch norm with a bias to run once in a forward pass, on "
            f"the way to the logits; run otherwise: {listing(odd) or 'none'}. Use another method, such as layer_cam"
        ) from failed
    if failed is not None:
        raise failed
    maps = _tensor(maps, context)[:, None]
    return nn.functional.interpolate(maps, size=context.features.shape[2:], mode="area")[:, 0]


def _tensor(array, context: Context) -> Tensor:
    import numpy as np
    import torch

    return torch.as_tensor(np.asarray(array, dtype=np.float32), device=context.features.device)


def register_installed() -> None:
    """Make the CAM classes of the installed grad-cam package that have no entry yet reachable by name."""
    import pytorch_grad_cam
    from pytorch_grad_cam.base_cam import BaseCAM

    for name, kind in vars(pytorch_grad_cam).items():
        if inspect.isclass(kind) and issubclass(kind, BaseCAM) and not find(name):
            words, described = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name), f"{name} of the installed grad-cam package"
            register(words.lower(), "forward", described, eigen=False)(adapted(name))


def adapted(class_name: str) -> Callable[..., Tensor]:
    """The function of a method that is a class of the package."""

    def method(context: Context, **options: Any) -> Tensor:
        return whole_network(class_name, context, **options)

    method.__qualname__ = class_name
    return method


ADAPTER |= {"register": register_installed, "adapted": adapted}


# -- methods of the package -------------------------------------------------------------------------------------------


@register("xgrad_cam", "gradient", "channels weighed by the gradient, averaged where they are active")
def xgrad_cam(context: Context) -> Tensor:
    """w[c] = sum_hw G A / (sum_hw A + 1e-7). Fu et al., BMVC 2020."""
    features = context.features
    return (context.gradients * features).sum(dim=(2, 3)) / (features.sum(dim=(2, 3)) + 1e-7)


@register("hires_cam", "gradient", "each position weighed by its own gradient")
def hires_cam(context: Context) -> Tensor:
    """w[c, h, w] = G. Draelos and Carin, 2020."""
    return context.gradients


@register("grad_cam_elementwise", "gradient", "positive part of gradient times activation")
def grad_cam_elementwise(context: Context) -> Tensor:
    """max(G A, 0) at each position and channel, then the sum."""
    return context.gradients.where(context.gradients * context.features > 0, 0.0)


@register("refine_cam", "gradient", "grad_cam++ of several layers, multiplied; here of the one feature map")
def refine_cam(context: Context) -> Tensor:
    """With one target layer the package's RefineCAM is its base method, scaled to [0, 1]."""
    return grad_cam_plusplus(context)


@register("eigen_cam", "features", "first principal component of the feature map; class-blind", project=True)
def eigen_cam(context: Context) -> Tensor:
    """Muhammad and Yeasin, IJCNN 2020. The sign is that of the sum of all channels."""
    return context.features.new_ones(context.features.shape[:2])


@register("eigen_grad_cam", "gradient", "first principal component of gradient times activation", project=True)
def eigen_grad_cam(context: Context) -> Tensor:
    """The eigen projection of G * A; its sign is that of HiResCAM's map."""
    return context.gradients


@register("seg_eigen_cam", "gradient", "first principal component of |gradient| times activation, larger side up")
def seg_eigen_cam(context: Context) -> Tensor:
    """Chung and Ying, Appl. Sci. 2025, with that paper's own rule for the sign: max >= -min."""
    from wsolkit.methods.maps import first_component

    maps = first_component(context.gradients.abs() * context.features)
    up = maps.amax(dim=(1, 2), keepdim=True) >= -maps.amin(dim=(1, 2), keepdim=True)
    return maps.where(up, -maps)


@register("fem", "features", "channels weighed by how often they are strong; class-blind", aliases=("fem_cam",))
def fem(context: Context, k: float = 2.0) -> Tensor:
    """w[c] = mean_hw 1[A > mean(A) + k std(A)]. Fuad et al., IPTA 2020."""
    features = context.features
    mean = features.mean(dim=(2, 3), keepdim=True)
    std = features.std(dim=(2, 3), keepdim=True, correction=0)
    return (features > mean + k * std).to(features.dtype).mean(dim=(2, 3))


@register("random_cam", "features", "random channel weights, a baseline (numpy's global generator)")
def random_cam(context: Context) -> Tensor:
    """w[c] uniform in [-1, 1); repeatable after `numpy.random.seed`."""
    import numpy as np

    return _tensor(np.random.uniform(-1, 1, size=context.features.shape[:2]), context)


@register("kpca_cam", "features", "first kernel principal component of the feature map; class-blind")
def kpca_cam(
    context: Context,
    kernel: Literal["linear", "poly", "rbf", "sigmoid", "cosine"] = "sigmoid",
    gamma: Annotated[float, Field(gt=0)] | None = None,
) -> Tensor:
    """Karmani et al., 2024. The sign is that of the sum of all channels, where the package's is arbitrary."""
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection_kernel

    from wsolkit.methods.maps import fix_sign

    maps = _tensor(get_2d_projection_kernel(context.features.float().cpu().numpy(), kernel, gamma), context)
    flat = (context.features == context.features[:, :, :1, :1]).flatten(1).all(dim=1)
    maps = maps.masked_fill(flat[:, None, None], 0.0)  # the solver returns noise there
    return fix_sign(maps, context.features.float().sum(dim=1))


def _has_biases(model: Module) -> str:
    from torch import nn

    layers = [m for m in model.modules() if type(m) in (nn.Conv2d, nn.BatchNorm2d) and m.bias is not None]
    return "" if layers else "full_grad is not defined on a network without biases in convolutions or batch norms"


@register(
    "full_grad", "forward", "input and bias gradients", eigen=False, aliases=("full_grad_cam",), check=_has_biases
)
def full_grad(context: Context) -> Tensor:
    """Srinivas and Fleuret, NeurIPS 2019. The one method that differentiates the body; made on a copy of the model.

    MethodNotDefined where a layer with a bias runs several times or never: its bias has no one gradient.
    """
    return whole_network("FullGrad", context, hooks_itself=True)


@register("sess", "forward", "grad_cam of many windows at many scales, joined", eigen=False, aliases=("sess_cam",))
def sess(context: Context, **options) -> Tensor:
    """Tursun et al., ECCV 2022; options are those of the package's SESS. Made on a copy of the model."""
    return whole_network("SESS", context, **{"batch_size": context.chunk, **options})

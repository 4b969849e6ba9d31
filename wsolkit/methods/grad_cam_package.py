"""The grad-cam package on the rest-network.

The package expects a model and a layer in it, and hooks that layer. Here the model is the rest-network behind an
`nn.Identity`, the layer is that identity and the input is the feature map: the same numbers as on the whole network,
without a backward pass through the body and without a hook on the user's model. Maps keep the feature map's size.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wsolkit.common.files import listing
from wsolkit.methods.registry import Context, MethodNotDefined, is_registered, register
from wsolkit.networks.split import HookedModel, rest_of


class _Layered(nn.Module):
    """body -> identity -> rest, so that there is a layer to aim at; without a body it takes the feature map."""

    def __init__(self, body: nn.Module | None, rest: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.layer = nn.Identity()
        self.rest = rest

    def forward(self, x: Tensor) -> Tensor:
        return self.rest(self.layer(x if self.body is None else self.body(x)))


@contextmanager
def _grad_cam(class_name: str, network: _Layered, layers: list[nn.Module], **options) -> Iterator:
    """An object of the package's class; its hooks are gone afterwards, whatever happens.

    Not the package's own `with`, which swallows every IndexError.
    """
    import pytorch_grad_cam

    made = getattr(pytorch_grad_cam, class_name)(network, layers, **options)
    try:
        yield made
    finally:
        getattr(made, "base_cam", made).activations_and_grads.release()


def _targets(context: Context) -> list:
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    return [ClassifierOutputTarget(label) for label in context.labels.tolist()]


def piece(context: Context, class_name: str, step: str, features, gradients, **options) -> Tensor:
    """One step of the package's class, computed from our features and gradients: (B, C) weights or a (B, h, w) map."""
    network = _Layered(None, context.rest)
    with _grad_cam(class_name, network, [network.layer], **options) as made:
        arguments = [context.features, network.layer, _targets(context), features, gradients]
        if step == "get_cam_image":
            arguments.append(context.eigen)
        result = getattr(made, step)(*arguments)
    return torch.as_tensor(np.asarray(result, dtype=np.float32), device=context.features.device)


def to_numpy(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()


def weights_by(class_name: str, context: Context, **options) -> Tensor:
    """(B, C) channel weights from `get_cam_weights` of a class of the package that uses gradients."""
    pieces = to_numpy(context.features), to_numpy(context.gradients)
    return piece(context, class_name, "get_cam_weights", *pieces, **options)


def map_by(class_name: str, context: Context, gradient: bool = True, **options) -> Tensor:
    """(B, h, w) map from `get_cam_image` of a class of the package that has no channel weights."""
    gradients = to_numpy(context.gradients) if gradient else None
    return piece(context, class_name, "get_cam_image", to_numpy(context.features), gradients, **options)


def whole_network_by(class_name: str, context: Context, hooks_itself: bool = False, **options) -> Tensor:
    """(B, h, w) map from a class of the package that has to see the whole network, averaged down from input size.

    It works on a copy of the model, because the package clears and fills the parameters' gradients.
    """
    if context.images is None:
        raise ValueError(f"{class_name} runs the whole network and needs images, not only features")
    # backward passes of the package need parameters with gradients: frozen ones are thawed in the copy
    model = copy.deepcopy(context.model).requires_grad_(True)
    if isinstance(model, HookedModel):
        network, layer = model.model, model.layer
        if not hooks_itself:
            options["reshape_transform"] = model.reshape
    else:
        network = _Layered(model.body, rest_of(model))
        layer = network.layer
    with (
        torch.enable_grad(),
        _grad_cam(class_name, network, [] if hooks_itself else [layer], **options) as made,
    ):
        runs = _count_runs(made.target_layers) if hooks_itself else {}
        failed: Exception | None = None
        try:
            maps = made(context.images.detach(), targets=_targets(context))
        except (AssertionError, ValueError) as error:  # there are not as many gradients as layers, or of other shapes
            failed = error
        names = {module: name for name, module in model.named_modules()}
        odd = [f"{names[layer]} ({times})" for layer, times in runs.items() if times != 1]
        if odd or isinstance(failed, AssertionError):
            raise MethodNotDefined(
                f"{class_name} needs every convolution and batch norm with a bias to run once in a forward pass, on the way "
                f"to the logits; run another number of times: {listing(odd) or 'none'}. Use another method, such as layer_cam"
            ) from failed
        if failed is not None:
            raise failed
    maps = torch.as_tensor(np.asarray(maps, dtype=np.float32), device=context.features.device)
    return F.interpolate(maps[:, None], size=context.features.shape[-2:], mode="area")[:, 0]


def _count_runs(layers: list[nn.Module]) -> dict[nn.Module, int]:
    """How often each layer has run since; the hooks stay, so the layers are those of a copy."""
    runs = dict.fromkeys(layers, 0)

    def count(layer: nn.Module, _inputs: tuple, _output: Tensor) -> None:
        runs[layer] += 1

    for layer in layers:
        layer.register_forward_hook(count)
    return runs


def offered(class_name: str) -> Callable[[nn.Module], str]:
    def check(model: nn.Module) -> str:
        import pytorch_grad_cam

        if hasattr(pytorch_grad_cam, class_name):
            return ""
        return f"the installed grad-cam package has no {class_name}; version 1.5.7 has (pip install -U grad-cam)"

    return check


def register_installed() -> None:
    """Make the CAM classes of the installed grad-cam package that have no entry yet reachable by name."""
    import pytorch_grad_cam
    from pytorch_grad_cam.base_cam import BaseCAM

    for class_name, found in vars(pytorch_grad_cam).items():
        if not inspect.isclass(found) or not issubclass(found, BaseCAM) or is_registered(class_name):
            continue
        adapter: Callable[..., Tensor] = weights_by
        if found.compute_cam_per_layer is not BaseCAM.compute_cam_per_layer:
            adapter = whole_network_by
        elif found.get_cam_image is not BaseCAM.get_cam_image:
            adapter = map_by
        register(
            re.sub(r"(?<=[a-z])(?=[A-Z])", "_", class_name).lower(),
            needs="gradient",
            description=f"{class_name} of the installed grad-cam package",
            eigen=adapter is weights_by,  # the sign of the package's own projection is arbitrary
        )(_adapted(adapter, class_name))


def _adapted(adapter: Callable[..., Tensor], class_name: str) -> Callable[..., Tensor]:
    def method(context: Context, **options) -> Tensor:
        return adapter(class_name, context, **options)

    method.__qualname__ = class_name
    return method

"""The target layer of well-known networks, and any network made ready for `score_maps`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models

from wsolkit.common.errors import WsolkitError
from wsolkit.networks.modules import evaluation_mode, same_values, structure
from wsolkit.networks.split import (
    CannotSplit,
    HookedModel,
    SplitModel,
    example_for,
    find_layer,
    hooked,
    rest_of,
    split,
    uncompiled,
)

# The last feature map before the pooling or, where tokens are, the last place whose patches the logits still depend on
# (grad-cam's advice): after the last block of a ViT only the class token is used, and its patches have no gradient.
_TARGETS: dict[type[nn.Module], str | Callable[[Any], str]] = {
    models.AlexNet: lambda model: f"features.{len(model.features) - 2}",  # the last ReLU; a max pooling ends `features`
    models.VGG: lambda model: f"features.{len(model.features) - 2}",
    models.ResNet: "layer4",  # ResNeXt and Wide ResNet too
    models.DenseNet: "features",
    **dict.fromkeys((models.MobileNetV2, models.MobileNetV3, models.EfficientNet), "features"),
    **dict.fromkeys((models.ConvNeXt, models.SqueezeNet), "features"),
    models.Inception3: "Mixed_7c",
    models.GoogLeNet: "inception5b",
    models.MNASNet: "layers",
    models.RegNet: "trunk_output",
    models.ShuffleNetV2: "conv5",
    models.MaxVit: lambda model: f"blocks.{len(model.blocks) - 1}",
    models.SwinTransformer: "norm",
    models.VisionTransformer: lambda model: f"encoder.layers.encoder_layer_{len(model.encoder.layers) - 1}.ln_1",
}

_kept: weakref.WeakKeyDictionary[nn.Module, tuple] = (
    weakref.WeakKeyDictionary()
)  # what was split before, while it lasts
_checked: weakref.WeakSet[nn.Module] = weakref.WeakSet()


def network_for(
    model: nn.Module,
    layer: str | nn.Module | None = None,
    reshape: str | Callable | None = None,
    example: Tensor | None = None,
) -> nn.Module:
    """What `score_maps` works on: split at the layer where that is possible, else hooked there.

    This takes two or three passes of one image; a split is kept as long as the model lives and its modules stay the same.

    Args:
        model: (B, c, H, W) -> logits (B, K). One with a `body` is returned as it is, unless a layer is given. Where
            torch.compile wraps it, the network inside is taken.
        layer: dotted name or module; None: the target layer of a network of torchvision (`target_layer`).
        reshape: "nhwc", "tokens", a function to (B, C, h, w), or None: what the architecture is known to need.
        example: images that the network accepts, of which the first is used; None: a random one.

    Returns:
        `SplitModel`, or `HookedModel`, whose `reason` says why the network could not be split.

    Raises:
        ValueError: no layer given for an unknown network (candidates are listed); a layer that does not exist or
            whose output is no feature map.
    """
    if isinstance(model, (SplitModel, HookedModel)) and layer is not None:
        at = model.layer if isinstance(model, SplitModel) else model.layer_name
        raise WsolkitError(f"the network is already {type(model).__name__} at layer '{at}': give no layer")
    model = uncompiled(model)
    if layer is None and hasattr(model, "body"):
        if example is not None:
            _check_parts(model, example)
        return model
    name, module = find_layer(model, target_layer(model, example) if layer is None else layer)
    reshape = _known_reshape(model, name, module) if reshape is None else reshape
    key, state = (name, reshape), structure(model)
    kept_state, kept = _kept.get(model, (None, {}))
    if kept_state != state:
        kept = {}
    if key not in kept:
        try:
            kept[key] = split(model, module, reshape, example)
        except CannotSplit as error:
            return hooked(model, module, reshape, example, reason=str(error))  # holds the model, so is not kept
        _kept[model] = (state, kept)
    return kept[key]


def _check_parts(model: Any, example: Tensor) -> None:
    """Once for each model that is not of this package: `body` and what follows must be what the model computes.

    Raises:
        ValueError: they are not; maps would be those of another network.
    """
    if isinstance(model, (SplitModel, HookedModel)) or hasattr(model, "spec") or model in _checked:
        return
    if type(model).forward is nn.Module.forward:  # parts are all that there is
        return
    with evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
        image = example[:1].detach().clone()
        expected = model(image.clone())
        if not same_values(rest_of(model)(model.body(image).clone()), expected):
            raise WsolkitError(
                f"{type(model).__name__} has a `body`, but `rest` (or pool and head) after body does not give what the "
                "model computes: give layer=, the dotted name of the module whose output is the feature map"
            )
    _checked.add(model)


def target_layer(model: nn.Module, example: Tensor | None = None) -> str:
    """Dotted name of the layer that localisation methods use by default, for the networks of torchvision.

    Raises:
        ValueError: another network; the message lists the last layers that give a feature map or tokens.
    """
    model = uncompiled(model)
    for family, name in _TARGETS.items():
        if isinstance(model, family):
            return name if isinstance(name, str) else name(model)
    listed = "; ".join(f"'{name}' {shape}" for name, shape in candidates(model, example)[-8:])
    raise WsolkitError(
        f"no target layer is known for {type(model).__name__}: give layer=, the dotted name of a module, usually the "
        f"last one before the pooling. Its last layers with a feature map (B, C, h, w) are {listed or '(none found)'}"
    )


def candidates(model: nn.Module, example: Tensor | None = None) -> list[tuple[str, tuple[int, ...]]]:
    """Names and output shapes, for one image, of the modules that give a feature map of more than one position.

    In the order in which they finish, in one forward pass in evaluation mode.
    """
    shapes: list[tuple[str, tuple[int, ...]]] = []

    def note(name: str, _module: nn.Module, _inputs: tuple, output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            shapes.append((name, tuple(output.shape)))

    with evaluation_mode(model), torch.inference_mode(False), torch.no_grad(), ExitStack() as hooks:
        images, _ = example_for(model, example)
        for name, module in model.named_modules():
            if name:
                hooks.callback(module.register_forward_hook(partial(note, name)).remove)
        model(images)
    return shapes


def _known_reshape(model: nn.Module, name: str, module: nn.Module) -> str | None:
    if isinstance(module, nn.Conv2d):  # the patch embedding, before anything is reshaped
        return None
    if isinstance(model, models.VisionTransformer) and name.startswith("encoder"):
        return "tokens"
    return "nhwc" if isinstance(model, models.SwinTransformer) and name != "permute" else None

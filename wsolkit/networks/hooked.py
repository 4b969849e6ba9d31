"""Any nn.Module as body and rest, without a cut: the whole network runs, and a hook meets the layer's output.

Where `split` refuses (a skip connection or a class token passes beside the feature map, or the forward methods cannot
be traced), the rest-network runs the whole network on the images again and puts the given feature map in the place of
the layer's output. Gradients, logits and maps are those of the grad-cam package, which hooks the layer of the whole
network too; but nothing is differentiated by the body or the parameters, so their gradients stay as they are and
frozen networks work.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from wsolkit.networks.modules import evaluation_mode
from wsolkit.networks.reshapes import Reshape, as_reshape, feature_map_of
from wsolkit.networks.split import example_for, find_layer, uncompiled


class HookedModel(nn.Module):
    """A network that is looked at through a hook on one layer, which is there during a call only.

    Attributes:
        model: the user's network, whole. layer_name: dotted name of the target layer. num_classes: K.
        reason: why it was not split. backbone: class name of the network. has_cam: False, no head is known.
    """

    has_cam = False

    def __init__(self, model: nn.Module, layer_name: str, reshape: Reshape | None, reason: str) -> None:
        super().__init__()
        self.model, self.layer_name, self.reshape, self.reason = model, layer_name, reshape, reason
        self.backbone = type(model).__name__
        self.num_classes: int | None = None

    @property
    def layer(self) -> nn.Module:
        return self.model.get_submodule(self.layer_name)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def body(self, images: Tensor) -> Tensor:
        """(B, c, H, W) -> feature map (B, C, h, w), by a pass through the whole network."""
        seen: list[Tensor] = []
        # a copy, as the next operation may work in place
        self._run(images, lambda output: seen.append(self._features(output).clone()))
        return seen[0]

    def rest_for(self, images: Tensor) -> nn.Module:
        """The rest-network for these images: (B, C, h, w), row i belonging to images[i] -> logits (B, K)."""
        return _RestFor(self, images)

    def _features(self, output: Tensor) -> Tensor:
        return feature_map_of(output, self.reshape, self.layer_name)

    def _put(self, features: Tensor, output: Tensor) -> Tensor:
        # a copy either way, as the next operation may work in place
        return features.clone() if self.reshape is None else self.reshape.put(features, output)

    def _run(self, images: Tensor, meet: Callable[[Tensor], Tensor | None]) -> Tensor:
        """Logits. `meet` is given the layer's output; what it returns takes its place, unless that is None."""
        calls = 0

        def hook(_layer: nn.Module, _inputs: tuple, output: Tensor) -> Tensor | None:
            nonlocal calls
            calls += 1
            return meet(output)

        handle = self.layer.register_forward_hook(hook)
        try:
            logits = self.model(images)
        finally:
            handle.remove()
        if calls != 1:
            raise ValueError(
                f"layer '{self.layer_name}' of {self.backbone} runs {calls} times in a forward pass, so that it has no "
                "one feature map: choose a layer that runs once"
                + (", outside of the part that torch.compile wraps" if "_orig_mod" in self.layer_name else "")
            )
        return logits


class _RestFor(nn.Module):
    def __init__(self, hooked: HookedModel, images: Tensor) -> None:
        super().__init__()
        self.hooked, self.images = hooked, images

    def forward(self, features: Tensor) -> Tensor:
        if len(features) != len(self.images):
            raise ValueError(f"feature maps of {len(features)} images for a rest-network of {len(self.images)} images")
        differentiable = torch.is_grad_enabled()

        def meet(output: Tensor) -> Tensor:
            torch.set_grad_enabled(differentiable)  # until the network has returned
            return self.hooked._put(features, output)

        with torch.no_grad():  # nothing before the layer needs a graph
            return self.hooked._run(self.images, meet)


def hooked(
    model: nn.Module,
    layer: str | nn.Module,
    reshape: str | Callable | None = None,
    example: Tensor | None = None,
    reason: str = "",
) -> HookedModel:
    """Look at any network through a hook on a layer; `score_maps` takes the result like a `WSOLModel`.

    Args: as of `split`; `reshape` may also be "tokens" (class token first, then a square of patches) or any function
        from the layer's output to (B, C, h, w) that only moves or drops entries, as those of the grad-cam package.

    Raises:
        CannotSplit: no such layer. ValueError: the layer runs not exactly once, or its output is no feature map.
    """
    model = uncompiled(model)
    name, _ = find_layer(model, layer)
    network = HookedModel(model, name, as_reshape(reshape), reason)
    with evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
        images, logits = example_for(model, example)
        network._run(images, lambda output: network._put(network._features(output), output))
        network.num_classes = logits.shape[1]
    return network

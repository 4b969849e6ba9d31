"""What a method is given to work with: the feature map, and what can be computed from it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from wsolkit.common.errors import WsolkitError
from wsolkit.methods.registry import MethodNotDefined

if TYPE_CHECKING:
    from torch import Tensor
    from torch.nn import Module
else:  # methods annotate with these and are declared without importing torch
    Tensor = Module = Any


@dataclass(eq=False)
class Context:
    """What a method works with; gradients and logits are computed when first asked for.

    Attributes:
        model: body, pool and head, in evaluation mode.
        images: (B, 3, H, W), or None where the caller gave only features.
        labels: (B,) int64, the classes whose maps are wanted.
        features: (B, C, h, w) feature map A, detached.
        chunk: largest number of images that one forward pass of a perturbation method may hold.
        eigen: whether the caller asked for the eigen projection (methods that return (B, h, w) may want to know).
        precision: "float32" or "bf16", of the body and of what follows.
        gradient_seconds: by `clock`, what `gradients` took (0 until they are asked for). gradients_used: set when they are.
    """

    model: Any
    images: Tensor | None
    labels: Tensor
    features: Tensor
    chunk: int
    eigen: bool = False
    precision: str = "float32"
    clock: Callable[[], float] = time.perf_counter
    gradient_seconds: float = field(default=0.0, init=False)
    gradients_used: bool = field(default=False, init=False)
    _gradients: Tensor | None = field(default=None, init=False)

    @cached_property
    def rest(self) -> Module:
        """Pool and head, (B, C, h, w) -> (B, K), in the precision that was asked for, float32 outside."""
        return self.rest_for(None)

    def rest_for(self, image: Tensor | None) -> Module:
        """Pool and head for rows that belong to the images `image` (indices into the batch, or None for all in order)."""
        from wsolkit.networks.modules import in_precision
        from wsolkit.networks.split import rest_of

        images = self.images if self.images is None or image is None else self.images[image]
        return in_precision(rest_of(self.model, images), self.precision)

    @cached_property
    def class_weights(self) -> Tensor:
        """(B, C): the head's weights of each image's class, W[y]. Only where `model.has_cam`."""
        weight = self.model.head.weight.detach()
        if weight.ndim != 2 or weight.shape[1] != self.features.shape[1]:
            raise MethodNotDefined(
                f"the head's weight of shape {tuple(weight.shape)} does not act on the {self.features.shape[1]} "
                "channels of the feature map"
            )
        return weight[self.labels]

    @cached_property
    def logits(self) -> Tensor:
        """(B, K), without a graph."""
        import torch

        with torch.no_grad():
            return self.rest(self.features.clone())

    @property
    def gradients(self) -> Tensor:
        """(B, C, h, w): G = d z_y / d A through pool and head, computed once."""
        self.gradients_used = True
        if self._gradients is None:
            begin = self.clock()
            self._gradients = self.differentiate()[1]
            self.gradient_seconds = self.clock() - begin
        return self._gradients

    def look(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) -> (n, K): the whole network, without a graph."""
        from wsolkit.networks import fused
        from wsolkit.networks.modules import in_precision
        from wsolkit.networks.split import HookedModel

        if isinstance(self.model, HookedModel):
            return in_precision(self.model, self.precision)(images)
        return self.rest(fused.run(self.model.body, images, self.precision))

    def differentiate(
        self, target: Callable[[Tensor], Tensor] | None = None, create_graph: bool = False
    ) -> tuple[Tensor, Tensor]:
        """Gradient of a score with respect to the feature map; the parameters' own gradients stay as they are.

        Args:
            target: logits (B, K) -> (B,) score per image; by default the logit of each image's label.
            create_graph: keep the graph, for second derivatives.

        Returns:
            the leaf (B, C, h, w) that was differentiated by, and the gradient, same shape. A gradient that is zero
            all over an image is possible, but rarely meant: a RuntimeWarning names these images.

        Raises:
            ValueError: no gradient reaches the feature map at all.
        """
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        leaf = self.features.detach().requires_grad_(True)
        # fused attention has no second derivative
        kernel = sdpa_kernel(SDPBackend.MATH) if create_graph else nullcontext()
        with torch.enable_grad(), kernel:
            logits = self.rest(leaf.clone())  # a copy, as the rest may begin with an in-place operation
            score = self.of_label(logits) if target is None else target(logits)
            gradient = None
            if score.requires_grad:
                (gradient,) = torch.autograd.grad(score.sum(), leaf, create_graph=create_graph, allow_unused=True)
        if gradient is None:
            raise WsolkitError(
                "no gradient reaches the feature map: pool or head of this model detaches it, or ignores its input; "
                "gradient methods need a differentiable head"
            )
        zero = (gradient == 0).flatten(1).all(dim=1).nonzero().flatten().tolist()
        if len(zero) == len(gradient) and (len(zero) > 1 or not hasattr(self.model, "spec")):  # else one dead image
            raise WsolkitError(
                "the gradient of the class score with respect to the feature map is zero everywhere, for every image of "
                "this batch: nothing behind this layer uses these positions (after the last block of a ViT only the "
                "class token is used: choose that block's ln_1), or weights behind it are all zero (as in the head of an "
                "untrained ViT); choose an earlier layer, or a method without gradients"
            )
        if zero:
            warnings.warn(
                "the gradient of the class score with respect to the feature map is zero everywhere for image(s) "
                f"{zero} of this batch: their maps by gradient methods are all zero",
                RuntimeWarning,
                stacklevel=2,
            )
        return leaf, gradient if create_graph else gradient.detach()

    def of_label(self, logits: Tensor, image: Tensor | None = None) -> Tensor:
        """(n, K, ...) -> (n, ...): the logit or map of the label of image `image[i]` (indices into the batch, default 0..B-1)."""
        labels = self.labels if image is None else self.labels[image]
        return logits.take_along_dim(labels.view(-1, *[1] * (logits.ndim - 1)), 1)[:, 0]

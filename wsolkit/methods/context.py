"""What a method is given to work with: the feature map, what can be computed from it, and work in chunks."""

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
        gradient_seconds: what `gradients` took, by `clock`; 0 until they are asked for. gradients_used: set by that.
    """

    model: Any
    images: Tensor | None
    labels: Tensor
    features: Tensor
    chunk: int
    eigen: bool = False
    precision: str = "float32"
    clock: Callable[[], float] = time.perf_counter
    _gradients: Tensor | None = field(default=None, init=False)
    gradient_seconds: float = field(default=0.0, init=False)
    gradients_used: bool = field(default=False, init=False)

    @cached_property
    def rest(self) -> Module:
        """Pool and head, (B, C, h, w) -> (B, K), in the precision that was asked for, float32 outside."""
        return self.rest_for(None)

    def rest_for(self, image: Tensor | None) -> Module:
        """Pool and head for rows of the images `image` (indices into the batch, or None for all in order)."""
        from wsolkit.networks.modules import in_precision
        from wsolkit.networks.split import rest_of

        images = self.images if self.images is None or image is None else self.images[image]
        return in_precision(rest_of(self.model, images), self.precision)

    @cached_property
    def class_weights(self) -> Tensor:
        """(B, C): the head's weights of each image's class, W[y]. Only where `model.has_cam`."""
        head, channels = self.model.head, self.features.shape[1]
        if "weight" not in head._parameters and head._forward_pre_hooks:  # weight and spectral norm of earlier torch
            head(self.features[:1].mean(dim=(2, 3)))  # make it when the head runs; it would be that of the last time
        weight = head.weight.detach()
        if weight.ndim != 2 or weight.shape[1] != channels:
            shape = tuple(weight.shape)
            raise MethodNotDefined(f"the head's weight of shape {shape} does not act on the {channels} channels")
        return weight[self.labels]

    @cached_property
    def logits(self) -> Tensor:
        """(B, K), without a graph."""
        import torch

        with torch.no_grad():
            return self.rest(self.features.clone())

    @cached_property
    def finer(self) -> Tensor:
        """(B, C', H', W'), without a graph: the last feature map before A that has more positions than A, by one more
        pass of the body; A itself where there is none."""
        from wsolkit.networks.split import finer_features

        if self.images is None:
            raise WsolkitError("this method runs the body again for its finer feature map: give images")
        return finer_features(self.model, self.images, self.features, self.precision)

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
        from wsolkit.networks import folded
        from wsolkit.networks.modules import in_precision
        from wsolkit.networks.split import HookedModel

        if isinstance(self.model, HookedModel):
            return in_precision(self.model, self.precision)(images)
        return self.rest(folded.run(self.model.body, images, self.precision))

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

        Raises: ValueError: no gradient reaches the feature map at all.
        """
        import torch
        from torch.backends import cudnn
        from torch.nn.attention import SDPBackend, sdpa_kernel

        leaf, gradient = self.features.detach().requires_grad_(True), None
        recurrent = any(isinstance(module, torch.nn.RNNBase) for module in self.model.modules())
        # fused attention has no second derivative, and cuDNN's recurrent layers have no first one in evaluation mode
        attention = sdpa_kernel(SDPBackend.MATH) if create_graph else nullcontext()
        with torch.enable_grad(), attention, cudnn.flags(enabled=False) if recurrent else nullcontext():
            logits = self.rest(leaf.clone())  # a copy, as the rest may begin with an in-place operation
            score = self.of_label(logits) if target is None else target(logits)
            if score.requires_grad:
                (gradient,) = torch.autograd.grad(score.sum(), leaf, create_graph=create_graph, allow_unused=True)
        if gradient is None:
            raise WsolkitError(
                "no gradient reaches the feature map, as pool or head of this model detaches or ignores it: give it a "
                "differentiable head, or choose a method without gradients"
            )
        zero = (gradient == 0).flatten(1).all(dim=1).nonzero().flatten().tolist()
        nowhere = "the gradient of the class score with respect to the feature map is zero everywhere"
        if len(zero) == len(gradient) and (len(zero) > 1 or not hasattr(self.model, "spec")):  # else one dead image
            raise WsolkitError(
                f"{nowhere}, for every image of this batch: nothing behind this layer uses these positions (the last "
                "block of a ViT uses the class token alone: choose that block's ln_1), or weights behind it are all "
                "zero (as in the head of an untrained ViT). Choose an earlier layer, or a method without gradients"
            )
        if zero:
            text = f"{nowhere} for image(s) {zero} of this batch: their maps by gradient methods are all zero"
            warnings.warn(text, RuntimeWarning, stacklevel=2)
        return leaf, gradient if create_graph else gradient.detach()

    def of_label(self, logits: Tensor, image: Tensor | None = None) -> Tensor:
        """(n, K, ...) -> (n, ...): the logit or map of the label of image `image[i]` (by default 0..B-1)."""
        labels = self.labels if image is None else self.labels[image]
        return logits.take_along_dim(labels.view(-1, *[1] * (logits.ndim - 1)), 1)[:, 0]


def in_chunks(look: Callable[..., Any], chunk: int, *inputs: Tensor, name: str = "chunk={}") -> Any:
    """`look` applied to at most `chunk` rows of the inputs at a time, the results one after the other.

    Where that runs out of CUDA memory, the chunk is halved, down to one row, and the same rows are computed again: the
    result is that of a smaller chunk. One RuntimeWarning says so at the end, with the chunk that fitted.

    Args:
        look: takes as many tensors as there are inputs, (n, ...) each with n <= chunk, and returns (n, ...) or a tuple
            of such. Rows must not depend on one another, and a call that fails must leave nothing behind.
        chunk: at least 1.
        inputs: tensors of equal length, (N, ...); at least one.
        name: how the warning calls the chunk, with {} for its number.

    Returns:
        (N, ...), or a tuple of such; an empty float32 tensor where N is 0, as nothing says then what `look` returns.

    Raises: torch.OutOfMemoryError: one row alone does not fit.
    """
    import torch

    results, start, first = [], 0, chunk
    while start < len(inputs[0]):
        rows = [tensor[start : start + chunk] for tensor in inputs]
        try:
            results.append(look(*rows))
            start += chunk
            continue
        except torch.OutOfMemoryError as error:
            if len(rows[0]) == 1:
                raise torch.OutOfMemoryError(
                    "the device's memory does not hold even one image at a time (chunk=1): use smaller images or a "
                    f'smaller network, precision="bf16", or device="cpu". The device said: {error}'
                ) from error
            chunk = len(rows[0]) // 2
        torch.cuda.empty_cache()  # only now: the traceback of the exception held the tensors of the call that failed
    if chunk != first:
        text = f"{name.format(first)} ran out of device memory and became {chunk}; the results are the same, but "
        warnings.warn(f"{text}{name.format(chunk)} from the start saves the attempts", RuntimeWarning, stacklevel=2)
    if len(results) < 2:
        return results[0] if results else torch.zeros(0, device=inputs[0].device)
    if isinstance(results[0], tuple):
        return tuple(map(torch.cat, zip(*results, strict=True)))
    return torch.cat(results)

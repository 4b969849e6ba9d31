"""The registry of methods, and what a method is given to work with.

A method weighs the channels of the feature map. Adding one takes a function and a line above it:

    @register("my_cam", needs="gradient", description="channels weighed by their largest gradient")
    def my_cam(context):
        return context.gradients.amax(dim=(2, 3))            # (B, C)

The function receives a `Context` (features, gradients, class weights, labels, the model) and returns one of

    (B, C)         one weight per channel: the map is sum_c w[c] A[c]
    (B, C, h, w)   one weight per channel and position: the map is sum_c w[c] * A[c]
    (B, h, w)      a finished map, for methods that are no weighted sum

Everything else happens in one place for all methods (`wsolkit.localisation.maps`): the sum, the eigen projection, the ReLU,
test-time augmentation, checks, and leaving the model as it was found. Keyword arguments of the function beyond the
context become options of `score_maps`.
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from wsolkit.networks import fused
from wsolkit.networks.modules import in_precision
from wsolkit.networks.split import HookedModel, rest_of

NEEDS = ("features", "gradient", "forward")


class MethodNotDefined(ValueError):
    """The method exists, but has no meaning on this model (or the installed grad-cam does not offer it)."""


@dataclass(frozen=True)
class Method:
    """One entry of the registry; see `register` for the fields."""

    name: str
    function: Callable[..., Tensor]
    needs: str
    description: str
    relu: bool = True
    linear_head: bool = False
    project: bool = False
    eigen: bool = True
    aliases: tuple[str, ...] = ()
    check: Callable[[nn.Module], str] | None = None

    @property
    def slug(self) -> str:
        """The name as it appears in file names: `grad_cam++` is `grad_cam_plusplus`."""
        return self.name.replace("++", "_plusplus")

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the keyword options that `score_maps` passes on to this method."""
        parameters = list(inspect.signature(self.function).parameters.values())[1:]
        return tuple(p.name for p in parameters if p.kind is not p.VAR_KEYWORD)

    @property
    def takes_any_option(self) -> bool:
        return any(p.kind is p.VAR_KEYWORD for p in inspect.signature(self.function).parameters.values())


METHODS: dict[str, Method] = {}


def register(
    name: str,
    *,
    needs: str,
    description: str,
    relu: bool = True,
    linear_head: bool = False,
    project: bool = False,
    eigen: bool = True,
    aliases: tuple[str, ...] = (),
    check: Callable[[nn.Module], str] | None = None,
) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """Decorator that makes a function reachable as `score_maps(..., method=name)`.

    Args:
        name: the method's name, lower case with underscores.
        needs: what one map costs: "features" (the feature map and the head's weights), "gradient" (one backward pass
            through pool and head) or "forward" (many more forward passes).
        description: one line for tables and reports.
        relu: negative values of the map become 0, after the sum and after the eigen projection.
        linear_head: defined only where the head acts on the channels of the feature map (`model.has_cam`).
        project: the weighted maps are always reduced by the eigen projection instead of the sum.
        eigen: False where `smooth=("eigen",)` is refused.
        aliases: further names; case, `_` and `-` never matter, and `++` is the same as `plusplus`.
        check: called with the model; returns why the method is not defined on it, or "".

    Raises:
        ValueError: unknown `needs`, or a name that another method already has. Running the same definition again (a
            notebook cell) replaces the earlier one.
    """
    if needs not in NEEDS:
        raise ValueError(f"needs={needs!r} of method {name!r} is not one of {', '.join(NEEDS)}")

    def decorate(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        for taken in (name, *aliases):
            other = _find(taken)
            if other is not None and _origin(other.function) != _origin(function):
                raise ValueError(
                    f"method name {taken!r} is already taken by {other.name!r}: "
                    f"choose another, or remove that one first with METHODS.pop({other.name!r})"
                )
        METHODS[name] = Method(
            name, function, needs, description, relu, linear_head, project, eigen, tuple(aliases), check
        )
        return function

    return decorate


def method_names() -> tuple[str, ...]:
    """Names of all registered methods, in the order of registration."""
    return tuple(METHODS)


def resolve(name: str) -> Method:
    """The method of that name or alias; classes of the installed grad-cam package count by their class name too.

    Raises:
        ValueError: nothing is called so; the message lists the names.
    """
    if not isinstance(name, str):
        raise ValueError(f"a method is given by its name, but got {name!r}; the names are: {', '.join(METHODS)}")
    method = _find(name)
    if method is None:
        # late, because importing grad-cam takes a second and only names that are not ours need it
        from wsolkit.methods.grad_cam_package import register_installed

        register_installed()
        method = _find(name)
    if method is None:
        raise ValueError(f"unknown method {name!r}; the names are: {', '.join(METHODS)}")
    return method


def is_defined(method: str, model: nn.Module) -> tuple[bool, str]:
    """Whether `method` has a meaning on `model`, and if not, why: (True, "") or (False, reason).

    Raises:
        ValueError: unknown method.
    """
    entry = resolve(method)
    if entry.linear_head and not getattr(model, "has_cam", True):
        kind = getattr(model, "backbone", type(model).__name__)
        return False, (
            f"{entry.name} is not defined on {kind}: it weighs the channels of the feature map with the rows of a "
            "linear head, and here other layers lie between the two; use a network with pooling 'gap' or 'tap', "
            "or a gradient method"
        )
    reason = entry.check(model) if entry.check is not None else ""
    return not reason, reason


class Context:
    """What a method may look at; gradients and logits are computed when first asked for.

    Attributes:
        model: body, pool and head, in evaluation mode.
        body: (B, 3, H, W) -> (B, C, h, w), in the precision that was asked for, float32 outside.
        rest: pool and head, (B, C, h, w) -> (B, K), likewise.
        images: (B, 3, H, W), or None where the caller gave only features.
        labels: (B,) int64, the classes whose maps are wanted.
        features: (B, C, h, w) feature map A, detached.
        chunk: largest number of images that one forward pass of a perturbation method may hold.
        eigen: whether the caller asked for the eigen projection (methods that return (B, h, w) may want to know).
        gradient_seconds: by `clock`, what `gradients` took (0 until they are asked for). gradients_used: set when they are.
    """

    def __init__(
        self,
        model: nn.Module,
        images: Tensor | None,
        labels: Tensor,
        features: Tensor,
        chunk: int,
        eigen: bool = False,
        precision: str = "float32",
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.model = model
        self.body = lambda images: fused.run(model.body, images, precision)
        self.rest = in_precision(rest_of(model, images), precision)
        self.precision = precision
        self.images = images
        self.labels = labels
        self.features = features
        self.chunk = chunk
        self.eigen = eigen
        self.clock = clock
        self.gradient_seconds = 0.0
        self.gradients_used = False

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
        with torch.no_grad():
            return self.rest(self.features.clone())

    @property
    def gradients(self) -> Tensor:
        """(B, C, h, w): G = d z_y / d A through pool and head, computed once."""
        self.gradients_used = True
        return self._gradients

    @cached_property
    def _gradients(self) -> Tensor:
        begin = self.clock()
        gradients = self.differentiate()[1]
        self.gradient_seconds = self.clock() - begin
        return gradients

    def rest_for(self, image: Tensor) -> nn.Module:
        """The rest-network for rows that belong to the images `image` (indices into the batch)."""
        images = None if self.images is None else self.images[image]
        return in_precision(rest_of(self.model, images), self.precision)

    def look(self, images: Tensor) -> Tensor:
        """(n, 3, H, W) -> (n, K): the whole network, without a graph."""
        if isinstance(self.model, HookedModel):
            return in_precision(self.model, self.precision)(images)
        return self.rest(self.body(images))

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
            raise ValueError(
                "no gradient reaches the feature map: pool or head of this model detaches it, or ignores its input; "
                "gradient methods need a differentiable rest-network"
            )
        zero = (gradient == 0).flatten(1).all(dim=1).nonzero().flatten().tolist()
        if len(zero) == len(gradient) and (len(zero) > 1 or not hasattr(self.model, "spec")):  # else one dead image
            raise ValueError(
                "the gradient of the class score with respect to the feature map is zero everywhere, for every image of "
                "this batch: nothing behind this layer looks at these positions (after the last block of a ViT only the "
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
        """(n, K) -> (n,): the logit of the label of image `image[i]` (indices into the batch, default 0..B-1)."""
        labels = self.labels if image is None else self.labels[image]
        return logits.gather(1, labels[:, None])[:, 0]


def is_registered(name: str) -> bool:
    """Whether a method has that name or alias already; looks at nothing else."""
    return _find(name) is not None


def _key(name: str) -> str:
    return name.lower().replace("++", "plusplus").replace("_", "").replace("-", "").replace(" ", "")


def _find(name: str) -> Method | None:
    key = _key(name)
    return next((m for m in METHODS.values() if key in {_key(n) for n in (m.name, *m.aliases)}), None)


def _origin(function: Callable[..., Tensor]) -> tuple[str, str]:
    return function.__module__, function.__qualname__

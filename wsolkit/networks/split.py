"""Any nn.Module as body and rest: images -> feature map -> logits. `network_for` makes one ready for `score_maps`.

`split` follows the values through the forward methods of the modules around the target layer (torch.fx; every other
module stays a closed box, so what happens inside it does not matter). What runs up to the layer's output is the body,
what runs after it is the rest, and the layer's output is the only value that may pass from one to the other.

Where more has to pass (a skip connection or a class token beside the feature map), or where the forward methods cannot be
traced, `hooked` serves: its rest runs the whole network on the images again, and a hook puts the given feature map in the
place of the layer's output. Gradients, logits and maps are those of the grad-cam package, which hooks the layer of the
whole network too; but nothing is differentiated by the body or the parameters, so their gradients stay as they are and
frozen networks work.
"""

from __future__ import annotations

import difflib
import inspect
import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torchvision import models

from wsolkit.common.errors import WsolkitError
from wsolkit.networks.modules import as_found, evaluation_mode, same_values, structure
from wsolkit.networks.pooling import GlobalAveragePool

_SIZES = (64, 224, 299)  # of the random image that a network is tried on: the first that it accepts
_SCRIPTED = (
    " is a TorchScript network (torch.jit), inside which no layer can be reached: give the nn.Module that it was made "
    "from, with the same weights (load_state_dict takes the state_dict of the script)"
)


class CannotSplit(WsolkitError):
    """The network cannot be cut at this layer; the message names the layer, the reason and what to do."""


# --------------------------------------------------------------------------- the output of a layer as a feature map


@dataclass(frozen=True)
class Reshape:
    """A way to move the entries of a layer's output: any function that only permutes or drops them.

    Convolutional networks need none. Swin keeps its channels last, ViT has a list of tokens: a class token, then the
    patches row by row.

    Attributes:
        name: what the user calls it. move: output (B, ...) -> (B, C, h, w).
        inverse: (B, C, h, w) -> output; None where entries are dropped, or for a function of the user's own.
    """

    name: str
    move: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor] | None = None

    def __call__(self, output: Tensor) -> Tensor:
        return self.move(output)

    def features(self, output: Tensor, layer: str) -> Tensor:
        """The layer's output as (B, C, h, w), or a ValueError that says what it is and what to do."""
        if not isinstance(output, Tensor):
            kind = type(output).__name__
            raise WsolkitError(f"layer '{layer}' returns a {kind}, not a tensor: choose a layer inside or after it")
        features = self.move(output)
        if features.ndim != 4:
            hint = 'give reshape="tokens" (class token first) or a function' if features.ndim == 3 else "choose another"
            raise WsolkitError(
                f"layer '{layer}' must give a feature map (B, C, h, w), but gave {tuple(features.shape)}: {hint}"
            )
        return features

    def put(self, features: Tensor, output: Tensor) -> Tensor:
        """The output with the entries that the feature map shows replaced by it; what was dropped stays.

        Where each entry comes from is found by moving an output that holds its own positions.

        Raises:
            ValueError: a function that does not only move entries, as it would have no meaning for gradients.
        """
        if not self.name:
            return features.clone()  # as the next operation may work in place
        positions = torch.arange(output[0].numel(), dtype=torch.float64, device=output.device)
        source = self.move(positions.reshape(1, *output.shape[1:])).long()
        source, whole = source.flatten(), output.flatten(1)
        inside = bool(((source >= 0) & (source < len(positions))).all())
        if not inside or not torch.equal(whole[:, source], self.move(output).flatten(1)):
            raise WsolkitError(f"reshape {self.name!r} changes values; it may only permute or drop entries")
        return whole.index_copy(1, source, features.flatten(1)).reshape(output.shape)


def tokens(output: Tensor) -> Tensor:
    """(B, 1 + n*n, C) -> (B, C, n, n), without the class token, which comes first. As in the grad-cam package."""
    side = math.isqrt(max(output.shape[1] - 1, 0)) if output.ndim == 3 else 0
    if side * side + 1 != output.shape[1] or side == 0:
        raise WsolkitError(
            f'reshape "tokens" takes (B, 1 + n*n, C), a class token and a square of patches, not {tuple(output.shape)}; '
            "give a function from the layer's output to (B, C, h, w) instead"
        )
    return output[:, 1:].transpose(1, 2).reshape(len(output), output.shape[2], side, side)


def nhwc(output: Tensor) -> Tensor:
    """(B, h, w, C) -> (B, C, h, w)."""
    return output.permute(0, 3, 1, 2)


RESHAPES = {
    None: Reshape("", lambda output: output, lambda features: features),
    "tokens": Reshape("tokens", tokens),
    "nhwc": Reshape("nhwc", nhwc, lambda features: features.permute(0, 2, 3, 1)),
}


def as_reshape(reshape: str | Callable | None) -> Reshape:
    """A `Reshape` from its name or from a function; ValueError for an unknown name."""
    if callable(reshape):
        return Reshape(getattr(reshape, "__name__", type(reshape).__name__), reshape)
    if reshape not in RESHAPES:
        names = ", ".join(filter(None, RESHAPES))
        raise WsolkitError(f"unknown reshape {reshape!r}; valid are {names}, or a function to (B, C, h, w)")
    return RESHAPES[reshape]


# --------------------------------------------------------------------------- by a cut


class SplitModel(nn.Module):
    """A network cut at the output of one layer; `score_maps` takes it like a `WSOLModel`.

    Modules and parameters are the user's own, not copies: training the network or moving it to another device shows
    here, but a module that is *replaced* in it does not (split again). What the forward methods around the layer do was
    recorded in evaluation mode.

    Attributes:
        body: images (B, c, H, W) -> feature map (B, C, h, w). rest: feature map -> logits (B, K).
        num_classes: K. layer: dotted name of the target layer. backbone: class name of the network.
        has_cam: the rest is global average pooling and one linear layer; only then `pool` and `head` are there.
    """

    def __init__(self, body: nn.Module, rest: nn.Module, layer: str, backbone: str, num_classes: int) -> None:
        super().__init__()
        self.body, self.rest, self.layer, self.backbone, self.num_classes = body, rest, layer, backbone, num_classes
        self.has_cam = False

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.body(images))


def split(
    model: nn.Module, layer: str | nn.Module, reshape: str | Callable | None = None, example: Tensor | None = None
) -> SplitModel:
    """Cut a network at the output of a layer. The network itself stays as it is.

    The cut is tried at once, in evaluation mode: the two parts must give the logits of the whole on one image.

    Args:
        model: (B, c, H, W) -> logits (B, K).
        layer: dotted name ("layer4", "features.28") or the module itself.
        reshape: how the layer's output becomes (B, C, h, w); "nhwc" where the channels are last (Swin), None where
            nothing is to be done. Tokens cannot be cut: the class token passes beside the feature map.
        example: images the network accepts, of which the first is used; None: a random one of 64, 224 or 299 px.

    Raises:
        CannotSplit: no such layer, other values pass the cut (a skip connection), forward methods that cannot be
            traced, a layer that runs several times, or logits that differ. `hooked` takes such networks.
        ValueError: no example at hand that the network accepts.
    """
    model = uncompiled(model)
    name, module = find_layer(model, layer)
    try:
        return _halves(model, name, module, as_reshape(reshape), example)
    except CannotSplit as error:
        raise CannotSplit(
            f"{type(model).__name__} cannot be split at layer '{name}': {error}. Or use hooked(model, '{name}'), "
            "which takes every network but runs the whole of it for each method"
        ) from error.__cause__


def _halves(model: nn.Module, name: str, layer: nn.Module, shape: Reshape, example: Tensor | None) -> SplitModel:
    """The cut, tried; CannotSplit with the reason alone."""
    if shape.inverse is None:
        raise CannotSplit(
            f"reshape {shape.name!r} cannot be undone (it drops entries, such as a class token, or is a function of "
            "your own), so the rest cannot be fed from the feature map alone"
        )
    with _on_example(model, example) as (images, logits):
        body, rest = _cut(model, layer)
        parts = Body(body, shape, name), _Rest(rest, shape)
        network = SplitModel(*parts, name, type(model).__name__, logits.shape[1]).eval()
        features = network.body(images)
        if not same_values(network.rest(features), logits):
            raise CannotSplit(
                "the two parts give other logits than the whole: its forward method decides by values or types that "
                "tracing does not see, or it is random in evaluation mode"
            )
        layers = [m for m in rest.modules() if isinstance(m, nn.Linear)]
        if len(layers) == 1 and layers[0].in_features == features.shape[1]:
            # any sign, so that a ReLU in between shows
            noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
            if same_values(layers[0](noise.mean(dim=(2, 3))), network.rest(noise)):
                network.pool, network.head, network.has_cam = GlobalAveragePool(), layers[0], True
        return network


class Body(nn.Module):
    """The part up to the layer: a graph that can be traced again, and what gives its output the shape of a feature map."""

    def __init__(self, graph: nn.Module, reshape: Reshape, layer: str) -> None:
        super().__init__()
        self.graph, self.reshape, self.layer = graph, reshape, layer

    def forward(self, images: Tensor) -> Tensor:
        return self.reshape.features(self.graph(images), self.layer)


class _Rest(nn.Module):
    def __init__(self, graph: nn.Module, reshape: Reshape) -> None:
        super().__init__()
        self.graph, self.reshape = graph, reshape

    def forward(self, features: Tensor) -> Tensor:
        assert self.reshape.inverse is not None  # `split` takes no other
        return self.graph(self.reshape.inverse(features.clone()))  # a copy: the first operation may work in place


class _AroundLayer(fx.Tracer):
    """Traces only the modules that hold the target layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return module is self.layer or all(inner is not self.layer for inner in module.modules())


def _cut(model: nn.Module, layer: nn.Module) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The graphs up to the layer's output and from there on."""
    try:
        # an optional argument is what its default says: as a traced value, `is None` would be wrong
        parameters = list(inspect.signature(model.forward).parameters.values())[1:]
        fixed = {p.name: p.default for p in parameters if p.default is not p.empty}
        with as_found(model):
            traced = _AroundLayer(layer).trace(model, fixed or None).nodes
            nodes = [node for node in traced if not _is_check(node)]
            calls = [n for n in nodes if n.op == "call_module" and model.get_submodule(n.target) is layer]
            if len(calls) != 1:
                raise CannotSplit(f"it runs {len(calls)} times in a forward pass: choose a layer that runs once")
            at = nodes.index(calls[0])
            body: fx.Graph = fx.Graph()
            copies: dict[fx.Node, fx.Node] = {}
            for node in nodes[: at + 1]:
                copies[node] = body.node_copy(node, copies.__getitem__)
            body.output(copies[nodes[at]])
            return fx.GraphModule(model, body), fx.GraphModule(model, _graph_after(nodes[at], nodes[at + 1 :]))
    except CannotSplit:
        raise
    except Exception as error:  # the user's code with traced values in the place of tensors fails in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise CannotSplit(f"the forward methods around it cannot be traced: {reason}") from error


def _graph_after(layer: fx.Node, nodes: list[fx.Node]) -> fx.Graph:
    graph = fx.Graph()
    copies = {layer: graph.placeholder("features")}

    def copy_of(node: fx.Node) -> fx.Node:
        if node not in copies:
            if node.op == "get_attr":
                copies[node] = graph.node_copy(node)
            elif _is_batch_size(node):
                copies[node] = graph.call_method("size", (copies[layer], 0))
            else:
                known = {"call_module": f"the output of '{node.target}'", "placeholder": "the input of the network"}
                value = known.get(node.op, repr(node.name))
                advice = "(a skip connection or branch): choose a layer after which the paths have met"
                raise CannotSplit(f"{value} passes beside it {advice}")
        return copies[node]

    for node in nodes:
        if node.op == "output" and not isinstance(node.args[0], fx.Node):
            raise CannotSplit("the network returns no single tensor of logits: wrap it in one that does")
        copies[node] = graph.node_copy(node, copy_of)
    return graph


def _is_check(node: fx.Node) -> bool:
    """An assertion that the forward method makes, or that tracing adds for an optional argument."""
    return node.op == "call_function" and getattr(node.target, "__name__", "") in ("_assert", "_assert_is_none")


def _is_batch_size(node: fx.Node) -> bool:
    """x.size(0), x.shape[0] or x.size()[0]: the same for the feature map as for anything before it."""
    if node.op == "call_method" and node.target == "size":
        return node.args[1:] == (0,) or node.kwargs == {"dim": 0}
    if getattr(node.target, "__name__", "") != "getitem" or node.args[1] != 0:
        return False
    of = node.args[0]
    is_size = isinstance(of, fx.Node) and of.op == "call_method" and of.target == "size" and len(of.args) == 1
    return isinstance(of, fx.Node) and (is_size or of.args[1:] == ("shape",))


# --------------------------------------------------------------------------- by a hook


class HookedModel(nn.Module):
    """A network with a hook on one layer, which is there during a call only.

    Attributes:
        model: the user's network, whole. layer: dotted name of the target layer. num_classes: K.
        reason: why it was not split. backbone: class name of the network. has_cam: False, no head is known.
    """

    has_cam = False

    def __init__(self, model: nn.Module, layer: str, reshape: Reshape, reason: str) -> None:
        super().__init__()
        self.model, self.layer, self.reshape, self.reason = model, layer, reshape, reason
        self.backbone, self.num_classes = type(model).__name__, 0

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images)

    def body(self, images: Tensor) -> Tensor:
        """(B, c, H, W) -> feature map (B, C, h, w), by a pass through the whole network."""
        seen: list[Tensor] = []
        # a copy, as the next operation may work in place
        self.run(images, lambda output: seen.append(self.reshape.features(output, self.layer).clone()))
        return seen[0]

    def run(self, images: Tensor, meet: Callable[[Tensor], Tensor | None]) -> Tensor:
        """Logits. `meet` is given the layer's output; what it returns takes its place, unless that is None."""
        calls = 0

        def hook(_layer: nn.Module, _inputs: tuple, output: Tensor) -> Tensor | None:
            nonlocal calls
            calls += 1
            return meet(output)

        handle = self.model.get_submodule(self.layer).register_forward_hook(hook)
        try:
            logits = self.model(images)
        finally:
            handle.remove()
        if calls != 1:
            raise WsolkitError(
                f"layer '{self.layer}' of {self.backbone} runs {calls} times in a forward pass, so that it has no "
                "one feature map: choose a layer that runs once"
                + (", outside of the part that torch.compile wraps" if "_orig_mod" in self.layer else "")
            )
        return logits


class _RestFor(nn.Module):
    """Of a hooked network, for these images: (B, C, h, w), row i belonging to images[i] -> logits (B, K)."""

    def __init__(self, network: HookedModel, images: Tensor) -> None:
        super().__init__()
        self.network, self.images = network, images

    def forward(self, features: Tensor) -> Tensor:
        if len(features) != len(self.images):
            raise WsolkitError(f"feature maps of {len(features)} images for a rest of {len(self.images)} images")
        differentiable = torch.is_grad_enabled()

        def meet(output: Tensor) -> Tensor:
            torch.set_grad_enabled(differentiable)  # until the network has returned
            return self.network.reshape.put(features, output)

        with torch.no_grad():  # nothing before the layer needs a graph
            return self.network.run(self.images, meet)


def hooked(
    model: nn.Module,
    layer: str | nn.Module,
    reshape: str | Callable | None = None,
    example: Tensor | None = None,
    reason: str = "",
) -> HookedModel:
    """Take any network by a hook on a layer; `score_maps` takes the result like a `WSOLModel`.

    Args: as of `split`; `reshape` may also be "tokens" (class token first, then a square of patches) or any function
        from the layer's output to (B, C, h, w) that only moves or drops entries, as those of the grad-cam package.

    Raises:
        CannotSplit: no such layer. ValueError: the layer runs not exactly once, or its output is no feature map.
    """
    model = uncompiled(model)
    network = HookedModel(model, find_layer(model, layer)[0], as_reshape(reshape), reason)
    shape = network.reshape
    with _on_example(model, example) as (images, logits):
        network.run(images, lambda output: shape.put(shape.features(output, network.layer), output))
        network.num_classes = logits.shape[1]
    return network


def rest_of(model: Any, images: Tensor | None = None) -> nn.Module:
    """The network from the feature map to the logits: `model.rest`, or pool and head one after the other.

    Of a hooked model it is the rest for these images.
    """
    if isinstance(model, HookedModel):
        if images is None:
            raise WsolkitError("this network could not be split, so its methods need images, not only features")
        return _RestFor(model, images)
    rest = getattr(model, "rest", None)
    return rest if isinstance(rest, nn.Module) else nn.Sequential(model.pool, model.head)


# --------------------------------------------------------------------------- what both need


def uncompiled(model: nn.Module) -> nn.Module:
    """The network that torch.compile wraps, with which it shares its weights; any other network as it is.

    Compiled code shows no values on their way, so the network itself is traced and hooked. TorchScript keeps no Python
    code: CannotSplit.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise CannotSplit(type(model).__name__ + _SCRIPTED)
    return getattr(model, "_orig_mod", model)


def find_layer(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    """Dotted name and module of a layer given as either; CannotSplit with the nearest names if there is none."""
    kind, modules = type(model).__name__, dict(model.named_modules())
    if isinstance(layer, str):
        name = layer.removeprefix("_orig_mod.")
    elif layer in modules.values():
        name = next(name for name, module in modules.items() if module is layer)
    else:
        raise CannotSplit(f"the given layer {type(layer).__name__} is no part of {kind}: give its name")
    if name == "":
        raise CannotSplit(f"layer '' is {kind} itself: name a layer inside it")
    parts = name.split(".")
    for above in (".".join(parts[:end]) for end in range(len(parts))):
        if isinstance(modules.get(above), torch.jit.ScriptModule):
            raise CannotSplit(f"'{above}', in which layer '{name}' lies," + _SCRIPTED)
    try:
        return name, model.get_submodule(name)  # unlike named_modules, also under a module's second name
    except AttributeError:
        near = difflib.get_close_matches(name, modules, n=5, cutoff=0.5)
        listed = ", ".join(near or [n for n, _ in model.named_children()])
        there = "nearest are" if near else "at the top are"
        raise CannotSplit(f"{kind} has no layer '{name}'; {there}: {listed}") from None


@contextmanager
def _on_example(model: nn.Module, example: Tensor | None) -> Iterator[tuple[Tensor, Tensor]]:
    """Evaluation mode without gradients, with an image that the network accepts and its logits (1, K)."""
    with evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
        yield _example_for(model, example)


def _example_for(model: nn.Module, example: Tensor | None) -> tuple[Tensor, Tensor]:
    kind = type(model).__name__
    if example is not None:
        images = example[:1].detach().clone()
        logits = model(images.clone())  # as the first operation may work in place
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            given = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise WsolkitError(f"{kind} must return logits (B, K), but returned {given}")
        return images, logits
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if convolution is None else convolution.in_channels
    like = next(model.parameters(), torch.zeros(()))
    own = getattr(model, "image_size", None)
    for size in (own, *_SIZES) if isinstance(own, int) else _SIZES:
        images = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0)).to(like)
        try:
            logits = model(images.clone())
        except Exception:  # too small, or not the one size it was built for
            continue
        if isinstance(logits, Tensor) and logits.ndim == 2:
            return images, logits
    raise WsolkitError(
        f"{kind} gives no logits (1, K) for a random image of {channels} channels and {_SIZES} px: "
        "give example=images that it accepts"
    )


# --------------------------------------------------------------------------- the layer of a known network, and all together

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

_kept: weakref.WeakKeyDictionary[nn.Module, tuple] = weakref.WeakKeyDictionary()  # what was split before
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
        raise WsolkitError(f"the network is already {type(model).__name__} at layer '{model.layer}': give no layer")
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
    with _on_example(model, example) as (image, expected):
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

    with _on_example(model, example) as (images, _), ExitStack() as hooks:
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

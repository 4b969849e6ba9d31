"""Any nn.Module as body and rest, cut by tracing.

`split` follows the values through the forward methods of the modules around the target layer (torch.fx; every other
module stays a closed box, so what happens inside it does not matter). What runs up to the layer's output is the body,
what runs after it is the rest, and the layer's output is the only value that may pass from one to the other. Where
more has to pass, `wsolkit.networks.hooked` serves.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable

import torch
from torch import Tensor, fx, nn

from wsolkit.networks.modules import as_found, evaluation_mode, same_values
from wsolkit.networks.pooling import GlobalAveragePool
from wsolkit.networks.reshapes import Reshape, as_reshape, feature_map_of

_SIZES = (64, 224, 299)  # of the random image that a cut is tried on: the first that the network accepts


class CannotSplit(ValueError):
    """The network cannot be cut at this layer; the message names the layer, the reason and what to do."""


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

    def __init__(self, body: nn.Module, rest: nn.Module, layer: str, backbone: str) -> None:
        super().__init__()
        self.body, self.rest, self.layer, self.backbone = body, rest, layer, backbone
        self.num_classes: int | None = None
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
    shape = as_reshape(reshape)
    if shape is not None and shape.inverse is None:
        raise _cannot(
            name,
            model,
            f"reshape {shape.name!r} cannot be undone (it drops entries, such as a class token, or is a function of "
            "your own), so the rest-network cannot be fed from the feature map alone",
        )
    with evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
        images, logits = example_for(model, example)
        body, rest = _cut(model, name, module)
        network = SplitModel(Body(body, shape, name), _Rest(rest, shape), name, type(model).__name__).eval()
        features = network.body(images)
        found = network.rest(features)
        if found.shape != logits.shape or not same_values(found, logits):
            raise _cannot(
                name,
                model,
                "the two parts give other logits than the whole: its forward method decides by values or types that "
                "tracing does not see, or it is random in evaluation mode",
            )
        network.num_classes = logits.shape[1]
        head = _linear_head(network.rest, features)
        if head is not None:
            network.pool, network.head, network.has_cam = GlobalAveragePool(), head, True
        return network


def uncompiled(model: nn.Module) -> nn.Module:
    """The network that torch.compile wraps, with which it shares its weights; any other network as it is.

    Compiled code shows no values on their way, so the network itself is traced and hooked. TorchScript keeps no Python
    code: CannotSplit.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise _scripted(type(model).__name__)
    return getattr(model, "_orig_mod", model)


def _scripted(name: str) -> CannotSplit:
    return CannotSplit(
        f"{name} is a TorchScript network (torch.jit), inside which no layer can be looked at: give the nn.Module that it "
        "was made from, with the same weights (load_state_dict takes the state_dict of the script)"
    )


def find_layer(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    """Dotted name and module of a layer given as either; CannotSplit with the nearest names if there is none."""
    modules = dict(model.named_modules())
    name = (
        layer.removeprefix("_orig_mod.")
        if isinstance(layer, str)
        else next((n for n, m in modules.items() if m is layer), None)
    )
    if name is None:
        raise CannotSplit(f"the given layer {type(layer).__name__} is no part of {type(model).__name__}: give its name")
    if name == "":
        raise CannotSplit(f"layer '' is {type(model).__name__} itself: name a layer inside it")
    parts = name.split(".")
    for end in range(len(parts)):
        if isinstance(modules.get(".".join(parts[:end])), torch.jit.ScriptModule):
            raise _scripted(f"'{'.'.join(parts[:end])}', in which layer '{name}' lies,")
    try:
        return name, model.get_submodule(name)  # unlike named_modules, also under a module's second name
    except AttributeError:
        near = difflib.get_close_matches(name, modules, n=5, cutoff=0.5)
        names = near or [n for n, _ in model.named_children()]
        raise CannotSplit(
            f"{type(model).__name__} has no layer '{name}'; {'nearest are' if near else 'at the top are'}: "
            + ", ".join(names)
        ) from None


class Body(nn.Module):
    def __init__(self, graph: nn.Module, reshape: Reshape | None, name: str) -> None:
        super().__init__()
        self.graph, self.reshape, self.name = graph, reshape, name

    def forward(self, images: Tensor) -> Tensor:
        return self.shaped(self.graph(images))

    def shaped(self, output: Tensor) -> Tensor:
        return feature_map_of(output, self.reshape, self.name)


class _Rest(nn.Module):
    def __init__(self, graph: nn.Module, reshape: Reshape | None) -> None:
        super().__init__()
        self.graph, self.reshape = graph, reshape

    def forward(self, features: Tensor) -> Tensor:
        features = features.clone()  # the first operation may work in place
        return self.graph(features if self.reshape is None else self.reshape.inverse(features))


class _AroundLayer(fx.Tracer):
    """Looks only into the modules that hold the target layer."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return module is self.layer or all(inner is not self.layer for inner in module.modules())


def _cut(model: nn.Module, name: str, layer: nn.Module) -> tuple[fx.GraphModule, fx.GraphModule]:
    try:
        # an optional argument is what its default says: as a traced value, `is None` would be wrong
        parameters = list(inspect.signature(model.forward).parameters.values())[1:]
        fixed = {p.name: p.default for p in parameters if p.default is not p.empty}
        with as_found(model):
            nodes = list(_AroundLayer(layer).trace(model, fixed or None).nodes)
            calls = [n for n in nodes if n.op == "call_module" and model.get_submodule(n.target) is layer]
            if len(calls) != 1:
                reason = f"it runs {len(calls)} times in a forward pass: choose a layer that runs once"
                raise _cannot(name, model, reason)
            at = nodes.index(calls[0])
            return _graph_up_to(model, nodes, at), _graph_from(model, nodes, at, name)
    except CannotSplit:
        raise
    except Exception as error:  # the user's code with traced values in the place of tensors fails in many ways
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise _cannot(name, model, f"the forward methods around it cannot be traced: {reason}") from error


def _graph_up_to(model: nn.Module, nodes: list[fx.Node], at: int) -> fx.GraphModule:
    graph, copies = fx.Graph(), {}
    for node in nodes[: at + 1]:
        if not _is_check(node):
            copies[node] = graph.node_copy(node, copies.__getitem__)
    graph.output(copies[nodes[at]])
    return fx.GraphModule(model, graph)


def _graph_from(model: nn.Module, nodes: list[fx.Node], at: int, name: str) -> fx.GraphModule:
    graph = fx.Graph()
    copies = {nodes[at]: graph.placeholder("features")}

    def of(node: fx.Node) -> fx.Node:
        if node not in copies:
            if node.op == "get_attr":
                copies[node] = graph.node_copy(node)
            elif _is_batch_size(node):
                copies[node] = graph.call_method("size", (copies[nodes[at]], 0))
            else:
                made = f"the output of '{node.target}'" if node.op == "call_module" else f"'{node.name}'"
                made = "the input of the network" if node.op == "placeholder" else made
                raise _cannot(
                    name,
                    model,
                    f"{made} passes beside it (a skip connection or branch): choose a layer after which the paths "
                    "have met",
                )
        return copies[node]

    for node in nodes[at + 1 :]:
        if node.op == "output" and not isinstance(node.args[0], fx.Node):
            raise _cannot(name, model, "the network returns no single tensor of logits: wrap it in one that does")
        if not _is_check(node):
            copies[node] = graph.node_copy(node, of)
    return fx.GraphModule(model, graph)


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
    return of.args[1:] == ("shape",) or (of.op == "call_method" and of.target == "size" and len(of.args) == 1)


def example_for(model: nn.Module, example: Tensor | None) -> tuple[Tensor, Tensor]:
    """One image that the network accepts, and its logits (1, K)."""
    if example is not None:
        images = example[:1].detach().clone()
        logits = model(images)
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ValueError(f"{type(model).__name__} must return logits (B, K), but returned {_said(logits)}")
        return images, logits
    convolution = next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if convolution is None else convolution.in_channels
    like = next(model.parameters(), torch.zeros(()))
    own = getattr(model, "image_size", None)
    for size in (own, *_SIZES) if isinstance(own, int) else _SIZES:
        images = torch.randn(1, channels, size, size, generator=torch.Generator().manual_seed(0)).to(like)
        try:
            logits = model(images)
        except Exception:  # too small, or not the one size it was built for
            continue
        if isinstance(logits, Tensor) and logits.ndim == 2:
            return images, logits
    raise ValueError(
        f"{type(model).__name__} gives no logits (1, K) for a random image of {channels} channels and {_SIZES} px: "
        "give example=images that it accepts"
    )


def _linear_head(rest: nn.Module, features: Tensor) -> nn.Linear | None:
    """The linear layer that is, after global average pooling, the whole rest; found by its numbers."""
    layers = [m for m in rest.modules() if isinstance(m, nn.Linear)]
    if len(layers) != 1 or layers[0].in_features != features.shape[1]:
        return None
    # any sign, so that a ReLU in between shows
    noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
    return layers[0] if same_values(layers[0](noise.mean(dim=(2, 3))), rest(noise)) else None


def _said(value: object) -> str:
    return f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def _cannot(name: str, model: nn.Module, reason: str) -> CannotSplit:
    return CannotSplit(
        f"{type(model).__name__} cannot be split at layer '{name}': {reason}. Or use hooked(model, '{name}'), "
        "which takes every network but runs the whole of it for each method"
    )

"""Any nn.Module as body and rest: images -> feature map -> logits. `network_for` makes one ready for `score_maps`.

`split` follows the values through the forward methods of the modules around the target layer (torch.fx; every other
module stays a closed box, so what happens inside it does not matter). What runs up to the layer's output is the body,
what runs after it is the rest, and the layer's output is the only value that may pass from one to the other.

Where more has to pass (a skip connection or a class token beside the feature map), or where the forward methods cannot
be traced, `hooked` serves: its rest runs the whole network on the images again, and a hook puts the given feature map
in the place of the layer's output. Gradients, logits and maps are those of the grad-cam package, which hooks the layer
of the whole network too; but nothing is differentiated by the body or the parameters, so their gradients stay as they
are and frozen networks work.
"""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import register_module_forward_hook
from torch.nn.parameter import is_lazy

from wsolkit.common.errors import WsolkitError, require
from wsolkit.networks.models import GlobalAveragePool
from wsolkit.networks.modules import as_found, copied, evaluation_mode, same_values, structure

Move = Callable[[Tensor], Tensor]
Target = Callable[[Any], Tensor]


class CannotSplit(WsolkitError):
    """The network cannot be cut at this layer; the message names the layer, the reason and what to do."""


def tokens(output: Tensor) -> Tensor:
    """(B, 1 + n*n, C) -> (B, C, n, n), without the class token, which comes first. As in the grad-cam package."""
    side = math.isqrt(max(output.shape[1] - 1, 0)) if output.ndim == 3 else 0
    if side * side + 1 != output.shape[1] or side == 0:
        raise WsolkitError(
            f'reshape "tokens" takes (B, 1 + n*n, C), a class token and a square of patches, not '
            f"{tuple(output.shape)}; give a function from the layer's output to (B, C, h, w) instead"
        )
    return output[:, 1:].transpose(1, 2).reshape(len(output), output.shape[2], side, side)


def nhwc(output: Tensor) -> Tensor:
    """(B, h, w, C) -> (B, C, h, w)."""
    return output.permute(0, 3, 1, 2)


PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
RESHAPES: dict[Any, Move | None] = {None: None, "tokens": tokens, "nhwc": nhwc}


def as_reshape(reshape: str | Move | None) -> Move | None:
    """The function of a reshape, given as its name, as a function or as None; ValueError for an unknown name."""
    if callable(reshape):
        return reshape
    require(reshape in RESHAPES, f"unknown reshape {reshape!r}; valid are tokens, nhwc, or a function to (B, C, h, w)")
    return RESHAPES[reshape]


def as_features(output: Any, layer: str, move: Move | None) -> Tensor:
    """A layer's output as (B, C, h, w), or a ValueError that says what it is and what to do."""
    if not isinstance(output, Tensor):
        kind = type(output).__name__
        raise WsolkitError(f"layer '{layer}' returns a {kind}, not a tensor: choose a layer inside or after it")
    features = output if move is None else move(output)
    if features.ndim != 4:
        hint = 'give reshape="tokens" (class token first) or a function' if features.ndim == 3 else "choose another"
        raise WsolkitError(
            f"layer '{layer}' must give a feature map (B, C, h, w), but gave {tuple(features.shape)}: {hint}"
        )
    return features


def put(features: Tensor, output: Tensor, move: Move | None) -> Tensor:
    """A layer's output, the entries that the feature map shows replaced by it; what `move` drops stays.

    Where each entry comes from is seen by moving an output that holds its own positions.

    Raises: ValueError: `move` does more than permute or drop entries, which would have no meaning for gradients.
    """
    if move is None:
        return features.clone()  # as the next operation may work in place
    positions = torch.arange(output[0].numel(), dtype=torch.float64, device=output.device)
    source, whole = move(positions.reshape(1, *output.shape[1:])).long().flatten(), output.flatten(1)
    inside = bool(((source >= 0) & (source < len(positions))).all())
    if not inside or not torch.equal(whole[:, source], move(output).flatten(1)):
        raise WsolkitError(
            f"reshape {getattr(move, '__name__', move)!r} changes values; it may only permute or drop entries"
        )
    return whole.index_copy(1, source, features.flatten(1)).reshape(output.shape)


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

    has_cam = False

    def __init__(self, body: nn.Module, rest: nn.Module, layer: str, backbone: str, num_classes: int) -> None:
        super().__init__()
        self.body, self.rest, self.layer, self.backbone, self.num_classes = body, rest, layer, backbone, num_classes

    def forward(self, images: Tensor) -> Tensor:
        return self.rest(self.body(images))


def split(
    model: nn.Module, layer: str | nn.Module, reshape: str | Move | None = None, example: Tensor | None = None
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
    model = unwrapped(model)
    name, module = find_layer(model, layer)
    move, kind = as_reshape(reshape), kind_of(model)
    try:
        if move is not None and move is not nhwc:
            raise CannotSplit(
                f"reshape {getattr(move, '__name__', move)!r} cannot be undone (it drops entries, such as a class "
                "token, or is a function of your own), so the rest cannot be fed from the feature map alone"
            )
        with _on_example(model, example) as (images, logits):
            network = SplitModel(*_cut(model, module, move), name, kind, logits.shape[1]).eval()
            features = as_features(network.body(images), name, None)
            try:
                again = network.rest(features)
            except Exception as error:  # of a target, say, that is given a plain dict where the network returns its own
                raise CannotSplit(f"what runs after it fails on its own: {first_line(error)}") from error
            if not same_values(again, logits):
                raise CannotSplit(
                    "the two parts give other logits than the whole: its forward method decides by values or types "
                    "that tracing does not see, or it is random in evaluation mode"
                )
            linear = [m for m in network.rest.modules() if isinstance(m, nn.Linear)]
            if len(linear) == 1 and linear[0].in_features == features.shape[1]:
                # any sign, so that a ReLU in between shows
                noise = torch.randn(features.shape, generator=torch.Generator().manual_seed(0)).to(features)
                pooled = noise.mean(dim=(2, 3)).to(linear[0].weight.dtype)
                if same_values(linear[0](pooled), network.rest(noise)):
                    network.pool, network.head, network.has_cam = GlobalAveragePool(), linear[0], True
            return network
    except CannotSplit as error:
        raise CannotSplit(
            f"{kind} cannot be split at layer '{name}': {error}. Or use hooked(model, '{name}'), "
            "which takes every network but runs the whole of it for each method"
        ) from error.__cause__


def _cut(model: nn.Module, layer: nn.Module, move: Move | None) -> tuple[fx.GraphModule, fx.GraphModule]:
    """The graphs up to the layer's output and from there on; `nhwc` ends the one and is undone in the other."""
    tracer, body, rest = fx.Tracer(), fx.Graph(), fx.Graph()
    # only the modules that hold the layer are traced
    tracer.is_leaf_module = lambda m, module_qualified_name: m is layer or layer not in m.modules()  # type: ignore
    around = [m for m in model.modules() if m is not model and m is not layer and layer in m.modules()]
    if any(m._forward_hooks or m._forward_pre_hooks for m in around):
        raise CannotSplit("a module around it has hooks, which would be given traced values")
    try:
        # an optional argument is what its default says: as a traced value, `is None` would be wrong
        parameters = list(inspect.signature(model.forward).parameters.values())[1:]
        fixed = {p.name: p.default for p in parameters if p.default is not p.empty}
        with as_found(model):
            traced = tracer.trace(model, fixed or None).nodes
            # without assertions that the forward method makes, or that tracing adds for an optional argument
            nodes = [n for n in traced if getattr(n.target, "__name__", "") not in ("_assert", "_assert_is_none")]
            calls = [n for n in nodes if n.op == "call_module" and model.get_submodule(n.target) is layer]
            if len(calls) != 1:
                raise CannotSplit(f"it runs {len(calls)} times in a forward pass: choose a layer that runs once")
            at = nodes.index(calls[0])
            copies: dict[fx.Node, fx.Node] = {}
            for node in nodes[: at + 1]:
                copies[node] = body.node_copy(node, copies.__getitem__)
            output = copies[calls[0]]
            body.output(output if move is None else body.call_method("permute", (output, 0, 3, 1, 2)))
            features = rest.call_method("clone", (rest.placeholder("features"),))  # as operations may work in place
            copies = {calls[0]: features if move is None else rest.call_method("permute", (features, 0, 2, 3, 1))}
            for node in nodes[at + 1 :]:
                if node.op == "output" and not isinstance(node.args[0], fx.Node):
                    raise CannotSplit("the network returns no single tensor of logits: wrap it in one that does")
                for given in (given for given in node.all_input_nodes if given not in copies):
                    if given.op != "get_attr":
                        known = {"call_module": f"the output of '{given.target}'", "placeholder": "the network's input"}
                        value = known.get(given.op, repr(given.name))
                        advice = "(a skip connection or branch): choose a layer after which the paths have met"
                        raise CannotSplit(f"{value} passes beside it {advice}")
                    copies[given] = rest.node_copy(given)
                copies[node] = rest.node_copy(node, copies.__getitem__)
            return fx.GraphModule(model, body), fx.GraphModule(model, rest)
    except CannotSplit:
        raise
    except Exception as error:  # the user's code with traced values in the place of tensors fails in many ways
        raise CannotSplit(f"the forward methods around it cannot be traced: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """The first line of an exception's message, or its kind where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]


class HookedModel(nn.Module):
    """A network with a hook on one layer, which is there during a call only.

    Attributes:
        model: the user's network, whole. layer: dotted name of the target layer. num_classes: K.
        reshape: from the layer's output to (B, C, h, w), or None where it is that. reason: why it was not split.
        backbone: class name of the network. has_cam: False, no head is known.
    """

    has_cam, num_classes, reason = False, 0, ""

    def __init__(self, model: nn.Module, layer: str, reshape: Move | None) -> None:
        super().__init__()
        self.model, self.layer, self.reshape, self.backbone = model, layer, reshape, kind_of(model)

    def forward(self, images: Tensor) -> Tensor:
        return self.model(taken(self.model, images))

    def body(self, images: Tensor) -> Tensor:
        """(B, c, H, W) -> feature map (B, C, h, w), by a pass through the whole network."""
        return self.look(images)[1]

    def look(self, images: Tensor, features: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Logits and the layer's feature map; given `features` take its place, and logits depend on nothing else."""
        if features is not None and len(features) != len(images):
            raise WsolkitError(f"feature maps of {len(features)} images for a rest of {len(images)} images")
        seen: list[Tensor] = []
        differentiable = torch.is_grad_enabled()

        def hook(_layer: nn.Module, _inputs: tuple, output: Any) -> Tensor:
            # a copy, as the next operation may work in place
            seen.append(as_features(output, self.layer, self.reshape).clone())
            torch.set_grad_enabled(differentiable)  # until the network has returned
            return put(seen[-1] if features is None else features, output, self.reshape)

        # nothing before the layer needs a graph
        with torch.no_grad(), self.model.get_submodule(self.layer).register_forward_hook(hook):
            logits = self(images)
        if len(seen) != 1:
            raise WsolkitError(
                f"layer '{self.layer}' of {self.backbone} runs {len(seen)} times in a forward pass, so that it has no "
                "one feature map: choose a layer that runs once, outside of the part that torch.compile wraps"
            )
        return logits, seen[0]


def hooked(
    model: nn.Module, layer: str | nn.Module, reshape: str | Move | None = None, example: Tensor | None = None
) -> HookedModel:
    """Take any network by a hook on a layer; `score_maps` takes the result like a `WSOLModel`.

    Args: as of `split`; `reshape` may also be "tokens" (class token first, then a square of patches) or any function
        from the layer's output to (B, C, h, w) that only moves or drops entries, as those of the grad-cam package.

    Raises: CannotSplit: no such layer. ValueError: the layer runs not exactly once, or its output is no feature map.
    """
    model = unwrapped(model)
    network = HookedModel(model, find_layer(model, layer)[0], as_reshape(reshape))
    with _on_example(model, example) as (images, logits):
        network.look(images)
        network.num_classes = logits.shape[1]
    return network


def rest_of(model: Any, images: Tensor | None = None) -> nn.Module:
    """The network from the feature map to the logits: `model.rest`, or pool and head one after the other.

    Of a hooked model it is the rest for these images.
    """
    if isinstance(model, HookedModel):
        if images is None:
            raise WsolkitError("this network could not be split, so its methods need images, not only features")
        behind = nn.Module()
        behind.forward = lambda features: model.look(images, features)[0]  # type: ignore[method-assign]
        return behind
    rest = getattr(model, "rest", None)
    return rest if isinstance(rest, nn.Module) else nn.Sequential(model.pool, model.head)


def finer_features(model: Any, images: Tensor, features: Tensor, precision: str = "float32") -> Tensor:
    """The last feature map on the way to `features` with more positions; `features` where there is none.

    Outputs with the channels last (Swin) count; attention, (B, heads, n, n), does not: with rows of sum 1, or any such
    output where the layer's is tokens.

    Args: model: with a `body`, in evaluation mode. images: (B, c, H, W). features: (B, C, h, w), what the body gives.
        precision: as in `score_maps`.

    Returns: (B, C', H', W') with H'W' > hw, without a graph.
    """
    finest, after, (height, width) = features, False, features.shape[2:]
    end = model.model.get_submodule(model.layer) if isinstance(model, HookedModel) else None
    by_tokens = isinstance(model, HookedModel) and model.reshape not in (None, nhwc)

    def finer(rows: int, columns: int) -> bool:
        more = rows > height and columns > width
        return more and abs(rows * width - columns * height) <= max(height, width)

    def note(module: nn.Module, _inputs: tuple, output: Any) -> None:
        nonlocal finest, after
        shape: Any = output.shape if isinstance(output, Tensor) else ()
        if not after and len(shape) == 4 and len(output) == len(images):
            attention = shape[2] == shape[3] and shape[2] - height * width in (0, 1)  # with or without a class token
            sums = output.sum(dim=3) if attention else output.new_zeros(1)
            attention &= by_tokens or torch.allclose(sums.float(), torch.ones_like(sums).float(), atol=1e-3)
            if finer(*shape[2:]) and not attention:
                finest = output
            elif finer(*shape[1:3]) and not finer(*shape[2:]) and shape[2:] != (height, width):
                finest = nhwc(output)
        after = after or module is end  # a hooked network runs on, and may grow its maps again

    handles = [module.register_forward_hook(note) for module in model.modules()]
    try:
        with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            model.body(images.clone())  # as the first operation may work in place
    finally:
        for handle in handles:
            handle.remove()
    return finest


def unwrapped(model: nn.Module) -> nn.Module:
    """The network that torch.compile or DataParallel wraps, with which it shares its weights; any other as it is.

    Compiled code shows no values on their way, so the network itself is traced and hooked.

    Raises: CannotSplit: TorchScript, which keeps no Python code; quantised weights, which no gradient passes.
    """
    while (inner := getattr(model, "_orig_mod", model.module if isinstance(model, PARALLEL) else None)) is not None:
        model = inner
    kind = type(model).__name__
    if isinstance(model, torch.jit.ScriptModule):
        raise CannotSplit(
            f"{kind} is a TorchScript network (torch.jit), inside which no layer can be reached: give "
            "the nn.Module that it was made from, with the same weights (load_state_dict takes the script's)"
        )
    places = {name: type(module).__module__ for name, module in model.named_modules()}
    quantised = [name for name, place in places.items() if place.startswith("torch.") and ".quantized." in place]
    quantised += [name for name, p in model.named_parameters() if not (p.is_floating_point() or p.is_complex())]
    if quantised:
        raise CannotSplit(
            f"{kind} is quantised: '{quantised[0]}' computes with whole numbers, which no gradient passes. Give the "
            "network in floating point that it was made from"
        )
    return model


def differentiable(model: nn.Module) -> nn.Module:
    """The network itself, or a copy where gradients need one: in float32 of a network in half precision, in which small
    gradients vanish; of one whose tensors were made in inference mode, which autograd refuses."""
    half = any(parameter.is_floating_point() and parameter.itemsize < 4 for parameter in model.parameters())
    if not half and not any(t.is_inference() for t in (*model.parameters(), *model.buffers()) if not is_lazy(t)):
        return model
    try:
        with torch.inference_mode(False):
            made = copied(model)
    except Exception as error:  # what users keep on their modules may be anything
        why = "is in half precision" if half else "was made in inference mode"
        raise WsolkitError(
            f"{kind_of(model)} {why} and cannot be copied ({first_line(error)}): give the same network in float32, "
            "made outside of inference mode"
        ) from error
    if half:
        _from_half.add(made.float())
    return made


def taken(model: nn.Module, images: Tensor) -> Tensor:
    """A copy of the images, as a network may work on them in place, in the dtype and on the device of its weights."""
    like = next((parameter for parameter in model.parameters() if parameter.is_floating_point()), images)
    return images.to(like.device, like.dtype, copy=True)


class Score(nn.Module):
    """A network's output -> (B, 1), by the caller's function, which is no part of the network."""

    def __init__(self, target: Target) -> None:
        super().__init__()
        self.target = lambda output: target(output)  # a module would become a part

    def forward(self, output: Any) -> Tensor:
        scores = self.target(output)
        good = isinstance(scores, Tensor) and scores.ndim == 1 and scores.is_floating_point()
        require(good, f"target must return one score per image, a float tensor (N,), but gave {described(scores)}")
        return scores[:, None]


class Scored(nn.Module):
    """A network with one score per image, (B, 1), in the place of its output."""

    def __init__(self, network: nn.Module, target: Target) -> None:
        super().__init__()
        self.network, self.score = network, Score(target)

    def forward(self, images: Tensor) -> Tensor:
        return self.score(self.network(images))


def kind_of(model: nn.Module) -> str:
    """The class name of the user's network."""
    return type(model.network if isinstance(model, Scored) else model).__name__


def described(output: Any) -> str:
    """What a network or a function returned, for messages."""
    if isinstance(output, Tensor):
        return f"a tensor {tuple(output.shape)} of {output.dtype}"
    return type(output).__name__ + (f" with {', '.join(map(str, output))}" if isinstance(output, dict) else "")


def find_layer(model: nn.Module, layer: str | nn.Module) -> tuple[str, nn.Module]:
    """Dotted name and module of a layer given as either; CannotSplit with the nearest names if there is none."""
    kind, modules = type(model).__name__, dict(model.named_modules())
    names = [layer] if isinstance(layer, str) else [name for name, module in modules.items() if module is layer]
    if not names:
        raise CannotSplit(f"the given layer {type(layer).__name__} is no part of {kind}: give its name")
    name = names[0]
    while name.startswith(("_orig_mod.", "module.")) and not hasattr(model, name.partition(".")[0]):
        name = name.partition(".")[2]  # of a wrapper around the network
    first = name.partition(".")[0]
    if first and not hasattr(model, first) and hasattr(getattr(model, "body", None), first):
        name = f"body.{name}"  # of a `WSOLModel`, whose body has torchvision's names
    if name == "":
        raise CannotSplit(f"layer '' is {kind} itself: name a layer inside it")
    try:
        unwrapped(model.get_submodule(name.rpartition(".")[0]))
        return name, model.get_submodule(name)  # unlike named_modules, also under a module's second name
    except AttributeError:
        near = difflib.get_close_matches(name, modules, n=5, cutoff=0.5)
        there, listed = ("nearest are", near) if near else ("at the top are", [n for n, _ in model.named_children()])
        raise CannotSplit(f"{kind} has no layer '{name}'; {there}: {', '.join(listed)}") from None


@contextmanager
def _on_example(model: nn.Module, example: Tensor | None, anything: bool = False) -> Iterator[tuple[Tensor, Any]]:
    """Evaluation mode without gradients, with an image that the network accepts and its logits (1, K), or `anything`
    that it returns."""
    kind, first = kind_of(model), next((m for m in model.modules() if isinstance(m, nn.Conv2d)), None)
    channels = 3 if first is None else first.in_channels
    sizes = (getattr(model, "image_size", 64), 64, 224, 299)
    try:
        inspect.signature((model.network if isinstance(model, Scored) else model).forward).bind(None)
    except TypeError as error:
        raise WsolkitError(
            f"the forward method of {kind} does not take images alone ({error}): wrap {kind} in a module whose forward "
            "method does, and calls it"
        ) from None
    except ValueError:  # a forward method without a signature
        pass
    noise = (torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(0)) for side in sizes)
    with evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
        for images in noise if example is None else [example[:1].detach()]:
            images = taken(model, images)
            try:
                output = model(images.clone())  # as the first operation may work in place
            except Exception as error:
                if example is None:  # too small, or not the one size it was built for
                    continue
                if first is not None and images.shape[1] != channels:
                    raise WsolkitError(
                        f"{kind} fails for an image of {images.shape[1]} channels, and its first convolution takes "
                        f"{channels}: give images that it accepts, or score_maps a preprocess= that makes them"
                    ) from error
                if isinstance(error, WsolkitError | torch.OutOfMemoryError):
                    raise
                shape = f"images of shape {tuple(images.shape)}, {images.dtype}".replace("torch.", "")
                advice = "give images that it accepts, or score_maps a preprocess= that makes them"
                if model in _from_half:
                    advice = (
                        "in half precision small gradients vanish, so this is a copy of it in float32, and its forward "
                        "method must take that: let it cast to the dtype of its weights, not by .half()"
                    )
                raise WsolkitError(f"{kind} itself fails for {shape} ({first_line(error)}): {advice}") from error
            if anything or (isinstance(output, Tensor) and output.ndim == 2 and len(output) == 1):
                yield images, output
                return
            if isinstance(model, Scored):
                raise WsolkitError(f"target must return one score per image, but gave {len(output)} for one image")
            raise WsolkitError(
                f"{kind} must return logits (B, K), but gives {described(output)}: give score_maps a target=, a "
                "function of that output to one score per image, or wrap the network so that it returns logits"
            )
    size = f"a random image of {channels} channels and 64, 224 or 299 px"
    raise WsolkitError(f"{kind} must return logits (B, K), but fails for {size}: give example=images that it accepts")


def _last_but_one(model: nn.Module, name: str) -> str:
    """Dotted name of the last but one of a sequence of layers, which may be in DataParallel or compiled."""
    layers: Any = model.get_submodule(name)
    while not hasattr(layers, "__len__") and (inner := next(iter(dict(layers.named_children())), "")):
        name, layers = f"{name}.{inner}", getattr(layers, inner)
    return f"{name}.{len(layers) - 2}"


# By a class's name in torchvision.models: the last feature map before the pooling or, where tokens are, the last place
# whose patches the logits still depend on (grad-cam's advice): after the last block of a ViT only the class token is
# used, and its patches have no gradient.
_TARGETS: dict[str, str | Callable[[Any], str]] = {
    "AlexNet": lambda model: _last_but_one(model, "features"),  # the last ReLU; a max pooling ends `features`
    "VGG": lambda model: _last_but_one(model, "features"),
    "ResNet": "layer4",  # ResNeXt and Wide ResNet too
    **dict.fromkeys(("DenseNet", "MobileNetV2", "MobileNetV3", "EfficientNet"), "features"),
    **dict.fromkeys(("ConvNeXt", "SqueezeNet"), "features"),
    "Inception3": "Mixed_7c",
    "GoogLeNet": "inception5b",
    "MNASNet": "layers",
    "RegNet": "trunk_output",
    "ShuffleNetV2": "conv5",
    "MaxVit": lambda model: f"blocks.{len(model.blocks) - 1}",
    "SwinTransformer": "norm",
    "VisionTransformer": lambda model: f"encoder.layers.encoder_layer_{len(model.encoder.layers) - 1}.ln_1",
}

_kept: weakref.WeakKeyDictionary[nn.Module, tuple] = weakref.WeakKeyDictionary()  # what was split before
_scored: weakref.WeakKeyDictionary[nn.Module, tuple] = weakref.WeakKeyDictionary()  # the latest with a target
_checked: weakref.WeakSet[nn.Module] = weakref.WeakSet()
_from_half: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # copies in float32 of networks in half precision


def network_for(
    model: nn.Module,
    layer: str | nn.Module | None = None,
    reshape: str | Move | None = None,
    example: Tensor | None = None,
    target: Target | None = None,
) -> nn.Module:
    """What `score_maps` works on: split at the layer where that is possible, else hooked there.

    This takes two or three passes of one image; a split is kept while the model lives and its modules stay the same,
    of those with a target the latest one, for the same function.

    Args:
        model: (B, c, H, W) -> logits (B, K). One with a `body`, or that is cut at this layer already, is returned as it
            is, unless another layer is given. Where torch.compile or DataParallel wraps it, the network inside is
            taken; where it is in half precision or was made in inference mode, a copy in float32.
        layer: dotted name or module; None: the target layer of a network of torchvision (`target_layer`).
        reshape: "nhwc", "tokens", a function to (B, C, h, w), or None: what the architecture is known to need, else
            "nhwc" where only the dimensions before the last one have the proportions of the image.
        example: images that the network accepts, of which the first is used; None: a random one.
        target: what the network returns, in evaluation mode -> one score per image (B,), which becomes its only logit.

    Returns:
        `SplitModel`, or `HookedModel`, whose `reason` says why the network could not be split.

    Raises:
        CannotSplit: a layer that does not exist; TorchScript and quantised networks.
        ValueError: no layer given for an unknown network (candidates are listed); a layer whose output is no feature
            map; a `body` that is not part of what the model computes; an output that is no logits, without `target`.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
        >>> cut = network_for(net, "1")
        >>> type(cut).__name__, cut.num_classes, cut.has_cam
        ('SplitModel', 5, True)
    """
    if isinstance(model, (SplitModel, HookedModel)) and layer == model.layer:
        layer = None
    if isinstance(model, (SplitModel, HookedModel)) and layer is not None:
        raise WsolkitError(f"the network is already {type(model).__name__} at layer '{model.layer}': give no layer")
    model = unwrapped(model)
    if isinstance(layer, nn.Module):
        layer = find_layer(model, layer)[0]
    model = differentiable(model)
    if any(isinstance(module, _BatchNorm) and module.running_mean is None for module in model.modules()):
        text = "has batch norms without running statistics, so that the map of an image depends on those beside it"
        warnings.warn(
            f"{type(model).__name__} {text}: give images one by one, with chunk=1", RuntimeWarning, stacklevel=3
        )
    if target is not None and isinstance(model, HookedModel):
        layer, reshape, model = model.layer, model.reshape, model.model
    elif target is not None and layer is None and hasattr(model, "body"):
        layer = "body"
    if layer is None and hasattr(model, "body"):
        # parts that are this package's own, or all that there is, are what the model computes
        parts: Any = model
        own = isinstance(model, (SplitModel, HookedModel)) or hasattr(model, "spec")
        if example is not None and not own and type(model).forward is not nn.Module.forward and model not in _checked:
            with _on_example(model, example) as (image, expected):
                if not same_values(rest_of(model)(parts.body(image).clone()), expected):
                    raise WsolkitError(
                        f"{type(model).__name__} has a `body`, but `rest` (or pool and head) after body does not give "
                        "what the model computes: give layer=, the name of the module whose output is the feature map"
                    )
            _checked.add(model)
        return model
    name, module = find_layer(model, target_layer(model, example) if layer is None else layer)
    if reshape is None and not isinstance(module, nn.Conv2d):  # the patch embedding, before anything is reshaped
        from torchvision import models  # takes as long as torch: only where a network is

        vit = isinstance(model, models.VisionTransformer) and name.startswith("encoder")
        swin = isinstance(model, models.SwinTransformer) and name != "permute"
        reshape = "tokens" if vit else "nhwc" if swin else None
    whole, key, state = model, (name, reshape), structure(model)
    kept_state, kept = _kept.get(whole, (None, {})) if target is None else _scored.get(whole, (None, {}))
    kept = kept if kept_state == (state if target is None else (state, target)) else {}
    if key not in kept:
        model = model if target is None else Scored(model, target)
        reshape = reshape or _layout(model, module, example)
        try:
            kept[key] = split(model, module, reshape, example)
        except CannotSplit as error:
            by_hook = hooked(model, module, reshape, example)
            by_hook.reason = str(error)
            return by_hook  # holds the model, so is not kept
        if target is None:
            _kept[whole] = (state, kept)
        else:
            _scored.clear()  # a target may hold its network, which then lives on: one at most
            _scored[whole] = ((state, target), kept)
    return kept[key]


def _layout(model: nn.Module, layer: nn.Module, example: Tensor | None) -> str | None:
    """ "nhwc" where a layer's output is an image with its channels last, else None."""
    if isinstance(layer, torch.jit.ScriptModule):  # takes no hook
        return None
    shapes: list[tuple[int, ...]] = []
    handle = layer.register_forward_hook(lambda _m, _i, output: shapes.append(tuple(getattr(output, "shape", ()))))
    try:
        with _on_example(model, example, anything=True) as (images, _):
            pass  # the hook has seen the pass that found the example
    finally:
        handle.remove()
    height, width = images.shape[2:]

    def fits(rows: int, columns: int) -> bool:
        return rows <= height and columns <= width and abs(rows - height * columns / width) <= 1

    shape = shapes[-1] if shapes else ()
    return "nhwc" if len(shape) == 4 and fits(*shape[1:3]) and not fits(*shape[2:]) else None


def target_layer(model: nn.Module, example: Tensor | None = None) -> str:
    """Dotted name of the layer that localisation methods use by default, for the networks of torchvision.

    Raises: ValueError: another network; the message lists the last layers that give a feature map or tokens.
    """
    from torchvision import models

    model = unwrapped(model)
    for family, target in _TARGETS.items():
        if isinstance(model, getattr(models, family)):
            return target if isinstance(target, str) else target(model)
    names = {module: name for name, module in model.named_modules() if name}
    shapes: list[str] = []  # in the order in which modules finish

    def note(module: nn.Module, _inputs: tuple, output: object) -> None:
        if module in names and isinstance(output, Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
            shapes.append(f"'{names[module]}' {tuple(output.shape)}")

    with _on_example(model, example, anything=True) as (images, _), register_module_forward_hook(note):
        model(images)
    raise WsolkitError(
        f"no target layer is known for {type(model).__name__}: give layer=, the dotted name of a module, usually the "
        "last one before the pooling. Its last layers with a feature map (B, C, h, w) are "
        + ("; ".join(shapes[-8:]) or "(none found)")
    )

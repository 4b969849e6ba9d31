"""The body of a network, made fast for looking on a CPU; the numbers stay those of the network up to rounding.

Where nothing is trained, a convolution can do what follows it: batch normalisation is a change of its weights, and the
activation and the sum with a residual branch are done while its result is still in the cache (oneDNN's post-operations,
which torch.compile uses too, without the seconds that compiling takes). And a pass over few images at a time keeps
feature maps in the cache between layers. Both are found by tracing the body; a body that cannot be traced, that has hooks,
or whose fused copy gives other numbers than itself runs as it is, and so does every body on other devices.

The choice depends on the call alone, not on what was called before, so that the same call gives the same bits. The copy
of the weights is made once and kept as long as the body lives. Before every use it is checked that weights and
modules of the body are still what they were.
"""

from __future__ import annotations

import operator
import threading
import weakref
from collections.abc import Hashable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsolkit.networks.modules import as_found, structure
from wsolkit.networks.split import Body

_CACHE_BYTES = 8 * 2**20  # of the largest feature map in a pass, for each thread: about what a core's caches hold
_KEPT = 2  # copies of one body, so that other sizes do not fill the memory
_WORTH = 100_000  # pixels in a call (two images of 224 px): below, making the copy costs more than it saves
_ACTIVATIONS: dict[type[nn.Module], tuple] = {  # what oneDNN can append: its name, scalars, algorithm
    nn.ReLU: ("relu", [], None),
    nn.ReLU6: ("hardtanh", [0.0, 6.0], None),
    nn.SiLU: ("swish", [], None),
    nn.Hardswish: ("hardswish", [], None),
}
_RELUS = (F.relu, torch.relu)
_SUMS = (operator.add, operator.iadd, torch.add)
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}  # of the largest value, between the copy and the body itself

_kept: weakref.WeakKeyDictionary[nn.Module, _Kept] = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def run(body: nn.Module, images: Tensor, precision: str = "float32") -> Tensor:
    """(B, c, H, W) -> feature map (B, C, h, w), as `body(images)` gives it in evaluation mode, without a graph.

    Args:
        body: images -> feature map, every image on its own.
        images: float, best in channels last.
        precision: "float32", or "bf16", which is bfloat16 autocast inside; the result is float32 either way.
    """
    if isinstance(body, Body):  # of a split network: its graph can be traced, what shapes the output cannot
        return body.reshape.features(run(body.graph, images, precision), body.layer)
    with torch.no_grad(), torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
        fitted = _copy_of(body, images, torch.bfloat16 if precision == "bf16" else torch.float32)
        if fitted is None:
            features = body(images)
        else:
            network, count = fitted
            features = torch.cat([network(part) for part in images.tensor_split(-(-len(images) // count))])
    return features.float() if precision == "bf16" else features


class _Kept:
    """The copies of one body, and what it was when they were made."""

    def __init__(self, state: Hashable) -> None:
        self.state = state
        self.copies: dict[Hashable, tuple[nn.Module, int] | None] = {}


def _copy_of(body: nn.Module, images: Tensor, dtype: torch.dtype) -> tuple[nn.Module, int] | None:
    """The fused copy of a body and the number of images it takes best, or None where the body is to run as it is."""
    if not _possible(body, images, dtype):
        return None
    key = (dtype, *images.shape[1:])  # weights are stored in the order that suits this size
    with _lock:
        kept = _kept.get(body)
        if kept is not None and kept.copies.get(key, ...) is None:
            return None  # tried in vain
        state = _state(body)
        if kept is None or kept.state != state:
            kept = _kept[body] = _Kept(state)
        if key not in kept.copies:
            while len(kept.copies) >= _KEPT:
                del kept.copies[next(iter(kept.copies))]
            try:
                kept.copies[key] = _make(body, images, dtype)
            except Exception:  # forward methods of any kind are traced here; what cannot be is run as it is
                kept.copies[key] = None
        return kept.copies[key]


def _possible(body: nn.Module, images: Tensor, dtype: torch.dtype) -> bool:
    if not isinstance(body, nn.Module) or images.device.type != "cpu" or images.dtype != torch.float32:
        return False
    if len(images) < 2 or images[:, 0].numel() < _WORTH:
        return False
    operations = torch.ops.mkldnn
    if not (torch.backends.mkldnn.is_available() and hasattr(operations, "_convolution_pointwise")):
        return False
    if dtype == torch.bfloat16 and not operations._is_mkldnn_bf16_supported():
        return False
    return not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in body.modules())


def _state(body: nn.Module) -> Hashable:
    """Changes when a module or a value of the body does, also where `.data` was written behind torch's back."""
    tensors = [*body.parameters(), *body.buffers()]
    addresses = [(t.data_ptr(), 0 if t.is_inference() else t._version) for t in tensors]
    # of every tensor one sum, weighed by position so that values that change places show too
    flat = [t.detach().reshape(-1) for t in tensors if t.dtype == torch.float32]
    longest = max((len(t) for t in flat), default=1)
    weights = _weights(1 << (longest - 1).bit_length())  # few lengths, so that they are drawn once
    sums = torch.stack([torch.dot(t, weights[: len(t)]) for t in flat]) if flat else torch.zeros(0)
    return structure(body), tuple(addresses), sums.numpy().tobytes()


@lru_cache(maxsize=2)
def _weights(length: int) -> Tensor:
    return torch.rand(length, generator=torch.Generator().manual_seed(0))


def _make(body: nn.Module, images: Tensor, dtype: torch.dtype) -> tuple[nn.Module, int] | None:
    convolutions = sum(m.weight.numel() for m in body.modules() if isinstance(m, nn.Conv2d))
    if 2 * convolutions < sum(p.numel() for p in body.parameters()):
        return None  # a transformer: nothing to win
    with as_found(body):
        graph = fx.GraphModule(body, fx.Tracer().trace(body))
    few = images[:2]
    expected = body(few.clone())
    with torch.autocast("cpu", enabled=False):
        ShapeProp(graph).propagate(few[:1].clone())
    largest = max(_bytes(node) for node in graph.graph.nodes) * dtype.itemsize // 4
    count = max(1, _CACHE_BYTES * torch.get_num_threads() // max(1, largest))
    if not _rewrite(graph, max(2, count), dtype):
        return None
    given = torch.cat([graph(image[None].clone()) for image in few])  # one by one: so it must be a matter of each image
    return (graph, count) if given.shape == expected.shape and _close(given, expected, dtype) else None


def _close(given: Tensor, expected: Tensor, dtype: torch.dtype) -> bool:
    scale = expected.float().abs().max().clamp(min=1e-6)
    return bool((given.float() - expected.float()).abs().max() <= _TOLERANCE[dtype] * scale)


def _bytes(node: fx.Node) -> int:
    meta = node.meta.get("tensor_meta")
    return 4 * meta.shape.numel() if meta is not None and hasattr(meta, "shape") else 0


def _shape(node: object) -> torch.Size | None:
    return getattr(node.meta.get("tensor_meta"), "shape", None) if isinstance(node, fx.Node) else None


class _Convolution(nn.Module):
    """A convolution with what follows it; `residual` is added before the activation."""

    def __init__(self, convolution: nn.Conv2d, shape: tuple, activation: tuple, dtype: torch.dtype) -> None:
        super().__init__()
        self.how = (convolution.padding, convolution.stride, convolution.dilation, convolution.groups)
        self.activation, self.dtype = activation, dtype
        weight, bias = convolution.weight.detach().to(dtype), convolution.bias
        self.weight = torch.ops.mkldnn._reorder_convolution_weight(weight, *self.how, shape)
        self.bias = None if bias is None else bias.detach().to(dtype)

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        x = x.to(self.dtype)
        if residual is None:
            return torch.ops.mkldnn._convolution_pointwise(x, self.weight, self.bias, *self.how, *self.activation)
        relu = "relu" if self.activation[0] == "relu" else None
        return torch.ops.mkldnn._convolution_pointwise.binary(
            x, residual.to(self.dtype), self.weight, self.bias, *self.how, "add", 1.0, relu, [], None
        )


def _rewrite(graph: fx.GraphModule, count: int, dtype: torch.dtype) -> int:
    """Put `_Convolution` in the place of every convolution and what it can do besides; returns how many there are."""
    modules = dict(graph.named_modules())
    made = 0
    for node in list(graph.graph.nodes):
        convolution = _module(node, modules, nn.Conv2d)
        if convolution is None or node.graph is not graph.graph or not _plain(convolution, node):
            continue
        chain, residual = [node], None
        activation: tuple = ("none", [], None)
        norm = _module(_only_user(chain[-1]), modules, nn.BatchNorm2d)
        if norm is not None and norm.track_running_stats:
            convolution = fuse_conv_bn_eval(convolution, norm)
            chain.append(_only_user(chain[-1]))
        following = _only_user(chain[-1])
        if following is not None and (appended := _activation(following, modules)) is not None:
            activation = appended
            chain.append(following)
        elif following is not None and (other := _residual(following, chain)) is not None:
            chain.append(following)
            residual, after = other, _only_user(following)
            if after is not None and _activation(after, modules) == _ACTIVATIONS[nn.ReLU]:
                activation = _ACTIVATIONS[nn.ReLU]
                chain.append(after)
        shape = (count, *node.args[0].meta["tensor_meta"].shape[1:])  # type: ignore[union-attr]  # _plain has checked it
        name = f"_fused_{made}"
        graph.add_submodule(name, _Convolution(convolution, shape, activation, dtype))
        # a sum waits for its other branch; what has none stays where the convolution was, before anything changes in place
        with graph.graph.inserting_before(node) if residual is None else graph.graph.inserting_after(chain[-1]):
            new = graph.graph.call_module(name, (node.args[0],) if residual is None else (node.args[0], residual))
        new.meta = chain[-1].meta
        chain[-1].replace_all_uses_with(new)
        for replaced in reversed(chain):
            graph.graph.erase_node(replaced)
        made += 1
    graph.delete_all_unused_submodules()
    graph.recompile()
    return made


def _module(node: fx.Node | None, modules: dict[str, nn.Module], kind: type[nn.Module]) -> Any:
    """The module that a node calls, if it is of exactly this kind (a subclass may do something else)."""
    if node is None or node.op != "call_module":
        return None
    module = modules.get(str(node.target))
    return module if type(module) is kind else None


def _plain(convolution: nn.Conv2d, node: fx.Node) -> bool:
    return (
        convolution.padding_mode == "zeros"
        and not isinstance(convolution.padding, str)
        and convolution.weight.dtype == torch.float32
        and _shape(node.args[0] if node.args else None) is not None
    )


def _only_user(node: fx.Node | None) -> fx.Node | None:
    return next(iter(node.users)) if node is not None and len(node.users) == 1 else None


def _activation(node: fx.Node | None, modules: dict[str, nn.Module]) -> tuple | None:
    if node is None:
        return None
    if node.op == "call_module":
        module = modules.get(str(node.target))  # None: a convolution that was put in just now
        return None if module is None else _ACTIVATIONS.get(type(module))
    relu = (node.op == "call_function" and node.target in _RELUS) or (
        node.op == "call_method" and node.target == "relu"
    )
    return _ACTIVATIONS[nn.ReLU] if relu else None


def _residual(node: fx.Node, chain: list[fx.Node]) -> fx.Node | None:
    """The other summand, where `node` adds two feature maps of one shape."""
    if node.op != "call_function" or node.target not in _SUMS or len(node.args) != 2 or node.kwargs:
        return None
    if chain[0].all_input_nodes[0].users.keys() != {chain[0]}:  # the input might change in place before the sum is due
        return None
    (other,) = [arg for arg in node.args if arg is not chain[-1]] or [None]
    return other if isinstance(other, fx.Node) and _shape(other) == _shape(chain[-1]) else None

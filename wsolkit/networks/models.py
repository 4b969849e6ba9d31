"""Networks as body, pool and head: image -> feature map -> vector -> logits; and TS-CAM's, whose head comes first.

Pooling is the mean of all positions (GAP) or of the strong ones only (TAP). Weights come from files, safetensors or
weights-only .pth, and every key that does not fit is named.
"""

from __future__ import annotations

import argparse
import codecs
import warnings
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from wsolkit.common.errors import WsolkitError, is_real, is_whole, reason, require
from wsolkit.common.files import given_path, listing
from wsolkit.networks.backbones import family, scaled
from wsolkit.networks.modules import evaluation_mode

if TYPE_CHECKING:
    from torchvision.models import VisionTransformer  # the import takes as long as torch's: only where a network is

# how others keep weights: in a dictionary under a name, beside plain values, and under a prefix of their own
WRAPPERS = (
    "state_dict", "model_state_dict", "model", "net", "network", "weights", "ema", "model_ema", "state_dict_ema",
    "model_state", "params", "encoder", "teacher",
)  # fmt: skip
PREFIXES = (
    "module.", "model.", "backbone.", "net.", "network.", "encoder.", "_orig_mod.", "_module.", "encoder_q.", "resnet.",
)  # fmt: skip
_NUMBER = np.float64(0).__reduce__()[0]
PLAIN: list[Any] = [argparse.Namespace, np.dtype, *{type(np.dtype(kind)) for kind in ("f4", "f8", "i4", "i8", "?")}]
PLAIN += [(_NUMBER, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
PLAIN += [(codecs.encode, "_codecs.encode")]


def thresholded_average_pool(features: torch.Tensor, tau: float = 0.1) -> torch.Tensor:
    """Mean over the positions of each channel that exceed `tau` times the channel's own maximum.

    The maximum is taken per image and per channel, the comparison is strict, and the divisor counts the kept positions
    that are positive (at least 1), so a channel without any positive value pools to 0. Mask, maximum and count are
    constants for the gradient: it is 1/n at the kept positions and 0 elsewhere.

    Args:
        features: (B, C, h, w) float feature map, usually after a ReLU.
        tau: share of the channel maximum, in [0, 1).

    Returns:
        (B, C), same dtype as `features`.

    Source: Bae, Noh, Kim, "Rethinking Class Activation Mapping for Weakly Supervised Object Localization", ECCV 2020.
    """
    if features.ndim != 4:
        raise WsolkitError(f"expected a feature map of shape (B, C, h, w), but got {tuple(features.shape)}")
    with torch.no_grad():
        keep = features > tau * features.amax(dim=(2, 3), keepdim=True)
        count = (keep & (features > 0)).sum(dim=(2, 3)).clamp(min=1)
    # where, not a product: an infinite or NaN value outside the mask must not leak into the sum
    kept = features.where(keep, features.new_zeros(()))
    return kept.sum(dim=(2, 3)) / count.to(features.dtype)


class GlobalAveragePool(nn.Module):
    """(B, C, h, w) -> (B, C), the mean over all positions (GAP)."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features.mean(dim=(2, 3))


class ThresholdedAveragePool(nn.Module):
    """(B, C, h, w) -> (B, C), see `thresholded_average_pool`; the same in training and in evaluation."""

    def __init__(self, tau: float = 0.1) -> None:
        super().__init__()
        require(0.0 <= tau < 1.0, f"tau is the share of the channel maximum and must lie in [0, 1), but is {tau}")
        self.tau = float(tau)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return thresholded_average_pool(features, self.tau)

    def extra_repr(self) -> str:
        return f"tau={self.tau}"


class WSOLModel(nn.Module):
    """A classifier in three parts, `head(pool(body(images)))`.

    Attributes:
        body: (B, 3, H, W) -> feature map (B, C, h, w) after its last ReLU (convnext_tiny: after its last LayerNorm, so
            with negative values). Child names are torchvision's: a parameter is "body." + torchvision's name.
        pool: feature map -> (B, D).
        head: Linear(D, K); logits are (B, K).
        rest: feature map -> logits, the part through which gradients of localisation methods run.
        backbone, pooling ("gap", "tap", "fc", "acol" or "bas"), stride, num_classes: as given to `build_model`.
        has_cam: True where the head weighs the feature map's channels: only then CAM and RethinkingCAM are defined.
        new_parts: modules whose weights came from no pretrained file.
        spec: the arguments that rebuild this model with `build_model(**spec)`.
    """

    body: nn.Module
    pool: nn.Module
    head: nn.Linear

    def __init__(self, spec: dict, new_parts: tuple[str, ...], body: nn.Module, **parts: nn.Module) -> None:
        super().__init__()
        self.spec, self.new_parts = spec, new_parts
        self.backbone, self.num_classes, self.stride = spec["backbone"], spec["num_classes"], spec.get("stride")
        self.pooling = spec.get("pooling", self.backbone)
        self.has_cam = self.pooling in ("gap", "tap")
        for name, part in {"body": body, **parts}.items():
            self.add_module(name, part)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.pool(self.body(images)))

    def keep(self, **tensors: torch.Tensor) -> None:
        """Store what a method has fitted to this network beside its classifier, as buffers of `fitted`; checkpoints
        hold them like weights."""
        fitted: Any = getattr(self, "fitted", nn.Module())
        self.add_module("fitted", fitted)
        for name, tensor in tensors.items():
            fitted.register_buffer(name, tensor)
        self.spec["fitted"] = self.spec.get("fitted", {}) | {name: [*t.shape] for name, t in tensors.items()}

    @property
    def rest(self) -> nn.Sequential:
        return nn.Sequential(self.pool, self.head)

    def is_new(self, parameter_name: str) -> bool:
        """Whether a parameter belongs to a layer that did not start from pretrained weights."""
        return parameter_name.startswith(tuple(part + "." for part in self.new_parts))


class ACoLModel(WSOLModel):
    """Adversarial complementary learning: two classifiers, the second of which sees what the first did not need.

    `branch_a` and `branch_b` turn a feature map (B, C, h, w) into K class maps (B, K, h, w): conv3x3 to 1024 channels
    and ReLU, twice, then conv1x1; logits are the means of the maps. Branch B sees the feature map without the positions
    where A's map of the class, scaled to [0, 1], reaches `delta`. The erasing mask is a constant for the gradient.

    `model(images)` gives A's logits, those that classify; `model(images, labels)` gives (A's, B's), as training needs
    them. Plain CAM is not defined, as a branch is no linear head: the method is "acol".

    Differs from the published networks: no 3x3 mean pooling before the branches, poolings 2x2 with stride 2 throughout.

    Source: Zhang et al., "Adversarial Complementary Learning for Weakly Supervised Object Localization", CVPR 2018.
    """

    branch_a: nn.Sequential
    branch_b: nn.Sequential

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None):
        features = self.body(images)
        maps_a = self.branch_a(features)
        if labels is None:
            return self.pool(maps_a)
        seen = maps_a.detach()[torch.arange(len(labels), device=labels.device), labels]
        return self.pool(maps_a), self.pool(self.branch_b(erase(features, seen, self.delta)))

    @property
    def rest(self) -> nn.Sequential:
        return nn.Sequential(self.branch_a, self.pool)

    @property
    def delta(self) -> float:
        return self.spec["delta"]


class BASModel(WSOLModel):
    """Background activation suppression: a generator of class maps in the middle of the body, and a classifier that
    says what is left of an object where they are.

    `generator` (conv3x3 to K channels, sigmoid) turns the features F of the body's middle (`Backbone.middle`) into maps
    M (B, K, h', w') of foreground; `branch` turns the body's feature map into K class maps, as in ACoL, whose positive
    parts' means are the logits. `model(images)` gives the logits; `model(images, labels)`, for training, also the
    logits of the foreground (the class maps times M of the label), the score of the label where F is multiplied by
    1 - M, and the mean of M over positions. That score comes from frozen copies of all weights, and of F no gradient is
    taken: only M learns from it.

    Source: Wu et al., "Background Activation Suppression for Weakly Supervised Object Localization", CVPR 2022.
    """

    generator: nn.Conv2d
    branch: nn.Sequential

    def halves(self) -> tuple[nn.Sequential, nn.Sequential]:
        """The body up to its middle, and what follows; the modules are those of `body`."""
        middle, steps = family(self.backbone).middle[bool(self.spec["batch_norm"])], []
        if not middle:
            return nn.Sequential(self.body), nn.Sequential()
        for name, part in self.body.named_children():
            inside = part.named_children() if middle.startswith(f"{name}.") else ()
            steps += [(f"{name}.{own}", module) for own, module in inside] or [(name, part)]
        end = [name for name, _ in steps].index(middle) + 1
        return nn.Sequential(*dict(steps[:end]).values()), nn.Sequential(*dict(steps[end:]).values())

    def maps(self, features: torch.Tensor) -> torch.Tensor:
        """(B, C', h', w') of the body's middle -> (B, K, h', w') foreground in [0, 1]."""
        return self.generator(features).sigmoid()

    def forward(self, images: torch.Tensor, labels: torch.Tensor | None = None):
        front, back = self.halves()
        features = front(images)
        maps = self.branch(back(features)).relu()
        if labels is None:
            return self.pool(maps)
        rows = torch.arange(len(labels), device=labels.device)
        foreground = self.maps(features)[rows, labels][:, None]  # (B, 1, h', w')
        seen = nn.functional.adaptive_avg_pool2d(foreground, maps.shape[2:])
        rest = nn.Sequential(back, self.branch, nn.ReLU(), self.pool)
        frozen = {name: tensor.detach().clone() for name, tensor in rest.state_dict().items()}
        background = torch.func.functional_call(rest, frozen, (features.detach() * (1 - foreground),))
        return self.pool(maps), self.pool(maps * seen), background[rows, labels], foreground.mean((1, 2, 3))

    @property
    def rest(self) -> nn.Sequential:
        return nn.Sequential(self.branch, nn.ReLU(), self.pool)


def unit_range(maps: torch.Tensor) -> torch.Tensor:
    """(B, h, w) -> the same, each map scaled to [0, 1] by its own minimum and maximum; a constant one is all zeros."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return torch.where(high > low, (maps - low) / (high - low), torch.zeros_like(maps))


def erase(features: torch.Tensor, seen: torch.Tensor, delta: float) -> torch.Tensor:
    """(B, C, h, w) features, 0 where the map `seen` (B, h, w), scaled to [0, 1], is at least `delta`."""
    return features * (unit_range(seen) < delta)[:, None].to(features.dtype)


def _branch(channels: int, hidden: int, num_classes: int) -> nn.Sequential:
    first, second = (nn.Conv2d(inputs, hidden, 3, padding=1) for inputs in (channels, hidden))
    return nn.Sequential(first, nn.ReLU(True), second, nn.ReLU(True), nn.Conv2d(hidden, num_classes, 1))


def _fully_connected(channels: int, hidden: int) -> nn.Sequential:
    """VGG16's own way from the feature map to a vector: pool5, 7x7, two hidden layers."""
    before = nn.Sequential(nn.MaxPool2d(2, 2), nn.AdaptiveAvgPool2d(7), nn.Flatten())
    first, second = (nn.Linear(inputs, hidden) for inputs in (channels * 49, hidden))
    classifier = nn.Sequential(first, nn.ReLU(True), nn.Dropout(0.5), second, nn.ReLU(True), nn.Dropout(0.5))
    return nn.Sequential(OrderedDict(before=before, classifier=classifier))


def build_model(
    backbone: str,
    num_classes: int,
    pooling: str | None = None,
    weights: str = "imagenet",
    stride: int | None = None,
    tau: float = 0.1,
    width: float = 1.0,
    batch_norm: bool | None = None,
    seed: int = 0,
    delta: float = 0.6,
    bare: bool = False,
    fitted: dict[str, list[int]] | None = None,
    size: int | None = None,
) -> WSOLModel:
    """Build a classifier as body, pool and head.

    Args:
        backbone: "vgg16" (13 convolutions, one added 3x3 convolution to 1024 channels), "resnet50", "resnet18",
            "mobilenet_v2", "convnext_tiny" (with its last LayerNorm before the pooling, `backbones._convnext_tiny`),
            "inception_v3" (up to Mixed_6e, and two added convolutions, `backbones._inception_v3`), "vgg16_fc" (plain
            VGG16 with its fully connected layers), or "timm:NAME" (`wsolkit.networks.timm_bodies`).
        pooling: "gap", "tap" (thresholded average pooling with `tau`; on the signed feature map of convnext_tiny it is
            that of its positive part), "acol" (two branches, `ACoLModel`), "bas" (`BASModel`); "fc" is the only one
            of vgg16_fc.
        weights: "imagenet" (torchvision's file, or the one that timm names, downloaded once), "none", or a file
            (.safetensors or weights-only .pth) with torchvision's or timm's key names or this package's own.
        stride: of the feature map, one of `backbones.family(backbone).strides`; None is the first. vgg16 and
            inception_v3 have 16, 8; resnets 16, 8, 32; mobilenet_v2 and convnext_tiny 16, 32; vgg16_fc 16.
        width: channels multiplied by this (1.0 is the published network), for training from scratch on small machines.
        batch_norm: True inserts batch normalisation into a VGG (torchvision's vgg16_bn), without which thirteen
            convolutions hardly train from scratch; None is the family's own: VGG and ConvNeXt without, others with.
        seed: of the random initialisation; the global random state is left as it was.
        delta: share of the maximum at which ACoL erases, in (0, 1]; 0.6 is the published one.
        bare: leave out the part of the body that no published file has, vgg16's added convolution.
        fitted: names and shapes of what `WSOLModel.keep` stores, zeros at first.
        size: side of the images, for which networks of timm with position embeddings are made; None is their own.

    Raises: ValueError: for a combination that does not exist, or weights that do not fit (naming the keys).
    """
    known = family(str(backbone))
    pooling = known.poolings[0] if pooling is None else pooling
    stride = known.strides[0] if stride is None else stride
    for name, value, allowed in (("pooling", pooling, known.poolings), ("stride", stride, known.strides)):
        require(value in allowed, f"{backbone} has no {name} {value!r}; choose from {', '.join(map(str, allowed))}")
    for name, factor, most, is_a in (("width", width, 4, "multiplies the channels"), ("delta", delta, 1, "is a share")):
        good = is_real(factor, 0, most) and factor > 0
        require(good, f"{name} {is_a} and must lie in (0, {most}], but is {factor!r}")
    require(is_whole(seed), f"seed must be a whole number of at least 0, but is {seed!r}")
    if batch_norm is None:
        batch_norm = bool(known.batch_norm)
    elif known.batch_norm not in (None, batch_norm):
        has = "always has" if known.batch_norm else "never has"
        raise WsolkitError(f"{backbone} {has} batch normalisation; leave batch_norm at None")
    require(is_whole(num_classes, 2), f"num_classes must be a whole number of at least 2, but is {num_classes!r}")

    source, state = f"weights '{weights}'", None
    if weights not in ("none", "imagenet"):
        state = read_state(weights)
    elif weights == "imagenet" and known.loads is None:
        state = imagenet_state(known.torchvision + ("_bn" if batch_norm and backbone.startswith("vgg") else ""))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spec = {"backbone": backbone, "num_classes": num_classes, "pooling": pooling, "stride": stride}
        spec |= {"tau": tau, "width": width, "batch_norm": batch_norm} | ({"bare": True} if bare else {})
        if known.loads is not None:
            spec["size"] = size or known.size
            load = partial(known.loads, stride, width, spec["size"])
            body, channels = load("imagenet" if weights == "imagenet" else None)
            if state is not None:
                body, state = _with_weights_of_timm(body, load, state, source)
        else:
            build: Any = (known.branched if bare or pooling in ("acol", "bas") else None) or known.build
            body, channels = build(stride, width, batch_norm)
        heads: list[Any]
        if pooling == "acol":
            spec["delta"] = delta
            branches = {name: _branch(channels, scaled(1024, width), num_classes) for name in ("branch_a", "branch_b")}
            model: WSOLModel = ACoLModel(spec, (*branches,), body, **branches, pool=GlobalAveragePool())
            heads = [branch[-1] for branch in branches.values()]
        elif pooling == "bas":
            branch = _branch(channels, scaled(1024, width), num_classes)
            model = BASModel(spec, ("branch", "generator"), body, branch=branch, pool=GlobalAveragePool())
            with torch.no_grad(), evaluation_mode(model):
                side = (size or known.size) or 64
                middle = model.halves()[0](torch.zeros(1, 3, side, side))
            model.add_module("generator", nn.Conv2d(middle.shape[1], num_classes, 3, padding=1))
            heads = [branch[-1]]
        else:
            pool: nn.Module = ThresholdedAveragePool(tau) if pooling == "tap" else GlobalAveragePool()
            if pooling == "fc":
                pool, channels = _fully_connected(channels, scaled(4096, width)), scaled(4096, width)
            heads = [nn.Linear(channels, num_classes)]
            model = WSOLModel(spec, (*(() if bare else known.extra), "head"), body, pool=pool, head=heads[0])
        if weights == "none":  # no layer is pretrained, so there is none whose gradients a recipe could damp
            model.new_parts = tuple(name for name, _ in model.named_children())
        own = set(body.modules()) if known.own_start else set()
        for module in model.modules():
            if isinstance(module, nn.Conv2d) and module not in own:
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        for layer in heads:
            nn.init.normal_(layer.weight, 0.0, 0.01)
            nn.init.zeros_(layer.bias)
    if fitted:
        model.keep(**{name: torch.zeros(shape) for name, shape in fitted.items()})
    if state is not None:
        _load(model, state, source, known.head_keys)
    return model


def read_state(path: str | Path) -> dict[str, torch.Tensor]:
    """Read a flat dictionary of tensors, also one inside a training checkpoint (`WRAPPERS`, of several the first, of
    which a warning tells); pickled code is never run: beside tensors and plain values a file may hold an
    argparse.Namespace and numpy's numbers, which are data."""
    path = given_path(path, "weights: 'imagenet', 'none' or a .safetensors or .pth file")
    if not path.is_file():
        raise FileNotFoundError(
            f"weights '{path}' not found; expected 'imagenet', 'none' or a .safetensors or .pth file"
        )
    try:
        with path.open("rb") as file:
            head = file.read(16).lstrip()
        kinds = {b"<": "a web page", b"version https:": "a pointer of Git LFS (git lfs pull fetches the file)"}
        for mark, kind in kinds.items():
            require(not head.startswith(mark), f"weights '{path}' are {kind}; put the file of weights itself there")
        if path.suffix == ".safetensors" or head[8:9] == b"{":  # whatever the name of the file says
            return load_file(path)
        with torch.serialization.safe_globals(PLAIN):
            state = torch.load(path, map_location="cpu", weights_only=True)
    except WsolkitError:
        raise
    except Exception as error:  # damaged archives raise many kinds
        raise WsolkitError(
            f"weights '{path}' cannot be read ({_short(error)}); expected safetensors or a state_dict "
            "saved with torch.save that holds tensors only"
        ) from error
    others: list[str] = []
    while isinstance(state, dict) and (own := [name for name in WRAPPERS if isinstance(state.get(name), dict)]):
        others += [name for name in _networks(state) if name != own[0]]
        state, taken = state[own[0]], own[0]
    if others:
        both = f"weights '{path}': the file holds several networks; '{taken}' is read, and not {listing(others)}"
        warnings.warn(both, stacklevel=3)
    unknown = listing(_networks(state) if isinstance(state, dict) else [])
    wrong = f"weights '{path}' hold networks under names that nobody knows: {unknown}"
    require(not unknown, f"{wrong}; save the state_dict of one alone with torch.save")
    pairs = state.items() if isinstance(state, dict) else ()
    good = pairs and all(isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in pairs)
    require(good, f"weights '{path}' hold no state_dict; expected a dictionary of tensors under their names")
    bare = [key for key, value in pairs if value.layout != torch.strided or value.is_meta]
    wrong = f"weights '{path}' hold tensors that are sparse or without values: {listing(bare)}"
    require(not bare, f"{wrong}; save them whole")
    return state


def _networks(state: dict) -> list[str]:
    """The names under which a dictionary holds dictionaries of tensors."""
    inner = {name: own.values() for name, own in state.items() if isinstance(own, dict) and own}
    return [str(name) for name, own in inner.items() if all(isinstance(value, torch.Tensor) for value in own)]


def imagenet_state(name: str) -> dict[str, torch.Tensor]:
    """The published weights of a network of torchvision, downloaded once."""
    from torchvision.models import get_model_weights

    weights = get_model_weights(name).IMAGENET1K_V1
    try:
        return weights.get_state_dict(progress=False, check_hash=True)
    except Exception as error:  # URLError, HTTPError, timeouts, a wrong hash: all mean that the file is not here
        folder = Path(torch.hub.get_dir()) / "checkpoints"
        raise OSError(
            f"the ImageNet weights of {name} could not be downloaded ({_short(error)}). Fetch {weights.url} on a "
            f"machine with a network and put it into {folder}, or pass the file's path as weights, or weights='none'"
        ) from error


def _short(error: Exception) -> str:
    return f"{type(error).__name__}: {reason(error)}"


def _finite(values: torch.Tensor) -> bool:
    """Whether floating-point values are finite, and stay so in float32."""
    return not values.is_floating_point() or bool(values.float().isfinite().all())


def _better_without(state: dict[str, torch.Tensor], prefix: str, known: set[str]) -> bool:
    """Whether all keys have a prefix, or more are known when they lose it."""
    fits = sum(key.removeprefix(prefix) in known for key in state) - sum(key in known for key in state)
    return fits > 0 or all(key.startswith(prefix) for key in state)


def _without_prefixes(state: dict[str, torch.Tensor], known: set[str], source: str) -> dict[str, torch.Tensor]:
    """A state without the prefixes that training frameworks put before all keys, of each of which a warning tells."""
    while prefix := next((name for name in PREFIXES if _better_without(state, name, known)), ""):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
        warnings.warn(f"{source}: the keys are read without their prefix '{prefix}'", stacklevel=4)
    return state


def _with_weights_of_timm(
    body: nn.Module, load: Callable, state: dict[str, torch.Tensor], source: str
) -> tuple[nn.Module, dict[str, torch.Tensor] | None]:
    """A body made anew with a file's weights, and None; or the same body and the weights, if these are this package's
    own, which fit the whole network."""
    wanted = [f"body.{key}" for key in body.state_dict()]
    state = _without_prefixes(state, {key.removeprefix(part) for key in wanted for part in ("", "body.net.")}, source)
    if any(key.startswith("body.") for key in state):
        return body, state
    try:
        return load(state)[0], None
    except WsolkitError as error:
        raise WsolkitError(f"{source} {error}, or weights='none'") from error


def _of_network(state: dict[str, torch.Tensor], names: set[str], source: str) -> dict[str, torch.Tensor]:
    """A state without what lies beside a whole network: heads, losses and counters of a training framework."""
    parts = {name.split(".")[0] for name in names}
    beside = [key for key in state if key.split(".")[0] not in parts]
    if not beside or any(name not in state for name in names if not name.endswith("num_batches_tracked")):
        return state
    warnings.warn(f"{source}: {len(beside)} keys are of no part of this network: {listing(beside)}", stacklevel=4)
    return {key: value for key, value in state.items() if key not in beside}


def _load(model: WSOLModel, state: dict[str, torch.Tensor], source: str, head_keys: tuple[str, ...]) -> None:
    """Load weights with torchvision's key names (their classifier is left out: the new head has other classes) or with
    this package's own (`body.`, `pool.`, `head.`), which must fit whole."""
    wanted = model.state_dict()
    names = {key: key for key in wanted}
    plain = {key.removeprefix(part) for key in wanted for part in ("", "body.", "pool.")}
    state = _without_prefixes(state, plain, source)
    if not any(key.startswith("body.") for key in state):  # torchvision's
        state = {key: value for key, value in state.items() if not key.startswith(head_keys)}
        names = {key: key.removeprefix("body.").removeprefix("pool.") for key in wanted if not model.is_new(key)}
        state = _of_network(state, set(names.values()), source)
    shapes = {name: tuple(wanted[key].shape) for key, name in names.items()}
    both = [(name, tuple(value.shape), shapes[name]) for name, value in state.items() if name in shapes]
    real = [name for key, name in names.items() if wanted[key].is_floating_point()]
    faults = {  # a missing batch counter is none
        "missing": [name for name in shapes if name not in state and not name.endswith("num_batches_tracked")],
        "unexpected": [name for name in state if name not in shapes],
        "mis-shaped": [f"{name} is {given}, expected {shape}" for name, given, shape in both if given != shape],
        "of whole or complex numbers": [name for name in real if name in state and not state[name].is_floating_point()],
        "without finite numbers": [name for name in real if name in state and not _finite(state[name])],
    }
    if any(faults.values()):
        listed = "; ".join(f"{len(keys)} {kind}: {listing(keys)}" for kind, keys in faults.items() if keys)
        fits = len(both) > len(shapes) / 2
        advice = "Mend these keys" if fits else "They seem to be of another network: choose the file of this backbone"
        raise WsolkitError(f"{source} do not fit {model.backbone}; {listed}. {advice}, or weights='none'")
    model.load_state_dict({key: state[name] for key, name in names.items() if name in state}, strict=False)


class PatchTokens(nn.Module):
    """(B, 3, S, S) -> (B, D, n, n): the patches of a torchvision ViT after its last layer norm."""

    def __init__(self, vit: VisionTransformer) -> None:
        super().__init__()
        self.image_size = vit.image_size
        self.conv_proj, self.class_token, self.encoder = vit.conv_proj, vit.class_token, vit.encoder

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.shape[-2:] != (self.image_size, self.image_size):
            size = "x".join(map(str, images.shape[-2:]))
            raise WsolkitError(f"this network takes images of {self.image_size}x{self.image_size} px, not {size}")
        patches = self.conv_proj(images)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches.flatten(2).transpose(1, 2)], dim=1)
        return self.encoder(tokens)[:, 1:].transpose(1, 2).reshape(patches.shape)


class TSCAM(WSOLModel):
    """A vision transformer whose patches, not its class token, decide on the class: logits are the means of K maps.

    The class token is never asked for a class. It takes part in the attention alone, from which the method "ts_cam"
    reads where to look.

    Attributes:
        body: `PatchTokens`. head: 3x3 convolution from D channels to K maps. pool: their mean. rest: head and pool.
        has_cam: False, as the head is a convolution. spec: the arguments that rebuild it with `rebuild(**spec)`.

    Source: Gao et al., "TS-CAM: Token Semantic Coupled Attention Map for Weakly Supervised Object Localization", ICCV
    2021.
    """

    def __init__(self, vit: VisionTransformer, num_classes: int) -> None:
        layers: Any = vit.encoder.layers
        spec = {"backbone": "ts_cam", "num_classes": num_classes}
        spec |= {name: getattr(vit, name) for name in ("image_size", "patch_size", "hidden_dim", "mlp_dim")}
        spec |= {"num_layers": len(layers), "num_heads": layers[0].num_heads}
        head = nn.Conv2d(vit.hidden_dim, num_classes, 3, padding=1)
        super().__init__(spec, ("head",), PatchTokens(vit), head=head, pool=GlobalAveragePool())

    @property
    def rest(self) -> nn.Sequential:
        return nn.Sequential(self.head, self.pool)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pool(self.head(self.body(images)))


def ts_cam(vit: VisionTransformer, num_classes: int, seed: int = 0) -> TSCAM:
    """A TS-CAM network on a ViT of torchvision, to be trained with `wsolkit.fit` and explained by method "ts_cam".

    Args:
        vit: with the weights to start from; its layers are used, not copied, and its own head is left aside.
        num_classes: K, at least 2.
        seed: of the new convolution; the global random state is left as it was.

    Raises: ValueError: no VisionTransformer of torchvision, one with a convolutional stem, or fewer than two classes.
    """
    from torchvision.models import VisionTransformer

    if not isinstance(vit, VisionTransformer) or not isinstance(vit.conv_proj, nn.Conv2d):
        kind = type(vit).__name__ + (" with a convolutional stem" if isinstance(vit, VisionTransformer) else "")
        raise WsolkitError(f"ts_cam takes a VisionTransformer of torchvision with one patch embedding, not {kind}")
    require(num_classes >= 2, f"num_classes must be at least 2, but is {num_classes}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return TSCAM(vit, num_classes).to(vit.conv_proj.weight)


def rebuild(backbone: str, num_classes: int, **spec: Any) -> WSOLModel:
    """The network of a `spec`, with random weights, for a checkpoint to be loaded into."""
    if backbone != "ts_cam":
        return build_model(backbone, num_classes, weights="none", **spec)
    from torchvision.models import VisionTransformer

    with torch.random.fork_rng(devices=[]):
        return ts_cam(VisionTransformer(**spec), num_classes)

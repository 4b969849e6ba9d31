"""Bodies of timm's networks: all whose features are a map, or tokens on a grid. What they are, timm itself is asked.

The body of such a network is all of it up to its classifier, at every position of its last features: what its own head
does before the classifier (a norm, a 1x1 convolution, hidden layers, the value that attention pooling takes) is done to
each position as if the whole image were like it. So a linear layer acts on the channels of the feature map, and CAM is
defined. Where the head only averages, `classifier(mean(body(images)))` are timm's own logits.

Library: R. Wightman, PyTorch Image Models (timm).
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from wsolkit.common.errors import WsolkitError, reason, require
from wsolkit.common.parameters import nearest
from wsolkit.networks.modules import renormalised

DILATED = (16, 8)  # strides that networks may have beside their own, by timm's `output_stride`


class Facts(NamedTuple):
    """Of a network: strides of its feature map (its own first), input side, channels, whether it has batch norms."""

    strides: tuple[int, ...]
    size: int
    channels: int
    batch_norm: bool


class TimmBody(nn.Module):
    """(B, 3, H, W), normalised with ImageNet's statistics -> feature map (B, C, h, w).

    Attributes:
        input: from ImageNet's mean and standard deviation to the network's own. net: the network, without classifier.

    Raises: WsolkitError: features are neither a map nor tokens that fill a grid of the image's proportions, or the
        head takes no single position.
    """

    def __init__(self, net: nn.Module, name: str) -> None:
        super().__init__()
        told = config(name)
        self.input, self.net, self.name = renormalised(told.mean, told.std), net, name

    def forward(self, images: Tensor) -> Tensor:
        net: Any = self.net
        features = net.forward_features(self.input(images))
        shape = tuple(getattr(features, "shape", ()))
        require(len(shape) in (3, 4), f"timm:{self.name} gives {_kind(features)} and no feature map; choose another")
        last = str(getattr(net, "output_fmt", "")).endswith("NHWC")  # an enumeration of timm's
        if len(shape) == 4:
            height, width = shape[1:3] if last else shape[2:]
            positions = features.flatten(0, 2)[:, None, None] if last else features.movedim(1, 3).flatten(0, 2)
            positions = positions if last else positions[:, :, None, None]
        else:
            prefix = getattr(net, "num_prefix_tokens", 0)  # class and register tokens
            count = shape[1] - prefix
            height = round(math.sqrt(count * images.shape[2] / images.shape[3]))
            width = count // max(height, 1)
            fault = f"timm:{self.name} gives {count} tokens, which fill no grid; choose another network"
            require(height * width == count > 1, fault)
            # prefix tokens too are this position, so that whatever the head pools it pools from that alone
            positions = features[:, prefix:].flatten(0, 1)[:, None].expand(-1, 1 + prefix, -1)
        vectors = net.forward_head(positions, pre_logits=True)
        return vectors.reshape(shape[0], height, width, -1).permute(0, 3, 1, 2)


def _kind(features: Any) -> str:
    return f"a {type(features).__name__}" if not isinstance(features, Tensor) else f"values {tuple(features.shape)}"


def library() -> Any:
    """The module timm. Raises: WsolkitError: it is not installed."""
    try:
        import timm
    except ImportError as error:
        need = "networks whose names begin with timm: need the library timm, which is not installed"
        raise WsolkitError(f"{need}: pip install 'wsolkit[timm]'") from error
    return timm


def config(name: str) -> Any:
    """timm's own configuration of a network's published weights: mean, std, input_size, classifier, ...

    Raises: WsolkitError: no such network, or no such weights of it (the tag after the point).
    """
    timm = library()
    hint = nearest(name.partition(".")[0], timm.list_models())
    require(timm.is_model(name), f"timm {timm.__version__} has no network '{name}'{hint} (wsolkit backbones 'timm:*')")
    try:
        return timm.get_pretrained_cfg(name, allow_unregistered=False)
    except RuntimeError as error:
        known = ", ".join(timm.list_models(f"{name.partition('.')[0]}.*", pretrained=True)) or "none"
        raise WsolkitError(
            f"timm:{name}: {reason(error).rstrip('.')}; with published weights there are: {known}"
        ) from error


def _create(name: str, size: int, stride: int | None = None, num_classes: int = 0, **options: Any) -> nn.Module:
    if config(name).fixed_input_size:
        options["img_size"] = size
    if stride is not None:
        options["output_stride"] = stride
    net = library().create_model(name, num_classes=num_classes, **options)
    if num_classes:
        net.reset_classifier(0)
    return net


def _shape(name: str, size: int, stride: int | None = None) -> tuple[int, int, bool]:
    """Channels and side of the feature map of an image of this side, and whether there are batch norms; no arithmetic
    is done for it (torch's device "meta").

    Raises: WsolkitError: the network, or its body, cannot be built for that; the message says why.
    """
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), torch.no_grad():
            body = TimmBody(_create(name, size, stride), name).eval()
            features = body(torch.zeros(2, 3, size, size))
    except WsolkitError:
        raise
    except Exception as error:  # every network of timm says in its own way what it cannot do
        at = f"images of {size} px" + (f" at stride {stride}" if stride else "")
        own = config(name).input_size[-1]
        fault = f"timm:{name} takes no {at} ({reason(error)}); its own side is {own} px"
        raise WsolkitError(fault) from error
    return features.shape[1], features.shape[2], any(isinstance(m, _BatchNorm) for m in body.modules())


@cache
def facts(name: str) -> Facts:
    """What timm and the shapes tell of a network. Raises: WsolkitError: see `config` and `TimmBody`."""
    size = config(name).input_size[-1]
    channels, side, norm = _shape(name, size)
    own = round(size / side)
    strides = [own]
    for stride in DILATED:
        try:
            if stride < own and _shape(name, size, stride)[1] == math.ceil(size / stride):
                strides.append(stride)
        except WsolkitError:  # it has its own stride only
            break
    return Facts(tuple(strides), size, channels, norm)


def build(
    name: str, stride: int, width: float, size: int | None, weights: Literal["imagenet"] | dict[str, Tensor] | None
) -> tuple[TimmBody, int]:
    """A body and its number of channels.

    Args:
        name: timm's, with or without the tag of its weights. stride: of `Facts.strides`. width: 1.
        size: side of the images; of the positions that a network has embeddings for these are resampled, by timm.
        weights: None is random; "imagenet" is the file that timm's configuration names, downloaded once by its library;
            or a state dictionary under timm's names, with or without its classifier.

    Raises:
        WsolkitError: no such network or size, weights that do not fit, a width.
        OSError: published weights cannot be had.
    """
    require(width == 1, f"timm:{name} has its published channels only; leave width at 1")
    known = facts(name)
    size, dilated = size or known.size, None if stride == known.strides[0] else stride
    _shape(name, size, dilated)
    if weights is None:
        net = _create(name, size, dilated)
    elif isinstance(weights, dict):
        net = _loaded(name, size, dilated, dict(weights))
    else:
        try:
            net = _create(name, size, dilated, config(name).num_classes, pretrained=True)
        except Exception as error:  # of the network, of the library that downloads, of a file that is not there
            raise OSError(
                f"the published weights of timm:{name} cannot be had ({type(error).__name__}: {reason(error)}). On a "
                f"machine with a network, timm.create_model('{name}', pretrained=True) keeps them in its cache; or "
                "pass a file's path as weights, or weights='none'"
            ) from error
    return TimmBody(net, name), known.channels


def _loaded(name: str, size: int, stride: int | None, state: dict[str, Tensor]) -> nn.Module:
    """With a state dictionary's weights, which timm brings into its present form and resamples where the size asks."""
    told = config(name).classifier or ""
    head = f"{told if isinstance(told, str) else told[0]}.weight"
    classes = len(state[head]) if head in state else 0
    norms = {key.replace("running_mean", "num_batches_tracked") for key in state if key.endswith("running_mean")}
    state |= {key: torch.tensor(0) for key in norms - state.keys()}  # a missing batch counter is no fault
    overlay = {"state_dict": state, "num_classes": classes, "label_offset": 0}
    try:
        net: Any = _create(name, size, stride, classes, pretrained=True, pretrained_cfg_overlay=overlay)
    except Exception as error:  # torch names the keys; what brings them into form fails in many ways
        raise WsolkitError(
            f"do not fit timm:{name}; {' '.join(str(error).split())[:600]}. Choose the file of this network"
        ) from error
    net.pretrained_cfg.pop("state_dict")  # timm keeps it with the network
    bad = [key for key, value in net.state_dict().items() if value.is_floating_point() and not value.isfinite().all()]
    require(not bad, f"do not fit timm:{name}; {len(bad)} without finite numbers: {', '.join(bad[:8])}")
    return net

"""From images and labels to score maps: what all methods have in common, and the smoothing of maps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from wsolkit.boxes.preparation import remove_inferior
from wsolkit.boxes.protocols import IVR_SHARE
from wsolkit.common.errors import WsolkitError, is_whole, require
from wsolkit.common.files import listing
from wsolkit.methods.context import Context, in_chunks
from wsolkit.methods.registry import CHOSEN, IVR, LAYER, Method, MethodNotDefined, check_option, is_defined, resolve
from wsolkit.networks import folded
from wsolkit.networks.models import unit_range
from wsolkit.networks.modules import PRECISIONS, evaluation_mode
from wsolkit.networks.split import described, first_line, kind_of, network_for, rest_of, taken

# the package's test-time augmentation: every flip with every factor; mirrored or not, factor
_COPIES = ((False, 1.0), (False, 0.9), (False, 1.1), (True, 1.0), (True, 0.9), (True, 1.1))

_LARGEST = 2**24  # float64 elements of the eigen projection's largest intermediate: 128 MiB


def score_maps(
    model: nn.Module,
    images: Any,
    labels: Any = None,
    method: str | Sequence[str] = "cam",
    smooth: tuple[str, ...] = (),
    chunk: int = 32,
    channels: int | None = None,
    features: Tensor | None = None,
    precision: str = "float32",
    layer: str | nn.Module | None = None,
    reshape: str | Callable | None = None,
    preprocess: Callable[[Any], Tensor] | None = None,
    target: Callable[[Any], Tensor] | None = None,
    ivr: float | str | None = None,
    seconds: dict[str, float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **options,
) -> Tensor | dict[str, Tensor]:
    """Score maps of the given classes, at the resolution of the feature map.

    The body runs once, for any number of methods, in evaluation mode and without a graph; gradients, where a method
    wants them, run through pool and head only, once for all. The model is left as it was found (modes, hooks,
    parameters and their gradients), also after an exception. Works inside `torch.no_grad()` and
    `torch.inference_mode()`, and with frozen parameters.

    Args:
        model: body, pool and head (`wsolkit.build_model`), or any network that `network_for` takes.
        images: (B, 3, H, W) normalised float images on the model's device, in the model's dtype or any other. May be
            None when `features` are given and nothing has to run the body again.
        labels: (B,) class indices in 0..K-1, the *ground-truth* classes for GT-known numbers. Required without
            `target`: a map of the predicted class is asked for as `model(images).argmax(1)`.
        method: a name of `method_names()`, a class name of the grad-cam package, or a row ("grad_cam[eigen+aug]"),
            whose smoothing is added to `smooth`, and whose options count where they are not given here; or a list of
            them, which share one pass of the body, and those with "aug" one of the copies.
        smooth: any of "eigen" (eigen projection instead of the sum over channels) and "aug" (mean over {identity,
            mirror} x {input times 0.9, 1, 1.1}, each map scaled to [0, 1] and mirrored back; one batch of all copies).
        chunk: images in one forward pass of score_cam, ablation_cam and "aug"; bounds memory, changes no result.
        channels: score_cam and ablation_cam only: use this many channels per image (approximate), None for all.
        features: (B, C, h, w) from `feature_map(model, images)`, to share one pass of the body among calls.
        precision: "float32", or "bf16": body, pool and head run under bfloat16 autocast, about three digits exact.
        layer, reshape: the feature map of any network, see `network_for`. Rows at several layers take a pass each.
        preprocess: turns `images` as they are given into what the model takes, (B, c, H, W): the model's own
            normalisation or size, one channel of three. Maps cover what it returns, so it should cut nothing off.
        target: what the model returns -> (N,) scores whose maps are wanted, for a model that is no plain classifier
            (dicts, tuples, segmentation, detection, embeddings). It is called for any number N of images, and the score
            of an image may not depend on others. Methods that use classes (cam, finer_cam, ...) are not defined then.
        ivr: the share of each map's values that becomes 0, by `wsolkit.boxes.preparation.remove_inferior`, after the
            smoothing; None is none. "val" is for `evaluate`, which chooses it; without boxes, as here, it is 0.45.
        seconds: where given, what each method would have taken without the others is added under its name, by `clock`:
            its own part given the feature map, the gradients where it wants them, and the copies' passes with "aug".
        options: keyword options of the method, such as `nwc=False` for rethinking_cam; in a list they go to the methods
            that have them.

    Returns:
        (B, h, w) float32, finite, on the features' device; for a list a dict of them under the names as given.
        Unscaled, so only the order of values within a map means something, but with "aug" or `ivr` in [0, 1].
        Non-negative where the method ends in a ReLU (all but cam and rethinking_cam).

    Raises:
        MethodNotDefined: the method has no meaning on this model or with `target`; a ValueError, as are all others:
            unknown method, smoothing or option, labels missing or of the wrong shape, type or range, no gradient,
            `preprocess` or `target` that return something else, values that are not finite.

    Example:
        >>> class Segments(nn.Module):  # grey images -> {"out": (B, 2, H, W)}
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.encoder, self.classes = nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Conv2d(4, 2, 1)
        ...     def forward(self, x):
        ...         return {"out": self.classes(self.encoder(x).relu())}
        >>> def grey(images):
        ...     return images.mean(1, keepdim=True) / 255
        >>> def amount(output):  # of class 1 in each image
        ...     return output["out"][:, 1].mean((1, 2))
        >>> photos = torch.randint(0, 256, (2, 3, 16, 24)).float()
        >>> score_maps(Segments(), photos, None, "grad_cam", layer="encoder", preprocess=grey, target=amount).shape
        torch.Size([2, 8, 12])

    Source: that of each method is in its own docstring; smoothing as in the grad-cam package, but the average is taken
    over low-resolution maps, before any resize, and the sign of the eigen projection is fixed.
    """
    names: list[Any] = list(method) if isinstance(method, list | tuple) else [method]
    for entry in map(resolve, names):
        told = f"{entry.name} gives boxes and no map: call wsolkit.predict_boxes(model, images, labels, {entry.name!r})"
        require(entry.gives == "map", told)
    own: dict[str, Any] = {"chunk": chunk, "channels": channels, "features": features, "precision": precision}
    own |= {"layer": layer, "reshape": reshape, "preprocess": preprocess, "target": target}
    own |= {IVR: ivr, "seconds": seconds, "clock": clock}
    made = answers(model, images, labels, names, smooth, **own, **options)
    return made if isinstance(method, list | tuple) else made[names[0]]


def predict_boxes(
    model: nn.Module, images: Any, labels: Any = None, method: str = "psol", features: Tensor | None = None, **options
) -> Tensor:
    """Boxes of the given classes, by a method that gives a box and no map (`gives="boxes"`).

    Args:
        model, images, labels, features: as for `score_maps`. method: a name.
        options: `precision`, `layer`, `reshape`, `preprocess`, `seconds` and `clock` of `score_maps`, and the method's.

    Returns:
        (B, 4) float32 on the features' device: x0, y0, x1, y1 as shares of the image in [0, 1], edges, so that the
        whole image is 0, 0, 1, 1. `wsolkit.boxes.shares.boxes_of_shares` makes pixels of them.

    Raises:
        WsolkitError: the method gives maps; and all that `score_maps` raises.
    """
    entry = resolve(method)
    need = f"{entry.name} gives a map and no box: call wsolkit.predict, or wsolkit.extract_box on wsolkit.score_maps"
    require(entry.gives == "boxes", need)
    return answers(model, images, labels, [method], features=features, **options)[method]


def answers(
    model: nn.Module,
    images: Any,
    labels: Any,
    names: list[str],
    smooth: Sequence[str] = (),
    chunk: int = 32,
    channels: int | None = None,
    features: Tensor | None = None,
    precision: str = "float32",
    layer: str | nn.Module | None = None,
    reshape: str | Callable | None = None,
    preprocess: Callable[[Any], Tensor] | None = None,
    target: Callable[[Any], Tensor] | None = None,
    ivr: float | str | None = None,
    seconds: dict[str, float] | None = None,
    clock: Callable[[], float] = time.perf_counter,
    **options,
) -> dict[str, Tensor]:
    """What each of the methods `names` gives, maps (B, h, w) or boxes (B, 4): arguments as for `score_maps`."""
    options |= {} if channels is None else {"channels": channels}
    rows = _rows(names, smooth, options)
    good = is_whole(chunk, 1)
    require(good, f"chunk={chunk!r}: give the number of images per forward pass, a whole number of at least 1")
    if target is not None:
        require(labels is None, "labels name classes, and target= is a score of its own: give one of the two")
    layers = {name: row.settings.pop(LAYER, None) for name, row in rows.items()}
    layers |= {} if layer is None else dict.fromkeys(rows, layer)
    shares = {name: row.ivr(ivr) for name, row in rows.items()}
    for row in rows.values():
        row.settings.pop(IVR, None)
    if len(set(layers.values())) > 1:
        several: dict[str, Tensor] = {}
        for own in dict.fromkeys(layers.values()):
            group = [name for name in rows if layers[name] == own]
            given = {option: options[option] for option in options if any(option in rows[n].settings for n in group)}
            given |= {"seconds": seconds, "clock": clock, "preprocess": preprocess, "target": target}
            given |= {"precision": precision, LAYER: own, "reshape": reshape, IVR: ivr}
            given |= {"features": features} if own is None else {}  # they are those of the model's own feature map
            several |= answers(model, images, labels, group, smooth, chunk, **given)
        return {name: several[name] for name in names}
    layer = layers[names[0]]
    with evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
        if preprocess is not None and images is not None:
            require(features is None, "features belong to images that are preprocessed already: leave preprocess out")
            images = preprocessed(images, preprocess)
        images = check_images(model, images, features, precision)
        model = network_for(model, layer, reshape, images, target)
        _check_defined(model, rows, target is not None)
        images, features = (None if tensor is None else taken(model, tensor) for tensor in (images, features))
        given_rows: Any = features if images is None else images
        count = len(given_rows)
        if target is not None:
            labels = torch.zeros(count, dtype=torch.int64)  # the score is the only logit
        labels = check_labels(model, labels, count)
        seconds = {} if seconds is None else seconds
        maps: dict[str, Tensor] = {}
        plain, turned = ({n: row for n, row in rows.items() if ("aug" in row.smooth) is aug} for aug in (False, True))
        if plain:
            taken_over = features is not None
            if features is None:
                features = _bodies(model, images, count, precision)
            _require_finite(images, features, count)
            try:
                maps |= _answers(model, plain, labels, features, images, chunk, precision, seconds, clock)
            except (RuntimeError, ValueError):
                if taken_over:
                    _check_rest(model, images, features)
                raise
        if turned:
            if images is None:
                raise WsolkitError('smooth "aug" runs the body on changed copies of the images: give images')
            begin = clock()
            # the six copies, the unchanged images first
            images = torch.cat([(images.flip(-1) if mirrored else images) * factor for mirrored, factor in _COPIES])
            labels = labels.repeat(len(_COPIES))
            # features that are given are those of the unchanged images, which come first
            others = _bodies(model, images if features is None else images[count:], chunk, precision)
            features = others if features is None else torch.cat([features, others])
            passes = clock() - begin
            _require_finite(images, features, count)
            made = _answers(model, turned, labels, features, images, chunk, precision, seconds, clock)
            for name, copies in made.items():  # the mean of the maps scaled to [0, 1] and mirrored back
                scaled = zip(unit_range(copies).unflatten(0, (len(_COPIES), -1)), _COPIES, strict=True)
                back = [copy.flip(-1) if mirrored else copy for copy, (mirrored, _) in scaled]
                maps[name] = torch.stack(back).mean(0)
                seconds[name] += passes
    for name, share in shares.items():
        if share is not None:
            kept = remove_inferior(maps[name], IVR_SHARE if share == CHOSEN else share)
            maps[name] = torch.from_numpy(kept).to(maps[name].device)
    return {name: maps[name] for name in rows}


def feature_map(
    model: nn.Module,
    images: Tensor,
    precision: str = "float32",
    layer: str | nn.Module | None = None,
    reshape: str | Callable | None = None,
) -> Tensor:
    """(B, 3, H, W) -> (B, C, h, w) float32: one pass of the body in evaluation mode, detached; the model is left as
    found. Arguments: see `score_maps`."""
    with evaluation_mode(model), torch.inference_mode(False), torch.no_grad():
        images = check_images(model, images, None, precision)
        model = network_for(model, layer, reshape, images)
        return _bodies(model, taken(model, images), len(images), precision)


def preprocessed(images: Any, preprocess: Callable[[Any], Tensor]) -> Tensor:
    """What the function makes of the images, or of a copy where they are a tensor; WsolkitError where it loses some."""
    made = preprocess(images.clone() if isinstance(images, Tensor) else images)
    good = isinstance(made, Tensor) and made.ndim == 4 and len(made) == len(images)
    require(good, f"preprocess must return (B, c, H, W) for the {len(images)} images, but gave {described(made)}")
    return made


def _answers(
    model: Any, rows: dict[str, Method], labels: Tensor, features: Tensor, images: Tensor | None, chunk: int,
    precision: str, seconds: dict[str, float], clock: Callable[[], float],
) -> dict[str, Tensor]:  # fmt: skip
    """What some methods give by name, which share the context; what each took is added to `seconds`."""

    def make(labels: Tensor, features: Tensor, images: Tensor | None = None) -> tuple[Tensor, ...]:
        context = Context(model, images, labels, features, chunk, False, precision, clock)
        made = []
        for name, row in rows.items():
            context.eigen = "eigen" in row.smooth
            earlier, context.gradients_used = context.gradient_seconds, False
            begin = clock()
            made.append(_one_answer(row, context))
            taken = clock() - begin + (earlier if context.gradients_used else 0.0)
            seconds[name] = seconds.get(name, 0.0) + taken
        return tuple(made)

    inputs = (labels, features) if images is None else (labels, features, images)
    return dict(zip(rows, in_chunks(make, len(labels), *inputs, name="a batch of {} images"), strict=True))


def _one_answer(entry: Method, context: Context) -> Tensor:
    """The only place where weights become a map, (B, h, w) float32, and boxes are checked, (B, 4) float32."""
    weights, features = entry.function(context, **entry.settings).detach().float(), context.features.float()
    if entry.gives == "boxes":
        good = weights.shape == (len(features), 4) and bool((weights[:, 2:] >= weights[:, :2]).all())
        need = f"expected ({len(features)}, 4) with x0 <= x1 and y0 <= y1 as shares of the image"
        require(good, f"method {entry.name!r} returned boxes {tuple(weights.shape)}, {need}")
        return weights.clamp(0, 1)
    project = entry.project or context.eigen
    if weights.ndim == 3 and len(weights) == len(features):
        maps = weights
    elif weights.shape == features.shape[:2] and not project:  # the sum alone needs no weighted copy
        maps = torch.einsum("bc,bchw->bhw", weights, features)
    elif weights.shape in (features.shape[:2], features.shape):
        weighted = (weights[:, :, None, None] if weights.ndim == 2 else weights) * features
        maps = weighted.sum(dim=1)
        maps = eigen_projection(weighted, maps) if project else maps
    else:
        raise WsolkitError(
            f"method {entry.name!r} returned shape {tuple(weights.shape)}, expected (B, C), (B, C, h, w) or (B, h, w) "
            f"for a feature map of shape {tuple(features.shape)}"
        )
    cause = "the feature map is, but the network's logits, their gradients or the method's own values are not"
    good = bool(weights.isfinite().all() and maps.isfinite().all())  # the projection takes what is not for 0
    require(good, f"maps of {entry.name!r} have values that are not finite: {cause}")
    return maps.clamp(min=0) if entry.relu else maps


def _bodies(model: Any, images: Tensor, chunk: int, precision: str) -> Tensor:
    """Feature maps in the plain layout, in which pool, gradients and sums run."""

    def run(part: Tensor) -> Tensor:
        # convolutions run fastest in channels last
        features = folded.run(model.body, part.contiguous(memory_format=torch.channels_last), precision)
        if features.ndim != 4:
            shape = tuple(features.shape)
            raise WsolkitError(f"model.body must end in a feature map (B, C, h, w), but it gave {shape}")
        return _plain(features.contiguous())

    return in_chunks(run, chunk, images)


def _require_finite(images: Tensor | None, features: Tensor, count: int) -> None:
    """Raise where the feature map, or the images that it comes from, `count` of them or copies of these one after the
    other, have NaN or infinite values."""
    if not features.isfinite().all():
        given = images is not None and not images.isfinite().all()
        bad = (~(images if given else features).isfinite()).flatten(1).any(1).nonzero().flatten() % count  # type: ignore
        name, why = ("images", "give others") if given else ("features", "the network diverged, or its values overflow")
        rows = listing(bad.unique().tolist())
        raise WsolkitError(f"{name} {rows} of this batch have values that are not finite: {why}")


def _plain(tensor: Tensor) -> Tensor:
    """Without a graph, and not an inference tensor, which autograd would refuse."""
    tensor = tensor.detach()
    return tensor.clone() if tensor.is_inference() else tensor


def _rows(names: list[Any], smooth: Any, options: dict[str, Any]) -> dict[str, Method]:
    """The methods under the names as given, with their smoothing and options in the end; ValueError where a smoothing
    is not offered or an option belongs to none."""
    require(names, "give at least one method")
    entries = {name: resolve(name) for name in names}
    known = {option for entry in entries.values() for option in entry.options}
    if "*" not in known and (unknown := [option for option in options if option not in known]):
        has = f"their options are: {', '.join(sorted(known))}" if known else "they have none, leave it out"
        raise WsolkitError(f"none of the methods {', '.join(entries)} has the option {unknown[0]!r}; {has}")
    rows = {}
    for name, entry in entries.items():
        own = {option: value for option, value in options.items() if {option, "*"} & {*entry.options}}
        for option, value in own.items():
            check_option(entry, option, value)
        rows[name] = replace(entry, smooth=entry.smoothed(smooth), settings=entry.settings | own)
    return rows


def _check_defined(model: nn.Module, rows: dict[str, Method], scored: bool) -> None:
    for name, entry in rows.items():
        if scored and entry.uses_classes:
            raise MethodNotDefined(
                f"{entry.name} is made from the weights, maps or scores of classes, which a target= is not: choose a "
                "method of gradients or scores, such as grad_cam or score_cam, or give labels"
            )
        if reason := is_defined(name, model)[1]:
            raise MethodNotDefined(reason)


def check_images(model: nn.Module, images: Tensor | None, features: Tensor | None, precision: str) -> Any:
    """The images without a graph; ValueError unless images and features are batches that the model can take."""
    require(precision in PRECISIONS, f"precision={precision!r}: choose from {', '.join(PRECISIONS)}")
    given = {name: tensor for name, tensor in (("images", images), ("features", features)) if tensor is not None}
    for name, tensor in given.items():
        good = isinstance(tensor, Tensor) and tensor.layout == torch.strided and tensor.is_floating_point()
        if not good or tensor.ndim != 4 or tensor.numel() == 0:
            got = (
                f"{tuple(tensor.shape)} {tensor.dtype} ({tensor.layout})"
                if isinstance(tensor, Tensor)
                else type(tensor).__name__
            )
            raise WsolkitError(f"{name} must be a float tensor with 4 axes and at least one image, but got {got}")
        device = next(model.parameters(), tensor).device
        require(device == tensor.device, f"{name} are on {tensor.device}, the model on {device}: move one to the other")
    if images is not None and images.shape[1] != 3 and hasattr(model, "spec"):  # of other networks nobody knows it
        raise WsolkitError(
            f"images must have 3 channels, (B, 3, H, W), for this network, but got {tuple(images.shape)}: "
            "make them so, or give a preprocess= that does"
        )
    require(given, "give images, or features from feature_map(model, images)")
    if images is not None and features is not None and len(images) != len(features):
        raise WsolkitError(f"{len(images)} images, but features of {len(features)}: give those of the same images")
    return None if images is None else _plain(images)


def _check_rest(model: nn.Module, images: Tensor | None, features: Tensor) -> None:
    """Raise where features of the caller's own do not go through the network behind its feature map."""
    rest = rest_of(model, None if images is None else images[:1])
    try:
        rest(features[:1].clone())
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise WsolkitError(
            f"{getattr(model, 'backbone', kind_of(model))} cannot go on from features {tuple(features.shape)} "
            f"({first_line(error)}): give those of feature_map(model, images), at the same layer"
        ) from error


def check_labels(model: nn.Module, labels: Any, count: int) -> Tensor:
    """The class indices (count,) int64 on the model's device; ValueError for anything else."""
    if labels is None:
        raise WsolkitError(
            "labels are required, one class per image: maps of the predicted class (labels=model(images).argmax(1)) "
            "are not what GT-known numbers are made of, so nothing is assumed"
        )
    parameter = next(model.parameters(), None)
    try:
        labels = torch.as_tensor(labels, device=None if parameter is None else parameter.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise WsolkitError(f"labels must be whole numbers (int64 class indices), one per image ({error})") from None
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise WsolkitError(f"labels must be whole numbers (int64 class indices), but their dtype is {labels.dtype}")
    if labels.shape != (count,):
        raise WsolkitError(f"labels must have shape ({count},), one per image, but got {tuple(labels.shape)}")
    classes = getattr(model, "num_classes", None) or getattr(getattr(model, "head", None), "out_features", None)
    for label in (int(labels.min()), int(labels.max())):
        if label < 0 or (classes is not None and label >= classes):
            most = "K-1" if classes is None else classes - 1
            raise WsolkitError(
                f"label {label} is outside 0..{most}: labels must be 0-based class indices of this model"
            )
    return _plain(labels.long())


def eigen_projection(weighted: Tensor, plain: Tensor) -> Tensor:
    """The weighted maps, centred over positions, projected on their first right singular vector (eigen_smooth).

    With X (hw, C) the centred maps of one image, X = U S V^T, the result is X v_1 = s_1 u_1. It comes from the Gram
    matrix of the smaller side, in float64: a full SVD of a 2048-channel map costs a hundred times more. A singular
    vector has no sign of its own, so the one with non-negative correlation to the plain map is taken.

    Args:
        weighted: (B, C, h, w) weighted maps; values that are not finite count as 0.
        plain: (B, h, w) their weighted sum.

    Returns:
        (B, h, w), same dtype as `weighted`; zero where all channels are flat.

    Source: `get_2d_projection` of the grad-cam package; the sign rule is ours.
    """
    return fix_sign(first_component(weighted), plain)


def first_component(maps: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h, w), same dtype: the projection of `eigen_projection`, with whatever sign came out."""
    x = maps.flatten(2)  # (B, C, hw)
    at_once = max(1, _LARGEST // max(x[0].numel(), min(x.shape[1:]) ** 2))
    projections = [_component(part.to(torch.float64, copy=True)) for part in x.split(at_once)]
    return torch.cat(projections).unflatten(1, maps.shape[2:]).to(maps.dtype)


def _component(x: Tensor) -> Tensor:
    """(B, C, n) float64, overwritten -> (B, n): s_1 u_1. Squares of float32 values neither overflow nor vanish here."""
    x.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
    x -= x.mean(dim=2, keepdim=True)
    if x.shape[2] <= x.shape[1]:
        values, vectors = torch.linalg.eigh(x.mT @ x)
        return vectors[..., -1] * values[:, -1:].clamp(min=0).sqrt()
    return (torch.linalg.eigh(x @ x.mT).eigenvectors[:, None, :, -1] @ x)[:, 0]


def fix_sign(maps: Tensor, plain: Tensor) -> Tensor:
    """(B, h, w) -> (B, h, w): each map or its negative, whichever has non-negative correlation with the plain map.

    Where the correlation is exactly 0 (a flat plain map, say), the value of largest magnitude becomes positive.
    """
    flat = maps.flatten(1).double()
    reference = torch.nan_to_num(plain.flatten(1).double(), nan=0.0, posinf=0.0, neginf=0.0)
    correlation = (flat * (reference - reference.mean(dim=1, keepdim=True))).sum(dim=1)
    peak = flat.gather(1, flat.abs().argmax(dim=1, keepdim=True))[:, 0]
    sign = torch.where(correlation != 0, correlation, peak)
    return torch.where(sign[:, None, None] < 0, -maps, maps)

"""Localise the objects in anyone's images with a trained network: class, probability, score map and box of each.

There is no ground truth here, so the map is that of the *predicted* class (or of a class that the caller names).
GT-known numbers use the map of the true class, so a prediction of the wrong class may have another box than theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn

from wsolkit.boxes.extract import extract_box
from wsolkit.boxes.shares import boxes_of_shares
from wsolkit.common.errors import WsolkitError, is_real, is_whole, require
from wsolkit.data.base import Geometry, normalise
from wsolkit.data.images import read_image
from wsolkit.methods.maps import answers, feature_map, preprocessed
from wsolkit.methods.registry import LAYER, resolve
from wsolkit.networks.modules import evaluation_mode
from wsolkit.networks.split import network_for, rest_of


class ClassScore(NamedTuple):
    """A class with its softmax probability in [0, 1]."""

    name: str
    label: int
    probability: float


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of one image.

    Attributes:
        name, label, probability: the class whose map and box these are; the predicted one unless the caller chose.
        top5: the five most probable classes (all, where there are fewer), best first.
        box: (4,) int64, x0 y0 x1 y1 in original pixels of the upright image, inclusive corners, inside the image.
        box_empty: no pixel of the map is above the threshold; `box` is then the whole part that the network saw.
        score_map: (h, w) float32, unscaled, at feature-map resolution; it covers the part that the network saw. None of
            a method that gives boxes.
        size: (width, height) of the upright image.
    """

    name: str
    label: int
    probability: float
    top5: tuple[ClassScore, ...]
    box: np.ndarray
    box_empty: bool
    score_map: np.ndarray | None
    size: tuple[int, int]

    @property
    def predicted(self) -> bool:
        """Whether map and box are those of the most probable class."""
        return self.label == self.top5[0].label


def predict(
    model: nn.Module,
    images: str | Path | Image.Image | np.ndarray | Sequence[str | Path | Image.Image | np.ndarray],
    method: str = "cam",
    *,
    geometry: Geometry | None = None,
    classes: Sequence[str] | None = None,
    label: int | None = None,
    threshold: float | None = None,
    percentile: float | None = None,
    smooth: Sequence[str] = (),
    batch_size: int = 16,
    preprocess: Callable[[torch.Tensor], torch.Tensor] | None = None,
    **options: Any,
) -> list[Prediction]:
    """Class, map and box of each image, in order.

    >>> trained = load_trained("reports/runs/cub/resnet50/train-gap-1a2b3c4d")                     # doctest: +SKIP
    >>> predictions = predict(trained.model, ["bird.jpg"], "grad_cam++", **trained.view)           # doctest: +SKIP

    Args:
        model: any network that `score_maps` takes, which is left as it was; it runs on its parameters' device.
        images: files or PIL images (both read as `read_image` reads them), or (H, W, 3) uint8 arrays; one alone is a
            list of one.
        geometry: how images reach the network, as in its training run; None is 224 pixels, resized.
        classes: names of the K classes; without them a class is called by its number.
        label: the class whose map and box are wanted; None is the predicted one of each image.
        threshold, percentile: the box rule of `extract_box`; by default percentile 90 for rethinking_cam and 100 for
            all others, with the fixed threshold that belongs to it, 0.35 and 0.2. Not for methods that give boxes.
        smooth, options: see `score_maps`.
        batch_size: images in one pass.
        preprocess: what turns images (B, 3, S, S) in [0, 1], S pixels as in `geometry`, into what the network takes, in
            the place of ImageNet's normalisation. It may change the size but cut nothing off.

    Example:
        >>> net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
        >>> photo = np.zeros((30, 40, 3), np.uint8)
        >>> (one,) = predict(net, photo, "grad_cam", layer="1", preprocess=lambda images: images.mean(1, keepdim=True))
        >>> one.size, one.score_map.shape
        ((40, 30), (222, 222))

    Corners are those of wsolevaluation ([x, y, min(x + w, W - 1), min(y + h, H - 1)] in the input frame, as `evaluate`
    scores them), mapped back by `original_box`.

    Raises:
        WsolkitError: an unreadable image, a value out of range, logits that are not finite.
        MethodNotDefined: as for `score_maps`.
    """
    geometry = geometry or Geometry()
    require(isinstance(geometry, Geometry), f"geometry must be a wsolkit.Geometry, but is {geometry!r}")
    entry = resolve(method)
    entry.refuse(threshold=threshold, percentile=percentile, smooth=tuple(smooth))
    percentile = entry.percentile if percentile is None else percentile
    threshold = entry.fixed_threshold(percentile) if threshold is None else threshold
    for name, value, high in (("threshold", threshold, 1), ("percentile", percentile, 100)):
        require(is_real(value, 0, high), f"{name} must lie in [0, {high}], but is {value!r}")
    require(is_whole(batch_size, 1), f"batch_size must be a whole number of at least 1, but is {batch_size!r}")
    require(label is None or is_whole(label), f"label must be None or a class number from 0, but is {label!r}")
    listed = classes is None or isinstance(classes, list | tuple | np.ndarray)
    require(listed, f"classes must be None or a list of names, but is a {type(classes).__name__}")
    single = isinstance(images, np.ndarray) and images.ndim < 4
    several: Any = images if isinstance(images, Sequence | np.ndarray | torch.Tensor) else [images]
    several = [images] if single or isinstance(images, str | bytes) else several
    layer, reshape = options.pop(LAYER, None), options.pop("reshape", None)
    layer = entry.settings.get(LAYER) if layer is None else layer
    predictions: list[Prediction] = []
    for start in range(0, len(several), batch_size):
        views, sizes = zip(*(_view(image, geometry) for image in several[start : start + batch_size]), strict=True)
        pixels = np.stack(views)
        if preprocess is None:
            batch = normalise(pixels)
        else:
            batch = preprocessed(torch.from_numpy(pixels).movedim(-1, 1) / 255, preprocess)
        batch = batch.to(next(model.parameters(), batch).device)
        if start == 0:  # cut once, not for every batch
            model = network_for(model, layer, reshape, batch[:1])
            options |= {} if layer is None else {LAYER: model.layer}  # which it is cut at already
        features = feature_map(model, batch, options.get("precision", "float32"))
        with evaluation_mode(model), torch.inference_mode():  # dropout between feature map and logits
            logits = rest_of(model, batch)(features.clone()).cpu().double()  # a copy: the head may begin in place
        count, good = logits.shape[1], logits.isfinite().all()
        require(good or batch.isfinite().all(), "preprocess returned values that are not finite: mend it")
        require(good, "the network's logits are not finite: its training has diverged, train again")
        alone = "the network gives one logit, whose share is always 1: wrap it so that it gives one for each class"
        require(count > 1, alone)
        names = [str(number) for number in range(count)] if classes is None else classes
        require(len(names) == count, f"{len(names)} class names for a network with {count} classes; give one for each")
        require(label is None or label < count, f"label {label} is outside 0..{count - 1}; choose a class of these")
        # a network that ends in a softmax gives shares already
        ready = bool((logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-5).all())
        shares = (logits if ready else logits.softmax(1)).numpy()
        labels = shares.argmax(1) if label is None else np.full(len(shares), label)
        own = {"features": features, **options}
        made = answers(model, batch, torch.from_numpy(labels), [method], tuple(smooth), **own)[method]
        for row, answer, own, size in zip(shares, made.float().cpu().numpy(), labels, sizes, strict=True):
            order = np.argsort(-row, kind="stable")[:5]
            shown, *top5 = (ClassScore(names[k], int(k), float(row[k])) for k in (own, *order))
            if entry.gives == "boxes":
                box, empty, score_map = original_shares(answer, size, geometry), False, None
            else:
                box, empty = extract_box(answer, threshold, percentile, geometry.size, return_empty=True)
                box = original_box([0, 0, geometry.size - 1, geometry.size - 1] if empty else box, size, geometry)
                score_map = answer
            predictions.append(Prediction(*shown, tuple(top5), box, empty, score_map, size))
    return predictions


def _view(image: str | Path | Image.Image | np.ndarray, geometry: Geometry) -> tuple[np.ndarray, tuple[int, int]]:
    """What the network sees of an image, (size, size, 3) uint8, and the (width, height) of the image."""
    if isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.shape[2:] == (3,) and image.size:
        image = Image.fromarray(image)
    elif not isinstance(image, str | Path | Image.Image) or (isinstance(image, Image.Image) and not all(image.size)):
        got = f"{image.shape} {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
        got += f" of {image.width} x {image.height}" if isinstance(image, Image.Image) else ""
        raise WsolkitError(f"an image is a file, a PIL image or a (H, W, 3) uint8 array with pixels, but got {got}")
    image = read_image(image)
    square = image.resize((geometry.side, geometry.side), Image.Resampling.BILINEAR)
    return geometry.crop(np.asarray(square)), image.size


def original_box(box: Sequence[int] | np.ndarray, original: tuple[int, int], geometry: Geometry) -> np.ndarray:
    """The inverse of `geometry.boxes`: a box (4,) in the input frame -> (4,) int64 in pixels of the original image.

    box: x0, y0, x1, y1, inclusive corners; what lies outside of the frame is cut off first. original: (width, height).
    Corners are the outermost original pixels that `geometry.boxes` puts into the box, so the way back gives the same
    box wherever the image is at least as large as the frame; in a smaller one, the original pixels below it.
    """
    corners = np.clip(np.asarray(box, np.int64), 0, geometry.size - 1) + geometry.offset
    extent = np.array(original, np.int64)
    last = -(-(corners[2:] + 1) * extent // geometry.side) - 1  # ceil of a quotient of integers: nothing is rounded
    first = np.minimum(-(-corners[:2] * extent // geometry.side), last)
    return np.concatenate([first, last])


def original_shares(shares: np.ndarray, original: tuple[int, int], geometry: Geometry) -> np.ndarray:
    """A box (4,) as shares of what the network saw -> (4,) int64 in pixels of the original image (width, height)."""
    edges = (np.asarray(shares, np.float64) * geometry.size + geometry.offset) / geometry.side
    return boxes_of_shares(edges[None], original[::-1])[0]

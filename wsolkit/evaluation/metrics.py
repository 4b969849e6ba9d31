"""Classification and localisation metrics of numpy arrays (or torch tensors); the kit's own evaluation counts with them.

All results are percent, 0 to 100, higher is better. Each is made of counts: hits, or the histograms of `pixel_histograms`,
which may be summed over batches and processes before they are divided.
Sources: Russakovsky et al., IJCV 2015 (Top-k Loc); Choe et al., CVPR 2020, and its code, wsolevaluation (the others).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from wsolkit.boxes.extract import thresholds
from wsolkit.boxes.preparation import as_numpy
from wsolkit.common.errors import WsolkitError

DELTAS = (0.3, 0.5, 0.7)
IGNORE = 255


def one_per_image(name: str, array, dimensions: int) -> np.ndarray:
    """The array, or ValueError unless it has this many dimensions, the first of which counts images."""
    array = as_numpy(array)
    if array.ndim != dimensions:
        raise WsolkitError(f"{name} must have {dimensions} dimension(s) with images first, got shape {array.shape}")
    return array


def same_lengths(**arrays: Any) -> None:
    """ValueError unless all that are given have an entry for each of the same images."""
    lengths = {name: len(array) for name, array in arrays.items() if array is not None}
    if len(set(lengths.values())) > 1:
        raise WsolkitError(f"one entry per image is expected everywhere, got lengths {lengths}")


def percent(hits) -> float:
    """Percent of True among hits (N,) bool. ValueError for no images."""
    if len(hits) == 0:
        raise WsolkitError("a metric over no images is not defined")
    return float(np.sum(hits) * 100.0 / len(hits))


# ------------------------------------------------------------------------------------------------ classification, one operating point


def top_k_hits(logits, labels, k: int = 1) -> np.ndarray:
    """Is the label among the k best logits? logits (N, K), labels (N,) int -> (N,) bool.

    Ties go to the lower class index (so k = 1 is argmax). A row with NaN counts as wrong. k >= K is always right.
    """
    logits, labels = one_per_image("logits", logits, 2), one_per_image("labels", labels, 1)
    same_lengths(logits=logits, labels=labels)
    if k < 1:
        raise WsolkitError(f"k must be at least 1, got {k}")
    if labels.dtype.kind not in "iu" and len(labels):
        raise WsolkitError(f"labels must be integers, got {labels.dtype}")
    if len(labels) and (labels.min() < 0 or labels.max() >= logits.shape[1]):
        raise WsolkitError(f"labels must be in 0..{logits.shape[1] - 1}, got {labels.min()} to {labels.max()}")
    own = np.take_along_axis(logits, labels[:, None].astype(np.int64), axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    ahead = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return (ahead < k) & ~np.isnan(logits).any(axis=1)


def loc_hits(ious, delta: float = 0.5) -> np.ndarray:
    """ious >= delta, of any shape, bool; a NaN IoU (no box) is a miss."""
    return as_numpy(ious) >= delta


def top_k_cls(logits, labels, k: int = 1) -> float:
    """Percent of images whose label is among the k best logits; see `top_k_hits`."""
    return percent(top_k_hits(logits, labels, k))


def gt_known_loc(ious, delta: float = 0.5) -> float:
    """Percent of images with IoU >= delta; ious (N,) between the box from the *ground-truth* class's map and the best
    ground-truth box."""
    return percent(loc_hits(one_per_image("ious", ious, 1), delta))


def top_k_loc(logits, labels, ious, k: int = 1, delta: float = 0.5) -> float:
    """Percent of images with the label among the k best logits *and* IoU >= delta.

    ious are of the ground-truth class's map: where the Top-1 prediction is right, it is the predicted class's too.
    """
    right, localised = top_k_hits(logits, labels, k), loc_hits(one_per_image("ious", ious, 1), delta)
    same_lengths(logits=right, ious=localised)
    return percent(right & localised)


# ------------------------------------------------------------------------------------------------ over all thresholds


def accuracy_curve(curves, delta: float = 0.5) -> np.ndarray:
    """Percent of images with IoU >= delta at every threshold: curves (N, T) of IoUs -> (T,) float64."""
    curves = one_per_image("curves", curves, 2)
    if len(curves) == 0:
        raise WsolkitError("a metric over no images is not defined")
    return loc_hits(curves, delta).sum(axis=0) * 100.0 / len(curves)


def max_box_acc(curves, delta: float = 0.5) -> float:
    """MaxBoxAcc: the best accuracy over all thresholds, which on test data *is* a choice on test data (label it so).
    curves (N, T) with contours="largest"."""
    return float(accuracy_curve(curves, delta).max())


def max_box_acc_v2(curves, deltas: Sequence[float] = DELTAS) -> float:
    """MaxBoxAccV2: mean of `max_box_acc` over deltas, each with its own best tau. curves (N, T), contours="all"."""
    return float(np.mean([max_box_acc(curves, delta) for delta in deltas]))


def plateau_middle(accuracy: np.ndarray) -> int:
    """Index of the middle of the longest run of maxima, the first of equal runs.

    256 grey levels under 1000 thresholds make plateaus, and few images make wide ones. A threshold chosen on validation
    data must hold on other images: the middle is as far as one can get from the edges where the accuracy drops.
    """
    best = np.flatnonzero(accuracy == accuracy.max())
    runs = np.split(best, np.flatnonzero(np.diff(best) > 1) + 1)
    longest = max(runs, key=len)
    return int(longest[(len(longest) - 1) // 2])


def best_threshold(curves, delta: float = 0.5, interval: float = 0.001) -> tuple[float, float]:
    """(tau, accuracy in percent) at the middle of the best plateau of curves (N, T); for validation data."""
    accuracy, taus = accuracy_curve(curves, delta), thresholds(interval)
    if len(accuracy) != len(taus):
        raise WsolkitError(f"curves have {len(accuracy)} thresholds, but interval {interval} makes {len(taus)}")
    index = plateau_middle(accuracy)
    return float(taus[index]), float(accuracy[index])


# ------------------------------------------------------------------------------------------------ pixels


def pixel_histograms(score_map, mask, interval: float = 0.001) -> np.ndarray:
    """Histograms of the scores at foreground (row 0) and background pixels (row 1): (2, T + 2) int64.

    score_map (H, W) in [0, 1], read as float64; mask (H, W) 0 background, 1 (or True) foreground, 255 ignore.
    Bin edges: thresholds(interval) + [1, 2, 3], bins closed on the left. ValueError: shapes differ, NaN, other values.
    """
    scores, mask = as_numpy(score_map).astype(np.float64), as_numpy(mask)
    if scores.shape != mask.shape or scores.ndim != 2:
        raise WsolkitError(f"score map and mask must have one shape (H, W), got {scores.shape} and {mask.shape}")
    if not (scores.min() >= 0 and scores.max() <= 1):
        raise WsolkitError("score map values must be in [0, 1] and not NaN: normalise_map first")
    foreground, background = mask == 1, mask == 0
    if not (foreground | background | (mask == IGNORE)).all():
        raise WsolkitError(f"mask values are 0, 1 and 255 (ignore), got {np.unique(mask)[:8].tolist()}")
    edges = np.append(thresholds(interval), [1.0, 2.0, 3.0])
    # Dividing finds the bin at once but for rounding; two comparisons with the true edges make it exact.
    bins = np.minimum((scores / interval).astype(np.int64), len(edges) - 3)
    bins -= scores < edges[bins]
    bins += scores >= edges[bins + 1]
    length = len(edges) - 1
    return np.stack([np.bincount(bins[region], minlength=length) for region in (foreground, background)])


def pxap_from_histograms(histograms) -> float:
    """PxAP in percent from summed `pixel_histograms` (2, T + 2): AP = 100 sum_k P_k (R_k - R_{k-1}), highest bin first,
    over bins with tp + fp > 0. ValueError without any foreground pixel."""
    true, false = as_numpy(histograms).astype(np.float64)
    if true.sum() <= 0:
        raise WsolkitError("PxAP needs at least one foreground pixel in the masks")
    tp, fp = true[::-1].cumsum(), false[::-1].cumsum()
    used = (tp + fp) > 0
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=used)
    return float((precision * np.diff(tp / true.sum(), prepend=0.0))[used].sum() * 100)


def pxap(score_maps: Iterable, masks: Iterable, interval: float = 0.001) -> float:
    """PxAP over a set: equally long iterables (generators too) of score maps and masks, see `pixel_histograms`."""
    pairs = zip(score_maps, masks, strict=True)
    return pxap_from_histograms(sum(pixel_histograms(score_map, mask, interval) for score_map, mask in pairs))

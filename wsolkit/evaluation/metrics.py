"""Metrics of numpy arrays (or torch tensors) and their 95 % intervals; the kit's own evaluation counts with them.

All results are percent, 0 to 100, higher is better. Each is made of counts: hits, or `pixel_histograms`, which may be
summed over batches and processes before they are divided. Intervals are over the draw of images: of a share
(Wilson), of a mean, and of a share maximised over thresholds (bootstrap).
Sources: Russakovsky et al., IJCV 2015 (Top-k Loc); Choe et al., CVPR 2020, and its code, wsolevaluation (the others).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # its parts are imported when they are used: stats takes a second

from wsolkit.boxes.extract import thresholds
from wsolkit.boxes.preparation import REAL, as_numpy
from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import listing

DELTAS = (0.3, 0.5, 0.7)
IGNORE = 255
CELLS = 2_000_000  # of resampled values or weights held at once: bounds the memory


def one_per_image(name: str, array, dimensions: int) -> np.ndarray:
    """The array, or ValueError unless it has this many dimensions, the first of which counts images."""
    array = as_numpy(array)
    if array.ndim != dimensions:
        raise WsolkitError(f"{name} must have {dimensions} dimension(s) with images first, got shape {array.shape}")
    return array


def same_lengths(**arrays: Any) -> None:
    """ValueError unless all that are given have an entry for each of the same images."""
    given = {name: array for name, array in arrays.items() if array is not None}
    single = [name for name, array in given.items() if not hasattr(array, "__len__")]
    require(not single, f"{' and '.join(single)} must be a list or an array with an entry per image")
    lengths = {name: len(array) for name, array in given.items()}
    require(len(set(lengths.values())) <= 1, f"one entry per image is expected everywhere, got lengths {lengths}")


def class_numbers(name: str, array, least: int = 0) -> np.ndarray:
    """Class numbers, one or more per image, as integers of at least `least`; ValueError for anything else."""
    numbers = as_numpy(array)
    good = numbers.dtype.kind in "iu" and (numbers.size == 0 or numbers.min() >= least)
    got = f"{listing(numbers.ravel().tolist())} ({numbers.dtype})"
    require(good, f"{name} must be integers, class numbers from {least} up, got {got}")
    return numbers


def percent(hits) -> Any:
    """Percent of True over the images of hits (N, ...) bool: (...) float64, or a float. ValueError for no images."""
    require(len(hits), "a metric over no images is not defined")
    shares = np.sum(hits, axis=0) * 100.0 / len(hits)
    return shares if np.ndim(shares) else float(shares)


def top_k_hits(logits, labels, k: int = 1) -> np.ndarray:
    """Is the label among the k best logits? logits (N, K), labels (N,) int -> (N,) bool.

    Ties go to the lower class index (so k = 1 is argmax). A row with NaN counts as wrong. k >= K is always right.
    """
    logits, labels = one_per_image("logits", logits, 2), one_per_image("labels", labels, 1)
    require(logits.dtype.kind in REAL, f"logits must be numbers, got {logits.dtype}")
    same_lengths(logits=logits, labels=labels)
    require(k >= 1, f"k must be at least 1, got {k}")
    require(labels.dtype.kind in "iu" or not len(labels), f"labels must be integers, got {labels.dtype}")
    if len(labels) and (labels.min() < 0 or labels.max() >= logits.shape[1]):
        raise WsolkitError(f"labels must be in 0..{logits.shape[1] - 1}, got {labels.min()} to {labels.max()}")
    own = np.take_along_axis(logits, labels[:, None].astype(np.int64), axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    ahead = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return (ahead < k) & ~np.isnan(logits).any(axis=1)


def loc_hits(ious, delta: float = 0.5) -> np.ndarray:
    """ious >= delta, of any shape, bool; a NaN IoU (no box) is a miss.

    GT-known Loc is `percent` of these, for the box from the *ground-truth* class's map and the best ground-truth box;
    Top-k Loc that of `top_k_hits & loc_hits`: where the Top-1 prediction is right, the map is of that class too.
    """
    return as_numpy(ious) >= delta


def accuracy_curve(curves, delta: float = 0.5) -> np.ndarray:
    """Percent of images with IoU >= delta at every threshold: curves (N, T) of IoUs, or of hits (bool, which count as 1
    and 0) -> (T,) float64."""
    return percent(loc_hits(one_per_image("curves", curves, 2), delta))


def max_box_acc(curves, delta: float = 0.5) -> float:
    """MaxBoxAcc: the best accuracy over all thresholds, which on test data *is* a choice on test data (label it so).
    curves (N, T) with contours="largest"."""
    return float(accuracy_curve(curves, delta).max())


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
    require(true.sum() > 0, "PxAP needs at least one foreground pixel in the masks")
    tp, fp = true[::-1].cumsum(), false[::-1].cumsum()
    used = (tp + fp) > 0
    precision = np.divide(tp, tp + fp, out=np.zeros_like(tp), where=used)
    return float((precision * np.diff(tp / true.sum(), prepend=0.0))[used].sum() * 100)


def share_interval(hits, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (lo, hi) in percent for the share of True among hits (N,) of 0/1 or bool.

    It covers what it says with few images too, where a percentile bootstrap is too short: of 5 hits among 5 that has
    no width, this one goes from 57 to 100. Source: Wilson, JASA 1927; computed by scipy.

    >>> share_interval([True] * 5)
    (56.55..., 100.0)
    """
    hits = one_per_image("hits", hits, 1)
    if len(hits) == 0 or not np.isin(hits, (0, 1)).all():
        raise WsolkitError("share_interval needs at least one value, all 0 or 1")
    interval = scipy.stats.binomtest(int(hits.sum()), len(hits)).proportion_ci(level, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def bootstrap_mean(values, level: float = 0.95, samples: int = 1000, seed: int = 0) -> tuple[np.ndarray, ...]:
    """The mean over images of values (N, ...), the ends of its percentile bootstrap interval, (...) each, and the means
    of all resamples (..., samples). Paired differences as values make a paired bootstrap."""
    values = np.asarray(as_numpy(values), np.float64)
    mean = values.mean(axis=0)
    if len(values) == 1:  # scipy wants two observations; every resample of one is that one
        return mean, mean, mean, np.repeat(mean[..., None], samples, axis=-1)
    how: dict[str, Any] = {"method": "percentile", "n_resamples": samples, "batch": max(1, CELLS // values.size)}
    rng = np.random.default_rng(seed)
    drawn = scipy.stats.bootstrap((values,), np.mean, axis=0, vectorized=True, confidence_level=level, rng=rng, **how)
    return mean, drawn.confidence_interval.low, drawn.confidence_interval.high, drawn.bootstrap_distribution


def percentiles(draws: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The ends of the interval that holds the middle `level` of draws (samples,)."""
    low, high = np.percentile(draws, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def bootstrap_max(hits, level: float = 0.95, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """(lo, hi) in percent for metrics that maximise over the threshold, which every resample does again.

    A maximum over noise is biased upwards, more so in a resample: with few images the point value may lie near `lo`.

    hits: (N, T) of 0/1 for MaxBoxAcc, (D, N, T) for MaxBoxAccV2 (mean over D of the maxima, one resample for all D).
    Memory is bounded: about 50 MB beside one float32 copy of the distinct columns of hits[d].
    """
    return percentiles(_resampled_max(hits, samples, seed)[1], level)


def bootstrap_max_difference(
    hits, other, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, lo, hi) in points: the metric of `bootstrap_max` for `hits` minus that for `other`.

    hits, other: (N, T) or (D, N, T) of 0/1 for the same N images in the same order; T may differ. Both see the same
    resamples of the images (a paired bootstrap), and each chooses its best threshold anew in every resample.
    """
    (value, draws, shape), (less, others, same) = (_resampled_max(array, samples, seed) for array in (hits, other))
    require(shape == same, f"hits of the same images are expected, got {shape} and {same} (deltas, images)")
    return value - less, *percentiles(draws - others, level)


def _resampled_max(hits, samples: int, seed: int) -> tuple[float, np.ndarray, tuple[int, ...]]:
    """The metric that maximises over thresholds, `samples` resampled values of it (equal N and seed: equal resamples)
    in percent, and (D, N)."""
    hits = as_numpy(hits)
    hits = hits[None] if hits.ndim == 2 else hits
    if hits.ndim != 3 or 0 in hits.shape:
        raise WsolkitError(f"hits must be (N, T) or (D, N, T) with N >= 1, got shape {hits.shape}")
    n = hits.shape[1]
    best = np.zeros(samples)
    for level_hits in hits:
        changed = np.append(True, (level_hits[:, 1:] != level_hits[:, :-1]).any(axis=0))
        matrix = level_hits[:, changed].astype(np.float32)  # counts stay below 2^24, exact in float32
        rng = np.random.default_rng(seed)  # the same resamples for every delta
        chunk = max(1, CELLS // max(n, matrix.shape[1]))
        for start in range(0, samples, chunk):
            size = min(chunk, samples - start)
            draws = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
            weights = np.bincount(draws.ravel(), minlength=size * n).reshape(size, n).astype(np.float32)
            best[start : start + size] += (weights @ matrix).max(axis=1)
    value = float(hits.sum(axis=1).max(axis=1).mean() * 100.0 / n)
    return value, best * 100.0 / (n * len(hits)), hits.shape[:2]


def matched(overlap: np.ndarray, scores: np.ndarray, delta: float) -> np.ndarray:
    """Which boxes of an image are right, (n,) bool: by falling score, each takes the true box that is not taken yet and
    has the largest IoU, if that is at least `delta`. overlap: (n, m) IoU with the true boxes. scores: (n,)."""
    free, right = np.array(overlap, float), np.zeros(len(overlap), bool)
    if not free.size:  # no true box
        return right
    for row in np.argsort(-np.asarray(scores), kind="stable"):
        best = free[row].argmax()
        if free[row, best] >= delta:
            free[:, best], right[row] = -1, True
    return right


def average_precision(hits: np.ndarray, total: float, weights: np.ndarray | None = None) -> float:
    """Mean over the recalls 0, 0.01, ..., 1 of the largest precision at that recall or a larger one, in [0, 1].

    Args: hits: (D,) bool by falling score. total: number of true boxes. weights: (D,) how often each detection counts.
    Source: the COCO challenge's evaluation (pycocotools).
    """
    weights = np.ones(len(hits)) if weights is None else weights
    right, all_of_them = np.cumsum(weights * hits), np.cumsum(weights)
    precision = np.maximum.accumulate((right / np.maximum(all_of_them, 1e-12))[::-1])[::-1]
    places = np.searchsorted(right / total, np.linspace(0, 1, 101) - 1e-12)
    return float(np.append(precision, 0.0)[places].mean())

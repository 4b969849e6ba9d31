"""Bootstrap intervals: of a share, and of a share that is maximised over thresholds."""

from __future__ import annotations

import numpy as np

from wsolkit.boxes.extract import as_numpy

BOOTSTRAP_CELLS = 2_000_000  # of resampling weights held at once: bounds the memory


def one_per_image(name: str, array, dimensions: int) -> np.ndarray:
    """The array, or ValueError unless it has this many dimensions, the first of which counts images."""
    array = as_numpy(array)
    if array.ndim != dimensions:
        raise ValueError(f"{name} must have {dimensions} dimension(s) with images first, got shape {array.shape}")
    return array


def _percentiles(values: np.ndarray, level: float) -> tuple[float, float]:
    low, high = np.percentile(values, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def bootstrap_interval(values, level: float = 0.95, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """Percentile bootstrap (lo, hi) in percent for the mean of hits (N,) of 0/1 or bool, images drawn with replacement.

    Among N draws the number of hits is binomial, so that is what is drawn: the same distribution, no resampling.
    """
    values = one_per_image("values", values, 1)
    if len(values) == 0 or not np.isin(values, (0, 1)).all():
        raise ValueError("bootstrap_interval needs at least one value, all 0 or 1")
    share = values.sum() / len(values)
    counts = np.random.default_rng(seed).binomial(len(values), share, size=samples)
    return _percentiles(counts * 100.0 / len(values), level)


def bootstrap_max(hits, level: float = 0.95, samples: int = 1000, seed: int = 0) -> tuple[float, float]:
    """(lo, hi) in percent for metrics that maximise over the threshold, which every resample does again.

    A maximum over noise is biased upwards, more so in a resample: with few images the point value may lie near `lo`.

    hits: (N, T) of 0/1 for MaxBoxAcc, (D, N, T) for MaxBoxAccV2 (mean over D of the maxima, one resample for all D).
    Memory is bounded: about 50 MB beside one float32 copy of the distinct columns of hits[d].
    """
    return _percentiles(_resampled_max(hits, samples, seed), level)


def bootstrap_max_difference(
    hits, other, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> tuple[float, float, float]:
    """(difference, lo, hi) in points: the metric of `bootstrap_max` for `hits` minus that for `other`.

    hits, other: (N, T) or (D, N, T) of 0/1 for the same N images in the same order; T may differ. Both see the same
    resamples of the images (a paired bootstrap), and each chooses its best threshold anew in every one.
    """
    pair = [array[None] if array.ndim == 2 else array for array in map(as_numpy, (hits, other))]
    draws = [_resampled_max(array, samples, seed) for array in pair]
    if pair[0].shape[:2] != pair[1].shape[:2]:
        raise ValueError(f"hits of the same images are expected, got shapes {pair[0].shape} and {pair[1].shape}")
    values = [array.sum(axis=1).max(axis=1).mean() * 100.0 / array.shape[1] for array in pair]
    return float(values[0] - values[1]), *_percentiles(draws[0] - draws[1], level)


def _resampled_max(hits, samples: int, seed: int) -> np.ndarray:
    """`samples` values in percent of the metric that maximises over thresholds; equal N and seed give equal resamples."""
    hits = as_numpy(hits)
    hits = hits[None] if hits.ndim == 2 else hits
    if hits.ndim != 3 or 0 in hits.shape:
        raise ValueError(f"hits must be (N, T) or (D, N, T) with N >= 1, got shape {hits.shape}")
    n = hits.shape[1]
    best = np.zeros(samples)
    for level_hits in hits:
        changed = np.append(True, (level_hits[:, 1:] != level_hits[:, :-1]).any(axis=0))
        matrix = level_hits[:, changed].astype(np.float32)  # counts stay below 2^24, exact in float32
        rng = np.random.default_rng(seed)  # the same resamples for every delta
        chunk = max(1, BOOTSTRAP_CELLS // max(n, matrix.shape[1]))
        for start in range(0, samples, chunk):
            size = min(chunk, samples - start)
            draws = rng.integers(n, size=(size, n)) + n * np.arange(size)[:, None]
            weights = np.bincount(draws.ravel(), minlength=size * n).reshape(size, n).astype(np.float32)
            best[start : start + size] += (weights @ matrix).max(axis=1)
    return best * 100.0 / (n * len(hits))


def mean_interval(
    values: np.ndarray, level: float = 0.95, samples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, ...]:
    """Mean over the images of (N, ...) values, and the ends of its percentile bootstrap interval, (...) each."""
    count = len(values)
    weights = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=samples) / count
    resampled = np.tensordot(weights, values, axes=1)
    low, high = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return values.mean(axis=0), low, high

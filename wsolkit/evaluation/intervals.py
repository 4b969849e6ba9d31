"""95 % intervals over the draw of images: of a share (Wilson), of a mean, and of a share maximised over thresholds (bootstrap)."""

from __future__ import annotations

import numpy as np
from scipy.stats import binomtest, bootstrap

from wsolkit.boxes.preparation import as_numpy
from wsolkit.common.errors import WsolkitError
from wsolkit.evaluation.metrics import one_per_image

CELLS = 2_000_000  # of resampled values or weights held at once: bounds the memory


def share_interval(hits, level: float = 0.95) -> tuple[float, float]:
    """Wilson's interval (lo, hi) in percent for the share of True among hits (N,) of 0/1 or bool.

    It covers what it says with few images too, where a percentile bootstrap is too short: of 5 hits among 5 that one has
    no width, this one goes from 57 to 100. Source: Wilson, JASA 1927; computed by scipy.

    >>> share_interval([True] * 5)
    (56.55..., 100.0)
    """
    hits = one_per_image("hits", hits, 1)
    if len(hits) == 0 or not np.isin(hits, (0, 1)).all():
        raise WsolkitError("share_interval needs at least one value, all 0 or 1")
    interval = binomtest(int(hits.sum()), len(hits)).proportion_ci(level, method="wilson")
    return 100 * float(interval.low), 100 * float(interval.high)


def bootstrap_mean(values, level: float = 0.95, samples: int = 1000, seed: int = 0) -> tuple[np.ndarray, ...]:
    """The mean over images of values (N, ...), the ends of its percentile bootstrap interval, (...) each, and the means
    of all resamples (..., samples). Paired differences as values make a paired bootstrap."""
    values = np.asarray(as_numpy(values), np.float64)
    mean = values.mean(axis=0)
    if len(values) == 1:  # scipy wants two observations; every resample of one is that one
        return mean, mean, mean, np.repeat(mean[..., None], samples, axis=-1)
    drawn = bootstrap(
        (values,), np.mean, axis=0, vectorized=True, method="percentile", confidence_level=level, n_resamples=samples,
        batch=max(1, CELLS // values.size), rng=np.random.default_rng(seed),
    )  # fmt: skip
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
    return percentiles(_resampled_max(hits, samples, seed), level)


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
        raise WsolkitError(f"hits of the same images are expected, got shapes {pair[0].shape} and {pair[1].shape}")
    values = [array.sum(axis=1).max(axis=1).mean() * 100.0 / array.shape[1] for array in pair]
    return float(values[0] - values[1]), *percentiles(draws[0] - draws[1], level)


def _resampled_max(hits, samples: int, seed: int) -> np.ndarray:
    """`samples` values in percent of the metric that maximises over thresholds; equal N and seed give equal resamples."""
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
    return best * 100.0 / (n * len(hits))

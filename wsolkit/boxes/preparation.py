"""Score maps made ready for scoring: cubic resize, min-max, 256 grey levels. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from wsolkit.boxes.protocols import check_share
from wsolkit.common.code import compiled
from wsolkit.common.errors import WsolkitError, is_whole, require

LARGEST = 16384  # side of a frame in pixels
REAL = "fiub"  # kinds of dtypes that hold real numbers


def as_numpy(array) -> np.ndarray:
    """A numpy view or copy of an array, list or torch tensor (any device; bfloat16 becomes float32)."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        return (array.float() if str(array.dtype) == "torch.bfloat16" else array).numpy()
    return np.asarray(array)


def frame(size: int | Sequence[int]) -> tuple[int, int]:
    """`size` as (H, W): an int is a square. ValueError when it is neither an int nor two positive ints."""
    sides: Any = (size, size) if np.ndim(size) == 0 else size
    good = len(sides) == 2 and all(is_whole(side, 1, LARGEST) for side in sides)
    require(good, f"size is a positive int or a pair (H, W) of them, at most {LARGEST}, got {size!r}")
    return int(sides[0]), int(sides[1])


def normalise_map(score_map) -> np.ndarray:
    """Min-max a score map (any shape, any real dtype) to [0, 1] float64; constant or not finite: all zeros."""
    scores = np.array(as_numpy(score_map), np.float64, order="C")
    if scores.size == 0:
        raise WsolkitError(f"a score map needs at least one pixel, got shape {scores.shape}")
    _min_max(scores.reshape(1, 1, -1))
    return scores


def remove_inferior(maps: Any, share: float) -> np.ndarray:
    """IVR, inferior value removal: max(0, A - q) / max(A - q) of each map A, q the quantile of its values at `share`.

    What lies below q becomes 0, and the rest is stretched to [0, 1]. A map times a positive number, or plus any number,
    gives the same result, so that IVR may follow other scalings; with share 0 it is the min-max. Scored afterwards,
    maps are resized and scaled as any other: the quantile is that of the map before the resize.

    Args:
        maps: (B, h, w), or B maps of the same shape, of any real dtype and range.
        share: in [0, 1), 0.45 in the paper where nothing chooses it.

    Returns:
        (B, h, w) float32 in [0, 1]. All zeros where nothing is above q: a constant map, or one that has its maximum at
        more than 1 - share of its positions; and where a value is not finite.

    Raises: WsolkitError: another share, or something else than maps.

    Example:
        >>> remove_inferior([[[0, 1, 2, 3, 4]]], 0.5).tolist()
        [[[0.0, 0.0, 0.0, 0.5, 1.0]]]

    Source: Kim, Choe, Yun, Kwak, "Normalization Matters in Weakly Supervised Object Localization", ICCV 2021.
    """
    check_share(share)
    results = []
    for scores in map(one_map, maps):
        above = scores.astype(np.float64)
        if not np.isfinite(above).all():
            above[:] = 0
        above = (above - np.quantile(above, share)).clip(min=0)
        results.append((above / (above.max() or 1)).astype(np.float32))
    return np.stack(results) if results else np.zeros(np.shape(maps), np.float32)


def resize_map(score_map, size: int | Sequence[int]) -> np.ndarray:
    """Cubic resize of a score map (h, w) to `size` (int or (H, W)), float32 (float64 when the map is).

    Cubic interpolation overshoots: the result may leave the map's range, so min-max comes after it.
    """
    scores, (height, width) = one_map(score_map), frame(size)
    dtype = np.float64 if scores.dtype.kind == "f" and scores.dtype.itemsize >= 8 else np.float32
    return cv2.resize(np.ascontiguousarray(scores, dtype), (width, height), interpolation=cv2.INTER_CUBIC)


def prepare_map(score_map, size: int | Sequence[int]) -> np.ndarray:
    """Score map (h, w) -> cubic resize to `size` -> min-max: (H, W) float64 in [0, 1], what `iou_curve` takes.

    A constant map gives zeros even where the resize's rounding (1e-8) would make it look structured.
    """
    return prepare_maps([score_map], size)[0]


def prepare_maps(score_maps: Sequence, size: int | Sequence[int]) -> np.ndarray:
    """`prepare_map` for a set: an array (B, h, w), or B maps of any shapes -> (B, H, W) float64.

    The resize is one OpenCV call per map: as the channels of one image they would be faster, but differ from the
    published protocol's maps in the last bits.
    """
    prepared = np.zeros((len(score_maps), *frame(size)))
    for index, score_map in enumerate(score_maps):
        scores = one_map(score_map)
        if np.isfinite(scores).all() and scores.min() != scores.max():
            prepared[index] = resize_map(scores, size)
    _min_max(prepared)
    return prepared


@compiled
def _min_max(maps):
    """Min-max each of (B, H, W) float64 maps in place; constant or not finite: zeros."""
    for index in range(len(maps)):
        scores = maps[index].reshape(-1)
        low = high = scores[0]
        finite = True
        for value in scores:
            finite &= np.isfinite(value)
            low, high = min(low, value), max(high, value)
        span = high - low
        for place in range(len(scores)):
            known = finite and span > 0 and np.isfinite(span)
            scores[place] = (scores[place] - low) / span if known else 0.0


def flat_is_zero(score_map) -> np.ndarray:
    """A map that is in [0, 1] already (but for rounding), as it is; a constant one is all zeros, as after a min-max."""
    scores = one_map(score_map).astype(np.float64)
    return np.zeros_like(scores) if scores.min() == scores.max() else scores.clip(0.0, 1.0)


def one_map(score_map) -> np.ndarray:
    """The map as an array (h, w); ValueError when it is something else."""
    scores = as_numpy(score_map)
    if scores.ndim != 2 or scores.size == 0 or scores.dtype.kind not in REAL:
        raise WsolkitError(f"one score map (h, w) of numbers is expected, got shape {scores.shape} of {scores.dtype}")
    return scores


def to_uint8(score_map) -> np.ndarray:
    """trunc(255 s) of a map in [0, 1] as uint8, computed in float64; a map with NaN or infinity is all zeros, as in the
    published protocol. ValueError for values outside [0, 1]."""
    scores = one_map(score_map).astype(np.float64)
    if not np.isfinite(scores).all():
        return np.zeros(scores.shape, np.uint8)
    low, high = scores.min(), scores.max()
    if low < 0 or high > 1:
        raise WsolkitError(f"score map values must lie in [0, 1], but are {low:g} to {high:g}: normalise_map first")
    return (scores * 255).astype(np.uint8)

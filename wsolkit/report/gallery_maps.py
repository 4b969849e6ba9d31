"""Grey-level maps that a page can compute itself, exactly: the arithmetic of galleries.js, and what it gets wrong.

A page holds a score map at its own low resolution (7 x 7 to 28 x 28, instead of 224 x 224) and grows it. OpenCV's cubic
resize in float32 cannot be copied bit for bit in JavaScript; a cubic resize in float64 with a fixed order of operations
can, by numpy too. So both do that, and the few pixels where its level differs from `to_uint8(prepare_map(...))` are
stored beside the map. The page's levels, and with them its boxes, are then Python's by construction.
"""

from __future__ import annotations

import base64

import cv2
import numpy as np

from wsolkit.boxes.preparation import normalise_map, one_map, prepare_map, to_uint8

SIDE = 64  # maps of more values than SIDE * SIDE (those of some gradients) are thinned, which costs corrections
A = -0.75  # OpenCV's cubic kernel


def cubic_levels(scores: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The levels (H, W) uint8 of a finite map (h, w) that is not constant, as galleries.js computes them: cubic resize,
    min-max and trunc(255 s) in float64, with the operations in its order."""
    across = _grow(scores.astype(np.float64).T, size[1]).T
    return to_uint8(normalise_map(_grow(across, size[0])))


def _grow(values: np.ndarray, length: int) -> np.ndarray:
    """(n, k) -> (length, k): cubic interpolation along the first axis, the edge repeated."""
    place = (np.arange(length) + 0.5) * (len(values) / length) - 0.5
    before = np.floor(place)
    x = (place - before)[:, None]
    y = 1 - x
    w0 = ((A * (x + 1) - 5 * A) * (x + 1) + 8 * A) * (x + 1) - 4 * A
    w1 = ((A + 2) * x - (A + 3)) * x * x + 1
    w2 = ((A + 2) * y - (A + 3)) * y * y + 1
    w3 = 1 - w0 - w1 - w2
    taken = [values[np.clip(before.astype(int) + step, 0, len(values) - 1)] for step in (-1, 0, 1, 2)]
    return taken[0] * w0 + taken[1] * w1 + taken[2] * w2 + taken[3] * w3


def page_map(score_map, size: tuple[int, int]) -> dict:
    """What a page needs to have the 256-level map (H, W) of a score map (h, w) at hand.

    {"shape": [h, w], "map": base64 of little-endian float32, "fixes": base64 of pairs: how many pixels further on, row by
    row (a base-128 number, lowest digits first, 128 added to all bytes but its last), and the level there}. A map that is
    constant or not finite, whose levels are all 0, has the map "".
    """
    levels = to_uint8(prepare_map(score_map, size))
    if not levels.any():
        return {"shape": [1, 1], "map": "", "fixes": ""}
    scores = one_map(score_map).astype("<f4")
    if scores.size > SIDE * SIDE:
        height, width = (min(side, SIDE) for side in scores.shape)
        scores = cv2.resize(scores, (width, height), interpolation=cv2.INTER_AREA).astype("<f4")
    computed = cubic_levels(scores, size).ravel() if scores.min() != scores.max() else np.zeros(levels.size, np.uint8)
    wrong = np.flatnonzero(computed != levels.ravel())
    fixes = bytearray()
    for gap, level in zip(np.diff(wrong, prepend=0).tolist(), levels.ravel()[wrong].tolist(), strict=True):
        while gap > 127:
            fixes.append(gap % 128 + 128)
            gap //= 128
        fixes += bytes((gap, level))
    return {"shape": list(scores.shape), "map": _text(scores.tobytes()), "fixes": _text(bytes(fixes))}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")

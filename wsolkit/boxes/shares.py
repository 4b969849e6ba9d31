"""Boxes as shares of an image, which methods that give a box and no map return, and boxes in pixels of a frame.

Shares x0, y0, x1, y1 lie in [0, 1] and are *edges*: 0, 0, 1, 1 is the whole image, whatever its size. Pixels are the
kit's inclusive corners, so the whole frame is 0, 0, W - 1, H - 1. No torch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from wsolkit.boxes.preparation import as_numpy, frame
from wsolkit.common.errors import WsolkitError, require


def boxes_of_shares(shares, size: int | Sequence[int]) -> np.ndarray:
    """The pixels of a frame that boxes cover: shares (N, 4) -> (N, 4) int64 inclusive corners, inside the frame.

    size: the frame, an int (a square) or (H, W). Edges are rounded to the nearest edge of a pixel, halves up; a box
    thinner than a pixel is one pixel. ValueError: shares outside [0, 1], NaN, or x0 > x1 or y0 > y1.

    >>> boxes_of_shares([[0, 0, 1, 1], [0.25, 0.5, 0.75, 0.5]], 8).tolist()
    [[0, 0, 7, 7], [2, 4, 5, 4]]
    """
    edges, (height, width) = as_numpy(shares).astype(np.float64), frame(size)
    expected = "boxes as shares have shape (N, 4) with x0 <= x1 and y0 <= y1 in [0, 1]"
    require(edges.ndim == 2 and edges.shape[1] == 4, f"{expected}, got shape {edges.shape}")
    good = ((edges >= 0) & (edges <= 1)).all(axis=1) & (edges[:, 2:] >= edges[:, :2]).all(axis=1)
    for row in np.flatnonzero(~good)[:1]:
        raise WsolkitError(f"{expected}, got {edges[row].tolist()} in row {row}")
    pixels = np.floor(edges * [width, height, width, height] + 0.5).astype(np.int64)
    first = np.minimum(pixels[:, :2], [width - 1, height - 1])
    return np.concatenate([first, np.maximum(pixels[:, 2:] - 1, first)], axis=1)


def shares_of_boxes(boxes, size: int | Sequence[int]) -> np.ndarray:
    """The inverse: inclusive corners (N, 4) in pixels of a frame -> shares (N, 4) float64, cut at the frame.

    >>> shares_of_boxes([[0, 0, 7, 7], [2, 4, 5, 4]], 8).tolist()
    [[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.75, 0.625]]
    """
    height, width = frame(size)
    edges = as_numpy(boxes).astype(np.float64).reshape(-1, 4) + np.array([0, 0, 1, 1])
    return (edges / [width, height, width, height]).clip(0, 1)

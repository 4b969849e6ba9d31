"""From a score map to boxes: contours at a threshold, IoU, and the IoU-against-threshold curve.

A box is `x0, y0, x1, y1` in pixels with *inclusive* corners inside the frame: its width is `x1 - x0 + 1` everywhere in
this package. A contour (cv2.boundingRect x, y, w, h; its inclusive corner is x + w - 1) becomes a box as in
wsolevaluation (Choe et al., CVPR 2020): `[x, y, min(x + w, W - 1), min(y + h, H - 1)]`, one pixel larger than the
contour; an empty mask gives the point [0, 0, 0, 0], a miss. RethinkingCAM's code (Bae, Noh, Kim, ECCV 2020) does not
clamp, so that a box may end at W, and gives an empty mask the full frame: that is `protocol="rethinking_cam"`, which
only that protocol's numbers use. Neither is "mended", so that numbers stay comparable with published ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any

import cv2
import numpy as np

from wsolkit.boxes.contours import best_ious, largest_boxes, overlap
from wsolkit.boxes.preparation import REAL, as_numpy, frame, one_map, prepare_map, to_uint8
from wsolkit.boxes.protocols import protocol_named
from wsolkit.common.errors import WsolkitError, is_real, require

CONTOURS = ("all", "largest")


@lru_cache(maxsize=16)
def thresholds(interval: float = 0.001) -> np.ndarray:
    """The T thresholds tau = arange(0, 1, interval), (T,) float64, read-only; interval in [1e-6, 1]."""
    require(is_real(interval, 1e-6, 1), f"interval must be in [1e-6, 1], got {interval!r}")
    taus = np.arange(0, 1, interval)
    taus.setflags(write=False)
    return taus


def ground_truth(gt_boxes) -> np.ndarray:
    """Check ground-truth boxes: (n, 4) or (4,) inclusive corners -> (m, 4) without padding rows (all -1), m >= 1."""
    boxes = _rows(gt_boxes)
    boxes = boxes[~(boxes == -1).all(axis=1)]
    if len(boxes) == 0:
        raise WsolkitError("no ground-truth box: an image without one cannot be scored, leave it out")
    if not (np.isfinite(boxes).all() and (boxes[:, 2:] >= boxes[:, :2]).all()):
        raise WsolkitError(f"ground-truth boxes need finite x0 <= x1 and y0 <= y1, got {boxes.tolist()}")
    return boxes


def ground_truths(gt_boxes: Sequence, ids: Sequence) -> list[np.ndarray]:
    """`ground_truth` of every image; ValueError names the image whose boxes are wrong by its id."""
    truths = []
    for name, boxes in zip(ids, gt_boxes, strict=True):
        try:
            truths.append(ground_truth(boxes))
        except ValueError as error:
            raise WsolkitError(f"image {name}: {error}") from None
    return truths


def iou(boxes_a, boxes_b) -> np.ndarray:
    """Intersection over union of every pair: (n, 4) or (4,) and (m, 4) or (4,) inclusive corners -> (n, m) float64.

    >>> iou([0, 0, 1, 1], [[1, 1, 2, 2], [5, 5, 6, 6]])
    array([[0.14285714, 0.        ]])
    """
    shared, area_a, area_b = overlaps(_rows(boxes_a)[:, None], _rows(boxes_b)[None])
    return shared / (area_a + area_b - shared)


def overlaps(boxes_a: np.ndarray, boxes_b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The intersection and both areas in pixels of boxes (..., 4) whose shapes fit each other."""
    corners = [boxes.astype(np.int64 if boxes.dtype.kind in "iub" else np.float64) for boxes in (boxes_a, boxes_b)]
    return overlap(*(boxes[..., corner] for boxes in corners for corner in range(4)))


def overlap_shares(box, gt_boxes) -> tuple[float, float]:
    """How a box misses: the share of the ground-truth box it covers, and the share of it that lies on that box, both in
    [0, 1], for the ground-truth box of largest IoU. A box around a part has a small first and a large second number."""
    truths = ground_truth(gt_boxes)
    shared, area, truth_area = overlaps(as_numpy(box), truths[int(np.argmax(iou(box, truths)[0]))])
    return float(shared / truth_area), float(shared / area)


def _rows(boxes) -> np.ndarray:
    rows = as_numpy(boxes)
    rows = rows.reshape(-1, 4) if rows.shape == (4,) or rows.size == 0 else rows
    if rows.ndim != 2 or rows.shape[1] != 4 or rows.dtype.kind not in REAL:
        raise WsolkitError(f"boxes have shape (n, 4) of numbers as x0, y0, x1, y1, got {rows.shape} of {rows.dtype}")
    return rows


def check_rule(threshold: float, percentile: float) -> None:
    """ValueError unless the threshold is a share of at least 0 and the percentile is in [0, 100]."""
    good = is_real(threshold, 0)
    require(good, f"threshold must be a finite share of at least 0, usually below 1, got {threshold!r}")
    require(is_real(percentile, 0, 100), f"percentile must be in [0, 100], got {percentile!r}")


def threshold_value(u8: np.ndarray, threshold: Any, percentile: float = 100.0) -> Any:
    """The level t = int(threshold * percentile(u8)) of the mask `u8 > t`, 100 = maximum; of thresholds (T,): int64."""
    check_rule(np.min(threshold), percentile)
    levels = threshold * float(u8.max() if percentile == 100 else np.percentile(u8, percentile))
    return levels.astype(np.int64) if isinstance(threshold, np.ndarray) else int(levels)


class ContourBoxes:
    """The contour boxes of one score map at every threshold.

    A uint8 map has at most 256 masks, whatever the number of thresholds and rules; `wsolkit.boxes.contours` finds the
    boxes of all of them in one pass. score_map: (H, W) in [0, 1], taken as is (`prepare_map` makes one).
    """

    def __init__(self, score_map):
        self.u8 = np.ascontiguousarray(to_uint8(score_map))

    @cached_property
    def largest(self) -> np.ndarray:
        """(256, 4) int64: [x, y, x + w, y + h] of the largest contour of `u8 > t` in row t, -1 where there is none."""
        return largest_boxes(self.u8)

    def box(self, threshold: float, percentile=100.0, protocol="wsolevaluation") -> tuple[np.ndarray, bool]:
        """The largest contour's box (4,) int64 at one threshold, and whether the mask is empty."""
        level = threshold_value(self.u8, threshold, percentile)
        empty = level >= self.u8.max()
        return protocol_named(protocol).box(None if empty else self.largest[level], self.u8.shape), bool(empty)

    def level_ious(self, gt_boxes) -> np.ndarray:
        """(256,) float64: in row t the best IoU of `largest`, cut at the frame, with any ground-truth box."""
        height, width = self.u8.shape
        return iou(np.clip(self.largest, 0, [width - 1, height - 1] * 2), ground_truth(gt_boxes)).max(axis=1)

    def levels(self, interval: float = 0.001, percentile: float = 100.0) -> np.ndarray:
        """(T,) int64: the grey level t of each threshold."""
        return threshold_value(self.u8, thresholds(interval), percentile)

    def curve(self, gt_boxes, interval=0.001, contours: str = "all", percentile: float = 100.0) -> np.ndarray:
        """See `iou_curve`."""
        if contours not in CONTOURS:
            raise WsolkitError(f"contours is one of {', '.join(CONTOURS)}, got {contours!r}")
        every = contours == "all"
        ious = best_ious(self.u8, ground_truth(gt_boxes).astype(np.float64)) if every else self.level_ious(gt_boxes)
        return ious[self.levels(interval, percentile)]


def extract_box(
    score_map,
    threshold: float = 0.2,
    percentile: float = 100.0,
    size: int | Sequence[int] | None = 224,
    return_empty: bool = False,
    protocol: str = "wsolevaluation",
) -> np.ndarray | tuple[np.ndarray, bool]:
    """The one box of a score map, as it is scored.

    Cubic resize -> min-max -> trunc to uint8 -> mask = u8 > int(threshold * percentile(u8)) -> largest contour -> box.

    Args:
        score_map: (h, w), any real dtype and range.
        threshold, percentile: the box rule; plain CAM 0.2 and 100 (the maximum), RethinkingCAM (PaS) 0.35 and 90. On a
            sparse map a percentile below 100 may be 0, and every nonzero pixel is kept.
        size: int, (H, W) or None = as the map is.
        return_empty: whether the answer is (box, was the mask empty), so that such images can be counted.
        protocol: whose corners, see `wsolkit.boxes.protocols`.

    Returns:
        (4,) int64 [x0, y0, x1, y1], inclusive corners inside the frame. A flat or NaN map has an empty mask and the
        point [0, 0, 0, 0]. With protocol "rethinking_cam" (Bae, Noh, Kim, ECCV 2020, section 3.3, and its code) the far
        corner is not clamped and may be W or H, and an empty mask gives the full frame [0, 0, W, H].

    Example:
        >>> extract_box([[0, 0, 0, 0], [0, 1, 1, 0], [0, 1, 1, 0], [0, 0, 0, 0]], 0.5, size=None).tolist()
        [1, 1, 3, 3]
    """
    u8 = to_uint8(prepare_map(score_map, one_map(score_map).shape if size is None else size))
    mask, contour = (u8 > threshold_value(u8, threshold, percentile)).view(np.uint8), None
    # one search costs less than the boxes of all thresholds; a contour inside another one is never the largest
    if contours := cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]:
        x, y, width, height = cv2.boundingRect(max(contours, key=cv2.contourArea))
        contour = np.array([x, y, x + width, y + height])
    box = protocol_named(protocol).box(contour, u8.shape)
    return (box, contour is None) if return_empty else box


def iou_curve(score_map, gt_boxes, interval=0.001, contours: str = "all", percentile: float = 100.0) -> np.ndarray:
    """Best IoU with any ground-truth box at each threshold: (T,) float64 for tau in `thresholds(interval)`.

    score_map: (H, W) in [0, 1] at the ground truth's resolution, taken as is (`prepare_map` resizes and normalises).
    gt_boxes: (n, 4) inclusive x0, y0, x1, y1; rows of -1 are padding.
    contours: "all" (MaxBoxAccV2: outer and hole boundaries) or "largest" (MaxBoxAcc: largest contour area).
    percentile: 100 is the protocol (tau times the maximum); below 100 tau multiplies that percentile of the map (PaS).
    u8 = trunc(255 s), mask = u8 > int(tau * max(u8)), box = [x, y, min(x+w, W-1), min(y+h, H-1)]; an empty mask gives
    [0, 0, 0, 0]. A hole's box is the hole grown by one pixel on each side.
    ValueError: map outside [0, 1] or NaN, no ground-truth box, wrong shapes. Source: Choe et al., CVPR 2020 and its
    code (wsolevaluation, wsol_evaluator).
    """
    return ContourBoxes(score_map).curve(gt_boxes, interval, contours, percentile)


def centre_boxes(size: int | Sequence[int], sides: Sequence[int] | np.ndarray) -> np.ndarray:
    """Centred boxes of the frame's aspect that are `sides` (S,) pixels wide, each from 1 to its width: (S, 4) int64."""
    (height, width), columns = frame(size), np.asarray(sides, np.int64)
    rows = np.maximum(1, np.rint(columns * height / width).astype(np.int64))
    x0, y0 = (width - columns) // 2, (height - rows) // 2
    return np.stack([x0, y0, x0 + columns - 1, y0 + rows - 1], axis=1)


def centre_box_curve(gt_boxes_list: Sequence, size: int | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """IoU of centred boxes of growing size: `sides` (S,) int64 in pixels (1 to 100 % of the width) and IoUs (N, S) with
    the best ground-truth box of each of N images. The baseline that knows nothing: choose the side on validation data,
    score it on test data."""
    _, width = frame(size)
    sides = np.unique(np.maximum(np.rint(np.arange(1, 101) * width / 100), 1).astype(np.int64))
    boxes = centre_boxes(size, sides)
    ious = [iou(boxes, ground_truth(gt_boxes)).max(axis=1) for gt_boxes in gt_boxes_list]
    return sides, np.array(ious).reshape(-1, len(sides))

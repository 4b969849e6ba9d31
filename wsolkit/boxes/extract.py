"""From a score map to boxes: resize and min-max, contours at a threshold, IoU, and the IoU-against-threshold curve.

A box is `x0, y0, x1, y1` in pixels with *inclusive* corners: its width is `x1 - x0 + 1` everywhere in this package.
The two reference implementations turn a contour (cv2.boundingRect x, y, w, h: its inclusive corner is x + w - 1) into
corners that are one pixel larger than that, and differ from each other at the frame's edge:

- wsolevaluation (Choe et al., CVPR 2020) uses `min(x + w, W - 1)`; so do `iou_curve` and all metrics of this package;
- RethinkingCAM (Bae, Noh, Kim, ECCV 2020) uses `x + w` unclamped, so that a box may end at W; so does `extract_box`.

Their answers to an empty mask differ too: the point [0, 0, 0, 0] there (a miss), the full frame [0, 0, W, H] here.
Neither is "mended", so that numbers stay comparable with published ones. The module needs no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache

import cv2
import numpy as np

from wsolkit.boxes.contours import best_ious, largest_boxes
from wsolkit.boxes.preparation import as_numpy, frame, normalise_map, one_map, prepare_map, resize_map, to_uint8  # noqa: F401

CONTOURS = ("all", "largest")


@lru_cache(maxsize=16)
def thresholds(interval: float = 0.001) -> np.ndarray:
    """The T thresholds tau = arange(0, 1, interval), (T,) float64, read-only; interval in (0, 1]."""
    if not 1e-6 <= interval <= 1:
        raise ValueError(f"interval must be in [1e-6, 1], got {interval}")
    taus = np.arange(0, 1, interval)
    taus.setflags(write=False)
    return taus


# ------------------------------------------------------------------------------------------------ boxes


def ground_truth(gt_boxes) -> np.ndarray:
    """Check ground-truth boxes: (n, 4) or (4,) inclusive corners -> (m, 4) without padding rows (all -1), m >= 1."""
    boxes = as_numpy(gt_boxes)
    boxes = boxes.reshape(1, -1) if boxes.ndim == 1 and boxes.size else boxes
    if boxes.size and (boxes.ndim != 2 or boxes.shape[1] != 4):
        raise ValueError(f"ground-truth boxes have shape (n, 4) as x0, y0, x1, y1, got {boxes.shape}")
    boxes = boxes.reshape(-1, 4)
    boxes = boxes[~(boxes == -1).all(axis=1)]
    if len(boxes) == 0:
        raise ValueError("no ground-truth box: an image without one cannot be scored, leave it out")
    if not (np.isfinite(boxes).all() and (boxes[:, 2:] >= boxes[:, :2]).all()):
        raise ValueError(f"ground-truth boxes need finite x0 <= x1 and y0 <= y1, got {boxes.tolist()}")
    return boxes


def iou(boxes_a, boxes_b) -> np.ndarray:
    """Intersection over union of every pair: (n, 4) and (m, 4) inclusive corners -> (n, m) float64 in [0, 1].

    The intersection's width and height are clamped at 0 separately: the product of two negative ones would give boxes
    that are disjoint in both axes a positive score.
    """
    a, b = (_box_rows(boxes)[..., None] for boxes in (boxes_a, boxes_b))
    a, b = a.transpose(1, 0, 2), b.transpose(1, 2, 0)  # (4, n, 1) and (4, 1, m)
    width = np.maximum(np.minimum(a[2], b[2]) - np.maximum(a[0], b[0]) + 1, 0)
    height = np.maximum(np.minimum(a[3], b[3]) - np.maximum(a[1], b[1]) + 1, 0)
    intersection = width * height
    areas_a, areas_b = ((box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (a, b))
    return intersection / (areas_a + areas_b - intersection)


def overlap_shares(box, gt_boxes) -> tuple[float, float]:
    """How a box misses: the share of the ground-truth box it covers, and the share of it that lies on that box, both in
    [0, 1], for the ground-truth box of largest IoU. A box around a part has a small first and a large second number."""
    truths = ground_truth(gt_boxes)
    truth = truths[int(np.argmax(iou(np.reshape(as_numpy(box), (1, 4)), truths)[0]))]
    box = as_numpy(box)
    width, height = np.maximum(0, np.minimum(box[2:], truth[2:]) - np.maximum(box[:2], truth[:2]) + 1)
    shared = float(width * height)
    return shared / float(np.prod(truth[2:] - truth[:2] + 1)), shared / float(np.prod(box[2:] - box[:2] + 1))


def _box_rows(boxes) -> np.ndarray:
    rows = as_numpy(boxes)
    rows = rows.reshape(1, 4) if rows.shape == (4,) else rows
    if rows.ndim != 2 or rows.shape[1] != 4:
        raise ValueError(f"boxes have shape (n, 4) as x0, y0, x1, y1, got {rows.shape}")
    return rows.astype(np.int64 if rows.dtype.kind in "iub" else np.float64)


def contour_boxes(mask) -> tuple[np.ndarray, int]:
    """All contours of one mask (H, W), boolean or 0 / nonzero, outer and hole boundaries, by OpenCV: boxes (n, 4) int64
    [x, y, x + w, y + h] and the index of the one with the largest area, -1 when there is none.

    Of equal areas (one-pixel-wide shapes all have area 0) it is the first in OpenCV's order.
    """
    mask = np.ascontiguousarray(one_map(mask) != 0).view(np.uint8)
    contours = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]  # [-2] in every version (3, 4, 5)
    boxes = np.array([cv2.boundingRect(contour) for contour in contours], np.int64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    areas = [cv2.contourArea(contour) for contour in contours]
    return boxes, areas.index(max(areas)) if areas else -1


def threshold_value(u8: np.ndarray, threshold: float, percentile: float = 100.0) -> int:
    """The level t = int(threshold * percentile(u8)) of the mask `u8 > t`; linear interpolation, 100 = maximum."""
    check_rule(threshold, percentile)
    return int(threshold * _reference_value(u8, percentile))


def check_rule(threshold: float, percentile: float) -> None:
    """ValueError unless the threshold is a share of at least 0 and the percentile is in [0, 100]."""
    if not 0 <= threshold < np.inf:
        raise ValueError(f"threshold must be a finite share of at least 0, usually below 1, got {threshold}")
    if not 0 <= percentile <= 100:
        raise ValueError(f"percentile must be in [0, 100], got {percentile}")


def _reference_value(u8: np.ndarray, percentile: float) -> float:
    check_rule(0.0, percentile)
    return float(u8.max()) if percentile == 100 else float(np.percentile(u8, percentile))


def mask_to_box(mask) -> np.ndarray | None:
    """Box [x, y, x + w, y + h] (RethinkingCAM's corners, not clamped) of a mask's largest contour, (4,) int64; the mask
    (H, W) is boolean or 0 / nonzero. None when it is empty."""
    boxes, largest = contour_boxes(mask)
    return None if largest < 0 else boxes[largest]


def extract_box(
    score_map, threshold: float = 0.2, percentile: float = 100.0, size=224, return_empty: bool = False
) -> np.ndarray | tuple[np.ndarray, bool]:
    """The one box of a score map, as RethinkingCAM draws it (PaS: percentile=90, threshold=0.35; plain: 100 and 0.2).

    Cubic resize of the map (h, w) to `size` (int, (H, W) or None = keep) -> min-max -> trunc to uint8 -> mask =
    u8 > int(threshold * percentile(u8)) -> largest contour. Returns (4,) int64 [x, y, x + w, y + h]: the far corner is
    not clamped and may be W or H. A flat or NaN map has an empty mask and returns the full frame [0, 0, W, H]; with
    `return_empty=True` the answer is (box, was the mask empty), so that such images can be counted.
    On a sparse map the percentile is 0 and every nonzero pixel is kept. Source: Bae, Noh, Kim, ECCV 2020, section 3.3.
    """
    prepared = prepare_map(score_map, one_map(score_map).shape if size is None else size)
    box, empty = box_of_prepared(prepared, threshold, percentile)
    return (box, empty) if return_empty else box


def box_of_prepared(score_map, threshold: float, percentile: float) -> tuple[np.ndarray, bool]:
    """`extract_box` of a map (H, W) in [0, 1] that is taken as it is: (box, was the mask empty)."""
    u8 = to_uint8(score_map)
    box = mask_to_box(u8 > threshold_value(u8, threshold, percentile))
    if box is None:
        return np.array([0, 0, u8.shape[1], u8.shape[0]], np.int64), True
    return box, False


def extract_boxes(
    score_maps, threshold: float = 0.2, percentile: float = 100.0, size=224, return_empty: bool = False
) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
    """`extract_box` for (B, h, w) maps (or a list of maps) -> (B, 4) int64, with `return_empty` also (B,) bool."""
    answers = [extract_box(score_map, threshold, percentile, size, True) for score_map in score_maps]
    boxes = np.array([box for box, _ in answers], np.int64).reshape(-1, 4)
    return (boxes, np.array([empty for _, empty in answers], bool)) if return_empty else boxes


# ------------------------------------------------------------------------------------------------ threshold curves


class ContourBoxes:
    """The contour boxes of one score map at every threshold, corners as wsolevaluation's.

    A uint8 map has at most 256 masks, whatever the number of thresholds and rules; `component_tree` finds the boxes of
    all of them in one pass. score_map: (H, W) in [0, 1], taken as is (`prepare_map` makes one).
    """

    def __init__(self, score_map):
        self.u8 = np.ascontiguousarray(to_uint8(score_map))

    @cached_property
    def largest(self) -> np.ndarray:
        """(256, 4) int64: the box of the largest contour of `u8 > t` in row t, the point [0, 0, 0, 0] if there is none."""
        height, width = self.u8.shape
        boxes = largest_boxes(self.u8)
        return np.clip(boxes, 0, [width - 1, height - 1] * 2)

    def box(self, threshold: float, percentile: float = 100.0) -> np.ndarray | None:
        """The largest contour's box (4,) int64 at one threshold, or None when the mask is empty."""
        level = threshold_value(self.u8, threshold, percentile)
        return None if level >= self.u8.max() else self.largest[level]

    def curve(self, gt_boxes, interval=0.001, contours: str = "all", percentile: float = 100.0) -> np.ndarray:
        """See `iou_curve`."""
        if contours not in CONTOURS:
            raise ValueError(f"contours is one of {', '.join(CONTOURS)}, got {contours!r}")
        truths = ground_truth(gt_boxes)
        levels = (thresholds(interval) * _reference_value(self.u8, percentile)).astype(np.int64)
        if contours == "all":
            return best_ious(self.u8, truths.astype(np.float64))[levels]
        return iou(self.largest, truths).max(axis=1)[levels]


def iou_curve(
    score_map, gt_boxes, interval: float = 0.001, contours: str = "all", percentile: float = 100.0
) -> np.ndarray:
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


# ------------------------------------------------------------------------------------------------ centre box


def centre_box(size: int | Sequence[int], side: int) -> np.ndarray:
    """The centred box of width `side` pixels and the frame's own aspect (a square in a square frame), (4,) int64."""
    height, width = frame(size)
    if not 1 <= side <= width:
        raise ValueError(f"side must be from 1 to the frame's width {width}, got {side}")
    rows = max(1, round(side * height / width))
    x0, y0 = (width - int(side)) // 2, (height - rows) // 2
    return np.array([x0, y0, x0 + int(side) - 1, y0 + rows - 1], np.int64)


def centre_box_curve(gt_boxes_list: Sequence, size: int | Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """IoU of centred boxes of growing size: `sides` (S,) int64 in pixels (1 to 100 % of the width) and IoUs (N, S) with
    the best ground-truth box of each of N images. The baseline that knows nothing: choose the side on validation data,
    score it on test data."""
    _, width = frame(size)
    sides = np.unique(np.maximum(np.rint(np.arange(1, 101) * width / 100), 1).astype(np.int64))
    boxes = np.stack([centre_box(size, int(side)) for side in sides])
    ious = [iou(boxes, ground_truth(gt_boxes)).max(axis=1) for gt_boxes in gt_boxes_list]
    return sides, np.array(ious).reshape(-1, len(sides))

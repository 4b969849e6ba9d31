"""The protocol as one would write it down first: a threshold, a contour search, and all IoUs, once for each of T
thresholds, or for each distinct mask. Plain on purpose: property tests and the benchmark hold the package against it."""

from __future__ import annotations

import cv2
import numpy as np

from wsolkit.evaluation import metrics
from wsolkit.evaluation.metrics import DELTAS, max_box_acc, pixel_histograms, pxap_from_histograms


def iou_of_boxes(estimated: np.ndarray, truths: np.ndarray) -> np.ndarray:
    """(n, 4) and (m, 4) inclusive corners -> (n, m)."""
    a, b = estimated[:, None], truths[None]
    width = np.clip(np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0]) + 1, 0, None)
    height = np.clip(np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1]) + 1, 0, None)
    area_a = (a[..., 2] - a[..., 0] + 1) * (a[..., 3] - a[..., 1] + 1)
    area_b = (b[..., 2] - b[..., 0] + 1) * (b[..., 3] - b[..., 1] + 1)
    return width * height / (area_a + area_b - width * height)


def boxes_at(u8: np.ndarray, level: int, contours: str) -> np.ndarray:
    """Boxes (n, 4) of all contours, or of the largest one, of the mask u8 > level; an empty mask is a point."""
    height, width = u8.shape
    _, mask = cv2.threshold(u8, level, 255, cv2.THRESH_BINARY)
    found = cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
    if len(found) == 0:
        return np.zeros((1, 4), np.int64)
    if contours == "largest":
        found = [max(found, key=cv2.contourArea)]
    boxes = []
    for contour in found:
        x, y, w, h = cv2.boundingRect(contour)
        boxes.append([x, y, min(x + w, width - 1), min(y + h, height - 1)])
    return np.array(boxes)


def contour_boxes(mask) -> tuple[np.ndarray, int]:
    """All contours of one mask (H, W), outer and hole boundaries, by OpenCV: boxes (n, 4) int64 [x, y, x + w, y + h] and the
    index of the one with the largest area, -1 when there is none; of equal areas the first in OpenCV's order."""
    found = cv2.findContours((np.asarray(mask) != 0).astype(np.uint8), cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[-2]
    boxes = np.array([cv2.boundingRect(contour) for contour in found], np.int64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    areas = [cv2.contourArea(contour) for contour in found]
    return boxes, areas.index(max(areas)) if areas else -1


def iou_curve(score_map, gt_boxes, interval=0.001, contours="all", percentile=100, once=False) -> np.ndarray:
    """Best IoU at every threshold, (T,); score_map (H, W) in [0, 1], gt_boxes (n, 4).

    once: one contour search per distinct mask (at most 256, one for each level of the map) instead of one per threshold, the
    first thing that one would do to make it faster.
    """
    u8 = (np.asarray(score_map, np.float64) * 255).astype(np.uint8)
    truths = np.asarray(gt_boxes, np.int64)
    reference = u8.max() if percentile == 100 else np.percentile(u8, percentile)
    levels = [int(tau * reference) for tau in np.arange(0, 1, interval)]
    if not once:
        return np.array([iou_of_boxes(boxes_at(u8, level, contours), truths).max() for level in levels])
    masks = np.searchsorted(np.unique(u8), levels, side="right")  # levels between two values of the map have one mask
    known = dict(zip(masks, levels, strict=True))
    best = {mask: iou_of_boxes(boxes_at(u8, level, contours), truths).max() for mask, level in known.items()}
    return np.array([best[mask] for mask in masks])


def max_box_acc_v2(curves: np.ndarray) -> float:
    """The mean of MaxBoxAcc over the three IoUs, each with its own best threshold; curves (N, T), contours="all"."""
    return float(np.mean([max_box_acc(curves, delta) for delta in DELTAS]))


def pxap(score_maps, masks, interval: float = 0.001) -> float:
    """PxAP over a set: equally long iterables of score maps and masks."""
    pairs = zip(score_maps, masks, strict=True)
    return pxap_from_histograms(sum(pixel_histograms(score_map, mask, interval) for score_map, mask in pairs))


def top_k_cls(logits, labels, k=1):
    return metrics.percent(metrics.top_k_hits(logits, labels, k))


def gt_known_loc(ious):
    return metrics.percent(metrics.loc_hits(ious))


def top_k_loc(logits, labels, ious, k=1):
    return metrics.percent(metrics.top_k_hits(logits, labels, k) & metrics.loc_hits(ious))

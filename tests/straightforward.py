"""The protocol as one would write it down first: a threshold, a contour search, and all IoUs, once for each of T
thresholds. Slow and plain on purpose: property tests and the benchmark hold the package against it."""

from __future__ import annotations

import cv2
import numpy as np


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


def iou_curve(score_map, gt_boxes, interval=0.001, contours="all", percentile=100) -> np.ndarray:
    """Best IoU at every threshold, (T,); score_map (H, W) in [0, 1], gt_boxes (n, 4)."""
    u8 = (np.asarray(score_map, np.float64) * 255).astype(np.uint8)
    truths = np.asarray(gt_boxes, np.int64)
    reference = u8.max() if percentile == 100 else np.percentile(u8, percentile)
    return np.array(
        [iou_of_boxes(boxes_at(u8, int(tau * reference), contours), truths).max() for tau in np.arange(0, 1, interval)]
    )

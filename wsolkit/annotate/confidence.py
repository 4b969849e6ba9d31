"""How far a box can be trusted: a heuristic, calibrated where some true boxes are known, and measured where others are.

The heuristic is the probability of the image's class times the agreement of the box with those of neighbouring
thresholds (mean IoU): a box that stays where it is while the threshold moves follows an edge of the map.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import cv2
import numpy as np

from wsolkit.annotate.formats import Record
from wsolkit.boxes.extract import iou, threshold_value
from wsolkit.boxes.protocols import protocol_named

AROUND = (0.7, 0.85, 1.15, 1.3)  # times the threshold: where the box is cut again
PART = 0.1  # of the largest component's area: smaller ones are no objects
DELTA = 0.5  # IoU of a box that counts as right
UNUSED = "all but those used for calibration"  # of the images with a box
LEAST = 30  # validation images with a box, to calibrate on
HEURISTIC = "class probability times mean IoU with the boxes of neighbouring thresholds, a heuristic"


def components(u8: np.ndarray, threshold: float, percentile: float = 100.0, count: int = 1) -> np.ndarray:
    """The boxes of the largest components above a threshold, the largest first: (n, 4) int64, n <= count.

    u8: (H, W) uint8 map. The first one is the box of `extract_box`; an empty mask has none.
    """
    mask = (u8 > threshold_value(u8, threshold, percentile)).view(np.uint8)
    contours = cv2.findContours(mask, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)[0]
    ordered = sorted(contours, key=cv2.contourArea, reverse=True)[:count]  # of equal ones the first, as max() does
    boxes = []
    for contour in ordered:
        if cv2.contourArea(contour) >= PART * cv2.contourArea(ordered[0]):
            x, y, width, height = cv2.boundingRect(contour)
            corners = np.array([x, y, x + width, y + height])
            boxes.append(protocol_named("wsolevaluation").box(corners, (u8.shape[0], u8.shape[1])))
    return np.array(boxes, np.int64).reshape(-1, 4)


def boxes_with_agreement(
    u8: np.ndarray, threshold: float, percentile: float = 100.0, count: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """`components` (n, 4), and how well each agrees with those of neighbouring thresholds, (n,) in [0, 1]; of further
    components less, as far as the map is lower there than at its maximum."""
    boxes = components(u8, threshold, percentile, count)
    if not len(boxes):
        return boxes, np.zeros(0)
    agreements = []
    for factor in AROUND:
        others = components(u8, min(factor * threshold, (1 + threshold) / 2), percentile, count)
        agreements.append(iou(boxes, others).max(axis=1) if len(others) else np.zeros(len(boxes)))
    peaks = [u8[y0 : y1 + 1, x0 : x1 + 1].max() / u8.max() for x0, y0, x1, y1 in boxes]
    return boxes, np.mean(agreements, axis=0) * peaks


@dataclass(frozen=True)
class Measured:
    """Images with a true box. The calibrated ones among them were used to choose what certainty means.

    Attributes:
        splits, labels: of each image. scores, ious: of its first box, the certainty in [0, 1] and the IoU with the best
            true box. detections: all its boxes, certainty and whether it is right. truths: how many true boxes it has.
    """

    splits: tuple[str, ...]
    labels: tuple[str, ...]
    scores: np.ndarray
    ious: np.ndarray
    detections: tuple[list[tuple[float, bool]], ...]
    truths: np.ndarray

    @property
    def hits(self) -> np.ndarray:
        return self.ious >= DELTA

    def ap50(self, own: np.ndarray) -> float:
        """AP at an IoU of 0.5 as COCO defines it, in percent, of the images in the mask `own`: boxes ranked by their
        certainty, the mean over classes."""
        from wsolkit.evaluation.metrics import average_precision

        labels, values = np.array(self.labels), []
        for label in dict.fromkeys(labels[own]):
            images = np.flatnonzero(own & (labels == label))
            ranked = sorted((item for k in images for item in self.detections[k]), key=lambda item: -item[0])
            values.append(average_precision(np.array([right for _, right in ranked]), self.truths[images].sum()))
        return 100 * float(np.mean(values))


def measure(records: Sequence[Record], truth: Mapping[str, Sequence[Sequence[float]]]) -> Measured:
    """Compare boxes with true ones (path -> (n, 4) inclusive corners), as far as these are known."""
    from wsolkit.evaluation.metrics import matched

    images = [list(own) for path, own in groupby(records, key=lambda record: record.path) if truth.get(path)]
    overlaps = [iou(np.array([record.box for record in own]), truth[own[0].path]) for own in images]
    splits, labels = tuple(own[0].split for own in images), tuple(own[0].label for own in images)
    scores, ious = np.array([own[0].score for own in images]), np.array([overlap[0].max() for overlap in overlaps])
    detections = []
    for own, overlap in zip(images, overlaps, strict=True):
        certain = np.array([record.score for record in own])
        detections.append([*zip(certain.tolist(), matched(overlap, certain, DELTA).tolist(), strict=True)])
    return Measured(
        splits, labels, scores, ious, tuple(detections), np.array([overlap.shape[1] for overlap in overlaps])
    )


def calibration(known: Measured) -> tuple[np.ndarray, np.ndarray] | None:
    """Certainties (k,) and the share of right boxes there (k,), which never falls (isotonic regression, Robertson et
    al., 1988, by scipy), from validation images; None where fewer than `LEAST` of them have a box.

    No share is nearer to 0 or 1 than 1 / (n + 2): n images cannot promise more.
    """
    from scipy.optimize import isotonic_regression

    own = np.array(known.splits) == "val"
    if own.sum() < LEAST:
        return None
    scores, places = np.unique(known.scores[own], return_inverse=True)
    counts = np.bincount(places)
    shares = isotonic_regression(np.bincount(places, known.hits[own]) / counts, weights=counts).x
    edge = 1 / (own.sum() + 2)
    return scores, shares.clip(edge, 1 - edge)


def unused(known: Measured, calibrated: bool) -> np.ndarray:
    """(N,) bool: the images with a true box that calibrated nothing, so that they can measure."""
    return np.array([not calibrated or split != "val" for split in known.splits], bool)


def told(known: Measured, calibrated: bool) -> dict[str, Any]:
    """`numbers` for summary.json, of each split and of all images that calibrated nothing."""
    groups = {split: np.array(known.splits) == split for split in dict.fromkeys(known.splits)}
    groups[UNUSED if calibrated else "all"] = unused(known, calibrated)
    return {name: numbers(known, own) for name, own in groups.items() if own.any()}


def by_class(known: Measured, calibrated: bool) -> dict[str, dict[str, Any]]:
    """`numbers` of each class, of the images that calibrated nothing."""
    own = unused(known, calibrated)
    groups = {label: own & (np.array(known.labels) == label) for label in dict.fromkeys(known.labels)}
    return {label: numbers(known, group) for label, group in groups.items() if group.any()}


def numbers(known: Measured, own: np.ndarray) -> dict[str, Any]:
    """Of the images in the mask `own`: CorLoc (percent of images whose box has an IoU of at least 0.5), its 95 %
    interval, that of the most certain half, mean IoU, and AP50."""
    from wsolkit.evaluation.metrics import share_interval

    half = np.argsort(-known.scores[own], kind="stable")[: -(-int(own.sum()) // 2)]
    values: dict[str, Any] = {"images": int(own.sum()), "corloc": 100 * float(known.hits[own].mean())}
    values |= {"interval": share_interval(known.hits[own]), "mean_iou": float(known.ious[own].mean())}
    values |= {"ap50": known.ap50(own)}
    return values | {"corloc_of_the_most_certain_half": 100 * float(known.hits[own][half].mean())}

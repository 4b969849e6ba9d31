"""What one pass over the score maps of a set finds: curves, boxes and pixel histograms of every image, in threads."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from wsolkit.boxes.extract import ContourBoxes, box_of_prepared, ground_truth, iou, thresholds
from wsolkit.boxes.preparation import flat_is_zero, prepare_maps
from wsolkit.boxes.protocols import Protocol
from wsolkit.common.cores import cores
from wsolkit.common.progress import progress as shown
from wsolkit.evaluation import metrics

CHUNK = 8  # maps that one thread prepares and traces at a time
POINT = np.zeros(4, np.int64)  # wsolevaluation's answer to an empty mask


@dataclass(frozen=True)
class Rule:
    """How maps become boxes: the protocol, the frame (int or (H, W)), the percentile and the thresholds to stop at.

    ready: the maps have the frame's size and lie in [0, 1]; they are taken as they are.
    """

    protocol: Protocol
    size: int | Sequence[int]
    percentile: float = 100.0
    interval: float = 0.001
    ready: bool = False


class _Image(NamedTuple):
    rule: np.ndarray | None  # (T,) IoU curve of the method's own rule, largest contour
    largest: np.ndarray | None  # (T,) IoU curve of MaxBoxAcc
    v2_hits: np.ndarray | None  # (D, T) bool
    boxes: np.ndarray | None  # (P, 4) at the P operating points
    ious: np.ndarray | None  # (P,)
    empty: np.ndarray | None  # (P,) bool
    pixels: np.ndarray | None  # (2, T + 2)


NO_BOXES = (None,) * 6  # all fields of an image but its pixels


@dataclass
class Found:
    """Everything that was found: N images, P operating points, D deltas, T thresholds. None where it does not apply."""

    rule: np.ndarray | None = None  # (N, T) float64
    largest: np.ndarray | None = None  # (N, T) float64, the same array where the rule is the protocol's
    v2_hits: np.ndarray | None = None  # (D, N, T) bool
    boxes: np.ndarray | None = None  # (P, N, 4) int64
    ious: np.ndarray | None = None  # (P, N) float64
    empty: np.ndarray | None = None  # (P, N) bool
    pixels: np.ndarray | None = None  # (2, T + 2) int64, summed over images
    pixel_ap: np.ndarray | None = None  # (N,) PxAP of each image on its own, NaN without a mask or without foreground
    masked: int = 0


def rule_curves(
    score_maps: Sequence,
    gt_boxes: Sequence,
    size: int | Sequence[int],
    *,
    percentile: float = 100.0,
    interval: float = 0.001,
    ready: bool = False,
    workers: int | None = None,
) -> np.ndarray:
    """IoU curves of the largest contour under one box rule: maps (N, h, w), N arrays (n, 4) -> (N, T) float64.

    What a threshold is chosen from (`metrics.best_threshold`). Maps are grown to `size` a few at a time.
    """
    metrics.same_lengths(score_maps=score_maps, gt_boxes=gt_boxes)

    def one(index: int, prepared: np.ndarray) -> np.ndarray:
        return ContourBoxes(prepared).curve(gt_boxes[index], interval, "largest", percentile)

    curves = list(_each(one, score_maps, size, ready, workers))
    return np.array(curves).reshape(len(score_maps), len(thresholds(interval)))


def measure(
    score_maps: Sequence,
    truths: Sequence[np.ndarray] | None,
    masks: Sequence | None,
    rule: Rule,
    taus: Sequence[float],
    workers: int | None = None,
    progress: Callable[[Iterable], Iterable] | None = None,
) -> Found:
    """One pass over N maps; `truths` are checked boxes (n, 4) or None, `masks` as in `score`, `taus` the P thresholds."""

    def one(index: int, prepared: np.ndarray) -> _Image:
        mask = None if masks is None else masks[index]
        pixels = None if mask is None else metrics.pixel_histograms(prepared, mask, rule.interval)
        boxes = NO_BOXES if truths is None else _boxes(prepared, truths[index], rule, taus)
        return _Image(*boxes, pixels)

    images = _each(one, score_maps, rule.size, rule.ready, workers)
    found = _empty_found(len(score_maps), len(taus), rule, truths is not None, masks is not None)
    seen = shown(images, "evaluate", len(score_maps)) if progress is None else progress(images)
    for index, image in enumerate(seen):
        if image.boxes is not None:
            found.boxes[:, index], found.ious[:, index], found.empty[:, index] = image.boxes, image.ious, image.empty
        if image.rule is not None:
            found.rule[index], found.largest[index], found.v2_hits[:, index] = image.rule, image.largest, image.v2_hits
        if image.pixels is not None:
            found.pixels += image.pixels
            found.masked += 1
            if image.pixels[0].any():
                found.pixel_ap[index] = metrics.pxap_from_histograms(image.pixels)
    return found


def _boxes(prepared: np.ndarray, truths: np.ndarray, rule: Rule, taus: Sequence[float]) -> tuple:
    if rule.protocol.clamped:
        tracer = ContourBoxes(prepared)
        found = [tracer.box(tau, rule.percentile) for tau in taus]
        empty = np.array([box is None for box in found], bool)
        boxes = np.stack([POINT if box is None else box for box in found])
    else:
        found = [box_of_prepared(prepared, tau, rule.percentile) for tau in taus]
        boxes, empty = np.stack([box for box, _ in found]), np.array([blank for _, blank in found], bool)
    curves = (None, None, None)
    if rule.protocol.curves:
        largest = tracer.curve(truths, rule.interval, "largest")
        own = largest if rule.percentile == 100 else tracer.curve(truths, rule.interval, "largest", rule.percentile)
        every = tracer.curve(truths, rule.interval, "all")
        curves = (own, largest, np.stack([metrics.loc_hits(every, delta) for delta in metrics.DELTAS]))
    return *curves, boxes, iou(boxes, truths).max(axis=1), empty


def _empty_found(count: int, points: int, rule: Rule, boxed: bool, masked: bool) -> Found:
    steps, found = len(thresholds(rule.interval)), Found()
    if boxed:
        found.boxes = np.empty((points, count, 4), np.int64)
        found.ious, found.empty = np.empty((points, count)), np.empty((points, count), bool)
        if rule.protocol.curves:
            found.rule = np.empty((count, steps))
            found.largest = found.rule if rule.percentile == 100 else np.empty_like(found.rule)
            found.v2_hits = np.empty((len(metrics.DELTAS), count, steps), bool)
    if masked:
        found.pixels, found.pixel_ap = np.zeros((2, steps + 2), np.int64), np.full(count, np.nan)
    return found


def checked_truths(gt_boxes: Sequence, ids: Sequence[str]) -> list[np.ndarray]:
    """Ground-truth boxes of every image, checked; ValueError names the image."""
    truths = []
    for name, boxes in zip(ids, gt_boxes, strict=True):
        try:
            truths.append(ground_truth(boxes))
        except ValueError as error:
            raise ValueError(f"image {name}: {error}") from None
    return truths


def _each(function: Callable, score_maps: Sequence, size, ready: bool, workers: int | None) -> Iterator:
    """function(index, prepared map) for every map, in order, a chunk of maps to a thread: neither the resize nor the
    compiled passes hold Python's lock."""

    def chunk(start: int) -> list:
        places = range(start, min(start + CHUNK, len(score_maps)))
        maps = [score_maps[place] for place in places]
        prepared = [flat_is_zero(scores) for scores in maps] if ready else prepare_maps(maps, size)
        return [function(place, scores) for place, scores in zip(places, prepared, strict=True)]

    starts = range(0, len(score_maps), CHUNK)
    workers = default_workers() if workers is None else workers
    if workers <= 1:
        for start in starts:
            yield from chunk(start)
        return
    pool = ThreadPoolExecutor(workers)
    try:
        for answers in pool.map(chunk, starts):
            yield from answers
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def default_workers() -> int:
    """Cores that this process may use, at most 16."""
    return min(cores(), 16)

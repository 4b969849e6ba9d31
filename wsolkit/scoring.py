"""From score maps, logits and ground truth to an EvalResult. Arrays only: no model, no dataset."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from wsolkit import metrics
from wsolkit.boxes import ContourBoxes, as_numpy, centre_box_curve, frame, ground_truth, iou, prepare_map, thresholds
from wsolkit.results import EvalResult

PLAIN_THRESHOLD, PAS_THRESHOLD = 0.2, 0.35  # the fixed operating points of Bae, Noh, Kim, ECCV 2020
CENTRE_SHARE = 0.71  # of the side when nothing could be chosen on validation data: half of the frame's area
GIVEN_FIELDS = {"dataset", "backbone", "method", "pooling", "split", "protocol", "extra"}
GIVEN_FIELDS |= {"seconds_per_image", "peak_memory_mb"}
POINT = np.zeros(4, np.int64)  # the protocol's answer to an empty mask


class _Image(NamedTuple):
    rule: np.ndarray  # (T,) IoU curve of the method's own rule, largest contour
    largest: np.ndarray  # (T,) IoU curve of MaxBoxAcc
    v2_hits: np.ndarray  # (D, T) bool
    boxes: np.ndarray  # (P, 4) at the P operating points
    ious: np.ndarray  # (P,)
    empty: np.ndarray  # (P,) bool
    pixels: np.ndarray | None  # (2, T + 2)


def rule_curves(
    score_maps: Sequence,
    gt_boxes: Sequence,
    size: int | Sequence[int],
    *,
    percentile: float = 100.0,
    interval: float = 0.001,
    workers: int | None = None,
) -> np.ndarray:
    """IoU curves of the largest contour under one box rule: maps (N, h, w), N arrays (n, 4) -> (N, T) float64.

    What a threshold is chosen from (`metrics.best_threshold`). Maps are grown to `size` one at a time.
    """
    _lengths(score_maps=score_maps, gt_boxes=gt_boxes)

    def one(index: int) -> np.ndarray:
        tracer = ContourBoxes(prepare_map(score_maps[index], size))
        return tracer.curve(gt_boxes[index], interval, "largest", percentile)

    return np.array(list(_map(one, len(score_maps), workers))).reshape(len(score_maps), len(thresholds(interval)))


def score(
    score_maps: Sequence,
    gt_boxes: Sequence,
    logits,
    labels,
    ids: Sequence[str] | None = None,
    *,
    size: int | Sequence[int],
    masks: Sequence | None = None,
    val_maps: Sequence | None = None,
    val_gt_boxes: Sequence | None = None,
    percentile: float = 100.0,
    fixed_threshold: float | None = None,
    interval: float = 0.001,
    samples: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[Iterable], Iterable] | None = None,
    **fields: Any,
) -> EvalResult:
    """Every metric of one method on one split.

    score_maps: N maps (h, w) of the *ground-truth* class, any resolution and range; an array (N, h, w) or anything that
        can be indexed. Each is resized to `size` (cubic) and min-max normalised on its own, none is kept.
    gt_boxes: N arrays (n, 4) of inclusive corners in pixels of a frame of `size` (int or (H, W)).
    logits (N, K), labels (N,) int, ids: N names (default "0", "1", ...).
    masks: N arrays (H, W) of 0, 1 and 255 (ignore), None where an image has none; without any, pxap is None.
    val_maps, val_gt_boxes: the validation split, from which the threshold and the centre box's side are chosen.
    percentile, fixed_threshold: the method's own box rule, which GT-known and Top-k Loc use with the largest contour;
        the default fixed threshold is 0.2, and 0.35 for a percentile below 100 (PaS). MaxBoxAcc, MaxBoxAccV2 and PxAP
        always follow their protocol, percentile 100.
    interval: step of the thresholds. samples, seed: of the bootstrap. workers: threads (default: cores, at most 8).
    progress: wraps the loop over images, for example tqdm.
    fields: EvalResult fields to set as they are: dataset, backbone, method, pooling, split, protocol, extra,
        seconds_per_image, peak_memory_mb. TypeError for any other.

    An empty mask (flat or NaN map) is the point [0, 0, 0, 0], a miss, and is counted in `empty_boxes`.
    ValueError: no images, unequal lengths, an image without a ground-truth box, a mask of another size.
    """
    result = _with_fields(EvalResult(percentile=percentile, interval=interval), fields)
    frame(size)  # a wrong size is refused before the work, not after it
    ids = [str(index) for index in range(len(score_maps))] if ids is None else [str(item) for item in ids]
    logits, labels = as_numpy(logits), as_numpy(labels)
    given = {"score_maps": score_maps, "gt_boxes": gt_boxes, "logits": logits, "labels": labels, "ids": ids}
    _lengths(**given, **({} if masks is None else {"masks": masks}))
    if len(ids) == 0:
        raise ValueError("no images to score: the split is empty")
    if (val_maps is None) != (val_gt_boxes is None):
        raise ValueError("val_maps and val_gt_boxes belong together: give both or none")
    hits = {k: metrics.top_k_hits(logits, labels, k) for k in (1, 5)}
    if logits.shape[1] <= 5:
        del hits[5]  # five guesses among five classes say nothing
    truths = [ground_truth(boxes) for boxes in gt_boxes]

    if fixed_threshold is None:
        fixed_threshold = PLAIN_THRESHOLD if percentile == 100 else PAS_THRESHOLD
    chosen = {"fixed": float(fixed_threshold)}
    if val_maps is not None and len(val_maps):
        curves = rule_curves(val_maps, val_gt_boxes, size, percentile=percentile, interval=interval, workers=workers)
        chosen["validation"], accuracy = metrics.best_threshold(curves, interval=interval)
        result.n_val = len(val_maps)
        result.extra = {"val_gt_known_loc": accuracy} | result.extra

    def one(index: int) -> _Image:
        mask = None if masks is None else masks[index]
        return _score_image(score_maps[index], truths[index], size, percentile, interval, list(chosen.values()), mask)

    images = _map(one, len(ids), workers)
    found = _collect(images if progress is None else progress(images), len(ids), len(chosen), percentile, interval)

    result.n_images, result.n_classes = len(ids), logits.shape[1]
    result.ids, result.labels, result.gt_boxes = ids, labels, truths
    result.predictions = np.where(np.isnan(logits).any(axis=1), -1, np.argmax(logits, axis=1))
    result.top1_cls, result.top5_cls = _share(hits[1]), (_share(hits[5]) if 5 in hits else None)
    _localisation(result, chosen, found, hits)
    if found.masked:
        result.pxap = metrics.pxap_from_histograms(found.pixels)
        result.extra = {"pxap_images": found.masked} | result.extra
    centre_hits = _centre_box(result, truths, val_gt_boxes if result.n_val else None, size, hits[1])

    localised = metrics.loc_hits(result.ious)
    single = {"gt_known_loc": localised, "centre_box": centre_hits}
    for k, right in hits.items():
        single |= {f"top{k}_cls": right, f"top{k}_loc": right & localised}
    bootstrap = {"samples": samples, "seed": seed}
    result.intervals = {name: metrics.bootstrap_interval(values, **bootstrap) for name, values in single.items()}
    result.intervals["max_box_acc"] = metrics.bootstrap_max(metrics.loc_hits(found.largest), **bootstrap)
    result.intervals["max_box_acc_v2"] = metrics.bootstrap_max(found.v2_hits, **bootstrap)
    return result


@dataclass
class _Found:
    """What the loop over N images leaves: P operating points, D deltas, T thresholds."""

    rule: np.ndarray  # (N, T) float64
    largest: np.ndarray  # (N, T) float64, the same array where the rule is the protocol's
    v2_hits: np.ndarray  # (D, N, T) bool
    boxes: np.ndarray  # (P, N, 4) int64
    ious: np.ndarray  # (P, N) float64
    empty: np.ndarray  # (P, N) bool
    pixels: np.ndarray  # (2, T + 2) int64
    masked: int = 0


def _collect(images: Iterable[_Image], count: int, points: int, percentile: float, interval: float) -> _Found:
    steps = len(thresholds(interval))
    rule = np.empty((count, steps))
    found = _Found(
        rule=rule,
        largest=rule if percentile == 100 else np.empty_like(rule),
        v2_hits=np.empty((len(metrics.DELTAS), count, steps), bool),
        boxes=np.empty((points, count, 4), np.int64),
        ious=np.empty((points, count)),
        empty=np.empty((points, count), bool),
        pixels=np.zeros((2, steps + 2), np.int64),
    )
    for index, image in enumerate(images):
        found.rule[index], found.largest[index], found.v2_hits[:, index] = image.rule, image.largest, image.v2_hits
        found.boxes[:, index], found.ious[:, index], found.empty[:, index] = image.boxes, image.ious, image.empty
        if image.pixels is not None:
            found.pixels += image.pixels
            found.masked += 1
    return found


def _localisation(result: EvalResult, chosen: dict[str, float], found: _Found, hits: dict[int, np.ndarray]) -> None:
    """Fill the three operating points, the headline numbers at one of them, and the metrics over all thresholds."""
    points = {key: _point(tau, found.ious[place], hits) for place, (key, tau) in enumerate(chosen.items())}
    best = metrics.plateau_middle(metrics.accuracy_curve(found.rule))
    points["best_on_test"] = _point(float(thresholds(result.interval)[best]), found.rule[:, best], hits)
    result.operating_points = {key: points.get(key) for key in ("fixed", "validation", "best_on_test")}

    result.operating_point = "validation" if "validation" in chosen else "fixed"
    here, place = points[result.operating_point], list(chosen).index(result.operating_point)
    result.threshold = here["threshold"]
    result.gt_known_loc, result.top1_loc, result.top5_loc = here["gt_known_loc"], here["top1_loc"], here["top5_loc"]
    result.ious, result.boxes = found.ious[place], found.boxes[place]
    result.empty_boxes = int(found.empty[place].sum())

    result.max_box_acc = metrics.max_box_acc(found.largest)
    parts = found.v2_hits.sum(axis=1).max(axis=1) * 100.0 / result.n_images
    result.max_box_acc_v2_parts = {delta: float(part) for delta, part in zip(metrics.DELTAS, parts, strict=True)}
    result.max_box_acc_v2 = float(np.mean(parts))

    result.curves = found.rule
    step = max(1, found.rule.shape[1] // 200)
    result.curve = {
        "thresholds": thresholds(result.interval)[::step].round(6).tolist(),
        "gt_known_loc": metrics.accuracy_curve(found.rule)[::step].round(3).tolist(),
    }


def _score_image(score_map, truths, size, percentile, interval, taus, mask) -> _Image:
    scores = prepare_map(score_map, size)
    tracer = ContourBoxes(scores)
    largest = tracer.curve(truths, interval, "largest")
    rule = largest if percentile == 100 else tracer.curve(truths, interval, "largest", percentile)
    every = tracer.curve(truths, interval, "all")
    found = [tracer.box(tau, percentile) for tau in taus]
    boxes = np.stack([POINT if box is None else box for box in found])
    return _Image(
        rule=rule,
        largest=largest,
        v2_hits=np.stack([metrics.loc_hits(every, delta) for delta in metrics.DELTAS]),
        boxes=boxes,
        ious=iou(boxes, truths).max(axis=1),
        empty=np.array([box is None for box in found]),
        pixels=None if mask is None else metrics.pixel_histograms(scores, mask, interval),
    )


def _share(hits: np.ndarray) -> float:
    return float(hits.sum() * 100.0 / len(hits))


def _point(tau: float, ious: np.ndarray, hits: dict[int, np.ndarray]) -> dict[str, float | None]:
    localised = metrics.loc_hits(ious)
    return {
        "threshold": tau,
        "gt_known_loc": _share(localised),
        "top1_loc": _share(hits[1] & localised),
        "top5_loc": _share(hits[5] & localised) if 5 in hits else None,
    }


def _centre_box(result: EvalResult, truths, val_truths, size, right: np.ndarray) -> np.ndarray:
    """Fill `result.centre_box`; returns the hits (N,) at the side chosen on validation data (else fixed)."""
    sides, ious = centre_box_curve(truths, size)
    accuracy = metrics.accuracy_curve(ious)
    if val_truths is None:
        index = int(np.abs(sides - CENTRE_SHARE * sides[-1]).argmin())
    else:
        index = metrics.plateau_middle(metrics.accuracy_curve(centre_box_curve(val_truths, size)[1]))
    best = metrics.plateau_middle(accuracy)
    hits = metrics.loc_hits(ious[:, index])
    result.centre_box = {
        "side": int(sides[index]),
        "operating_point": "fixed" if val_truths is None else "validation",
        "gt_known_loc": float(accuracy[index]),
        "top1_loc": _share(hits & right),
        "best_on_test": float(accuracy[best]),
        "best_on_test_side": int(sides[best]),
    }
    return hits


def _with_fields(result: EvalResult, fields: dict[str, Any]) -> EvalResult:
    measured = sorted(set(fields) - GIVEN_FIELDS)
    if measured:
        raise TypeError(f"score() takes no {', '.join(measured)}; fields to give are {', '.join(sorted(GIVEN_FIELDS))}")
    for name, value in fields.items():
        setattr(result, name, value)
    return result


def _lengths(**sequences) -> None:
    lengths = {name: len(sequence) for name, sequence in sequences.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"one entry per image is expected everywhere, got {lengths}")


def _map(function: Callable, count: int, workers: int | None):
    """Results in order, from threads: OpenCV lets go of Python's lock while it traces contours."""
    if workers is None:
        allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        workers = min(allowed, 8)
    if workers <= 1:
        yield from map(function, range(count))
        return
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(function, range(count))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)

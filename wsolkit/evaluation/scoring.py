"""From score maps, predictions and ground truth to an EvalResult. Arrays only: no model, no dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from wsolkit.boxes.extract import centre_box_curve, check_rule, thresholds
from wsolkit.boxes.preparation import as_numpy, frame
from wsolkit.boxes.protocols import fixed_threshold as published_threshold
from wsolkit.boxes.protocols import protocol_named
from wsolkit.evaluation import metrics
from wsolkit.evaluation.failures import FAILURES, failure_types
from wsolkit.evaluation.intervals import bootstrap_max, share_interval
from wsolkit.evaluation.measuring import Found, Rule, checked_truths, measure, rule_curves
from wsolkit.evaluation.results import EvalResult

CENTRE_SHARE = 0.71  # of the side when nothing could be chosen on validation data: half of the frame's area
GIVEN_FIELDS = {"dataset", "backbone", "method", "pooling", "split", "conditions", "extra"}
GIVEN_FIELDS |= {"seconds_per_image", "peak_memory_mb"}


def score(
    score_maps: Sequence,
    gt_boxes: Sequence | None,
    logits=None,
    labels=None,
    ids: Sequence[str] | None = None,
    *,
    size: int | Sequence[int],
    protocol: str = "wsolevaluation",
    predicted=None,
    masks: Sequence | None = None,
    val_maps: Sequence | None = None,
    val_gt_boxes: Sequence | None = None,
    percentile: float | None = None,
    fixed_threshold: float | None = None,
    interval: float = 0.001,
    ready: bool = False,
    val_ready: bool = False,
    samples: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[Iterable], Iterable] | None = None,
    **fields: Any,
) -> EvalResult:
    """Every metric of one method on one split.

    score_maps: N maps (h, w) of the *ground-truth* class, any resolution and range; an array (N, h, w) or anything that
        can be indexed. Each is resized to `size` (cubic) and min-max normalised on its own, none is kept.
    gt_boxes: N arrays (n, 4) of inclusive corners in pixels of a frame of `size` (int or (H, W)); None where only masks
        are known.
    logits (N, K), labels (N,) int, ids: N names (default "0", "1", ...). Without logits, `predicted` may hold the
        predicted labels, (N,) or (N, k) best first, -1 for unknown; without both there is no Top-k number.
    protocol: "wsolevaluation" or "rethinking_cam"; `wsolkit.boxes.protocols` lists their differences. The second takes the
        crop's boxes, has one threshold and neither curves nor a choice on validation data.
    masks: N arrays (H, W) of 0, 1 and 255 (ignore), None where an image has none; without any, pxap is None.
    val_maps, val_gt_boxes: the validation split, from which the threshold and the centre box's side are chosen.
    percentile, fixed_threshold: the method's own box rule, which GT-known and Top-k Loc use with the largest contour.
        The default percentile is the protocol's (100; 90 for rethinking_cam), the default fixed threshold 0.2, and
        0.35 for a percentile below 100 (PaS). MaxBoxAcc, MaxBoxAccV2 and PxAP always use percentile 100.
    interval: step of the thresholds. samples, seed: of the bootstrap. workers: threads (default: cores, at most 16).
    ready, val_ready: the maps (of the validation split) already have the frame's size and lie in [0, 1]; they are taken as
        they are, a constant one as zeros.
    progress: wraps the loop over images, for example tqdm.
    fields: EvalResult fields to set as they are: dataset, backbone, method, pooling, split, conditions, extra,
        seconds_per_image, peak_memory_mb. TypeError for any other.

    Under wsolevaluation an empty mask (flat or NaN map) is the point [0, 0, 0, 0], a miss, and under rethinking_cam the
    full frame; both are counted in `empty_boxes`.
    ValueError: no images, unequal lengths, neither boxes nor masks, an image without a ground-truth box, a mask of
    another size.
    """
    rules = protocol_named(protocol)
    percentile = rules.percentile if percentile is None else percentile
    result = _with_fields(EvalResult(protocol=protocol, percentile=percentile, interval=interval), fields)
    result.frame = list(frame(size))  # a wrong size is refused before the work, not after it
    ids = [str(index) for index in range(len(score_maps))] if ids is None else [str(item) for item in ids]
    given = {"score_maps": score_maps, "ids": ids, "gt_boxes": gt_boxes, "masks": masks, "logits": logits}
    given |= {"labels": labels, "predicted": predicted}
    metrics.same_lengths(**given)
    if len(ids) == 0:
        raise ValueError("no images to score: the split is empty")
    if gt_boxes is None and masks is None:
        raise ValueError("nothing to score against: give gt_boxes or masks")
    if (val_maps is None) != (val_gt_boxes is None):
        raise ValueError("val_maps and val_gt_boxes belong together: give both or none")
    result.n_images, result.ids = len(ids), ids
    hits = _classification(result, logits, labels, predicted)
    truths = None if gt_boxes is None else checked_truths(gt_boxes, ids)

    chosen = {"fixed": float(published_threshold(percentile) if fixed_threshold is None else fixed_threshold)}
    check_rule(chosen["fixed"], percentile)
    thresholds(interval)
    rule = Rule(rules, size, percentile, interval, ready)
    if rules.curves and truths is not None and val_maps is not None and len(val_maps):
        how = {"percentile": percentile, "interval": interval, "ready": val_ready, "workers": workers}
        val_gt_boxes = checked_truths(
            val_gt_boxes, [f"{index} of the validation split" for index in range(len(val_maps))]
        )
        curves = rule_curves(val_maps, val_gt_boxes, size, **how)
        chosen["validation"], accuracy = metrics.best_threshold(curves, interval=interval)
        result.n_val = len(val_maps)
        result.extra = {"val_gt_known_loc": accuracy} | result.extra

    found = measure(score_maps, truths, masks, rule, list(chosen.values()), workers, progress)
    single = {f"top{k}_cls": right for k, right in hits.items()}
    bootstrap = {"samples": samples, "seed": seed}
    if truths is not None:
        result.gt_boxes = truths
        _operating_points(result, chosen, found, hits)
        localised = metrics.loc_hits(result.ious)
        single["gt_known_loc"] = localised
        single |= {f"top{k}_loc": right & localised for k, right in hits.items()}
        val_truths = val_gt_boxes if result.n_val else None
        single["centre_box"] = _centre_box(result, truths, val_truths, size, hits.get(1))
        if rules.curves:
            _all_thresholds(result, found)
            result.intervals["max_box_acc"] = bootstrap_max(metrics.loc_hits(found.largest), **bootstrap)
            result.intervals["max_box_acc_v2"] = bootstrap_max(found.v2_hits, **bootstrap)
        result.failure_types = failure_types(result.boxes, truths, hits.get(1), result.empty)
        result.failures = {name: result.failure_types.count(name) for name in FAILURES}
    if found.masked:
        result.pxap = metrics.pxap_from_histograms(found.pixels)
        result.pixel_ap = found.pixel_ap
        result.extra = {"pxap_images": found.masked} | result.extra
    result.intervals |= {name: share_interval(values) for name, values in single.items()}
    return result


def _classification(result: EvalResult, logits, labels, predicted) -> dict[int, np.ndarray]:
    """Fill the classification fields; hits (N,) bool for k = 1 and 5, as far as they are known."""
    if labels is None:
        if logits is not None or predicted is not None:
            raise ValueError("predictions without labels: give labels too")
        return {}
    result.labels = as_numpy(labels)
    result.n_classes = int(result.labels.max()) + 1
    hits: dict[int, np.ndarray] = {}
    if logits is not None:
        logits = as_numpy(logits)
        hits = {k: metrics.top_k_hits(logits, result.labels, k) for k in (1, 5)}
        result.n_classes = logits.shape[1]
        result.predicted = np.where(np.isnan(logits).any(axis=1), -1, np.argmax(logits, axis=1))
    elif predicted is not None:
        ranked = as_numpy(predicted).reshape(result.n_images, -1)
        result.predicted = ranked[:, 0]
        result.n_classes = max(result.n_classes, int(ranked.max()) + 1)
        depths = [k for k in (1, 5) if k <= ranked.shape[1]]
        hits = {k: (ranked[:, :k] == result.labels[:, None]).any(axis=1) for k in depths}
    if result.n_classes <= 5:
        hits.pop(5, None)  # five guesses among five classes say nothing
    result.top1_cls, result.top5_cls = (_share(hits[k]) if k in hits else None for k in (1, 5))
    return hits


def _operating_points(result: EvalResult, chosen: dict[str, float], found: Found, hits: dict[int, np.ndarray]) -> None:
    """Fill the operating points and the headline numbers at one of them."""
    result.point_ious = {key: found.ious[place] for place, key in enumerate(chosen)}
    points = {key: _point(tau, result.point_ious[key], hits) for key, tau in chosen.items()}
    if found.rule is not None:
        best = metrics.plateau_middle(metrics.accuracy_curve(found.rule))
        result.point_ious["best_on_test"] = found.rule[:, best]
        points["best_on_test"] = _point(float(thresholds(result.interval)[best]), found.rule[:, best], hits)
    result.operating_points = {key: points.get(key) for key in ("fixed", "validation", "best_on_test")}

    result.operating_point = "validation" if "validation" in chosen else "fixed"
    here, place = points[result.operating_point], list(chosen).index(result.operating_point)
    result.threshold = here["threshold"]
    result.gt_known_loc, result.top1_loc, result.top5_loc = here["gt_known_loc"], here["top1_loc"], here["top5_loc"]
    result.ious, result.boxes, result.empty = found.ious[place], found.boxes[place], found.empty[place]
    result.empty_boxes = int(result.empty.sum())


def _all_thresholds(result: EvalResult, found: Found) -> None:
    """Fill the metrics that try every threshold, and the accuracy curve."""
    result.max_box_acc = metrics.max_box_acc(found.largest)
    parts = found.v2_hits.sum(axis=1).max(axis=1) * 100.0 / result.n_images
    result.max_box_acc_v2_parts = {delta: float(part) for delta, part in zip(metrics.DELTAS, parts, strict=True)}
    result.max_box_acc_v2 = float(np.mean(parts))
    result.curves, result.v2_hits = found.rule, found.v2_hits
    step = max(1, found.rule.shape[1] // 200)
    result.curve = {
        "thresholds": thresholds(result.interval)[::step].round(6).tolist(),
        "gt_known_loc": metrics.accuracy_curve(found.rule)[::step].round(3).tolist(),
    }


def _share(hits: np.ndarray) -> float:
    return float(hits.sum() * 100.0 / len(hits))


def _point(tau: float, ious: np.ndarray, hits: dict[int, np.ndarray]) -> dict[str, float | None]:
    localised = metrics.loc_hits(ious)
    joint = {k: _share(right & localised) for k, right in hits.items()}
    loc = {"top1_loc": joint.get(1), "top5_loc": joint.get(5)}
    return {"threshold": tau, "gt_known_loc": _share(localised), **loc}


def _centre_box(result: EvalResult, truths, val_truths, size, right: np.ndarray | None) -> np.ndarray:
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
        "top1_loc": None if right is None else _share(hits & right),
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

"""From score maps or boxes, predictions and ground truth to an EvalResult. Arrays only: no model, no dataset, no torch.

`score` makes one pass over the maps, a few at a time in threads: each is grown to the frame, min-max normalised, traced
at every threshold and let go. Boxes without maps have no threshold: every metric is then that of the boxes as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from wsolkit.boxes.extract import ContourBoxes, centre_box_curve, check_rule, ground_truths, iou, thresholds
from wsolkit.boxes.preparation import as_numpy, flat_is_zero, frame, prepare_maps
from wsolkit.boxes.protocols import fixed_threshold, protocol_named
from wsolkit.common.cores import cores
from wsolkit.common.errors import is_whole, require
from wsolkit.common.files import listing
from wsolkit.common.progress import progress as shown
from wsolkit.evaluation import metrics
from wsolkit.evaluation.per_image import FAILURES, failure_types
from wsolkit.evaluation.results import BLANK_POINT, METRICS, OPERATING_POINTS, EvalResult

CENTRE_SHARE = 0.71  # of the side when nothing could be chosen on validation data: half of the frame's area
CHUNK = 8  # maps that one thread prepares and traces at a time
GIVEN_FIELDS = {"dataset", "backbone", "method", "pooling", "split", "conditions", "extra"}
GIVEN_FIELDS |= {"seconds_per_image", "peak_memory_mb"}
Progress = Callable[[Iterable], Iterable] | None


@dataclass(frozen=True)
class Maps:
    """What a method made of N images.

    Attributes:
        maps: N maps (h, w) of the *ground-truth* class, of any resolution and range: an array (N, h, w) or what can
            be indexed. Each is resized to the frame (cubic) and min-max normalised on its own, none is kept. None where
            boxes are given.
        ids: N names; None is "0", "1", ...
        logits: (N, K) of the classifier. predicted: in their place the predicted labels, (N,) or (N, k) best first, -1
            for unknown. Without both there is no Top-k number.
        ready: the maps have the frame's size and lie in [0, 1] already; they are taken as they are, a constant one as
            zeros.
        boxes: in the place of maps, one box for each image: (N, 4) int, inclusive corners in pixels of the frame; a row
            of -1 is an image where no object was found, a miss.
    """

    maps: Any = None
    ids: Sequence[str] | None = None
    logits: Any = None
    predicted: Any = None
    ready: bool = False
    boxes: Any = None


@dataclass(frozen=True)
class Truth:
    """What is known of the same N images.

    Attributes:
        size: the frame of boxes and masks, int (a square) or (H, W).
        labels: (N,) int; needed for Top-k numbers only.
        boxes: N arrays (n, 4) of inclusive corners x0, y0, x1, y1 in pixels of the frame, rows of -1 are padding; None
            where objects are not known by boxes.
        masks: N arrays (H, W) of 0, 1 and 255 (ignore), None where an image has none; without any there is no PxAP.
    """

    size: int | Sequence[int]
    labels: Any = None
    boxes: Any = None
    masks: Any = None


@dataclass(frozen=True)
class Rule:
    """How maps become boxes. GT-known and Top-k Loc use it, with the largest contour; MaxBoxAcc, MaxBoxAccV2 and PxAP
    always refer to the maximum of the map. Of boxes without maps only the protocol has a meaning.

    Attributes:
        protocol: "wsolevaluation" or "rethinking_cam"; `wsolkit.boxes.protocols` lists their differences. The second
            takes the crop's boxes, has one threshold and neither curves nor a choice on validation data.
        percentile: the threshold is a share of this percentile of the map; None is the protocol's (100, or 90 for
            rethinking_cam).
        threshold: the fixed one; None is the published one, 0.2, and 0.35 for a percentile below 100 (PaS).
        interval: step of the thresholds that are tried.
        own: the fixed threshold is one that suits this very method: it counts before one that pseudo boxes choose.
    """

    protocol: str = "wsolevaluation"
    percentile: Any = None
    threshold: Any = None
    interval: float = 0.001
    own: bool = False

    def __post_init__(self) -> None:
        percentile = protocol_named(self.protocol).percentile if self.percentile is None else self.percentile
        object.__setattr__(self, "percentile", percentile)
        threshold = fixed_threshold(percentile) if self.threshold is None else self.threshold
        check_rule(threshold, percentile)
        object.__setattr__(self, "threshold", float(threshold))
        thresholds(self.interval)


def score(
    maps: Maps,
    truth: Truth,
    rule: Rule | None = None,
    validation: tuple[Maps, Truth] | None = None,
    pseudo: tuple[Maps, Truth] | None = None,
    *,
    samples: int = 1000,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress = None,
    **fields: Any,
) -> EvalResult:
    """Every metric of one method on one split, as far as the ground truth goes.

    Localisation numbers need boxes, PxAP needs masks; with labels and predictions alone only the class is scored.

    Args:
        maps, truth: the split that is reported. rule: None is `Rule()`.
        validation: maps and boxes of the validation split, which choose the threshold and the centre box's side. Boxes
            without maps have no threshold: then `Maps()` is enough.
        pseudo: the same with boxes that no person gave: the operating point "pseudo_boxes", which gives the headline
            numbers where `validation` chooses no threshold and the fixed one is not the method's `own`. Boxes without
            maps do not use it, nor does the centre box.
        samples, seed: of the bootstrap of MaxBoxAcc and MaxBoxAccV2. workers: threads (default: cores, at most 16).
        progress: wraps the loop over images, for example tqdm.
        fields: EvalResult fields to set as they are: dataset, backbone, method, pooling, split, conditions, extra,
            seconds_per_image, peak_memory_mb.

    Returns:
        An EvalResult. Under wsolevaluation an empty mask (flat or NaN map) is the point [0, 0, 0, 0], a miss, and under
        rethinking_cam the full frame; both are counted in `empty_boxes`.

    Raises:
        ValueError: no images, unequal lengths, nothing to score against, an image without a ground-truth box, a mask of
            another size. TypeError: another field.

    Example:
        >>> blob = np.zeros((2, 8, 8))
        >>> blob[:, 2:5, 2:5] = 1
        >>> boxes = [[[8, 8, 19, 19]], [[24, 24, 31, 31]]]                     # of the frame of 32 x 32 pixels
        >>> logits = [[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]]
        >>> result = score(Maps(blob, logits=logits), Truth(32, labels=[0, 2], boxes=boxes), method="hand-made")
        >>> result.gt_known_loc, result.top1_cls, result.failures["background"]
        (50.0, 50.0, 1)
    """
    rule = Rule() if rule is None else rule
    if wrong := sorted(set(fields) - GIVEN_FIELDS):
        raise TypeError(f"score() takes no {', '.join(wrong)}; fields to give are {', '.join(sorted(GIVEN_FIELDS))}")
    for name, value, least in (("samples", samples, 1), ("seed", seed, 0), ("workers", workers or 1, 1)):
        require(is_whole(value, least), f"{name} must be a whole number of at least {least}, but is {value!r}")
    boxed = maps.boxes is not None
    result = EvalResult(protocol=rule.protocol, interval=rule.interval, gives="boxes" if boxed else "map", **fields)
    result.percentile = 100.0 if boxed else rule.percentile
    result.frame = list(frame(truth.size))  # a wrong size is refused before the work, not after it
    need = "maps must be a list or an array with an entry per image, or boxes be given in their place"
    require(boxed != (maps.maps is not None), f"{need}, but {'both are given' if boxed else 'they are None'}")
    given = vars(maps) | {"predicted boxes": maps.boxes} | vars(truth)
    metrics.same_lengths(**given | {"ready": None, "size": None})
    count = len(maps.boxes if boxed else maps.maps)
    result.ids = [str(name) for name in (range(count) if maps.ids is None else maps.ids)]
    result.n_images = len(result.ids)
    require(result.n_images, "no images to score: the split is empty; give at least one")
    twice = [name for name, count in Counter(result.ids).items() if count > 1]
    require(not twice, f"ids must differ, but {listing(twice)} is there more than once")
    right = _classification(result, maps, truth)
    if boxed:  # a box says nothing of single pixels, so that there is no PxAP
        truth = replace(truth, masks=None)
    measurable = truth.boxes is not None or truth.masks is not None
    need = "give boxes, masks, or labels with logits or predicted labels"
    require(measurable or right, f"nothing to score against: {need}")
    shares = {f"top{k}_cls": hits for k, hits in right.items()}
    taus: dict[str, float] = {"fixed": rule.threshold}
    val_boxes: list[np.ndarray] | None = None
    if truth.boxes is not None:
        result.gt_boxes = ground_truths(truth.boxes, result.ids)
        truth = replace(truth, boxes=result.gt_boxes)
        choices = {"pseudo_boxes": None if boxed else pseudo, "validation": validation}  # the last one counts
        for point, choice in choices.items():
            if not choice or choice[1].boxes is None or not protocol_named(rule.protocol).curves:
                continue
            val_maps, val = choice
            val_ids = [f"{index} of the validation split" for index in range(len(val.boxes))]
            chosen_on, result.n_val = ground_truths(val.boxes, val_ids), len(val.boxes)
            val_boxes = chosen_on if point == "validation" else None
            if not boxed:
                hits = rule_curves(val_maps, val, rule, workers, delta=0.5)
                taus[point], accuracy = metrics.best_threshold(hits, interval=rule.interval)
                name = "val_gt_known_loc" if point == "validation" else "pseudo_gt_known_loc"
                result.extra = {name: accuracy} | result.extra
        if rule.own and list(taus)[-1] == "pseudo_boxes":
            taus["fixed"] = taus.pop("fixed")  # the last one counts
    if measurable:
        measured = measure(maps, truth, rule, list(taus.values()), workers, progress)
    if truth.boxes is not None:
        shares |= _operating_points(result, taus, measured, right)
        mean, low, high, _ = metrics.bootstrap_mean(100 * result.ious, samples=samples, seed=seed)
        result.mean_iou, result.intervals["mean_iou"] = float(mean), (float(low), float(high))
        if "v2_hits" in measured:
            result.v2_hits = measured["v2_hits"].swapaxes(0, 1)
            parts = metrics.percent(measured["v2_hits"]).max(axis=1)
            result.max_box_acc_v2_parts = dict(zip(metrics.DELTAS, parts.tolist(), strict=True))
            result.max_box_acc_v2 = float(np.mean(parts))
            maximised = {"max_box_acc_v2": result.v2_hits}
            if boxed:  # nothing is chosen: MaxBoxAcc is the accuracy
                shares["max_box_acc"] = metrics.loc_hits(result.ious)
            else:
                result.max_box_acc = float(metrics.percent(measured["largest"]).max())
                maximised = {"max_box_acc": measured["largest"]} | maximised
                step = max(1, len(measured["accuracy"]) // 200)
                result.curve = {"thresholds": thresholds(rule.interval)[::step].round(6).tolist()}
                result.curve["gt_known_loc"] = measured["accuracy"][::step].round(3).tolist()
            for name, hits in maximised.items():
                result.intervals[name] = metrics.bootstrap_max(hits, samples=samples, seed=seed)
        shares["centre_box"] = fill_centre_box(result, val_boxes, right.get(1))
        result.failure_types = failure_types(result.boxes, result.gt_boxes, right.get(1), result.empty)
        result.failures = {name: result.failure_types.count(name) for name in FAILURES}
    if truth.masks is not None and measured["masked"].any():
        result.pxap = metrics.pxap_from_histograms(measured["pixels"])
        result.pixel_ap = measured["pixel_ap"]
        result.extra = {"pxap_images": int(measured["masked"].sum())} | result.extra
    for name, hits in shares.items():
        result.intervals[name] = metrics.share_interval(hits)
        if name in METRICS:
            setattr(result, name, metrics.percent(hits))
    return result


def measure(
    maps: Maps, truth: Truth, rule: Rule, taus: Sequence[float], workers: int | None = None, progress: Progress = None
) -> dict[str, np.ndarray]:
    """What one pass over N maps finds; truth.boxes are checked ones, `taus` the P thresholds to stop at, T those of the
    rule's interval, D the deltas of MaxBoxAccV2. Of boxes without maps P and T are 1, and there are no curves.

    Returns:
        With boxes "boxes" (N, P, 4) int64, "ious" (N, P) and "empty" (N, P) bool. Where the protocol has curves, of the
        largest contour "level_ious" (N, 256) at every grey level, "levels" (N, T) uint8 the level of each threshold
        under the rule, "accuracy" (T,) in percent, "largest" (N, T) bool the hits at percentile 100; of all contours
        "v2_hits" (N, D, T) bool. That is 7 kB for an image; one curve of T = 1000 IoUs alone would take 8 kB. With
        masks "pixels" (2, T + 2) int64, summed over images, "pixel_ap" (N,) PxAP of each image, NaN without a mask or
        without foreground, and "masked" (N,) bool.
    """

    if maps.boxes is not None:
        boxes = metrics.one_per_image("boxes", maps.boxes, 2)
        require(boxes.dtype.kind in "iu", f"boxes are whole pixels of the frame, inclusive corners, got {boxes.dtype}")
        empty = (boxes == -1).all(axis=1)
        boxes = np.where(empty[:, None], 0, boxes)
        ious = np.array([iou(*pair).max() for pair in zip(boxes, truth.boxes, strict=True)])
        hits = np.stack([metrics.loc_hits(ious, delta) for delta in metrics.DELTAS], axis=1)[..., None]
        measured = {"boxes": boxes[:, None], "ious": ious[:, None], "empty": empty[:, None]}
        return measured | ({"v2_hits": hits} if protocol_named(rule.protocol).curves else {})

    def image(index: int, prepared: np.ndarray) -> dict[str, Any]:
        answers: dict[str, Any] = {}
        if truth.boxes is not None:
            tracer, truths = ContourBoxes(prepared), truth.boxes[index]
            at_taus = [tracer.box(tau, rule.percentile, rule.protocol) for tau in taus]
            answers["boxes"], answers["empty"] = (np.array(part) for part in zip(*at_taus, strict=True))
            answers["ious"] = iou(answers["boxes"], truths).max(axis=1)
        if truth.boxes is not None and protocol_named(rule.protocol).curves:
            answers["level_ious"] = tracer.level_ious(truths)
            answers["levels"] = tracer.levels(rule.interval, rule.percentile).astype(np.uint8)
            hits = metrics.loc_hits(answers["level_ious"])
            answers["largest"], answers["accuracy"] = hits[tracer.levels(rule.interval)], hits[answers["levels"]]
            every = tracer.curve(truths, rule.interval, "all")
            answers["v2_hits"] = np.stack([metrics.loc_hits(every, delta) for delta in metrics.DELTAS])
        if truth.masks is not None:
            answers |= {"masked": np.False_, "pixel_ap": np.float64("nan")}
            if (mask := truth.masks[index]) is not None:
                pixels = metrics.pixel_histograms(prepared, mask, rule.interval)
                alone = metrics.pxap_from_histograms(pixels) if pixels[0].any() else np.nan
                answers |= {"masked": np.True_, "pixels": pixels, "pixel_ap": np.float64(alone)}
        return answers

    gathered: dict[str, np.ndarray] = {}
    count, images = len(maps.maps), _each(image, maps, truth.size, workers)
    for index, answers in enumerate(shown(images, "evaluate", count) if progress is None else progress(images)):
        for name, values in answers.items():
            if name in ("pixels", "accuracy"):
                gathered[name] = gathered.get(name, 0) + values.astype(np.int64)
                continue
            if name not in gathered:
                gathered[name] = np.empty((count, *values.shape), values.dtype)
            gathered[name][index] = values
    return gathered | {"accuracy": gathered["accuracy"] * 100.0 / count} if "accuracy" in gathered else gathered


def rule_curves(
    maps: Maps, truth: Truth, rule: Rule | None = None, workers: int | None = None, delta: float | None = None
) -> np.ndarray:
    """IoU curves (N, T) float64 of the largest contour under a rule, or with `delta` bool, whether they reach it, an
    eighth of the memory: what a threshold is chosen from (`metrics.best_threshold`). Maps are grown to the frame a few
    at a time."""
    rule, kind = rule or Rule(), float if delta is None else bool
    metrics.same_lengths(maps=maps.maps, boxes=truth.boxes)

    def curve(index: int, prepared: np.ndarray) -> np.ndarray:
        ious = ContourBoxes(prepared).curve(truth.boxes[index], rule.interval, "largest", rule.percentile)
        return ious if delta is None else metrics.loc_hits(ious, delta)

    each = _each(curve, maps, truth.size, workers)
    return np.fromiter(each, np.dtype((kind, len(thresholds(rule.interval)))), len(maps.maps))


def cut_boxes(
    maps: Maps, size: int | Sequence[int], rule: Rule, threshold: float | None = None, workers: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The box of each of N maps, (N, 4) int64, inclusive corners in pixels of the frame `size`, and (N,) bool where no
    pixel of a map lies above the threshold (None: the rule's fixed one). No ground truth is needed."""
    tau = rule.threshold if threshold is None else threshold

    def box(_: int, prepared: np.ndarray) -> tuple[np.ndarray, bool]:
        return ContourBoxes(prepared).box(tau, rule.percentile, rule.protocol)

    boxes, empty = zip(*_each(box, maps, size, workers), strict=True)
    return np.array(boxes), np.array(empty)


def _each(function: Callable, maps: Maps, size, workers: int | None) -> Iterator:
    """function(index, prepared map) for every map, in order, a chunk of maps to a thread: neither the resize nor the
    compiled passes hold Python's lock."""

    def chunk(start: int) -> list:
        places = range(start, min(start + CHUNK, len(maps.maps)))
        chosen = [maps.maps[place] for place in places]
        prepared = [flat_is_zero(scores) for scores in chosen] if maps.ready else prepare_maps(chosen, size)
        return [function(place, scores) for place, scores in zip(places, prepared, strict=True)]

    starts = range(0, len(maps.maps), CHUNK)
    with (
        ThreadPoolExecutor(threads() if workers is None else max(1, workers)) as pool,
        closing(pool.map(chunk, starts)) as chunks,  # type: ignore[type-var]  # closed first: what waits is cancelled
    ):
        for answers in chunks:
            yield from answers


def threads() -> int:
    """Cores that this process may use, at most 16."""
    return min(cores(), 16)


def _classification(result: EvalResult, maps: Maps, truth: Truth) -> dict[int, np.ndarray]:
    """Fill labels and predictions; hits (N,) bool for k = 1 and 5, as far as they are known."""
    if truth.labels is None:
        require(maps.logits is None and maps.predicted is None, "predictions without labels: give labels too")
        return {}
    labels = result.labels = metrics.class_numbers("labels", truth.labels)
    result.n_classes = int(labels.max()) + 1
    hits: dict[int, np.ndarray] = {}
    if maps.logits is not None:
        logits = as_numpy(maps.logits)
        hits = {k: metrics.top_k_hits(logits, labels, k) for k in (1, 5)}
        result.n_classes = logits.shape[1]
        result.predicted = np.where(np.isnan(logits).any(axis=1), -1, np.argmax(logits, axis=1))
    elif maps.predicted is not None:
        ranked = metrics.class_numbers("predicted", maps.predicted, -1).reshape(result.n_images, -1)
        own = ranked == labels[:, None]
        hits = {k: own[:, :k].any(axis=1) for k in (1, 5) if k <= ranked.shape[1]}
        result.n_classes = max(result.n_classes, int(ranked.max()) + 1)
        result.predicted = ranked[:, 0]
    return {k: own for k, own in hits.items() if k < 5 or result.n_classes > 5}  # five guesses among five say nothing


def _operating_points(
    result: EvalResult, taus: dict[str, float], measured: dict[str, np.ndarray], right: dict[int, np.ndarray]
) -> dict[str, np.ndarray]:
    """Fill the operating points; the hits (N,) at the one that gives the headline numbers."""

    def hits_of(ious: np.ndarray) -> dict[str, np.ndarray]:
        localised = metrics.loc_hits(ious)
        return {"gt_known_loc": localised} | {f"top{k}_loc": own & localised for k, own in right.items()}

    place, result.operating_point = len(taus) - 1, list(taus)[-1]
    result.ious, result.boxes, result.empty = (measured[name][:, place] for name in ("ious", "boxes", "empty"))
    result.empty_boxes = int(result.empty.sum())
    if result.gives == "boxes":
        result.operating_point = "none"
        return hits_of(result.ious)
    result.threshold = taus[result.operating_point]
    result.point_ious = {key: measured["ious"][:, place] for place, key in enumerate(taus)}
    if "accuracy" in measured:
        best = metrics.plateau_middle(measured["accuracy"])
        levels = measured["levels"][:, best]
        result.point_ious["best_on_test"] = measured["level_ious"][np.arange(len(levels)), levels]
        taus = taus | {"best_on_test": float(thresholds(result.interval)[best])}
    result.operating_points, hits = dict.fromkeys(OPERATING_POINTS), {}
    for key, ious in result.point_ious.items():
        hits[key] = hits_of(ious)
        values = {"threshold": taus[key]} | {name: metrics.percent(own) for name, own in hits[key].items()}
        result.operating_points[key] = BLANK_POINT | values
    return hits[result.operating_point]


def fill_centre_box(result: EvalResult, val_boxes: list[np.ndarray] | None, right: np.ndarray | None) -> np.ndarray:
    """Fill `result.centre_box`; returns the hits (N,) at the side chosen on validation data (else fixed)."""
    sides, ious = centre_box_curve(result.gt_boxes, result.frame)
    accuracy = metrics.accuracy_curve(ious)
    index = int(np.abs(sides - CENTRE_SHARE * sides[-1]).argmin())
    if val_boxes is not None:
        index = metrics.plateau_middle(metrics.accuracy_curve(centre_box_curve(val_boxes, result.frame)[1]))
    best = metrics.plateau_middle(accuracy)
    hits = metrics.loc_hits(ious[:, index])
    top1 = None if right is None else metrics.percent(hits & right)
    result.centre_box = {"side": int(sides[index]), "operating_point": "fixed" if val_boxes is None else "validation"}
    result.centre_box |= {"gt_known_loc": float(accuracy[index]), "top1_loc": top1}
    result.centre_box |= {"best_on_test": float(accuracy[best]), "best_on_test_side": int(sides[best])}
    return hits

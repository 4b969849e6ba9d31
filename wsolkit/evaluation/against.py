"""How a result stands against plain CAM and against the centre box: paired differences on the same images."""

from __future__ import annotations

from typing import Any

import numpy as np

from wsolkit.boxes.extract import centre_box_curve
from wsolkit.evaluation.bootstrap import bootstrap_max_difference
from wsolkit.evaluation.comparison import compare
from wsolkit.evaluation.metrics import DELTAS, loc_hits
from wsolkit.evaluation.results import EvalResult

PAIRED = ("top1_loc", "gt_known_loc", "top1_cls")  # `comparison.compare` knows them
METRICS = ("top1_loc", "gt_known_loc", "max_box_acc_v2", "top1_cls")  # in the order of the report's cards
SAMPLES = 1000  # of the bootstrap of MaxBoxAccV2, as for its interval


def against_result(result: EvalResult, other: EvalResult, seed: int = 0) -> dict[str, dict[str, Any] | None]:
    """`result` minus `other` for every metric of METRICS: {"difference", "low", "high" (95 %, points), "p", "n"}.

    Both were evaluated on the same images. None where one of the two has no such number; "p" is None for MaxBoxAccV2,
    for which there is no exact test. ValueError: other images.
    """
    if result.ids != other.ids:
        raise ValueError(
            f"{other.method} was measured on other images than {result.method}; evaluate both with one limit"
        )
    found = _paired(result, result.per_image(), other, other.per_image(), seed)
    if result.v2_hits is not None and other.v2_hits is not None:
        found["max_box_acc_v2"] = _best_boxes(result, other.v2_hits, seed)
    return found


def against_centre_box(result: EvalResult, seed: int = 0) -> dict[str, dict[str, Any] | None]:
    """The same against the centre box: for Top-1 and GT-known Loc at the side that was chosen for it, for MaxBoxAccV2
    at its best side for each IoU. It has no class of its own, so there is no Top-1 Cls; {} without boxes."""
    if not result.centre_box or result.gt_boxes is None:
        return {}
    sides, ious = centre_box_curve(result.gt_boxes, result.frame)
    table = result.per_image()
    at_side = ious[:, int(np.flatnonzero(sides == result.centre_box["side"])[0])]
    found = _paired(result, table, result, table.assign(iou=at_side), seed) | {"top1_cls": None}
    if result.v2_hits is not None:
        found["max_box_acc_v2"] = _best_boxes(result, np.stack([loc_hits(ious, delta) for delta in DELTAS]), seed)
    return found


def _paired(result: EvalResult, table, other: EvalResult, other_table, seed: int) -> dict[str, Any]:
    found: dict[str, dict[str, Any] | None] = dict.fromkeys(METRICS)
    boxes = result.ious is not None and other.ious is not None
    for metric in PAIRED:
        if getattr(result, metric) is None or getattr(other, metric) is None or not boxes:
            continue
        paired = compare(table, other_table, metric, seed=seed)
        low, high = paired.interval
        found[metric] = {"difference": paired.difference, "low": low, "high": high, "p": paired.p_value, "n": paired.n}
    return found


def _best_boxes(result: EvalResult, hits: np.ndarray, seed: int) -> dict[str, Any]:
    difference, low, high = bootstrap_max_difference(result.v2_hits, hits, samples=SAMPLES, seed=seed)
    return {"difference": difference, "low": low, "high": high, "p": None, "n": result.n_images}

"""Boxes without maps: scored as they are, and nothing is shown that only a map has."""

from __future__ import annotations

import numpy as np
import pytest

from wsolkit.boxes.extract import iou
from wsolkit.evaluation.comparison import against_centre_box, against_result
from wsolkit.evaluation.metrics import share_interval
from wsolkit.evaluation.results import EvalResult
from wsolkit.evaluation.scoring import Maps, Rule, Truth, score

TRUTHS = [[[8, 8, 23, 23]], [[8, 8, 23, 23]], [[8, 8, 23, 23]], [[0, 0, 3, 3], [8, 8, 23, 23]]]
BOXES = np.array([[8, 8, 23, 23], [8, 8, 23, 18], [8, 8, 23, 14], [-1, -1, -1, -1]])  # IoU 1, 0.69, 0.44 and none
LOGITS = [[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [2.0, 0.0]]


def scored(boxes=BOXES, **more) -> EvalResult:
    return score(Maps(boxes=boxes, logits=LOGITS), Truth(32, labels=[0, 0, 0, 0], boxes=TRUTHS), **more)


def test_every_accuracy_is_that_of_the_boxes():
    result = scored()
    assert result.gives == "boxes" and result.boxes[3].tolist() == [0, 0, 0, 0] and result.empty_boxes == 1
    expected = [iou(box, truth).max() for box, truth in zip(BOXES[:3], TRUTHS, strict=False)]
    assert result.ious[:3].tolist() == expected and result.ious[3] < 0.1
    assert (result.gt_known_loc, result.max_box_acc, result.top1_loc) == (50.0, 50.0, 25.0)
    assert result.max_box_acc_v2_parts == {0.3: 75.0, 0.5: 50.0, 0.7: 25.0} and result.max_box_acc_v2 == 50.0
    assert result.intervals["max_box_acc"] == result.intervals["gt_known_loc"] == share_interval([1, 1, 0, 0])
    low, high = result.intervals["max_box_acc_v2"]
    assert low < 50 < high
    assert result.failure_types == ["right", "wrong class", "part only", "background"]


def test_there_is_no_threshold_no_curve_and_no_pxap():
    masks = [np.ones((32, 32), np.uint8)] * 4
    with_masks = score(Maps(boxes=BOXES), Truth(32, boxes=TRUTHS, masks=masks))
    for result in (scored(), with_masks):
        assert result.threshold is None and result.curve == {} and result.pxap is None
        assert not any(result.operating_points.values()) and result.operating_point == "none"
        assert "best on test" not in str(result) and "tau" not in str(result)
    read = EvalResult.from_dict(with_masks.to_dict())
    assert read.gives == "boxes" and read.max_box_acc == with_masks.max_box_acc
    assert "iou_fixed" not in with_masks.per_image() and "pixel_ap" not in with_masks.per_image()


def test_the_protocol_without_curves_has_no_max_box_acc():
    result = scored(rule=Rule("rethinking_cam"))
    assert result.gt_known_loc == 50.0 and result.max_box_acc is None and result.max_box_acc_v2 is None


def test_validation_boxes_choose_the_side_of_the_centre_box_alone():
    assert scored().centre_box["operating_point"] == "fixed"
    validation = Maps(), Truth(32, boxes=[[[10, 10, 21, 21]]] * 5)
    result = scored(validation=validation)
    assert result.centre_box["operating_point"] == "validation" and result.n_val == 5
    assert result.centre_box["side"] < scored().centre_box["side"] and result.threshold is None


def test_boxes_are_compared_with_maps_image_by_image():
    blob = np.zeros((4, 8, 8))
    blob[:, 2:5, 2:5] = 1
    maps = score(Maps(blob, logits=LOGITS), Truth(32, labels=[0, 0, 0, 0], boxes=TRUTHS), method="maps")
    lines = against_result(scored(method="boxes"), maps)
    assert all(lines[name]["difference"] == getattr(scored(), name) - getattr(maps, name) for name in lines)
    assert set(filter(None, against_centre_box(scored()))) == set(lines)


def test_boxes_that_are_none_are_refused():
    for boxes, text in (
        (BOXES / 2, "whole pixels"), (BOXES[:, :3], "shape"), (BOXES[0], "2 dimension"), (BOXES[:3], "entry per image"),
        (BOXES[:, [2, 3, 0, 1]], "x0 <= x1"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            scored(boxes)
    with pytest.raises(ValueError, match="both are given"):
        score(Maps(np.ones((4, 2, 2)), boxes=BOXES), Truth(32, boxes=TRUTHS))

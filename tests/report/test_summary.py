"""The sentences of a report: what they say must follow from the numbers, in every case that a run can produce."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup

from wsolkit.evaluation.per_image import FAILURES
from wsolkit.report.method_page import RunFiles, box_ratios, summary
from wsolkit.report.pages import ordinal, seconds, signed, spread, verdict
from wsolkit.runs.folder import Metrics

POINT = {"threshold": 0.4, "gt_known_loc": 50.0, "top1_loc": 45.0}
RESULT = {
    "n_images": 40, "n_val": 20, "top1_cls": 90.0, "gt_known_loc": 50.0, "top1_loc": 45.0, "operating_point": "validation",
    "threshold": 0.4, "percentile": 100.0, "centre_box": {"side": 20, "gt_known_loc": 30.0},
    "operating_points": {"fixed": POINT | {"threshold": 0.2, "gt_known_loc": 41.5}, "validation": POINT,
                         "best_on_test": POINT | {"threshold": 0.45, "gt_known_loc": 53.0}},
    "failures": {"right": 18, "wrong class": 2, "part only": 12, "too large": 5, "multiple instances": 0, "background": 3},
}  # fmt: skip


def difference(value, low, high, p=0.001):
    return {"gt_known_loc": {"difference": value, "low": low, "high": high, "p": p, "n": 40}}


def table(ratio=1.0, empty=0, failures=("right", "part only"), n=40):
    """Predicted boxes of `ratio` times the area of the object's 20 x 20 box."""
    width = max(1, round(20 * ratio))
    rows = {"x0": 0, "y0": 0, "x1": width - 1, "y1": 19, "gt_boxes": "0 0 19 19", "iou": 0.5, "right": True}
    frame = pd.DataFrame([rows] * n)
    frame["failure"] = [failures[index % len(failures)] for index in range(n)]
    frame["empty"] = np.arange(n) < empty
    return frame


def said(tmp_path, cam=None, box=None, method="grad_cam", rows=None, **changes):
    against = {"cam": cam, "centre_box": box}
    values = {"status": "completed", "method": method, "config": {"variant": "gap"}, "result": RESULT | changes}
    checked = Metrics.model_validate(values | {"against": against}).model_dump()
    soup = BeautifulSoup(summary(RunFiles(tmp_path, checked, boxes=rows)), "html.parser")
    text = " ".join(paragraph.get_text() for paragraph in soup.find_all("p")).replace("\u00a0", " ")
    assert "  " not in text and "\n" not in text and " ." not in text
    return text


def test_ordinals():
    said = [ordinal(value) for value in (1, 2, 3, 11, 12, 13, 50, 90, 91.0, 92, 93, 97.5, 100)]
    assert " ".join(said) == "1st 2nd 3rd 11th 12th 13th 50th 90th 91st 92nd 93rd 97.5th 100th"


@pytest.mark.parametrize("point", ["fixed", "best_on_test"])
def test_an_operating_point_without_its_threshold_is_left_out(tmp_path, point):
    points = RESULT["operating_points"]
    said(tmp_path, operating_points=points | {point: {"gt_known_loc": 41.5}})


def test_numbers_and_protocol_come_first(tmp_path):
    text = said(tmp_path)
    assert text.startswith(
        "The box hits the object in 50.0 % of 40 test images (GT-known Loc), and in 45.0 % it also names"
    )


@pytest.mark.parametrize(
    "cam, box, expected",
    [
        ((6, 2, 10), (20, 15, 25), "It is better than plain CAM (+6.0 points GT-known Loc, 95 % interval +2.0 to +10.0) and the centre box (+20.0"),
        ((-6, -10, -2), (20, 15, 25), "It is better than the centre box (+20.0 points GT-known Loc, 95 % interval +15.0 to +25.0) and worse than plain CAM (\u22126.0"),
        ((1, -2, 4), (-3, -9, 3), "It is not significantly different from plain CAM (+1.0 points GT-known Loc, 95 % interval \u22122.0 to +4.0) and the centre box"),
        ((0, 0, 0), (-20, -25, -15), "It is worse than the centre box (\u221220.0 points GT-known Loc, 95 % interval \u221225.0 to \u221215.0) and level with plain CAM, image by image."),
        (None, (20, 15, 25), "It is better than the centre box"),
    ],
)  # fmt: skip
def test_verdicts(tmp_path, cam, box, expected):
    assert expected in said(tmp_path, cam and difference(*cam), difference(*box))


def test_an_interval_beside_zero_needs_the_exact_test_too(tmp_path):
    assert verdict(difference(5, 1, 9, p=0.2)["gt_known_loc"]) == "open"
    assert verdict(difference(5, 1, 9, p=None)["gt_known_loc"]) == "better"
    alone = {"difference": -33.3, "low": -33.3, "high": -33.3, "p": None}  # the bootstrap of one image
    assert [verdict(alone | {"n": n}) for n in (1, 5, 6)] == ["open", "open", "worse"]
    assert verdict({}) == "" and verdict({"difference": 3.0}) == ""


def test_plain_cam_is_not_compared_with_itself(tmp_path):
    text = said(tmp_path, None, difference(20, 15, 25), method="cam")
    assert "Plain CAM, the baseline of the other reports, is better than the centre box" in text


def test_old_runs_without_intervals(tmp_path):
    text = said(tmp_path)
    assert (
        "It is 20.0 points above the centre box, by how much beyond chance is not known." in text
        and "plain CAM" not in text
    )
    assert "10.0 points below the centre box" in said(tmp_path, centre_box={"gt_known_loc": 60.0})
    assert "It is level with the centre box" in said(tmp_path, centre_box={"gt_known_loc": 50.0})


@pytest.mark.parametrize(
    "ratio, words",
    [(0.5, "mostly too small: the median one has 0.50"), (1.5, "mostly too large"), (1.0, "about as large")],
)
def test_sizes_of_boxes(tmp_path, ratio, words):
    assert words in said(tmp_path, rows=table(ratio))


def test_box_ratios_take_the_object_that_the_box_overlaps_most():
    rows = table(n=3).assign(gt_boxes=["0 0 19 19; 40 40 99 99", "50 50 59 59", "60 60 69 69; 80 80 99 99"])
    assert box_ratios(rows).tolist() == [1.0, 4.0, 1.0]


def test_empty_masks(tmp_path):
    assert "In 3 images no pixel lies above the threshold: these count as misses." in said(
        tmp_path, rows=table(empty=3)
    )
    assert "In 1 image no pixel" in said(tmp_path, rows=table(empty=1))
    assert "No image has a box at all: at this threshold every mask is empty." in said(tmp_path, rows=table(empty=40))
    assert "no pixel" not in said(tmp_path, rows=table())


def test_commonest_failure(tmp_path):
    assert (
        "The commonest failure is \u201cpart only\u201d (12 of 22 failed images): more than half of the box lies"
        in said(tmp_path)
    )
    assert "\u201ctoo large\u201d (40 of 40 failed images): the box covers" in said(
        tmp_path, rows=table(failures=("too large",))
    )
    tied = said(tmp_path, rows=table(failures=("part only", "background")))
    assert (
        "The commonest failures are \u201cpart only\u201d and \u201cbackground\u201d (20 of 40 failed images each)."
        in tied
    )
    three = said(tmp_path, rows=table(failures=tuple(FAILURES)[1:4], n=39))
    assert "\u201cwrong class\u201d, \u201cpart only\u201d and \u201ctoo large\u201d (13 of 39" in three
    assert "No image fails." in said(tmp_path, rows=table(failures=("right",)))
    assert "failed image)" in said(tmp_path, rows=table(failures=("right", "background"), n=2))


def test_cost_of_the_threshold(tmp_path):
    assert ("Choosing the threshold (0.4) on 20 validation images cost 3.0 points against the threshold that is best on the "
            "test images (0.45); the fixed threshold (0.2) would have cost 11.5 points.") in said(tmp_path)  # fmt: skip
    best = RESULT["operating_points"] | {"best_on_test": POINT, "fixed": POINT}
    assert "on 20 validation images cost nothing" in said(tmp_path, operating_points=best)
    assert "would have cost nothing." in said(tmp_path, operating_points=best)
    fixed = {"operating_point": "fixed", "n_val": 0, "operating_points": best | {"validation": None}}
    assert (
        "There is no validation split with boxes, so the report uses the fixed threshold 0.4, which cost nothing"
        in said(tmp_path, **fixed)
    )
    one = {"operating_points": {"fixed": POINT, "validation": None, "best_on_test": None}, "operating_point": "fixed"}
    assert "The protocol has one threshold, 0.4; nothing was chosen." in said(tmp_path, **one)


def test_no_boxes(tmp_path):
    without = dict.fromkeys(("gt_known_loc", "top1_loc", "threshold")) | {
        "centre_box": {},
        "failures": {},
        "operating_points": {},
    }
    text = said(tmp_path, pxap=61.25, **without)
    assert text == ("There are no ground-truth boxes to score the 40 test images against, so no box accuracy is reported. The "
                    "class is right in 90.0 %. Its maps reach a pixel average precision (PxAP) of 61.2 %.")  # fmt: skip


def test_limited_and_single_images_and_unknown_classes(tmp_path):
    text = said(
        tmp_path, n_images=1, conditions={"images": "1 of 400, balanced over classes"}, top1_loc=None, top1_cls=None
    )
    assert text.startswith(
        "The box hits the object in 50.0 % of 1 test image (GT-known Loc); whether the class is right is not known."
    )
    assert "Only a part of the test images was used: 1 of 400, balanced over classes." in text
    assert said(tmp_path, n_images=0).startswith("No image was measured.")


def test_how_numbers_are_written():
    ends = [spread(*pair) for pair in ((0.0, (0.0, 0.0)), (100.0, (100.0, 100.0)), (50.0, (40.0, 60.0)), (None, None))]
    assert ends == ["none of them", "all of them", "40.0 to 60.0", ""]
    assert [signed(value) for value in (1.25, -3.0, 0.0, -0.04)] == ["+1.2", "\u22123.0", "0.0", "0.0"]
    times = (None, 0.00112, 0.0123, 0.25, 3.21, 42.4, 59.6, 200, 7500)
    assert [seconds(t) for t in times] == [
        "\u2013",
        "1.1 ms",
        "12 ms",
        "0.25 s",
        "3.2 s",
        "42 s",
        "1 min 0 s",
        "3 min 20 s",
        "2 h 5 min",
    ]

"""What notebooks show again and again: the sentences beside the figures say what the numbers are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from wsolkit import figures
from wsolkit.evaluation.scoring import Maps, Truth, score
from wsolkit.runs.run import Run
from wsolkit.study import chapter


@pytest.fixture
def shown(monkeypatch):
    """Captions of the figures that were made (each is drawn for real)."""
    captions, show = [], figures.show

    def kept(fig, alt, caption="", photo=False):
        captions.append(caption)
        assert show(fig, alt, caption, photo).data.startswith("<figure")

    monkeypatch.setattr(figures, "show", kept)
    return captions


def blocks(boxes, size=32):
    """Maps that are 1 in the box and fade to 0 outside."""
    maps = np.zeros((len(boxes), size, size))
    for drawn, (x0, y0, x1, y1) in zip(maps, boxes, strict=True):
        drawn[y0 : y1 + 1, x0 : x1 + 1] = 1.0
    return maps


BOXES = [np.array([[4, 4, 15, 15]]), np.array([[8, 2, 27, 25]]), np.array([[0, 0, 9, 9]]), np.array([[20, 20, 29, 29]])]


def result_of(found):
    maps = blocks([box[0] for box in found])
    maps, truth = Maps(maps, predicted=np.zeros(4, int)), Truth(32, np.zeros(4, int), BOXES)
    return score(maps, truth, validation=(maps, truth))


def test_the_sentence_beside_a_curve_says_its_numbers(shown):
    result = result_of([*BOXES[:3], BOXES[0]])  # three of four objects are found, at every threshold but the highest
    chapter.show_curves({"blocks": result}, "A note.")
    taus, accuracy = (np.array(result.curve[key]) for key in ("thresholds", "gt_known_loc"))
    near = round(100 * float(np.mean(accuracy >= accuracy.max() - 5)))
    assert result.gt_known_loc == 75 and len(taus) == len(accuracy)
    assert shown == [
        f"blocks at the marked threshold {result.threshold:.2f} (chosen on 4 validation images) finds 75.0 % of the objects; no threshold "
        f"finds more than 75.0 %, and {near} % of all thresholds come within 5 points of that. A box of fixed size in the middle "
        f"finds {result.centre_box['gt_known_loc']:.1f} %. A note."
    ]
    result.operating_point = "pseudo_boxes"
    chapter.show_curves({"blocks": result})
    assert "(chosen on pseudo boxes of 4 validation images) finds 75.0 %" in shown[1]


def test_a_trial_on_validation_images(shown):
    run = Run.start(dataset="synthetic", per_class=1, classes=4, size=32, limit=3)
    trial = chapter.Trial(run, 64)
    assert len(trial) == 3 and trial.indices.tolist() == run.dataset("val").spread(3, 0).tolist()
    right = blocks([box[0] for box in trial.boxes])
    wrong = np.roll(right, 16, axis=(1, 2))
    scores = {"right": trial.score(right), "wrong": trial.score(wrong), "also right": trial.score(right * 5)}
    assert scores["right"].accuracy == 100 and scores["right"] == scores["also right"]
    assert scores["wrong"].accuracy < 100 and 0 <= scores["wrong"].mean_iou < scores["right"].mean_iou <= 1
    table = trial.table(scores, {"note": dict.fromkeys(scores, "x")})
    assert (
        list(table.columns) == ["GT-known Loc", "95 % interval", "threshold", "mean IoU at 0.2", "note"]
        and table["GT-known Loc"]["right"] == "100.0"
    )
    trial.show_bars(scores, "Three maps")
    assert (
        shown[-1]
        == "Three maps, 3 validation images. Highest: right with 100.0 %; within its 95 % interval also: also right."
    )
    trial.show_bars({"right": scores["right"], "wrong": scores["wrong"]}, "Two maps")
    assert shown[-1].endswith("Highest: right with 100.0 %; no other reaches its 95 % interval.")
    trial.show_maps({"right": right, "wrong": wrong}, scores, "Maps in columns.")
    assert shown[-1] == "Maps in columns."


def test_what_has_no_boxes_is_left_out_with_the_reason(shown, capsys):
    result = result_of(BOXES)
    assert chapter.located("Pairs", result) and not capsys.readouterr().out
    maps, labels = Maps(blocks([box[0] for box in BOXES]), predicted=np.zeros(4, int)), np.zeros(4, int)
    bare = score(maps, Truth(32, labels), conditions={"boxes": "not used: 4 of 4 images have no ground-truth box"})
    assert not chapter.located("Pairs", bare)
    assert capsys.readouterr().out == "Pairs: left out, since 4 of 4 images have no ground-truth box.\n"

    run = Run.start(dataset="synthetic", per_class=1, classes=2, size=32)
    val = run.dataset("val")
    val.samples[1:] = [replace(sample, boxes=()) for sample in val.samples[1:]]
    trial, made = chapter.Trial(run, 2), np.ones((2, 4, 4))
    scores = {"ones": trial.score(made)}
    assert list(trial.table(scores, {"note": {"ones": "x"}}).columns) == ["note"], (
        "no column of numbers that are not there"
    )
    trial.show_bars(scores, "Ones")
    assert capsys.readouterr().out == "Ones: left out, since 1 of 2 validation images has no ground-truth box.\n"
    chapter.show_images(val, range(2), "A note.")
    val.samples[:1] = [replace(val.samples[0], boxes=())]
    chapter.show_images(val, range(2))
    assert shown[-1] == f"Validation images. None of the {len(val)} has a box." and "median of 1). A note." in shown[-2]


def test_correlations_leave_flat_maps_out():
    drawn = np.random.default_rng(0).random((3, 4, 4))
    drawn[2] = 1.0
    assert np.allclose(chapter.correlations(drawn, 2 * drawn + 1), [1, 1])
    assert np.allclose(chapter.correlations(drawn, -drawn), [-1, -1])

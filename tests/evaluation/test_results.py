"""score() from arrays to EvalResult, and what the result does: print, plot, save, read."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from straightforward import gt_known_loc, max_box_acc_v2, pxap, top_k_cls, top_k_loc

from wsolkit.boxes.extract import centre_box_curve, extract_box, iou, iou_curve, thresholds
from wsolkit.boxes.preparation import prepare_map
from wsolkit.common.files import read_json
from wsolkit.evaluation import metrics
from wsolkit.evaluation.results import EvalResult
from wsolkit.evaluation.scoring import Maps, Rule, Truth, rule_curves, score

SIZE, K = (40, 48), 7


def blobs(count: int, seed: int):
    """Score maps with one blob each, a box near it and a mask: good but not perfect localisation."""
    rng = np.random.default_rng(seed)
    ys, xs = np.mgrid[:10, :12]
    maps, truths, masks = [], [], []
    for _ in range(count):
        cy, cx, spread = rng.uniform(3, 7), rng.uniform(3, 9), rng.uniform(1.2, 2.5)
        noise = rng.random((10, 12)) * 0.2
        maps.append((np.exp(-((ys - cy) ** 2 + (xs - cx) ** 2) / (2 * spread**2)) + noise).astype(np.float32))
        half = spread * 4 * rng.uniform(0.8, 1.6)
        box = np.array([cx * 4 - half, cy * 4 - half, cx * 4 + half, cy * 4 + half]).round()
        box = np.clip(box, 0, [SIZE[1] - 1, SIZE[0] - 1] * 2).astype(np.int64)
        mask = np.zeros(SIZE, np.uint8)
        mask[box[1] : box[3] + 1, box[0] : box[2] + 1] = 1
        mask[0] = 255
        truths.append(box[None])
        masks.append(mask)
    return np.stack(maps), truths, masks


MAPS, TRUTHS, MASKS = blobs(30, 0)
VAL_MAPS, VAL_TRUTHS, _ = blobs(25, 1)
VALIDATION = Maps(VAL_MAPS), Truth(SIZE, boxes=VAL_TRUTHS)
RNG = np.random.default_rng(5)
LABELS = RNG.integers(K, size=30)
LOGITS = RNG.normal(size=(30, K)) + 1.5 * np.eye(K)[LABELS]
NAMES = {"dataset": "blobs", "backbone": "none", "method": "cam", "pooling": "gap"}


def run(masks=MASKS, validation=VALIDATION, percentile=None, threshold=None, **options) -> EvalResult:
    maps, truth = Maps(MAPS, [f"image {i}" for i in range(30)], LOGITS), Truth(SIZE, LABELS, TRUTHS, masks)
    rule = Rule(percentile=percentile, threshold=threshold, interval=0.01)
    return score(maps, truth, rule, validation, **{"samples": 200} | NAMES | options)


@pytest.fixture(scope="module")
def result() -> EvalResult:
    return run(conditions={"geometry": "resize", "input": "40 x 48"}, extra={"note": "kept"}, seconds_per_image=0.5)


def prepared():
    return [prepare_map(score_map, SIZE) for score_map in MAPS]


@pytest.mark.parametrize("percentile", [100, 90])
def test_every_number_is_that_of_its_function(percentile):
    result = run(percentile=percentile)
    pairs = list(zip(prepared(), TRUTHS, strict=True))
    largest = np.stack([iou_curve(*pair, 0.01, "largest") for pair in pairs])
    every = np.stack([iou_curve(*pair, 0.01, "all") for pair in pairs])
    rule = np.stack([iou_curve(*pair, 0.01, "largest", percentile) for pair in pairs])
    val = rule_curves(*VALIDATION, Rule(percentile=percentile, interval=0.01))
    tau, val_accuracy = metrics.best_threshold(val, interval=0.01)
    place = int(np.flatnonzero(thresholds(0.01) == tau)[0])

    assert (result.threshold, result.operating_point) == (tau, "validation")
    assert result.extra["val_gt_known_loc"] == val_accuracy
    assert np.array_equal(result.ious, rule[:, place])
    best = metrics.plateau_middle(metrics.accuracy_curve(rule))
    assert np.array_equal(result.point_ious["best_on_test"], rule[:, best])
    assert result.curve["gt_known_loc"] == metrics.accuracy_curve(rule).round(3).tolist()
    assert result.gt_known_loc == gt_known_loc(rule[:, place])
    assert result.top1_loc == top_k_loc(LOGITS, LABELS, rule[:, place], 1)
    assert result.top5_loc == top_k_loc(LOGITS, LABELS, rule[:, place], 5)
    assert result.top1_cls == top_k_cls(LOGITS, LABELS, 1)
    assert result.top5_cls == top_k_cls(LOGITS, LABELS, 5)
    assert result.max_box_acc == metrics.max_box_acc(largest)  # percentile 100 for every method
    assert result.max_box_acc_v2 == pytest.approx(max_box_acc_v2(every))
    assert result.max_box_acc_v2_parts == {d: metrics.max_box_acc(every, d) for d in metrics.DELTAS}
    assert result.pxap == pytest.approx(pxap(prepared(), MASKS, 0.01))
    fixed = 0.2 if percentile == 100 else 0.35
    assert result.operating_points["fixed"]["threshold"] == fixed
    fixed_ious = rule[:, round(fixed * 100)]
    assert result.operating_points["fixed"]["gt_known_loc"] == gt_known_loc(fixed_ious)
    assert result.operating_points["best_on_test"]["gt_known_loc"] == metrics.max_box_acc(rule)
    assert result.mean_iou == pytest.approx(100 * rule[:, place].mean())
    assert result.intervals["mean_iou"][0] < result.mean_iou < result.intervals["mean_iou"][1]
    for name in ("gt_known_loc", "top1_loc", "max_box_acc", "max_box_acc_v2", "mean_iou", "top1_cls", "top5_loc"):
        low, high = result.intervals[name]
        assert 0 <= low <= high <= 100
    assert 20 < result.gt_known_loc < 100 and result.n_val == 25 and result.n_classes == K


def test_boxes_at_the_operating_point_are_those_of_extract_box(result):
    for score_map, box, value, truth in zip(MAPS, result.boxes, result.ious, TRUTHS, strict=True):
        assert np.array_equal(box, extract_box(score_map, result.threshold, 100, SIZE))
        assert value == iou(box, truth).max()


def test_centre_box_side_comes_from_validation(result):
    sides, val_ious = centre_box_curve(VAL_TRUTHS, SIZE)
    side = sides[metrics.plateau_middle(metrics.accuracy_curve(val_ious))]
    _, ious = centre_box_curve(TRUTHS, SIZE)
    assert result.centre_box["side"] == side and result.centre_box["operating_point"] == "validation"
    assert result.centre_box["gt_known_loc"] == gt_known_loc(ious[:, list(sides).index(side)])
    assert result.centre_box["best_on_test"] >= result.centre_box["gt_known_loc"]


def test_without_validation_and_masks():
    result = run(validation=None, masks=None, threshold=0.45)
    assert (result.operating_point, result.threshold, result.n_val) == ("fixed", 0.45, 0)
    assert result.operating_points["validation"] is None and result.pxap is None
    assert result.gt_known_loc == result.operating_points["fixed"]["gt_known_loc"]
    assert result.centre_box["operating_point"] == "fixed"
    assert "no validation split" in str(result)


def test_pseudo_boxes_choose_as_true_ones_do_and_stand_behind_these():
    others = blobs(25, 2)[1]  # of other objects: another threshold is best
    pseudo = Maps(VAL_MAPS), Truth(SIZE, boxes=others)
    alone, both, true = run(validation=None, pseudo=pseudo), run(pseudo=pseudo), run()
    by_validation = run(validation=pseudo)
    assert (alone.operating_point, alone.n_val) == ("pseudo_boxes", 25)
    assert alone.threshold == by_validation.threshold != true.threshold
    assert alone.gt_known_loc == by_validation.gt_known_loc and np.array_equal(alone.boxes, by_validation.boxes)
    assert alone.extra["pseudo_gt_known_loc"] == by_validation.extra["val_gt_known_loc"]
    assert alone.centre_box["operating_point"] == "fixed", "its side is not chosen on pseudo boxes"
    assert f"tau = {alone.threshold:g} at percentile 100, chosen on pseudo boxes of 25 validation images" in str(alone)
    same = both.to_dict() | {"operating_points": true.operating_points, "extra": true.extra}
    assert same == true.to_dict(), "beside true boxes it is one more point, and changes nothing"
    assert both.operating_points == true.operating_points | {"pseudo_boxes": alone.operating_points["pseudo_boxes"]}
    assert both.per_image()["iou_pseudo_boxes"].tolist() == alone.ious.tolist()
    assert "GT-known Loc, chosen on pseudo boxes of validation" in str(both)


def test_threads_and_progress_do_not_change_anything(result):
    seen = []
    other = run(workers=3, progress=lambda images: (seen.append(image) or image for image in images))
    one = run(workers=1)
    assert len(seen) == 30
    assert other.to_dict() == one.to_dict()
    assert one.gt_known_loc == result.gt_known_loc


def test_some_masks_are_enough_and_counted():
    masks = [None if index % 2 else mask for index, mask in enumerate(MASKS)]
    result = run(masks=masks)
    assert result.extra["pxap_images"] == 15
    assert result.pxap == pytest.approx(pxap(prepared()[::2], MASKS[::2], 0.01))


def test_flat_maps_are_misses_and_counted():
    maps = MAPS.copy()
    maps[3], maps[8] = 0.5, np.nan
    result = score(Maps(maps, logits=LOGITS), Truth(SIZE, LABELS, TRUTHS), Rule(interval=0.01), samples=10)
    assert result.empty_boxes == 2
    assert result.boxes[3].tolist() == [0, 0, 0, 0]
    assert "2 of 30 images had an empty mask" in str(result)


def test_top5_does_not_apply_to_five_classes():
    maps, truth = Maps(MAPS, logits=LOGITS[:, :5]), Truth(SIZE, LABELS % 5, TRUTHS)
    result = score(maps, truth, Rule(interval=0.1), samples=10)
    assert result.top5_cls is None and result.top5_loc is None and "top5_cls" not in result.intervals
    assert result.top1_cls is not None and "Top-5 Cls" not in str(result)


def test_predictions_alone_give_classification_numbers():
    whole, truth = run(), Truth(SIZE, LABELS)
    result = score(Maps(MAPS, logits=LOGITS), truth, **NAMES)
    for name in ("top1_cls", "top5_cls", "n_images", "n_classes"):
        assert getattr(result, name) == getattr(whole, name)
    assert result.intervals == {name: whole.intervals[name] for name in ("top1_cls", "top5_cls")}
    assert result.gt_known_loc is result.max_box_acc is result.pxap is result.threshold is result.boxes is None
    assert not (result.operating_points or result.centre_box or result.failures or result.curve)
    assert [name for name, *_ in result.rows()] == ["Top-1 Cls", "Top-5 Cls"] and "threshold" not in str(result)
    table = result.per_image()
    assert table["right"].mean() * 100 == pytest.approx(result.top1_cls) and table["failure"].isna().all()
    assert EvalResult.from_dict(json.loads(json.dumps(result.to_dict()))).to_dict() == result.to_dict()
    ranked = np.argsort(-LOGITS, axis=1)
    assert score(Maps(MAPS, predicted=ranked), truth).top5_cls == whole.top5_cls


def test_wrong_arguments_are_refused():
    def refused(words, maps=None, truth=None, error=ValueError, **options):
        maps = {"maps": MAPS, "logits": LOGITS} | (maps or {})
        truth = {"size": SIZE, "labels": LABELS, "boxes": TRUTHS} | (truth or {})
        with pytest.raises(error, match=words):
            score(Maps(**maps), Truth(**truth), **options)

    refused("one entry per image", truth={"boxes": TRUTHS[:-1]})
    refused("one entry per image", maps={"ids": ["a"]})
    refused("the split is empty", {"maps": MAPS[:0], "logits": LOGITS[:0]}, {"labels": LABELS[:0], "boxes": []})
    refused("image 0: no ground-truth box", truth={"boxes": [[], *TRUTHS[1:]]})
    refused(
        "image 1 of the validation split: no ground", validation=(Maps(MAPS[:2]), Truth(SIZE, boxes=[TRUTHS[0], []]))
    )
    refused("top1_loc", error=TypeError, top1_loc=99.0)
    refused("one shape", truth={"masks": [np.ones((3, 3))] * 30})
    refused("predictions without labels", truth={"labels": None})
    refused("nothing to score against", {"logits": None}, {"boxes": None})
    refused("size is a positive int", truth={"size": (0, 5)})
    for wrong in ({"protocol": "wsol"}, {"percentile": 101}, {"threshold": -1}, {"interval": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))}|unknown protocol"):
            Rule(**wrong)


# ------------------------------------------------------------------------------------------- the object


def test_json_round_trip(result, tmp_path):
    path = tmp_path / "metrics.json"
    result.to_json(path)
    again = EvalResult.from_dict(read_json(path), path)
    assert again.to_dict() == result.to_dict()
    assert again.intervals == result.intervals and again.max_box_acc_v2_parts == result.max_box_acc_v2_parts
    assert again.ids is None and again.v2_hits is None
    assert str(again) == str(result)
    assert again.extra["note"] == "kept" and again.seconds_per_image == 0.5
    assert path.stat().st_size < 20_000


def test_nan_becomes_null(tmp_path):
    EvalResult(top1_cls=float("nan"), extra={"x": np.float64("inf")}).to_json(tmp_path / "a.json")
    values = json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail)
    assert values["top1_cls"] is None and values["extra"]["x"] is None
    assert EvalResult.from_dict(read_json(tmp_path / "a.json")).top1_cls is None


def test_other_files_are_refused(tmp_path, result):
    path = tmp_path / "a.json"
    for values in ({"format": "other"}, [1], result.to_dict() | {"surprise": 1}):
        path.write_text(json.dumps(values))
        with pytest.raises(ValueError, match=r"a\.json"):
            EvalResult.from_dict(read_json(path), path)


def test_printing_names_protocol_threshold_and_intervals(result):
    text = str(result)
    lines = text.splitlines()
    assert lines[0] == "cam · none (gap) · blobs test · 30 images"
    assert "geometry: resize; input: 40 x 48" in lines[1] and "chosen on 25 validation images" in lines[1]
    row = next(line for line in lines if line.startswith("GT-known Loc  "))
    low, high = result.intervals["gt_known_loc"]
    assert row.split("GT-known Loc")[1].split() == [f"{result.gt_known_loc:.2f}", f"{low:.1f}", "to", f"{high:.1f}"]
    assert sum("best on test" in line for line in lines) == 3 and "centre box" in text
    assert len({line.index(".") for line in lines[3:] if "Cls" in line or line.startswith("Top-")}) == 1  # aligned


def test_html_is_escaped(result):
    evil = dataclasses.replace(result, method="<script>alert(1)</script>", conditions={"a": "<b>"})
    text = evil._repr_html_()
    assert "<script>" not in text and "<b>" not in text and "&lt;script&gt;" in text
    assert text.count("<tr>") == 1 + len(result.rows())


def test_tables(result, tmp_path):
    row = result.to_pandas()
    assert len(row) == 1 and row.loc[0, "gt_known_loc"] == result.gt_known_loc
    assert row.loc[0, "gt_known_loc_low"] == result.intervals["gt_known_loc"][0]
    table = result.per_image()
    assert len(table) == 30 and table["localised"].mean() * 100 == pytest.approx(result.gt_known_loc)
    assert (table["right"] & table["localised"]).mean() * 100 == pytest.approx(result.top1_loc)
    assert table.loc[0, "gt_boxes"] == " ".join(map(str, TRUTHS[0][0]))
    result.save_per_image(tmp_path / "images.csv")
    lines = (tmp_path / "images.csv").read_text().splitlines()
    assert len(lines) == 31 and lines[1].startswith("image 0,")
    with pytest.raises(ValueError, match="per-image"):
        EvalResult().per_image()


def test_the_thinned_curve_stays_below_the_best_accuracy(result):
    best = result.operating_points["best_on_test"]["gt_known_loc"]
    assert len(result.curve["thresholds"]) == len(result.curve["gt_known_loc"]) == 100
    assert max(result.curve["gt_known_loc"]) <= best + 1e-3

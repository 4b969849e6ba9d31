"""Comparisons of two methods: counts by hand, intervals against plain resampling, and what is refused."""

from __future__ import annotations

import json
from fractions import Fraction
from math import comb

import numpy as np
import pandas as pd
import pytest

from wsolkit.evaluation import comparison, metrics
from wsolkit.evaluation.comparison import compare, compare_slices

RNG = np.random.default_rng(11)


def table(ious, right=None, ids=None, gt="5 5 60 60", **columns) -> pd.DataFrame:
    ious = np.asarray(ious, float)
    n = len(ious)
    values = {"id": [f"{i:05d}" for i in range(n)] if ids is None else ids, "label": 0, "iou": ious}
    values |= {"right": np.ones(n, bool) if right is None else right, "gt_boxes": gt}
    values |= {"object_share": np.linspace(0.01, 0.99, n), "aspect": 1.0, "failure": "background"}
    return pd.DataFrame(values | columns)


def hits(both: int, only_a: int, only_b: int, neither: int):
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return table(0.2 + 0.5 * np.array(a)), table(0.2 + 0.5 * np.array(b))


# ------------------------------------------------------------------------------------------------ numbers


def test_counts_by_hand():
    found = compare(*hits(40, 20, 5, 35))
    assert (found.n, found.both, found.only_a, found.only_b, found.neither) == (100, 40, 20, 5, 35)
    assert (found.value_a, found.value_b, found.difference) == (60.0, 45.0, 15.0)
    assert found.better == "A" and 0 < found.interval[0] < 15 < found.interval[1]
    assert found.p_value == pytest.approx(2 * sum(comb(25, k) for k in range(6)) / 2**25, rel=1e-12)
    turned = compare(*hits(40, 20, 5, 35)[::-1])
    assert turned.difference == -15 and turned.better == "B" and turned.p_value == found.p_value
    assert turned.interval == pytest.approx((-found.interval[1], -found.interval[0]), abs=1)


def test_top1_loc_counts_only_right_classes():
    right = np.array([True, False, True, True])
    a, b = table([0.9, 0.9, 0.5, 0.1], right), table([0.9, 0.9, 0.4, 0.9], [True] * 4)
    found = compare(a, b, "top1_loc")
    assert (found.both, found.only_a, found.only_b, found.neither) == (1, 1, 2, 0)
    assert compare(a, b).only_b == 1
    assert compare(a, b, "top1_loc", delta=0.3).both == 2
    with pytest.raises(ValueError, match=r"top1_loc needs to know .* Grad-CAM"):
        compare(a, table([0.9] * 4, [True, None, True, True]), "top1_loc", names=("CAM", "Grad-CAM"))


def test_hits_agree_with_plain_resampling():
    a, b = RNG.random(300) < 0.6, RNG.random(300) < 0.5
    found = compare(table(a), table(b), samples=40_000)
    drawn = np.random.default_rng(1).integers(300, size=(20_000, 300))
    plain = 100 * (a[drawn].mean(axis=1) - b[drawn].mean(axis=1))
    assert found.interval == pytest.approx(tuple(np.percentile(plain, [2.5, 97.5])), abs=0.35)
    assert found.difference == pytest.approx(100 * (a.mean() - b.mean()))


def test_ious_are_resampled_in_pairs(monkeypatch):
    a = RNG.random(120)
    b = np.clip(a - 0.02 + 0.05 * RNG.normal(size=120), 0, 1)
    found = compare(table(a), table(b), "iou", samples=500, seed=3)
    drawn = np.random.default_rng(3).integers(120, size=(500, 120))
    plain = 100 * (a - b)[drawn].mean(axis=1)
    assert found.interval == pytest.approx(tuple(np.percentile(plain, [2.5, 97.5])), abs=1e-9)
    assert found.both is found.only_a is found.only_b is found.neither is None
    assert found.value_a == pytest.approx(100 * a.mean()) and found.difference == pytest.approx(100 * (a - b).mean())
    assert found.interval[1] - found.interval[0] < 3, "the pairs are alike, so their difference is known well"
    monkeypatch.setattr(metrics, "CELLS", 1000)
    assert compare(table(a), table(b), "iou", samples=500, seed=3) == found


def test_p_value_is_exact():
    for a, b in ((0, 0), (1, 0), (5, 0), (3, 9), (10, 10), (100, 60), (700, 500)):
        exact = min(Fraction(1), Fraction(2 * sum(comb(a + b, k) for k in range(min(a, b) + 1)), 2 ** (a + b)))
        assert comparison.mcnemar(a, b) == comparison.mcnemar(b, a) == pytest.approx(float(exact), rel=1e-9)
    assert comparison.mcnemar(500_000, 500_000) == pytest.approx(1.0)
    assert 0.04 < comparison.mcnemar(500_000, 502_000) < 0.05 and comparison.mcnemar(900_000, 0) == 0.0


@pytest.mark.parametrize("only_a", [1, 2, 3, 4, 5])
def test_very_few_images_that_differ_decide_nothing(only_a):
    """The percentile interval of four or five images that all point one way lies above 0; an exact test does not."""
    found = compare(*hits(60, only_a, 0, 40))
    assert found.better is None and found.p_value == pytest.approx(2.0 ** (1 - only_a))
    gap = table([0.6] * only_a + [0.5] * 40), table([0.5] * (only_a + 40))
    assert compare(*gap, "iou").better is None
    assert compare(*hits(60, 8, 0, 40)).better == "A"


def test_one_image_and_equal_methods():
    one = compare(table([0.9]), table([0.1]))
    assert one.interval == (100.0, 100.0) and one.p_value == 1.0 and one.better is None and "p = 1.000" in str(one)
    a = table(RNG.random(30))
    for metric in comparison.METRICS:
        same = compare(a, a.copy(), metric)
        assert (same.difference, same.interval, same.p_value, same.better) == (0.0, (0.0, 0.0), 1.0, None)


@pytest.mark.slow
def test_intervals_cover_the_truth():
    """A is right on 60 % and B on 50 % of all images, independently: 95 % of the intervals should hold 10 points."""
    rng, inside, undecided = np.random.default_rng(2), 0, 0
    for seed in range(200):
        a, b = table(rng.random(150) < 0.6), table(rng.random(150) < 0.5)
        low, high = compare(a, b, samples=1000, seed=seed).interval
        inside += low <= 10 <= high
        equal = compare(b, table(rng.random(150) < 0.5), samples=1000, seed=seed)
        undecided += equal.better is None
    assert inside >= 180
    assert undecided >= 186, "of two equal methods one is called better in at most 5 of 100 comparisons"


# ------------------------------------------------------------------------------------------------ matching


def test_rows_are_matched_by_id_in_any_order(tmp_path):
    a, b = table(RNG.random(50)), table(RNG.random(50))
    shuffled = b.sample(frac=1, random_state=4)
    assert compare(a, b) == compare(a, shuffled) and compare(a, b, "iou") == compare(a, shuffled, "iou")
    numbers = [frame.assign(id=frame["id"].astype(int)) for frame in (a, shuffled)]
    assert compare(*numbers) == compare(a, b), "as pandas reads such ids from a csv file"


def test_tables_files_folders_and_results_are_the_same(tmp_path):
    a, b = (
        table(RNG.random(9)).assign(
            predicted=0, localised=True, x0=0, y0=0, x1=5, y1=5, empty=False, failure="background"
        )
        for _ in range(2)
    )

    class Result:
        def per_image(self):
            return b

    a.to_csv(tmp_path / "per_image.csv", index=False)
    for source in (tmp_path, str(tmp_path), tmp_path / "per_image.csv"):
        assert compare(source, Result()) == compare(a, b)


def test_other_images_are_refused_with_one_list():
    a, b = table([0.5] * 60), table([0.5] * 60, ids=[f"{i + 30:05d}" for i in range(60)])
    with pytest.raises(ValueError) as error:
        compare(a, b)
    words = str(error.value)
    assert (
        "30 only in A: 00000, 00001," in words and "30 only in B: 00060," in words and words.count("and 10 more") == 2
    )
    with pytest.raises(ValueError, match=r"1 only in A: 00059$"):
        compare(a, a.iloc[:-1])
    with pytest.raises(ValueError, match="ids occur twice in B: 00000"):
        compare(a, pd.concat([a, a.iloc[:1]]))


def test_other_ground_truth_is_refused():
    a = table([0.5] * 30, gt="1 2 30 40; 5 6 7 8")
    assert compare(a, a.assign(gt_boxes="5 6 7 8; 1.0 2.0 30.0 40.0")).n == 30, "the same boxes in another order"
    with pytest.raises(ValueError, match=r"other ground-truth boxes for 30 images.*00000, 00001.* and 10 more"):
        compare(a, a.assign(gt_boxes="1 2 30 41; 5 6 7 8"))
    with pytest.raises(ValueError, match="other labels for 30 images"):
        compare(a, a.assign(label=1))


def test_images_without_boxes_are_left_out():
    a = table([0.9, 0.2, np.nan])
    assert compare(a, a).n == 2
    with pytest.raises(ValueError, match="1 only in B: 00001"):
        compare(a.assign(iou=[0.9, np.nan, np.nan]), a)
    with pytest.raises(ValueError, match="lacks the columns gt_boxes"):
        compare(a.drop(columns="gt_boxes"), a)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"metric": "pxap"}, "metric is one of gt_known_loc, top1_loc, iou"),
        ({"delta": 0.0}, "delta"),
        ({"samples": 0}, "samples"),
        ({"names": ("CAM", "CAM")}, "names"),
        ({"names": ("CAM",)}, "names"),
    ],
)
def test_wrong_options(wrong, words):
    with pytest.raises(ValueError, match=words):
        compare(*hits(1, 1, 1, 1), **wrong)


# ------------------------------------------------------------------------------------------------ words


def test_words():
    found = compare(*hits(40, 20, 5, 35), names=("Grad-CAM", "CAM"))
    assert found.better == "A"
    text = str(found)
    assert text.startswith("Grad-CAM is better than CAM on these 100 images")
    assert "+15.00 points" in text and "40 / 20 / 5 / 35" in text and "exact McNemar" in text
    assert str(compare(*hits(40, 5, 20, 35))).startswith("B is better than A")
    undecided = str(compare(*hits(40, 9, 8, 35)))
    assert undecided.startswith("Undecided between A and B") and "includes 0" in undecided
    assert "(p = 0.062)" in str(compare(*hits(40, 5, 0, 35)))
    assert "mean IoU" in str(compare(*hits(40, 9, 8, 35), "iou"))
    assert "below 0.0001" in str(compare(*hits(40, 90, 8, 35)))


def test_html_is_escaped_and_json_is_plain():
    found = compare(*hits(40, 20, 5, 35), names=("<b>A</b>", "B & C"))
    markup = found._repr_html_()
    assert "<b>" not in markup and "&lt;b&gt;" in markup and "B &amp; C" in markup
    values = json.loads(json.dumps(found.to_dict()))
    assert values["names"] == ["<b>A</b>", "B & C"] and values["only_a"] == 20 and values["better"] == "A"
    assert values["interval"] == list(found.interval) and set(values) >= {"n", "metric", "delta", "p_value"}


# ------------------------------------------------------------------------------------------------ slices


def test_slices_of_the_difference():
    n = 400
    a, b = RNG.random(n) < 0.5, RNG.random(n) < 0.5
    share = np.linspace(0.01, 0.49, n)
    a[share < 0.1], b[share < 0.1] = True, False
    first, second = (table(x, object_share=share) for x in (a, b))
    frame = compare_slices(first, second.sample(frac=1, random_state=1)).set_index("slice")
    assert frame["kind"].tolist() == ["all"] + ["size"] * 4 + ["aspect"] * 3
    assert frame.loc["below 10 %", "difference"] == 100 and frame.loc["below 10 %", "better"] == "A"
    assert frame.loc["50 % and more", "n"] == 0 and np.isnan(frame.loc["50 % and more", "difference"])
    everything = compare(first, second)
    row = frame.loc["all images"]
    assert (row["difference"], row["low"], row["high"]) == (everything.difference, *everything.interval)
    inside = (share >= 0.1) & (share < 0.25)
    part = compare(first[inside], second[inside])
    row = frame.loc["10 to 25 %"]
    assert (row["n"], row["low"], row["high"], row["p_value"]) == (part.n, *part.interval, part.p_value)
    with pytest.raises(ValueError, match="lacks the columns aspect"):
        compare_slices(first.drop(columns="aspect"), second)

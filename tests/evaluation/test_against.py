"""Differences to plain CAM and to the centre box: paired, on the same images, and equal to the plain way of computing them."""

from __future__ import annotations

import numpy as np
import pytest

from wsolkit.evaluation.comparison import AGAINST, against_centre_box, against_result, compare
from wsolkit.evaluation.metrics import bootstrap_max, bootstrap_max_difference
from wsolkit.evaluation.scoring import Maps, Truth, score

SIDE, N, CLASSES = 32, 40, 6


def bump(rng, centre, width):
    yy, xx = np.mgrid[:8, :8] * 4 + 2
    return np.exp(-((xx - centre[0]) ** 2 + (yy - centre[1]) ** 2) / width**2) + 0.02 * rng.random((8, 8))


def result(seed: int, width: float, boxes: bool = True, **options):
    """Bumps near the objects, which are the same for every seed and width."""
    places, rng = np.random.default_rng(1), np.random.default_rng(seed)
    corners = places.integers(2, 12, (N, 2))
    truths = [np.array([[x, y, x + 14, y + 12]]) for x, y in corners]
    maps = [bump(rng, (x + 7 + rng.normal(0, 2), y + 6 + rng.normal(0, 2)), width) for x, y in corners]
    labels = np.arange(N) % CLASSES
    logits = np.eye(CLASSES)[labels] + rng.normal(0, 0.5, (N, CLASSES))
    masks = None if boxes else [np.pad(np.ones((12, 14), np.uint8), ((4, 16), (4, 14)))] * N
    return score(Maps(maps, logits=logits), Truth(SIDE, labels, truths if boxes else None, masks), **options)


@pytest.fixture(scope="module")
def pair():
    return result(0, 7.0), result(5, 3.0)


def straightforward(hits, other, samples, seed):
    rng, n = np.random.default_rng(seed), hits.shape[1]
    draws = []
    for _ in range(samples):
        chosen = rng.integers(n, size=n)
        a, b = (np.mean([level[chosen].sum(0).max() for level in array]) * 100 / n for array in (hits, other))
        draws.append(a - b)
    return np.percentile(draws, [2.5, 97.5])


def test_difference_of_maxima_is_the_paired_bootstrap(pair):
    a, b = pair
    difference, low, high = bootstrap_max_difference(a.v2_hits, b.v2_hits, samples=200, seed=3)
    assert difference == pytest.approx(a.max_box_acc_v2 - b.max_box_acc_v2)
    assert [low, high] == pytest.approx(straightforward(a.v2_hits, b.v2_hits, 200, 3))
    alone = bootstrap_max(a.v2_hits, samples=200, seed=3), bootstrap_max(b.v2_hits, samples=200, seed=3)
    assert high - low < sum(ends[1] - ends[0] for ends in alone), "pairing takes away what both share"
    with pytest.raises(ValueError, match="same images"):
        bootstrap_max_difference(a.v2_hits, b.v2_hits[:, :10])


def test_every_metric_against_another_result(pair):
    a, b = pair
    found = against_result(a, b)
    assert set(found) == set(AGAINST)
    for name, line in found.items():
        assert line["difference"] == pytest.approx(getattr(a, name) - getattr(b, name)) and line["n"] == N
        assert line["low"] <= line["difference"] <= line["high"]
    paired = compare(a, b, "gt_known_loc")
    assert (found["gt_known_loc"]["low"], found["gt_known_loc"]["high"]) == paired.interval
    assert found["gt_known_loc"]["p"] == paired.p_value


def test_a_result_against_itself_is_equal(pair):
    for line in against_result(pair[0], pair[0]).values():
        assert line["difference"] == line["low"] == line["high"] == 0


def test_centre_box(pair):
    found = against_centre_box(pair[0])
    assert found["top1_cls"] is None, "a box in the middle names no class"
    for name in ("gt_known_loc", "top1_loc"):
        assert found[name]["difference"] == pytest.approx(getattr(pair[0], name) - pair[0].centre_box[name])
    assert found["max_box_acc_v2"]["low"] < found["max_box_acc_v2"]["difference"] < found["max_box_acc_v2"]["high"]


def test_what_does_not_exist_is_none():
    masked = result(0, 7.0, boxes=False)
    assert against_centre_box(masked) == {} and set(against_result(masked, masked).values()) == {None}
    unlabelled = result(0, 7.0)
    unlabelled.top1_cls = unlabelled.top1_loc = unlabelled.predicted = None
    found = against_result(unlabelled, unlabelled)
    assert found["top1_loc"] is None and found["gt_known_loc"]["n"] == N


def test_other_images_are_refused(pair):
    other = result(5, 3.0)
    other.ids = other.ids[::-1]
    with pytest.raises(ValueError, match="other images"):
        against_result(pair[0], other)


def test_class_accuracy_can_be_compared(pair):
    found = compare(*pair, metric="top1_cls")
    assert found.value_a == pytest.approx(pair[0].top1_cls) and "IoU" not in found.rows()[0][0]

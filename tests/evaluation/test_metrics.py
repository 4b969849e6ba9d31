"""Metrics and their intervals: tiny cases by hand, the reference's numbers, coverage, and plain resampling."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import binom
from straightforward import gt_known_loc, max_box_acc_v2, pxap, top_k_cls, top_k_loc

from wsolkit.boxes.extract import thresholds
from wsolkit.evaluation import metrics
from wsolkit.evaluation.metrics import bootstrap_max, bootstrap_mean, share_interval

VECTORS = Path(__file__).parents[1] / "vectors"
RNG = np.random.default_rng(3)
N, K = 41, 9
LOGITS, LABELS, IOUS = RNG.normal(size=(N, K)), RNG.integers(K, size=N), RNG.random(N)
CURVES = RNG.random((N, 1)) * RNG.random((N, 100))


# ------------------------------------------------------------------------------------------- classification


def test_top_k_by_hand():
    logits = [[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 2.0, 3.0], [9.0, 1.0, 0.0]]
    assert top_k_cls(logits, [0, 1, 0, 2], k=1) == 50.0
    assert top_k_cls(logits, [2, 2, 0, 0], k=2) == 75.0
    assert top_k_cls(logits, [0, 0, 0, 2], k=3) == 100.0
    assert top_k_loc(logits, [0, 1, 0, 2], [0.6, 0.4, 0.9, 0.9]) == 25.0
    assert gt_known_loc([0.5, 0.49999, 1.0, np.nan]) == 50.0  # 0.5 counts, a missing box does not


def test_ties_go_to_the_lower_class():
    tied = np.zeros((3, 4))
    assert metrics.top_k_hits(tied, [0, 1, 3], k=1).tolist() == [True, False, False]
    assert metrics.top_k_hits(tied, [0, 1, 3], k=2).tolist() == [True, True, False]
    assert (metrics.top_k_hits(LOGITS.round(), LABELS) == (LOGITS.round().argmax(axis=1) == LABELS)).all()


def test_nan_logits_are_wrong():
    logits = np.array([[np.nan, 1.0, 0.0], [np.nan] * 3, [0.0, 1.0, np.inf]])
    assert metrics.top_k_hits(logits, [1, 0, 2], k=1).tolist() == [False, False, True]
    assert not metrics.top_k_hits(logits, [1, 0, 2], k=3)[:2].any()


@pytest.mark.parametrize("k", [1, 3, 5, 9, 20])
def test_top_k_equals_torch(k):
    best = torch.from_numpy(LOGITS).topk(min(k, K), dim=1).indices.numpy()
    assert top_k_cls(torch.from_numpy(LOGITS), torch.from_numpy(LABELS), k) == pytest.approx(
        100 * np.mean([label in row for label, row in zip(LABELS, best, strict=True)])
    )


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="labels must be in"):
        top_k_cls(LOGITS, LABELS + 5)
    with pytest.raises(ValueError, match="one entry per image"):
        top_k_cls(LOGITS, LABELS[:-1])
    with pytest.raises(ValueError, match="integers"):
        top_k_cls(LOGITS, LABELS.astype(float))
    with pytest.raises(ValueError, match="no images"):
        gt_known_loc([])
    with pytest.raises(ValueError, match="dimension"):
        metrics.max_box_acc(IOUS)
    with pytest.raises(ValueError, match="100 thresholds"):
        metrics.best_threshold(CURVES, interval=0.001)


# ------------------------------------------------------------------------------------------- thresholds


@pytest.mark.parametrize("steps", ["t1000", "t100"])
def test_max_box_acc_equals_the_reference(shared, steps):
    data = np.load(shared("conformance/boxes.npz"), allow_pickle=False)
    assert metrics.max_box_acc(data[f"iou_largest_{steps}"]) == data[f"maxboxacc_{steps}"]
    parts = [float(data[f"maxboxacc_v2_{steps}_{percent}"]) for percent in (30, 50, 70)]
    curves = data[f"iou_multi_{steps}"]
    assert [metrics.max_box_acc(curves, delta) for delta in metrics.DELTAS] == parts
    assert max_box_acc_v2(curves) == np.mean(parts)


def test_each_delta_has_its_own_best_threshold():
    curves = np.array([[0.3, 0.0, 0.7], [0.3, 0.5, 0.0]])
    assert metrics.accuracy_curve(curves, 0.3).tolist() == [100.0, 50.0, 50.0]
    assert metrics.max_box_acc(curves) == 50.0
    assert max_box_acc_v2(curves) == pytest.approx((100 + 50 + 50) / 3)


def test_best_threshold_is_the_middle_of_the_longest_plateau():
    curve = np.zeros((1, 100))
    curve[0, 5] = curve[0, 20:31] = curve[0, 90:95] = 1
    tau, accuracy = metrics.best_threshold(curve, interval=0.01)
    assert tau == thresholds(0.01)[25] and accuracy == 100.0
    assert metrics.plateau_middle(np.array([1.0, 3.0, 3.0, 2.0])) == 1
    assert metrics.plateau_middle(np.zeros(7)) == 3


# ------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(("interval", "steps"), [(0.001, "t1000"), (0.01, "t100")])
def test_pxap_equals_the_reference(interval, steps):
    """The reference's number for 1.4 million pixels, of which the vector keeps how many have which score."""
    data = np.load(VECTORS / "pxap.npz", allow_pickle=False)
    counts = np.concatenate([data["foreground"], data["background"]])
    middles = np.append(thresholds(0.001) + 0.0005, [1.0, 2.5])  # in the last two bins: a score of exactly 1, and none
    scores, mask = (
        np.repeat(np.tile(middles, 2), counts)[None],
        np.repeat([1, 0], [len(middles)] * 2).repeat(counts)[None],
    )
    assert scores.size > 1_000_000
    assert pxap([scores], [mask], interval) == pytest.approx(float(data[f"pxap_{steps}"]), abs=1e-9)


@pytest.mark.parametrize(("interval", "steps"), [(0.001, "t1000"), (0.01, "t100")])
def test_pxap_equals_the_reference_map_by_map(shared, interval, steps):
    data = np.load(shared("conformance/pxap.npz"), allow_pickle=False)
    measured = pxap(data["scoremaps"], data["masks"], interval)
    assert measured == pytest.approx(float(data[f"pxap_{steps}"]), abs=1e-9)


def test_pxap_by_hand():
    score_map = np.array([[0.9, 0.9, 0.6, 0.1], [0.6, 0.3, 0.3, 0.99]])
    mask = np.array([[1, 1, 0, 0], [1, 1, 0, 255]], np.uint8)
    # from the top: .9: tp 2 fp 0 (P 1, R .5); .6: tp 3 fp 1 (P .75, R .75); .3: tp 4 fp 2 (P 2/3, R 1)
    expected = 100 * (1 * 0.5 + 0.75 * 0.25 + 2 / 3 * 0.25)
    assert pxap([score_map], [mask], 0.1) == pytest.approx(expected, abs=1e-12)
    assert pxap([np.eye(4)], [np.eye(4, dtype=bool)]) == 100.0


@pytest.mark.parametrize("interval", [0.001, 0.01, 0.3])
def test_pixel_histograms_equal_numpys(interval):
    edges = np.append(np.arange(0, 1, interval), [1.0, 2.0, 3.0])
    scores = np.concatenate([edges[:-2], np.nextafter(edges[1:-2], 0), RNG.random(500)]).reshape(
        1, -1
    )  # exact edges too
    mask = RNG.integers(2, size=scores.shape).astype(np.uint8)
    expected = [np.histogram(scores[mask == value], bins=edges)[0] for value in (1, 0)]
    assert np.array_equal(metrics.pixel_histograms(scores, mask, interval), expected)


def test_pxap_refuses_what_it_cannot_score():
    with pytest.raises(ValueError, match="foreground"):
        pxap([np.eye(4)], [np.zeros((4, 4))])
    with pytest.raises(ValueError, match="ignore"):
        pxap([np.eye(4)], [np.full((4, 4), 128)])
    with pytest.raises(ValueError, match="shape"):
        pxap([np.eye(4)], [np.zeros((3, 4))])
    with pytest.raises(ValueError, match="normalise_map"):
        pxap([np.eye(4) * 2], [np.eye(4)])


# ------------------------------------------------------------------------------------------- bootstrap


def test_interval_of_a_share():
    hits = np.arange(400) % 4 == 0
    low, high = share_interval(hits)
    error = 1.96 * 100 * np.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(25 - error, abs=0.6) and high == pytest.approx(25 + error, abs=0.6)
    assert share_interval(hits, level=0.5)[0] > low
    for wrong in ([0.5], []):
        with pytest.raises(ValueError, match="0 or 1"):
            share_interval(wrong)


def test_interval_of_a_share_is_wilsons():
    """The two solutions p of (share - p)^2 = z^2 p (1 - p) / n."""
    for hits, count in ((0, 7), (3, 10), (5, 5), (1, 400)):
        share, z = hits / count, 1.959964
        roots = np.roots([1 + z**2 / count, -2 * share - z**2 / count, share**2])
        assert share_interval([1] * hits + [0] * (count - hits)) == pytest.approx(sorted(100 * roots), abs=1e-4)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.8, 0.95])
def test_the_interval_of_twenty_images_covers_what_it_says(share):
    """The exact coverage: a percentile bootstrap holds the truth in 88 of 100 samples of 20 images, and in fewer near 1."""
    counts = np.arange(21)
    ends = np.array([share_interval([1] * hits + [0] * (20 - hits)) for hits in counts])
    covers = (ends[:, 0] <= 100 * share) & (100 * share <= ends[:, 1])
    assert binom.pmf(counts, 20, share)[covers].sum() > 0.91


def test_hits_on_all_images_leave_an_interval():
    low, high = share_interval(np.ones(5))
    assert low == pytest.approx(56.55, abs=0.01) and high == 100.0
    assert share_interval(np.zeros(5)) == pytest.approx((0.0, 43.45), abs=0.01)


def test_bootstrap_of_a_mean():
    values = RNG.random((30, 4))
    mean, low, high, draws = bootstrap_mean(values, samples=300, seed=3)
    drawn = np.random.default_rng(3).integers(30, size=(300, 30))
    naive = values[drawn].mean(axis=1)
    np.testing.assert_allclose(draws, naive.T)
    np.testing.assert_allclose((low, high), np.percentile(naive, [2.5, 97.5], axis=0))
    assert np.array_equal(mean, values.mean(axis=0))
    values = np.random.default_rng(0).normal(3, 2, (400, 2))
    _, low, high, _ = bootstrap_mean(values)
    np.testing.assert_allclose((high - low) / 2, 1.96 * values.std(axis=0) / 20, rtol=0.15)


def test_bootstrap_of_the_mean_of_one_image():
    values = RNG.random((1, 4))
    _, low, high, draws = bootstrap_mean(values, samples=10)
    assert np.array_equal(low, values[0]) and np.array_equal(high, values[0]) and draws.shape == (4, 10)
    assert [float(end) for end in bootstrap_mean(np.array([0.25]))[:3]] == [0.25] * 3


def test_bootstrap_max_maximises_again_in_every_resample():
    hits = RNG.random((60, 50)) < 0.5
    low, high = bootstrap_max(hits, samples=500, seed=1)
    rng = np.random.default_rng(7)
    naive = [hits[rng.integers(60, size=60)].mean(axis=0).max() * 100 for _ in range(500)]
    assert low == pytest.approx(np.percentile(naive, 2.5), abs=2)
    assert high == pytest.approx(np.percentile(naive, 97.5), abs=2)
    assert low > 50  # each single threshold is a coin: without the maximum the interval would contain 50


def test_bootstrap_max_equals_a_naive_one_on_the_same_resamples():
    hits = np.repeat(RNG.random((3, 37, 20)) < 0.4, 3, axis=2)
    draws = np.random.default_rng(2).integers(37, size=(300, 37))
    naive = [np.mean([part[draw].mean(axis=0).max() * 100 for part in hits]) for draw in draws]
    expected = np.percentile(naive, [2.5, 97.5])
    assert bootstrap_max(hits, samples=300, seed=2) == pytest.approx(tuple(expected), abs=1e-9)


def test_bootstrap_max_of_one_threshold_is_the_plain_one():
    hits = RNG.random((300, 1)) < 0.3
    assert bootstrap_max(hits) == pytest.approx(share_interval(hits[:, 0]), abs=1.0)
    repeated = np.repeat(hits, 40, axis=1)
    assert bootstrap_max(repeated) == bootstrap_max(hits)
    assert bootstrap_max(np.stack([hits, hits])) == pytest.approx(bootstrap_max(hits), abs=1e-9)


def test_bootstrap_max_does_not_depend_on_its_chunks(monkeypatch):
    hits = RNG.random((2, 700, 30)) < 0.4
    expected = bootstrap_max(hits, samples=50)
    monkeypatch.setattr(metrics, "CELLS", 3000)
    assert bootstrap_max(hits, samples=50) == expected

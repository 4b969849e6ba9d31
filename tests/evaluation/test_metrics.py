"""Metrics: tiny cases by hand, the reference's numbers, class == function, and the bootstrap."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wsolkit.boxes.extract import thresholds
from wsolkit.evaluation import bootstrap, metrics

RNG = np.random.default_rng(3)
N, K = 41, 9
LOGITS, LABELS, IOUS = RNG.normal(size=(N, K)), RNG.integers(K, size=N), RNG.random(N)
CURVES = RNG.random((N, 1)) * RNG.random((N, 100))
MAPS = RNG.random((7, 12, 10))
MASKS = RNG.choice(np.array([0, 1, 255], np.uint8), (7, 12, 10))

# metric, the function's value, the arrays that update() takes
CASES = {
    "top1_cls": (metrics.TopKCls, {"k": 1}, metrics.top_k_cls, (LOGITS, LABELS)),
    "top5_cls": (metrics.TopKCls, {"k": 5}, metrics.top_k_cls, (LOGITS, LABELS)),
    "gt_known": (metrics.GTKnownLoc, {"delta": 0.4}, metrics.gt_known_loc, (IOUS,)),
    "top5_loc": (metrics.TopKLoc, {"k": 5, "delta": 0.3}, metrics.top_k_loc, (LOGITS, LABELS, IOUS)),
    "max_box_acc": (metrics.MaxBoxAcc, {"delta": 0.3}, metrics.max_box_acc, (CURVES,)),
    "max_box_acc_v2": (metrics.MaxBoxAccV2, {"deltas": (0.3, 0.5)}, metrics.max_box_acc_v2, (CURVES,)),
    "pxap": (metrics.PxAP, {"interval": 0.01}, metrics.pxap, (MAPS, MASKS)),
}


def build(name: str):
    kind, options, function, arrays = CASES[name]
    extra = {"interval": 0.01} if "box" in name else {}
    return kind(**options, **extra), function(*arrays, **options), [torch.from_numpy(array) for array in arrays]


# ------------------------------------------------------------------------------------------- classification


def test_top_k_by_hand():
    logits = [[3.0, 1.0, 2.0], [0.0, 5.0, 1.0], [1.0, 2.0, 3.0], [9.0, 1.0, 0.0]]
    assert metrics.top_k_cls(logits, [0, 1, 0, 2], k=1) == 50.0
    assert metrics.top_k_cls(logits, [2, 2, 0, 0], k=2) == 75.0
    assert metrics.top_k_cls(logits, [0, 0, 0, 2], k=3) == 100.0
    assert metrics.top_k_loc(logits, [0, 1, 0, 2], [0.6, 0.4, 0.9, 0.9]) == 25.0
    assert metrics.gt_known_loc([0.5, 0.49999, 1.0, np.nan]) == 50.0  # 0.5 counts, a missing box does not


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
    assert metrics.top_k_cls(torch.from_numpy(LOGITS), torch.from_numpy(LABELS), k) == pytest.approx(
        100 * np.mean([label in row for label, row in zip(LABELS, best, strict=True)])
    )


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="labels must be in"):
        metrics.top_k_cls(LOGITS, LABELS + 5)
    with pytest.raises(ValueError, match="one row per image"):
        metrics.top_k_cls(LOGITS, LABELS[:-1])
    with pytest.raises(ValueError, match="one row per image"):
        metrics.top_k_loc(LOGITS, LABELS, IOUS[:-1])
    with pytest.raises(ValueError, match="integers"):
        metrics.top_k_cls(LOGITS, LABELS.astype(float))
    with pytest.raises(ValueError, match="no images"):
        metrics.gt_known_loc([])
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
    assert metrics.max_box_acc_v2(curves) == np.mean(parts)


def test_each_delta_has_its_own_best_threshold():
    curves = np.array([[0.3, 0.0, 0.7], [0.3, 0.5, 0.0]])
    assert metrics.accuracy_curve(curves, 0.3).tolist() == [100.0, 50.0, 50.0]
    assert metrics.max_box_acc(curves) == 50.0
    assert metrics.max_box_acc_v2(curves) == pytest.approx((100 + 50 + 50) / 3)


def test_best_threshold_is_the_middle_of_the_longest_plateau():
    curve = np.zeros((1, 100))
    curve[0, 5] = curve[0, 20:31] = curve[0, 90:95] = 1
    tau, accuracy = metrics.best_threshold(curve, interval=0.01)
    assert tau == thresholds(0.01)[25] and accuracy == 100.0
    assert metrics.plateau_middle(np.array([1.0, 3.0, 3.0, 2.0])) == 1
    assert metrics.plateau_middle(np.zeros(7)) == 3


# ------------------------------------------------------------------------------------------- pixels


@pytest.mark.parametrize(("interval", "steps"), [(0.001, "t1000"), (0.01, "t100")])
def test_pxap_equals_the_reference(shared, interval, steps):
    data = np.load(shared("conformance/pxap.npz"), allow_pickle=False)
    measured = metrics.pxap(data["scoremaps"], data["masks"], interval)
    assert measured == pytest.approx(float(data[f"pxap_{steps}"]), abs=1e-9)


def test_pxap_by_hand():
    score_map = np.array([[0.9, 0.9, 0.6, 0.1], [0.6, 0.3, 0.3, 0.99]])
    mask = np.array([[1, 1, 0, 0], [1, 1, 0, 255]], np.uint8)
    # from the top: .9: tp 2 fp 0 (P 1, R .5); .6: tp 3 fp 1 (P .75, R .75); .3: tp 4 fp 2 (P 2/3, R 1)
    expected = 100 * (1 * 0.5 + 0.75 * 0.25 + 2 / 3 * 0.25)
    assert metrics.pxap([score_map], [mask], 0.1) == pytest.approx(expected, abs=1e-12)
    assert metrics.pxap([np.eye(4)], [np.eye(4, dtype=bool)]) == 100.0


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
        metrics.pxap([np.eye(4)], [np.zeros((4, 4))])
    with pytest.raises(ValueError, match="ignore"):
        metrics.pxap([np.eye(4)], [np.full((4, 4), 128)])
    with pytest.raises(ValueError, match="shape"):
        metrics.pxap([np.eye(4)], [np.zeros((3, 4))])
    with pytest.raises(ValueError, match="normalise_map"):
        metrics.pxap([np.eye(4) * 2], [np.eye(4)])


# ------------------------------------------------------------------------------------------- classes


@pytest.mark.parametrize("name", CASES)
def test_class_equals_function_however_updates_are_split(name):
    metric, expected, arrays = build(name)
    assert 0 < expected < 100
    assert metric.higher_is_better
    metric.update(*arrays)
    assert metric.compute().item() == pytest.approx(expected, abs=1e-9)
    metric.reset()
    for part in (slice(0, 1), slice(1, 6), slice(6, None)):
        metric.update(*(array[part] for array in arrays))
    assert metric.compute().item() == pytest.approx(expected, abs=1e-9)
    metric.reset()
    metric(*(array[:2] for array in arrays))  # forward: a batch value, and the state goes on
    metric(*(array[2:] for array in arrays))
    assert metric.compute().item() == pytest.approx(expected, abs=1e-9)


@pytest.mark.filterwarnings("ignore:The ``compute`` method")
def test_nothing_seen_is_nan():
    for name in CASES:
        assert torch.isnan(build(name)[0].compute())


def test_curve_metrics_check_the_number_of_thresholds():
    with pytest.raises(ValueError, match=r"\(B, 1000\)"):
        metrics.MaxBoxAcc().update(torch.zeros(2, 100))


# ------------------------------------------------------------------------------------------- bootstrap


def test_bootstrap_interval_of_a_share():
    hits = np.arange(400) % 4 == 0
    low, high = metrics.bootstrap_interval(hits, samples=4000)
    error = 1.96 * 100 * np.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(25 - error, abs=0.6) and high == pytest.approx(25 + error, abs=0.6)
    assert metrics.bootstrap_interval(hits) == metrics.bootstrap_interval(hits)
    assert metrics.bootstrap_interval(hits, level=0.5)[0] > low
    assert metrics.bootstrap_interval(np.ones(5)) == (100.0, 100.0)
    with pytest.raises(ValueError, match="0 or 1"):
        metrics.bootstrap_interval([0.5])


def test_bootstrap_max_maximises_again_in_every_resample():
    hits = RNG.random((60, 50)) < 0.5
    low, high = metrics.bootstrap_max(hits, samples=500, seed=1)
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
    assert metrics.bootstrap_max(hits, samples=300, seed=2) == pytest.approx(tuple(expected), abs=1e-9)


def test_bootstrap_max_of_one_threshold_is_the_plain_one():
    hits = RNG.random((300, 1)) < 0.3
    assert metrics.bootstrap_max(hits) == pytest.approx(metrics.bootstrap_interval(hits[:, 0]), abs=1.0)
    repeated = np.repeat(hits, 40, axis=1)
    assert metrics.bootstrap_max(repeated) == metrics.bootstrap_max(hits)
    assert metrics.bootstrap_max(np.stack([hits, hits])) == pytest.approx(metrics.bootstrap_max(hits), abs=1e-9)


def test_bootstrap_max_does_not_depend_on_its_chunks(monkeypatch):
    hits = RNG.random((2, 700, 30)) < 0.4
    expected = metrics.bootstrap_max(hits, samples=50)
    monkeypatch.setattr(bootstrap, "BOOTSTRAP_CELLS", 3000)
    assert metrics.bootstrap_max(hits, samples=50) == expected

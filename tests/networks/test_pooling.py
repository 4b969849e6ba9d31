"""Trap 8: the maximum is per channel, only kept pixels count, no gradient through the maximum, dead channels give 0."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import wsolkit as wk

VECTORS = Path(__file__).parents[1] / "vectors" / "rethinking_cam.npz"


@pytest.fixture(scope="module")
def reference():
    with np.load(VECTORS, allow_pickle=False) as content:
        return {key: content[key] for key in content.files}


@pytest.mark.parametrize("tau", [0.0, 0.1, 0.35, 0.7])
def test_logits_and_gradients_equal_the_reference(reference, tau):
    features = torch.tensor(reference["features"], requires_grad=True)
    pooled = wk.ThresholdedAveragePool(tau)(features)
    logits = pooled @ torch.tensor(reference["weight"]).T + torch.tensor(reference["bias"])
    np.testing.assert_allclose(logits.detach(), reference[f"tap_{tau}_logits"], rtol=1e-4, atol=1e-5)
    (logits**2).sum().backward()
    expected = reference[f"tap_{tau}_grad_of_sum_sq_logits"]
    np.testing.assert_allclose(features.grad, expected, rtol=1e-3, atol=1e-5)


def test_by_hand():
    features = torch.tensor([[[[10.0, 1.0], [0.5, 4.0]], [[0.2, 0.1], [0.0, 0.0]]]])
    # channel 0 keeps 10 and 4 (1.0 equals the threshold 0.1 x 10 and is not kept); channel 1 keeps 0.2 and 0.1
    assert torch.allclose(wk.thresholded_average_pool(features, 0.1), torch.tensor([[7.0, 0.15]]))


def test_gradient_is_one_over_n_on_kept_positions_and_zero_elsewhere():
    features = torch.tensor([[[[10.0, 1.0], [0.5, 4.0]]]], requires_grad=True)
    wk.thresholded_average_pool(features, 0.1).sum().backward()
    assert features.grad.tolist() == [[[[0.5, 0.0], [0.0, 0.5]]]]


def test_dead_channel_pools_to_zero_with_zero_gradient():
    features = torch.zeros(1, 2, 3, 3, requires_grad=True)
    pooled = wk.thresholded_average_pool(features, 0.1)
    pooled.sum().backward()
    assert pooled.tolist() == [[0.0, 0.0]]
    assert not features.grad.any()


def test_maximum_is_per_image_and_channel():
    small, large = torch.full((1, 1, 2, 2), 1.0), torch.full((1, 1, 2, 2), 100.0)
    assert wk.thresholded_average_pool(torch.cat([small, large]), 0.5).flatten().tolist() == [1.0, 100.0]
    assert wk.thresholded_average_pool(torch.cat([small, large], dim=1), 0.5).flatten().tolist() == [1.0, 100.0]


def test_training_and_evaluation_agree_and_gap_is_the_mean():
    features = torch.rand(2, 3, 4, 4)
    pool = wk.ThresholdedAveragePool()
    assert torch.equal(pool.train()(features), pool.eval()(features))
    assert torch.allclose(wk.GlobalAveragePool()(features), features.mean((2, 3)))


@pytest.mark.parametrize("tau", [-0.1, 1.0])
def test_tau_outside_its_range_is_refused(tau):
    with pytest.raises(ValueError, match="tau"):
        wk.ThresholdedAveragePool(tau)
    with pytest.raises(ValueError, match=r"\(B, C, h, w\)"):
        wk.thresholded_average_pool(torch.zeros(3, 3))

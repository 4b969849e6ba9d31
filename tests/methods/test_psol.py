"""PSOL: its closed form against least squares on stacked rows, and the whole path from pseudo boxes to predictions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import wsolkit as wk
from wsolkit.boxes.extract import extract_box
from wsolkit.boxes.shares import boxes_of_shares
from wsolkit.methods import psol
from wsolkit.methods.ddt import DDT
from wsolkit.methods.registry import MethodNotDefined
from wsolkit.networks.models import rebuild
from wsolkit.runs.run import Run, load_trained

pytestmark = pytest.mark.usefixtures("one_thread")


def stacked_ridge(x, y, components, strength):
    """The same by a singular value decomposition and least squares with added rows."""
    middle, mean = y.mean(0), x.mean(0)
    axes = np.linalg.svd(x - mean, full_matrices=False)[2][:components].T
    z = (x - mean) @ axes
    alpha = strength * (z**2).sum(0).max()
    grown = (
        np.concatenate([z, np.sqrt(alpha) * np.eye(components)]),
        np.concatenate([y - middle, np.zeros((components, 4))]),
    )
    weight = (axes @ np.linalg.lstsq(*grown, rcond=None)[0]).T
    return weight, middle - weight @ mean


def rows(n=60, length=20, seed=0, rank=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, length)) * np.linspace(3, 0.1, length) + 5
    if rank:
        x = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, length)) + 5
    y = 0.5 + 0.02 * (x - 5) @ rng.normal(size=(length, 4)) + 0.05 * rng.normal(size=(n, 4))
    return x, y


def fitted(x, y, batch=7, **options):
    ridge = psol.Ridge(x.shape[1])
    for start in range(0, len(x), batch):
        ridge.add(x[start : start + batch].astype(np.float64), y[start : start + batch])
    return ridge.fit(**options)


@pytest.mark.parametrize("components", [20, 8])
def test_one_pass_equals_least_squares_on_stacked_rows(components):
    x, y = rows()
    weight, bias, facts = fitted(x, y, components=components)
    expected = stacked_ridge(x, y, components, facts["strength"])
    np.testing.assert_allclose(weight, expected[0], atol=1e-9)
    np.testing.assert_allclose(bias, expected[1], atol=1e-9)
    assert facts["components"] == components


def test_the_strength_is_that_of_leave_one_out_generalised():
    x, y = rows(40, 30)
    *_, facts = fitted(x, y)
    errors = {}
    for strength in psol.STRENGTHS:
        weight, bias = stacked_ridge(x, y, 30, strength)
        z = (x - x.mean(0)) @ np.linalg.svd(x - x.mean(0), full_matrices=False)[2].T
        alpha = strength * (z**2).sum(0).max()
        hat = z @ np.linalg.solve(z.T @ z + alpha * np.eye(30), z.T) + 1 / len(x)
        rest = ((y - x @ weight.T - bias) ** 2).sum()
        errors[float(strength)] = len(x) * rest / np.trace(np.eye(len(x)) - hat) ** 2
    assert facts["strength"] == min(errors, key=errors.get)
    assert facts["error"] == pytest.approx(np.sqrt(min(errors.values()) / 4))
    assert 1e-8 < facts["strength"] < 1e4, "neither end"


def test_noise_is_answered_with_the_mean_box():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(50, 40)), rng.random((50, 4))
    weight, bias, _ = fitted(x, y)
    assert np.abs(x @ weight.T + bias - y.mean(0)).max() < 0.3 * y.std()


def test_memory_is_bounded_and_what_is_merged_keeps_its_longest_axes(monkeypatch):
    monkeypatch.setattr(psol, "ROWS", 40)
    monkeypatch.setattr(psol, "KEPT", 15)
    x, y = rows(300, 25, rank=12)
    ridge = psol.Ridge(25)
    for start in range(0, 300, 10):
        ridge.add(x[start : start + 10], y[start : start + 10])
        assert sum(map(len, ridge.held)) <= 40
    weight, bias, facts = ridge.fit()
    expected = stacked_ridge(x, y, 12, facts["strength"])  # 12 axes and the mean fit into 15 rows, so nothing is lost
    assert facts["components"] == 12
    np.testing.assert_allclose(x @ weight.T + bias, x @ expected[0].T + expected[1], atol=1e-7)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_images_give_at_least_the_mean_box(n):
    x, y = rows(n)
    weight, bias, facts = fitted(x, y)
    assert np.isfinite(weight).all() and facts["components"] == max(0, n - 2)
    np.testing.assert_allclose(x.mean(0) @ weight.T + bias, y.mean(0), atol=1e-9)


def test_equal_features_give_the_mean_box():
    x, y = np.ones((9, 5)), rows(9)[1]
    weight, bias, facts = fitted(x, y)
    assert not weight.any() and facts["components"] == 0 and np.allclose(bias, y.mean(0))


def birds(split="train"):
    return wk.load_dataset("synthetic", split, size=32, classes=3, per_class=6)


def network():
    model = wk.build_model("resnet18", 3, weights="none", width=0.25, stride=8)
    wk.fit(model, birds(), objective=DDT(), batch_size=5, frozen=True, weight_decay=0.1)
    return model


def test_pseudo_boxes_are_those_of_the_method_and_images_without_one_are_left_out():
    blob = np.full((2, 8, 8), -1.0)
    blob[0, 2:5, 3:6] = 1
    shares, empty = psol.pseudo_boxes(blob, "cam", (32, 32))
    assert empty.tolist() == [False, True]
    assert boxes_of_shares(shares[:1], 32).tolist() == [extract_box(blob[0], 0.2, 100, 32).tolist()]


@pytest.mark.parametrize("regressor", ["ridge", "network"])
def test_the_regressor_is_fitted_to_the_pseudo_boxes_of_the_training_images(regressor):
    model, train = network(), birds()
    with pytest.raises(MethodNotDefined, match="variant psol"):
        wk.predict_boxes(model, train.images([0]), [0], "psol")
    wk.fit(model, train, objective=psol.PSOL(regressor=regressor), batch_size=5, frozen=True, weight_decay=0.1)
    images, labels = train.images(range(len(train))), torch.from_numpy(train.labels)
    shares, empty = psol.pseudo_boxes(wk.score_maps(model, images, labels, "ddt").numpy(), "ddt", (32, 32))
    features = wk.feature_map(model, images)
    made = wk.predict_boxes(model, images, labels, "psol").double().numpy()
    assert made.shape == (len(train), 4) and (made >= 0).all() and (made <= 1).all()
    if regressor == "ridge":
        ridge = psol.Ridge(4 * features.shape[1])
        ridge.add(psol.pooled(features).numpy()[~empty], shares[~empty])
        weight, bias, _ = ridge.fit()
        expected = (psol.pooled(features).double().numpy() @ weight.T + bias).clip(0, 1)
        np.testing.assert_allclose(made, expected, atol=1e-3)
    error = np.abs(made - shares)[~empty].mean()
    assert error <= np.abs(shares[~empty].mean(0) - shares[~empty]).mean() + 0.02, "no worse than the mean box"

    again = rebuild(**model.spec)
    again.load_state_dict(model.state_dict())
    assert torch.equal(wk.predict_boxes(again, images, labels, "psol").double(), torch.from_numpy(made))


def test_the_regressor_that_was_fitted_last_counts():
    train = birds()
    images, labels = train.images(range(4)), torch.from_numpy(train.labels[:4])
    options = {"batch_size": 5, "frozen": True, "weight_decay": 0.1}

    def boxes(*regressors):
        model = network()
        for name in regressors:
            wk.fit(model, train, objective=psol.PSOL(source="cam", regressor=name), **options)
        assert list(model.spec["fitted"]) == list(model.fitted._buffers)
        return wk.predict_boxes(model, images, labels, "psol")

    assert torch.equal(boxes("network", "ridge"), boxes("ridge"))


def test_without_any_pseudo_box_there_is_one_error(monkeypatch):
    monkeypatch.setattr(psol, "pseudo_boxes", lambda maps, *_: (np.zeros((len(maps), 4)), np.ones(len(maps), bool)))
    with pytest.raises(ValueError, match="ddt cut no box from any of"):
        wk.fit(network(), birds(), objective=psol.PSOL(), batch_size=5, frozen=True)


@pytest.mark.slow
def test_a_run_fits_ddt_first_and_keeps_boxes_that_are_read_again(tmp_path, monkeypatch):
    parameters = {"dataset": "synthetic", "classes": 2, "per_class": 4, "size": 32, "epochs": 1, "width": 0.125}
    run = Run.start(**parameters, out=str(tmp_path), backbone="resnet18")
    result = run.evaluate("psol")
    assert result.gives == "boxes" and result.variant == "psol" and result.max_box_acc == result.gt_known_loc
    assert result.conditions["method"].startswith("PSOL fitted to")
    folders = {path.name.rsplit("-", 1)[0] for path in run.config.runs_folder.glob("train-*") if path.is_dir()}
    assert folders == {"train-gap", "train-ddt", "train-psol"}
    monkeypatch.setattr("wsolkit.runs.run.localise", None)  # what is kept is read
    again = Run(run.config).evaluate("psol")
    assert np.array_equal(again.boxes, result.boxes) and again.maps["test"].path is not None
    trained = load_trained(run.config.training_folder("psol"))
    (one,) = wk.predict(trained.model, np.zeros((40, 60, 3), np.uint8), "psol", **trained.view)
    assert one.score_map is None and one.box[2] < 60 and one.box[3] < 40

"""A frozen body: the head is the optimum that another optimiser finds, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import logsumexp

import wsolkit as wk
from wsolkit.common.errors import WsolkitError
from wsolkit.methods.registry import variant
from wsolkit.runs.parameters import RunConfig
from wsolkit.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")
FROZEN = {"frozen": True, "batch_size": 8, "weight_decay": 0.01}


def birds(split):
    return wk.load_dataset("synthetic", split, size=32, classes=3, per_class=10)


def network(backbone="resnet18", pooling="gap"):
    return wk.build_model(backbone, 3, pooling, weights="none", width=0.25)


@pytest.mark.parametrize(("backbone", "pooling"), [("resnet18", "gap"), ("vgg16", "tap")])
def test_the_head_is_the_optimum_and_the_body_stays(backbone, pooling, tmp_path, capsys):
    model, train = network(backbone, pooling), birds("train")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    history = wk.fit(model, train, birds("val"), out=tmp_path, **FROZEN)
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert set(changed) == {"head.weight", "head.bias"} and len(history) == 1 and not model.training

    with torch.no_grad():
        x = model.pool(model.body(train.images(range(len(train)), torch.device("cpu")))).double().numpy()
    y, shape = train.labels, (3, x.shape[1] + 1)

    def loss(flat):
        w = flat.reshape(shape)
        logits = x @ w[:, :-1].T + w[:, -1]
        p = np.exp(logits - logsumexp(logits, axis=1, keepdims=True))
        error = (p - np.eye(3)[y]) / len(x)
        gradient = np.c_[error.T @ x + 0.01 * w[:, :-1], error.sum(0)]
        return -np.log(p[range(len(x)), y]).mean() + 0.005 * (w[:, :-1] ** 2).sum(), gradient.ravel()

    best = minimize(loss, np.zeros(np.prod(shape)), jac=True, method="BFGS", options={"gtol": 1e-7})
    ours = np.c_[model.head.weight.detach(), model.head.bias.detach()].astype(float)
    assert loss(ours.ravel())[0] == pytest.approx(best.fun, abs=1e-5)
    np.testing.assert_allclose(ours, best.x.reshape(shape), atol=0.02)
    logits = x @ ours[:, :-1].T + ours[:, -1]
    assert history[0]["train_top1"] == pytest.approx(100 * (logits.argmax(1) == y).mean())

    again = network(backbone, pooling)
    capsys.readouterr()
    wk.fit(again, train, birds("val"), **FROZEN)
    shown = capsys.readouterr().out
    assert shown.startswith("head fitted  loss") and "lr" not in shown and "epoch" not in shown
    loaded, _ = wk.load_checkpoint(tmp_path / "best.pt")
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]) and torch.equal(value, loaded.state_dict()[name])


def test_what_has_no_meaning_is_refused():
    with pytest.raises(WsolkitError, match="only a linear head behind a pooling"):
        wk.fit(network("vgg16_fc", "fc"), birds("train"), **FROZEN)
    with pytest.raises(WsolkitError, match="only a linear head behind a pooling"):
        wk.fit(network(pooling="acol"), birds("train"), **FROZEN)
    with pytest.raises(WsolkitError, match="only a linear head behind a pooling"):
        wk.fit(network(pooling="bas"), birds("train"), objective=variant("ddt").objective(), **FROZEN)
    broken = network()
    torch.nn.init.constant_(broken.body.conv1.weight, float("nan"))
    with pytest.raises(WsolkitError, match="features are not finite"):
        wk.fit(broken, birds("train"), **FROZEN)
    with pytest.raises(WsolkitError, match="'has' trains the body"):
        wk.fit(network(), birds("train"), objective=variant("has").objective(), **FROZEN)


def test_the_named_recipe():
    config = RunConfig.make(dataset="synthetic", weights="imagenet", backbone="mobilenet_v2", recipe="frozen")
    assert Recipe.of(config, 100).frozen and config.epochs == 1 and "linear probe" in wk.Run(config).recipe_source
    plain = config.with_changes(frozen=False)
    assert plain.training_key("gap") != config.training_key("gap")

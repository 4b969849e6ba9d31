"""C2AM: its loss by hand, ranks, polarity from all images, and that a planted foreground is found without labels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import wsolkit as wk
from wsolkit.common.errors import WsolkitError
from wsolkit.methods.c2am import C2AM, LEAST, MOST, attraction, contrast
from wsolkit.methods.registry import MethodNotDefined

pytestmark = pytest.mark.usefixtures("one_thread")


def birds(split="train"):
    return wk.load_dataset("synthetic", split, size=32, classes=3, per_class=6)


def network():
    return wk.build_model("resnet18", 3, weights="none", width=0.25, stride=8)


def test_the_loss_by_hand():
    generator = torch.Generator().manual_seed(3)
    features = torch.rand(3, 4, 2, 5, generator=generator)
    probability = torch.rand(3, 1, 2, 5, generator=generator)
    x, p = features.double().numpy(), probability.double().numpy()
    sides = {}
    for name, share in (("fg", p), ("bg", 1 - p)):
        means = [[(share[i, 0] * x[i, c]).sum() / 10 for c in range(4)] for i in range(3)]
        sides[name] = [np.array(v) / math.sqrt(sum(a * a for a in v)) for v in means]

    def cosine(a, b):
        return min(max(float(a @ b), LEAST), MOST)

    total = sum(-math.log(1 - cosine(f, b)) for f in sides["fg"] for b in sides["bg"]) / 9
    for side in sides.values():
        for i in range(3):
            others = sorted((j for j in range(3) if j != i), key=lambda j: -cosine(side[i], side[j]))
            total += math.exp(0.05) * -math.log(MOST) / 9  # with itself
            for rank, j in enumerate(others):
                total += math.exp(-0.05 * rank) * -math.log(cosine(side[i], side[j])) / 9
    assert float(contrast(features, probability)) == pytest.approx(total, rel=1e-5)


def test_the_most_similar_pair_counts_most():
    rows = torch.nn.functional.normalize(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.1, 0.9]]), dim=1)
    equal, ranked = float(attraction(rows, 0.0)), float(attraction(rows, 5.0))
    assert ranked < equal
    near = -math.log(float(rows[0] @ rows[1]))
    assert ranked == pytest.approx(
        (2 * near + 3 * math.exp(5) * -math.log(MOST) - math.log(float(rows[2] @ rows[1]))) / 9, rel=0.1
    )


@pytest.mark.parametrize("place", ["middle", "elsewhere"])
def test_a_planted_foreground_is_found_and_never_called_background(place, monkeypatch):
    """Channel 0 is active in one square, channel 1 everywhere else; nothing says which of the two is the object but
    that its squares touch the border less often."""
    generator = np.random.default_rng(5)
    kept, masks = generator.uniform(0, 0.05, (24, 3, 8, 8)).astype(np.float32), np.zeros((24, 8, 8), bool)
    for image in range(24):
        y, x = (2, 3) if place == "middle" else generator.integers(1, 5, 2)
        masks[image, y : y + 3, x : x + 3] = True
        kept[image, 0] += masks[image]
        kept[image, 1] += ~masks[image]
    model = wk.build_model("resnet18", 3, weights="none", width=0.05)
    model.head = torch.nn.Linear(3, 3)
    for seed in (0, 1, 2):
        C2AM().prepare(model)
        C2AM(epochs=40, lr=0.05, batch=8).fit(model, kept, seed)
        made = wk.score_maps(model, None, torch.zeros(24, dtype=torch.int64), "c2am", features=torch.from_numpy(kept))
        inside = torch.nn.functional.avg_pool2d(made, 4).numpy() > 0
        assert (inside == masks).mean() > 0.9
        border, middle = model.fitted.c2am_facts.tolist()
        assert border < middle


def test_the_same_seed_gives_the_same_head_and_a_checkpoint_holds_it(tmp_path):
    options = {"batch_size": 5, "frozen": True, "weight_decay": 0.1, "objective": C2AM(epochs=2, batch=4)}
    first, second, third = network(), network(), network()
    wk.fit(first, birds(), out=tmp_path, **options)
    torch.rand(7)
    wk.fit(second, birds(), **options)
    wk.fit(third, birds(), seed=1, **options)
    kernels = [model.fitted.c2am_kernel for model in (first, second, third)]
    assert torch.equal(kernels[0], kernels[1]) and not torch.equal(kernels[0], kernels[2])
    loaded, _ = wk.load_checkpoint(tmp_path / "best.pt")
    assert torch.equal(loaded.fitted.c2am_kernel, kernels[0])
    result = wk.evaluate(loaded, birds("test"), "c2am", val=None)
    assert result.threshold == 0.6 and np.isfinite(result.maps["test"].maps).all()
    with pytest.raises(MethodNotDefined, match="c2am uses what was fitted to training images"):
        wk.score_maps(wk.build_model("resnet18", 3, weights="none"), birds().images([0]), torch.tensor([0]), "c2am")


def test_one_position_and_a_head_that_diverges_are_refused():
    model = wk.build_model("resnet18", 3, weights="none", width=0.05)
    model.head = torch.nn.Linear(4, 3)
    C2AM().prepare(model)
    with pytest.raises(WsolkitError, match=r"these feature maps have one alone: .*frozen_stride"):
        C2AM(epochs=1, batch=2).fit(model, np.ones((3, 4, 1, 1), np.float32), 0)
    kept = np.random.default_rng(0).random((4, 4, 3, 3), np.float32)
    with pytest.raises(WsolkitError, match=r"diverged at lr=1e.38; choose a smaller lr"):
        C2AM(epochs=3, lr=1e38, batch=2).fit(model, kept, 0)


def test_one_training_image_is_enough_to_fit_and_dead_features_stay_finite():
    model = wk.build_model("resnet18", 3, weights="none", width=0.05)
    model.head = torch.nn.Linear(4, 3)
    for kept in (np.ones((1, 4, 3, 3), np.float32), np.zeros((5, 4, 3, 3), np.float32)):
        C2AM().prepare(model)
        C2AM(epochs=2).fit(model, kept, 0)
        assert model.fitted.c2am_kernel.isfinite().all() and model.fitted.c2am_facts.isfinite().all()

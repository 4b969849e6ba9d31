"""Recipes: the published values, learning rates by layer, schedules, parts of a batch, precision."""

from __future__ import annotations

import pytest
import torch

import wsolkit as wk
from wsolkit.runs.parameters import RunConfig
from wsolkit.runs.run import Run
from wsolkit.training.loop import add_gradients, load_optimiser, make_optimiser, set_rate, step_seed
from wsolkit.training.recipe import Objective, Recipe, recipe_source

pytestmark = pytest.mark.usefixtures("one_thread")


def recipe_of(**parameters):
    return Run(RunConfig.make(dataset="synthetic", weights="imagenet", per_class=2, **parameters)).recipe("gap")


def test_named_recipes_have_the_published_values():
    r = recipe_of(recipe="rethinking_cam", backbone="vgg16")
    assert (r.lr, r.momentum, r.nesterov, r.weight_decay) == (3e-3, 0.9, True, 5e-4)
    assert (r.backbone_grad_scale, r.lr_classifier_ratio, r.batch_size, r.epochs) == (0.1, 1.0, 40, 200)
    assert [r.rate(e) for e in (0, 59, 60, 120, 180)] == pytest.approx([3e-3, 3e-3, 3e-4, 3e-5, 3e-6])
    r = recipe_of(recipe="wsolevaluation", backbone="vgg16")
    assert (r.lr, r.weight_decay, r.batch_size, r.epochs) == (1.268e-5, 5e-4, 32, 50)
    assert (r.backbone_grad_scale, r.lr_classifier_ratio) == (1.0, 10.0)
    assert [r.rate(e) / r.lr for e in (0, 14, 15, 30, 49)] == pytest.approx([1, 1, 0.1, 0.01, 0.001])
    r = recipe_of(recipe="wsolevaluation", backbone="resnet50")
    assert (r.lr, r.weight_decay, r.lr_classifier_ratio) == (2.322e-4, 1e-4, 10.0)
    assert RunConfig.make(recipe="wsolevaluation", backbone="resnet50", weights="imagenet").stride == 8, "28x28"


def test_given_values_replace_those_of_a_recipe_and_names_do_not_count():
    r = recipe_of(recipe="wsolevaluation", backbone="resnet18", epochs=4, lr_steps="1,2", weight_decay=0.0)
    assert (r.epochs, r.lr_steps, r.lr_period, r.weight_decay, r.batch_size) == (4, (1, 2), 0, 0.0, 32)
    r = recipe_of(recipe="wsolevaluation", backbone="resnet18", lr_period=0)
    assert r.lr_period == 0 and r.rate(49) == r.lr, "no period, although the recipe has one"
    source = recipe_source(RunConfig.make(recipe="quick", epochs=3, weights="none"))
    assert source.endswith("replaced here: epochs") and "package" in source
    assert "replaced" not in recipe_source(RunConfig.make(recipe="rethinking_cam"))
    assert "from scratch" in recipe_source(RunConfig.make())
    with pytest.raises(ValueError, match="unknown recipe 'fast'; choose from rethinking_cam, wsolevaluation, quick"):
        RunConfig.make(recipe="fast")
    named = RunConfig.make(recipe="quick", weights="imagenet")
    values = {name: value for name, value in named.to_dict().items() if name in Recipe.model_fields}
    assert RunConfig.make(weights="imagenet", **values).training_key("gap") == named.training_key("gap")


def test_only_what_changes_numbers_makes_a_training_stale():
    key = RunConfig.make().training_key("gap")
    assert RunConfig.make(compile=True, checkpoint_seconds=5).training_key("gap") == key
    changes = (
        {"precision": "bf16"},
        {"accumulate": 2},
        {"label_smoothing": 0.1},
        {"lr_period": 3},
        {"recipe": "quick"},
    )
    for change in changes:
        assert RunConfig.make(**change).training_key("gap") != key, change


@pytest.mark.parametrize(
    "wrong",
    [{"accumulate": 0}, {"accumulate": 41}, {"precision": "fp16"}, {"label_smoothing": 1.0}, {"lr_gamma": 0},
     {"weight_decay": -0.1}, {"batch_size": 1}],
)  # fmt: skip
def test_impossible_values_are_named(wrong):
    with pytest.raises(ValueError, match=f"{next(iter(wrong))}.*{next(iter(wrong.values()))}"):
        Recipe(**wrong)
    with pytest.raises(ValueError, match="compile must be true or false, but is 'no'"):
        RunConfig.make(compile="no")


@pytest.mark.parametrize(
    "backbone,plain",
    [
        ("vgg16", lambda name: name.startswith("body.features.")),
        ("resnet50", lambda name: not name.startswith(("body.layer4.", "head."))),
        ("mobilenet_v2", lambda name: name.startswith("body.")),
    ],
)
def test_learning_rates_by_layer_are_those_of_wsolevaluation(backbone, plain):
    """One SGD step by hand, w - lr (g + wd w), with ten times the rate where wsolevaluation has its classifier."""
    model = wk.build_model(backbone, 3, weights="none", width=0.125)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = make_optimiser(model, Recipe(lr=1.0, momentum=0.0, weight_decay=0.01, lr_classifier_ratio=10.0))
    set_rate(optimiser, 0.1)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    optimiser.step()
    fast = 0
    for name, parameter in model.named_parameters():
        rate = 0.1 if plain(name) else 1.0
        fast += rate == 1.0
        torch.testing.assert_close(parameter, before[name] - rate * (0.5 + 0.01 * before[name]), msg=name)
    assert 0 < fast < len(before)
    again = make_optimiser(model, Recipe(lr=1.0, momentum=0.0, weight_decay=0.01, lr_classifier_ratio=10.0))
    load_optimiser(again, optimiser.state_dict())
    assert [group["lr"] for group in again.param_groups] == pytest.approx([0.1, 1.0])


def batch(n=7):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 3, 32, 32, generator=generator), torch.arange(n) % 3


def gradients(model, recipe, objective=None):
    model.zero_grad()
    images, labels = batch()
    sums = add_gradients(model.train(), images, labels, len(images), recipe, objective or Objective())
    return sums, {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("parts", [2, 3, 7])
def test_parts_of_a_batch_have_the_gradient_of_the_whole(parts):
    model = wk.build_model("vgg16", 3, weights="none", width=0.125)  # no batch normalisation
    whole_sums, whole = gradients(model, Recipe(label_smoothing=0.1))
    sums, cut = gradients(model, Recipe(label_smoothing=0.1, accumulate=parts))
    torch.testing.assert_close(sums, whole_sums)
    assert sums[2] == 7
    for name, gradient in whole.items():
        torch.testing.assert_close(cut[name], gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_no_image_is_no_gradient():
    """A last batch of fewer images than processes."""
    model = wk.build_model("resnet18", 3, weights="none", width=0.125).train()
    images, labels = batch(0)
    sums = add_gradients(model, images, labels, 2, Recipe(), Objective())
    assert sums.tolist() == [0, 0, 0] and all(float(p.grad.abs().sum()) == 0 for p in model.parameters())
    assert all(torch.isfinite(buffer).all() for buffer in model.buffers())


def test_label_smoothing_is_torchs_and_left_out_of_validation():
    images, labels = batch()
    model = wk.build_model("vgg16", 3, weights="none", width=0.125)
    sums, _ = gradients(model, Recipe(label_smoothing=0.2))
    logits = model(images).detach()
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.2)
    assert float(sums[0]) / 7 == pytest.approx(float(expected), rel=1e-6)
    log = torch.log_softmax(logits, 1)
    by_hand = -(0.8 * log[range(7), labels] + 0.2 * log.mean(1)).mean()
    assert float(expected) == pytest.approx(float(by_hand), rel=1e-5)


@pytest.mark.slow
def test_bf16_trains_float32_weights_to_nearly_the_same_numbers():
    histories = []
    for precision in ("float32", "bf16"):
        train = wk.load_dataset("synthetic", "train", size=32, classes=3, per_class=6)
        model = wk.build_model("vgg16", 3, weights="none", width=0.125, batch_norm=True)
        histories.append(wk.fit(model, train, train, epochs=2, batch_size=6, lr=0.01, precision=precision))
        assert all(p.dtype == torch.float32 for p in model.parameters())
    for a, b in zip(*histories, strict=True):
        assert a["train_loss"] == pytest.approx(b["train_loss"], rel=0.05) and a["train_loss"] != b["train_loss"]
        assert a["val_loss"] == pytest.approx(b["val_loss"], rel=0.05)


def test_compile_is_refused_where_hooks_would_be_lost():
    class Hooked(Objective):
        name, hooks = "hooked", True

        def attached(self, model):
            raise AssertionError("not reached")

    train = wk.load_dataset("synthetic", "train", size=32, classes=3, per_class=2)
    model = wk.build_model("vgg16", 3, weights="none", width=0.125)
    with pytest.raises(ValueError, match="'hooked' attaches hooks"):
        wk.fit(model, train, epochs=1, objective=Hooked(), compile=True)


def test_every_step_has_a_seed_of_its_own():
    seeds = {step_seed(s, e, r, k) for s in range(3) for e in range(3) for r in range(3) for k in range(4)}
    assert len(seeds) == 108, "step 0 is the beginning of an epoch, before the first step"
    assert step_seed(1, 2, 0) == step_seed(1, 2, 0, 0)

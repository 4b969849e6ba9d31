"""DDT against a principal component analysis of stacked descriptors; its sign, dead classes, sizes and checkpoints."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import interpolate

import wsolkit as wk
from wsolkit.boxes.extract import extract_box
from wsolkit.common.errors import WsolkitError
from wsolkit.methods import ddt
from wsolkit.methods.registry import MethodNotDefined, variant
from wsolkit.networks.models import rebuild
from wsolkit.runs.parameters import RunConfig
from wsolkit.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("one_thread")


def birds(split="train", size=32, per_class=6):
    return wk.load_dataset("synthetic", split, size=size, classes=3, per_class=per_class)


def network(seed=0):
    return wk.build_model("resnet18", 3, weights="none", width=0.25, stride=8, seed=seed)


def fitted(train=None, model=None, **options):
    model = model or network()
    options = {"batch_size": 5, "frozen": True, "weight_decay": 0.1} | options
    wk.fit(model, train or birds(), objective=ddt.DDT(), **options)
    return model


def descriptors(model, train):
    with torch.no_grad():
        maps = model.body(train.images(range(len(train)))).double().numpy()
    ring = np.ones(maps.shape[2:], bool)
    ring[1:-1, 1:-1] = False
    return maps, ring


def test_equals_a_principal_component_analysis_of_all_descriptors():
    train = birds()
    model = fitted(train)
    maps, ring = descriptors(model, train)
    for row in range(4):  # three classes, and all of them
        chosen = maps if row == 3 else maps[train.labels == row]
        stacked = chosen.transpose(0, 2, 3, 1).reshape(-1, maps.shape[1])
        mean = stacked.mean(0)
        _, strengths, directions = np.linalg.svd(stacked - mean, full_matrices=False)
        values = np.einsum("c,nchw->nhw", directions[0], chosen - mean[:, None, None])
        values *= -1 if values[:, ring].mean() > 0 else 1
        np.testing.assert_allclose(model.fitted.ddt_mean[row], mean, rtol=1e-4, atol=1e-5)
        made = model.fitted.ddt_direction[row].double().numpy()
        np.testing.assert_allclose(
            np.einsum("c,nchw->nhw", made, chosen - mean[:, None, None]), values, atol=1e-3 * abs(values).max()
        )
        facts = {name: numbers[row] for name, numbers in ddt.facts(model).items()}
        spread = values.std()
        between = (
            ring.mean() * values[:, ring].mean() ** 2 + (~ring).mean() * values[:, ~ring].mean() ** 2
        ) / spread**2
        expected = {"explained": strengths[0] ** 2 / (strengths**2).sum(), "ring": between}
        expected |= {"border": values[:, ring].mean() / spread, "middle": values[:, 1:3, 1:3].mean() / spread}
        assert facts == pytest.approx(expected, rel=1e-3, abs=1e-4)

    images, labels = train.images(np.unique(train.labels, return_index=True)[1]), torch.tensor([0, 1, 2])
    for option, rows in (({}, [0, 1, 2]), ({"per_class": False}, [3, 3, 3])):
        made = wk.score_maps(model, images, labels, "ddt", **option)
        mean, direction = model.fitted.ddt_mean[rows], model.fitted.ddt_direction[rows]
        plain = torch.einsum("bc,bchw->bhw", direction, model.body(images.clone()) - mean[:, :, None, None])
        larger = interpolate(plain[:, None], scale_factor=4, mode="bilinear", align_corners=False)[:, 0].detach()
        assert made.shape == larger.shape == (3, 16, 16)
        seen = larger.amax((1, 2)) > 0
        assert (
            ((made > 0) == (larger > 0))[seen].all() and seen.any() and made[~seen].gt(0).sum() == 255 * (~seen).sum()
        )
        assert made.amax((1, 2)).tolist() == [1, 1, 1] and made.amin((1, 2)).tolist() == [-1, -1, -1]


def test_batches_and_order_do_not_matter():
    train = birds()
    first, second = fitted(train), fitted(train.subset(list(range(len(train)))[::-1]), batch_size=18)
    assert not torch.equal(first.fitted.ddt_direction, torch.zeros_like(first.fitted.ddt_direction))
    torch.testing.assert_close(first.fitted.ddt_direction, second.fitted.ddt_direction, atol=2e-3, rtol=0)


def test_sums_need_the_same_memory_for_any_number_of_images():
    sums, generator = ddt.Descriptors(12), np.random.default_rng(0)
    held = []
    for _ in range(30):
        sums.add(generator.normal(size=(4, 12, 5, 5)))
        held.append(sum(np.asarray(value).nbytes for value in vars(sums).values()))
    assert len(set(held)) == 1 and sums.count == 30 * 4 * 25


def test_a_class_without_images_has_the_component_of_all_and_one_image_is_enough():
    train = birds()
    first = np.flatnonzero(train.labels == 0)
    model = fitted(train.subset([*first, np.flatnonzero(train.labels == 1)[0]]))
    direction = model.fitted.ddt_direction
    assert torch.equal(direction[2], direction[3]) and not torch.equal(direction[1], direction[3])
    assert direction.norm(dim=1).tolist() == pytest.approx([1, 1, 1, 1], abs=1e-5)


def test_where_nothing_varies_or_nothing_is_positive_the_box_is_the_whole_image():
    model = network()
    nn.init.zeros_(model.body.layer4[-1].bn2.weight)
    nn.init.zeros_(model.body.layer4[-1].downsample[1].weight) if model.body.layer4[-1].downsample else None
    for module in model.body.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.zeros_(module.weight)
            nn.init.ones_(module.bias)
    fitted(model=model)
    made = wk.score_maps(model, birds().images([0]), torch.tensor([0]), "ddt")
    assert extract_box(made[0], 0.5, size=32).tolist() == [0, 0, 31, 31]
    assert not model.fitted.ddt_facts.any()
    every = ddt.around_zero(torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[-1.0, -2.0], [-3.0, -4.0]]]).repeat(1, 4, 4))
    for score_map in every:
        assert extract_box(score_map, 0.5, size=None).tolist() == [0, 0, 7, 7]


def test_a_component_that_follows_the_border_is_warned_of():
    ringed = np.zeros((2, 3, 6, 6))
    ringed[:, 0] = 1.0
    ringed[:, 0, 1:-1, 1:-1] = 0.0
    ringed += np.random.default_rng(0).normal(scale=0.1, size=ringed.shape)
    sums = ddt.Descriptors(3)
    sums.add(ringed)
    mean, direction, facts = sums.component()
    assert direction[0] < -0.9 and facts["border"] < 0 < facts["middle"] and facts["ring"] > 0.9
    model = wk.build_model("resnet18", 2, weights="none", width=0.05)
    model.keep(ddt_mean=torch.zeros(3, 3), ddt_direction=torch.zeros(3, 3), ddt_facts=torch.zeros(3, 4))
    for row, ring in enumerate((0.2, facts["ring"], facts["ring"])):
        ddt.keep(model, row, (mean, direction, facts | {"ring": ring}))
    assert "class 1 follows the border" in ddt.followers(model) and "9" in ddt.followers(model).split(" % of")[0][-2:]


def test_a_network_that_was_not_fitted_is_refused():
    images, labels = birds().images([0]), torch.tensor([0])
    with pytest.raises(MethodNotDefined, match=r"does not hold; take the .*Run.model\('ddt'\).*methods.ddt.DDT\(\)"):
        wk.score_maps(network(), images, labels, "ddt")
    with pytest.raises(
        MethodNotDefined, match=r"cut at layer 'body.layer3', does not hold; take, without a layer, the"
    ):
        wk.score_maps(fitted(), images, labels, "ddt", layer="layer3")
    with pytest.raises(WsolkitError, match="'ddt' is fitted on a frozen body: give frozen=True"):
        wk.fit(network(), birds(), objective=ddt.DDT())


@pytest.mark.parametrize("name", ["ddt", "psol", "c2am"])
def test_a_fit_that_did_not_end_leaves_nothing_that_could_be_used(name, monkeypatch):
    model, train = fitted(), birds()
    objective = variant(name).objective()
    monkeypatch.setattr(type(objective), "observing", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        wk.fit(model, train, objective=objective, frozen=True)
    localise = wk.predict_boxes if name == "psol" else wk.score_maps
    with pytest.raises(MethodNotDefined, match=f"{name} uses what was fitted to training images"):
        localise(model, train.images([0]), torch.tensor([0]), name)


def test_checkpoints_hold_what_was_fitted(tmp_path):
    train, val = birds(), birds("val")
    model = fitted(train, out=tmp_path)
    loaded, content = wk.load_checkpoint(tmp_path / "best.pt")
    assert torch.equal(loaded.fitted.ddt_direction, model.fitted.ddt_direction) and content["geometry"]["size"] == 32
    (tmp_path / "best.pt").unlink()  # killed after last.pt, before best.pt
    again = fitted(train, out=tmp_path)
    for name, value in wk.load_checkpoint(tmp_path / "best.pt")[0].state_dict().items():
        assert torch.equal(value, model.state_dict()[name]) and torch.equal(value, again.state_dict()[name])
    assert wk.evaluate(loaded, birds("test"), "ddt", val=val).operating_points["fixed"]["threshold"] == 0.5


def test_pretrained_bodies_see_large_images_and_others_what_they_were_trained_on():
    own = variant("ddt")
    config = RunConfig.make(dataset="cub", backbone="mobilenet_v2", weights="imagenet")
    assert own.view_of(config) == {"size": 448, "stride": 32} and variant("gap").view_of(config)["size"] == 224
    assert own.view_of(config.with_changes(frozen_size=320, frozen_stride=16)) == {"size": 320, "stride": 16}
    assert own.view_of(config.with_changes(size=512))["size"] == 512
    scratch = RunConfig.make(dataset="synthetic", backbone="resnet18")
    assert own.view_of(scratch) == {"size": 64, "stride": scratch.stride} and own.starts_from(scratch) == "gap"
    assert config.training_key("ddt") != config.with_changes(frozen_size=320).training_key("ddt")
    assert config.training_key("gap") == config.with_changes(frozen_size=320).training_key("gap")
    with pytest.raises(WsolkitError, match="mobilenet_v2 has no frozen_stride 8; choose from 16, 32"):
        config.with_changes(frozen_stride=8)


def test_a_linear_probe_that_the_run_asks_for_is_fitted_as_it_says():
    def decay(**asked):
        config = RunConfig.make(weights="imagenet", **asked)
        return [variant(name).recipe(Recipe.of(config, 640), config).weight_decay for name in ("ddt", "psol", "c2am")]

    assert decay() == decay(weight_decay=0.1) == decay(recipe="frozen") == [5e-3] * 3
    assert decay(recipe="frozen", weight_decay=0.1) == [0.1] * 3, "as the head of plain CAM beside it"


def test_maps_of_another_size_are_scored_in_the_frame_of_the_data():
    model, test = fitted(birds()), birds("test")
    larger = wk.evaluate(model, test, "ddt", val=None, view=64)
    assert larger.frame == [32, 32] and larger.conditions["input"].startswith("64 x 64")
    by_hand = wk.localise(model, test.at(64), "ddt", indices=test.spread(None, 0))
    assert np.array_equal(larger.maps["test"].maps, by_hand.maps) and by_hand.maps.shape[1:] == (32, 32)


def test_a_bare_vgg_has_no_convolution_without_pretrained_weights():
    bare = wk.build_model("vgg16", 3, weights="none", width=0.1, bare=True)
    assert not hasattr(bare.body, "added") and bare.head.in_features == 51
    again = rebuild(**bare.spec)
    again.load_state_dict(bare.state_dict())

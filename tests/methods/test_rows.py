"""Rows: a method with smoothing and options of its own, from its spelling to its maps, boxes and numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import wsolkit as wk
from wsolkit.methods.registry import METHODS, declared, is_defined, register, resolve

LABELS = torch.tensor([0, 2, 1])


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return wk.build_model("resnet18", 4, "gap", weights="none", stride=8, width=0.125).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def seen(net):
    """The images that the body saw, pass by pass."""
    passes = []
    handle = net.body.layer4.register_forward_hook(lambda _module, _inputs, output: passes.append(len(output)))
    yield passes
    handle.remove()


@pytest.mark.parametrize(
    "spelled,name,slug,label",
    [
        ("GradCAM[ aug, eigen ]", "grad_cam[eigen+aug]", "grad_cam_eigen_aug", "Grad-CAM, eigen + aug"),
        ("grad_cam_plusplus[aug]", "grad_cam++[aug]", "grad_cam_plusplus_aug", "Grad-CAM++, aug"),
        ("rethinking_cam[nwc=False]", "rethinking_cam[nwc=no]", "rethinking_cam_nwc_no", "RethinkingCAM, nwc=no"),
        ("score_cam[channels=064]", "score_cam[channels=64]", "score_cam_channels_64", "Score-CAM, channels=64"),
        ("fem[k=2.50]", "fem[k=2.5]", "fem_k_2.5", "fem, k=2.5"),
        ("kpca_cam[kernel=rbf+gamma=1e20]", "kpca_cam[gamma=1e20+kernel=rbf]", "kpca_cam_gamma_1e20_kernel_rbf", None),
        ("affinity_cam[steps=3,power=4]", "affinity_cam[power=4+steps=3]", "affinity_cam_power_4_steps_3", None),
        ("layer_cam[layer=layer3]", "layer_cam[layer=layer3]", "layer_cam_layer_layer3", "LayerCAM, layer=layer3"),
        ("HaS[aug]", "has[aug]", "has_aug", "HaS, aug"),
    ],
)
def test_one_spelling_of_each_row(spelled, name, slug, label):
    row = resolve(spelled)
    assert (row.name, row.slug, row.label) == (name, slug, label or row.label)
    assert resolve(name) == declared(spelled) == row and row.function is METHODS[row.base].function


def test_values_have_the_kind_that_the_function_declares():
    assert resolve("rethinking_cam[nwc=no]").settings == {"nwc": False}
    row = resolve("affinity_cam[power=3+steps=3]")
    assert row.settings == {"power": 3.0, "steps": 3} and type(row.settings["power"]) is float
    assert resolve("kpca_cam[gamma=none]").settings == {"gamma": None}
    assert resolve("cam[aug]").row("eigen").name == "cam[eigen+aug]" and resolve("has[aug]").map == "cam[aug]"
    assert METHODS["cam"].row() is METHODS["cam"] and not METHODS["cam"].smooth


def test_options_without_a_kind_are_numbers_or_text():
    try:

        @register("kindless_cam", needs="features", description="for a test")
        def kindless(context, keep=None, **more):
            return context.features.mean(dim=1)

        assert resolve("kindless_cam[keep=3+a=2.5+b=x]").settings == {"a": 2.5, "b": "x", "keep": 3}
        with pytest.raises(ValueError, match=r"'x\[aug\]': brackets are for smoothing and options"):
            register("x[aug]", needs="features", description="")
    finally:
        METHODS.pop("kindless_cam", None)


@pytest.mark.parametrize(
    "spelled,message",
    [
        ("grad_cam[eigen", "expected NAME[eigen+aug+option=value], in quotes in a shell"),
        ("grad_cam[aug]s", "expected NAME[eigen+aug+option=value], in quotes in a shell"),
        ("grad_cam[]", "grad_cam[]: '' is no smoothing; expected eigen, aug or option=value (options: ivr, layer)"),
        ("grad_cam[eigen++aug]", "'' is no smoothing"),
        (
            "score_cam[blur]",
            "'blur' is no smoothing; expected eigen, aug or option=value (options: channels, clusters, ivr, layer)",
        ),
        ("grad_cam[eigen+aug+eigen]", "grad_cam[eigen+aug+eigen] says 'eigen' twice; say it once"),
        ("score_cam[channels=4,channels=8]", "says 'channels' twice"),
        ("grad_cam[nwc=no]", "grad_cam has no option 'nwc'; its options are: ivr, layer"),
        ("cam[smooth=eigen]", "cam has no option 'smooth'"),
        ("rethinking_cam[nwc=perhaps]", "nwc must be yes or no, but is 'perhaps'"),
        ("score_cam[channels=0]", "channels must be a whole number of at least 1 or none, but is '0'"),
        ("affinity_cam[steps=2.5]", "steps must be a whole number of at least 1 and at most 1000, but is '2.5'"),
        ("affinity_cam[power=nan]", "power must be a number of at least 0 and at most 1000, but is 'nan'"),
        ("affinity_cam[power=1e9]", "power must be a number of at least 0 and at most 1000, but is '1e9'"),
        ("finer_cam[comparisons=0]", "comparisons must be a whole number of at least 1, but is '0'"),
        ("finer_cam[alpha=-1]", "alpha must be a number of at least 0 and at most 1000, but is '-1'"),
        ("acol[delta=2]", "delta must be a number greater than 0 and at most 1 or none, but is '2'"),
        ("bagcams[score=log]", "score must be logit or log_softmax, but is 'log'"),
        ("kpca_cam[kernel=soft]", "kernel must be linear or poly or rbf or sigmoid or cosine, but is 'soft'"),
        ("layer_cam[layer=]", "layer is empty"),
        ("affinity_cam[eigen]", "is not offered for 'affinity_cam'"),
        ("magic_cam[aug]", "unknown method 'magic_cam'; the names are: cam, "),
    ],
)
def test_mistakes_are_one_clear_error(spelled, message):
    with pytest.raises(wk.methods.registry.WsolkitError, match=re.escape(message)) as caught:
        resolve(spelled)
    assert "\n" not in str(caught.value)
    assert re.fullmatch(r"[\w.-]+", declared(spelled).slug), "a plan and a page of another version go on"


def test_slugs_are_safe_and_no_two_are_equal():
    places = ("a.b", "a_b", "a/b", "A.b", "a b", "..", "x" * 300, "x" * 301, "layer3", "Layer3")
    rows = [declared(f"layer_cam[layer={place}]") for place in places]
    rows += [declared(name) for name in ("layer_cam[aug]", "layer_cam[eigen]", "layer_cam[eigen+aug]", "layer_cam")]
    rows += [declared("layer_cam[old_option=3]"), declared("layer_cam[../..]")]
    slugs = [row.slug for row in rows]
    assert len({slug.lower() for slug in slugs}) == len(rows)
    assert all(re.fullmatch(r"layer_cam[\w.-]{0,70}", slug) for slug in slugs)
    try:
        register("layer_cam_aug", needs="features", description="for a test")(lambda context: context.features.mean(1))
        assert declared("layer_cam[aug]").slug != "layer_cam_aug"
    finally:
        METHODS.pop("layer_cam_aug", None)


def test_rows_are_the_maps_of_smoothing_and_options(net, images):
    def maps(name, **more):
        return wk.score_maps(net, images, LABELS, name, **more)

    assert torch.equal(maps("grad_cam[eigen+aug]"), maps("grad_cam", smooth=("aug", "eigen")))
    assert torch.equal(maps("grad_cam[eigen]", smooth="aug"), maps("grad_cam[aug+eigen]"))
    assert torch.equal(maps("rethinking_cam[nwc=no]"), maps("cam"))
    assert torch.equal(maps("rethinking_cam[nwc=no]", nwc=True), maps("rethinking_cam")), "what is given counts"
    assert torch.equal(maps("score_cam[channels=2]"), maps("score_cam", channels=2))
    assert not torch.equal(maps("grad_cam[eigen]"), maps("grad_cam"))


def test_a_list_mixes_rows_and_shares_the_passes(net, images, seen):
    names = ["grad_cam++[eigen+aug]", "cam", "grad_cam[eigen]", "cam[aug]", "rethinking_cam[nwc=no]"]
    together = wk.score_maps(net, images, LABELS, names)
    assert list(together) == names and seen == [3, 15], "the images, then the five other copies of each"
    for name, made in together.items():
        alone = wk.score_maps(net, images, LABELS, name, features=wk.feature_map(net, images))
        assert torch.allclose(made, alone, atol=1e-6 * float(alone.abs().max())), name
    with pytest.raises(ValueError, match="has the option 'power'"):
        wk.score_maps(net, images, LABELS, names, power=2)


def test_the_copies_count_among_the_seconds(net, images, seen):
    features, seconds = wk.feature_map(net, images), {}
    seen.clear()
    wk.score_maps(
        net, images, LABELS, ["cam", "cam[aug]"], features=features, seconds=seconds, clock=lambda: float(sum(seen))
    )
    assert seconds == {"cam": 0.0, "cam[aug]": 15.0}


def test_rows_at_a_layer_of_their_own(net, images, seen):
    names = ["layer_cam[layer=layer2]", "cam", "layer_cam", "grad_cam[aug+layer=layer2]", "score_cam[channels=2]"]
    together = wk.score_maps(net, images, LABELS, names)
    finer = wk.score_maps(net, images, LABELS, "layer_cam", layer="body.layer2")
    assert torch.equal(together["layer_cam[layer=layer2]"], finer)
    assert torch.equal(together["layer_cam"], wk.score_maps(net, images, LABELS, "layer_cam"))
    some = wk.score_maps(net, images, LABELS, ["cam", "score_cam", "layer_cam[layer=layer2]"], channels=2)
    assert torch.equal(some["score_cam"], together["score_cam[channels=2]"])
    given = wk.score_maps(net, images, LABELS, names, features=wk.feature_map(net, images))
    assert torch.equal(given["layer_cam[layer=layer2]"], finer), "features are those of the last layer"
    with pytest.raises(wk.CannotSplit, match="has no layer 'layer9'"):
        wk.score_maps(net, images, LABELS, "layer_cam[layer=layer9]")
    with pytest.raises(wk.MethodNotDefined, match="cam"):
        wk.score_maps(net, images, LABELS, "cam[layer=layer2]")
    cut = wk.network_for(net, "layer2")
    assert wk.network_for(cut, "body.layer2") is cut and not is_defined("cam[aug]", cut)[0]


@pytest.fixture(scope="module")
def birds():
    return wk.load_dataset("synthetic", "test", size=64, classes=4, per_class=4)


def test_a_split_is_localised_and_scored_by_rows(net, birds):
    names = ["grad_cam[eigen+aug]", "layer_cam[layer=layer2]", "grad_cam"]
    found = wk.localise(net, birds, names, batch_size=5)
    assert list(found) == names
    for name, (method, smooth, more) in zip(
        names,
        (("grad_cam", ("eigen", "aug"), {}), ("layer_cam", (), {"layer": "layer2"}), ("grad_cam", (), {})),
        strict=True,
    ):
        alone = wk.localise(net, birds, method, smooth, batch_size=5, **more)
        assert np.array_equal(found[name].maps, alone.maps) and np.array_equal(found[name].logits, alone.logits)
        result = wk.evaluate(net, birds, name, val=None)
        same = wk.evaluate(net, birds, method, val=None, smooth=smooth, **more)
        assert result.method == name and np.array_equal(result.ious, same.ious) and result.pxap == same.pxap
        assert result.conditions == same.conditions
    with pytest.raises(ValueError, match="has the option 'power'"):
        wk.localise(net, birds, names, power=2)
    assert wk.localise(net, birds, ["score_cam", "layer_cam[layer=layer2]"], channels=2, indices=[0])
    assert "layer layer2" in wk.evaluate(net, birds, "layer_cam[layer=layer2]", val=None).conditions["score map"]


def test_predict_takes_rows(net, birds):
    photos = list(birds.pixels([0, 1], 64))
    view = {"geometry": wk.Geometry(64), "batch_size": 1}
    for name, method, more in (
        ("grad_cam[aug]", "grad_cam", {"smooth": ("aug",)}),
        ("layer_cam[layer=layer2]", "layer_cam", {"layer": "layer2"}),
    ):
        for row, same in zip(
            wk.predict(net, photos, name, **view), wk.predict(net, photos, method, **view, **more), strict=True
        ):
            assert np.array_equal(row.score_map, same.score_map) and np.array_equal(row.box, same.box)

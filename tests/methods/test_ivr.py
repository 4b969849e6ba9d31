"""IVR by hand, as a row of any method, and with a share that validation boxes choose."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import wsolkit as wk
from wsolkit.boxes.preparation import remove_inferior
from wsolkit.common.errors import WsolkitError
from wsolkit.localisation.localise import ScoreMaps
from wsolkit.methods.registry import declared, resolve

LABELS = torch.tensor([0, 2, 1])


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return wk.build_model("resnet18", 4, "gap", weights="none", stride=8, width=0.125).eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def test_by_hand():
    score_map = np.array([[-2.0, 0.0, 1.0], [2.0, 6.0, 1.0]])  # sorted -2 0 1 1 2 6: the quantile at 0.5 is 1
    expected = {0.5: [[0, 0, 0], [0.2, 1, 0]], 0.2: [[0, 0, 1 / 6], [2 / 6, 1, 1 / 6]], 0.9: [[0, 0, 0], [0, 1, 0]]}
    for share, wanted in expected.items():
        np.testing.assert_allclose(remove_inferior([score_map], share)[0], wanted, atol=1e-7)
    made = remove_inferior(np.stack([score_map, score_map.T.reshape(2, 3)]), 0.5)
    assert made.dtype == np.float32 and made.shape == (2, 2, 3) and made[1].max() == 1


def test_ties_constant_maps_and_what_is_not_finite():
    ties = np.array([[0.0, 1.0], [1.0, 1.0]])
    assert remove_inferior([ties], 0.2)[0].tolist() == [[0, 1], [1, 1]], "a quantile of 0.6 between 0 and 1"
    assert not remove_inferior([ties], 0.5).any(), "half of the values lie below the maximum, or are it"
    for same in (np.full((2, 3), 7.3), np.zeros((2, 3)), np.array([[np.nan, 1.0]]), np.array([[-np.inf, 1.0]])):
        assert not remove_inferior([same], 0.45).any()
    assert remove_inferior(np.zeros((0, 3, 4)), 0.45).shape == (0, 3, 4)


def test_with_share_0_it_is_the_min_max():
    maps = np.random.default_rng(0).normal(size=(5, 7, 6))
    for own, made in zip(maps, remove_inferior(maps, 0), strict=True):
        assert np.array_equal(made, wk.normalise_map(own).astype(np.float32))


@pytest.mark.parametrize("share", [0.3, 0.45])
def test_it_may_follow_any_scaling(share):
    maps = np.random.default_rng(1).normal(size=(4, 9, 9))
    made = remove_inferior(maps, share)
    np.testing.assert_allclose(remove_inferior(100 * maps - 40, share), made, atol=1e-6)
    np.testing.assert_allclose(remove_inferior([wk.normalise_map(own) for own in maps], share), made, atol=1e-6)
    assert np.allclose((made == 0).mean(axis=(1, 2)), share, atol=1 / 81)


@pytest.mark.parametrize("share", [1, 1.0, -0.1, "much", None, True, float("nan")])
def test_shares_out_of_range(net, images, share):
    with pytest.raises(WsolkitError, match=re.escape(f"ivr={share!r}: give the share of a map's values")):
        remove_inferior([np.eye(3)], share)
    if share is not None:
        with pytest.raises(WsolkitError, match=re.escape(f"ivr={share!r}")):
            wk.score_maps(net, images, LABELS, ivr=share)


def test_rows_have_one_spelling():
    row = resolve("GradCAM[ivr=0.450+aug]")
    assert (row.name, row.slug, row.settings) == ("grad_cam[aug+ivr=0.45]", "grad_cam_aug_ivr_0.45", {"ivr": 0.45})
    assert resolve("cam[ivr=val]") == declared("cam[ivr=val]") and resolve("cam[ivr=val]").slug == "cam_ivr_val"
    assert resolve("has[ivr=0]").map == "cam[ivr=0]" and resolve("cam[ivr=val+aug]").without("ivr").name == "cam[aug]"


@pytest.mark.parametrize(
    "spelled,message",
    [
        ("cam[ivr=1]", "cam[ivr=1]: ivr must be a share of at least 0 and below 1, or val, but is '1'"),
        ("cam[ivr=-0.2]", "ivr must be a share of at least 0 and below 1, or val, but is '-0.2'"),
        ("cam[ivr=nan]", "but is 'nan'"),
        ("cam[ivr=best]", "but is 'best'"),
        ("cam[ivr=]", "ivr must be a share"),
        ("cam[ivr]", "'ivr' is no smoothing; expected eigen, aug or option=value (options: ivr, layer)"),
        ("cam[ivr=0.2+ivr=0.3]", "says 'ivr' twice"),
        ("psol[ivr=0.45]", "psol gives boxes and no map: leave out ivr"),
        ("psol[ivr=val]", "psol gives boxes and no map: leave out ivr"),
    ],
)
def test_mistakes_are_one_clear_error(spelled, message):
    with pytest.raises(WsolkitError, match=re.escape(message)):
        resolve(spelled)


def test_a_row_is_ivr_of_the_finished_map(net, images):
    names = ["cam", "grad_cam[eigen+aug]", "layer_cam[layer=layer2]", "score_cam[channels=2]"]
    shares = (0.3, 0.45, 0.6, 0)
    rows = [resolve(name).row((), {"ivr": share}).name for name, share in zip(names, shares, strict=True)]
    plain = wk.score_maps(net, images, LABELS, names)
    made = wk.score_maps(net, images, LABELS, [*rows, "cam[ivr=val]", "cam"])
    for name, row, share in zip(names, rows, shares, strict=True):
        assert np.array_equal(made[row].numpy(), remove_inferior(plain[name], share)), row
    assert torch.equal(made["cam"], plain["cam"])
    assert np.array_equal(made["cam[ivr=val]"].numpy(), remove_inferior(plain["cam"], 0.45)), "nothing chooses it here"
    given = wk.score_maps(net, images, LABELS, [*names, rows[0]], ivr=0.2)
    for name in names:
        assert np.array_equal(given[name].numpy(), remove_inferior(plain[name], 0.2)), name
    assert torch.equal(given[rows[0]], given["cam"]), "what is given counts"
    with pytest.raises(WsolkitError, match="psol gives boxes and no map: leave out ivr"):
        wk.predict_boxes(net, images, LABELS, ivr=0.2)


def test_localise_and_predict_take_it(net):
    birds = wk.load_dataset("synthetic", "test", size=64, classes=4, per_class=1)
    rows = ["grad_cam[ivr=0.45]", "layer_cam[ivr=0.3+layer=layer2]"]
    made, plain = wk.localise(net, birds, rows), wk.localise(net, birds, ["grad_cam", "layer_cam[layer=layer2]"])
    for row, name, share in zip(rows, plain, (0.45, 0.3), strict=True):
        assert np.array_equal(made[row].maps, remove_inferior(plain[name].maps, share))
    given = wk.localise(net, birds, list(plain), ivr=0.6)
    assert all(np.array_equal(given[name].maps, remove_inferior(plain[name].maps, 0.6)) for name in plain)
    photos, view = list(birds.pixels([0, 1], 64)), {"geometry": wk.Geometry(64)}
    for one, other in zip(
        wk.predict(net, photos, rows[0], **view), wk.predict(net, photos, "grad_cam", ivr=0.45, **view), strict=True
    ):
        assert np.array_equal(one.score_map, other.score_map) and np.array_equal(one.box, other.box)
        assert (one.score_map == 0).mean() >= 0.4


OBJECT = (slice(3, 13), slice(3, 13))  # of a map of 16 x 16, 39 % of it
BOX = (24, 24, 103, 103)  # the same in an image, drawn at 128 x 128 pixels


def hazy(count, places):
    """Maps of an object with one bright spot. Every second one lies on a haze (but for a dark border of 12 %) that is
    brighter than the object of the others: by the min-max no threshold finds both."""
    maps = np.zeros((count, 16, 16), np.float32)
    for number, own in enumerate(maps):
        own[2:] = number % 2 * 0.6
        own[places] = 0.8 if number % 2 else 0.4
        own[7, 7] = 1.0
    return maps


@pytest.fixture(scope="module")
def splits():
    opened = {}
    for split in ("val", "test"):
        data = wk.load_dataset("synthetic", split, size=64, classes=4, per_class=2)
        opened[split] = data.subset(range(len(data)))
        opened[split].samples = [type(s)(s.id, s.label, (BOX,), s.path) for s in data.samples]
    return opened


def evaluated(net, splits, method, places=OBJECT, asked=None, **options):
    def localiser(_model, dataset, name, smooth, indices, **more):
        if asked is not None:
            asked.append((dataset.split, name, smooth, more))
        here = OBJECT if dataset.split == "val" else places
        ids, labels = [dataset.samples[i].id for i in indices], dataset.labels[indices]
        return ScoreMaps(ids, labels, np.eye(4, dtype=np.float32)[labels], hazy(len(ids), here))

    options = {"val": splits["val"]} | options
    return wk.evaluate(net, splits["test"], method, localiser=localiser, **options)


def test_the_share_is_chosen_on_validation_boxes_with_the_threshold(net, splits):
    plain = evaluated(net, splits, "cam")
    assert plain.extra["val_gt_known_loc"] == 50 and "normalisation" not in plain.conditions
    asked = []
    result = evaluated(net, splits, "cam[aug+ivr=val]", asked=asked)
    assert asked == [("test", "cam[aug]", (), {}), ("val", "cam[aug]", (), {})], "maps that other reports have too"
    count = len(splits["val"])
    assert result.conditions["normalisation"] == f"IVR, share 0.3 chosen on {count} validation images"
    assert result.extra["ivr"] == 0.3, "0.15 to 0.6 find all: the middle"
    assert result.extra["val_gt_known_loc"] == result.gt_known_loc == 100 and result.method == "cam[aug+ivr=val]"
    assert np.array_equal(result.maps["test"].maps, remove_inferior(hazy(len(splits["test"]), OBJECT), 0.3))
    same = evaluated(net, splits, "cam", ivr=0.3)
    assert same.threshold == result.threshold and same.conditions["normalisation"] == "IVR, share 0.3 given"


def test_test_images_choose_nothing(net, splits):
    result = evaluated(net, splits, "cam", places=(slice(0, 4), slice(0, 4)), ivr="val")
    assert result.extra["ivr"] == 0.3 and result.gt_known_loc < 50
    kept = evaluated(net, splits, "cam[ivr=val]")
    assert result.threshold == kept.threshold


def test_without_validation_boxes_the_share_is_the_papers_and_that_is_said(net, splits):
    result = evaluated(net, splits, "cam[ivr=val]", val=None)
    assert result.conditions["normalisation"] == "IVR, share 0.45 fixed, as no validation boxes choose it"
    assert "normalisation: IVR, share 0.45 fixed" in result.protocol_line() and result.operating_point == "fixed"
    assert np.array_equal(result.maps["test"].maps, remove_inferior(hazy(len(splits["test"]), OBJECT), 0.45))


def test_pseudo_boxes_choose_the_share_where_there_are_no_true_ones(net, splits):
    val = splits["val"]
    bare = val.subset(range(len(val)))
    bare.samples = [type(s)(s.id, s.label, (), s.path) for s in val.samples]
    truths = [val.target(index).boxes.numpy() for index in range(len(val))]
    true, result = (
        evaluated(net, splits, "cam[ivr=val]"),
        evaluated(net, splits, "cam[ivr=val]", val=bare, pseudo=truths),
    )
    said = f"IVR, share 0.3 chosen on pseudo boxes of {len(val)} validation images"
    assert result.conditions["normalisation"] == said and result.operating_point == "pseudo_boxes"
    assert (result.threshold, result.gt_known_loc) == (true.threshold, true.gt_known_loc)
    both = evaluated(net, splits, "cam[ivr=val]", pseudo=truths)
    assert both.to_dict() == true.to_dict(), "true boxes chose the share, so that no point is left without them"
    assert evaluated(net, splits, "cam[ivr=0.3]", pseudo=truths).operating_points["pseudo_boxes"] is not None


def test_evaluate_refuses_before_the_work(net, splits):
    asked = []
    with pytest.raises(WsolkitError, match="ivr=2: give the share"):
        evaluated(net, splits, "cam", asked=asked, ivr=2)
    with pytest.raises(WsolkitError, match="psol gives boxes and no map: leave out ivr"):
        evaluated(net, splits, "psol", asked=asked, ivr=0.3)
    assert not asked

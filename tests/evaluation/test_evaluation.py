"""Localise, then score: files in between, the same numbers by every way, nothing chosen on test."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import wsolkit as wk
from wsolkit.evaluation.evaluate import evaluate
from wsolkit.localisation.localise import PeakMemory, ScoreMaps, localise
from wsolkit.methods.registry import MethodNotDefined


@pytest.fixture(scope="module")
def birds():
    return {split: wk.load_dataset("synthetic", split, size=64, classes=4, per_class=4) for split in ("val", "test")}


@pytest.fixture(scope="module")
def model():
    return wk.build_model("resnet18", 4, weights="none", width=0.25, stride=8).eval()


def test_localise_keeps_order_and_equals_single_calls(model, birds):
    test = birds["test"]
    maps = localise(model, test, "grad_cam", indices=[5, 2, 9], batch_size=2)
    assert maps.ids == [test.samples[i].id for i in (5, 2, 9)] and maps.maps.shape == (3, 8, 8)
    for row, index in enumerate((5, 2, 9)):
        image, target = test[index]
        alone = wk.score_maps(model, image[None], torch.tensor([target.label]), method="grad_cam")[0].numpy()
        np.testing.assert_allclose(maps.maps[row], alone, atol=1e-4 * np.abs(alone).max() + 1e-12)
        with torch.no_grad():
            np.testing.assert_allclose(maps.logits[row], model(image[None])[0].numpy(), atol=1e-4)
    assert maps.seconds_per_image > 0


def test_score_maps_survive_their_file(model, birds, tmp_path):
    maps = localise(model, birds["test"], "cam")
    maps.save(tmp_path / "maps.npz")
    again = ScoreMaps.load(tmp_path / "maps.npz")
    assert again.ids == maps.ids and np.array_equal(again.maps, maps.maps) and np.array_equal(again.logits, maps.logits)
    data = (tmp_path / "maps.npz").read_bytes()
    (tmp_path / "maps.npz").write_bytes(data[:200])
    with pytest.raises(ValueError, match=r"maps\.npz cannot be read"):
        ScoreMaps.load(tmp_path / "maps.npz")
    with pytest.raises(FileNotFoundError, match="localise first"):
        ScoreMaps.load(tmp_path / "absent.npz")


@pytest.mark.slow
def test_evaluate_scores_what_localise_found(model, birds):
    result = evaluate(model, birds["test"], "cam", val=birds["val"])
    order = birds["test"].spread(None)
    assert result.ids == [birds["test"].samples[i].id for i in order]
    val_boxes = [birds["val"].target(int(i)).boxes.numpy() for i in birds["val"].spread(None)]
    again = wk.score(
        wk.Maps(result.maps["test"].maps, logits=result.maps["test"].logits),
        wk.Truth(64, result.maps["test"].labels, [birds["test"].target(int(i)).boxes.numpy() for i in order]),
        validation=(wk.Maps(result.maps["val"].maps), wk.Truth(64, boxes=val_boxes)),
    )
    for name in ("gt_known_loc", "top1_loc", "top1_cls", "max_box_acc", "max_box_acc_v2", "threshold"):
        assert getattr(result, name) == getattr(again, name), name
    assert result.operating_point == "validation" and result.pxap is not None, "synthetic birds have masks"


@pytest.mark.slow
def test_threshold_never_comes_from_test(model, birds):
    """Turning the test split's boxes upside down must not move the threshold that validation chose."""
    honest = evaluate(model, birds["test"], "cam", val=birds["val"])
    moved = birds["test"].subset(range(len(birds["test"])))
    moved.samples = [type(s)(s.id, s.label, ((0, 0, 5, 5),), s.path) for s in moved.samples]
    other = evaluate(model, moved, "cam", val=birds["val"])
    assert other.threshold == honest.threshold
    assert (
        other.operating_points["best_on_test"]["gt_known_loc"]
        != honest.operating_points["best_on_test"]["gt_known_loc"]
    )


def test_a_readers_own_pseudo_boxes_choose_the_threshold(model, birds):
    val = birds["val"]
    bare = val.subset(range(len(val)))
    bare.samples = [type(s)(s.id, s.label, (), s.path) for s in bare.samples]
    truths = [val.target(index).boxes.numpy() for index in range(len(val))]
    true, result = (
        evaluate(model, birds["test"], "cam", **how) for how in ({"val": val}, {"val": bare, "pseudo": truths})
    )
    assert (result.operating_point, true.operating_point) == ("pseudo_boxes", "validation")
    assert result.threshold == true.threshold and result.gt_known_loc == true.gt_known_loc
    assert true.operating_points["pseudo_boxes"] is None and result.operating_points["validation"] is None

    asked = []

    def some(dataset, indices):
        asked.append((dataset, indices.tolist()))
        return [truths[index] for index in indices]

    few = evaluate(model, birds["test"], "cam", val=bare, pseudo=some, limit=8)
    assert asked == [(bare, bare.spread(8).tolist())] and few.n_val == 8
    assert few.threshold == evaluate(model, birds["test"], "cam", val=val, limit=8).threshold
    part = [own if index % 2 else own[:0] for index, own in enumerate(truths)]  # no box: not asked
    half = evaluate(model, birds["test"], "cam", val=bare, pseudo=part)
    odd = val.subset(range(1, len(val), 2))
    assert half.n_val == len(odd) and half.threshold == evaluate(model, birds["test"], "cam", val=odd).threshold
    none = evaluate(model, birds["test"], "cam", val=bare, pseudo=[own[:0] for own in truths])
    assert (none.operating_point, none.threshold) == ("fixed", 0.2)
    with pytest.raises(ValueError, match=f"boxes for each of {len(val)} validation images, but has 1"):
        evaluate(model, birds["test"], "cam", val=bare, pseudo=truths[:1])
    with pytest.raises(ValueError, match="pseudo boxes are those of validation images: give val"):
        evaluate(model, birds["test"], "cam", val=None, pseudo=truths)


@pytest.mark.slow
def test_without_validation_the_fixed_threshold_is_used(model, birds):
    result = evaluate(model, birds["test"], "rethinking_cam", val=None)
    assert result.operating_point == "fixed" and result.threshold == 0.35 and result.percentile == 90
    assert evaluate(model, birds["test"], "cam", val=None).threshold == 0.2
    assert evaluate(model, birds["test"], "rethinking_cam", val=None, pas=False).percentile == 100


def test_every_spelling_of_a_method_has_its_protocol(model, birds):
    result = evaluate(model, birds["test"], "RethinkingCAM", val=None)
    assert result.method == "rethinking_cam" and result.percentile == 90


def test_limit_is_balanced_and_said_so(model, birds):
    result = evaluate(model, birds["test"], "cam", val=birds["val"], limit=8)
    assert result.n_images == 8 and result.n_val == 8
    assert np.bincount(result.labels).tolist() == [2, 2, 2, 2]
    assert "8 of 16" in result.conditions["images"]


def test_ground_truth_class_is_used_where_the_network_is_wrong(model, birds):
    test = birds["test"]
    maps = localise(model, test, "cam")
    wrong = int(np.flatnonzero(maps.logits.argmax(1) != maps.labels)[0])
    image, _ = test[wrong]
    predicted = wk.score_maps(model, image[None], torch.tensor([int(maps.logits[wrong].argmax())]), method="cam")[
        0
    ].numpy()
    assert not np.allclose(maps.maps[wrong], predicted, atol=1e-3 * np.abs(predicted).max())


@pytest.mark.slow
def test_auto_validation_opens_the_sibling_split(model):
    test = wk.load_dataset("synthetic", "test", classes=4, per_class={"test": 2, "val": 3})
    assert evaluate(model, test, "cam").n_val == 12
    with pytest.raises(ValueError, match="'auto'"):
        evaluate(model, test, "cam", val="train")


def test_undefined_method_says_why(birds):
    model = wk.build_model("vgg16_fc", 4, weights="none", width=0.05)
    with pytest.raises(MethodNotDefined):
        evaluate(model, birds["test"], "cam", val=None)


def test_centre_crop_geometry_is_an_option(model):
    test = wk.load_dataset("synthetic", "test", classes=4, per_class=2, geometry="crop")
    result = evaluate(model, test, "cam", val=None)
    assert "centre crop" in result.conditions["input"] and result.n_images == 8


def test_peak_memory_sees_a_large_array():
    import time

    with PeakMemory(torch.device("cpu")) as memory:
        block = np.ones(40 * 2**20, dtype=np.uint8)
        time.sleep(0.05)
        del block
    assert 30 < memory.megabytes < 200


def test_peak_memory_of_a_lap_is_its_own():
    """Although this process keeps freed memory (`keep_freed_memory`, tests/conftest.py)."""
    laps = []
    with PeakMemory(torch.device("cpu")) as memory:
        for megabytes in (300, 40, 40):
            block = np.ones(megabytes * 2**20, dtype=np.uint8)
            del block
            laps.append(memory.lap())
    assert laps[0] > 250 and max(laps[1:]) < 100 and memory.megabytes == laps[0], laps


@pytest.mark.slow
def test_score_cam_memory_follows_the_chunk_and_maps_do_not(birds):
    model = wk.build_model("vgg16", 4, weights="none", width=0.25, stride=8).eval()
    images = torch.nn.functional.interpolate(birds["test"].images(range(1)), size=112)
    labels = torch.tensor([0])
    peaks, maps = {}, {}
    for chunk in (2, 32, 2, 32):  # an allocator that is still warm from other tests hides or adds growth once
        wk.score_maps(model, images, labels, method="score_cam", chunk=chunk, channels=16)
        with PeakMemory(torch.device("cpu")) as memory:
            maps[chunk] = wk.score_maps(model, images, labels, method="score_cam", chunk=chunk)
        peaks[chunk] = min(peaks.get(chunk, np.inf), memory.megabytes)
    assert torch.allclose(maps[2], maps[32], atol=1e-4 * float(maps[2].max()))
    assert peaks[2] < 0.5 * peaks[32], peaks


@pytest.mark.slow
def test_localise_leaves_the_mode_and_takes_layers_options_and_names(model, birds):
    model.train()
    kept = localise(model, birds["val"], ["cam", "rethinking_cam"], smooth="eigen", nwc=False)
    assert model.training and np.array_equal(kept["cam"].maps, kept["rethinking_cam"].maps)
    with pytest.raises(ValueError, match="none of the methods cam, grad_cam has the option 'nwc'"):
        localise(model, birds["val"], ["cam", "grad_cam"], nwc=False)
    model.eval()
    there = localise(model, birds["val"], "grad_cam", layer="body.layer3")
    images, labels = birds["val"].images(range(4)), torch.tensor(birds["val"].labels[:4])
    expected = wk.score_maps(model, images, labels, "grad_cam", layer="body.layer3").numpy()
    assert np.allclose(there.maps[:4], expected, atol=1e-5 * expected.max())


def test_a_pool_that_works_in_place_does_not_spoil_the_maps(birds):
    class Duck(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Conv2d(3, 6, 3)
            self.pool = torch.nn.Sequential(
                torch.nn.ReLU(inplace=True), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
            )
            self.head = torch.nn.Linear(6, 4)

        def forward(self, images):
            return self.head(self.pool(self.body(images)))

    torch.manual_seed(0)
    duck, val = Duck(), birds["val"]
    expected = wk.score_maps(duck, val.images(range(4)), torch.tensor(val.labels[:4]), "grad_cam").numpy()
    assert np.allclose(localise(duck, val, "grad_cam", indices=range(4)).maps, expected, atol=1e-6)

"""Geometry, splits, image reading and batches, on pictures and boxes small enough to check by hand."""

from __future__ import annotations

import dataclasses
import pickle

import numpy as np
import pytest
import torch
from PIL import Image

from wsolkit.data.base import Geometry, Request, WSOLDataset, denormalise, normalise
from wsolkit.data.catalogue import load_dataset
from wsolkit.data.images import Sample


def dataset_of(folder, sizes, size=32, kind="resize", boxes=None):
    """One image per (width, height), each with the box `boxes[i]` painted white on black."""
    samples = []
    for i, (width, height) in enumerate(sizes):
        pixels = np.zeros((height, width, 3), np.uint8)
        box = boxes[i] if boxes else (0, 0, width - 1, height - 1)
        pixels[box[1] : box[3] + 1, box[0] : box[2] + 1] = 255
        Image.fromarray(pixels).save(folder / f"{i}.png")
        samples.append(Sample(str(i), i % 2, (box,), folder / f"{i}.png"))
    return WSOLDataset("made", "test", ["a", "b"], samples, Geometry(size, kind))


# --- geometry ---------------------------------------------------------------------------------------------------------


def test_resize_scales_and_truncates():
    boxes = Geometry(224).boxes([(60, 27, 385, 331), (0, 0, 499, 332)], (500, 333))
    expected = [[int(60 * 224 / 500), int(27 * 224 / 333), int(385 * 224 / 500), int(331 * 224 / 333)]]
    assert boxes.tolist() == [*expected, [0, 0, 223, 223]]
    assert boxes.dtype == torch.int64
    assert Geometry(224).boxes([(0, 0, 499, 332)], (500, 333)).tolist() == [[0, 0, 223, 223]]
    assert Geometry(224).boxes([(0, 0, 500, 333)], (500, 333)).tolist() == [
        [0, 0, 224, 224]
    ]  # as wsolevaluation: not clipped
    assert Geometry(64).boxes([(3, 5, 41, 63)], (64, 64)).tolist() == [[3, 5, 41, 63]]  # same size: unchanged


def test_crop_shifts_and_clips():
    geometry = Geometry(224, "crop")
    assert (geometry.side, geometry.offset) == (256, 16)
    boxes = geometry.boxes([(20, 40, 200, 250), (0, 0, 255, 255)], (256, 256))
    assert boxes.tolist() == [[4, 24, 184, 223], [0, 0, 223, 223]]


def test_objects_that_the_crop_cut_away_are_dropped_but_never_the_last():
    geometry = Geometry(224, "crop")
    assert geometry.boxes([(0, 0, 5, 5), (100, 100, 150, 150)], (256, 256)).tolist() == [[84, 84, 134, 134]]
    assert geometry.boxes([(0, 0, 5, 5)], (256, 256)).tolist() == [[0, 0, 0, 0]]
    assert Geometry(224).boxes([], (10, 10)).shape == (0, 4)


@pytest.mark.parametrize("kind", ["resize", "crop"])
@pytest.mark.parametrize("size", [32, 64, 100, 224])
def test_boxes_lie_on_the_object_in_the_picture(tmp_path, kind, size):
    """Trap 6: what is bright in the returned image is where the returned box says."""
    original = [(200, 120), (90, 300), (256, 256)]
    painted = [(60, 30, 140, 90), (20, 100, 70, 200), (10, 60, 250, 180)]
    dataset = dataset_of(tmp_path, original, size, kind, painted)
    for index in range(3):
        image, target = dataset[index]
        assert image.shape == (3, size, size)
        bright = denormalise(image)[..., 0] >= 128
        rows, columns = np.flatnonzero(bright.any(axis=1)), np.flatnonzero(bright.any(axis=0))
        seen = np.array([columns[0], rows[0], columns[-1], rows[-1]])
        tolerance = 1 + np.ceil(size / min(original[index]))  # of truncated corners and of a blurred edge
        assert np.abs(target.boxes[0].numpy() - seen).max() <= tolerance


@pytest.mark.parametrize("size", range(8, 260, 7))
def test_the_crop_lies_inside_for_every_size(size):
    geometry = Geometry(size, "crop")
    pixels = np.arange(geometry.side**2).reshape(geometry.side, geometry.side)
    cut = geometry.crop(pixels)
    assert cut.shape == (size, size)
    assert geometry.crop(np.zeros((2, geometry.side, geometry.side, 3))).shape == (2, size, size, 3)
    assert cut[0, 0] == geometry.offset * geometry.side + geometry.offset
    assert abs((geometry.side - size) - 2 * geometry.offset) <= 1  # centred


@pytest.mark.parametrize("arguments", [(0,), (7,), (64.0,), ("64",), (64, "pad")])
def test_geometry_refuses(arguments):
    with pytest.raises(ValueError, match="but is"):
        Geometry(*arguments)


def stratified_split(labels, share, seed):
    return tuple(
        np.array(Request(split, None, Geometry(8), None, share, seed).own(labels)) for split in ("train", "val")
    )


def select_classes(names, wanted):
    classes, label_of = Request("train", None, Geometry(8), wanted).select(names)
    assert classes == [names[index] for index in label_of] and list(label_of.values()) == list(range(len(classes)))
    return list(label_of)


# --- splits and classes -----------------------------------------------------------------------------------------------


def test_stratified_split():
    labels = np.repeat([5, 0, 9, 2], [20, 10, 1, 2])
    rest, held = stratified_split(labels, 0.2, seed=3)
    assert sorted([*rest, *held]) == list(range(33))
    assert {k: int((labels[held] == k).sum()) for k in (5, 0, 9, 2)} == {5: 4, 0: 2, 9: 0, 2: 1}
    again = stratified_split(labels, 0.2, seed=3)
    assert np.array_equal(rest, again[0])
    assert np.array_equal(held, again[1])
    assert not np.array_equal(held, stratified_split(labels, 0.2, seed=4)[1])
    assert len(stratified_split([1, 1], 0.99, 0)[0]) == 1  # training keeps one


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, float("nan")])
def test_stratified_split_refuses(share):
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        stratified_split([0, 0], share, 0)


def test_select_classes():
    names = ["wren", "owl", "rook"]
    assert select_classes(names, None) == [0, 1, 2]
    assert select_classes(names, 2) == [0, 1]
    assert select_classes(names, ["rook", 0]) == [2, 0]
    assert select_classes(names, ["2", "owl"]) == [2, 1]  # as they come from a command line
    for wanted in (0, 1, 4, ["wren"], [], ["wren", "wren"], ["wren", 0], ["wren", "dodo"], ["wren", -1], ["wren", 3]):
        with pytest.raises(ValueError, match="class"):
            select_classes(names, wanted)


def test_load_dataset_refuses():
    with pytest.raises(ValueError, match="unknown dataset 'imagenet'; choose from synthetic, cub, tiny_imagenet"):
        load_dataset("imagenet")
    with pytest.raises(ValueError, match="unknown split 'valid'; choose from train, val, test"):
        load_dataset("synthetic", "valid")


# --- images -----------------------------------------------------------------------------------------------------------


def test_damaged_and_missing_images_are_named(tmp_path):
    dataset = dataset_of(tmp_path, [(40, 40), (40, 40), (40, 40)])
    Image.effect_noise((200, 200), 90).save(tmp_path / "noise.jpg")
    (tmp_path / "0.png").write_bytes((tmp_path / "noise.jpg").read_bytes()[:2000])  # cut off in the middle
    (tmp_path / "1.png").write_bytes(b"")
    (tmp_path / "2.png").unlink()
    for index, kind in ((0, ValueError), (1, ValueError), (2, FileNotFoundError)):
        with pytest.raises(kind, match=rf"{index}\.png: .*(not a readable image|missing)"):
            dataset[index]


def test_target_alone_names_damaged_and_missing_images_too(tmp_path):
    dataset = dataset_of(tmp_path, [(40, 40), (40, 40)])
    (tmp_path / "0.png").write_bytes(b"no picture")
    (tmp_path / "1.png").unlink()
    for index, kind in ((0, ValueError), (1, FileNotFoundError)):
        with pytest.raises(kind, match=rf"{index}\.png: .*(not a readable image|missing)"):
            dataset.target(index)


def test_normalise_and_back():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), dtype=np.uint8)
    tensor = normalise(pixels)
    assert (tensor.shape, tensor.dtype) == ((2, 3, 5, 7), torch.float32)
    assert tensor[0, 0, 0, 0].item() == pytest.approx((pixels[0, 0, 0, 0] / 255 - 0.485) / 0.229, abs=1e-5)
    assert tensor[1, 2, 4, 6].item() == pytest.approx((pixels[1, 4, 6, 2] / 255 - 0.406) / 0.225, abs=1e-5)
    assert np.array_equal(denormalise(tensor), pixels)


# --- the dataset ------------------------------------------------------------------------------------------------------


def test_items_batches_and_memory_agree(tmp_path, monkeypatch):
    dataset = dataset_of(tmp_path, [(20 + i, 30) for i in range(9)], kind="crop")
    kept = torch.stack([dataset[i][0] for i in range(9)])
    assert torch.equal(kept, dataset.images(range(9)))
    assert torch.equal(kept[[3, 3, 8]], dataset.images([3, 3, 8]))
    assert torch.equal(dataset[-1][0], kept[8])
    assert dataset[-1][1].id == "8"
    monkeypatch.setattr("wsolkit.data.decoded.MEMORY_BYTES", 0)
    fresh = dataset.subset(range(9))
    assert torch.equal(kept, fresh.images(range(9)))
    assert fresh.decoded(fresh.geometry.side).memory is None
    for index in (9, -10):
        with pytest.raises(IndexError, match="9 images"):
            dataset[index]


def test_subset_keeps_order_and_does_not_share_pixels(tmp_path):
    dataset = dataset_of(tmp_path, [(20 + i, 30) for i in range(5)])
    whole = dataset.images(range(5))
    small = dataset.subset([4, 1])
    assert small.ids == ["4", "1"]
    assert torch.equal(small.images([0, 1]), whole[[4, 1]])
    assert len(dataset) == 5
    with pytest.raises(ValueError, match="has no image"):
        dataset.subset([])
    with pytest.raises(ValueError, match="built by hand: pass its 'val' split"):
        dataset.sibling("val")


def test_spread_is_balanced_from_the_beginning(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    labels = [0] * 10 + [1] * 4 + [2] * 7
    samples = [Sample(str(i), label, (), tmp_path / "x.png") for i, label in enumerate(labels)]
    dataset = WSOLDataset("made", "test", ["a", "b", "c"], samples, Geometry(8))
    order = dataset.spread(None, seed=1)
    assert sorted(order) == list(range(21))
    for n in range(1, 13):
        counts = np.bincount(dataset.labels[order[:n]], minlength=3)
        assert counts.max() - counts.min() <= 1
        assert np.array_equal(dataset.spread(n, seed=1), order[:n])
    assert not np.array_equal(dataset.spread(21, seed=2), order)
    assert len(dataset.spread(100)) == 21


def collect(dataset, seed, epoch, batch_size=4):
    return list(dataset.train_batches(batch_size, seed, epoch))


def test_train_batches_depend_on_seed_and_epoch_alone(tmp_path):
    dataset = dataset_of(tmp_path, [(40 + i, 40) for i in range(10)], boxes=[(i, 5, i + 20, 30) for i in range(10)])
    first = collect(dataset, 1, 1)
    collect(dataset, 5, 9)
    np.random.default_rng(0).random(3)
    again = collect(dataset.subset(range(10)), 1, 1)
    assert [len(labels) for _, labels in first] == [4, 4, 2]
    for (images, labels), (images_again, labels_again) in zip(first, again, strict=True):
        assert images.shape[1:] == (3, 32, 32)
        assert torch.equal(images, images_again)
        assert torch.equal(labels, labels_again)
    for other in (collect(dataset, 2, 1), collect(dataset, 1, 2)):
        assert not torch.equal(other[0][0], first[0][0])
    assert sorted(torch.cat([labels for _, labels in first]).tolist()) == sorted(dataset.labels.tolist())


def test_train_batches_crop_and_flip(tmp_path):
    """Every training image is a window of the enlarged image, upright or mirrored; both occur, and many places do."""
    ramp = np.zeros((37, 37, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(37)[None, :] * 4, np.arange(37)[:, None] * 4
    Image.fromarray(ramp).save(tmp_path / "ramp.png")
    samples = [Sample(str(i), i % 2, (), tmp_path / "ramp.png") for i in range(64)]
    dataset = WSOLDataset("made", "train", ["a", "b"], samples, Geometry(32))
    assert dataset.geometry.enlarged == 37
    seen = set()
    for images, _ in dataset.train_batches(16, seed=0, epoch=0):
        for pixels in denormalise(images).astype(int):
            flipped = pixels[0, 0, 0] > pixels[0, -1, 0]
            upright = pixels[:, ::-1] if flipped else pixels
            left, top = upright[0, 0, 0] // 4, upright[0, 0, 1] // 4
            assert np.array_equal(upright, ramp[top : top + 32, left : left + 32])
            seen.add((bool(flipped), int(left), int(top)))
    assert {flipped for flipped, _, _ in seen} == {False, True}
    assert {left for _, left, _ in seen} == set(range(6))
    assert {top for _, _, top in seen} == set(range(6))


def test_a_last_batch_of_one_is_left_out(tmp_path):
    dataset = dataset_of(tmp_path, [(20, 20)] * 5)
    assert [len(labels) for _, labels in collect(dataset, 0, 0)] == [4]
    assert [len(labels) for _, labels in collect(dataset.subset([0]), 0, 0)] == [1]


def test_datasets_travel_to_other_processes(tmp_path):
    dataset = load_dataset("synthetic", "test", per_class=1, size=32)
    copy = pickle.loads(pickle.dumps(dataset))
    assert torch.equal(copy[3][0], dataset[3][0])
    assert copy.sibling("val").ids == dataset.sibling("val").ids


def test_another_list_of_samples_has_pixels_of_its_own():
    birds = load_dataset("synthetic", "test", size=32, classes=2, per_class=2)
    first = birds.images([0, 1])
    other = dataclasses.replace(birds, samples=birds.samples[::-1])
    last = len(birds) - 1
    assert torch.equal(other.images([last, last - 1]), first)

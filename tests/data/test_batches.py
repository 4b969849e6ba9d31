"""Batches of a training run against a loop over images in plain Python, on every device that there is."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch

from wsolkit.data import base as module
from wsolkit.data.base import (
    AS_THEY_ARE,
    denormalise,
    draw_epoch,
    from_device,
    held_on,
    normalise,
    share_of,
    windows,
    windows_on_device,
)
from wsolkit.data.catalogue import load_dataset
from wsolkit.data.decoded import ahead

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="module")
def birds():
    return load_dataset("synthetic", "train", per_class=3, classes=9, size=32)  # 27 images


def one_by_one(dataset, batch_size, seed, epoch):
    """What train_batches promises, image by image."""
    rng = np.random.default_rng([seed, epoch, 1])
    size, side = dataset.geometry.size, dataset.geometry.enlarged
    order = rng.permutation(len(dataset))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        if len(chosen) == 1 and len(order) > 1:
            return
        corners = rng.integers(0, side - size + 1, (len(chosen), 2))
        flips = rng.random(len(chosen)) < 0.5
        images = []
        for index, (top, left), flip in zip(chosen, corners, flips, strict=True):
            window = dataset.pixels([index], side)[0, top : top + size, left : left + size]
            images.append(normalise(window[:, ::-1] if flip else window))
        yield torch.stack(images), torch.from_numpy(dataset.labels[chosen])


def assert_same(found, expected):
    found, expected = list(found), list(expected)
    assert len(found) == len(expected)
    for (images, labels), (wanted, wanted_labels) in zip(found, expected, strict=True):
        assert torch.equal(images.cpu(), wanted)  # bit for bit
        assert torch.equal(labels.cpu(), wanted_labels)
        assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)


@pytest.mark.parametrize(("batch_size", "seed", "epoch"), [(8, 0, 0), (8, 0, 1), (13, 4, 2), (27, 1, 0), (100, 0, 7)])
def test_batches_equal_a_loop_over_images(birds, batch_size, seed, epoch):
    expected = list(one_by_one(birds, batch_size, seed, epoch))
    assert sum(len(labels) for _, labels in expected) == (26 if batch_size == 13 else 27)
    found = list(birds.train_batches(batch_size, seed, epoch))
    assert_same(found, expected)
    assert all(images.is_contiguous(memory_format=torch.channels_last) for images, _ in found)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("skip", [0, 2, 3, 9])
def test_shares_and_skips(birds, world_size, skip):
    expected = list(one_by_one(birds, 8, 0, 5))[skip:]
    parts = [list(birds.train_batches(8, 0, 5, "cpu", rank, world_size, skip)) for rank in range(world_size)]
    together = [
        (torch.cat([images for images, _ in shares]), torch.cat([labels for _, labels in shares]))
        for shares in zip(*parts, strict=True)
    ]
    assert_same(together, expected)
    for shares in zip(*parts, strict=True):
        counts = [len(labels) for _, labels in shares]
        assert max(counts) - min(counts) <= 1


def test_shares_cut_without_gap_also_where_there_are_fewer_images_than_processes():
    assert [share_of((10, 12), rank, 4) for rank in range(4)] == [
        slice(10, 11), slice(11, 12), slice(12, 12), slice(12, 12),
    ]  # fmt: skip
    for count, world_size in ((32, 3), (7, 7), (5, 8), (1, 1)):
        cuts = [share_of((4, 4 + count), rank, world_size) for rank in range(world_size)]
        assert [cut.start for cut in cuts] + [cuts[-1].stop] == [4, *(cut.stop for cut in cuts)]
        assert cuts[-1].stop == 4 + count


def test_skipped_batches_are_not_decoded(birds):
    fresh = birds.subset(range(len(birds)))
    kept = torch.cat([labels for _, labels in fresh.train_batches(8, 0, 0, skip=2)])
    assert fresh.decoded(fresh.geometry.enlarged).known.sum() == len(kept) == 27 - 16


def test_the_next_epoch_reads_what_is_decoded(birds):
    fresh = birds.subset(range(len(birds)))
    list(fresh.train_batches(9, 0, 0))
    side = fresh.geometry.enlarged
    whole, rows = fresh.decoded(side).source(np.array([4, 2]))
    assert whole is fresh.decoded(side).memory
    assert rows.tolist() == [4, 2]
    assert_same(fresh.train_batches(9, 0, 1), one_by_one(birds, 9, 0, 1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"skip": -1}, "skip at least 0"),
        ({"rank": 2, "world_size": 2}, r"rank must be one of 0 to 1 \(world_size - 1\), but is 2"),
        ({"rank": -1}, "rank must be one of 0 to 0"),
        ({"world_size": 0}, "rank must be"),
    ],
)
def test_train_batches_refuses(birds, arguments, message):
    with pytest.raises(ValueError, match=message):
        birds.train_batches(**{"batch_size": 4, "seed": 0, "epoch": 0, **arguments})


# --- pixels to images -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["resize", "crop"])
def test_images_for_evaluation(kind):
    dataset = load_dataset("synthetic", "test", per_class=1, size=40, geometry=kind)
    chosen = [5, 0, -1, 5]
    expected = normalise(dataset.geometry.crop(dataset.pixels(chosen, dataset.geometry.side)))
    assert torch.equal(dataset.images(chosen), expected)
    assert dataset.images(chosen).is_contiguous(memory_format=torch.channels_last)
    assert dataset.images([]).shape == (0, 3, 40, 40)
    with pytest.raises(IndexError):
        dataset.images([0, len(dataset)])


def test_every_level_of_every_channel():
    pixels = np.arange(256 * 3, dtype=np.int64).reshape(1, 16, 16, 3) % 256
    pixels = np.concatenate([np.roll(pixels, shift, axis=1) for shift in range(3)]).astype(np.uint8)
    expected = normalise(pixels)
    none = np.zeros((3, 2), np.int64), np.zeros(3, bool)
    assert torch.equal(torch.from_numpy(windows(pixels, np.arange(3), *none, 16)).permute(0, 3, 1, 2), expected)
    assert torch.equal(normalise(torch.from_numpy(pixels)), expected)
    assert np.array_equal(denormalise(expected), pixels)


def test_windows_stay_inside():
    source = np.zeros((4, 10, 10, 3), np.uint8)
    one, upright = np.array([0]), np.array([False])
    for rows, corners in (([4], [[0, 0]]), ([-1], [[0, 0]]), ([0], [[0, 3]]), ([0], [[-1, 0]])):
        with pytest.raises(IndexError):
            windows(source, np.array(rows), np.array(corners), upright, 8)
    assert windows(source, one, np.array([[2, 2]]), upright, 8, AS_THEY_ARE).shape == (1, 8, 8, 3)


# --- on a device ------------------------------------------------------------------------------------------------------


def test_the_gather_of_a_device_equals_the_loop(birds):
    """The function that CUDA batches come from, on tensors of the CPU."""
    side, size = birds.geometry.enlarged, birds.geometry.size
    held = held_on(birds.decoded(side), torch.device("cpu"))
    assert np.array_equal(held.numpy(), birds.pixels(range(27), side))
    drawn = draw_epoch(27, 8, side - size, 3, 1)
    assert_same(
        from_device(held, birds.labels, size, drawn, [slice(*b) for b in drawn.bounds]), one_by_one(birds, 8, 3, 1)
    )
    rows, corners, flips = np.array([3, 3, 0]), np.array([[0, 5], [5, 0], [2, 2]]), np.array([True, False, True])
    tensors = [torch.from_numpy(array) for array in (rows, corners, flips)]
    expected = windows(held.numpy(), rows, corners, flips, size, AS_THEY_ARE)
    assert np.array_equal(windows_on_device(held, *tensors, size).numpy(), expected)


@needs_cuda
@pytest.mark.parametrize("share", [0.3, 0.0], ids=["pixels on the device", "copied batch by batch"])
def test_batches_on_cuda_equal_the_loop(birds, monkeypatch, share):
    monkeypatch.setattr(module, "DEVICE_SHARE", share)
    fresh = birds.subset(range(len(birds)))
    for rank in range(2):
        expected = [(i[s], t[s]) for i, t in one_by_one(birds, 8, 0, 3) for s in [share_of((0, len(t)), rank, 2)]]
        found = list(fresh.train_batches(8, 0, 3, "cuda", rank, 2, skip=1))
        assert all(images.is_cuda and labels.is_cuda for images, labels in found)
        assert_same(found, expected[1:])
    assert len(fresh.decoded(fresh.geometry.enlarged).held) == (share > 0)
    assert torch.equal(fresh.images([2, 0], "cuda").cpu(), fresh.images([2, 0]))


# --- ahead ------------------------------------------------------------------------------------------------------------


def test_ahead_keeps_the_order_and_its_distance():
    made = []
    results = ahead(lambda item: made.append(item) or item * 2, range(20), depth=2)
    for item in range(5):
        assert next(results) == item * 2
        assert len(made) <= item + 3
    assert list(results) == [item * 2 for item in range(5, 20)]
    assert list(ahead(str, range(40), depth=8, threads=4)) == [str(item) for item in range(40)]
    assert list(ahead(str, [])) == []


def test_ahead_hands_errors_on_and_ends_its_thread():
    def fail(item):
        if item == 3:
            raise ValueError("third")
        return item

    before, seen = threading.active_count(), []
    with pytest.raises(ValueError, match="third"):
        seen.extend(ahead(fail, range(100)))
    results = ahead(fail, range(3))
    assert next(results) == 0
    results.close()  # as when a loop is left with break
    assert threading.active_count() == before


def test_a_training_loop_may_stop_in_the_middle(birds):
    before = threading.active_count()
    batches = birds.train_batches(4, 0, 0)
    next(batches)
    batches.close()
    assert threading.active_count() == before

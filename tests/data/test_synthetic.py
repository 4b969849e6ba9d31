"""Synthetic birds: exact boxes and masks, seeded drawings, and classes that differ in the small part alone."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from wsolkit.data.catalogue import load_dataset
from wsolkit.data.synthetic import CANVAS, FAMILIES, KINDS, _random, draw_bird

NAMES = list(KINDS)
FAMILY = len(KINDS) // len(FAMILIES)  # species of one family: they share body, wings and marks


def draw(kind, index, seed=0, split="train"):
    return draw_bird(kind, _random(seed, split, index))


def test_at_least_eight_classes_and_three_splits():
    assert FAMILY >= 8
    seen: set[bytes] = set()
    for split in ("train", "val", "test"):
        dataset = load_dataset("synthetic", split, per_class=2)
        assert dataset.classes == NAMES
        assert np.bincount(dataset.labels).tolist() == [2] * len(NAMES)
        assert len(set(dataset.ids)) == len(dataset)
        pictures = {dataset.pixels([i], 64).tobytes() for i in range(len(dataset))}
        assert len(pictures) == len(dataset)
        assert not pictures & seen  # no picture of one split is in another
        seen |= pictures


@pytest.mark.parametrize("kind", NAMES)
def test_boxes_are_those_of_the_masks(kind):
    for index in range(15):
        drawing = draw(kind, index)
        assert drawing.pixels.shape == (CANVAS, CANVAS, 3)
        assert drawing.pixels.dtype == drawing.mask.dtype == np.uint8
        assert set(np.unique(drawing.mask)) == {0, 1}
        x0, y0, x1, y1 = drawing.box
        rows, columns = np.nonzero(drawing.mask)
        assert (columns.min(), rows.min(), columns.max(), rows.max()) == (x0, y0, x1, y1)
        assert 0 < x0 < x1 < CANVAS - 1  # the whole bird is in the picture
        assert 0 < y0 < y1 < CANVAS - 1
        assert 0.02 < drawing.mask.mean() < 0.6


def test_drawings_are_seeded():
    one, again = draw(NAMES[0], 4), draw(NAMES[0], 4)
    assert np.array_equal(one.pixels, again.pixels)
    for other in (draw(NAMES[0], 5), draw(NAMES[0], 4, seed=1), draw(NAMES[0], 4, split="test")):
        assert not np.array_equal(one.pixels, other.pixels)
    first, same = (load_dataset("synthetic", "val", per_class=1, seed=7) for _ in range(2))
    assert torch.equal(first.images(range(16)), same.images(range(16)))
    assert first.samples == same.samples
    assert first.samples != load_dataset("synthetic", "val", per_class=1, seed=8).samples


@pytest.mark.parametrize("kind", NAMES[1:FAMILY])
def test_classes_differ_in_the_small_part_alone(kind):
    """From one state of the generator, birds of two species of a family have the same body in the same place."""
    for index in range(20):
        one, other = draw(NAMES[0], index), draw(kind, index)
        changed = np.abs(one.pixels.astype(int) - other.pixels).max(axis=2) > 0
        assert 0 < changed.mean() < 0.05
        rows, columns = np.nonzero(changed)
        # the head alone: far smaller than the bird in both directions
        x0, y0, x1, y1 = one.box
        extent = max(x1 - x0, y1 - y0) + 1
        assert max(np.ptp(rows), np.ptp(columns)) + 1 < 0.55 * extent
        assert (one.mask != other.mask).mean() < 0.02


def test_families_differ_in_their_marks_on_the_bird_alone():
    for index in range(20):
        one, other = draw(NAMES[0], index), draw(NAMES[FAMILY], index)
        changed = np.abs(one.pixels.astype(int) - other.pixels).max(axis=2) > 24
        assert changed.sum() > 20 and one.box == other.box
        rows, columns = np.nonzero(changed)
        x0, y0, x1, y1 = one.box
        assert x0 <= columns.min() and columns.max() <= x1 and y0 <= rows.min() and rows.max() <= y1
        assert np.array_equal(one.mask, other.mask), "marks are drawn on the bird, never beside it"


def test_the_random_numbers_used_do_not_depend_on_the_class():
    after = set()
    for kind in NAMES:
        generator = _random(0, "train", 3)
        draw_bird(kind, generator)
        after.add(float(generator.random()))
    assert len(after) == 1


@pytest.mark.slow
def test_neither_the_box_nor_the_mean_colour_tells_the_class():
    """The same pictures drawn as each class: the place of the box and the background keep their distribution."""
    centres, backgrounds = [], []
    for kind in NAMES:
        drawings = [draw(kind, index) for index in range(40)]
        boxes = np.array([d.box for d in drawings], float)
        centres.append((boxes[:, :2] + boxes[:, 2:]).mean(axis=0) / 2)
        backgrounds.append(np.mean([d.pixels[:4].mean() for d in drawings]))
    assert np.ptp(np.array(centres), axis=0).max() < 5.0  # of 128 pixels; a crest makes the box a little taller
    assert np.ptp(backgrounds) < 1.0


def test_parts_are_visible_and_different():
    pictures = [draw(kind, 2).pixels for kind in NAMES]
    for one, other in itertools.combinations(pictures, 2):
        assert (np.abs(one.astype(int) - other).max(axis=2) > 40).sum() >= 12


def test_pose_size_and_position_vary():
    boxes = np.array([draw(NAMES[0], index).box for index in range(60)], float)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert (boxes[:, :2] + boxes[:, 2:]).std(axis=0).min() / 2 > 8
    assert sides[:, 0].max() / sides[:, 0].min() > 1.5


@pytest.mark.parametrize("geometry", ["resize", "crop"])
@pytest.mark.parametrize("size", [64, 128, 100])
def test_boxes_and_masks_follow_resize_and_crop(geometry, size):
    dataset = load_dataset("synthetic", "test", per_class=2, size=size, geometry=geometry)
    for index in range(len(dataset)):
        image, target = dataset[index]
        assert image.shape == (3, size, size)
        assert (target.mask.shape, target.mask.dtype) == ((size, size), torch.uint8)
        rows, columns = torch.nonzero(target.mask, as_tuple=True)
        seen = torch.stack([columns.min(), rows.min(), columns.max(), rows.max()])
        # nearest resizing and truncated corners may each move a side by a pixel
        assert (target.boxes[0] - seen).abs().max() <= 3 + size // CANVAS
        if size == CANVAS and geometry == "resize":
            assert torch.equal(target.boxes[0], seen)


def test_choice_of_classes_and_counts():
    dataset = load_dataset("synthetic", "test", per_class=2, classes=[NAMES[5], NAMES[1]])
    assert dataset.classes == [NAMES[5], NAMES[1]]
    expected = draw(NAMES[5], 0, split="test")
    assert dataset.samples[0].boxes == (expected.box,)
    image, mask = dataset.load(dataset.samples[0])
    assert isinstance(image, Image.Image)
    assert np.array_equal(np.asarray(image), expected.pixels)
    assert np.array_equal(mask, expected.mask)
    assert len(load_dataset("synthetic", "val", per_class={"val": 3})) == 3 * len(NAMES)
    with pytest.raises(ValueError, match="per_class"):
        load_dataset("synthetic", per_class=0)


def test_siblings_and_subsets_draw_the_same_birds():
    test = load_dataset("synthetic", "test", per_class=2, seed=5)
    val = load_dataset("synthetic", "val", per_class=2, seed=5)
    assert torch.equal(test.sibling("val").images([0, 3]), val.images([0, 3]))
    assert torch.equal(test.subset([9, 2]).images([0, 1]), test.images([9, 2]))

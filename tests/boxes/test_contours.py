"""One pass over the grey levels against a contour search per threshold, on maps that nobody would choose."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest
import straightforward
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from straightforward import contour_boxes

from wsolkit.boxes.contours import best_ious, largest_boxes
from wsolkit.boxes.extract import ContourBoxes, extract_box, iou_curve
from wsolkit.boxes.preparation import prepare_map
from wsolkit.boxes.protocols import PROTOCOLS

SHAPES = st.tuples(st.integers(1, 14), st.integers(1, 14))
CONTOURS = st.sampled_from(["all", "largest"])


@st.composite
def few_levels(draw):
    """Small frames with few grey levels: rings, islands in rings, whiskers and equal areas are common there."""
    levels = np.array(draw(st.lists(st.integers(0, 255), min_size=2, max_size=5, unique=True)), np.uint8)
    return levels[draw(hnp.arrays(np.intp, SHAPES, elements=st.integers(0, len(levels) - 1)))]


@st.composite
def grown(draw):
    """Smooth maps of any size, as a network makes them: a coarse grid, enlarged."""
    grid = draw(
        hnp.arrays(np.float32, st.tuples(st.integers(2, 7), st.integers(2, 7)), elements=st.floats(0, 1, width=32))
    )
    size = draw(st.tuples(st.integers(8, 60), st.integers(8, 60)))
    large = cv2.resize(grid, size, interpolation=cv2.INTER_CUBIC).astype(np.float64)
    span = large.max() - large.min()
    return ((large - large.min()) / span * 255).astype(np.uint8) if span > 0 else np.zeros(large.shape, np.uint8)


MAPS = st.one_of(few_levels(), hnp.arrays(np.uint8, SHAPES), grown())


@st.composite
def truths_in(draw, shape):
    height, width = shape
    xs, ys = (sorted(draw(st.tuples(st.integers(0, end - 1), st.integers(0, end - 1)))) for end in (width, height))
    return [xs[0], ys[0], xs[1], ys[1]]


def as_map(u8: np.ndarray) -> np.ndarray:
    """A map in [0, 1] that truncates to exactly these levels."""
    return np.minimum((u8 + 0.5) / 255, 1.0)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.data(), MAPS, CONTOURS, st.sampled_from([100, 90, 50, 0]))
def test_curve_equals_the_straightforward_one(data, u8, contours, percentile):
    truths = [data.draw(truths_in(u8.shape)) for _ in range(data.draw(st.integers(1, 3)))]
    expected = straightforward.iou_curve(as_map(u8), truths, 0.01, contours, percentile)
    assert np.array_equal(iou_curve(as_map(u8), truths, 0.01, contours, percentile), expected)
    once = straightforward.iou_curve(as_map(u8), truths, 0.01, contours, percentile, once=True)
    assert np.array_equal(once, expected), "the benchmark's fair comparison"


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(MAPS)
def test_every_level_has_the_contours_of_its_mask(u8):
    """Without a ground truth that could hide a difference: the largest box, and each one by its IoU with itself."""
    largest = largest_boxes(u8)
    for level in {0, *(int(value) - 1 for value in np.unique(u8) if value > 0)}:
        found, index = contour_boxes(u8 > level)
        assert largest[level].tolist() == (found[index].tolist() if index >= 0 else [-1] * 4)
        clamped = np.minimum(found, [2**20, 2**20, u8.shape[1] - 1, u8.shape[0] - 1])
        for box in clamped[:6]:
            assert best_ious(u8, box[None].astype(np.float64))[level] == 1.0


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(MAPS, st.floats(0, 1), st.sampled_from([100, 90, 50, 0]), st.sampled_from(list(PROTOCOLS)))
def test_one_box_is_that_of_all_thresholds(u8, threshold, percentile, protocol):
    box, empty = extract_box(u8, threshold, percentile, None, return_empty=True, protocol=protocol)
    every, none = ContourBoxes(prepare_map(u8, u8.shape)).box(threshold, percentile, protocol)
    assert box.tolist() == every.tolist() and box.dtype == every.dtype and empty is none


@pytest.mark.slow
@pytest.mark.parametrize("contours", ["all", "largest"])
def test_large_noise_equals_the_straightforward_one(contours):
    rng = np.random.default_rng(0)
    for levels in (2, 3, 17, 256):  # with two or three levels the frame is full of rings, islands and equal areas
        u8 = rng.integers(0, levels, (150, 190)).astype(np.uint8) * (255 // (levels - 1))
        truths = [[20, 30, 90, 100], [100, 5, 180, 60]]
        expected = straightforward.iou_curve(as_map(u8), truths, 0.02, contours)
        assert np.array_equal(iou_curve(as_map(u8), truths, 0.02, contours), expected)


def test_a_ring_with_a_tail_beats_its_own_hole():
    """Outer and hole boundary of a diamond have equal areas; the outer one comes first, and its box holds the tail."""
    u8 = np.zeros((5, 9), np.uint8)
    u8[[0, 1, 1, 2], [1, 0, 2, 1]] = 200
    u8[1, 3:8] = 200
    assert largest_boxes(u8)[100].tolist() == [0, 0, 8, 3]
    assert contour_boxes(u8)[0][contour_boxes(u8)[1]].tolist() == [0, 0, 8, 3]


def test_an_island_inside_a_ring_never_wins():
    u8 = np.zeros((30, 30), np.uint8)
    u8[2:28, 2:28] = 100
    u8[4:26, 4:26] = 0
    u8[6:24, 6:24] = 200
    assert largest_boxes(u8)[50].tolist() == [2, 2, 28, 28]
    assert largest_boxes(u8)[150].tolist() == [6, 6, 24, 24]
    assert ContourBoxes(u8 / 255).curve([[3, 3, 27, 27]], 0.5).max() == 1.0  # the hole's box


def test_threads_share_nothing():
    rng = np.random.default_rng(1)
    maps = [rng.integers(0, 256, (60, 70)).astype(np.uint8) for _ in range(8)]
    truth = np.array([[5.0, 5.0, 40.0, 50.0]])
    expected = [(best_ious(u8, truth), largest_boxes(u8)) for u8 in maps]
    failures = []

    def work(index):
        for _ in range(20):
            curve, boxes = best_ious(maps[index], truth), largest_boxes(maps[index])
            if not (np.array_equal(curve, expected[index][0]) and np.array_equal(boxes, expected[index][1])):
                failures.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []

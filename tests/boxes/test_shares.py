"""Boxes as shares of an image: rounded once to pixels, and back."""

from __future__ import annotations

import numpy as np
import pytest

from wsolkit.boxes.shares import boxes_of_shares, shares_of_boxes


def test_the_whole_image_is_the_whole_frame_of_any_size():
    for size in (1, 7, 224, (30, 40)):
        height, width = (size, size) if isinstance(size, int) else size
        assert boxes_of_shares([[0, 0, 1, 1]], size).tolist() == [[0, 0, width - 1, height - 1]]


def test_every_box_of_pixels_comes_back():
    rng = np.random.default_rng(0)
    first = rng.integers(0, [37, 53], (200, 2))
    last = np.minimum(first + rng.integers(0, 40, (200, 2)), [36, 52])
    boxes = np.concatenate([first, last], axis=1)
    assert np.array_equal(boxes_of_shares(shares_of_boxes(boxes, (53, 37)), (53, 37)), boxes)


def test_a_thin_box_is_one_pixel_inside_the_frame():
    thin = [[0, 0, 0, 0], [1, 1, 1, 1], [0.51, 0.2, 0.51, 0.9]]
    assert boxes_of_shares(thin, 10).tolist() == [[0, 0, 0, 0], [9, 9, 9, 9], [5, 2, 5, 8]]


@pytest.mark.parametrize(
    "wrong", [[[0, 0, 1.1, 1]], [[0.5, 0, 0.4, 1]], [[0, 0, 1, np.nan]], [[0, 0, 1]], [0, 0, 1, 1], [[-0.1, 0, 1, 1]]]
)
def test_what_is_no_share_is_refused(wrong):
    with pytest.raises(ValueError, match="boxes as shares have shape"):
        boxes_of_shares(wrong, 10)

"""The boxes of all contours of a score map at all 256 thresholds, in one pass over its grey levels.

The mask `u8 > t` only grows as t falls, so its connected components form a tree (Salembier et al., IEEE TIP 1998; the
union-find over sorted pixels is that of Najman and Couprie, IEEE TIP 2006). A component's box and area are gathered
from its parts on the way to the root. What OpenCV's `findContours` with the full tree would find in every mask follows
from three such trees:

- outer boundaries are the 8-connected components of the mask: their bounding boxes;
- hole boundaries are the 4-connected components of the rest that do not reach the frame's edge: their bounding boxes
  grown by one pixel on each side;
- the largest contour by area is the outer boundary of a component of the mask *with its holes filled*. The area of a
  contour (a polygon through pixel centres) is the number of 2 x 2 blocks with four pixels inside plus half of those
  with three. Of contours with equal areas OpenCV lists the one first whose first pixel, row by row, comes last.

Everything here takes and returns plain arrays, is compiled by numba and runs without Python's lock. It is one module
because numba's cache on disk notices changes of a function's own file only.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from wsolkit.common.code import compiled

LEVELS = 256


@compiled
def best_ious(u8, truths):
    """Best IoU of any contour's box with any ground-truth box at every level.

    u8 (H, W) uint8; truths (n, 4) float64 inclusive corners, n >= 1 -> (256,) float64, entry t for the mask `u8 > t`.
    Boxes are [x, y, min(x + w, W - 1), min(y + h, H - 1)]; an empty mask is the point [0, 0, 0, 0].
    """
    height, width = u8.shape
    best = np.full(LEVELS, _best_iou(0, 0, 0, 0, truths))
    outer = _component_ious(_padded(u8), height, width, False, truths)
    holes = _component_ious(_padded(255 - u8), height, width, True, truths)
    for level in range(u8.max()):
        best[level] = max(outer[level], holes[254 - level])
    return best


@compiled
def _component_ious(values, height, width, holes, truths):
    """Best IoU over the components of `values > t`, padded and flat, for every t, (256,) float64, 0 without one."""
    low, high = 1 if holes else 0, 2 if holes else 1  # the boxes of holes grow by one pixel
    (order, parent), numbers = _component_tree(values, width, 4 if holes else 8), _own_numbers(height, width)
    best = np.zeros(LEVELS)
    for pixel in order:
        after = parent[pixel]
        base = values[after] if after >= 0 else 0
        x0, y0, x1, y1, _, _ = numbers[pixel]
        if values[pixel] > base and not (holes and (x0 == 0 or y0 == 0 or x1 == width - 1 or y1 == height - 1)):
            value = _best_iou(x0 - low, y0 - low, min(x1 + high, width - 1), min(y1 + high, height - 1), truths)
            for level in range(base, values[pixel]):
                best[level] = max(best[level], value)
        if after >= 0:
            _widen(numbers, after, pixel)
    return best


@compiled
def largest_boxes(u8):
    """The box of the largest contour at every level: u8 (H, W) uint8 -> (256, 4) int64, entry t for the mask `u8 > t`.

    Rows are contour boxes [x, y, x + w, y + h], not clamped to the frame; an empty mask has [-1, -1, -1, -1].
    """
    height, width = u8.shape
    filled = _fill_holes(u8)
    (order, parent), numbers = _component_tree(filled, width, 8), _own_numbers(height, width)
    _add_areas(filled, height, width, numbers[:, 5])
    boxes, best_area, best_first = np.full((LEVELS, 4), -1), np.full(LEVELS, -1), np.full(LEVELS, -1)
    for pixel in order:
        after, first, area = parent[pixel], numbers[pixel, 4], numbers[pixel, 5]
        for t in range(filled[after] if after >= 0 else 0, filled[pixel]):
            if area > best_area[t] or (area == best_area[t] and first > best_first[t]):
                boxes[t], best_first[t], best_area[t] = numbers[pixel, :4], first, area
        if after >= 0:
            _widen(numbers, after, pixel)
            numbers[after, 4] = min(numbers[after, 4], first)
            numbers[after, 5] += area
    boxes[:, 2:] += boxes[:, 2:] >= 0
    return boxes


@compiled
def _component_tree(values, width, connected):
    """The pixels above 0 of a padded flat frame, highest level first and row by row in one, (n,); and for each the one
    with which its component of 4 or 8 `connected` neighbours grows next, (values.size,), -1 where none does.

    A pixel comes after all that its component holds: one pass gathers the component's numbers. It is a component of the
    mask `values > t` from its own level down to that of the pixel that follows."""
    stride = width + 2
    starts = np.zeros(LEVELS + 1, np.int64)
    for value in values:
        starts[LEVELS - value] += 1
    starts = np.cumsum(starts)
    order = np.empty(starts[LEVELS - 1], np.int32)
    for pixel in range(values.size):
        if values[pixel] > 0:
            order[starts[LEVELS - 1 - values[pixel]]] = pixel
            starts[LEVELS - 1 - values[pixel]] += 1
    beside = np.array([-1, 1, -stride, stride, -stride - 1, -stride + 1, stride - 1, stride + 1])[:connected].copy()
    parent = np.full(values.size, -1, np.int32)
    root = np.full(values.size, -1, np.int32)  # of the pixels that are there, by union-find
    size = np.ones(values.size, np.int32)
    last = np.empty(values.size, np.int32)  # of a root: the pixel that came last
    for pixel in order:
        own = np.int32(-1)
        for step in beside:
            other = root[pixel + step]
            if other < 0 or other == own:
                continue
            while root[other] != other:  # the way to the root is halved
                root[other] = root[root[other]]
                other = root[other]
            if other == own:
                continue
            parent[last[other]] = pixel
            if own < 0:
                own = other
                continue
            if size[other] > size[own]:
                own, other = other, own
            root[other] = own
            size[own] += size[other]
        own = pixel if own < 0 else own
        root[pixel] = own
        size[own] += 1
        last[own] = pixel
    return order, parent


@compiled
def _fill_holes(u8):
    """Grey levels, padded and flat, without holes: of each pixel the lowest over which a 4-connected way leads out."""
    stride = u8.shape[1] + 2
    flat = _padded(u8)
    following = np.full(flat.size, -1, np.int32)  # of the same level, -1 ends the list
    waiting = np.full(LEVELS, -1, np.int32)
    known = np.ones(flat.size, np.bool_)
    known.reshape(-1, stride)[2:-2, 2:-2] = False
    for pixel in range(stride, flat.size - stride):  # the edge of the frame, and padding, from where no way goes on
        if known[pixel]:
            following[pixel] = waiting[flat[pixel]]
            waiting[flat[pixel]] = pixel
    for level in range(LEVELS):  # a flood, lowest level first
        while waiting[level] >= 0:
            pixel = waiting[level]
            waiting[level] = following[pixel]
            for step in (-1, 1, -stride, stride):
                other = pixel + step
                if not known[other]:
                    known[other] = True
                    reached = max(flat[other], np.uint8(level))
                    flat[other] = reached
                    following[other] = waiting[reached]
                    waiting[reached] = other
    return flat


@compiled
def _padded(u8):
    """A frame (H, W) with one pixel of 0 around it, flat."""
    frame = np.zeros((u8.shape[0] + 2, u8.shape[1] + 2), np.uint8)
    frame[1:-1, 1:-1] = u8
    return frame.reshape(-1)


@compiled
def _own_numbers(height, width):
    """Of each pixel of a padded frame alone, (n, 6) int32: its box, the first pixel row by row, and 0 for an area."""
    numbers = np.zeros((height + 2, width + 2, 6), np.int32)
    for y in range(height + 2):
        for x in range(width + 2):
            numbers[y, x, 0] = numbers[y, x, 2] = x - 1
            numbers[y, x, 1] = numbers[y, x, 3] = y - 1
            numbers[y, x, 4] = y * (width + 2) + x
    return numbers.reshape(-1, 6)


@compiled
def _add_areas(values, height, width, area):
    """Add to twice each contour's area what a pixel adds: 1 for each block of 2 x 2 where it comes third or fourth."""
    for y in range(1, height):
        for x in range(1, width):
            corner = y * (width + 2) + x
            last, third = corner, -1  # of equal levels the later pixel, row by row, comes later
            for other in (corner + 1, corner + width + 2, corner + width + 3):
                if values[other] <= values[last]:
                    last, third = other, last
                elif third < 0 or values[other] <= values[third]:
                    third = other
            area[last] += 1
            area[third] += 1


@compiled
def _widen(numbers, pixel, part):
    """Let a pixel's box hold another one's."""
    for corner in range(2):
        numbers[pixel, corner] = min(numbers[pixel, corner], numbers[part, corner])
        numbers[pixel, corner + 2] = max(numbers[pixel, corner + 2], numbers[part, corner + 2])


@register_jitable
def overlap(x0, y0, x1, y1, a, b, c, d):
    """The intersection and both areas in pixels of two boxes with inclusive corners: numbers in compiled code, arrays
    that fit each other elsewhere. The intersection's width and height are clamped at 0 separately: the product of two
    negative ones would give boxes that are disjoint in both axes a positive one."""
    width = np.maximum(np.minimum(x1, c) - np.maximum(x0, a) + 1, 0)
    height = np.maximum(np.minimum(y1, d) - np.maximum(y0, b) + 1, 0)
    return width * height, (x1 - x0 + 1) * (y1 - y0 + 1), (c - a + 1) * (d - b + 1)


@compiled
def _best_iou(x0, y0, x1, y1, truths):
    """IoU with the best ground-truth box."""
    best = 0.0
    for index in range(len(truths)):
        a, b, c, d = truths[index]
        shared, area, truth_area = overlap(x0, y0, x1, y1, a, b, c, d)
        best = max(best, shared / (area + truth_area - shared))
    return best

"""The boxes of all contours of a score map at all 256 thresholds in one pass over its grey levels, instead of a contour
search for each.

The mask `u8 > t` only grows as t falls, so its connected components form a tree (Salembier et al., IEEE TIP 1998; the
union-find over sorted pixels is that of Najman and Couprie, IEEE TIP 2006). What OpenCV's `findContours` with the full
tree would find in every mask follows from three such passes:

- outer boundaries are the 8-connected components of the mask: their bounding boxes;
- hole boundaries are the 4-connected components of the rest that do not reach the frame's edge: their bounding boxes
  grown by one pixel on each side;
- the largest contour by area is the outer boundary of a component of the mask *with its holes filled*. The area of a
  contour (a polygon through pixel centres) is the number of 2 x 2 blocks with four pixels inside plus half of those with
  three. Of contours with equal areas OpenCV lists the one first whose first pixel, row by row, comes last.

Everything here takes and returns plain arrays, is compiled by numba and runs without Python's lock. It is one module
because numba's cache on disk notices changes of a function's own file only.
"""

from __future__ import annotations

import numpy as np
from numba.extending import register_jitable

from wsolkit.common.compiled import compiled

LEVELS = 256


@compiled
def best_ious(u8, truths):
    """Best IoU of any contour's box with any ground-truth box at every level.

    u8 (H, W) uint8; truths (n, 4) float64 inclusive corners, n >= 1 -> (256,) float64, entry t for the mask `u8 > t`.
    Boxes are [x, y, min(x + w, W - 1), min(y + h, H - 1)]; an empty mask is the point [0, 0, 0, 0].
    """
    height, width = u8.shape
    stride, top = width + 2, u8.max()
    best = np.full(LEVELS, _best_iou(0, 0, 0, 0, truths))
    if top == 0:
        return best
    eight = np.array([-1, 1, -stride, stride, -stride - 1, -stride + 1, stride - 1, stride + 1])
    padded = np.zeros((height + 2, stride), np.uint8)
    padded[1:-1, 1:-1] = u8
    outer = _component_ious(padded.reshape(-1), height, width, eight, False, truths)
    padded[1:-1, 1:-1] = 255 - u8
    holes = _component_ious(padded.reshape(-1), height, width, eight[:4], True, truths)
    for level in range(top):
        best[level] = max(outer[level], holes[254 - level])
    return best


@compiled
def _component_ious(values, height, width, neighbours, holes, truths):
    """Best IoU over the components of `values > t` for every t, (256,) float64, 0 where there is none.

    values: flat uint8 of a frame with one pixel of padding. With `holes` the padding is the outside: what touches it is
    no hole, and boxes grow by one pixel.
    """
    stride, low, high = width + 2, 1 if holes else 0, 2 if holes else 1
    order, starts = _by_level(values, height, width)
    parent = np.full(values.size, -1, np.int32)
    size = np.ones(values.size, np.int32)
    extent = np.empty((values.size, 4), np.int32)  # of a root: x0, y0, x1, y1
    since = np.zeros(values.size, np.int32)  # the box of a root holds from here downwards ...
    value = np.zeros(values.size)  # ... and has this IoU
    changed = np.empty(values.size, np.int32)
    stamp = np.full(values.size, -1, np.int32)
    ranges = np.zeros((9, LEVELS))  # entry k, t stands for the thresholds t to t + 2^k - 1
    if holes:
        for x in range(stride):
            parent[x] = parent[(height + 1) * stride + x] = 0
        for y in range(height + 2):
            parent[y * stride] = parent[y * stride + stride - 1] = 0
        size[0] = values.size  # the outside is never absorbed, and no pixel widens it
        extent[0] = np.array([-1, -1, width, height], np.int32)
    for level in range(255, 0, -1):
        count = 0
        for place in range(starts[level], starts[level + 1]):
            pixel = order[place]
            root = np.int32(-1)
            for step in neighbours:
                other = parent[pixel + step]
                if other < 0 or other == root:
                    continue
                other = _find(parent, pixel + step)
                if other == root:
                    continue
                if root < 0:
                    root = other
                    continue
                if size[other] > size[root]:
                    root, other = other, root
                parent[other] = root
                size[root] += size[other]
                if since[other] > level:
                    _raise_range(ranges, level, since[other] - 1, value[other])
                if _widen(extent, root, *_box_of(extent, other)) and stamp[root] != level:
                    stamp[root] = level
                    changed[count] = root
                    count += 1
            y, x = pixel // stride - 1, pixel % stride - 1
            if root < 0:
                root = pixel
                _set_box(extent, root, x, y)
                grown = True
            else:
                grown = _widen(extent, root, x, y, x, y)
            size[root] += 1
            parent[pixel] = root
            if grown and stamp[root] != level:
                stamp[root] = level
                changed[count] = root
                count += 1
        for place in range(count):
            root = changed[place]
            if since[root] > level:
                _raise_range(ranges, level, since[root] - 1, value[root])
            since[root] = 0
            if parent[root] == root:
                since[root] = level
                x0, y0, x1, y1 = _box_of(extent, root)
                right, bottom = min(x1 + high, width - 1), min(y1 + high, height - 1)
                value[root] = _best_iou(x0 - low, y0 - low, right, bottom, truths)
    for place in range(starts[1], starts[256]):
        pixel = order[place]
        if parent[pixel] == pixel and since[pixel] > 0:
            _raise_range(ranges, 0, since[pixel] - 1, value[pixel])
    for k in range(8, 0, -1):
        half = 1 << (k - 1)
        for t in range(LEVELS - 2 * half + 1):
            ranges[k - 1, t] = max(ranges[k - 1, t], ranges[k, t])
            ranges[k - 1, t + half] = max(ranges[k - 1, t + half], ranges[k, t])
    return ranges[0]


@compiled
def largest_boxes(u8):
    """The box of the largest contour at every level: u8 (H, W) uint8 -> (256, 4) int64, entry t for the mask `u8 > t`.

    Rows are contour boxes [x, y, x + w, y + h], not clamped to the frame; an empty mask has [-1, -1, -1, -1].
    """
    height, width = u8.shape
    stride = width + 2
    boxes = np.full((LEVELS, 4), -1, np.int64)
    filled = _fill_holes(u8)
    order, starts = _by_level(filled, height, width)
    parent = np.full(filled.size, -1, np.int32)
    size = np.ones(filled.size, np.int32)
    area = np.zeros(filled.size, np.int32)  # twice the area of the contour
    first = np.empty(filled.size, np.int32)  # first pixel of the component, row by row
    extent = np.empty((filled.size, 4), np.int32)
    births = np.empty(filled.size, np.int32)  # every root is one of them
    alive = 0
    around = np.array([-stride, -stride + 1, 1, stride + 1, stride, stride - 1, -1, -stride - 1])
    best, best_area, best_first = np.int32(-1), np.int32(-1), np.int32(-1)
    for level in range(255, 0, -1):
        for place in range(starts[level], starts[level + 1]):
            pixel = order[place]
            root = np.int32(-1)
            seen = 0  # bit k: neighbour k, clockwise from the one above
            for k in range(8):
                other = parent[pixel + around[k]]
                if other < 0:
                    continue
                seen |= 1 << k
                if other == root:
                    continue
                other = _find(parent, pixel + around[k])
                if root < 0:
                    root = other
                elif other != root:
                    if size[other] > size[root]:
                        root, other = other, root
                    parent[other] = root
                    size[root] += size[other]
                    area[root] += area[other]
                    first[root] = min(first[root], first[other])
                    _widen(extent, root, *_box_of(extent, other))
            y, x = pixel // stride - 1, pixel % stride - 1
            if root < 0:
                root = pixel
                first[root] = pixel
                _set_box(extent, root, x, y)
                births[alive] = pixel
                alive += 1
            else:
                size[root] += 1
                first[root] = min(first[root], pixel)
                _widen(extent, root, x, y, x, y)
                wheel = seen | (seen << 8)
                for k in (0, 2, 4, 6):  # the four blocks of 2 x 2 with this pixel: third and fourth pixel count half
                    block = (wheel >> k) & 7
                    if block == 7 or block == 3 or block == 5 or block == 6:
                        area[root] += 1
            parent[pixel] = root
        rescan = False
        if best >= 0:
            best = _find(parent, best)
            rescan = area[best] == best_area and first[best] < best_first
            best_area, best_first = area[best], first[best]
        if rescan:  # the best one lost its rank among equals to one that did not change
            kept = 0
            for place in range(alive):
                root = births[place]
                if parent[root] == root:
                    births[kept] = root
                    kept += 1
                    if area[root] > best_area or (area[root] == best_area and first[root] > best_first):
                        best, best_area, best_first = root, area[root], first[root]
            alive = kept
        else:
            for place in range(starts[level], starts[level + 1]):
                root = _find(parent, order[place])
                if area[root] > best_area or (area[root] == best_area and first[root] > best_first):
                    best, best_area, best_first = root, area[root], first[root]
        if best >= 0:
            boxes[level - 1] = extent[best]
            boxes[level - 1, 2:] += 1
    return boxes


@compiled
def _fill_holes(u8):
    """Grey levels with every hole of every mask filled, padded by one pixel of 0, flat: a pixel gets the lowest level
    over which a 4-connected way leads out of the frame (a flood from the edge, lowest level first)."""
    height, width = u8.shape
    stride = width + 2
    frame = np.zeros((height + 2, stride), np.uint8)
    frame[1:-1, 1:-1] = u8
    flat = frame.reshape(-1)
    following = np.full(flat.size, -1, np.int32)  # of the same level, -1 ends the list
    waiting = np.full(LEVELS, -1, np.int32)
    known = np.ones(flat.size, np.bool_)
    known.reshape(frame.shape)[2:-2, 2:-2] = False
    for y in range(1, height + 1):
        for x in range(1, width + 1):
            pixel = y * stride + x
            if known[pixel]:
                following[pixel] = waiting[flat[pixel]]
                waiting[flat[pixel]] = pixel
    for level in range(LEVELS):
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
def _by_level(padded, height, width):
    """Pixels of a padded flat frame sorted by level, row by row within one: order (H * W,) and its starts (257,)."""
    stride = width + 2
    starts = np.zeros(LEVELS + 1, np.int64)
    for y in range(1, height + 1):
        for x in range(1, width + 1):
            starts[padded[y * stride + x] + 1] += 1
    for level in range(LEVELS):
        starts[level + 1] += starts[level]
    place = starts.copy()
    order = np.empty(height * width, np.int32)
    for y in range(1, height + 1):
        for x in range(1, width + 1):
            pixel = y * stride + x
            level = padded[pixel]
            order[place[level]] = pixel
            place[level] += 1
    return order, starts


@compiled
def _find(parent, pixel):
    """Root of a pixel's component; the way to it is halved."""
    while parent[pixel] != pixel:
        parent[pixel] = parent[parent[pixel]]
        pixel = parent[pixel]
    return np.int32(pixel)


@compiled
def _box_of(extent, root):
    return extent[root, 0], extent[root, 1], extent[root, 2], extent[root, 3]


@compiled
def _set_box(extent, root, x, y):
    extent[root, 0] = extent[root, 2] = x
    extent[root, 1] = extent[root, 3] = y


@compiled
def _widen(extent, root, x0, y0, x1, y1):
    """Let a root's box hold another one; whether that changed it."""
    a, b, c, d = _box_of(extent, root)
    if x0 >= a and y0 >= b and x1 <= c and y1 <= d:
        return False
    extent[root, 0], extent[root, 1] = min(a, x0), min(b, y0)
    extent[root, 2], extent[root, 3] = max(c, x1), max(d, y1)
    return True


@compiled
def _raise_range(ranges, low, high, value):
    """Let the maximum over thresholds low to high (inclusive) be at least `value`: two blocks of a power of two."""
    k = 0
    while (2 << k) <= high - low + 1:
        k += 1
    last = high - (1 << k) + 1
    ranges[k, low] = max(ranges[k, low], value)
    ranges[k, last] = max(ranges[k, last], value)


@register_jitable
def overlap(x0, y0, x1, y1, a, b, c, d):
    """The intersection and both areas in pixels of two boxes with inclusive corners: numbers in compiled code, arrays that
    fit each other elsewhere. The intersection's width and height are clamped at 0 separately: the product of two negative
    ones would give boxes that are disjoint in both axes a positive one."""
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

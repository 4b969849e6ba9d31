"""Boxes against reference vectors, against a slow naive implementation, and the traps one by one."""

from __future__ import annotations

import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
import straightforward
import torch

from wsolkit.boxes import extract as boxes
from wsolkit.boxes.extract import ContourBoxes, extract_box, iou, iou_curve
from wsolkit.boxes.preparation import normalise_map, prepare_map, resize_map, to_uint8

VECTORS = Path(__file__).parents[1] / "vectors"
CURVES = [("all", "multi", 0.001, 1000), ("all", "multi", 0.01, 100)]
CURVES += [("largest", "largest", 0.001, 1000), ("largest", "largest", 0.01, 100)]


def vector(name: str):
    return np.load(VECTORS / name, allow_pickle=False)


def smooth_map(seed: int, shape=(24, 30), grid=6) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return normalise_map(cv2.resize(rng.random((grid, grid)), shape[::-1], interpolation=cv2.INTER_CUBIC))


def naive_iou(a, b) -> float:
    """By counting pixels."""
    pixels = [{(x, y) for x in range(c[0], c[2] + 1) for y in range(c[1], c[3] + 1)} for c in (a, b)]
    return len(pixels[0] & pixels[1]) / len(pixels[0] | pixels[1])


# ------------------------------------------------------------------------------------------- reference vectors


@pytest.mark.parametrize(("contours", "name", "interval", "steps"), CURVES)
def test_curves_equal_the_reference_bit_for_bit(contours, name, interval, steps):
    data = vector("boxes.npz")
    assert len(data["u8"]) >= 15
    for u8, gt_boxes, expected in zip(data["u8"], data["gt_boxes"], data[f"iou_{name}_t{steps}"], strict=True):
        score_map = np.minimum((u8 + 0.5) / 255, 1.0)  # truncates back to exactly this u8
        assert np.array_equal(iou_curve(score_map, gt_boxes, interval, contours), expected)


@pytest.mark.parametrize(("contours", "name", "interval", "steps"), CURVES)
def test_curves_equal_the_whole_reference_set(shared, contours, name, interval, steps):
    data = np.load(shared("conformance/boxes.npz"), allow_pickle=False)
    expected = data[f"iou_{name}_t{steps}"]
    curves = [iou_curve(*pair, interval, contours) for pair in zip(data["scoremaps"], data["gt_boxes"], strict=True)]
    assert np.array_equal(np.stack(curves), expected)


def test_boxes_by_percentile_equal_the_reference():
    data = vector("rethinking_cam.npz")
    cams = np.concatenate([data["pas_cams"]] * 4)
    pairs = list(zip(cams, data["pas_params"], strict=True))
    published = np.stack([extract_box(cam, *parameters, protocol="rethinking_cam") for cam, parameters in pairs])
    assert len(published) == 48 and published.dtype == np.int64
    assert np.array_equal(published, data["pas_boxes_xyxy"])
    inside = np.stack([extract_box(cam, *parameters) for cam, parameters in pairs])
    assert np.array_equal(inside, published.clip(max=223)), "the kit's own convention ends inside the frame"


def test_iou_by_counting_pixels():
    corners = np.random.default_rng(0).integers(0, 9, (40, 2, 2))
    random_boxes = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)
    expected = [[naive_iou(a, b) for b in random_boxes[:7]] for a in random_boxes]
    assert np.array_equal(iou(random_boxes, random_boxes[:7]), expected)


# ------------------------------------------------------------------------------------------- traps


def test_disjoint_in_both_axes_is_zero():
    assert iou([[0, 0, 4, 4]], [[20, 20, 30, 30]])[0, 0] == 0.0  # two negative lengths must not multiply to a positive
    assert iou([0, 0, 1, 1], [2, 2, 3, 3])[0, 0] == 0.0


def test_iou_by_hand():
    assert iou([[0, 0, 1, 1]], [[1, 1, 2, 2]])[0, 0] == 1 / 7
    assert iou([[0, 0, 3, 3]], [[0, 0, 3, 3]])[0, 0] == 1.0
    assert iou([[0, 0, 0, 0]], [[0, 0, 3, 3]])[0, 0] == 1 / 16
    assert iou(np.zeros((0, 4)), [[0, 0, 3, 3]]).shape == (0, 1)


def test_ring_counts_the_holes_box():
    ring = np.zeros((20, 20))
    ring[2:18, 2:18] = 1
    ring[7:13, 7:13] = 0  # hole of 6 x 6 pixels
    hole = [[6, 6, 14, 14]]  # its boundary runs on the ring: grown by one pixel, and the corner convention adds one
    assert iou_curve(ring, hole, contours="all").max() == 1.0
    assert iou_curve(ring, hole, contours="largest").max() == 81 / 17**2
    found, largest = straightforward.contour_boxes(ring)
    assert sorted(found.tolist()) == [[2, 2, 18, 18], [6, 6, 14, 14]]
    assert found[largest].tolist() == [2, 2, 18, 18]


def test_one_pixel_wide_shapes_have_no_area():
    score_map = np.zeros((16, 16))
    score_map[8, 1:15] = 1  # a line of 14 pixels has contour area 0 ...
    score_map[1:4, 1:4] = 1  # ... and 3 x 3 pixels have area 4
    assert extract_box(score_map, 0.5, size=None).tolist() == [1, 1, 4, 4]
    line = np.zeros((16, 16))
    line[8, 1:15] = 1
    assert extract_box(line, 0.5, size=None).tolist() == [1, 8, 15, 9]  # alone it is a box all the same


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, -7.0, np.nan, np.inf])
def test_flat_or_nan_map_has_a_defined_answer(value):
    flat = np.full((5, 7), value, np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not normalise_map(flat).any()
        prepared = prepare_map(flat, (20, 30))
        assert prepared.shape == (20, 30) and not prepared.any()
        for contours in boxes.CONTOURS:
            curve = iou_curve(prepared, [[0, 0, 9, 9]], contours=contours)
            assert (curve == 1 / 100).all()  # the point [0, 0, 0, 0]
        rule = {"threshold": 0.35, "percentile": 90, "size": (20, 30), "return_empty": True}
        box, empty = extract_box(flat, **rule)
        published, too = extract_box(flat, **rule, protocol="rethinking_cam")
    assert box.tolist() == [0, 0, 0, 0] and empty is True, "a point: a miss"
    assert published.tolist() == [0, 0, 30, 20] and too is True, "the full frame: a hit where the object is large"


def test_one_nan_or_infinite_pixel_makes_a_map_zero():
    for bad in (np.nan, np.inf, -np.inf):
        score_map = np.random.default_rng(0).random((6, 6))
        score_map[2, 3] = bad
        assert not normalise_map(score_map).any()
        assert not prepare_map(score_map, 12).any()


def test_pas_on_sparse_maps_keeps_every_nonzero_pixel():
    sparse = np.zeros((20, 20))
    sparse[3:6, 4:9] = 0.01
    sparse[4, 5] = 1.0
    u8 = to_uint8(sparse)
    assert boxes.threshold_value(u8, 0.35, 90) == 0
    assert extract_box(sparse, 0.35, 90, size=None).tolist() == [4, 3, 9, 6]
    assert extract_box(sparse, 0.35, 100, size=None).tolist() == [5, 4, 6, 5]


def test_threshold_is_strict_on_the_truncated_level():
    score_map = np.array([[0, 0, 0, 0], [0, 51 / 255, 1, 0], [0, 0, 0, 0]])
    assert to_uint8(np.array([[0.9999, 1 / 255 + 1e-9]])).tolist() == [[254, 1]]  # truncated, never rounded
    at_51 = ContourBoxes((np.round(score_map * 255) + 0.4).clip(max=255) / 255)
    assert at_51.box(0.2)[0].tolist() == [2, 1, 3, 2]  # int(.2 * 255) = 51, and 51 > 51 is false
    assert at_51.box(0.199)[0].tolist() == [1, 1, 3, 2]


def test_min_max_follows_the_cubic_resize():
    step = np.zeros((8, 8), np.float32)
    step[:, 4:] = 1
    resized = resize_map(step, 64)
    assert resized.min() < -0.01 and resized.max() > 1.01  # cubic overshoots
    prepared = prepare_map(step, 64)
    assert prepared.min() == 0.0 and prepared.max() == 1.0 and prepared.dtype == np.float64
    assert np.array_equal(prepared, normalise_map(resized))


# ------------------------------------------------------------------------------------------- small exact cases


def test_a_four_by_four_map_by_hand():
    score_map = np.array([[0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.6, 0.0], [0.0, 0.6, 0.6, 0.0], [0.0, 0.0, 0.0, 0.3]])
    curve = iou_curve(score_map, [[1, 1, 3, 3]], interval=0.25, contours="all")
    # u8 = 255, 153, 76; levels 0, 63: all pixels touch, [1, 1, 3, 3]; 127: [1, 1, 3, 3]; 191: one pixel, [1, 1, 2, 2]
    assert curve.tolist() == [1.0, 1.0, 1.0, 4 / 9]
    assert iou_curve(score_map, [[0, 0, 0, 0]], interval=0.25).tolist() == [0, 0, 0, 0]


def test_boxes_end_inside_the_frame_but_for_the_published_rethinking_cam():
    score_map = np.zeros((6, 8))
    score_map[2:, 5:] = 1
    assert extract_box(score_map, 0.5, size=None).tolist() == [5, 2, 7, 5]
    assert extract_box(score_map, 0.5, size=None, protocol="rethinking_cam").tolist() == [5, 2, 8, 6]
    assert iou_curve(score_map, [[5, 2, 7, 5]]).max() == 1.0


def test_padding_rows_are_harmless():
    score_map = smooth_map(1)
    plain = iou_curve(score_map, [[5, 4, 20, 17]])
    padded = iou_curve(score_map, [[-1, -1, -1, -1], [5, 4, 20, 17], [-1, -1, -1, -1]])
    assert np.array_equal(plain, padded)
    assert np.array_equal(plain, iou_curve(score_map, [5, 4, 20, 17]))


def test_torch_and_float32_maps_are_welcome():
    score_map = smooth_map(2).astype(np.float32)
    expected = iou_curve(score_map, [[5, 4, 20, 17]])
    tensor = torch.tensor(score_map, requires_grad=True)
    assert np.array_equal(iou_curve(tensor, torch.tensor([[5, 4, 20, 17]])), expected)
    assert normalise_map(tensor.to(torch.bfloat16)).max() == 1.0


@pytest.mark.parametrize("bad", [np.full((4, 4), 1.5), -np.eye(4)])
def test_values_outside_the_range_are_refused(bad):
    with pytest.raises(ValueError, match="normalise_map first"):
        iou_curve(bad, [[0, 0, 1, 1]])


@pytest.mark.parametrize(
    ("gt_boxes", "message"),
    [
        ([], "no ground-truth box"),
        ([[-1, -1, -1, -1]], "no ground-truth box"),
        ([[0, 0, 3]], "shape"),
        ([[5, 5, 2, 8]], "x0 <= x1"),
    ],
)
def test_wrong_ground_truth_is_refused(gt_boxes, message):
    with pytest.raises(ValueError, match=message):
        iou_curve(np.eye(6), gt_boxes)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="interval"):
        iou_curve(np.eye(6), [[0, 0, 1, 1]], interval=0)
    with pytest.raises(ValueError, match="contours"):
        iou_curve(np.eye(6), [[0, 0, 1, 1]], contours="biggest")
    with pytest.raises(ValueError, match="percentile"):
        extract_box(np.eye(6), percentile=101)
    for threshold in (-0.3, np.nan, np.inf):
        with pytest.raises(ValueError, match="threshold must be"):
            extract_box(np.eye(6), threshold)
    with pytest.raises(ValueError, match=r"\(h, w\)"):
        extract_box(np.zeros((1, 6, 6)))
    with pytest.raises(ValueError, match="size"):
        resize_map(np.eye(6), (0, 5))


# ------------------------------------------------------------------------------------------- centre box


def test_centre_boxes():
    assert boxes.centre_boxes(64, [64, 48]).tolist() == [[0, 0, 63, 63], [8, 8, 55, 55]]
    assert boxes.centre_boxes((50, 100), [50]).tolist() == [[25, 12, 74, 36]]
    sides, ious = boxes.centre_box_curve([[[8, 8, 55, 55]], [[0, 0, 63, 63], [-1, -1, -1, -1]]], 64)
    assert ious.shape == (2, len(sides)) and sides[-1] == 64 and len(set(sides)) == len(sides)
    assert sides[ious[0].argmax()] == 48 and ious[0].max() == 1.0
    assert ious[1, -1] == 1.0


def test_centre_box_on_tiny_imagenet(shared):
    lines = shared("data/tiny-imagenet-200/val/val_annotations.txt").read_text().splitlines()
    truths = [np.array([line.split("\t")[2:6]], np.int64) for line in lines]
    sides, ious = boxes.centre_box_curve(truths, 64)
    accuracy = (ious >= 0.5).mean(axis=0) * 100
    assert 54 < accuracy.max() < 60  # 57.1 on the official 10,000 images; here a subset of them
    assert 46 <= sides[accuracy.argmax()] <= 54


def test_overlap_shares_tell_a_part_from_a_whole():
    truth = [[0, 0, 9, 9], [50, 50, 59, 59]]
    assert boxes.overlap_shares([0, 0, 4, 9], truth) == (0.5, 1.0)
    assert boxes.overlap_shares([0, 0, 19, 9], truth) == (1.0, 0.5)
    assert boxes.overlap_shares([50, 50, 59, 59], truth) == (1.0, 1.0)
    assert boxes.overlap_shares([20, 20, 29, 29], truth) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_map_with_nan_or_infinity_scores_as_an_empty_one(bad):
    score_map = np.eye(4)
    score_map[1, 2] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        curve = iou_curve(score_map, [[1, 1, 2, 2]], interval=0.5)
    assert curve.tolist() == iou_curve(np.zeros((4, 4)), [[1, 1, 2, 2]], interval=0.5).tolist() == [0.0, 0.0]

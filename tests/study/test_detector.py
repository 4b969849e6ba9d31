"""The detector of chapter 16: it learns from boxes, its body stays as it is, and AP50 is COCO's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torch import nn

from wsolkit.common.errors import WsolkitError
from wsolkit.localisation.localise import ScoreMaps
from wsolkit.study import detector as detectors

SIDE = 64


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_that_of_pycocotools(seed, capsys):
    draw, count, classes = np.random.default_rng(seed), 30, 3
    labels = draw.integers(classes, size=count)

    def boxes(number):
        first = draw.integers(0, 40, (number, 2))
        return np.c_[first, first + draw.integers(5, 24, (number, 2))]

    truths = [boxes(draw.integers(1, 4)) for _ in range(count)]
    image = draw.integers(count, size=300)
    near = np.array([draw.choice(truths[i]) for i in image]) + draw.integers(-3, 4, (300, 4))
    label = np.where(draw.random(300) < 0.7, labels[image], draw.integers(classes, size=300))
    detections = detectors.Detections(image, label, draw.permutation(300) / 300, near)

    def corners(box):
        x0, y0, x1, y1 = map(float, box)
        return [x0, y0, x1 - x0 + 1, y1 - y0 + 1]

    known = COCO()
    known.dataset = {"images": [{"id": i} for i in range(count)], "categories": [{"id": k} for k in range(classes)]}
    pairs = [(i, box) for i, own in enumerate(truths) for box in own]
    known.dataset["annotations"] = [
        {"id": k + 1, "image_id": i, "category_id": int(labels[i]), "bbox": corners(box), "iscrowd": 0}
        | {"area": float(np.prod(corners(box)[2:]))}
        for k, (i, box) in enumerate(pairs)
    ]
    known.createIndex()
    answers = [
        {"image_id": int(i), "category_id": int(k), "bbox": corners(box), "score": float(score)}
        for i, k, score, box in zip(*detections, strict=True)
    ]
    theirs = COCOeval(known, known.loadRes(answers), "bbox")
    theirs.evaluate()
    theirs.accumulate()
    theirs.summarize()

    ours, (low, high) = detectors.mean_average_precision(detections, truths, labels)
    assert ours == pytest.approx(100 * theirs.stats[1], abs=1e-6) and 20 < ours < 95
    assert low < ours < high


def test_no_detection_is_no_precision():
    nothing = detectors.Detections(*(np.zeros(0, np.int64) for _ in range(3)), np.zeros((0, 4), np.int64))
    truths, labels = [np.array([[0, 0, 9, 9]])] * 2, np.array([0, 1])
    assert detectors.mean_average_precision(nothing, truths, labels) == (0.0, (0.0, 0.0))
    assert not detectors.best_hits(nothing, truths, labels).any()


@pytest.fixture(scope="module")
def squares():
    """Images of noise with a bright (class 0) or dark (class 1) square, their boxes and labels, and a network
    whose body is a mean over cells of 8 pixels and a norm."""
    draw = np.random.default_rng(0)
    images, boxes, labels = draw.normal(0, 0.3, (24, 3, SIDE, SIDE)).astype(np.float32), [], np.arange(24) % 2
    for image, label in zip(images, labels, strict=True):
        (x, y), side = draw.integers(0, 36, 2), draw.integers(16, 28)
        image[:, y : y + side, x : x + side] += 2 - 4 * label
        boxes.append(np.array([[x, y, x + side - 1, y + side - 1]]))
    model = nn.Module()
    model.body = nn.Sequential(nn.AvgPool2d(8), nn.BatchNorm2d(3))
    model.eval()
    with torch.no_grad():
        features = model.body(torch.from_numpy(images))
    return model, torch.from_numpy(images), features, boxes, labels


def test_it_learns_and_its_body_stays(squares):
    model, images, features, boxes, labels = squares
    detector = detectors.build_detector(model, features.shape[1], SIDE, 2)
    body, state = {name: own.clone() for name, own in model.state_dict().items()}, torch.get_rng_state()
    losses = detectors.train_detector(detector, features, boxes, labels, steps=100)
    assert np.mean(losses[-10:]) < 0.6 * np.mean(losses[:10])
    assert not any(module.training for module in detector.modules())
    assert all(torch.equal(own, body[name]) for name, own in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state), "the reader's generator stays as it was"
    detections = detectors.detect(detector, features)
    assert detectors.best_hits(detections, boxes, labels).mean() > 0.7
    assert detections.box.min() >= 0 and detections.box.max() < SIDE and set(detections.label) <= {0, 1}

    with torch.inference_mode():  # torchvision's own way, from images
        answers = detector(list(images))
    scores = torch.cat([answer["scores"] for answer in answers])
    assert torch.allclose(scores, torch.from_numpy(detections.score), atol=1e-4)


def test_images_without_a_box_are_left_out(squares):
    model, _, features, boxes, labels = squares
    few = [own if place < 2 else own[:0] for place, own in enumerate(boxes)]

    def losses(rows, own):
        detector = detectors.build_detector(model, features.shape[1], SIDE, 2)
        return detectors.train_detector(detector, features[rows], own, labels[rows], steps=2)

    assert losses(slice(None), few) == pytest.approx(losses(slice(2), few[:2]), abs=1e-5)
    with pytest.raises(WsolkitError, match="no image has one"):
        losses(slice(None), [own[:0] for own in boxes])


def test_boxes_come_from_maps_or_are_given():
    maps = np.zeros((2, 8, 8), np.float32)
    maps[0, 2:4, 2:6] = 1
    logits, labels = np.array([[2.0, 0.0], [0.0, 3.0]], np.float32), np.array([0, 0])
    made = ScoreMaps(["a", "b"], labels, logits, maps)
    boxes = detectors.boxes_from_labels(made, "cam", 64)
    assert [own.shape for own in boxes] == [(1, 4), (0, 4)], "of an empty mask there is no box"
    own = detectors.of_method(made, "cam", 64)
    assert own.image.tolist() == [0] and own.label.tolist() == [0] and np.array_equal(own.box, boxes[0])
    given = ScoreMaps(["a", "b"], labels, logits, boxes=np.array([[0, 0, 1, 1], [0.25, 0.5, 0.75, 0.75]], np.float32))
    assert np.concatenate(detectors.boxes_from_labels(given, "psol", 64)).tolist() == [[0, 0, 63, 63], [16, 32, 47, 47]]
    assert detectors.of_method(given, "psol", 64).label.tolist() == [0, 1]

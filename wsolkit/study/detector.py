"""A detector on the frozen body of a classifier, and how well detectors find: what chapter 16 uses.

It is torchvision's Faster R-CNN. Its backbone is the body of a network of the kit, which stays as it is, so that its
feature maps are computed once; what learns is a convolution to few channels, the proposals, and
the heads of classes and boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import AnchorGenerator
from torchvision.ops import MultiScaleRoIAlign

from wsolkit.boxes.extract import iou
from wsolkit.boxes.shares import boxes_of_shares, shares_of_boxes
from wsolkit.common.errors import require
from wsolkit.data.base import WSOLDataset
from wsolkit.evaluation.metrics import average_precision, matched
from wsolkit.localisation.localise import ScoreMaps
from wsolkit.methods.maps import feature_map
from wsolkit.methods.psol import pseudo_boxes
from wsolkit.networks.models import WSOLModel

CHANNELS, CELLS, HIDDEN = 64, 4, 256  # after the first convolution; of a pooled proposal; of the heads
SIDES, ASPECTS = (0.25, 0.45, 0.65, 0.85), (0.5, 1.0, 2.0)  # of the anchors, shares of the image's side
BATCH, RATE = 8, 1e-3
DRAWS = 200  # of the bootstrap


class Detections(NamedTuple):
    """Boxes of some images: image (D,) int64, its place among them; label (D,) int64; score (D,); box (D, 4) int64
    inclusive corners in pixels."""

    image: np.ndarray
    label: np.ndarray
    score: np.ndarray
    box: np.ndarray


def boxes_from_labels(made: ScoreMaps, method: str, side: int) -> list[np.ndarray]:
    """The boxes of a method's maps at its fixed threshold, which no box chose: (1, 4) int64 inclusive corners in a
    frame of `side` pixels for each image, (0, 4) where the mask is empty. Where a method gives boxes, it is these."""
    empty = np.zeros(len(made), bool)
    shares, empty = pseudo_boxes(made.maps, method, (side, side)) if made.boxes is None else (made.boxes, empty)
    return [box[:0] if blank else box for box, blank in zip(boxes_of_shares(shares, side)[:, None], empty, strict=True)]


def of_method(made: ScoreMaps, method: str, side: int) -> Detections:
    """A method itself as a detector: one box in each image, of the class that the classifier predicts and as certain as
    that is. The map is that of the true class: where another one is predicted, the detection is wrong in any case."""
    boxes = boxes_from_labels(made, method, side)
    shown = np.flatnonzero([len(own) for own in boxes])
    certainty = torch.from_numpy(made.logits).softmax(dim=1).max(dim=1)
    score, label = certainty.values.numpy()[shown], certainty.indices.numpy()[shown]
    return Detections(shown, label, score, np.concatenate(boxes))


def frozen_features(model: WSOLModel, data: WSOLDataset, indices: np.ndarray, batch_size: int = 16) -> Tensor:
    """The feature maps (N, C, h, w) of some images, on the model's device."""
    device = next(model.parameters()).device
    parts = np.array_split(indices, -(-len(indices) // batch_size))
    return torch.cat([feature_map(model, data.images(part.tolist(), device)).clone() for part in parts])


def build_detector(model: WSOLModel, channels: int, side: int, classes: int, seed: int = 0) -> FasterRCNN:
    """Faster R-CNN on the body of `model`, for normalised images of `side` pixels; `channels` is C of its feature map.
    Labels are 1 to `classes`, as torchvision counts them: 0 is the background."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        backbone: Any = nn.Sequential(model.body, nn.Sequential(nn.Conv2d(channels, CHANNELS, 1), nn.ReLU()))
        backbone.out_channels = CHANNELS
        detector = FasterRCNN(
            backbone,
            rpn_anchor_generator=AnchorGenerator((tuple(round(share * side) for share in SIDES),), (ASPECTS,)),
            rpn_post_nms_top_n_train=100,
            rpn_post_nms_top_n_test=50,
            rpn_batch_size_per_image=64,
            box_roi_pool=MultiScaleRoIAlign(["0"], CELLS, 2),
            box_head=TwoMLPHead(CHANNELS * CELLS**2, HIDDEN),
            box_predictor=FastRCNNPredictor(HIDDEN, classes + 1),
            box_batch_size_per_image=32,
            box_score_thresh=0.01,
            box_detections_per_img=20,
            min_size=side,
            max_size=side,
            image_mean=(0.0, 0.0, 0.0),
            image_std=(1.0, 1.0, 1.0),
            size_divisible=1,
        )
    return detector.to(next(model.parameters()).device).eval()


def _run(detector: FasterRCNN, features: Tensor, targets: list[dict[str, Tensor]] | None = None) -> tuple[list, dict]:
    """What `detector(images, targets)` computes, from the feature maps of its body: (detections, losses)."""
    side = detector.transform.min_size[0]
    images = ImageList(features.new_empty(1).expand(len(features), 3, side, side), [(side, side)] * len(features))
    maps = {"0": detector.backbone[1](features)}
    proposals, first = detector.rpn(images, maps, targets)
    boxes, second = detector.roi_heads(maps, proposals, images.image_sizes, targets)
    return boxes, first | second


def train_detector(
    detector: FasterRCNN, features: Tensor, boxes: Sequence[np.ndarray], labels: np.ndarray, steps: int, seed: int = 0
) -> list[float]:
    """Train all but the body, for `steps` of BATCH images; the loss of each step.

    Args: features: (N, C, h, w). boxes: of each image (n, 4) inclusive corners in pixels; an image without a box is
        left out. labels: (N,) from 0.
    Raises: WsolkitError: no image has a box.
    """
    side, device, boxed = detector.transform.min_size[0], features.device, np.flatnonzero([len(own) for own in boxes])
    require(len(boxed), "a detector needs at least one box to learn from, and no image has one")
    edges = [torch.from_numpy(shares_of_boxes(own, side) * side).float().to(device) for own in boxes]
    targets = [
        {"boxes": own, "labels": torch.full((len(own),), int(label) + 1, device=device)}
        for own, label in zip(edges, labels, strict=True)
    ]
    learns = nn.ModuleList([detector.backbone[1], detector.rpn, detector.roi_heads])
    optimiser = torch.optim.AdamW(learns.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, total_steps=steps)
    rng, losses = np.random.default_rng(seed), list[float]()
    learns.train()
    with torch.random.fork_rng(devices=[]):  # torchvision draws which proposals count
        torch.manual_seed(seed)
        for _ in range(steps):
            rows = rng.choice(boxed, min(BATCH, len(boxed)), replace=False)
            loss = sum(_run(detector, features[rows], [targets[row] for row in rows])[1].values())
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            losses.append(float(loss.detach()))
    learns.eval()
    return losses


@torch.inference_mode()
def detect(detector: FasterRCNN, features: Tensor, batch_size: int = 16) -> Detections:
    """The boxes in the images of some feature maps (N, C, h, w) of the detector's body."""
    side = detector.transform.min_size[0]
    answers = [answer for part in features.split(batch_size) for answer in _run(detector, part)[0]]
    image = np.repeat(np.arange(len(answers)), [len(answer["scores"]) for answer in answers])
    box, label, score = (
        torch.cat([answer[name] for answer in answers]).cpu() for name in ("boxes", "labels", "scores")
    )
    shares = (box.double().numpy() / side).clip(0, 1)
    return Detections(image, label.numpy() - 1, score.numpy(), boxes_of_shares(shares, side))


def hits_of(detections: Detections, truths: Sequence[np.ndarray], labels: np.ndarray, delta: float = 0.5) -> np.ndarray:
    """Which detections are right, (D,) bool: as `matched` has it for the boxes of each image that are of its class.

    Args: truths: of each image (n, 4) inclusive corners. labels: (N,), the class of all objects of each image.
    """
    hits = np.zeros(len(detections.image), bool)
    for image, own in enumerate(truths):
        rows = np.flatnonzero((detections.image == image) & (detections.label == labels[image]))
        if len(rows) and len(own):
            hits[rows] = matched(iou(detections.box[rows], own), detections.score[rows], delta)
    return hits


def mean_average_precision(
    detections: Detections, truths: Sequence[np.ndarray], labels: np.ndarray, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """AP50 in percent, the mean over the classes that have a true box, and its 95 % bootstrap interval over images."""
    hits, order = hits_of(detections, truths, labels), np.argsort(-detections.score, kind="stable")
    counts = np.array([len(own) for own in truths])
    draws = np.random.default_rng(seed).multinomial(len(labels), np.full(len(labels), 1 / len(labels)), DRAWS)
    values = []
    for often in (np.ones(len(labels)), *draws):
        classes = []
        for label in np.unique(labels):
            rows, total = order[detections.label[order] == label], (often * counts)[labels == label].sum()
            if total:
                classes.append(average_precision(hits[rows], total, often[detections.image[rows]]))
        values.append(100 * float(np.mean(classes)))
    low, high = np.percentile(values[1:], (2.5, 97.5))
    return values[0], (float(low), float(high))


def best_hits(
    detections: Detections, truths: Sequence[np.ndarray], labels: np.ndarray, delta: float = 0.5
) -> np.ndarray:
    """Whether the most certain box of each image's class has an IoU of at least `delta` with a true one, (N,) bool: its
    mean is GT-known Loc. An image without a box of its class is a miss."""
    hits = np.zeros(len(labels), bool)
    for row in np.argsort(detections.score, kind="stable"):  # the most certain one comes last
        image = detections.image[row]
        if detections.label[row] == labels[image]:
            hits[image] = iou(detections.box[row], truths[image]).max() >= delta
    return hits

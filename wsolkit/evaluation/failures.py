"""What kind of miss it was: a failure type per image, and accuracy by object size, aspect and class. No model needed.

Tables are per-image tables (`wsolkit.evaluation.per_image`); images without ground-truth boxes are left out of every count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from wsolkit.boxes.extract import ground_truth, ground_truths, overlaps
from wsolkit.boxes.preparation import as_numpy, frame
from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing
from wsolkit.evaluation.intervals import share_interval
from wsolkit.evaluation.metrics import same_lengths
from wsolkit.evaluation.per_image import FAILURES, flags, measured

INSTANCE_SHARE, PART_SHARE, LARGE_SHARE = 0.3, 0.5, 0.7
DELTA = 0.5

SIZE_EDGES = (0.1, 0.25, 0.5)  # of the frame's area
SIZES = ("below 10 %", "10 to 25 %", "25 to 50 %", "50 % and more")
ASPECTS = ("tall (below 2:3)", "about square", "wide (above 3:2)")


# ------------------------------------------------------------------------------------------------ failure types


def failure_types(boxes, gt_boxes: Sequence, right=None, empty=None, delta: float = DELTA) -> list[str]:
    """The failure type of each of N images, one of the keys of FAILURES.

    boxes: (N, 4) predicted boxes, inclusive corners; gt_boxes: N arrays (n, 4), rows of -1 are padding.
    right: (N,) was the class right; None, for all or for one image, where that is not known.
    empty: (N,) was the map's mask empty, so that the box means nothing; None: never. delta: the IoU of a hit, (0, 1].

    With IoG = intersection / area of a ground-truth box and IoP = intersection / area of the predicted box, the first
    that holds: IoU >= delta with an object: "right", or "wrong class"; the mask was empty: "background"; IoG > 0.3 for
    at least two objects: "multiple instances"; and for the object of best IoU (the first of equals) IoP > 0.5: "part
    only"; IoG >= 0.7: "too large"; otherwise "background". So "right" is Top-1 Loc, and "right" with "wrong class"
    GT-known Loc, exactly.

    Source: types, thresholds and order are those of the error analysis of TS-CAM (Gao et al., ICCV 2021; its published
    code). Two things differ, so that the shares add up to the two accuracies: a wrong class counts as such only where
    the box is a hit (there: wherever the class is wrong), and an IoU of exactly delta is a hit (there: a miss).
    ValueError: unequal lengths, boxes that are not finite x0 <= x1, y0 <= y1, images without a ground-truth box.
    """
    boxes = as_numpy(boxes)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise WsolkitError(f"boxes have shape (N, 4) as x0, y0, x1, y1, got {boxes.shape}")
    if not 0 < delta <= 1:
        raise WsolkitError(f"delta must be in (0, 1], got {delta}")
    same_lengths(boxes=boxes, gt_boxes=gt_boxes, right=right, empty=empty)
    good = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
    if not good.all():
        bad = listing(np.flatnonzero(~good).tolist())
        raise WsolkitError(f"boxes need finite x0 <= x1 and y0 <= y1, wrong in rows {bad}")
    if len(boxes) == 0:
        return []
    truths = ground_truths(gt_boxes, range(len(boxes)))
    counts = np.array([len(truth) for truth in truths])
    owner = np.repeat(np.arange(len(boxes)), counts)
    first = np.cumsum(counts) - counts
    shared, area, gt_area = overlaps(boxes[owner], np.concatenate(truths))
    ious = shared / (area + gt_area - shared)
    best = np.maximum.reduceat(ious, first)
    ties = np.flatnonzero(ious == best[owner])
    best_pair = ties[np.unique(owner[ties], return_index=True)[1]]

    hit = best >= delta
    nobody = np.zeros(len(boxes), bool)
    conditions = {
        "right": hit & ~(nobody if right is None else (~flags(right)).fillna(False).to_numpy(bool)),
        "wrong class": hit,
        "background": nobody if empty is None else as_numpy(empty).astype(bool),
        "multiple instances": np.add.reduceat((shared / gt_area > INSTANCE_SHARE).astype(np.int64), first) >= 2,
        "part only": (shared / area)[best_pair] > PART_SHARE,
        "too large": (shared / gt_area)[best_pair] >= LARGE_SHARE,
    }
    return np.select(list(conditions.values()), list(conditions), "background").tolist()


def object_shape(gt_boxes, size: int | Sequence[int]) -> tuple[float, float]:
    """(share of the frame's area, width / height) of the largest ground-truth box, the first of equals.

    gt_boxes (n, 4), inclusive corners; size: the frame, an int (a square) or (H, W). Both are as in this frame: where
    images were made square, so were their objects.
    """
    height, width = frame(size)
    boxes = ground_truth(gt_boxes)
    sides = boxes[:, 2:] - boxes[:, :2] + 1
    wide, high = sides[int(np.argmax(sides.prod(axis=1)))].tolist()
    return wide * high / (height * width), wide / high


# ------------------------------------------------------------------------------------------------ counting


def failure_counts(source) -> dict[str, int]:
    """How many images of a per-image table fail in which way: all names of FAILURES, in that order."""
    names = measured(source, "failure")["failure"]
    counts = names.value_counts()
    if unknown := [str(name) for name in names.unique() if name not in FAILURES]:
        raise WsolkitError(f"unknown failure types {listing(unknown)}; expected {', '.join(FAILURES)}")
    return {name: int(counts.get(name, 0)) for name in FAILURES}


def slice_groups(table: pd.DataFrame, classes: Sequence[str] | None = None) -> list[tuple[str, str, np.ndarray]]:
    """(kind, slice, row positions) of "all", of every size and aspect, and of every class that occurs, by label.

    classes: a name per label; labels beyond it, and all without it, are called by their number.
    """
    share, aspect = (table[name].to_numpy(float) for name in ("object_share", "aspect"))
    if not (np.isfinite(share).all() and np.isfinite(aspect).all()):
        raise WsolkitError("object_share and aspect must be given for every image that has an IoU")
    groups = [("all", "all images", np.arange(len(table)))]
    size = np.searchsorted(SIZE_EDGES, share, side="right")
    groups += [("size", name, np.flatnonzero(size == index)) for index, name in enumerate(SIZES)]
    shape = 1 + (aspect > 3 / 2).astype(int) - (aspect < 2 / 3)
    groups += [("aspect", name, np.flatnonzero(shape == index)) for index, name in enumerate(ASPECTS)]
    labels, names = table["label"].to_numpy(), dict(enumerate([] if classes is None else classes))
    order = np.argsort(labels, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        label = int(labels[rows[0]])
        groups.append(("class", str(names.get(label, label)), rows))
    return groups


def slices(source, classes: Sequence[str] | None = None) -> pd.DataFrame:
    """Accuracy and failures by object size, aspect and class, from a per-image table (or its file, folder or result).

    Columns: kind ("all", "size", "aspect", "class"), slice, n, gt_known_loc, low, high (its 95 % interval, Wilson's),
    mean_iou (0 to 1), top1_loc (NaN where the class of an image is not known), and a column per failure type with its
    share; all but n and mean_iou in percent. Size is the largest object's share of the frame; aspect is its width /
    height, tall below 2/3 and wide above 3/2. Every size and aspect has a row, so that tables can be laid side by side:
    n = 0 and NaN without images. Classes have one where they occur, ordered by label.

    classes: a name per label.
    """
    table = measured(source, "label", "right", "object_share", "aspect", "failure")
    failure_counts(table)  # unknown names
    ious, failures = table["iou"].to_numpy(float), table["failure"].to_numpy()
    hits, right = ious >= DELTA, flags(table["right"])
    unknown, correct = right.isna().to_numpy(), right.fillna(False).to_numpy(bool)
    rows = []
    for kind, name, index in slice_groups(table, classes):
        row: dict = {"kind": kind, "slice": name, "n": len(index)}
        if len(index):
            row["gt_known_loc"] = hits[index].sum() * 100.0 / len(index)
            row["low"], row["high"] = share_interval(hits[index])
            row["mean_iou"] = ious[index].mean()
            row["top1_loc"] = np.nan if unknown[index].any() else (hits & correct)[index].sum() * 100.0 / len(index)
            row |= {failure: (failures[index] == failure).sum() * 100.0 / len(index) for failure in FAILURES}
        rows.append(row)
    columns = ["kind", "slice", "n", "gt_known_loc", "low", "high", "mean_iou", "top1_loc", *FAILURES]
    return pd.DataFrame(rows, columns=columns)

"""The per-image table: what kind of miss each image is, the file, and accuracy by object size, aspect and class.

A row per image, as `EvalResult.per_image` gives it and per_image.csv holds it. Rows without an IoU are images without
ground-truth boxes (masks only), which are left out of every count. The module needs numpy and pandas, no torch.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsolkit.boxes.extract import ground_truth, ground_truths, overlaps
from wsolkit.boxes.preparation import as_numpy, frame
from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import listing
from wsolkit.evaluation.metrics import percent, same_lengths, share_interval

FAILURES = {  # name -> what it means, in the order in which tables and figures show them
    "right": "The box has an IoU of at least 0.5 with an object, and the class is right or not known.",
    "wrong class": "The box has an IoU of at least 0.5 with an object, but another class was predicted.",
    "part only": "More than half of the box lies on the object, but it covers too little of it.",
    "too large": "The box covers at least 70 % of the object, but at least half of the box lies beside it.",
    "multiple instances": "The box covers more than 30 % of each of several objects, and fits none of them.",
    "background": "The box misses the objects, wholly or for the most part, or the map's mask was empty.",
}
DELTA = 0.5
INSTANCE_SHARE, PART_SHARE, LARGE_SHARE = 0.3, 0.5, 0.7
SIZE_EDGES = (0.1, 0.25, 0.5)  # of the frame's area
SIZES = ("below 10 %", "10 to 25 %", "25 to 50 %", "50 % and more")
ASPECTS = ("tall (below 2:3)", "about square", "wide (above 3:2)")


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
    require(0 < delta <= 1, f"delta must be in (0, 1], got {delta}")
    same_lengths(boxes=boxes, gt_boxes=gt_boxes, right=right, empty=empty)
    good = np.isfinite(boxes).all(axis=1) & (boxes[:, 2:] >= boxes[:, :2]).all(axis=1)
    bad = listing(np.flatnonzero(~good).tolist())
    require(not bad, f"boxes need finite x0 <= x1 and y0 <= y1, wrong in rows {bad}")
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


def flags(values) -> pd.Series:
    """Booleans with <NA> where unknown, from booleans, None, NaN or <NA>."""
    return pd.Series(pd.array(list(as_numpy(values)), dtype="boolean"))


def parse_boxes(text: str) -> list[tuple[float, ...]]:
    """The boxes of a gt_boxes cell "x0 y0 x1 y1; x0 y0 x1 y1", sorted; ValueError when it is something else."""
    boxes = [tuple(float(corner) for corner in part.split()) for part in text.split(";")]
    if any(len(box) != 4 or not (box[0] <= box[2] < math.inf and box[1] <= box[3] < math.inf) for box in boxes):
        raise WsolkitError(f"boxes are written as x0 y0 x1 y1; x0 y0 x1 y1, got {text!r}")
    return sorted(boxes)


WHOLE = 2**31 - 1
NOTHING = (None, None)
_TEXT = ("text", NOTHING, "")
_FLAG = ("bool", NOTHING, "True or False")
_CORNER = ("int64", (-WHOLE, WHOLE), "a whole number")
_SHARE = ("float64", (0, 1), "a number from 0 to 1")
COLUMNS: dict[str, tuple[str, tuple[Any, Any], str]] = {  # name -> kind of its cells, their range, what is expected
    "id": _TEXT,
    "label": ("int64", (-1, WHOLE), "a class number from 0, or -1 where it is not known"),
    "predicted": ("int64", (0, WHOLE), "a class number from 0"),
    "right": _FLAG,
    "iou": _SHARE,
    "localised": _FLAG,
    **dict.fromkeys(("x0", "y0", "x1", "y1"), _CORNER),
    "empty": _FLAG,
    "gt_boxes": ("boxes", NOTHING, "boxes x0 y0 x1 y1; x0 y0 x1 y1 with x0 <= x1, y0 <= y1"),
    "object_share": _SHARE,
    "aspect": ("float64", (sys.float_info.min, sys.float_info.max), "a positive number"),
    "failure": ("failure", NOTHING, f"one of {', '.join(FAILURES)}"),
}
WITH_BOXES = tuple(COLUMNS)[5:]  # what is known where there is an IoU
OPTIONAL = {f"iou_{point}": _SHARE for point in ("fixed", "pseudo_boxes", "validation", "best_on_test")}
OPTIONAL["pixel_ap"] = ("float64", (0, 100), "a number from 0 to 100")
READERS: dict[str, Callable[[str], Any]] = {  # kind -> reader of a cell; what is no number or flag stays text
    **{"int64": int, "float64": float, "bool": {"True": True, "False": False}.__getitem__},
    **{"text": str, "boxes": parse_boxes, "failure": FAILURES.__getitem__},
}
DTYPES = {"int64": "Int64", "bool": "boolean", "float64": "float64"}  # kind -> the dtype that holds gaps too


def csv_lines(path: str | Path, expected: str) -> list[tuple[int, list[str]]]:
    """The lines of a csv file that are not empty, with their numbers; both errors say what is expected."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; expected {expected}") from None
    except (csv.Error, UnicodeDecodeError, OSError) as error:  # a folder, say
        raise WsolkitError(f"{path} is not a readable csv file ({error}); expected {expected}") from error


def read_per_image(path: str | Path) -> pd.DataFrame:
    """per_image.csv as a table: ids stay text ("007" and "NA" too), True and False become booleans.

    Columns: those of COLUMNS, in any order, the optional iou_<operating point> and pixel_ap, and any other, which stays
    text. Numbers are int64 and float64, flags bool; with empty cells Int64, NaN and boolean with <NA>.
    FileNotFoundError: no such file. ValueError, one for the whole file, which lists the first 20: columns that are
    missing, lines of another length, cells that are not what they should be, ids that occur twice, no image at all.
    """
    lines = csv_lines(path, "a per-image table, which an evaluation writes")
    header, rows = lines[0][1] if lines else [], lines[1:]
    absent, twice = [name for name in COLUMNS if name not in header], len(set(header)) < len(header)
    if absent or twice or not rows:
        lacks = f"lacks the columns {', '.join(absent)}"
        fault = lacks if absent else "names a column twice" if twice else "has no rows"
        raise WsolkitError(f"{path} {fault}: it is no per-image table of this version, evaluate again")
    columns = {name: (COLUMNS | OPTIONAL).get(name, _TEXT) for name in header}
    table: dict[str, list] = {name: [] for name in header}
    problems: list[tuple[int, str]] = []
    seen: dict[str, int] = {}
    for line, row in rows:
        if len(row) != len(header):
            problems.append((line, f"{len(row)} cells, expected {len(header)}"))
            continue
        cells = dict(zip(header, row, strict=True))
        if cells["id"] and seen.setdefault(cells["id"], line) != line:
            problems.append((line, f"the id {cells['id']!r} is that of line {seen[cells['id']]} too"))
        needed = ("id", "label", *(WITH_BOXES if cells["iou"] else ()))
        problems += [(line, f"{name} is empty") for name in needed if not cells[name]]
        for name, (kind, (low, high), expected) in columns.items():
            value, text = None, cells[name]
            try:
                value = READERS[kind](text) if text else None
                if value is not None and low is not None and not low <= value <= high:
                    raise ValueError
            except (ValueError, KeyError):
                problems.append((line, f"{name} is {text!r}, expected {expected}"))
            table[name].append(value if kind in DTYPES else text)
    if problems:
        listed = [f"line {line}: {text}" for line, text in sorted(problems)]
        raise WsolkitError(f"{path} is not as expected: {listing(listed, '; ')}; correct it or evaluate again")
    numbers = {name: kind for name, (kind, *_) in columns.items() if kind in DTYPES}
    numbers |= {name: DTYPES[kind] for name, kind in numbers.items() if None in table[name]}
    return pd.DataFrame(table).astype(numbers)


def measured(source, *columns: str) -> pd.DataFrame:
    """The rows with an IoU of a per-image table, of the path of a per_image.csv, of a folder that holds one, or of a
    result; ValueError when there are none or columns are missing."""
    if isinstance(source, str | Path):
        path = Path(source)
        source = read_per_image(path / "per_image.csv" if path.is_dir() else path)
    table = source.per_image() if hasattr(source, "per_image") else source
    need = "a per-image table, the path of a per_image.csv or a result is expected"
    require(isinstance(table, pd.DataFrame), f"{need}, got {type(source).__name__}")
    absent = ", ".join(name for name in ("iou", *columns) if name not in table)
    require(not absent, f"the per-image table lacks the columns {absent}; it has {', '.join(map(str, table))}")
    rows = table[table["iou"].notna()]
    require(len(rows), "no image of this per-image table has an IoU: there are no ground-truth boxes in it")
    return rows


def failure_counts(source) -> dict[str, int]:
    """How many images of a per-image table fail in which way: all names of FAILURES, in that order."""
    counts = measured(source, "failure")["failure"].value_counts(dropna=False)
    if unknown := [str(name) for name in counts.index if name not in FAILURES]:
        raise WsolkitError(f"unknown failure types {listing(unknown)}; expected {', '.join(FAILURES)}")
    return {name: int(counts.get(name, 0)) for name in FAILURES}


def slice_groups(table: pd.DataFrame, classes: Sequence[str] | None = None) -> list[tuple[str, str, np.ndarray]]:
    """(kind, slice, row positions) of "all", of every size and aspect, and of every class that occurs, by label.

    classes: a name per label; labels beyond it, and all without it, are called by their number.
    """
    share, aspect = shapes = table[["object_share", "aspect"]].to_numpy(float).T
    require(np.isfinite(shapes).all(), "object_share and aspect must be given for every image that has an IoU")
    size, shape = np.searchsorted(SIZE_EDGES, share, side="right"), 1 + (aspect > 3 / 2) - (aspect < 2 / 3).astype(int)
    kinds = {"size": (SIZES, size), "aspect": (ASPECTS, shape)}
    groups = [("all", "all images", np.arange(len(table)))]
    for kind, (titles, place) in kinds.items():
        groups += [(kind, title, np.flatnonzero(place == index)) for index, title in enumerate(titles)]
    names, labels = dict(enumerate(classes or ())), table["label"].to_numpy()
    present = np.unique(labels).tolist()
    return groups + [("class", str(names.get(label, label)), np.flatnonzero(labels == label)) for label in present]


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
        row: dict[str, Any] = {"kind": kind, "slice": name, "n": len(index)}
        if len(index):
            row |= {"gt_known_loc": percent(hits[index]), "mean_iou": ious[index].mean()}
            row["low"], row["high"] = share_interval(hits[index])
            row["top1_loc"] = np.nan if unknown[index].any() else percent((hits & correct)[index])
            row |= {failure: percent(failures[index] == failure) for failure in FAILURES}
        rows.append(row)
    columns = ["kind", "slice", "n", "gt_known_loc", "low", "high", "mean_iou", "top1_loc", *FAILURES]
    return pd.DataFrame(rows, columns=columns)

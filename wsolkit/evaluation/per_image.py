"""The per-image table: a row per image, as `EvalResult.per_image` gives it and per_image.csv holds it.

Rows without an IoU are images without ground-truth boxes (masks only). The module needs numpy and pandas, no torch.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from wsolkit.boxes.preparation import as_numpy
from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing

FAILURES = {  # name -> what it means, in the order in which tables and figures show them
    "right": "The box has an IoU of at least 0.5 with an object, and the class is right or not known.",
    "wrong class": "The box has an IoU of at least 0.5 with an object, but another class was predicted.",
    "part only": "More than half of the box lies on the object, but it covers too little of it.",
    "too large": "The box covers at least 70 % of the object, but at least half of the box lies beside it.",
    "multiple instances": "The box covers more than 30 % of each of several objects, and fits none of them.",
    "background": "The box misses the objects, wholly or for the most part, or the map's mask was empty.",
}


def parse_boxes(text: str) -> list[tuple[float, ...]]:
    """The boxes of a gt_boxes cell "x0 y0 x1 y1; x0 y0 x1 y1", sorted; ValueError when it is something else."""
    boxes = [tuple(float(corner) for corner in part.split()) for part in text.split(";")]
    if any(len(box) != 4 or not (box[0] <= box[2] < math.inf and box[1] <= box[3] < math.inf) for box in boxes):
        raise WsolkitError(f"boxes are written as x0 y0 x1 y1; x0 y0 x1 y1, got {text!r}")
    return sorted(boxes)


def flags(values) -> pd.Series:
    """Booleans with <NA> where unknown, from booleans, None, NaN or <NA>."""
    return pd.Series(pd.array(list(as_numpy(values)), dtype="boolean"))


# ------------------------------------------------------------------------------------------------ reading


def _number(convert: Callable, low: float, high: float) -> Callable[[str], object]:
    """A reader of one cell: its number; ValueError where it is none or outside [low, high]."""

    def read(text: str):
        if low <= (value := convert(text)) <= high:
            return value
        raise ValueError

    return read


WHOLE = 2**31 - 1
TEXT = ("text", str, "")
_FLAG = ("bool", {"True": True, "False": False}.__getitem__, "True or False")
_CORNER = ("int", _number(int, -WHOLE, WHOLE), "a whole number")
_SHARE = ("float", _number(float, 0, 1), "a number from 0 to 1")
COLUMNS: dict[str, tuple[str, Callable[[str], object], str]] = {  # name -> kind, reader of a cell, what is expected
    "id": TEXT,
    "label": ("int", _number(int, -1, WHOLE), "a class number from 0, or -1 where it is not known"),
    "predicted": ("int", _number(int, 0, WHOLE), "a class number from 0"),
    "right": _FLAG,
    "iou": _SHARE,
    "localised": _FLAG,
    **dict.fromkeys(("x0", "y0", "x1", "y1"), _CORNER),
    "empty": _FLAG,
    "gt_boxes": ("text", parse_boxes, "boxes x0 y0 x1 y1; x0 y0 x1 y1 with x0 <= x1, y0 <= y1"),
    "object_share": _SHARE,
    "aspect": ("float", _number(float, sys.float_info.min, sys.float_info.max), "a positive number"),
    "failure": ("text", FAILURES.__getitem__, f"one of {', '.join(FAILURES)}"),
}
OPTIONAL = {f"iou_{point}": _SHARE for point in ("fixed", "validation", "best_on_test")}
OPTIONAL["pixel_ap"] = ("float", _number(float, 0, 100), "a number from 0 to 100")
GIVEN_WITH_IOU = ("localised", "x0", "y0", "x1", "y1", "gt_boxes", "object_share", "aspect", "failure")
DTYPES = {"int": ("int64", "Int64"), "bool": ("bool", "boolean"), "float": ("float64", "float64")}


def csv_lines(path: str | Path, expected: str) -> list[tuple[int, list[str]]]:
    """The lines of a csv file that are not empty, with their numbers; both errors say what is expected."""
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            return [(reader.line_num, row) for row in reader if row]
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} does not exist; expected {expected}") from None
    except (csv.Error, UnicodeDecodeError) as error:
        raise WsolkitError(f"{path} is not a readable csv file ({error}); expected {expected}") from error


def read_per_image(path: str | Path) -> pd.DataFrame:
    """per_image.csv as a table: ids stay text ("007" and "NA" too), True and False become booleans.

    Columns: those of COLUMNS, in any order, the optional iou_fixed, iou_validation, iou_best_on_test and pixel_ap, and any
    other, which stays text. Numbers are int64 and float64, flags bool; with empty cells Int64, NaN and boolean with <NA>.
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
    readers, problems = COLUMNS | OPTIONAL, []
    table: dict[str, list] = {name: [] for name in header}
    seen: dict[str, int] = {}
    for line, row in rows:
        if len(row) != len(header):
            problems.append((line, f"{len(row)} cells, expected {len(header)}"))
            continue
        cells = dict(zip(header, row, strict=True))
        if cells["id"] and seen.setdefault(cells["id"], line) != line:
            problems.append((line, f"the id {cells['id']!r} is that of line {seen[cells['id']]} too"))
        for name, text in cells.items():
            kind, read, expected = readers.get(name, TEXT)
            value = None
            if text == "" and (name in ("id", "label") or (name in GIVEN_WITH_IOU and cells["iou"] != "")):
                problems.append((line, f"{name} is empty"))
            elif text:
                try:
                    value = read(text)
                except (ValueError, KeyError):
                    problems.append((line, f"{name} is {text!r}, expected {expected}"))
            table[name].append(text if kind == "text" else value)
    if problems:
        listed = [f"line {line}: {text}" for line, text in sorted(problems)]
        raise WsolkitError(f"{path} is not as expected: {listing(listed, '; ')}; correct it or evaluate again")
    kinds = {name: readers.get(name, TEXT)[0] for name in header}
    dtypes = {name: DTYPES[kind][None in table[name]] for name, kind in kinds.items() if kind != "text"}
    return pd.DataFrame({name: pd.Series(values, dtype=dtypes.get(name)) for name, values in table.items()})


def measured(source, *columns: str) -> pd.DataFrame:
    """The rows with an IoU of a per-image table, of the path of a per_image.csv, of a folder that holds one, or of a
    result; ValueError when there are none or columns are missing."""
    if isinstance(source, str | Path):
        path = Path(source)
        table = read_per_image(path / "per_image.csv" if path.is_dir() else path)
    elif isinstance(source, pd.DataFrame):
        table = source
    elif hasattr(source, "per_image"):
        table = source.per_image()
    else:
        kind = type(source).__name__
        raise WsolkitError(f"a per-image table, the path of a per_image.csv or a result is expected, got {kind}")
    if absent := [name for name in ("iou", *columns) if name not in table]:
        raise WsolkitError(
            f"the per-image table lacks the columns {', '.join(absent)}; it has {', '.join(map(str, table))}"
        )
    rows = table[table["iou"].notna()]
    if len(rows) == 0:
        raise WsolkitError("no image of this per-image table has an IoU: there are no ground-truth boxes in it")
    return rows

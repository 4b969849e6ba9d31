"""What predicted boxes tell without true ones: how much of an image they cover, how many touch its border, and how far
those of two methods agree. None of it is accuracy: methods may agree on what is wrong.

A table has a row for each image of a split, "id" and the corners x0, y0, x1, y1 (inclusive, pixels of the frame), all
of them -1 where no pixel of the map lies above the threshold. A run keeps it beside its metrics.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from wsolkit.boxes.extract import overlaps
from wsolkit.common.errors import WsolkitError, reason, require

CORNERS = ["x0", "y0", "x1", "y1"]


def found_boxes(ids: Sequence[str], boxes: np.ndarray, empty: np.ndarray) -> pd.DataFrame:
    """The table of N ids, boxes (N, 4) and empty (N,) bool, whose boxes mean nothing."""
    table = pd.DataFrame(np.where(empty[:, None], -1, boxes).astype(np.int64), columns=CORNERS)
    table.insert(0, "id", list(ids))
    return table


def read_found_boxes(path: str | Path) -> pd.DataFrame:
    """A table that a run has kept. FileNotFoundError: there is none. WsolkitError: it is none, and names the file."""
    try:
        table = pd.read_csv(path, dtype={"id": str} | dict.fromkeys(CORNERS, np.int64), keep_default_na=False)
        require(list(table) == ["id", *CORNERS], f"it has the columns {', '.join(map(str, table))}")
    except FileNotFoundError:
        raise
    except (ValueError, OSError) as error:
        raise WsolkitError(f"{path} is no table of boxes ({reason(error)}); run the method again") from error
    return table


def box_statistics(table: pd.DataFrame, frame: Sequence[int]) -> dict[str, Any]:
    """{"n": images, "empty": those without a box, and of the others "covers": the median share of the image's area,
    "border": the share of boxes that touch the image's border; both in percent, None where no image has a box}.

    frame: (H, W) in pixels.
    """
    boxes, (height, width) = table[CORNERS].to_numpy(), frame
    boxes = boxes[boxes[:, 0] >= 0]
    known: dict[str, Any] = {"n": len(table), "empty": len(table) - len(boxes), "covers": None, "border": None}
    if len(boxes):
        x0, y0, x1, y1 = boxes.T
        areas = (x1.clip(max=width - 1) - x0 + 1) * (y1.clip(max=height - 1) - y0 + 1)
        known["covers"] = 100 * float(np.median(areas)) / (height * width)
        known["border"] = 100 * float(((x0 <= 0) | (y0 <= 0) | (x1 >= width - 1) | (y1 >= height - 1)).mean())
    return known


def agreement(first: pd.DataFrame, second: pd.DataFrame) -> float:
    """The mean IoU, 0 to 1, of the boxes of two methods on the same images: 0 for an image where one of them has none,
    1 where both have none. WsolkitError: other images."""
    other = second.set_index("id").reindex(first["id"])
    same = len(first) == len(second) and not other["x0"].isna().any()
    require(same, "the boxes of two methods are compared on the same images only: evaluate both with one limit")
    shared, area, other_area = overlaps(first[CORNERS].to_numpy(), other[CORNERS].to_numpy().astype(np.int64))
    return float((shared / (area + other_area - shared)).mean())

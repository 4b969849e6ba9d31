"""EvalResult: everything one evaluation measured, in one object that prints, plots, saves and can be read again.

`wsolkit.evaluation.scoring.score` makes it from arrays. The numbers and the protocol go to JSON; the per-image arrays stay beside
them in memory and go to a table (`per_image`, `save_per_image`).
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_write_text, read_json, write_json

FORMAT = "wsolkit-result-2"
METRICS = {  # field -> what a reader calls it
    "top1_cls": "Top-1 Cls",
    "top5_cls": "Top-5 Cls",
    "gt_known_loc": "GT-known Loc",
    "top1_loc": "Top-1 Loc",
    "top5_loc": "Top-5 Loc",
    "max_box_acc": "MaxBoxAcc (best on test)",
    "max_box_acc_v2": "MaxBoxAccV2 (best on test)",
    "pxap": "PxAP",
}
OPERATING_POINTS = {"fixed": "fixed threshold", "validation": "chosen on validation", "best_on_test": "best on test"}
WITH_BOXES = ("localised", "x0", "y0", "x1", "y1", "empty", "gt_boxes", "object_share", "aspect", "failure")  # columns


def aside(default: Any = None, **factory: Any) -> Any:
    """A field that is kept out of JSON, printing and comparison: an array per image, say."""
    how = factory or {"default": default}
    return field(repr=False, compare=False, metadata={"aside": True}, **how)


@dataclass
class EvalResult:
    """Metrics are percent (0 to 100) or None where they do not apply (no masks, no boxes, no predictions; Top-5 with at
    most five classes; MaxBoxAcc under a protocol with one threshold).

    gt_known_loc, top1_loc, top5_loc stand at `threshold`, chosen as `operating_point` says ("validation" or "fixed");
    max_box_acc and max_box_acc_v2 use the best threshold on this very split, by definition. `curve` is the accuracy
    against the threshold, thinned for storage: {"thresholds": [...], "gt_known_loc": [...]}. `protocol` is a name of
    `wsolkit.boxes.protocols`, `conditions` says in text what else a number rests on, `frame` is (H, W) of boxes and maps.
    """

    dataset: str = ""
    backbone: str = ""
    method: str = ""
    pooling: str = ""
    split: str = "test"
    protocol: str = "wsolevaluation"
    conditions: dict[str, str] = field(default_factory=dict)
    frame: list[int] = field(default_factory=list)
    n_images: int = 0
    n_val: int = 0
    n_classes: int = 0
    top1_cls: float | None = None
    top5_cls: float | None = None
    gt_known_loc: float | None = None
    top1_loc: float | None = None
    top5_loc: float | None = None
    operating_point: str = "fixed"
    threshold: float | None = None
    percentile: float = 100.0
    operating_points: dict[str, dict[str, float | None] | None] = field(default_factory=dict)
    max_box_acc: float | None = None
    max_box_acc_v2: float | None = None
    max_box_acc_v2_parts: dict[float, float] = field(default_factory=dict)
    pxap: float | None = None
    centre_box: dict[str, Any] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    seconds_per_image: float | None = None
    peak_memory_mb: float | None = None
    empty_boxes: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    interval: float = 0.001
    curve: dict[str, list[float]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    # None where there is no such thing, and in a result that was read from JSON
    ids: list[str] = aside()
    labels: np.ndarray = aside()  # (N,) int64
    predicted: np.ndarray = aside()  # (N,) int64, -1 where unknown
    ious: np.ndarray = aside()  # (N,) float64, at the operating point
    point_ious: dict[str, np.ndarray] = aside()  # (N,) float64 for each operating point
    boxes: np.ndarray = aside()  # (N, 4) int64, at the operating point, inclusive corners
    empty: np.ndarray = aside()  # (N,) bool: no pixel above the threshold
    failure_types: list[str] = aside()  # N keys of `wsolkit.evaluation.failures.FAILURES`
    pixel_ap: np.ndarray = aside()  # (N,) float64, PxAP of the image on its own
    gt_boxes: list[np.ndarray] = aside()  # N arrays (n, 4)
    curves: np.ndarray = aside()  # (N, T) float64, the method's own box rule
    v2_hits: np.ndarray = aside()  # (D, N, T) bool, what MaxBoxAccV2 counts

    # ----------------------------------------------------------------------------------------- as text

    def title(self) -> str:
        network = f"{self.backbone} ({self.pooling})" if self.pooling else self.backbone
        parts = [self.method, network, f"{self.dataset} {self.split}".strip(), f"{self.n_images} images"]
        return " · ".join(part for part in parts if part)

    def protocol_line(self) -> str:
        parts = [f"protocol: {self.protocol}", *(f"{key}: {value}" for key, value in self.conditions.items())]
        if self.threshold is not None:
            choice = "fixed" if self.n_val else "fixed, no validation split"
            if self.operating_point == "validation":
                choice = f"chosen on {self.n_val} validation images"
            parts.append(f"threshold: tau = {self.threshold:g} at percentile {self.percentile:g}, {choice}")
        return "; ".join(parts)

    def rows(self) -> list[tuple[str, str, str]]:
        """(name, value, 95 % interval) as text for every metric there is, then the other operating points and the
        centre box."""

        def row(name, value, interval=None):
            return name, f"{value:.2f}", "" if interval is None else f"{interval[0]:.1f} to {interval[1]:.1f}"

        known = {key: label for key, label in METRICS.items() if getattr(self, key) is not None}
        rows = [row(label, getattr(self, key), self.intervals.get(key)) for key, label in known.items()]
        place = 1 + list(known).index("max_box_acc_v2") if "max_box_acc_v2" in known else 0
        rows[place:place] = [row(f"MaxBoxAccV2 at IoU {d:g}", part) for d, part in self.max_box_acc_v2_parts.items()]
        for key, label in OPERATING_POINTS.items():
            point = self.operating_points.get(key)
            if point and key != self.operating_point:
                rows.append(row(f"GT-known Loc, {label} (tau = {point['threshold']:g})", point["gt_known_loc"]))
        if self.centre_box:
            label = f"GT-known Loc, centre box ({self.centre_box['side']} px)"
            rows.append(row(label, self.centre_box["gt_known_loc"], self.intervals.get("centre_box")))
        return rows

    def __str__(self) -> str:
        rows = [("percent", "", "95 % interval"), *self.rows()]
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]
        if self.failures:
            shares = (f"{name} {100 * count / self.n_images:.1f}" for name, count in self.failures.items())
            lines.append(f"failure types, percent: {', '.join(shares)}")
        if self.empty_boxes:
            lines.append(f"{self.empty_boxes} of {self.n_images} images had an empty mask")
        return "\n".join([self.title(), self.protocol_line(), *lines])

    def _repr_html_(self) -> str:
        return html_table(f"{self.title()}\n{self.protocol_line()}", self.rows(), ("percent", "", "95 % interval"))

    # ----------------------------------------------------------------------------------------- files

    def to_dict(self) -> dict[str, Any]:
        """All fields but the per-image arrays, ready for JSON (keys are strings, tuples are lists)."""
        kept = [item.name for item in dataclasses.fields(self) if not item.metadata.get("aside")]
        values = {"format": FORMAT} | {name: getattr(self, name) for name in kept}
        values["max_box_acc_v2_parts"] = {str(delta): value for delta, value in self.max_box_acc_v2_parts.items()}
        values["intervals"] = {name: list(interval) for name, interval in self.intervals.items()}
        return values

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` as JSON, whole or not at all; NaN and infinity become null."""
        write_json(path, self.to_dict())

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str | Path = "the dictionary") -> EvalResult:
        """The inverse of `to_dict`; ValueError names unknown fields and other formats."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise WsolkitError(f"{source} is not a result of this version (format {FORMAT!r}); evaluate again")
        known = {item.name for item in dataclasses.fields(cls) if not item.metadata.get("aside")}
        if unknown := sorted(set(values) - known - {"format"}):
            raise WsolkitError(f"{source} has unknown fields {', '.join(unknown)}; evaluate again")
        result = cls(**{name: value for name, value in values.items() if name != "format"})
        result.max_box_acc_v2_parts = {float(delta): value for delta, value in result.max_box_acc_v2_parts.items()}
        result.intervals = {name: (low, high) for name, (low, high) in result.intervals.items()}
        return result

    @classmethod
    def from_json(cls, path: str | Path) -> EvalResult:
        """Read what `to_json` wrote (without per-image arrays). ValueError when it is something else."""
        return cls.from_dict(read_json(path), path)

    # ----------------------------------------------------------------------------------------- tables

    def to_pandas(self):
        """One row: who and what, every metric, times, and the intervals as `<metric>_low` and `<metric>_high`."""
        import pandas as pd

        names = ["dataset", "split", "backbone", "pooling", "method", "n_images", "n_val", *METRICS, "operating_point"]
        names += ["threshold", "percentile", "empty_boxes", "seconds_per_image", "peak_memory_mb"]
        row = {name: getattr(self, name) for name in names}
        row["centre_box_loc"] = self.centre_box.get("gt_known_loc")
        for name, (low, high) in self.intervals.items():
            row[f"{name}_low"], row[f"{name}_high"] = low, high
        return pd.DataFrame([row])

    def per_image(self):
        """A row per image, see `wsolkit.evaluation.per_image`: label, predicted, IoU at each operating point, box, failure type.
        ValueError for a result read from JSON, which has no per-image arrays."""
        import pandas as pd

        from wsolkit.evaluation.failures import object_shape

        if self.ids is None:
            raise WsolkitError("this result has no per-image arrays (JSON has none); evaluate again or read the csv")
        unknown = [None] * len(self.ids)
        predicted = unknown if self.predicted is None else [None if label < 0 else label for label in self.predicted]
        labels = np.full(len(unknown), -1) if self.labels is None else self.labels
        right = unknown if self.predicted is None else list(labels == self.predicted)
        table: dict[str, Any] = {"id": list(self.ids), "label": labels, "predicted": pd.array(predicted, "Int64")}
        table |= {"right": pd.array(right, "boolean"), "iou": np.nan if self.ious is None else self.ious}
        table |= {f"iou_{point}": ious for point, ious in (self.point_ious or {}).items()}
        if self.boxes is None:
            table |= {name: pd.array(unknown) for name in WITH_BOXES}
        else:
            shapes = zip(*(object_shape(boxes, self.frame) for boxes in self.gt_boxes), strict=True)
            texts = ["; ".join(" ".join(map(str, box)) for box in boxes.tolist()) for boxes in self.gt_boxes]
            columns = (self.ious >= 0.5, *self.boxes.T, self.empty, texts, *shapes, self.failure_types)
            table |= zip(WITH_BOXES, columns, strict=True)
        if self.pixel_ap is not None:
            table["pixel_ap"] = self.pixel_ap
        return pd.DataFrame(table)

    def save_per_image(self, path: str | Path) -> None:
        """Write `per_image` as csv."""
        atomic_write_text(path, self.per_image().to_csv(index=False, lineterminator="\n"))


def html_table(caption: str, rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of text as an HTML table, all of it escaped; the second column, which holds the numbers, to the right."""

    def line(cells: Sequence[str], tag: str) -> str:
        sides = ("right" if column == 1 else "left" for column in range(len(cells)))
        pairs = zip(sides, cells, strict=True)
        return "".join(f"<{tag} style='text-align:{side}'>{html.escape(cell)}</{tag}>" for side, cell in pairs)

    title = html.escape(caption).replace("\n", "<br>")
    lines = [*([line(head, "th")] if head else []), *(line(row, "td") for row in rows)]
    body = "".join(f"<tr>{cells}</tr>" for cells in lines)
    return f"<table><caption style='text-align:left'>{title}</caption>{body}</table>"

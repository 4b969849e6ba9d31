"""EvalResult: everything one evaluation measured, in one object that prints, plots, saves and can be read again.

`wsolkit.evaluation.scoring.score` makes it from arrays. The numbers and the protocol go to JSON; the per-image arrays
stay in memory beside them and go to a table (`per_image`, `save_per_image`).
"""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_write_text, write_json

FORMAT = "wsolkit-result-2"
METRICS = {  # field -> what a reader calls it
    "top1_cls": "Top-1 Cls",
    "top5_cls": "Top-5 Cls",
    "gt_known_loc": "GT-known Loc",
    "top1_loc": "Top-1 Loc",
    "top5_loc": "Top-5 Loc",
    "max_box_acc": "MaxBoxAcc (best on test)",
    "max_box_acc_v2": "MaxBoxAccV2 (best on test)",
    "mean_iou": "mean IoU",
    "pxap": "PxAP",
}
OPERATING_POINTS = {
    "fixed": "fixed threshold",
    "pseudo_boxes": "chosen on pseudo boxes of validation",
    "validation": "chosen on validation",
    "best_on_test": "best on test",
}
FEWEST = 10  # validation images with a true box, where some have none: fewer choose no threshold
BLANK_POINT: dict[str, Any] = dict.fromkeys(("threshold", "gt_known_loc", "top1_loc", "top5_loc"))
HEAD = ("percent", "", "95 % interval")

Percent = Annotated[float, Field(strict=True, ge=0, le=100)]
Positive = Annotated[float, Field(strict=True, ge=0)]
Count = Annotated[int, Field(strict=True, ge=0)]


def aside(default: Any = None, **factory: Any) -> Any:
    """A field that is kept out of JSON, printing and comparison: an array per image, say."""
    how = factory or {"default": default}
    return field(repr=False, compare=False, metadata={"aside": True}, **how)


@dataclass
class EvalResult:
    """Metrics are percent (0 to 100) or None where they do not apply (no masks, no boxes, no predictions; Top-5 with at
    most five classes; MaxBoxAcc under a protocol with one threshold).

    gt_known_loc, top1_loc, top5_loc and mean_iou use `threshold`, chosen as `operating_point` says: on n_val validation
    images, by their true boxes ("validation") or, without these, by pseudo boxes ("pseudo_boxes"), or not at all
    ("fixed").
    max_box_acc and max_box_acc_v2 use the best threshold on this very split, by definition. Of a method that `gives`
    "boxes" and no map there is no threshold, no curve, no operating point ("none") and no PxAP; max_box_acc is its
    accuracy, and max_box_acc_v2 the mean of its accuracies. `curve` is the accuracy against the threshold, thinned for
    storage: {"thresholds": [...], "gt_known_loc": [...]}. `protocol` is a name of
    `wsolkit.boxes.protocols`, `conditions` says in text what else a number rests on, `frame` is (H, W) of boxes and
    maps. Where some images of the split have no box, everything is of the `n_images` that have one, but Top-1 and Top-5
    Cls are of all `n_classified` images (else 0). Ranges of values are checked where a result is read from a file.
    """

    dataset: str = ""
    backbone: str = ""
    method: str = ""
    pooling: str = ""
    split: str = "test"
    protocol: str = "wsolevaluation"
    gives: Literal["map", "boxes"] = "map"
    conditions: dict[str, str] = field(default_factory=dict)
    frame: list[int] = field(default_factory=list)
    n_images: Count = 0
    n_classified: Count = 0
    n_val: Count = 0
    n_classes: Count = 0
    top1_cls: Percent | None = None
    top5_cls: Percent | None = None
    gt_known_loc: Percent | None = None
    top1_loc: Percent | None = None
    top5_loc: Percent | None = None
    operating_point: str = "fixed"
    threshold: Positive | None = None
    percentile: Percent = 100.0
    operating_points: dict[str, dict[str, Percent | None] | None] = field(default_factory=dict)
    max_box_acc: Percent | None = None
    max_box_acc_v2: Percent | None = None
    max_box_acc_v2_parts: dict[float, Percent] = field(default_factory=dict)
    mean_iou: Percent | None = None
    pxap: Percent | None = None
    centre_box: dict[str, Percent | Count | str | None] = field(default_factory=dict)
    intervals: dict[str, tuple[float, float]] = field(default_factory=dict)
    seconds_per_image: Positive | None = None
    peak_memory_mb: Positive | None = None
    empty_boxes: Count = 0
    failures: dict[str, Count] = field(default_factory=dict)
    interval: Positive = 0.001
    curve: dict[str, list[Percent]] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    # None where there is no such thing, and in a result that was read from JSON
    ids: list[str] = aside()
    labels: np.ndarray = aside()  # (N,) int64
    predicted: np.ndarray = aside()  # (N,) int64, -1 where unknown
    ious: np.ndarray = aside()  # (N,) float64, at the operating point
    point_ious: dict[str, np.ndarray] = aside()  # (N,) float64 for each operating point
    boxes: np.ndarray = aside()  # (N, 4) int64, at the operating point, inclusive corners
    empty: np.ndarray = aside()  # (N,) bool: no pixel above the threshold
    failure_types: list[str] = aside()  # N keys of `wsolkit.evaluation.per_image.FAILURES`
    pixel_ap: np.ndarray = aside()  # (N,) float64, PxAP of the image on its own
    gt_boxes: list[np.ndarray] = aside()  # N arrays (n, 4)
    v2_hits: np.ndarray = aside()  # (D, N, T) bool, what MaxBoxAccV2 counts

    __pydantic_config__ = ConfigDict(arbitrary_types_allowed=True, allow_inf_nan=False)

    def title(self) -> str:
        """One line: method, network, data set with its split, number of images."""
        network = f"{self.backbone} ({self.pooling})" if self.pooling else self.backbone
        parts = [self.method, network, f"{self.dataset} {self.split}".strip(), f"{self.n_images} images"]
        return " · ".join(part for part in parts if part)

    @property
    def choice(self) -> str:
        """How the threshold was chosen, as text."""
        pseudo = "pseudo boxes of " if self.operating_point == "pseudo_boxes" else ""
        return "fixed" if self.operating_point == "fixed" else f"chosen on {pseudo}{self.n_val} validation images"

    def protocol_line(self) -> str:
        """One line: the protocol, the conditions, the threshold and how it was chosen."""
        parts = [f"protocol: {self.protocol}", *(f"{key}: {value}" for key, value in self.conditions.items())]
        if self.threshold is not None:
            blind = "" if self.n_val or self.operating_point != "fixed" else ", no validation split"
            parts.append(f"threshold: tau = {self.threshold:g} at percentile {self.percentile:g}, {self.choice}{blind}")
        return "; ".join(parts)

    def rows(self) -> list[tuple[str, str, str]]:
        """(name, value, 95 % interval) as text for every metric there is, then the other operating points and the
        centre box."""
        numbers: list[tuple[str, Any, str]] = []  # label, value, name of its interval
        for name, label in METRICS.items():
            label = label.removesuffix(" (best on test)") if self.gives == "boxes" else label
            numbers.append((label, getattr(self, name), name))
            if name == "max_box_acc_v2":
                numbers += [(f"MaxBoxAccV2 at IoU {d:g}", part, "") for d, part in self.max_box_acc_v2_parts.items()]
        for name, label in OPERATING_POINTS.items():
            if (point := self.operating_points.get(name)) and name != self.operating_point:
                label = f"GT-known Loc, {label} (tau = {point['threshold']:g})"
                numbers.append((label, point["gt_known_loc"], ""))
        label = f"GT-known Loc, centre box ({self.centre_box.get('side')} px)"
        numbers.append((label, self.centre_box.get("gt_known_loc"), "centre_box"))
        ends = {name: f"{low:.1f} to {high:.1f}" for name, (low, high) in self.intervals.items()}
        return [(label, f"{value:.2f}", ends.get(name, "")) for label, value, name in numbers if value is not None]

    def __str__(self) -> str:
        rows = [HEAD, *self.rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"{a:<{widths[0]}}  {b:>{widths[1]}}  {c:>{widths[2]}}".rstrip() for a, b, c in rows]
        if self.failures:
            shares = (f"{name} {100 * count / self.n_images:.1f}" for name, count in self.failures.items())
            lines.append(f"failure types, percent: {', '.join(shares)}")
        if self.empty_boxes:
            lines.append(f"{self.empty_boxes} of {self.n_images} images had an empty mask")
        return "\n".join([self.title(), self.protocol_line(), *lines])

    def _repr_html_(self) -> str:
        return html_table(f"{self.title()}\n{self.protocol_line()}", self.rows(), HEAD)

    def to_dict(self) -> dict[str, Any]:
        """All fields but the per-image arrays, ready for JSON (keys are strings, tuples are lists)."""
        values = {"format": FORMAT} | {name: getattr(self, name) for name in self.stored()}
        values["max_box_acc_v2_parts"] = {str(delta): value for delta, value in self.max_box_acc_v2_parts.items()}
        values["intervals"] = {name: list(interval) for name, interval in self.intervals.items()}
        return values

    def to_json(self, path: str | Path) -> None:
        """Write `to_dict` as JSON, whole or not at all; NaN and infinity become null."""
        write_json(path, self.to_dict())

    @classmethod
    def stored(cls) -> list[str]:
        """The names of the fields that JSON holds."""
        return [item.name for item in dataclasses.fields(cls) if not item.metadata.get("aside")]

    @classmethod
    def from_dict(cls, values: dict[str, Any], source: str | Path = "the dictionary") -> EvalResult:
        """The inverse of `to_dict`; ValueError names unknown fields, other formats and values out of range."""
        if not isinstance(values, dict) or values.get("format") != FORMAT:
            raise WsolkitError(f"{source} is not a result of this version (format {FORMAT!r}); evaluate again")
        if unknown := sorted(set(values) - {*cls.stored(), "format"}):
            raise WsolkitError(f"{source} has unknown fields {', '.join(unknown)}; evaluate again")
        try:
            return TypeAdapter(EvalResult).validate_python({name: values[name] for name in values if name != "format"})
        except ValidationError as error:
            raise WsolkitError(f"{source} is damaged: {first_fault(error)}; evaluate again") from error

    def to_pandas(self):
        """One row: who and what, every metric, times, and the intervals as `<metric>_low` and `<metric>_high`."""
        import pandas as pd

        names = ["dataset", "split", "backbone", "pooling", "method", "n_images", "n_val", *METRICS, "operating_point"]
        names += ["threshold", "percentile", "empty_boxes", "seconds_per_image", "peak_memory_mb"]
        row = {name: getattr(self, name) for name in names} | {"centre_box_loc": self.centre_box.get("gt_known_loc")}
        for name, (low, high) in self.intervals.items():
            row |= {f"{name}_low": low, f"{name}_high": high}
        return pd.DataFrame([row])

    def per_image(self):
        """A row per image, see `wsolkit.evaluation.per_image`: label, predicted, IoU at each operating point, box,
        failure type. ValueError for a result read from JSON, which has no per-image arrays."""
        import pandas as pd

        from wsolkit.evaluation.per_image import WITH_BOXES, object_shape

        if self.ids is None:
            raise WsolkitError("this result has no per-image arrays (JSON has none); evaluate again or read the csv")
        index, predicted = range(len(self.ids)), self.predicted
        labels = np.full(len(index), -1) if self.labels is None else self.labels
        table = pd.DataFrame({"id": list(self.ids), "label": labels})
        table["predicted"] = pd.Series(predicted, index, "Int64").where(lambda values: values >= 0)
        table["right"] = pd.Series(None if predicted is None else labels == predicted, index, "boolean")
        table["iou"] = np.nan if self.ious is None else self.ious
        for point, ious in (self.point_ious or {}).items():
            table[f"iou_{point}"] = ious
        if self.boxes is None:
            table[list(WITH_BOXES)] = None
        else:
            shapes = zip(*(object_shape(boxes, self.frame) for boxes in self.gt_boxes), strict=True)
            texts = ["; ".join(" ".join(map(str, box)) for box in boxes.tolist()) for boxes in self.gt_boxes]
            columns = (self.ious >= 0.5, *self.boxes.T, self.empty, texts, *shapes, self.failure_types)
            table = table.assign(**dict(zip(WITH_BOXES, columns, strict=True)))
        return table if self.pixel_ap is None else table.assign(pixel_ap=self.pixel_ap)

    def save_per_image(self, path: str | Path) -> None:
        """Write `per_image` as csv."""
        atomic_write_text(path, self.per_image().to_csv(index=False, lineterminator="\n"))


def first_fault(error: ValidationError) -> str:
    """The first field of a file that is not what it should be, what is expected, and the value."""
    first = error.errors(include_url=False)[0]
    return f"{'.'.join(map(str, first['loc'])) or 'it'}: {first['msg']}, got {first['input']!r:.80}"


def html_table(caption: str, rows: Sequence[Sequence[str]], head: Sequence[str] = ()) -> str:
    """Rows of text as an HTML table, all of it escaped; the second column, which holds the numbers, to the right."""
    body = ""
    for tag, cells in [*([("th", head)] if head else []), *(("td", row) for row in rows)]:
        sides = ["right" if column == 1 else "left" for column in range(len(cells))]
        texts = (f"<{tag} style='text-align:{s}'>{html.escape(c)}</{tag}>" for s, c in zip(sides, cells, strict=True))
        body += f"<tr>{''.join(texts)}</tr>"
    title = html.escape(caption).replace("\n", "<br>")
    return f"<table><caption style='text-align:left'>{title}</caption>{body}</table>"

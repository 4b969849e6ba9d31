"""What a report page is written from: the files of one run's folder. No torch, no model, no dataset.

metrics.json must be there and right; whatever else is absent or damaged leaves a note, and the page goes without it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from wsolkit.common.errors import WsolkitError
from wsolkit.evaluation.per_image import read_per_image
from wsolkit.runs import folder as files
from wsolkit.runs.folder import Training

CARDS = {
    "top1_loc": "Top-1 Loc",
    "gt_known_loc": "GT-known Loc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "top1_cls": "Top-1 Cls",
}


@dataclass
class RunFiles:
    """A completed run: `values` is metrics.json, as `wsolkit.runs.folder.read_metrics` checked it."""

    folder: Path
    values: dict[str, Any]
    table: pd.DataFrame | None = None
    plain_table: pd.DataFrame | None = None
    trainings: list[Training] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be read

    @property
    def method(self) -> str:
        return str(self.values.get("method") or self.config.get("method") or self.folder.name)

    @property
    def config(self) -> dict[str, Any]:
        return mapping(self.values.get("config"))

    @property
    def result(self) -> dict[str, Any]:
        return mapping(self.values.get("result"))

    @property
    def plain(self) -> dict[str, Any]:
        """The result of plain CAM on the same images; {} where there is none."""
        return mapping(self.values.get("plain_cam"))

    @property
    def n(self) -> int:
        return int(self.result.get("n_images") or 0)

    @property
    def boxes(self) -> pd.DataFrame | None:
        """The images with a box to compare with; None where there are none."""
        return _with_iou(self.table)

    @property
    def plain_boxes(self) -> pd.DataFrame | None:
        return _with_iou(self.plain_table)

    def metric(self, name: str) -> float | None:
        return self.result.get(name)

    def interval(self, name: str) -> tuple[float, float] | None:
        ends = mapping(self.result.get("intervals")).get(name)
        return None if ends is None else tuple(ends)

    def point(self, name: str) -> dict[str, float | None]:
        """An operating point ("fixed", "validation", "best_on_test"): {} where it does not exist."""
        return mapping(mapping(self.result.get("operating_points")).get(name))

    def against(self, other: str, metric: str) -> dict[str, float | None]:
        """The difference to "cam" or "centre_box": difference, low, high, p, n; {} where it is not known."""
        return mapping(mapping(mapping(self.values.get("against")).get(other)).get(metric))

    def class_name(self, label: int) -> str:
        names = self.values.get("classes") or []
        return str(names[label]) if 0 <= label < len(names) else f"class {label}"


def number(value: Any) -> float | None:
    """A finite number, or None: what is not one shows as absent."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def curve_of(result: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """(thresholds, GT-known Loc in percent) of a stored result; None without a curve."""
    curve = mapping(result.get("curve"))
    return (curve["thresholds"], curve["gt_known_loc"]) if curve.get("thresholds") else None


def read_run(folder: str | Path) -> RunFiles:
    """Everything a page needs from a run's folder. Raises as `read_metrics` where metrics.json is absent or damaged."""
    folder = Path(folder)
    run = RunFiles(folder, files.read_metrics(folder).model_dump())
    run.table = _table(run, files.PER_IMAGE, run.result)
    run.plain_table = _table(run, files.PLAIN_CAM, run.plain)
    for name in dict.fromkeys(run.values[key] for key in ("training", "plain_training")):
        if not name or Path(name).name != name:  # a folder beside the run's
            continue
        try:
            if (training := files.read_training(folder.parent / name)) is not None:
                run.trainings.append(training)
        except (ValueError, OSError) as error:
            run.notes.append(f"The curve of a training run is left out: {error}")
    return run


def _with_iou(table: pd.DataFrame | None) -> pd.DataFrame | None:
    rows = None if table is None else table[table["iou"].notna()]
    return None if rows is None or len(rows) == 0 else rows


def _table(run: RunFiles, name: str, measured: Mapping[str, Any]) -> pd.DataFrame | None:
    try:
        table, count = read_per_image(run.folder / name), measured.get("n_images")
        if count is not None and len(table) != count:
            raise WsolkitError(f"it has {len(table)} images, and {count:g} were measured")
        return table
    except FileNotFoundError:
        if measured:
            run.notes.append(f"{name} is absent: what is counted image by image is left out.")
    except (ValueError, OSError) as error:
        run.notes.append(f"{name} could not be read, and what is counted image by image is left out: {error}")
    return None

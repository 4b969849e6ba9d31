"""What a report page is written from: the files of one run's folder, read with care. No torch, no model, no dataset.

metrics.json must be there; whatever else is absent or damaged leaves a note, and the page goes without it.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from wsolkit.common.files import read_json
from wsolkit.evaluation.per_image import read_per_image
from wsolkit.methods.registry import VARIANTS
from wsolkit.runs.config import TRAINING_PREFIX

CARDS = {
    "top1_loc": "Top-1 Loc",
    "gt_known_loc": "GT-known Loc",
    "max_box_acc_v2": "MaxBoxAccV2",
    "top1_cls": "Top-1 Cls",
}
HISTORY = ("epoch", "train_loss", "train_top1", "val_loss", "val_top1")


@dataclass
class Training:
    """One network's training: rows of history.csv as numbers (NaN where empty), and its run.json."""

    name: str  # of its folder
    label: str
    history: list[dict[str, float]]
    run: dict[str, Any]


@dataclass
class RunFiles:
    """A completed run: `values` is metrics.json, `result` its result, `plain` that of plain CAM on the same images."""

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
        return mapping(self.values.get("plain_cam"))

    @property
    def n(self) -> int:
        return int(number(self.result.get("n_images")) or 0)

    @property
    def boxes(self) -> pd.DataFrame | None:
        """The images with a box to compare with; None where there are none."""
        return _with_iou(self.table)

    @property
    def plain_boxes(self) -> pd.DataFrame | None:
        return _with_iou(self.plain_table)

    def metric(self, name: str) -> float | None:
        return number(self.result.get(name))

    def interval(self, name: str) -> tuple[float, float] | None:
        return pair(mapping(self.result.get("intervals")).get(name))

    def point(self, name: str) -> dict[str, float | None]:
        """An operating point ("fixed", "validation", "best_on_test"): {} where it does not exist."""
        point = mapping(mapping(self.result.get("operating_points")).get(name))
        return {key: number(value) for key, value in point.items()}

    def against(self, other: str, metric: str) -> dict[str, float | None]:
        """The difference to "cam" or "centre_box": difference, low, high, p, n; {} where it is not known."""
        found = mapping(mapping(mapping(self.values.get("against")).get(other)).get(metric))
        return {key: number(value) for key, value in found.items()}

    def class_name(self, label: int) -> str:
        names = self.values.get("classes")
        known = isinstance(names, list) and 0 <= label < len(names)
        return str(names[label]) if known else f"class {label}"


def number(value: Any) -> float | None:
    """A finite number, or None: what is not one shows as absent."""
    good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if good else None


def pair(value: Any) -> tuple[float, float] | None:
    ends = [number(item) for item in value] if isinstance(value, list | tuple) and len(value) == 2 else [None]
    return None if None in ends else tuple(ends)


def mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def curve_of(result: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """(thresholds, GT-known Loc in percent) of a stored result; None without a curve."""
    curve = mapping(result.get("curve"))
    taus, accuracy = (curve.get(name) for name in ("thresholds", "gt_known_loc"))
    if not isinstance(taus, list) or not isinstance(accuracy, list) or not taus or len(taus) != len(accuracy):
        return None
    columns = [[number(item) for item in column] for column in (taus, accuracy)]
    return None if any(None in column for column in columns) else tuple(columns)


def read_run(folder: str | Path) -> RunFiles:
    """Everything a page needs from a run's folder. ValueError or FileNotFoundError name a metrics.json that is absent,
    unreadable or not of a completed run."""
    folder = Path(folder)
    values = read_json(folder / "metrics.json")
    if not isinstance(values, dict) or values.get("status") != "completed":
        raise ValueError(f"{folder / 'metrics.json'} is not that of a completed run; run the sweep again")
    run = RunFiles(folder, values)
    run.table = _table(run, "per_image.csv", needed=True)
    run.plain_table = _table(run, "plain_cam.csv", needed=bool(run.plain))
    for key, word in (("training", str(run.config.get("variant") or "")), ("plain_training", "gap")):
        training = _training(run, values.get(key), word if key == "training" else "")
        if training and training.name not in [other.name for other in run.trainings]:
            run.trainings.append(training)
    run.notes = list(dict.fromkeys(run.notes))  # plain CAM may have the run's own training
    return run


def _with_iou(table: pd.DataFrame | None) -> pd.DataFrame | None:
    rows = None if table is None else table[table["iou"].notna()]
    return None if rows is None or len(rows) == 0 else rows


def _table(run: RunFiles, name: str, needed: bool) -> pd.DataFrame | None:
    try:
        table, measured = read_per_image(run.folder / name), (run.plain if name == "plain_cam.csv" else run.result)
        count = number(measured.get("n_images"))
        if count is not None and len(table) != count:
            raise ValueError(f"{len(table)} images stand in it, and {count:g} were measured")
        return table
    except FileNotFoundError:
        if needed:
            run.notes.append(f"{name} is absent: what is counted image by image is left out.")
    except (ValueError, OSError) as error:
        run.notes.append(f"{name} could not be read, and what is counted image by image is left out: {error}")
    return None


def _training(run: RunFiles, name: Any, word: str) -> Training | None:
    """The training in a folder beside the run's; of runs that do not name it, the newest one of the variant."""
    home = run.folder.parent
    if isinstance(name, str) and Path(name).name == name:
        folder = home / name
    else:
        found = sorted(home.glob(f"{TRAINING_PREFIX}{word}-*/run.json"), key=lambda path: path.stat().st_mtime)
        folder = found[-1].parent if found and word.isidentifier() else None
    if folder is None or not (folder / "history.csv").is_file():
        return None
    try:
        with open(folder / "history.csv", newline="", encoding="utf-8") as file:
            lines = list(csv.DictReader(file))
        history = [{key: float(line.get(key) or "nan") for key in HISTORY} for line in lines]
        if not all(math.isfinite(row["epoch"]) for row in history):
            raise ValueError(
                f"history.csv needs a number of the epoch in every row and the columns {', '.join(HISTORY)}"
            )
        facts = mapping(read_json(folder / "run.json")) if (folder / "run.json").is_file() else {}
    except (ValueError, OSError) as error:
        run.notes.append(f"{folder.name} could not be read, and its training curve is left out: {error}")
        return None
    word = str(facts.get("variant") or folder.name.removeprefix(TRAINING_PREFIX).rsplit("-", 1)[0])
    return (
        Training(folder.name, VARIANTS[word].label if word in VARIANTS else word, history, facts) if history else None
    )

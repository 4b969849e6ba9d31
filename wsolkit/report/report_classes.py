"""Classes on a report page: class right or wrong beside box right or wrong, classes taken for one another, a row per class."""

from __future__ import annotations

from typing import Any

import pandas as pd

from wsolkit.evaluation.failures import slices
from wsolkit.evaluation.per_image import FAILURES, flags
from wsolkit.report import report_charts as charts
from wsolkit.report.numbers import counted, listed, plain, spread
from wsolkit.report.report_data import RunFiles

EXTREMES, FOLDED = 10, 20  # classes at each end, where there are more than FOLDED
CONFUSED = 8  # pairs of classes shown


def share_cells(row: pd.Series, tick: float | None = None) -> dict[str, Any]:
    if not row["n"]:
        return {"n": 0, "value": "\u2013", "interval": "", "iou": "\u2013", "bar": ""}
    ends = (float(row["low"]), float(row["high"]))
    return {"n": int(row["n"]), "value": plain(row["gt_known_loc"]), "interval": spread(row["gt_known_loc"], ends),
            "iou": f"{row['mean_iou']:.2f}", "bar": charts.bar(float(row["gt_known_loc"]), ends, tick)}  # fmt: skip


def class_and_box(run: RunFiles) -> dict[str, Any] | None:
    """Class right or wrong by box right or wrong, and the classes that are taken for one another."""
    table = run.boxes
    if table is None:
        return None
    right = flags(table["right"])
    known = right.notna().to_numpy()
    if not known.any():
        return {"unknown": len(table), "cells": None, "words": "", "confused": None, "wrong": 0}
    right, hit = right[known].to_numpy(bool), (table["iou"].to_numpy(float) >= 0.5)[known]
    total = int(known.sum())

    def cell(klass: bool, box: bool) -> dict[str, Any]:
        count = int(((right == klass) & (hit == box)).sum())
        return {"count": count, "share": plain(100 * count / total)}

    cells = [[cell(klass, box) for box in (True, False)] for klass in (True, False)]
    rates = [
        (100 * hit[right == klass].mean(), int((right == klass).sum()))
        for klass in (True, False)
        if (right == klass).any()
    ]
    words = ""
    if len(rates) == 2:
        (a, na), (b, nb) = rates
        words = (f"Where the class is right, the box is right in {plain(a)}\u00a0% of {counted(na, 'image')}; "
                 f"where it is wrong, in {plain(b)}\u00a0% of {nb}.")  # fmt: skip
    return {"unknown": int((~known).sum()), "cells": cells, "words": words, **_confused(run, table[known])}


def _confused(run: RunFiles, table: pd.DataFrame) -> dict[str, Any]:
    """The pairs (class, taken for) that occur at least twice; None where there are none."""
    wrong = table[(table["label"] != table["predicted"]) & table["predicted"].notna()]
    pairs = wrong.groupby(["label", "predicted"]).size()
    pairs = pairs[pairs >= 2].sort_values(ascending=False, kind="stable")
    totals = table["label"].value_counts()
    rows = [
        {"truth": run.class_name(int(label)), "taken": run.class_name(int(predicted)), "count": int(count), "n": int(totals[label])}
        for (label, predicted), count in pairs.head(CONFUSED).items()
    ]  # fmt: skip
    return {"confused": rows or None, "wrong": len(wrong)}


def classes(run: RunFiles) -> dict[str, Any] | None:
    """A row per class, the lowest GT-known Loc first; of many classes also the two ends."""
    table = run.boxes
    if table is None or (table["label"] < 0).all():
        return None
    labels = sorted(table["label"].unique())
    found = slices(table).query("kind == 'class'").reset_index(drop=True)
    right = flags(table["right"]).set_axis(table.index)
    rows = []
    for label, (_, row) in zip(labels, found.iterrows(), strict=True):
        known = right[table["label"] == label]
        top1 = None if known.isna().any() else 100 * float(known.astype(bool).mean())
        misses = {name: row[name] for name in FAILURES if name != "right" and row[name] > 0}
        most = [name for name, share in misses.items() if share == max(misses.values())]
        common = (
            f"{listed(most)} ({round(misses[most[0]] * row['n'] / 100)}{' each' if len(most) > 1 else ''})"
            if most
            else "none"
        )
        order = (row["gt_known_loc"], row["mean_iou"])
        rows.append(
            {
                "name": run.class_name(int(label)),
                "top1": plain(top1),
                "failure": common,
                "order": order,
                **share_cells(row),
            }
        )
    rows.sort(key=lambda row: row["order"])
    many = len(rows) > FOLDED
    return {"rows": rows, "count": len(rows), "worst": rows[:EXTREMES] if many else None,
            "best": rows[: -EXTREMES - 1 : -1] if many else None}  # fmt: skip

"""The tables of the index page as plain values: every cell has its text and, where it can be sorted by, its number."""

from __future__ import annotations

import os
from collections.abc import Sequence
from statistics import fmean
from typing import Any

from wsolkit.report.index_groups import HEADLINE, Difference, Group, difference, grouped, interval, marks, summary
from wsolkit.report.index_words import number, signed, with_spread
from wsolkit.report.rows import METRICS, POINTS, rank

OTHERS = [("top1_loc", "Top-1 Loc"), ("max_box_acc_v2", "MaxBoxAccV2"), ("top1_cls", "Top-1 Cls")]
RUN_COLUMNS = [("n_images", "Images"), ("top1_cls", "Top-1 Cls"), ("top5_cls", "Top-5 Cls"), ("gt_known_loc", "GT-known Loc"),
               ("top1_loc", "Top-1 Loc"), ("top5_loc", "Top-5 Loc"), ("max_box_acc", "MaxBoxAcc"),
               ("max_box_acc_v2", "MaxBoxAccV2"), ("pxap", "PxAP"), ("seconds_per_image", "s / image"),
               ("peak_memory_mb", "Peak MB")]  # fmt: skip
POINT_NAMES = {
    "fixed": "Fixed threshold",
    "validation": "Chosen on validation",
    "best_on_test": "Best on test (optimistic)",
}
STATUS_NAMES = {"undefined": "not defined", "failed": "failed", "missing": "missing"}
SETTING_NAMES = {
    **{
        "metadata": "metadata",
        "size": "input side",
        "geometry": "geometry",
        "classes": "classes",
        "weights": "weights",
    },
    **{"epochs": "epochs", "seed": "seed", "stride": "stride", "width": "width", "batch_norm": "batch norm"},
}
REASON = 220  # characters of an error in a cell; the whole text stands at the end of the page


def cell(text: str, sort: float | None = None, **more: Any) -> dict[str, Any]:
    return {"text": text, "sort": None if sort is None else f"{sort:.6g}", **more}


def _between(low: float | None, high: float | None, text=number) -> str:
    return "" if low is None or high is None else f"{text(low)} to {text(high)}"


def _number_cell(group: Group, name: str, mark: str | None, digits: int = 1) -> dict[str, Any]:
    value = group.value(name)
    if value is None:
        return cell("\u2013", interval="", mark=None)
    return cell(with_spread(value, digits), value.mean, interval=_between(value.low, value.high), mark=mark)


def _difference_cell(one: Difference | None) -> dict[str, Any]:
    if one is None:
        return cell("\u2013", interval="", note="", sign="")
    spread = signed(one.value.mean) + (f" ± {one.value.sd:.1f}" if one.value.sd is not None else "")
    sign = "above" if one.above == one.value.n else "below" if one.below == one.value.n else ""
    return cell(
        spread, one.value.mean, interval=_between(one.value.low, one.value.high, signed), note=one.note, sign=sign
    )


def reason(row: dict) -> str:
    """One line of an error: a damaged file's first, which names it, or else the last."""
    lines = row["error"].strip().splitlines() or [""]
    text = lines[0] if "is damaged" in row["error"] else lines[-1]
    return text if len(text) <= REASON else text[:REASON] + " …"


def seconds(value: float) -> str:
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def result_lines(groups: Sequence[Group], full: int, key: str) -> list[dict[str, Any]]:
    """One line per method and backbone, and one per backbone's centre box."""
    lines = []
    for backbone in dict.fromkeys(group.backbone for group in groups):
        members = [group for group in groups if group.backbone == backbone]
        cam = next((group for group in members if group.method == "cam"), None)
        marked = {name: marks(members, name, full) for name in (HEADLINE, *(name for name, _ in OTHERS))}
        for group in members:
            time = group.value("seconds_per_image")
            lines.append({
                "backbone": backbone, "method": group.method, "status": group.status, "id": f"{key}-line-{len(lines)}",
                "main": _number_cell(group, HEADLINE, marked[HEADLINE].get(group.method)),
                "fewer": f"{group.n_images:.0f} images" if group.done and group.n_images != full else "",
                "cam": _difference_cell(difference(group, "cam", cam)), "box": _difference_cell(difference(group, "centre_box", None)),
                "others": [_number_cell(group, name, marked[name].get(group.method)) for name, _ in OTHERS],
                "seconds": cell("\u2013") if time is None else cell(seconds(time.mean), time.mean),
                "reason": reason(next(row for row in group.runs if row["status"] == group.status)), "runs": group.runs, "several": len(group.runs) > 1,
                "done": len(group.done), "centre": None,
            })  # fmt: skip
        if (centre := centre_box(members, full)) is not None:
            lines.append({"backbone": backbone, "method": None, "id": f"{key}-line-{len(lines)}", "centre": centre})
    return lines


def centre_box(groups: Sequence[Group], full: int) -> dict[str, Any] | None:
    """The baseline of one backbone: per seed the box of a run on all images, where there is one, then over seeds."""
    found: dict[Any, dict] = {}
    for row in sorted((row for group in groups for row in group.done), key=lambda row: row["n_images"] != full):
        if row["result"]["centre_box"]["gt_known_loc"] is not None:
            found.setdefault(row["seed"], row)
    if not found:
        return None
    boxes = [row["result"]["centre_box"] for row in found.values()]
    pairs = [interval(row, "centre_box") for row in found.values()]
    value = summary([box["gt_known_loc"] for box in boxes], pairs)
    sides = sorted({f"{box['side']}" for box in boxes if box.get("side")})
    top1, best = ([box[name] for box in boxes if box[name] is not None] for name in ("top1_loc", "best_on_test"))
    return {
        "main": cell(with_spread(value), value.mean, interval=_between(value.low, value.high)),
        "side": f"square of {' / '.join(sides)} px" if sides else "",
        "top1": cell(with_spread(summary(top1)), fmean(top1)) if top1 else cell("\u2013"),
        "best": f"best side on test: {number(fmean(best))}" if best else "",
    }


def matrix(lines: Sequence[dict], backbones: Sequence[str], methods: Sequence[str]) -> list[dict[str, Any]]:
    """Method by backbone, of `result_lines`: {"method" (None: centre box), "cells": a line or None per backbone}."""
    found = {(line["method"], line["backbone"]): line for line in lines}
    table = [
        {"method": method, "cells": [found.get((method, backbone)) for backbone in backbones]} for method in methods
    ]
    boxes = [found.get((None, backbone)) for backbone in backbones]
    return [*table, {"method": None, "cells": boxes}] if any(boxes) else table


def run_lines(rows: Sequence[dict], full: int) -> list[dict[str, Any]]:
    """One line per run: its row, and the cells of RUN_COLUMNS."""
    return [
        {"row": row, "fewer": row["status"] == "completed" and row["n_images"] != full,
         "cells": [_run_cell(row[name], name) for name, _ in RUN_COLUMNS]}
        for row in rows
    ]  # fmt: skip


def _run_cell(value: Any, name: str) -> dict[str, Any]:
    if value is None:
        return cell("")
    if name == "n_images":
        return cell(f"{value:.0f}", value)
    return cell(seconds(value) if name == "seconds_per_image" else number(value, 2 if name in METRICS else 0), value)


def point_lines(rows: Sequence[dict], full: int) -> list[dict[str, Any]]:
    """One line per completed run: GT-known Loc, Top-1 Loc and the threshold at each operating point."""
    lines = []
    for row in rows:
        points = [row["result"]["operating_points"][key] for key in POINTS]
        cells = [
            cell("\u2013", top1="", tau="") if point[HEADLINE] is None
            else cell(number(point[HEADLINE]), point[HEADLINE], top1=number(point["top1_loc"]), tau=number(point["threshold"], 3))
            for point in points
        ]  # fmt: skip
        lines.append({"row": row, "fewer": row["n_images"] != full, "cells": cells})
    return lines


def settings(rows: Sequence[dict]) -> list[tuple[str, str]]:
    """What the runs of one dataset have in common or differ in, from their parameters, in a reader's words."""
    found = []
    for key, label in SETTING_NAMES.items():
        values = [
            row["config"].get(key) for row in rows if row["config"].get(key) not in (None, "", [], 0) or key == "seed"
        ]
        lists = [str(len(value)) if isinstance(value, list) and len(value) > 6 else value for value in values]
        texts = [
            ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            for value in lists
            if value is not None
        ]
        texts = [os.path.basename(text) if key in ("weights", "metadata") else text for text in dict.fromkeys(texts)]
        if texts:
            found.append((label, " / ".join(texts)))
    conditions = {name: text for row in rows for name, text in row["result"].get("conditions", {}).items()}
    for name in ("images", "method"):  # how many images a row used stands in the row, and a method is no setting of all
        conditions.pop(name, None)
    protocols = dict.fromkeys(row["result"]["protocol"] for row in rows if row["result"].get("protocol"))
    conditions |= {"protocol": " / ".join(protocols)} if protocols else {}
    return [(name, text[:300]) for name, text in found + [(k.replace("_", " "), str(v)) for k, v in conditions.items()]]


def chosen(groups: Sequence[Group], methods: int, backbones: int) -> list[Group]:
    """Groups of at most so many methods and backbones: those with the highest GT-known Loc, and plain CAM first of all."""

    def best(names: dict[str, list[Group]], most: int) -> set[str]:
        height = {name: max((value.mean for one in members if (value := one.value(HEADLINE)) is not None), default=-1)
                  for name, members in names.items()}  # fmt: skip
        return set(sorted(names, key=lambda name: (name != "cam", -height[name]))[:most])

    by_method: dict[str, list[Group]] = {}
    by_backbone: dict[str, list[Group]] = {}
    for group in groups:
        by_method.setdefault(group.method, []).append(group)
        by_backbone.setdefault(group.backbone, []).append(group)
    if len(by_method) <= methods and len(by_backbone) <= backbones:
        return list(groups)
    kept, places = best(by_method, methods), best(by_backbone, backbones)
    return [group for group in groups if group.method in kept and group.backbone in places]


def tables(rows: Sequence[dict], key: str, most_methods: int = 1000, most_backbones: int = 1000) -> dict[str, Any]:
    """All tables of one dataset, with its groups ("shown": those in the tables), backbones, methods and the number of images
    that full runs have used."""
    groups = grouped(rows)
    with_results = {group.backbone for group in groups if group.done}
    groups.sort(key=lambda group: group.backbone not in with_results)
    done = [row for row in rows if row["status"] == "completed"]
    full = max((row["n_images"] or 0 for row in done), default=0)
    shown = chosen(groups, most_methods, most_backbones)
    backbones = list(dict.fromkeys(group.backbone for group in shown))
    methods = sorted({group.method for group in shown}, key=rank)
    lines = result_lines(shown, full, key)
    return {
        "groups": groups, "shown": shown, "full": full, "backbones": backbones, "methods": methods, "lines": lines, "done": len(done),
        "matrix": matrix(lines, backbones, methods), "runs": run_lines(rows, full), "points": point_lines(done, full),
        "settings": settings(done or rows), "seeds": sorted({row["seed"] for row in done if row["seed"] is not None}),
        "fewer": list(dict.fromkeys(f"{row['method']} on {row['backbone']} used {row['n_images'] or 0:.0f}"
                                    for row in done if row["n_images"] != full)),
        "troubles": [row for row in rows if row["status"] != "completed"],
    }  # fmt: skip

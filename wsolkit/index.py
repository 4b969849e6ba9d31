"""OUT/index.html and OUT/results.csv: every run of a sweep side by side."""

from __future__ import annotations

import base64
import os
from pathlib import Path
from typing import Any

from wsolkit import charts, figures, markup
from wsolkit.files import atomic_write_text
from wsolkit.methods import method_slug
from wsolkit.published import published_table
from wsolkit.rows import COLUMNS, POINTS, gt_known_on_images_of, rank, read_rows, write_csv

__all__ = ["COLUMNS", "method_slug", "read_rows", "write_index"]

PICTURE_BYTES = 1_900_000  # of thumbnails on the whole page, in base64; the page stays under 3 MB
TITLES = {"synthetic": "Synthetic birds", "cub": "CUB-200-2011", "tiny_imagenet": "Tiny-ImageNet-200"}
TITLES["metadata"] = "Pictures of a metadata folder"
SHOWN = [("top1_loc", "Top-1 Loc"), ("max_box_acc_v2", "MaxBoxAccV2"), ("top1_cls", "Top-1 Cls")]
POINT_NAMES = {
    "fixed": "Fixed threshold",
    "validation": "Chosen on validation",
    "best_on_test": "Best on test (optimistic)",
}
SETTING_NAMES = {
    "metadata": "metadata",
    "size": "input side",
    "geometry": "geometry",
    "classes": "classes",
    "weights": "weights",
    "epochs": "epochs",
    "seed": "seed",
    "stride": "stride",
    "width": "width",
    "batch_norm": "batch norm",
}


SAME_TRAINING = (
    "epochs",
    "seed",
    "classes",
    "per_class",
    "size",
    "geometry",
    "stride",
    "width",
    "weights",
    "val_share",
)


def number(value: float | None, digits: int = 1) -> str:
    return "\u2013" if value is None else f"{value:.{digits}f}"


def signed(value: float) -> str:
    return f"{value:+.1f}".replace("-", "\u2212") if round(value, 1) else "±0.0"


def _interval(row: dict, name: str) -> tuple[float, float] | None:
    pair = row["result"].get("intervals", {}).get(name)
    return None if pair is None or None in pair else tuple(pair)


def _marks(members: list[dict], name: str, full: int) -> dict[str, str]:
    """slug -> "best" or "tie": the highest value among the runs on all images, and those inside its 95 % interval."""
    candidates = [row for row in members if row.get(name) is not None and row["n_images"] == full]
    if len(candidates) < 2:
        return {}
    top = max(candidates, key=lambda row: row[name])
    if all(row[name] == top[name] for row in candidates):  # one network under several methods: nothing to choose
        return {}
    between = _interval(top, name)
    low = top[name] if between is None else between[0]
    marks = {row["slug"]: "tie" for row in candidates if row[name] >= low}
    return marks | {row["slug"]: "best" for row in candidates if row[name] == top[name]}


def _results(rows: list[dict], backbones: list[str], methods: list[str], full: int) -> list[dict]:
    """The table method x backbone, as a list of {"method", "cells": one per backbone}."""
    table = []
    for method in methods:
        cells: list[dict[str, Any] | None] = []
        for backbone in backbones:
            members = [row for row in rows if row["backbone"] == backbone and row["status"] == "completed"]
            row = next((row for row in rows if row["backbone"] == backbone and row["method"] == method), None)
            if row is None:
                cells.append(None)
                continue
            cell: dict[str, Any] = {"row": row, "status": row["status"], "fewer": (row["n_images"] or 0) < full}
            if row["status"] == "completed":
                cell["values"] = [
                    {"text": number(row[name]), "mark": _marks(members, name, full).get(row["slug"])}
                    for name in ("gt_known_loc", *(name for name, _ in SHOWN))
                ]
                between = _interval(row, "gt_known_loc")
                cell["interval"] = None if between is None else f"{between[0]:.1f} to {between[1]:.1f}"
                cell["deltas"] = _deltas(row, members)
            else:
                cell["reason"] = row["error"].strip().splitlines()[-1]
                if "is damaged" in row["error"]:  # the line that names the file says more than the advice after it
                    cell["reason"] = row["error"].splitlines()[0]
            cells.append(cell)
        table.append({"method": method, "cells": cells})
    return table


def _deltas(row: dict, members: list[dict]) -> list[tuple[str, str]]:
    deltas, value = [], row["gt_known_loc"]
    cam = next((other for other in members if other["method"] == "cam"), None)
    if value is not None and cam is not None and cam["gt_known_loc"] is not None and row["method"] != "cam":
        if any(row["config"].get(name) != cam["config"].get(name) for name in SAME_TRAINING):
            deltas.append(("other settings", "than cam: not compared"))
        elif row["n_images"] == cam["n_images"]:
            deltas.append((signed(value - cam["gt_known_loc"]), "to cam"))
        elif (plain := gt_known_on_images_of(row, cam)) is not None:
            deltas.append((signed(value - plain), "to cam on these images"))
    box = row["result"]["centre_box"].get("gt_known_loc")
    if value is not None and box is not None:
        deltas.append((signed(value - box), "to centre box"))
    return deltas


def _centre_boxes(rows: list[dict], backbones: list[str], full: int) -> list[dict | None]:
    """Per backbone the centre-box baseline, taken from a run on all images where there is one."""
    boxes: list[dict | None] = []
    for backbone in backbones:
        done = [row for row in rows if row["backbone"] == backbone and row["status"] == "completed"]
        done = sorted(done, key=lambda row: row["n_images"] != full)
        box = done[0]["result"]["centre_box"] if done else {}
        if box.get("gt_known_loc") is None:
            boxes.append(None)
            continue
        between = _interval(done[0], "centre_box")
        words = None if between is None else f"{between[0]:.1f} to {between[1]:.1f}"
        side = f"{box['side']} px" if box.get("side") else ""
        top1, best = number(box.get("top1_loc")), number(box.get("best_on_test"))
        boxes.append({"text": number(box["gt_known_loc"]), "interval": words, "side": side, "top1": top1, "best": best})
    return boxes


def _figure(fig, alt: str, caption: str) -> markup.Markup:
    return markup.Markup(figures.figure_html(fig, alt, caption))


def _curve_figures(rows: list[dict], backbones: list[str]) -> list[markup.Markup]:
    drawn = []
    for backbone in backbones:
        members = [row for row in rows if row["backbone"] == backbone and row["curve"]]
        if not members:
            continue
        box = members[0]["result"]["centre_box"].get("gt_known_loc")
        marks = {row["method"]: row["result"].get("threshold") for row in members}
        marks = {name: tau for name, tau in marks.items() if isinstance(tau, int | float) and 0 <= tau <= 1}
        fig = charts.accuracy_curves({row["method"]: row["curve"] for row in members}, marks, box, title=backbone)
        best = ", ".join(f"{row['method']} {max(row['curve'][1]):.1f}" for row in members)
        alt = f"GT-known accuracy against the threshold on {backbone}; the highest point in percent: {best}."
        drawn.append(_figure(fig, alt, f"{backbone}: the marker is the operating point that the table reports."))
    return drawn


def _cost_figure(rows: list[dict], backbones: list[str]) -> markup.Markup | None:
    points: dict[str, dict] = {}
    intervals: dict[str, dict] = {}
    for row in rows:
        if row["gt_known_loc"] is not None and (row["seconds_per_image"] or 0) > 0:
            points.setdefault(row["backbone"], {})[row["method"]] = (row["seconds_per_image"], row["gt_known_loc"])
            intervals.setdefault(row["backbone"], {})[row["method"]] = _interval(row, "gt_known_loc")
    if not points:
        return None
    spread = [seconds for group in points.values() for seconds, _ in group.values()]
    alt = (
        f"GT-known Loc against seconds per image; the runs lie between {min(spread):.3g} and {max(spread):.3g} seconds."
    )
    caption = "Left and high is better. Thin lines are 95 % intervals; time includes the network's forward pass."
    return _figure(charts.cost_scatter(points, intervals=intervals), alt, caption)


def _same_images(rows: list[dict], backbone: str, methods: list[str], budget: int) -> dict[str, Any] | None:
    """Rows of thumbnails (image x method) of one backbone, as many as fit `budget` bytes of base64."""
    members = [row for row in rows if row["backbone"] == backbone and row["gallery"]]
    members.sort(key=lambda row: methods.index(row["method"]))
    if not members:
        return None
    longest = max(members, key=lambda row: len(row["gallery"]))["gallery"]
    lines, used = [], 0
    for entry in longest:
        cells, size = [], 0
        for row in members:
            found = next((item for item in row["gallery"] if item["id"] == entry["id"]), None)
            data = b"" if found is None or found["path"] is None else found["path"].read_bytes()
            if not data:
                cells.append(None)
                continue
            kind = "image/png" if data.startswith(b"\x89PNG") else "image/jpeg"
            uri = f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"
            size += len(uri)
            alt = f"{entry['id']}: score map, ground truth and prediction of {row['method']}. {found['caption']}"
            cells.append({"uri": uri, "alt": alt, "caption": found["caption"]})
        if used + size > budget:
            break
        used += size
        lines.append({"id": entry["id"], "cells": cells})
    if not lines:
        return None
    names = [row["method"] for row in members]
    return {
        "backbone": backbone,
        "methods": names,
        "lines": lines,
        "left_out": len(longest) - len(lines),
        "bytes": used,
    }


def _settings(rows: list[dict]) -> list[tuple[str, str]]:
    """What the runs of one dataset have in common or differ in, from their parameters, in a reader's words."""
    found = []
    for key, label in SETTING_NAMES.items():
        values = [
            row["config"].get(key) for row in rows if row["config"].get(key) not in (None, "", [], 0) or key == "seed"
        ]
        lists = [str(len(value)) if isinstance(value, list) and len(value) > 6 else value for value in values]
        texts = [", ".join(map(str, value)) if isinstance(value, list) else str(value) for value in lists]
        texts = [os.path.basename(text) if key in ("weights", "metadata") else text for text in dict.fromkeys(texts)]
        if texts:
            found.append((label, " / ".join(texts)))
    conditions = {name: text for row in rows for name, text in row["result"].get("conditions", {}).items()}
    for name in ("images", "method"):  # how many images a row used stands in the row, and a method is no setting of all
        conditions.pop(name, None)
    protocols = dict.fromkeys(row["result"]["protocol"] for row in rows if row["result"].get("protocol"))
    conditions |= {"protocol": " / ".join(protocols)} if protocols else {}
    return found + [(name.replace("_", " "), str(text)) for name, text in conditions.items()]


def _section(dataset: str, rows: list[dict], budget: int) -> dict[str, Any]:
    backbones = list(dict.fromkeys(row["backbone"] for row in rows))
    methods = sorted({row["method"] for row in rows}, key=rank)
    done = [row for row in rows if row["status"] == "completed"]
    full = max((row["n_images"] or 0 for row in done), default=0)
    pictured = list(dict.fromkeys(row["backbone"] for row in done if row["gallery"]))
    galleries = [_same_images(done, backbone, methods, budget // len(pictured)) for backbone in pictured]
    points = [{"row": row, "cells": [row["result"]["operating_points"][key] for key in POINTS]} for row in done]
    title = TITLES.get(dataset, dataset)
    key = "".join(c if c.isalnum() else "-" for c in dataset.lower())
    return {
        "dataset": dataset,
        "title": title,
        "key": f"data-{key}",
        "backbones": backbones,
        "full": full,
        "fewer": [row for row in done if row["n_images"] != full],
        "done": len(done),
        "settings": _settings(rows),
        "table": _results(rows, backbones, methods, full),
        "boxes": _centre_boxes(rows, backbones, full),
        "points": points,
        "curves": _curve_figures(done, backbones),
        "cost": _cost_figure(done, backbones),
        "galleries": [gallery for gallery in galleries if gallery],
        "published": published_table(done) if dataset == "cub" else None,
        "numbers": [[_shown(row[name]) for name in COLUMNS] for row in rows],
        "troubles": [row for row in rows if row["status"] != "completed"],
    }


def _shown(value: Any) -> str:
    if value is None:
        return ""
    return (f"{value:.2f}" if value >= 1 else f"{value:.3g}") if isinstance(value, float) else str(value)


def _contents(sections: list[dict]) -> list[dict[str, Any]]:
    entries = []
    for section in sections:
        entries.append({"level": 2, "id": section["key"], "text": section["title"]})
        parts = [
            ("results", "Results", True),
            ("points", "Operating points", section["points"]),
            ("curves", "Accuracy and threshold", section["curves"]),
            ("cost", "Accuracy and cost", section["cost"]),
            ("images", "The same images", section["galleries"]),
            ("published", "Published and measured", section["published"]),
            ("numbers", "All numbers", True),
            ("troubles", "Failed or not defined", section["troubles"]),
        ]
        entries += [{"level": 3, "id": f"{section['key']}-{key}", "text": text} for key, text, there in parts if there]
    return entries


def write_index(out: str | Path) -> Path:
    """Write OUT/results.csv and OUT/index.html (both by rename) from what lies under OUT/runs; returns the page's path.

    Runs that failed, methods that are not defined on a network, and damaged files show as such; no runs at all give a
    page that says which command to run.
    """
    out = Path(out)
    rows = read_rows(out)
    write_csv(rows, out / "results.csv")
    names = sorted({row["dataset"] for row in rows})
    budget = PICTURE_BYTES // max(1, len(names))
    sections = [_section(name, [row for row in rows if row["dataset"] == name], budget) for name in names]
    counts = {status: sum(row["status"] == status for row in rows) for status in ("completed", "failed", "undefined")}
    page = markup.render(
        "index.html.j2",
        title="Weakly supervised localisation: methods compared",
        subtitle="",
        home=None,
        contents=_contents(sections),
        sections=sections,
        counts=counts,
        columns=COLUMNS,
        shown=[label for _, label in SHOWN],
        point_names=[POINT_NAMES[key] for key in POINTS],
        number=number,
    )
    atomic_write_text(out / "index.html", page)
    return out / "index.html"

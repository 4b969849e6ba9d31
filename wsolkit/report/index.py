"""OUT/index.html and OUT/results.csv: every run of every sweep side by side.

index.html.j2 lays out, per dataset, what `_section` collects: the answer in sentences, which index.answer.j2 writes
from the numbers; tables, whose cells are `Group`, `Value` and `Difference`; charts; the same images under every method.
matplotlib is imported where a chart is drawn, torch nowhere.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from markupsafe import Markup

from wsolkit.common.files import atomic_write_text, listing
from wsolkit.data.catalogue import DATASETS
from wsolkit.report.pages import image_uri, plain, render, unique_id
from wsolkit.report.rows import (
    HEADLINE,
    Group,
    difference,
    grouped,
    interval,
    marks,
    missing_rows,
    published_table,
    rank,
    ranked,
    read_rows,
    sort_rows,
    summary,
    write_csv,
)

PAGE_BYTES = 2_900_000  # of the whole page
IMAGE_BYTES = 1_900_000  # of them for thumbnails, in base64
TEXT_BYTES = 2_300_000  # of the page without thumbnails: above it the next of LEVELS is tried
SAME_IMAGES = 8  # of a backbone, under every method
SECONDS = "seconds_per_image"
MARKED = (HEADLINE, "top1_loc", "max_box_acc_v2", "top1_cls")  # metrics whose best values the tables show
SETTINGS = "metadata size geometry classes weights epochs seed stride width batch_norm".split()  # noqa: SIM905


# How much of very many runs the page shows: methods and backbones of a dataset in tables, charts and images (the best,
# with plain CAM), rows of single runs and of operating points, points of a curve, bytes for the full texts of errors.
LIMITS = ("methods", "backbones", "runs", "points", "curve", "errors")
LEVELS = (
    (1000, 1000, 1500, 600, 250, 300_000),
    (1000, 1000, 200, 100, 50, 50_000),
    (50, 10, 100, 50, 50, 20_000),
    (12, 6, 20, 10, 25, 5_000),
)


def write_index(out: str | Path) -> Path:
    """Write OUT/results.csv and OUT/index.html (both by rename) from what lies under OUT/runs and OUT/seed-*/runs.

    Runs that failed, that were planned but have left no result, methods that are not defined on a network, and damaged
    files show as such; no runs at all give a page that says which command to run. The page stays under 3 MB.

    Returns:
        The page's path.
    """
    out = Path(out)
    rows = read_rows(out)
    write_csv(rows, out / "results.csv")
    missing, notes = missing_rows(out, rows)
    rows = sort_rows([*rows, *missing])
    looks = {method: place for place, method in enumerate(sorted({row["method"] for row in rows}, key=rank))}
    taken: Counter[str] = Counter()
    parts = {name: [row for row in rows if row["dataset"] == name] for name in sorted({row["dataset"] for row in rows})}
    keys = {name: unique_id(f"data-{name}", taken) for name in parts}

    def page(sections: list[dict[str, Any]], limits: dict[str, int]) -> str:
        values = {"rows": rows, "notes": notes, "sections": sections, "limits": limits, "marked": MARKED}
        return render("index.html.j2", styles=("index.css",), scripts=("index.js",), **values)

    for level in LEVELS:
        limits = dict(zip(LIMITS, level, strict=True))
        sections = [_section(name, keys[name], part, looks, limits) for name, part in parts.items()]
        size = len(page(sections, limits).encode())
        if size <= TEXT_BYTES:
            break
    _add_images(sections, min(IMAGE_BYTES, PAGE_BYTES - size))
    atomic_write_text(out / "index.html", page(sections, limits))
    return out / "index.html"


def _section(dataset: str, key: str, rows: list[dict], looks: dict[str, int], limits: dict[str, int]) -> dict[str, Any]:
    """Everything that the page shows of one dataset; "galleries" are added where bytes are left."""
    groups = grouped(rows)
    done = [row for row in rows if row["status"] == "completed"]
    full = max((row["n_images"] or 0 for row in done), default=0)
    networks, shown = networks_of(groups, full), chosen(groups, limits)
    drawn = [network | {"groups": [group for group in network["groups"] if group in shown]} for network in networks]
    drawn = [network for network in drawn if network["groups"]]
    every = [line for network in drawn for line in network["lines"] if line["group"] is None or line["group"] in shown]
    lines = [line | {"id": f"{key}-line-{place}"} for place, line in enumerate(every)]
    limited = [row for row in done if row["n_images"] != full]
    fewer = [f"{row['method']} on {row['backbone']} used {row['n_images'] or 0}" for row in limited]
    return {
        "dataset": dataset,
        "title": DATASETS[dataset].title if dataset in DATASETS else dataset,
        "key": key,
        "full": full,
        "groups": groups,
        "networks": networks,
        "drawn": drawn,
        "shown": shown,
        "methods": sorted({group.method for group in shown}, key=rank),
        "lines": lines,
        "matrix": {(line["group"] and line["group"].method, line["backbone"]): line for line in lines},
        "rows": rows,
        "done": done,
        "settings": settings(done or rows),
        "seeds": sorted({row["seed"] for row in done if row["seed"] is not None}),
        "fewer": list(dict.fromkeys(fewer)),
        "galleries": [],
        "why": reasons(networks, full),
        "charts": charts(drawn, looks, limits["curve"]),
        "published": published_table(groups) if dataset == "cub" and done else None,
    }


def networks_of(groups: Sequence[Group], full: int) -> list[dict[str, Any]]:
    """What is compared on each backbone, those with results first: its groups, their values and the best of them, a
    line of a table for each group and one ("group" None) for the centre box.

    full: the number of test images; only runs on all of them are compared.
    """
    networks: list[dict[str, Any]] = []
    for backbone in sorted({group.backbone for group in groups}):
        members = [group for group in groups if group.backbone == backbone]
        marked = {name: marks(members, name, full) for name in MARKED}
        lines: list[dict[str, Any]] = []
        for group in members:
            baselines = [difference(group, "cam"), difference(group, "centre_box")]
            own = {name: of.get(group.method) for name, of in marked.items()}
            lines.append({"backbone": backbone, "group": group, "differences": baselines, "marks": own})
        if centre := centre_box(members, full):
            lines.append({"backbone": backbone, "group": None, **centre})
        values, best = ranked(members, HEADLINE, full)
        tied = [method for method, mark in marked[HEADLINE].items() if mark == "tie" and method != "cam"]
        named = [value for group in members if (value := group.value("top1_cls"))]
        located = any(group.threshold is not None for group in members)
        network: dict[str, Any] = {
            "backbone": backbone,
            "groups": members,
            "done": [row for group in members for row in group.done],
        }
        network["right"] = named[0] if named and not located else None  # where there are no boxes
        network |= {"lines": lines, "centre": centre["value"].mean if centre else None, "values": values, "best": best}
        networks.append(network | {"tied": tied, "winner": best[0] if len(best) == 1 < len(values) else ""})
    return sorted(networks, key=lambda network: not network["done"])


def chosen(groups: Sequence[Group], limits: dict[str, int]) -> set[Group]:
    """Groups of so many methods and backbones: those with the highest GT-known Loc, and plain CAM first of all."""

    def best(kind: str, most: int) -> list[str]:
        height: dict[str, float] = {}
        for group in groups:
            name, value = getattr(group, kind), group.value(HEADLINE)
            height[name] = max(height.get(name, -1.0), value.mean if value else -1.0)
        return sorted(height, key=lambda name: (name != "cam", -height[name]))[:most]

    methods, backbones = best("method", limits["methods"]), best("backbone", limits["backbones"])
    return {group for group in groups if group.method in methods and group.backbone in backbones}


def centre_box(groups: Sequence[Group], full: int) -> dict[str, Any] | None:
    """The baseline of one backbone: per seed the box of a run on all images, where there is one, then over seeds."""
    rows: dict[Any, dict] = {}
    for row in sorted((row for group in groups for row in group.done), key=lambda row: row["n_images"] != full):
        if row["result"]["centre_box"][HEADLINE] is not None:
            rows.setdefault(row["seed"], row)
    boxes = [row["result"]["centre_box"] for row in rows.values()]
    value = summary([box[HEADLINE] for box in boxes], [interval(row, "centre_box") for row in rows.values()])
    sides = sorted({f"{box['side']}" for box in boxes if box.get("side")})
    top1, best = ([box[name] for box in boxes if box[name] is not None] for name in ("top1_loc", "best_on_test"))
    notes = [f"square of {' / '.join(sides)} px"] if sides else []
    notes += [f"best side on test: {plain(fmean(best))}"] if best else []
    return {"value": value, "top1": summary(top1), "notes": notes} if value else None


def settings(rows: Sequence[dict]) -> dict[str, str]:
    """What the runs of one dataset have in common or differ in, from their parameters, as a reader calls it."""
    texts: dict[str, dict[str, None]] = {}
    for row in rows:
        conditions = row["result"].get("conditions", {}).items()
        # how many images a row used stands in the row, and a method is no setting of all
        said = {name: row["config"].get(name) for name in SETTINGS}
        said |= {name: value for name, value in conditions if name not in ("images", "method")}
        for name, value in (said | {"protocol": row["result"].get("protocol")}).items():
            if value is None or (value in ("", [], 0) and name != "seed"):
                continue
            if isinstance(value, list):
                value = len(value) if len(value) > 6 else ", ".join(map(str, value))
            text = os.path.basename(str(value)) if name in ("weights", "metadata") else str(value)
            texts.setdefault("input side" if name == "size" else name.replace("_", " "), {})[text] = None
    return {name: " / ".join(several)[:300] for name, several in texts.items()}


def reasons(networks: Sequence[dict], full: int) -> list[tuple[str, float, float]]:
    """Networks whose numbers show that RethinkingCAM finds more of the object than CAM does: (name, percent of the
    images where plain CAM's box is "part only", the same of RethinkingCAM's).

    That is so where RethinkingCAM's GT-known Loc is significantly above plain CAM's in every seed, plain CAM's most
    frequent kind of miss is "part only", and RethinkingCAM's boxes are "part only" less often.
    """
    shown = []
    for network in networks:
        groups = {group.method: group for group in network["groups"] if group.done and group.n_images == full}
        if not {"cam", "rethinking_cam"} <= set(groups):
            continue
        gained = difference(groups["rethinking_cam"], "cam")
        before, after = groups["cam"].shares, groups["rethinking_cam"].shares
        part, rest = before.get("part only", 0.0), after.get("part only", 0.0)
        others = [before.get(name, 0.0) for name in ("too large", "multiple instances", "background")]
        if gained and gained.above == gained.value.n and before and after and part > max(rest, *others):
            shown.append((network["backbone"], part, rest))
    return shown


# ------------------------------------------------------------------------------------------------ charts


def charts(networks: Sequence[dict], looks: dict[str, int], most: int) -> dict[str, list[tuple[str, Markup]]]:
    """{"curves": [(backbone, chart)], "cost": likewise}: one chart per backbone, with the axes of all of the dataset;
    at most so many points of a curve. looks: method -> index of its colour, line and marker on the whole page."""
    from wsolkit.figures import accuracy_curves, cost_scatter, inline_svg

    parts, heights = [], [0.0]
    for network in networks:
        done = {group.method: group for group in network["groups"] if group.done}
        lines = {method: curve for method, group in done.items() if (curve := mean_curve(group, most))}
        values = {method: value for method, group in done.items() if (value := group.value(HEADLINE))}
        times = {method: time.mean for method in values if (time := done[method].value(SECONDS)) and time.mean}
        heights += [network["centre"] or 0.0, *(value.high or value.mean for value in values.values())]
        heights += [max(curve[1]) for curve in lines.values()]
        parts.append((network, lines, values, times))
    top = min(100.0, max(20.0, 10 * math.ceil((max(heights) + 1) / 10)))
    every = [time for *_, times in parts for time in times.values()] or [0.01]
    span = min(every) / 1.5, max(max(every) * 1.5, min(every) / 1.5 * 10)  # one power of ten at least
    drawn: dict[str, list[tuple[str, Markup]]] = {"curves": [], "cost": []}
    for network, lines, values, times in parts:
        name = network["backbone"]
        if lines:
            taus = {group.method: group.threshold for group in network["groups"] if group.method in lines}
            chart = accuracy_curves(lines, taus, network["centre"], looks=looks, top=top)
            said = {method: f"{method} {max(curve[1]):.1f}" for method, curve in lines.items()}
            label = f"GT-known Loc against the threshold on {name}; highest point in percent: "
            drawn["curves"].append((name, inline_svg(chart, f"{label}{listing([*said.values()])}.", said)))
        if times:
            points = {method: (time, values[method].mean) for method, time in times.items()}
            ends: dict[str, Any] = {m: (v.low, v.high) for m, v in values.items() if None not in (v.low, v.high)}
            chart = cost_scatter({name: points}, intervals={name: ends}, looks=looks, top=top, span=span)
            said = {method: f"{method}: {values[method]} %, {time:.3g} s per image" for method, time in times.items()}
            label = f"GT-known Loc against seconds per image on {name}. {listing([*said.values()])}."
            drawn["cost"].append((name, inline_svg(chart, label, said)))
    return drawn


def mean_curve(group: Group, most: int = 250) -> tuple[list[float], list[float]] | None:
    """(thresholds, accuracy in percent) of at most so many points, over seeds; seeds with other thresholds than the
    first one are left out."""
    curves = [row["result"]["curve"] for row in group.done if row["result"]["curve"]["thresholds"]]
    if not curves:
        return None
    taus = curves[0]["thresholds"]
    same = [curve["gt_known_loc"] for curve in curves if curve["thresholds"] == taus]
    points = [(tau, fmean(heights)) for tau, *heights in zip(taus, *same, strict=True)]
    points = points[:: -(-len(points) // most)]
    return [tau for tau, _ in points], [height for _, height in points]


# ------------------------------------------------------------------------------------------------ the same images


def _add_images(sections: Sequence[dict], budget: int) -> None:
    """Give every dataset and backbone that has any an equal share of the bytes; what one leaves over, the next have."""
    wanted = []
    for section in sections:
        for network in section["drawn"]:
            firsts = [next((row for row in group.done if row["gallery"]), None) for group in network["groups"]]
            if rows := [row for row in firsts if row]:
                wanted.append((section, rows))
    for index, (section, rows) in enumerate(wanted):
        gallery, used = same_images(rows, budget // (len(wanted) - index))
        budget -= used
        section["galleries"].append(gallery)


def same_images(rows: Sequence[dict], budget: int) -> tuple[dict[str, Any], int]:
    """The same images under every method of a backbone, as many as fit `budget` bytes of base64.

    Args:
        rows: the first seed's run of every method.

    Returns:
        {"rows", "lines": [(id, [{"uri", "caption"} or None])], "left_out": how many did not fit}, and the bytes used.
    """
    names = [entry["id"] for entry in max((row["gallery"] for row in rows), key=len)[:SAME_IMAGES]]
    lines, used = [], 0
    for name in names:
        cells = [_thumbnail(row, name) for row in rows]
        size = sum(len(cell["uri"]) for cell in cells if cell)
        if used + size > budget:
            break
        used += size
        lines += [(name, cells)] if any(cells) else []
    return {"rows": rows, "lines": lines, "left_out": len(names) - len(lines)}, used


def _thumbnail(row: dict, name: str) -> dict[str, str] | None:
    """None where the run has no such image, or one that cannot be read."""
    entry = next((item for item in row["gallery"] if item["id"] == name and item["path"]), None)
    try:
        return entry and {"uri": image_uri(entry["path"].read_bytes()), "caption": entry["caption"]}
    except (OSError, SyntaxError):
        return None

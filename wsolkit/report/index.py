"""OUT/index.html and OUT/results.csv: every run of every sweep side by side.

index.html.j2 lays out, per dataset, what `_section` collects: the answer in sentences, which are written from the numbers;
tables, whose cells are `Group`, `Value` and `Difference`; charts; the same images under every method. matplotlib is
imported where a chart is drawn, torch nowhere.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from markupsafe import Markup

from wsolkit.common.files import atomic_write_text
from wsolkit.data.catalogue import DATASETS
from wsolkit.report import markup
from wsolkit.report.groups import (
    HEADLINE,
    STATUSES,
    Difference,
    Group,
    comparable,
    difference,
    grouped,
    interval,
    marks,
    summary,
)
from wsolkit.report.numbers import plain
from wsolkit.report.published import published_table
from wsolkit.report.rows import missing_rows, rank, read_rows, sort_rows, write_csv

PAGE_BYTES = 2_900_000  # of the whole page
PICTURE_BYTES = 1_900_000  # of them for thumbnails, in base64
TEXT_BYTES = 2_300_000  # of the page without thumbnails: above it the next of LEVELS is tried
FOLDED = 24  # a table with more lines than this is folded
MOST_NAMES = 4  # in one list of a sentence
TOLD = 8  # methods that a chart's label names before it counts the others
SAME_IMAGES = 8  # of a backbone, under every method
REASON = 220  # characters of an error in a cell; the whole text stands at the end of the page
TIMES = (1e-9, 1e9)  # seconds per image outside of these are a mistake
BIRDS = ("synthetic", "cub")
OTHERS = {"top1_loc": "Top-1 Loc", "max_box_acc_v2": "MaxBoxAccV2", "top1_cls": "Top-1 Cls"}
STATUS_TEXTS = {"failed": "failed", "missing": "planned without a result", "undefined": "not defined"}
SETTINGS = "metadata size geometry classes weights epochs seed stride width batch_norm".split()  # noqa: SIM905


class Limits(NamedTuple):
    """How much of very many runs the page shows: methods and backbones of a dataset in tables, charts and images (the
    best ones, with plain CAM), rows of single runs and of operating points on the page, points of a curve, and bytes for
    the full texts of errors."""

    methods: int
    backbones: int
    runs: int
    points: int
    curve: int
    errors: int


LEVELS = (
    Limits(1000, 1000, 1500, 600, 250, 300_000),
    Limits(1000, 1000, 200, 100, 50, 50_000),
    Limits(50, 10, 100, 50, 50, 20_000),
    Limits(12, 6, 20, 10, 25, 5_000),
)


def write_index(out: str | Path) -> Path:
    """Write OUT/results.csv and OUT/index.html (both by rename) from what lies under OUT/runs and OUT/seed-*/runs; returns
    the page's path.

    Runs that failed, that were planned but have left no result, methods that are not defined on a network, and damaged
    files show as such; no runs at all give a page that says which command to run. The page stays under 3 MB.
    """
    out = Path(out)
    rows = read_rows(out)
    write_csv(rows, out / "results.csv")
    missing, notes = missing_rows(out, rows)
    rows = sort_rows([*rows, *missing])
    looks = {method: place for place, method in enumerate(sorted({row["method"] for row in rows}, key=rank))}
    datasets, taken = sorted({row["dataset"] for row in rows}), Counter[str]()
    keys = {dataset: markup.unique_id(f"data-{dataset}", taken) for dataset in datasets}
    compared = [row for row in rows if row["status"] == "completed"] or rows
    troubles = sum(row["status"] != "completed" for row in rows)
    common = {
        "notes": notes,
        "counts": {status: sum(row["status"] == status for row in rows) for status in STATUSES},
        "methods": {row["method"] for row in compared},
        "backbones": {row["backbone"] for row in compared},
        "headline": HEADLINE,
        "others": OTHERS,
        "folded": FOLDED,
        "reason": _reason,
    }

    def page(sections: list[dict], limits: Limits) -> str:
        share = max(1, len(sections))
        values = {"most_runs": limits.runs // share, "most_points": limits.points // share, "sections": sections}
        values["clip"] = lambda text: _clip(text, max(200, limits.errors // max(1, troubles)))
        return markup.render("index.html.j2", styles=("index.css",), scripts=("index.js",), **common, **values)

    for limits in LEVELS:
        parts = {name: [row for row in rows if row["dataset"] == name] for name in datasets}
        sections = [_section(name, keys[name], part, looks, limits) for name, part in parts.items()]
        size = len(page(sections, limits).encode())
        if size <= TEXT_BYTES:
            break
    _add_images(sections, min(PICTURE_BYTES, PAGE_BYTES - size))
    atomic_write_text(out / "index.html", page(sections, limits))
    return out / "index.html"


def _clip(text: str, most: int) -> str:
    """A long text's beginning and end."""
    return text if len(text) <= most else f"{text[: most // 3]}\n[...]\n{text[-most * 2 // 3 :]}"


def _reason(row: dict) -> str:
    """One line of an error: a damaged file's first, which names it, or else the last."""
    lines = row["error"].strip().splitlines() or [""]
    text = lines[0] if "is damaged" in row["error"] else lines[-1]
    return text if len(text) <= REASON else text[:REASON] + " …"


def _section(dataset: str, key: str, rows: list[dict], looks: dict[str, int], limits: Limits) -> dict[str, Any]:
    """Everything that the page shows of one dataset; "galleries" are added where bytes are left."""
    groups = grouped(rows)
    with_results = {group.backbone for group in groups if group.done}
    groups.sort(key=lambda group: group.backbone not in with_results)
    done = [row for row in rows if row["status"] == "completed"]
    full = max((row["n_images"] or 0 for row in done), default=0)
    shown = chosen(groups, limits.methods, limits.backbones)
    fewer = (row for row in done if row["n_images"] != full)
    fewer_texts = (f"{row['method']} on {row['backbone']} used {row['n_images'] or 0}" for row in fewer)
    lines = result_lines(shown, full, key)
    return {
        "dataset": dataset,
        "title": DATASETS[dataset].title if dataset in DATASETS else dataset,
        "key": key,
        "groups": groups,
        "shown": shown,
        "full": full,
        "backbones": _backbones(shown),
        "methods": sorted({group.method for group in shown}, key=rank),
        "lines": lines,
        "matrix": {(line["group"] and line["group"].method, line["backbone"]): line for line in lines},
        "done": done,
        "rows": rows,
        "settings": settings(done or rows),
        "seeds": sorted({row["seed"] for row in done if row["seed"] is not None}),
        "fewer": list(dict.fromkeys(fewer_texts)),
        "troubles": [row for row in rows if row["status"] != "completed"],
        "galleries": [],
        "answer": answer(groups, full),
        "charts": charts(shown, looks, limits.curve),
        "published": published_table(groups) if dataset == "cub" and done else None,
    }


def chosen(groups: Sequence[Group], methods: int, backbones: int) -> list[Group]:
    """Groups of at most so many methods and backbones: those with the highest GT-known Loc, and plain CAM first of all."""

    def best(kind: str, most: int) -> set[str]:
        height: dict[str, float] = {}
        for group in groups:
            name, value = getattr(group, kind), group.value(HEADLINE)
            height[name] = max(height.get(name, -1.0), value.mean if value else -1.0)
        return set(sorted(height, key=lambda name: (name != "cam", -height[name]))[:most])

    kept, places = best("method", methods), best("backbone", backbones)
    return [group for group in groups if group.method in kept and group.backbone in places]


def result_lines(groups: Sequence[Group], full: int, key: str) -> list[dict[str, Any]]:
    """One line per method and backbone, and one ("group" None) per backbone's centre box."""
    lines: list[dict[str, Any]] = []
    for backbone in _backbones(groups):
        members = [group for group in groups if group.backbone == backbone]
        cam = next((group for group in members if group.method == "cam"), None)
        marked = {name: marks(members, name, full) for name in (HEADLINE, *OTHERS)}
        for group in members:
            row = next(row for row in group.runs if row["status"] == group.status)
            baselines = difference(group, "cam", cam), difference(group, "centre_box")
            line = {"backbone": backbone, "group": group, "differences": baselines, "row": row}
            lines.append(line | {"marks": {name: of.get(group.method) for name, of in marked.items()}})
        if (centre := centre_box(members, full)) is not None:
            lines.append({"backbone": backbone, "group": None, **centre})
    return [line | {"id": f"{key}-line-{place}"} for place, line in enumerate(lines)]


def centre_box(groups: Sequence[Group], full: int) -> dict[str, Any] | None:
    """The baseline of one backbone: per seed the box of a run on all images, where there is one, then over seeds."""
    rows: dict[Any, dict] = {}
    for row in sorted((row for group in groups for row in group.done), key=lambda row: row["n_images"] != full):
        if row["result"]["centre_box"]["gt_known_loc"] is not None:
            rows.setdefault(row["seed"], row)
    if not rows:
        return None
    boxes = [row["result"]["centre_box"] for row in rows.values()]
    sides = sorted({f"{box['side']}" for box in boxes if box.get("side")})
    top1, best = ([box[name] for box in boxes if box[name] is not None] for name in ("top1_loc", "best_on_test"))
    value = summary([box[HEADLINE] for box in boxes], [interval(row, "centre_box") for row in rows.values()])
    notes = [f"square of {' / '.join(sides)} px"] if sides else []
    notes += [f"best side on test: {plain(fmean(best))}"] if best else []
    return {"value": value, "top1": summary(top1), "notes": notes}


def settings(rows: Sequence[dict]) -> list[tuple[str, str]]:
    """What the runs of one dataset have in common or differ in, from their parameters, as a reader calls it."""
    pairs: dict[str, str] = {}
    for key in SETTINGS:
        texts = []
        for value in (row["config"].get(key) for row in rows):
            if value is None or (value in ("", [], 0) and key != "seed"):
                continue
            if isinstance(value, list):
                value = len(value) if len(value) > 6 else ", ".join(map(str, value))
            texts.append(os.path.basename(str(value)) if key in ("weights", "metadata") else str(value))
        if texts:
            pairs["input side" if key == "size" else key.replace("_", " ")] = " / ".join(dict.fromkeys(texts))
    for row in rows:  # how many images a row used stands in the row, and a method is no setting of all
        conditions = row["result"].get("conditions", {}).items()
        pairs |= {name.replace("_", " "): str(text) for name, text in conditions if name not in ("images", "method")}
    if protocols := dict.fromkeys(row["result"]["protocol"] for row in rows if row["result"].get("protocol")):
        pairs["protocol"] = " / ".join(protocols)
    return [(name, text[:300]) for name, text in pairs.items()]


# ------------------------------------------------------------------------------------------------ the answer


def answer(groups: Sequence[Group], full: int) -> dict[str, Any]:
    """What the page says first about one dataset: {"lead": one sentence or "", "lines": [{"backbone" (None: several), "text"}],
    "why": what the failure types say about RethinkingCAM and CAM, or ""}.

    full: the number of test images; only runs on all of them are compared.
    """
    members = {name: [group for group in groups if group.backbone == name] for name in _backbones(groups)}
    said = {name: _network(part, full) for name, part in members.items() if any(group.done for group in part)}
    lines: list[dict[str, Any]] = []
    for name, (text, _) in said.items():
        lines.append({"backbone": name, "text": Markup("On <strong>{}</strong>, {}").format(name, text)})
    if empty := [name for name in members if name not in said]:
        counts = Counter(row["status"] for name in empty for group in members[name] for row in group.runs)
        texts = [f"{counts[status]} {text}" for status, text in STATUS_TEXTS.items() if counts[status]]
        text = Markup("On {}, no run has completed ({}).").format(_names(empty), ", ".join(texts))
        lines.append({"backbone": empty[0] if len(empty) == 1 else None, "text": text})
    winners, lead = {winner for _, winner in said.values()}, Markup("")
    if len(said) > 1 and len(winners) == 1 and "" not in winners:
        networks = "both networks" if len(said) == 2 else f"all {len(said)} networks"
        networks += " that have results" if empty else ""
        lead = Markup("<strong>{}</strong> is best on {}.").format(winners.pop(), networks)
    return {"lead": lead, "lines": lines, "why": _why(groups, full)}


def _backbones(groups: Iterable[Group]) -> list[str]:
    return list(dict.fromkeys(group.backbone for group in groups))


def _names(items: Sequence[str]) -> Markup:
    """A list in a sentence: "a", "a and b", "a, b and c"; a long one ends with a count of the others."""
    shown = [Markup("<strong>{}</strong>").format(item) for item in items[:MOST_NAMES]]
    shown += [Markup("{} more").format(len(items) - MOST_NAMES)] if len(items) > MOST_NAMES else []
    return shown[0] if len(shown) == 1 else Markup("{} and {}").format(Markup(", ").join(shown[:-1]), shown[-1])


def _network(members: list[Group], full: int) -> tuple[Markup, str]:
    """The sentences about one network with results, and the name of its single best method or ""."""
    values = comparable(members, HEADLINE, full)
    if not values:
        if any(group.value(HEADLINE) is not None for group in members):
            return Markup("no method was measured on all {} images, so none is called best.").format(full), ""
        text = Markup("no run has a GT-known Loc, so no method is called best.")
        right = next((value for group in members if (value := group.value("top1_cls")) is not None), None)
        if right is not None and not any(row["result"].get("threshold") for group in members for row in group.done):
            text += Markup(" The test images have no boxes; the class is right on {}\u00a0% of them.").format(right)
        return text, ""
    top = max(value.mean for value in values.values())
    best = [method for method, value in values.items() if math.isclose(value.mean, top)]
    group, value = next(group for group in members if group.method == best[0]), values[best[0]]
    if len(values) == 1:
        rest = " on all images" + " and seeds" * (value.n > 1)
        does = "is the only method with a result" + rest * (len(members) > 1)
    elif len(best) == len(values):
        does = "come out equal"
    else:
        does = "share the first place" if len(best) > 1 else "is best"
    boxes, seeds = "their boxes are" if len(best) > 1 else "its box is", f" (mean of {value.n} seeds)" * (value.n > 1)
    of = f"{value}\u00a0% of the {full:.0f} image{'s' * (full != 1)}{seeds}"
    text = Markup("{} {}: {} right on {}.").format(_names(best), does, boxes, of)
    cam = None if "cam" in best else next((group for group in members if group.method == "cam"), None)
    text += _compared(group, cam, "cam" in best)
    tied = [method for method, mark in marks(members, HEADLINE, full).items() if mark == "tie" and method != "cam"]
    if tied:
        others = _names(tied) if len(tied) <= MOST_NAMES else f"{len(tied)} other methods"
        verb = "is" if len(tied) == 1 else "are"
        text += Markup(" {} {} not significantly different from the best.").format(others, verb)
    return text, best[0] if len(best) == 1 and len(values) > 1 else ""


def _compared(group: Group, cam: Group | None, is_cam: bool) -> Markup:
    """The sentence that sets the best method beside plain CAM and the centre box."""
    to_cam = None if is_cam else difference(group, "cam", cam)
    pairs = [("plain CAM", to_cam), ("a box in the middle of the image", difference(group, "centre_box"))]
    known = [(_amount(away, name), _significance(away)) for name, away in pairs if away is not None]
    said = list(dict.fromkeys(significance for _, significance in known))
    text = Markup("")
    if len(known) == 2 and len(said) == 1:
        both = said[0].replace("not", "neither", 1) if "not" in said[0] else f"both {said[0]}"
        text = Markup(" That is {} and {} ({}).").format(known[0][0], known[1][0], both)
    elif known:
        text = Markup(" That is {}.").format(" and ".join(f"{amount} ({said})" for amount, said in known))
    return text if is_cam or to_cam is not None else text + Markup(" There is no comparable result of plain CAM.")


def _amount(away: Difference, name: str) -> str:
    mean, note = round(away.value.mean, 1), f" {away.note}" if away.note else ""
    points = f"{abs(mean):.1f} {'point' if abs(mean) == 1 else 'points'} {'more' if mean > 0 else 'less'}"
    return f"{points if mean else 'no more'} than {name}{note}"


def _significance(away: Difference) -> str:
    """Whether a difference is significant, said in a way that is true of every number of seeds."""
    n = away.value.n
    if away.significant:
        return "significant" if n == 1 else f"significant in each of {n} seeds"
    if not away.above and not away.below:
        return "not significant" if n == 1 else f"not significant in any of {n} seeds"
    if not (away.below if away.value.mean > 0 else away.above):  # all in the direction of the mean
        return f"significant in {away.above or away.below} of {n} seeds"
    sides = [f"{side} in {count}" for count, side in ((away.above, "better"), (away.below, "worse")) if count]
    return f"significantly {' and '.join(sides)} of {n} seeds"


def _why(groups: Sequence[Group], full: int) -> Markup | str:
    """How much of the object RethinkingCAM and CAM find: said only where the numbers show that the former finds more.

    That is so on a network where RethinkingCAM's GT-known Loc is significantly above plain CAM's in every seed, plain CAM's
    most frequent kind of miss is "part only", and RethinkingCAM's boxes are "part only" less often.
    """
    shown = []
    for group in groups:
        cam = next((other for other in groups if other.backbone == group.backbone and other.method == "cam"), None)
        if group.method != "rethinking_cam" or cam is None or not group.n_images == cam.n_images == full:
            continue
        gained, before, after = difference(group, "cam", cam), cam.share_of("part only"), group.share_of("part only")
        if gained is None or gained.above < gained.value.n or before is None or after is None or before <= after:
            continue
        if before > max(cam.share_of(name) or 0 for name in ("too large", "multiple instances", "background")):
            shown.append((group.backbone, before, after))
    if not shown:
        return ""
    thing = "bird" if groups[0].dataset in BIRDS else "object"
    text = Markup("On {}, plain CAM's box covers only a part of the {} in {:.0f}\u00a0% of the images, ").format(
        shown[0][0], thing, shown[0][1]
    )
    text += Markup("RethinkingCAM's in {:.0f}\u00a0%").format(shown[0][2])
    for other in shown[1:]:
        text += Markup("; on {} in {:.0f}\u00a0% and {:.0f}\u00a0%").format(*other)
    head = " The species of these birds differ in the head: bill, mask or crest." * (groups[0].dataset == "synthetic")
    return text + "." + head


# ------------------------------------------------------------------------------------------------ charts


def charts(groups: Sequence[Group], looks: dict[str, int], most: int) -> dict[str, list[dict[str, Any]]]:
    """{"curves": [{"backbone", "chart"}], "cost": likewise}: one chart per backbone, with the axes of all of the dataset; at
    most so many points of a curve. looks: method -> index of its colour, line and marker on the whole page."""
    from wsolkit.figures import accuracy_curves, cost_scatter, inline_svg

    done = [group for group in groups if group.done]
    curves = {(group.backbone, group.method): curve for group in done if (curve := mean_curve(group, most))}
    costs = {(group.backbone, group.method): point for group in done if (point := _cost(group))}
    values = [value for group in done if (value := group.value(HEADLINE)) is not None]
    tops = [*_centre_boxes(done), *(value.high or value.mean for value in values)]
    top = max([0.0, *tops, *(max(curve[1]) for curve in curves.values())])
    top = min(100.0, max(20.0, 10 * math.ceil((top + 1) / 10)))
    seconds = [point[0] for point in costs.values()] or [0.01]
    span = min(seconds) / 1.5, max(max(seconds) * 1.5, min(seconds) / 1.5 * 10)  # one power of ten at least
    drawn: dict[str, list] = {"curves": [], "cost": []}
    for backbone in _backbones(done):
        members = {group.method: group for group in done if group.backbone == backbone}
        lines = {method: curves[backbone, method] for method in members if (backbone, method) in curves}
        points = {method: costs[backbone, method] for method in members if (backbone, method) in costs}
        if lines:
            marked = {method: _threshold(members[method]) for method in lines}
            boxes = _centre_boxes(members.values())
            figure = accuracy_curves(lines, marked, fmean(boxes) if boxes else None, looks=looks, top=top)
            label = f"GT-known Loc against the threshold on {backbone}; highest point in percent: "
            told = {method: f"{method} {max(line[1]):.1f}" for method, line in lines.items()}
            drawn["curves"].append(
                {"backbone": backbone, "chart": Markup(inline_svg(figure, _told(label, told), told))}
            )
        if points:
            heights = {method: members[method].value(HEADLINE) for method in points}
            having = {
                method: value for method, value in heights.items() if value and None not in (value.low, value.high)
            }
            ends: dict[str, Any] = {method: (value.low, value.high) for method, value in having.items()}
            figure = cost_scatter({backbone: points}, intervals={backbone: ends}, looks=looks, top=top, span=span)
            label = f"GT-known Loc against seconds per image on {backbone}. "
            told = {method: f"{method}: {heights[method]} %, {points[method][0]:.3g} s per image" for method in points}
            drawn["cost"].append({"backbone": backbone, "chart": Markup(inline_svg(figure, _told(label, told), told))})
    return drawn


def _told(label: str, told: dict[str, str]) -> str:
    """A chart's label: so many methods by name, and a count of the others."""
    parts = list(told.values())
    return label + ", ".join(parts[:TOLD]) + f" and {len(parts) - TOLD} more methods" * (len(parts) > TOLD) + "."


def mean_curve(group: Group, most: int = 250) -> tuple[list[float], list[float]] | None:
    """(thresholds, accuracy in percent) of at most so many points, over seeds; seeds with other thresholds than the first
    one are left out."""
    curves = [row["curve"] for row in group.done if row["curve"]]
    if not curves:
        return None
    taus = curves[0][0]
    same = [accuracy for other, accuracy in curves if other == taus]
    points = [(tau, fmean(heights)) for tau, *heights in zip(taus, *same, strict=True) if tau <= 1]
    points = points[:: -(-len(points) // most) or 1]
    return [tau for tau, _ in points], [height for _, height in points]


def _threshold(group: Group) -> float | None:
    taus = [row["result"].get("threshold") for row in group.done]
    taus = [tau for tau in taus if tau is not None and 0 <= tau <= 1]
    return fmean(taus) if taus else None


def _cost(group: Group) -> tuple[float, float] | None:
    value, seconds = group.value(HEADLINE), group.value("seconds_per_image")
    if value is None or seconds is None or not TIMES[0] <= seconds.mean <= TIMES[1]:
        return None
    return seconds.mean, value.mean


def _centre_boxes(groups) -> list[float]:
    boxes = [row["result"]["centre_box"][HEADLINE] for group in groups for row in group.done]
    return [percent for percent in boxes if percent is not None]


# ------------------------------------------------------------------------------------------------ the same images


def _add_images(sections: Sequence[dict], budget: int) -> None:
    """Give every dataset and backbone that has any an equal share of the bytes; what one leaves over, the next ones have."""
    wanted = []
    for section in sections:
        for backbone in section["backbones"]:
            members = [group for group in section["shown"] if group.backbone == backbone]
            if any(row["gallery"] for group in members for row in group.done):
                wanted.append((section, members))
    for index, (section, members) in enumerate(wanted):
        gallery, used = same_images(members, budget // (len(wanted) - index))
        budget -= used
        section["galleries"].append(gallery)


def same_images(groups: Sequence[Group], budget: int) -> tuple[dict[str, Any], int]:
    """Rows of thumbnails (image x method) of the groups of one backbone, as many as fit `budget` bytes of base64.

    Every method is shown by its first seed's run. Returns {"backbone", "seed" (of the shown runs, None where they differ),
    "methods", "lines": [(id, [{"uri", "alt", "caption", "report"} or None])], "left_out": how many images did not fit} and
    the bytes used.
    """
    rows = [row for group in groups if (row := next((row for row in group.done if row["gallery"]), None))]
    longest = max(rows, key=lambda row: len(row["gallery"]))["gallery"][:SAME_IMAGES]
    lines, used = [], 0
    for entry in longest:
        cells = [_cell(row, entry["id"]) for row in rows]
        size = sum(len(cell["uri"]) for cell in cells if cell)
        if used + size > budget:
            break
        used += size
        if any(cells):
            lines.append((_shortened(entry["id"]), cells))
    seeds = {row["seed"] for row in rows}
    gallery = {"backbone": groups[0].backbone, "seed": seeds.pop() if len(seeds) == 1 else None}
    gallery |= {"methods": [row["method"] for row in rows], "lines": lines, "left_out": len(longest) - len(lines)}
    return gallery, used


def _cell(row: dict, name: str) -> dict[str, Any] | None:
    """One thumbnail; None where the run has no such image, or one that cannot be read."""
    entry = next((item for item in row["gallery"] if item["id"] == name), None)
    if entry is None or entry["path"] is None:
        return None
    try:
        uri = markup.image_uri(entry["path"].read_bytes())
    except (OSError, SyntaxError):
        return None
    alt = f"{_shortened(name)} under {row['method']} on {row['backbone']}. {entry['caption']}"
    return {"uri": uri, "alt": alt, "caption": entry["caption"], "report": row["report"]}


def _shortened(text: str, most: int = 80) -> str:
    return text if len(text) <= most else text[: most // 2 - 1] + " … " + text[-most // 2 + 2 :]

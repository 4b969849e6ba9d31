"""A method's report: one HTML page from the files of its run, with no request to the network and nothing run again.

Every function below `_values` makes the values of one section; method.html.j2 lays them out in the order of SECTIONS. Sentences are
written from the numbers and say no more than these carry. Pages of plain notebooks are `wsolkit.report.notebook_page`,
the index over all runs is `wsolkit.report.index`. matplotlib is imported where a chart is drawn, torch nowhere.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from wsolkit.boxes.extract import overlaps
from wsolkit.common.files import atomic_write_text
from wsolkit.evaluation.failures import slices
from wsolkit.evaluation.per_image import FAILURES, flags, parse_boxes
from wsolkit.report import markup
from wsolkit.report.groups import Group
from wsolkit.report.notebook_page import as_text, chapter, home_of, notebook_to_html
from wsolkit.report.numbers import (
    VERDICTS,
    between,
    counted,
    listed,
    ordinal,
    plain,
    seconds,
    signed,
    spread,
    times,
    verdict,
)
from wsolkit.report.published import FIELDS, published_table
from wsolkit.report.report_data import RunFiles, curve_of, mapping, number, read_run
from wsolkit.report.rows import METRICS
from wsolkit.runs import folder as files
from wsolkit.runs.fingerprints import page_state
from wsolkit.runs.folder import Training, note_page, seconds_of

SECTIONS = {  # in the page's order; "galleries" and "experiment" are where other modules' parts stand
    "result": "Result",
    "threshold": "Accuracy and threshold",
    "iou": "How well the boxes fit",
    "sizes": "Accuracy by object size",
    "galleries": "Galleries",
    "experiment": "The method\u2019s own experiment",
    "confusion": "Class and box",
    "training": "Training",
    "classes": "Classes",
    "cost": "Cost",
    "published": "Published and measured",
    "parameters": "Parameters and protocol",
}
CARDS = {  # metric -> its name, and what it counts
    "top1_loc": ("Top-1 Loc", "box right and class right"),
    "gt_known_loc": ("GT-known Loc", "box right: IoU \u2265 0.5 with an object"),
    "max_box_acc_v2": (
        "MaxBoxAccV2",
        "mean over IoU 0.3, 0.5 and 0.7, each at the threshold that is best on the test images",
    ),
    "top1_cls": ("Top-1 Cls", "class right"),
}
OTHER_METRICS = {
    "top5_cls": "Top-5 Cls",
    "top5_loc": "Top-5 Loc",
    "max_box_acc": "MaxBoxAcc (best on test)",
    "pxap": "PxAP",
}
POINTS = {  # operating point -> its name and its mark in the chart
    "validation": ("chosen on validation", "\u25cf"),
    "fixed": ("fixed", "\u25a1"),
    "best_on_test": ("best on test (optimistic)", "\u25c7"),
}
NAMES = {"cam": "plain CAM", "centre_box": "the centre box"}
MEANINGS = [  # of class right or wrong, by box right or wrong
    ["found and named: Top-1 Loc", "named, but not found"],
    ["found, but taken for another class", "neither found nor named"],
]
SMALL, LARGE = 0.8, 1.25  # a median box below or above this many object areas is called too small or too large
EXTREMES, FOLDED = 10, 20  # classes at each end, where there are more than FOLDED
CONFUSED = 8  # pairs of classes shown


def write_report(
    folder: str | Path,
    html: str | Path,
    title: str = "",
    footer: Mapping[str, Any] | None = None,
    banner: str | None = None,
    home: str | Path | None = None,
) -> Path:
    """Write the page of the run in `folder` and return its path.

    A completed run of a method (metrics.json, and no failure.json) gets the report, from whatever lies in its folder:
    metrics.json, per_image.csv, plain_cam.csv, galleries/, notebook.ipynb, and history.csv of its training runs. Of any
    other folder (a training run, a run that failed) the executed notebook becomes the page, see `notebook_to_html`.

    title: by default "<method> on <backbone>, <dataset>". footer: of a notebook's page; a report takes its own from
        metrics.json. banner, home: as for `notebook_to_html`. The page is written by rename.
    ValueError and FileNotFoundError name a metrics.json or a notebook that is absent or cannot be read; other files that
    cannot be read leave a note on the page.
    """
    folder, html = Path(folder), Path(html)
    if not (folder / files.METRICS).is_file() or (folder / files.FAILURE).exists():
        return notebook_to_html(folder / files.NOTEBOOK, html, title or folder.name, footer or {}, banner, home)
    run = read_run(folder)
    backbone, dataset = run.config.get("backbone", "a network"), run.config.get("dataset", "its data")
    title = title or f"{run.method} on {backbone}, {dataset}"
    values = _values(run, html)
    values["experiment"], subtitle, headings = _chapter(run, title)
    values["galleries"] = _galleries(run)
    contents = []
    for key, text in SECTIONS.items():
        if values.get(key, True):
            contents.append({"level": 2, "id": key, "text": text})
            contents += headings if key == "experiment" else []
    own = ("galleries.css",), ("galleries.js",)
    styles, scripts = own if values["galleries"] else ((), ())
    links = [(name, _link(folder / name, html)) for name in (files.METRICS, files.PER_IMAGE, files.NOTEBOOK, files.LOG)]
    values |= {"title": title, "subtitle": subtitle, "contents": contents, "banner": banner, "notes": run.notes}
    values |= {"home": home_of(html, home), "footer": _footer(run.values), "files": [link for link in links if link[1]]}
    page = markup.render("method.html.j2", styles=("method.css", *styles), scripts=scripts, **values)
    atomic_write_text(html, page)
    return html


def write_reports(out: str | Path, everything: bool = False) -> Iterator[tuple[Path, str]]:
    """Write the pages under OUT that are absent or older than their metrics.json (or all) anew, from completed runs of the
    first seed and of all others; yields (page, "" or what went wrong) one by one."""
    out = Path(out)
    found = (path for base in ("runs", "seed-*/runs") for path in out.glob(f"{base}/*/*/*/{files.METRICS}"))
    for metrics in sorted(found):
        folder = metrics.parent
        base, (dataset, backbone, slug) = folder.parents[3], folder.parts[-3:]
        html = base / dataset / backbone / f"{slug}.html"
        written = html.is_file() and html.stat().st_mtime_ns >= metrics.stat().st_mtime_ns
        if (folder / files.FAILURE).exists() or (written and not everything):
            continue
        try:
            page = write_report(folder, html, home=out / files.INDEX)
            fingerprint = files.content_of(metrics).get("fingerprint", "")
            note_page(folder, fingerprint, page_state(), seconds_of(folder, metrics))
            yield page, ""
        except (ValueError, OSError) as error:
            yield html, str(error)


def _values(run: RunFiles, html: Path) -> dict[str, Any]:
    """What the template shows; a section that is empty or None is left out."""
    trainings = [training(item) for item in run.trainings]
    for item in trainings:
        item["link"] = _link(run.folder.parent / item["name"] / files.TRAINING_PAGE, html)
    return {
        "run": run,
        "cards": [card(run, name) for name in CARDS],
        "has_cam": bool(run.plain),
        "notebook_link": _link(run.folder / files.NOTEBOOK, html),
        "protocol_line": protocol_line(run),
        "summary": summary(run),
        "other_numbers": other_numbers(run),
        "threshold": threshold(run),
        "iou": fit(run),
        "sizes": sizes(run),
        "confusion": class_and_box(run),
        "meanings": MEANINGS,
        "training": trainings,
        "classes": classes(run),
        "cost": cost(run),
        "published": published(run),
        "published_columns": [CARDS[name][0] for name in FIELDS],
        "parameters": [(name, _shown(value)) for name, value in run.config.items() if name != "out"],
    }


def _shown(value: Any) -> str:
    return (
        "\u2013" if value in ("", [], None) else ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    )


def _chapter(run: RunFiles, title: str) -> tuple[Markup | str, str, list[dict[str, Any]]]:
    try:
        reserved = ("contents", "content", "top", "run", *SECTIONS, "confused", *(f"training-{n}" for n in (1, 2)))
        return chapter(run.folder / files.NOTEBOOK, title, reserved)
    except FileNotFoundError:  # run by hand, or by papermill with an output elsewhere
        return "", "", []
    except ValueError as error:
        run.notes.append(f"The method\u2019s own experiment is left out: {error}")
        return "", "", []


def _galleries(run: RunFiles) -> Markup | str:
    from wsolkit.report.galleries import section

    try:
        return section(run.folder)
    except (ValueError, OSError) as error:
        run.notes.append(f"The galleries are left out: {error}")
        return ""


def _link(path: Path, html: Path) -> str:
    """The address of a file as seen from the page, "" where it is not there."""
    return os.path.relpath(path, html.parent).replace(os.sep, "/") if path.is_file() else ""


def _footer(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    facts = {
        "seed": values["config"].get("seed"),
        "versions": ", ".join(f"{name} {number}" for name, number in values["versions"].items()),
        "git commit": values.get("commit") or None,
        "device": values.get("device"),
        "wall time": None if values["wall_seconds"] is None else seconds(values["wall_seconds"]),
        "finished": values.get("finished"),
    }
    return [(name, as_text(value)) for name, value in facts.items()]


# ------------------------------------------------------------------------------------------------ result


def card(run: RunFiles, name: str) -> dict[str, Any]:
    """A headline number with its interval, and the differences to plain CAM and to the centre box."""
    value, (label, what) = run.metric(name), CARDS[name]
    others = {"cam": run.plain.get(name), "centre_box": number(_centre_box(run).get(name))}
    differences = [] if value is None else [_difference(run, other, name, others[other]) for other in NAMES]
    return {"label": label, "what": what, "value": value, "ends": run.interval(name), "others": others,
            "differences": [line for line in differences if line]}  # fmt: skip


def _centre_box(run: RunFiles) -> dict[str, Any]:
    return mapping(run.result.get("centre_box"))


def _difference(run: RunFiles, other: str, metric: str, value: float | None) -> dict[str, Any] | None:
    if other == "cam" and run.method == "cam" and not run.plain:
        return None  # it is plain CAM
    found, word = run.against(other, metric), ""
    if found.get("difference") is not None:
        word, difference = verdict(found), found["difference"]
    elif value is not None:
        difference = run.metric(metric) - value
    else:
        why = "has no class of its own" if (other, metric) == ("centre_box", "top1_cls") else "not known"
        return {"name": NAMES[other], "none": why, "word": ""}
    ends = between((found["low"], found["high"]), sign=True) if word not in ("", "equal") else ""
    return {"name": NAMES[other], "text": signed(difference), "interval": ends, "word": word, "verdict": VERDICTS[word]}


def protocol_line(run: RunFiles) -> str:
    """What the headline numbers rest on, in one line."""
    parts = [counted(run.n, "test image")]
    tau, percentile = run.metric("threshold"), run.metric("percentile")
    if tau is not None:
        at = f" of the {ordinal(percentile)} percentile" if percentile not in (None, 100) else ""
        chosen = f"chosen on {counted(int(run.metric('n_val') or 0), 'validation image')}"
        parts.append(f"boxes at threshold {tau:g}{at}, {chosen if _chosen(run) == 'validation' else 'fixed'}")
    parts += [f"{key}: {value}" for key, value in mapping(run.result.get("conditions")).items()]
    parts.append(f"protocol: {run.result.get('protocol') or 'not known'}")
    return "; ".join(parts)


def _chosen(run: RunFiles) -> str:
    return "validation" if run.result.get("operating_point") == "validation" else "fixed"


def other_numbers(run: RunFiles) -> list[tuple[str, str, str]]:
    """(name, percent, interval) of what is not on a card."""
    found = [(label, run.metric(name), run.interval(name)) for name, label in OTHER_METRICS.items()]
    parts = mapping(run.result.get("max_box_acc_v2_parts"))
    found += [(f"MaxBoxAccV2 at IoU {name}", number(value), None) for name, value in parts.items()]
    box = _centre_box(run)
    how = "chosen on validation" if box.get("operating_point") == "validation" else "fixed"
    name = f"Centre box ({box.get('side')} px, {how}): GT-known Loc"
    found.append((name, number(box.get("gt_known_loc")), run.interval("centre_box")))
    return [(label, plain(value, 2), spread(value, ends)) for label, value, ends in found if value is not None]


# ------------------------------------------------------------------------------------------------ what happened


def summary(run: RunFiles) -> list[str]:
    """What happened, in a few sentences; the first is the main one. Only what the numbers carry is said."""
    sentences = [_main_number(run), _compared(run), _box_sizes(run), _commonest_failure(run), _threshold_cost(run)]
    return [sentence.replace(" %", "\u00a0%") for sentence in sentences if sentence]


def _main_number(run: RunFiles) -> str:
    images = counted(run.n, "test image")
    known, top1, cls = (run.metric(name) for name in ("gt_known_loc", "top1_loc", "top1_cls"))
    if run.n == 0:
        return "No image was measured."
    if known is None:
        pxap = run.metric("pxap")
        named = f" The class is right in {plain(cls)} %." if cls is not None else ""
        pixels = f" Its maps reach a pixel average precision (PxAP) of {plain(pxap)} %." if pxap is not None else ""
        boxes = f"There are no ground-truth boxes to score the {images} against, so no box accuracy is reported."
        return boxes + named + pixels
    named = f", and in {plain(top1)} % it also names the class (Top-1 Loc)"
    if top1 is None:
        named = "; whether the class is right is not known" if cls is None else ""
    limited = mapping(run.result.get("conditions")).get("images")
    only = f" Only a part of the test images was used: {limited}." if limited else ""
    return f"The box hits the object in {plain(known)} % of {images} (GT-known Loc){named}.{only}"


def _compared(run: RunFiles) -> str:
    """Against plain CAM and the centre box, by GT-known Loc."""
    if run.metric("gt_known_loc") is None:
        return ""
    said = {
        "better": "better than {}",
        "worse": "worse than {}",
        "open": "not significantly different from {}",
        "equal": "level with {}, image by image",
        "": "{}",
    }
    groups: dict[str, list[str]] = {word: [] for word in said}
    for other, name in NAMES.items():
        found = run.against(other, "gt_known_loc")
        word, box = verdict(found), number(_centre_box(run).get("gt_known_loc"))
        if word == "equal":
            groups[word].append(name)
        elif word:
            ends = between((found["low"], found["high"]), sign=True)
            groups[word].append(f"{name} ({signed(found['difference'])} points GT-known Loc, 95 % interval {ends})")
        elif other == "centre_box" and box is not None:
            away = run.metric("gt_known_loc") - box
            where = f"{plain(abs(away))} points {'above' if away > 0 else 'below'}" if round(away, 1) else "level with"
            groups[word].append(f"{where} {name}, by how much beyond chance is not known")
    parts = [said[word].format(listed(names)) for word, names in groups.items() if names]
    is_plain = run.method == "cam" and run.config.get("variant") in (None, "gap")
    what = "Plain CAM, the baseline of the other reports, is" if is_plain else "It is"
    return f"{what} {listed(parts)}." if parts else ""


def box_ratios(table: pd.DataFrame) -> np.ndarray:
    """Area of each predicted box over that of the ground-truth box it overlaps most (the largest where it misses all);
    images with an empty mask have no box and are left out."""
    rows = table[~table["empty"].fillna(False).astype(bool)]
    ratios = []
    for x0, y0, x1, y1, text in rows[["x0", "y0", "x1", "y1", "gt_boxes"]].itertuples(index=False):
        truths = np.array(parse_boxes(text))
        shared, own, areas = overlaps(np.array([x0, y0, x1, y1]), truths)
        best = int(np.argmax(shared / (own + areas - shared))) if shared.any() else int(np.argmax(areas))
        ratios.append(own / areas[best])
    return np.array(ratios, float)


def _box_sizes(run: RunFiles) -> str:
    if run.boxes is None:
        return ""
    ratios = box_ratios(run.boxes)
    missing = len(run.boxes) - len(ratios)
    if len(ratios) == 0:
        return "No image has a box at all: at this threshold every mask is empty."
    empty = (
        f" In {counted(missing, 'image')} no pixel lies above the threshold: these count as misses." if missing else ""
    )
    middle, below = float(np.median(ratios)), 100 * float((ratios < 1).mean())
    word = f"mostly too {'small' if middle < SMALL else 'large'}: the median one has {middle:.2f} times the area of the object's box"
    if SMALL <= middle <= LARGE:
        word = f"about as large as the objects' (the median one has {middle:.2f} times the area)"
    return f"Its boxes are {word}; {below:.0f} % are smaller than the object's.{empty}"


def _commonest_failure(run: RunFiles) -> str:
    counts = dict(mapping(run.result.get("failures")))
    if run.boxes is not None:
        counts = run.boxes["failure"].value_counts().to_dict()
    misses = {name: int(counts.get(name, 0)) for name in FAILURES if name != "right"}
    total, most = sum(misses.values()), max(misses.values())
    if not sum(counts.values()):
        return ""
    if total == 0:
        return "No image fails."
    first = [name for name, count in misses.items() if count == most]
    quoted = listed([f"\u201c{name}\u201d" for name in first])
    if len(first) > 1:
        return f"The commonest failures are {quoted} ({most} of {total} failed images each)."
    meaning = FAILURES[first[0]]
    said = f"{meaning[0].lower()}{meaning[1:]}"
    return f"The commonest failure is {quoted} ({most} of {counted(total, 'failed image')}): {said}"


def _threshold_cost(run: RunFiles) -> str:
    """What it cost to choose the threshold without the test images."""
    here, best, fixed = run.metric("gt_known_loc"), run.point("best_on_test"), run.point("fixed")
    tau = run.metric("threshold")
    if here is None or tau is None:
        return ""
    if None in (best.get("gt_known_loc"), best.get("threshold")):
        return f"The protocol has one threshold, {tau:g}; nothing was chosen."

    def points(lost: float) -> str:
        return f"{plain(lost)} points" if round(lost, 1) > 0 else "nothing"

    cost = f"cost {points(best['gt_known_loc'] - here)} against the threshold that is best on the test images "
    cost += f"({best['threshold']:g})"
    if run.result.get("operating_point") != "validation":
        return f"There is no validation split with boxes, so the fixed threshold {tau:g} stands, which {cost}."
    sentence = (
        f"Choosing the threshold ({tau:g}) on {counted(int(run.metric('n_val') or 0), 'validation image')} {cost}"
    )
    if None in (fixed.get("gt_known_loc"), fixed.get("threshold")):
        return f"{sentence}."
    other = points(best["gt_known_loc"] - fixed["gt_known_loc"])
    return f"{sentence}; the fixed threshold ({fixed['threshold']:g}) would have cost {other}."


# ------------------------------------------------------------------------------------------------ boxes


def threshold(run: RunFiles) -> dict[str, Any] | None:
    """The accuracy curve with its operating points, and a row per point."""
    points = {name: point for name in POINTS if (point := run.point(name)).get("threshold") is not None}
    if not points:
        return None
    here = run.metric("gt_known_loc")
    rows = [
        {"name": POINTS[key][0], "mark": POINTS[key][1], "reported": key == _chosen(run), **point}
        | {"away": None if None in (here, point.get("gt_known_loc")) else point["gt_known_loc"] - here}
        for key, point in points.items()
    ]
    other = curve_of(run.plain)
    stretched = other is not None and run.plain.get("percentile") != run.metric("percentile")
    return {"chart": _threshold_chart(run, points, other), "rows": rows, "stretched": stretched}


def _threshold_chart(run: RunFiles, points: Mapping, other: tuple | None) -> Markup | None:
    from wsolkit.figures import accuracy_curves, inline_svg

    curve, box = curve_of(run.result), number(_centre_box(run).get("gt_known_loc"))
    if curve is None:
        return None
    peak = int(np.argmax(curve[1]))
    label = f"GT-known Loc against the threshold: highest {curve[1][peak]:.1f} % at {curve[0][peak]:g}"
    for key, point in points.items():
        label += f"; {POINTS[key][0]} {point['threshold']:g}: {plain(point.get('gt_known_loc'), 2)} %"
    label += f"; plain CAM at most {max(other[1]):.1f} %" if other else ""
    label += f"; centre box {box:.1f} %." if box is not None else "."
    name, chosen = run.method, points.get(_chosen(run), {}).get("threshold")
    curves = {name: curve} | ({"plain CAM": other} if other else {})
    marks = {"reported": chosen} | ({"plain CAM": run.plain.get("threshold")} if other else {})
    highest = max(*curve[1], *(other[1] if other else ()), box or 0)
    top = next((end for end in (20, 40) if highest <= 0.95 * end), 100)
    return Markup(inline_svg(accuracy_curves(curves, marks, box, points={name: points}, top=top), label))


def fit(run: RunFiles) -> dict[str, Any] | None:
    """The histogram of IoU and the failure types."""
    from wsolkit.figures import inline_svg, iou_histogram

    if run.boxes is None:
        return None
    ious = {run.method: run.boxes["iou"].to_numpy(float)}
    ious |= {} if run.plain_boxes is None else {"plain CAM": run.plain_boxes["iou"].to_numpy(float)}
    middles = [f"{np.median(values):.2f}" for values in ious.values()]
    own = ious[run.method]
    shares = {f"{limit:g}": f"{100 * (own >= limit).mean():.1f}" for limit in (0.3, 0.5, 0.7)}
    label = f"Histogram of IoU over {len(own)} images: the middle image has {middles[0]}; "
    label += ", ".join(f"{share} % reach {limit}" for limit, share in shares.items()) + "."
    counts = run.boxes["failure"].value_counts()
    kinds = [
        {"name": name, "meaning": meaning, "count": int(counts.get(name, 0))} for name, meaning in FAILURES.items()
    ]
    chart = Markup(inline_svg(iou_histogram(ious), label))
    return {"chart": chart, "n": len(own), "middles": middles, "shares": shares, "kinds": kinds}


def sizes(run: RunFiles) -> dict[str, Any] | None:
    """GT-known Loc by the object's share of the frame."""
    if run.boxes is None:
        return None
    own, other = slices(run.boxes), None if run.plain_boxes is None else slices(run.plain_boxes)
    rows = [
        {
            "name": row["slice"],
            "cam": None if other is None else number(float(other.loc[index, "gt_known_loc"])),
            **_share(row),
        }
        for index, row in own[own["kind"] == "size"].iterrows()
    ]
    return {"rows": rows, "cam": other is not None}


def _share(row: pd.Series) -> dict[str, Any]:
    """A row of `slices`: number of images, percent, ends of its interval and mean IoU, None where there is no image."""
    numbers = {name: number(float(row[name])) for name in ("gt_known_loc", "low", "high", "mean_iou")}
    ends = None if numbers["low"] is None else (numbers["low"], numbers["high"])
    return {"n": int(row["n"]), "value": numbers["gt_known_loc"], "ends": ends, "iou": numbers["mean_iou"]}


# ------------------------------------------------------------------------------------------------ classes


def class_and_box(run: RunFiles) -> dict[str, Any] | None:
    """Class right or wrong by box right or wrong, and the classes that are taken for one another."""
    table = run.boxes
    if table is None:
        return None
    right = flags(table["right"])
    known = right.notna().to_numpy()
    if not known.any():
        return {"unknown": len(table), "cells": None, "rates": "", "confused": None, "wrong": 0}
    right, hit = right[known].to_numpy(bool), (table["iou"].to_numpy(float) >= 0.5)[known]
    counts = [[int(((right == named) & (hit == box)).sum()) for box in (True, False)] for named in (True, False)]
    cells = [[(count, plain(100 * count / len(hit))) for count in row] for row in counts]
    rates = ""
    if all(map(sum, counts)):
        (a, na), (b, nb) = ((plain(100 * row[0] / sum(row)), sum(row)) for row in counts)
        rates = f"Where the class is right, the box is right in {a}\u00a0% of {counted(na, 'image')}; "
        rates += f"where it is wrong, in {b}\u00a0% of {nb}."
    table = table[known]
    wrong = table[(table["label"] != table["predicted"]) & table["predicted"].notna()]
    pairs = wrong.groupby(["label", "predicted"]).size()
    pairs = pairs[pairs >= 2].sort_values(ascending=False, kind="stable").head(CONFUSED)
    totals = table["label"].value_counts()
    confused = [
        {"truth": run.class_name(int(label)), "taken": run.class_name(int(taken)), "count": count, "n": totals[label]}
        for (label, taken), count in pairs.items()
    ]
    return {"unknown": int((~known).sum()), "cells": cells, "rates": rates, "confused": confused, "wrong": len(wrong)}


def classes(run: RunFiles) -> dict[str, Any] | None:
    """A row per class, the lowest GT-known Loc first; of many classes also the two ends."""
    table = run.boxes
    if table is None or (table["label"] < 0).all():
        return None
    right = flags(table["right"]).set_axis(table.index)
    by_class = slices(table).query("kind == 'class'")
    rows = []
    for label, (_, row) in zip(sorted(table["label"].unique()), by_class.iterrows(), strict=True):
        known = right[table["label"] == label]
        top1 = None if known.isna().any() else 100 * float(known.astype(bool).mean())
        misses = {name: row[name] for name in FAILURES if name != "right" and row[name] > 0}
        most = [name for name, share in misses.items() if share == max(misses.values())]
        count = round(misses[most[0]] * row["n"] / 100) if most else 0
        common = f"{listed(most)} ({count}{' each' if len(most) > 1 else ''})" if most else "none"
        rows.append({"name": run.class_name(int(label)), "top1": top1, "failure": common, **_share(row)})
    rows.sort(key=lambda row: (row["value"], row["iou"]))
    many = len(rows) > FOLDED
    return {
        "rows": rows,
        "worst": rows[:EXTREMES] if many else None,
        "best": rows[: -EXTREMES - 1 : -1] if many else None,
    }


# ------------------------------------------------------------------------------------------------ training, cost, published


def training(item: Training) -> dict[str, Any]:
    """One network's training curves and what it was trained with."""
    from wsolkit.figures import history_figure, inline_svg

    best, recipe, history = number(item.run.get("best_epoch")), mapping(item.run.get("recipe")), item.history
    kept = history[min(int(best) - 1, len(history) - 1)] if best and best >= 1 else history[-1]
    named = (("batch_size", "batch"), ("lr", "learning rate"), ("schedule", "schedule"))
    facts = [counted(len(history), "epoch")]
    facts += [f"{word} {recipe[name]}" for name, word in named if recipe.get(name) not in (None, "")]
    facts += [str(recipe["source"])] if recipe.get("source") else []
    if number(item.run.get("seconds")) is not None:
        facts.append(f"{seconds(item.run['seconds'])} on {item.run.get('device') or 'an unknown device'}")
    loss, top1 = (
        f"training {plain(kept[f'train_{kind}'], digits)}, validation {plain(kept[f'val_{kind}'], digits)}"
        for kind, digits in (("loss", 2), ("top1", 1))
    )
    when = f" at epoch {best:.0f}, which is kept" if best else " at the end"
    label = f"Loss and Top-1 accuracy against the epoch{when}: loss {loss}; Top-1 in percent {top1}."
    val = plain(kept["val_top1"]) if math.isfinite(kept["val_top1"]) else "\u2013"
    chart = Markup(inline_svg(history_figure(history, best), label))
    return {"name": item.name, "label": item.label, "facts": "; ".join(facts), "best": best, "val_top1": val, "chart": chart,
            "seconds": number(item.run.get("seconds"))}  # fmt: skip


def cost(run: RunFiles) -> dict[str, Any]:
    """Seconds of the method beside plain CAM's, of its training runs and of the notebook; only what was measured."""
    rows = [(run.method, run.result, run.trainings[:1])]
    if run.plain:
        rows.append(("plain CAM", run.plain, run.trainings[-1:]))
    lines = []
    for name, result, networks in rows:
        trained = [f"{item.label}: {seconds(taken)}" for item in networks if (taken := number(item.run.get("seconds")))]
        measured = {"seconds": result.get("seconds_per_image"), "memory": result.get("peak_memory_mb")}
        lines.append({"name": name, **measured, "training": "".join(trained) or "\u2013"})
    if run.config.get("variant") == "tap" and run.config.get("weights") == "none" and len(lines) == 2:
        lines[0]["training"] += f", after {lines[1]['training']}"  # TAP from scratch starts from the GAP network
    taken = [line["seconds"] for line in lines]
    ratio = (
        f"{run.method} takes {times(taken[0] / taken[1])} for an image as plain CAM."
        if len(taken) == 2 and all(taken)
        else ""
    )
    device = str(run.values.get("device") or "a device that is not known")
    return {"lines": lines, "ratio": ratio, "device": device, "wall": seconds(run.values["wall_seconds"])}


def published(run: RunFiles) -> dict[str, Any]:
    """Published numbers of this method beside the measured ones; "none" says why there are none."""
    dataset = str(run.config.get("dataset") or run.result.get("dataset") or "")
    if dataset != "cub":
        what = "synthetic birds" if dataset == "synthetic" else f"the data set {dataset or 'of this run'}"
        return {"none": f"There are no published numbers for {what}.", "lines": []}
    row: dict[str, Any] = {name: run.metric(name) for name in METRICS}
    row |= {"method": run.method, "backbone": str(run.config.get("backbone")), "n_images": run.n, "status": "completed"}
    row |= {"config": run.config, "result": {"n_classes": int(run.metric("n_classes") or 0)}}
    lines = [line for line in published_table([Group("cub", row["backbone"], run.method, [row])]) if line["measured"]]
    none = "" if lines else f"The list of published numbers on CUB-200-2011 has none for {run.method}."
    return {"none": none, "lines": lines}

"""A method's report: one HTML page from the files of its run, with no request to the network and nothing run again.

Every function below `_values` makes the values of one section; method.html.j2 lays them out in the order of SECTIONS. Sentences are
written from the numbers and say no more than these carry. Pages of plain notebooks are `wsolkit.report.notebook_page`,
the index over all runs is `wsolkit.report.index`. matplotlib is imported where a chart is drawn, torch nowhere.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from wsolkit.boxes.extract import overlaps
from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_write_text
from wsolkit.evaluation.per_image import FAILURES, flags, parse_boxes, read_per_image, slices
from wsolkit.report import markup
from wsolkit.report.galleries import section as galleries_section
from wsolkit.report.groups import Group
from wsolkit.report.notebook_page import chapter, home_of, notebook_to_html
from wsolkit.report.numbers import VERDICTS, between, counted, listed, plain, seconds, signed, spread, verdict
from wsolkit.report.published import FIELDS, published_table
from wsolkit.report.rows import METRICS
from wsolkit.runs import folder as files
from wsolkit.runs.fingerprints import page_state
from wsolkit.runs.folder import Training, note_page, read_metrics, read_training, seconds_of

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
SMALL, LARGE = 0.8, 1.25  # a median box below or above this many object areas is called too small or too large
CONFUSED = 8  # pairs of classes shown


@dataclass
class RunFiles:
    """A completed run, from the files of its folder.

    values: metrics.json, as `wsolkit.runs.folder.read_metrics` checked it; boxes, plain_boxes: the rows of the per-image
    tables (plain_boxes: of plain CAM on the same images) that have a ground-truth box, None where there are none.
    """

    folder: Path
    values: dict[str, Any]
    boxes: pd.DataFrame | None = None
    plain_boxes: pd.DataFrame | None = None
    trainings: list[Training] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be read

    def __post_init__(self) -> None:
        self.config, self.result = self.values["config"], self.values["result"]
        self.plain: dict[str, Any] = self.values["plain_cam"] or {}  # the result of plain CAM on the same images
        self.method = str(self.values["method"] or self.config.get("method") or self.folder.name)
        self.n: int = self.result["n_images"] or 0
        self.chosen = "validation" if self.result["operating_point"] == "validation" else "fixed"

    def against(self, other: str, metric: str) -> dict[str, Any]:
        """The difference to "cam" or "centre_box": difference, low, high, p, n; {} where it is not known."""
        return self.values["against"][other].get(metric) or {}

    def class_name(self, label: int) -> str:
        names = self.values["classes"]
        return names[label] if 0 <= label < len(names) else f"class {label}"


def read_run(folder: str | Path) -> RunFiles:
    """Everything a page needs from a run's folder; files other than metrics.json that cannot be read leave a note.

    Raises:
        FileNotFoundError, WsolkitError: metrics.json is absent or damaged.
    """
    folder = Path(folder)
    run = RunFiles(folder, read_metrics(folder).model_dump())
    run.boxes = _boxes(run, files.PER_IMAGE, run.result)
    run.plain_boxes = _boxes(run, files.PLAIN_CAM, run.plain)
    for name in dict.fromkeys(run.values[key] for key in ("training", "plain_training")):
        if not name or Path(name).name != name:  # a folder beside the run's
            continue
        try:
            if (training := read_training(folder.parent / name)) is not None:
                run.trainings.append(training)
        except (ValueError, OSError) as error:
            run.notes.append(f"The curve of a training run is left out: {error}")
    return run


def _boxes(run: RunFiles, name: str, measured: Mapping[str, Any]) -> pd.DataFrame | None:
    try:
        table, count = read_per_image(run.folder / name), measured.get("n_images")
        if count is not None and len(table) != count:
            raise WsolkitError(f"it has {len(table)} images, and {count} were measured")
        return table[table["iou"].notna()] if table["iou"].notna().any() else None
    except FileNotFoundError:
        if measured:
            run.notes.append(f"{name} is absent: what is counted image by image is left out.")
    except (ValueError, OSError) as error:
        run.notes.append(f"{name} could not be read, and what is counted image by image is left out: {error}")
    return None


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
    contents = []
    for key, text in SECTIONS.items():
        if values.get(key, True):
            contents.append({"level": 2, "id": key, "text": text})
            contents += headings if key == "experiment" else []
    own = ["galleries"] if values["galleries"] else []
    values |= {
        "title": title,
        "subtitle": subtitle,
        "contents": contents,
        "banner": banner,
        "home": home_of(html, home),
    }
    styles, scripts = [f"{name}.css" for name in ("method", *own)], [f"{name}.js" for name in own]
    atomic_write_text(html, markup.render("method.html.j2", styles=styles, scripts=scripts, **values))
    return html


def write_reports(out: str | Path, everything: bool = False) -> Iterator[tuple[Path, str]]:
    """Write the pages under OUT that are absent or older than their metrics.json (or all) anew, from completed runs of the
    first seed and of all others; yields (page, "" or what went wrong) one by one."""
    out = Path(out)
    for metrics in sorted(path for base in ("", "seed-*/") for path in out.glob(f"{base}runs/*/*/*/{files.METRICS}")):
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
    links = {
        name: _link(run.folder / name, html) for name in (files.METRICS, files.PER_IMAGE, files.NOTEBOOK, files.LOG)
    }
    return {
        "run": run,
        "cards": [
            (label, meaning, name, run.result[name], differences(run, name)) for name, (label, meaning) in CARDS.items()
        ],
        "summary": summary(run),
        "other_numbers": other_numbers(run),
        "points": POINTS,
        "threshold": threshold(run),
        "iou": fit(run),
        "failures": FAILURES,
        "sizes": sizes(run),
        "galleries": _galleries(run),
        "confusion": class_and_box(run),
        "training": [training(run, item, html) for item in run.trainings],
        "classes": classes(run),
        "costs": costs(run),
        "published": published(run),
        "published_columns": [CARDS[name][0] for name in FIELDS],
        "notes": run.notes,
        "files": {name: link for name, link in links.items() if link},
    }


def _chapter(run: RunFiles, title: str) -> tuple[Markup | str, str, list[dict[str, Any]]]:
    try:
        reserved = ("contents", "content", "top", "run", *SECTIONS, "confused", "training-1", "training-2")
        return chapter(run.folder / files.NOTEBOOK, title, reserved)
    except FileNotFoundError:  # run by hand, or by papermill with an output elsewhere
        pass
    except ValueError as error:
        run.notes.append(f"The method\u2019s own experiment is left out: {error}")
    return "", "", []


def _galleries(run: RunFiles) -> Markup | str:
    try:
        return galleries_section(run.folder)
    except (ValueError, OSError) as error:
        run.notes.append(f"The galleries are left out: {error}")
        return ""


def _link(path: Path, html: Path) -> str:
    """The address of a file as seen from the page, "" where it is not there."""
    return os.path.relpath(path, html.parent).replace(os.sep, "/") if path.is_file() else ""


# ------------------------------------------------------------------------------------------------ result


def differences(run: RunFiles, metric: str) -> list[dict[str, Any]]:
    """The differences of a headline number to plain CAM and to the centre box; none of plain CAM to itself."""
    lines: list[dict[str, Any]] = []
    if run.result[metric] is None:
        return lines
    baselines = {"cam": run.plain.get(metric), "centre_box": run.result["centre_box"].get(metric)}
    for other, value in baselines.items():
        if other == "cam" and run.method == "cam" and not run.plain:
            continue
        paired = run.against(other, metric)
        away, word = paired.get("difference"), verdict(paired)
        if away is None and value is not None:
            away = run.result[metric] - value
        if away is None:
            why = "has no class of its own" if (other, metric) == ("centre_box", "top1_cls") else "not known"
            lines.append({"name": NAMES[other], "none": why, "word": ""})
            continue
        ends = between((paired["low"], paired["high"]), sign=True) if word not in ("", "equal") else ""
        said = {"text": signed(away), "interval": ends, "word": word, "verdict": VERDICTS[word]}
        lines.append({"name": NAMES[other], **said})
    return lines


def other_numbers(run: RunFiles) -> list[tuple[str, str, str]]:
    """(name, percent, interval) of what is not on a card."""
    intervals, box = run.result["intervals"], run.result["centre_box"]
    numbers = [(label, run.result[name], intervals.get(name)) for name, label in OTHER_METRICS.items()]
    parts = run.result["max_box_acc_v2_parts"]
    numbers += [(f"MaxBoxAccV2 at IoU {name}", value, None) for name, value in parts.items()]
    how = "chosen on validation" if box.get("operating_point") == "validation" else "fixed"
    name = f"Centre box ({box.get('side')} px, {how}): GT-known Loc"
    numbers.append((name, box["gt_known_loc"], intervals.get("centre_box")))
    return [(label, plain(value, 2), spread(value, ends)) for label, value, ends in numbers if value is not None]


# ------------------------------------------------------------------------------------------------ what happened


def summary(run: RunFiles) -> list[str]:
    """What happened, in a few sentences; the first is the main one. Only what the numbers carry is said."""
    sentences = [_main_number(run), _compared(run), _box_sizes(run), _commonest_failure(run), _threshold_cost(run)]
    return [sentence.replace(" %", "\u00a0%") for sentence in sentences if sentence]


def _main_number(run: RunFiles) -> str:
    images = counted(run.n, "test image")
    known, top1, cls, pxap = (run.result[name] for name in ("gt_known_loc", "top1_loc", "top1_cls", "pxap"))
    if run.n == 0:
        return "No image was measured."
    if known is None:
        named = f" The class is right in {plain(cls)} %." if cls is not None else ""
        pixels = f" Its maps reach a pixel average precision (PxAP) of {plain(pxap)} %." if pxap is not None else ""
        boxes = f"There are no ground-truth boxes to score the {images} against, so no box accuracy is reported."
        return boxes + named + pixels
    named = f", and in {plain(top1)} % it also names the class (Top-1 Loc)"
    if top1 is None:
        named = "; whether the class is right is not known" if cls is None else ""
    limited = run.result["conditions"].get("images")
    only = f" Only a part of the test images was used: {limited}." if limited else ""
    return f"The box hits the object in {plain(known)} % of {images} (GT-known Loc){named}.{only}"


def _compared(run: RunFiles) -> str:
    """Against plain CAM and the centre box, by GT-known Loc."""
    here, box = run.result["gt_known_loc"], run.result["centre_box"]["gt_known_loc"]
    if here is None:
        return ""
    said = {"better": "better than", "worse": "worse than", "open": "not significantly different from"}
    parts: dict[str, list[str]] = {word: [] for word in (*said, "equal", "")}
    for other, name in NAMES.items():
        paired = run.against(other, "gt_known_loc")
        word = verdict(paired)
        if word == "equal":
            parts[word].append(name)
        elif word:
            ends = between((paired["low"], paired["high"]), sign=True)
            parts[word].append(f"{name} ({signed(paired['difference'])} points GT-known Loc, 95 % interval {ends})")
        elif other == "centre_box" and box is not None:
            away = here - box
            place = f"{plain(abs(away))} points {'above' if away > 0 else 'below'}" if round(away, 1) else "level with"
            parts[word].append(f"{place} {name}, by how much beyond chance is not known")
    texts = [f"{said[word]} {listed(parts[word])}" for word in said if parts[word]]
    texts += [f"level with {listed(parts['equal'])}, image by image"] if parts["equal"] else []
    is_plain = run.method == "cam" and run.config.get("variant") in (None, "gap")
    subject = "Plain CAM, the baseline of the other reports, is" if is_plain else "It is"
    return f"{subject} {listed([*texts, *parts['']])}." if any(parts.values()) else ""


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
    if len(ratios) == 0:
        return "No image has a box at all: at this threshold every mask is empty."
    middle, below, missing = float(np.median(ratios)), 100 * (ratios < 1).mean(), len(run.boxes) - len(ratios)
    word = f"mostly too {'small' if middle < SMALL else 'large'}: the median one has {middle:.2f} times the area of the object's box"
    if SMALL <= middle <= LARGE:
        word = f"about as large as the objects' (the median one has {middle:.2f} times the area)"
    said = f"Its boxes are {word}; {below:.0f} % are smaller than the object's."
    empty = f" In {counted(missing, 'image')} no pixel lies above the threshold: these count as misses."
    return said + empty * bool(missing)


def _commonest_failure(run: RunFiles) -> str:
    counts = run.result["failures"] if run.boxes is None else run.boxes["failure"].value_counts().to_dict()
    misses = {name: int(counts.get(name, 0)) for name in FAILURES if name != "right"}
    total, most = sum(misses.values()), max(misses.values())
    if total == 0:
        return "No image fails." if sum(counts.values()) else ""
    first = [name for name, count in misses.items() if count == most]
    quoted = listed([f"\u201c{name}\u201d" for name in first])
    if len(first) > 1:
        return f"The commonest failures are {quoted} ({most} of {total} failed images each)."
    meaning = FAILURES[first[0]]
    said = f"{meaning[0].lower()}{meaning[1:]}"
    return f"The commonest failure is {quoted} ({most} of {counted(total, 'failed image')}): {said}"


def _threshold_cost(run: RunFiles) -> str:
    """What it cost to choose the threshold without the test images."""
    here, tau, points = run.result["gt_known_loc"], run.result["threshold"], run.result["operating_points"]
    if here is None or tau is None:
        return ""
    best, fixed = points["best_on_test"], points["fixed"]
    if None in (best["gt_known_loc"], best["threshold"]):
        return f"The protocol has one threshold, {tau:g}; nothing was chosen."

    def lost(accuracy: float) -> str:
        away = best["gt_known_loc"] - accuracy
        return f"{plain(away)} points" if round(away, 1) > 0 else "nothing"

    cost = f"cost {lost(here)} against the threshold that is best on the test images ({best['threshold']:g})"
    if run.chosen == "fixed":
        return f"There is no validation split with boxes, so the fixed threshold {tau:g} stands, which {cost}."
    sentence = f"Choosing the threshold ({tau:g}) on {counted(run.result['n_val'] or 0, 'validation image')} {cost}"
    if None in (fixed["gt_known_loc"], fixed["threshold"]):
        return f"{sentence}."
    return f"{sentence}; the fixed threshold ({fixed['threshold']:g}) would have cost {lost(fixed['gt_known_loc'])}."


# ------------------------------------------------------------------------------------------------ boxes


def threshold(run: RunFiles) -> dict[str, Any] | None:
    """The operating points, and the curve of accuracy that goes through them."""
    points = {
        name: point for name in POINTS if (point := run.result["operating_points"][name])["threshold"] is not None
    }
    if not points:
        return None
    stretched = bool(_curve(run.plain)) and run.plain["percentile"] != run.result["percentile"]
    return {"points": points, "stretched": stretched, "chart": _threshold_chart(run, points)}


def _curve(result: Mapping[str, Any]) -> tuple[list[float], list[float]] | None:
    """(thresholds, GT-known Loc in percent) of a stored result; None without a curve."""
    curve = result.get("curve")
    return (curve["thresholds"], curve["gt_known_loc"]) if curve and curve["thresholds"] else None


def _threshold_chart(run: RunFiles, points: Mapping[str, dict]) -> Markup | None:
    from wsolkit.figures import accuracy_curves, inline_svg

    curve, other, box = _curve(run.result), _curve(run.plain), run.result["centre_box"]["gt_known_loc"]
    if curve is None:
        return None
    peak = int(np.argmax(curve[1]))
    label = f"GT-known Loc against the threshold: highest {curve[1][peak]:.1f} % at {curve[0][peak]:g}"
    for key, point in points.items():
        label += f"; {POINTS[key][0]} {point['threshold']:g}: {plain(point['gt_known_loc'], 2)} %"
    curves, marks = {run.method: curve}, {"reported": points.get(run.chosen, {}).get("threshold")}
    if other:
        curves["plain CAM"], marks["plain CAM"] = other, run.plain["threshold"]
        label += f"; plain CAM at most {max(other[1]):.1f} %"
    label += "." if box is None else f"; centre box {box:.1f} %."
    highest = max(*(accuracy for _, heights in curves.values() for accuracy in heights), box or 0)
    top = next((end for end in (20, 40) if highest <= 0.95 * end), 100)
    return Markup(inline_svg(accuracy_curves(curves, marks, box, points={run.method: points}, top=top), label))


def fit(run: RunFiles) -> dict[str, Any] | None:
    """The histogram of IoU and the failure types."""
    from wsolkit.figures import inline_svg, iou_histogram

    tables = {run.method: run.boxes, "plain CAM": run.plain_boxes}
    ious = {name: table["iou"].to_numpy(float) for name, table in tables.items() if table is not None}
    if run.boxes is None:
        return None
    middles = [f"{np.median(values):.2f}" for values in ious.values()]
    shares = {limit: f"{100 * (ious[run.method] >= limit).mean():.1f}" for limit in (0.3, 0.5, 0.7)}
    label = f"Histogram of IoU over {len(run.boxes)} images: the middle image has {middles[0]}; "
    label += ", ".join(f"{share} % reach {limit}" for limit, share in shares.items()) + "."
    counts = run.boxes["failure"].value_counts().to_dict()
    chart = Markup(inline_svg(iou_histogram(ious), label))
    return {"chart": chart, "n": len(run.boxes), "middles": middles, "shares": shares, "counts": counts}


def _slices(table: pd.DataFrame, kind: str) -> list[dict[str, Any]]:
    """Rows of `slices` (slice, n, gt_known_loc, low, high, mean_iou, ...), None where there is no image."""
    frame = slices(table).query("kind == @kind").astype(object)
    return frame.where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]  # columns have names


def sizes(run: RunFiles) -> list[dict[str, Any]]:
    """GT-known Loc by the object's share of the frame, and that of plain CAM in "cam"."""
    if run.boxes is None:
        return []
    rows = _slices(run.boxes, "size")
    others = rows if run.plain_boxes is None else _slices(run.plain_boxes, "size")
    return [row | {"cam": other["gt_known_loc"]} for row, other in zip(rows, others, strict=True)]


# ------------------------------------------------------------------------------------------------ classes


def class_and_box(run: RunFiles) -> dict[str, Any] | None:
    """Images by class right or wrong and box right or wrong, and the classes that are taken for one another."""
    if run.boxes is None:
        return None
    known = run.boxes["right"].notna()
    table = run.boxes[known]
    right, hit = table["right"].to_numpy(bool), table["iou"].to_numpy(float) >= 0.5
    counts = [[int(((right == named) & (hit == box)).sum()) for box in (True, False)] for named in (True, False)]
    wrong = table[(table["label"] != table["predicted"]) & table["predicted"].notna()]
    pairs = wrong.groupby(["label", "predicted"]).size()
    pairs = pairs[pairs >= 2].sort_values(ascending=False, kind="stable").head(CONFUSED)
    totals = table["label"].value_counts()
    labels = zip(*(pairs.index.get_level_values(level) for level in (0, 1)), pairs, strict=True)
    confused = [(run.class_name(truth), run.class_name(taken), n, totals[truth]) for truth, taken, n in labels]
    return {"unknown": int((~known).sum()), "counts": counts, "confused": confused, "wrong": len(wrong)}


def classes(run: RunFiles) -> list[dict[str, Any]]:
    """A row per class, the lowest GT-known Loc first."""
    if run.boxes is None or (run.boxes["label"] < 0).all():
        return []
    right, rows = flags(run.boxes["right"]).set_axis(run.boxes.index), _slices(run.boxes, "class")
    for row in rows:
        known = right[run.boxes["label"] == int(row["slice"])]
        misses = {name: row[name] for name in FAILURES if name != "right" and row[name] > 0}
        most = [name for name, share in misses.items() if share == max(misses.values())]
        count = round(misses[most[0]] * row["n"] / 100) if most else 0
        row["failure"] = f"{listed(most)} ({count}{' each' if len(most) > 1 else ''})" if most else "none"
        row["top1"] = None if known.isna().any() else 100 * float(known.astype(bool).mean())
        row["name"] = run.class_name(int(row["slice"]))
    return sorted(rows, key=lambda row: (row["gt_known_loc"], row["mean_iou"]))


# ------------------------------------------------------------------------------------------------ training, cost, published


def training(run: RunFiles, item: Training, html: Path) -> dict[str, Any]:
    """One network's training curves, and what the network that was kept reached."""
    from wsolkit.figures import history_figure, inline_svg

    best, history = item.run.get("best_epoch"), item.history
    kept = history[min(best, len(history)) - 1] if best else history[-1]
    loss, top1 = (
        f"training {plain(kept[f'train_{kind}'], digits)}, validation {plain(kept[f'val_{kind}'], digits)}"
        for kind, digits in (("loss", 2), ("top1", 1))
    )
    place = f" at epoch {best}, which is kept" if best else " at the end"
    label = f"Loss and Top-1 accuracy against the epoch{place}: loss {loss}; Top-1 in percent {top1}."
    chart = Markup(inline_svg(history_figure(history, best), label))
    reached = kept["val_top1"] if math.isfinite(kept["val_top1"]) else None
    link = _link(run.folder.parent / item.name / files.TRAINING_PAGE, html)
    return {"item": item, "recipe": item.run.get("recipe") or {}, "top1": reached, "chart": chart, "link": link}


def costs(run: RunFiles) -> list[tuple[str, dict[str, Any], str]]:
    """(name, result, time of training) of the method and of plain CAM; only what was measured."""
    rows = [(run.method, run.result, run.trainings[:1])]
    rows += [("plain CAM", run.plain, run.trainings[-1:])] if run.plain else []
    trained = [
        "".join(f"{item.label}: {seconds(item.run['seconds'])}" for item in networks if item.run.get("seconds"))
        for *_, networks in rows
    ]
    trained = [text or "\u2013" for text in trained]
    if run.config.get("variant") == "tap" and run.config.get("weights") == "none" and len(rows) == 2:
        trained[0] += f", after {trained[1]}"  # TAP from scratch starts from the GAP network
    return [(name, result, text) for (name, result, _), text in zip(rows, trained, strict=True)]


def published(run: RunFiles) -> dict[str, Any]:
    """Published numbers of this method beside the measured ones; "none" says why there are none."""
    dataset = str(run.config.get("dataset") or run.result["dataset"] or "")
    if dataset != "cub":
        data = "synthetic birds" if dataset == "synthetic" else f"the data set {dataset or 'of this run'}"
        return {"none": f"There are no published numbers for {data}.", "lines": []}
    row: dict[str, Any] = {name: run.result[name] for name in METRICS}
    row |= {"method": run.method, "backbone": str(run.config.get("backbone")), "n_images": run.n, "status": "completed"}
    row |= {"config": run.config, "result": {"n_classes": run.result["n_classes"] or 0}}
    lines = [line for line in published_table([Group("cub", row["backbone"], run.method, [row])]) if line["measured"]]
    none = "" if lines else f"The list of published numbers on CUB-200-2011 has none for {run.method}."
    return {"none": none, "lines": lines}

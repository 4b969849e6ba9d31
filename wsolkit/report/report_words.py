"""What happened, in words: sentences of a report page, written from a run's numbers. And how a page writes numbers."""

from __future__ import annotations

import numpy as np
import pandas as pd

from wsolkit.evaluation.per_image import FAILURES, parse_boxes
from wsolkit.report.numbers import between, counted, listed, plain, signed, verdict
from wsolkit.report.report_data import RunFiles, mapping, number

SMALL, LARGE = 0.8, 1.25  # a median box below or above this many object areas is called too small or too large
NAMES = {"cam": "plain CAM", "centre_box": "the centre box"}

# ------------------------------------------------------------------------------------------------ sentences


def summary(run: RunFiles) -> list[str]:
    """What happened, in a few sentences; the first is the main one. Only what the numbers carry is said."""
    sentences = [_found(run), _compared(run), _box_sizes(run), _failures(run), _threshold(run)]
    return [sentence.replace(" %", "\u00a0%") for sentence in sentences if sentence]


def _found(run: RunFiles) -> str:
    images = counted(run.n, "test image")
    known, top1, cls = (run.metric(name) for name in ("gt_known_loc", "top1_loc", "top1_cls"))
    if run.n == 0:
        return "No image was measured."
    if known is None:
        pxap = run.metric("pxap")
        pixels = f" Its maps reach a pixel average precision (PxAP) of {plain(pxap)} %." if pxap is not None else ""
        return f"There are no ground-truth boxes to score the {images} against, so no box accuracy is reported.{pixels}"
    named = "; whether the class is right is not known" if top1 is None else (
        f", and in {plain(top1)} % it also names the class (Top-1 Loc)")  # fmt: skip
    limited = mapping(run.result.get("conditions")).get("images")
    only = f" Only a part of the test images was used: {limited}." if limited else ""
    if top1 is None and cls is not None:
        named = ""
    return f"The box hits the object in {plain(known)} % of {images} (GT-known Loc){named}.{only}"


def _compared(run: RunFiles) -> str:
    """Against plain CAM and the centre box, by GT-known Loc."""
    if run.metric("gt_known_loc") is None:
        return ""
    groups: dict[str, list[str]] = {}
    for other, name in NAMES.items():
        found = run.against(other, "gt_known_loc")
        word = verdict(found)
        if word == "equal":
            groups.setdefault("equal", []).append(name)
        elif word:
            ends = between((found["low"], found["high"]), sign=True)
            text = f"{name} ({signed(found['difference'])} points GT-known Loc, 95 % interval {ends})"
            groups.setdefault(word, []).append(text)
        elif (
            other == "centre_box"
            and (box := number(mapping(run.result.get("centre_box")).get("gt_known_loc"))) is not None
        ):
            away = run.metric("gt_known_loc") - box
            where = f"{plain(abs(away))} points {'above' if away > 0 else 'below'}" if round(away, 1) else "level with"
            groups.setdefault("", []).append(f"{where} {name}, by how much beyond chance is not known")
    words = {
        "better": "better than {}",
        "worse": "worse than {}",
        "open": "not significantly different from {}",
        "equal": "level with {}, image by image",
        "": "{}",
    }
    parts = [words[key].format(listed(groups[key])) for key in words if key in groups]
    what = "Plain CAM, the baseline of the other reports, is" if _is_plain(run) else "It is"
    return f"{what} {listed(parts)}." if parts else ""


def _is_plain(run: RunFiles) -> bool:
    return run.method == "cam" and run.config.get("variant") in (None, "gap")


def box_ratios(table: pd.DataFrame) -> np.ndarray:
    """Area of each predicted box over that of the ground-truth box it overlaps most (the largest where it misses all);
    images with an empty mask have no box and are left out."""
    rows = table[~table["empty"].fillna(False).astype(bool)]
    ratios = []
    for x0, y0, x1, y1, text in rows[["x0", "y0", "x1", "y1", "gt_boxes"]].itertuples(index=False):
        truths = np.array(parse_boxes(text))
        sides = np.minimum(truths[:, 2:], (x1, y1)) - np.maximum(truths[:, :2], (x0, y0)) + 1
        shared = np.maximum(sides, 0).prod(axis=1)
        areas = (truths[:, 2:] - truths[:, :2] + 1).prod(axis=1)
        own = (x1 - x0 + 1) * (y1 - y0 + 1)
        best = int(np.argmax(shared / (own + areas - shared))) if shared.any() else int(np.argmax(areas))
        ratios.append(own / areas[best])
    return np.array(ratios, float)


def _box_sizes(run: RunFiles) -> str:
    table = run.boxes
    if table is None:
        return ""
    ratios = box_ratios(table)
    missing = len(table) - len(ratios)
    empty = (
        f" In {counted(missing, 'image')} no pixel lies above the threshold: these count as misses." if missing else ""
    )
    if len(ratios) == 0:
        return "No image has a box at all: at this threshold every mask is empty."
    middle, below = float(np.median(ratios)), float((ratios < 1).mean())
    if middle < SMALL:
        word = f"Its boxes are mostly too small: the median one has {middle:.2f} times the area of the object's box"
    elif middle > LARGE:
        word = f"Its boxes are mostly too large: the median one has {middle:.2f} times the area of the object's box"
    else:
        word = f"Its boxes are about as large as the objects' (the median one has {middle:.2f} times the area)"
    return f"{word}; {100 * below:.0f} % are smaller than the object's.{empty}"


def _failures(run: RunFiles) -> str:
    table = run.boxes
    if table is not None:
        counts = table["failure"].value_counts().to_dict()
    else:
        counts = {name: int(number(value) or 0) for name, value in mapping(run.result.get("failures")).items()}
    misses = {name: counts.get(name, 0) for name in FAILURES if name != "right"}
    total = sum(misses.values())
    if not sum(counts.values()):
        return ""
    if total == 0:
        return "No image fails."
    most = max(misses.values())
    first = [f"\u201c{name}\u201d" for name, count in misses.items() if count == most]
    if len(first) > 1:
        each = f"{most} of {total} failed images each"
        return f"The commonest failures are {listed(first)} ({each})."
    meaning = FAILURES[first[0].strip("\u201c\u201d")]
    return f"The commonest failure is {first[0]} ({most} of {counted(total, 'failed image')}): {meaning[0].lower()}{meaning[1:]}"


def _threshold(run: RunFiles) -> str:
    """What it cost to choose the threshold without the test images."""
    here, best = run.metric("gt_known_loc"), run.point("best_on_test")
    tau, chosen = run.metric("threshold"), run.result.get("operating_point")
    if here is None or tau is None:
        return ""
    if None in (best.get("gt_known_loc"), best.get("threshold")):
        return f"The protocol has one threshold, {tau:g}; nothing was chosen."
    lost = best["gt_known_loc"] - here
    cost = f"cost {plain(lost)} points" if round(lost, 1) > 0 else "cost nothing"
    beside = f"against the threshold that is best on the test images ({best['threshold']:g})"
    fixed = run.point("fixed")
    if chosen != "validation":
        return f"There is no validation split with boxes, so the fixed threshold {tau:g} stands, which {cost} {beside}."
    sentence = f"Choosing the threshold ({tau:g}) on {counted(int(run.metric('n_val') or 0), 'validation image')} {cost} {beside}"
    if None in (fixed.get("gt_known_loc"), fixed.get("threshold")):
        return f"{sentence}."
    also = best["gt_known_loc"] - fixed["gt_known_loc"]
    other = f"{plain(also)} points" if round(also, 1) > 0 else "nothing"
    return f"{sentence}; the fixed threshold ({fixed['threshold']:g}) would have cost {other}."

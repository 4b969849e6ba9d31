"""The parts of a report page: from a run's files to the numbers and pictures that method.html.j2 lays out, in its order."""

from __future__ import annotations

from typing import Any

import numpy as np

from wsolkit.evaluation.failures import slices
from wsolkit.evaluation.per_image import FAILURES
from wsolkit.report import report_charts as charts
from wsolkit.report.index_groups import Group
from wsolkit.report.numbers import VERDICTS, between, counted, ordinal, plain, seconds, signed, spread, verdict
from wsolkit.report.published import FIELDS, published_table
from wsolkit.report.report_classes import share_cells
from wsolkit.report.report_data import CARDS, RunFiles, Training, curve_of, mapping, number
from wsolkit.report.report_words import NAMES
from wsolkit.report.rows import METRICS

WHAT = {
    "top1_loc": "box right and class right",
    "gt_known_loc": "box right: IoU \u2265 0.5 with an object",
    "max_box_acc_v2": "mean over IoU 0.3, 0.5 and 0.7, each at the threshold that is best on the test images",
    "top1_cls": "class right",
}
POINTS = {"validation": "chosen on validation", "fixed": "fixed", "best_on_test": "best on test (optimistic)"}
MARKS = {"better": "\u25b2", "worse": "\u25bc", "open": "\u2248", "equal": "=", "": ""}
PUBLISHED_COLUMNS = [CARDS[name] for name in FIELDS]
OTHER_METRICS = {
    "top5_cls": "Top-5 Cls",
    "top5_loc": "Top-5 Loc",
    "max_box_acc": "MaxBoxAcc (best on test)",
    "pxap": "PxAP",
}

# ------------------------------------------------------------------------------------------------ headline


def cards(run: RunFiles) -> list[dict[str, Any]]:
    """The four headline numbers, each with interval, n, and the differences to plain CAM and to the centre box."""
    made = []
    for name, label in CARDS.items():
        value, ends = run.metric(name), run.interval(name)
        box = number(mapping(run.result.get("centre_box")).get(name))
        others = {"cam": number(run.plain.get(name)), "centre_box": box}
        differences = [_difference(run, other, name, others[other]) for other in NAMES]
        made.append({
            "label": label, "what": WHAT[name], "value": plain(value), "there": value is not None, "n": run.n,
            "interval": spread(value, ends), "strip": None if value is None else charts.strip(value, ends, others),
            "differences": [line for line in differences if line and value is not None],
        })  # fmt: skip
    return made


def _difference(run: RunFiles, other: str, metric: str, value: float | None) -> dict[str, str] | None:
    if other == "cam" and run.method == "cam" and not run.plain:
        return None  # it is plain CAM
    found, own, word = run.against(other, metric), run.metric(metric), ""
    if found.get("difference") is not None:
        word, difference = verdict(found), found["difference"]
    elif own is not None and value is not None:
        difference = own - value
    else:
        why = "has no class of its own" if (other, metric) == ("centre_box", "top1_cls") else "not known"
        return {"name": NAMES[other], "text": why, "interval": "", "mark": "", "verdict": "", "none": True}
    ends = between((found["low"], found["high"]), sign=True) if word else ""
    if word == "equal":
        ends = ""
    return {"name": NAMES[other], "text": signed(difference), "interval": ends, "mark": MARKS[word],
            "verdict": VERDICTS[word], "none": False}  # fmt: skip


def protocol_line(run: RunFiles) -> str:
    """What the headline numbers rest on, in one line."""
    parts = [counted(run.n, "test image")]
    tau, percentile = run.metric("threshold"), run.metric("percentile")
    if tau is not None:
        at = f" of the {ordinal(percentile)} percentile" if percentile not in (None, 100) else ""
        chosen = counted(int(run.metric("n_val") or 0), "validation image")
        how = f"chosen on {chosen}" if run.result.get("operating_point") == "validation" else "fixed"
        parts.append(f"boxes at threshold {tau:g}{at}, {how}")
    parts += [f"{key}: {value}" for key, value in mapping(run.result.get("conditions")).items()]
    parts.append(f"protocol: {run.result.get('protocol') or 'not known'}")
    return "; ".join(parts)


def other_rule(run: RunFiles) -> str:
    """Why MaxBoxAcc may lie below GT-known Loc: "" where both count the threshold from the same place."""
    percentile = run.metric("percentile")
    if percentile in (None, 100):
        return ""
    return (f"MaxBoxAcc, MaxBoxAccV2 and PxAP count the threshold from the map\u2019s maximum, as for every method; the boxes of "
            f"GT-known Loc and Top-1 Loc count it from the {ordinal(percentile)} percentile. So they are not boxes of one rule, and "
            "MaxBoxAcc may be the lower one.")  # fmt: skip


def other_numbers(run: RunFiles) -> list[tuple[str, str, str]]:
    """(name, percent, interval) of what is not on a card."""
    rows = [(label, plain(run.metric(name), 2), spread(run.metric(name), run.interval(name)))
            for name, label in OTHER_METRICS.items() if run.metric(name) is not None]  # fmt: skip
    parts = mapping(run.result.get("max_box_acc_v2_parts"))
    rows += [(f"MaxBoxAccV2 at IoU {name}", plain(number(value), 2), "") for name, value in parts.items()]
    box = mapping(run.result.get("centre_box"))
    if number(box.get("gt_known_loc")) is not None:
        side = f"Centre box ({box.get('side')} px, {'chosen on validation' if box.get('operating_point') == 'validation' else 'fixed'})"
        rows.append(
            (
                f"{side}: GT-known Loc",
                plain(number(box["gt_known_loc"]), 2),
                spread(number(box["gt_known_loc"]), run.interval("centre_box")),
            )
        )
    return rows


# ------------------------------------------------------------------------------------------------ boxes


def threshold(run: RunFiles) -> dict[str, Any] | None:
    """The accuracy curve with its marks, and a row per operating point."""
    points = {name: point for name in POINTS if (point := run.point(name)).get("threshold") is not None}
    if not points:
        return None
    chosen = "validation" if run.result.get("operating_point") == "validation" else "fixed"
    here = run.metric("gt_known_loc")
    rows = [{
        "name": POINTS[name], "key": name, "reported": name == chosen, "threshold": f"{point['threshold']:g}",
        "gt_known": plain(point.get("gt_known_loc"), 2), "top1": plain(point.get("top1_loc"), 2),
        "away": "" if name == chosen or None in (here, point.get("gt_known_loc")) else signed(point["gt_known_loc"] - here),
    } for name, point in points.items()]  # fmt: skip
    curve, other = curve_of(run.result), curve_of(run.plain)
    box = number(mapping(run.result.get("centre_box")).get("gt_known_loc"))
    chart = None
    if curve:
        peak = int(np.argmax(curve[1]))
        label = f"GT-known Loc against the threshold: highest {curve[1][peak]:.1f} % at {curve[0][peak]:g}"
        label += "".join(f"; {row['name']} {row['threshold']}: {row['gt_known']} %" for row in rows)
        label += f"; plain CAM at most {max(other[1]):.1f} %" if other else ""
        label += f"; centre box {box:.1f} %." if box is not None else "."
        tau, value = (number(run.plain.get(name)) for name in ("threshold", "gt_known_loc"))
        mark = (tau, value) if other and None not in (tau, value) else None
        chart = charts.curve_chart(curve, points, chosen, other, mark, box, label)
    stretched = other is not None and number(run.plain.get("percentile")) != run.metric("percentile")
    return {"chart": chart, "rows": rows, "cam": other is not None, "box": box is not None, "stretched": stretched,
            "percentile": f"{run.metric('percentile') or 100:g}"}  # fmt: skip


def overlaps(run: RunFiles) -> dict[str, Any] | None:
    """The histogram of IoU and the failure types."""
    table, other = run.boxes, run.plain_boxes
    if table is None:
        return None
    ious = table["iou"].to_numpy(float)
    shares = {f"{limit:g}": f"{100 * (ious >= limit).mean():.1f}" for limit in (0.3, 0.5, 0.7)}
    middle = float(np.median(ious))
    label = f"Histogram of IoU over {len(ious)} images: the middle image has {middle:.2f}; "
    label += ", ".join(f"{share} % reach {limit}" for limit, share in shares.items()) + "."
    counts = table["failure"].value_counts()
    kinds = [
        {"name": name, "meaning": meaning, "count": int(counts.get(name, 0)), "share": plain(share := 100 * counts.get(name, 0) / len(table)),
         "bar": charts.bar(share)}
        for name, meaning in FAILURES.items()
    ]  # fmt: skip
    ious_of_cam = None if other is None else other["iou"].to_numpy(float)
    return {"chart": charts.iou_chart(ious, ious_of_cam, label), "n": len(ious), "middle": f"{middle:.2f}", "shares": shares,
            "kinds": kinds, "cam": None if other is None else f"{np.median(ious_of_cam):.2f}"}  # fmt: skip


def sizes(run: RunFiles) -> dict[str, Any] | None:
    """GT-known Loc by the object's share of the frame."""
    if run.boxes is None:
        return None
    found, other = slices(run.boxes), None if run.plain_boxes is None else slices(run.plain_boxes)
    rows = []
    for index, row in found[found["kind"] == "size"].iterrows():
        plain_value = None if other is None else number(float(other.loc[index, "gt_known_loc"]))
        rows.append({"name": row["slice"], "cam": plain(plain_value), **share_cells(row, plain_value)})
    return {"rows": rows, "cam": other is not None}


# ------------------------------------------------------------------------------------------------ training, cost, published


def training(item: Training, scored: bool) -> dict[str, Any]:
    """One network's training curves and what it was trained with."""
    best = number(item.run.get("best_epoch"))
    last, recipe = item.history[-1], mapping(item.run.get("recipe"))
    kept = item.history[min(int(best) - 1, len(item.history) - 1)] if best and best >= 1 else last
    facts = [counted(len(item.history), "epoch")]
    facts += [f"{word} {recipe[name]}" for name, word in (("batch_size", "batch"), ("lr", "learning rate"), ("schedule", "schedule"))
              if recipe.get(name) not in (None, "")]  # fmt: skip
    facts += [str(recipe["source"])] if recipe.get("source") else []
    if number(item.run.get("seconds")) is not None:
        facts.append(f"{seconds(item.run['seconds'])} on {item.run.get('device') or 'an unknown device'}")
    labels = [
        f"{word} against the epoch: training {plain(kept[f'train_{kind}'], digits)}, validation {plain(kept[f'val_{kind}'], digits)}"
        f"{f' at epoch {best:.0f}, which is kept' if best else ' at the end'}."
        for kind, word, digits in (("loss", "Loss", 2), ("top1", "Top-1 accuracy in percent", 1))
    ]
    return {
        "name": item.name, "label": item.label, "scored": scored, "facts": "; ".join(facts), "best": best and f"{best:.0f}",
        "val_top1": plain(kept["val_top1"]) if np.isfinite(kept["val_top1"]) else "\u2013",
        "loss": charts.training_chart(item.history, "loss", best, labels[0]),
        "top1": charts.training_chart(item.history, "top1", best, labels[1]),
    }  # fmt: skip


def cost(run: RunFiles) -> dict[str, Any]:
    """Seconds and memory of the method beside plain CAM's, and the times of the run."""
    rows = [(run.method, run.result, run.trainings[0] if run.trainings else None)]
    if run.plain:
        rows.append(("plain CAM", run.plain, run.trainings[-1] if run.trainings else None))
    lines = []
    for name, result, network in rows:
        memory = number(result.get("peak_memory_mb"))
        trained = number(network.run.get("seconds")) if network else None
        lines.append({"name": name, "seconds": seconds(number(result.get("seconds_per_image"))),
                      "memory": "\u2013" if memory is None else f"{memory:.0f} MB",
                      "training": f"{network.label}: {seconds(trained)}" if trained is not None else "\u2013"})  # fmt: skip
    if run.config.get("variant") == "tap" and run.config.get("weights") == "none" and len(lines) == 2:
        lines[0]["training"] += (
            f", after {lines[1]['training']}"  # a TAP training from scratch starts from the GAP network
        )
    times = [number(result.get("seconds_per_image")) for _, result, _ in rows]
    ratio = times[0] / times[1] if len(times) == 2 and times[0] and times[1] else None
    words = f"{run.method} takes about {ratio:.2g} times as long for an image as plain CAM." if ratio else ""
    if ratio and 0.9 < ratio < 1.1:
        words = f"{run.method} takes about as long for an image as plain CAM."
    return {"lines": lines, "words": words, "device": str(run.values.get("device") or "not known"),
            "wall": seconds(number(run.values.get("wall_seconds")))}  # fmt: skip


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


def parameters(run: RunFiles) -> list[tuple[str, str]]:
    skip = {"out"}
    return [(name, "\u2013" if value in ("", [], None) else ", ".join(map(str, value)) if isinstance(value, list) else str(value))
            for name, value in run.config.items() if name not in skip]  # fmt: skip

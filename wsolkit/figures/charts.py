"""Charts of measured numbers: accuracy against threshold and cost, training curves, ablation bars, histograms of IoU.

Every function returns a matplotlib figure in the style of `wsolkit.figures.images`; show it with `figures.show(fig, alt=...)`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter

from wsolkit.boxes.preparation import as_numpy
from wsolkit.figures.images import LINES, MARKERS, PALETTE, style


def _legend(axes, columns: int = 2) -> None:
    """Below the axes: it hides no data, and stays readable on a phone."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=columns, handlelength=2.6)


def _plain(text: str) -> str:
    """A name as a label: matplotlib hides those that begin with an underscore."""
    return f" {text}" if str(text).startswith("_") else str(text)


def _pair(name: str, curve) -> Sequence:
    if not isinstance(curve, Mapping):
        return curve
    absent = [key for key in ("thresholds", "gt_known_loc") if key not in curve]
    if absent:
        raise ValueError(f"curve {name!r} has no {' and no '.join(absent)}: a result without boxes has no such curve")
    return curve["thresholds"], curve["gt_known_loc"]


def accuracy_curves(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]] | Mapping[str, Sequence[float]]],
    marks: Mapping[str, float] | None = None,
    centre_box: float | None = None,
    ylabel: str = "GT-known Loc (%)",
    title: str = "",
) -> Figure:
    """Accuracy (percent) against the threshold tau, one line per name.

    curves: name -> (thresholds in [0, 1), accuracy in percent), of equal lengths, or the `curve` of a result
        {"thresholds": [...], "gt_known_loc": [...]}.
    marks: name of a curve -> the threshold to mark on it with a dot, or any other
        label -> a vertical line.
    centre_box: the baseline's accuracy in percent.
    """
    if not curves:
        raise ValueError("there is no curve to draw")
    marks = dict(marks or {})
    with style():
        fig = Figure(figsize=(6.4, 4.2))
        axes = fig.add_subplot()
        for index, (name, curve) in enumerate(curves.items()):
            taus, accuracy = _pair(name, curve)
            taus, accuracy = np.asarray(as_numpy(taus), float), np.asarray(as_numpy(accuracy), float)
            if taus.shape != accuracy.shape or taus.ndim != 1:
                raise ValueError(f"curve {name!r}: {taus.shape} thresholds but {accuracy.shape} accuracies")
            colour = PALETTE[index % len(PALETTE)]
            axes.plot(taus, accuracy, color=colour, linestyle=LINES[index % len(LINES)], label=_plain(name))
            if name in marks and marks[name] is not None:
                tau = marks.pop(name)
                axes.plot(
                    tau,
                    np.interp(tau, taus, accuracy),
                    marker=MARKERS[index % len(MARKERS)],
                    markersize=8,
                    color=colour,
                    markeredgecolor="white",
                    zorder=5,
                )
        for label, tau in marks.items():
            if tau is not None:
                axes.axvline(tau, color="#444", linewidth=1.2, linestyle=":")
                axes.annotate(
                    _plain(label), (tau, 99), xytext=(4, 0), textcoords="offset points", fontsize=10, va="top"
                )
        if centre_box is not None:
            axes.axhline(centre_box, color="#444", linewidth=1.4, linestyle=(0, (1, 2)), label="centre box")
        axes.set(xlim=(0, 1), ylim=(0, 100), xlabel="threshold τ", ylabel=ylabel)
        if title:
            axes.set_title(_plain(title), loc="left", fontweight="bold")
        _legend(axes)
    return fig


def cost_scatter(
    points: Mapping[str, Mapping[str, tuple[float, float]]],
    ylabel: str = "GT-known Loc (%)",
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
) -> Figure:
    """Accuracy (percent) against seconds per image, logarithmic.

    points: group (backbone) -> name (method) -> (seconds, percent): colour and marker for the name, filled for the
    first group, hollow or half for the next ones. intervals: the same keys -> (low, high), drawn as thin lines.
    """
    fills = ["full", "none", "left", "top", "right", "bottom"]
    names = list(dict.fromkeys(name for group in points.values() for name in group))
    with style():
        fig = Figure(figsize=(6.4, 4.2))
        axes = fig.add_subplot()
        for number, (group, members) in enumerate(points.items()):
            for name, (seconds, percent) in members.items():
                index = names.index(name)
                colour = PALETTE[index % len(PALETTE)]
                between = (intervals or {}).get(group, {}).get(name)
                if between is not None:
                    axes.plot([seconds] * 2, between, color=colour, linewidth=1, alpha=0.6)
                axes.plot(
                    seconds,
                    percent,
                    marker=MARKERS[index % len(MARKERS)],
                    fillstyle=fills[number % len(fills)],
                    markersize=9,
                    color=colour,
                    linestyle="none",
                    label=_plain(f"{name}, {group}" if len(points) > 1 else name),
                )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set(xlabel="seconds per image (logarithmic)", ylabel=ylabel, ylim=(0, 100))
        _legend(axes)
    return fig


def history_figure(rows: Sequence[Mapping]) -> Figure:
    """Training curves: loss above, Top-1 accuracy (percent) below, train and val, against the epoch.

    rows: dicts with epoch, train_loss, train_top1, val_loss, val_top1 (numbers, or text from a csv; empty = absent).
    """
    if not rows:
        raise ValueError("the history is empty: train for at least one epoch")

    def column(name: str) -> np.ndarray:
        return np.array([float("nan") if row.get(name) in (None, "") else float(row[name]) for row in rows])

    epochs = column("epoch")
    with style():
        fig = Figure(figsize=(6.4, 5.6))
        upper, lower = fig.subplots(2, 1, sharex=True)
        for axes, kind, label in ((upper, "loss", "loss"), (lower, "top1", "Top-1 Cls (%)")):
            for index, part in enumerate(("train", "val")):
                axes.plot(
                    epochs,
                    column(f"{part}_{kind}"),
                    color=PALETTE[index],
                    linestyle=LINES[index],
                    marker=MARKERS[index] if len(rows) <= 30 else None,
                    markersize=4.5,
                    label=part,
                )
            axes.set_ylabel(label)
        upper.set_ylim(bottom=0)
        lower.set_ylim(0, 102)
        lower.set_xlabel("epoch")
        lower.xaxis.get_major_locator().set_params(integer=True)
        upper.legend(loc="upper right")
        fig.align_ylabels()
    return fig


def bars(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
    xlabel: str = "GT-known Loc (%)",
    reference: float | None = None,
    reference_label: str = "centre box",
) -> Figure:
    """Horizontal bars for a small ablation table, in the given order from the top.

    values: name -> percent. intervals: name -> (low, high). reference: a vertical line, for example the centre box.
    """
    if not values:
        raise ValueError("there is nothing to draw a bar for")
    names, numbers = list(values), [float(value) for value in values.values()]
    with style():
        fig = Figure(figsize=(6.4, 1.1 + 0.46 * len(names)))
        axes = fig.add_subplot()
        axes.barh(range(len(names)), numbers, color=PALETTE[7], height=0.62)
        for index, (name, number) in enumerate(zip(names, numbers, strict=True)):
            low, high = (intervals or {}).get(name) or (number, number)
            if high > low:
                axes.plot([low, high], [index, index], color="#222", linewidth=1.6, solid_capstyle="butt")
            axes.annotate(f"{number:.1f}", (high, index), xytext=(5, 0), textcoords="offset points", va="center")
        if reference is not None:
            axes.axvline(reference, color="#222", linestyle=(0, (1, 2)), label=_plain(reference_label))
            axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
        axes.set_yticks(range(len(names)), [_plain(name) for name in names])
        axes.invert_yaxis()
        axes.grid(False, axis="y")
        axes.set(xlim=(0, max(100.0, *numbers) * 1.12), xlabel=xlabel)
        if max(numbers) <= 100:
            axes.set_xticks(range(0, 101, 20))
    return fig


def iou_histogram(ious, threshold: float = 0.5) -> Figure:
    """How the images spread over IoU (0 to 1), with the share that reaches `threshold`; NaN (no object) is left out.

    ious: one array, or name -> array: then outlines, in percent of each one's images.
    """
    several = isinstance(ious, Mapping)
    arrays = {
        name: np.asarray(as_numpy(values), float).ravel() for name, values in (ious if several else {"": ious}).items()
    }
    arrays = {name: values[~np.isnan(values)] for name, values in arrays.items()}
    if not arrays or not all(len(values) for values in arrays.values()):
        raise ValueError("there is no IoU to count")
    bins = np.linspace(0, 1, 21)
    with style():
        fig = Figure(figsize=(6.4, 3.8 if several else 3.4))
        axes = fig.add_subplot()
        for index, (name, values) in enumerate(arrays.items()):
            share = f"{100 * np.mean(values >= threshold):.1f} % of {len(values)} images"
            colour = PALETTE[index % len(PALETTE)]
            if several:
                heights = np.histogram(values, bins)[0] * 100 / len(values)
                line = LINES[index % len(LINES)]
                axes.stairs(heights, bins, color=colour, linestyle=line, linewidth=2, label=f"{_plain(name)}: {share}")
            else:
                axes.hist(values, bins=bins, color=colour, edgecolor="white")
        axes.axvline(
            threshold,
            color="#222",
            linestyle="--",
            label=f"IoU ≥ {threshold:g}" if several else f"IoU ≥ {threshold:g}: {share}",
        )
        axes.set(xlim=(0, 1), xlabel="IoU of prediction and ground truth", ylabel="images (%)" if several else "images")
        axes.grid(False, axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), handlelength=2.6)
    return fig

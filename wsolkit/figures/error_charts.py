"""Figures of how methods fail: stacked failure types, and accuracy by object size, aspect and class.

Every function returns a matplotlib figure in the style of `wsolkit.figures.images`; show it with `figures.show(fig, alt=...)`.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke

from wsolkit.evaluation.failures import failure_counts
from wsolkit.evaluation.per_image import FAILURES
from wsolkit.figures.charts import _plain
from wsolkit.figures.images import PALETTE, _short, style

# colour, hatch and colour of the number: blues are boxes that hit, the others do not
LOOKS = {
    "right": (PALETTE[0], "", "white"),
    "wrong class": (PALETTE[7], "//", "black"),
    "part only": (PALETTE[1], "", "black"),
    "too large": (PALETTE[3], "\\\\", "white"),
    "multiple instances": (PALETTE[4], "..", "black"),
    "background": (PALETTE[6], "", "white"),
}
LABELLED = 5.0  # percent: a narrower part of a bar has no room for its number
HATCHES = ["", "//", "..", "\\\\", "xx", "--", "oo", "||"]  # of methods, beside their colours
EXTREMES = 10  # classes shown at each end
WIDTH = 20  # characters of a name on one line


def _name(text: str) -> str:
    """A name as a tick label: long ones over several lines."""
    return textwrap.fill(str(text), WIDTH)


def failure_bars(tables: Mapping[str, object]) -> Figure:
    """A bar per method, cut into the shares of the failure types (percent of the images with ground-truth boxes).

    tables: name -> per-image table, path of a per_image.csv, folder that holds one, or result.
    """
    if not tables:
        raise ValueError("there is no method to draw a bar for")
    shares = {}
    for name, source in tables.items():
        counts = failure_counts(source)
        shares[name] = {failure: count * 100 / sum(counts.values()) for failure, count in counts.items()}
    names = [_name(name) for name in tables]
    lines = sum(max(1, name.count("\n") + 1) for name in names)
    with style():
        fig = Figure(figsize=(6.4, 1.5 + 0.3 * lines + 0.24 * len(names)))
        axes = fig.add_subplot()
        left = np.zeros(len(names))
        for failure in FAILURES:
            colour, hatch, ink = LOOKS[failure]
            widths = np.array([parts[failure] for parts in shares.values()])
            axes.barh(
                range(len(names)), widths, left=left, height=0.66, color=colour, hatch=hatch, edgecolor="white",
                linewidth=0.8, label=failure,
            )  # fmt: skip
            for index, width in enumerate(widths):
                if width >= LABELLED:
                    outline = [Stroke(linewidth=3, foreground=colour), Normal()] if hatch else None
                    place = (left[index] + width / 2, index)
                    axes.text(*place, f"{width:.0f}", ha="center", va="center", color=ink, path_effects=outline)
            left += widths
        axes.set_yticks(range(len(names)), names)
        axes.set(xlim=(0, 100), xlabel="images (%)", ylim=(len(names) - 0.5, -0.5))
        axes.grid(False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        fig.subplots_adjust(bottom=0.62 / fig.get_figheight(), top=1 - 0.78 / fig.get_figheight())
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, columnspacing=1.2, handlelength=1.6)
    return fig


def slice_bars(frames: pd.DataFrame | Mapping[str, pd.DataFrame], kind: str = "size") -> Figure:
    """GT-known Loc (percent) with its 95 % interval in each slice; one bar per method.

    frames: what `wsolkit.evaluation.failures.slices` returns, or name -> that. kind: "size", "aspect" or "class"; of more than 20
    classes the 10 lowest and the 10 highest of the first method are shown, with the number of images in brackets.
    """
    frames = {"": frames} if isinstance(frames, pd.DataFrame) else dict(frames)
    parts = {name: frame[frame["kind"] == kind].set_index("slice") for name, frame in frames.items()}
    if not parts or not all(len(part) for part in parts.values()):
        known = sorted({str(item) for frame in frames.values() for item in frame["kind"]})
        raise ValueError(f"there is no slice of kind {kind!r} to draw; there are {', '.join(known) or 'none'}")
    twice = [name for name, part in parts.items() if not part.index.is_unique]
    if twice:
        raise ValueError(f"two slices of {twice[0]!r} have the same name; give the classes different names")
    slices, note = _shown(next(iter(parts.values())), kind)
    thick = 0.8 / len(parts)
    room = max(0.32 if kind == "class" else 0.5, 0.24 * len(parts) + 0.14)
    columns = max(1, min(3, len(parts), 56 // (6 + max(map(len, parts)))))
    legend = 0.24 * -(-len(parts) // columns) if len(parts) > 1 else 0
    with style():
        fig = Figure(figsize=(6.4, 0.9 + len(slices) * room + legend + 0.3 * bool(note)))
        axes = fig.add_subplot()
        for number, (name, part) in enumerate(parts.items()):
            part = part.reindex(slices)
            places = np.arange(len(slices)) + (number - (len(parts) - 1) / 2) * thick
            looks = {"color": PALETTE[7]}
            if len(parts) > 1:
                looks = {"color": PALETTE[number % len(PALETTE)], "hatch": HATCHES[number % len(HATCHES)]}
            values = part["gt_known_loc"].to_numpy(float)
            height = 0.88 * thick
            axes.barh(
                places, np.nan_to_num(values), height, edgecolor="white", linewidth=0, label=_plain(name), **looks
            )
            for place, value, low, high in zip(places, values, part["low"], part["high"], strict=True):
                if np.isnan(value):
                    axes.annotate("no image", (0, place), xytext=(4, 0), textcoords="offset points", va="center")
                    continue
                axes.plot([low, high], [place, place], color="white", linewidth=3.4, solid_capstyle="butt")
                axes.plot([low, high], [place, place], color="#222", linewidth=1.4, solid_capstyle="butt")
                if len(parts) <= 3:
                    end = (max(value, high), place)
                    axes.annotate(
                        f"{value:.0f}", end, xytext=(5, 0), textcoords="offset points", va="center", fontsize=10
                    )
        axes.set_yticks(range(len(slices)), [_tick(item, parts, kind) for item in slices])
        axes.tick_params(axis="y", length=0, labelsize=10 if kind == "class" else 12)
        axes.set(xlim=(0, 108), xlabel="GT-known Loc (%)", ylim=(len(slices) - 0.5, -0.5))
        axes.set_xticks(range(0, 101, 20))
        axes.spines["bottom"].set_bounds(0, 100)
        axes.grid(False, axis="y")
        if note:
            axes.set_title(note, loc="left", fontsize=11)
        if legend:
            anchor = (0.5, 1.0 + (0.3 / fig.get_figheight() if note else 0))
            axes.legend(loc="lower center", bbox_to_anchor=anchor, ncols=columns, handlelength=1.6)
    return fig


def _shown(part: pd.DataFrame, kind: str) -> tuple[Sequence[str], str]:
    """The slices to draw, and a title that says so where there are too many."""
    if kind != "class" or len(part) <= 2 * EXTREMES:
        return list(part.index), ""
    order = list(part.sort_values("gt_known_loc", kind="stable").index)
    return order[:EXTREMES] + order[-EXTREMES:], f"{EXTREMES} lowest and {EXTREMES} highest of {len(order)} classes"


def _tick(item: str, parts: Mapping[str, pd.DataFrame], kind: str) -> str:
    counts = sorted({int(part["n"].get(item, 0)) for part in parts.values()})
    number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    return f"{_short(item, 24)} ({number})" if kind == "class" else f"{item}\n{number} images"

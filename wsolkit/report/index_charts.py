"""The index page's charts as inline SVG: in the page's own colours, light and dark, with parts that a filter can hide.

A method has one colour, one line style and one marker in all charts of the page (`Look`). The numbers behind the charts
stand in the page's tables; what a screen reader says about a chart is its label.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from markupsafe import Markup

from wsolkit.report.index_groups import HEADLINE, Group
from wsolkit.report.index_words import with_spread

WIDTH, HEIGHT = 560, 330
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 46  # margins of the plot
COLOURS = 8  # classes c0 to c7 in index.css
DASHES = ("none", "9 4", "2 3", "11 3 2 3", "16 6", "6 2 1 2 1 2", "1 5", "20 3 6 3")
MARKERS = (  # paths around (0, 0)
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z", "M-4 -4h8v8h-8z", "M0 -5.2L5 4H-5z", "M0 -5.5L5.5 0L0 5.5L-5.5 0z",
    "M0 5.2L-5 -4H5z", "M-1.7 -5h3.4v3.3H5v3.4H1.7V5h-3.4V1.7H-5v-3.4h3.3z", "M-5 -3L-3 -5L0 -2L3 -5L5 -3L2 0L5 3L3 5L0 2L-3 5L-5 3L-2 0z",
    "M0 -6L1.6 -1.9L6 -1.9L2.4 .8L3.7 5L0 2.4L-3.7 5L-2.4 .8L-6 -1.9L-1.6 -1.9z",
)  # fmt: skip
SHORTEST, LONGEST = 1e-9, 1e9  # seconds per image that are no mistake
TOLD = 8  # methods that a chart's label names before it counts the others


@dataclass(frozen=True)
class Look:
    """How a method is drawn: class of the colour, dash pattern, marker path; the n-th method of the page has its own."""

    colour: str
    dash: str
    marker: str

    @classmethod
    def of(cls, index: int) -> Look:
        shifted = index + index // COLOURS  # beyond eight, colours meet other line styles
        return cls(f"c{index % COLOURS}", DASHES[shifted % len(DASHES)], MARKERS[shifted % len(MARKERS)])

    def key(self, line: bool = True) -> Markup:
        """The sample of line and marker, or of the marker alone, that a legend shows."""
        width = 44 if line else 16
        path = Markup('<path class="line" d="M1 8H43" stroke-dasharray="{}"/>').format(self.dash) if line else ""
        return Markup(
            '<svg class="key-line {}" width="{}" height="16" viewBox="0 0 {} 16" aria-hidden="true">'
            '{}<path class="marker" transform="translate({} 8) scale(1.2)" d="{}"/></svg>'
        ).format(self.colour, width, width, path, width // 2, self.marker)


def mean_curve(group: Group) -> tuple[list[float], list[float]] | None:
    """(thresholds, accuracy in percent), over seeds; seeds with other thresholds than the first one are left out."""
    curves = [row["curve"] for row in group.done if row["curve"]]
    if not curves:
        return None
    taus = curves[0][0]
    same = [accuracy for other, accuracy in curves if other == taus]
    return taus, [fmean(points) for points in zip(*same, strict=True)]


def _at(tau: float, taus: Sequence[float], accuracy: Sequence[float]) -> float:
    """The curve's height at a threshold, between its points linearly."""
    right = min(max(1, bisect_left(taus, tau)), len(taus) - 1)
    if len(taus) == 1:
        return accuracy[0]
    left = right - 1
    share = (tau - taus[left]) / (taus[right] - taus[left]) if taus[right] != taus[left] else 0
    return accuracy[left] + min(1.0, max(0.0, share)) * (accuracy[right] - accuracy[left])


def highest(groups: Sequence[Group]) -> float:
    """The upper end of the accuracy axis that all charts of a dataset share: a multiple of ten."""
    tops = [0.0, *_centres(groups)]
    for group in groups:
        curve, value = mean_curve(group), group.value(HEADLINE)
        tops += curve[1] if curve else []
        tops += [] if value is None else [value.mean, value.high or 0]
    return min(100.0, max(20.0, 10 * math.ceil((max(tops) + 1) / 10)))


def _y(percent: float, top: float) -> float:
    return TOP + (HEIGHT - TOP - BOTTOM) * (1 - min(percent, top) / top)


def _x(share: float) -> float:
    return LEFT + (WIDTH - LEFT - RIGHT) * share


def _frame(body: list[Markup], label: str, top: float, ticks: Sequence[tuple[float, str]], xlabel: str) -> Markup:
    """Grid, axes and their labels around `body`; ticks of the horizontal axis as (share of the width, text)."""
    grid = []
    step = 10 if top <= 60 else 20
    for percent in range(0, int(top) + 1, step):
        y = _y(percent, top)
        grid.append(Markup('<path class="grid" d="M{} {:.1f}H{}"/>').format(LEFT, y, WIDTH - RIGHT))
        grid.append(Markup('<text x="{}" y="{:.1f}" text-anchor="end">{}</text>').format(LEFT - 7, y + 4, percent))
    for share, text in ticks:
        grid.append(Markup('<path class="grid" d="M{:.1f} {}V{}"/>').format(_x(share), TOP, HEIGHT - BOTTOM))
        grid.append(
            Markup('<text x="{:.1f}" y="{}" text-anchor="middle">{}</text>').format(
                _x(share), HEIGHT - BOTTOM + 17, text
            )
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    words = Markup('<text x="{}" y="{}" text-anchor="middle">{}</text>').format(middle, HEIGHT - 8, xlabel)
    words += Markup(
        '<text transform="translate(11 {}) rotate(-90)" text-anchor="middle">GT-known Loc (%)</text>'
    ).format((TOP + HEIGHT - BOTTOM) / 2)
    return Markup('<svg class="chart" role="img" aria-label="{}" viewBox="0 0 {} {}">{}{}{}</svg>').format(
        label, WIDTH, HEIGHT, Markup("").join(grid), words, Markup("").join(body)
    )


def _told(parts: list[str]) -> str:
    return ", ".join(parts[:TOLD]) + (f" and {len(parts) - TOLD} more methods" if len(parts) > TOLD else "")


def curve_chart(groups: Sequence[Group], looks: dict[str, Look], top: float, most: int) -> Markup | None:
    """Accuracy against the threshold of the groups of one backbone (at most so many points of each), their operating points,
    and the centre box as a line."""
    body, told = [], []
    if boxes := _centres(groups):
        body.append(
            Markup('<path class="centre" d="M{} {:.1f}H{}"/>').format(LEFT, _y(fmean(boxes), top), WIDTH - RIGHT)
        )
    for group in groups:
        curve, look = mean_curve(group), looks[group.method]
        if curve is None:
            continue
        taus, accuracy = curve
        points = [point for point in zip(taus, accuracy, strict=True) if point[0] <= 1]
        points = points[:: -(-len(points) // most) or 1]
        path = "L".join(f"{_x(tau):.1f} {_y(percent, top):.1f}" for tau, percent in points)
        line = Markup('<path class="line" d="M{}" stroke-dasharray="{}"/>').format(path, look.dash)
        marked = [row["result"].get("threshold") for row in group.done]
        marked = [tau for tau in marked if isinstance(tau, int | float) and 0 <= tau <= 1]
        if marked:
            tau = fmean(marked)
            where = f"{_x(tau):.1f} {_y(_at(tau, taus, accuracy), top):.1f}"
            line += Markup('<path class="marker" transform="translate({})" d="{}"/>').format(where, look.marker)
        body.append(Markup('<g class="{}" data-method="{}"><title>{}</title>{}</g>').format(
            look.colour, group.method, group.method, line))  # fmt: skip
        told.append(f"{group.method} {max(accuracy):.1f}")
    if not told:
        return None
    label = f"GT-known Loc against the threshold on {groups[0].backbone}; highest point in percent: {_told(told)}."
    return _frame(body, label, top, [(i / 5, f"{i / 5:.1f}") for i in range(6)], "threshold τ")


def cost_chart(groups: Sequence[Group], looks: dict[str, Look], top: float, span: tuple[float, float]) -> Markup | None:
    """Accuracy against seconds per image (logarithmic, from span[0] to span[1]) of the groups of one backbone."""
    body, told = [], []
    decades = math.log10(span[1]) - math.log10(span[0])
    for group in groups:
        value, seconds, look = group.value(HEADLINE), group.value("seconds_per_image"), looks[group.method]
        if value is None or seconds is None or not SHORTEST <= seconds.mean <= LONGEST:
            continue
        x = _x((math.log10(seconds.mean) - math.log10(span[0])) / decades)
        words = f"{group.method}: {with_spread(value)} %, {seconds.mean:.3g} s per image"
        shape = Markup("")
        if value.low is not None:
            shape = Markup('<path class="range" d="M{:.1f} {:.1f}V{:.1f}"/>').format(
                x, _y(value.low, top), _y(value.high, top)
            )
        where = f"{x:.1f} {_y(value.mean, top):.1f}"
        shape += Markup('<path class="marker" transform="translate({}) scale(1.25)" d="{}"/>').format(
            where, look.marker
        )
        body.append(Markup('<g class="{}" data-method="{}"><title>{}</title>{}</g>').format(
            look.colour, group.method, words, shape))  # fmt: skip
        told.append(words)
    if not told:
        return None
    ticks = [((math.log10(time) - math.log10(span[0])) / decades, text) for time, text in _ticks(*span)]
    label = f"GT-known Loc against seconds per image on {groups[0].backbone}. {_told(told)}."
    return _frame(body, label, top, ticks, "time per image (logarithmic)")


def _ticks(low: float, high: float) -> list[tuple[float, str]]:
    """Round times between two, with their texts: 1, 2 and 5 of each power of ten, or its 1 alone where that is too many."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    digits = (1, 2, 5) if high / low < 500 else (1,)
    times = [digit * 10.0**power for power in powers[:: max(1, len(powers) // 6)] for digit in digits]
    return [(time, f"{time:g} s" if time >= 0.1 else f"{1000 * time:g} ms") for time in times if low <= time <= high]


def time_span(groups: Sequence[Group]) -> tuple[float, float]:
    """A little more than all times of a dataset, one power of ten at least."""
    times = [value.mean for group in groups if (value := group.value("seconds_per_image")) is not None]
    times = [time for time in times if SHORTEST <= time <= LONGEST] or [0.01]
    low, high = min(times) / 1.5, max(times) * 1.5
    return (low, high) if high >= 10 * low else (low, 10 * low)


def charts(groups: Sequence[Group], looks: dict[str, Look], most: int = 250) -> dict[str, Any]:
    """The charts of one dataset: {"curves": [{"backbone", "chart"}], "cost": likewise, "keys": [{"method", "line",
    "marker"}], the legend, "centre": whether there is a line of the centre box}."""
    done = [group for group in groups if group.done]
    top, span = highest(done), time_span(done)
    found: dict[str, list] = {"curves": [], "cost": []}
    for backbone in dict.fromkeys(group.backbone for group in done):
        members = [group for group in done if group.backbone == backbone]
        drawn = {"curves": curve_chart(members, looks, top, most), "cost": cost_chart(members, looks, top, span)}
        for kind, chart in drawn.items():
            if chart is not None:
                found[kind].append({"backbone": backbone, "chart": chart})
    methods = sorted({group.method for group in done}, key=lambda method: list(looks).index(method))
    keys = [{"method": method, "line": looks[method].key(), "marker": looks[method].key(False)} for method in methods]
    return {**found, "keys": keys, "centre": bool(_centres(done))}


def _centres(groups: Sequence[Group]) -> list[float]:
    boxes = [row["result"]["centre_box"]["gt_known_loc"] for group in groups for row in group.done]
    return [percent for percent in boxes if percent is not None]

"""Charts of a report page as inline SVG: small, sharp, in the page's own ink, so that they suit light, dark and paper.

Colours come from the page's style sheet (classes s1, s2, s3, ...); each series also has a line style or a mark of its own.
Every chart has its words in `label` (its alternative text); tables beside it hold the numbers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup, escape

WIDTH, LEFT, RIGHT, TOP, BOTTOM = 480, 40, 12, 10, 40
MARKS = {  # operating point -> (shape around 0, 0; its style)
    "validation": '<circle r="5.5" class="{} solid"/>',
    "fixed": '<rect x="-5" y="-5" width="10" height="10" class="{} hollow"/>',
    "best_on_test": '<path d="M0-7 7 0 0 7-7 0Z" class="{} hollow"/>',
}
SWATCHES = {name: Markup(f'<rect x="9" y="1" width="16" height="10" class="{name}"/>') for name in ("hit", "miss")}


class _Plot:
    """Axes from (x0, y0) to (x1, y1) in the data's units; parts are collected and written in order."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float], height: int = 270) -> None:
        self.x, self.y, self.height = x, y, height
        self.parts: list[str] = []

    def at(self, x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = self.x, self.y
        across = LEFT + (x - x0) / (x1 - x0 or 1) * (WIDTH - LEFT - RIGHT)
        down = self.height - BOTTOM - (y - y0) / (y1 - y0 or 1) * (self.height - TOP - BOTTOM)
        return round(across, 1), round(down, 1)

    def axes(self, xs: Sequence[float], ys: Sequence[float], xlabel: str, ylabel: str) -> None:
        left, floor = self.at(self.x[0], self.y[0])
        for value in ys:
            _, down = self.at(self.x[0], value)
            self.parts.append(f'<path d="M{left} {down}H{WIDTH - RIGHT}" class="grid"/>')
            self.parts.append(f'<text x="{left - 6}" y="{down + 4}" class="end">{value:g}</text>')
        for value in xs:
            across, _ = self.at(value, self.y[0])
            self.parts.append(f'<text x="{across}" y="{floor + 17}" class="mid">{value:g}</text>')
        self.parts.append(f'<path d="M{left} {floor}H{WIDTH - RIGHT}" class="axis"/>')
        self.parts.append(f'<text x="{WIDTH - RIGHT}" y="{self.height - 5}" class="end name">{escape(xlabel)}</text>')
        self.parts.append(f'<text x="0" y="{self.height - 5}" class="name">\u2191 {escape(ylabel)}</text>')

    def line(self, xs: Sequence[float], ys: Sequence[float], kind: str) -> None:
        """A line with gaps where a number is NaN."""
        steps, down = [], False
        for x, y in zip(xs, ys, strict=True):
            if not np.isfinite(y):
                down = False
                continue
            across, height = self.at(x, y)
            steps.append(f"{'L' if down else 'M'}{across:g} {height:g}")
            down = True
        self.parts.append(f'<path d="{"".join(steps)}" class="line {kind}"/>')

    def mark(self, x: float, y: float, point: str, kind: str) -> None:
        across, down = self.at(x, y)
        self.parts.append(f'<g transform="translate({across} {down})">{MARKS[point].format(kind)}</g>')

    def upright(self, x: float, kind: str) -> None:
        (across, floor), (_, top) = self.at(x, self.y[0]), self.at(x, self.y[1])
        self.parts.append(f'<path d="M{across} {floor}V{top}" class="line {kind}"/>')

    def level(self, y: float, kind: str) -> None:
        left, down = self.at(self.x[0], y)
        self.parts.append(f'<path d="M{left} {down}H{WIDTH - RIGHT}" class="line {kind}"/>')

    def svg(self, label: str) -> Markup:
        body = "".join(self.parts)
        box = f'viewBox="0 0 {WIDTH} {self.height}"'
        return Markup(f'<svg class="plot" {box} role="img" aria-label="{escape(label)}">{body}</svg>')


def _round_steps(top: float, steps: int = 4) -> list[float]:
    """0 and a few round numbers up to the first that reaches `top`."""
    raw = max(top, 1e-9) / steps
    size = 10.0 ** np.floor(np.log10(raw))
    step = float(next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * (1 - 1e-9)))
    return [round(step * index, 10) for index in range(int(np.ceil(top / step - 1e-9)) + 1)] if top > 0 else [0, 1]


def curve_chart(
    curve: tuple[Sequence[float], Sequence[float]],
    points: Mapping[str, Mapping[str, float | None]],
    chosen: str,
    plain: tuple[Sequence[float], Sequence[float]] | None,
    plain_point: tuple[float, float] | None,
    centre_box: float | None,
    label: str,
) -> Markup:
    """GT-known Loc (percent) against the threshold, with the operating points and the one that is reported upright."""
    levels = [*curve[1], *(plain[1] if plain else ()), *(point.get("gt_known_loc") or 0 for point in points.values())]
    top = next((end for end in (20, 40) if max(*levels, centre_box or 0) <= 0.95 * end), 100)
    plot = _Plot((0, 1), (0, top))
    plot.axes([0, 0.2, 0.4, 0.6, 0.8, 1], [top * part / 4 for part in range(5)], "threshold", "GT-known Loc (%)")
    if centre_box is not None:
        plot.level(centre_box, "s3 dot")
    if points.get(chosen):
        plot.upright(points[chosen]["threshold"], "rule")
    if plain is not None:
        plot.line(*_through(plain, [plain_point] if plain_point else []), "s2 dash")
    if plain_point is not None:
        plot.mark(*plain_point, "validation", "s2")
    marked = [(point["threshold"], point.get("gt_known_loc")) for point in points.values()]
    plot.line(*_through(curve, marked), "s1")
    for name in ("fixed", "best_on_test", "validation"):
        point = points.get(name) or {}
        if point.get("threshold") is not None and point.get("gt_known_loc") is not None:
            plot.mark(point["threshold"], point["gt_known_loc"], name, "s1")
    return plot.svg(label)


def _through(curve, points: Sequence[tuple]) -> tuple:
    """A stored curve is thinned; with the operating points among its own, it goes through their marks."""
    known = [point for point in points if None not in point]
    return tuple(zip(*sorted({**dict(zip(*curve, strict=True)), **dict(known)}.items()), strict=True))


def iou_chart(ious: np.ndarray, plain: np.ndarray | None, label: str) -> Markup:
    """Share of the images (percent) in twenty steps of IoU; hits (IoU >= 0.5) are dark; plain CAM as an outline."""
    bins = np.linspace(0, 1, 21)
    heights = np.histogram(ious, bins)[0] * 100 / len(ious)
    outline = None if plain is None else np.histogram(plain, bins)[0] * 100 / len(plain)
    top = max(heights.max(), 0 if outline is None else outline.max())
    ticks = _round_steps(top)
    plot = _Plot((0, 1), (0, ticks[-1]), height=230)
    plot.axes([0, 0.25, 0.5, 0.75, 1], ticks, "IoU with the object", "images (%)")
    for low, height in zip(bins, heights, strict=False):
        (left, floor), (right, upper) = plot.at(low, 0), plot.at(low + 0.05, height)
        kind = "hit" if low > 0.499 else "miss"
        size = f'x="{left + 0.6:.1f}" y="{upper}" width="{right - left - 1.2:.1f}" height="{floor - upper:.1f}"'
        plot.parts.append(f'<rect {size} class="{kind}"/>')
    if outline is not None:
        plot.line(np.repeat(bins, 2)[1:-1], np.repeat(outline, 2), "s2 dash")
    plot.upright(0.5, "rule")
    return plot.svg(label)


def training_chart(history: Sequence[Mapping[str, float]], kind: str, best: int | None, label: str) -> Markup:
    """Training (solid) and validation (dashed) "loss" or "top1" (percent) against the epoch; the kept epoch upright."""
    epochs = [row["epoch"] for row in history]
    series = [[row[f"{part}_{kind}"] for row in history] for part in ("train", "val")]
    finite = [value for values in series for value in values if np.isfinite(value)]
    ticks = [0, 25, 50, 75, 100] if kind == "top1" else _round_steps(max(finite, default=1.0))
    last = max(epochs[-1], 2)
    plot = _Plot((min(1, epochs[0]), last), (0, ticks[-1]), height=210)
    step = max(1, int(np.ceil(last / 6)))
    plot.axes(
        [1, *range(step + (step == 1), int(last) + 1, step)],
        ticks,
        "epoch",
        "Top-1 Cls (%)" if kind == "top1" else "loss",
    )
    if best is not None:
        plot.upright(best, "rule")
    for values, look in zip(series, ("s1", "s2 dash"), strict=True):
        plot.line(epochs, values, look)
        if len(epochs) == 1 and np.isfinite(values[0]):
            plot.mark(epochs[0], values[0], "validation", look.split()[0])
    return plot.svg(label)


def bar(value: float, ends: tuple[float, float] | None = None, tick: float | None = None) -> Markup:
    """A bar of a table cell, 0 to 100, with its interval as a thin line and a mark to compare with; the cells beside it
    hold the numbers, so it is hidden from screen readers."""
    parts = [f'<rect y="3" width="{value:.1f}" height="8" class="bar"/>']
    if ends is not None:
        parts.append(
            f'<rect x="{ends[0]:.1f}" y="6.2" width="{max(ends[1] - ends[0], 0.4):.1f}" height="1.6" class="range"/>'
        )
    if tick is not None:
        parts.append(f'<rect x="{min(tick, 99.2):.1f}" y="0" width="0.9" height="14" class="tick"/>')
    frame = '<rect y="3" width="100" height="8" class="rail"/>'
    attributes = 'class="inbar" viewBox="0 0 100 14" preserveAspectRatio="none" aria-hidden="true" focusable="false"'
    return Markup(f"<svg {attributes}>{frame}{''.join(parts)}</svg>")


def strip(value: float, ends: tuple[float, float] | None, others: Mapping[str, float | None]) -> Markup:
    """A line from 0 to 100 with the value, its interval and what it is compared with ("cam", "centre_box")."""
    parts = ['<path d="M0 8H100" class="grid"/>']
    if ends is not None:
        parts.append(
            f'<rect x="{ends[0]:.1f}" y="6" width="{max(ends[1] - ends[0], 0.4):.1f}" height="4" class="range"/>'
        )
    for name, kind in (("cam", "tick s2"), ("centre_box", "tick s3")):
        if others.get(name) is not None:
            parts.append(
                f'<rect x="{min(max(others[name], 0), 99.2):.1f}" y="2" width="0.9" height="12" class="{kind}"/>'
            )
    parts.append(f'<rect x="{min(max(value - 0.6, 0), 98.8):.1f}" y="1" width="1.4" height="14" class="value"/>')
    attributes = 'class="strip" viewBox="0 0 100 16" preserveAspectRatio="none" aria-hidden="true" focusable="false"'
    return Markup(f"<svg {attributes}>{''.join(parts)}</svg>")

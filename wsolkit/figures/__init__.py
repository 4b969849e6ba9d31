"""All figures of notebooks and reports: images with maps and boxes, galleries, charts of measured numbers; their style.

Charts show accuracy against threshold and cost, training, IoU, failures, slices, faithfulness. Each function returns a
matplotlib figure; a notebook shows it with `show(fig, alt=...)`, a page embeds it with `inline_svg(fig, label)`, in the
page's own colours, light and dark, and with series that a filter can hide. matplotlib, because galleries and the
notebooks' own plots need it anyway: hand-written SVG would be a second system.

Figures are made with matplotlib's object interface, in one style, with colours that colour-blind readers can tell apart
and a second sign (line style, marker, symbol) wherever a colour means something. No torch: tensors are welcome.
"""

from __future__ import annotations

import base64
import html
import io
import re
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import matplotlib
import numpy as np
import pandas as pd
import scipy  # its parts are imported when they are used: stats takes a second
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import FuncFormatter, LogLocator
from PIL import Image

from wsolkit.boxes.extract import iou
from wsolkit.boxes.preparation import as_numpy, prepare_map
from wsolkit.common.errors import WsolkitError, require

# seaborn's "colorblind" palette without its palest colours
PALETTE = ["#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#8c5a3c", "#5b5b5b", "#56b4e9"]
INK = "#222222"
# where a page holds a figure as inline SVG, the page's style sheet says what these are, in light and in dark
INLINE = {colour: f"var(--c{index})" for index, colour in enumerate(PALETTE)}
INLINE |= {INK: "var(--ink)", "#000000": "var(--soft)", "#ffffff": "var(--paper)", "#e2e5e8": "var(--grid)"}
SERIES = "series:"  # and a name: the group id of what a filter of a page shows or hides
KEYS: dict[str, tuple[str, str, Any]] = {  # of boxes: text, colour (neither occurs in the colour map), line
    "gt_boxes": ("ground truth", "#e8450a", "-"),
    "box": ("prediction", "#08306b", (0, (3, 2))),
}
COLOUR_MAP = "viridis"
LONGEST, SHORTEST = 1200, 320  # sides of an image with text below: larger ones are reduced, small ones get wider
LINE = 22  # height of such a line of text in pixels
DPI = 100
PHOTO_BYTES = 72_000  # of one montage: ten of them, in base64, stay under 1 MB
STYLE = matplotlib.rc_params_from_file(Path(__file__).with_name("wsolkit.mplstyle"), use_default_template=False)
LINES = ["-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)), (0, (3, 3))]
DOTTED = (0, (1, 2))  # of the centre box
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "*"]
FILLS = ["full", "none", "left", "top", "right", "bottom"]  # of groups in one chart of cost
POINTS = {  # operating point -> (marker, filled, name)
    "fixed": ("s", False, "fixed threshold"),
    "best_on_test": ("D", False, "best on test (optimistic)"),
    "pseudo_boxes": ("^", False, "chosen on pseudo boxes"),
    "validation": ("o", True, "chosen on validation"),
}
# failure type, in the order of the bars -> colour, hatch and colour of the number: blues are boxes that hit
LOOKS = {
    "right": (PALETTE[0], "", "white"),
    "wrong class": (PALETTE[7], "//", "black"),
    "part only": (PALETTE[1], "", "black"),
    "too large": (PALETTE[3], "\\\\", "white"),
    "multiple instances": (PALETTE[4], "..", "black"),
    "background": (PALETTE[6], "", "white"),
}
HATCHES = ["", "//", "..", "\\\\", "xx", "--", "oo", "||"]  # of methods, beside their colours
LABELLED = 5.0  # percent: a narrower part of a bar has no room for its number
EXTREMES = 10  # classes shown at each end
WIDTH = 20  # characters of a name on one line
ACCURACY = "GT-known Loc (%)"


def style():
    """The one look of all figures, as a context around matplotlib code or as a decorator."""
    return matplotlib.rc_context(STYLE)


# ------------------------------------------------------------------------------------------------ onto the page


def _bytes(fig: Figure, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    with style():
        fig.savefig(buffer, format=kind, **options)
    return buffer.getvalue()


def _svg(fig: Figure, **options) -> bytes:
    metadata = {"Date": None, "Creator": None}
    return _bytes(fig, "svg", metadata=metadata, bbox_inches="tight", pad_inches=0.05, **options)


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def svg_uri(fig: Figure) -> str:
    """`fig` as a data URI of SVG, for curves and bars: small, sharp at every size, with text that can be searched."""
    return _uri("image/svg+xml", _svg(fig))


def _short_numbers(attribute: re.Match) -> str:
    """An attribute of SVG with numbers to a tenth of a point, and no space that it does not need."""
    text = re.sub(r"(\d\.\d)\d+", r"\1", attribute[0]).replace(" stroke-dashoffset: 0;", "")
    return re.sub(r" ?([MLQCz]) ?", r"\1", text) if text.startswith(" d=") else text


def inline_svg(fig: Figure, label: str, titles: Mapping[str, str] | None = None) -> Markup:
    """`fig` as `<svg class="plot">` for a page whose style sheet sets --c0 to --c7, --ink, --soft, --grid and --paper.

    label: what a screen reader says. titles: name of a series -> what hovering over it says, by default the name.
    A group whose artist has the id `SERIES` + name gets `data-method`. There are no other ids, so that many figures fit
    into one page. For lines, bars and text: no images, no hatches, nothing that is cut at the axes.
    """
    text, said = _svg(fig, transparent=True).decode(), titles or {}
    view = re.findall(r'viewBox="([^"]*)"', text)[0]
    shapes = dict(re.findall(r'<path id="(\w+)" d="([^"]*)"', text))  # of markers, which are used by reference

    def shape(use: re.Match) -> str:
        return f'<path transform="translate({use[2]} {use[3]})" d="{shapes[use[1]]}"'

    def series(group: re.Match) -> str:
        name = html.unescape(group[1])
        return f'<g data-method="{group[1]}"><title>{html.escape(said.get(name, name))}</title>'

    changes: list[tuple[str, Any]] = [
        (r"^.*?<svg[^>]*>|<metadata>.*?</metadata>|<defs>.*?</defs>|<!--.*?-->| clip-path=\"[^\"]*\"", ""),
        (r'<use xlink:href="#(\w+)" x="([^"]*)" y="([^"]*)"', shape),
        (rf'<g id="{SERIES}([^"]*)">', series),
        (r' id="[^"]*"| (?:transform="rotate\(-0[^"]*"|xml:space="preserve")', ""),
        (r"font-family: [^;\"]*(?:; )?|<path d=\"[^\"]*\" style=\"fill: none\"/>|</?defs/?>", ""),
        (r' (?:d|x|y|transform|style)="[^"]*"', _short_numbers),
        (r"\s*\n\s*", " "),
        (r"> <", "><"),
    ]
    for pattern, replacement in changes:
        text = re.sub(pattern, replacement, text, flags=re.DOTALL)
    while (shorter := re.sub(r"<g/>|<g></g>", "", text)) != text:
        text = shorter
    for colour, name in INLINE.items():
        text = text.replace(colour, name)
    return Markup(f'<svg class="plot" role="img" aria-label="{html.escape(label)}" viewBox="{view}">{text}')


def photo_uri(fig: Figure, dpi: float = 100, limit: int = PHOTO_BYTES) -> str:
    """`fig` as a data URI of JPEG (for photographs): quality 85, less and then smaller until it fits `limit` bytes."""
    for scale in (1.0, 0.85, 0.7, 0.6, 0.5):  # drawn once for all qualities: drawing takes much longer than coding
        drawn = Image.open(io.BytesIO(_bytes(fig, "png", dpi=dpi * scale, pil_kwargs={"compress_level": 0})))
        page = Image.new("RGB", drawn.size, "white")
        page.paste(drawn, mask=drawn.convert("RGBA"))
        for quality in (85, 80, 74, 68):
            buffer = io.BytesIO()
            page.save(buffer, "jpeg", quality=quality, optimize=True, progressive=True, dpi=(dpi * scale,) * 2)
            if len(data := buffer.getvalue()) <= limit:
                return _uri("image/jpeg", data)
    return _uri("image/jpeg", data)


def figure_html(fig: Figure, alt: str, caption: str = "", photo: bool = False) -> Markup:
    """`fig` as `<figure><img><figcaption>`, self-contained and escaped. WsolkitError without an alternative text."""
    if not isinstance(alt, str) or not alt.strip():
        raise WsolkitError("a figure needs a non-empty alt text: a sentence for readers who cannot see it")
    below = Markup("<figcaption>{}</figcaption>").format(caption) if caption else ""
    drawn = not photo and not any(axes.images for axes in fig.axes)  # lines and bars only: a dark page may invert them
    image = Markup('<img {}src="{}" alt="{}" style="max-width: 100%; height: auto">')
    shown = image.format(Markup('class="ink" ') if drawn else "", photo_uri(fig) if photo else svg_uri(fig), alt)
    return Markup('<figure class="{}">{}{}</figure>').format("photo" if photo else "chart", shown, below)


def show(fig: Figure, alt: str, caption: str = "", photo: bool = False):
    """Display `fig` in a notebook with its alternative text and caption, and close it.

    alt: required, non-empty. photo: JPEG for photographs; SVG otherwise. Returns None in a notebook (so that a last
    line does not show twice), and the IPython HTML object elsewhere.
    """
    from IPython import get_ipython
    from IPython.display import HTML, display

    shown = HTML(figure_html(fig, alt, caption, photo))
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:  # a figure made with pyplot would be drawn once more at the end of the cell
        pyplot.close(fig)
    if get_ipython() is None:
        return shown
    display(shown)
    return None


# ------------------------------------------------------------------------------------------------ images


def _pixels(pixels) -> np.ndarray:
    pixels = as_numpy(pixels)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise WsolkitError(f"pixels are (H, W, 3) uint8, got {pixels.shape} {pixels.dtype}")
    return pixels


def map_colours(scores: np.ndarray) -> np.ndarray:
    """The colours in which maps are shown: scores in [0, 1] of any shape -> (..., 3) float64 in [0, 255]."""
    return matplotlib.colormaps[COLOUR_MAP](scores)[..., :3] * 255


def overlay(pixels, score_map, alpha: float = 0.5) -> np.ndarray:
    """The score map over its image: (H, W, 3) uint8.

    pixels (H, W, 3) uint8; score_map (h, w), any size and range: grown to (H, W) by cubic interpolation, then min-max.
    The map's weight at a pixel is alpha * (0.35 + 0.65 * score): what scores low stays visible as a photograph.
    """
    pixels = _pixels(pixels)
    scores = prepare_map(score_map, pixels.shape[:2])
    weight = alpha * (0.35 + 0.65 * scores[..., None])
    return np.clip(np.rint(pixels * (1 - weight) + map_colours(scores) * weight), 0, 255).astype(np.uint8)


def draw_boxes(axes, gt_boxes=(), box=None, size: tuple[int, int] | None = None, width: float = 1.7) -> None:
    """Draw ground truth (solid) and prediction (dashed) on axes that show an image, over a white under-stroke.

    gt_boxes (n, 4), box (4,) or None: x0, y0, x1, y1 with inclusive corners. size (H, W): boxes are cut at the frame.
    """
    given = {"gt_boxes": gt_boxes, "box": () if box is None else box}
    rows = [(name, row) for name, boxes in given.items() for row in np.asarray(as_numpy(boxes), float).reshape(-1, 4)]
    for name, (x0, y0, x1, y1) in [(name, row) for name, row in rows if (row >= 0).all()]:  # -1 is padding
        _, colour, line = KEYS[name]
        if size is not None:
            (x0, x1), (y0, y1) = np.clip((x0, x1), 0, size[1] - 1), np.clip((y0, y1), 0, size[0] - 1)
        shape = {"xy": (x0 - 0.5, y0 - 0.5), "width": x1 - x0 + 1, "height": y1 - y0 + 1, "fill": False}
        # the solid under-stroke shows through the gaps of a dashed line
        axes.add_patch(Rectangle(**shape, edgecolor="white", linewidth=width + 2))
        outline = [Stroke(linewidth=width + 2, foreground="white"), Normal()] if line == "-" else None
        axes.add_patch(Rectangle(**shape, edgecolor=colour, linewidth=width, linestyle=line, path_effects=outline))


def _show(axes, pixels, scores, truths, box, size: tuple[int, int], width: float = 1.7, **options) -> None:
    """An image or its overlay, with boxes in a frame of `size` (H, W), on axes without anything else."""
    extent = (-0.5, size[1] - 0.5, size[0] - 0.5, -0.5)
    axes.imshow(pixels if scores is None else overlay(pixels, scores), extent=extent, aspect="auto", **options)
    draw_boxes(axes, truths, box, size, width)
    axes.set(xlim=extent[:2], ylim=extent[2:])
    axes.set_axis_off()


def iou_text(overlap: float) -> str:
    """An IoU (0 to 1) as text with two decimals; with three where a miss, for example 0.497, would read 0.50."""
    return f"{overlap:.3f}" if 0.495 <= overlap < 0.5 else f"{overlap:.2f}"


def shortened(text: str, length: int) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def gallery(items: Sequence[Mapping], columns: int = 4) -> Figure:
    """A montage of overlays with boxes. Show it with `photo=True`.

    items: dicts with pixels (H, W, 3) uint8, and as wanted score_map (h, w), gt_boxes (n, 4), box (4,) or None, title,
    caption. Each image has its IoU above it, with a tick (IoU >= 0.5) or a cross.
    """
    require(items, "a gallery needs at least one item")
    columns = min(columns, len(items))
    rows, handles = -(-len(items) // columns), []
    with style():
        fig = Figure(figsize=(1.9 * columns, 2.38 * rows + 0.35))
        grid = fig.subplots(rows, columns, squeeze=False)
        bottom, top = 0.35 / (2.38 * rows + 0.35) + 0.01, 1 - 0.46 / (2.38 * rows)
        fig.subplots_adjust(left=0.01, right=0.99, bottom=bottom, top=top, hspace=0.29, wspace=0.05)
        for axes in grid.flat[len(items) :]:
            axes.set_visible(False)
        for axes, item in zip(grid.flat, items, strict=False):
            pixels, truths = _pixels(item["pixels"]), as_numpy(item.get("gt_boxes", ()))
            mark, box = "", item.get("box")
            _show(axes, pixels, item.get("score_map"), truths, box, pixels.shape[:2], interpolation="lanczos")
            if box is not None and len(truths):
                overlap = iou(as_numpy(box)[None], truths).max()
                mark = f"{'✓' if overlap >= 0.5 else '✗'} IoU {iou_text(overlap)}"
            texts = [shortened(item.get(key) or "", 20) for key in ("title", "caption")]
            axes.set_title("\n".join(filter(None, [*texts, mark])), fontsize=11.5, pad=3)
        for name, (text, colour, dash) in KEYS.items():
            if any(item.get(name) is not None and len(as_numpy(item[name])) for item in items):
                handles.append(Line2D([], [], color=colour, linestyle=dash, linewidth=2, label=text))
        if handles:
            fig.legend(handles=handles, loc="lower center", ncols=min(2, columns), fontsize=11.5, borderaxespad=0.2)
    return fig


def thumbnail(pixels, score_map=None, gt_boxes=(), box=None, side: int = 160) -> bytes:
    """One overlay with boxes (as for `overlay` and `draw_boxes`) as a small JPEG; its longer side has `side` pixels."""
    pixels = _pixels(pixels)
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    method = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    small = cv2.resize(pixels, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=method)
    fig = Figure(figsize=(small.shape[1] / 100, small.shape[0] / 100))
    axes = fig.add_axes((0, 0, 1, 1))
    _show(axes, small, score_map, gt_boxes, box, (height, width), 1.3, interpolation="nearest")
    return _bytes(fig, "jpeg", dpi=100, pil_kwargs={"quality": 75, "optimize": True})


class Line(NamedTuple):
    """A line of text below an image: `name` is cut where it is too long, all else never. size: in points."""

    before: str
    name: str = ""
    after: str = ""
    size: float = 10
    colour: str = "black"

    def within(self, width: int) -> str:
        """The text, on at most `width` pixels as long as `before` and `after` fit."""
        room = int(width / (0.58 * self.size * DPI / 72)) - len(self.before + self.after)  # a letter is at most so wide
        name = self.name if len(self.name) <= room else self.name[: max(1, room - 1)] + "…"
        return self.before + name + self.after


def captioned_png(
    image: Image.Image, lines: Sequence[Line], score_map, seen: Callable[[int], slice], box, about: Mapping[str, str]
) -> bytes:
    """An image with its score map and box, and lines of text below, as PNG; its longer side has at most 1200 pixels.

    image: RGB. score_map (h, w) or None. seen: length of a side in pixels -> the part that the map covers. box (4,) or
    None: x0, y0, x1, y1 with inclusive corners. about: what the file says of itself.
    """
    scale = min(LONGEST, max(SHORTEST, *image.size)) / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    pixels = np.array(image.resize((width, height), Image.Resampling.LANCZOS))
    if score_map is not None:
        part = seen(height), seen(width)
        pixels[part] = overlay(pixels[part], score_map)
    canvas, foot = max(width, SHORTEST), 8 + LINE * len(lines)
    total = height + foot
    with style():
        fig = Figure(figsize=(canvas / DPI, total / DPI), dpi=DPI)
        axes = fig.add_axes(((canvas - width) / 2 / canvas, foot / total, width / canvas, height / total))
        frame = image.size[::-1]
        _show(axes, pixels, None, (), box, frame, max(1.7, max(width, height) / 400), interpolation="nearest")
        for number, line in enumerate(lines):
            y = (foot - 4 - LINE * (number + 0.5)) / total
            fig.text(8 / canvas, y, line.within(canvas), fontsize=line.size, color=line.colour, va="center")
    return _bytes(fig, "png", dpi=DPI, metadata=dict(about), pil_kwargs={"compress_level": 4})


def look(index: int) -> dict[str, Any]:
    """Colour, line style and marker of the index-th series; beyond eight, colours meet other lines and markers."""
    other = (index + index // len(PALETTE)) % len(LINES)
    return {"color": PALETTE[index % len(PALETTE)], "linestyle": LINES[other], "marker": MARKERS[other]}


def _figure(height: float, shown: Any = True, text: str = "", rows: int = 1) -> tuple[Figure, Any]:
    """A figure and its axes; WsolkitError where there is nothing to show."""
    require(shown, f"there is no {text}")
    fig = Figure(figsize=(6.4, height))
    return fig, fig.subplots(rows, sharex=True)


def _plain(text: str) -> str:
    """A name as a label: matplotlib hides those that begin with an underscore."""
    return f" {text}" if str(text).startswith("_") else str(text)


def _legend(axes, place: str = "below", columns: int = 2, **options) -> None:
    """Beside the axes: it hides no data, and stays readable on a phone. A series' entry is hidden with the series."""
    loc, anchor = {"below": ("upper center", (0.5, -0.16)), "above": ("lower center", (0.5, 1.0))}[place]
    legend = axes.legend(loc=loc, ncols=columns, **{"bbox_to_anchor": anchor, "handlelength": 2.6} | options)
    series = {line.get_gid() for line in axes.lines}
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        if (name := SERIES + text.get_text().strip()) in series:
            handle.set_gid(name)
            text.set_gid(name)


def _bar_names(axes, names: Sequence[str], **options) -> None:
    """Names of horizontal bars, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", length=0, **options)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.grid(False, axis="y")


def _interval_bars(axes, places, values, low, high, labels, **options) -> None:
    """Horizontal bars with intervals, and at their ends their numbers in a format, or other labels."""
    errors = np.clip([values - low, high - values], 0, None)
    shown = axes.barh(places, values, xerr=errors, error_kw={"ecolor": INK, "elinewidth": 1.5}, **options)
    shown.errorbar.lines[2][0].set_path_effects([Stroke(linewidth=3.4, foreground="white"), Normal()])
    axes.bar_label(shown, **{"fmt": labels} if isinstance(labels, str) else {"labels": labels}, padding=5)


def _curve(name: str, curve) -> tuple[np.ndarray, np.ndarray]:
    if isinstance(curve, Mapping):
        if absent := [key for key in ("thresholds", "gt_known_loc") if key not in curve]:
            raise WsolkitError(f"curve {name!r} has no {' and no '.join(absent)}: a result without boxes has no curve")
        curve = curve["thresholds"], curve["gt_known_loc"]
    taus, accuracy = (np.asarray(as_numpy(values), float) for values in curve)
    if taus.shape != accuracy.shape or taus.ndim != 1:
        raise WsolkitError(f"curve {name!r}: {taus.shape} thresholds but {accuracy.shape} accuracies")
    return taus, accuracy


@style()
def accuracy_curves(
    curves: Mapping[str, Any],
    marks: Mapping[str, float | None] | None = None,
    centre_box: float | None = None,
    looks: Mapping[str, int] | None = None,
    points: Mapping[str, Mapping[str, Any]] | None = None,
    top: float = 100.0,
) -> Figure:
    """GT-known Loc (percent) against the threshold tau, one line per name.

    curves: name -> (thresholds in [0, 1), accuracy in percent), of equal lengths, or the `curve` of a result
        {"thresholds": [...], "gt_known_loc": [...]}, or a result: it brings its operating points and its centre box.
    marks: name of a curve -> the threshold to mark on it, or any other label -> a vertical line.
    centre_box: the baseline's accuracy in percent.
    looks: name -> index of its `look`, where a method looks the same in several charts. top: the axis ends there.
    points: name of a curve -> its operating points, as `operating_points` of a result; the curve goes through them.
    WsolkitError: no curve, unequal lengths, a result without a curve.
    """
    fig, axes = _figure(4.2, curves, "curve to draw")
    marked = {name: tau for name, tau in (marks or {}).items() if tau is not None}
    points = dict(points or {})
    for index, (name, curve) in enumerate(curves.items()):
        if hasattr(curve, "operating_points"):
            points.setdefault(name, curve.operating_points)
            centre_box = curve.centre_box.get("gt_known_loc") if centre_box is None else centre_box
            curve = curve.curve
        taus, accuracy = _curve(name, curve)
        drawn, gid = look((looks or {}).get(name, index)), SERIES + str(name)
        given = {key: (p["threshold"], p["gt_known_loc"]) for key, p in points.get(name, {}).items() if p}
        known = {key: pair for key, pair in given.items() if None not in pair}
        through = dict([*zip(taus, accuracy, strict=True), *known.values()])  # a stored curve is thinned
        axes.plot(*zip(*sorted(through.items()), strict=True), **drawn | {"marker": ""}, label=_plain(name), gid=gid)
        dot = {"color": drawn["color"], "markersize": 8, "zorder": 5, "linestyle": "", "gid": gid}
        for key, (marker, filled, label) in POINTS.items():
            if key in known:
                (tau, height), inside = known[key], {} if filled else {"markerfacecolor": "white"}
                axes.plot(tau, height, marker, **dot | inside, label=f"{label}: {height:.1f} % at {tau:g}")
        if name in marked:
            height = np.interp(tau := marked.pop(name), taus, accuracy)
            axes.plot(tau, height, marker=drawn["marker"], markeredgecolor="white", **dot)
    for label, tau in marked.items():
        axes.axvline(tau, color=INK, linewidth=1.2, linestyle=":")
        axes.annotate(_plain(label), (tau, 0.99 * top), (4, 0), textcoords="offset points", fontsize=10, va="top")
    if centre_box is not None:
        axes.axhline(centre_box, color=INK, linewidth=1.4, linestyle=DOTTED, label="centre box")
    axes.set(xlim=(0, 1), ylim=(0, top), xlabel="threshold τ", ylabel=ACCURACY)
    _legend(axes, columns=1 if points else 2)  # an operating point's label is long
    return fig


@style()
def cost_scatter(
    points: Mapping[str, Mapping[str, tuple[float, float]]],
    intervals: Mapping[str, Mapping[str, tuple[float, float]]] | None = None,
    looks: Mapping[str, int] | None = None,
    top: float = 100.0,
    span: tuple[float, float] | None = None,
    ylabel: str = ACCURACY,
) -> Figure:
    """GT-known Loc, or what `ylabel` says (percent), against seconds per image, logarithmic.

    points: group (backbone) -> name (method) -> (seconds, percent): colour and marker for the name, filled for the
        first group, hollow or half for the next ones. intervals: the same keys -> (low, high), drawn as thin lines.
    looks, top: as for `accuracy_curves`; span: seconds at both ends of the axis.
    """
    names = list(dict.fromkeys(name for group in points.values() for name in group))
    fig, axes = _figure(4.2)
    for number, (group, members) in enumerate(points.items()):
        for name, (seconds, percent) in members.items():
            drawn, gid = look((looks or {}).get(name, names.index(name))), SERIES + str(name)
            if (between := (intervals or {}).get(group, {}).get(name)) is not None:
                axes.plot([seconds] * 2, between, color=drawn["color"], linewidth=1, alpha=0.6, gid=gid)
            label, fill = _plain(f"{name}, {group}" if len(points) > 1 else name), FILLS[number % len(FILLS)]
            drawn |= {"linestyle": "", "fillstyle": fill, "markersize": 9, "clip_on": False}
            axes.plot(seconds, percent, **drawn, label=label, gid=gid)
    axes.set(xscale="log", xlim=span, xlabel="time per image (logarithmic)", ylim=(0, top), ylabel=ylabel)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda s, _: f"{s:g} s" if s >= 0.1 else f"{1000 * s:g} ms"))
    axes.minorticks_off()
    _legend(axes)
    return fig


@style()
def history_figure(rows: Sequence[Mapping], kept: float | None = None) -> Figure:
    """Training curves: loss above, Top-1 accuracy (percent) below, train and val, against the epoch.

    rows: dicts with epoch, train_loss, train_top1, val_loss, val_top1 (numbers, or text from a csv; empty = absent).
    kept: the epoch whose weights were kept, as a vertical line.
    """
    fig, (upper, lower) = _figure(5.6, rows, "epoch in the history, it is empty: train for at least one", rows=2)
    names = ["epoch", *(f"{part}_{kind}" for part in ("train", "val") for kind in ("loss", "top1"))]
    columns = pd.DataFrame(list(rows)).reindex(columns=names).apply(pd.to_numeric)
    for axes, kind, label in ((upper, "loss", "loss"), (lower, "top1", "Top-1 Cls (%)")):
        for index, part in enumerate(("train", "val")):
            drawn = look(index) | ({} if len(rows) <= 30 else {"marker": ""})
            axes.plot(columns["epoch"], columns[f"{part}_{kind}"], **drawn, markersize=4.5, label=part)
        if kept is not None:
            axes.axvline(kept, color=INK, linewidth=1.2, linestyle=":", label=f"epoch {kept:.0f}, kept")
        axes.set_ylabel(label)
    upper.set_ylim(bottom=0)
    lower.set(ylim=(0, 102), xlabel="epoch")
    lower.xaxis.get_major_locator().set_params(integer=True)
    _legend(upper, "above", 3)
    fig.align_ylabels()
    return fig


@style()
def bars(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
    xlabel: str = ACCURACY,
    reference: float | None = None,
    reference_label: str = "centre box",
) -> Figure:
    """Horizontal bars for a small ablation table, in the given order from the top.

    values: name -> percent. intervals: name -> (low, high). reference: a vertical line, for example the centre box.
    """
    fig, axes = _figure(1.1 + 0.46 * len(values), values, "number to draw a bar for")
    numbers = np.array(list(values.values()), float)
    ends = [(intervals or {}).get(name) or (number, number) for name, number in zip(values, numbers, strict=True)]
    low, high = np.array(ends, float).T
    _interval_bars(axes, range(len(numbers)), numbers, low, high, "%.1f", color=PALETTE[7], height=0.62)
    if reference is not None:
        axes.axvline(reference, color=INK, linestyle=DOTTED, label=_plain(reference_label))
        _legend(axes, "above")
    _bar_names(axes, [_plain(name) for name in values])
    axes.set(xlim=(0, 112), xlabel=xlabel, xticks=range(0, 101, 20))
    return fig


@style()
def iou_histogram(ious, threshold: float = 0.5) -> Figure:
    """How the images spread over IoU (0 to 1), in percent, with the share that reaches `threshold`.

    ious: one array, or name -> array: outlines, the first one filled; NaN (no object) is left out.
    """
    given = (ious if isinstance(ious, Mapping) else {"": ious}).items()
    arrays = {name: np.asarray(as_numpy(each), float).ravel() for name, each in given}
    arrays = {name: values[~np.isnan(values)] for name, values in arrays.items()}
    fig, axes = _figure(3.8, arrays and all(map(len, arrays.values())), "IoU to count")
    bins = np.linspace(0, 1, 21)
    for index, (name, values) in enumerate(arrays.items()):
        share = f"{100 * np.mean(values >= threshold):.1f} % of {len(values)} images"
        drawn, label = look(index), f"{_plain(name)}: {share}" if name else share
        heights = np.histogram(values, bins)[0] * 100 / len(values)
        axes.stairs(heights, bins, color=drawn["color"], linestyle=drawn["linestyle"], linewidth=2, label=label)
        if index == 0:
            axes.bar(bins[:-1], heights, width=0.05, align="edge", color=drawn["color"], alpha=0.25, zorder=0)
    axes.axvline(threshold, color=INK, linestyle="--", label=f"IoU ≥ {threshold:g}")
    axes.set(xlim=(0, 1), xlabel="IoU of prediction and ground truth", ylabel="images (%)")
    axes.grid(False, axis="x")
    _legend(axes, "above", columns=1)
    return fig


@style()
def failure_bars(results: Mapping[str, Any]) -> Figure:
    """A bar per method, cut into the shares of the failure types (percent of the images with ground-truth boxes).

    results: name -> result, or its number of images by failure type (as `evaluation.per_image.failure_counts`).
    """
    names = [textwrap.fill(str(name), WIDTH) for name in results]
    lines = sum(max(1, name.count("\n") + 1) for name in names)
    fig, axes = _figure(1.5 + 0.3 * lines + 0.24 * len(names), results, "method to draw a bar for")
    counts, left = [getattr(source, "failures", source) for source in results.values()], np.zeros(len(names))
    for failure, (colour, hatch, ink) in LOOKS.items():
        widths = np.array([count.get(failure, 0) * 100 / sum(count.values()) for count in counts])
        drawn = {"color": colour, "hatch": hatch, "edgecolor": "white", "linewidth": 0.8, "label": failure}
        shown = axes.barh(range(len(names)), widths, left=left, height=0.66, **drawn)
        outline = [Stroke(linewidth=3, foreground=colour), Normal()] if hatch else None
        labels = [f"{width:.0f}" if width >= LABELLED else "" for width in widths]
        axes.bar_label(shown, labels, label_type="center", color=ink, path_effects=outline)
        left += widths
    _bar_names(axes, names)
    axes.set(xlim=(0, 100), xlabel="images (%)")
    axes.grid(False)
    axes.spines["left"].set_visible(False)
    fig.subplots_adjust(bottom=0.62 / fig.get_figheight(), top=1 - 0.78 / fig.get_figheight())
    _legend(axes, "above", 3, columnspacing=1.2, handlelength=1.6)
    return fig


@style()
def slice_bars(frames: pd.DataFrame | Mapping[str, pd.DataFrame], kind: str = "size") -> Figure:
    """GT-known Loc (percent) with its 95 % interval in each slice; one bar per method.

    frames: what `wsolkit.evaluation.per_image.slices` returns, or name -> that.
    kind: "size", "aspect" or "class"; of more than 20 classes the 10 lowest and the 10 highest of the first method
        are shown, with the number of images in brackets.
    """
    frames = {"": frames} if isinstance(frames, pd.DataFrame) else dict(frames)
    parts = {name: frame[frame["kind"] == kind].set_index("slice") for name, frame in frames.items()}
    if not parts or not all(map(len, parts.values())):
        known = sorted({str(item) for frame in frames.values() for item in frame["kind"]})
        raise WsolkitError(f"there is no slice of kind {kind!r} to draw; there are {', '.join(known) or 'none'}")
    if twice := [name for name, part in parts.items() if not part.index.is_unique]:
        raise WsolkitError(f"two slices of {twice[0]!r} have the same name; give the classes different names")
    first, label = next(iter(parts.values())), ACCURACY
    slices = list(first.index)
    if kind == "class" and len(slices) > 2 * EXTREMES:
        slices = list(first.sort_values("gt_known_loc", kind="stable").index)
        label += f", {EXTREMES} lowest and {EXTREMES} highest of {len(slices)} classes"
        slices = slices[:EXTREMES] + slices[-EXTREMES:]
    names = []
    for item in slices:
        n = sorted({int(part["n"].get(item, 0)) for part in parts.values()})
        count = f"{n[0]}" if n[0] == n[-1] else f"{n[0]} to {n[-1]}"
        names.append(f"{shortened(item, 24)} ({count})" if kind == "class" else f"{item}\n{count} images")
    several, thick = len(parts) > 1, 0.8 / len(parts)
    room = max(0.32 if kind == "class" else 0.5, 0.24 * len(parts) + 0.14)
    fig, axes = _figure(1.1 + len(slices) * room)
    for number, (name, part) in enumerate(parts.items()):
        part = part.reindex(slices)
        places = np.arange(len(slices)) + (number - (len(parts) - 1) / 2) * thick
        looks = {"color": PALETTE[number % len(PALETTE) if several else 7], "edgecolor": "white", "linewidth": 0}
        looks |= {"hatch": HATCHES[number % len(HATCHES)]} if several else {}
        values, low, high = (part[column].to_numpy(float) for column in ("gt_known_loc", "low", "high"))
        labels = ["no image" if np.isnan(value) else f"{value:.0f}" * (len(parts) <= 3) for value in values]
        looks |= {"height": 0.88 * thick, "label": _plain(name)}
        _interval_bars(axes, places, np.nan_to_num(values), low, high, labels, **looks)
    _bar_names(axes, names, labelsize=10 if kind == "class" else 12)
    axes.set(xlim=(0, 108), xlabel=label, xticks=range(0, 101, 20))
    axes.spines["bottom"].set_bounds(0, 100)
    if several:
        columns = max(1, min(3, len(parts), 56 // (6 + max(map(len, parts)))))
        _legend(axes, "above", columns, handlelength=1.6)
    return fig


@style()
def faithfulness_curves(measured: Mapping[str, Any]) -> Figure:
    """Mean probability of the class against the share of pixels deleted (above) and inserted (below), a line per name
    with its 95 % bootstrap band.

    measured: name -> `Faithfulness`, as `measure_faithfulness` returns it.
    """
    fig, rows = _figure(6.6, measured, "curve to draw", rows=2)
    for axes, name, hint in zip(rows, ("deletion", "insertion"), ("low is good", "high is good"), strict=True):
        for index, (label, faithfulness) in enumerate(measured.items()):
            drawn = look(index) | {"marker": ""}
            mean, low, high = faithfulness.mean(name)
            shares = faithfulness.shares * 100
            axes.fill_between(shares, low, high, color=drawn["color"], alpha=0.15, linewidth=0)
            axes.plot(shares, mean, **drawn, label=_plain(label))
        axes.set(xlim=(0, 100), ylim=(0, 1.02), ylabel="class probability")
        axes.set_title(f"{name}: {hint}", loc="left", fontweight="bold")
    rows[1].set_xlabel("pixels deleted or inserted, highest score first (%)")
    _legend(rows[1], bbox_to_anchor=(0.5, -0.22))
    return fig


@style()
def certainty_curve(scores, hits) -> Figure:
    """Share of right boxes (percent) among the most certain images, against how many of these are taken (percent), with
    its 95 % Wilson interval. scores (N,) certainty; hits (N,) bool."""
    scores, hits = np.asarray(as_numpy(scores), float), np.asarray(as_numpy(hits), bool)
    fig, axes = _figure(3.8, len(hits), "image with a true box")
    right = hits[np.argsort(-scores, kind="stable")].cumsum()
    counts = np.unique(np.linspace(1, len(hits), 100).astype(int))
    tests = [scipy.stats.binomtest(int(right[n - 1]), int(n)) for n in counts]
    ends = np.transpose([test.proportion_ci(method="wilson") for test in tests])  # as `share_interval` has it for one
    shares = 100 * counts / len(hits)
    axes.fill_between(shares, *(100 * ends), color=look(0)["color"], alpha=0.15, linewidth=0)
    axes.plot(shares, 100 * right[counts - 1] / counts, **look(0) | {"marker": ""})
    axes.set(xlim=(0, 100), ylim=(0, 102), ylabel="boxes with IoU ≥ 0.5 (%)")
    axes.set_xlabel(f"images taken, the most certain of {len(hits)} first (%)")
    return fig

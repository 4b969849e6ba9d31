"""Figures for notebooks and reports: overlays with boxes, galleries; the style of all figures; how one reaches a page.

Figures are made with matplotlib's object interface, in one style, with colours that colour-blind readers can tell apart
and a second sign (line style, marker, symbol) wherever a colour means something. No torch: tensors are welcome.
"""

from __future__ import annotations

import base64
import html
import io
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.patheffects import Normal, Stroke

from wsolkit.boxes.extract import iou
from wsolkit.boxes.preparation import as_numpy, prepare_map
from wsolkit.common.errors import WsolkitError

# seaborn's "colorblind" palette without its palest colours
PALETTE = ["#0173b2", "#de8f05", "#029e73", "#d55e00", "#cc78bc", "#8c5a3c", "#5b5b5b", "#56b4e9"]
INK = "#222222"
# of a figure that stands in a page as inline SVG, the page's style sheet says what these are, in light and in dark
INLINE = {colour: f"var(--c{index})" for index, colour in enumerate(PALETTE)}
INLINE |= {INK: "var(--ink)", "#000000": "var(--soft)", "#ffffff": "var(--paper)", "#e2e5e8": "var(--grid)"}
SERIES = "series:"  # and a name: the group id of what a filter of a page shows or hides
KEYS: dict[str, tuple[str, str, Any]] = {  # of boxes: text, colour (neither occurs in the colour map), line
    "gt_boxes": ("ground truth", "#e8450a", "-"),
    "box": ("prediction", "#08306b", (0, (3, 2))),
}
COLOUR_MAP = "viridis"
PHOTO_BYTES = 72_000  # of one montage: ten of them, in base64, stay under 1 MB
STYLE = matplotlib.rc_params_from_file(Path(__file__).with_name("wsolkit.mplstyle"), use_default_template=False)


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
    for scale, quality in product((1.0, 0.85, 0.7, 0.6, 0.5), (85, 80, 74, 68)):
        options = {"quality": quality, "optimize": True, "progressive": True}
        data = _bytes(fig, "jpeg", dpi=dpi * scale, pil_kwargs=options)
        if len(data) <= limit:
            break
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


def overlay(pixels, score_map, alpha: float = 0.5) -> np.ndarray:
    """The score map over its image: (H, W, 3) uint8.

    pixels (H, W, 3) uint8; score_map (h, w), any size and range: grown to (H, W) by cubic interpolation, then min-max.
    The map's weight at a pixel is alpha * (0.35 + 0.65 * score): what scores low stays visible as a photograph.
    """
    pixels = _pixels(pixels)
    scores = prepare_map(score_map, pixels.shape[:2])
    colours = matplotlib.colormaps[COLOUR_MAP](scores)[..., :3] * 255
    weight = alpha * (0.35 + 0.65 * scores[..., None])
    return np.clip(np.rint(pixels * (1 - weight) + colours * weight), 0, 255).astype(np.uint8)


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


def iou_text(overlap: float) -> str:
    """An IoU (0 to 1) as text with two decimals; with three where a miss, for example 0.497, would read 0.50."""
    return f"{overlap:.3f}" if 0.495 <= overlap < 0.5 else f"{overlap:.2f}"


def shortened(text: str, length: int) -> str:
    text = " ".join(str(text).split())
    return text if len(text) <= length else text[: length - 1] + "…"


def gallery(items: Sequence[Mapping], columns: int = 4) -> Figure:
    """A montage of overlays with boxes. Show it with `photo=True`.

    items: dicts with pixels (H, W, 3) uint8, and as wanted score_map (h, w), gt_boxes (n, 4), box (4,) or None, title,
    caption. The IoU stands above each image with a tick (IoU >= 0.5) or a cross.
    """
    if not items:
        raise WsolkitError("a gallery needs at least one item")
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
            pixels, scores, truths = _pixels(item["pixels"]), item.get("score_map"), as_numpy(item.get("gt_boxes", ()))
            shown = pixels if scores is None else overlay(pixels, scores)
            axes.imshow(shown, interpolation="lanczos", aspect="auto")
            draw_boxes(axes, truths, item.get("box"), size=pixels.shape[:2])
            axes.set(xlim=(-0.5, pixels.shape[1] - 0.5), ylim=(pixels.shape[0] - 0.5, -0.5))
            axes.set_axis_off()
            mark, box = "", item.get("box")
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
    shown = small if score_map is None else overlay(small, score_map)
    axes.imshow(shown, extent=(-0.5, width - 0.5, height - 0.5, -0.5), aspect="auto", interpolation="nearest")
    draw_boxes(axes, gt_boxes, box, size=(height, width), width=1.3)
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5))
    axes.set_axis_off()
    return _bytes(fig, "jpeg", dpi=100, pil_kwargs={"quality": 75, "optimize": True})

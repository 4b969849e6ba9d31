"""What `wsolkit predict` writes for a picture: an overlay (PNG) and the numbers (JSON)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from wsolkit.common.files import atomic_write_bytes, write_json
from wsolkit.data.images import RESULT_MARK, ImageFile
from wsolkit.data.samples import Geometry
from wsolkit.figures.images import draw_boxes, overlay, style
from wsolkit.localisation.predict import Prediction

LONGEST, SHORTEST = (
    1200,
    320,
)  # sides of an overlay in pixels: larger pictures are reduced, the width of small ones grows
DPI = 100
LINE = 22  # height of a line of text in pixels


def draw(picture: Image.Image, found: Prediction, geometry: Geometry, note: str = "") -> bytes:
    """The picture with its score map, its box and, below, class and probability, as PNG.

    picture: RGB, as `read_image` gives it. note: a last line in small print.
    The longer side is at most 1200 pixels. The map covers what the network saw: of a centre crop only the centre.
    """
    scale = min(LONGEST, max(SHORTEST, *picture.size)) / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    pixels = np.array(picture.resize((width, height), Image.Resampling.LANCZOS))
    seen = (slice(*_span(height, geometry)), slice(*_span(width, geometry)))
    pixels[seen] = overlay(pixels[seen], found.score_map)

    canvas = max(width, SHORTEST)
    lines = _lines(found, note, canvas)
    foot = 8 + LINE * len(lines)
    with style():
        figure = Figure(figsize=(canvas / DPI, (height + foot) / DPI), dpi=DPI)
        axes = figure.add_axes(
            ((canvas - width) / 2 / canvas, foot / (height + foot), width / canvas, height / (height + foot))
        )
        full_width, full_height = picture.size
        frame = (-0.5, full_width - 0.5, full_height - 0.5, -0.5)
        axes.imshow(pixels, extent=frame, aspect="auto", interpolation="nearest")
        if not found.box_empty:
            draw_boxes(axes, box=found.box, width=max(1.7, max(width, height) / 400))
        axes.set(xlim=frame[:2], ylim=frame[2:])
        axes.set_axis_off()
        for number, (text, size, colour) in enumerate(lines):
            y = (foot - 4 - LINE * (number + 0.5)) / (height + foot)
            figure.text(8 / canvas, y, text, fontsize=size, color=colour, va="center")
        buffer = io.BytesIO()
        figure.savefig(
            buffer, format="png", dpi=DPI, metadata={"Software": RESULT_MARK}, pil_kwargs={"compress_level": 4}
        )
    return buffer.getvalue()


def _span(extent: int, geometry: Geometry) -> tuple[int, int]:
    """The part of a side of `extent` pixels that the network saw, from (inclusive) and to (exclusive), at least one."""
    start, stop = (round(edge * extent / geometry.side) for edge in (geometry.offset, geometry.offset + geometry.size))
    start = min(start, extent - 1)
    return start, max(stop, start + 1)


def _lines(found: Prediction, note: str, width: int) -> list[tuple[str, float, str]]:
    """(text, size in points, colour) of each line; long names are cut, probabilities never."""

    def line(before: str, name: str, after: str, size: float, colour: str = "black") -> tuple[str, float, str]:
        room = int(width / (0.58 * size * DPI / 72)) - len(before + after)  # a letter is 0.58 of its size wide, or less
        return before + (name if len(name) <= room else name[: max(1, room - 1)] + "…") + after, size, colour

    best = found.top5[0]
    lines = [line("", found.name, f"  {100 * found.probability:.1f} %", 12)]
    if not found.predicted:
        lines.append(line("predicted: ", best.name, f"  {100 * best.probability:.1f} %", 10))
    if found.box_empty:
        lines.append(line("no box: nothing is above the threshold", "", "", 10))
    return [*lines, line("", note, "", 9, "#555555")] if note else lines


def record(image: str | Path, found: Prediction, about: dict[str, Any]) -> dict[str, Any]:
    """The JSON of one picture: what was found, then `about`, which is the same for all pictures of a call."""
    return {
        "written_by": RESULT_MARK, "image": str(image), "width": found.size[0], "height": found.size[1],
        "class": found.name, "label": found.label, "probability": found.probability,
        "class_of_map": "predicted" if found.predicted else "given",
        "top5": [{"class": name, "label": label, "probability": share} for name, label, share in found.top5],
        "box": found.box.tolist(), "box_empty": found.box_empty, **about,
    }  # fmt: skip


def save(
    out: Path,
    items: Sequence[tuple[ImageFile, Image.Image]],
    found: Sequence[Prediction],
    geometry: Geometry,
    about: dict[str, Any],
    note: str = "",
) -> None:
    """Write `<out>/<name>.png` and, last, `<out>/<name>.json` for each picture, by rename; names keep their suffix, so
    that bird.jpg and bird.png do not share a result."""
    for (file, picture), prediction in zip(items, found, strict=True):
        base = out / file.name
        (numbers := base.with_name(base.name + ".json")).unlink(missing_ok=True)  # never beside another overlay
        atomic_write_bytes(base.with_name(base.name + ".png"), draw(picture, prediction, geometry, note))
        write_json(numbers, record(file.path, prediction, about))

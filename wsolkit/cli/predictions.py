"""What `wsolkit predict` writes for an image: an overlay (PNG) and the numbers (JSON)."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from wsolkit.common.files import atomic_write_bytes, write_json
from wsolkit.data.images import RESULT_MARK
from wsolkit.data.samples import Geometry
from wsolkit.figures.images import draw_boxes, overlay, style
from wsolkit.localisation.predict import Prediction

LONGEST, SHORTEST = 1200, 320  # sides of an overlay in pixels: larger images are reduced, small ones get wider
DPI = 100
LINE = 22  # height of a line of text in pixels


def draw(image: Image.Image, prediction: Prediction, geometry: Geometry, note: str = "") -> bytes:
    """The image with its score map, its box and, below, class and probability, as PNG.

    image: RGB, as `read_image` gives it. note: a last line in small print.
    The longer side is at most 1200 pixels. The map covers what the network saw: of a centre crop only the centre.
    """
    scale = min(LONGEST, max(SHORTEST, *image.size)) / max(image.size)
    width, height = (max(1, round(side * scale)) for side in image.size)
    pixels = np.array(image.resize((width, height), Image.Resampling.LANCZOS))
    seen = (slice(*_span(height, geometry)), slice(*_span(width, geometry)))
    pixels[seen] = overlay(pixels[seen], prediction.score_map)

    canvas = max(width, SHORTEST)
    lines = _lines(prediction, note, canvas)
    foot = 8 + LINE * len(lines)
    total = height + foot
    with style():
        figure = Figure(figsize=(canvas / DPI, total / DPI), dpi=DPI)
        axes = figure.add_axes(((canvas - width) / 2 / canvas, foot / total, width / canvas, height / total))
        frame = (-0.5, image.width - 0.5, image.height - 0.5, -0.5)
        axes.imshow(pixels, extent=frame, aspect="auto", interpolation="nearest")
        if not prediction.box_empty:
            draw_boxes(axes, box=prediction.box, width=max(1.7, max(width, height) / 400))
        axes.set(xlim=frame[:2], ylim=frame[2:])
        axes.set_axis_off()
        for number, (text, size, colour) in enumerate(lines):
            y = (foot - 4 - LINE * (number + 0.5)) / total
            figure.text(8 / canvas, y, text, fontsize=size, color=colour, va="center")
        buffer, about = io.BytesIO(), {"Software": RESULT_MARK}
        figure.savefig(buffer, format="png", dpi=DPI, metadata=about, pil_kwargs={"compress_level": 4})
    return buffer.getvalue()


def _span(extent: int, geometry: Geometry) -> tuple[int, int]:
    """The part of a side of `extent` pixels that the network saw, from (inclusive) and to (exclusive), at least one."""
    start, stop = (round(edge * extent / geometry.side) for edge in (geometry.offset, geometry.offset + geometry.size))
    start = min(start, extent - 1)
    return start, max(stop, start + 1)


def _lines(prediction: Prediction, note: str, width: int) -> list[tuple[str, float, str]]:
    """(text, size in points, colour) of each line; long names are cut, probabilities never."""

    def line(before: str, name: str, after: str, size: float, colour: str = "black") -> tuple[str, float, str]:
        room = int(width / (0.58 * size * DPI / 72)) - len(before + after)  # a letter is 0.58 of its size wide, or less
        return before + (name if len(name) <= room else name[: max(1, room - 1)] + "…") + after, size, colour

    best = prediction.top5[0]
    lines = [line("", prediction.name, f"  {100 * prediction.probability:.1f} %", 12)]
    if not prediction.predicted:
        lines.append(line("predicted: ", best.name, f"  {100 * best.probability:.1f} %", 10))
    if prediction.box_empty:
        lines.append(line("no box: nothing is above the threshold", "", "", 10))
    return [*lines, line("", note, "", 9, "#555555")] if note else lines


def save(
    base: Path, path: Path, image: Image.Image, prediction: Prediction, geometry: Geometry, about: dict, note: str = ""
) -> None:
    """Write `<base>.png` (see `draw`) and, last, `<base>.json` for the image file `path`, by rename.

    about: what follows the prediction in the JSON, the same for all images of a call.
    """
    (numbers := base.with_name(base.name + ".json")).unlink(missing_ok=True)  # never beside another overlay
    atomic_write_bytes(base.with_name(base.name + ".png"), draw(image, prediction, geometry, note))
    content: dict[str, Any] = {"written_by": RESULT_MARK, "image": str(path)}
    content |= {"width": prediction.size[0], "height": prediction.size[1]}
    content |= {"class": prediction.name, "label": prediction.label, "probability": prediction.probability}
    content["class_of_map"] = "predicted" if prediction.predicted else "given"
    content["top5"] = [{"class": name, "label": label, "probability": p} for name, label, p in prediction.top5]
    write_json(numbers, content | {"box": prediction.box.tolist(), "box_empty": prediction.box_empty} | about)

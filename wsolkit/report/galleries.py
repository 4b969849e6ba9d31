"""The galleries of a report page, from the files that `runs.folder.write_galleries` left.

The figures are complete without JavaScript; a table holds boxes, IoUs and sums at every stop of the reader's sliders,
and galleries.js only looks them up.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import cv2
import matplotlib
import numpy as np
from markupsafe import Markup
from PIL import Image

from wsolkit.boxes.extract import ContourBoxes, iou, threshold_value
from wsolkit.boxes.preparation import prepare_map
from wsolkit.boxes.protocols import protocol_named
from wsolkit.common.errors import WsolkitError
from wsolkit.evaluation.per_image import FAILURES
from wsolkit.figures.images import COLOUR_MAP, iou_text
from wsolkit.report.pages import counted, fragment, image_uri
from wsolkit.runs.folder import read_galleries, read_gallery_images

HEAT_SIDE = 56  # pixels of a heat map's longer side; the browser grows it
OPACITY = (0.175, 0.325)  # of the heat map: at score 0, and how much more at score 1
THRESHOLDS = [round(0.04 * step, 2) for step in range(25)]  # stops of the sliders, with those of the run
PERCENTILES = [80.0, 90.0, 95.0, 100.0]


def section(folder: str | Path) -> Markup:
    """The part of a page for the run in `folder` (which holds galleries/), "" where no galleries were kept.

    The page needs galleries.css and galleries.js.

    Raises:
        WsolkitError: the files are not as `write_galleries` writes them.
    """
    kept = read_galleries(folder)
    if kept is None:
        return Markup("")
    try:
        return _section(kept, *read_gallery_images(folder, kept))
    except Exception as error:  # files that were cut off, changed or written by another version fail in every way
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
        raise WsolkitError(f"the galleries in {folder} cannot be read ({said}); run the method again") from error


def _section(kept: dict[str, Any], maps: list[np.ndarray], photos: list[bytes]) -> Markup:
    frame = tuple(kept["frame"])
    prepared = [prepare_map(scores, frame) for scores in maps]
    data = None if kept["threshold"] is None else slider_table(kept, prepared)
    tables = data["images"] if data else [None] * len(prepared)
    images = []
    for image, photo, scores, table in zip(kept["pictures"], photos, prepared, tables, strict=True):
        truths = [_rectangle(box, frame) for box in image["gt_boxes"]]
        share = max((width * height for _, _, width, height in truths), default=0) / (frame[0] * frame[1])
        shown = {"photo": image_uri(photo), "heat": image_uri(heat(scores)), "strongest": _strongest(scores)}
        state = table["states"][table["at"][data["start"]]] if data and table else None
        images.append(image | shown | {"truths": truths, "covers": _percent(share), "state": state})
    colours = [matplotlib.colors.to_hex(shade) for shade in matplotlib.colormaps[COLOUR_MAP](np.linspace(0, 1, 6))]
    values = {"kept": kept, "data": data, "images": images, "colours": colours, "failures": FAILURES}
    return fragment("galleries.html.j2", **values)


def slider_table(kept: dict[str, Any], prepared: list[np.ndarray]) -> dict[str, Any]:
    """What the sliders show, for galleries.json and its maps (H, W) in [0, 1].

    Returns:
        {"thresholds", "percentiles": the stops, with the run's own; "start": the run's place among all pairs, a
        percentile after the other; "sums": a sentence per pair; "images": [{"at": which of its states a pair has,
        "states": [[x, y, width, height (0 where no box is drawn), IoU as text, hit, share of the frame as text, whether
        the mask is empty, the opacity of the heat map up to which a pixel is outside the mask]]}]}.

    Raises:
        WsolkitError: a box or IoU of the run is not what its map gives at the run's threshold.
    """
    frame, run = tuple(kept["frame"]), (kept["threshold"], kept["percentile"])
    clamped = protocol_named(kept["protocol"]).clamped
    thresholds, percentiles = sorted({*THRESHOLDS, run[0]}), sorted({*PERCENTILES, run[1]})
    pairs = [(threshold, share) for share in percentiles for threshold in thresholds]
    start, tables, overlaps = pairs.index(run), [], []
    for image, scores in zip(kept["pictures"], prepared, strict=True):
        contours, truths = ContourBoxes(scores), np.array(image["gt_boxes"])
        levels = [threshold_value(contours.u8, *pair) for pair in pairs]
        states, measured = [], {}
        for level, (threshold, share) in dict(zip(levels, pairs, strict=True)).items():
            box, empty = contours.box(threshold, share, kept["protocol"])
            overlap = float(iou(box, truths).max())
            rectangle = [0, 0, 0, 0] if empty and clamped else _rectangle(box.tolist(), frame)
            covers = _percent(rectangle[2] * rectangle[3] / (frame[0] * frame[1]))
            opacity = round(OPACITY[0] + OPACITY[1] * (level + 0.5) / 255, 4)
            states.append([*rectangle, iou_text(overlap), int(overlap >= 0.5), covers, int(empty), opacity])
            measured[level] = box.tolist(), overlap
        box, overlap = measured[levels[start]]
        if box != image["box"] or abs(overlap - image["iou"]) > 1e-9:
            raise WsolkitError(f"the map of {image['id']!r} does not give its box")
        places = {level: place for place, level in enumerate(measured)}
        tables.append({"at": [places[level] for level in levels], "states": states})
        overlaps.append([measured[level][1] for level in levels])
    every = np.array(overlaps)
    rows = {"image": every, "random one": every[kept["rows"][0]["pictures"]]}
    sums = ["\n".join(_sum(name, values[:, place]) for name, values in rows.items()) for place in range(len(pairs))]
    return {"thresholds": thresholds, "percentiles": percentiles, "start": start, "sums": sums, "images": tables}


def _sum(name: str, overlaps: np.ndarray) -> str:
    share = _percent((overlaps >= 0.5).mean())
    return f"{counted(len(overlaps), name)}: mean IoU {overlaps.mean():.2f}, {share} reach 0.5"


def _percent(share: float) -> str:
    return f"{int(100 * share + 0.5)} %"


def _rectangle(box: list[int], frame: tuple[int, int]) -> list[int]:
    """A box with inclusive corners, cut at the frame, as x, y, width and height of an SVG rectangle."""
    x0, y0, x1, y1 = box
    return [x0, y0, min(x1, frame[1] - 1) - x0 + 1, min(y1, frame[0] - 1) - y0 + 1]


def _strongest(prepared: np.ndarray) -> str:
    """Where a map (H, W) in [0, 1] has its peak, as text."""
    if not prepared.any():
        return "blank"
    y, x = np.unravel_index(prepared.argmax(), prepared.shape)
    (height, width), rows, columns = prepared.shape, ("upper", "", "lower"), ("left", "", "right")
    thirds = rows[3 * int(y) // height], columns[3 * int(x) // width]
    words = [*filter(None, thirds), "middle"][:2]
    return f"strongest in the {' '.join(words) if any(thirds) else 'centre'}"


def heat(prepared: np.ndarray) -> bytes:
    """A map (H, W) in [0, 1] as a small PNG of colours that leave the photo visible, most of it at low scores."""
    height, width = prepared.shape
    scale = min(1.0, HEAT_SIDE / max(height, width))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    shades = np.arange(256) / 255
    levels = cv2.resize(prepared, small, interpolation=cv2.INTER_AREA) * 255
    image = Image.fromarray(levels.astype(np.uint8), mode="P")
    image.putpalette((matplotlib.colormaps[COLOUR_MAP](shades)[:, :3] * 255).round().astype(np.uint8).tobytes())
    alpha = (255 * (OPACITY[0] + OPACITY[1] * shades)).round().astype(np.uint8)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=alpha.tobytes(), optimize=True)
    return buffer.getvalue()

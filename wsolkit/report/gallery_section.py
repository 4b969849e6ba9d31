"""The galleries of a report page, from the files that `wsolkit.runs.galleries.save` left: pictures that are complete without
JavaScript, and the data with which galleries.js lets a reader move the threshold."""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import cv2
import matplotlib
import numpy as np
from jinja2 import UndefinedError
from markupsafe import Markup
from PIL import Image

from wsolkit.boxes.preparation import prepare_map
from wsolkit.boxes.protocols import protocol_named
from wsolkit.common.files import read_json
from wsolkit.evaluation.per_image import FAILURES
from wsolkit.figures.images import COLOUR_MAP, iou_text
from wsolkit.report.gallery_maps import page_map
from wsolkit.report.markup import fragment
from wsolkit.report.report_words import counted, ordinal
from wsolkit.runs.galleries import FORMAT

HEAT_SIDE = 56  # pixels of a heat map's longer side; the browser grows it
# what files that were cut off, changed or written by another version lead to, here and in the template
DAMAGE = (OSError, EOFError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, SyntaxError,
          BadZipFile, zlib.error, cv2.error, UndefinedError)  # fmt: skip
CHOSEN = {"validation": "chosen on the validation images", "fixed": "fixed beforehand"}
TITLES = {
    "random": ("Random images", "Drawn with seed {seed}, so nobody picked them. This row shows what is usual."),
    "best": ("Best", "The highest IoU of all test images, at the run's threshold."),
    "worst": ("Worst", "The lowest IoU of all test images, at the run's threshold."),
}


def section(folder: str | Path) -> Markup:
    """The part of a page for the run in `folder` (which holds galleries/), "" where no galleries were kept.

    The page needs galleries.css and galleries.js. ValueError names a file that is not as `galleries.save` writes it.
    """
    folder = Path(folder) / "galleries"
    if not (folder / "galleries.json").exists():
        return Markup("")
    kept = read_json(folder / "galleries.json")
    if not isinstance(kept, dict) or kept.get("format") != FORMAT:
        raise ValueError(
            f"{folder / 'galleries.json'} is not of this version (format {FORMAT!r}); run the method again"
        )
    try:
        with np.load(folder / "maps.npz", allow_pickle=False) as content:
            maps = [content[str(number)] for number in range(len(kept["pictures"]))]
        return _section(kept, maps, [_photo(folder / Path(picture["file"]).name) for picture in kept["pictures"]])
    except DAMAGE as error:
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
        raise ValueError(f"the galleries in {folder} cannot be read ({said}); run the method again") from error


def _photo(path: Path) -> bytes:
    """A file's bytes; OSError or SyntaxError where they are no complete picture, which a page would show as a gap."""
    content = path.read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        image.load()
    return content


def _section(kept: dict[str, Any], maps: list[np.ndarray], photos: list[bytes]) -> Markup:
    frame, clamped = tuple(kept["frame"]), protocol_named(kept["protocol"]).clamped
    pictures = [
        _picture(number, *parts, frame, clamped)
        for number, parts in enumerate(zip(kept["pictures"], photos, maps, strict=True))
    ]
    data = {"frame": frame, "clamped": clamped, "threshold": kept["threshold"], "percentile": kept["percentile"]}
    data["random"] = kept["rows"][0]["pictures"]
    data["pictures"] = [
        page_map(scores, frame) | {"truths": picture["gt_boxes"]}
        for picture, scores in zip(pictures, maps, strict=True)
    ]
    return fragment(
        "galleries.html.j2", data=data, height=frame[0], width=frame[1], pictures=pictures, colours=_gradient(), percentile=ordinal(kept["percentile"]),
        rows=[_row(row, kept) for row in kept["rows"]], chosen=CHOSEN.get(kept["operating_point"], kept["operating_point"]),
    )  # fmt: skip


def _row(row: dict[str, Any], kept: dict[str, Any]) -> dict[str, Any]:
    if row["name"] in TITLES:
        title, words = (text.format(seed=kept["seed"]) for text in TITLES[row["name"]])
    else:
        total, share = kept["n_images"], 100 * row["count"] / kept["n_images"]
        title = "No failure: right" if row["name"] == "right" else f"Failure type: {row['name']}"
        words = f"{FAILURES[row['name']]} {row['count']} of {counted(total, 'test image')} ({share:.0f}\u00a0%) at the run's threshold."
    return row | {"title": title, "words": words, "slug": row["name"].replace(" ", "-")}


def _picture(
    number: int, picture: dict, photo: bytes, scores: np.ndarray, frame: tuple[int, int], clamped: bool
) -> dict:
    """What the template draws: everything in pixels of the frame."""
    prepared = prepare_map(scores, frame)
    shown = None if picture["empty"] and clamped else _rectangle(picture["box"], frame)
    truths = [_rectangle(box, frame) for box in picture["gt_boxes"]]
    share = max(rectangle["width"] * rectangle["height"] for rectangle in truths) / (frame[0] * frame[1])
    return picture | {
        "number": number,
        "photo": _uri("jpeg", photo),
        "heat": _uri("png", heat(prepared)),
        "truths": truths,
        "prediction": shown,
        "hit": picture["iou"] >= 0.5,
        "overlap": iou_text(picture["iou"]),
        "alt": f"{picture['class']}: the heat map is {_strongest(prepared)}; the object's box covers {_percent(share)} of the picture",
        "covers": "" if shown is None else _percent(shown["width"] * shown["height"] / (frame[0] * frame[1])),
    }


def _percent(share: float) -> str:
    return f"{int(100 * share + 0.5)}\u00a0%"  # as Math.round in JavaScript


def _rectangle(box: list[int], frame: tuple[int, int]) -> dict[str, int]:
    """A box with inclusive corners, cut at the frame, as an SVG rectangle."""
    x0, y0 = box[:2]
    x1, y1 = min(box[2], frame[1] - 1), min(box[3], frame[0] - 1)
    return {"x": x0, "y": y0, "width": x1 - x0 + 1, "height": y1 - y0 + 1}


def _strongest(prepared: np.ndarray) -> str:
    """Where a map (H, W) in [0, 1] has its peak, in words."""
    if not prepared.any():
        return "blank"
    y, x = (3 * place // side for place, side in zip(np.unravel_index(prepared.argmax(), prepared.shape), prepared.shape, strict=True))  # fmt: skip
    words = " ".join(filter(None, [("upper", "", "lower")[y], ("left", "", "right")[x]]))
    words = {"": "centre", "upper": "upper middle", "lower": "lower middle", "left": "left middle", "right": "right middle"}.get(words, words)  # fmt: skip
    return f"strongest in the {words}"


def heat(prepared: np.ndarray) -> bytes:
    """A map (H, W) in [0, 1] as a small PNG of colours that leave the photo visible, most of it where the map is low."""
    height, width = prepared.shape
    scale = min(1.0, HEAT_SIDE / max(height, width))
    small = cv2.resize(
        prepared, (max(1, round(width * scale)), max(1, round(height * scale))), interpolation=cv2.INTER_AREA
    )
    shades = np.arange(256) / 255
    image = Image.fromarray((small * 255).astype(np.uint8), mode="P")
    image.putpalette((matplotlib.colormaps[COLOUR_MAP](shades)[:, :3] * 255).round().astype(np.uint8).tobytes())
    alpha = (255 * 0.5 * (0.35 + 0.65 * shades)).round().astype(np.uint8)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=alpha.tobytes(), optimize=True)
    return buffer.getvalue()


def _gradient() -> list[str]:
    """Colours of the map's key, from low to high."""
    return [matplotlib.colors.to_hex(colour) for colour in matplotlib.colormaps[COLOUR_MAP](np.linspace(0, 1, 6))]


def _uri(kind: str, data: bytes) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"

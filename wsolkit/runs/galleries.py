"""Galleries of a run: which test images its report shows, and what is kept of them in `<run folder>/galleries/`.

Four kinds of rows: random images (drawn with the run's seed, so nobody picked them), the best and the worst by IoU, and
some of every failure type that occurs. `section` makes the page's part from the folder.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_save_npz, atomic_write_bytes, read_json, write_json
from wsolkit.evaluation.per_image import FAILURES
from wsolkit.runs.folder import GALLERIES, GALLERY_MAPS, GALLERY_TABLE

FORMAT = "wsolkit-galleries-1"
RANDOM, OTHERS = 8, 4  # images in a row
SIDE = 224  # pixels of a photo's longer side, at most
QUALITY = 80


def choose(ious: np.ndarray, failures: Sequence[str], seed: int) -> dict[str, list[int]]:
    """The rows of a gallery: "random", "best", "worst" and the failure types that occur -> positions in the result.

    ious (N,) float64, failures N keys of FAILURES. Everything that is a draw, and the order among equal IoUs, comes from
    `seed`. A failure type's images are drawn from those that no row above shows, as long as there are enough.
    """
    drawn = np.random.default_rng(seed).permutation(len(ious))
    ranked = drawn[np.argsort(ious[drawn], kind="stable")]
    rows = {"random": drawn[:RANDOM], "best": ranked[::-1][:OTHERS], "worst": ranked[:OTHERS]}
    kinds, shown = np.array(failures), np.concatenate(list(rows.values()))
    for name in FAILURES:
        alike = drawn[kinds[drawn] == name]
        known = np.isin(alike, shown)
        if len(alike):
            rows[name] = np.concatenate([alike[~known], alike[known]])[:OTHERS]
            shown = np.concatenate([shown, rows[name]])
    return {name: row.tolist() for name, row in rows.items()}


def write(
    folder: str | Path, result: Any, maps: Sequence[np.ndarray] | np.ndarray,
    pixels: Callable[[list[int]], Sequence[np.ndarray]], classes: Sequence[str], seed: int,
) -> None:  # fmt: skip
    """Write photos (JPEG), the shown images' score maps (maps.npz, one (h, w) float32 each) and, last, galleries.json; what an
    earlier run left there goes. A result without boxes has random images alone, without boxes.

    result: an EvalResult. maps: N score maps (h, w) as the method made them. pixels: the frames (H, W, 3) uint8 of a list of
    positions.
    """
    folder = Path(folder) / GALLERIES
    shutil.rmtree(folder, ignore_errors=True)
    located = result.boxes is not None
    if located:
        rows = choose(result.ious, result.failure_types, seed)
    else:
        rows = {"random": np.random.default_rng(seed).permutation(result.n_images)[:RANDOM].tolist()}
    shown = list(dict.fromkeys(index for row in rows.values() for index in row))
    images = []
    for number, (index, photographed) in enumerate(zip(shown, pixels(shown), strict=True)):
        atomic_write_bytes(folder / f"{number}.jpg", photo(photographed))
        predicted = -1 if result.predicted is None else int(result.predicted[index])
        image = {"id": result.ids[index], "file": f"{number}.jpg", "class": classes[result.labels[index]],
                 "predicted": None if predicted < 0 else classes[predicted]}  # fmt: skip
        images.append(image | ({
            "gt_boxes": result.gt_boxes[index], "box": result.boxes[index], "iou": float(result.ious[index]),
            "empty": bool(result.empty[index]), "failure": result.failure_types[index],
        } if located else {"gt_boxes": [], "box": None, "iou": None, "empty": False, "failure": None}))  # fmt: skip
    kept = {str(number): np.asarray(maps[index], np.float32) for number, index in enumerate(shown)}
    atomic_save_npz(folder / GALLERY_MAPS, **kept)
    write_json(folder / GALLERY_TABLE, {
        "format": FORMAT, "seed": seed, "n_images": result.n_images, "frame": result.frame,
        "protocol": result.protocol, "threshold": result.threshold, "percentile": result.percentile,
        "operating_point": result.operating_point, "pictures": images,
        "rows": [{"name": name, "count": result.failures.get(name), "pictures": [shown.index(index) for index in row]}
                 for name, row in rows.items()],
    })  # fmt: skip


def read(folder: str | Path) -> dict[str, Any] | None:
    """galleries.json of the run in `folder`; None where no galleries were kept. WsolkitError: it has another format."""
    path = Path(folder) / GALLERIES / GALLERY_TABLE
    kept = read_json(path) if path.exists() else None
    if kept is None or (isinstance(kept, dict) and kept.get("format") == FORMAT):
        return kept
    raise WsolkitError(f"{path} is not of this version (format {FORMAT!r}); run the method again")


def read_images(folder: str | Path, kept: dict[str, Any]) -> tuple[list[np.ndarray], list[bytes]]:
    """The score maps (h, w) float32 and the photos of `kept` (what `read` gave); OSError or SyntaxError where a photo is no
    complete image, which a page would show as a gap."""
    folder = Path(folder) / GALLERIES
    with np.load(folder / GALLERY_MAPS, allow_pickle=False) as content:
        maps = [content[str(number)] for number in range(len(kept["pictures"]))]
    photos = [(folder / Path(image["file"]).name).read_bytes() for image in kept["pictures"]]
    for content in photos:
        Image.open(io.BytesIO(content)).load()
    return maps, photos


def photo(pixels: np.ndarray, side: int = SIDE) -> bytes:
    """(H, W, 3) uint8 as a JPEG whose longer side has at most `side` pixels."""
    height, width = pixels.shape[:2]
    scale = min(1.0, side / max(height, width))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    if small != (width, height):
        pixels = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return buffer.getvalue()

"""galleries/ in the folder of a report: the test images that it shows, in rows.

Random images (the run's seed draws them, nobody picked them), the best and the worst by IoU, and some of every failure
type that occurs.
"""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsolkit.common.errors import require
from wsolkit.common.files import atomic_path, atomic_save_npz, read_json, write_json
from wsolkit.evaluation.results import EvalResult
from wsolkit.runs.folder import GALLERIES

GALLERY_TABLE, GALLERY_MAPS = "galleries.json", "maps.npz"
GALLERIES_FORMAT = "wsolkit-galleries-1"
RANDOM, OTHERS = 8, 4  # images in a row of a gallery
SIDE = 224  # pixels of a photo's longer side, at most
QUALITY = 80


def choose(ious: np.ndarray, failures: Sequence[str], seed: int) -> dict[str, list[int]]:
    """The rows of a gallery: "random", "best", "worst" and the failure types that occur -> positions in the result.

    ious (N,) float64, failures N keys of FAILURES. Every draw, and the order among equal IoUs, depends on
    `seed`. A failure type's images are drawn from those that no row above shows, as long as there are enough.
    """
    from wsolkit.evaluation.per_image import FAILURES

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


def write_galleries(folder: str | Path, result: EvalResult, items: Callable, classes: Any, seed: int) -> None:
    """Write photos (JPEG), the shown images' score maps (maps.npz, one (h, w) float32 each) and, last, galleries.json;
    what an earlier run left there goes. A result without true boxes has random images alone, without IoU; a method that
    gives boxes has no maps.

    items: list of positions -> a dict of each image, as `Run.gallery_items` makes them: id, label, pixels (H, W, 3)
        uint8, score_map (h, w) as the method made it or None, perhaps box, and with true boxes gt_boxes and iou.
    classes: a name per label.
    """
    folder, located = Path(folder) / GALLERIES, result.boxes is not None
    shutil.rmtree(folder, ignore_errors=True)
    rows = {"random": np.random.default_rng(seed).permutation(result.n_images)[:RANDOM].tolist()}
    rows = choose(result.ious, result.failure_types, seed) if located else rows
    shown = list(dict.fromkeys(chain.from_iterable(rows.values())))
    images, kept = [], {}
    for number, (index, item) in enumerate(zip(shown, items(shown), strict=True)):
        photo = Image.fromarray(item["pixels"])
        photo.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
        with atomic_path(folder / f"{number}.jpg") as part:
            photo.save(part, "JPEG", quality=QUALITY, optimize=True)
        if item["score_map"] is not None:
            kept[str(number)] = np.asarray(item["score_map"], np.float32)
        predicted = -1 if result.predicted is None else int(result.predicted[index])
        image = {"id": item["id"], "file": f"{number}.jpg", "class": item["label"]}
        image |= {"predicted": None if predicted < 0 else classes[predicted]}
        image |= {name: item.get(name, none) for name, none in (("gt_boxes", []), ("box", None), ("iou", None))}
        image["empty"] = located and bool(result.empty[index])
        images.append(image | {"failure": result.failure_types[index] if located else None})
    atomic_save_npz(folder / GALLERY_MAPS, **kept)
    about = ("gives", "n_images", "frame", "protocol", "threshold", "percentile", "operating_point")
    table = {"format": GALLERIES_FORMAT, "seed": seed} | {name: getattr(result, name) for name in about}
    table["cut_at"] = result.extra.get("boxes", {}).get("threshold")
    places = {name: [shown.index(index) for index in row] for name, row in rows.items()}
    counts = [{"name": name, "count": result.failures.get(name), "pictures": row} for name, row in places.items()]
    write_json(folder / GALLERY_TABLE, table | {"pictures": images, "rows": counts})


def read_galleries(folder: str | Path) -> tuple[dict[str, Any], list[np.ndarray | None], list[bytes]] | None:
    """galleries.json of the run in `folder`, its score maps (h, w) float32 (None of a method that gives boxes) and its
    photos; None where none were kept.

    WsolkitError: it has another format. OSError or SyntaxError: a photo is no complete image, which a page would show
    as a gap."""
    folder = Path(folder) / GALLERIES
    if not (folder / GALLERY_TABLE).exists():
        return None
    kept = read_json(folder / GALLERY_TABLE)
    good = isinstance(kept, dict) and kept.get("format") == GALLERIES_FORMAT
    require(good, f"{folder / GALLERY_TABLE} is not of this version (format {GALLERIES_FORMAT!r})")
    with np.load(folder / GALLERY_MAPS, allow_pickle=False) as content:
        maps = [content[str(n)] if kept.get("gives") != "boxes" else None for n in range(len(kept["pictures"]))]
    photos = [(folder / Path(image["file"]).name).read_bytes() for image in kept["pictures"]]
    for content in photos:
        Image.open(io.BytesIO(content)).load()
    return kept, maps, photos

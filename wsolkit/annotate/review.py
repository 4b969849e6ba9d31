"""Pages on which a person decides on boxes, and the decisions that come back from them.

A page is one file that needs no network. What was decided there is downloaded as a json:

    {"written_by": "wsolkit review", "run": ..., "page": ..., "decisions": {<path of the image>:
        {"decision": "accepted"} or {"decision": "rejected"} or {"decision": "drawn", "boxes": [[x0, y0, x1, y1]]}}}
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

from PIL import Image

from wsolkit.annotate.formats import Origin, Record, replaced
from wsolkit.common.errors import require
from wsolkit.common.files import atomic_write_text, listing, read_json
from wsolkit.report.pages import image_uri, render, unique_id

MARK = "wsolkit review"  # in files of decisions
SIDE = 320  # the longer side of a thumbnail in pixels
ON_A_PAGE = 200
FOLDER, INDEX = "review", "index.html"  # in OUT
DECISIONS = ("accepted", "rejected", "drawn")


def thumbnail(image: Image.Image) -> bytes:
    """A JPEG of an RGB image, at most `SIDE` pixels wide and high."""
    small, file = image.copy(), io.BytesIO()
    small.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    small.save(file, "JPEG", quality=75)
    return file.getvalue()


@dataclass(frozen=True)
class Page:
    """A page of one class: name of its file without suffix; images with their records, of `total` in this class."""

    label: str
    number: int
    name: str
    images: list[list[Record]]
    total: int

    @property
    def title(self) -> str:
        return f"Review of {self.label}" + (f", page {self.number}" if self.number > 1 else "")


def pages_of(records: Iterable[Record], classes: Sequence[str]) -> list[Page]:
    """`ON_A_PAGE` images on each page, the least certain first, class by class."""
    of_class: dict[str, list[list[Record]]] = {name: [] for name in classes}
    for _, group in groupby(records, key=lambda record: record.path):
        own = list(group)
        of_class[own[0].label].append(own)
    taken: Counter[str] = Counter()
    pages = []
    for label, images in of_class.items():
        images.sort(key=lambda own: (min(record.score for record in own), own[0].path))
        for start in range(0, len(images), ON_A_PAGE):
            number, shown = start // ON_A_PAGE + 1, images[start : start + ON_A_PAGE]
            pages.append(Page(label, number, unique_id(label, taken), shown, len(images)))
    return pages


def write_pages(
    out: Path, records: Iterable[Record], origin: Origin, run: str, thumbnail_of: Callable[[str], bytes]
) -> list[Path]:
    """Write OUT/review/<class>.html in the place of earlier pages, see `pages_of`.

    run: tells these boxes from those of any other run. thumbnail_of: path of an image -> JPEG; asked once for each.
    """
    pages = pages_of(records, origin.classes)
    with replaced(out / FOLDER) as folder:
        for place, page in enumerate(pages):
            sides = (("Page before", place - 1), ("Next page", place + 1))
            links = [("All classes", "../index.html")]
            near = [(text, pages[k]) for text, k in sides if 0 <= k < len(pages)]
            links += [(f"{text}: {other.title}", f"{other.name}.html") for text, other in near]
            about = {"title": page.title, "subtitle": "", "total": page.total, "page": page.name, "run": run}
            shown = [_shown(own, thumbnail_of(own[0].path)) for own in page.images]
            about |= {"out": str(out), "origin": origin, "links": links, "images": shown}
            html = render("review.html.j2", styles=["review.css"], scripts=["review.js"], **about)
            (folder / f"{page.name}.html").write_text(html, encoding="utf-8")
    return [out / FOLDER / f"{page.name}.html" for page in pages]


def write_index(
    out: Path,
    pages: Sequence[Page],
    origin: Origin,
    records: Sequence[Record],
    said: Sequence[str],
    summary: Mapping[str, Any],
    written: Sequence[Path],
    chart: Path | None,
) -> None:
    """Write OUT/index.html: how far the boxes can be trusted, of each class too, and the way to all pages.

    records: after a review what it left. said: sentences. summary: the content of summary.json. written: folders of the
    formats. chart: a PNG of what the certainty is worth.
    """
    scores: dict[str, list[float]] = {label: [] for label in origin.classes}
    for record in records:
        scores[record.label].append(record.score)
    rows: list[dict[str, Any]] = []
    for label, own in scores.items():
        links = [(f"page {page.number}", f"{FOLDER}/{quote(page.name)}.html") for page in pages if page.label == label]
        row: dict[str, Any] = {"label": label, "boxes": len(own), "pages": links}
        row |= {"certainty": 100 * median(own) if own else None, "measured": summary["classes"].get(label)}
        rows.append(row)
    values: dict[str, Any] = {"title": "Boxes from labels", "subtitle": origin.root, "origin": origin, "said": said}
    values |= {"summary": summary, "boxes": len(records), "rows": rows, "formats": [path.name for path in written]}
    values["chart"] = image_uri(chart.read_bytes()) if chart else ""
    atomic_write_text(out / INDEX, render("annotate.html.j2", **values))


def _shown(own: list[Record], jpeg: bytes) -> dict[str, Any]:
    with Image.open(io.BytesIO(jpeg)) as image:
        values: dict[str, Any] = {"shown": image.size, "thumbnail": image_uri(jpeg)}
    values |= {"path": own[0].path, "size": own[0].size, "boxes": [record.box for record in own]}
    return values | {"score": min(record.score for record in own)}


@dataclass(frozen=True)
class Decision:
    """What a person decided on one image; boxes of a drawn one: (x0, y0, x1, y1), inclusive corners."""

    decision: str
    boxes: tuple[tuple[int, int, int, int], ...] = ()


def read_decisions(paths: Sequence[Path], run: str, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Decision]:
    """Path of an image -> what was decided, from files of one or several pages; of two decisions the later file counts.

    sizes: (width, height) of every image of the run.

    Raises: WsolkitError: a file is no file of decisions, is of another run, or decides on what is not there.
    """
    advice = "give a file that a review page wrote (Download decisions)"
    decisions: dict[str, Decision] = {}
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist; {advice}")
        content = read_json(path, advice)
        good = isinstance(content, dict) and content.get("written_by") == MARK
        good = good and isinstance(content.get("decisions"), dict)
        require(good, f"{path} holds no decisions; {advice}")
        require(content.get("run") == run, f"{path} holds decisions on other boxes than these; give their own --out")
        wrong = [name for name, item in content["decisions"].items() if not _is_decision(item, sizes.get(name))]
        fault = f"{path}: {len(wrong)} decisions are wrong or on images that are not there: {listing(wrong)}"
        require(not wrong, f"{fault}; {advice}")
        for name, item in content["decisions"].items():
            decisions[name] = Decision(item["decision"], tuple(tuple(box) for box in item.get("boxes", ())))
    return decisions


def _is_decision(item: Any, size: tuple[int, int] | None) -> bool:
    if not isinstance(item, dict) or item.get("decision") not in DECISIONS or size is None:
        return False
    boxes = item.get("boxes", [])
    if (item["decision"] == "drawn") != bool(boxes):
        return False
    return all(
        isinstance(box, list)
        and len(box) == 4
        and all(type(corner) is int for corner in box)
        and 0 <= box[0] <= box[2] < size[0]
        and 0 <= box[1] <= box[3] < size[1]
        for box in boxes
    )


def decided(records: Iterable[Record], decisions: Mapping[str, Decision]) -> list[Record]:
    """The records after a review: rejected images left out, boxes drawn by hand in the place of the others (with a
    score of 1), accepted ones marked; on what nobody decided they stay as they are."""
    made: list[Record] = []
    for path, own in groupby(records, key=lambda record: record.path):
        images, decision = list(own), decisions.get(path)
        if decision is None:
            made += images
        elif decision.decision == "accepted":
            made += [replace(record, review="accepted") for record in images]
        elif decision.decision == "drawn":
            made += [replace(images[0], box=box, score=1.0, review="drawn") for box in decision.boxes]
    return made

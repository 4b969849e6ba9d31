"""Boxes in the formats that detectors and labelling tools read, one function for each format.

A `Record` is one box in pixels of the image as a viewer shows it (turned as its EXIF orientation says), counted from 0,
with *inclusive* corners. What each format makes of it is said at its function; reading it back gives the same pixels.
"""

from __future__ import annotations

import csv
import json
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

import yaml

from wsolkit.common.errors import require
from wsolkit.common.files import listing
from wsolkit.data.catalogue import SPLITS

UPRIGHT = "boxes are in pixels of the images as viewers show them, turned as the EXIF orientation says"


@dataclass(frozen=True)
class Record:
    """One box of one image.

    Attributes:
        path: of the image, relative to the root, with forward slashes. size: its (width, height), upright.
        label: name of the class. box: (x0, y0, x1, y1), inclusive corners. score: confidence in [0, 1].
        split: train, val or test. review: "" where nobody looked, else "accepted" or "drawn".
    """

    path: str
    size: tuple[int, int]
    label: str
    box: tuple[int, int, int, int]
    score: float
    split: str = "train"
    review: str = ""

    @property
    def extent(self) -> tuple[int, int]:
        """(width, height) of the box in pixels."""
        x0, y0, x1, y1 = self.box
        return x1 + 1 - x0, y1 + 1 - y0


@dataclass(frozen=True)
class Origin:
    """Where boxes come from, which formats keep where they have a place for it.

    Attributes:
        root: the folder of the images. classes: names in the order of their numbers. method: of the score maps.
        threshold: the share of the map at which boxes were cut, None of a method that gives boxes. version: the kit's.
    """

    root: str
    classes: tuple[str, ...]
    method: str
    threshold: float | None
    version: str

    @property
    def told(self) -> str:
        rule = "" if self.threshold is None else f", threshold {self.threshold:g}"
        return f"pseudo boxes of wsolkit {self.version}: {self.method}{rule}; {UPRIGHT}"


def write_formats(out: str | Path, formats: Iterable[str], records: Sequence[Record], origin: Origin) -> list[Path]:
    """Write OUT/<format>/ for each name in `FORMATS`, whole or not at all, in the place of what was there.

    records: those of one image beside each other. Returns the folders.

    Raises: WsolkitError: as `check_paths`, before anything is written.
    """
    formats, folders = list(formats), []
    check_paths(formats, (record.path for record in records))
    for name in formats:
        with replaced(Path(out) / name) as folder:
            FORMATS[name](folder, records, origin)
        folders.append(Path(out) / name)
    return folders


def check_paths(formats: Iterable[str], paths: Iterable[str]) -> None:
    """Raise a `WsolkitError` where a format cannot hold the path of an image, or cannot keep two images apart."""
    paths, formats = list(paths), set(formats)
    if formats & {"voc", "yolo"}:
        _stems(paths)
    odd = [path for path in paths if set(path) & set(",\r\n")] if "wsolevaluation" in formats else []
    require(not odd, f"{listing(odd)}: commas and line breaks, which wsolevaluation's files cannot hold; rename them")


@contextmanager
def replaced(folder: Path) -> Iterator[Path]:
    """Yield a new folder beside `folder`, which takes its name, and its place, when the block ends well."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part, old = (folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.{end}") for end in ("part", "old"))
    part.mkdir()
    try:
        yield part
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_coco(folder: Path, records: Sequence[Record], origin: Origin) -> None:
    """annotations.json: bbox is [x, y, width, height] in pixels from 0, so that x + width is the first pixel outside.

    Ids count from 1. Beside the standard's keys an annotation has its score and review, an image its split.
    """
    number = {name: place for place, name in enumerate(origin.classes, 1)}
    info = {"description": origin.told, "version": origin.version, "method": origin.method}
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for path, own in _by_image(records):
        (width, height), split = own[0].size, own[0].split
        images.append({"id": len(images) + 1, "file_name": path, "width": width, "height": height, "split": split})
        for record in own:
            box = {"bbox": [*record.box[:2], *record.extent], "area": record.extent[0] * record.extent[1]}
            about = {"id": len(annotations) + 1, "image_id": len(images), "category_id": number[record.label]}
            more = {"iscrowd": 0, "segmentation": [], "score": record.score, "review": record.review}
            annotations.append(about | box | more)
    categories = [{"id": place, "name": name, "supercategory": ""} for name, place in number.items()]
    content = {"info": info | {"threshold": origin.threshold}, "licenses": [], "images": images}
    _write_json(folder / "annotations.json", content | {"annotations": annotations, "categories": categories})


def write_voc(folder: Path, records: Sequence[Record], origin: Origin) -> None:
    """Annotations/<image>.xml, in folders as the images': inclusive corners counted from 1, as in Pascal VOC."""
    stems = _stems(record.path for record in records)
    for path, own in _by_image(records):
        place = PurePosixPath(path)
        root = ElementTree.Element("annotation")
        parent = place.parent.as_posix()
        for name, text in {"folder": "" if parent == "." else parent, "filename": place.name}.items():
            ElementTree.SubElement(root, name).text = text
        ElementTree.SubElement(ElementTree.SubElement(root, "source"), "annotation").text = origin.told
        size = ElementTree.SubElement(root, "size")
        for name, side in zip(("width", "height", "depth"), (*own[0].size, 3), strict=True):
            ElementTree.SubElement(size, name).text = str(side)
        ElementTree.SubElement(root, "segmented").text = "0"
        for record in own:
            thing = ElementTree.SubElement(root, "object")
            about = {"name": record.label, "pose": "Unspecified", "truncated": "0", "difficult": "0"}
            about |= {"score": repr(record.score), "review": record.review}
            for name, text in about.items():
                ElementTree.SubElement(thing, name).text = text
            box = ElementTree.SubElement(thing, "bndbox")
            for name, corner in zip(("xmin", "ymin", "xmax", "ymax"), record.box, strict=True):
                ElementTree.SubElement(box, name).text = str(corner + 1)
        ElementTree.indent(root)
        target = folder / "Annotations" / f"{stems[path]}.xml"
        target.parent.mkdir(parents=True, exist_ok=True)
        ElementTree.ElementTree(root).write(target, encoding="utf-8", xml_declaration=True)


def write_yolo(folder: Path, records: Sequence[Record], origin: Origin) -> None:
    """labels/<image>.txt with lines `class x y width height`: centre and extent as shares of the image's sides.

    data.yaml has the names, and <split>.txt the images as ./images/<path>: copy or link the images there. Classes count
    from 0. A line of YOLO has no place for a score.
    """
    number = {name: place for place, name in enumerate(origin.classes)}
    stems, lists = _stems(record.path for record in records), {split: list[str]() for split in SPLITS}
    for path, own in _by_image(records):
        lines = []
        for record in own:
            (x, y), (width, height) = record.box[:2], record.extent
            centre = (x + width / 2) / record.size[0], (y + height / 2) / record.size[1]
            shares = (*centre, width / record.size[0], height / record.size[1])
            lines.append(f"{number[record.label]} {' '.join(f'{share:.10f}' for share in shares)}\n")
        target = folder / "labels" / f"{stems[path]}.txt"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("".join(lines), encoding="utf-8")
        lists[own[0].split].append(f"./images/{path}\n")
    (folder / "labels").mkdir(exist_ok=True)
    for split, paths in lists.items():
        (folder / f"{split}.txt").write_text("".join(paths), encoding="utf-8")
    content = {"path": ".", **{split: f"{split}.txt" for split in SPLITS}, "names": dict(enumerate(origin.classes))}
    said = f"# {origin.told}\n# images/ beside this file is to be a copy of, or a link to, the folder of the images\n"
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    (folder / "data.yaml").write_text(said.replace("\r", " ") + text, encoding="utf-8")


def write_csv(folder: Path, records: Sequence[Record], origin: Origin) -> None:
    """boxes.csv: a line for each box, inclusive corners in pixels from 0, as everywhere in the kit."""
    names = ["path", "label", "x0", "y0", "x1", "y1", "score", "width", "height", "split", "review", "method"]
    with open(folder / "boxes.csv", "w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow([*names, "threshold", "version"])
        source = (origin.method, "" if origin.threshold is None else origin.threshold, origin.version)
        for record in records:
            about = (*record.box, record.score, *record.size, record.split, record.review)
            table.writerow([record.path, record.label, *about, *source])


def write_labelstudio(folder: Path, records: Sequence[Record], origin: Origin) -> None:
    """tasks.json, the boxes as predictions in percent of the sides, and config.xml, the labelling interface.

    Images are addressed as files that Label Studio serves itself, relative to the root (its local files storage).
    """
    tasks = []
    for path, own in _by_image(records):
        width, height = own[0].size
        results = []
        for place, record in enumerate(own):
            shares = record.box[0] / width, record.box[1] / height, record.extent[0] / width, record.extent[1] / height
            value: dict[str, Any] = dict(zip(("x", "y", "width", "height"), (100 * v for v in shares), strict=True))
            value |= {"rotation": 0, "rectanglelabels": [record.label]}
            of_image = {"original_width": width, "original_height": height, "image_rotation": 0}
            names = {"id": f"box{place}", "from_name": "box", "to_name": "image", "type": "rectanglelabels"}
            results.append(names | of_image | {"value": value, "score": record.score})
        model = f"wsolkit {origin.version}, {origin.method}"
        prediction = {"model_version": model, "score": min(record.score for record in own), "result": results}
        data = {"image": f"/data/local-files/?d={quote(path)}", "split": own[0].split, "review": own[0].review}
        tasks.append({"data": data, "predictions": [prediction]})
    _write_json(folder / "tasks.json", tasks)
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name="image", value="$image")
    labels = ElementTree.SubElement(view, "RectangleLabels", name="box", toName="image")
    for name in origin.classes:
        ElementTree.SubElement(labels, "Label", value=name)
    ElementTree.indent(view)
    ElementTree.ElementTree(view).write(folder / "config.xml", encoding="utf-8")


def write_wsolevaluation(folder: Path, records: Sequence[Record], origin: Origin) -> None:
    """A metadata folder (Choe et al., CVPR 2020), which the kit opens with `--dataset metadata`: <split>/*.txt and
    classes.txt; inclusive corners in pixels from 0."""
    from wsolkit.data.readers import CLASSES, IDS, LABELS, LOCALIZATION, SIZES

    number = {name: place for place, name in enumerate(origin.classes)}
    (folder / CLASSES).write_text("".join(f"{name}\n" for name in origin.classes), encoding="utf-8")
    for split in dict.fromkeys(record.split for record in records):
        own = [record for record in records if record.split == split]
        images = {record.path: record for record in own}.values()
        lines = {
            IDS: [record.path for record in images],
            LABELS: [f"{record.path},{number[record.label]}" for record in images],
            SIZES: [f"{record.path},{record.size[0]},{record.size[1]}" for record in images],
            LOCALIZATION: [f"{record.path},{','.join(map(str, record.box))}" for record in own],
        }
        (folder / split).mkdir()
        for name, rows in lines.items():
            (folder / split / name).write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")


FORMATS: Mapping[str, Callable[[Path, Sequence[Record], Origin], None]] = {
    "coco": write_coco,
    "voc": write_voc,
    "yolo": write_yolo,
    "csv": write_csv,
    "labelstudio": write_labelstudio,
    "wsolevaluation": write_wsolevaluation,
}


def _by_image(records: Iterable[Record]) -> Iterator[tuple[str, list[Record]]]:
    for path, own in groupby(records, key=lambda record: record.path):
        yield path, list(own)


def _stems(paths: Iterable[str]) -> dict[str, str]:
    """Path -> path without its ending, by which these formats name the file of an image."""
    known: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        stem = PurePosixPath(path).with_suffix("").as_posix()
        other = known.setdefault(stem, path)
        advice = "rename one of the two, or choose another --format"
        require(other == path, f"{other} and {path} differ in their endings only, which voc and yolo drop: {advice}")
    return {path: stem for stem, path in known.items()}


def _write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")

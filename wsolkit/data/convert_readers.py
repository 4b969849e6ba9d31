"""Annotations of other formats, read into pictures with objects: Pascal VOC XML, COCO json and plain CSV.

Every reader finds all that is wrong with its source and raises one error. Boxes are returned as (x0, y0, x1, y1) in
pixels from 0, inclusive corners.
"""

from __future__ import annotations

import csv
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from wsolkit.data.annotations import file_names, is_inside, read_lines, require_images
from wsolkit.data.images import image_sizes
from wsolkit.data.metadata_files import Box, corners, refuse, touches

CSV_FIELDS = ["path", "label", "x0", "y0", "x1", "y1"]


@dataclass
class Picture:
    """One image: (width, height) in pixels, (0, 0) where the source does not say, and its objects as (class name, box)."""

    size: tuple[int, int] = (0, 0)
    objects: list[tuple[str, Box]] = field(default_factory=list)


@dataclass
class Source:
    """What a reader found.

    Attributes:
        pictures: path of the image -> its picture.
        classes: all class names, in the order in which they are to be numbered.
        notes: what somebody should know of the reading.
    """

    pictures: dict[str, Picture]
    classes: list[str]
    notes: list[str] = field(default_factory=list)


def read_voc(source: Path, images: Path | None, origin: int = 1) -> Source:
    """A folder of Pascal VOC XML files, or the folder above its Annotations/; folders in it become folders of the images.

    VOC counts pixels from 1, so `origin` 1 is taken from every corner; with `origin` 0 corners stay as they are (ILSVRC
    and some tools count from 0). Objects marked difficult or truncated count like others, parts of objects do not. Boxes
    are cut at the border. A <filename> without its ending is completed from the files in `images`.
    """
    folder = source / "Annotations" if (source / "Annotations").is_dir() else source
    files = sorted(folder.rglob("*.xml")) if folder.is_dir() else []
    if not files:
        raise FileNotFoundError(f"{folder}: no .xml file there; expected the Annotations folder of Pascal VOC")
    pictures: dict[str, Picture] = {}
    problems: list[str] = []
    endings: dict[Path, dict[str, str]] = {}
    early = 0
    for file in files:
        where = file.relative_to(folder).as_posix()
        try:
            root = ElementTree.parse(file, ElementTree.XMLParser(target=_PlainTree())).getroot()
        except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
            problems.append(f"{where} ({error})")
            continue
        name = _complete(file.relative_to(folder).parent, _text(root, "filename"), images, endings)
        wrong = _wrong_name(name) or ("is in two files" if name in pictures else "")
        if not wrong and images is None and not Path(name).suffix:
            wrong = "has no ending: give images= (--images), the folder of the images"
        if wrong:
            problems.append(f"{where} (<filename> {name!r} {wrong})")
            continue
        extent = [_text(root, f"size/{side}") for side in ("width", "height")]
        size = tuple(int(text) if text.isdecimal() and len(text) < 10 else 0 for text in extent)
        pictures[name] = Picture(size)
        for number, item in enumerate(root.findall("object"), 1):
            label = _text(item, "name")
            box = corners([_text(item, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")])
            if box is None or not _is_label(label):
                problems.append(f"{where} (object {number} lacks a name or xmin <= xmax and ymin <= ymax)")
                continue
            early += min(box) < origin
            pictures[name].objects.append((label, tuple(value - origin for value in box)))
    _finish(folder, pictures, problems, images, cut=True)
    note = f"{early} boxes begin before pixel {origin}: if these files count pixels from 0, use --origin 0"
    return Source(pictures, sorted(_labels(pictures)), [note] if early and origin else [])


def read_coco(source: Path, images: Path | None) -> Source:
    """A COCO json of instances: the path of an image is its file_name, classes are numbered in the order of category ids.

    A bbox [x, y, width, height] becomes the corners x, y, x + width, y + height, cut at the border (at most width - 1 and
    height - 1 of the image): the convention of wsolevaluation's metadata of CUB. Crowd annotations are left out.
    """
    try:
        content = json.loads(source.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{source} is not readable JSON ({error})") from None
    parts = [content.get(key) for key in ("images", "annotations", "categories")] if isinstance(content, dict) else []
    if len(parts) != 3 or not all(isinstance(part, list) and all(isinstance(x, dict) for x in part) for part in parts):
        raise ValueError(f"{source}: expected an object with the lists images, annotations and categories of objects")
    problems: list[str] = []
    names: dict[Any, str] = {}
    for item in parts[2]:
        key, name = item.get("id"), item.get("name")
        if not _is_key(key) or key in names or not _is_label(name) or name in names.values():
            problems.append(f"category {key!r} ({name!r} is no name, or it or the id is there already)")
            continue
        names[key] = name
    pictures: dict[str, Picture] = {}
    path_of: dict[Any, str] = {}
    for item in parts[0]:
        key, path = item.get("id"), item.get("file_name")
        if wrong := _wrong_name(path) or ("is there already" if path in pictures else ""):
            problems.append(f"image {key!r} (file_name {path!r} {wrong})")
        elif not _is_key(key) or key in path_of:
            problems.append(f"image {path} (id {key!r} is no id, or is there already)")
        else:
            extent = (item.get("width"), item.get("height"))
            pictures[path] = Picture(extent if all(type(side) is int and side > 0 for side in extent) else (0, 0))
            path_of[key] = path
    for item in parts[1]:
        key, label, box = item.get("image_id"), item.get("category_id"), item.get("bbox")
        if item.get("iscrowd"):
            continue
        if not _is_key(key) or not _is_key(label) or key not in path_of or label not in names:
            problems.append(f"annotation {item.get('id')!r} (unknown image_id {key!r} or category_id {label!r})")
        elif not _is_xywh(box):
            problems.append(f"annotation {item.get('id')!r} (bbox {box!r} is not x, y, width, height)")
        else:
            x, y, width, height = map(float, box)
            pictures[path_of[key]].objects.append((names[label], (x, y, x + width, y + height)))
    _finish(source, pictures, problems, images, cut=True)
    used = _labels(pictures)
    order = sorted(names, key=lambda key: (isinstance(key, str), key))
    return Source(pictures, [names[key] for key in order if names[key] in used])


def read_csv(source: Path, images: Path | None) -> Source:
    """Lines `path,label,x0,y0,x1,y1` with or without these names as a first line; several lines for several boxes.

    Corners are taken as they are, in pixels from 0; sizes are read from the images below `images`.
    """
    if images is None:
        raise ValueError("a CSV says nothing of the size of its images: give images= (--images), their folder")
    pictures: dict[str, Picture] = {}
    problems: list[str] = []
    for place, (number, line) in enumerate(read_lines(source)):
        try:
            row = [item.strip() for item in next(csv.reader([line], skipinitialspace=True, strict=True))]
        except csv.Error:
            row = []
        if place == 0 and [item.lower() for item in row] == CSV_FIELDS:
            continue
        box = corners(row[2:]) if len(row) == 6 else None
        if box is None or not _is_label(row[1]):
            problems.append(f"line {number} {line[:120]!r}")
        elif wrong := _wrong_name(row[0]):
            problems.append(f"line {number} ({row[0]!r} {wrong})")
        else:
            pictures.setdefault(row[0], Picture()).objects.append((row[1], box))
    _finish(source, pictures, problems, images, cut=False, advice=f"expected lines '{','.join(CSV_FIELDS)}'")
    return Source(pictures, sorted(_labels(pictures)))


class _PlainTree(ElementTree.TreeBuilder):
    """Refuses document types: they are where entities, and with them texts that grow without end, are declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which annotations do not need; remove the declaration")


def _finish(
    source: Path,
    pictures: dict[str, Picture],
    problems: list[str],
    images: Path | None,
    cut: bool,
    advice: str = "mend or remove them",
) -> None:
    """Raise what is wrong; else complete the sizes, check that the boxes lie in the images, and cut them where wanted."""
    refuse(source, problems, advice)
    if not pictures:
        raise ValueError(f"{source} names no image")
    if images is not None:
        require_images(images, pictures)
        sizes = image_sizes(images, [name for name, picture in pictures.items() if not all(picture.size)])
        for name, size in sizes.items():
            pictures[name].size = size
    for name, picture in pictures.items():
        if not all(picture.size):
            problems.append(f"{name} (no size is given: add it, or give images= (--images), the folder of the images)")
        elif outside := [box for _, box in picture.objects if not touches(box, picture.size)]:
            problems.append(f"{name} (box {outside[0]} lies outside {picture.size[0]} x {picture.size[1]} pixels)")
        elif cut:
            right, bottom = picture.size[0] - 1, picture.size[1] - 1
            picture.objects = [
                (label, (max(x0, 0), max(y0, 0), min(x1, right), min(y1, bottom)))
                for label, (x0, y0, x1, y1) in picture.objects
            ]
    refuse(source, problems, "mend or remove them")


def _labels(pictures: dict[str, Picture]) -> set[str]:
    return {label for picture in pictures.values() for label, _ in picture.objects}


def _complete(folder: Path, name: str, images: Path | None, endings: dict[Path, dict[str, str]]) -> str:
    """The path of an image from its <filename>; an ending that is left out there is taken from the files of `images`."""
    if images is not None and name and not Path(name).suffix:
        if folder not in endings:
            files = sorted(file_names(images / folder), reverse=True)
            known = Image.registered_extensions()  # annotations may lie beside the images
            endings[folder] = {Path(file).stem: file for file in files if Path(file).suffix.lower() in known}
        name = endings[folder].get(name, name)
    return (folder / name).as_posix() if name and folder.parts else name


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _wrong_name(name: Any) -> str:
    """What is wrong with the path of an image, or nothing."""
    if not isinstance(name, str) or not name.strip():
        return "is no path"
    if any(mark in name for mark in ",\n\r") or name != name.strip():
        return "holds a comma, a line break or blanks at its ends, which wsolevaluation cannot read; rename the image"
    return "" if is_inside(name) else "is not a path below the folder of images"


def _is_label(name: Any) -> bool:
    return isinstance(name, str) and bool(name.strip()) and "\n" not in name and "\r" not in name


def _is_key(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _is_xywh(box: Any) -> bool:
    """Four finite numbers, the last two not negative."""
    if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
        return False
    return all(map(math.isfinite, box)) and min(box[2:]) >= 0

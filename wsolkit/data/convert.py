"""Annotations of other formats (Pascal VOC XML, COCO json, plain CSV) become a metadata folder of wsolevaluation, which
`load_dataset("metadata")` opens.

Every reader notes all that is wrong with its source, for one error. It gives boxes as (x0, y0, x1, y1) in pixels
from 0, inclusive corners.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_write_text, listing
from wsolkit.data.annotations import (
    Box,
    corners,
    cut,
    file_names,
    is_inside,
    read_lines,
    refuse,
    require_images,
    touches,
)
from wsolkit.data.catalogue import SPLITS
from wsolkit.data.images import image_sizes
from wsolkit.data.metadata import CLASSES, IDS, LABELS, LOCALIZATION, MOST_CLASSES, SIZES, read_classes, read_labels

KINDS = ("voc", "coco", "csv")
SEVERAL = ("largest", "skip")
CSV_FIELDS = ["path", "label", "x0", "y0", "x1", "y1"]
VOC_CORNERS = ("xmin", "ymin", "xmax", "ymax")
MEND = "mend or remove them"


@dataclass(frozen=True)
class Converted:
    """What was written: the folder of the split, and how many images and boxes of how many classes it holds.

    `several` images showed objects of more than one class, `empty` ones no object; these and, with several="skip", those
    were left out.
    """

    folder: Path
    images: int
    boxes: int
    classes: int
    several: int
    empty: int
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        count = f"{self.images} images, {self.boxes} boxes, {self.classes} classes: {self.folder}"
        return "\n".join([count, *self.notes])


def convert(
    kind: str,
    source: str | Path,
    out: str | Path,
    split: str = "test",
    images: str | Path | None = None,
    several: str = "largest",
    origin: int | None = None,
    force: bool = False,
) -> Converted:
    """Write OUT/<split>/{image_ids,class_labels,image_sizes,localization}.txt and OUT/classes.txt.

    An image has one label: where it shows objects of several classes it is that of the largest box, and only the boxes
    of this class are kept. Images are sorted by path. classes.txt gives each class the number of its line; classes that
    another split brought there before keep theirs, new ones follow. In a CSV whole numbers as labels are the numbers
    themselves, from 0. Corners are written as whole numbers where they are, else as decimal numbers, which
    `read_metadata` reads but the reader of wsolevaluation itself does not. The conventions of corners are those of
    `read_voc`, `read_coco` and `read_csv`.

    Args:
        kind: "voc" (a folder of XML files), "coco" (a json) or "csv" (`path,label,x0,y0,x1,y1`).
        source: that folder or file.
        images: the folder that image paths are relative to: needed for sizes where the source does not give them (always
            in a CSV); where given, every image must be there.
        several: "largest", or "skip" to leave out images with objects of several classes.
        origin: number of the first pixel in VOC files, 1 (None) or 0.
        force: replace the split where it exists.

    Raises:
        WsolkitError, FileNotFoundError: naming the value, or the source and all that is wrong with it; nothing is written.
    """
    for name, value, known in (("kind", kind, KINDS), ("split", split, SPLITS), ("several", several, SEVERAL)):
        if value not in known:
            raise WsolkitError(f"{name} must be one of {', '.join(known)}, but is '{value}'")
    if origin not in (None, 0, 1) or (origin is not None and kind != "voc"):
        raise WsolkitError(f"origin is the number of the first pixel in voc files, 0 or 1, but is {origin} for {kind}")
    source, out = Path(source).expanduser(), Path(out).expanduser()
    images = None if images is None else Path(images).expanduser()
    for place in (source, *filter(None, [images])):
        if not place.exists():
            raise FileNotFoundError(f"{place} does not exist")
    if source.is_dir() != (kind == "voc"):
        raise WsolkitError(f"{source}: expected {'a folder of XML files' if kind == 'voc' else f'a {kind} file'}")
    _check_place(out / split, force)

    read = Source(source, images, 1 if origin is None else origin)
    {"voc": read_voc, "coco": read_coco, "csv": read_csv}[kind](read)
    read.finish(at_border=kind != "csv", advice=MEND if kind != "csv" else f"expected lines '{','.join(CSV_FIELDS)}'")
    chosen: dict[str, tuple[str, list[Box]]] = {}
    mixed = empty = 0
    for path, entry in sorted(read.entries.items()):
        classes = {label for label, _ in entry.objects}
        empty += not classes
        mixed += len(classes) > 1
        if len(classes) == 1 or (classes and several == "largest"):  # of boxes with the same area the first counts
            label, _ = max(
                entry.objects, key=lambda item: (item[1][2] - item[1][0] + 1) * (item[1][3] - item[1][1] + 1)
            )
            chosen[path] = (label, [box for name, box in entry.objects if name == label])
    if not chosen:
        raise WsolkitError(f"{source} has no image with objects of one class; nothing to convert")
    used = {label for label, _ in chosen.values()}
    names, number = _number([label for label in read.order or sorted(used) if label in used], out, split, kind == "csv")
    _write(out, split, chosen, read.entries, names, number)
    boxes = [box for _, own in chosen.values() for box in own]
    fractions = sum(any(value % 1 for value in box) for box in boxes)
    did = "left out" if several == "skip" else "the class of the largest box is their label, its boxes are kept"
    counted = {
        f"images show several classes: {did}": mixed,
        "images without an object were left out": empty,
        "boxes have decimal corners, which wsolevaluation's own reader does not take": fractions,
    }
    notes = [*read.notes, *(f"{count} {text}" for text, count in counted.items() if count)]
    return Converted(out / split, len(chosen), len(boxes), len(names), mixed, empty, tuple(notes))


def _check_place(folder: Path, force: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise WsolkitError(f"{folder} is not a folder; choose another out (--out)")
    there = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if there and not force:
        raise WsolkitError(f"{folder} is not empty; choose another out (--out), or replace it with force (--force)")
    if strangers := [name for name in there if name not in (IDS, LABELS, SIZES, LOCALIZATION)]:
        advice = "which is no metadata: remove it or choose another out"
        raise WsolkitError(f"{folder} holds {listing(strangers)}, {advice}")


def _number(labels: list[str], out: Path, split: str, numerals: bool) -> tuple[list[str], dict[str, int]]:
    """(all class names of OUT, label -> its number). With `numerals` whole numbers stand for themselves."""
    names = read_classes(out / CLASSES) if (out / CLASSES).is_file() else []
    others = [path for other in SPLITS if other != split and (path := out / other / LABELS).is_file()]
    # where classes.txt has numerals as names of other classes, numerals are names
    plain = all(int(name) == place for place, name in enumerate(names) if name.isdecimal())
    if numerals and plain and all(label.isdecimal() for label in labels):
        number = {label: int(label) for label in labels}
        highest = max([*number.values(), *(read_labels(path)[1] for path in others)])
        if highest >= MOST_CLASSES:
            raise WsolkitError(f"label {highest} is no class number; expected numbers from 0 up, or names")
        return names + [str(place) for place in range(len(names), highest + 1)], number
    if others and not names:
        raise WsolkitError(f"{others[0]} has labels, but {out / CLASSES} with their names is missing; write it first")
    names += [label for label in labels if label not in set(names)]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise WsolkitError(f"{out / CLASSES} has {listing(repeated)} more than once; names must differ")
    place = {name: index for index, name in enumerate(names)}
    return names, {label: place[label] for label in labels}


def _write(out: Path, split: str, chosen: dict, entries: dict[str, Entry], names: list[str], number: dict) -> None:
    """The four files in a folder beside the place, which is renamed as the last step."""
    out.mkdir(parents=True, exist_ok=True)
    folder = out / split
    with tempfile.TemporaryDirectory(prefix=f".{split}.", dir=out) as temporary:
        part, old = Path(temporary, "new.part"), Path(temporary, "old")
        boxes = [(path, box) for path, (_, own) in chosen.items() for box in own]
        files: dict[Path, Iterable[str]] = {
            part / IDS: chosen,
            part / LABELS: (f"{path},{number[label]}" for path, (label, _) in chosen.items()),
            part / SIZES: (f"{path},{entries[path].size[0]},{entries[path].size[1]}" for path in chosen),
            part / LOCALIZATION: (",".join([path, *map(_decimal, box)]) for path, box in boxes),
            out / CLASSES: names,  # before the split: a class too many does no harm
        }
        for path, lines in files.items():
            atomic_write_text(path, "".join(f"{line}\n" for line in lines))
        try:
            if folder.exists():
                os.replace(folder, old)
            os.replace(part, folder)
        finally:
            if old.exists() and not folder.exists():
                os.replace(old, folder)


def _decimal(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(value)


# -- readers -----------------------------------------------------------------------------------------------------------


@dataclass
class Entry:
    """One image: (width, height) in pixels, (0, 0) where the source does not say, and its objects as (class name, box)."""

    size: tuple[int, int] = (0, 0)
    objects: list[tuple[str, Box]] = field(default_factory=list)


@dataclass
class Source:
    """What a reader fills.

    Attributes:
        place: the file or folder that is read.
        images: the folder that image paths are relative to, or None.
        origin: number of the first pixel in VOC files.
        entries: path of the image -> its entry.
        problems: what is wrong, a text for each thing.
        order: all class names in the order in which they are to be numbered; empty for that of the alphabet.
        notes: what somebody should know of the reading.
    """

    place: Path
    images: Path | None
    origin: int = 1
    entries: dict[str, Entry] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def finish(self, at_border: bool, advice: str) -> None:
        """Raise what is wrong; else complete the sizes, check that the boxes lie in the images, and cut them where wanted."""
        refuse(self.place, self.problems, advice)
        if not self.entries:
            raise WsolkitError(f"{self.place} names no image")
        if self.images is not None:
            require_images(self.images, self.entries)
            unknown = [name for name, entry in self.entries.items() if not all(entry.size)]
            for name, size in image_sizes(self.images, unknown).items():
                self.entries[name].size = size
        for name, entry in self.entries.items():
            if not all(entry.size):
                where = "add it, or give images= (--images), the folder of the images"
                self.problems.append(f"{name} (no size is given: {where})")
            elif outside := [box for _, box in entry.objects if not touches(box, entry.size)]:
                self.problems.append(f"{name} (box {outside[0]} lies outside {entry.size[0]} x {entry.size[1]} pixels)")
            elif at_border:
                entry.objects = [(label, cut(box, entry.size)) for label, box in entry.objects]
        refuse(self.place, self.problems, MEND)


def read_voc(read: Source) -> None:
    """A folder of Pascal VOC XML files, or the folder above its Annotations/; folders in it become folders of the images.

    VOC counts pixels from 1, so `origin` 1 is taken from every corner; with `origin` 0 corners stay as they are (ILSVRC
    and some tools count from 0). Objects marked difficult or truncated count like others, parts of objects do not. Boxes
    are cut at the border. A <filename> without its ending is completed from the files in `images`.
    """
    if (read.place / "Annotations").is_dir():
        read.place /= "Annotations"
    files = sorted(read.place.rglob("*.xml"))
    if not files:
        raise FileNotFoundError(f"{read.place}: no .xml file there; expected the Annotations folder of Pascal VOC")
    early = 0
    endings = cache(_names_by_stem)  # one look at each folder
    for file in files:
        place = file.relative_to(read.place)
        try:
            root = ElementTree.parse(file, ElementTree.XMLParser(target=_PlainTree())).getroot()
        except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
            read.problems.append(f"{place.as_posix()} ({error})")
            continue
        name = _text(root, "filename")
        if name and read.images is not None and not Path(name).suffix:
            name = endings(read.images / place.parent).get(name, name)
        if name and place.parent.parts:
            name = (place.parent / name).as_posix()
        wrong = _wrong_name(name) or ("is in two files" if name in read.entries else "")
        if not wrong and read.images is None and not Path(name).suffix:
            wrong = "has no ending: give images= (--images), the folder of the images"
        if wrong:
            read.problems.append(f"{place.as_posix()} (<filename> {name!r} {wrong})")
            continue
        extent = [_text(root, f"size/{side}") for side in ("width", "height")]
        width, height = (int(text) if text.isdecimal() and len(text) < 10 else 0 for text in extent)
        read.entries[name] = entry = Entry((width, height))
        for number, item in enumerate(root.findall("object"), 1):
            label, box = _text(item, "name"), _box(_text(item, f"bndbox/{key}") for key in VOC_CORNERS)
            if box is None or not _is_label(label):
                wrong = f"object {number} lacks a name or xmin <= xmax and ymin <= ymax"
                read.problems.append(f"{place.as_posix()} ({wrong})")
                continue
            early += min(box) < read.origin
            x0, y0, x1, y1 = (value - read.origin for value in box)
            entry.objects.append((label, (x0, y0, x1, y1)))
    if early and read.origin:
        read.notes.append(f"{early} boxes begin before pixel 1: if these files count pixels from 0, use --origin 0")


def read_coco(read: Source) -> None:
    """A COCO json of instances: the path of an image is its file_name, classes are numbered in the order of category ids.

    A bbox [x, y, width, height] becomes the corners x, y, x + width, y + height, cut at the border (at most width - 1 and
    height - 1 of the image): the convention of wsolevaluation's metadata of CUB. Crowd annotations are left out.
    """
    try:
        content = json.loads(read.place.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise WsolkitError(f"{read.place} is not readable JSON ({error})") from None
    lists = ("images", "annotations", "categories")
    parts: list[Any] = [content.get(key) if isinstance(content, dict) else None for key in lists]
    if not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in parts):
        raise WsolkitError(
            f"{read.place}: expected an object with the lists {', '.join(lists[:2])} and {lists[2]} of objects"
        )
    images, annotations, categories = parts
    names: dict[Any, str] = {}
    for item in categories:
        key, name = item.get("id"), item.get("name")
        if not _is_key(key) or key in names or not _is_label(name) or name in names.values():
            read.problems.append(f"category {key!r} ({name!r} is no name, or it or the id is there already)")
        else:
            names[key] = name
    entry_of: dict[Any, Entry] = {}
    for item in images:
        key, path = item.get("id"), item.get("file_name")
        if wrong := _wrong_name(path) or ("is there already" if path in read.entries else ""):
            read.problems.append(f"image {key!r} (file_name {path!r} {wrong})")
        elif not _is_key(key) or key in entry_of:
            read.problems.append(f"image {path} (id {key!r} is no id, or is there already)")
        else:
            extent = (item.get("width"), item.get("height"))
            known = all(type(side) is int and side > 0 for side in extent)
            read.entries[path] = entry_of[key] = Entry(extent if known else (0, 0))
    for item in annotations:
        key, label, bbox = item.get("image_id"), item.get("category_id"), item.get("bbox")
        if item.get("iscrowd"):
            continue
        if not _is_key(key) or not _is_key(label) or key not in entry_of or label not in names:
            wrong = f"unknown image_id {key!r} or category_id {label!r}"
        elif (box := _box(bbox, extent=True)) is None:
            wrong = f"bbox {bbox!r} is not x, y, width, height"
        else:
            entry_of[key].objects.append((names[label], box))
            continue
        read.problems.append(f"annotation {item.get('id')!r} ({wrong})")
    read.order = [names[key] for key in sorted(names, key=lambda key: (isinstance(key, str), key))]


def read_csv(read: Source) -> None:
    """Lines `path,label,x0,y0,x1,y1` with or without these names as a first line; several lines for several boxes.

    Corners are taken as they are, in pixels from 0; sizes are read from the images below `images`.
    """
    if read.images is None:
        raise WsolkitError("a CSV says nothing of the size of its images: give images= (--images), their folder")
    for place, (number, line) in enumerate(read_lines(read.place)):
        try:
            row = [item.strip() for item in next(csv.reader([line], skipinitialspace=True, strict=True))]
        except csv.Error:
            row = []
        if place == 0 and [item.lower() for item in row] == CSV_FIELDS:
            continue
        box = _box(row[2:])
        if box is None or not _is_label(row[1]):
            read.problems.append(f"line {number} {line[:120]!r}")
        elif wrong := _wrong_name(row[0]):
            read.problems.append(f"line {number} ({row[0]!r} {wrong})")
        else:
            read.entries.setdefault(row[0], Entry()).objects.append((row[1], box))


class _PlainTree(ElementTree.TreeBuilder):
    """Refuses document types: they are where entities, and with them texts that grow without end, are declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which annotations do not need; remove the declaration")


def _box(fields: Iterable, extent: bool = False) -> Box | None:
    """Four texts as corners, or (with `extent`) four numbers x, y, width, height; None where they are none."""
    try:
        if extent:
            x, y, width, height = (value + 0.0 for value in fields)
            fields = (x, y, x + width, y + height)
        return corners(list(fields))
    except (ValueError, TypeError, OverflowError):
        return None


def _names_by_stem(folder: Path) -> dict[str, str]:
    """Name without ending -> name of each image in a folder; annotations may lie beside the images."""
    files = sorted(file_names(folder), reverse=True)
    return {Path(file).stem: file for file in files if Path(file).suffix.lower() in Image.registered_extensions()}


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

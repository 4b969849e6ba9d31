"""Annotations of other formats (Pascal VOC XML, COCO json, plain CSV) become a metadata folder of wsolevaluation, which
`load_dataset("metadata")` opens.

Every reader finds all that is wrong with its source and raises one error. It returns boxes as (x0, y0, x1, y1) in pixels
from 0, inclusive corners.
"""

from __future__ import annotations

import csv
import json
import math
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
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

    if kind == "voc":
        read = read_voc(source, images, 1 if origin is None else origin)
    else:
        read = (read_coco if kind == "coco" else read_csv)(source, images)
    chosen: dict[str, tuple[str, list[Box]]] = {}
    mixed = empty = 0
    for path in sorted(read.entries):
        objects = read.entries[path].objects
        empty += not objects
        mixed += len({label for label, _ in objects}) > 1
        if label := _label(objects, several):
            chosen[path] = (label, [box for name, box in objects if name == label])
    if not chosen:
        raise WsolkitError(f"{source} has no image with objects of one class; nothing to convert")
    used = {label for label, _ in chosen.values()}
    names, number = _number([label for label in read.classes if label in used], out, split, kind == "csv")
    fractions = sum(any(value % 1 for value in box) for _, boxes in chosen.values() for box in boxes)
    _write(out, split, chosen, read.entries, names, number)
    notes = [*read.notes]
    if mixed:
        did = "left out" if several == "skip" else "the class of the largest box is their label, its boxes are kept"
        notes.append(f"{mixed} images show several classes: {did}")
    if empty:
        notes.append(f"{empty} images without an object were left out")
    if fractions:
        notes.append(f"{fractions} boxes have decimal corners, which wsolevaluation's own reader does not take")
    boxes = sum(len(boxes) for _, boxes in chosen.values())
    return Converted(out / split, len(chosen), boxes, len(names), mixed, empty, tuple(notes))


def _check_place(folder: Path, force: bool) -> None:
    if not folder.exists():
        return
    if not folder.is_dir():
        raise WsolkitError(f"{folder} is not a folder; choose another out (--out)")
    there = sorted(path.name for path in folder.iterdir())
    if there and not force:
        raise WsolkitError(f"{folder} is not empty; choose another out (--out), or replace it with force (--force)")
    if strangers := [name for name in there if name not in (IDS, LABELS, SIZES, LOCALIZATION)]:
        raise WsolkitError(
            f"{folder} holds {listing(strangers)}, which is no metadata: remove it or choose another out"
        )


def _label(objects: Sequence[tuple[str, Box]], several: str) -> str:
    """The label of an image, or "" where it is left out; of boxes with the same area the first counts."""
    if not objects or (several == "skip" and len({label for label, _ in objects}) > 1):
        return ""
    return max(objects, key=lambda item: (item[1][2] - item[1][0] + 1) * (item[1][3] - item[1][1] + 1))[0]


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
    folder, part, old = out / split, out / f".{split}.{os.getpid()}.part", out / f".{split}.{os.getpid()}.old"
    boxes = [(path, box) for path, (_, own) in chosen.items() for box in own]
    tables = {
        IDS: chosen,
        LABELS: (f"{path},{number[label]}" for path, (label, _) in chosen.items()),
        SIZES: (f"{path},{entries[path].size[0]},{entries[path].size[1]}" for path in chosen),
        LOCALIZATION: (",".join([path, *map(_decimal, box)]) for path, box in boxes),
    }
    try:
        for name, lines in tables.items():
            atomic_write_text(part / name, _lines(lines))
        atomic_write_text(out / CLASSES, _lines(names))  # before the split: a class too many does no harm
        if folder.exists():
            os.replace(folder, old)
        os.replace(part, folder)
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        for rest in (part, old):
            shutil.rmtree(rest, ignore_errors=True)


def _lines(items: Iterable[str]) -> str:
    return "".join(f"{item}\n" for item in items)


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
    """What a reader read.

    Attributes:
        entries: path of the image -> its entry.
        classes: all class names, in the order in which they are to be numbered.
        notes: what somebody should know of the reading.
    """

    entries: dict[str, Entry]
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
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    endings: dict[Path, dict[str, str]] = {}
    early = 0
    for file in files:
        place = file.relative_to(folder).as_posix()
        try:
            root = ElementTree.parse(file, ElementTree.XMLParser(target=_PlainTree())).getroot()
        except (ElementTree.ParseError, ValueError, LookupError) as error:  # LookupError: an unknown encoding
            problems.append(f"{place} ({error})")
            continue
        name = _complete(file.relative_to(folder).parent, _text(root, "filename"), images, endings)
        wrong = _wrong_name(name) or ("is in two files" if name in entries else "")
        if not wrong and images is None and not Path(name).suffix:
            wrong = "has no ending: give images= (--images), the folder of the images"
        if wrong:
            problems.append(f"{place} (<filename> {name!r} {wrong})")
            continue
        extent = [_text(root, f"size/{side}") for side in ("width", "height")]
        width, height = (int(text) if text.isdecimal() and len(text) < 10 else 0 for text in extent)
        entries[name] = Entry((width, height))
        for number, item in enumerate(root.findall("object"), 1):
            label = _text(item, "name")
            box = _box([_text(item, f"bndbox/{key}") for key in ("xmin", "ymin", "xmax", "ymax")])
            if box is None or not _is_label(label):
                problems.append(f"{place} (object {number} lacks a name or xmin <= xmax and ymin <= ymax)")
                continue
            early += min(box) < origin
            x0, y0, x1, y1 = (value - origin for value in box)
            entries[name].objects.append((label, (x0, y0, x1, y1)))
    _finish(folder, entries, problems, images, at_border=True)
    note = f"{early} boxes begin before pixel {origin}: if these files count pixels from 0, use --origin 0"
    return Source(entries, sorted(_labels(entries)), [note] if early and origin else [])


def read_coco(source: Path, images: Path | None) -> Source:
    """A COCO json of instances: the path of an image is its file_name, classes are numbered in the order of category ids.

    A bbox [x, y, width, height] becomes the corners x, y, x + width, y + height, cut at the border (at most width - 1 and
    height - 1 of the image): the convention of wsolevaluation's metadata of CUB. Crowd annotations are left out.
    """
    try:
        content = json.loads(source.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise WsolkitError(f"{source} is not readable JSON ({error})") from None
    parts: list[Any] = (
        [content.get(key) for key in ("images", "annotations", "categories")] if isinstance(content, dict) else []
    )
    if len(parts) != 3 or not all(isinstance(part, list) and all(isinstance(x, dict) for x in part) for part in parts):
        raise WsolkitError(f"{source}: expected an object with the lists images, annotations and categories of objects")
    problems: list[str] = []
    names: dict[Any, str] = {}
    for item in parts[2]:
        key, name = item.get("id"), item.get("name")
        if not _is_key(key) or key in names or not _is_label(name) or name in names.values():
            problems.append(f"category {key!r} ({name!r} is no name, or it or the id is there already)")
            continue
        names[key] = name
    entries: dict[str, Entry] = {}
    path_of: dict[Any, str] = {}
    for item in parts[0]:
        key, path = item.get("id"), item.get("file_name")
        if wrong := _wrong_name(path) or ("is there already" if path in entries else ""):
            problems.append(f"image {key!r} (file_name {path!r} {wrong})")
        elif not _is_key(key) or key in path_of:
            problems.append(f"image {path} (id {key!r} is no id, or is there already)")
        else:
            extent = (item.get("width"), item.get("height"))
            entries[path] = Entry(extent if all(type(side) is int and side > 0 for side in extent) else (0, 0))
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
            entries[path_of[key]].objects.append((names[label], (x, y, x + width, y + height)))
    _finish(source, entries, problems, images, at_border=True)
    used = _labels(entries)
    order = sorted(names, key=lambda key: (isinstance(key, str), key))
    return Source(entries, [names[key] for key in order if names[key] in used])


def read_csv(source: Path, images: Path | None) -> Source:
    """Lines `path,label,x0,y0,x1,y1` with or without these names as a first line; several lines for several boxes.

    Corners are taken as they are, in pixels from 0; sizes are read from the images below `images`.
    """
    if images is None:
        raise WsolkitError("a CSV says nothing of the size of its images: give images= (--images), their folder")
    entries: dict[str, Entry] = {}
    problems: list[str] = []
    for place, (number, line) in enumerate(read_lines(source)):
        try:
            row = [item.strip() for item in next(csv.reader([line], skipinitialspace=True, strict=True))]
        except csv.Error:
            row = []
        if place == 0 and [item.lower() for item in row] == CSV_FIELDS:
            continue
        box = _box(row[2:])
        if box is None or not _is_label(row[1]):
            problems.append(f"line {number} {line[:120]!r}")
        elif wrong := _wrong_name(row[0]):
            problems.append(f"line {number} ({row[0]!r} {wrong})")
        else:
            entries.setdefault(row[0], Entry()).objects.append((row[1], box))
    _finish(source, entries, problems, images, at_border=False, advice=f"expected lines '{','.join(CSV_FIELDS)}'")
    return Source(entries, sorted(_labels(entries)))


class _PlainTree(ElementTree.TreeBuilder):
    """Refuses document types: they are where entities, and with them texts that grow without end, are declared."""

    def doctype(self, name: str, pubid: str | None, system: str | None) -> None:
        raise ValueError("it declares a document type, which annotations do not need; remove the declaration")


def _finish(
    source: Path,
    entries: dict[str, Entry],
    problems: list[str],
    images: Path | None,
    at_border: bool,
    advice: str = "mend or remove them",
) -> None:
    """Raise what is wrong; else complete the sizes, check that the boxes lie in the images, and cut them where wanted."""
    refuse(source, problems, advice)
    if not entries:
        raise WsolkitError(f"{source} names no image")
    if images is not None:
        require_images(images, entries)
        sizes = image_sizes(images, [name for name, entry in entries.items() if not all(entry.size)])
        for name, size in sizes.items():
            entries[name].size = size
    for name, entry in entries.items():
        if not all(entry.size):
            problems.append(f"{name} (no size is given: add it, or give images= (--images), the folder of the images)")
        elif outside := [box for _, box in entry.objects if not touches(box, entry.size)]:
            problems.append(f"{name} (box {outside[0]} lies outside {entry.size[0]} x {entry.size[1]} pixels)")
        elif at_border:
            entry.objects = [(label, cut(box, entry.size)) for label, box in entry.objects]
    refuse(source, problems, "mend or remove them")


def _box(fields: Sequence[str]) -> Box | None:
    """Four texts as corners, or None where they are none."""
    try:
        return corners(fields)
    except ValueError:
        return None


def _labels(entries: dict[str, Entry]) -> set[str]:
    return {label for entry in entries.values() for label, _ in entry.objects}


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

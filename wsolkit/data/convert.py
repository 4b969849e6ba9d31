"""Annotations of other formats (Pascal VOC XML, COCO json, plain CSV) become a metadata folder of wsolevaluation, which
`load_dataset("metadata")` opens.

Every reader notes all that is wrong with its source, for one error. It gives boxes as (x0, y0, x1, y1) in pixels
from 0, inclusive corners.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from PIL import Image

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_write_text, listing
from wsolkit.data import readers
from wsolkit.data.catalogue import SPLITS
from wsolkit.data.images import image_sizes
from wsolkit.data.readers import CLASSES, IDS, LABELS, LOCALIZATION, MOST_CLASSES, SIZES, Box

CORNERS = ("xmin", "ymin", "xmax", "ymax")  # of VOC
CSV_FIELDS = ["path", "label", "x0", "y0", "x1", "y1"]
MEND = "mend or remove them"
FORMS = {"voc": "xmin <= xmax, ymin <= ymax", "coco": "x, y, width, height", "csv": "x0 <= x1, y0 <= y1"}  # of boxes
GIVE_IMAGES = "give images= (--images), the folder of the images"


@dataclass(frozen=True)
class Converted:
    """What was written: the folder of the split, and how many images and boxes of how many classes it holds.

    `several` images showed objects of several classes, `empty` ones none; these and, with "skip", those were left out.
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
    kind, source: str | Path, out: str | Path, split="test", images=None, several="largest", origin=None, force=False
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
        images: the folder that image paths are relative to: needed for sizes where the source does not give them
            (always in a CSV); where given, every image must be there.
        several: "largest", or "skip" to leave out images with objects of several classes.
        origin: number of the first pixel in VOC files, 1 (None) or 0.
        force: replace the split where it exists.

    Raises:
        WsolkitError, FileNotFoundError: naming the value, or the source and all that is wrong; nothing is written.
    """
    choices = {"kind": (kind, FORMS), "split": (split, SPLITS), "several": (several, ("largest", "skip"))}
    for name, (value, known) in choices.items():
        if value not in known:
            raise WsolkitError(f"{name} must be one of {', '.join(known)}, but is '{value}'")
    if origin not in (None, 0, 1) or (origin is not None and kind != "voc"):
        raise WsolkitError(f"origin is the number of the first pixel in voc files, 0 or 1, but is {origin} for {kind}")
    source, out = Path(source).expanduser(), Path(out).expanduser()
    images = None if images is None else Path(images).expanduser()
    for place in (source, images):
        if place is not None and not place.exists():
            raise FileNotFoundError(f"{place} does not exist")
    if source.is_dir() != (kind == "voc"):
        raise WsolkitError(f"{source}: expected {'a folder of XML files' if kind == 'voc' else f'a {kind} file'}")
    if (out / split).exists() and not (out / split).is_dir():
        raise WsolkitError(f"{out / split} is not a folder; choose another out (--out)")
    there = readers.file_names(out / split)
    if there and not force:
        raise WsolkitError(f"{out / split} is not empty; choose another out (--out), or replace it (--force)")
    if strangers := sorted(there - {IDS, LABELS, SIZES, LOCALIZATION}):
        advice = "which is no metadata: remove it or choose another out"
        raise WsolkitError(f"{out / split} holds {listing(strangers)}, {advice}")

    read = _Source(source, images, kind, (1 if origin is None else origin) if kind == "voc" else 0)
    {"voc": read_voc, "coco": read_coco, "csv": read_csv}[kind](read)
    read.finish()
    chosen: dict[str, tuple[str, list[Box]]] = {}
    mixed = empty = 0
    for path, objects in sorted(read.objects.items()):
        classes = {label for label, _ in objects}
        empty += not classes
        mixed += len(classes) > 1
        if len(classes) == 1 or (classes and several == "largest"):
            area = [(x1 - x0 + 1) * (y1 - y0 + 1) for _, (x0, y0, x1, y1) in objects]
            label, _ = objects[area.index(max(area))]  # of boxes with the same area the first counts
            chosen[path] = (label, [box for name, box in objects if name == label])
    if not chosen:
        raise WsolkitError(f"{source} has no image with objects of one class; nothing to convert")
    used = {label for label, _ in chosen.values()}
    names, number = _number([label for label in read.order or sorted(used) if label in used], out, split, kind == "csv")
    _write(out, split, chosen, read.sizes, names, number)
    boxes = [box for _, own in chosen.values() for box in own]
    did = "left out" if several == "skip" else "the class of the largest box is their label, its boxes are kept"
    decimal = sum(any(value % 1 for value in box) for box in boxes)
    counted = {
        f"images show several classes: {did}": mixed,
        "images without an object were left out": empty,
        "boxes have decimal corners, which wsolevaluation's own reader does not take": decimal,
        "boxes begin before pixel 1: if these files count pixels from 0, use --origin 0": read.early,
    }
    notes = [f"{count} {text}" for text, count in counted.items() if count]
    return Converted(out / split, len(chosen), len(boxes), len(names), mixed, empty, tuple(notes))


def _number(labels: list[str], out: Path, split: str, numerals: bool) -> tuple[list[str], dict[str, int]]:
    """(all class names of OUT, label -> its number). With `numerals` whole numbers stand for themselves."""
    names = readers.read_classes(out / CLASSES) if (out / CLASSES).is_file() else []
    others = [path for other in SPLITS if other != split and (path := out / other / LABELS).is_file()]
    # where classes.txt has numerals as names of other classes, numerals are names
    plain = all(int(name) == place for place, name in enumerate(names) if name.isdecimal())
    if numerals and plain and all(label.isdecimal() for label in labels):
        number = {label: int(label) for label in labels}
        highest = max([*number.values(), *map(readers.highest_label, others)])
        if highest >= MOST_CLASSES:
            raise WsolkitError(f"label {highest} is no class number; expected numbers from 0 up, or names")
        return names + [str(place) for place in range(len(names), highest + 1)], number
    if others and not names:
        raise WsolkitError(f"{others[0]} has labels, but {out / CLASSES} with their names is missing; write it first")
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise WsolkitError(f"{out / CLASSES} has {listing(repeated)} more than once; names must differ")
    names = list(dict.fromkeys([*names, *labels]))
    return names, {name: place for place, name in enumerate(names)}


def _write(out: Path, split: str, chosen: dict, sizes: dict, names: list[str], number: dict) -> None:
    """The files, image_ids.txt last: without it a split is none, so an interrupted one is not taken for whole."""
    folder = out / split
    boxes = [(path, box) for path, (_, own) in chosen.items() for box in own]
    content: dict[Path, Iterable[str]] = {
        out / CLASSES: names,  # a class too many does no harm to other splits
        folder / LABELS: (f"{path},{number[label]}" for path, (label, _) in chosen.items()),
        folder / SIZES: (f"{path},{sizes[path][0]},{sizes[path][1]}" for path in chosen),
        folder / LOCALIZATION: (",".join([path, *(repr(v).removesuffix(".0") for v in box)]) for path, box in boxes),
        folder / IDS: chosen,
    }
    (folder / IDS).unlink(missing_ok=True)
    for path, lines in content.items():
        atomic_write_text(path, "".join(f"{line}\n" for line in lines))


@dataclass
class _Source:
    """What a reader is given, and what it fills."""

    place: Path  # the file or folder that is read
    images: Path | None  # the folder that image paths are relative to
    kind: str
    origin: int  # number of the first pixel
    objects: dict[str, list[tuple[str, Box]]] = field(default_factory=dict)  # path of the image -> (class name, box)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)  # (width, height), zeros where they are not known
    problems: list[str] = field(default_factory=list)  # what is wrong, a text for each thing
    order: list[str] = field(default_factory=list)  # class names as they are to be numbered; empty: by the alphabet
    early: int = 0  # boxes that begin before the first pixel

    @contextlib.contextmanager
    def noting(self, item: str) -> Iterator[None]:
        """Note what the block raises about one item; LookupError comes from an XML file with an unknown encoding."""
        try:
            yield
        except (ValueError, csv.Error, ElementTree.ParseError, LookupError) as error:
            self.problems.append(f"{item} ({error})")

    def add(self, item: str, name: Any, size: tuple[int, int], objects: Iterable, again: bool = False) -> None:
        """Take an image, which may come `again`, and its objects (item, class name, box), or note what is wrong."""
        if not isinstance(name, str) or not name.strip():
            wrong = "is no path"
        elif any(mark in name for mark in ",\n\r") or name != name.strip():
            wrong = "holds a comma, a line break or blanks at its ends, which wsolevaluation cannot read; rename it"
        elif not readers.is_inside(name):
            wrong = "is not a path below the folder of images"
        else:
            wrong = "is there already" if name in self.objects and not again else ""
        if wrong:
            self.problems.append(f"{item} ({name!r} {wrong})")
            return
        self.sizes.setdefault(name, size)
        own = self.objects.setdefault(name, [])
        for item, label, fields in objects:
            try:
                x0, y0, x1, y1 = (value + 0.0 if self.kind == "coco" else float(value) for value in fields)
                ends = (x0 + x1, y0 + y1) if self.kind == "coco" else (x1, y1)
                box = readers.corners(value - self.origin for value in (x0, y0, *ends))
                if not _is_label(label):
                    raise ValueError
            except (ValueError, TypeError, OverflowError):
                wrong = f"{label!r} is no name of a class, or box {fields!r} is not {FORMS[self.kind]}"
                self.problems.append(f"{item} ({wrong})")
            else:
                own.append((label, box))
                self.early += self.origin and min(box) < 0

    def finish(self) -> None:
        """Raise what is wrong; else complete sizes, check that boxes lie in the images, and cut those of VOC, COCO."""
        from_csv = self.kind == "csv"
        readers.refuse(self.place, self.problems, f"expected lines '{','.join(CSV_FIELDS)}'" if from_csv else MEND)
        if not self.objects:
            raise WsolkitError(f"{self.place} names no image")
        if self.images is not None:
            readers.require_images(self.images, self.objects)
            self.sizes |= image_sizes(self.images, [name for name, size in self.sizes.items() if not all(size)])
        for name, own in self.objects.items():
            size = self.sizes[name]
            if not all(size):
                self.problems.append(f"{name} (no size is given: add it, or {GIVE_IMAGES})")
            elif outside := [box for _, box in own if not readers.touches(box, size)]:
                self.problems.append(f"{name} (box {outside[0]} lies outside {size[0]} x {size[1]} pixels)")
            elif not from_csv:
                self.objects[name] = [(label, readers.cut(box, size)) for label, box in own]
        readers.refuse(self.place, self.problems, MEND)


def read_voc(read: _Source) -> None:
    """A folder of Pascal VOC XML files, or the folder above its Annotations/; folders in it are folders of the images.

    VOC counts pixels from 1, so `origin` 1 is taken from every corner; with `origin` 0 corners stay as they are (ILSVRC
    and some tools count from 0). Objects marked difficult or truncated count like others, parts of objects do not.
    Boxes are cut at the border. A <filename> without its ending is completed from the files in `images`.
    """
    if (read.place / "Annotations").is_dir():
        read.place /= "Annotations"
    paths = sorted(read.place.rglob("*.xml"))
    if not paths:
        raise FileNotFoundError(f"{read.place}: no .xml file there; expected the Annotations folder of Pascal VOC")
    endings = cache(_names_by_stem)  # one look at each folder
    for path in paths:
        place = path.relative_to(read.place)
        item = place.as_posix()
        with read.noting(item):
            root = ElementTree.parse(path).getroot()  # expat refuses entities that grow
            name = _text(root, "filename")
            if name and not Path(name).suffix:
                if read.images is None:
                    raise ValueError(f"<filename> {name!r} has no ending: {GIVE_IMAGES}")
                name = endings(read.images / place.parent).get(name, name)
            if name and place.parent.parts:
                name = (place.parent / name).as_posix()
            extent = [_text(root, f"size/{side}") for side in ("width", "height")]
            width, height = (int(text) if text.isdecimal() and len(text) < 10 else 0 for text in extent)
            objects = [
                (f"{item}, object {number}", _text(thing, "name"), [_text(thing, f"bndbox/{key}") for key in CORNERS])
                for number, thing in enumerate(root.findall("object"), 1)
            ]
            read.add(item, name, (width, height), objects)


def read_coco(read: _Source) -> None:
    """A COCO json of instances: the path of an image is its file_name, classes are numbered in the order of their ids.

    A bbox [x, y, width, height] becomes the corners x, y, x + width, y + height, cut at the border (at most width - 1
    and height - 1 of the image): the convention of wsolevaluation's metadata of CUB. Crowd annotations are left out.
    """
    try:
        content = json.loads(read.place.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise WsolkitError(f"{read.place} is not readable JSON ({error})") from None
    keys = ("images", "annotations", "categories")
    parts: list[Any] = [content.get(key) if isinstance(content, dict) else None for key in keys]
    if not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in parts):
        raise WsolkitError(f"{read.place}: expected an object with the lists images, annotations and categories")
    images, annotations, categories = parts
    names: dict[Any, str] = {}
    objects: dict[Any, list] = {}  # by the id of their image
    for item in categories:
        key, name = item.get("id"), item.get("name")
        with read.noting(f"category {key!r}"):
            if not _is_key(key) or key in names or not _is_label(name) or name in names.values():
                raise ValueError(f"{name!r} is no name, or it or the id is there already")
            names[key] = name
    for item in images:
        key = item.get("id")
        with read.noting(f"image {key!r}"):
            if not _is_key(key) or key in objects:
                raise ValueError(f"the id of {item.get('file_name')} is no id, or is there already")
            objects[key] = []
    for item in annotations:
        key, label, name = item.get("image_id"), item.get("category_id"), f"annotation {item.get('id')!r}"
        if not (_is_key(key) and _is_key(label) and key in objects and label in names):
            read.problems.append(f"{name} (unknown image_id {key!r} or category_id {label!r})")
        elif not item.get("iscrowd"):
            objects[key].append((name, names[label], item.get("bbox")))
    for item in images:
        key, extent = item.get("id"), (item.get("width"), item.get("height"))
        size = extent if all(type(side) is int and side > 0 for side in extent) else (0, 0)
        read.add(f"image {key!r}", item.get("file_name"), size, objects.get(key, ()) if _is_key(key) else ())
    read.order = [names[key] for key in sorted(names, key=lambda key: (isinstance(key, str), key))]


def read_csv(read: _Source) -> None:
    """Lines `path,label,x0,y0,x1,y1` with or without these names as a first line; several lines for several boxes.

    Corners are taken as they are, in pixels from 0; sizes are read from the images below `images`.
    """
    if read.images is None:
        raise WsolkitError(f"a CSV says nothing of the size of its images: {GIVE_IMAGES}")
    for place, (number, line) in enumerate(readers.read_lines(read.place)):
        item = f"line {number} {line[:120]!r}"
        with read.noting(item):
            row = [field.strip() for field in next(csv.reader([line], skipinitialspace=True, strict=True))]
            if place or [field.lower() for field in row] != CSV_FIELDS:
                read.add(item, row[0], (0, 0), [(item, "".join(row[1:2]), row[2:])], again=True)


def _names_by_stem(folder: Path) -> dict[str, str]:
    """Name without ending -> name of each image in a folder; annotations may lie beside the images."""
    names = sorted(readers.file_names(folder), reverse=True)
    return {Path(name).stem: name for name in names if Path(name).suffix.lower() in Image.registered_extensions()}


def _text(element: ElementTree.Element, path: str) -> str:
    return (element.findtext(path) or "").strip()


def _is_label(name: Any) -> bool:
    return isinstance(name, str) and bool(name.strip()) and "\n" not in name and "\r" not in name


def _is_key(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)

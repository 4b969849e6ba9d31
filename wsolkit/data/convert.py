"""Annotations of other formats become a metadata folder of wsolevaluation, which `load_dataset("metadata")` opens."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from wsolkit.common.files import atomic_write_text
from wsolkit.data.annotations import listing
from wsolkit.data.catalogue import SPLITS
from wsolkit.data.convert_readers import Picture, read_coco, read_csv, read_voc
from wsolkit.data.metadata_files import (
    CLASSES,
    IDS,
    LABELS,
    LOCALIZATION,
    MOST_CLASSES,
    SIZES,
    Box,
    read_classes,
    read_labels,
)

KINDS = ("voc", "coco", "csv")
SEVERAL = ("largest", "skip")


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
        return "\n".join(
            [f"{self.images} images, {self.boxes} boxes, {self.classes} classes: {self.folder}", *self.notes]
        )


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
    `read_voc`, `read_coco` and `read_csv` in `wsolkit.data.convert_readers`.

    Args:
        kind: "voc" (a folder of XML files), "coco" (a json) or "csv" (`path,label,x0,y0,x1,y1`).
        source: that folder or file.
        images: the folder that image paths are relative to: needed for sizes where the source does not give them (always
            in a CSV); where given, every image must be there.
        several: "largest", or "skip" to leave out images with objects of several classes.
        origin: number of the first pixel in VOC files, 1 (None) or 0.
        force: replace the split where it exists.

    Raises:
        ValueError, FileNotFoundError: naming the value, or the source and all that is wrong with it; nothing is written.
    """
    for name, value, known in (("kind", kind, KINDS), ("split", split, SPLITS), ("several", several, SEVERAL)):
        if value not in known:
            raise ValueError(f"{name} must be one of {', '.join(known)}, but is '{value}'")
    if origin not in (None, 0, 1) or (origin is not None and kind != "voc"):
        raise ValueError(f"origin is the number of the first pixel in voc files, 0 or 1, but is {origin} for {kind}")
    source, out = Path(source).expanduser(), Path(out).expanduser()
    images = None if images is None else Path(images).expanduser()
    for path in (source, *filter(None, [images])):
        if not path.exists():
            raise FileNotFoundError(f"{path} does not exist")
    if source.is_dir() != (kind == "voc"):
        raise ValueError(f"{source}: expected {'a folder of XML files' if kind == 'voc' else f'a {kind} file'}")
    _check_place(out / split, force)

    if kind == "voc":
        found = read_voc(source, images, 1 if origin is None else origin)
    else:
        found = (read_coco if kind == "coco" else read_csv)(source, images)
    chosen: dict[str, tuple[str, list[Box]]] = {}
    mixed = empty = 0
    for path in sorted(found.pictures):
        objects = found.pictures[path].objects
        empty += not objects
        mixed += len({label for label, _ in objects}) > 1
        if label := _label(objects, several):
            chosen[path] = (label, [box for name, box in objects if name == label])
    if not chosen:
        raise ValueError(f"{source} has no image with objects of one class; nothing to convert")
    used = {label for label, _ in chosen.values()}
    names, number = _number([label for label in found.classes if label in used], out, split, kind == "csv")
    fractions = sum(any(value % 1 for value in box) for _, boxes in chosen.values() for box in boxes)
    _write(out, split, chosen, found.pictures, names, number)
    notes = [*found.notes]
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
        raise ValueError(f"{folder} is not a folder; choose another out (--out)")
    there = sorted(path.name for path in folder.iterdir())
    if there and not force:
        raise ValueError(f"{folder} is not empty; choose another out (--out), or replace it with force (--force)")
    if strangers := [name for name in there if name not in (IDS, LABELS, SIZES, LOCALIZATION)]:
        raise ValueError(f"{folder} holds {listing(strangers)}, which is no metadata: remove it or choose another out")


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
            raise ValueError(f"label {highest} is no class number; expected numbers from 0 up, or names")
        return names + [str(place) for place in range(len(names), highest + 1)], number
    if others and not names:
        raise ValueError(f"{others[0]} has labels, but {out / CLASSES} with their names is missing; write it first")
    names += [label for label in labels if label not in set(names)]
    if repeated := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(f"{out / CLASSES} has {listing(repeated)} more than once; names must differ")
    place = {name: index for index, name in enumerate(names)}
    return names, {label: place[label] for label in labels}


def _write(
    out: Path,
    split: str,
    chosen: dict[str, tuple[str, list[Box]]],
    pictures: dict[str, Picture],
    names: list[str],
    number: dict[str, int],
) -> None:
    """The four files in a folder beside the place, which is renamed as the last step."""
    folder, part, old = out / split, out / f".{split}.{os.getpid()}.part", out / f".{split}.{os.getpid()}.old"
    tables = {
        IDS: chosen,
        LABELS: (f"{path},{number[label]}" for path, (label, _) in chosen.items()),
        SIZES: (f"{path},{pictures[path].size[0]},{pictures[path].size[1]}" for path in chosen),
        LOCALIZATION: (
            ",".join([path, *map(_decimal, box)]) for path, (_, boxes) in chosen.items() for box in boxes
        ),
    }  # fmt: skip
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

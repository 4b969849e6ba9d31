"""Data sets on disk: tables of text, read with one error about all that is wrong in a file; CUB-200-2011 (Wah et al.,
2011) and Tiny-ImageNet-200 (Stanford CS231n) in their native folders; and any images with a metadata folder of
wsolevaluation (Choe et al., CVPR 2020), whose text files and mask files say what the images show.

Annotations of other formats (Pascal VOC XML, COCO json, plain CSV) become such a folder. Their readers note all that is
wrong with a source, for one error, and give boxes as (x0, y0, x1, y1) in pixels from 0, inclusive corners.
"""

from __future__ import annotations

import contextlib
import csv
import math
import os
import re
import shlex
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache, lru_cache, partial
from pathlib import Path
from typing import Any
from urllib.parse import unquote
from xml.etree import ElementTree

import numpy as np
from PIL import Image

from wsolkit.common.errors import WsolkitError, is_digits, is_real, require
from wsolkit.common.files import atomic_write_text, check_out, given_path, listing, read_json
from wsolkit.data.base import Request, WSOLDataset
from wsolkit.data.catalogue import SPLITS, archive_of
from wsolkit.data.images import MaskFiles, Sample, image_sizes, orientation, same_shape

IDS, LABELS, SIZES = "image_ids.txt", "class_labels.txt", "image_sizes.txt"
LOCALIZATION, CLASSES = "localization.txt", "classes.txt"
LAYOUT = "expected a metadata folder in the layout of wsolevaluation"
NEEDS = ("class_labels", "image_sizes", "localization")
MOST_CLASSES = 1_000_000  # a larger number in the place of a label is an id or a mistake
BLANKS = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff"
CONTROL = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")  # in names: no terminal, table or file of lines keeps them
UNREADABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f\ud800-\udfff]")  # in tables: the same but for tabs and ends of lines
PLAIN = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")  # most paths
BLOCK = 1 << 20  # characters of a table that are read at a time
MOST_PIXELS = 10**9  # of a side of an image
FEW = 3  # pixels that a box may lose at the border without a note
SIDE = 64  # of every image of Tiny-ImageNet, in pixels
FRAME = (SIDE, SIDE)  # in which its boxes are given, also where somebody has enlarged the images
Box = tuple[float, float, float, float]
Parser = Callable[[str], tuple[Any, Any]]
CORNERS = ("xmin", "ymin", "xmax", "ymax")  # of VOC
CSV_FIELDS = ("path", "label", "x0", "y0", "x1", "y1")
UNNAMED = "object"
MEND = "mend or remove them"
BOX_FORMS = {
    "voc": "xmin <= xmax, ymin <= ymax",
    "coco": "x, y, width, height",
    "csv": "x0 <= x1, y0 <= y1",
}  # of boxes
GIVE_IMAGES = "give images= (--images), the folder of the images"
_lenient = ContextVar("lenient", default=False)


@contextlib.contextmanager
def leniently() -> Iterator[None]:
    """In this block a data set opens although images are missing or contradict its boxes and sizes, which are then as
    its files give them: for a check that names all of it. What cannot be understood at all is an error still."""
    token = _lenient.set(True)
    try:
        yield
    finally:
        _lenient.reset(token)


def existing_folder(path: str | Path | None, needed: str) -> Path:
    """The folder, with ~ replaced. `needed` says what it is for.

    Raises: WsolkitError: `path` is None. FileNotFoundError: there is no such folder.
    """
    if path is None:
        raise WsolkitError(needed)
    folder = given_path(path, f"a folder; {needed}")
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} {'is not a folder' if folder.exists() else 'does not exist'}; {needed}")
    return folder


def find_root(root: str | Path | None, dataset: str) -> Path:
    """The folder of a data set that has an archive, given itself or its parent.

    Raises:
        WsolkitError: `root` is None.
        FileNotFoundError: it does not exist or lacks the first file that the catalogue names; says how to fetch it.
    """
    archive = archive_of(dataset)
    name, first = archive.folder, archive.required[0]
    fetch = f"fetch the dataset with `wsolkit data {dataset} --root {shlex.quote(str(root or 'DIR'))}`"
    folder = existing_folder(root, f"dataset '{dataset}' needs root=, the {name} folder or its parent; {fetch}")
    if not (folder / first).exists() and (folder / name).is_dir():
        folder = folder / name
    if not (folder / first).exists():
        layout = f"expected the native {name} layout; {fetch}"
        raise FileNotFoundError(f"{folder} holds neither {first} nor {name}/{first}; {layout}")
    return folder


def file_names(folder: Path) -> set[str]:
    """Names in `folder`, empty where there is none: one directory read is far quicker than asking for each file."""
    return set(os.listdir(folder)) if folder.is_dir() else set()


def require_images(folder: Path, paths: Iterable[str]) -> None:
    """Raise FileNotFoundError, listing the first 20, unless every relative path exists below `folder`."""
    if _lenient.get():
        return
    own: dict[str, list[str]] = {}  # by folder: the names in one at a time are kept
    for path in paths:
        own.setdefault(path.rpartition("/")[0], []).append(path)
    missing: list[str] = []
    for place, members in own.items():
        names = file_names(folder / place)
        missing += [path for path in members if path.rpartition("/")[2] not in names]
    if missing:
        count = f"{len(missing)} of the annotated images are missing: {listing(missing)}"
        hint = _near(*_missing_part(folder, missing[0])) or _elsewhere(folder, missing[0])
        raise FileNotFoundError(f"{folder}: {count}{hint}; fetch the dataset again or remove their lines")


def _missing_part(folder: Path, path: str) -> tuple[str, set[str]]:
    """The first part of a path below `folder` that is not there, and the names that are."""
    *parents, part = path.split("/")
    for parent in parents:
        if parent not in (names := file_names(folder)):
            return parent, names
        folder /= parent
    return part, file_names(folder)


def _near(name: str, names: Iterable[str]) -> str:
    """A hint at the one of `names` that may be meant by a `name` that is not among them; "" where there is none."""
    for other in sorted(names):
        if _folded(other) in (_folded(name), _folded(unquote(name))):  # %20 of addresses
            alike = unicodedata.normalize("NFC", other) == unicodedata.normalize("NFC", name)
            there = f"{other!a}, not {name!a}" if alike else repr(other)
            return f" (there is {there}, another spelling: rename one of the two)"
    stems = (Path(name).stem, name)  # of img.v2, a name without its ending, too
    if other := next((other for other in sorted(names) if _is_image(other) and Path(other).stem in stems), ""):
        return f" (there is {other!r}, with another ending: correct the lines or rename the files)"
    return ""


def _elsewhere(folder: Path, path: str) -> str:
    """A hint at the image where a path begins above `folder`, or names a file in a folder in it; "" otherwise."""
    parts = path.split("/")
    ends = ["/".join(parts[start:]) for start in range(1, len(parts))]
    inner = [f"{name}/{path}" for name in sorted(file_names(folder)) if not name.startswith(".")]
    there = next((end for end in (*ends, *inner) if (folder / end).is_file()), "")
    return f" (there is {there!r}: paths begin below this folder, correct the lines)" if there else ""


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in Image.registered_extensions()


def _folded(name: str) -> str:
    """Equal for names that some file systems take for the same: other case, or accents as characters of their own."""
    return unicodedata.normalize("NFC", name).casefold()


def read_lines(path: Path) -> Iterator[tuple[int, str]]:
    """(line number from 1, text) of every line that is not blank; CRLF and a byte order mark are taken off."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            before = 0
            while lines := file.readlines(BLOCK):
                if strange := UNREADABLE.search("".join(lines)):
                    raise ValueError(f"it holds the character {strange[0]!r}")
                for number, line in enumerate(lines, before + 1):
                    if stripped := clean(line):
                        yield number, stripped
                before += len(lines)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path} is missing; put it there, or fetch the dataset again") from None
    except (ValueError, OSError) as error:  # OSError: a folder, say
        raise WsolkitError(f"{path} is no UTF-8 text ({error}); replace the file") from error


def clean(text: str) -> str:
    """A name as it is kept, wherever it is read: without blanks and byte order marks at its ends."""
    return text.strip(BLANKS)


def columns(*kinds: Callable, separator: str | None = ",", right: bool = False, make: Callable = tuple) -> Parser:
    """A parser (line -> key and value) of lines of columns. The text of each goes through one of `kinds`, which raises
    ValueError where it stands for nothing; `make` makes one value of several. Where there are more separators (None is
    any white space), the last column holds them, or the first one if `right`.

    Example:
        >>> columns(str, int, int, right=True)("a, b.png,40,30")
        ('a, b.png', (40, 30))
    """

    def parse(line: str) -> tuple[Any, Any]:
        fields = (line.rsplit if right else line.split)(separator, len(kinds) - 1)
        key, *values = [kind(field) for kind, field in zip(kinds, fields, strict=True)]
        return key, values[0] if len(values) == 1 else make(tuple(values))

    return parse


def read_table(
    path: Path, parse: Parser, expected: str, known: dict | None = None, complete: bool = True, problem: Any = None
) -> dict[Any, Any]:
    """Read a text file with a line for each key.

    Args:
        parse: a line -> (key, value); raises ValueError where the line is malformed (see `columns`).
        expected: what the lines must be, for the error.
        known: the keys that count, each with itself as value: lines about other keys must be well-formed and are
            ignored. Its strings take the place of the equal ones of the file, which saves memory. None takes every key.
        complete: each known key must have a line.
        problem: (key, earlier values or None, new value) -> what is wrong with the new one, or "". With it, a key may
            have several lines, and the answer has the list of their values. None: each key has one line.

    Raises: WsolkitError: names the file, the first 20 lines that are malformed or repeated, and keys without a line.
    """
    table: dict[Any, Any] = {}
    problems: list[str] = []
    for number, key, value in _rows(path, parse, problems):
        if known is not None and (key := known.get(key)) is None:
            continue
        earlier = table.get(key)
        wrong = problem(key, earlier, value) if problem else "" if earlier is None else f"{key} is there already"
        if wrong:
            problems.append(f"line {number} ({wrong})")
        elif problem:
            table.setdefault(key, []).append(value)
        else:
            table[key] = value
    require(table or problems or known is not None, f"{path} is empty; expected {expected}")
    if known is not None and complete:
        problems += [f"no line for {key}" for key in known if key not in table]
    refuse(path, problems, f"expected {expected}")
    return table


def _rows(path: Path, parse: Parser, problems: list[str]) -> Iterator[tuple[int, Any, Any]]:
    """(line number, key, value) of each line of a table; those that are malformed are added to `problems`."""
    for number, line in read_lines(path):
        try:
            key, value = parse(line)
        except ValueError:
            problems.append(f"line {number} {line[:120]!r}")
        else:
            yield number, key, value


def refuse(path: Path, problems: list[str], advice: str) -> None:
    """Raise one error about all problems of a file (the first 20 are listed) if there is any."""
    if problems:
        count = f"{len(problems)} entries are" if len(problems) > 1 else "one entry is"
        raise WsolkitError(f"{path}: {count} wrong: {listing(problems)}; {advice}")


def inside(text: str) -> str:
    """A path of an annotation file in its one plain spelling, wherever it is read: / between its parts, which may have
    been a backslash or several, and no "." among them. ValueError where it does not name a file below its folder."""
    if PLAIN.fullmatch(text):
        return text
    path = text.replace("\\", "/")
    parts = path.split("/")
    if "" in parts[1:-1] or "." in parts[:-1]:
        parts = [part for place, part in enumerate(parts) if part != "." and (part or place in (0, len(parts) - 1))]
    if {"", ".", ".."} & set(parts) or ":" in parts[0] or CONTROL.search(path):
        raise ValueError
    return "/".join(parts)


def checked(kind: Callable[[str], Any], allowed: Callable[[Any], Any]) -> Callable[[str], Any]:
    """The function `kind` of a text, which then also raises ValueError for values that are not `allowed`."""

    def read(text: str) -> Any:
        if not allowed(value := kind(text)):
            raise ValueError
        return value

    return read


def whole(text: str) -> int:
    """A whole number from 0, of at most nine digits; ValueError otherwise."""
    if not is_digits(text.strip()):
        raise ValueError
    return int(text)


def real(value: str | float) -> float:
    """A number, or the text of one; ValueError otherwise. Python takes 1_0 for 10, and nobody means that."""
    if isinstance(value, str) and "_" in value:
        raise ValueError
    return float(value)


def corners(fields: Iterable[str | float]) -> Box:
    """Four texts or numbers as x0, y0, x1, y1; ValueError where they are not finite or the wrong way round."""
    x0, y0, x1, y1 = map(real, fields)
    if not (-math.inf < x0 <= x1 < math.inf and -math.inf < y0 <= y1 < math.inf):
        raise ValueError
    return x0, y0, x1, y1


def require_unit(path: Path, unit: str, boxes: Iterable[tuple[Any, Box]]) -> None:
    """Raise where the boxes of a file (name, four numbers as they are written), or a few of them, contradict their
    unit."""
    boxes = list(boxes)
    if not boxes or _lenient.get():
        return
    largest = max(max(map(abs, box)) for _, box in boxes)
    shares = f"{path}: no corner is larger than 1, so these seem to be shares of the images' sides, not pixels"
    good = unit == "share" or not all_shares([box for _, box in boxes])
    require(good, f"{shares}; convert them with --unit share (unit='share')")
    require(unit == "pixel" or largest <= 2, f"{path}: {largest:g} is no share of a side; leave out --unit share")
    if unit == "pixel" and (few := [name for name, box in boxes if is_share(box)]):
        count = f"{len(few)} of {len(boxes)} boxes seem to be shares of the images' sides, and the others pixels"
        raise WsolkitError(f"{path}: {count}: {listing(few)}; {MEND}")


def all_shares(boxes: Sequence[Sequence[float]]) -> bool:
    """Whether no corner of the boxes of a file is larger than 1, and they are not all pixels of 1 x 1 px images."""
    return max(max(map(abs, box)) for box in boxes) <= 1 and any(box[0] < box[2] or box[1] < box[3] for box in boxes)


def is_share(box: Box) -> bool:
    """Whether a box of four numbers, not all of them whole, is smaller than a pixel: it may be one of shares."""
    return max(map(abs, box)) <= 1 and any(value % 1 for value in box)


def turned_box(box: Box, size: tuple[int, int], number: int) -> Box:
    """A box in an image of `size` (width, height), inclusive corners, where the EXIF orientation `number` puts it."""
    (x0, y0, x1, y1), (right, lower) = box, (size[0] - 1, size[1] - 1)
    if number in (2, 3, 7, 8):  # those that mirror the stored columns
        x0, x1 = right - x1, right - x0
    if number in (3, 4, 6, 7):  # the stored rows
        y0, y1 = lower - y1, lower - y0
    return (y0, x0, y1, x1) if number > 4 else (x0, y0, x1, y1)


def class_notes(folder: Path, names: Sequence[str]) -> list[str]:
    """What is odd about the classes of a metadata folder's splits: classes that training images lack, and names that
    are nearly the same."""
    tables = {split: folder / split / LABELS for split in SPLITS}
    used = {split: _used_labels(path) for split, path in tables.items() if path.is_file()}
    notes = []
    for split, labels in used.items():
        if unseen := sorted(labels - used.get("train", labels)):
            lacking = [names[label] if label < len(names) else str(label) for label in unseen]
            notes.append(f"{len(unseen)} classes of {split} have no training image: {listing(lacking)}")
    return notes + [f"are these one class? {group}" for group in alike(names)]


def alike(names: Sequence[str]) -> list[str]:
    """The names of classes that are nearly the same, a text for each group."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(spelling(name), []).append(name)
    return [listing(_told_apart(group)) for group in groups.values() if len(group) > 1]


def spelling(name: str) -> str:
    """What is left of a name without case, blanks, _ and -, and of a number its value."""
    name = _look(name)
    with contextlib.suppress(ValueError):
        return str(float(name))
    return re.sub(r"[\s_-]+", "", name.casefold())


def _look(name: str) -> str:
    """Equal for names that look alike: accents as characters of their own, wide letters, characters without width."""
    return "".join(mark for mark in unicodedata.normalize("NFKC", name) if unicodedata.category(mark) != "Cf")


def _told_apart(names: Sequence[str]) -> Sequence[str]:
    """Names as they are, or with escapes where two look alike."""
    return names if len(set(map(_look, names))) == len(names) else list(map(ascii, names))


def _used_labels(path: Path) -> set[int]:
    (parse, form), problems = _LINES[LABELS], list[str]()
    labels = {label for _, _, label in _rows(path, parse, problems)}
    require(labels or problems, f"{path} is empty; expected {form}")
    refuse(path, problems, f"expected {form}")
    return labels


def touches(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box (x0, y0, x1, y1) holds at least one pixel of an image of `size` (width, height)."""
    return box[0] < size[0] and box[1] < size[1] and box[2] >= 0 and box[3] >= 0


def cut(box: Box, size: tuple[int, int]) -> Box:
    """The box without what lies beyond the last column and row of an image of `size` (width, height)."""
    return max(box[0], 0), max(box[1], 0), min(box[2], size[0] - 1), min(box[3], size[1] - 1)


def beyond(box: Box, size: tuple[int, int]) -> tuple[bool, bool]:
    """Whether a box loses more than a few pixels where an image of `size` (width, height) ends, and whether it loses
    more than a quarter of a side there."""
    lost = [abs(a - b) for a, b in zip(box, cut(box, size), strict=True)]
    sides = (box[2] - box[0], box[3] - box[1])
    much = any(lost[axis] + lost[axis + 2] > side / 4 for axis, side in enumerate(sides))
    return max(lost) > FEW, max(lost) > FEW and much


def placed(name: str, box: Iterable[float]) -> str:
    """The text "name (x0, y0, x1, y1)"."""
    return f"{name} ({', '.join(f'{value:g}' for value in box)})"


def misread(boxes: Iterable[tuple[str, Box, tuple[int, int]]], extents: bool = False) -> str:
    """What is wrong where most boxes (name, box, size of its image) reach far beyond their images, else "".

    extents: the file holds widths and heights in the place of the second corner; then a few pixels are far, where they
    would be a corner in the image (of corners in CUB's file one box in seven reaches further, but seven in ten do).
    """
    boxes = list(boxes)

    def far(box: Box, size: tuple[int, int]) -> bool:
        some, much = beyond(box, size)
        width, height = box[2] - box[0], box[3] - box[1]
        fits = extents and box[0] <= width <= size[0] and box[1] <= height <= size[1]  # as a corner
        return much or (some and fits)

    far_ones = [placed(name, box) for name, box, size in boxes if far(box, size)]
    if len(far_ones) <= len(boxes) / 2:
        return ""
    form = "x, y, width, height" if extents else "corners in pixels of the sizes that are given"
    wrong = "corners x0, y0, x1, y1" if extents else "boxes of images of another size"
    count = f"{len(far_ones)} of {len(boxes)} boxes reach far beyond their images: {listing(far_ones)}"
    return f"{count}. The file seems to hold {wrong}, where {form} are expected"


def refuse_misread(path: Path, boxes: Iterable[tuple[str, Box, tuple[int, int]]], extents: bool = False) -> None:
    """Raise, but not leniently, what `misread` says of the boxes of a file."""
    if not _lenient.get() and (wrong := misread(boxes, extents)):
        raise WsolkitError(f"{path}: {wrong}; {MEND}")


def sizes_around(
    path: Path, boxes: Mapping[str, Sequence[Box]], root: Path, images: Iterable[str], extents: bool = False
) -> dict[str, tuple[int, int]]:
    """(width, height) of `images` below `root`; {} leniently. extents: as in `misread`.

    Raises: WsolkitError: one error about all of them that one of their `boxes`, of the file `path`, does not touch, or
        about boxes of which most reach far beyond the image.
    """
    if _lenient.get():
        return {}
    sizes = image_sizes(root, images)
    if outside := [key for key, size in sizes.items() if not all(touches(box, size) for box in boxes[key])]:
        count = f"boxes of {len(outside)} images lie outside the image"
        raise WsolkitError(f"{path}: {count}: {listing(outside)}; mend them")
    refuse_misread(path, ((key, box, size) for key, size in sizes.items() for box in boxes[key]), extents)
    return sizes


def open_cub(asked: Request) -> WSOLDataset:
    """Open one split of a CUB-200-2011 folder, given itself or its parent.

    images.txt says which images there are: lines of the other files whose id it does not hold are ignored, so a subset
    is made by shortening images.txt alone. Ids need not be consecutive. The classes are those of classes.txt that have
    an image, in the order of their ids, labelled from 0 (a list of classes is labelled in its own order).
    Boxes `x y w h` become the corners x, y, x + w, y + h, cut at the last column and row of the image, as in the
    metadata of wsolevaluation (so the lower right corner lies one pixel beyond the object's, where the image goes on).
    "test" is the official split; "val" is a share of the official training images that depends on `seed` and
    `val_share` alone (an image held out with all classes is held out with a few), "train" the rest of them.

    Args:
        asked: as in `load_dataset`; classes by name ("001.Black_footed_Albatross").

    Raises:
        WsolkitError: naming the file and its lines (malformed, duplicate, box outside the image), or the argument.
        FileNotFoundError: the folder, one of its files or some of the images are missing.
    """
    root, line = find_root(asked.root, "cub"), partial(columns, whole, separator=None)
    paths = read_table(root / "images.txt", line(inside), "lines 'id path', the path below images/")
    if repeated := [path for path, count in Counter(paths.values()).items() if count > 1]:
        raise WsolkitError(f"{root / 'images.txt'} names {listing(repeated)} more than once; remove a line of each")
    names = read_table(root / "classes.txt", line(str), "lines 'id name'")
    known, each = {key: key for key in paths}, "for each id of images.txt"
    labels = f"lines 'id class', both whole numbers, one {each}"
    class_of = read_table(root / "image_class_labels.txt", line(whole), labels, known)
    flags = f"lines 'id 1' for training or 'id 0' for test, one {each}"
    is_train = read_table(root / "train_test_split.txt", line(["0", "1"].index), flags, known)
    extents = f"lines 'id x y width height', width and height above 0, one {each}"
    boxes = read_table(root / "bounding_boxes.txt", line(*[real] * 4, make=_from_extent), extents, known)
    used = sorted(set(class_of.values()))
    if unnamed := [key for key in used if key not in names]:
        raise WsolkitError(
            f"{root / 'classes.txt'} has no line for class {listing(unnamed)} of image_class_labels.txt; add it"
        )
    if twice := [name for name, count in Counter(names[key] for key in used).items() if count > 1]:
        raise WsolkitError(f"{root / 'classes.txt'} gives several classes one name: {listing(twice)}; rename them")
    classes, labels_of = asked.select([names[key] for key in used])
    label_of = {used[place]: label for place, label in labels_of.items()}
    require_unit(root / "bounding_boxes.txt", "pixel", boxes.items())
    images = root / "images"
    require_images(images, (path for key, path in paths.items() if class_of[key] in label_of))

    ids = sorted(key for key in paths if is_train[key] == (asked.split != "test"))
    if asked.split != "test":
        ids = [ids[place] for place in asked.own([class_of[key] for key in ids])]
    chosen = {paths[key]: key for key in ids if class_of[key] in label_of}
    own = {path: boxes[key] for path, key in chosen.items()}
    sizes = sizes_around(root / "bounding_boxes.txt", {path: [box] for path, box in own.items()}, images, own, True)
    own |= {path: cut(own[path], size) for path, size in sizes.items()}
    samples = [
        Sample(path, label_of[class_of[key]], (own[path],), images / path, sizes.get(path))
        for path, key in chosen.items()
    ]
    return WSOLDataset("cub", asked.split, classes, samples, asked.geometry)


def _from_extent(extent: list[float]) -> Box:
    x, y, width, height = extent
    if width == 0 or height == 0:
        raise ValueError
    return corners([x, y, x + width, y + height])


def open_tiny_imagenet(asked: Request) -> WSOLDataset:
    """Open one split of a Tiny-ImageNet-200 folder, given itself or its parent.

    The classes are those of wnids.txt that have a folder in train/, in the order of wnids.txt (a list of classes is
    labelled in its own order). `dataset.classes` holds the first name that words.txt gives them ("goldfish"), followed
    by the id in brackets where two would be alike, or the id alone where words.txt is absent. Boxes are inclusive
    corners. The official test images have no labels: "test" is the folder val/, "val" a share of train/ that depends on
    `seed` and `val_share` alone (an image held out with all classes is held out with a few), "train" the rest.

    Args:
        asked: as in `load_dataset`; classes by id ("n01443537") or name.

    Raises:
        WsolkitError: naming the file and its lines (malformed, duplicate, box outside the image), or the argument.
        FileNotFoundError: the folder, one of its files or some of the images are missing.
    """
    root = find_root(asked.root, "tiny_imagenet")
    path, folders = root / "wnids.txt", file_names(root / "train")
    wnid = checked(str, re.compile(r"[\w-]+").fullmatch)
    listed = read_table(path, columns(wnid), "one class id such as n01443537 in each line")
    first = {wnid: wnid for wnid in listed if wnid in folders}  # wnid -> its first name
    require(first, f"{path} names no class that has a folder in {root / 'train'}; fetch the dataset again")
    classes, label_of = select_wnids(asked, first, root / "words.txt", "\t")
    wnids = list(first)
    samples: list[Sample] = []
    if asked.split == "test":
        samples = _read_test(root / "val", {wnids[index]: label for index, label in label_of.items()})
    else:
        for index, label in label_of.items():
            members = _read_train(root / "train" / wnids[index], label)
            # one class at a time, drawn by its place in wnids.txt: the choice of classes does not move the split
            samples += [members[place] for place in asked.own([index] * len(members))]
    return WSOLDataset("tiny_imagenet", asked.split, classes, samples, asked.geometry)


def select_wnids(
    asked: Request, wnids: Iterable[str], words: Path, separator: str | None = None
) -> tuple[list[str], dict[int, int]]:
    """As `Request.select`, of classes with ids of WordNet such as n01440764, which may be asked for by id or by name.

    words: a file of lines with an id, the separator (None is any white space) and names, of which the first is that of
        the class ("goldfish"), followed by the id in brackets where two would be alike. Without the file ids are names.
    """
    first = {wnid: wnid for wnid in wnids}
    if words.exists():
        form = f"lines 'id', a {'tab' if separator else 'blank'} and names"
        named = read_table(words, columns(str, str, separator=separator), form, dict(first), False)
        first |= {wnid: name for wnid, text in named.items() if (name := text.split(",")[0].strip())}
    count, order = Counter(first.values()), list(first)
    if isinstance(asked.classes, list | tuple):
        asked = replace(asked, classes=[order.index(item) if item in first else item for item in asked.classes])
    return asked.select([name if count[name] == 1 else f"{name} ({wnid})" for wnid, name in first.items()])


def _read_train(folder: Path, label: int) -> list[Sample]:
    """The images of one class, by file name; each must have a box and each box an image."""
    wnid, images, path = folder.name, folder / "images", folder / f"{folder.name}_boxes.txt"
    table = _read_boxes(path, "'file x0 y0 x1 y1'")
    require_images(images, table)
    if unknown := sorted(n for n in file_names(images) - set(table) if n.lower().endswith((".jpeg", ".jpg", ".png"))):
        raise WsolkitError(f"{path} has no line for {len(unknown)} images: {listing(unknown)}; add or remove them")
    return [Sample(f"{wnid}/{file}", label, (box,), images / file, FRAME) for file, (box,) in sorted(table.items())]


def _read_test(folder: Path, label_of: dict[str, int]) -> list[Sample]:
    """The images of val/, in the order of val_annotations.txt; lines of other classes are passed over."""
    table, images = _read_boxes(folder / "val_annotations.txt", "'file class x0 y0 x1 y1'", str), folder / "images"
    table = {file: values for file, values in table.items() if values[0] in label_of}
    require_images(images, table)
    return [Sample(f"val/{file}", label_of[wnid], (box,), images / file, FRAME) for file, (wnid, box) in table.items()]


def _read_boxes(path: Path, form: str, *kinds: type[str]) -> dict[str, list]:
    """File name -> the texts that come before the box, as `kinds` says, and the box."""

    def made(values: list) -> list:
        box = corners(values[-4:])
        if min(box) < 0 or not touches(box, FRAME):
            raise ValueError
        return [*values[:-4], box]

    limits = f"0 <= x0 <= x1, 0 <= y0 <= y1, x0 and y0 below {SIDE}, each file once"
    file = checked(inside, lambda name: "/" not in name)
    line = columns(file, *kinds, *[real] * 4, separator="\t", make=made)
    table = read_table(path, line, f"lines {form} with tabs between, {limits}")
    require_unit(path, "pixel", ((name, values[-1]) for name, values in table.items()))
    refuse_misread(path, ((name, values[-1], FRAME) for name, values in table.items()))
    return table


@dataclass(frozen=True, eq=False)
class Metadata:
    """One split as its files tell it.

    Attributes:
        folder: the folder of the split.
        ids: N image paths, in the order of image_ids.txt.
        labels: (N,) int64, 0-based.
        sizes: id -> (width, height) in pixels; empty where there is no image_sizes.txt.
        boxes: id -> boxes (x0, y0, x1, y1) in original pixels, inclusive corners; empty unless kind "boxes".
        masks: id -> its mask files; empty unless kind "masks".
        kind: what localization.txt holds: "boxes", "masks", or "none" where it is absent or empty.
    """

    folder: Path
    ids: list[str]
    labels: np.ndarray
    sizes: dict[str, tuple[int, int]]
    boxes: dict[str, tuple[Box, ...]]
    masks: dict[str, MaskFiles]
    kind: str


def read_metadata(folder: str | Path, split: str, need: Sequence[str] = ("class_labels",)) -> Metadata:
    """Read the metadata of one split.

    image_ids.txt (`path`) decides which images there are: lines of the other files about ids that it does not list are
    ignored, so a subset is made by shortening image_ids.txt alone. The other files are class_labels.txt (`path,label`),
    image_sizes.txt (`path,width,height`) and localization.txt: either `path,x0,y0,x1,y1` (whole or decimal numbers;
    more lines for more boxes) or `path,mask,ignore` (the ignore file in the first line of an image only, or nowhere).
    Labels, sizes and boxes are split from the right, so that a path may hold commas; in a file of masks it may not.

    Args:
        folder: the folder of the split (it holds image_ids.txt) or the one above (it holds <split>/image_ids.txt).
        split: the name of the split, "train", "val" or "test".
        need: the files that must tell of every id, of "class_labels" (always needed), "image_sizes" (asked for unless
            localization.txt holds masks, which need no sizes) and "localization". A file that is not needed is read if
            it is there, and may leave out ids.

    Raises:
        FileNotFoundError: a folder or a file that is needed is missing.
        WsolkitError: the folder is that of another split; or one error for each file, which lists its malformed lines,
            duplicates, boxes outside the image and ids without an entry (the first 20).
    """
    if unknown := sorted(set(need) - set(NEEDS)):
        raise WsolkitError(f"need names {listing(unknown)}; choose from {', '.join(NEEDS)}")
    folder = _split_folder(given_path(folder, "a metadata folder (--metadata)"), split)
    path, form = folder / IDS, "the path of an image in each line"
    # name -> itself: the equal strings of other files give way to these, which saves memory
    form = f"{form}, below the folder of images and each once"
    known = read_table(path, lambda line: (name := inside(line), name), form)
    ids = list(known)

    def table(file: str, needed: bool, kind: str = "", problem: Any = None) -> dict[str, Any]:
        if not needed and not os.path.lexists(folder / file):  # a folder of that name is a mistake
            return {}
        parse, form = _LINES[kind or file]
        form = f"{form}, {'at least ' if problem else ''}one for each id of {IDS}"
        return read_table(folder / file, parse, form, known, needed, problem)

    labels = table(LABELS, True)
    path, complete = folder / LOCALIZATION, "localization" in need
    kind = _kind(path, complete)
    sizes = table(SIZES, "image_sizes" in need and kind != "masks")

    def problem(name: str, earlier: list | None, value: Any) -> str:
        if kind == "masks":
            return f"a second line of {name} with an ignore file" if earlier and value[1] else ""
        fits = name not in sizes or touches(value, sizes[name]) or _lenient.get()
        return "" if fits else f"the box lies outside {name}, which is {sizes[name][0]} x {sizes[name][1]} pixels"

    rows = table(LOCALIZATION, complete, kind, problem) if kind != "none" else {}
    boxes = {name: tuple(own) for name, own in rows.items()} if kind == "boxes" else {}
    require_unit(path, "pixel", ((name, box) for name, own in boxes.items() for box in own))
    refuse_misread(path, ((name, box, sizes[name]) for name in boxes if name in sizes for box in boxes[name]))
    masks = rows if kind == "masks" else {}
    masks = {name: MaskFiles(tuple(mask for mask, _ in own), own[0][1]) for name, own in masks.items()}
    return Metadata(folder, ids, np.array([labels[name] for name in ids], np.int64), sizes, boxes, masks, kind)


def _kind(path: Path, needed: bool = False) -> str:
    """What a localization.txt holds, as in `Metadata`; one that is absent or empty is an error where it is needed."""
    first = next(read_lines(path), (0, ""))[1] if needed or os.path.lexists(path) else ""
    require(first or not needed, f"{path} is empty; expected lines 'path,x0,y0,x1,y1' or 'path,mask,ignore'")
    # a line of a mask has exactly two commas, that of a box four at least
    return "none" if not first else "masks" if first.count(",") == 2 else "boxes"


def _mask_line(line: str) -> tuple[str, tuple[str, str | None]]:
    name, mask, ignore = (item.strip() for item in line.split(","))
    return inside(name), (inside(mask), inside(ignore) if ignore else None)


# of equal texts and sizes one object is kept, since a million lines have few different ones
_remembered = lru_cache(1 << 16)
_side, _label = map(_remembered, (checked(whole, bool), checked(whole, lambda label: label < MOST_CLASSES)))
_extent = _remembered(tuple)
_BOXES = "lines 'path,x0,y0,x1,y1' with x0 <= x1 and y0 <= y1, and no lines of masks among them"
_MASKS = "lines 'path,mask,ignore', the ignore file in an image's first line only, no lines of boxes among them"
_LINES: dict[str, tuple[Parser, str]] = {  # how lines are read, and what they must be
    LABELS: (columns(inside, _label, right=True), "lines 'path,label' with whole numbers from 0"),
    SIZES: (
        columns(inside, _side, _side, right=True, make=_extent),
        "lines 'path,width,height' with whole numbers above 0",
    ),
    "boxes": (columns(inside, *[real] * 4, right=True, make=corners), _BOXES),
    "masks": (_mask_line, _MASKS),
}


def highest_label(path: Path) -> int:
    """The highest label of any line of a class_labels.txt, -1 where it has none."""
    return max(_used_labels(path), default=-1)


def read_classes(path: Path) -> list[str]:
    """classes.txt: the name of a class in each line, the first is that of label 0."""
    lines = dict(read_lines(path))
    if gap := next((place for place, number in enumerate(lines, 1) if place != number), 0):
        raise WsolkitError(f"{path}, line {gap} is empty; its class needs a name, since lines are counted")
    return list(lines.values())


def _split_folder(folder: Path, split: str) -> Path:
    if (folder / split / IDS).is_file():
        return folder / split
    name = folder.resolve().name
    if not (folder / IDS).is_file():
        wrong = f"holds neither {split}/{IDS} nor {IDS}" if folder.is_dir() else "does not exist"
        raise FileNotFoundError(f"{folder} {wrong}; {LAYOUT}")
    if name in SPLITS and name != split:  # test images must not pass for validation
        raise WsolkitError(f"{folder} is the folder of split '{name}', but '{split}' is asked for; give its own")
    return folder


def open_metadata(asked: Request, metadata: str | Path | None = None, masks: str | Path | None = None) -> WSOLDataset:
    """Open one split of a metadata folder; see `read_metadata` for its files.

    A split needs image_ids.txt and class_labels.txt; boxes that the localization.txt of "train" may hold are kept.
    Where there is a folder val/, it is the split "val"; else "val" is a share of train/ that depends on `seed` and
    `val_share` alone, and "train" the rest. The localization.txt of "test" and "val" may be absent: `dataset.localised`
    is False then. Such a validation split chooses the epoch of a training run but no threshold, and a report on such a
    test split has numbers of classification only. Sizes come from image_sizes.txt or else from the images.

    There are as many classes as the highest label in the class_labels.txt of all splits says, plus one, or as
    classes.txt has lines (one name per line, from label 0; it lies beside the folders of the splits, or in one of
    them). Without names the classes are called "0", "1", ...

    Args:
        asked: as in `load_dataset`; `root` is the folder that the paths of image_ids.txt are relative to.
            Chosen classes are labelled anew from 0.
        metadata: the folder that holds train/, test/ and perhaps val/.
        masks: the folder that the paths of masks are relative to; for metadata with masks in one of its splits only.

    Raises:
        WsolkitError: naming the file and the lines, or the argument; also boxes with `masks`, or masks without it.
        FileNotFoundError: a folder, a file, some of the images or some of the masks are missing.
    """
    split, needs = asked.split, "dataset 'metadata' needs"
    root = existing_folder(asked.root, f"{needs} root=, the folder that the paths of {IDS} are relative to (--root)")
    place = f"{needs} metadata=, the folder that holds train/, test/ and perhaps val/ (--metadata)"
    folder = existing_folder(metadata, place)
    if (folder / IDS).is_file():
        raise WsolkitError(f"{folder} is the folder of one split; give the folder above it, with train/ and test/")
    shared = not (folder / "val").is_dir()  # the folder train/ is for "train" and "val"
    source = "train" if split == "val" and shared else split
    needed = source != "train" and os.path.lexists(folder / source / LOCALIZATION)
    complete = needed and not _lenient.get()
    read = read_metadata(folder, source, ("class_labels", "localization") if complete else ("class_labels",))
    path, masks_root = read.folder / LOCALIZATION, Path()
    if masks is not None:
        kinds = [_kind(folder / name / LOCALIZATION) for name in SPLITS]  # one with masks, and others may hold boxes
        wrong = f"{path} holds boxes, not mask files: leave out masks= (--masks)"
        require("masks" in kinds or read.kind != "boxes", wrong)
        place = f"{needs} masks=, the folder that the mask files of {LOCALIZATION} are relative to (--masks)"
        masks_root = existing_folder(masks, place)
    elif needed and read.kind == "masks":
        raise WsolkitError(f"{path} names mask files: give masks= (--masks), the folder that they are relative to")

    classes, label_of = asked.select(_class_names(folder))
    places = asked.own(read.labels) if source == "train" and shared else range(len(read.ids))
    known = zip(places, read.labels[places].tolist(), strict=True)
    names = {read.ids[place]: label_of[label] for place, label in known if label in label_of}
    root = _image_folder(root, source, names)
    require_images(root, names)
    sizes = read.sizes
    if source != "train" and read.kind == "boxes" and (unknown := [name for name in names if name not in sizes]):
        sizes = sizes | sizes_around(path, read.boxes, root, unknown)
    own = {
        name: replace(read.masks[name], root=masks_root) for name in names if masks is not None and name in read.masks
    }
    require_images(masks_root, (path for m in own.values() for path in (*m.paths, m.ignore) if path))
    if source != "train" and not _lenient.get():  # images of the others are never compared with a box
        boxed = {name: sizes[name] for name in names if name in read.boxes and name in read.sizes}
        _refuse_contradictions(read.folder / SIZES, boxed, root)
        refuse_other_masks(path, own, masks_root, root)
    samples = [
        Sample(name, label, read.boxes.get(name, ()), root, sizes.get(name), own.get(name), below=True)
        for name, label in names.items()
    ]
    return WSOLDataset("metadata", split, classes, samples, asked.geometry)


def _image_folder(root: Path, split: str, names: Iterable[str]) -> Path:
    """`root`, or the folder in it with the images of a split, where each split has a folder of its own."""
    first = next(iter(names), "")
    folders = (split, "valid", "validation") if split == "val" else (split,)
    places = [place for name in folders for place in (root / name, root / name / "images", root / "images" / name)]
    return next((place for place in (root, *places) if (place / first).is_file()), root)


def refuse_other_masks(path: Path, masks: Mapping[str, MaskFiles], folder: Path, root: Path) -> None:
    """Raise, but not leniently, one error about all images below `root` of another shape than their first mask file.

    path: the file that names the masks. folder: of the masks."""
    if not _lenient.get():
        files = {name: own.paths[0] for name, own in masks.items()}
        sizes = image_sizes(folder, set(files.values()))
        _refuse_contradictions(path, {name: sizes[file] for name, file in files.items()}, root, "its mask is")


def _refuse_contradictions(path: Path, sizes: Mapping[str, tuple], root: Path, given: str = "it says") -> None:
    """Raise one error about all images below `root` that have another shape than `sizes`, those of a file, say."""
    shown = image_sizes(root, sizes)
    if wrong := [name for name, size in sizes.items() if not same_shape(size, shown[name])]:
        pair = "{} ({} {} x {}, but the image is {} x {})".format
        told = [pair(name, given, *sizes[name], *shown[name]) for name in wrong]
        turned = any(orientation(root / name) > 4 for name in wrong)
        advice = "EXIF tags turn some of the images: convert the boxes with --turn" if turned else MEND
        raise WsolkitError(f"{path}: {len(wrong)} sizes contradict the images as shown: {listing(told)}; {advice}")


def _class_names(folder: Path) -> list[str]:
    """One different name for each label of any split."""
    highest = {path: highest_label(path) for split in SPLITS if (path := folder / split / LABELS).is_file()}
    tables = [table for place in ("", *SPLITS) if os.path.lexists(table := folder / place / CLASSES)]
    names = read_classes(tables[0]) if tables else [str(label) for label in range(max(highest.values()) + 1)]
    for other in tables[1:]:
        differing = [f"{a!r} and {b!r}" for a, b in zip(names, read_classes(other), strict=False) if a != b]
        wrong = f"{tables[0]} and {other} give {len(differing)} labels different names: {listing(differing)}"
        require(not differing, f"{wrong}; keep the one that belongs to class_labels.txt")
    if short := [path for path, label in highest.items() if label >= len(names)]:
        wrong = f"{tables[0]} names {len(names)} classes, but {short[0]} has label {highest[short[0]]}"
        raise WsolkitError(f"{wrong}; add the missing lines")
    count = Counter(names)
    return [f"{name} ({label})" if count[name] > 1 else name for label, name in enumerate(names)]


# -------------------------------------------------------------------------------------- from other formats


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
    kind: str,
    source: str | Path,
    out: str | Path,
    split: str = "test",
    images: str | Path | None = None,
    several: str = "largest",
    origin: int | None = None,
    force: bool = False,
    unit: str = "pixel",
    turn: bool = False,
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
        unit: of corners, "pixel" or "share" (of the image's width and height).
        turn: boxes were drawn on the images as they are stored; turn them as the EXIF tags turn the images.

    Where `images` is given, a stated size must have the shape of its image as it is shown; a copy in another size may.

    Raises: WsolkitError, FileNotFoundError: naming the value, or the source and all that is wrong; nothing is written.
    """
    choices = {"kind": (kind, BOX_FORMS), "split": (split, SPLITS), "several": (several, ("largest", "skip"))}
    choices["unit"] = (unit, ("pixel", "share"))
    for name, (value, known) in choices.items():
        require(value in known, f"{name} must be one of {', '.join(known)}, but is '{value}'")
    if origin not in (None, 0, 1) or (origin is not None and kind != "voc"):
        raise WsolkitError(
            f"origin is the number of the first pixel in voc files, 0 or 1, but is {origin} for {kind}; leave it out"
        )
    source, out = given_path(source, f"a {kind} file or folder"), check_out(out)
    images = None if images is None else existing_folder(images, f"give the folder of the images ({GIVE_IMAGES})")
    require(images is not None or not turn, f"turn asks for the EXIF tags of the images: {GIVE_IMAGES}")
    require(unit == "pixel" or not turn, "turn is for corners in pixels: leave out unit or turn")
    if not source.exists():
        raise FileNotFoundError(f"{source} does not exist; give the file or folder to convert")
    if source.is_dir() != (kind == "voc"):
        raise WsolkitError(f"{source}: expected {'a folder of XML files' if kind == 'voc' else f'a {kind} file'}")
    target = out / split
    require(target.is_dir() or not os.path.lexists(target), f"{target} is not a folder; choose another out (--out)")
    there = file_names(target)
    require(force or not there, f"{target} is not empty; choose another out (--out), or replace it (--force)")
    if strangers := sorted(there - {IDS, LABELS, SIZES, LOCALIZATION}):
        advice = "which is no metadata: remove it or choose another out"
        raise WsolkitError(f"{target} holds {listing(strangers)}, {advice}")
    for name in sorted(there):  # what --force replaces is lost
        _require_converted(target / name)

    first = (1 if origin is None else origin) if kind == "voc" and unit == "pixel" else 0
    read = Source(source, images, kind, first, unit=unit, turn=turn)
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
    crowds = f"{read.crowds} annotations of crowds (iscrowd) were left out"
    why = f"; {crowds}" if read.crowds else f"; {mixed} show several" if mixed else ""
    require(chosen, f"{source} has no image with objects of one class{why}; nothing to convert")
    used = {label for label, _ in chosen.values()}
    names, number = _number([label for label in read.order or sorted(used) if label in used], out, split, kind == "csv")
    _write(out, split, chosen, read.sizes, names, number)
    boxes = [box for _, own in chosen.values() for box in own]
    did = "left out" if several == "skip" else "the class of the largest box is their label, its boxes are kept"
    decimal = sum(any(value % 1 for value in box) for box in boxes)
    cut_there = "" if kind == "csv" and unit == "pixel" else " and are cut there"
    counted = {
        f"images show several classes: {did}": mixed,
        f"images without an object{' that is no crowd' if read.crowds else ''} were left out": empty,
        "annotations of crowds (iscrowd) were left out": read.crowds,
        f"boxes reach beyond their image{cut_there}: {listing(read.beyond)}": len(read.beyond),
        "boxes have decimal corners, which wsolevaluation's own reader does not take": decimal,
        "boxes have width or height 0, and are taken for one pixel there": read.thin,
        "boxes begin before pixel 1: if these files count pixels from 0, use --origin 0": read.early,
    }
    notes = [f"{count} {text}" for text, count in counted.items() if count]
    if kind == "csv":  # where whole numbers are class numbers
        named = {name: place for name, place in number.items() if re.fullmatch(r"[+-]?\d+\.?\d*", name)}
        odd = [f"{name} is class {place}" for name, place in named.items() if float(name) != place]
        notes += [f"{len(odd)} labels are numbers, but taken as names: {listing(odd)}"] if odd else []
    notes += class_notes(out, names)
    return Converted(target, len(chosen), len(boxes), len(names), mixed, empty, tuple(notes))


def _require_converted(path: Path) -> None:
    """Raise unless each line of a file is one that `convert` could have written there."""
    parses = {IDS: columns(inside), LOCALIZATION: _LINES["boxes"][0]}
    parse = parses.get(path.name) or _LINES[path.name][0]
    try:
        for _, line in read_lines(path):
            parse(line)
    except (ValueError, OSError):
        advice = "which would be lost: remove it or choose another out"
        raise WsolkitError(f"{path} holds what no conversion wrote, {advice}") from None


def _number(labels: list[str], out: Path, split: str, numerals: bool) -> tuple[list[str], dict[str, int]]:
    """(all class names of OUT, label -> its number). With `numerals` whole numbers stand for themselves."""
    names = read_classes(out / CLASSES) if os.path.lexists(out / CLASSES) else []
    others = [path for other in SPLITS if other != split and (path := out / other / LABELS).is_file()]
    # where classes.txt has numerals as names of other classes, numerals are names
    plain = all(int(name) == place for place, name in enumerate(names) if name.isdecimal())
    if numerals and plain and all(label.isdecimal() for label in labels):
        if long := [label for label in labels if not is_digits(label)]:
            raise WsolkitError(f"label {long[0][:20]}... is no class number; expected numbers from 0 up, or names")
        number = {label: int(label) for label in labels}
        highest = max([*number.values(), *map(highest_label, others)])
        require(highest < MOST_CLASSES, f"label {highest} is no class number; expected numbers from 0 up, or names")
        new = [str(place) for place in range(len(names), highest + 1)]
    else:
        if others and not names:
            missing = f"{out / CLASSES} with their names is missing; write it first"
            raise WsolkitError(f"{others[0]} has labels, but {missing}")
        if repeated := [name for name, count in Counter(names).items() if count > 1]:
            raise WsolkitError(f"{out / CLASSES} has {listing(repeated)} more than once; names must differ")
        new = [label for label in labels if label not in names]
        number = {name: place for place, name in enumerate(names + new)}
    if names and new and not others and not (out / split / LABELS).is_file():  # perhaps no list of classes at all
        wrong = f"{out / CLASSES} belongs to no split there, and lacks the classes {listing(new)}"
        raise WsolkitError(f"{wrong}; add them, remove the file, or choose another out (--out)")
    return names + new, number


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
class Source:
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
    thin: int = 0  # boxes of width or height 0
    unit: str = "pixel"  # of corners, or "share" of the image's sides
    turn: bool = False  # whether boxes are turned as the EXIF tag of their image says
    written: list[tuple[str, Box]] = field(default_factory=list)  # (item, numbers) of all boxes, as they are written
    crowds: int = 0  # annotations of crowds, which are left out
    beyond: list[str] = field(default_factory=list)  # boxes that lose more than a few pixels at the border
    fields: tuple[str, ...] = CSV_FIELDS  # columns of a CSV; without "label" its objects are called UNNAMED

    @contextlib.contextmanager
    def noting(self, item: str) -> Iterator[None]:
        """Note what the block raises about one item; LookupError comes from an XML file with an unknown encoding."""
        try:
            yield
        except (ValueError, csv.Error, ElementTree.ParseError, LookupError, OSError) as error:
            self.problems.append(f"{item} ({error})")

    def add(self, item: str, name: Any, size: tuple[int, int], objects: Iterable, again: bool = False) -> None:
        """Take an image, which may come `again`, and its objects (item, class name, box), or note what is wrong."""
        wrong, plain = "", ""
        if not isinstance(name, str) or not name.strip():
            wrong = "is no path"
        elif "," in name or CONTROL.search(name) or name != clean(name):
            wrong = "holds a comma, a control character or blanks at its ends, which no file of lines keeps; rename it"
        else:
            try:
                plain = inside(name)
                wrong = "is there already" if plain in self.objects and not again else ""
            except ValueError:
                wrong = "is not a path below the folder of images"
        if wrong:
            self.problems.append(f"{item} ({name!r} {wrong})")
            return
        name = plain
        self.sizes.setdefault(name, size)
        own = self.objects.setdefault(name, [])
        for item, label, fields in objects:
            label = clean(label) if isinstance(label, str) else label
            try:
                if self.kind == "coco" and not all(map(is_real, fields)):
                    raise ValueError
                x0, y0, x1, y1 = map(real, fields)
                ends = (x0 + x1, y0 + y1) if self.kind == "coco" else (x1, y1)
                box = corners(value - self.origin for value in (x0, y0, *ends))
                if not _is_label(label):
                    raise ValueError
                self.written.append((item, (x0, y0, x1, y1)))
                self.thin += self.kind == "coco" and 0 in (x1, y1)
            except (ValueError, TypeError, OverflowError):
                box_of = f"box {fields!r} is not {BOX_FORMS[self.kind]}"
                wrong = box_of if _is_label(label) else f"{label!r} is no name of a class"
                self.problems.append(f"{item} ({wrong})")
            else:
                own.append((label, box))
                self.early += self.origin and min(box) < 0

    def finish(self) -> None:
        """Raise what is wrong; else complete sizes, check that boxes lie in the images, and cut those of VOC, COCO."""
        from_csv, share = self.kind == "csv", self.unit == "share"
        refuse(self.place, self.problems, f"expected lines '{','.join(self.fields)}'" if from_csv else MEND)
        require(self.objects, f"{self.place} names no image; expected at least one")
        require_unit(self.place, self.unit, self.written)
        given: list[tuple[str, Box, tuple[int, int]]] = []
        used = [name for name, own in self.objects.items() if own]  # images without an object are left out
        if self.images is not None:
            require_images(self.images, used)
            self._compare_sizes(self.images, used)
        for name in used:
            own, size = self.objects[name], self.sizes[name]
            if not all(size):
                self.problems.append(f"{name} (no size is given: add it, or {GIVE_IMAGES})")
                continue
            if share:
                w, h = size
                own = [(label, (x0 * w, y0 * h, x1 * w, y1 * h)) for label, (x0, y0, x1, y1) in own]
            if outside := [box for _, box in own if not touches(box, size)]:
                self.problems.append(f"{name} (box {outside[0]} lies outside {size[0]} x {size[1]} pixels)")
                continue
            given += [(name, box, size) for _, box in own]
            self.objects[name] = own if from_csv and not share else [(label, cut(box, size)) for label, box in own]
        if wrong := misread(given, self.kind == "coco"):
            self.problems.append(wrong)
        refuse(self.place, self.problems, MEND)
        self.beyond = [placed(name, box) for name, box, size in given if beyond(box, size)[0]]

    def _compare_sizes(self, folder: Path, names: Iterable[str]) -> None:
        """Complete sizes from the images, note those that contradict them, and turn what is to be turned."""
        shown = image_sizes(folder, names)
        for name, real in shown.items():
            stated = self.sizes[name] if all(self.sizes[name]) else real
            if self.turn and (number := orientation(folder / name)) != 1:
                # without a stated size, boxes are in pixels of the image as it is stored
                size = stated if all(self.sizes[name]) or number < 5 else (real[1], real[0])
                self.objects[name] = [(label, turned_box(box, size, number)) for label, box in self.objects[name]]
                stated = size if number < 5 else (size[1], size[0])
            if not same_shape(stated, real):
                wrong = f"{name} ({stated[0]} x {stated[1]} is given, but the image is {real[0]} x {real[1]}"
                by_exif = same_shape(stated[::-1], real) and orientation(folder / name) > 4
                advice = ", turned by its EXIF tag: turn the boxes with it (turn=True, --turn)" if by_exif else ""
                self.problems.append(f"{wrong}{advice})")
            self.sizes[name] = stated


def read_voc(read: Source) -> None:
    """A folder of Pascal VOC XML files, or the folder above its Annotations/; folders in it are folders of the images.

    VOC counts pixels from 1, so `origin` 1 is taken from every corner; with `origin` 0 corners stay as they are (ILSVRC
    and some tools count from 0). Objects marked difficult or truncated count like others, parts of objects do not.
    Boxes are cut at the border. A <filename> without its ending is completed from the files in `images`.
    """
    if (read.place / "Annotations").is_dir():
        read.place /= "Annotations"
    paths = sorted(
        path for path in read.place.rglob("*") if path.suffix.lower() == ".xml" and not path.name.startswith(".")
    )
    if not paths:
        raise FileNotFoundError(f"{read.place}: no .xml file there; expected the Annotations folder of Pascal VOC")
    endings = cache(_names_by_stem)  # one look at each folder
    for path in paths:
        place = path.relative_to(read.place)

        def named(name: str, place: Path = place) -> str:
            if not _is_image(name):
                if read.images is None and not Path(name).suffix:
                    raise ValueError(f"<filename> {name!r} has no ending: {GIVE_IMAGES}")
                name = endings(read.images / place.parent).get(name, name) if read.images else name
            return (place.parent / name).as_posix() if place.parent.parts else name

        add_xml(read, path, place.as_posix(), named)


def add_xml(read: Source, path: Path, item: str, named: Callable[[str], str]) -> None:
    """Take the image and the objects of a Pascal VOC XML file, or note what is wrong with it. named: <filename> -> the
    path of the image."""
    with read.noting(item):
        root = ElementTree.parse(path).getroot()  # expat refuses entities that grow
        if not (name := _text(root, "filename")):
            raise ValueError(f"<filename> of <{root.tag}> is empty or missing, and '' is no path of an image")
        width, height = (_stated(_text(root, f"size/{side}")) for side in ("width", "height"))
        objects = [
            (f"{item}, object {number}", _text(thing, "name"), [_text(thing, f"bndbox/{key}") for key in CORNERS])
            for number, thing in enumerate(root.findall("object"), 1)
        ]
        read.add(item, named(name), (width, height), objects)


def read_coco(read: Source) -> None:
    """A COCO json of instances: the path of an image is its file_name, classes are numbered in the order of their ids.

    A bbox [x, y, width, height] becomes the corners x, y, x + width, y + height, cut at the border (at most width - 1
    and height - 1 of the image): the convention of wsolevaluation's metadata of CUB. Crowd annotations are left out.
    """
    content = read_json(read.place, MEND)
    keys = ("images", "annotations", "categories")
    parts: list[Any] = [content.get(key) if isinstance(content, dict) else None for key in keys]
    if not all(isinstance(part, list) and all(isinstance(item, dict) for item in part) for part in parts):
        raise WsolkitError(f"{read.place}: expected an object with the lists images, annotations and categories")
    images, annotations, categories = parts
    names: dict[Any, str] = {}
    objects: dict[Any, list] = {}  # by the id of their image
    told: set[str] = set()  # ids in problems that their annotations need not repeat
    used = {key for item in annotations if _is_key(key := item.get("category_id"))}
    for item in categories:
        key, name = item.get("id"), item.get("name")
        if not _is_key(key) or key not in used:  # what no annotation uses does not matter
            continue
        name, category = clean(name) if isinstance(name, str) else name, f"category {key!r}"
        if not _is_label(name):
            read.problems.append(f"{category} ({name!r} is no name)")
            told.add(category)
            continue
        if key in names or name in names.values():
            read.problems.append(f"{category} ({'the id' if key in names else repr(name)} is there already)")
        names.setdefault(key, name)
    for item in images:
        key = item.get("id")
        if not _is_key(key) or key in objects:
            wrong = "is there already" if _is_key(key) else "is no id"
            read.problems.append(f"image {key!r} (the id of {item.get('file_name')} {wrong})")
            told.add(f"image {key!r}")
        else:
            objects[key] = []
    for item in annotations:
        key, label, name = item.get("image_id"), item.get("category_id"), f"annotation {item.get('id')!r}"
        if told & {f"image {key!r}", f"category {label!r}"}:
            continue
        if not _is_key(key) or key not in objects:
            read.problems.append(f"{name} (unknown image_id {key!r})")
        elif not _is_key(label) or label not in names:
            read.problems.append(f"{name} (unknown category_id {label!r})")
        elif (crowd := item.get("iscrowd")) not in (None, 0, 1):
            read.problems.append(f"{name} (iscrowd {crowd!r} is neither 0 nor 1)")
        elif crowd:
            read.crowds += 1
        else:
            objects[key].append((name, names[label], item.get("bbox")))
    for item in images:
        key, extent = item.get("id"), (item.get("width"), item.get("height"))
        width, height = (_stated(side) if is_real(side) else 0 for side in extent)
        size = (width, height) if width and height else (0, 0)
        read.add(f"image {key!r}", item.get("file_name"), size, objects.get(key, ()) if _is_key(key) else ())
    read.order = [names[key] for key in sorted(names, key=lambda key: (isinstance(key, str), key))]


def read_csv(read: Source) -> None:
    """Lines `path,label,x0,y0,x1,y1` with or without these names as a first line; several lines for several boxes.

    Corners are taken as they are, in pixels from 0; sizes are read from the images below `images`.
    """
    if read.images is None:
        raise WsolkitError(f"a CSV says nothing of the size of its images: {GIVE_IMAGES}")
    first = len(read.fields) - len(CORNERS)  # column of the box
    for place, (number, line) in enumerate(read_lines(read.place)):
        item = f"line {number} {line[:120]!r}"
        with read.noting(item):
            row = [clean(field) for field in next(csv.reader([line], skipinitialspace=True, strict=True))]
            if place or tuple(field.lower() for field in row) != read.fields:
                label = "".join(row[1:first]) if "label" in read.fields else UNNAMED
                read.add(item, row[0], (0, 0), [(item, label, row[first:])], again=True)


def _names_by_stem(folder: Path) -> dict[str, str]:
    """Name without ending -> name of each image in a folder; annotations may lie beside the images."""
    return {Path(name).stem: name for name in sorted(file_names(folder), reverse=True) if _is_image(name)}


def _stated(side: str | float) -> int:
    """A side of an image in pixels, 640 or 640.0; 0 where it is not known."""
    with contextlib.suppress(ValueError, OverflowError):
        if 0 < (number := float(side)) < MOST_PIXELS and number.is_integer():
            return int(number)
    return 0


def _text(element: ElementTree.Element, path: str) -> str:
    """The text at a path, "" where there is none. ValueError where there are several: nobody knows which is meant."""
    texts = [item.text or "" for item in element.findall(path)]
    if len(texts) > 1:
        raise ValueError(f"<{path}> is there {len(texts)} times, where one is expected")
    return clean("".join(texts))


def _is_label(name: Any) -> bool:
    return isinstance(name, str) and bool(clean(name)) and not CONTROL.search(name)


def _is_key(value: Any) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)

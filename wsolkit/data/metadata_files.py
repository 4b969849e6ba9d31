"""The metadata folders of wsolevaluation (Choe et al., CVPR 2020): text files that say which image holds what."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wsolkit.data.annotations import is_inside, listing, read_lines
from wsolkit.data.catalogue import SPLITS

IDS, LABELS, SIZES = "image_ids.txt", "class_labels.txt", "image_sizes.txt"
LOCALIZATION, CLASSES = "localization.txt", "classes.txt"
NEEDS = ("class_labels", "image_sizes", "localization")
MOST_CLASSES = 1_000_000  # a larger number in the place of a label is an id or a mistake
Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class MaskFiles:
    """Mask files of one image, relative to the folder of masks: one per instance, and the ignored region or None."""

    paths: tuple[str, ...]
    ignore: str | None = None


@dataclass(frozen=True, eq=False)
class Metadata:
    """One split as its files tell it.

    Attributes:
        folder: the folder of the split.
        ids: N image paths, in the order of image_ids.txt.
        labels: (N,) int64, 0-based.
        sizes: id -> (width, height) in pixels; empty where there is no image_sizes.txt.
        boxes: id -> boxes (x0, y0, x1, y1) in pixels of the original image, inclusive corners; empty unless kind "boxes".
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
    image_sizes.txt (`path,width,height`) and localization.txt: either `path,x0,y0,x1,y1` (whole or decimal numbers; more
    lines for more boxes) or `path,mask,ignore` (the ignore file in the first line of an image only, or nowhere). Labels,
    sizes and boxes are split from the right, so that a path may hold commas; in a file of masks it may not.

    Args:
        folder: the folder of the split (it holds image_ids.txt) or the one above (it holds <split>/image_ids.txt).
        split: the name of the split, "train", "val" or "test".
        need: the files that must tell of every id, of "class_labels" (always needed), "image_sizes" (asked for unless
            localization.txt holds masks, which need no sizes) and "localization". A file that is not needed is read if it
            is there, and may leave out ids.

    Raises:
        FileNotFoundError: a folder or a file that is needed is missing.
        ValueError: the folder is that of another split; or one error for each file, which lists its malformed lines,
            duplicates, boxes outside the image and ids without an entry (the first 20).
    """
    if unknown := sorted(set(need) - set(NEEDS)):
        raise ValueError(f"need names {listing(unknown)}; choose from {', '.join(NEEDS)}")
    folder = _split_folder(Path(folder).expanduser(), split)
    ids = _read_ids(folder / IDS)
    known = {name: name for name in ids}  # the equal strings of other files give way to these, which saves memory
    labels, _ = read_labels(folder / LABELS, known)
    kind = _kind(folder / LOCALIZATION, required="localization" in need)
    sizes = _read_sizes(folder / SIZES, known, required="image_sizes" in need and kind != "masks")
    boxes: dict[str, tuple[Box, ...]] = {}
    masks: dict[str, MaskFiles] = {}
    if kind == "boxes":
        boxes = _read_boxes(folder / LOCALIZATION, known, sizes, complete="localization" in need)
    elif kind == "masks":
        masks = _read_masks(folder / LOCALIZATION, known, complete="localization" in need)
    return Metadata(folder, ids, np.array([labels[name] for name in ids], np.int64), sizes, boxes, masks, kind)


def read_labels(path: Path, known: dict[str, str] | None = None) -> tuple[dict[str, int], int]:
    """class_labels.txt -> (id -> label of every id in `known`, the highest label of any line)."""
    labels: dict[str, int] = {}
    problems = []
    highest = -1
    for number, line in read_lines(_required(path)):
        name, _, text = line.rpartition(",")
        label = _whole(text)
        if not name or label is None or label >= MOST_CLASSES:
            problems.append(_wrong(number, line))
            continue
        highest = max(highest, label)
        if known is not None and (name := known.get(name)) is not None:
            if name in labels:
                problems.append(_repeated(number, name))
            labels[name] = label
    problems += _absent(known or {}, labels)
    refuse(path, problems, "expected lines 'path,label' with whole numbers from 0, one for each id of image_ids.txt")
    return labels, highest


def read_classes(path: Path) -> list[str]:
    """classes.txt: the name of a class in each line, the first is that of label 0."""
    names: list[str] = []
    for number, line in read_lines(path):
        if number != len(names) + 1:
            raise ValueError(f"{path}, line {number - 1} is empty; its class needs a name, since lines are counted")
        names.append(line)
    return names


def touches(box: Sequence[float], size: tuple[int, int]) -> bool:
    """Whether a box (x0, y0, x1, y1) holds at least one pixel of an image of `size` (width, height)."""
    return box[0] < size[0] and box[1] < size[1] and box[2] >= 0 and box[3] >= 0


def corners(fields: Sequence[str]) -> Box | None:
    """Four texts as x0, y0, x1, y1, or None where they are no numbers or the wrong way round."""
    try:
        x0, y0, x1, y1 = map(float, fields)
    except ValueError:
        return None
    ordered = -math.inf < x0 <= x1 < math.inf and -math.inf < y0 <= y1 < math.inf
    return (x0, y0, x1, y1) if ordered else None


def _split_folder(folder: Path, split: str) -> Path:
    if (folder / split / IDS).is_file():
        return folder / split
    if (folder / IDS).is_file():
        name = folder.resolve().name
        if name in SPLITS and name != split:  # test images must not pass for validation
            raise ValueError(f"{folder} is the folder of split '{name}', but '{split}' is asked for; give its own")
        return folder
    what = f"holds neither {split}/{IDS} nor {IDS}" if folder.is_dir() else "does not exist"
    raise FileNotFoundError(f"{folder} {what}; expected a metadata folder in the layout of wsolevaluation")


def _required(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; expected a metadata folder in the layout of wsolevaluation")
    return path


def _read_ids(path: Path) -> list[str]:
    ids: dict[str, int] = {}
    problems = []
    for number, line in read_lines(path):
        if not is_inside(line):
            problems.append(_wrong(number, line))
        elif line in ids:
            problems.append(_repeated(number, line))
        ids[line] = number
    if not ids:
        raise ValueError(f"{path} is empty; expected the path of an image in each line")
    refuse(path, problems, "expected the path of an image in each line, below the folder of images and each once")
    return list(ids)


def _kind(path: Path, required: bool) -> str:
    """What a localization.txt holds; a line of a mask has exactly two commas, that of a box four at least."""
    if not required and not path.is_file():
        return "none"
    _, first = next(read_lines(_required(path)), (0, ""))
    if first:
        return "masks" if first.count(",") == 2 else "boxes"
    if required:
        raise ValueError(f"{path} is empty; expected lines 'path,x0,y0,x1,y1' or 'path,mask,ignore'")
    return "none"


def _read_sizes(path: Path, known: dict[str, str], required: bool) -> dict[str, tuple[int, int]]:
    sizes: dict[str, tuple[int, int]] = {}
    if not required and not path.is_file():
        return sizes
    problems = []
    for number, line in read_lines(_required(path)):
        name, *fields = line.rsplit(",", 2)
        size = tuple(map(_whole, fields))
        if len(size) != 2 or not all(size) or not name:
            problems.append(_wrong(number, line))
        elif (name := known.get(name)) is not None:
            if name in sizes:
                problems.append(_repeated(number, name))
            sizes[name] = size
    problems += _absent(known, sizes) if required else []
    refuse(
        path,
        problems,
        "expected lines 'path,width,height' with whole numbers above 0, one for each id of image_ids.txt",
    )
    return sizes


def _read_boxes(
    path: Path, known: dict[str, str], sizes: dict[str, tuple[int, int]], complete: bool
) -> dict[str, tuple[Box, ...]]:
    boxes: dict[str, tuple[Box, ...]] = {}
    problems = []
    for number, line in read_lines(path):
        name, *fields = line.rsplit(",", 4)
        box = corners(fields) if len(fields) == 4 and name else None
        if box is None:
            problems.append(_wrong(number, line))
        elif (name := known.get(name)) is not None:
            size = sizes.get(name)
            if size is not None and not touches(box, size):
                problems.append(f"line {number} (the box lies outside {name}, which is {size[0]} x {size[1]} pixels)")
            boxes[name] = (*boxes.get(name, ()), box)
    problems += _absent(known, boxes) if complete else []
    expected = "expected lines 'path,x0,y0,x1,y1' with x0 <= x1 and y0 <= y1, at least one for each id of image_ids.txt"
    refuse(path, problems, f"{expected}, and no lines of masks among them")
    return boxes


def _read_masks(path: Path, known: dict[str, str], complete: bool) -> dict[str, MaskFiles]:
    masks: dict[str, MaskFiles] = {}
    problems = []
    for number, line in read_lines(path):
        fields = [item.strip() for item in line.split(",")]
        if len(fields) != 3 or not is_inside(fields[1]) or (fields[2] and not is_inside(fields[2])):
            problems.append(_wrong(number, line))
        elif (name := known.get(fields[0])) is not None:
            earlier = masks.get(name)
            if earlier is None:
                masks[name] = MaskFiles((fields[1],), fields[2] or None)
                continue
            if fields[2]:
                problems.append(f"line {number} (a second line of {name} with an ignore file)")
            masks[name] = MaskFiles((*earlier.paths, fields[1]), earlier.ignore)
    problems += _absent(known, masks) if complete else []
    expected = "expected lines 'path,mask,ignore', the ignore file in the first line of an image only or left empty"
    refuse(path, problems, f"{expected}, at least one for each id of image_ids.txt, and no lines of boxes among them")
    return masks


def _whole(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdecimal() and len(text) < 10 else None


def _wrong(number: int, line: str) -> str:
    return f"line {number} {line[:120]!r}"


def _repeated(number: int, name: str) -> str:
    return f"line {number} ({name} is there already)"


def _absent(known: dict[str, str], entries: dict) -> list[str]:
    return [f"no line for {name}" for name in known if name not in entries]


def refuse(path: Path, problems: list[str], advice: str) -> None:
    """Raise one ValueError about all problems of a file (the first 20 are listed) if there is any."""
    if problems:
        count = f"{len(problems)} entries are" if len(problems) > 1 else "one entry is"
        raise ValueError(f"{path}: {count} wrong: {listing(problems)}; {advice}")

"""Any images as a data set: a folder of images, and a metadata folder of wsolevaluation (Choe et al., CVPR 2020), whose
text files and mask files say what the images show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing
from wsolkit.data import annotations as files
from wsolkit.data.annotations import Box, checked, columns, existing_folder, inside, read_lines, read_table, whole
from wsolkit.data.base import WSOLDataset
from wsolkit.data.catalogue import SPLITS
from wsolkit.data.images import image_sizes
from wsolkit.data.samples import MaskFiles, Request, Sample

IDS, LABELS, SIZES = "image_ids.txt", "class_labels.txt", "image_sizes.txt"
LOCALIZATION, CLASSES = "localization.txt", "classes.txt"
LAYOUT = "expected a metadata folder in the layout of wsolevaluation"
NEEDS = ("class_labels", "image_sizes", "localization")
MOST_CLASSES = 1_000_000  # a larger number in the place of a label is an id or a mistake


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
    folder = _split_folder(Path(folder).expanduser(), split)
    path, form = folder / IDS, "the path of an image in each line"
    ids = list(read_table(path, columns(inside), f"{form}, below the folder of images and each once"))
    if not ids:
        raise WsolkitError(f"{path} is empty; expected {form}")
    known = {name: name for name in ids}  # the equal strings of other files give way to these, which saves memory

    def table(file: str, needed: bool, kind: str = "", problem: Any = None) -> dict[str, Any]:
        if not needed and not (folder / file).is_file():
            return {}
        path, kind = folder / file, kind or file
        form = f"{_FORMS[kind]}, {'at least ' if problem else ''}one for each id of {IDS}"
        return read_table(path, _LINES[kind], form, known, needed, problem)

    labels = table(LABELS, True)
    path, complete = folder / LOCALIZATION, "localization" in need
    first = next(read_lines(path), (0, ""))[1] if complete or path.is_file() else ""
    if complete and not first:
        raise WsolkitError(f"{path} is empty; expected lines 'path,x0,y0,x1,y1' or 'path,mask,ignore'")
    # a line of a mask has exactly two commas, that of a box four at least
    kind = "none" if not first else "masks" if first.count(",") == 2 else "boxes"
    sizes = table(SIZES, "image_sizes" in need and kind != "masks")

    def problem(name: str, earlier: list | None, value: Any) -> str:
        if kind == "masks":
            return f"a second line of {name} with an ignore file" if earlier and value[1] else ""
        fits = name not in sizes or files.touches(value, sizes[name])
        return "" if fits else f"the box lies outside {name}, which is {sizes[name][0]} x {sizes[name][1]} pixels"

    rows = table(LOCALIZATION, complete, kind, problem) if first else {}
    boxes = {name: tuple(own) for name, own in rows.items()} if kind == "boxes" else {}
    masks = rows if kind == "masks" else {}
    masks = {name: MaskFiles(tuple(mask for mask, _ in own), own[0][1]) for name, own in masks.items()}
    return Metadata(folder, ids, np.array([labels[name] for name in ids], np.int64), sizes, boxes, masks, kind)


def _mask_line(line: str) -> tuple[str, tuple[str, str | None]]:
    name, mask, ignore = (item.strip() for item in line.split(","))
    return name, (inside(mask), inside(ignore) if ignore else None)


_name, _side, _label = checked(str, bool), checked(whole, bool), checked(whole, lambda label: label < MOST_CLASSES)
_LINES: dict[str, files.Parser] = {
    LABELS: columns(_name, _label, right=True),
    SIZES: columns(_name, _side, _side, right=True),
    "boxes": columns(_name, *[float] * 4, right=True, make=files.corners),
    "masks": _mask_line,
}
_FORMS = {  # what the lines must be
    LABELS: "lines 'path,label' with whole numbers from 0",
    SIZES: "lines 'path,width,height' with whole numbers above 0",
    "boxes": "lines 'path,x0,y0,x1,y1' with x0 <= x1 and y0 <= y1, and no lines of masks among them",
    "masks": "lines 'path,mask,ignore', the ignore file in an image's first line only, no lines of boxes among them",
}


def highest_label(path: Path) -> int:
    """The highest label of any line of a class_labels.txt, -1 where it has none."""
    labels = read_table(path, _LINES[LABELS], _FORMS[LABELS], problem=lambda *_: "")
    return max(map(max, labels.values()), default=-1)


def read_classes(path: Path) -> list[str]:
    """classes.txt: the name of a class in each line, the first is that of label 0."""
    names: list[str] = []
    for number, line in read_lines(path):
        if number != len(names) + 1:
            raise WsolkitError(f"{path}, line {number - 1} is empty; its class needs a name, since lines are counted")
        names.append(line)
    return names


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
        masks: the folder that the paths of masks are relative to; for metadata with masks only.

    Raises:
        WsolkitError: naming the file and the lines, or the argument; also boxes with `masks`, or masks without it.
        FileNotFoundError: a folder, a file, some of the images or some of the masks are missing.
    """
    split, needs = asked.split, "dataset 'metadata' needs"
    root = existing_folder(asked.root, f"{needs} root=, the folder that the paths of {IDS} are relative to (--root)")
    place = f"{needs} metadata=, the folder that holds train/, test/ and perhaps val/ (--metadata)"
    folder = existing_folder(metadata, place)
    if (folder / IDS).is_file():
        above = "give the folder above it, which holds train/ and test/"
        raise WsolkitError(f"{folder} is the folder of one split; {above}")
    shared = not (folder / "val").is_dir()  # the folder train/ is for "train" and "val"
    source = "train" if split == "val" and shared else split
    needed = source != "train" and (folder / source / LOCALIZATION).is_file()
    read = read_metadata(folder, source, ("class_labels", "localization") if needed else ("class_labels",))
    path, masks_root = read.folder / LOCALIZATION, Path()
    if masks is not None:
        if read.kind == "boxes":
            raise WsolkitError(f"{path} holds boxes, not mask files: leave out masks= (--masks)")
        place = f"{needs} masks=, the folder that the mask files of {LOCALIZATION} are relative to (--masks)"
        masks_root = existing_folder(masks, place)
    elif needed and read.kind == "masks":
        raise WsolkitError(f"{path} names mask files: give masks= (--masks), the folder that they are relative to")

    classes, label_of = asked.select(_class_names(folder))
    places = asked.own(read.labels) if source == "train" and shared else range(len(read.ids))
    known = {read.ids[place]: int(read.labels[place]) for place in places}
    names = {name: label_of[label] for name, label in known.items() if label in label_of}
    files.require_images(root, names)
    sizes = read.sizes
    if source == "test" and read.kind == "boxes" and (unknown := [name for name in names if name not in sizes]):
        sizes = sizes | image_sizes(root, unknown)
        files.refuse_outside(path, {name: read.boxes[name] for name in names}, sizes)
    own = {
        name: replace(read.masks[name], root=masks_root) for name in names if masks is not None and name in read.masks
    }
    files.require_images(masks_root, (path for m in own.values() for path in (*m.paths, m.ignore) if path))
    samples = [
        Sample(name, label, read.boxes.get(name, ()), root / name, sizes.get(name), own.get(name))
        for name, label in names.items()
    ]
    return WSOLDataset("metadata", split, classes, samples, asked.geometry)


def _class_names(folder: Path) -> list[str]:
    """One different name for each label of any split."""
    highest = {path: highest_label(path) for split in SPLITS if (path := folder / split / LABELS).is_file()}
    tables = [table for place in ("", *SPLITS) if (table := folder / place / CLASSES).is_file()]
    names = read_classes(tables[0]) if tables else [str(label) for label in range(max(highest.values()) + 1)]
    if short := [path for path, label in highest.items() if label >= len(names)]:
        wrong = f"{tables[0]} names {len(names)} classes, but {short[0]} has label {highest[short[0]]}"
        raise WsolkitError(f"{wrong}; add the missing lines")
    count = Counter(names)
    return [f"{name} ({label})" if count[name] > 1 else name for label, name in enumerate(names)]

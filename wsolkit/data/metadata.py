"""Any images as a data set: a folder of images, and a metadata folder of wsolevaluation (Choe et al., CVPR 2020), whose text
files say what they show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing
from wsolkit.data.annotations import (
    Box,
    corners,
    existing_folder,
    inside,
    read_lines,
    read_table,
    refuse_outside,
    require_images,
    touches,
    whole,
)
from wsolkit.data.base import WSOLDataset
from wsolkit.data.catalogue import SPLITS
from wsolkit.data.images import image_sizes
from wsolkit.data.masks import instance_boxes, read_mask
from wsolkit.data.samples import Request, Sample, Target

IDS, LABELS, SIZES = "image_ids.txt", "class_labels.txt", "image_sizes.txt"
LOCALIZATION, CLASSES = "localization.txt", "classes.txt"
LAYOUT = "expected a metadata folder in the layout of wsolevaluation"
NEEDS = ("class_labels", "image_sizes", "localization")
MOST_CLASSES = 1_000_000  # a larger number in the place of a label is an id or a mistake


# -- the files of a split ----------------------------------------------------------------------------------------------


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
        WsolkitError: the folder is that of another split; or one error for each file, which lists its malformed lines,
            duplicates, boxes outside the image and ids without an entry (the first 20).
    """
    if unknown := sorted(set(need) - set(NEEDS)):
        raise WsolkitError(f"need names {listing(unknown)}; choose from {', '.join(NEEDS)}")
    folder = _split_folder(Path(folder).expanduser(), split)
    path, form = folder / IDS, "the path of an image in each line"
    ids = list(read_table(path, lambda line: (inside(line), True), f"{form}, below the folder of images and each once"))
    if not ids:
        raise WsolkitError(f"{path} is empty; expected {form}")
    known = {name: name for name in ids}  # the equal strings of other files give way to these, which saves memory
    labels, _ = read_labels(folder / LABELS, known)
    path, complete = folder / LOCALIZATION, "localization" in need
    kind = _kind(path, complete)
    sizes = _read_sizes(folder / SIZES, known, required="image_sizes" in need and kind != "masks")
    boxes = _read_boxes(path, known, sizes, complete) if kind == "boxes" else {}
    masks = _read_masks(path, known, complete) if kind == "masks" else {}
    return Metadata(folder, ids, np.array([labels[name] for name in ids], np.int64), sizes, boxes, masks, kind)


def _row(line: str, count: int) -> list[str]:
    """The path and `count` fields of a line, split from the right, since a path may hold commas; ValueError for others."""
    row = line.rsplit(",", count)
    if not row[0] or len(row) <= count:
        raise ValueError
    return row


def read_labels(path: Path, known: dict[str, str] | None = None) -> tuple[dict[str, int], int]:
    """class_labels.txt -> (id -> label of every id in `known`, the highest label of any line)."""
    highest = -1

    def parse(line: str) -> tuple[str, int]:
        nonlocal highest
        name, text = _row(line, 1)
        if (label := whole(text)) >= MOST_CLASSES:
            raise ValueError
        highest = max(highest, label)
        return name, label

    form = "lines 'path,label' with whole numbers from 0, one for each id of image_ids.txt"
    return read_table(_required(path), parse, form, known or {}), highest


def _kind(path: Path, required: bool) -> str:
    """What a localization.txt holds; a line of a mask has exactly two commas, that of a box four at least."""
    if not required and not path.is_file():
        return "none"
    _, first = next(read_lines(_required(path)), (0, ""))
    if required and not first:
        raise WsolkitError(f"{path} is empty; expected lines 'path,x0,y0,x1,y1' or 'path,mask,ignore'")
    return "none" if not first else "masks" if first.count(",") == 2 else "boxes"


def _read_sizes(path: Path, known: dict[str, str], required: bool) -> dict[str, tuple[int, int]]:
    def parse(line: str) -> tuple[str, tuple[int, int]]:
        name, *fields = _row(line, 2)
        width, height = map(whole, fields)
        if not (width and height):
            raise ValueError
        return name, (width, height)

    if not required and not path.is_file():
        return {}
    form = "lines 'path,width,height' with whole numbers above 0, one for each id of image_ids.txt"
    return read_table(_required(path), parse, form, known, required)


def _read_boxes(path: Path, known: dict, sizes: dict, complete: bool) -> dict[str, tuple[Box, ...]]:
    def parse(line: str) -> tuple[str, Box]:
        name, *fields = _row(line, 4)
        return name, corners(fields)

    def add(name: str, earlier: tuple[Box, ...] | None, box: Box) -> tuple[Box, ...]:
        size = sizes.get(name)
        if size is not None and not touches(box, size):
            raise ValueError(f"the box lies outside {name}, which is {size[0]} x {size[1]} pixels")
        return (*(earlier or ()), box)

    form = "lines 'path,x0,y0,x1,y1' with x0 <= x1 and y0 <= y1, at least one for each id of image_ids.txt"
    return read_table(path, parse, f"{form}, and no lines of masks among them", known, complete, add)


def _read_masks(path: Path, known: dict, complete: bool) -> dict[str, MaskFiles]:
    def parse(line: str) -> tuple[str, MaskFiles]:
        name, mask, ignore = (item.strip() for item in line.split(","))
        return name, MaskFiles((inside(mask),), inside(ignore) if ignore else None)

    def add(name: str, earlier: MaskFiles | None, new: MaskFiles) -> MaskFiles:
        if earlier is None:
            return new
        if new.ignore:
            raise ValueError(f"a second line of {name} with an ignore file")
        return MaskFiles((*earlier.paths, *new.paths), earlier.ignore)

    form = "lines 'path,mask,ignore', the ignore file in the first line of an image only or left empty"
    form += ", at least one for each id of image_ids.txt, and no lines of boxes among them"
    return read_table(path, parse, form, known, complete, add)


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


def _required(path: Path) -> Path:
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; {LAYOUT}")
    return path


# -- the data set ------------------------------------------------------------------------------------------------------


@dataclass(eq=False, repr=False)
class MetadataDataset(WSOLDataset):
    """See `open_metadata`. Boxes and masks are those of the files; where there are masks, the boxes of a target are the
    bounding boxes of their instances. `localised` tells whether every image has either.

    Attributes:
        sizes: id -> (width, height) of the original image, where it is known without opening it.
        masks: id -> mask files, below `masks_root`; empty for a dataset with boxes.
    """

    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    masks: dict[str, MaskFiles] = field(default_factory=dict)
    masks_root: Path = Path()

    def target(self, index: int) -> Target:
        sample = self.samples[index]
        if files := self.masks.get(sample.id):
            boxes = self.geometry.boxes(*instance_boxes(self.masks_root, files.paths))
            mask = read_mask(self.masks_root, files.paths, files.ignore, self.geometry.side)
            return Target(sample.label, boxes, torch.from_numpy(self.geometry.crop(mask).copy()), sample.id)
        if sample.boxes and sample.id not in self.sizes:
            return super().target(index)  # which opens the image
        boxes = self.geometry.boxes(sample.boxes, self.sizes.get(sample.id, (1, 1)))
        return Target(sample.label, boxes, None, sample.id)

    @property
    def localised(self) -> bool:
        return all(sample.boxes or sample.id in self.masks for sample in self.samples)


def open_metadata(
    asked: Request, metadata: str | Path | None = None, masks: str | Path | None = None
) -> MetadataDataset:
    """Open one split of a metadata folder; see `read_metadata` for its files.

    A split needs image_ids.txt and class_labels.txt; boxes that the localization.txt of "train" may hold are kept. Where there
    is a folder val/, it is the split "val"; else "val" is a share of train/ that depends on `seed` and `val_share` alone, and
    "train" the rest. The localization.txt of "test" and "val" may be absent: `dataset.localised` is False then. Such a
    validation split chooses the epoch of a training run but no threshold, and a report on such a test split has numbers of
    classification only. Sizes come from
    image_sizes.txt or, where it is absent, from the headers of the images.

    There are as many classes as the highest label in the class_labels.txt of all splits says, plus one, or as classes.txt
    has lines (one name per line, from label 0; it lies beside the folders of the splits, or in one of them). Without
    names the classes are called "0", "1", ...

    Args:
        asked: as in `load_dataset`; `root` is the folder that the paths of image_ids.txt are relative to. Chosen classes
            are labelled anew from 0.
        metadata: the folder that holds train/, test/ and perhaps val/.
        masks: the folder that the paths of masks are relative to; for metadata with masks only.

    Raises:
        WsolkitError: naming the file and the lines, or the argument; also boxes where `masks` is given, or masks where not.
        FileNotFoundError: a folder, a file, some of the images or some of the masks are missing.
    """
    split = asked.split
    root = _folder(asked.root, "root=, the folder that the paths of image_ids.txt are relative to (--root)")
    folder = _folder(metadata, "metadata=, the folder that holds train/, test/ and perhaps val/ (--metadata)")
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
        masks_root = _folder(
            masks, "masks=, the folder that the mask files of localization.txt are relative to (--masks)"
        )
    elif needed and read.kind == "masks":
        raise WsolkitError(f"{path} names mask files: give masks= (--masks), the folder that they are relative to")

    classes, label_of = asked.select(_class_names(folder))
    places = asked.own(read.labels) if source == "train" and shared else range(len(read.ids))
    known = [(read.ids[place], int(read.labels[place])) for place in places]
    samples = [
        Sample(name, label_of[label], read.boxes.get(name, ()), root / name)
        for name, label in known
        if label in label_of
    ]
    if not samples:
        raise WsolkitError(f"{read.folder / IDS} leaves no image for split '{split}' of the chosen classes")
    names = [sample.id for sample in samples]
    require_images(root, names)
    sizes = read.sizes
    if source == "test" and read.kind == "boxes" and (unknown := [name for name in names if name not in sizes]):
        sizes = sizes | image_sizes(root, unknown)
        refuse_outside(path, {sample.id: sample.boxes for sample in samples}, sizes)
    files = {} if masks is None else {name: read.masks[name] for name in names if name in read.masks}
    require_images(masks_root, (p for own in files.values() for p in (*own.paths, own.ignore) if p))
    more: dict[str, Any] = {"sizes": sizes, "masks": files, "masks_root": masks_root}
    return MetadataDataset("metadata", split, classes, samples, asked.geometry, **more)


def _folder(path: str | Path | None, needed: str) -> Path:
    advice = f"dataset 'metadata' needs {needed}"
    if path is None:
        raise WsolkitError(advice)
    return existing_folder(path, advice)


def _class_names(folder: Path) -> list[str]:
    """One different name for each label of any split."""
    highest = {path: read_labels(path)[1] for split in SPLITS if (path := folder / split / LABELS).is_file()}
    tables = [
        table for place in (folder, *(folder / split for split in SPLITS)) if (table := place / CLASSES).is_file()
    ]
    if not tables:
        return [str(label) for label in range(max(highest.values()) + 1)]
    names = read_classes(tables[0])
    if short := [path for path, label in highest.items() if label >= len(names)]:
        wrong = f"{tables[0]} names {len(names)} classes, but {short[0]} has label {highest[short[0]]}"
        raise WsolkitError(f"{wrong}; add the missing lines")
    count = Counter(names)
    return [f"{name} ({label})" if count[name] > 1 else name for label, name in enumerate(names)]

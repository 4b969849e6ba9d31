"""Tiny-ImageNet-200 (Stanford CS231n) in its native folder, or any subset of it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing
from wsolkit.data.annotations import (
    Box,
    corners,
    file_names,
    find_root,
    is_inside,
    read_table,
    require_images,
    touches,
)
from wsolkit.data.base import WSOLDataset
from wsolkit.data.samples import Request, Sample

SIDE = 64  # of every image, in pixels
SUFFIXES = (".jpeg", ".jpg", ".png")


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
    wnids = _read_wnids(root)
    names = _read_names(root / "words.txt", wnids)
    if isinstance(asked.classes, list | tuple):
        asked = replace(asked, classes=[wnids.index(item) if item in wnids else item for item in asked.classes])
    classes, label_of = asked.select(names)
    samples: list[Sample] = []
    if asked.split == "test":
        samples = _read_test(root, {wnids[index]: label for index, label in label_of.items()})
    else:
        for index, label in label_of.items():
            members = _read_train(root, wnids[index], label)
            # one class at a time, drawn by its place in wnids.txt: the choice of classes does not move the split
            samples += [members[place] for place in asked.own([index] * len(members))]
    if not samples:
        raise WsolkitError(f"{root} has no image for split '{asked.split}' of the chosen classes")
    return WSOLDataset("tiny_imagenet", asked.split, classes, samples, asked.geometry)


def _read_wnids(root: Path) -> list[str]:
    """Class ids of wnids.txt that have a folder in train/, in the order of the file."""

    def parse(line: str) -> tuple[str, bool]:
        if not re.fullmatch(r"[\w-]+", line):
            raise ValueError
        return line, True

    path, folders = root / "wnids.txt", file_names(root / "train")
    wnids = [wnid for wnid in read_table(path, parse, "one class id such as n01443537 in each line") if wnid in folders]
    if not wnids:
        raise WsolkitError(f"{path} names no class that has a folder in {root / 'train'}; fetch the dataset again")
    return wnids


def _read_names(path: Path, wnids: list[str]) -> list[str]:
    """A readable name for each class, all different."""

    def parse(line: str) -> tuple[str, str]:
        wnid, words = line.split("\t", 1)
        return wnid, words.split(",")[0].strip() or wnid

    first = {wnid: wnid for wnid in wnids}
    if path.exists():
        first |= read_table(path, parse, "lines 'id', a tab and names", first, complete=False)
    names = list(first.values())
    return [name if names.count(name) == 1 else f"{name} ({wnid})" for wnid, name in first.items()]


def _read_train(root: Path, wnid: str, label: int) -> list[Sample]:
    """The images of one class, by file name; each must have a box and each box an image."""
    path, folder = root / "train" / wnid / f"{wnid}_boxes.txt", root / "train" / wnid / "images"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; fetch the dataset again or remove {wnid} from wnids.txt")
    table = _read_boxes(path, "'file x0 y0 x1 y1'", 0)
    require_images(folder, table)
    if unknown := sorted(n for n in file_names(folder) - set(table) if n.lower().endswith(SUFFIXES)):
        raise WsolkitError(f"{path} has no line for {len(unknown)} images: {listing(unknown)}; add or remove them")
    return [Sample(f"{wnid}/{file}", label, (box,), folder / file) for file, (_, box) in sorted(table.items())]


def _read_test(root: Path, label_of: dict[str, int]) -> list[Sample]:
    """The images of val/, in the order of val_annotations.txt; lines of other classes are passed over."""
    folder = root / "val" / "images"
    table = _read_boxes(root / "val" / "val_annotations.txt", "'file class x0 y0 x1 y1'", 1)
    table = {file: (names, box) for file, (names, box) in table.items() if names[0] in label_of}
    require_images(folder, table)
    return [Sample(f"val/{file}", label_of[wnid], (box,), folder / file) for file, ([wnid], box) in table.items()]


def _read_boxes(path: Path, form: str, names: int) -> dict[str, tuple[list[str], Box]]:
    """File name -> (the `names` texts that come before the box, the box)."""

    def parse(line: str) -> tuple[str, tuple[list[str], Box]]:
        file, *fields = line.split("\t")
        box = corners(fields[names:])
        if not is_inside(file) or "/" in file or "\\" in file or min(box) < 0 or not touches(box, (SIDE, SIDE)):
            raise ValueError
        return file, (fields[:names], box)

    limits = f"0 <= x0 <= x1, 0 <= y0 <= y1, x0 and y0 below {SIDE}, each file once"
    return read_table(path, parse, f"lines {form} with tabs between, {limits}")

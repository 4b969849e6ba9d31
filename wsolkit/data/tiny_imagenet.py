"""Tiny-ImageNet-200 (Stanford CS231n) in its native folder, or any subset of it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from wsolkit.data.annotations import (
    file_names,
    find_root,
    finite,
    is_inside,
    listing,
    malformed,
    read_lines,
    refuse_options,
    require_images,
)
from wsolkit.data.base import WSOLDataset
from wsolkit.data.samples import Geometry, Sample, select_classes, stratified_split

FOLDER = "tiny-imagenet-200"
FILES = ("wnids.txt", "train", "val/val_annotations.txt", "val/images")
SIDE = 64  # of every image, in pixels
SUFFIXES = (".jpeg", ".jpg", ".png")
Box = tuple[float, float, float, float]


def open_tiny_imagenet(
    split: str,
    root: str | Path | None = None,
    size: int = 64,
    geometry: str = "resize",
    classes: list[str | int] | int | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    **options: Any,
) -> WSOLDataset:
    """Open one split of a Tiny-ImageNet-200 folder.

    The classes are those of wnids.txt that have a folder in train/, in the order of wnids.txt (a list of classes is
    labelled in its own order). `dataset.classes` holds the first name that words.txt gives them ("goldfish"), followed
    by the id in brackets where two would be alike, or the id alone where words.txt is absent. Boxes are inclusive
    corners. The official test images have no labels: "test" is the folder val/, "val" a share of train/ that depends on
    `seed` and `val_share` alone (an image held out with all classes is held out with a few), "train" the rest.

    Args:
        split: "train", "val" or "test", see above.
        root: the tiny-imagenet-200 folder or its parent.
        size, geometry, classes, val_share, seed: as in `load_dataset`; classes by id ("n01443537") or name.

    Raises:
        ValueError: naming the file and the line (malformed, duplicate, box outside the image), or the argument.
        FileNotFoundError: the folder, one of its files or some of the images are missing.
    """
    refuse_options("tiny_imagenet", options)
    root = find_root(root, "tiny_imagenet", FOLDER, FILES)
    wnids = _read_wnids(root)
    names = _read_names(root / "words.txt", wnids)
    if isinstance(classes, list | tuple):
        position = {wnid: i for i, wnid in enumerate(wnids)}
        classes = [position.get(item, item) for item in classes]
    chosen = select_classes(names, classes)
    samples: list[Sample] = []
    if split == "test":
        samples = _read_test(root, {wnids[index]: label for label, index in enumerate(chosen)})
    else:
        for label, index in enumerate(chosen):
            members = _read_train(root, wnids[index], label)
            # one class at a time, drawn by its place in wnids.txt: the choice of classes does not move the split
            rest, held = stratified_split([index] * len(members), val_share, seed)
            samples.extend(members[k] for k in (held if split == "val" else rest))
    if not samples:
        raise ValueError(f"{root} has no image for split '{split}' of the chosen classes")
    return WSOLDataset("tiny_imagenet", split, [names[i] for i in chosen], samples, Geometry(size, geometry))


def _read_wnids(root: Path) -> list[str]:
    """Class ids of wnids.txt that have a folder in train/, in the order of the file."""
    path, folders = root / "wnids.txt", file_names(root / "train")
    seen: dict[str, int] = {}
    for number, line in read_lines(path):
        if not re.fullmatch(r"[\w-]+", line):
            raise malformed(path, number, line, "one class id such as n01443537")
        if line in seen:
            raise ValueError(f"{path}, line {number}: {line} is already in line {seen[line]}; remove one of them")
        seen[line] = number
    if not any(wnid in folders for wnid in seen):
        raise ValueError(f"{path} names no class that has a folder in {root / 'train'}; fetch the dataset again")
    return [wnid for wnid in seen if wnid in folders]


def _read_names(path: Path, wnids: list[str]) -> list[str]:
    """A readable name for each class, all different."""
    first = {wnid: wnid for wnid in wnids}
    if path.exists():
        for number, line in read_lines(path):
            wnid, tab, words = line.partition("\t")
            if not tab:
                raise malformed(path, number, line, "'id', a tab and names")
            if wnid in first:
                first[wnid] = words.split(",")[0].strip() or wnid
    names = [first[wnid] for wnid in wnids]
    return [name if names.count(name) == 1 else f"{name} ({wnid})" for name, wnid in zip(names, wnids, strict=True)]


def _read_train(root: Path, wnid: str, label: int) -> list[Sample]:
    """The images of one class, by file name; each must have a box and each box an image."""
    path, folder = root / "train" / wnid / f"{wnid}_boxes.txt", root / "train" / wnid / "images"
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; fetch the dataset again or remove {wnid} from wnids.txt")
    boxes: dict[str, Box] = {}
    for number, line in read_lines(path):
        file, _, corners = line.partition("\t")
        box = _box(corners.split("\t")) if _is_name(file) else None
        if box is None:
            raise malformed(path, number, line, _expected("'file x0 y0 x1 y1'"))
        if file in boxes:
            raise ValueError(f"{path}, line {number}: {file} occurs twice; remove one of the lines")
        boxes[file] = box
    require_images(folder, boxes)
    if unknown := sorted(n for n in file_names(folder) - set(boxes) if n.lower().endswith(SUFFIXES)):
        raise ValueError(f"{path} has no line for {len(unknown)} images: {listing(unknown)}; add or remove them")
    return [Sample(f"{wnid}/{file}", label, (boxes[file],), folder / file) for file in sorted(boxes)]


def _read_test(root: Path, label_of: dict[str, int]) -> list[Sample]:
    """The images of val/, in the order of val_annotations.txt; lines of other classes are passed over."""
    path, folder = root / "val" / "val_annotations.txt", root / "val" / "images"
    samples: dict[str, Sample] = {}
    for number, line in read_lines(path):
        file, _, rest = line.partition("\t")
        wnid, _, corners = rest.partition("\t")
        box = _box(corners.split("\t")) if _is_name(file) and wnid else None
        if box is None:
            raise malformed(path, number, line, _expected("'file class x0 y0 x1 y1'"))
        if wnid not in label_of:
            continue
        if file in samples:
            raise ValueError(f"{path}, line {number}: {file} occurs twice; remove one of the lines")
        samples[file] = Sample(f"val/{file}", label_of[wnid], (box,), folder / file)
    require_images(folder, samples)
    return list(samples.values())


def _is_name(file: str) -> bool:
    return is_inside(file) and "/" not in file and "\\" not in file


def _expected(form: str) -> str:
    return f"{form} with tabs between and 0 <= x0 <= x1, 0 <= y0 <= y1, x0 and y0 below {SIDE}"


def _box(fields: list[str]) -> Box | None:
    numbers = finite(fields)
    if numbers is None or len(numbers) != 4:
        return None
    x0, y0, x1, y1 = numbers
    return (x0, y0, x1, y1) if 0 <= x0 <= x1 and 0 <= y0 <= y1 and x0 < SIDE and y0 < SIDE else None

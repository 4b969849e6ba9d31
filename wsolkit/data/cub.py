"""CUB-200-2011 (Wah et al., 2011) in its native folder, or any subset of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from wsolkit.data.annotations import (
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
from wsolkit.data.images import image_size
from wsolkit.data.samples import Geometry, Sample, select_classes, stratified_split

FOLDER = "CUB_200_2011"
FILES = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt", "images")


def open_cub(
    split: str,
    root: str | Path | None = None,
    size: int = 224,
    geometry: str = "resize",
    classes: list[str | int] | int | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    **options: Any,
) -> WSOLDataset:
    """Open one split of a CUB-200-2011 folder.

    images.txt says which images there are: lines of the other files whose id it does not hold are ignored, so a subset
    is made by shortening images.txt alone. Ids need not be consecutive. The classes are those of classes.txt that have
    an image, in the order of their ids, labelled from 0 (a list of classes is labelled in its own order).
    Boxes `x y w h` become the corners x, y, x + w, y + h, cut at the last column and row of the image, as in the metadata
    of wsolevaluation (so the lower right corner lies one pixel beyond the object's, where the image goes on).

    Args:
        split: "test" is the official one; "val" is a share of the official training images that depends on `seed` and
            `val_share` alone (an image held out with all classes is held out with a few), "train" the rest of them.
        root: the CUB_200_2011 folder or its parent.
        size, geometry, classes, val_share, seed: as in `load_dataset`; classes by name ("001.Black_footed_Albatross").

    Raises:
        ValueError: naming the file and the line (malformed, duplicate, box outside the image), or the argument.
        FileNotFoundError: the folder, one of its files or some of the images are missing.
    """
    refuse_options("cub", options)
    root = find_root(root, "cub", FOLDER, FILES)
    paths = _table(root / "images.txt", "'id path', the path below images/", _path)
    _refuse_duplicates(root / "images.txt", paths)
    names = _table(root / "classes.txt", "'id name'", lambda text: text)
    class_of = _column(root / "image_class_labels.txt", "'id class', both whole numbers", _integer, paths)
    is_train = _column(root / "train_test_split.txt", "'id 1' for training or 'id 0' for test", _flag, paths)
    boxes = _column(root / "bounding_boxes.txt", "'id x y width height', width and height above 0", _box, paths)
    if unnamed := sorted({class_of[key][0] for key in paths} - set(names)):
        raise ValueError(f"{root / 'classes.txt'} has no line for class {listing(unnamed)} of image_class_labels.txt")

    used = sorted({class_of[key][0] for key in paths})
    chosen = [used[i] for i in select_classes([names[i][0] for i in used], classes)]
    label_of = {class_id: label for label, class_id in enumerate(chosen)}
    require_images(root / "images", (paths[i][0] for i in paths if class_of[i][0] in label_of))

    training = sorted(i for i in paths if is_train[i][0])
    if split == "test":
        ids = sorted(i for i in paths if not is_train[i][0])
    else:
        rest, held = stratified_split([class_of[i][0] for i in training], val_share, seed)
        ids = [training[k] for k in (held if split == "val" else rest)]
    ids = [i for i in ids if class_of[i][0] in label_of]
    if not ids:
        raise ValueError(f"{root / 'train_test_split.txt'} leaves no image for split '{split}' of the chosen classes")
    samples = [
        Sample(paths[i][0], label_of[class_of[i][0]], (boxes[i][0],), root / "images" / paths[i][0]) for i in ids
    ]
    path = root / "bounding_boxes.txt"
    samples = [_within_frame(path, boxes[i][1], sample) for i, sample in zip(ids, samples, strict=True)]
    return WSOLDataset("cub", split, [names[i][0] for i in chosen], samples, Geometry(size, geometry))


def _table(path: Path, expected: str, parse: Callable[[str], Any]) -> dict[int, tuple[Any, int]]:
    """Lines `id value` -> {id: (parsed value, line number)}; `parse` returns None for what it does not understand."""
    table: dict[int, tuple[Any, int]] = {}
    for number, line in read_lines(path):
        key, _, text = line.replace("\t", " ").partition(" ")
        value = parse(text.strip()) if key.isdecimal() and text.strip() else None
        if value is None:
            raise malformed(path, number, line, expected)
        if int(key) in table:
            raise ValueError(
                f"{path}, line {number}: id {key} is already in line {table[int(key)][1]}; remove one of them"
            )
        table[int(key)] = (value, number)
    if not table:
        raise ValueError(f"{path} is empty; expected lines of {expected}")
    return table


def _column(path: Path, expected: str, parse: Callable[[str], Any], paths: dict) -> dict[int, tuple[Any, int]]:
    table = _table(path, expected, parse)
    if lost := sorted(set(paths) - set(table)):
        raise ValueError(f"{path} has no line for {len(lost)} ids of images.txt: {listing(lost)}; add or remove them")
    return table


def _refuse_duplicates(path: Path, paths: dict[int, tuple[str, int]]) -> None:
    seen: dict[str, int] = {}
    for relative, number in paths.values():
        if relative in seen:
            raise ValueError(
                f"{path}, line {number}: {relative} is already in line {seen[relative]}; remove one of them"
            )
        seen[relative] = number


def _path(text: str) -> str | None:
    return text if is_inside(text) else None


def _integer(text: str) -> int | None:
    return int(text) if text.isdecimal() else None


def _flag(text: str) -> bool | None:
    return {"0": False, "1": True}.get(text)


def _box(text: str) -> tuple[float, float, float, float] | None:
    numbers = finite(text.split())
    if numbers is None or len(numbers) != 4 or min(numbers[2:]) <= 0:
        return None
    x, y, width, height = numbers
    return (x, y, x + width, y + height)


def _within_frame(path: Path, number: int, sample: Sample) -> Sample:
    """The sample with its box cut at the image's edge; a box that does not touch the image is a mistake."""
    width, height = image_size(sample.path)
    x0, y0, x1, y1 = sample.boxes[0]
    if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
        corners = f"({x0:g}, {y0:g}, {x1:g}, {y1:g})"
        raise ValueError(
            f"{path}, line {number}: the box {corners} lies outside {sample.id}, which is {width} x {height} pixels"
        )
    return replace(sample, boxes=((max(x0, 0), max(y0, 0), min(x1, width - 1), min(y1, height - 1)),))

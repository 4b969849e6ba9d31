"""CUB-200-2011 (Wah et al., 2011) and Tiny-ImageNet-200 (Stanford CS231n) in their native folders, or any subset."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing
from wsolkit.data import annotations as files
from wsolkit.data.annotations import Box, checked, columns, find_root, inside, read_table, require_images, whole
from wsolkit.data.base import WSOLDataset
from wsolkit.data.images import image_sizes
from wsolkit.data.samples import Request, Sample

SIDE = 64  # of every image of Tiny-ImageNet, in pixels
SUFFIXES = (".jpeg", ".jpg", ".png")


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
    boxes = read_table(root / "bounding_boxes.txt", line(*[float] * 4, make=_from_extent), extents, known)
    used = sorted(set(class_of.values()))
    if unnamed := [key for key in used if key not in names]:
        raise WsolkitError(f"{root / 'classes.txt'} has no line for class {listing(unnamed)} of image_class_labels.txt")
    classes, labels_of = asked.select([names[key] for key in used])
    label_of = {used[place]: label for place, label in labels_of.items()}
    images = root / "images"
    require_images(images, (path for key, path in paths.items() if class_of[key] in label_of))

    ids = sorted(key for key in paths if is_train[key] == (asked.split != "test"))
    if asked.split != "test":
        ids = [ids[place] for place in asked.own([class_of[key] for key in ids])]
    chosen = {paths[key]: key for key in ids if class_of[key] in label_of}
    sizes = image_sizes(images, chosen)
    files.refuse_outside(root / "bounding_boxes.txt", {path: [boxes[key]] for path, key in chosen.items()}, sizes)
    samples = [
        Sample(
            path, label_of[class_of[key]], (files.cut(boxes[key], sizes[path]),), root / "images" / path, sizes[path]
        )
        for path, key in chosen.items()
    ]
    return WSOLDataset("cub", asked.split, classes, samples, asked.geometry)


def _from_extent(extent: list[float]) -> Box:
    x, y, width, height = extent
    if width == 0 or height == 0:
        raise ValueError
    return files.corners([x, y, x + width, y + height])


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
    path, folders = root / "wnids.txt", files.file_names(root / "train")
    wnid = checked(str, re.compile(r"[\w-]+").fullmatch)
    listed = read_table(path, columns(wnid), "one class id such as n01443537 in each line")
    first = {wnid: wnid for wnid in listed if wnid in folders}  # wnid -> its first name
    if not first:
        raise WsolkitError(f"{path} names no class that has a folder in {root / 'train'}; fetch the dataset again")
    if (words := root / "words.txt").exists():
        named = read_table(words, columns(str, str, separator="\t"), "lines 'id', a tab and names", first, False)
        first |= {wnid: name for wnid, text in named.items() if (name := text.split(",")[0].strip())}
    wnids, count = list(first), Counter(first.values())
    names = [name if count[name] == 1 else f"{name} ({wnid})" for wnid, name in first.items()]
    if isinstance(asked.classes, list | tuple):
        asked = replace(asked, classes=[wnids.index(item) if item in first else item for item in asked.classes])
    classes, label_of = asked.select(names)
    samples: list[Sample] = []
    if asked.split == "test":
        samples = _read_test(root / "val", {wnids[index]: label for index, label in label_of.items()})
    else:
        for index, label in label_of.items():
            members = _read_train(root / "train" / wnids[index], label)
            # one class at a time, drawn by its place in wnids.txt: the choice of classes does not move the split
            samples += [members[place] for place in asked.own([index] * len(members))]
    return WSOLDataset("tiny_imagenet", asked.split, classes, samples, asked.geometry)


def _read_train(folder: Path, label: int) -> list[Sample]:
    """The images of one class, by file name; each must have a box and each box an image."""
    wnid, images, path = folder.name, folder / "images", folder / f"{folder.name}_boxes.txt"
    table = _read_boxes(path, "'file x0 y0 x1 y1'")
    require_images(images, table)
    if unknown := sorted(n for n in files.file_names(images) - set(table) if n.lower().endswith(SUFFIXES)):
        raise WsolkitError(f"{path} has no line for {len(unknown)} images: {listing(unknown)}; add or remove them")
    return [Sample(f"{wnid}/{file}", label, (box,), images / file) for file, (box,) in sorted(table.items())]


def _read_test(folder: Path, label_of: dict[str, int]) -> list[Sample]:
    """The images of val/, in the order of val_annotations.txt; lines of other classes are passed over."""
    table = _read_boxes(folder / "val_annotations.txt", "'file class x0 y0 x1 y1'", str)
    table = {file: values for file, values in table.items() if values[0] in label_of}
    require_images(folder / "images", table)
    return [
        Sample(f"val/{file}", label_of[wnid], (box,), folder / "images" / file) for file, (wnid, box) in table.items()
    ]


def _read_boxes(path: Path, form: str, *kinds: type[str]) -> dict[str, list]:
    """File name -> the texts that come before the box, as `kinds` says, and the box."""

    def made(values: list) -> list:
        box = files.corners(values[-4:])
        if min(box) < 0 or not files.touches(box, (SIDE, SIDE)):
            raise ValueError
        return [*values[:-4], box]

    limits = f"0 <= x0 <= x1, 0 <= y0 <= y1, x0 and y0 below {SIDE}, each file once"
    file = checked(inside, lambda name: not {"/", "\\"} & set(name))
    line = columns(file, *kinds, *[float] * 4, separator="\t", make=made)
    return read_table(path, line, f"lines {form} with tabs between, {limits}")

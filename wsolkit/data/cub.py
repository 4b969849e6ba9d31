"""CUB-200-2011 (Wah et al., 2011) in its native folder, or any subset of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing
from wsolkit.data.annotations import (
    Box,
    corners,
    cut,
    find_root,
    inside,
    read_table,
    refuse_outside,
    require_images,
    whole,
)
from wsolkit.data.base import WSOLDataset
from wsolkit.data.images import image_sizes
from wsolkit.data.samples import Request, Sample


def open_cub(asked: Request) -> WSOLDataset:
    """Open one split of a CUB-200-2011 folder, given itself or its parent.

    images.txt says which images there are: lines of the other files whose id it does not hold are ignored, so a subset
    is made by shortening images.txt alone. Ids need not be consecutive. The classes are those of classes.txt that have
    an image, in the order of their ids, labelled from 0 (a list of classes is labelled in its own order).
    Boxes `x y w h` become the corners x, y, x + w, y + h, cut at the last column and row of the image, as in the metadata
    of wsolevaluation (so the lower right corner lies one pixel beyond the object's, where the image goes on).
    "test" is the official split; "val" is a share of the official training images that depends on `seed` and `val_share`
    alone (an image held out with all classes is held out with a few), "train" the rest of them.

    Args:
        asked: as in `load_dataset`; classes by name ("001.Black_footed_Albatross").

    Raises:
        WsolkitError: naming the file and its lines (malformed, duplicate, box outside the image), or the argument.
        FileNotFoundError: the folder, one of its files or some of the images are missing.
    """
    root = find_root(asked.root, "cub")
    paths = read_table(root / "images.txt", _line(inside), "lines 'id path', the path below images/")
    if repeated := [path for path, count in Counter(paths.values()).items() if count > 1]:
        raise WsolkitError(f"{root / 'images.txt'} names {listing(repeated)} more than once; remove a line of each")
    known = {key: key for key in paths}
    names = read_table(root / "classes.txt", _line(str), "lines 'id name'")
    labels = "lines 'id class', both whole numbers, one for each id of images.txt"
    class_of = read_table(root / "image_class_labels.txt", _line(whole), labels, known)
    flags = "lines 'id 1' for training or 'id 0' for test, one for each id of images.txt"
    is_train = read_table(root / "train_test_split.txt", _line(_flag), flags, known)
    extents = "lines 'id x y width height', width and height above 0, one for each id of images.txt"
    boxes = read_table(root / "bounding_boxes.txt", _line(_box), extents, known)
    used = sorted(set(class_of.values()))
    if unnamed := [key for key in used if key not in names]:
        raise WsolkitError(f"{root / 'classes.txt'} has no line for class {listing(unnamed)} of image_class_labels.txt")
    classes, labels_of = asked.select([names[key] for key in used])
    label_of = {used[place]: label for place, label in labels_of.items()}
    require_images(root / "images", (path for key, path in paths.items() if class_of[key] in label_of))

    ids = sorted(key for key in paths if is_train[key] == (asked.split != "test"))
    if asked.split != "test":
        ids = [ids[place] for place in asked.own([class_of[key] for key in ids])]
    ids = [key for key in ids if class_of[key] in label_of]
    if not ids:
        where = f"{root / 'train_test_split.txt'} leaves no image"
        raise WsolkitError(f"{where} for split '{asked.split}' of the chosen classes")
    sizes = image_sizes(root / "images", [paths[key] for key in ids])
    refuse_outside(root / "bounding_boxes.txt", {paths[key]: (boxes[key],) for key in ids}, sizes)
    samples = [
        Sample(path, label_of[class_of[key]], (cut(boxes[key], sizes[path]),), root / "images" / path)
        for key, path in ((key, paths[key]) for key in ids)
    ]
    return WSOLDataset("cub", asked.split, classes, samples, asked.geometry)


def _line(parse: Callable[[str], Any]) -> Callable[[str], tuple[int, Any]]:
    """A parser of lines `id value`."""

    def parsed(line: str) -> tuple[int, Any]:
        key, text = line.split(maxsplit=1)
        return whole(key), parse(text)

    return parsed


def _flag(text: str) -> bool:
    if text not in ("0", "1"):
        raise ValueError
    return text == "1"


def _box(text: str) -> Box:
    x, y, width, height = map(float, text.split())
    if width == 0 or height == 0:
        raise ValueError
    return corners([x, y, x + width, y + height])

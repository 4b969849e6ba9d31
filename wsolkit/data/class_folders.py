"""Images in a folder for each class, the layout of torchvision's ImageFolder, and boxes for as many as have some.

ROOT/<class>/... is divided into training, validation and test images here; ROOT/train/<class>/..., with val/ and test/
beside it, is taken as it is. A share in [0, 1) that the name of an image alone decides says where it belongs: other
images, another seed or another machine move none. Names and folders are read when a data set is opened, no image is.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from pathlib import Path

from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import listing
from wsolkit.data.base import Request, WSOLDataset
from wsolkit.data.catalogue import DATASETS
from wsolkit.data.images import IMAGE_SUFFIXES, Sample, images_below
from wsolkit.data.readers import (
    MEND,
    UNNAMED,
    Box,
    Source,
    clean,
    existing_folder,
    inside,
    read_coco,
    read_csv,
    read_voc,
    require_images,
    spelling,
)

TEST_SHARE = 0.15  # of the images of a class, where there is no test/
SPLIT_FOLDERS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
KINDS = (("csv", read_csv), ("coco", read_coco), ("voc", read_voc))
BOXES = dict(zip(DATASETS["folder"].truth, KINDS, strict=True))  # boxes.csv, boxes.json, Annotations
BOX_FIELDS = ("path", "x0", "y0", "x1", "y1")  # of boxes.csv
NEED = "expected a folder of images for each class, or train/, val/ and test/ with these"
ClassFiles = dict[str, list[str]]  # class -> its images, paths below the root


def open_folder(asked: Request) -> WSOLDataset:
    """Open one split of a folder with a folder of images for each class.

    The classes are the folders' names, sorted; what lies in folders of a class folder belongs to the class. Files with
    other endings than those of images and hidden ones are passed over. ROOT may hold

    - class folders: of each class about 15 % are test images, `val_share` of the rest validation images, and the others
      training images. A class of two images has one for training and one for the test, one of three has one of each.
    - train/, val/ (or valid/, validation/) and test/ with class folders: the splits as given. Without val/, `val_share`
      of the images of train/ are validation images. Without test/, val/ is the test split (published data sets often
      give no labels of test images), and a share of train/ the validation split; with train/ alone, its images are
      divided as those of class folders.

    Boxes are needed nowhere. Those of some images may lie in ROOT: boxes.csv (lines `path,x0,y0,x1,y1`, inclusive
    corners in pixels from 0 of the image as it is shown), boxes.json (COCO) or Annotations/ (Pascal VOC XML), read as
    `wsolkit data convert` reads them, with paths below ROOT. Of objects with names those of the image's class count.

    Args:
        asked: as in `load_dataset`; the seed moves no image.

    Raises:
        WsolkitError: naming the folder or file and what is wrong: fewer than two classes, images without a class, an
            empty class folder, names that cannot be kept, lines of the boxes.
        FileNotFoundError: the folder, or images that have boxes, are missing.
    """
    need = "dataset 'folder' needs root=, the folder with a folder of images for each class (--root)"
    root = existing_folder(asked.root, need)
    try:
        splits = _splits(root, asked.val_share)
    except OSError as error:
        raise WsolkitError(f"{error.filename}: the folder cannot be searched ({error.strerror}); {MEND}") from None
    classes, label_of = asked.select(sorted(splits["train"]))
    names = sorted(splits["train"])
    chosen = {name: label for index, label in label_of.items() for name in splits[asked.split][names[index]]}
    boxes, sizes = _boxes(root, {name: classes[label] for name, label in chosen.items()}, names)
    about = ((name, label, boxes.get(name, ()), sizes.get(name)) for name, label in chosen.items())
    samples = [Sample(name, label, own, root, size, below=True) for name, label, own, size in about]
    return WSOLDataset("folder", asked.split, classes, samples, asked.geometry)


def _splits(root: Path, val_share: float) -> dict[str, ClassFiles]:
    """The images of every class (also those without any) in each split."""
    places = _split_folders(root)
    by_split = {split: _class_files(root, place) for split, place in (places or {"train": root}).items()}
    names = sorted({name for files in by_split.values() for name in files})
    told = {split: [name for name in names if files.get(name)] for split, files in by_split.items()}
    empty = [name for name in names if not any(name in own for own in told.values())]
    require(not empty, f"{root}: {len(empty)} class folders hold no image: {listing(empty)}; add images or remove them")
    require(names, f"{root} holds no folder with images; {NEED}")
    if len(names) == 1:
        deeper = f"; if its folders are the classes, give {root / names[0]}" if not places else ""
        raise WsolkitError(f"{root} holds one class, {names[0]!r}, and a classifier needs two: add a folder{deeper}")
    if "test" not in by_split and "val" in by_split:
        by_split["test"] = by_split.pop("val")
    shares = {"test": TEST_SHARE} if "test" not in by_split else {}
    shares |= {"val": sum(shares.values()) + (1 - sum(shares.values())) * val_share} if "val" not in by_split else {}
    divided = {name: _divided(by_split["train"].get(name, []), shares) for name in names}
    whole = {split: {name: files.get(name, []) for name in names} for split, files in by_split.items()}
    return whole | {split: {name: own[split] for name, own in divided.items()} for split in ("train", *shares)}


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits; {} where the class folders lie in `root` itself. A folder that is called train, but
    holds images itself, is that of a class."""
    inner = {name: root / name for name in folders_in(root) if name not in BOXES}
    split_of = {name: split for split, names in SPLIT_FOLDERS.items() for name in names}
    named = {name: split_of[key] for name in inner if (key := name.lower()) in split_of and not _loose(inner[name])}
    if not named:
        return {}
    strange = sorted(set(inner) - set(named))
    several = sorted(name for name, split in named.items() if list(named.values()).count(split) > 1)
    lacking = "" if "train" in named.values() else "no train/ is there"
    wrong = lacking or (f"{listing(several)} are one split" if several else f"{listing(strange)} are no splits")
    ask = f"beside {listing(sorted(named))}, {wrong}: {NEED}" if strange or several or lacking else ""
    require(not ask, f"{root}: {ask}")
    return {split: inner[name] for name, split in named.items()}


def folders_in(place: Path) -> list[str]:
    """The names of folders in a folder, sorted, without hidden ones; [] where there is no folder."""
    if not place.is_dir():
        return []
    with os.scandir(place) as entries:
        return sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _loose(place: Path) -> list[str]:
    """The images that lie in a folder itself."""
    return sorted(name for name in os.listdir(place) if is_image(name))


def is_image(name: str) -> bool:
    """Whether the name of a file is that of an image, and not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _class_files(root: Path, place: Path) -> ClassFiles:
    """The images of each class folder in `place`, sorted."""
    if loose := _loose(place):
        raise WsolkitError(f"{place}: {len(loose)} images lie in no class folder: {listing(loose)}; {NEED}")
    problems: dict[str, None] = {}
    files = {
        name: [path.relative_to(root).as_posix() for path in images_below(place / name, problems)]
        for name in folders_in(place)
        if place != root or name not in BOXES
    }
    require(not problems, f"{listing([*problems])}; {MEND}")
    if blank := [name for name in files if name != clean(name)]:
        text = f"class folders have blanks at the ends of their names: {listing(list(map(repr, blank)))}"
        raise WsolkitError(f"{place}: {len(blank)} {text}; no list of classes keeps them, rename these folders")
    if odd := [name for own in files.values() for name in own if not is_plain(name)]:
        text = "names that no table keeps (control characters, a backslash, a colon in the first folder, no UTF-8)"
        raise WsolkitError(f"{root}: {len(odd)} images have {text}: {listing(list(map(ascii, odd)))}; rename them")
    return files


def is_plain(name: str) -> bool:
    """Whether tables keep a path as it is."""
    try:
        return inside(name) == name
    except ValueError:
        return False


def _divided(names: Iterable[str], shares: Mapping[str, float]) -> ClassFiles:
    """The images of one class by split: those whose share lies below an upper end belong to it, and what is left is for
    training. One image at least is, and then one of each split in the order of `shares`."""
    ranked = sorted(names, key=_share)
    ranks, split, start = [_share(name) for name in ranked], {}, 0
    for name, end in shares.items():
        stop = max(start, min(max(bisect_left(ranks, end), start + 1), len(ranked) - 1))
        split[name], start = sorted(ranked[start:stop]), stop
    return split | {"train": sorted(ranked[start:])}


def _share(name: str) -> float:
    """A number in [0, 1) that the name of the class folder and what is below it decide, in any spelling of accents."""
    parts = name.split("/")
    own = "/".join(parts[1:] if parts[0].lower() == "train" else parts)
    return int.from_bytes(hashlib.blake2b(unicodedata.normalize("NFC", own).encode(), digest_size=6).digest()) / 2**48


def _boxes(
    root: Path, class_of: Mapping[str, str], classes: Iterable[str]
) -> tuple[dict[str, tuple[Box, ...]], dict[str, tuple[int, int]]]:
    """The boxes, and (width, height), of those of the images of `class_of` that have boxes. classes: all of them."""
    there = [name for name in BOXES if os.path.lexists(root / name)]
    require(len(there) < 2, f"{root} holds boxes in {' and in '.join(there)}; keep one of them")
    if not there:
        return {}, {}
    kind, reader = BOXES[there[0]]
    read = Source(root / there[0], root, kind, int(kind == "voc"), fields=BOX_FIELDS)
    reader(read)
    same = {unicodedata.normalize("NFC", name): name for name in classes}
    for name, own in read.objects.items():
        read.objects[name] = [(same.get(unicodedata.normalize("NFC", label), label), box) for label, box in own]
    labels = {label for own in read.objects.values() for label, _ in own}
    folder_of = {spelling(name): name for name in classes}
    strange = sorted(labels - {UNNAMED, *classes})
    near = [f"{label!r} ({other!r})" for label in strange if (other := folder_of.get(spelling(label)))]
    fault = (
        f"{read.place}: {len(near)} names of objects are nearly those of a class folder, in brackets: {listing(near)}"
    )
    require(not near, f"{fault}; write them alike")
    if labels and labels.isdisjoint({UNNAMED, *classes}):
        wrong = f"none of its objects ({listing(sorted(labels))}) has the name of a class ({listing(list(classes))})"
        raise WsolkitError(f"{read.place}: {wrong}; rename them")
    if read.objects and not read.problems:
        require_images(root, [name for name, own in read.objects.items() if own])
        objects = {name: read.objects[name] for name in class_of if name in read.objects}
        kept = {name: [item for item in own if item[0] in (UNNAMED, class_of[name])] for name, own in objects.items()}
        read.objects = {name: own for name, own in kept.items() if own}
        if not read.objects:
            return {}, {}
    read.finish()
    boxes = {name: tuple(box for _, box in own) for name, own in read.objects.items()}
    return boxes, {name: read.sizes[name] for name in boxes}

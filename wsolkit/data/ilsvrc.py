"""ImageNet's localisation data (ILSVRC 2012 CLS-LOC; Russakovsky et al., IJCV 2015) in the folders that people have."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import listing
from wsolkit.data.base import Request, WSOLDataset
from wsolkit.data.class_folders import folders_in, is_image, is_plain
from wsolkit.data.images import Sample
from wsolkit.data.readers import Source, add_xml, existing_folder, file_names, select_wnids

IMAGES, ANNOTATIONS = "Data/CLS-LOC", "Annotations/CLS-LOC"
WORDS = "LOC_synset_mapping.txt"  # as it lies beside the folder ILSVRC
NEED = f"expected train/<wnid>/ and val/ there, or in {IMAGES} or ILSVRC/{IMAGES} below it"


def open_ilsvrc(asked: Request) -> WSOLDataset:
    """Open one split of ImageNet where it lies; nothing is copied, and of images without boxes only names are read.

    ROOT, ROOT/Data/CLS-LOC or ROOT/ILSVRC/Data/CLS-LOC holds train/<wnid>/ and val/, with the images themselves or
    with folders <wnid>/. Boxes are ImageNet's XML files in Annotations/CLS-LOC/val/ (or Annotations/val/) and, of some
    training images, train/<wnid>/; an image takes those of its class. Corners count from 0 and are inclusive; what lies
    beyond the last column and row is cut, as in wsolevaluation's metadata. Images that their EXIF tag turns are turned,
    and their boxes with them.

    "test" is val/, since the official test images have no labels. Its classes are those of the folders, or else of the
    XML files; without folders, each image needs one. "val" is a share of train/ that depends on `seed` and `val_share`
    alone, "train" the rest. The classes are those of train/, with the first name of LOC_synset_mapping.txt where that
    lies in ROOT or beside it.

    Args:
        asked: as in `load_dataset`; classes by id ("n01443537") or name.

    Raises:
        WsolkitError: naming the file and what is wrong with it, or the argument.
        FileNotFoundError: the folder, or the XML files of some images, are missing.
    """
    root = existing_folder(asked.root, "dataset 'ilsvrc' needs root=, the folder with train/ and val/ (--root)")
    inner = (root / place for place in ("", IMAGES, f"ILSVRC/{IMAGES}"))
    images = next((place for place in inner if (place / "train").is_dir()), root)
    base = root if images == root else images.parents[1]
    boxes = next((place for place in (base / ANNOTATIONS, base / "Annotations") if (place / "val").is_dir()), base)
    wnids = folders_in(images / "train")
    if len(wnids) < 2:
        raise FileNotFoundError(f"{images / 'train'} holds fewer than two folders of classes; {NEED}")
    words = root / WORDS if (root / WORDS).exists() else root.parent / WORDS
    classes, label_of = select_wnids(asked, wnids, words)
    wanted = {wnids[index]: label for index, label in label_of.items()}
    read = Source(boxes, images, "voc", 0, turn=True)
    chosen: dict[str, str] = {}  # path -> wnid
    if asked.split != "test":
        for index in label_of:  # drawn class by class, so that the choice of classes does not move the split
            names = image_names(images, f"train/{wnids[index]}")
            chosen |= {names[place]: wnids[index] for place in asked.own([index] * len(names))}
        if asked.split == "val":
            _add_boxes(read, chosen)
    elif folders := [wnid for wnid in folders_in(images / "val") if wnid in wanted]:
        chosen = {name: wnid for wnid in folders for name in image_names(images, f"val/{wnid}")}
        _add_boxes(read, chosen)
    else:
        if missing := _add_boxes(read, image_names(images, "val")):
            wrong = f"no XML file there tells the class of {len(missing)} images: {listing(missing)}"
            raise FileNotFoundError(f"{boxes / 'val'}: {wrong}; put ImageNet's validation boxes there, or val/<wnid>/")
        chosen = {name: wnid for name, own in read.objects.items() for wnid, _ in own[:1] if wnid in wanted}
    objects = {name: [item for item in read.objects.get(name, ()) if item[0] == own] for name, own in chosen.items()}
    read.objects = {name: own for name, own in objects.items() if own}
    if read.objects or read.problems:
        read.finish()
    samples: list[Sample] = []
    for name, wnid in chosen.items():
        corners = tuple(box for _, box in read.objects.get(name, ()))
        size = read.sizes[name] if corners else None
        samples.append(Sample(name, wanted[wnid], corners, images, size, below=True))
    return WSOLDataset("ilsvrc", asked.split, classes, samples, asked.geometry)


def image_names(root: Path, folder: str) -> list[str]:
    """The images in a folder below `root`, as paths below `root`, sorted; a name's ending says what is an image.

    Raises: WsolkitError: names that no table keeps.
    """
    names = sorted(filter(is_image, file_names(root / folder)))
    if odd := [name for name in names if not is_plain(name)]:
        raise WsolkitError(f"{root / folder}: names that no table keeps: {listing(list(map(ascii, odd)))}; rename them")
    return [f"{folder}/{name}" for name in names]


def _given(path: str, _: str) -> str:
    """The path, whatever <filename> says: in some files of ImageNet it is "%s"."""
    return path


def _add_boxes(read: Source, names: Iterable[str]) -> list[str]:
    """Take the XML files of images; the images without one are the answer."""
    files, missing = cache(lambda folder: file_names(read.place / folder)), []
    for name in names:
        folder, file = os.path.split(os.path.splitext(name)[0])
        folder = "val" if folder.startswith("val") else folder  # the boxes of val/<wnid>/ lie in val/ too
        if f"{file}.xml" in files(folder):
            item = f"{folder}/{file}.xml"
            add_xml(read, read.place / item, item, partial(_given, name))
        else:
            missing.append(name)
    return missing

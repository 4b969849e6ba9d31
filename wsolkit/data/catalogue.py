"""The table of data sets: one declaration each, and `load_dataset`, which opens any. No torch until one is opened."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wsolkit.common.errors import WsolkitError, require

if TYPE_CHECKING:
    from wsolkit.data.base import WSOLDataset

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Archive:
    """The archive that a data set is fetched as.

    Attributes:
        name: file name of the archive.
        url: its address.
        size: bytes.
        md5: checksum, hexadecimal.
        folder: the folder in the archive that is the dataset.
        required: files and folders without which the dataset is not complete.
        torchvision: the class of torchvision.datasets that fetches it, from addresses and with checksums of its own;
            `url` and `md5` are empty then.
    """

    name: str
    url: str
    size: int
    md5: str
    folder: str
    required: tuple[str, ...] = ()
    torchvision: str = ""


@dataclass(frozen=True)
class DatasetEntry:
    """What the kit knows of a data set before its files are read.

    Attributes:
        opener: "module:function" below `wsolkit.data`, imported when the data set is opened. The function takes a
            `Request`, and the options of its own as keywords; it returns the `WSOLDataset`.
        title: its name in reports.
        defaults: size (input side in pixels), start weights and epochs of a training run where nobody asks for others.
        scratch: parameters of a training run without pretrained weights that differ from those of other data sets.
        archive: what `wsolkit data NAME` fetches; None where there is nothing to fetch.
        boxed: False where the format lets images be without a box.
        truth: names in the root of what holds boxes and no training run reads: boxes that come later retrain nothing.
    """

    opener: str
    title: str
    defaults: Mapping[str, Any]
    scratch: Mapping[str, Any] = field(default_factory=dict)
    archive: Archive | None = None
    boxed: bool = True
    truth: tuple[str, ...] = ()


# Sizes and checksums are those that independent public data loaders check these downloads against (for CUB e.g.
# TDeVries/cub2011_dataset, for Tiny-ImageNet e.g. Avalanche's tiny_imagenet); they agree with one another.
_CUB_TABLES = ("images", "image_class_labels", "train_test_split", "bounding_boxes", "classes")
_CUB = Archive(
    name="CUB_200_2011.tgz",
    url="https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz?download=1",
    size=1_150_585_339,
    md5="97eceeb196236b17998738112f37df78",
    folder="CUB_200_2011",
    required=(*(f"{name}.txt" for name in _CUB_TABLES), "images"),
)
_TINY_IMAGENET = Archive(
    name="tiny-imagenet-200.zip",
    url="https://cs231n.stanford.edu/tiny-imagenet-200.zip",
    size=248_100_043,
    md5="90528d7ca1a48142e341f4ef8d21d0de",
    folder="tiny-imagenet-200",
    required=("wnids.txt", "train", "val/val_annotations.txt", "val/images"),
)
# The size is that of its two archives, as TensorFlow Datasets (oxford_iiit_pet) checks them.
_PETS = Archive(
    name="oxford-iiit-pet",
    url="",
    size=791_918_971 + 19_173_078,
    md5="",
    folder="oxford-iiit-pet",
    required=("annotations/trainval.txt", "annotations/test.txt", "annotations/trimaps", "images"),
    torchvision="OxfordIIITPet",
)

_SMALL, _LARGE = {"weights": "none", "size": 64}, {"weights": "imagenet", "size": 224, "epochs": 50}
_TINY = _SMALL | {"epochs": 20}
_BIRDS, _SLIM = _SMALL | {"epochs": 22}, {"width": 0.25, "batch_size": 16, "lr": 0.03}
_BOXES = ("boxes.csv", "boxes.json", "Annotations")
DATASETS: dict[str, DatasetEntry] = {
    "synthetic": DatasetEntry("synthetic:open_synthetic", "Synthetic birds", _BIRDS, _SLIM),
    "cub": DatasetEntry("readers:open_cub", "CUB-200-2011", _LARGE, archive=_CUB),
    "tiny_imagenet": DatasetEntry("readers:open_tiny_imagenet", "Tiny-ImageNet-200", _TINY, archive=_TINY_IMAGENET),
    "oxford_pets": DatasetEntry("oxford_pets:open_oxford_pets", "Oxford-IIIT Pets", _LARGE, archive=_PETS),
    "ilsvrc": DatasetEntry("ilsvrc:open_ilsvrc", "ImageNet (ILSVRC)", _LARGE, boxed=False, truth=("Annotations",)),
    "folder": DatasetEntry("class_folders:open_folder", "Images in class folders", _LARGE, boxed=False, truth=_BOXES),
    "metadata": DatasetEntry("readers:open_metadata", "Images of a metadata folder", _LARGE, boxed=False),
}


def archive_of(name: str) -> Archive:
    """The archive of a data set; WsolkitError where it has none."""
    known = {name: entry.archive for name, entry in DATASETS.items() if entry.archive}
    require(name in known, f"dataset '{name}' has nothing to fetch; choose from {', '.join(known)}")
    return known[name]


def load_dataset(
    name: str,
    split: str = "train",
    root: str | Path | None = None,
    size: int | None = None,
    geometry: str = "resize",
    classes: list[str] | int | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    **options: Any,
) -> WSOLDataset:
    """Open one split of a dataset.

    Args:
        name: "synthetic" (needs no files), "cub", "tiny_imagenet", "oxford_pets", "ilsvrc" (ImageNet's own folders),
            "folder" (a folder of images for each class) or "metadata" (any images with the metadata files of
            wsolevaluation).
        split: "train", "val" or "test". Where the files know no validation split, it is a seeded, stratified share of
            the training images; the test images are never part of it.
        root: the folder in its native layout, e.g. data/CUB_200_2011; for "metadata" the folder of the images.
        size: input side in pixels; None is the dataset's own (synthetic and Tiny-ImageNet 64, the others 224).
        geometry: "resize" (both sides to `size`) or "crop" (both sides to 256/224 of it, then the centre).
        classes: None for all, an integer for the first so many, or a list of class names or 0-based indices.
        val_share: share of the training images held out as validation split.
        seed: of the split and, for synthetic birds, of the drawings.
        options: per_class for synthetic birds; metadata (a folder) and masks (a folder) for "metadata".

    Raises: WsolkitError, FileNotFoundError: naming the value or the file, what was expected and what to do.

    Example:
        >>> birds = load_dataset("synthetic", "test", per_class=2)
        >>> len(birds), birds[0][0].shape
        (32, torch.Size([3, 64, 64]))
    """
    for told, value, known in (("dataset", name, DATASETS), ("split", split, SPLITS)):
        require(value in known, f"unknown {told} '{value}'; choose from {', '.join(known)}")
    from wsolkit.data.base import Geometry, Request

    module, function = DATASETS[name].opener.split(":")
    opener = getattr(importlib.import_module(f"wsolkit.data.{module}"), function)
    if unknown := [option for option in options if option not in inspect.signature(opener).parameters]:
        raise WsolkitError(f"dataset '{name}' knows no option {', '.join(map(repr, unknown))}; remove it")
    frame = Geometry(DATASETS[name].defaults["size"] if size is None else size, geometry)
    dataset = opener(Request(split, root, frame, classes, val_share, seed), **options)
    again: dict[str, Any] = {"root": root, "size": size, "geometry": geometry, "classes": classes, "seed": seed}
    dataset.opener = partial(load_dataset, name, val_share=val_share, **again, **options)
    return dataset

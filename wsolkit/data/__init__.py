"""Datasets: one `load_dataset` for all of them."""

from __future__ import annotations

import importlib
from functools import partial
from pathlib import Path
from typing import Any

from wsolkit.data.base import SPLITS, Geometry, Sample, Target, WSOLDataset, denormalise, normalise

__all__ = [
    "DATASETS",
    "SPLITS",
    "Geometry",
    "Sample",
    "Target",
    "WSOLDataset",
    "denormalise",
    "load_dataset",
    "normalise",
]

DATASETS = {  # name -> (module, function, default input size); modules are imported when asked for
    "synthetic": ("synthetic", "open_synthetic", 64),
    "cub": ("cub", "open_cub", 224),
    "tiny_imagenet": ("tiny_imagenet", "open_tiny_imagenet", 64),
    "metadata": ("metadata", "open_metadata", 224),
}


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
        name: "synthetic" (needs no files), "cub", "tiny_imagenet" or "metadata" (any images with the metadata files of
            wsolevaluation).
        split: "train", "val" or "test". Where the files know no validation split, it is a seeded, stratified share of
            the training images; the test images are never part of it.
        root: the folder in its native layout, e.g. data/CUB_200_2011; for "metadata" the folder of the images.
        size: input side in pixels; None is the dataset's own (synthetic and Tiny-ImageNet 64, CUB and metadata 224).
        geometry: "resize" (both sides to `size`) or "crop" (both sides to 256/224 of it, then the centre).
        classes: None for all, an integer for the first so many, or a list of class names or 0-based indices.
        val_share: share of the training images held out as validation split.
        seed: of the split and, for synthetic birds, of the drawings.
        options: per_class for synthetic birds; metadata (a folder) and masks (a folder) for "metadata".

    Raises:
        ValueError, FileNotFoundError: naming the value or the file, what was expected and what to do.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown dataset '{name}'; choose from {', '.join(DATASETS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split '{split}'; choose from {', '.join(SPLITS)}")
    module, function, default_size = DATASETS[name]
    opener = getattr(importlib.import_module(f".{module}", __package__), function)
    keywords = {"root": root, "size": default_size if size is None else size, "geometry": geometry, "classes": classes}
    keywords |= {"val_share": val_share, "seed": seed, **options}
    dataset = opener(split, **keywords)
    dataset.opener = partial(_reopen, name, keywords)
    return dataset


def _reopen(name: str, keywords: dict[str, Any], split: str) -> WSOLDataset:
    return load_dataset(name, split=split, **keywords)

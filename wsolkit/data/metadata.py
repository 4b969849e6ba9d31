"""Any pictures as a dataset: a folder of images, and a metadata folder of wsolevaluation that says what they show."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from wsolkit.data.annotations import listing, refuse_options, require_images
from wsolkit.data.base import WSOLDataset
from wsolkit.data.catalogue import SPLITS
from wsolkit.data.images import image_sizes
from wsolkit.data.masks import instance_boxes, read_mask
from wsolkit.data.metadata_files import (
    CLASSES,
    IDS,
    LABELS,
    LOCALIZATION,
    MaskFiles,
    Metadata,
    read_classes,
    read_labels,
    read_metadata,
    touches,
)
from wsolkit.data.samples import Geometry, Sample, Target, select_classes, stratified_split


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
    masks_root: Path | None = None

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
    split: str,
    root: str | Path | None = None,
    metadata: str | Path | None = None,
    masks: str | Path | None = None,
    size: int = 224,
    geometry: str = "resize",
    classes: list[str | int] | int | None = None,
    val_share: float = 0.2,
    seed: int = 0,
    **options: Any,
) -> WSOLDataset:
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
        split: "train", "val" or "test".
        root: the folder that the paths of image_ids.txt are relative to.
        metadata: the folder that holds train/, test/ and perhaps val/.
        masks: the folder that the paths of masks are relative to; for metadata with masks only.
        size, geometry, classes, val_share, seed: as in `load_dataset`; chosen classes are labelled anew from 0.

    Raises:
        ValueError: naming the file and the lines, or the argument; also boxes where `masks` is given, or masks where not.
        FileNotFoundError: a folder, a file, some of the images or some of the masks are missing.
    """
    refuse_options("metadata", options)
    root = _folder(root, "root=, the folder that the paths of image_ids.txt are relative to (--root)")
    folder = _folder(metadata, "metadata=, the folder that holds train/, test/ and perhaps val/ (--metadata)")
    if (folder / IDS).is_file():
        raise ValueError(f"{folder} is the folder of one split; give the folder above it, which holds train/ and test/")
    shared = split == "val" and not (folder / "val").is_dir()
    source = "train" if shared else split
    need = ["class_labels"]
    if source != "train" and (folder / source / LOCALIZATION).is_file():
        need.append("localization")
    found = read_metadata(folder, source, need)
    masks_root = _masks_folder(found, masks, "localization" in need)

    names = _class_names(folder)
    chosen = select_classes(names, classes)
    label_of = {index: label for label, index in enumerate(chosen)}
    positions = range(len(found.ids))
    if source == "train" and not (folder / "val").is_dir():
        rest, held = stratified_split(found.labels, val_share, seed)
        positions = (held if split == "val" else rest).tolist()
    labels = found.labels.tolist()
    samples = [
        Sample(found.ids[i], label_of[labels[i]], found.boxes.get(found.ids[i], ()), root / found.ids[i])
        for i in positions
        if labels[i] in label_of
    ]
    if not samples:
        raise ValueError(f"{found.folder / IDS} leaves no image for split '{split}' of the chosen classes")
    require_images(root, (sample.id for sample in samples))
    sizes = found.sizes
    if source == "test" and found.kind == "boxes" and any(sample.id not in sizes for sample in samples):
        sizes = _measure(found.folder / LOCALIZATION, root, samples, sizes)
    files = {} if masks_root is None else {s.id: found.masks[s.id] for s in samples if s.id in found.masks}
    if files:
        require_images(masks_root, (p for f in files.values() for p in (*f.paths, f.ignore) if p))
    return MetadataDataset(
        "metadata", split, [names[i] for i in chosen], samples, Geometry(size, geometry),
        sizes=sizes, masks=files, masks_root=masks_root,
    )  # fmt: skip


def _folder(path: str | Path | None, what: str) -> Path:
    if path is None:
        raise ValueError(f"dataset 'metadata' needs {what}")
    path = Path(path).expanduser()
    if not path.is_dir():
        raise FileNotFoundError(
            f"{path} {'is not a folder' if path.exists() else 'does not exist'}; dataset 'metadata' needs {what}"
        )
    return path


def _masks_folder(found: Metadata, masks: str | Path | None, needed: bool) -> Path | None:
    path = found.folder / LOCALIZATION
    if masks is None:
        if needed and found.kind == "masks":
            raise ValueError(f"{path} names mask files: give masks= (--masks), the folder that they are relative to")
        return None
    if found.kind == "boxes":
        raise ValueError(f"{path} holds boxes, not mask files: leave out masks= (--masks)")
    return _folder(masks, "masks=, the folder that the mask files of localization.txt are relative to (--masks)")


def _class_names(folder: Path) -> list[str]:
    """One different name for each label of any split."""
    tables = [path for split in SPLITS if (path := folder / split / LABELS).is_file()]
    highest = {path: read_labels(path)[1] for path in tables}
    for path in (folder / CLASSES, *(folder / split / CLASSES for split in SPLITS)):
        if path.is_file():
            names = read_classes(path)
            break
    else:
        return [str(label) for label in range(max(highest.values()) + 1)]
    if short := [table for table in tables if highest[table] >= len(names)]:
        raise ValueError(
            f"{path} names {len(names)} classes, but {short[0]} has label {highest[short[0]]}; add the missing lines"
        )
    repeated = {name for name in names if names.count(name) > 1} if len(set(names)) < len(names) else set()
    return [f"{name} ({label})" if name in repeated else name for label, name in enumerate(names)]


def _measure(
    path: Path, root: Path, samples: list[Sample], known: dict[str, tuple[int, int]]
) -> dict[str, tuple[int, int]]:
    """Sizes of all samples, from the headers where they are not known; their boxes must touch the images."""
    sizes = known | image_sizes(root, [sample.id for sample in samples if sample.id not in known])
    if outside := [s.id for s in samples if not all(touches(box, sizes[s.id]) for box in s.boxes)]:
        raise ValueError(f"{path}: boxes of {len(outside)} images lie outside the image: {listing(outside)}; mend them")
    return sizes

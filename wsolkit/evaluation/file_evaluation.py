"""Scoring anyone's score maps: a folder of maps and a wsolevaluation metadata folder in, tables and figures out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from wsolkit.boxes.protocols import protocol_named
from wsolkit.common.files import listing
from wsolkit.data.masks import instance_boxes, read_mask
from wsolkit.data.metadata_files import CLASSES, Metadata, read_classes, read_metadata
from wsolkit.data.samples import Geometry
from wsolkit.evaluation.map_files import PREDICTIONS, open_score_maps, read_predictions
from wsolkit.evaluation.measuring import default_workers
from wsolkit.evaluation.results import EvalResult
from wsolkit.evaluation.scoring import score

NEEDED = ("class_labels", "image_sizes", "localization")


class MaskFolder(Sequence):
    """The masks of a split's images, each read when it is asked for: (H, W) uint8 of 0, 1 and 255."""

    def __init__(self, root: str | Path, metadata: Metadata, geometry: Geometry):
        self.root, self.metadata, self.geometry = Path(root).expanduser(), metadata, geometry

    def __len__(self) -> int:
        return len(self.metadata.ids)

    def __getitem__(self, index: int) -> np.ndarray:
        files = self.metadata.masks[self.metadata.ids[index]]
        return self.geometry.crop(read_mask(self.root, files.paths, files.ignore, self.geometry.side))


def evaluate_files(
    scoremaps: str | Path,
    metadata: str | Path,
    masks: str | Path | None = None,
    protocol: str = "wsolevaluation",
    split: str = "test",
    *,
    size: int = 224,
    predictions: str | Path | None = None,
    val_scoremaps: str | Path | None = None,
    percentile: float | None = None,
    threshold: float | None = None,
    interval: float = 0.001,
    subset: bool = False,
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[Iterable], Iterable] | None = None,
) -> EvalResult:
    """Score the maps of one split; numbers are those of `score` (and of `wsolkit.evaluate` on the same maps).

    scoremaps: folder of `<id>.npy`, see `map_files.open_score_maps`. If every map has the frame's size and lies in
        [0, 1], they are scored as they are, as wsolevaluation does (but a constant one as zeros); otherwise all are
        resized and min-max normalised.
    metadata: folder with `<split>/image_ids.txt` and its companions, or that split's own folder. Its localization.txt
        holds boxes (then image_sizes.txt is needed) or names mask files below `masks`, whose instances' bounding boxes
        then stand for boxes.
    predictions: csv of lines `path,label` or `path,best,second,...`; default: predictions.csv in `scoremaps`, if it is
        there. Without predictions there is no Top-k number, and no failure is a wrong class.
    val_scoremaps: maps of the metadata's "val" split, from which a threshold is chosen as a second operating point.
    percentile, threshold: the box rule of GT-known and Top-k Loc, see `score`.
    subset: pass over maps of images that the metadata does not list.

    Raises ValueError or FileNotFoundError before anything is scored. All missing, unreadable, misshapen or not finite
    maps, masks that are not there, and predictions that do not fit, are listed in one error (the first 20 by name).
    """
    rules = protocol_named(protocol)
    geometry = Geometry(size, rules.geometry)
    found = read_metadata(metadata, split, NEEDED)
    if found.kind == "masks" and masks is None:
        raise ValueError(f"{found.folder / 'localization.txt'} names mask files: give --masks, the folder they lie in")
    if found.kind == "boxes" and masks is not None:
        raise ValueError(f"{found.folder / 'localization.txt'} holds boxes, no mask files: leave out --masks")
    if val_scoremaps is not None and not rules.curves:
        raise ValueError(f"protocol {protocol} has one fixed threshold: leave out --val-scoremaps")

    maps, ready, problems = open_score_maps(scoremaps, found.ids, size, found.sizes, subset)
    beside = Path(scoremaps).expanduser() / PREDICTIONS
    predictions = beside if predictions is None and beside.is_file() else predictions
    predicted = None
    if predictions is not None:
        predicted, more = read_predictions(predictions, found.ids)
        problems += more
    truths, more = _truths(found, masks, geometry)
    problems += more
    val = {}
    if val_scoremaps is not None:
        val_found = read_metadata(metadata, "val", NEEDED)
        if shared := sorted(set(val_found.ids) & set(found.ids)):
            raise ValueError(
                f"{val_found.folder} and {found.folder} share {len(shared)} images ({listing(shared)}): a threshold chosen "
                "on the images that it is scored on is no choice on validation data"
            )
        val_maps, val_ready, more = open_score_maps(val_scoremaps, val_found.ids, size, val_found.sizes, subset)
        val_truths, others = _truths(val_found, masks, geometry)
        problems += [f"val, {text}" for text in (*more, *others)]
        problems += [f"val, {name}: no object in its masks" for name, boxes in zip(val_found.ids, val_truths, strict=True)
                     if len(boxes) == 0]  # fmt: skip
        val = {"val_maps": val_maps, "val_gt_boxes": val_truths, "val_ready": val_ready}
    if problems:
        raise ValueError(
            f"{scoremaps}: {len(problems)} problem{'s' * (len(problems) > 1)} with the score maps of {len(found.ids)} images "
            f"of {found.folder}: "
            f"{listing(problems, '; ')}; nothing was scored"
        )
    words = {"input": f"{size} x {size}, " + ("resized" if rules.geometry == "resize" else "centre crop")}
    words["score maps"] = "as they are" if ready else "resized (cubic), then min-max"
    regions = None
    if found.kind == "masks":
        words["boxes"] = "bounding boxes of the instance masks (the published protocol has PxAP alone for masks)"
        regions = MaskFolder(masks, found, geometry) if rules.curves else None
    empty = sum(len(boxes) == 0 for boxes in truths)
    if empty == len(truths) or (empty and not rules.curves):
        raise ValueError(
            f"{found.folder}: the masks of {empty} of {len(truths)} images show no object: nothing to score"
        )
    if empty:
        words["boxes"] = f"not used: the masks of {empty} images show no object"
        truths, val = None, {}
    return score(
        maps, truths, None, found.labels, found.ids, size=size, protocol=protocol, predicted=predicted, masks=regions,
        ready=ready, percentile=percentile, fixed_threshold=threshold, interval=interval, seed=seed, workers=workers,
        progress=progress, dataset=found.folder.parent.name, split=split, method=Path(scoremaps).resolve().name,
        conditions=words, **val,
    )  # fmt: skip


def check_out(out: str | Path) -> Path:
    """The folder to write to; ValueError, before any work, where it is or lies below a file or cannot be written to."""
    out = Path(out).expanduser()
    there = next(path for path in (out, *out.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "is a file" if not there.is_dir() else "cannot be written to"
        raise ValueError(f"{there} {what}: choose another folder for the results (--out)")
    return out


def class_names(metadata: str | Path, split: str = "test") -> list[str] | None:
    """The names of classes.txt beside the splits or in the split's folder, or None where there is none."""
    folder = Path(metadata).expanduser()
    known = [path for path in (folder / CLASSES, folder / split / CLASSES, folder.parent / CLASSES) if path.is_file()]
    return read_classes(known[0]) if known else None


def _truths(found: Metadata, masks: str | Path | None, geometry: Geometry) -> tuple[list[np.ndarray], list[str]]:
    """The ground-truth boxes (n, 4) of every image in the frame, and a line for each mask that cannot be read."""
    if found.kind == "boxes":
        return [geometry.boxes(found.boxes[name], found.sizes[name]).numpy() for name in found.ids], []
    root = Path(masks).expanduser()

    def boxes(name: str) -> np.ndarray | str:
        files = found.masks[name]
        try:
            if files.ignore:
                read_mask(root, [files.ignore], size=1)  # only to know that it can be read
            return geometry.boxes(*instance_boxes(root, files.paths)).numpy()
        except (OSError, ValueError) as error:
            return f"{name}: {error}"

    with ThreadPoolExecutor(default_workers()) as pool:
        answers = list(pool.map(boxes, found.ids))
    return answers, [answer for answer in answers if isinstance(answer, str)]

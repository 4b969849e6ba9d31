"""Boxes of all images with a trained network, block by block into a file that an interrupted run continues.

Images are read once, by threads, ahead of the network; what is held at a time is two blocks of them in the network's
size. A line of the file is an image: its boxes, or why it could not be read. Blocks always hold the same images, so
that a run that was stopped and started again writes the same bytes.
"""

from __future__ import annotations

import base64
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wsolkit.annotate.confidence import boxes_with_agreement
from wsolkit.annotate.formats import Record
from wsolkit.annotate.review import thumbnail
from wsolkit.boxes.preparation import prepare_map, to_uint8
from wsolkit.common.cores import cores
from wsolkit.common.errors import WsolkitError
from wsolkit.common.progress import progress
from wsolkit.data.base import Geometry, WSOLDataset
from wsolkit.data.decoded import ahead
from wsolkit.data.images import Sample, read_image
from wsolkit.localisation.localise import localise
from wsolkit.localisation.predict import original_box, original_shares
from wsolkit.runs.run import Trained

BLOCK = 64  # images between two writes
DIGITS = 6  # of a score


@dataclass(frozen=True)
class Rule:
    """How boxes are cut: method, threshold (None of a method that gives boxes), percentile, boxes of an image."""

    method: str
    threshold: float | None
    percentile: float
    count: int = 1


@dataclass(frozen=True)
class _Read:
    """An image as the network and the review page see it; or why it could not be read."""

    sample: Sample
    size: tuple[int, int] = (0, 0)
    square: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))
    thumbnail: bytes = b""
    problem: str = ""


@dataclass(eq=False)
class _Block(WSOLDataset):
    """A few images that were read before."""

    squares: dict[str, np.ndarray] = field(default_factory=dict)

    def load(self, sample: Sample) -> tuple[Image.Image, None]:
        return Image.fromarray(self.squares[sample.id]), None


def write_boxes(
    path: Path, trained: Trained, samples: Sequence[tuple[str, Sample]], rule: Rule, batch_size: int = 16
) -> None:
    """Write a line for each of `samples` (split, sample), or continue where an earlier call stopped.

    The map is that of the sample's own class; `rule` says how it becomes boxes, in original pixels.
    """
    done = _keep_whole_blocks(path, len(samples))
    if done == len(samples):
        return
    geometry = trained.geometry or Geometry()
    with open(path, "ab") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # large images and broken EXIF are worth no line each among thousands
        read = ahead(lambda item: _read(item[1], geometry.side), samples[done:], 2 * BLOCK, min(8, cores()))
        images = iter(progress(read, "boxes", total=len(samples), done=done))
        while block := list(islice(images, BLOCK)):
            made = _localised(trained, geometry, [item for item in block if not item.problem], rule, batch_size)
            for item in block:
                split, _ = samples[done]
                line = {"path": item.sample.id, "label": trained.classes[item.sample.label], "split": split}
                line |= {"error": item.problem} if item.problem else made[item.sample.id]
                file.write(json.dumps(line, ensure_ascii=False).encode() + b"\n")
                done += 1
            file.flush()
            os.fsync(file.fileno())


def read_boxes(path: Path) -> tuple[list[Record], dict[str, int], dict[str, str]]:
    """(records, path of an image -> where its line begins, path of an unreadable one -> why)."""
    records, places, failed, place = list[Record](), dict[str, int](), dict[str, str](), 0
    if not path.exists():
        return records, places, failed
    with open(path, "rb") as file:
        for line in filter(lambda line: line.endswith(b"\n"), file):  # the last of an interrupted run may be torn
            try:
                item = json.loads(line)
                if "error" in item:
                    failed[item["path"]] = item["error"]
                else:
                    places[item["path"]] = place
                    own = {"path": item["path"], "size": tuple(item["size"]), "label": item["label"]}
                    for box, score in zip(item["boxes"], item["scores"], strict=True):
                        records.append(Record(**own, box=tuple(box), score=score, split=item["split"]))
            except (ValueError, KeyError, TypeError) as error:
                raise WsolkitError(f"{path} is damaged ({error!r}); remove it and run again") from None
            place += len(line)
    return records, places, failed


def thumbnail_at(path: Path, place: int) -> bytes:
    """The JPEG of the image whose line begins at `place`."""
    with open(path, "rb") as file:
        file.seek(place)
        return base64.b64decode(json.loads(file.readline())["thumbnail"])


def _keep_whole_blocks(path: Path, total: int) -> int:
    """Cut off what an interrupted run left of a block; how many images stay."""
    if not path.exists():
        return 0
    ends, place = [0], 0
    with open(path, "rb+") as file:
        for line in file:
            place += len(line)
            if line.endswith(b"\n"):
                ends.append(place)
        done = len(ends) - 1
        done = done if done >= total else done // BLOCK * BLOCK
        file.truncate(ends[done])
    return done


def _read(sample: Sample, side: int) -> _Read:
    try:
        image = read_image(sample.path or "")
    except (ValueError, OSError) as error:
        return _Read(sample, problem=str(error))
    square = np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))
    return _Read(sample, image.size, square, thumbnail(image))


def _localised(
    trained: Trained, geometry: Geometry, items: Sequence[_Read], rule: Rule, batch_size: int
) -> dict[str, dict[str, Any]]:
    """Id -> size, boxes, scores and thumbnail, as a line holds them."""
    if not items:
        return {}
    samples = [replace(item.sample, path=None, boxes=(), size=item.size) for item in items]
    squares = {item.sample.id: item.square for item in items}
    block = _Block("folder", "all", trained.classes, samples, geometry, squares=squares)
    maps = localise(trained.model, block, rule.method, batch_size=batch_size, progress=iter)
    shares = np.exp(maps.logits - maps.logits.max(axis=1, keepdims=True)).astype(np.float64)
    certain = (shares / shares.sum(axis=1, keepdims=True))[np.arange(len(items)), maps.labels]
    made = {}
    for row, item in enumerate(items):
        if rule.threshold is None:  # the method gives boxes
            boxes, agreement = [original_shares(maps.arrays["boxes"][row], item.size, geometry)], np.ones(1)
        else:
            u8 = to_uint8(prepare_map(maps.arrays["maps"][row], geometry.size))
            cut, agreement = boxes_with_agreement(u8, rule.threshold, rule.percentile, rule.count)
            if not len(cut):  # an empty mask: all that the network saw, with no certainty
                cut, agreement = np.array([[0, 0, geometry.size - 1, geometry.size - 1]]), np.zeros(1)
            boxes = [original_box(box, item.size, geometry) for box in cut]
        scores = [round(float(certain[row] * part), DIGITS) for part in agreement]
        line = {"size": item.size, "boxes": [box.tolist() for box in boxes], "scores": scores}
        made[item.sample.id] = line | {"thumbnail": base64.b64encode(item.thumbnail).decode()}
    return made

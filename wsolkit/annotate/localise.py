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
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from wsolkit.annotate.confidence import boxes_with_agreement
from wsolkit.annotate.formats import Record
from wsolkit.annotate.review import thumbnail
from wsolkit.boxes.preparation import prepare_map, to_uint8
from wsolkit.common.cores import cores
from wsolkit.common.errors import WsolkitError
from wsolkit.common.progress import progress
from wsolkit.data.base import Geometry, normalise
from wsolkit.data.decoded import ahead
from wsolkit.data.images import Sample, read_image
from wsolkit.localisation.predict import original_box, original_shares
from wsolkit.methods.maps import answers, feature_map
from wsolkit.methods.registry import LAYER, resolve
from wsolkit.networks.modules import evaluation_mode
from wsolkit.networks.split import network_for, rest_of
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
    seen: np.ndarray = field(default_factory=lambda: np.empty((0, 0, 3), np.uint8))
    thumbnail: bytes = b""
    problem: str = ""


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
        read = ahead(lambda item: _read(item[1], geometry), samples[done:], 2 * BLOCK, min(8, cores()))
        images = iter(progress(read, "boxes", total=len(samples), done=done))
        while block := list(islice(images, BLOCK)):
            good = [item for item in block if not item.problem]
            made = dict[str, dict[str, Any]]()
            for start in range(0, len(good), batch_size):
                made |= _localised(trained, geometry, good[start : start + batch_size], rule)
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


def _read(sample: Sample, geometry: Geometry) -> _Read:
    try:
        image = read_image(sample.path or "")
    except (ValueError, OSError) as error:
        return _Read(sample, problem=str(error))
    square = np.asarray(image.resize((geometry.side, geometry.side), Image.Resampling.BILINEAR))
    return _Read(sample, image.size, geometry.crop(square), thumbnail(image))


def _localised(trained: Trained, geometry: Geometry, items: Sequence[_Read], rule: Rule) -> dict[str, dict[str, Any]]:
    """Id -> size, boxes, scores and thumbnail of the images of one pass, as a line holds them."""
    device = next(trained.model.parameters()).device
    images = normalise(np.stack([item.seen for item in items])).to(device)
    layer = resolve(rule.method).settings.get(LAYER)
    model = trained.model if layer is None else network_for(trained.model, layer, None, images[:1])
    features = feature_map(model, images)
    with evaluation_mode(model), torch.inference_mode():
        shares = rest_of(model, images)(features.clone()).double().softmax(1).cpu().numpy()
    labels = torch.tensor([item.sample.label for item in items], device=device)
    own: dict[str, Any] = {"features": features} | ({} if layer is None else {LAYER: model.layer})
    answer = answers(model, images, labels, [rule.method], **own)[rule.method].float().cpu().numpy()
    made = {}
    for row, item in enumerate(items):
        if rule.threshold is None:  # the method gives boxes
            boxes, agreement = [original_shares(answer[row], item.size, geometry)], np.ones(1)
        else:
            u8 = to_uint8(prepare_map(answer[row], geometry.size))
            cut, agreement = boxes_with_agreement(u8, rule.threshold, rule.percentile, rule.count)
            if not len(cut):  # an empty mask: all that the network saw, with no certainty
                cut, agreement = np.array([[0, 0, geometry.size - 1, geometry.size - 1]]), np.zeros(1)
            boxes = [original_box(box, item.size, geometry) for box in cut]
        scores = [round(float(shares[row, item.sample.label] * part), DIGITS) for part in agreement]
        line = {"size": item.size, "boxes": [box.tolist() for box in boxes], "scores": scores}
        made[item.sample.id] = line | {"thumbnail": base64.b64encode(item.thumbnail).decode()}
    return made

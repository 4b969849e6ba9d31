"""`annotate`: from a folder of images in class folders to boxes in files, pages for their review, and numbers; `apply`:
the same files again, after a review.

OUT holds annotation.json (what the boxes are made from; written first), training/ (where a network was trained here),
boxes.jsonl (a line for each image), a folder for each format, review/, summary/, index.html (numbers, and links to the
review) and, written last, summary.json.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping, Sequence, Set
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from wsolkit.annotate.confidence import DELTA, HEURISTIC, UNUSED, by_class, calibration, measure, told, unused
from wsolkit.annotate.formats import FORMATS, Origin, Record, check_paths, write_formats
from wsolkit.annotate.review import INDEX, Decision, decided, pages_of, read_decisions, write_index, write_pages
from wsolkit.common.errors import WsolkitError, is_real, is_whole, require
from wsolkit.common.files import alone, atomic_path, check_out, digest, given_path, listing, read_json, write_json
from wsolkit.methods.registry import Method, resolve
from wsolkit.networks.backbones import family
from wsolkit.runs.parameters import RunConfig, code_state, localising_code, weights_state

if TYPE_CHECKING:  # they import torch
    from wsolkit.data.base import WSOLDataset
    from wsolkit.data.images import Sample
    from wsolkit.runs.run import Trained

ABOUT, BOXES, SUMMARY, TRAINING = "annotation.json", "boxes.jsonl", "summary.json", "training"
MARK = "wsolkit annotate"
METHOD = "affinity_cam"  # of those that need no box, the one with the best boxes in photographs (README)
CODE = ("annotate/localise.py", "annotate/confidence.py", "boxes")  # what boxes depend on beside the score maps
SIZE = 448  # input side of a pretrained network, in pixels
ADVICE = "choose another --out, or remove the folder"


@dataclass(frozen=True)
class Annotated:
    """What lies in OUT now.

    Attributes:
        folder: OUT. records: all boxes, as the formats have them. failed: path of an image that is left out -> why.
        written: folders of the formats. pages: of the review. summary: the content of summary.json.
    """

    folder: Path
    records: list[Record]
    failed: dict[str, str]
    written: list[Path]
    pages: list[Path]
    summary: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        lines = [f"{len(self.records)} boxes of {self.summary['images']} images: {', '.join(map(str, self.written))}"]
        lines += self.told()
        lines += [f"review them: open {self.folder / INDEX} in a browser"] if self.pages else []
        return "\n".join(lines)

    def told(self) -> list[str]:
        """Sentences on certainty, what was measured, and the review."""
        lines = [f"certainty: {self.summary['certainty']}"]
        measured = self.summary["measured"]
        if own := measured.get("all") or measured.get(UNUSED):
            besides = "" if "all" in measured else ", none of which calibrated the certainty"
            (low, high), half = own["interval"], own["corloc_of_the_most_certain_half"]
            right = f"{own['corloc']:.1f} % are right, with an IoU of at least {DELTA:g} (CorLoc; 95 % interval"
            lines.append(
                f"compared with the true boxes of {own['images']} images{besides}: {right} {low:.1f} to {high:.1f}), "
                f"{half:.1f} % of the most certain half; mean IoU {100 * own['mean_iou']:.1f} %, "
                f"AP50 {own['ap50']:.1f} %"
            )
        else:
            some = "all images with a true box calibrated the certainty" if measured else "no image has a true box"
            lines.append(f"how many boxes are right was not measured: {some}")
        if review := self.summary.get("review"):
            lines.append(
                "review: " + ", ".join(f"{value:.3g} {name}" for name, value in review.items() if value is not None)
            )
        return lines


def annotate(
    pictures: str | Path,
    out: str | Path,
    formats: Sequence[str] = ("coco",),
    method: str = METHOD,
    checkpoint: str | Path | None = None,
    threshold: float | None = None,
    max_boxes: int = 1,
    batch_size: int = 16,
    device: str = "",
    **training: Any,
) -> Annotated:
    """Train a network on class folders (or take one), localise every image, write boxes, review pages and numbers.

    An interrupted call goes on where it stopped when it is made again; a finished one writes the formats again.

    Args:
        pictures: the folder of `--dataset folder`: a folder of images for each class.
        out: a folder for the results, not inside of `pictures`; new, empty, or that of the same call.
        formats: names in `FORMATS`.
        method: its score map, of the image's own class, becomes the box.
        checkpoint: a best.pt or the folder of a training run; None trains one here, with the recipe "frozen" where the
            start weights are pretrained.
        threshold: share of the map's maximum; None is the one that a report of the checkpoint's training run chose, or
            the method's fixed one.
        max_boxes: boxes of an image at most: of the largest components of its map.
        batch_size: images in one pass.
        device: cpu or cuda.
        training: parameters of a training run (backbone, weights, size, ...), see `RunConfig`.

    Raises: WsolkitError, FileNotFoundError: naming the value or the file; before anything is written.
    """
    root, folder = _places(pictures, out)
    chosen = _formats(formats)
    entry = resolve(method)
    entry.refuse(threshold=threshold)
    good = threshold is None or is_real(threshold, 0, 1)
    require(good, f"threshold must lie in [0, 1], but is {threshold!r}")
    require(is_whole(max_boxes, 1), f"max_boxes must be a whole number of at least 1, but is {max_boxes!r}")
    require(is_whole(batch_size, 1), f"batch_size must be a whole number of at least 1, but is {batch_size!r}")
    from wsolkit.annotate.localise import Rule, read_boxes, write_boxes
    from wsolkit.common.processes import device_named
    from wsolkit.runs.run import load_trained

    place = device_named(device)
    data = _open(root)
    samples = sorted(((split, sample) for split, own in data.items() for sample in own.samples), key=lambda s: s[1].id)
    classes = list(data["train"].classes)
    check_paths(chosen, (sample.id for _, sample in samples))
    trained, cut = None, threshold
    if checkpoint is None:
        config = _config(root, folder, device, training)
        reason = entry.undefined(config.backbone, config.frozen)
        require(not reason, f"{reason}; choose another --method or --backbone")
        variant = entry.variants_on(config.backbone)[0]
        network: Any = {name: value for name, value in config.training_parts(variant).items() if name != "data"}
    else:
        asked = ", ".join(training)
        require(not training, f"--checkpoint names a trained network, for which {asked} has no meaning: leave it out")
        trained = load_trained(checkpoint, place)
        _same_classes(trained, classes, root)
        trained.remark(entry.name)
        network = weights_state(str(trained.path.resolve()))
    if entry.gives == "map" and cut is None:
        cut = _default_threshold(trained, entry)
    images = [(sample.id, os.path.getsize(sample.path or "")) for _, sample in samples]
    made_from: dict[str, Any] = {"images": digest(images), "classes": classes, "method": entry.name, "threshold": cut}
    made_from |= {"max_boxes": max_boxes, "network": network, "version": version("wsolkit")}
    made_from |= {"code": [localising_code(entry), code_state(CODE)]}
    run = digest(made_from)
    _require_own(folder, run)
    with _alone(folder):
        about: dict[str, Any] = {"written_by": MARK, "run": run, "root": str(root), "classes": classes}
        about |= {"method": entry.name, "threshold": cut, "max_boxes": max_boxes, "version": version("wsolkit")}
        known = read_json(folder / ABOUT) if (folder / ABOUT).exists() else {}
        same = known.get("run") == run
        about["checkpoint"] = known["checkpoint"] if same else ""
        if not same:
            write_json(folder / ABOUT, about)
        if trained is None:
            path = Path(about["checkpoint"])
            path = path if about["checkpoint"] and path.exists() else _train(config, variant)
            trained = load_trained(path, place)
        about["checkpoint"] = str(trained.path.resolve())
        read_boxes(folder / BOXES)  # damaged lines are told before anything is added
        write_json(folder / ABOUT, about)
        rule = Rule(entry.map, cut, entry.percentile, max_boxes)
        write_boxes(folder / BOXES, trained, samples, rule, batch_size)
        return _finish(folder, about, chosen, data)


def apply(out: str | Path, decisions: Iterable[str | Path], formats: Sequence[str] = ()) -> Annotated:
    """Write the formats again after a review: without rejected images, with the boxes that were drawn.

    Each call starts from the boxes of `annotate`: give the files of all pages at once. An image that is no longer among
    the others is left out and named in `failed`; where their whole folder is gone, images are not looked for.

    Args:
        out: the folder of a complete `annotate`.
        decisions: files that review pages wrote.
        formats: names in `FORMATS`; () is those that are there.

    Raises: WsolkitError, FileNotFoundError: naming the file and what is wrong; before anything is written.
    """
    folder = given_path(out, "the folder of an annotation (--out)").resolve()
    given = [given_path(path, "a file of decisions (--apply)") for path in decisions]
    good = all((folder / name).is_file() for name in (ABOUT, SUMMARY, BOXES))
    require(good, f"{folder} holds no complete annotation; run `wsolkit annotate PICTURES --out {folder}` first")
    about = _about(folder)
    from wsolkit.annotate.localise import read_boxes

    sizes = {record.path: record.size for record in read_boxes(folder / BOXES)[0]}
    known = read_decisions(given, about["run"], sizes)
    chosen = _formats(formats or [name for name in FORMATS if (folder / name).is_dir()])
    root = Path(about["root"])
    data = _open(root) if root.is_dir() else {}
    gone = sizes.keys() - {sample.id for own in data.values() for sample in own.samples} if data else set[str]()
    known = {path: decision for path, decision in known.items() if path not in gone}
    with _alone(folder):
        return _finish(folder, about, chosen, data, known, gone)


def to_fiftyone(annotated: Annotated, name: str = "wsolkit") -> Any:
    """The boxes as a FiftyOne data set, where fiftyone is installed: a sample for each image, its boxes as `Detections`
    in the field "pseudo", with shares of the sides and the score as confidence.

    Raises: WsolkitError: fiftyone is not installed.
    """
    try:
        import fiftyone
    except ImportError:
        raise WsolkitError("fiftyone is not installed: pip install fiftyone") from None
    root = Path(_about(annotated.folder)["root"])
    dataset = fiftyone.Dataset(name)
    for path, own in groupby(annotated.records, key=lambda record: record.path):
        sample, detections = fiftyone.Sample(filepath=str(root / path)), []
        for record in own:
            (x, y), (width, height), size = record.box[:2], record.extent, record.size
            box = [x / size[0], y / size[1], width / size[0], height / size[1]]
            detections.append(fiftyone.Detection(label=record.label, bounding_box=box, confidence=record.score))
        sample["pseudo"] = fiftyone.Detections(detections=detections)
        dataset.add_sample(sample)
    return dataset


# ------------------------------------------------------------------------------------------------ what is checked first


def _places(pictures: str | Path, out: str | Path) -> tuple[Path, Path]:
    from wsolkit.data.readers import existing_folder

    root = existing_folder(pictures, "give the folder that holds a folder of images for each class").resolve()
    folder = check_out(out).resolve()
    inside = f"{folder} lies in {root}, and thumbnails and files there would be taken for images"
    require(root != folder and root not in folder.parents, f"{inside}; choose another --out")
    return root, folder


def _formats(formats: Iterable[str]) -> list[str]:
    chosen = list(dict.fromkeys(formats))
    unknown = [name for name in chosen if name not in FORMATS]
    require(chosen and not unknown, f"unknown format {unknown[:1]}; choose from {', '.join(FORMATS)}")
    return chosen


def _open(root: Path) -> dict[str, WSOLDataset]:
    from wsolkit.data.catalogue import SPLITS, load_dataset

    return {split: load_dataset("folder", split, root=root) for split in SPLITS}


def _config(root: Path, folder: Path, device: str, training: Mapping[str, Any]) -> RunConfig:
    """Of the training run in OUT/training. Where start weights are pretrained and no recipe is given, it is "frozen",
    at the size and stride with which README's numbers of photographs were measured."""
    given = {"dataset": "folder", "root": str(root), "out": str(folder / TRAINING), "device": device, **training}
    config = RunConfig.make(**given)
    if config.weights == "none" or "recipe" in training:
        return config
    measured = {"recipe": "frozen", "size": SIZE, "stride": max(family(config.backbone).strides)}
    return RunConfig.make(**{**measured, **given})


def _same_classes(trained: Trained, classes: Sequence[str], root: Path) -> None:
    if trained.classes != classes:
        others = sorted({*trained.classes} ^ {*classes}) or ["another order"]
        wrong = f"{trained.path} knows {len(trained.classes)} classes, and {root} has {len(classes)}"
        raise WsolkitError(f"{wrong}; they differ in {listing(others)}. Give the checkpoint of these classes, or none")


def _default_threshold(trained: Trained | None, entry: Method) -> float:
    from wsolkit.runs.run import default_threshold

    if trained is None:
        return entry.fixed_threshold(entry.percentile)
    return default_threshold(trained, entry.name, entry.percentile)[0]


def _alone(folder: Path) -> AbstractContextManager[None]:
    busy = f"another annotate is writing to {folder}; wait for it, or choose another --out"
    return alone(folder.with_name(f"{folder.name}.lock"), busy=busy)


def _about(folder: Path) -> dict[str, Any]:
    about = read_json(folder / ABOUT, ADVICE)
    good = isinstance(about, dict) and about.get("written_by") == MARK
    require(good, f"{folder / ABOUT} was not written by wsolkit annotate; {ADVICE}")
    return about


def _require_own(folder: Path, run: str) -> None:
    """Refuse a folder that holds anything but what this very call wrote there, or one that had not made a box yet."""
    if (folder / ABOUT).exists():
        about = _about(folder)
        other = f"{folder} holds boxes of {about.get('method')} that were made from other images, settings or code"
        require(about.get("run") == run or not (folder / BOXES).exists(), f"{other}; {ADVICE}")
    elif folder.exists():
        held = sorted(path.name for path in folder.iterdir())
        require(not held, f"{folder} is not empty and was not written by wsolkit annotate ({listing(held)}); {ADVICE}")


# ------------------------------------------------------------------------------------------------------ what is done


def _train(config: RunConfig, variant: str) -> Path:
    """The folder of the training run, on all images that can be read."""
    from wsolkit.runs.folder import is_trained
    from wsolkit.runs.run import Run

    run, folder = Run(config), config.training_folder(variant)
    if not is_trained(folder):
        for split in ("train", "val"):
            run.leave_out(_unreadable(run.dataset(split, variant), split == "train" and not config.frozen))
        run.model(variant)
    return folder


def _unreadable(data: WSOLDataset, crops: bool) -> set[str]:
    """Ids of the images that cannot be read; where that is all of them, an error. Many images are decoded into the file
    that training reads, so that looking for those costs nothing. crops: training cuts windows out of larger images."""
    from wsolkit.common.cores import cores
    from wsolkit.common.progress import progress
    from wsolkit.data.decoded import ahead
    from wsolkit.data.images import read_image

    def wrong(sample: Sample) -> tuple[str, str]:
        try:
            read_image(sample.path or "")
        except (ValueError, OSError) as error:
            return sample.id, str(error)
        return "", ""

    with suppress(WsolkitError):  # some cannot be read; which is asked for below
        pixels = data.decoded(data.geometry.enlarged if crops else data.geometry.side)
        pixels.whole(len(data))
        if pixels.file is not None:
            return set()
    threads = min(8, cores())
    read = ahead(wrong, data.samples, 4 * threads, threads)
    why = dict(progress(read, f"check {data.split} images", total=len(data)))
    away = why.keys() - {""}
    first = listing([*why.values()][:1])
    require(len(away) < len(data), f"none of the {len(data)} {data.split} images can be read; first: {first}")
    return away


def _finish(
    folder: Path,
    about: Mapping[str, Any],
    formats: Sequence[str],
    data: Mapping[str, WSOLDataset],
    decisions: Mapping[str, Decision] | None = None,
    gone: Set[str] = frozenset(),
) -> Annotated:
    """Certainty, numbers, formats and pages from boxes.jsonl and, where some are known, true boxes."""
    from wsolkit.annotate.localise import read_boxes, thumbnail_at

    records, places, failed = read_boxes(folder / BOXES)
    records = [record for record in records if record.path not in gone]
    failed |= {path: f"{Path(about['root'], path)}: the image is no longer there" for path in sorted(gone)}
    require(records, f"no image of {about['root']} could be read; first: {listing([*failed.values()][:1])}")
    (folder / SUMMARY).unlink(missing_ok=True)
    for pattern in (".*.part", ".*.old", "summary/.*.part"):  # what a killed call was writing
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    truth = {sample.id: sample.boxes for own in data.values() for sample in own.samples if sample.boxes}
    known = measure(records, truth)
    if (fitted := calibration(known)) is not None:
        calibrated = [round(float(value), 6) for value in np.interp([r.score for r in records], *fitted)]
        records = [replace(record, score=score) for record, score in zip(records, calibrated, strict=True)]
        known = measure(records, truth)
    count = known.splits.count("val")
    certainty = f"share of right boxes, calibrated on {count} validation images with boxes" if fitted else HEURISTIC
    summary: dict[str, Any] = {"images": len(places) - len(gone), "boxes": len(records), "unreadable": failed}
    summary |= {"certainty": certainty, "measured": told(known, fitted is not None)}
    summary["classes"] = by_class(known, fitted is not None)
    pages: list[Path] = []
    first = records
    origin = Origin(about["root"], tuple(about["classes"]), about["method"], about["threshold"], about["version"])
    if decisions is None:
        pages = write_pages(
            folder, records, origin, about["run"], lambda path: thumbnail_at(folder / BOXES, places[path])
        )
    else:
        summary["review"] = _reviewed(decisions, measure(records, truth).hits, records, truth)
        records = decided(records, decisions)
    written = write_formats(folder, formats, records, origin)
    measured, chart = unused(known, fitted is not None), None
    if measured.any():
        from wsolkit.figures import certainty_curve

        chart = folder / "summary" / "certainty.png"
        chart.parent.mkdir(exist_ok=True)
        with atomic_path(chart) as part:
            certainty_curve(known.scores[measured], known.hits[measured]).savefig(
                part, format="png", dpi=150, bbox_inches="tight"
            )
    annotated = Annotated(folder, records, failed, written, pages, summary)
    write_index(folder, pages_of(first, origin.classes), origin, records, annotated.told(), summary, written, chart)
    write_json(folder / SUMMARY, summary)
    return annotated


def _reviewed(decisions: Mapping[str, Decision], hits: np.ndarray, records: Sequence[Record], truth: Mapping) -> dict:
    """Counts of decisions, and the accuracy (percent) of the accepted boxes where true ones are known, else None."""
    paths = dict.fromkeys(record.path for record in records)
    right = dict(zip([path for path in paths if truth.get(path)], hits, strict=True))
    states = [item.decision for item in decisions.values()]
    counts: dict[str, Any] = {name: states.count(name) for name in ("accepted", "rejected", "drawn")}
    counts["undecided"] = len(paths) - len(states)
    accepted = [right[path] for path, item in decisions.items() if item.decision == "accepted" and path in right]
    return counts | {"% of accepted boxes are right": 100 * float(np.mean(accepted)) if accepted else None}

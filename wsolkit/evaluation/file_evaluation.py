"""Scoring anyone's score maps or boxes: a folder of maps, one .npy per image as wsolevaluation keeps them, or a csv of
boxes, and the metadata in.

Predictions may lie beside the maps. An EvalResult comes out. `export_score_maps` writes a folder of maps.
"""

from __future__ import annotations

import contextlib
import csv
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from wsolkit.boxes.preparation import frame, prepare_map
from wsolkit.boxes.protocols import protocol_named
from wsolkit.common.errors import WsolkitError, is_digits, reason, require
from wsolkit.common.files import (
    atomic_path,
    atomic_write_text,
    check_out,
    files_below,
    given_path,
    keep_foreign,
    listing,
)
from wsolkit.data.base import Geometry
from wsolkit.data.images import instance_boxes, read_mask
from wsolkit.data.readers import (
    CLASSES,
    MOST_CLASSES,
    Metadata,
    all_shares,
    clean,
    columns,
    corners,
    inside,
    read_classes,
    read_metadata,
    read_table,
    real,
    refuse_misread,
    require_unit,
    touches,
)
from wsolkit.evaluation.metrics import same_lengths
from wsolkit.evaluation.per_image import csv_lines, slices
from wsolkit.evaluation.results import EvalResult
from wsolkit.evaluation.scoring import Maps, Rule, Truth, score, threads

NEEDED = ("class_labels", "image_sizes", "localization")
PREDICTIONS = "predictions.csv"
FIGURE_MARK = "wsolkit evaluate"  # near the beginning of every figure of an evaluation
FIGURES = ("accuracy", "iou_histogram", "failures", "object_size")
NO_BOX = (-1.0, -1.0, -1.0, -1.0)
ROUNDING = 1e-6  # by which a map in [0, 1] may leave it


@dataclass
class OnDemand:
    """Arrays that are read from their files each time they are asked for: `read` of an item of `names`."""

    read: Callable[[Any], np.ndarray]
    names: Sequence

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.read(self.names[index])


def evaluate_files(
    scoremaps: str | Path | None,
    metadata: str | Path,
    masks: str | Path | None = None,
    protocol: str = "wsolevaluation",
    split: str = "test",
    *,
    size: int = 224,
    predictions: str | Path | None = None,
    val_scoremaps: str | Path | None = None,
    subset: bool = False,
    boxes: str | Path | None = None,
    **options: Any,
) -> EvalResult:
    """Score the maps or boxes of one split; numbers are those of `score` (and of `wsolkit.evaluate` on the same maps).

    Args:
        scoremaps: folder of `<id>.npy`, see `open_score_maps`. If every map has the frame's size and lies in [0, 1],
            they are scored as they are, as wsolevaluation does (but a constant one as zeros); otherwise all are resized
            and min-max normalised.
        metadata: folder with `<split>/image_ids.txt` and its companions, or that split's own folder. localization.txt
            holds boxes (then image_sizes.txt is needed) or names mask files below `masks`, whose instances' bounding
            boxes then serve as boxes.
        predictions: csv of lines `path,label` or `path,best,second,...`; default: predictions.csv in `scoremaps`, where
            there is one. Without predictions there is no Top-k number, and no failure is a wrong class.
        val_scoremaps: maps of the metadata's "val" split, from which a threshold is chosen as a second operating point.
        subset: ignore maps of images that the metadata does not list.
        boxes: csv of one box per image (see `read_boxes`) in the place of `scoremaps`, which is then None: of a
            detector, or of any method that gives no map. Nothing is chosen; of the protocol only the frame applies.
        protocol: see `Rule`. options: of `Rule` (percentile, threshold, interval) and of `score` (samples, seed,
            workers, progress).

    Raises:
        ValueError or FileNotFoundError, before anything is scored. All missing, unreadable, misshapen or not finite
        maps, masks that are not there, and predictions that do not fit, are listed in one error (the first 20 by name).
    """
    own = {name: options.pop(name) for name in ("percentile", "threshold", "interval") if name in options}
    require((scoremaps is None) != (boxes is None), "give score maps (--scoremaps) or boxes (--boxes), one of the two")
    rule, rules = Rule(protocol, **own), protocol_named(protocol)
    asked = {name: own.get(name) for name in ("percentile", "threshold")} | {"val-scoremaps": val_scoremaps}
    if boxes is not None and (wrong := [name for name, value in asked.items() if value is not None]):
        raise WsolkitError(f"boxes have no threshold to choose: leave out --{' and --'.join(wrong)}")
    geometry, root = Geometry(size, rules.geometry), given_path(masks or ".", "a folder of masks (--masks)")
    kind = "a folder of score maps (--scoremaps)" if boxes is None else "a csv of boxes (--boxes)"
    source = given_path(scoremaps if boxes is None else boxes, kind)
    meta = read_metadata(metadata, split, NEEDED)
    truth_file = meta.folder / "localization.txt"
    if meta.kind == "masks" and masks is None:
        raise WsolkitError(f"{truth_file} names mask files: give --masks, the folder they lie in")
    require(meta.kind != "boxes" or masks is None, f"{truth_file} holds boxes, no mask files: leave out --masks")
    alone = f"protocol {protocol} has one fixed threshold: leave out --val-scoremaps"
    require(val_scoremaps is None or rules.curves, alone)
    problems: list[str] = []

    def truths_of(meta: Metadata, mark: str = "") -> list[Any]:
        truths = _boxes(meta, root, geometry)
        problems.extend(mark + own for own in truths if isinstance(own, str))
        return truths

    def opened(scoremaps: str | Path, meta: Metadata, mark: str = "") -> Maps:
        maps, ready, faults = open_score_maps(scoremaps, meta.ids, size, meta.sizes, subset)
        problems.extend(mark + fault for fault in faults)
        return Maps(maps, meta.ids, ready=ready)

    maps = opened(source, meta) if boxes is None else Maps(ids=meta.ids, boxes=read_boxes(source, meta, geometry))
    truths = truths_of(meta)
    names = class_names(metadata, split)
    known = MOST_CLASSES if names is None else len(names)
    nameless = f"has no name in {CLASSES}, which has {known} (labels begin at 0)"
    strange = [(name, label) for name, label in zip(meta.ids, meta.labels, strict=True) if label >= known]
    problems += [f"{name}: label {label} {nameless}" for name, label in strange]
    predicted, validation, beside = None, None, source / PREDICTIONS  # nothing lies below a csv of boxes
    if predictions is not None or os.path.lexists(beside):
        predicted, faults = read_predictions(beside if predictions is None else predictions, meta.ids, known)
        problems += faults
    if val_scoremaps is not None:
        val = read_metadata(metadata, "val", NEEDED)
        shared = sorted(set(val.ids) & set(meta.ids))
        fault = f"{val.folder} and {meta.folder} share {len(shared)} images ({listing(shared)}): a threshold chosen"
        require(not shared, f"{fault} on the images that it is scored on is no choice on validation data")
        val_maps, val_boxes = opened(val_scoremaps, val, "val, "), truths_of(val, "val, ")
        bare = [name for name, own in zip(val.ids, val_boxes, strict=True) if not len(own)]
        problems += [f"val, {name}: no object in its masks" for name in bare]
        validation = val_maps, Truth(size, boxes=val_boxes)
    kind = "score maps" if boxes is None else "boxes"
    count = f"{len(problems)} problem{'s' * (len(problems) > 1)} with the {kind} of {len(meta.ids)} images"
    count = f"{count} of {meta.folder}: {listing(problems, '; ')}"
    require(not problems, f"{source}: {count}; nothing was scored: mend them")
    conditions = {"input": f"{size} x {size}, " + ("resized" if rules.geometry == "resize" else "centre crop")}
    conditions["score maps"] = "as they are" if maps.ready else "resized (cubic), then min-max"
    if boxes is not None:
        conditions["score maps"] = "none, boxes were given"
    regions = None
    if meta.kind == "masks":
        conditions["boxes"] = "bounding boxes of the instance masks (the published protocol has PxAP alone for masks)"
        if rules.curves:
            files = [meta.masks[name] for name in meta.ids]
            regions = OnDemand(lambda own: geometry.crop(read_mask(root, own.paths, own.ignore, geometry.side)), files)
    if empty := sum(len(own) == 0 for own in truths):
        if empty == len(truths) or not rules.curves or boxes is not None:
            masked = f"the masks of {empty} of {len(truths)} images"
            raise WsolkitError(f"{meta.folder}: {masked} show no object: nothing to score")
        conditions["boxes"] = f"not used: the masks of {empty} image{'s' * (empty > 1)} show no object"
    truth, name = Truth(size, meta.labels, None if empty else truths, regions), source.resolve()
    options |= {"dataset": meta.folder.parent.name, "split": split, "conditions": conditions}
    options["method"] = name.name if boxes is None else name.stem
    return score(replace(maps, predicted=predicted), truth, rule, validation, **options)


def read_boxes(path: str | Path, meta: Metadata, geometry: Geometry) -> np.ndarray:
    """One predicted box for each image of `meta` from a csv of lines `path,x0,y0,x1,y1`: (N, 4) int64 in the frame.

    Corners are those of localization.txt: pixels of the original image from 0, inclusive, whole or decimal; they come
    into the frame as ground truth does, and are cut there. -1,-1,-1,-1 stands for an image where no object was found,
    and stays -1. A line that ends in `,x0,y0,x1,y1` is a header; lines of other images are passed over.

    Raises: FileNotFoundError or WsolkitError: there is no such file; lines that are wrong, twice or missing, boxes
        outside of their image, shares in the place of pixels, and a file of which most boxes reach far beyond their
        images, are named.
    """
    path, form = given_path(path, "a csv of boxes"), "path,x0,y0,x1,y1"
    line = columns(inside, *[real] * 4, right=True, make=tuple)

    def parse(text: str) -> tuple[str, Any]:
        if text.replace(" ", "").endswith(form.removeprefix("path")):
            return "", NO_BOX
        name, box = line(text)
        return name, box if box == NO_BOX else corners(box)

    def problem(name: str, earlier: list | None, box: Any) -> str:
        if earlier or name not in meta.sizes:
            return f"{name} is there already" if earlier else f"image_sizes.txt of {meta.folder} has no line for {name}"
        width, height = meta.sizes[name]
        fits = box == NO_BOX or touches(box, (width, height))
        return "" if fits else f"the box lies outside {name}, which is {width} x {height} pixels"

    known = {name: name for name in meta.ids}
    rule = f"{form} in pixels with x0 <= x1 and y0 <= y1 (-1 four times where no object was seen)"
    rows = read_table(path, parse, f"{rule}, one line for each image", known, True, problem)
    given = [(name, box, meta.sizes[name]) for name, (box,) in rows.items() if box != NO_BOX]
    if given and all_shares([box for _, box, _ in given]):
        text = "no corner is larger than 1, so these seem to be shares: give pixels of the images"
        raise WsolkitError(f"{path}: {text}")
    require_unit(path, "pixel", ((name, box) for name, box, _ in given))
    refuse_misread(path, given)
    edge, made = geometry.size - 1, []
    for name in meta.ids:
        (box,) = rows[name]
        made.append(NO_BOX if box == NO_BOX else geometry.boxes([box], meta.sizes[name]).numpy()[0].clip(0, edge))
    return np.array(made, np.int64)


def _boxes(meta: Metadata, root: Path, geometry: Geometry) -> list[Any]:
    """The ground-truth boxes (n, 4) of every image in the frame; a text for an image whose masks cannot be read."""
    if meta.kind == "boxes":
        return [geometry.boxes(meta.boxes[name], meta.sizes[name]).numpy() for name in meta.ids]

    def boxes(name: str) -> np.ndarray | str:
        files = meta.masks[name]
        try:
            if files.ignore:
                read_mask(root, [files.ignore], size=1)  # only to know that it can be read
            return geometry.boxes(*instance_boxes(root, files.paths)).numpy()
        except (OSError, ValueError) as error:
            return f"{name}: {error}"

    with ThreadPoolExecutor(threads()) as pool:
        return list(pool.map(boxes, meta.ids))


def class_names(metadata: str | Path, split: str = "test") -> list[str] | None:
    """The names of classes.txt beside the splits or in the split's folder, or None where there is none."""
    folder = Path(metadata).expanduser()
    places = (place / CLASSES for place in (folder, folder / split, folder.parent))
    return next((read_classes(path) for path in places if os.path.lexists(path)), None)


def keep_foreign_results(out: Path) -> list[Path]:
    """The files of an evaluation in `out`. WsolkitError where one of them is there and none of the kit's."""
    marks = {"metrics.json": "wsolkit-result", "per_image.csv": "id,label,", "slices.csv": "kind,slice,"}
    keep_foreign({out / name: mark for name, mark in marks.items()})
    mark = "Matplotlib" if (out / "metrics.json").is_file() else FIGURE_MARK  # beside earlier results, earlier figures
    figures = {f"{stem}.svg": mark for stem in FIGURES}
    keep_foreign({out / name: mark for name, mark in figures.items()})
    marks |= figures
    return [out / name for name in marks]


def save_evaluation(result: EvalResult, out: str | Path, classes: Sequence[str] | None = None) -> Path:
    """Write per_image.csv, slices.csv and figures (SVG), and last, by rename, metrics.json; returns the folder.

    What an earlier evaluation wrote there is removed first.
    """
    from wsolkit import figures  # matplotlib takes half a second to import, and scoring does not need it

    out = check_out(out)
    for path in keep_foreign_results(out):
        path.unlink(missing_ok=True)
    result.save_per_image(out / "per_image.csv")
    if result.boxes is not None:
        by, name = slices(result, classes), result.method or "method"
        atomic_write_text(out / "slices.csv", by.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
        drawn = (
            figures.accuracy_curves({name: result}) if result.curve else None,
            figures.iou_histogram({name: result.ious}),
            figures.failure_bars({name: result}),
            figures.slice_bars({name: by}, kind="size"),
        )
        for stem, figure in zip(FIGURES, drawn, strict=True):
            if figure is not None:
                with atomic_path(out / f"{stem}.svg") as part:
                    figure.savefig(
                        part, format="svg", bbox_inches="tight", metadata={"Creator": f"{FIGURE_MARK}, Matplotlib"}
                    )
    result.to_json(out / "metrics.json")
    return out


def open_score_maps(
    folder: str | Path,
    ids: Sequence[str],
    size: int | Sequence[int],
    image_sizes: dict[str, tuple[int, int]] | None = None,
    subset: bool = False,
) -> tuple[OnDemand, bool, list[str]]:
    """The maps of `ids` below a folder, all of them checked: (maps, ready, problems).

    The map of image `a/b.jpg` is `a/b.jpg.npy` (wsolevaluation's name) or `a/b.npy`: a real array (h, w) without NaN
    and infinity, whose shape is that of most maps of the set, the frame `size`, or the image's own (height, width).
    ready: all have the frame's size and values in [0, 1], so that they can be scored as they are.
    problems: one line for each missing or unusable map, and for each .npy file that belongs to no image (unless
    `subset`). FileNotFoundError without the folder.
    """
    folder, shape = given_path(folder, "a folder of score maps"), frame(size)
    if not folder.is_dir():
        fault = "is not a folder" if folder.exists() else "does not exist"
        raise FileNotFoundError(f"{folder} {fault}; expected a folder with one .npy score map per image")
    there = {name for name, _ in files_below(str(folder)) if name.endswith(".npy")}
    stems = {name: (os.path.splitext(name)[0], name) for name in ids}
    files = {name: f"{stem}.npy" for name in ids for stem in stems[name] if f"{stem}.npy" in there}
    problems = [f"{name}: no map {name}.npy" for name in ids if name not in files]
    uses = Counter(files.values())
    problems += [f"{path}: the map of {count} images" for path, count in uses.items() if count > 1]
    strangers = [] if subset else sorted(there - set(uses))
    problems += [f"{path}: a map of no image of the metadata (subset passes over such)" for path in strangers]
    paths = {name: folder / path for name, path in files.items()}
    with ThreadPoolExecutor(threads()) as pool:
        checked = dict(zip(paths, pool.map(_checked, paths.values()), strict=True))
    problems += [f"{name}: {fault}" for name, fault in checked.items() if isinstance(fault, str)]
    good = {name: answer for name, answer in checked.items() if not isinstance(answer, str)}
    known = {name: size[::-1] for name, size in (image_sizes or {}).items() if name in good and size[0] != size[1]}
    turned = {name for name, size in known.items() if good[name][0] == size[::-1] != shape}
    if any(good[name][0] == size for name, size in known.items()):  # the shape of all maps is that of some images
        turned = set()
    problems += [
        f"{name}: shape {good[name][0]} is the (width, height) of the image: turn the map" for name in sorted(turned)
    ]
    good = {name: answer for name, answer in good.items() if name not in turned}
    usual = Counter(own for own, _ in good.values()).most_common(1)[0][0] if good else shape
    ready = not problems and all(own == shape and in_range for own, in_range in good.values())
    for name, (own, _) in good.items():
        if own not in (usual, shape, (image_sizes or {}).get(name, (0, 0))[::-1]):
            problems.append(f"{name}: shape {own}, expected {usual} like most of the maps")
    return OnDemand(lambda path: np.load(path, allow_pickle=False), list(paths.values())), ready, problems


def _checked(path: Path) -> tuple[tuple[int, int], bool] | str:
    """The shape of a map and whether it lies in [0, 1], or what is wrong with it."""
    try:
        scores = np.load(path, allow_pickle=False)
    except Exception as error:  # a torn header fails in many ways; objects, which need pickle, are a ValueError
        return f"not a readable .npy file ({reason(error)})"
    if not isinstance(scores, np.ndarray) or scores.dtype.kind not in "fiub":
        return f"real numbers are expected, got {getattr(scores, 'dtype', 'an archive')}"
    if scores.ndim != 2 or scores.size == 0:
        return f"shape {scores.shape}, expected (height, width)"
    if bad := int((~np.isfinite(scores)).sum()):
        return f"{bad} of {scores.size} values are NaN or infinite"
    return scores.shape, bool(scores.min() >= -ROUNDING and scores.max() <= 1 + ROUNDING)


def read_predictions(path: str | Path, ids: Sequence[str], known: int = MOST_CLASSES) -> tuple[np.ndarray, list[str]]:
    """Predicted labels of `ids` from a csv of lines `path,label` or `path,best,second,...`: (N, k) int64, problems.

    The same number of labels in every line, 0-based and below `known`; a first line whose second cell is no number is a
    header. Lines of images that are not in `ids` are passed over. FileNotFoundError without the file.
    """
    path = given_path(path, "a csv of lines path,label")
    lines = csv_lines(path, "a csv of lines path,label")
    if lines and not "".join(lines[0][1][1:2]).strip().isdecimal():
        lines = lines[1:]
    width, wanted = len(lines[0][1]) if lines else 0, set(ids)
    table: dict[str, list[int]] = {}
    problems = []
    for number, (name, *cells) in lines:
        with contextlib.suppress(ValueError):  # a name that is no path is that of no image
            name = inside(clean(name))
        labels = [int(cell) for cell in map(str.strip, cells) if is_digits(cell)]
        if not 0 < len(labels) == len(cells) == width - 1:
            line = ",".join([name, *cells])[:80]
            problems.append(f"{path}, line {number}: {line!r}, expected path,label with the labels from 0")
        elif max(labels) >= known:
            problems.append(f"{path}, line {number}: label {max(labels)}, but there are {known} classes from 0")
        elif name in table:
            problems.append(f"{path}, line {number}: a second line of {name}")
        elif name in wanted:
            table[name] = labels
    problems += [f"{name}: no line in {path}" for name in ids if name not in table]
    return np.array([table[name] for name in ids if name in table], np.int64).reshape(-1, max(width - 1, 1)), problems


def export_score_maps(maps, folder: str | Path, size: int | Sequence[int] | None = None) -> Path:
    """Write `ScoreMaps` as files: `<id>.npy` for every image, and predictions.csv with the five best labels.

    size None: the maps as they are, (h, w) float32, small; `wsolkit evaluate` grows them exactly as `wsolkit.evaluate`
    does. A size: grown and min-max normalised to [0, 1], (H, W) float64, as wsolevaluation's evaluator wants them.
    """
    require(maps.boxes is None, "these are boxes and no score maps: there is no map to export")
    folder = check_out(folder)
    same_lengths(ids=maps.ids, maps=maps.maps, logits=maps.logits)
    if strange := [name for name in maps.ids if Path(name).is_absolute() or ".." in Path(name).parts]:
        raise WsolkitError(f"ids that are no paths below a folder: {listing(strange)}")
    for name, score_map in zip(maps.ids, maps.maps, strict=True):
        with atomic_path(folder / f"{name}.npy") as part, open(part, "wb") as file:
            np.save(file, score_map if size is None else prepare_map(score_map, size), allow_pickle=False)
    order = np.argsort(-maps.logits, axis=1, kind="stable")[:, :5]  # ties go to the lower class index
    with atomic_path(folder / PREDICTIONS) as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows(zip(maps.ids, *order.T.tolist(), strict=True))
    return folder

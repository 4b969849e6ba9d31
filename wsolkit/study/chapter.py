"""What the chapters (notebooks) show again and again: images, a threshold curve, the best and worst images, a trial on
a few validation images; each with a sentence that is computed from what is shown. Where images have no boxes, `located`
says what is left out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sized
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from wsolkit import figures
from wsolkit.boxes.extract import centre_box_curve, extract_box
from wsolkit.data.base import WSOLDataset, denormalise
from wsolkit.evaluation.evaluate import Evaluation
from wsolkit.evaluation.faithfulness import faithfulness_table, measure_faithfulness
from wsolkit.evaluation.metrics import accuracy_curve, best_threshold, loc_hits, share_interval
from wsolkit.evaluation.per_image import object_shape
from wsolkit.evaluation.results import EvalResult
from wsolkit.evaluation.scoring import Maps, Rule, Truth, rule_curves
from wsolkit.figures import faithfulness_curves
from wsolkit.runs.run import Run

INTERVAL = 0.001  # step of the thresholds
NAN = float("nan")


def lacking_boxes(boxes: Iterable[Sized], kind: str = "") -> str:
    """Why nothing can be compared with the true boxes of images, "" where each has at least one. kind: such as
    "validation", the word before "images" in that sentence."""
    counts = [len(own) for own in boxes]
    empty, images = counts.count(0), f"{kind} images".lstrip()
    return f"{empty} of {len(counts)} {images} {'has' if empty == 1 else 'have'} no ground-truth box" if empty else ""


def located(title: str, of: EvalResult | Trial | str) -> bool:
    """Whether the boxes of a result or a trial were compared with ground truth; where not, or where a sentence of
    `lacking_boxes` is given, one says that `title` is left out, and why."""
    if isinstance(of, str):
        lacking = of
    elif isinstance(of, Trial):
        lacking = of.lacking
    else:
        lacking = "" if of.ious is not None else of.conditions.get("boxes", "there are no boxes")
    if lacking:
        print(f"{title}: left out, since {lacking.removeprefix('not used: ')}.")
    return not lacking


def show_images(data: WSOLDataset, indices: Iterable[int], note: str = "") -> None:
    """Images of a split with their classes and, where there are any, ground-truth boxes; the caption says how large the
    objects of the whole split are (of each image its largest)."""
    split, size = {"train": "training", "val": "validation"}.get(data.split, data.split), data.geometry.size
    items, boxes = [], [data.target(index).boxes.numpy() for index in range(len(data))]
    for image, target in (data[int(index)] for index in indices):
        items.append({"pixels": denormalise(image), "gt_boxes": target.boxes, "title": data.classes[target.label]})
    alt, said = f"{len(items)} {split} images, each with its class", f"None of the {len(data)} has a box."
    if shares := [object_shape(own, size)[0] for own in boxes if len(own)]:
        alt += " and ground-truth box"
        said = f"The box takes {100 * np.median(shares):.0f} % of the image (median of {len(shares)})."
    figures.show(figures.gallery(items), alt, f"{split.capitalize()} images. {said} {note}".strip(), photo=True)


def show_curves(results: Mapping[str, EvalResult], note: str = "") -> None:
    """Accuracy against the threshold, one line per name; the caption says in words what the first one shows.

    Results without a curve (no ground truth, a method that gives boxes, a protocol with one threshold) are left out;
    where none is left, a sentence says why."""
    curves = {name: result for name, result in results.items() if result.curve}
    name, first = next(iter((curves or results).items()))
    if not curves:
        if located(title := f"Accuracy of {name} against the threshold", first):
            why = "it gives boxes, no map" if first.gives == "boxes" else "the protocol has one threshold"
            print(f"{title}: left out, since {why}.")
        return
    centre = first.centre_box["gt_known_loc"]
    text = f"{name} at the marked threshold {first.threshold:.2f} ({first.choice})"
    text += f" finds {first.gt_known_loc:.1f} % of the objects"
    if best := first.operating_points.get("best_on_test"):
        accuracy = np.asarray(first.curve["gt_known_loc"])
        near = 100 * np.count_nonzero(accuracy >= accuracy.max() - 5) / len(accuracy)
        text += f"; no threshold finds more than {best['gt_known_loc']:.1f} %"
        text += f", and {near:.0f} % of all thresholds come within 5 points of that"
    lines = {label: result.curve for label, result in curves.items()}
    marks = {label: result.threshold for label, result in curves.items()}
    alt = f"GT-known localisation accuracy against the threshold for {', '.join(curves)}, with the centre-box baseline"
    caption = f"{text}. A box of fixed size in the middle finds {centre:.1f} %. {note}".strip()
    figures.show(figures.accuracy_curves(lines, marks, centre), alt, caption)


def show_best_and_worst(run: Run, result: Evaluation, name: str, count: int = 4) -> None:
    """The images of highest and of lowest IoU with map, true and predicted box; without boxes the first images."""
    ious, parts, boxes = result.ious, {"first": np.arange(result.n_images)[:count]}, ", and the predicted box"
    if ious is not None:
        order, boxes = np.argsort(ious, kind="stable"), ", ground-truth box and predicted box"
        parts = {"best": order[::-1][:count], "worst": order[:count]}
    for title, picks in parts.items():
        items = [{**item, "title": item["label"]} for item in run.gallery_items(result, picks)]
        known = [] if ious is None else ious[picks]
        how = f"IoU {min(known):.2f} to {max(known):.2f}" if len(known) else "there are no boxes to compare with"
        alt = f"The {title} images of {name} with {'score map' if result.gives == 'map' else 'no map'}{boxes}"
        caption = f"The {title} {len(items)} of {result.n_images} images, {how}."
        figures.show(figures.gallery(items), alt, caption, photo=True)


class Score(NamedTuple):
    """Percent of the objects found at the threshold that is best on the same images, its 95 % interval, the threshold,
    and the mean IoU at the fixed threshold 0.2; NaN where there are no boxes to compare with."""

    accuracy: float = NAN
    interval: tuple[float, float] = (NAN, NAN)
    threshold: float = 0.2
    mean_iou: float = NAN


Scores = Mapping[str, Score]


class Trial:
    """Maps of a few validation images, scored at the threshold that is best on these same images: that flatters all
    methods alike, so they can be compared, and the test images stay unseen.

    Args:
        count: number of images, balanced over classes; fewer where the run has a smaller limit.

    Attributes:
        lacking: why nothing can be scored, "" where every image has a box.
    """

    def __init__(self, run: Run, count: int) -> None:
        self.data = run.dataset("val")
        self.size = self.data.geometry.size
        self.indices = self.data.spread(min(run.config.limit or count, count), run.config.seed)
        self.boxes = [self.data.target(int(index)).boxes.numpy() for index in self.indices]
        self.lacking = lacking_boxes(self.boxes, "validation")
        self.centre = NAN if self.lacking else float(accuracy_curve(centre_box_curve(self.boxes, self.size)[1]).max())

    def __len__(self) -> int:
        return len(self.indices)

    def score(self, maps: np.ndarray) -> Score:
        """Score maps (N, h, w) of `self.indices`, in that order; NaN and the fixed threshold 0.2 without boxes."""
        if self.lacking:
            return Score()
        curves = rule_curves(Maps(maps), Truth(self.size, boxes=self.boxes), Rule(interval=INTERVAL))
        threshold, accuracy = best_threshold(curves, interval=INTERVAL)
        hits = loc_hits(curves[:, round(threshold / INTERVAL)])
        return Score(accuracy, share_interval(hits), threshold, float(curves[:, round(0.2 / INTERVAL)].mean()))

    def table(self, scores: Scores, columns: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
        """Scores as text, one row per name, none without boxes; `columns` are further ones, title -> name -> text."""
        texts = {
            "GT-known Loc": [f"{score.accuracy:.1f}" for score in scores.values()],
            "95 % interval": ["{:.1f} to {:.1f}".format(*score.interval) for score in scores.values()],
            "threshold": [f"{score.threshold:.2f}" for score in scores.values()],
            "mean IoU at 0.2": [f"{score.mean_iou:.2f}" for score in scores.values()],
        }
        further = {title: [own[name] for name in scores] for title, own in columns.items()}
        return pd.DataFrame(({} if self.lacking else texts) | further, index=list(scores))

    def show_bars(self, scores: Scores, subject: str) -> None:
        """A bar per name with its interval and the best centre box; the caption says which is highest and how far that
        goes."""
        if not located(subject, self):
            return
        best = max(scores, key=lambda name: scores[name].accuracy)
        others = [name for name in scores if name != best and scores[name].accuracy >= scores[best].interval[0]]
        within = f"within its 95 % interval also: {', '.join(others)}"
        reach = within if others else "no other reaches its 95 % interval"
        values = {name: score.accuracy for name, score in scores.items()}
        intervals = {name: score.interval for name, score in scores.items()}
        bars = figures.bars(values, intervals, reference=self.centre, reference_label="best centre box")
        highest = f"Highest: {best} with {scores[best].accuracy:.1f} %; {reach}."
        alt = f"Bars of GT-known localisation accuracy on validation images: {subject}"
        figures.show(bars, alt, f"{subject}, {len(self)} validation images. {highest}")

    def show_maps(self, maps: Mapping[str, np.ndarray], scores: Scores, caption: str, rows: int = 3) -> None:
        """The first images in rows, and in columns the maps of each name with the box at its threshold."""
        items = []
        for position, index in enumerate(self.indices[:rows]):
            image, target = self.data[int(index)]
            for name, made in maps.items():
                item = {"pixels": denormalise(image), "score_map": made[position], "title": name}
                box = extract_box(made[position], threshold=scores[name].threshold, size=self.size)
                items.append(item | {"gt_boxes": target.boxes, "box": None if self.lacking else box})
        boxes = "" if self.lacking else ", with boxes and IoU"
        alt = f"Validation images in rows, and in columns {', '.join(maps)}{boxes}"
        figures.show(figures.gallery(items, columns=len(maps)), alt, caption, photo=True)


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation of each pair of maps, (N, h, w) twice; pairs with a flat map are left out."""
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return (a * b).sum(axis=1)[norm > 0] / norm[norm > 0]


def show_faithfulness(run: Run, result: Evaluation) -> None:
    """Deletion, insertion and ROAD of a result's maps, for as many images as the parameter `faithfulness` says (0: no
    section): text, curves and table in the notebook. The numbers go into metrics.json with the result."""
    if not run.config.faithfulness:
        return
    if result.gives == "boxes":
        print(f"Faithfulness of {result.method}: left out, since it gives boxes, no map.")
        return
    from IPython.display import Markdown, display

    display(Markdown(filename=Path(__file__).with_name("faithfulness.md")))
    maps, limit = {result.method: result.maps["test"]}, min(run.config.faithfulness, result.n_images)
    model, data = run.model(result.variant), run.dataset("test")
    measured = measure_faithfulness(model, data, maps, limit=limit, seed=run.config.seed)
    names, count = ", ".join(measured), len(next(iter(measured.values())))
    alt = f"Deletion and insertion curves of {names}: mean class probability against the share of pixels"
    caption = f"Mean over {count} test images with 95 % bootstrap bands."
    figures.show(faithfulness_curves(measured), alt, caption)
    table: Any = faithfulness_table(measured)
    result.faithfulness = table.to_dict("index")
    for name in ("deletion", "insertion", "road"):
        ends = zip(table[name], table.pop(f"{name}_low"), table.pop(f"{name}_high"), strict=True)
        table[name] = [f"{mean:.2f} ({low:.2f} to {high:.2f})" for mean, low, high in ends]
    titles = {"deletion": "deletion area", "insertion": "insertion area", "road": "ROAD", "n": "images"}
    display(table.rename(columns=titles))

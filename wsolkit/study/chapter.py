"""What the chapters (notebooks) show again and again: a threshold curve, the best and the worst images, a trial on a few
validation images; each with a sentence that is computed from what is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from wsolkit import figures
from wsolkit.boxes.extract import centre_box_curve, extract_box
from wsolkit.data.batches import denormalise
from wsolkit.evaluation.evaluate import Evaluation
from wsolkit.evaluation.faithfulness import faithfulness_table, measure_faithfulness
from wsolkit.evaluation.metrics import accuracy_curve, best_threshold, loc_hits, share_interval
from wsolkit.evaluation.results import EvalResult
from wsolkit.evaluation.scoring import Maps, Rule, Truth, rule_curves
from wsolkit.figures.charts import faithfulness_curves
from wsolkit.runs.run import Run

INTERVAL = 0.001  # step of the thresholds
FAITHFULNESS = """
## Does the network use the pixels that the map names?

Boxes ask whether the map finds the object. These curves ask whether it names the pixels that the network's answer rests on.
**Deletion** replaces pixels by the mean colour, those of highest score first: the probability of the class should fall early, and
the area under the curve be small. **Insertion** puts them back in the same order, into a blurred image: it should rise early, and
the area be large (Petsiuk et al., *RISE*, BMVC 2018). **ROAD** fills removed pixels in from their neighbours and compares taking
the least relevant ones with taking the most relevant ones: large is good (Rong et al., ICML 2022). A random map and a Gaussian in
the centre, which know nothing of the network, say what is much and what is little.

What the curves cannot tell: a half-grey or blurred image is unlike any training image, and part of the answer is to that
strangeness. Other fillings give other numbers, so compare maps on one network only. And a faithful map may be a poor box: where
the network looks at a beak alone, the beak is the faithful answer.
"""


def curve_sentence(result: EvalResult, name: str) -> str:
    """What the accuracy curve of a result says, in words."""
    best = result.operating_points.get("best_on_test")
    source = {"validation": f"chosen on {result.n_val} validation images", "fixed": "fixed"}[result.operating_point]
    text = f"{name} at the threshold {result.threshold:.2f} ({source}) finds {result.gt_known_loc:.1f} % of the objects"
    if best:
        text += f"; no threshold finds more than {best['gt_known_loc']:.1f} %"
        taus, accuracy = (np.asarray(result.curve[key]) for key in ("thresholds", "gt_known_loc"))
        good = taus[accuracy >= accuracy.max() - 5]
        text += f", and {100 * len(good) / len(taus):.0f} % of all thresholds come within 5 points of that"
    return text + "."


def show_curves(results: Mapping[str, EvalResult], note: str = "") -> None:
    """Accuracy against the threshold, one line per name; the caption says in words what the first one shows. Results without
    a curve (no boxes, or a protocol with one threshold) are left out; where none is left, a sentence says why."""
    curves = {name: result for name, result in results.items() if result.curve}
    if not curves:
        name, first = next(iter(results.items()))
        print(f"{name} has no accuracy curve; boxes: {first.conditions.get('boxes', 'scored at one threshold')}.")
        return
    name, first = next(iter(curves.items()))
    centre = first.centre_box["gt_known_loc"]
    lines = {label: (result.curve["thresholds"], result.curve["gt_known_loc"]) for label, result in curves.items()}
    marks = {label: result.threshold for label, result in curves.items()}
    figures.show(
        figures.accuracy_curves(lines, marks=marks, centre_box=centre),
        alt=f"GT-known localisation accuracy against the threshold for {', '.join(curves)}, with the centre-box baseline",
        caption=f"{curve_sentence(first, name)} A box of fixed size in the middle finds {centre:.1f} %. {note}".strip(),
    )


def show_best_and_worst(run: Run, result: Evaluation, name: str, count: int = 4) -> None:
    """The images of highest and of lowest IoU with map, true and predicted box; without boxes the first images."""
    ious = result.ious
    order = np.arange(result.n_images) if ious is None else np.argsort(ious, kind="stable")
    parts = {"first": order[:count]} if ious is None else {"best": order[::-1][:count], "worst": order[:count]}
    boxes = "" if ious is None else ", ground-truth box and predicted box"
    for title, picks in parts.items():
        items = [{**item, "title": item["label"]} for item in run.gallery_items(result, picks)]
        how = "there are no boxes to compare with"
        if ious is not None:
            how = f"IoU {ious[picks].min():.2f} to {ious[picks].max():.2f}"
        figures.show(
            figures.gallery(items),
            alt=f"The {title} images of {name} with score map{boxes}",
            caption=f"The {title} {len(items)} of {result.n_images} images, {how}.",
            photo=True,
        )


class Score(NamedTuple):
    """Percent of the objects found at the threshold that is best on the same images, its 95 % interval, the threshold, and
    the mean IoU at the fixed threshold 0.2; NaN where there are no boxes to compare with."""

    accuracy: float
    interval: tuple[float, float]
    threshold: float
    mean_iou: float


class Trial:
    """Maps of a few validation images, scored at the threshold that is best on these same images: that flatters all
    methods alike, so they can be compared, and the test images stay unseen.

    Args:
        count: number of images, balanced over classes; fewer where the run has a smaller limit.
    """

    def __init__(self, run: Run, count: int) -> None:
        self.data = run.dataset("val")
        self.size = self.data.geometry.size
        limit = run.config.limit
        self.indices = self.data.spread(min(limit, count) if limit else count, run.config.seed)
        self.boxes = [self.data.target(int(index)).boxes.numpy() for index in self.indices]
        self.located = all(len(boxes) for boxes in self.boxes)
        centre = centre_box_curve(self.boxes, self.size)[1] if self.located else None
        self.centre = float("nan") if centre is None else float(accuracy_curve(centre).max())

    def __len__(self) -> int:
        return len(self.indices)

    def score(self, maps) -> Score:
        """Score maps (N, h, w) of `self.indices`, in that order; at the fixed threshold 0.2, with NaN, without boxes."""
        if not self.located:
            return Score(float("nan"), (float("nan"), float("nan")), 0.2, float("nan"))
        curves = rule_curves(Maps(maps), Truth(self.size, boxes=self.boxes), Rule(interval=INTERVAL))
        threshold, accuracy = best_threshold(curves, interval=INTERVAL)
        hits = loc_hits(curves[:, round(threshold / INTERVAL)])
        return Score(accuracy, share_interval(hits), threshold, float(curves[:, round(0.2 / INTERVAL)].mean()))

    def table(self, scores: Mapping[str, Score], columns: Mapping[str, Mapping[str, str]]) -> pd.DataFrame:
        """Scores as text, one row per name; `columns` are further ones, title -> name -> text."""
        rows = {
            name: {
                "GT-known Loc": f"{score.accuracy:.1f}",
                "95 % interval": "{:.1f} to {:.1f}".format(*score.interval),
                "threshold": f"{score.threshold:.2f}",
                **{title: texts[name] for title, texts in columns.items()},
            }
            for name, score in scores.items()
        }
        return pd.DataFrame(rows).T

    def show_bars(self, scores: Mapping[str, Score], what: str) -> None:
        """A bar per name with its interval and the best centre box; the caption says which is highest and how far that goes."""
        if not self.located:
            print(f"{what}: no bars, since some of the {len(self)} validation images have no box to compare with.")
            return
        best = max(scores, key=lambda name: scores[name].accuracy)
        others = [name for name in scores if name != best and scores[name].accuracy >= scores[best].interval[0]]
        within = f"within its 95 % interval also: {', '.join(others)}"
        reach = within if others else "no other reaches its 95 % interval"
        values, intervals = ({name: score[field] for name, score in scores.items()} for field in (0, 1))
        figures.show(
            figures.bars(values, intervals, reference=self.centre, reference_label="best centre box"),
            alt=f"Bars of GT-known localisation accuracy on validation images: {what}",
            caption=f"{what}, {len(self)} validation images. Highest: {best} with {scores[best].accuracy:.1f} %; {reach}.",
        )

    def show_maps(self, maps: Mapping[str, np.ndarray], scores: Mapping[str, Score], what: str, rows: int = 3) -> None:
        """The first images in rows, and in columns the maps of each name with the box at its threshold."""
        items = []
        for position, index in enumerate(self.indices[:rows]):
            image, target = self.data[int(index)]
            for name, made in maps.items():
                box = extract_box(made[position], threshold=scores[name].threshold, size=self.size)
                item = {"pixels": denormalise(image), "score_map": made[position], "title": name}
                items.append(item | {"gt_boxes": target.boxes, "box": box if self.located else None})
        figures.show(
            figures.gallery(items, columns=len(maps)),
            alt=f"Validation images in rows, and in columns {', '.join(maps)}, with boxes and IoU",
            caption=what,
            photo=True,
        )


def correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Pearson correlation of each pair of maps, (N, h, w) twice; pairs with a flat map are left out."""
    a, b = (maps.reshape(len(maps), -1).astype(np.float64) for maps in (first, second))
    a, b = a - a.mean(axis=1, keepdims=True), b - b.mean(axis=1, keepdims=True)
    norm = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    return (a * b).sum(axis=1)[norm > 0] / norm[norm > 0]


def show_faithfulness(run: Run, result: Evaluation) -> None:
    """Deletion, insertion and ROAD of a result's maps, for as many images as the parameter `faithfulness` says (0 leaves
    the section out): text, curves and table in the notebook; the numbers go into metrics.json with the result."""
    if not run.config.faithfulness:
        return
    from IPython.display import Markdown, display

    display(Markdown(FAITHFULNESS))
    maps, limit = {result.method: result.maps["test"]}, min(run.config.faithfulness, result.n_images)
    model = run.model(result.variant)
    measured = measure_faithfulness(model, run.dataset("test"), maps, limit=limit, seed=run.config.seed)
    count = len(next(iter(measured.values())))
    figures.show(
        faithfulness_curves(measured),
        alt=f"Deletion and insertion curves of {', '.join(measured)}: mean class probability against the share of pixels",
        caption=f"Mean over {count} test images with 95 % bootstrap bands.",
    )
    table = faithfulness_table(measured)
    result.faithfulness = table.to_dict("index")
    for name in ("deletion", "insertion", "road"):
        ends = zip(table[name], table.pop(f"{name}_low"), table.pop(f"{name}_high"), strict=True)
        table[name] = [f"{mean:.2f} ({low:.2f} to {high:.2f})" for mean, low, high in ends]
    titles = {"deletion": "deletion area", "insertion": "insertion area", "road": "ROAD", "n": "images"}
    display(table.rename(columns=titles))

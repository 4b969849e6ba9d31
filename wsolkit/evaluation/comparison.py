"""Is A better than B here? Two methods on the same images, from their per-image tables: no model is needed."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy  # its parts are imported when they are used: stats takes a second

from wsolkit.boxes.extract import centre_box_curve
from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import listing
from wsolkit.evaluation.metrics import DELTAS, bootstrap_max_difference, bootstrap_mean, loc_hits, percent, percentiles
from wsolkit.evaluation.per_image import DELTA, flags, measured, parse_boxes, slice_groups
from wsolkit.evaluation.results import EvalResult, html_table

METRICS = {"gt_known_loc": "GT-known Loc", "top1_loc": "Top-1 Loc", "iou": "mean IoU", "top1_cls": "Top-1 Cls"}
NO_BOX = ("iou", "top1_cls")  # delta has no part in them
CHANCE = 0.05
AGAINST = ("top1_loc", "gt_known_loc", "max_box_acc_v2", "top1_cls")  # in the order of a report's cards


@dataclass(frozen=True)
class Comparison:
    """What `compare` found; values are percent, differences are A minus B in points.

    both, only_a, only_b, neither: numbers of images; None for the metric "iou". better: "A", "B" or None: undecided.
    """

    metric: str
    delta: float
    names: tuple[str, str]
    n: int
    value_a: float
    value_b: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    better: str | None
    both: int | None = None
    only_a: int | None = None
    only_b: int | None = None
    neither: int | None = None

    def verdict(self) -> str:
        """One sentence: does A beat B on these images?"""
        a, b = self.names
        if self.better is None:
            inside = self.interval[0] <= 0 <= self.interval[1]
            why = "the interval includes 0" if inside else f"chance cannot be ruled out (p = {self.p_value:.3f})"
            return f"Undecided between {a} and {b} on these {self.n} images: {why}."
        winner, loser = (a, b) if self.better == "A" else (b, a)
        return f"{winner} is better than {loser} on these {self.n} images, beyond the luck of the draw of images."

    def rows(self) -> list[tuple[str, str]]:
        """(name, value) as text."""
        a, b = self.names
        label = METRICS[self.metric] + ("" if self.metric in NO_BOX else f" (IoU ≥ {self.delta:g})")
        low, high = self.interval
        test = "bootstrap" if self.metric == "iou" else "exact McNemar test"
        rows = [
            (f"{label}, {a}", f"{self.value_a:.2f} %"),
            (f"{label}, {b}", f"{self.value_b:.2f} %"),
            (f"{a} minus {b}", f"{self.difference:+.2f} points"),
            ("95 % interval (paired bootstrap)", f"{low:+.2f} to {high:+.2f}"),
            (f"p ({test})", "below 0.0001" if self.p_value < 0.0001 else f"{self.p_value:.4f}"),
        ]
        if self.both is not None:
            counts = f"{self.both} / {self.only_a} / {self.only_b} / {self.neither}"
            rows.append((f"found by both / only {a} / only {b} / neither", counts))
        return rows

    def __str__(self) -> str:
        width = max(len(name) for name, _ in self.rows())
        return "\n".join([self.verdict(), *(f"{name:<{width}}  {value}" for name, value in self.rows())])

    def _repr_html_(self) -> str:
        return html_table(self.verdict(), self.rows())

    def to_dict(self) -> dict[str, Any]:
        """All fields, ready for JSON."""
        return dataclasses.asdict(self)


def compare(
    a, b, metric: str = "gt_known_loc", delta: float = DELTA, samples: int = 10_000, seed: int = 0, names=("A", "B")
) -> Comparison:
    """Paired bootstrap between two methods measured on the same images: only the images where they differ matter.

    Args:
        a, b: per-image tables, paths of per_image.csv, folders that hold one, or results of an evaluation. Rows are
            matched by id, in any order; those without ground-truth boxes are left out.
        metric: "gt_known_loc" (IoU >= delta), "top1_loc" (that, and the class is right), "top1_cls" (the class is
            right) or "iou" (mean IoU, in percent); delta has no part in the last two.
        samples, seed: of the bootstrap.
        names: a pair, what A and B are called in text.

    The interval holds 95 % of the differences A - B over resamples of the images, the same images for both. For hits
    they are drawn from the counts (found by A only, by B only, by both or neither), which is the same distribution
    without the resampling. p_value, two-sided: for hits the exact McNemar test (a fair coin for each image that only
    one of them finds); for IoU twice the share of resampled differences on the other side of zero, and at least
    2^(1 - m) with m images that differ, the least that a sign test over them could give.
    better is None unless the interval lies on one side of zero *and* p < 0.05: where very few images differ, the
    percentile interval alone is too sure. Both speak of the luck of the draw of test images; another training run is
    another matter, and among many comparisons some come out by chance.

    Raises:
        ValueError: other ids, other labels or other ground-truth boxes for an id (they were not measured on the same
            images), an unknown metric, an unknown class where "top1_loc" needs it.
    """
    return _compare(*_paired(a, b, metric, delta, samples, names), metric, delta, samples, seed, tuple(names))


def compare_slices(
    a, b, metric: str = "gt_known_loc", delta: float = DELTA, samples: int = 10_000, seed: int = 0
) -> pd.DataFrame:
    """`compare` for all images and for each slice by object size and aspect (see `per_image.slices`).

    Columns: kind, slice, n, value_a, value_b (percent), difference, low, high (points), p_value, better. A slice
    without images has n = 0 and NaN. Eight comparisons are more than one: a single p just below 0.05 says little.
    """
    first, second = _paired(a, b, metric, delta, samples, ("A", "B"))
    if absent := [name for name in ("label", "object_share", "aspect") if name not in first]:
        raise WsolkitError(f"the per-image table of A lacks the columns {', '.join(absent)}")
    rows = []
    for kind, name, index in (group for group in slice_groups(first) if group[0] != "class"):
        row: dict[str, Any] = {"kind": kind, "slice": name, "n": len(index)}
        if len(index):
            part = _compare(first.iloc[index], second.iloc[index], metric, delta, samples, seed, ("A", "B"))
            row |= vars(part) | {"low": part.interval[0], "high": part.interval[1]}
        rows.append(row)
    names = ["kind", "slice", "n", "value_a", "value_b", "difference", "low", "high", "p_value", "better"]
    return pd.DataFrame(rows, columns=names)


def against_result(result: EvalResult, other: EvalResult, seed: int = 0) -> dict[str, dict[str, Any] | None]:
    """`result` minus `other` for every metric of AGAINST: {"difference", "low", "high" (95 %, points), "p", "n"}.

    Both were evaluated on the same images. None where one of the two has no such number; "p" is None for MaxBoxAccV2,
    for which there is no exact test: each resample of the images chooses its thresholds anew. ValueError: other images.
    """
    fault = f"{other.method} was measured on other images than {result.method}; evaluate both with one limit"
    require(result.ids == other.ids, fault)
    known = [name for name in AGAINST if None not in (getattr(result, name), getattr(other, name))]
    known = [name for name in known if name != "top1_cls" or not result.n_classified]  # on all images, paired on some
    return _against(result, other.per_image(), other.v2_hits, known, seed)


def against_centre_box(result: EvalResult, seed: int = 0) -> dict[str, dict[str, Any] | None]:
    """The same against the centre box: for Top-1 and GT-known Loc at the side that was chosen for it, for MaxBoxAccV2
    at its best side for each IoU. It has no class of its own, so there is no Top-1 Cls; {} without boxes."""
    if not result.centre_box or result.gt_boxes is None:
        return {}
    sides, ious = centre_box_curve(result.gt_boxes, result.frame)
    at_side = ious[:, int(np.flatnonzero(sides == result.centre_box["side"])[0])]
    hits = np.stack([loc_hits(ious, delta) for delta in DELTAS])
    known = [name for name in AGAINST[:3] if getattr(result, name) is not None]
    return _against(result, result.per_image().assign(iou=at_side), hits, known, seed)


def _against(result: EvalResult, other, hits, known: list[str], seed: int) -> dict[str, dict[str, Any] | None]:
    lines: dict[str, dict[str, Any] | None] = dict.fromkeys(AGAINST)
    table = result.per_image()
    for metric in known if result.ious is not None else ():
        if metric == "max_box_acc_v2":
            numbers: tuple = (*bootstrap_max_difference(result.v2_hits, hits, seed=seed), None)
        else:
            paired = compare(table, other, metric, seed=seed)
            numbers = (paired.difference, *paired.interval, paired.p_value)
        lines[metric] = dict(zip(("difference", "low", "high", "p"), numbers, strict=True)) | {"n": result.n_images}
    return lines


def _paired(a, b, metric: str, delta: float, samples: int, names) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Both tables with the same images in the order of `a`; ValueError unless they were measured on the same images."""
    require(metric in METRICS, f"metric is one of {', '.join(METRICS)}, got {metric!r}")
    require(0 < delta <= 1, f"delta must be in (0, 1], got {delta}")
    require(samples >= 1, f"samples must be at least 1, got {samples}")
    texts = len({name for name in names if isinstance(name, str) and name}) == len(names) == 2
    require(texts, f"names are two different texts, got {names!r}")
    tables = []
    for name, source in (("A", a), ("B", b)):
        table = measured(source, "id", "gt_boxes", *(["right"] if metric.startswith("top1") else []))
        table = table.set_axis(pd.Index(table["id"].astype(str), dtype=object))
        twice = table.index[table.index.duplicated()].unique().tolist()
        require(not twice, f"ids occur twice in {name}: {listing(twice)}")
        tables.append(table)
    first, second = tables
    index, other = first.index, second.index
    lone = {"A": index.difference(other, sort=False), "B": other.difference(index, sort=False)}
    if sides := [f"{len(ids)} only in {name}: {listing(ids.tolist())}" for name, ids in lone.items() if len(ids)]:
        raise WsolkitError(
            f"A and B were not measured on the same images, give two evaluations of one split; {'; '.join(sides)}"
        )
    second = second.loc[index]
    boxes = [table["gt_boxes"].map(parse_boxes).map(str) for table in (first, second)]  # in any order and spelling
    others = {"labels": first["label"] != second["label"]} if "label" in first and "label" in second else {}
    for name, differ in (others | {"ground-truth boxes": boxes[0] != boxes[1]}).items():
        if ids := index[differ.to_numpy()].tolist():
            fault = f"A and B have other {name} for {len(ids)} images with the same id, so they were not measured on"
            raise WsolkitError(f"{fault} the same images, frame or split: {listing(ids)}")
    return first, second


def _compare(first, second, metric, delta, samples, seed, names) -> Comparison:
    ious, n = [table["iou"].to_numpy(float) for table in (first, second)], len(first)
    counts: tuple[int, ...] = ()
    if metric == "iou":
        a, b = (100 * own for own in ious)
        *_, draws = bootstrap_mean(a - b, samples=samples, seed=seed)
        difference = float((a - b).mean())
        beyond = (draws <= 0) if difference > 0 else (draws >= 0)
        p_value = max(2 * (int(beyond.sum()) + 1) / (samples + 1), 2.0 ** (1 - int(np.count_nonzero(a - b))))
        values = float(a.mean()), float(b.mean()), difference
    else:
        hits = [own >= delta for own in ious]
        named = enumerate(zip((first, second), names, strict=True)) if metric.startswith("top1") else ()
        for place, (table, name) in named:
            right = flags(table["right"])
            need = f"{metric} needs to know whether the class is right, and {name} does not for every image"
            require(right.notna().all(), need)
            hits[place] = right.to_numpy(bool) & (hits[place] | (metric == "top1_cls"))
        a, b = hits
        both, only_a, only_b = (int(part.sum()) for part in (a & b, a & ~b, b & ~a))
        counts = both, only_a, only_b, n - both - only_a - only_b
        drawn = np.random.default_rng(seed).multinomial(n, np.array([only_a, only_b, n - only_a - only_b]) / n, samples)
        draws, p_value = (drawn[:, 0] - drawn[:, 1]) * 100.0 / n, mcnemar(only_a, only_b)
        values = percent(a), percent(b), (only_a - only_b) * 100.0 / n
    low, high = percentiles(draws)
    better = None if low <= 0 <= high or p_value >= CHANCE else "A" if low > 0 else "B"
    return Comparison(metric, delta, names, n, *values, (low, high), min(1.0, p_value), better, *counts)


def mcnemar(only_a: int, only_b: int) -> float:
    """Two-sided p of the exact McNemar (sign) test: a fair coin for each image that only one of the two finds; 1 where
    none differs."""
    return float(scipy.stats.binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0

"""Runs of one method on one backbone over all seeds, as the index compares them: means, ties, differences. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

from wsolkit.report.numbers import verdict
from wsolkit.report.rows import METRICS, gt_known_on_images_of, sort_rows

HEADLINE = "gt_known_loc"
BASELINES = ("cam", "centre_box")
SAME_TRAINING = (
    *("epochs", "seed", "classes", "per_class", "size", "geometry", "stride", "width", "weights", "val_share"),
)


@dataclass(frozen=True)
class Value:
    """A number over n seeds: its mean, its standard deviation (n - 1 in the denominator; None for one seed), and the ends
    of its 95 % interval over images (of several seeds: the means of their ends; None where a run has none)."""

    mean: float
    sd: float | None
    n: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Difference:
    """GT-known Loc minus that of a baseline, in points, paired by seed.

    above, below: in how many seeds the two are told apart, in that direction: the 95 % interval of the paired difference
    leaves out 0 and no exact test contradicts (`report_words.verdict`), or, where a run has no such interval, their own
    intervals do not meet. note: on which images.
    """

    value: Value
    above: int
    below: int
    note: str = ""

    @property
    def told_apart(self) -> bool:
        """In every seed, and in one direction."""
        return self.value.n in (self.above, self.below)


@dataclass
class Group:
    """One method on one backbone: its runs, one per seed, of whatever status."""

    dataset: str
    backbone: str
    method: str
    runs: list[dict[str, Any]]
    done: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, Value | None] = field(default_factory=dict)  # what `value` has already computed

    def __post_init__(self) -> None:
        self.done = [row for row in self.runs if row["status"] == "completed"]

    @property
    def status(self) -> str:
        """The best that any seed has come to."""
        return min((row["status"] for row in self.runs), key=("completed", "failed", "missing", "undefined").index)

    @property
    def n_images(self) -> int:
        """Test images that every completed run has used."""
        return min((row["n_images"] or 0 for row in self.done), default=0)

    def value(self, name: str) -> Value | None:
        """A metric (or seconds_per_image, peak_memory_mb) over the completed runs that have it; None without any."""
        if name not in self.values:
            having = [row for row in self.done if row[name] is not None]
            pairs = [interval(row, name) for row in having]
            self.values[name] = summary([row[name] for row in having], pairs)
        return self.values[name]

    def share_of(self, failure: str) -> float | None:
        """Percent of the images with this failure type (`failures.FAILURES`), over all seeds; None where none is counted."""
        counts = [row["result"]["failures"] for row in self.done if row["result"].get("failures")]
        total = sum(sum(one.values()) for one in counts)
        return (
            100 * sum(one.get(failure, 0) for one in counts) / total
            if total and len(counts) == len(self.done)
            else None
        )


def interval(row: dict, name: str) -> tuple[float, float] | None:
    pair = row["result"].get("intervals", {}).get(name)
    return None if pair is None or None in pair else tuple(pair)


def summary(numbers: Sequence[float], pairs: Sequence[tuple[float, float] | None] = ()) -> Value | None:
    if not numbers:
        return None
    low = high = None
    if pairs and None not in pairs:
        low, high = (fmean(pair[end] for pair in pairs) for end in (0, 1))
    mean, n = fmean(numbers), len(numbers)
    sd = math.sqrt(sum((number - mean) ** 2 for number in numbers) / (n - 1)) if n > 1 else None
    return Value(mean, sd, n, low, high)


def grouped(rows: Sequence[dict[str, Any]]) -> list[Group]:
    """Rows of one dataset (`read_rows`, `missing_rows`) as groups, by backbone and method."""
    found: dict[tuple[str, str], Group] = {}
    for row in sort_rows(rows):
        key = (row["backbone"], row["method"])
        found.setdefault(key, Group(row["dataset"], *key, [])).runs.append(row)
    return [Group(one.dataset, one.backbone, one.method, one.runs) for one in found.values()]


def comparable(groups: Sequence[Group], name: str, full: int) -> dict[str, Value]:
    """method -> value, of the groups of one backbone that can be ranked: on all images, and with as many seeds as any."""
    values = {group.method: group.value(name) for group in groups if group.done and group.n_images == full}
    seeds = max((value.n for value in values.values() if value is not None), default=0)
    return {method: value for method, value in values.items() if value is not None and value.n == seeds}


def marks(groups: Sequence[Group], name: str, full: int) -> dict[str, str]:
    """method -> "best" or "tie", for the groups of one backbone: the highest mean of the `comparable` ones, and those that
    are not told apart from it.

    A tie lies inside the best one's 95 % interval (several seeds: or within one standard deviation); whether plain CAM is
    one is for the paired difference to say, where there is one. Empty for fewer than two, and where all are equal.
    """
    values = comparable(groups, name, full)
    if len(values) < 2:
        return {}
    top = max(value.mean for value in values.values())
    best = [method for method, value in values.items() if math.isclose(value.mean, top)]
    if len(best) == len(values):  # one network under several methods: nothing to choose
        return {}
    of_best = values[best[0]]
    low = min(top if of_best.low is None else of_best.low, top - (of_best.sd or 0))
    found = {method: "tie" for method, value in values.items() if value.mean >= low}
    paired = _paired(next(group for group in groups if group.method == best[0]), "cam", name)
    if "cam" in values and paired is not None:
        found.pop("cam", None)
        found |= {} if paired.told_apart else {"cam": "tie"}
    return found | dict.fromkeys(best, "best")


def difference(group: Group, baseline: str, cam: Group | None) -> Difference | None:
    """GT-known Loc of a group minus that of plain CAM ("cam") or of the centre box ("centre_box"); None where that means
    nothing: no boxes, no such run, CAM itself. cam: plain CAM's group on the same backbone, if there is one."""
    if group.method == baseline:
        return None
    found = _paired(group, baseline, HEADLINE)
    if found is None and baseline == "centre_box":
        found = _to_centre_box(group)
    elif found is None and cam is not None:
        found = _to_cam(group, cam)
    return found


def _paired(group: Group, baseline: str, name: str) -> Difference | None:
    """From the paired differences that the runs themselves have stored; None unless all have."""
    stored = [row["against"][baseline].get(name) for row in group.done]
    if not stored or any(one is None or one["difference"] is None for one in stored):
        return None
    pairs = [None if None in (one["low"], one["high"]) else (one["low"], one["high"]) for one in stored]
    value = summary([one["difference"] for one in stored], pairs)
    counts = {one["n"] for one in stored} - {None, group.n_images}
    note = f"on {min(counts):g} images" if counts else ""
    found = [verdict(one) for one in stored]
    return Difference(value, found.count("better"), found.count("worse"), note)


def _to_centre_box(group: Group) -> Difference | None:
    having = [
        row
        for row in group.done
        if row[HEADLINE] is not None and row["result"]["centre_box"]["gt_known_loc"] is not None
    ]
    value = summary([row[HEADLINE] - row["result"]["centre_box"]["gt_known_loc"] for row in having])
    sides = [_side(interval(row, HEADLINE), interval(row, "centre_box")) for row in having]
    return None if value is None else Difference(value, sides.count(1), sides.count(-1))


def _to_cam(group: Group, cam: Group) -> Difference | None:
    numbers, sides, note = [], [], ""
    for row in group.done:
        plain = next((other for other in cam.done if other["seed"] == row["seed"]), None)
        if plain is None or row[HEADLINE] is None or plain[HEADLINE] is None:
            continue
        if any(row["config"].get(name) != plain["config"].get(name) for name in SAME_TRAINING):
            continue
        if row["n_images"] == plain["n_images"]:
            numbers.append(row[HEADLINE] - plain[HEADLINE])
            sides.append(_side(interval(row, HEADLINE), interval(plain, HEADLINE)))
        elif (same := gt_known_on_images_of(row, plain)) is not None:
            numbers.append(row[HEADLINE] - same)
            sides.append(0)
            note = f"on the same {row['n_images']:g} images"
    value = summary(numbers)
    return None if value is None else Difference(value, sides.count(1), sides.count(-1), note)


def _side(one: tuple[float, float] | None, other: tuple[float, float] | None) -> int:
    """1 where the first interval lies above the second, -1 below, 0 where they meet or one is not known."""
    if one is None or other is None:
        return 0
    return int(one[0] > other[1]) - int(one[1] < other[0])


def means(group: Group) -> dict[str, Any]:
    """The group's first completed row, with the means over its seeds in place of its metrics."""
    values = {name: group.value(name) for name in METRICS}
    return group.done[0] | {name: None if value is None else value.mean for name, value in values.items()}

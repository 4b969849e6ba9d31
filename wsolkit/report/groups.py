"""Runs of one method on one backbone over all seeds, as the index compares them: means, ties, differences. No torch here."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from statistics import fmean, stdev
from typing import Any

from wsolkit.report.numbers import plain, signed, verdict
from wsolkit.report.rows import gt_known_on_images_of, sort_rows

HEADLINE = "gt_known_loc"
BASELINES = ("cam", "centre_box")
SAME_TRAINING = "epochs seed classes per_class size geometry stride width weights val_share".split()  # noqa: SIM905
STATUSES = ("completed", "failed", "missing", "undefined")
Ends = tuple[float, float] | None


@dataclass(frozen=True)
class Value:
    """A number over n seeds: its mean, its standard deviation (n - 1 in the denominator; None for one seed), and the ends
    of its 95 % interval over images (of several seeds: the means of their ends; None where a run has none)."""

    mean: float
    sd: float | None
    n: int
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        """ "47.0", or "47.0 ± 1.2" over several seeds."""
        return plain(self.mean) + ("" if self.sd is None else f" ± {self.sd:.1f}")


@dataclass(frozen=True)
class Difference:
    """GT-known Loc minus that of a baseline, in points, paired by seed.

    above, below: in how many seeds the two are significantly different, in that direction: the 95 % interval of the paired
    difference leaves out 0 and no exact test contradicts (`numbers.verdict`), or, where a run has no such interval, their
    own intervals do not meet. note: on which images.
    """

    value: Value
    above: int
    below: int
    note: str = ""

    def __str__(self) -> str:
        return signed(self.value.mean) + ("" if self.value.sd is None else f" ± {self.value.sd:.1f}")

    @property
    def significant(self) -> bool:
        """In every seed, and in one direction."""
        return self.value.n in (self.above, self.below)


@dataclass
class Group:
    """One method on one backbone: its runs, one per seed, of whatever status."""

    dataset: str
    backbone: str
    method: str
    runs: list[dict[str, Any]]
    values: dict[str, Value | None] = field(default_factory=dict)  # what `value` has already computed

    @property
    def done(self) -> list[dict[str, Any]]:
        return [row for row in self.runs if row["status"] == "completed"]

    @property
    def status(self) -> str:
        """The best that any seed has come to."""
        return min((row["status"] for row in self.runs), key=STATUSES.index)

    @property
    def n_images(self) -> int:
        """Test images that every completed run has used."""
        return min((row["n_images"] or 0 for row in self.done), default=0)

    def value(self, name: str) -> Value | None:
        """A metric (or seconds_per_image, peak_memory_mb) over the completed runs that have it; None without any."""
        if name not in self.values:
            having = [row for row in self.done if row[name] is not None]
            self.values[name] = summary([row[name] for row in having], [interval(row, name) for row in having])
        return self.values[name]

    def share_of(self, failure: str) -> float | None:
        """Percent of the images with this failure type (`failures.FAILURES`), over all seeds; None where none is counted."""
        counts = [row["result"]["failures"] for row in self.done if row["result"].get("failures")]
        total = sum(sum(count.values()) for count in counts)
        if not total or len(counts) < len(self.done):
            return None
        return 100 * sum(count.get(failure, 0) for count in counts) / total


def interval(row: dict, name: str) -> Ends:
    """The 95 % interval that a run has stored of a metric, or of "centre_box"; None without one."""
    ends = row["result"].get("intervals", {}).get(name)
    return None if ends is None else tuple(ends)


def summary(numbers: Sequence[float], ends: Sequence[Ends] = ()) -> Value | None:
    """Numbers of n seeds with their intervals as one `Value`; None without any number."""
    if not numbers:
        return None
    low, high = map(fmean, zip(*ends, strict=True)) if ends and None not in ends else (None, None)
    return Value(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None, len(numbers), low, high)


def grouped(rows: Sequence[dict[str, Any]]) -> list[Group]:
    """Rows of one dataset (`read_rows`, `missing_rows`) as groups, by backbone and method."""
    by = groupby(sort_rows(rows), key=lambda row: (row["dataset"], row["backbone"], row["method"]))
    return [Group(*key, list(runs)) for key, runs in by]


def comparable(groups: Sequence[Group], name: str, full: int) -> dict[str, Value]:
    """method -> value, of the groups of one backbone that can be ranked: on all images, and with as many seeds as any."""
    values = {group.method: group.value(name) for group in groups if group.done and group.n_images == full}
    seeds = max((value.n for value in values.values() if value is not None), default=0)
    return {method: value for method, value in values.items() if value is not None and value.n == seeds}


def marks(groups: Sequence[Group], name: str, full: int) -> dict[str, str]:
    """method -> "best" or "tie", for the groups of one backbone: the highest mean of the `comparable` ones, and those that
    are not significantly different from it.

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
    marked = {method: "tie" for method, value in values.items() if value.mean >= low}
    paired = _paired(next(group for group in groups if group.method == best[0]), "cam", name)
    if "cam" in values and paired is not None:
        marked.pop("cam", None)
        marked |= {} if paired.significant else {"cam": "tie"}
    return marked | dict.fromkeys(best, "best")


def difference(group: Group, baseline: str, cam: Group | None = None) -> Difference | None:
    """GT-known Loc of a group minus that of plain CAM ("cam") or of the centre box ("centre_box"); None where that means
    nothing: no boxes, no such run, CAM itself. cam: plain CAM's group on the same backbone, if there is one."""
    if group.method == baseline:
        return None
    if (paired := _paired(group, baseline, HEADLINE)) is not None:
        return paired
    pairs = []  # of this group's number and that of the baseline, with their intervals and a note
    for row in group.done:
        own = row[HEADLINE], interval(row, HEADLINE)
        if baseline == "centre_box":
            box = row["result"]["centre_box"]["gt_known_loc"]
            pairs.append((own, (box, interval(row, "centre_box")), ""))
        elif cam is not None and (other := _plain_cam(row, cam)) is not None:
            pairs.append((own, *other))
    pairs = [pair for pair in pairs if None not in (pair[0][0], pair[1][0])]
    value = summary([own - other for (own, _), (other, _), _ in pairs])
    sides = [_side(own, other) for (_, own), (_, other), _ in pairs]
    note = next((note for *_, note in pairs if note), "")
    return None if value is None else Difference(value, sides.count(1), sides.count(-1), note)


def _paired(group: Group, baseline: str, name: str) -> Difference | None:
    """From the paired differences that the runs themselves have stored; None unless all have."""
    stored = [row["against"][baseline].get(name) for row in group.done]
    if not stored or any(item is None or item["difference"] is None for item in stored):
        return None
    ends = [None if None in (item["low"], item["high"]) else (item["low"], item["high"]) for item in stored]
    counts = {item["n"] for item in stored} - {None, group.n_images}
    verdicts, value = [verdict(item) for item in stored], summary([item["difference"] for item in stored], ends)
    note = f"on {min(counts):g} images" if counts else ""
    return Difference(value, verdicts.count("better"), verdicts.count("worse"), note) if value else None


def _plain_cam(row: dict, cam: Group) -> tuple[tuple[float | None, Ends], str] | None:
    """Plain CAM's number of the same seed on the same images, with its interval where the images are all, and a note."""
    same = next((other for other in cam.done if other["seed"] == row["seed"]), None)
    if same is None or same[HEADLINE] is None:
        return None
    if any(row["config"].get(name) != same["config"].get(name) for name in SAME_TRAINING):
        return None
    if row["n_images"] == same["n_images"]:
        return (same[HEADLINE], interval(same, HEADLINE)), ""
    return (gt_known_on_images_of(row, same), None), f"on the same {row['n_images'] or 0:g} images"


def _side(own: Ends, other: Ends) -> int:
    """1 where the first interval lies above the second, -1 below, 0 where they meet or one is not known."""
    if own is None or other is None:
        return 0
    return int(own[0] > other[1]) - int(own[1] < other[0])

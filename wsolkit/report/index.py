"""OUT/index.html and OUT/results.csv: every run of every sweep side by side, and beside published numbers.

First the runs under OUT/runs (and OUT/seed-N/runs), as rows and as groups over seeds; then the page. index.html.j2 lays
out, per dataset, what `_section` collects: the answer in sentences, which index.answer.j2 writes from the numbers;
tables, whose cells are `Group`, `Value` and `Difference`; charts; the same images under every method. Differences
between methods are those that the runs have stored: paired image by image, with an interval and an exact test.
matplotlib is imported where a chart is drawn, torch nowhere.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, groupby, product
from pathlib import Path
from statistics import fmean, stdev
from typing import Annotated, Any

from markupsafe import Markup
from pydantic import ConfigDict, Field

from wsolkit.common.errors import require
from wsolkit.common.files import atomic_write_text, keep_foreign, listing, read_yaml
from wsolkit.common.parameters import Parameters, parameter, shown
from wsolkit.data.catalogue import DATASETS
from wsolkit.evaluation.results import METRICS
from wsolkit.methods.registry import LIST, METHODS, TABLE, Published, declared, resolve, study_methods
from wsolkit.report.pages import image_uri, plain, render, signed, unique_id, verdict
from wsolkit.runs import folder as files
from wsolkit.runs.folder import read_failure, read_metrics

HEADLINE = "gt_known_loc"
MEASURED = ["n_images", *METRICS, "seconds_per_image", "peak_memory_mb", "operating_point"]
TITLE = "Weakly supervised localisation: methods compared"
COLUMNS = ["dataset", "backbone", "method", *MEASURED, "status", "seed"]
ORDER = list(study_methods())  # others follow by name
SEED_FOLDER = re.compile(r"seed-(-?\d{1,18})")
MOST = 20_000  # planned runs of one file: more is a mistake in it
PAGE_BYTES = 2_900_000  # of the whole page
IMAGE_BYTES = 1_900_000  # of them for thumbnails, in base64
TEXT_BYTES = 2_300_000  # of the page without thumbnails: above it the next of LEVELS is tried
FULL_CHARTS = 12  # networks: with more of them the first of LEVELS is not tried, since to draw all charts takes long
MOST_AGREED = 12  # methods of a backbone whose boxes are compared with one another
SAME_IMAGES = 8  # of a backbone, under every method
SECONDS = "seconds_per_image"
MARKED = (HEADLINE, "top1_loc", "max_box_acc_v2", "top1_cls")  # metrics whose best values the tables show
SETTINGS = "metadata size geometry classes weights epochs seed stride width batch_norm".split()  # noqa: SIM905
Name = Annotated[str, Field(pattern="^[^./][^/]*$")]
Row = Annotated[str, Field(pattern=r"^[^./\[][^/\[]*(\[.*)?$")]  # a method, perhaps with smoothing and options
NAMES = "a list of names without a slash or a dot at the beginning"
STATUSES = ("completed", "failed", "missing", "undefined")
Ends = Sequence[float] | None
TEST_IMAGES = 5794  # of CUB-200-2011
OTHERS = [  # methods that the kit does not have
    ("SPG", Published("vgg16", LIST, {"top1_cls": 75.5, "gt_known_loc": 58.9, "top1_loc": 48.9})),
    ("SPG", Published("vgg16", TABLE, {"max_box_acc_v2": 56.3})),
    ("SPG", Published("resnet50", TABLE, {"max_box_acc_v2": 60.4})),
    ("SPG", Published("inception_v3", TABLE, {"max_box_acc_v2": 55.9})),
    ("Centre box", Published("any", TABLE, {"max_box_acc_v2": 59.7})),
]
# How much of very many runs the page shows: methods and backbones of a dataset in tables, charts and images (the best,
# with plain CAM), rows of single runs and of operating points, points of a curve, bytes for the full texts of errors.
LIMITS = ("methods", "backbones", "runs", "points", "curve", "errors")
LEVELS = (
    (1000, 1000, 1500, 600, 250, 300_000),
    (1000, 1000, 200, 100, 50, 50_000),
    (50, 10, 100, 50, 50, 20_000),
    (12, 6, 20, 10, 25, 5_000),
)

# ------------------------------------------------------------------------------------------------ runs as rows


def _empty_row(home: Path, out: Path, dataset: str, backbone: str, slug: str) -> dict[str, Any]:
    """A run in home/runs/<dataset>/<backbone>/<slug>/ before its files are read; home is OUT or OUT/seed-N."""
    folder, seed = home / "runs" / dataset / backbone / slug, SEED_FOLDER.fullmatch(home.name) if home != out else None
    pages = {"report": home / dataset / backbone / f"{slug}.html", "notebook": folder / files.NOTEBOOK}
    row = dict.fromkeys(COLUMNS) | {"dataset": dataset, "backbone": backbone, "method": slug.replace("_plusplus", "++")}
    row |= {"slug": slug, "seed": int(seed[1]) if seed else None, "status": "failed", "error": "", "folder": folder}
    row |= {"config": {}, "result": {}, "against": {}, "gallery": []}
    for name, path in (pages | {"log": folder / files.LOG}).items():
        row[name] = path.relative_to(out).as_posix() if path.is_file() else None
    return row


def _read(folder: Path, home: Path, out: Path) -> dict[str, Any] | None:
    """One run's row; None when the folder holds neither metrics.json nor failure.json."""
    row = _empty_row(home, out, *folder.relative_to(home / "runs").parts)
    try:
        if (failure := read_failure(folder)) is not None:
            row |= {"error": failure.error or "no error message was written", "config": failure.config}
            row["status"] = "undefined" if failure.status == "undefined" else "failed"
        else:
            metrics = read_metrics(folder)
            row |= metrics.model_dump(include={"config", "result", "against"}) | {"status": "completed"}
            row |= {name: row["result"][name] for name in MEASURED}
            row["gallery"] = [image.model_dump() | {"path": image.inside(folder)} for image in metrics.gallery]
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:  # a damaged file is one failed row, never the end of the page
        return row | {"error": str(error).replace(f"{out}/", "")}
    row["method"] = str(row["config"].get("method") or row["method"])
    if type(row["config"].get("seed")) is int:
        row["seed"] = row["config"]["seed"]
    return row


def rank(method: str) -> tuple[int, str]:
    """Sorting key of methods in tables and in results.csv: the study's first, in its order, then by name; a method's
    rows with smoothing and options follow it."""
    base = declared(method).base
    return (ORDER.index(base) if base in ORDER else len(ORDER), method)


def read_rows(out: str | Path) -> list[dict[str, Any]]:
    """A dict per run in OUT/runs/<dataset>/<backbone>/<method>/ and OUT/seed-N/runs/..., in the order of `sort_rows`.

    Keys: those of COLUMNS (metrics in percent, None where they do not apply or the run did not complete), and result,
    config, gallery (id, caption, path), against (differences to "cam" and "centre_box", by metric), report, notebook
    and log (addresses relative to OUT, or None), error (text), slug, folder. failure.json wins over metrics.json; a
    file that cannot be understood makes a failed row that names it. Where two folders hold the same seed of a run, the
    completed one counts, or else OUT's.
    """
    out = Path(out)
    seeds = [path for path in out.glob("seed-*") if path.is_dir() and SEED_FOLDER.fullmatch(path.name)]
    rows: dict[tuple, dict[str, Any]] = {}
    for home in [out, *sorted(seeds, key=lambda path: int(path.name.removeprefix("seed-")))]:
        for folder in sorted(home.glob("runs/*/*/*/")):
            if folder.name.startswith(files.TRAINING_PREFIX) or (row := _read(folder, home, out)) is None:
                continue
            key = (row["dataset"], row["backbone"], declared(row["method"]).slug, row["seed"])
            if key not in rows or (rows[key]["status"] != "completed" and row["status"] == "completed"):
                rows[key] = row
    return sort_rows(rows.values())


def sort_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """By dataset, backbone, method (the study's five first) and seed (unknown ones first)."""

    def place(row: dict[str, Any]) -> tuple:
        return row["dataset"], row["backbone"], rank(row["method"]), row["seed"] is not None, row["seed"] or 0

    return sorted(rows, key=place)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.6g}"
    text = str(value)
    return f"'{text}" if text[:1] in "=+-@\t\r" else text  # a spreadsheet would run such a cell as a formula


def write_csv(rows: Iterable[Mapping[str, Any]], path: str | Path) -> None:
    """results.csv: exactly COLUMNS, percent 0 to 100, empty where a number does not apply; written by rename."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerows([COLUMNS, *([_cell(row[name]) for name in COLUMNS] for row in rows)])
    atomic_write_text(path, buffer.getvalue())


class Plan(Parameters):
    """What a stored sweep.yaml combines; its other keys are parameters of the runs."""

    model_config = ConfigDict(extra="ignore")

    backbones: tuple[Name, ...] = parameter((), "of networks", title=NAMES)
    methods: tuple[Row, ...] = parameter((), "of methods", title=NAMES)
    seeds: tuple[int, ...] = parameter((0,), "the first in OUT, the others in OUT/seed-N")
    frozen: bool = parameter(False, "whether the body stays")

    @classmethod
    def stored(cls, path: Path) -> tuple[list[tuple[int, str, str]], bool]:
        """Seed, backbone and method of every run in a sweep.yaml, and whether the body is frozen. WsolkitError says
        what is wrong with the file."""
        content = read_yaml(path)
        require(isinstance(content, dict), f"it should hold a mapping, got {shown(content)}")
        plan = cls(**{str(name): value for name, value in content.items()})
        runs = len(plan.seeds) * len(plan.backbones) * len(plan.methods)
        require(runs <= MOST, f"it plans {runs} runs, expected at most {MOST}")
        methods = [declared(method).name for method in plan.methods]
        return list(dict.fromkeys(product(plan.seeds, plan.backbones, methods))), plan.frozen


def missing_rows(out: str | Path, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """What was planned under OUT (in runs/<dataset>/sweep.yaml) and is not among `rows` (`read_rows`), and a sentence
    about each plan that cannot be read.

    A row says "missing", or "undefined" where the method has no meaning on the network; `error` says why.
    """
    out = Path(out)
    folders = {row["folder"] for row in rows}
    known = {(row["dataset"], row["backbone"], row["slug"], row["seed"]) for row in rows}
    missing, notes = [], []
    for path in sorted(out.glob(f"runs/*/{files.SWEEP}")):
        dataset, place = path.parent.name, path.relative_to(out)
        try:
            planned, frozen = Plan.stored(path)
        except (ValueError, OSError) as error:
            problem = str(error).replace(str(path), "it")
            notes.append(f"{place} cannot be used ({problem}), so missing runs of {dataset} are not shown.")
            continue
        for seed, backbone, method in planned:
            home = out if seed == planned[0][0] else out / f"seed-{seed}"
            row = _empty_row(home, out, dataset, backbone, declared(method).slug) | {"seed": seed, "method": method}
            if row["folder"] in folders or (dataset, backbone, row["slug"], seed) in known:
                continue
            reason = declared(method).undefined(backbone, frozen)
            text = f"planned in {place}, without a result yet; run the sweep again"
            missing.append(row | {"status": "undefined" if reason else "missing", "error": reason or text})
    return missing, notes


@dataclass(frozen=True)
class Value:
    """A number over n seeds: its mean, its standard deviation (n - 1 in the denominator; None for one seed), and the
    ends of its 95 % interval over images (of several seeds: the means of their ends; None where a run has none)."""

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
    """A metric minus that of a baseline, in points, paired image by image and seed by seed.

    above, below: in how many seeds the two are significantly different, in that direction (`pages.verdict`). note: on
    which images.
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


@dataclass(eq=False)
class Group:
    """One method on one backbone: its runs, one per seed, of whatever status."""

    dataset: str
    backbone: str
    method: str
    runs: list[dict[str, Any]]

    @cached_property
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
        """A metric (percent; or seconds_per_image, peak_memory_mb) over the completed runs that have it, or None."""
        having = [row for row in self.done if row[name] is not None]
        return summary([row[name] for row in having], [interval(row, name) for row in having])

    @property
    def threshold(self) -> float | None:
        """The threshold (0 to 1) at which its boxes are cut, as a mean over seeds; None where no box was cut."""
        taus = [row["result"]["threshold"] for row in self.done if row["result"]["threshold"] is not None]
        return fmean(taus) if taus else None

    @property
    def shares(self) -> dict[str, float]:
        """Failure type -> percent of the images, over all seeds; {} where a seed has none counted."""
        counts = [Counter(row["result"]["failures"]) for row in self.done]
        total = sum(counts, Counter()) if all(counts) else Counter()
        return {name: 100 * count / total.total() for name, count in total.items()}


def interval(row: dict, name: str) -> Ends:
    """The 95 % interval (low, high; percent) that a row's run has stored of a metric, or of "centre_box"; else None."""
    return row["result"].get("intervals", {}).get(name)


def summary(numbers: Sequence[float], ends: Sequence[Ends] = ()) -> Value | None:
    """Numbers of n seeds, with the interval of each or None, as one `Value`; None without any number."""
    if not numbers:
        return None
    low, high = map(fmean, zip(*ends, strict=True)) if ends and None not in ends else (None, None)
    return Value(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None, len(numbers), low, high)


def grouped(rows: Sequence[dict[str, Any]]) -> list[Group]:
    """Rows of one dataset (`read_rows`, `missing_rows`) as groups, by backbone and method."""
    by = groupby(sort_rows(rows), key=lambda row: (row["dataset"], row["backbone"], row["method"]))
    return [Group(*key, list(runs)) for key, runs in by]


def ranked(groups: Sequence[Group], name: str, full: int) -> tuple[dict[str, Value], list[str]]:
    """method -> value, of the groups of one backbone that can be ranked (on all images, and with as many seeds as any),
    and the methods with the highest mean."""
    of = {group.method: group.value(name) for group in groups if group.done and group.n_images == full}
    values = {method: value for method, value in of.items() if value is not None}
    seeds = max((value.n for value in values.values()), default=0)
    values = {method: value for method, value in values.items() if value.n == seeds}
    top = max((value.mean for value in values.values()), default=0.0)
    return values, [method for method, value in values.items() if math.isclose(value.mean, top)]


def marks(groups: Sequence[Group], name: str, full: int) -> dict[str, str]:
    """method -> "best" or "tie", for the groups of one backbone: the highest mean of the `ranked` ones, and those that
    are not significantly different from it.

    A tie lies inside the best one's 95 % interval (several seeds: or within one standard deviation); whether plain CAM
    is one is for the paired difference to say, where there is one. Empty for fewer than two, and where all are equal.
    """
    values, best = ranked(groups, name, full)
    if len(best) == len(values):  # nothing to choose, for example one network under several methods
        return {}
    top = values[best[0]]
    low = min(top.mean if top.low is None else top.low, top.mean - (top.sd or 0))
    marked = {method: "tie" for method, value in values.items() if value.mean >= low}
    paired = difference(next(group for group in groups if group.method == best[0]), "cam", name)
    if "cam" in values and paired is not None:
        marked.pop("cam", None)
        marked |= {} if paired.significant else {"cam": "tie"}
    return marked | dict.fromkeys(best, "best")


def difference(group: Group, baseline: str, name: str = HEADLINE) -> Difference | None:
    """A metric of a group minus that of plain CAM ("cam") or of the centre box ("centre_box"); None where that means
    nothing (no boxes, CAM itself) and where a run has not stored it."""
    stored = [row["against"][baseline].get(name) for row in group.done] if group.method != baseline else []
    if not stored or any(item is None or item["difference"] is None for item in stored):
        return None
    ends = [None if None in (item["low"], item["high"]) else (item["low"], item["high"]) for item in stored]
    counts = {item["n"] for item in stored} - {None, group.n_images}
    verdicts, value = [verdict(item) for item in stored], summary([item["difference"] for item in stored], ends)
    note = f"on {min(counts):g} images" if counts else ""
    return Difference(value, verdicts.count("better"), verdicts.count("worse"), note) if value else None


def published_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """Published numbers on CUB-200-2011, each with its source, and measured ones, which come first.

    Returns:
        Rows {"method", "network", "source", "published" (percent by metric), "group", "differs"}; group is the
        completed one of the same method, on the same network or else on the first one there is, or None.
    """
    table: list[dict[str, Any]] = []
    methods = [(method, entry) for method in METHODS.values() for entry in method.published]
    rows = [(entry, resolve(f"{method.name}[{entry.row}]") if entry.row else method) for method, entry in methods]
    own = [(method.label, entry, method.name) for entry, method in rows]
    for label, entry, method in [*own, *((label, entry, "") for label, entry in OTHERS)]:
        same = [group for group in groups if group.method == method and group.done]
        group = next((group for group in same if group.backbone == entry.network), same[0] if same else None)
        line = {"method": f"{label} {entry.note}".strip(), "network": entry.network, "source": entry.source}
        differs = _differences(group, entry.network) if group else ""
        table.append(line | {"published": entry.values, "group": group, "differs": differs})
    return sorted(table, key=lambda line: line["group"] is None)


def _differences(group: Group, network: str) -> str:
    """What separates a measured group from the published protocol, as text."""
    row, seeds = group.done[0], len(group.done)
    config, classes, differs = row["config"], row["result"].get("n_classes"), declared(group.method).differs
    weights = "not pretrained" if config.get("weights") == "none" else "weights from a file"
    texts = {
        f"network {group.backbone}": group.backbone != network,
        f"{row['n_images']} of {TEST_IMAGES} test images": row["n_images"] != TEST_IMAGES,
        f"{classes} of 200 classes": classes not in (None, 0, 200),
        f"input {config.get('size')}": config.get("size") not in (None, 224),
        "body frozen" if config.get("frozen") else f"{config.get('epochs')} epochs": config.get("epochs") is not None,
        weights: config.get("weights") not in (None, "imagenet"),
        differs: differs != "",
        f"mean of {seeds} seeds": seeds > 1,
    }
    return ", ".join(text for text, holds in texts.items() if holds) or "training details"


def keep_foreign_pages(out: Path) -> None:
    """WsolkitError where OUT holds an index.html or results.csv of somebody else."""
    keep_foreign({out / "index.html": TITLE, out / "results.csv": ",".join(COLUMNS[:4])})


def write_index(out: str | Path) -> Path:
    """Write OUT/results.csv and OUT/index.html (both by rename) from what lies under OUT/runs and OUT/seed-*/runs.

    Runs that failed, that were planned but have left no result, methods that are not defined on a network, and damaged
    files show as such; no runs at all give a page that says which command to run. The page stays under 3 MB.

    Returns:
        The page's path.
    """
    out = Path(out)
    keep_foreign_pages(out)
    rows = read_rows(out)
    write_csv(rows, out / "results.csv")
    missing, notes = missing_rows(out, rows)
    rows = sort_rows([*rows, *missing])
    looks = {method: place for place, method in enumerate(sorted({row["method"] for row in rows}, key=rank))}
    taken: Counter[str] = Counter()
    parts = {name: [row for row in rows if row["dataset"] == name] for name in sorted({row["dataset"] for row in rows})}
    keys = {name: unique_id(f"data-{name}", taken) for name in parts}

    def page(sections: list[dict[str, Any]], limits: dict[str, int]) -> str:
        values = {"title": TITLE, "rows": rows, "notes": notes, "sections": sections, "limits": limits}
        return render("index.html.j2", styles=("index.css",), scripts=("index.js",), marked=MARKED, **values)

    many = len({(row["dataset"], row["backbone"]) for row in rows}) > FULL_CHARTS
    for level in LEVELS[many:]:
        limits = dict(zip(LIMITS, level, strict=True))
        sections = [_section(name, keys[name], part, looks, limits) for name, part in parts.items()]
        size = len(page(sections, limits).encode())
        if size <= TEXT_BYTES:
            break
    _add_images(sections, min(IMAGE_BYTES, PAGE_BYTES - size))
    atomic_write_text(out / "index.html", page(sections, limits))
    return out / "index.html"


def _section(dataset: str, key: str, rows: list[dict], looks: dict[str, int], limits: dict[str, int]) -> dict[str, Any]:
    """Everything that the page shows of one dataset; "galleries" are added where bytes are left."""
    groups = grouped(rows)
    done = [row for row in rows if row["status"] == "completed"]
    full = max((row["n_images"] or 0 for row in done), default=0)
    networks, shown = networks_of(groups, full), chosen(groups, limits)
    drawn = [network | {"groups": [group for group in network["groups"] if group in shown]} for network in networks]
    drawn = [network for network in drawn if network["groups"]]
    every = [line for network in drawn for line in network["lines"] if line["group"] is None or line["group"] in shown]
    lines = [line | {"id": f"{key}-line-{place}"} for place, line in enumerate(every)]
    limited = [row for row in done if row["n_images"] != full]
    fewer = [f"{row['method']} on {row['backbone']} used {row['n_images'] or 0}" for row in limited]
    return {
        "dataset": dataset,
        "title": DATASETS[dataset].title if dataset in DATASETS else dataset,
        "key": key,
        "full": full,
        "groups": groups,
        "networks": networks,
        "drawn": drawn,
        "shown": shown,
        "methods": sorted({group.method for group in shown}, key=rank),
        "lines": lines,
        "matrix": {(line["group"] and line["group"].method, line["backbone"]): line for line in lines},
        "rows": rows,
        "done": done,
        "settings": settings(done or rows),
        "seeds": sorted({row["seed"] for row in done if row["seed"] is not None}),
        "fewer": list(dict.fromkeys(fewer)),
        "galleries": [],
        "why": reasons(networks, full),
        "agreed": [agreed for network in drawn if (agreed := agreements(network["groups"]))],
        "charts": charts(drawn, looks, limits["curve"]),
        "published": published_table(groups) if dataset == "cub" and done else None,
    }


def networks_of(groups: Sequence[Group], full: int) -> list[dict[str, Any]]:
    """What is compared on each backbone, those with results first: its groups, their values and the best of them, a
    line of a table for each group and one ("group" None) for the centre box.

    full: the number of test images; only runs on all of them are compared.
    """
    networks: list[dict[str, Any]] = []
    for backbone in sorted({group.backbone for group in groups}):
        members = [group for group in groups if group.backbone == backbone]
        marked = {name: marks(members, name, full) for name in MARKED}
        lines: list[dict[str, Any]] = []
        for group in members:
            baselines = [difference(group, "cam"), difference(group, "centre_box")]
            own = {name: of.get(group.method) for name, of in marked.items()}
            lines.append({"backbone": backbone, "group": group, "differences": baselines, "marks": own})
        if centre := centre_box(members, full):
            lines.append({"backbone": backbone, "group": None, **centre})
        values, best = ranked(members, HEADLINE, full)
        tied = [method for method, mark in marked[HEADLINE].items() if mark == "tie" and method != "cam"]
        named = [value for group in members if (value := group.value("top1_cls"))]
        located = any(group.value(HEADLINE) is not None for group in members)
        done = [row for group in members for row in group.done]
        network: dict[str, Any] = {"backbone": backbone, "groups": members, "done": done}
        network["right"] = named[0] if named and not located else None  # where there are no boxes
        network |= {"lines": lines, "centre": centre["value"].mean if centre else None, "values": values, "best": best}
        networks.append(network | {"tied": tied, "winner": best[0] if len(best) == 1 < len(values) else ""})
    return sorted(networks, key=lambda network: not network["done"])


def chosen(groups: Sequence[Group], limits: dict[str, int]) -> set[Group]:
    """Groups of so many methods and backbones: those with the highest GT-known Loc, and plain CAM first of all."""

    def best(kind: str, most: int) -> list[str]:
        height: dict[str, float] = {}
        for group in groups:
            name, value = getattr(group, kind), group.value(HEADLINE)
            height[name] = max(height.get(name, -1.0), value.mean if value else -1.0)
        return sorted(height, key=lambda name: (name != "cam", -height[name]))[:most]

    methods, backbones = best("method", limits["methods"]), best("backbone", limits["backbones"])
    return {group for group in groups if group.method in methods and group.backbone in backbones}


def centre_box(groups: Sequence[Group], full: int) -> dict[str, Any] | None:
    """The baseline of one backbone: per seed the box of a run on all images, where there is one, then over seeds."""
    rows: dict[Any, dict] = {}
    for row in sorted((row for group in groups for row in group.done), key=lambda row: row["n_images"] != full):
        if row["result"]["centre_box"][HEADLINE] is not None:
            rows.setdefault(row["seed"], row)
    boxes = [row["result"]["centre_box"] for row in rows.values()]
    value = summary([box[HEADLINE] for box in boxes], [interval(row, "centre_box") for row in rows.values()])
    sides = sorted({f"{box['side']}" for box in boxes if box.get("side")})
    top1, best = ([box[name] for box in boxes if box[name] is not None] for name in ("top1_loc", "best_on_test"))
    notes = [f"square of {' / '.join(sides)} px"] if sides else []
    notes += [f"best side on test: {plain(fmean(best))}"] if best else []
    return {"value": value, "top1": summary(top1), "notes": notes} if value else None


def settings(rows: Sequence[dict]) -> dict[str, str]:
    """What the runs of one dataset have in common or differ in, from their parameters, as a reader calls it."""
    texts: dict[str, dict[str, None]] = {}
    for row in rows:
        conditions = row["result"].get("conditions", {}).items()
        # each row shows how many images it used; a method, with its channels or IVR, is no setting of all rows
        said = {name: row["config"].get(name) for name in SETTINGS}
        own = ("images", "method", "channels", "normalisation")
        said |= {name: value for name, value in conditions if name not in own}
        for name, value in (said | {"protocol": row["result"].get("protocol")}).items():
            if value is None or (value in ("", [], 0) and name != "seed"):
                continue
            if isinstance(value, list):
                value = len(value) if len(value) > 6 else ", ".join(map(str, value))
            text = os.path.basename(str(value)) if name in ("weights", "metadata") else str(value)
            texts.setdefault("input side" if name == "size" else name.replace("_", " "), {})[text] = None
    return {name: " / ".join(several)[:300] for name, several in texts.items()}


def reasons(networks: Sequence[dict], full: int) -> list[tuple[str, float, float]]:
    """Networks whose numbers show that RethinkingCAM finds more of the object than CAM does: (name, percent of the
    images where plain CAM's box is "part only", the same of RethinkingCAM's).

    That is so where RethinkingCAM's GT-known Loc is significantly above plain CAM's in every seed, plain CAM's most
    frequent kind of miss is "part only", and RethinkingCAM's boxes are "part only" less often.
    """
    shown = []
    for network in networks:
        groups = {group.method: group for group in network["groups"] if group.done and group.n_images == full}
        if not {"cam", "rethinking_cam"} <= set(groups):
            continue
        gained = difference(groups["rethinking_cam"], "cam")
        before, after = groups["cam"].shares, groups["rethinking_cam"].shares
        part, rest = before.get("part only", 0.0), after.get("part only", 0.0)
        others = [before.get(name, 0.0) for name in ("too large", "multiple instances", "background")]
        if gained and gained.above == gained.value.n and before and after and part > max(rest, *others):
            shown.append((network["backbone"], part, rest))
    return shown


def agreements(groups: Sequence[Group]) -> dict[str, Any]:
    """What the boxes of one backbone's methods tell where test images lack true ones, {} where none do: "methods", the
    "statistics" of each one's boxes (`found_boxes.box_statistics`) and "iou", their mean IoU with those of each other
    method, None where the images differ or no boxes were kept. All of each method's first seed."""
    from wsolkit.evaluation.found_boxes import agreement, read_found_boxes

    rows = {group.method: group.done[0] for group in groups if group.done}
    results = {method: row["result"] for method, row in rows.items()}
    results = {name: own for name, own in results.items() if own[HEADLINE] is None or own["n_classified"]}
    statistics = {name: known for name, own in results.items() if (known := own["extra"].get("boxes"))}
    methods, tables = list(statistics)[:MOST_AGREED], {}
    for method in methods:
        with suppress(ValueError, OSError):
            tables[method] = read_found_boxes(rows[method]["folder"] / files.FOUND)
    shared: dict[str, list[float | None]] = {method: [None] * len(methods) for method in methods}
    for (place, method), (other_place, other) in combinations(enumerate(methods), 2):
        if method in tables and other in tables:
            with suppress(ValueError):  # other images
                shared[method][other_place] = shared[other][place] = agreement(tables[method], tables[other])
    backbone = groups[0].backbone
    return {"backbone": backbone, "methods": methods, "statistics": statistics, "iou": shared} if methods else {}


def charts(networks: Sequence[dict], looks: dict[str, int], most: int) -> dict[str, list[tuple[str, Markup]]]:
    """{"curves": [(backbone, chart)], "cost": likewise}: one chart per backbone, with the axes of all of the dataset;
    at most so many points of a curve. looks: method -> index of its colour, line and marker on the whole page."""
    from wsolkit.figures import accuracy_curves, cost_scatter, inline_svg

    parts, heights = [], [0.0]
    for network in networks:
        done = {group.method: group for group in network["groups"] if group.done}
        lines = {method: curve for method, group in done.items() if (curve := mean_curve(group, most))}
        values = {method: value for method, group in done.items() if (value := group.value(HEADLINE))}
        times = {method: time.mean for method in values if (time := done[method].value(SECONDS)) and time.mean}
        heights += [network["centre"] or 0.0, *(value.high or value.mean for value in values.values())]
        heights += [max(curve[1]) for curve in lines.values()]
        parts.append((network, lines, values, times))
    top = min(100.0, max(20.0, 10 * math.ceil((max(heights) + 1) / 10)))
    every = [time for *_, times in parts for time in times.values()] or [0.01]
    span = min(every) / 1.5, max(max(every) * 1.5, min(every) / 1.5 * 10)  # one power of ten at least
    drawn: dict[str, list[tuple[str, Markup]]] = {"curves": [], "cost": []}
    for network, lines, values, times in parts:
        name = network["backbone"]
        if lines:
            taus = {group.method: group.threshold for group in network["groups"] if group.method in lines}
            chart = accuracy_curves(lines, taus, network["centre"], looks=looks, top=top)
            said = {method: f"{method} {max(curve[1]):.1f}" for method, curve in lines.items()}
            label = f"GT-known Loc against the threshold on {name}; highest point in percent: "
            drawn["curves"].append((name, inline_svg(chart, f"{label}{listing([*said.values()])}.", said)))
        if times:
            points = {method: (time, values[method].mean) for method, time in times.items()}
            ends: dict[str, Any] = {m: (v.low, v.high) for m, v in values.items() if None not in (v.low, v.high)}
            chart = cost_scatter({name: points}, intervals={name: ends}, looks=looks, top=top, span=span)
            said = {method: f"{method}: {values[method]} %, {time:.3g} s per image" for method, time in times.items()}
            label = f"GT-known Loc against seconds per image on {name}. {listing([*said.values()])}."
            drawn["cost"].append((name, inline_svg(chart, label, said)))
    return drawn


def mean_curve(group: Group, most: int = 250) -> tuple[list[float], list[float]] | None:
    """(thresholds, accuracy in percent) of at most so many points, over seeds; seeds with other thresholds than the
    first one are left out."""
    curves = [row["result"]["curve"] for row in group.done if row["result"]["curve"]["thresholds"]]
    if not curves:
        return None
    taus = curves[0]["thresholds"]
    same = [curve["gt_known_loc"] for curve in curves if curve["thresholds"] == taus]
    points = [(tau, fmean(heights)) for tau, *heights in zip(taus, *same, strict=True)]
    points = points[:: -(-len(points) // most)]
    return [tau for tau, _ in points], [height for _, height in points]


def _add_images(sections: Sequence[dict], budget: int) -> None:
    """Give every dataset and backbone that has any an equal share of the bytes; what one leaves over, the next have."""
    wanted = []
    for section in sections:
        for network in section["drawn"]:
            firsts = [next((row for row in group.done if row["gallery"]), None) for group in network["groups"]]
            if rows := [row for row in firsts if row]:
                wanted.append((section, rows))
    for index, (section, rows) in enumerate(wanted):
        gallery, used = same_images(rows, budget // (len(wanted) - index))
        budget -= used
        section["galleries"].append(gallery)


def same_images(rows: Sequence[dict], budget: int) -> tuple[dict[str, Any], int]:
    """The same images under every method of a backbone, as many as fit `budget` bytes of base64.

    Args:
        rows: the first seed's run of every method.

    Returns:
        {"rows", "lines": [(id, [{"uri", "caption"} or None])], "left_out": how many did not fit}, and the bytes used.
    """
    names = [entry["id"] for entry in max((row["gallery"] for row in rows), key=len)[:SAME_IMAGES]]
    lines, used = [], 0
    for name in names:
        cells = [_thumbnail(row, name) for row in rows]
        size = sum(len(cell["uri"]) for cell in cells if cell)
        if used + size > budget:
            break
        used += size
        lines += [(name, cells)] if any(cells) else []
    return {"rows": rows, "lines": lines, "left_out": len(names) - len(lines)}, used


def _thumbnail(row: dict, name: str) -> dict[str, str] | None:
    """None where the run has no such image, or one that cannot be read."""
    entry = next((item for item in row["gallery"] if item["id"] == name and item["path"]), None)
    try:
        return entry and {"uri": image_uri(entry["path"].read_bytes()), "caption": entry["caption"]}
    except (OSError, SyntaxError):
        return None

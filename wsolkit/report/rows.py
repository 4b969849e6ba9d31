"""The runs under OUT/runs (and OUT/seed-N/runs) as rows: what the index page and results.csv show. Imports nothing heavy."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from wsolkit.common.files import atomic_write_text, read_json
from wsolkit.methods.registry import declared, study_methods
from wsolkit.runs.config import TRAINING_PREFIX

METRICS = ["top1_cls", "top5_cls", "gt_known_loc", "top1_loc", "top5_loc", "max_box_acc", "max_box_acc_v2", "pxap"]
COLUMNS = [
    "dataset",
    "backbone",
    "method",
    "n_images",
    *METRICS,
    "seconds_per_image",
    "peak_memory_mb",
    "status",
    "seed",
]
ORDER = list(study_methods())  # others follow by name
SEED_FOLDER = re.compile(r"seed-(-?\d{1,18})")
POINTS = ("fixed", "validation", "best_on_test")


def _number(value: Any, name: str, low: float, high: float) -> float | int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} should be a number or null, got {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} should lie between {low:g} and {high:g}, got {value!r}")
    return value


def _mapping(value: Any, name: str) -> dict:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{name} should be an object, got {type(value).__name__}")
    return value


def _against(values: dict) -> dict[str, dict[str, dict]]:
    """The paired differences to plain CAM and to the centre box, as far as there are any: other -> metric -> difference."""
    found: dict[str, dict[str, dict]] = {"cam": {}, "centre_box": {}}
    for other in found:
        for name, one in _mapping(_mapping(values.get("against"), "against").get(other), f"against.{other}").items():
            one = _mapping(one, f"against.{other}.{name}")
            keys = ("difference", "low", "high")
            found[other][name] = {k: _number(one.get(k), f"against.{other}.{name}.{k}", -100, 100) for k in keys}
            found[other][name]["n"] = _number(one.get("n"), f"against.{other}.{name}.n", 0, math.inf)
            found[other][name]["p"] = _number(one.get("p"), f"against.{other}.{name}.p", 0, 1)
    return found


def _pair(value: Any, name: str) -> list[float]:
    if not isinstance(value, list) or len(value) != 2:
        raise ValueError(f"{name} should be [low, high], got {value!r}")
    return [_number(item, name, -math.inf, math.inf) for item in value]


def _result(values: dict) -> dict[str, Any]:
    """The checked fields of `result`; ValueError names the first one that is not what it should be."""
    result = _mapping(values.get("result"), "result")
    checked = dict(result)
    for name in METRICS:
        checked[name] = _number(result.get(name), name, 0, 100)
    for name in ("n_images", "n_val", "seconds_per_image", "peak_memory_mb"):
        checked[name] = _number(result.get(name), name, 0, math.inf)
    intervals = _mapping(result.get("intervals"), "intervals")
    checked["intervals"] = {key: _pair(pair, f"intervals.{key}") for key, pair in intervals.items() if pair is not None}
    points = _mapping(result.get("operating_points"), "operating_points")
    checked["operating_points"] = {}
    for key in POINTS:
        point = _mapping(points.get(key), f"operating_points.{key}")
        fields = ("threshold", "gt_known_loc", "top1_loc", "top5_loc")
        checked["operating_points"][key] = {
            name: _number(point.get(name), f"operating_points.{key}.{name}", 0, 100) for name in fields
        }
    box = _mapping(result.get("centre_box"), "centre_box")
    names = ("gt_known_loc", "top1_loc", "best_on_test")
    checked["centre_box"] = box | {name: _number(box.get(name), f"centre_box.{name}", 0, 100) for name in names}
    counts = _mapping(result.get("failures"), "failures")
    checked["failures"] = {key: _number(count, f"failures.{key}", 0, math.inf) or 0 for key, count in counts.items()}
    checked["protocol"] = str(result.get("protocol", ""))
    checked["conditions"] = _mapping(result.get("conditions"), "conditions")
    return checked


def _curve(values: dict) -> tuple[list[float], list[float]] | None:
    curve = _mapping(values.get("curve"), "curve")
    taus, accuracy = curve.get("thresholds"), curve.get("accuracy", curve.get("gt_known_loc"))
    if not taus or not accuracy:
        return None
    if not isinstance(taus, list) or not isinstance(accuracy, list) or len(taus) != len(accuracy):
        raise ValueError("curve.thresholds and curve.accuracy should be lists of equal lengths")
    numbers = [[_number(item, "curve", 0, 100) for item in part] for part in (taus, accuracy)]
    if any(item is None for part in numbers for item in part):
        raise ValueError("curve holds null")
    return numbers[0], numbers[1]


def _gallery(values: dict, folder: Path) -> list[dict[str, Any]]:
    """Gallery entries with `path` (inside the run's folder, or None)."""
    entries = values.get("gallery") or []
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise ValueError("gallery should be a list of objects")
    found, base = [], folder.resolve()
    for entry in entries:
        path = (base / str(entry.get("file", ""))).resolve()
        inside = path.is_relative_to(base) and path.is_file()
        words = {"id": str(entry.get("id", "")), "caption": str(entry.get("caption") or "")}
        found.append(words | {"path": path if inside else None})
    return found


def _address(path: Path, out: Path) -> str | None:
    """A file's address relative to OUT, with forward slashes; None where there is no such file."""
    return path.relative_to(out).as_posix() if path.is_file() else None


def empty_row(home: Path, out: Path, dataset: str, backbone: str, slug: str) -> dict[str, Any]:
    """The row of a run in home/runs/<dataset>/<backbone>/<slug>/ before its files are read; home is OUT or OUT/seed-N."""
    folder = home / "runs" / dataset / backbone / slug
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    row |= {"dataset": dataset, "backbone": backbone, "method": slug.replace("_plusplus", "++"), "status": "failed"}
    row |= {"slug": slug, "config": {}, "result": {}, "curve": None, "gallery": [], "versions": {}, "error": ""}
    row |= {"against": _against({}), "wall_seconds": None, "finished": None, "source": folder / "metrics.json"}
    row |= {
        "report": _address(home / dataset / backbone / f"{slug}.html", out),
        "log": _address(folder / "log.txt", out),
    }
    row["notebook"] = _address(folder / "notebook.ipynb", out)
    seed = SEED_FOLDER.fullmatch(home.name) if home != out else None
    return row | {"seed": int(seed[1]) if seed else None}


def _read(folder: Path, home: Path, out: Path) -> dict[str, Any] | None:
    """One run's row; None when the folder holds neither metrics.json nor failure.json."""
    failure, metrics = folder / "failure.json", folder / "metrics.json"
    source = failure if failure.is_file() else metrics
    if not source.is_file():
        return None
    row = empty_row(home, out, *folder.relative_to(home / "runs").parts) | {"source": source}
    try:
        values = read_json(source)
        if not isinstance(values, dict):
            raise ValueError(f"it should hold an object, got {type(values).__name__}")
        row["config"] = _mapping(values.get("config"), "config")
        row["method"] = str(row["config"].get("method") or row["method"])
        seed = row["config"].get("seed")
        row["seed"] = seed if isinstance(seed, int) and not isinstance(seed, bool) else row["seed"]
        if source == failure:
            row["status"] = "undefined" if values.get("status") == "undefined" else "failed"
            row["error"] = str(values.get("error") or "no error message was written")
            return row
        if values.get("status") != "completed":
            raise ValueError(f"status should be 'completed', got {values.get('status')!r}")
        row |= {"result": _result(values), "curve": _curve(values), "gallery": _gallery(values, folder)}
        row |= {"versions": _mapping(values.get("versions"), "versions"), "finished": values.get("finished")}
        row["against"] = _against(values)
        row["wall_seconds"] = _number(values.get("wall_seconds"), "wall_seconds", 0, math.inf)
        row |= {name: row["result"][name] for name in ["n_images", *METRICS, "seconds_per_image", "peak_memory_mb"]}
        row["status"] = "completed"
    except (ValueError, OSError) as error:  # a damaged file is one failed row, never the end of the page
        place = source.relative_to(out)
        text = f"{place} is damaged: {error}\nDelete it and run the sweep again."
        row |= {"error": text, "result": {}, "curve": None, "gallery": [], "against": _against({})}
    return row


def rank(method: str) -> tuple[int, str]:
    """Sorting key of methods: the study's five first, in its order, then by name."""
    return (ORDER.index(method) if method in ORDER else len(ORDER), method)


def homes(out: Path) -> list[Path]:
    """The folders that hold runs/: OUT with those of the first seed, then OUT/seed-N."""
    seeds = [path for path in out.glob("seed-*") if path.is_dir() and SEED_FOLDER.fullmatch(path.name)]
    return [out, *sorted(seeds, key=lambda path: int(SEED_FOLDER.fullmatch(path.name)[1]))]


def read_rows(out: str | Path) -> list[dict[str, Any]]:
    """A dict per run in OUT/runs/<dataset>/<backbone>/<method>/ and OUT/seed-N/runs/..., sorted by dataset, backbone, method
    and seed.

    Keys: those of COLUMNS (metrics in percent, None where they do not apply or the run did not complete), and result,
    config, curve ((thresholds, accuracy) or None), gallery (id, caption, path), against (differences to "cam" and
    "centre_box", by metric), report, notebook and log (addresses relative to OUT, or None), error (text), versions,
    wall_seconds, finished, slug, source. failure.json wins over metrics.json; a file that cannot be understood makes a
    failed row that names it. Where two folders hold the same seed of a run, the completed one counts, or else OUT's.
    """
    out = Path(out)
    rows: dict[tuple, dict[str, Any]] = {}
    for home in homes(out):
        for folder in sorted(home.glob("runs/*/*/*")):
            if not folder.is_dir() or folder.name.startswith(TRAINING_PREFIX):
                continue
            row = _read(folder, home, out)
            if row is None:
                continue
            key = (row["dataset"], row["backbone"], declared(row["method"]).slug, row["seed"])
            if key not in rows or (rows[key]["status"] != "completed" and row["status"] == "completed"):
                rows[key] = row
    return sort_rows(rows.values())


def sort_rows(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """By dataset, backbone, method (the study's five first) and seed (unknown ones first)."""
    return sorted(
        rows,
        key=lambda row: (
            row["dataset"],
            row["backbone"],
            *rank(row["method"]),
            row["seed"] is not None,
            row["seed"] or 0,
        ),
    )


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
    writer.writerow(COLUMNS)
    writer.writerows([_cell(row[name]) for name in COLUMNS] for row in rows)
    atomic_write_text(path, buffer.getvalue())


def gt_known_on_images_of(row: dict, cam: dict) -> float | None:
    """Plain CAM's GT-known Loc on the images that `row` used, from the per-image files; None where they do not tell."""
    try:
        used, found = (
            {line["id"]: line["localised"] == "True" for line in csv.DictReader(_per_image(Path(one["source"]).parent))}
            for one in (row, cam)
        )
    except (OSError, KeyError):
        return None
    hits = [found[name] for name in used if name in found]
    return 100 * sum(hits) / len(hits) if hits and len(hits) == len(used) else None


def _per_image(folder: Path) -> list[str]:
    return (folder / "per_image.csv").read_text(encoding="utf-8").splitlines()

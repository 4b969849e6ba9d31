"""The runs under OUT/runs (and OUT/seed-N/runs) as rows: what the index page and results.csv show. Imports nothing heavy."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import yaml

from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import atomic_write_text
from wsolkit.methods.registry import declared, study_methods
from wsolkit.runs import folder as files
from wsolkit.runs.folder import Against, read_failure, read_metrics

METRICS = ["top1_cls", "top5_cls", "gt_known_loc", "top1_loc", "top5_loc", "max_box_acc", "max_box_acc_v2", "pxap"]
MEASURED = ["n_images", *METRICS, "seconds_per_image", "peak_memory_mb"]
COLUMNS = ["dataset", "backbone", "method", *MEASURED, "status", "seed"]
ORDER = list(study_methods())  # others follow by name
SEED_FOLDER = re.compile(r"seed-(-?\d{1,18})")
MOST = 20_000  # planned runs of one file: more is a mistake in it


def _address(path: Path, out: Path) -> str | None:
    """A file's address relative to OUT, with forward slashes; None where there is no such file."""
    return path.relative_to(out).as_posix() if path.is_file() else None


def _empty_row(home: Path, out: Path, dataset: str, backbone: str, slug: str) -> dict[str, Any]:
    """The row of a run in home/runs/<dataset>/<backbone>/<slug>/ before its files are read; home is OUT or OUT/seed-N."""
    folder = home / "runs" / dataset / backbone / slug
    seed = SEED_FOLDER.fullmatch(home.name) if home != out else None
    return dict.fromkeys(COLUMNS) | {
        "dataset": dataset, "backbone": backbone, "method": slug.replace("_plusplus", "++"), "slug": slug,
        "seed": int(seed[1]) if seed else None, "status": "failed", "error": "", "source": folder / files.METRICS,
        "config": {}, "result": {}, "curve": None, "gallery": [], "against": Against().model_dump(),
        "versions": {}, "wall_seconds": None, "finished": None,
        "report": _address(home / dataset / backbone / f"{slug}.html", out),
        "log": _address(folder / files.LOG, out), "notebook": _address(folder / files.NOTEBOOK, out),
    }  # fmt: skip


def _read(folder: Path, home: Path, out: Path) -> dict[str, Any] | None:
    """One run's row; None when the folder holds neither metrics.json nor failure.json."""
    source = next((path for name in (files.FAILURE, files.METRICS) if (path := folder / name).is_file()), None)
    if source is None:
        return None
    row = _empty_row(home, out, *folder.relative_to(home / "runs").parts) | {"source": source}
    try:
        if (failure := read_failure(folder)) is not None:
            row |= {"error": failure.error or "no error message was written", "config": failure.config}
            row |= {"status": "undefined"} if failure.status == "undefined" else {}
        else:
            metrics = read_metrics(folder)
            row |= {name: getattr(metrics.result, name) for name in MEASURED}
            row |= {name: getattr(metrics, name) for name in ("config", "versions", "wall_seconds", "finished")}
            curve = metrics.result.curve
            row |= {
                "status": "completed", "result": metrics.result.to_dict(), "against": metrics.against.model_dump(),
                "curve": (curve["thresholds"], curve["gt_known_loc"]) if curve["thresholds"] else None,
                "gallery": [image.model_dump() | {"path": image.inside(folder)} for image in metrics.gallery],
            }  # fmt: skip
    except (ValueError, OSError) as error:  # a damaged file is one failed row, never the end of the page
        return row | {"error": str(error).replace(f"{out}/", "")}
    row["method"] = str(row["config"].get("method") or row["method"])
    seed = row["config"].get("seed")
    row["seed"] = seed if isinstance(seed, int) and not isinstance(seed, bool) else row["seed"]
    return row


def rank(method: str) -> tuple[int, str]:
    """Sorting key of methods: the study's five first, in its order, then by name."""
    return (ORDER.index(method) if method in ORDER else len(ORDER), method)


def homes(out: Path) -> list[Path]:
    """The folders that hold runs/: OUT with those of the first seed, then OUT/seed-N."""
    seeds = [path for path in out.glob("seed-*") if path.is_dir() and SEED_FOLDER.fullmatch(path.name)]
    return [out, *sorted(seeds, key=lambda path: int(path.name.removeprefix("seed-")))]


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
            if not folder.is_dir() or folder.name.startswith(files.TRAINING_PREFIX):
                continue
            if (row := _read(folder, home, out)) is None:
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
            rank(row["method"]),
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
        used, plain = _localised(row), _localised(cam)
    except (OSError, KeyError):
        return None
    hits = [plain[name] for name in used if name in plain]
    return 100 * sum(hits) / len(hits) if hits and len(hits) == len(used) else None


def _localised(row: dict) -> dict[str, bool]:
    with open(row["source"].parent / files.PER_IMAGE, newline="", encoding="utf-8") as file:
        return {line["id"]: line["localised"] == "True" for line in csv.DictReader(file)}


# ------------------------------------------------------------------------------------------------ planned runs


def missing_rows(out: str | Path, rows: Sequence[dict[str, Any]]) -> tuple[list[dict[str, Any]], list[str]]:
    """What was planned under OUT (in runs/<dataset>/sweep.yaml) and is not among `rows` (`read_rows`), and a sentence about
    each plan that cannot be read.

    A row says "missing", or "undefined" where the method has no meaning on the network; `error` says why.
    """
    out = Path(out)
    folders = {row["source"].parent for row in rows}
    known = {(row["dataset"], row["backbone"], row["slug"], row["seed"]) for row in rows}
    missing, notes = [], []
    for path in sorted(out.glob("runs/*/sweep.yaml")):
        dataset = path.parent.name
        try:
            seeds, backbones, methods = _grid(path)
        except (ValueError, OSError) as error:
            place = path.relative_to(out)
            notes.append(f"{place} cannot be used ({error}), so missing runs of {dataset} are not shown.")
            continue
        for seed, backbone, method in product(seeds, backbones, methods):
            home = out if seed == seeds[0] else out / f"seed-{seed}"
            row = _empty_row(home, out, dataset, backbone, declared(method).slug) | {"seed": seed, "method": method}
            if row["source"].parent in folders or (dataset, backbone, row["slug"], seed) in known:
                continue
            reason = declared(method).undefined(backbone)
            text = f"planned in runs/{dataset}/sweep.yaml, without a result yet; run the sweep again"
            missing.append(row | {"status": "undefined" if reason else "missing", "error": reason or text})
    return missing, notes


def _grid(path: Path) -> tuple[list[int], list[str], list[str]]:
    """Seeds, backbones and methods of a stored specification; ValueError says what is wrong with it."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise WsolkitError(f"it is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise WsolkitError(f"it should hold a mapping, got {type(content).__name__}")
    seeds = [int(seed) for seed in _names(content, "seeds", [content.get("seed", 0)]) or ["0"]]
    backbones = _names(content, "backbones", [])
    methods = [declared(method).name for method in _names(content, "methods", [])]
    if any(not name or "/" in name or name.startswith(".") for name in (*backbones, *methods)):
        raise WsolkitError("a name of a backbone or method is empty, begins with a dot or has a slash")
    if len(seeds) * len(backbones) * len(methods) > MOST:
        raise WsolkitError(f"it plans more than {MOST} runs")
    return seeds, backbones, methods


def _names(content: dict, name: str, default: list) -> list[str]:
    value = content.get(name, default)
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not all(isinstance(item, str | int) for item in value):
        raise WsolkitError(f"{name} should be a list of names or numbers, got {value!r}")
    return list(dict.fromkeys(str(item).strip() for item in value))

"""OUT/index.html and OUT/results.csv: every run of every sweep side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsolkit.common.files import atomic_write_text
from wsolkit.data.catalogue import DATASETS
from wsolkit.report import markup
from wsolkit.report.index_charts import Look, charts
from wsolkit.report.index_pictures import same_images
from wsolkit.report.index_tables import OTHERS, POINT_NAMES, RUN_COLUMNS, STATUS_NAMES, tables
from wsolkit.report.index_words import answer
from wsolkit.report.published import published_table
from wsolkit.report.rows import COLUMNS, POINTS, missing_rows, rank, read_rows, sort_rows, write_csv

__all__ = ["COLUMNS", "read_rows", "write_index"]

PAGE_BYTES = 2_900_000  # of the whole page
PICTURE_BYTES = 1_900_000  # of them for thumbnails, in base64
TEXT_BYTES = 2_300_000  # of the page without thumbnails: above it the next of LEVELS is tried
FOLDED = 24  # a table with more lines than this is folded


@dataclass(frozen=True)
class Limits:
    """How much of very many runs the page shows: methods and backbones of a dataset in tables, charts and pictures (the
    best ones, with plain CAM), rows of single runs and of operating points on the page, points of a curve, and bytes for
    the full texts of errors."""

    methods: int
    backbones: int
    runs: int
    points: int
    curve: int
    errors: int


LEVELS = (Limits(1000, 1000, 1500, 600, 250, 300_000), Limits(1000, 1000, 200, 100, 50, 50_000),
          Limits(50, 10, 100, 50, 50, 20_000), Limits(12, 6, 20, 10, 25, 5_000))  # fmt: skip


def _section(dataset: str, rows: list[dict], looks: dict[str, Look], key: str, limits: Limits) -> dict[str, Any]:
    found = tables(rows, key, limits.methods, limits.backbones)
    title = DATASETS[dataset].title if dataset in DATASETS else dataset
    return {
        **found, "dataset": dataset, "title": title, "key": key, "galleries": [],
        "answer": answer(found["groups"], found["full"]), "charts": charts(found["shown"], looks, limits.curve),
        "published": published_table(found["groups"]) if dataset == "cub" and found["done"] else None,
    }  # fmt: skip


def _keys(datasets: Sequence[str]) -> dict[str, str]:
    """An id for each dataset's section, which no other one has."""
    keys: dict[str, str] = {}
    for dataset in datasets:
        key = "data-" + "".join(c if c.isalnum() and c.isascii() else "-" for c in dataset.lower())
        while key in keys.values():
            key += "-"
        keys[dataset] = key
    return keys


def _add_pictures(sections: Sequence[dict], budget: int) -> None:
    """Give every dataset and backbone that has any an equal share of the bytes; what one leaves over, the next ones have."""
    wanted = []
    for section in sections:
        for backbone in section["backbones"]:
            members = [group for group in section["shown"] if group.backbone == backbone]
            if any(row["gallery"] for group in members for row in group.done):
                wanted.append((section, members))
    for index, (section, members) in enumerate(wanted):
        gallery = same_images(members, budget // (len(wanted) - index))
        if gallery is not None:
            budget -= gallery["bytes"]
            section["galleries"].append(gallery)


def _clip(text: str, most: int) -> str:
    """A long text's beginning and end."""
    return text if len(text) <= most else f"{text[: most // 3]}\n[...]\n{text[-most * 2 // 3 :]}"


def write_index(out: str | Path) -> Path:
    """Write OUT/results.csv and OUT/index.html (both by rename) from what lies under OUT/runs and OUT/seed-*/runs; returns
    the page's path.

    Runs that failed, that were planned but have left no result, methods that are not defined on a network, and damaged
    files show as such; no runs at all give a page that says which command to run. The page stays under 3 MB.
    """
    out = Path(out)
    rows = read_rows(out)
    write_csv(rows, out / "results.csv")
    missing, notes = missing_rows(out, rows)
    rows = sort_rows([*rows, *missing])
    methods = sorted({row["method"] for row in rows}, key=rank)
    looks = {method: Look.of(index) for index, method in enumerate(methods)}
    keys = _keys(sorted({row["dataset"] for row in rows}))
    statuses = ("completed", "failed", "missing", "undefined")
    compared = [row for row in rows if row["status"] == "completed"] or rows
    troubles = sum(row["status"] != "completed" for row in rows)

    def page(sections: list[dict], limits: Limits) -> str:
        return markup.render(
            "index.html.j2", styles=("index.css",), scripts=("index.js",), subtitle="", home=None, contents=[],
            title="Weakly supervised localisation: methods compared", sections=sections, notes=notes,
            counts={status: sum(row["status"] == status for row in rows) for status in statuses},
            methods={row["method"] for row in compared}, backbones={row["backbone"] for row in compared}, status_names=STATUS_NAMES, others=OTHERS,
            run_columns=RUN_COLUMNS, point_names=[POINT_NAMES[key] for key in POINTS], folded=FOLDED,
            most_runs=limits.runs // max(1, len(sections)), most_points=limits.points // max(1, len(sections)),
            clip=lambda text: _clip(text, max(200, limits.errors // max(1, troubles))),
        )  # fmt: skip

    for limits in LEVELS:
        sections = [
            _section(name, [row for row in rows if row["dataset"] == name], looks, key, limits)
            for name, key in keys.items()
        ]
        size = len(page(sections, limits).encode())
        if size <= TEXT_BYTES:
            break
    _add_pictures(sections, min(PICTURE_BYTES, PAGE_BYTES - size))
    atomic_write_text(out / "index.html", page(sections, limits))
    return out / "index.html"

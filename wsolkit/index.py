"""OUT/index.html and OUT/results.csv: every run of every sweep side by side."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsolkit import markup
from wsolkit.files import atomic_write_text
from wsolkit.index_charts import Look, charts
from wsolkit.index_pictures import same_images
from wsolkit.index_tables import OTHERS, POINT_NAMES, RUN_COLUMNS, STATUS_NAMES, tables
from wsolkit.index_words import answer
from wsolkit.methods import method_slug
from wsolkit.planned import missing_rows
from wsolkit.published import published_table
from wsolkit.rows import COLUMNS, POINTS, rank, read_rows, sort_rows, write_csv

__all__ = ["COLUMNS", "method_slug", "read_rows", "write_index"]

PAGE_BYTES = 2_900_000  # of the whole page
PICTURE_BYTES = 1_900_000  # of them for thumbnails, in base64
ERROR_BYTES = 400_000  # of them for the full texts of errors
MOST_RUNS = 1500  # that the table of single runs lists; results.csv has them all
MOST_POINTS = 600  # and that of operating points
FOLDED = 24  # a table with more lines than this is folded
TITLES = {"synthetic": "Synthetic birds", "cub": "CUB-200-2011", "tiny_imagenet": "Tiny-ImageNet-200"}
TITLES["metadata"] = "Pictures of a metadata folder"


def _section(dataset: str, rows: list[dict], looks: dict[str, Look], taken: set[str]) -> dict[str, Any]:
    key = "data-" + "".join(c if c.isalnum() and c.isascii() else "-" for c in dataset.lower())
    while key in taken:
        key += "-"
    taken.add(key)
    found = tables(rows, key)
    done = [row for row in rows if row["status"] == "completed"]
    return {
        **found, "dataset": dataset, "title": TITLES.get(dataset, dataset), "key": key,
        "answer": answer(found["groups"], found["full"]), "charts": charts(found["groups"], looks), "galleries": [],
        "published": published_table(found["groups"]) if dataset == "cub" and done else None,
    }  # fmt: skip


def _add_pictures(sections: Sequence[dict], budget: int) -> None:
    """Give every dataset and backbone an equal share of the bytes; what one leaves over, the next ones have."""
    wanted = [(section, backbone) for section in sections for backbone in section["backbones"]]
    for index, (section, backbone) in enumerate(wanted):
        members = [group for group in section["groups"] if group.backbone == backbone]
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
    taken: set[str] = set()
    names = sorted({row["dataset"] for row in rows})
    sections = [_section(name, [row for row in rows if row["dataset"] == name], looks, taken) for name in names]
    statuses = ("completed", "failed", "missing", "undefined")
    troubles = sum(len(section["troubles"]) for section in sections)

    def page() -> str:
        return markup.render(
            "index.html.j2", styles=("index.css",), scripts=("index.js",), subtitle="", home=None, contents=[],
            title="Weakly supervised localisation: methods compared", sections=sections, notes=notes,
            counts={status: sum(row["status"] == status for row in rows) for status in statuses}, methods=methods,
            backbones=sorted({row["backbone"] for row in rows}), status_names=STATUS_NAMES, others=OTHERS,
            run_columns=RUN_COLUMNS, point_names=[POINT_NAMES[key] for key in POINTS], folded=FOLDED,
            most_runs=MOST_RUNS // max(1, len(sections)), most_points=MOST_POINTS // max(1, len(sections)),
            clip=lambda text: _clip(text, max(300, ERROR_BYTES // max(1, troubles))),
        )  # fmt: skip

    _add_pictures(sections, min(PICTURE_BYTES, PAGE_BYTES - len(page().encode())))
    atomic_write_text(out / "index.html", page())
    return out / "index.html"

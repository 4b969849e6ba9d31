"""A method's report: one HTML page from the files of its run, with no request to the network and nothing run again.

The index over all runs is `wsolkit.report.index`, pages of plain notebooks are `wsolkit.report.notebook_page`; both are offered here too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from markupsafe import Markup

from wsolkit.common.files import atomic_write_text, read_json
from wsolkit.report.notebook_page import as_text, chapter, home_of, notebook_to_html
from wsolkit.report.rows import COLUMNS, read_rows
from wsolkit.runs.fingerprints import page_state
from wsolkit.runs.folder import note_page, seconds_of

__all__ = ["COLUMNS", "notebook_to_html", "read_rows", "write_index", "write_report", "write_reports"]

SECTIONS = {  # in the page's order; "galleries" and "experiment" are where other modules' parts stand
    "result": "Result",
    "threshold": "Accuracy and threshold",
    "iou": "How well the boxes fit",
    "sizes": "Accuracy by object size",
    "galleries": "Galleries",
    "experiment": "The method\u2019s own experiment",
    "confusion": "Class and box",
    "training": "Training",
    "classes": "Classes",
    "cost": "Cost",
    "published": "Published and measured",
    "parameters": "Parameters and protocol",
}
MEANINGS = [  # of class right or wrong, by box right or wrong
    ["found and named: Top-1 Loc", "named, but not found"],
    ["found, but taken for another class", "neither found nor named"],
]
FILES = ("metrics.json", "per_image.csv", "notebook.ipynb", "log.txt")


def write_index(out: str | Path) -> Path:
    """See `wsolkit.report.index.write_index` (imported on use: it draws, and so needs matplotlib)."""
    from wsolkit.report.index import write_index as write

    return write(out)


def write_report(
    folder: str | Path,
    html: str | Path,
    title: str = "",
    footer: Mapping[str, Any] | None = None,
    banner: str | None = None,
    home: str | Path | None = None,
) -> Path:
    """Write the page of the run in `folder` and return its path.

    A completed run of a method (metrics.json, and no failure.json) gets the report, from whatever lies in its folder:
    metrics.json, per_image.csv, plain_cam.csv, galleries/, notebook.ipynb, and history.csv of its trainings. Of any other
    folder (a training, a run that failed) the executed notebook becomes the page, see `notebook_to_html`.

    title: by default "<method> on <backbone>, <dataset>". footer: of a notebook's page; a report takes its own from
        metrics.json. banner, home: as for `notebook_to_html`. The page is written by rename.
    ValueError and FileNotFoundError name a metrics.json or a notebook that is absent or cannot be read; other files that
    cannot be read leave a note on the page.
    """
    folder, html = Path(folder), Path(html)
    if not (folder / "metrics.json").is_file() or (folder / "failure.json").exists():
        return notebook_to_html(folder / "notebook.ipynb", html, title or folder.name, footer or {}, banner, home)
    from wsolkit.report import markup
    from wsolkit.report.report_data import read_run

    run = read_run(folder)
    title = (
        title or f"{run.method} on {run.config.get('backbone', 'a network')}, {run.config.get('dataset', 'its data')}"
    )
    values = _values(run, html)
    values["experiment"], subtitle, headings = _chapter(run, title)
    values["galleries"], styles, scripts = _galleries(run)
    contents = []
    for key, text in SECTIONS.items():
        if values.get(key, True):
            contents.append({"level": 2, "id": key, "text": text})
            contents += headings if key == "experiment" else []
    page = markup.render(
        "method.html.j2", styles=("method.css", *styles), scripts=scripts, title=title, subtitle=subtitle,
        home=home_of(html, home), contents=contents, banner=banner, notes=run.notes, footer=_footer(run.values),
        files=[(name, _link(folder / name, html)) for name in FILES if (folder / name).is_file()], **values,
    )  # fmt: skip
    atomic_write_text(html, page)
    return html


def _values(run, html: Path) -> dict[str, Any]:
    """What the template shows; a section that is empty or None is left out."""
    from wsolkit.report import report_parts as parts
    from wsolkit.report.report_charts import MARKS, SWATCHES
    from wsolkit.report.report_classes import class_and_box, classes
    from wsolkit.report.report_words import summary

    trainings = [parts.training(item, scored=index == 0) for index, item in enumerate(run.trainings)]
    for item in trainings:
        item["link"] = _link(run.folder.parent / item["name"] / "train.html", html)
    return {
        "n": run.n, "method": run.method, "has_cam": bool(run.plain), "notebook_link": _link(run.folder / "notebook.ipynb", html),
        "cards": parts.cards(run), "protocol_line": parts.protocol_line(run), "summary": summary(run),
        "other_numbers": parts.other_numbers(run), "other_rule": parts.other_rule(run), "interval": f"{run.metric('interval') or 0.001:g}",
        "threshold": parts.threshold(run), "iou": parts.overlaps(run), "sizes": parts.sizes(run),
        "confusion": class_and_box(run), "meanings": MEANINGS, "training": trainings, "classes": classes(run),
        "cost": parts.cost(run), "published": parts.published(run), "published_columns": parts.PUBLISHED_COLUMNS,
        "parameters": parts.parameters(run), "swatches": SWATCHES,
        "point_marks": {name: Markup(shape.format("s1")) for name, shape in MARKS.items()},
    }  # fmt: skip


def _chapter(run, title: str) -> tuple[Markup | str, str, list[dict[str, Any]]]:
    try:
        reserved = ("contents", "content", "top", "run", *SECTIONS, "confused", *(f"training-{n}" for n in (1, 2)))
        return chapter(run.folder / "notebook.ipynb", title, reserved)
    except FileNotFoundError:  # run by hand, or by papermill with an output elsewhere
        return "", "", []
    except ValueError as error:
        run.notes.append(f"The method\u2019s own experiment is left out: {error}")
        return "", "", []


def _galleries(run) -> tuple[Markup | str, tuple[str, ...], tuple[str, ...]]:
    """The galleries with their style and script; "" where none were kept."""
    from wsolkit.report.galleries import section as galleries_of

    try:
        section = galleries_of(run.folder)
    except (ValueError, OSError) as error:
        run.notes.append(f"The galleries are left out: {error}")
        section = ""
    return (section, ("galleries.css",), ("galleries.js",)) if section else ("", (), ())


def _link(path: Path, html: Path) -> str:
    """The address of a file as seen from the page, "" where it is not there."""
    return os.path.relpath(path, html.parent).replace(os.sep, "/") if path.is_file() else ""


def _footer(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    from wsolkit.report.numbers import seconds

    config = values.get("config") if isinstance(values.get("config"), dict) else {}
    wall = values.get("wall_seconds")
    facts = {
        "seed": config.get("seed"),
        "versions": ", ".join(f"{name} {number}" for name, number in (values.get("versions") or {}).items()),
        "git commit": values.get("commit") or None,
        "device": values.get("device"),
        "wall time": seconds(wall) if isinstance(wall, int | float) else None,
        "finished": values.get("finished"),
    }
    return [(name, as_text(value)) for name, value in facts.items()]


# ------------------------------------------------------------------------------------------------ many


def write_reports(out: str | Path, everything: bool = False) -> Iterator[tuple[Path, str]]:
    """Write the pages under OUT that are absent or older than their metrics.json (or all) anew, from completed runs of the
    first seed and of all others; yields (page, "" or what went wrong) one by one."""
    out = Path(out)
    for metrics in sorted([*out.glob("runs/*/*/*/metrics.json"), *out.glob("seed-*/runs/*/*/*/metrics.json")]):
        folder = metrics.parent
        base, (dataset, backbone, slug) = folder.parents[3], folder.parts[-3:]
        html = base / dataset / backbone / f"{slug}.html"
        if (folder / "failure.json").exists():
            continue
        if not everything and html.is_file() and html.stat().st_mtime_ns >= metrics.stat().st_mtime_ns:
            continue
        try:
            page = write_report(folder, html, home=out / "index.html")
            made = read_json(metrics)
            note_page(folder, made.get("fingerprint", ""), page_state(), seconds_of(folder, metrics))
            yield page, ""
        except (ValueError, OSError) as error:
            yield html, str(error)

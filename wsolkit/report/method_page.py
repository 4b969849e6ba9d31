"""A method's report: one HTML page from the files of its run, with no request to the network and nothing run again.

The functions below `write_reports` make the values of one section each; method.html.j2 lays them out in the order of
SECTIONS, and method.said.j2 writes sentences that say no more than the numbers carry. Pages of plain notebooks are in
`wsolkit.report.notebook_page`, the index over all runs in `wsolkit.report.index`. No torch.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from wsolkit.boxes.extract import ContourBoxes, iou, overlaps, threshold_value
from wsolkit.boxes.preparation import prepare_map
from wsolkit.boxes.protocols import protocol_named
from wsolkit.common.errors import WsolkitError, require
from wsolkit.common.files import atomic_write_text
from wsolkit.evaluation.per_image import FAILURES, flags, parse_boxes, read_per_image, slices
from wsolkit.figures import accuracy_curves, history_figure, inline_svg, iou_histogram, iou_text, map_colours
from wsolkit.report.index import Group, published_table
from wsolkit.report.notebook_page import chapter, home_of, notebook_to_html
from wsolkit.report.pages import address, counted, fragment, image_uri, plain, render
from wsolkit.runs import folder as files
from wsolkit.runs.folder import DataCheck, Training, note_page, read_data_check, read_metrics, read_training, seconds_of
from wsolkit.runs.galleries import read_galleries
from wsolkit.runs.parameters import page_state

SECTIONS = {  # in the page's order; "experiment" is the notebook's chapter
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
    "data": "Data",
    "parameters": "Parameters and protocol",
}
RESERVED = ("contents", "content", "top", "run", *SECTIONS, "confused", "training-1", "training-2")  # ids of the page
POINTS = {
    "validation": "chosen on validation",
    "pseudo_boxes": "chosen on pseudo boxes of validation",
    "fixed": "fixed",
    "best_on_test": "best on test (optimistic)",
}
CONFUSED = 8  # pairs of classes shown
HEAT_SIDE = 56  # pixels of a heat map's longer side; the browser grows it
OPACITY = (0.175, 0.325)  # of the heat map: at score 0, and how much more at score 1
THRESHOLDS = [round(0.04 * step, 2) for step in range(25)]  # stops of the sliders, with those of the run
PERCENTILES = [80.0, 90.0, 95.0, 100.0]
Made = TypeVar("Made")


@dataclass
class RunFiles:
    """A completed run, from the files of its folder.

    values: metrics.json, as `runs.folder.read_metrics` checked it; boxes, plain_boxes: the rows of the per-image
    tables (plain_boxes: of plain CAM on the same images) that have a ground-truth box, None where there are none.
    """

    folder: Path
    values: dict[str, Any]
    boxes: pd.DataFrame | None = None
    plain_boxes: pd.DataFrame | None = None
    trainings: list[Training] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # what could not be read

    def __post_init__(self) -> None:
        self.config, self.result = self.values["config"], self.values["result"]
        self.plain: dict[str, Any] = self.values["plain_cam"] or {}  # the result of plain CAM on the same images
        self.method = str(self.values["method"] or self.config.get("method") or self.folder.name)
        self.n: int = self.result["n_images"] or 0
        point = self.result["operating_point"]
        self.chosen = point if point in ("validation", "pseudo_boxes") else "fixed"
        self.boxed: bool = self.result["gives"] == "boxes"  # there is no map, no curve and no threshold

    def against(self, other: str, metric: str) -> dict[str, Any]:
        """The difference to "cam" or "centre_box": difference, low, high, p, n; {} where it is not known."""
        return self.values["against"][other].get(metric) or {}

    def class_name(self, label: int) -> str:
        names = self.values["classes"]
        return names[label] if 0 <= label < len(names) else f"class {label}"

    def part(self, name: str, make: Callable[..., Made], *given: Any) -> Made | None:
        """What `make` reads; where it cannot, None and a note on the page."""
        try:
            return make(*given)
        except (ValueError, OSError) as error:
            self.notes.append(f"{name} left out: {error}")
            return None


def read_run(folder: str | Path) -> RunFiles:
    """Everything a page needs from a run's folder; files other than metrics.json that cannot be read leave a note.

    Raises: FileNotFoundError, WsolkitError: metrics.json is absent or damaged.
    """
    folder = Path(folder)
    run = RunFiles(folder, read_metrics(folder).model_dump())
    counted = "What is counted image by image is"
    run.boxes = run.part(counted, _boxes, folder / files.PER_IMAGE, run.result["n_images"])
    if run.plain:
        run.plain_boxes = run.part(counted, _boxes, folder / files.PLAIN_CAM, run.plain["n_images"])
    for name in dict.fromkeys(run.values[key] for key in ("training", "plain_training")):
        if name and Path(name).name == name:  # a folder beside the run's
            training = run.part("The curve of a training run is", read_training, folder.parent / name)
            run.trainings += [training] if training else []
    return run


def _boxes(path: Path, count: int | None) -> pd.DataFrame | None:
    table = read_per_image(path)
    require(count in (None, len(table)), f"{path.name} has {len(table)} images, and {count} were measured")
    located = table[table["iou"].notna()]
    return located if len(located) else None


def write_report(
    folder: str | Path,
    html: str | Path,
    title: str = "",
    footer: Mapping[str, Any] | None = None,
    banner: str | None = None,
    home: str | Path | None = None,
) -> Path:
    """Write the page of the run in `folder`, by rename.

    A completed run of a method (metrics.json, and no failure.json) gets the report, from whatever lies in its folder:
    metrics.json, per_image.csv, plain_cam.csv, galleries/, notebook.ipynb, and history.csv of its training runs. Of any
    other folder (a training run, a run that failed) the executed notebook becomes the page, see `notebook_to_html`.

    Args:
        title: by default "<method> on <backbone>, <dataset>".
        footer: of a notebook's page; a report takes its own from metrics.json.
        banner, home: as for `notebook_to_html`.

    Returns:
        The page's path.

    Raises:
        WsolkitError, FileNotFoundError: they name a metrics.json or a notebook that is absent or cannot be read; other
            files that cannot be read leave a note on the page.
    """
    folder, html = Path(folder), Path(html)
    if not (folder / files.METRICS).is_file() or (folder / files.FAILURE).exists():
        return notebook_to_html(folder / files.NOTEBOOK, html, title or folder.name, footer or {}, banner, home)
    run = read_run(folder)
    backbone, dataset = run.config.get("backbone", "a network"), run.config.get("dataset", "its data")
    title = title or f"{run.method} on {backbone}, {dataset}"
    # without a notebook: run by hand, or by papermill with an output elsewhere
    notebook = (folder / files.NOTEBOOK, title, RESERVED) if (folder / files.NOTEBOOK).is_file() else None
    chapters = run.part("The method\u2019s own experiment is", chapter, *notebook) if notebook else None
    experiment, subtitle, headings = chapters or ("", "", [])
    values: dict[str, Any] = {
        "threshold": threshold(run),
        "galleries": run.part("The galleries are", galleries, folder) or "",
        "experiment": experiment,
        "training": [training(run, item, html) for item in run.trainings],
    }
    values["data"] = run.part("What a check said of the data is", data, run)
    located = {"iou": fit, "sizes": sizes, "confusion": class_and_box, "classes": classes}
    values |= {name: None if run.boxes is None else make(run, run.boxes) for name, make in located.items()}
    contents = []
    for key, text in SECTIONS.items():
        if values.get(key, True):
            contents.append({"level": 2, "id": key, "text": text})
            contents += headings if key == "experiment" else []
    own = ["galleries"] if values["galleries"] else []
    links = {name: address(folder / name, html) for name in (files.METRICS, files.PER_IMAGE, files.NOTEBOOK, files.LOG)}
    page = render(
        "method.html.j2", styles=[f"{name}.css" for name in ("method", *own)], scripts=[f"{name}.js" for name in own],
        title=title, subtitle=subtitle, banner=banner, home=home_of(html, home), contents=contents, run=run, **values,
        summary=summary(run), published=published(run), points=POINTS, failures=FAILURES,
        files={name: link for name, link in links.items() if link},
    )  # fmt: skip
    atomic_write_text(html, page)
    return html


def write_reports(out: str | Path, everything: bool = False) -> Iterator[tuple[Path, str]]:
    """Write the pages under OUT that are absent or older than their metrics.json (or all) anew, from completed runs of
    the first seed and of all others; yields (page, "" or what went wrong) one by one."""
    out = Path(out)
    for metrics in sorted(path for base in ("", "seed-*/") for path in out.glob(f"{base}runs/*/*/*/{files.METRICS}")):
        folder = metrics.parent
        html = folder.parents[3].joinpath(*folder.parts[-3:-1], f"{folder.name}.html")
        written = html.is_file() and html.stat().st_mtime_ns >= metrics.stat().st_mtime_ns
        if (folder / files.FAILURE).exists() or (written and not everything):
            continue
        try:
            write_report(folder, html, home=out / files.INDEX)
            fingerprint = files.content_of(metrics).get("fingerprint", "")
            note_page(folder, fingerprint, page_state(), seconds_of(folder, metrics))
            yield html, ""
        except (ValueError, OSError) as error:
            yield html, str(error)


def summary(run: RunFiles) -> Markup:
    """What happened, in a few paragraphs; the first is the main one. Only what the numbers carry is said."""
    counts = run.result["failures"]
    sized: dict[str, float] | None = None
    if run.boxes is not None:
        counts, ratios = run.boxes["failure"].value_counts().to_dict(), box_ratios(run.boxes)
        sized = {"n": len(ratios), "empty": len(run.boxes) - len(ratios)}
        sized |= {"middle": float(np.median(ratios)), "below": 100 * (ratios < 1).mean()} if len(ratios) else {}
    misses = {name: int(counts.get(name, 0)) for name in FAILURES if name != "right"}
    values = {"misses": misses, "total": sum(counts.values()), "sized": sized, "meanings": FAILURES}
    return fragment("method.said.j2", run=run, **values)


def box_ratios(table: pd.DataFrame) -> np.ndarray:
    """Area of each predicted box over that of the ground-truth box it overlaps most (the largest where it misses all);
    images with an empty mask have no box and are left out."""
    rows = table[~table["empty"].fillna(False).astype(bool)]
    ratios = []
    for *box, text in rows[["x0", "y0", "x1", "y1", "gt_boxes"]].itertuples(index=False):
        shared, own, areas = overlaps(np.array(box), np.array(parse_boxes(text)))
        best = int(np.argmax(shared / (own + areas - shared))) if shared.any() else int(np.argmax(areas))
        ratios.append(own / areas[best])
    return np.array(ratios, float)


def threshold(run: RunFiles) -> dict[str, Any] | None:
    """The operating points by name, and the curve of accuracy through them (None without one); None without both, but
    where the method gives boxes: a sentence says so in their place."""
    if run.boxed:
        return {"points": {}, "chart": None}
    known = run.result["operating_points"]
    points = {name: known[name] for name in POINTS if known[name]["threshold"] is not None}
    results = {run.method: run.result, "plain CAM": run.plain}
    curves = {name: of["curve"] for name, of in results.items() if of and of["curve"]["thresholds"]}
    if not points or run.method not in curves:
        return {"points": points, "chart": None} if points else None
    taus, heights = (curves[run.method][name] for name in ("thresholds", "gt_known_loc"))
    marks, box = {"reported": points.get(run.chosen, {}).get("threshold")}, run.result["centre_box"]["gt_known_loc"]
    said = [f"highest {max(heights):.1f} % at {taus[heights.index(max(heights))]:g}"]
    said += [f"{POINTS[k]} {p['threshold']:g}: {plain(p['gt_known_loc'], 2)} %" for k, p in points.items()]
    if "plain CAM" in curves:
        marks["plain CAM"] = run.plain["threshold"]
        said.append(f"plain CAM at most {max(curves['plain CAM']['gt_known_loc']):.1f} %")
    said += [] if box is None else [f"centre box {box:.1f} %"]
    highest = max(*(max(curve["gt_known_loc"]) for curve in curves.values()), box or 0)
    top = next((end for end in (20, 40) if highest <= 0.95 * end), 100)
    chart = accuracy_curves(curves, marks, box, points={run.method: points}, top=top)
    return {"points": points, "chart": inline_svg(chart, f"GT-known Loc against the threshold: {'; '.join(said)}.")}


def fit(run: RunFiles, boxes: pd.DataFrame) -> dict[str, Any]:
    """The histogram of IoU beside plain CAM's, its medians, the percent that reach 0.3, 0.5, 0.7, and failure types."""
    tables = {run.method: boxes, "plain CAM": run.plain_boxes}
    ious = {name: table["iou"].to_numpy(float) for name, table in tables.items() if table is not None}
    middles = [f"{np.median(values):.2f}" for values in ious.values()]
    shares = {limit: f"{100 * (ious[run.method] >= limit).mean():.1f}" for limit in (0.3, 0.5, 0.7)}
    label = f"Histogram of IoU over {len(boxes)} images: the middle image has {middles[0]}; "
    label += ", ".join(f"{share} % reach {limit}" for limit, share in shares.items()) + "."
    counts = boxes["failure"].value_counts().to_dict()
    chart = inline_svg(iou_histogram(ious), label)
    return {"chart": chart, "n": len(boxes), "middles": middles, "shares": shares, "counts": counts}


def _slices(table: pd.DataFrame, kind: str) -> list[dict[str, Any]]:
    """Rows of `slices` (slice, n, gt_known_loc, low, high, mean_iou, ...), None where there is no image."""
    frame = slices(table).query("kind == @kind").astype(object)
    return frame.where(frame.notna(), None).to_dict("records")  # type: ignore[return-value]  # columns have names


def sizes(run: RunFiles, boxes: pd.DataFrame) -> list[dict[str, Any]]:
    """GT-known Loc by the object's share of the frame, and that of plain CAM in "cam"."""
    rows = _slices(boxes, "size")
    others = rows if run.plain_boxes is None else _slices(run.plain_boxes, "size")
    return [row | {"cam": other["gt_known_loc"]} for row, other in zip(rows, others, strict=True)]


def galleries(folder: str | Path) -> Markup:
    """The part of a page for the run in `folder` (which holds galleries/), "" where no galleries were kept.

    The figures are complete without JavaScript; a table holds boxes, IoUs and sums at every stop of the reader's
    sliders, and galleries.js only looks them up. The page needs it and galleries.css.

    Raises: WsolkitError: the files are not as `write_galleries` writes them.
    """
    try:
        kept = read_galleries(folder)
        return _galleries(*kept) if kept else Markup("")
    except Exception as error:  # files that were cut off, changed or written by another version fail in every way
        said = f"{type(error).__name__}: {error}".strip().splitlines()[0][:200]
        raise WsolkitError(f"the galleries in {folder} cannot be read ({said}); run the method again") from error


def _galleries(kept: dict[str, Any], maps: list[np.ndarray | None], photos: list[bytes]) -> Markup:
    frame = tuple(kept["frame"])
    prepared: list[Any] = [None if scores is None else prepare_map(scores, frame) for scores in maps]
    data = None if kept["threshold"] is None else slider_table(kept, prepared)  # never of boxes without maps
    tables = data["images"] if data else [None] * len(prepared)
    images = []
    for image, photo, scores, table in zip(kept["pictures"], photos, prepared, tables, strict=True):
        truths = [_rectangle(box, frame) for box in image["gt_boxes"]]
        share = max((width * height for _, _, width, height in truths), default=0) / (frame[0] * frame[1])
        shown: dict[str, Any] = {"photo": image_uri(photo), "heat": None}
        if scores is not None:
            shown |= {"heat": image_uri(heat(scores)), "strongest": _strongest(scores)}
        state = table["states"][table["at"][data["start"]]] if data and table else None
        if data is None and image["box"] is not None:
            state = _state(_rectangle(image["box"], frame), image["iou"] or 0.0, frame, image["empty"])
        images.append(image | shown | {"truths": truths, "covers": _percent(share), "state": state})
    colours = [f"#{bytes(s).hex()}" for s in map_colours(np.linspace(0, 1, 6)).round().astype(np.uint8)]
    values = {"kept": kept, "data": data, "images": images, "colours": colours, "failures": FAILURES}
    return fragment("galleries.html.j2", **values)


def slider_table(kept: dict[str, Any], prepared: list[np.ndarray]) -> dict[str, Any]:
    """What the sliders show, for galleries.json and its maps (H, W) in [0, 1].

    Returns:
        {"thresholds", "percentiles": the stops, with the run's own; "start": the run's place among all pairs, a
        percentile after the other; "sums": a sentence per pair; "images": [{"at": which of its states a pair has,
        "states": [[x, y, width, height (0 where no box is drawn), IoU as text, hit, share of the frame as text, whether
        the mask is empty, the opacity of the heat map up to which a pixel is outside the mask]]}]}.

    Raises: WsolkitError: a box or IoU of the run is not what its map gives at the run's threshold.
    """
    frame, run = tuple(kept["frame"]), (kept["threshold"], kept["percentile"])
    clamped = protocol_named(kept["protocol"]).clamped
    thresholds, percentiles = sorted({*THRESHOLDS, run[0]}), sorted({*PERCENTILES, run[1]})
    pairs = [(threshold, share) for share in percentiles for threshold in thresholds]
    start, tables, ious = pairs.index(run), [], []
    for image, scores in zip(kept["pictures"], prepared, strict=True):
        contours, truths = ContourBoxes(scores), np.array(image["gt_boxes"])
        levels = [threshold_value(contours.u8, *pair) for pair in pairs]
        states, measured = [], {}
        for level, (threshold, share) in dict(zip(levels, pairs, strict=True)).items():
            box, empty = contours.box(threshold, share, kept["protocol"])
            overlap = float(iou(box, truths).max())
            rectangle = [0, 0, 0, 0] if empty and clamped else _rectangle(box.tolist(), frame)
            opacity = round(OPACITY[0] + OPACITY[1] * (level + 0.5) / 255, 4)
            states.append([*_state(rectangle, overlap, frame, empty), opacity])
            measured[level] = box.tolist(), overlap
        box, overlap = measured[levels[start]]
        if box != image["box"] or abs(overlap - image["iou"]) > 1e-9:
            raise WsolkitError(f"the map of {image['id']!r} does not give its box")
        places = {level: place for place, level in enumerate(measured)}
        tables.append({"at": [places[level] for level in levels], "states": states})
        ious.append([measured[level][1] for level in levels])
    every = np.array(ious)
    rows = {"image": every, "random one": every[kept["rows"][0]["pictures"]]}
    sums = ["\n".join(_sum(name, values[:, place]) for name, values in rows.items()) for place in range(len(pairs))]
    return {"thresholds": thresholds, "percentiles": percentiles, "start": start, "sums": sums, "images": tables}


def _state(rectangle: list[int], overlap: float, frame: tuple, empty: bool) -> list[Any]:
    """A predicted box as a figure shows it: see "states" of `slider_table`, without the opacity."""
    covers = _percent(rectangle[2] * rectangle[3] / (frame[0] * frame[1]))
    return [*rectangle, iou_text(overlap), int(overlap >= 0.5), covers, int(empty)]


def _sum(name: str, ious: np.ndarray) -> str:
    share = _percent((ious >= 0.5).mean())
    return f"{counted(len(ious), name)}: mean IoU {ious.mean():.2f}, {share} reach 0.5"


def _percent(share: float) -> str:
    return f"{int(100 * share + 0.5)} %"


def _rectangle(box: list[int], frame: tuple[int, int]) -> list[int]:
    """A box with inclusive corners, cut at the frame, as x, y, width and height of an SVG rectangle."""
    x0, y0, x1, y1 = box
    return [x0, y0, min(x1, frame[1] - 1) - x0 + 1, min(y1, frame[0] - 1) - y0 + 1]


def _strongest(prepared: np.ndarray) -> str:
    """Where a map (H, W) in [0, 1] has its peak, as text."""
    if not prepared.any():
        return "blank"
    y, x = np.unravel_index(prepared.argmax(), prepared.shape)
    (height, width), rows, columns = prepared.shape, ("upper", "", "lower"), ("left", "", "right")
    thirds = rows[3 * int(y) // height], columns[3 * int(x) // width]
    words = [*filter(None, thirds), "middle"][:2]
    return f"strongest in the {' '.join(words) if any(thirds) else 'centre'}"


def heat(prepared: np.ndarray) -> bytes:
    """A map (H, W) in [0, 1] as a small PNG of colours that leave the photo visible, most of it at low scores."""
    height, width = prepared.shape
    scale = min(1.0, HEAT_SIDE / max(height, width))
    small = max(1, round(width * scale)), max(1, round(height * scale))
    shades = np.arange(256) / 255
    levels = cv2.resize(prepared, small, interpolation=cv2.INTER_AREA) * 255
    image = Image.fromarray(levels.astype(np.uint8), mode="P")
    image.putpalette(map_colours(shades).round().astype(np.uint8).tobytes())
    alpha = (255 * (OPACITY[0] + OPACITY[1] * shades)).round().astype(np.uint8)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=alpha.tobytes(), optimize=True)
    return buffer.getvalue()


def class_and_box(run: RunFiles, boxes: pd.DataFrame) -> dict[str, Any]:
    """Images by class right or wrong and box right or wrong, and the classes that are taken for one another."""
    table = boxes[boxes["right"].notna()]
    right, hit = table["right"].to_numpy(bool), table["iou"].to_numpy(float) >= 0.5
    counts = [[int(((right == named) & (hit == box)).sum()) for box in (True, False)] for named in (True, False)]
    wrong = table[(table["label"] != table["predicted"]) & table["predicted"].notna()]
    pairs = wrong.groupby(["label", "predicted"]).size()
    pairs = pairs[pairs >= 2].sort_values(ascending=False, kind="stable").head(CONFUSED)
    totals, names = table["label"].value_counts(), run.class_name
    several = pairs.reset_index(name="n").itertuples(index=False)
    confused = [(names(truth), names(taken), n, totals[truth]) for truth, taken, n in several]
    return {"unknown": len(boxes) - len(table), "counts": counts, "confused": confused, "wrong": len(wrong)}


def classes(run: RunFiles, boxes: pd.DataFrame) -> list[dict[str, Any]]:
    """A row per class: the numbers of `slices`, name, Top-1 Cls, commonest misses; the lowest GT-known Loc first."""
    if (boxes["label"] < 0).all():
        return []
    right, labels, rows = flags(boxes["right"]), boxes["label"].to_numpy(), _slices(boxes, "class")
    for row in rows:
        label = int(row["slice"])
        known, most = right[labels == label], max(row[name] for name in FAILURES if name != "right")
        row |= {"name": run.class_name(label), "count": round(most * row["n"] / 100)}
        row["misses"] = [name for name in FAILURES if name != "right" and row[name] == most and most]
        row["top1"] = None if known.isna().any() else 100 * float(known.mean())
    return sorted(rows, key=lambda row: (row["gt_known_loc"], row["mean_iou"]))


def training(run: RunFiles, item: Training, html: Path) -> dict[str, Any]:
    """One network's training curves, and the Top-1 Cls (percent, validation) that the network that was kept reached."""
    best, history = item.run.get("best_epoch"), item.history
    kept = history[min(best, len(history)) - 1] if best else history[-1]
    said = [
        f"{name} training {plain(kept[f'train_{kind}'], digits)}, validation {plain(kept[f'val_{kind}'], digits)}"
        for name, kind, digits in (("loss", "loss", 2), ("Top-1 in percent", "top1", 1))
    ]
    place = f" at epoch {best}, which is kept" if best else " at the end"
    label = f"Loss and Top-1 accuracy against the epoch{place}: {'; '.join(said)}."
    reached = kept["val_top1"] if math.isfinite(kept["val_top1"]) else None
    values = {"item": item, "recipe": item.run.get("recipe") or {}, "top1": reached}
    link = address(run.folder.parent / item.name / files.TRAINING_PAGE, html)
    return values | {"chart": inline_svg(history_figure(history, best), label), "link": link}


def data(run: RunFiles) -> DataCheck | None:
    """What the check before the sweep said of the run's data; None where it was of other data, or there was none."""
    folder, check = run.folder.parents[1], read_data_check(run.folder.parents[1])
    seeded = folder.parents[1].name.startswith("seed-")  # OUT/seed-N/runs/<dataset>, whose data were checked in OUT
    if check is None and seeded:
        check = read_data_check(folder.parents[2] / folder.relative_to(folder.parents[1]))
    records = [*(training.run for training in run.trainings[:1]), run.values]
    used = {name: value for record in records for name, value in (record.get("made_from") or {}).items()}
    needed = {} if check is None else {**check.made_from, "checker": None}
    other = needed.pop("seed", None) if seeded else None
    if check is None or any(used.get(name) != value for name, value in needed.items()):
        return None
    if other is None or used.get("seed") == other:
        return check
    note = f"{check.centre_box} Validation images are those of seed {other}, as in the first reports of this sweep."
    return check.model_copy(update={"centre_box": note.strip()})


def published(run: RunFiles) -> list[dict[str, Any]]:
    """Published numbers of this method (`rows.published_table`); [] on other data than theirs."""
    if (run.config.get("dataset") or run.result["dataset"]) != "cub":
        return []
    row = run.result | {"n_images": run.n, "status": "completed", "config": run.config, "result": run.result}
    group = Group("cub", str(run.config.get("backbone")), run.method, [row])
    return [line for line in published_table([group]) if line["group"]]

"""The folder of an evaluation without a model: tables, figures, metrics.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wsolkit.common.files import atomic_path, atomic_write_text
from wsolkit.evaluation.failures import slices
from wsolkit.evaluation.file_evaluation import check_out
from wsolkit.evaluation.results import EvalResult
from wsolkit.figures import charts

FIGURES = ("accuracy", "iou_histogram", "failures", "object_size")


def save_evaluation(result: EvalResult, out: str | Path, classes: Sequence[str] | None = None) -> Path:
    """Write per_image.csv, slices.csv and figures (SVG), and last, by rename, metrics.json; returns the folder.

    What an earlier evaluation wrote there is removed first.
    """
    out = check_out(out)
    out.mkdir(parents=True, exist_ok=True)
    for name in ("metrics.json", "per_image.csv", "slices.csv", *(f"{stem}.svg" for stem in FIGURES)):
        (out / name).unlink(missing_ok=True)
    result.save_per_image(out / "per_image.csv")
    if result.boxes is not None:
        table = result.per_image()
        by = slices(table, classes)
        atomic_write_text(out / "slices.csv", by.to_csv(index=False, lineterminator="\n", float_format="%.6g"))
        name = result.method or "method"
        figures = {"iou_histogram": charts.iou_histogram({name: result.ious})}
        figures["failures"] = charts.failure_bars({name: table})
        figures["object_size"] = charts.slice_bars({name: by}, kind="size")
        if result.curve:
            figures["accuracy"] = charts.accuracy_curves({name: result})
        for stem, figure in figures.items():
            with atomic_path(out / f"{stem}.svg") as part:
                figure.savefig(part, format="svg", bbox_inches="tight")
    result.to_json(out / "metrics.json")
    return out

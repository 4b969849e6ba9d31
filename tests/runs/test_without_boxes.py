"""Test images without ground-truth boxes, or with a mask that shows no object: a report on classification, which says so."""

from __future__ import annotations

import csv
from pathlib import Path

import nbformat
import numpy as np
import pytest
from bs4 import BeautifulSoup
from image_files import labelled_images
from PIL import Image

from wsolkit.report.index import read_rows, write_index
from wsolkit.report.method_page import write_report
from wsolkit.runs.folder import read_metrics
from wsolkit.runs.run import Run
from wsolkit.study.chapter import Trial, show_best_and_worst, show_curves
from wsolkit.sweep.worker import run_notebook

LOCATED = ("gt_known_loc", "top1_loc", "max_box_acc", "max_box_acc_v2")


NOTEBOOKS = Path(__file__).resolve().parents[2] / "notebooks"


@pytest.fixture(params=["no boxes", "an empty mask"])
def case(request, tmp_path):
    """(what is missing, parameters of a run)."""
    parameters = labelled_images(tmp_path)
    if request.param == "an empty mask":
        ids = (tmp_path / "meta/test/image_ids.txt").read_text().split()
        (tmp_path / "masks").mkdir()
        for number in range(len(ids)):
            mask = np.zeros((40, 40), np.uint8)
            mask[10:25, 10:25] = 255 * (number > 0)
            Image.fromarray(mask).save(tmp_path / "masks" / f"{number}.png")
        lines = [f"{name},{number}.png,\n" for number, name in enumerate(ids)]
        (tmp_path / "meta/test/localization.txt").write_text("".join(lines))
        parameters["masks"] = str(tmp_path / "masks")
    return request.param, parameters


@pytest.mark.slow
def test_a_chapter_runs_on_images_without_boxes(tmp_path):
    parameters = labelled_images(tmp_path)
    cell = {name: parameters.pop(name) for name in ("dataset", "root", "backbone", "weights", "epochs", "out")}
    run_notebook(NOTEBOOKS / "02_cam.ipynb", tmp_path / "chapter.ipynb", {**cell, "options": parameters})
    metrics = read_metrics(tmp_path / "out/runs/metadata/mobilenet_v2/cam")
    assert metrics.result.n_images == 12 and 0 <= metrics.result.top1_cls <= 100
    assert all(getattr(metrics.result, name) is None for name in LOCATED)
    cells = [cell for cell in nbformat.read(tmp_path / "chapter.ipynb", as_version=4).cells if cell.cell_type == "code"]
    printed = "".join(output.get("text", "") for cell in cells for output in cell.outputs)
    assert "Accuracy of CAM against the threshold: left out, since 12 of 12 images have no ground-truth box." in printed


@pytest.mark.slow
def test_a_split_without_boxes_has_a_report(case, capsys):
    what, parameters = case
    run = Run.start(**parameters)
    results = {name: run.evaluate(name) for name in ("cam", "grad_cam")}
    result = results["grad_cam"]
    said = {
        "no boxes": "12 of 12 images have no ground-truth box",
        "an empty mask": "the masks of 1 image show no object",
    }
    said = said[what]
    assert said in result.conditions["boxes"] and result.n_images == 12 and 0 <= result.top1_cls <= 100
    assert all(getattr(result, name) is None for name in LOCATED)
    assert (result.pxap is not None) == (what == "an empty mask") and "test" in result.maps

    show_curves(results)
    assert said in capsys.readouterr().out
    show_best_and_worst(run, result, "Grad-CAM")
    trial = Trial(run, 3)
    assert np.isnan(trial.centre)
    scores = {"cam": trial.score(np.ones((3, 4, 4))), "grad_cam": trial.score(np.ones((3, 4, 4)))}
    assert len(trial.table(scores, {})) == 2
    trial.show_bars(scores, "both methods")
    trial.show_maps({name: np.ones((3, 4, 4)) for name in scores}, scores, "maps")

    folder = run.finish("grad_cam", result).parent
    soup = BeautifulSoup(write_report(folder, folder / "page.html").read_text(), "html.parser")
    text = soup.get_text(" ", strip=True).replace("\u00a0", " ")
    assert said in text and soup.find(id="galleries") and not soup.find(id="iou")
    drawn = [rect for rect in soup.select("rect.prediction") if rect.get("visibility") != "hidden"]
    assert len(soup.select(".galleries figure svg")) == 8 and not soup.select("rect.truth") and drawn
    assert not soup.select(".galleries .iou, .galleries .mark")
    known = read_metrics(folder).result.extra["boxes"]
    chosen = {"no boxes": "fixed", "an empty mask": "pseudo_boxes"}[
        what
    ]  # DDT's, where test images have masks to score
    assert known["n"] == 12 and known["chosen"] == chosen and (known["threshold"] == 0.2) == (chosen == "fixed")
    assert f"the median box covers {known['covers']:.1f} %" in text
    assert f"{known['border']:.1f} % of the boxes touch the image's border" in text.replace("\u2019", "'")
    out = run.config.out_folder
    write_index(out)
    (row,) = read_rows(out)
    assert row["status"] == "completed" and row["gt_known_loc"] is None and len(row["gallery"]) == 8
    assert said in BeautifulSoup((out / "index.html").read_text(), "html.parser").get_text(" ", strip=True)
    with open(out / "results.csv", newline="") as file:
        (line,) = csv.DictReader(file)
    assert line["gt_known_loc"] == "" and float(line["top1_cls"]) == pytest.approx(result.top1_cls, rel=1e-5)

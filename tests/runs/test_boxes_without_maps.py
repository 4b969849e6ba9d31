"""A method that gives boxes and no map, through a whole run: result, files, report, index, predictions; and its refusals."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from image_files import labelled_images
from PIL import Image

import wsolkit as wk
from wsolkit.boxes.extract import iou
from wsolkit.cli import main as cli
from wsolkit.evaluation.comparison import compare
from wsolkit.evaluation.faithfulness import measure_faithfulness
from wsolkit.localisation.localise import localise, localise_in_parts
from wsolkit.localisation.predict import original_shares
from wsolkit.methods.registry import METHODS
from wsolkit.report.index import read_rows, write_index
from wsolkit.report.method_page import write_report
from wsolkit.runs.folder import read_metrics
from wsolkit.runs.run import Run
from wsolkit.study.chapter import show_best_and_worst, show_curves, show_faithfulness

SHARES = (0.25, 0.25, 0.75, 0.625)


@pytest.fixture
def middle_box():
    """A method that gives the same box in every image."""

    @wk.register("middle_box", needs="features", gives="boxes", description="the same box in every image")
    def middle_box(context):
        return torch.tensor([SHARES]).expand(len(context.features), 4)

    yield "middle_box"
    METHODS.pop("middle_box")


@pytest.fixture
def parameters(tmp_path):
    """Of a run on sixteen small images, whose objects lie at 10, 10, 24, 24 of 40 x 40 pixels."""
    parameters = labelled_images(tmp_path)
    for split in ("train", "test"):
        ids = (tmp_path / "meta" / split / "image_ids.txt").read_text().split()
        (tmp_path / "meta" / split / "image_sizes.txt").write_text("".join(f"{name},40,40\n" for name in ids))
        boxes = "".join(f"{name},10,10,{24 - 12 * (number == 0)},24\n" for number, name in enumerate(ids))
        (tmp_path / "meta" / split / "localization.txt").write_text(boxes)
    return parameters


@pytest.mark.slow
def test_a_run_has_a_result_a_report_and_a_place_in_the_index(parameters, middle_box, capsys):
    run = Run.start(**parameters, faithfulness=2)
    cam, result = run.evaluate("cam"), run.evaluate(middle_box)
    assert result.gives == "boxes" and set(result.maps) == {"test"} and result.maps["test"].maps is None
    assert np.allclose(result.maps["test"].boxes, SHARES) and (result.boxes == [8, 8, 23, 19]).all()
    truths = [own.numpy() for own in (run.dataset("test").target(index).boxes for index in range(12))]
    by_id = {sample.id: truth for sample, truth in zip(run.dataset("test").samples, truths, strict=True)}
    expected = [iou([8, 8, 23, 19], by_id[name]).max() for name in result.ids]
    assert result.ious.tolist() == expected and result.gt_known_loc == 100 * 11 / 12 == result.max_box_acc
    assert result.top1_cls == cam.top1_cls and result.n_val == cam.n_val and result.centre_box == cam.centre_box
    assert compare(result, cam).value_a == result.gt_known_loc

    show_curves({"the middle": result})
    show_best_and_worst(run, result, "the middle")
    show_faithfulness(run, result)
    said = capsys.readouterr().out
    assert "the threshold: left out, since it gives boxes, no map." in said and "Faithfulness of middle_box" in said

    run.finish("cam", cam)
    folder = run.finish(middle_box, result).parent
    metrics = read_metrics(folder)
    assert metrics.result.gives == "boxes" and metrics.against.cam["max_box_acc_v2"] is not None
    assert set(metrics.maps) == {"test"} and wk.ScoreMaps.load(folder / metrics.maps["test"]).boxes.shape == (12, 4)
    soup = BeautifulSoup(write_report(folder, folder / "page.html").read_text(), "html.parser")
    text = soup.get_text(" ", strip=True)
    assert "middle_box gives boxes, no map" in text and "at the threshold that is best" not in text
    assert "the run's threshold" not in text and "the reported threshold" not in text
    figures = soup.select(".galleries figure svg")
    assert len(soup.select(".galleries figure svg rect.prediction")) == len(figures) >= 8
    assert not soup.select(".galleries .heat, .galleries input") and not soup.find(id="gallery-data")
    assert not any("heat map" in figure["aria-label"] for figure in figures)

    out = run.config.out_folder
    write_index(out)
    rows = {row["method"]: row for row in read_rows(out)}
    assert rows[middle_box]["gt_known_loc"] == result.gt_known_loc and len(rows[middle_box]["gallery"]) == 8
    index = BeautifulSoup((out / "index.html").read_text(), "html.parser")
    points, runs = (index.select_one(f"table#data-metadata-table-{name}") for name in ("points", "runs"))
    for table, count in ((points, 3), (runs, 1)):
        blank = table.select(f"tr[data-method={middle_box}] span[title='gives boxes, no map']")
        assert len(blank) == count and not table.select("tr[data-method=cam] span[title]")
    assert "the mean of the three accuracies" in index.get_text(" ", strip=True)
    with open(out / "results.csv", newline="") as file:
        lines = {line["method"]: line for line in csv.DictReader(file)}
    assert lines[middle_box]["pxap"] == "" and float(lines[middle_box]["max_box_acc"]) == pytest.approx(100 * 11 / 12)


@pytest.mark.slow
def test_boxes_are_made_in_parts_read_again_and_predicted(parameters, middle_box, tmp_path, monkeypatch, capsys):
    run = Run.start(**parameters)
    model, test = run.model(), run.dataset("test")
    both = localise(model, test, ["cam", middle_box], batch_size=5)
    assert both["cam"].maps.shape[0] == 12 and both[middle_box].boxes.shape == (12, 4)
    parts = localise_in_parts(model, test, [middle_box], tmp_path / "parts", {}, batch_size=5)[middle_box]
    parts.save(tmp_path / "boxes.npz")
    read = wk.ScoreMaps.load(tmp_path / "boxes.npz")
    assert read.maps is None and np.array_equal(read.boxes, both[middle_box].boxes) and read.ids == both["cam"].ids

    images = test.images([0, 1])
    assert torch.equal(wk.predict_boxes(model, images, [0, 1], middle_box), torch.tensor([SHARES] * 2))
    (one,) = wk.predict(model, np.zeros((60, 80, 3), np.uint8), middle_box, geometry=test.geometry)
    assert one.score_map is None and one.box.tolist() == [20, 15, 59, 37] and not one.box_empty
    crop = wk.Geometry(224, "crop")  # the network saw the middle 7/8 of each side
    assert original_shares(np.array([0, 0, 1, 1]), (256, 512), crop).tolist() == [16, 32, 239, 479]

    photo, out = tmp_path / "photo.png", tmp_path / "out"
    Image.new("RGB", (80, 60)).save(photo)
    folder = run.config.training_folder("gap")
    monkeypatch.setattr("sys.argv", ["wsolkit", "predict", str(photo), "--checkpoint", str(folder), "--method",
                                     middle_box, "--out", str(out)])  # fmt: skip
    with pytest.raises(SystemExit) as stop:
        cli.main()
    numbers = json.loads((out / "photo.png.json").read_text())
    assert not stop.value.code and numbers["box"] == [20, 15, 59, 37] and numbers["score_map"] is None
    assert (
        "middle_box gives boxes, no map" in capsys.readouterr().out and Image.open(out / "photo.png.png").size[0] >= 80
    )


@pytest.mark.slow
def test_what_only_a_map_has_is_refused(parameters, middle_box):
    run = Run.start(**parameters)
    model, test = run.model(), run.dataset("test")
    images = test.images([0, 1])
    for ask, text in (
        (lambda: wk.score_maps(model, images, [0, 1], middle_box), "call wsolkit.predict_boxes"),
        (lambda: wk.predict_boxes(model, images, [0, 1], "cam"), "cam gives a map and no box"),
        (lambda: localise(model, test, middle_box, smooth=("aug",)), "no map: leave out smooth"),
        (lambda: run.evaluate(middle_box, pas=True), "no map: leave out pas"),
        (
            lambda: wk.predict(model, [images], middle_box, threshold=0.2, percentile=90),
            "leave out threshold and percentile",
        ),
        (lambda: measure_faithfulness(model, test, [middle_box]), "gives boxes and no map"),
        (lambda: wk.export_score_maps(localise(model, test, middle_box), "nowhere"), "no map to export"),
        (lambda: wk.register("other", needs="features", gives="box", description=""), "gives='box' of method 'other'"),
    ):
        with pytest.raises(ValueError, match=text):
            ask()


@pytest.mark.slow
@pytest.mark.parametrize("returned", [lambda n: torch.zeros(n, 3), lambda n: torch.tensor([[0.5, 0, 0.4, 1]] * n),
                                      lambda n: torch.full((n, 4), torch.nan)])  # fmt: skip
def test_a_method_that_returns_no_boxes_is_named(parameters, middle_box, returned):
    run = Run.start(**parameters)
    METHODS.pop(middle_box)
    wk.register(middle_box, needs="features", gives="boxes", description="")(
        lambda context: returned(len(context.labels))
    )
    with pytest.raises(ValueError, match="'middle_box' returned boxes"):
        wk.predict_boxes(run.model(), run.dataset("test").images([0, 1]), [0, 1], middle_box)

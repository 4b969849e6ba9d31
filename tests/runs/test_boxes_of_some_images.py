"""Class folders in which a few images have a box: localisation numbers on those, the class on all, and what boxes tell
without true ones."""

from __future__ import annotations

import csv
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from PIL import Image

import wsolkit as wk
from wsolkit.boxes.extract import extract_box, iou
from wsolkit.evaluation.found_boxes import CORNERS, agreement, box_statistics, found_boxes, read_found_boxes
from wsolkit.evaluation.metrics import share_interval
from wsolkit.methods.registry import declared
from wsolkit.report.index import write_index
from wsolkit.report.method_page import write_report
from wsolkit.runs.folder import read_metrics
from wsolkit.runs.parameters import changes, data_state
from wsolkit.runs.run import Run

BOXED = (0, 3, 4)  # numbers of the test images of each class that have a box


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Run:
    root, rng = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    lines = ["path,x0,y0,x1,y1"]
    for split, count in (("train", 8), ("test", 6)):
        for label, name in enumerate(("cat", "dog")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 80, (40, 50, 3), dtype=np.uint8)
                pixels[10:25, 12:30, label] += 150
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
                if split == "test" and number in BOXED:
                    lines.append(f"{split}/{name}/{number}.png,12,10,29,24")
    (root / "boxes.csv").write_text("\n".join(lines) + "\n")
    return Run.start(
        dataset="folder", root=str(root), out=str(tmp_path_factory.mktemp("out")), backbone="resnet18", weights="none",
        width=0.125, size=32, epochs=1, batch_size=4,
    )  # fmt: skip


@pytest.mark.slow
def test_boxes_are_scored_where_they_are_and_classes_everywhere(run):
    test, model = run.dataset("test"), run.model()
    result = run.evaluate("grad_cam", pseudo=None)
    boxed = [index for index, sample in enumerate(test.samples) if sample.boxes]
    assert len(boxed) == 6 and not test.localised
    alone = wk.evaluate(model, test.subset(boxed), "grad_cam", val=None)
    for name in ("gt_known_loc", "top1_loc", "max_box_acc", "max_box_acc_v2", "failures", "centre_box", "threshold"):
        assert getattr(result, name) == getattr(alone, name), name
    assert result.intervals["gt_known_loc"] == alone.intervals["gt_known_loc"]
    assert sorted(result.ids) == sorted(test.ids[index] for index in boxed) and result.n_images == len(result.ious) == 6
    right = [int(model(test.images([index])).argmax()) == test.labels[index] for index in range(12)]
    assert result.top1_cls == pytest.approx(100 * np.mean(right)) and result.n_classified == 12
    assert result.intervals["top1_cls"] == share_interval(right)
    assert result.conditions["boxes"] == "on 6 of 12 images, those with a ground-truth box; classes on all"
    assert "on 6 of 12 images" in str(result)

    assert sorted(result.found["id"]) == sorted(test.ids)  # those without a true box too
    maps = wk.localise(model, test, "grad_cam")
    for name, scores in zip(maps.ids, maps.maps, strict=True):
        own = result.found.set_index("id").loc[name, CORNERS].tolist()
        assert own == [-1] * 4 or own == list(extract_box(scores, threshold=0.2, size=32)), name


@pytest.mark.slow
def test_ten_validation_images_with_a_box_choose_a_threshold_and_fewer_do_not(run):
    train, model = run.dataset("train"), run.model()
    val = train.subset([*range(len(train)), 0, 1])  # fourteen or so
    val.split, val.samples = (
        "val",
        [replace(sample, id=f"{number}", place=sample.path, below=False) for number, sample in enumerate(val.samples)],
    )
    for count, point in ((9, "fixed"), (10, "validation"), (len(val), "validation")):
        boxes = [((12, 10, 29, 24),)] * count + [()] * (len(val) - count)
        val.samples = [replace(sample, boxes=own) for sample, own in zip(val.samples, boxes, strict=True)]
        result = wk.evaluate(model, run.dataset("test"), "cam", val)
        assert (result.operating_point, result.n_val) == (point, count if point == "validation" else 0)


def test_boxes_that_come_later_make_reports_stale_and_no_training_run(run, tmp_path):
    shutil.copytree(run.config.root, tmp_path / "later")
    (tmp_path / "later" / "boxes.csv").write_text("test/cat/1.png,12,10,29,24\n")
    later = run.config.with_changes(root=str(tmp_path / "later"))
    assert later.training_key("gap") == run.config.training_key("gap")
    first, second = (config.report_parts(declared("cam")) for config in (run.config, later))
    assert changes(first, second, "") == ["data changed"]
    (tmp_path / "later" / "test" / "cat" / "1.png").unlink()
    data_state.cache_clear()
    assert later.training_key("gap") != run.config.training_key("gap")


@pytest.mark.slow
def test_report_and_index_say_on_how_many_images(run):
    for name in ("cam", "grad_cam"):
        result = run.evaluate(name)
        assert result.operating_point == "pseudo_boxes"  # no validation image has a box, and some test images have
        folder = run.finish(name, result).parent
    text = BeautifulSoup(write_report(folder, folder / "page.html").read_text(), "html.parser").get_text(
        " ", strip=True
    )
    text = text.replace("\u00a0", " ")
    assert "on 6 of 12 images" in text and "n = 6" in text and "n = 12" in text and "Over all 12 images" in text
    metrics = read_metrics(folder)
    assert metrics.result.n_classified == 12 and metrics.against.cam["gt_known_loc"].n == 6
    assert metrics.against.cam["top1_cls"] is None  # paired it would be on six images, and the number is of twelve
    first, second = (read_found_boxes(folder.parent / name / "found_boxes.csv") for name in ("cam", "grad_cam"))
    out = run.config.out_folder
    write_index(out)
    index = BeautifulSoup((out / "index.html").read_text(), "html.parser").get_text(" ", strip=True)
    assert "on 6 of 12 images" in index and f"{agreement(first, second):.2f}" in index
    with open(out / "results.csv", newline="") as file:
        assert {row["n_images"] for row in csv.DictReader(file)} == {"6"}


def test_statistics_of_boxes_and_agreement():
    boxes = np.array([[0, 2, 4, 5], [2, 2, 3, 3], [1, 1, 8, 8], [9, 9, 9, 9]])
    table = found_boxes(["a", "b", "c", "d"], boxes, np.array([False, False, False, True]))
    assert box_statistics(table, (10, 10)) == {"n": 4, "empty": 1, "covers": 20.0, "border": pytest.approx(100 / 3)}
    nothing = found_boxes(["a"], boxes[:1], np.array([True]))
    assert box_statistics(nothing, (10, 10)) == {"n": 1, "empty": 1, "covers": None, "border": None}
    others = found_boxes(["d", "c", "b", "a"], boxes[[0, 2, 0, 0]], np.array([True, False, False, True]))
    expected = [0, iou(boxes[1:2], boxes[:1])[0, 0], 1, 1]  # no box, another one, the same, none in both
    assert agreement(table, others) == pytest.approx(np.mean(expected))
    with pytest.raises(ValueError, match="on the same images only"):
        agreement(table, nothing)


def test_a_damaged_table_is_named(tmp_path):
    path = tmp_path / "found_boxes.csv"
    for content in ("", "id,x0,y0,x1\na,1,2,3\n", "id,x0,y0,x1,y1\na,1,2,3,x\n"):
        path.write_text(content)
        with pytest.raises(ValueError, match="is no table of boxes"):
            read_found_boxes(path)
    pd.DataFrame({"id": ["007"], **{name: [1] for name in CORNERS}}).to_csv(path, index=False)
    assert read_found_boxes(path)["id"].tolist() == ["007"]

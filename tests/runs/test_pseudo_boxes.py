"""Thresholds chosen on DDT's boxes of validation images: where, by which run, and what then becomes stale."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from bs4 import BeautifulSoup
from image_files import labelled_images

import wsolkit as wk
from wsolkit.methods.registry import declared
from wsolkit.report.index import write_index
from wsolkit.report.method_page import write_report
from wsolkit.runs import parameters as config_module
from wsolkit.runs.parameters import RunConfig
from wsolkit.runs.run import Run, default_threshold, load_trained
from wsolkit.sweep.jobs import SweepFile, show_plan


@pytest.fixture
def parameters(tmp_path):
    """Of a run on small images of which only the test images have boxes."""
    given = labelled_images(tmp_path)
    ids = (tmp_path / "meta/test/image_ids.txt").read_text().split()
    (tmp_path / "meta/test/localization.txt").write_text("".join(f"{name},10,10,24,24\n" for name in ids))
    return given


def test_where_a_run_uses_them(parameters, tmp_path):
    scratch = RunConfig.make(dataset="synthetic", backbone="resnet18")
    assert not scratch.why_pseudo_boxes and scratch.variants_for(declared("cam")) == ("gap",)
    pretrained = RunConfig.make(dataset="cub", backbone="mobilenet_v2", weights="imagenet")
    assert "beside those of validation images" in pretrained.why_pseudo_boxes
    assert pretrained.variants_for(declared("rethinking_cam")) == ("tap", "gap", "ddt")
    assert not pretrained.with_changes(backbone="vgg16_fc").why_pseudo_boxes, "DDT is not defined there"
    bare = RunConfig.make(**parameters)
    assert "validation images lack boxes" in bare.why_pseudo_boxes
    boxes = (tmp_path / "meta/test/localization.txt").read_text()
    for file, content, expected in (
        ("train", boxes.replace("test/", "train/"), False),  # validation images are a share of these
        ("train", boxes.replace("test/", "train/").partition("\n")[0], True),
        ("test", boxes.partition("\n")[0], True),  # one box is enough to measure on
        ("test", None, False),
    ):
        path = tmp_path / "meta" / file / "localization.txt"
        path.write_text(content) if content else path.unlink()
        config_module._boxed.cache_clear()
        assert bool(RunConfig.make(**parameters).why_pseudo_boxes) is expected


def test_a_plan_names_the_training_run_and_its_reason(parameters, tmp_path):
    said: list[str] = []
    grid = {"backbones": ("mobilenet_v2",), "methods": ("cam",), "out": str(tmp_path / "out")}
    del parameters["backbone"], parameters["out"]
    show_plan([SweepFile.make(**parameters, **grid)], 1, said.append)
    lines = [line.split("  ")[1:] for line in said if " metadata/" in line]
    assert [line[0].strip() for line in lines] == [
        f"metadata/mobilenet_v2/{name}" for name in ("train gap", "train ddt", "cam")
    ]
    assert lines[1][-1] == "never run; its boxes choose the thresholds, as validation images lack boxes"
    jobs = SweepFile.make(**parameters, **grid).plan()[0]
    assert jobs[-1].needs == ("metadata/mobilenet_v2/train gap", "metadata/mobilenet_v2/train ddt")
    both = SweepFile.make(**parameters, **grid | {"methods": ("ddt", "cam")}).plan()[0]
    assert not any(job.purpose for job in both), "a method asks for that network"


@pytest.mark.slow
def test_a_report_on_images_without_validation_boxes(parameters):
    run = Run.start(**parameters)
    result, ddt, psol, own = (run.evaluate(name) for name in ("grad_cam", "ddt", "psol", "affinity_cam"))
    assert (own.operating_point, own.threshold, own.n_val) == ("fixed", 0.5, result.n_val), (
        "one of its own counts first"
    )
    assert (
        own.operating_points["pseudo_boxes"]["threshold"] not in (None, 0.5) and own.extra["boxes"]["threshold"] == 0.5
    )
    val = run.dataset("val")
    boxes = run.pseudo_boxes(val, np.arange(len(val)))
    assert {box.shape for box in boxes} == {(1, 4)} and run.config.training_folder("ddt").is_dir()
    maps = wk.localise(run.model("ddt"), val, "ddt").maps
    assert all((box == wk.extract_box(own, 0.5, size=32)).all() for box, own in zip(boxes, maps, strict=True))
    again = wk.evaluate(run.model(), run.dataset("test"), "grad_cam", val=val, pseudo=boxes)
    assert (result.operating_point, result.threshold) == ("pseudo_boxes", again.threshold) and result.n_val == len(val)
    assert result.conditions["pseudo boxes"] == "those of DDT at its fixed threshold"
    assert (ddt.operating_point, ddt.threshold, ddt.n_val) == ("fixed", 0.5, 0), "its own boxes would confirm it"
    assert ddt.operating_points["pseudo_boxes"] is None and "pseudo boxes" not in ddt.conditions
    assert psol.operating_point == "none" and set(psol.maps) == {"test"}
    aside = run.evaluate("grad_cam", pseudo=None)
    assert aside.operating_point == "fixed" and aside.operating_points["pseudo_boxes"] is None

    folder = run.finish("grad_cam", result).parent
    trained = load_trained(run.config.training_folder("gap"))
    threshold, source = default_threshold(trained, "grad_cam", 100.0)
    assert threshold == result.threshold and f"chosen on pseudo boxes of {len(val)} validation images" in source
    page = BeautifulSoup(write_report(folder, folder / "page.html").read_text(), "html.parser").get_text(
        " ", strip=True
    )
    assert (
        f"There is no validation split with boxes. Choosing the threshold ({result.threshold:g}) on pseudo boxes"
        in page
    )
    assert "pseudo boxes: those of DDT at its fixed threshold" in page and "of validation, reported" in page
    run.finish("ddt", ddt)
    out = run.config.out_folder
    write_index(out)
    index = BeautifulSoup((out / "index.html").read_text(), "html.parser")
    assert "a fixed threshold of its own keeps it: ddt." in " ".join(index.get_text(" ", strip=True).split())
    heads = [cell.get_text() for cell in index.select("table#data-metadata-table-points th[scope=col]")]
    assert heads[2:] == [
        "Fixed threshold",
        "Chosen on pseudo boxes",
        "Chosen on validation",
        "Best on test (optimistic)",
    ]
    with open(out / "results.csv", newline="") as file:
        lines = {line["method"]: line["operating_point"] for line in csv.DictReader(file)}
    assert lines == {"grad_cam": "pseudo_boxes", "ddt": "fixed"}


@pytest.mark.slow
def test_beside_true_boxes_they_are_one_more_point(parameters, tmp_path):
    ids = (tmp_path / "meta/train/image_ids.txt").read_text().split()
    (tmp_path / "meta/train/localization.txt").write_text("".join(f"{name},10,10,24,24\n" for name in ids))
    run = Run.start(**parameters)
    plain, both = run.evaluate("cam"), run.evaluate("cam", pseudo=run.pseudo_boxes)
    assert plain.operating_points["pseudo_boxes"] is None and both.operating_points["pseudo_boxes"] is not None
    assert (both.operating_point, both.threshold) == ("validation", plain.threshold)
    assert both.conditions == plain.conditions | {"pseudo boxes": "those of DDT at its fixed threshold"}
    run.finish("cam", both)
    page = write_report(run.folder("cam"), run.folder("cam") / "page.html").read_text()
    assert "the one chosen on pseudo boxes (" in page


def test_a_change_of_ddt_makes_what_it_chose_stale(parameters, monkeypatch):
    def parts(config, method):
        return config.report_parts(declared(method))

    bare = RunConfig.make(**parameters)
    scratch = RunConfig.make(dataset="synthetic", backbone="resnet18")
    before = [parts(config, "cam") for config in (bare, scratch)]
    assert "ddt" in before[0]["trainings"] and "ddt" not in before[1]["trainings"]
    real = config_module.training_code
    monkeypatch.setattr(config_module, "training_code", lambda variant: real(variant) + "x" * (variant.name == "ddt"))
    after = [parts(config, "cam") for config in (bare, scratch)]
    assert before[0] != after[0] and before[1] == after[1]
    assert bare.with_changes(frozen_size=64).report_parts(declared("cam")) != after[0], "so does another fit"

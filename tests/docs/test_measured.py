"""README's numbers are those of measured.csv, and a rerun gives them again, within the range that measured.py states."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from measured import (
    CHECKED,
    COLUMNS,
    CUB,
    GRIDS,
    METRICS,
    ROOT,
    SEEDS,
    chosen,
    expected,
    read,
    row,
    spread,
    with_tables,
)

import wsolkit as wk

ROWS = read()


def test_readme_has_the_tables_of_the_csv():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert all(f"<!-- measured {name} -->" in text for name in ("synthetic", "cub_frozen imagenette_frozen"))
    assert text == with_tables(text), "README's tables are not those of tools/measured.csv: run `make numbers`"


@pytest.mark.parametrize("data", ["one_family", "cub"])
def test_readme_has_the_other_numbers_in_its_sentences(data):
    text, (_, backbone, methods) = (ROOT / "README.md").read_text(encoding="utf-8"), GRIDS[data]
    for method in methods.split(","):
        assert spread(chosen(ROWS, data, backbone, method), "gt_known_loc") in text, (data, method)
    assert spread(chosen(ROWS, data, backbone, "cam"), "centre_box").removesuffix(" ± 0.0") in text


def test_the_csv_holds_every_run_once():
    assert tuple(ROWS[0]) == COLUMNS
    wanted = [
        (data, backbone, method, str(seed))
        for data, (_, backbones, methods) in GRIDS.items()
        for backbone in backbones.split(",")
        for method in methods.split(",")
        for seed in SEEDS
    ]
    assert sorted(wanted) == sorted((r["data"], r["backbone"], r["method"], r["seed"]) for r in ROWS)
    for line in ROWS:
        assert all(0 <= float(line[name]) <= 100 for name in (*METRICS, "centre_box")) and int(line["images"]) > 0
        assert float(line["top1_loc"]) <= min(float(line["top1_cls"]), float(line["gt_known_loc"]))


@pytest.mark.parametrize("data, backbone", [("synthetic", "resnet18"), ("cub_quick", "mobilenet_v2")])
def test_ranges_tell_rethinking_cam_from_cam(data, backbone):
    """A range that also held the other method's result would not notice that one has become the other."""
    rethinking, cam = (chosen(ROWS, data, backbone, method) for method in ("rethinking_cam", "cam"))
    low, high = expected(rethinking, "gt_known_loc")
    assert low > max(float(line["gt_known_loc"]) for line in cam) and high < 100
    assert expected(cam, "gt_known_loc")[1] < 100 and expected(cam, "max_box_acc_v2")[0] > 0
    assert (data != "synthetic") or expected(cam, "pxap")[0] > 40  # maps of wrong classes or places are below 30


def rerun(data: str, backbone: str, out: Path) -> None:
    """Seed 0 of CAM and RethinkingCAM through the package, as the notebooks call it."""
    run = wk.Run.start(**GRIDS[data][0], backbone=backbone, seed=SEEDS[0], out=str(out))
    faults = []
    for method in ("cam", "rethinking_cam"):
        result = run.evaluate(method)
        known = chosen(ROWS, data, backbone, method)
        assert str(result.n_images) == known[0]["images"]
        for metric in CHECKED if known[0]["pxap"] else METRICS:
            low, high = expected(known, metric)
            if not low <= getattr(result, metric) <= high:
                faults.append(f"{method}: {metric} is {getattr(result, metric):.1f}, expected {low:.1f} to {high:.1f}")
    assert not faults, "\n".join(faults)


def test_synthetic_birds_again():
    """The network that the notebooks of make test have trained, trained now where they have not run."""
    rerun("synthetic", "resnet18", Path(os.environ.get("WSOLKIT_OUT") or ROOT / "build/nbval"))


def test_three_classes_of_cub_again(shared, tmp_path):
    shared("data/CUB_200_2011")
    shared("weights/mobilenet_v2_imagenet.safetensors")
    assert Path(CUB["root"]).is_dir()
    rerun("cub_quick", "mobilenet_v2", tmp_path)


def test_a_row_says_what_was_measured():
    config = {"weights": "none", "size": 64, "stride": 8, "width": 0.25, "epochs": 22, "frozen": False, "tap_epochs": 5, "backbone": "resnet18",
              "method": "cam", "seed": 1}  # fmt: skip
    result = {
        "n_classes": 16,
        "n_images": 400,
        "centre_box": {"gt_known_loc": 22.75},
        "operating_point": "pseudo_boxes",
        **dict.fromkeys(CHECKED, 43.916666),
    }
    line = row(
        "synthetic",
        {"config": config, "result": result, "versions": {"torch": "2.15.0+cu1"}, "device": "CPU, 1 thread"},
    )
    assert tuple(line) == COLUMNS and line["max_box_acc_v2"] == "43.92" and line["seed"] == "1"
    assert line["settings"] == (
        "16 classes; 64 px; stride 8; width 0.25; weights none; 22 epochs; TAP 5 more; threshold chosen on pseudo boxes; torch 2.15.0; CPU, 1 thread"
    )

"""Evaluation from files: the same numbers as from arrays and from a model, both protocols, boxes and masks, and refusals."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from straightforward import max_box_acc_v2, pxap

import wsolkit as wk
from wsolkit.boxes.extract import extract_box, iou, iou_curve
from wsolkit.boxes.preparation import prepare_map
from wsolkit.cli import main as cli
from wsolkit.common.files import read_json
from wsolkit.data.base import Geometry
from wsolkit.data.images import read_image
from wsolkit.evaluation import comparison, metrics
from wsolkit.evaluation.file_evaluation import evaluate_files, export_score_maps, save_evaluation
from wsolkit.evaluation.per_image import read_per_image
from wsolkit.evaluation.results import EvalResult

SIZE, COUNT = 64, 12


def write(folder: Path, **lines: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in lines.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in content))
    return folder


def split_of(
    root: Path, split: str, seed: int
) -> tuple[list[str], np.ndarray, list[np.ndarray], list[tuple[int, int]]]:
    """A split with raw 8 x 8 maps, one or two boxes per image in original pixels, and its metadata folder."""
    rng = np.random.default_rng(seed)
    ids = [f"{split}/{number:03d}.jpg" for number in range(COUNT)]
    maps, boxes, sizes, lines = [], [], [], []
    ys, xs = np.mgrid[:8, :8]
    for number, name in enumerate(ids):
        width, height = (int(side) for side in rng.integers(80, 300, 2))
        cy, cx = rng.uniform(2, 5, 2)
        scores = np.exp(-((ys - cy) ** 2 + (xs - cx) ** 2) / 6) * 9 - 4 + rng.random((8, 8))
        near = np.array([cx - 2, cy - 2, cx + 3, cy + 3]) / 8 * np.array([width, height] * 2)
        found = [near.clip(0).round(1)]
        if number % 4 == 0:
            found.append(np.array([0, 0, 20.5, 20.5]))
        lines += [",".join([name, *map(str, box.tolist())]) for box in found]
        path = root / f"maps_{split}" / f"{name}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, scores.astype(np.float32))
        maps.append(scores.astype(np.float32))
        boxes.append(np.stack(found))
        sizes.append((width, height))
    write(
        root / "meta" / split,
        image_ids=ids,
        class_labels=[f"{name},{number % 6}" for number, name in enumerate(ids)],
        image_sizes=[f"{name},{w},{h}" for name, (w, h) in zip(ids, sizes, strict=True)],
        localization=lines,
    )
    return ids, np.stack(maps), boxes, sizes


@pytest.fixture
def case(tmp_path):
    ids, maps, boxes, sizes = split_of(tmp_path, "test", 0)
    split_of(tmp_path, "val", 1)
    predictions = [f"{name},{number % 6 if number % 3 else 5}" for number, name in enumerate(ids)]
    (tmp_path / "maps_test" / "predictions.csv").write_text("\n".join(predictions))
    return tmp_path, ids, maps, boxes, sizes


@pytest.fixture
def run(monkeypatch, capsys):
    """`run("evaluate", ...)` as a shell would: exit code and all that was printed."""

    def call(*arguments) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["wsolkit", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        return int(stop.value.code or 0), "".join(capsys.readouterr())

    return call


def test_numbers_are_those_of_the_functions(case):
    root, _, maps, boxes, sizes = case
    result = evaluate_files(root / "maps_test", root / "meta", size=SIZE, val_scoremaps=root / "maps_val")
    truths = [Geometry(SIZE).boxes(*pair).numpy() for pair in zip(boxes, sizes, strict=True)]
    every = np.stack([iou_curve(prepare_map(m, SIZE), t) for m, t in zip(maps, truths, strict=True)])
    largest = np.stack(
        [iou_curve(prepare_map(m, SIZE), t, contours="largest") for m, t in zip(maps, truths, strict=True)]
    )
    assert result.max_box_acc == metrics.max_box_acc(largest)
    assert result.max_box_acc_v2 == pytest.approx(max_box_acc_v2(every))
    assert np.array_equal(result.point_ious["fixed"], largest[:, 200])
    assert np.array_equal(result.ious, result.point_ious["validation"]) and result.n_val == COUNT
    expected = [number % 3 != 0 or number % 6 == 5 for number in range(COUNT)]
    assert result.top1_cls == pytest.approx(100 * np.mean(expected))
    assert result.top1_loc == pytest.approx(100 * np.mean(np.array(expected) & (result.ious >= 0.5)))
    assert sum(result.failures.values()) == COUNT
    assert result.failures["right"] == round(result.top1_loc * COUNT / 100)
    assert result.failures["right"] + result.failures["wrong class"] == round(result.gt_known_loc * COUNT / 100)


def test_protocol_rethinking_cam(case):
    root, _, maps, boxes, sizes = case
    result = evaluate_files(root / "maps_test", root / "meta", protocol="rethinking_cam", size=SIZE)
    geometry = Geometry(SIZE, "crop")
    truths = [geometry.boxes(*pair).numpy() for pair in zip(boxes, sizes, strict=True)]
    expected = np.stack([extract_box(score_map, 0.35, 90, SIZE, protocol="rethinking_cam") for score_map in maps])
    assert np.array_equal(result.boxes, expected)  # not clamped
    assert result.ious.tolist() == [iou(box, truth).max() for box, truth in zip(expected, truths, strict=True)]
    assert result.gt_known_loc == pytest.approx(100 * np.mean(result.ious >= 0.5))
    assert result.max_box_acc is None and result.max_box_acc_v2 is None and result.curve == {}
    assert "MaxBoxAcc" not in str(result) and "protocol: rethinking_cam" in str(result)


def test_an_empty_mask_is_a_point_or_the_full_frame(case):
    root, *_ = case
    for path in (root / "maps_test" / "test").glob("*.npy"):
        np.save(path, np.full((8, 8), 3.0))
    point = evaluate_files(root / "maps_test", root / "meta", size=SIZE)
    full = evaluate_files(root / "maps_test", root / "meta", protocol="rethinking_cam", size=SIZE)
    assert point.empty_boxes == full.empty_boxes == COUNT
    assert (point.boxes == 0).all() and (full.boxes == [0, 0, SIZE, SIZE]).all()
    assert point.failures["background"] == COUNT


@pytest.mark.slow
def test_the_command_writes_what_the_function_returns(case, tmp_path, run):
    root, ids, *_ = case
    code, text = run(
        "evaluate", "--scoremaps", root / "maps_test", "--metadata", root / "meta", "--size", SIZE,
        "--val-scoremaps", root / "maps_val", "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, text
    result = evaluate_files(root / "maps_test", root / "meta", size=SIZE, val_scoremaps=root / "maps_val")
    assert str(result) in text
    assert read_json(tmp_path / "out/metrics.json") == json.loads(json.dumps(result.to_dict()))
    table = read_per_image(tmp_path / "out/per_image.csv")
    assert (
        table["id"].tolist() == ids and table["iou_best_on_test"].tolist() == result.point_ious["best_on_test"].tolist()
    )
    assert {"predicted", "iou_fixed", "iou_validation", "x0", "failure"} <= set(table)
    assert np.array_equal(table[["x0", "y0", "x1", "y1"]].to_numpy(), result.boxes)
    assert pd.read_csv(tmp_path / "out/slices.csv")["n"].iloc[0] == COUNT
    for name in ("accuracy", "iou_histogram", "failures", "object_size"):
        assert (tmp_path / f"out/{name}.svg").read_text().startswith("<?xml")
    assert EvalResult.from_dict(read_json(tmp_path / "out/metrics.json")).gt_known_loc == result.gt_known_loc

    code, text = run(
        "evaluate", "--scoremaps", root / "maps_test", "--metadata", root / "meta", "--size", SIZE,
        "--percentile", 90, "--out", tmp_path / "pas",
    )  # fmt: skip
    assert code == 0, text
    code, text = run("compare", tmp_path / "pas", tmp_path / "out", "--metric", "top1_loc")
    assert code == 0 and "pas" in text and "below 10 %" in text
    for metric, label in comparison.METRICS.items():
        code, text = run("compare", tmp_path / "pas", tmp_path / "out", "--metric", metric)
        assert code == 0 and f"{label}" in text, f"compare does not offer {metric}"
    assert run("compare", tmp_path / "pas", tmp_path / "none")[0] == 2


def test_conformance_maps_give_the_reference_numbers(shared, tmp_path):
    data = np.load(shared("conformance/boxes.npz"), allow_pickle=False)
    ids = [f"{kind}/{number}.jpg" for number, kind in enumerate(data["kind"])]
    for name, scores in zip(ids, data["scoremaps"], strict=True):
        (tmp_path / "maps" / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(tmp_path / "maps" / f"{name}.npy", scores)
    rows = zip(ids, data["gt_boxes"], strict=True)
    lines = [",".join([name, *map(str, box)]) for name, boxes in rows for box in boxes if box[0] >= 0]
    write(
        tmp_path / "test", image_ids=ids, class_labels=[f"{name},0" for name in ids], localization=lines,
        image_sizes=[f"{name},224,224" for name in ids],
    )  # fmt: skip
    result = evaluate_files(tmp_path / "maps", tmp_path)
    assert result.conditions["score maps"] == "as they are"
    assert result.max_box_acc == float(data["maxboxacc_t1000"])
    assert result.max_box_acc_v2_parts == {
        d: float(data[f"maxboxacc_v2_t1000_{round(100 * d)}"]) for d in metrics.DELTAS
    }


def masks_case(root: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    (root / "maps").mkdir()
    (root / "masks").mkdir()
    ids, lines, masks = [f"{number}.jpg" for number in range(5)], [], {}
    for number, name in enumerate(ids):
        np.save(root / "maps" / f"{name}.npy", rng.random((SIZE, SIZE)))
        one, two, ignore = (np.zeros((90, 120), np.uint8) for _ in range(3))
        one[10:40, 10 + number : 50], two[30:70, 60:100], ignore[:, 45:70] = 255, 1, 200
        for label, mask in (("a", one), ("b", two), ("i", ignore)):
            cv2.imwrite(str(root / "masks" / f"{number}{label}.png"), mask)
        lines += [f"{name},{number}a.png,{number}i.png", f"{name},{number}b.png,"]
        small = [cv2.resize(mask, (SIZE, SIZE), interpolation=cv2.INTER_NEAREST) > 0 for mask in (one, two, ignore)]
        masks[name] = np.where(small[0] | small[1], 1, np.where(small[2], 255, 0))
    write(root / "test", image_ids=ids, class_labels=[f"{name},0" for name in ids], localization=lines)
    return masks


def test_masks_with_several_instances_and_ignored_regions(tmp_path, run):
    masks = masks_case(tmp_path)
    code, text = run(
        "evaluate", "--scoremaps", tmp_path / "maps", "--metadata", tmp_path, "--masks", tmp_path / "masks",
        "--size", SIZE, "--out", tmp_path / "out",
    )  # fmt: skip
    assert code == 0, text
    maps = [np.load(tmp_path / "maps" / f"{name}.npy") for name in masks]
    values = read_json(tmp_path / "out/metrics.json")
    assert values["pxap"] == pxap(maps, masks.values())
    assert "PxAP" in text and "boxes: bounding boxes of the instance masks" in text
    table = pd.read_csv(tmp_path / "out/per_image.csv")
    assert table["pixel_ap"].tolist() == [pxap([m], [mask]) for m, mask in zip(maps, masks.values(), strict=True)]
    boxes = [[(10 + number, 10, 49, 39), (60, 30, 99, 69)] for number in range(5)]
    truths = [Geometry(SIZE).boxes(pair, (120, 90)).numpy() for pair in boxes]
    largest = np.stack([iou_curve(m, t, contours="largest") for m, t in zip(maps, truths, strict=True)])
    assert values["max_box_acc"] == metrics.max_box_acc(largest)
    crop = evaluate_files(tmp_path / "maps", tmp_path, tmp_path / "masks", "rethinking_cam", size=SIZE)
    assert crop.pxap is None and crop.gt_known_loc is not None


def test_masks_without_an_object_leave_pxap_alone(tmp_path):
    masks_case(tmp_path)
    for label in "ab":
        cv2.imwrite(str(tmp_path / f"masks/3{label}.png"), np.zeros((90, 120), np.uint8))
    result = evaluate_files(tmp_path / "maps", tmp_path, tmp_path / "masks", size=SIZE)
    assert result.pxap > 0 and result.gt_known_loc is None and "not used" in str(result)
    table = result.per_image()
    assert table["failure"].isna().all() and np.isnan(table["pixel_ap"][3])
    out = save_evaluation(result, tmp_path / "out")
    assert sorted(path.name for path in out.iterdir()) == ["metrics.json", "per_image.csv"]
    assert read_per_image(out / "per_image.csv")["pixel_ap"].notna().sum() == 4


def test_everything_wrong_is_told_at_once_and_nothing_is_written(tmp_path, run):
    masks_case(tmp_path)
    arguments = ["evaluate", "--scoremaps", tmp_path / "maps", "--metadata", tmp_path, "--size", SIZE]
    arguments += ["--out", tmp_path / "out"]
    (tmp_path / "maps/0.jpg.npy").unlink()
    np.save(tmp_path / "maps/1.jpg.npy", np.full((SIZE, SIZE), np.nan))
    (tmp_path / "masks/2b.png").unlink()
    (tmp_path / "maps/predictions.csv").write_text("0.jpg,0\n1.jpg,zero\n2.jpg,1\n3.jpg,0\n")
    code, text = run(*arguments, "--masks", tmp_path / "masks")
    assert code == 2
    for part in (
        "0.jpg: no map",
        "1.jpg: 4096 of 4096 values are NaN",
        "2b.png: the mask is missing",
        "line 2",
        "4.jpg: no line",
    ):
        assert part in text
    assert not (tmp_path / "out").exists()
    assert "give --masks" in run(*arguments)[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"masks": "."}, "leave out --masks"),
        ({"split": "train"}, "train"),
        ({"protocol": "wsol"}, "unknown protocol"),
        ({"protocol": "rethinking_cam", "val_scoremaps": "."}, "leave out --val-scoremaps"),
        ({"size": 4}, "from 8 to 16384"),
        ({"predictions": "none.csv"}, "does not exist"),
        ({"threshold": -0.3}, "at least 0"),
        ({"threshold": float("nan")}, "at least 0"),
        ({"percentile": 101}, r"\[0, 100\]"),
        ({"interval": 1e-12}, "1e-6"),
    ],
)
def test_options_that_do_not_fit(case, options, message):
    root, *_ = case
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        evaluate_files(root / "maps_test", root / "meta", **{"size": SIZE, **options})


def test_validation_maps_of_another_kind_leave_the_test_numbers_alone(case):
    root, ids, *_ = case
    for name in ids:
        np.save(root / "maps_test" / f"{name}.npy", 0.2 + 0.5 * np.random.default_rng(3).random((SIZE, SIZE)))
    alone = evaluate_files(root / "maps_test", root / "meta", size=SIZE)
    both = evaluate_files(root / "maps_test", root / "meta", size=SIZE, val_scoremaps=root / "maps_val")
    assert alone.conditions["score maps"] == both.conditions["score maps"] == "as they are"
    assert alone.operating_points["fixed"] == both.operating_points["fixed"]


def test_test_images_are_no_validation_images(case):
    root, *_ = case
    shutil.copytree(root / "meta/test", root / "mine")
    with pytest.raises(ValueError, match="share 12 images"):
        evaluate_files(root / "maps_test", root / "mine", size=SIZE, val_scoremaps=root / "maps_test")


def test_results_of_an_earlier_protocol_do_not_stay(case, tmp_path, run):
    root, *_ = case
    arguments = ("evaluate", "--scoremaps", root / "maps_test", "--metadata", root / "meta", "--size", SIZE)
    assert run(*arguments, "--out", tmp_path / "o")[0] == 0 and (tmp_path / "o/accuracy.svg").exists()
    assert run(*arguments, "--out", tmp_path / "o", "--protocol", "rethinking_cam")[0] == 0
    assert not (tmp_path / "o/accuracy.svg").exists() and (tmp_path / "o/failures.svg").exists()


def test_a_wrong_out_is_found_first(case, tmp_path, run):
    root, *_ = case
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file/below"):
        code, text = run("evaluate", "--scoremaps", tmp_path / "none", "--metadata", root / "meta", "--out", out)
        assert code == 2 and "file: Not a directory); choose another folder" in text


@pytest.mark.slow
def test_comparing_other_rules_is_said(case, tmp_path, run):
    root, *_ = case
    arguments = ("evaluate", "--scoremaps", root / "maps_test", "--metadata", root / "meta", "--size", SIZE)
    run(*arguments, "--out", tmp_path / "fixed")
    run(*arguments, "--val-scoremaps", root / "maps_val", "--out", tmp_path / "chosen")
    code, text = run("compare", tmp_path / "fixed", tmp_path / "chosen")
    assert code == 0 and "another choice of the threshold: fixed for A, validation for B" in text
    (tmp_path / "fixed/metrics.json").unlink()
    code, text = run("compare", tmp_path / "fixed", tmp_path / "chosen")
    assert code == 2 and "not complete" in text


def test_class_names_stand_in_the_slices(case, tmp_path, run):
    root, *_ = case
    (root / "meta/classes.txt").write_text("".join(f"bird {number}\n" for number in range(6)))
    run(
        "evaluate",
        "--scoremaps",
        root / "maps_test",
        "--metadata",
        root / "meta",
        "--size",
        SIZE,
        "--out",
        tmp_path / "o",
    )
    assert "class,bird 3," in (tmp_path / "o/slices.csv").read_text()


def test_more_than_twenty_faults_are_counted(case):
    root, *_ = case
    for number in range(30):
        np.save(root / "maps_test" / f"stranger{number}.npy", np.zeros((8, 8)))
    with pytest.raises(ValueError, match=r"30 problems.*and 10 more; nothing was scored"):
        evaluate_files(root / "maps_test", root / "meta", size=SIZE)
    assert evaluate_files(root / "maps_test", root / "meta", size=SIZE, subset=True).n_images == COUNT


@pytest.mark.slow
def test_cub_maps_give_the_same_numbers_from_python_and_from_files(shared, tmp_path, run):
    """Maps of a network with ImageNet weights (its new head untrained), scored three ways."""
    weights = shared("weights/mobilenet_v2_imagenet.safetensors")
    test = wk.load_dataset("cub", "test", root=shared("data/CUB_200_2011"))
    test = test.subset(test.spread(24))
    model = wk.build_model("mobilenet_v2", len(test.classes), weights=str(weights), stride=16)
    result = wk.evaluate(model, test, "cam", val=None)
    export_score_maps(result.maps["test"], tmp_path / "maps")
    export_score_maps(result.maps["test"], tmp_path / "final", 224)
    samples = {sample.id: sample for sample in test.samples}
    samples = [samples[name] for name in result.maps["test"].ids]  # in this order: bootstraps draw by position
    sizes = [read_image(sample.path).size for sample in samples]
    write(
        tmp_path / "meta/test", image_ids=result.maps["test"].ids,
        class_labels=[f"{sample.id},{sample.label}" for sample in samples],
        image_sizes=[f"{sample.id},{w},{h}" for sample, (w, h) in zip(samples, sizes, strict=True)],
        localization=[",".join([sample.id, *map(str, sample.boxes[0])]) for sample in samples],
    )  # fmt: skip
    for name in ("maps", "final"):
        code, text = run(
            "evaluate",
            "--scoremaps",
            tmp_path / name,
            "--metadata",
            tmp_path / "meta",
            "--out",
            tmp_path / f"out_{name}",
        )
        assert code == 0, text
        values = read_json(tmp_path / f"out_{name}" / "metrics.json")
        expected = json.loads(json.dumps(result.to_dict()))
        for key in ("top1_cls", "top5_cls", "gt_known_loc", "top1_loc", "top5_loc", "max_box_acc", "max_box_acc_v2"):
            assert values[key] == expected[key], key
        for key in ("max_box_acc_v2_parts", "operating_points", "curve", "failures", "intervals", "centre_box"):
            assert values[key] == expected[key], key
        table = read_per_image(tmp_path / f"out_{name}" / "per_image.csv")
        assert table["iou"].tolist() == result.ious.tolist()


def test_an_evaluation_that_is_written_again_has_no_stale_metrics(case, tmp_path, monkeypatch):
    root, *_ = case
    result = evaluate_files(root / "maps_test", root / "meta", size=SIZE)
    out = save_evaluation(result, tmp_path / "out")
    assert (out / "metrics.json").exists()
    monkeypatch.setattr(EvalResult, "save_per_image", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_evaluation(result, out)
    assert not (out / "metrics.json").exists()


@pytest.fixture
def small(tmp_path):
    """Two landscape images with a box each, and a map of another shape than theirs."""
    for name, label in (("a", 0), ("b", 1)):
        for file, line in {
            "image_ids": f"{name}.png",
            "class_labels": f"{name}.png,{label}",
            "image_sizes": f"{name}.png,20,10",
            "localization": f"{name}.png,2,2,12,7",
        }.items():
            path = tmp_path / f"meta/test/{file}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text((path.read_text() if path.exists() else "") + line + "\n")
        (tmp_path / "maps").mkdir(exist_ok=True)
        np.save(tmp_path / f"maps/{name}.png.npy", np.eye(7))
    return tmp_path


def test_turned_maps_are_named(small):
    np.save(small / "maps/a.png.npy", np.ones((20, 10)))
    with pytest.raises(
        ValueError, match=r"1 problem .* a\.png: shape \(20, 10\) is the \(width, height\) of the image"
    ):
        evaluate_files(small / "maps", small / "meta", size=32, interval=0.1)


def test_one_shape_for_upright_and_landscape_images_is_taken(small):
    sizes = small / "meta/test/image_sizes.txt"
    sizes.write_text(sizes.read_text().replace("b.png,20,10", "b.png,14,28"))
    for name in "ab":
        np.save(small / f"maps/{name}.png.npy", np.eye(10, 20))
    assert len(evaluate_files(small / "maps", small / "meta", size=32, interval=0.1).ious) == 2


def test_paths_of_predictions_are_read_as_those_of_metadata(small):
    (small / "maps/predictions.csv").write_text("./a.png , 0\n.\\b.png,1\n")
    result = evaluate_files(small / "maps", small / "meta", size=32, interval=0.1)
    assert result.top1_cls == 100


def test_a_figure_of_others_is_not_replaced(small):
    (small / "out").mkdir()
    (small / "out/accuracy.svg").write_text("<svg><!-- Matplotlib, but mine --></svg>")
    result = evaluate_files(small / "maps", small / "meta", size=32, interval=0.1)
    with pytest.raises(ValueError, match=r"accuracy\.svg was not written by wsolkit"):
        save_evaluation(result, small / "out")
    assert len(list((small / "out").iterdir())) == 1
    for _ in range(2):
        save_evaluation(result, small / "own")
    (small / "own/metrics.json").unlink()  # as after an interruption
    save_evaluation(result, small / "own")


def write_boxes(path, ids, boxes, *further):
    lines = [",".join([name, *map(str, box)]) for name, box in zip(ids, boxes, strict=True)]
    path.write_text("".join(f"{line}\n" for line in [*lines, *further]))
    return path


def test_a_file_of_boxes_is_scored_in_the_frame_of_the_ground_truth(case, run):
    root, ids, _, truths, sizes = case
    guesses = [own[0].round(2).tolist() for own in truths]  # the first true box of each image
    guesses[1] = [-1, -1, -1, -1]
    guesses[2] = [0, 0, sizes[2][0] - 1, sizes[2][1] - 1]
    path = write_boxes(root / "detector.csv", ids, guesses, "other.jpg,1,2,3,4")
    path.write_text("id, x0, y0, x1, y1\n" + path.read_text())
    result = evaluate_files(None, root / "meta", boxes=path, size=SIZE)
    assert result.method == "detector" and result.gives == "boxes" and result.top1_cls is None
    assert result.boxes[2].tolist() == [0, 0, SIZE - 1, SIZE - 1]
    expected = [1.0] * len(ids)
    expected[1] = 0.0
    expected[2] = iou([0, 0, SIZE - 1, SIZE - 1], Geometry(SIZE).boxes(truths[2], sizes[2]).numpy()).max()
    assert result.ious.tolist() == pytest.approx(expected, abs=0.02)

    out = root / "out"
    code, text = run("evaluate", "--boxes", path, "--metadata", root / "meta", "--size", SIZE, "--out", out,
                     "--predictions", root / "maps_test" / "predictions.csv")  # fmt: skip
    assert code == 0 and "none, boxes were given" in text and not (out / "accuracy.svg").exists()
    assert (out / "iou_histogram.svg").exists() and len(read_per_image(out / "per_image.csv")) == len(ids)
    maps = wk.evaluate_files(root / "maps_test", root / "meta", size=SIZE)
    assert wk.compare(out, maps, "top1_loc").n == len(ids)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda lines: lines[1:], "no line for test/000.jpg"),
        (lambda lines: [*lines, lines[0]], "test/000.jpg is there already"),
        (lambda lines: ["test/000.jpg,1,2,3", *lines[1:]], "test/000.jpg,1,2,3"),
        (lambda lines: ["test/000.jpg,9,2,3,4", *lines[1:]], "test/000.jpg,9,2,3,4"),
        (lambda lines: ["test/000.jpg,900,2,990,4", *lines[1:]], "the box lies outside test/000.jpg"),
        (lambda lines: [line.split(",")[0] + ",0,0,0.5,1" for line in lines], "seem to be shares"),
        (lambda lines: ["test/000.jpg,0.1,0,0.5,1", *lines[1:]], "1 of .* boxes seem to be shares .*: test/000.jpg"),
        (lambda lines: [line.split(",")[0] + ",1,1,900,900" for line in lines], "boxes of images of another size"),
    ],
)
def test_a_wrong_file_of_boxes_is_one_error(case, change, text):
    root, ids, *_ = case
    path = write_boxes(root / "boxes.csv", ids, [(1, 1, 20, 20)] * len(ids))
    path.write_text("\n".join(change(path.read_text().splitlines())))
    with pytest.raises(ValueError, match=text):
        evaluate_files(None, root / "meta", boxes=path, size=SIZE)


def test_boxes_and_what_only_maps_have_are_refused_together(case):
    root, ids, *_ = case
    path = write_boxes(root / "boxes.csv", ids, [(1, 1, 20, 20)] * len(ids))
    for asked, text in (
        ({"threshold": 0.2}, "leave out --threshold"), ({"percentile": 90.0}, "leave out --percentile"),
        ({"val_scoremaps": root / "maps_val"}, "leave out --val-scoremaps"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=text):
            evaluate_files(None, root / "meta", boxes=path, size=SIZE, **asked)
    for scoremaps, boxes in ((None, None), (root / "maps_test", path)):
        with pytest.raises(ValueError, match="one of the two"):
            evaluate_files(scoremaps, root / "meta", boxes=boxes, size=SIZE)

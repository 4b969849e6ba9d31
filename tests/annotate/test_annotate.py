"""`wsolkit annotate` on class folders: boxes, resumption, certainty, reviews, and what it refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from bs4 import BeautifulSoup
from click.testing import CliRunner
from PIL import ExifTags, Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from wsolkit.annotate.annotate import _config, _unreadable, annotate, apply, to_fiftyone
from wsolkit.annotate.confidence import AROUND, boxes_with_agreement, calibration, components, measure, told
from wsolkit.annotate.formats import Record
from wsolkit.annotate.localise import BLOCK
from wsolkit.boxes.extract import extract_box, iou
from wsolkit.boxes.preparation import prepare_map, to_uint8
from wsolkit.cli.main import cli
from wsolkit.common.errors import WsolkitError
from wsolkit.common.files import read_json, write_json
from wsolkit.data.base import WSOLDataset
from wsolkit.localisation.predict import predict
from wsolkit.runs.run import Run, load_trained

SMALL = {"weights": "none", "backbone": "mobilenet_v2", "width": 0.125, "size": 64, "epochs": 1}
COUNT = 75  # images of a class: more than two blocks together
TURNED = "cat/000.jpg"  # stored lying on its side


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    boxes = ["path,x0,y0,x1,y1"]
    for label, name in enumerate(("cat", "dog")):
        (root / name).mkdir()
        for number in range(COUNT):
            pixels = rng.integers(0, 60, (30, 44, 3), dtype=np.uint8)
            x, y = (int(v) for v in rng.integers(0, 14, 2))
            pixels[y : y + 16, x : x + 20, label] += 160
            exif = Image.Exif()
            exif[ExifTags.Base.Orientation] = 6 if f"{name}/{number:03}.jpg" == TURNED else 1
            Image.fromarray(pixels).save(root / name / f"{number:03}.jpg", quality=95, exif=exif)
            if number > 0 and number % 25:
                boxes.append(f"{name}/{number:03}.jpg,{x},{y},{x + 19},{y + 15}")
    (root / "dog" / "bad.jpg").write_bytes((root / "dog" / "001.jpg").read_bytes()[:500])
    (root / "boxes.csv").write_text("\n".join(boxes) + "\n")
    return root


@pytest.fixture(scope="module")
def made(pictures, tmp_path_factory):
    return annotate(pictures, tmp_path_factory.mktemp("work") / "out", ["coco", "csv"], **SMALL)


def content(folder, *names):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for name in names
        for path in sorted((folder / name).rglob("*"))
        if path.is_file()
    }


def test_every_readable_image_has_the_box_that_predict_gives_it(made, pictures):
    assert list(made.failed) == ["dog/bad.jpg"] and "dog/bad.jpg" in made.failed["dog/bad.jpg"]
    assert len(made.records) == 2 * COUNT == made.summary["images"]
    assert {record.split for record in made.records} == {"train", "val", "test"}
    about = read_json(made.folder / "annotation.json")
    trained = load_trained(about["checkpoint"])
    for record in made.records[:: COUNT // 3]:
        label = trained.classes.index(record.label)
        (other,) = predict(trained.model, pictures / record.path, "affinity_cam", label=label, **trained.view)
        assert other.size == record.size == ((30, 44) if record.path == TURNED else (44, 30))
        assert np.abs(np.array(record.box) - other.box).max() <= 1, "the same up to rounding in batches"
    assert made.records[0].path == TURNED


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(made, pictures, tmp_path):
    whole = content(made.folder, "coco", "csv", "review", "boxes.jsonl", "summary.json")
    lines = (made.folder / "boxes.jsonl").read_bytes().splitlines(keepends=True)
    for stop in (
        b"",
        b"".join(lines[:BLOCK]),
        b"".join(lines[: BLOCK + 7]) + lines[BLOCK + 7][:50],
        b"".join(lines[:-1]),
    ):
        out = tmp_path / "out"
        shutil.copytree(made.folder, out)
        for name in ("coco", "csv", "review", "summary"):
            shutil.rmtree(out / name)
        (out / "summary.json").unlink()
        (out / "boxes.jsonl").write_bytes(stop)
        (out / f".coco.{32 * '0'}.part").mkdir()
        (out / f".summary.json.{32 * '0'}.part").touch()
        again = annotate(pictures, out, ["coco", "csv"], **SMALL)
        now = content(out, "coco", "csv", "review", "boxes.jsonl", "summary.json")
        now = {name: data.replace(str(out).encode(), str(made.folder).encode()) for name, data in now.items()}
        assert now == whole
        assert len(again.records) == len(made.records)
        assert not list(tmp_path.glob("*.lock")) and not list(out.glob(".*")), "what a killed call was writing is gone"
        shutil.rmtree(out)


def test_many_images_are_read_once_before_training(pictures, tmp_path, monkeypatch):
    """What training decodes into a file is not read before, to see whether it can be."""
    read, root = [], tmp_path / "pictures"
    shutil.copytree(pictures, root)
    monkeypatch.setattr("wsolkit.data.decoded.SMALL_BYTES", 0)  # any number is many
    load = WSOLDataset.load
    monkeypatch.setattr(WSOLDataset, "load", lambda self, sample: (read.append(sample.id), load(self, sample))[1])
    monkeypatch.setattr("wsolkit.data.images.read_image", None)  # a further look would fail
    (root / "dog" / "bad.jpg").unlink()
    run = Run(_config(root, tmp_path / "out", "", SMALL))
    for split in ("train", "val"):
        assert _unreadable(run.dataset(split), split == "train") == set()
    run.model("gap")
    assert sorted(read) == sorted(run.dataset("train").ids + run.dataset("val").ids)
    monkeypatch.undo()
    monkeypatch.setattr("wsolkit.data.decoded.SMALL_BYTES", 0)
    found = [
        _unreadable(Run(_config(pictures, tmp_path, "", SMALL)).dataset(split), False)
        for split in ("train", "val", "test")
    ]
    assert set.union(*found) == {"dog/bad.jpg"}


def test_a_call_that_made_no_box_leaves_the_folder_to_another(made, pictures, tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / "pictures" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "pictures" / name / f"{number}.jpg").write_text("no image")
    with pytest.raises(
        WsolkitError, match=r"none of the 2 train images can be read; first: .*jpg: not a readable image"
    ):
        annotate(tmp_path / "pictures", tmp_path / "out", **SMALL)
    for path in (tmp_path / "pictures").glob("*/*.jpg"):
        shutil.copy(pictures / path.parent.name / f"00{path.name}", path)
    checkpoint = read_json(made.folder / "annotation.json")["checkpoint"]
    assert len(annotate(tmp_path / "pictures", tmp_path / "out", checkpoint=checkpoint).records) == 6


def test_a_finished_run_writes_other_formats_without_a_network(made, pictures, monkeypatch):
    monkeypatch.setattr("wsolkit.annotate.localise.feature_map", None)  # would fail
    again = annotate(pictures, made.folder, ["yolo"], **SMALL)
    assert again.written == [made.folder / "yolo"] and again.records == made.records
    assert (made.folder / "coco" / "annotations.json").is_file()


def test_boxes_that_come_later_measure_without_localising_again(made, pictures, tmp_path, monkeypatch):
    root, out = tmp_path / "pictures", tmp_path / "out"
    shutil.copytree(pictures, root)
    (root / "boxes.csv").unlink()
    first = annotate(root, out, **SMALL)
    assert first.summary["measured"] == {} and "heuristic" in first.summary["certainty"]
    assert "was not measured: no image has a true box" in str(first)
    soup, (head, *_) = cells(out)
    assert head == ["Class", "Review", "Boxes", "Median certainty"] and not soup.select("figure")
    monkeypatch.setattr("wsolkit.annotate.localise.feature_map", None)
    shutil.copy(pictures / "boxes.csv", root / "boxes.csv")
    second = annotate(root, out, **SMALL)
    assert [record.box for record in second.records] == [record.box for record in first.records]
    assert second.summary["measured"] == made.summary["measured"]


def test_numbers_are_those_of_the_boxes(made):
    own = made.summary["measured"]
    known = [record for record in made.records if not record.path.endswith(("000.jpg", "025.jpg", "050.jpg"))]
    assert sum(own[split]["images"] for split in ("train", "val", "test")) == len(known) == own["all"]["images"]
    said = str(made)
    low, high = own["all"]["interval"]
    assert f"true boxes of {len(known)} images: {own['all']['corloc']:.1f} % are right" in said
    assert f"(CorLoc; 95 % interval {low:.1f} to {high:.1f})" in said and f"AP50 {own['all']['ap50']:.1f} %" in said
    assert not [word for word in ("train:", "val:", "test:") if word in said], "splits mean nothing to who annotates"
    assert (made.folder / "summary" / "certainty.png").stat().st_size > 5000
    classes = made.summary["classes"]
    assert list(classes) == ["cat", "dog"] and sum(item["images"] for item in classes.values()) == len(known)
    assert sum(item["corloc"] for item in classes.values()) / 2 == pytest.approx(own["all"]["corloc"])  # 72 of each


def cells(folder):
    """Of the first table of a page: a list of texts for each row."""
    soup = BeautifulSoup((folder / "index.html").read_text("utf-8"), "html.parser")
    return soup, [[cell.get_text() for cell in row.select("th, td")] for row in soup.select("table tr")]


def test_the_index_has_the_numbers_and_leads_to_all_pages(made):
    soup, (head, *rows) = cells(made.folder)
    assert [row[0] for row in rows] == list(made.summary["classes"]) == ["cat", "dog"]
    for row in (dict(zip(head, row, strict=True)) for row in rows):
        own = [record for record in made.records if record.label == row["Class"]]
        expected, median = made.summary["classes"][row["Class"]], 100 * np.median([record.score for record in own])
        assert (row["Boxes"], row["Median certainty"]) == (str(len(own)), f"{median:.0f} %")
        assert (row["CorLoc"], row["AP50"]) == (f"{expected['corloc']:.1f}", f"{expected['ap50']:.1f}")
        assert row["Mean IoU"] == f"{100 * expected['mean_iou']:.1f}"
    links = [link["href"] for link in soup.select("table a")]
    assert [made.folder / link for link in links] == made.pages and all(
        (made.folder / link).is_file() for link in links
    )
    text = soup.get_text()
    assert "dog/bad.jpg" in text and "Certainty: class probability times" in text and soup.select("figure img")
    assert str(made).endswith(f"open {made.folder / 'index.html'} in a browser")


def test_axe_and_widths_of_the_index(axe_violations, page, made):
    path = made.folder / "index.html"
    assert axe_violations(path) == axe_violations(path, dark=True) == axe_violations(path, width=400) == []
    for width in (400, 1280):
        page.set_viewport_size({"width": width, "height": 900})
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("link", name="Review of dog, page 1").click()
    page.get_by_role("link", name="All classes").click()
    assert page.url == path.as_uri()


def test_a_checkpoint_is_taken_and_several_boxes_are_written(made, pictures, tmp_path):
    checkpoint = read_json(made.folder / "annotation.json")["checkpoint"]
    single, several = (
        annotate(
            pictures, tmp_path / f"out {count}", checkpoint=checkpoint, method="cam", threshold=0.8, max_boxes=count
        )
        for count in (1, 3)
    )
    assert not (tmp_path / "out 3" / "training").exists()
    boxes: dict[str, list] = {}
    for record in several.records:
        boxes.setdefault(record.path, []).append(record)
    assert 1 < max(map(len, boxes.values())) <= 3
    assert [own[0].box for own in boxes.values()] == [record.box for record in single.records]
    about = read_json(tmp_path / "out 3" / "annotation.json")
    assert (about["threshold"], about["max_boxes"], about["method"]) == (0.8, 3, "cam")


def test_a_method_that_gives_boxes(pictures, tmp_path):
    made = annotate(pictures, tmp_path / "out", method="psol", **SMALL | {"recipe": "frozen", "epochs": 1})
    assert len(made.records) == 2 * COUNT
    coco = json.loads((tmp_path / "out" / "coco" / "annotations.json").read_text())
    assert coco["info"]["method"] == "psol" and coco["info"]["threshold"] is None


def test_decisions_are_applied_to_the_files(made, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(made.folder, out)
    run = read_json(out / "annotation.json")["run"]
    decisions = {"cat/001.jpg": {"decision": "accepted"}, "cat/002.jpg": {"decision": "rejected"}}
    write_json(tmp_path / "cat.json", {"written_by": "wsolkit review", "run": run, "decisions": decisions})
    drawn = {"dog/001.jpg": {"decision": "drawn", "boxes": [[1, 2, 30, 20]]}}
    write_json(tmp_path / "dog.json", {"written_by": "wsolkit review", "run": run, "decisions": drawn})
    result = apply(out, [tmp_path / "cat.json", tmp_path / "dog.json"])
    assert {path.name for path in result.written} >= {"coco", "csv"} and not result.pages
    own = {record.path: record for record in result.records}
    assert "cat/002.jpg" not in own and len(own) == 2 * COUNT - 1
    assert own["dog/001.jpg"].box == (1, 2, 30, 20) and own["cat/001.jpg"].review == "accepted"
    review = result.summary["review"]
    assert (review["accepted"], review["rejected"], review["drawn"], review["undecided"]) == (1, 1, 1, 2 * COUNT - 3)
    right = made.records[1]
    assert right.path == "cat/001.jpg" and review["% of accepted boxes are right"] in (0, 100)
    assert "cat/002.jpg" not in (out / "csv" / "boxes.csv").read_text()
    soup, (_, cat, dog) = cells(out)
    assert (cat[2], dog[2]) == (str(COUNT - 1), str(COUNT)) and "Review: 1 accepted, 1 rejected, 1 drawn" in soup.text
    apply(out, [tmp_path / "dog.json"])
    assert "cat/002.jpg" in (out / "csv" / "boxes.csv").read_text(), "each call starts from the first boxes"


def test_a_review_leaves_out_images_that_are_gone(made, pictures, tmp_path):
    root, out = tmp_path / "pictures", tmp_path / "out"
    shutil.copytree(pictures, root)
    shutil.copytree(made.folder, out)
    write_json(out / "annotation.json", read_json(out / "annotation.json") | {"root": str(root)})
    for name in ("001", "002"):
        (root / "cat" / f"{name}.jpg").unlink()
    (root / "boxes.csv").unlink()
    decisions = {f"cat/{name}.jpg": {"decision": "accepted"} for name in ("001", "003")}
    run = read_json(out / "annotation.json")["run"]
    write_json(tmp_path / "cat.json", {"written_by": "wsolkit review", "run": run, "decisions": decisions})
    said = CliRunner().invoke(cli, ["annotate", "--apply", str(tmp_path / "cat.json"), "--out", str(out)])
    assert said.exit_code == 1 and "cat/001.jpg: the image is no longer there" in said.stderr
    assert f"{2 * COUNT - 2} boxes of {2 * COUNT - 2} images" in said.stdout
    assert f"1 accepted, 0 rejected, 0 drawn, {2 * COUNT - 3} undecided" in said.stdout
    left = (out / "csv" / "boxes.csv").read_text()
    assert "cat/003.jpg" in left and "cat/001.jpg" not in left and "cat/002.jpg" not in left
    shutil.rmtree(root)
    assert len(apply(out, [tmp_path / "cat.json"]).records) == 2 * COUNT, "without the folder nobody can tell"


def test_the_command_names_what_it_left_out_and_takes_decisions(made, pictures, tmp_path):
    checkpoint, out = read_json(made.folder / "annotation.json")["checkpoint"], str(tmp_path / "out")
    words = [
        "annotate",
        str(pictures),
        "--checkpoint",
        checkpoint,
        "--out",
        out,
        "--format",
        "coco,voc",
        "--format",
        "csv",
    ]
    said = CliRunner().invoke(cli, words)
    assert said.exit_code == 1 and "1 images could not be read" in said.stderr and "dog/bad.jpg" in said.stderr
    assert f"{2 * COUNT} boxes of {2 * COUNT} images" in said.stdout and "CorLoc" in said.stdout
    assert "index.html in a browser" in said.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "coco",
        "voc",
        "csv",
        "review",
        "summary",
        "summary.json",
    }
    run = read_json(tmp_path / "out" / "annotation.json")["run"]
    decisions = {"cat/002.jpg": {"decision": "rejected"}}
    write_json(tmp_path / "cat.json", {"written_by": "wsolkit review", "run": run, "decisions": decisions})
    said = CliRunner().invoke(cli, ["annotate", "--apply", str(tmp_path / "cat.json"), "--out", out])
    assert f"{2 * COUNT - 1} boxes" in said.stdout and "1 rejected" in said.stdout, said.output
    assert not (tmp_path / "out" / "voc" / "Annotations" / "cat" / "002.xml").exists()


def test_a_killed_command_goes_on_with_the_same_bytes(made, pictures, tmp_path):
    checkpoint = read_json(made.folder / "annotation.json")["checkpoint"]
    boxes, command = tmp_path / "out" / "boxes.jsonl", [sys.executable, "-m", "wsolkit", "annotate", str(pictures)]
    command += ["--checkpoint", checkpoint, "--out", str(tmp_path / "out")]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not (boxes.exists() and boxes.stat().st_size):
            time.sleep(0.002)
        process.kill()
    there = boxes.read_bytes()
    assert (made.folder / "boxes.jsonl").read_bytes().startswith(there)
    assert not (tmp_path / "out" / "summary.json").exists() and not (tmp_path / "out" / "coco").exists()
    annotate(pictures, tmp_path / "out", checkpoint=checkpoint)
    assert content(tmp_path / "out", "boxes.jsonl", "coco") == content(made.folder, "boxes.jsonl", "coco")


def test_a_pretrained_network_is_frozen_and_sees_photographs_large(pictures, tmp_path):
    made = _config(pictures, tmp_path, "", {"backbone": "mobilenet_v2"})
    assert (made.weights, made.frozen, made.size, made.stride) == ("imagenet", True, 448, 32)
    assert _config(pictures, tmp_path, "", {"size": 224}).size == 224
    assert not _config(pictures, tmp_path, "", {"recipe": "quick"}).frozen
    scratch = _config(pictures, tmp_path, "", SMALL)
    assert not scratch.frozen and scratch.size == 64


def test_what_cannot_be(made, pictures, tmp_path):
    checkpoint = read_json(made.folder / "annotation.json")["checkpoint"]
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    other = tmp_path / "other"
    for name in ("cat", "owl"):
        shutil.copytree(pictures / "cat", other / name)
    before = content(tmp_path, ".")
    for said, call in (
        ("does not exist", lambda: annotate(tmp_path / "none", tmp_path / "o")),
        ("lies in", lambda: annotate(pictures, pictures / "out", checkpoint=checkpoint)),
        ("is not empty", lambda: annotate(pictures, tmp_path / "full", checkpoint=checkpoint)),
        ("other images, settings or code", lambda: annotate(pictures, made.folder, checkpoint=checkpoint)),
        ("unknown format", lambda: annotate(pictures, tmp_path / "o", ["pascal"], checkpoint=checkpoint)),
        ("unknown method", lambda: annotate(pictures, tmp_path / "o", method="magic")),
        ("dog, owl", lambda: annotate(other, tmp_path / "o", checkpoint=checkpoint)),
        ("leave it out", lambda: annotate(pictures, tmp_path / "o", checkpoint=checkpoint, backbone="vgg16")),
        ("threshold", lambda: annotate(pictures, tmp_path / "o", checkpoint=checkpoint, threshold=1.5)),
        ("max_boxes", lambda: annotate(pictures, tmp_path / "o", checkpoint=checkpoint, max_boxes=0)),
        ("holds no complete annotation", lambda: apply(tmp_path / "full", [tmp_path / "d.json"])),
        ("fiftyone is not installed", lambda: to_fiftyone(made)),
    ):  # fmt: skip
        with pytest.raises((WsolkitError, FileNotFoundError), match=said):
            call()
    assert content(tmp_path, ".") == before and not (pictures / "out").exists()


def test_a_fiftyone_data_set_has_every_box(made, pictures, monkeypatch):
    """FiftyOne itself, which brings a database, is not installed for the tests: a stand-in takes its place, with the
    classes, arguments and attributes that its documentation gives."""

    class Sample(dict):
        def __init__(self, filepath):
            self.filepath = filepath

    class Dataset:
        def __init__(self, name):
            self.name, self.samples = name, []

        def add_sample(self, sample):
            self.samples.append(sample)

    boxed = {name: lambda **given: SimpleNamespace(**given) for name in ("Detection", "Detections")}
    monkeypatch.setitem(sys.modules, "fiftyone", SimpleNamespace(Dataset=Dataset, Sample=Sample, **boxed))
    dataset = to_fiftyone(made, "birds")
    assert dataset.name == "birds" and all(Path(sample.filepath).is_file() for sample in dataset.samples)
    found = [detection for sample in dataset.samples for detection in sample["pseudo"].detections]
    assert len(found) == len(made.records)
    for detection, record in zip(found, made.records, strict=True):
        x, y, width, height = np.multiply(detection.bounding_box, record.size * 2)
        np.testing.assert_allclose((x, y, x + width - 1, y + height - 1), record.box)
        assert (detection.label, detection.confidence) == (record.label, record.score)


# ---------------------------------------------------------------------------------------------------- certainty alone


def blobs(*boxes):
    u8 = np.zeros((60, 80), np.uint8)
    for value, (x0, y0, x1, y1) in boxes:
        u8[y0 : y1 + 1, x0 : x1 + 1] = value
    return u8


def test_the_first_component_is_the_box_of_the_kit():
    rng = np.random.default_rng(1)
    for _ in range(20):
        u8 = to_uint8(prepare_map(rng.random((7, 7)), 56))
        for threshold, percentile in ((0.2, 100.0), (0.5, 100.0), (0.35, 90.0)):
            box = extract_box(u8 / 255, threshold, percentile, size=None)
            assert components(u8, threshold, percentile, 3)[0].tolist() == box.tolist()


def test_components_are_sorted_by_size_and_small_ones_left_out():
    u8 = blobs((255, (2, 2, 21, 21)), (200, (40, 5, 69, 44)), (255, (10, 50, 12, 52)))
    assert components(u8, 0.5, count=5).tolist() == [[40, 5, 70, 45], [2, 2, 22, 22]]
    assert components(u8, 0.5, count=1).tolist() == [[40, 5, 70, 45]]
    assert components(np.zeros((9, 9), np.uint8), 0.5).shape == (0, 4)


def test_a_box_that_follows_an_edge_is_certain_and_one_on_a_slope_is_not():
    sharp = boxes_with_agreement(blobs((255, (20, 20, 50, 40))), 0.5)[1]
    ramp = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (60, 1))
    slope = boxes_with_agreement(ramp, 0.5)[1]
    assert sharp.tolist() == [1.0] and 0.5 < slope[0] < 0.9
    cut = [iou(components(ramp, 0.5)[0], components(ramp, 0.5 * factor)[0])[0, 0] for factor in AROUND]
    assert slope[0] == pytest.approx(np.mean(cut))
    second = boxes_with_agreement(blobs((255, (2, 2, 31, 31)), (153, (50, 2, 69, 21))), 0.4, count=2)[1]
    assert second[1] < 0.6 * second[0] + 1e-9, "further parts count as far as the map is high there"


def test_ap50_is_that_of_coco():
    """pycocotools on the same boxes, with several in an image and several true ones."""
    rng = np.random.default_rng(2)
    records, truth = [], {}
    for n in range(120):
        corners = rng.integers(0, 30, (3, 2))
        truth[f"{n}"] = [(int(x), int(y), int(x) + 30, int(y) + 30) for x, y in corners[: 1 + n % 3]]
        for x, y in corners[: rng.integers(1, 4)] + rng.integers(-9, 10, 2):
            box = (int(x), int(y), int(x) + 30, int(y) + 30)
            score = float(rng.random())
            records.append(Record(f"{n}", (99, 99), "cat" if n % 3 else "dog", box, score, "test"))
    content = {"images": [{"id": n} for n in range(120)], "categories": [{"id": 1}, {"id": 2}], "annotations": []}

    def boxed(n, label, x0, y0, x1, y1):
        width, height = x1 + 1 - x0, y1 + 1 - y0
        return {"image_id": int(n), "category_id": 1 + (label == "dog"), "bbox": [x0, y0, width, height], "area": 99}

    for path, boxes in truth.items():
        label = "cat" if int(path) % 3 else "dog"
        for box in boxes:
            number = {"id": 1 + len(content["annotations"]), "iscrowd": 0}
            content["annotations"].append(number | boxed(path, label, *box))
    coco = COCO()
    coco.dataset = content
    coco.createIndex()
    made = coco.loadRes([boxed(r.path, r.label, *r.box) | {"score": r.score} for r in records])
    judge = COCOeval(coco, made, "bbox")
    judge.evaluate()
    judge.accumulate()
    expected = 100 * judge.eval["precision"][0, :, :, 0, 2].mean(axis=0).mean()
    known = measure(records, truth)
    assert 20 < expected < 90
    assert told(known, False)["all"]["ap50"] == pytest.approx(expected, abs=1e-9)


def test_calibrated_certainty_never_falls_and_promises_no_more_than_was_seen():
    rng = np.random.default_rng(0)
    scores = rng.random(400)
    right = rng.random(400) < scores**2
    records = [
        Record(f"{n}", (9, 9), "cat", (0, 0, 8, 8), s, "val" if n < 200 else "test") for n, s in enumerate(scores)
    ]
    truth = {f"{n}": [(0, 0, 8, 8) if right[n] else (0, 0, 1, 1)] for n in range(400)}
    known = measure(records, truth)
    assert (known.hits == right).all()
    levels, shares = calibration(known)
    assert (np.diff(shares) >= 0).all() and shares.min() >= 1 / 202 and shares.max() <= 201 / 202
    error = np.abs(np.interp(scores[200:], levels, shares) - scores[200:] ** 2)
    assert error.mean() < 0.1 < np.abs(scores[200:] - scores[200:] ** 2).mean()
    numbers = told(known, True)["all but those used for calibration"]
    assert numbers["images"] == 200 and numbers["corloc_of_the_most_certain_half"] > numbers["corloc"] + 10
    few = measure(records[:29], truth)
    assert calibration(few) is None

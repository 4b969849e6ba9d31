"""Each format is read back by a reader of others: the same boxes to the pixel."""

from __future__ import annotations

import json
from urllib.parse import parse_qs, urlsplit
from xml.etree import ElementTree

import jsonschema
import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from PIL import ExifTags, Image
from pycocotools.coco import COCO
from torchvision.datasets import VOCDetection
from torchvision.ops import box_convert

from wsolkit.annotate.formats import FORMATS, Origin, Record, write_formats
from wsolkit.common.errors import WsolkitError
from wsolkit.data.catalogue import load_dataset
from wsolkit.data.images import image_size

CLASSES = ("<b>owl & co</b>", "wren")
ORIGIN = Origin("/pictures", CLASSES, "affinity_cam", 0.5, "0.1.0")
RECORDS = [
    Record("owl/a b#.jpg", (41, 30), CLASSES[0], (0, 0, 40, 29), 0.25, "train"),  # the whole image
    Record("wren/é.jpg", (57, 83), "wren", (3, 5, 3, 5), 0.75, "val", "drawn"),  # one pixel
    Record("wren/two.jpg", (57, 83), "wren", (11, 7, 56, 13), 0.9, "test", "accepted"),
    Record("wren/two.jpg", (57, 83), "wren", (0, 60, 20, 82), 0.4, "test", "accepted"),
]
# of Label Studio's documentation, "Import pre-annotated data": the format of predictions and of rectangles
PERCENT = {"type": "number", "minimum": 0, "maximum": 100}
RECTANGLE = {
    "type": "object",
    "required": ["id", "from_name", "to_name", "type", "value", "original_width", "original_height", "image_rotation"],
    "properties": {
        "type": {"const": "rectanglelabels"},
        "score": {"type": "number", "minimum": 0, "maximum": 1},
        "value": {
            "type": "object",
            "required": ["x", "y", "width", "height", "rotation", "rectanglelabels"],
            "properties": dict.fromkeys(("x", "y", "width", "height"), PERCENT)
            | {
                "rotation": {"const": 0},
                "rectanglelabels": {"type": "array", "items": {"type": "string"}, "minItems": 1},
            },
            "additionalProperties": False,
        },
    },
}
TASKS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["data", "predictions"],
        "properties": {
            "data": {"type": "object", "required": ["image"]},
            "predictions": {
                "type": "array",
                "items": {
                    "type": "object",
                    "required": ["result", "score", "model_version"],
                    "properties": {
                        "result": {"type": "array", "items": RECTANGLE},
                        "model_version": {"type": "string"},
                    },
                },
            },
        },
    },
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    assert [folder.name for folder in write_formats(out, FORMATS, RECORDS, ORIGIN)] == list(FORMATS)
    assert sorted(path.name for path in out.iterdir()) == sorted(FORMATS), "nothing half-written stays"
    return out


def as_read():
    return [(record.path, record.label, record.box) for record in RECORDS]


def test_coco_voc_and_yolo_by_supervision(written, tmp_path):
    """The loaders that users of Ultralytics and RF-DETR have; its boxes end with the first pixel outside."""
    supervision = pytest.importorskip("supervision")
    images, read = tmp_path / "images", {"coco": [], "voc": [], "yolo": []}
    for record in RECORDS:
        (images / record.path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", record.size).save(images / record.path)

    def add(name, folder, dataset):
        for path, _, detections in dataset:
            for label, (x0, y0, x1, y1) in zip(detections.class_id, detections.xyxy, strict=True):
                box = tuple(float(corner) for corner in (x0, y0, x1 - 1, y1 - 1))
                place = (folder / path).relative_to(images).as_posix()
                read[name].append((place, dataset.classes[label], tuple(round(corner, 3) for corner in box)))

    loader = supervision.DetectionDataset
    add("coco", images, loader.from_coco(str(images), str(written / "coco" / "annotations.json")))
    for name in ("owl", "wren"):  # it looks into one folder
        own, data = images / name, str(written / "yolo" / "data.yaml")
        add("voc", own, loader.from_pascal_voc(str(own), str(written / "voc" / "Annotations" / name)))
        add("yolo", own, loader.from_yolo(str(own), str(written / "yolo" / "labels" / name), data))
    for name, boxes in read.items():
        assert sorted(boxes) == sorted(as_read()), name


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pycocotools")
def test_coco_by_pycocotools(written):
    coco = COCO(str(written / "coco" / "annotations.json"))
    read = []
    for key in coco.getAnnIds():
        item = coco.loadAnns(key)[0]
        image = coco.loadImgs(item["image_id"])[0]
        (label,) = (category["name"] for category in coco.loadCats(item["category_id"]))
        x, y, width, height = item["bbox"]
        read.append((image["file_name"], label, (x, y, x + width - 1, y + height - 1)))
        assert (
            int(
                coco.annToMask(
                    item | {"segmentation": [[x, y, x + width, y, x + width, y + height, x, y + height]]}
                ).sum()
            )
            == item["area"]
        )
    assert read == as_read()
    assert [item["score"] for item in coco.loadAnns(coco.getAnnIds())] == [record.score for record in RECORDS]
    info = coco.dataset["info"]
    assert (info["method"], info["threshold"], info["version"]) == ("affinity_cam", 0.5, "0.1.0")
    assert "EXIF" in info["description"]
    sizes = {image["file_name"]: (image["width"], image["height"]) for image in coco.dataset["images"]}
    assert sizes == {record.path: record.size for record in RECORDS}


def test_voc_by_torchvision(written):
    read = []
    for path in sorted((written / "voc" / "Annotations").rglob("*.xml")):
        content = VOCDetection.parse_voc_xml(ElementTree.parse(path).getroot())["annotation"]
        size = tuple(int(content["size"][side]) for side in ("width", "height"))
        for thing in content["object"]:
            box = tuple(int(thing["bndbox"][name]) - 1 for name in ("xmin", "ymin", "xmax", "ymax"))
            name = f"{content['folder']}/{content['filename']}"
            read.append((name, thing["name"], box))
            assert size == next(record.size for record in RECORDS if record.path == name)
        assert "threshold 0.5" in content["source"]["annotation"]
    assert sorted(read) == sorted(as_read())


def test_yolo_by_its_definition_with_torchvision_boxes(written):
    data = yaml.safe_load((written / "yolo" / "data.yaml").read_text())
    read = []
    for split in ("train", "val", "test"):
        for image in (written / "yolo" / data[split]).read_text().splitlines():
            path = image.removeprefix("./images/")
            # what readers do with the address of an image: /images/ becomes /labels/, the ending .txt
            lines = (written / "yolo" / image.replace("/images/", "/labels/").rsplit(".", 1)[0]).with_suffix(".txt")
            width, height = next(record.size for record in RECORDS if record.path == path)
            for line in lines.read_text().splitlines():
                number, *shares = line.split()
                corners = box_convert(torch.tensor([list(map(float, shares))], dtype=torch.float64), "cxcywh", "xyxy")
                edges = (corners[0] * torch.tensor([width, height, width, height])).round().int().tolist()
                read.append((path, data["names"][int(number)], (*edges[:2], edges[2] - 1, edges[3] - 1)))
    assert sorted(read) == sorted(as_read())


def test_csv_by_pandas(written):
    table = pd.read_csv(written / "csv" / "boxes.csv")
    read = [(row.path, row.label, (row.x0, row.y0, row.x1, row.y1)) for row in table.itertuples()]
    assert read == as_read() and table["score"].tolist() == [record.score for record in RECORDS]
    assert set(table["method"]) == {"affinity_cam"} and set(table["threshold"]) == {0.5}


def test_labelstudio_has_the_documented_form(written):
    tasks = json.loads((written / "labelstudio" / "tasks.json").read_text())
    jsonschema.validate(tasks, TASKS)
    view = ElementTree.parse(written / "labelstudio" / "config.xml").getroot()
    image, labels = view.find("Image"), view.find("RectangleLabels")
    assert [label.get("value") for label in labels] == list(CLASSES)
    read = []
    for task in tasks:
        address = urlsplit(task["data"][image.get("value").removeprefix("$")])
        for item in task["predictions"][0]["result"]:
            assert (item["from_name"], item["to_name"]) == (labels.get("name"), image.get("name"))
            value, size = item["value"], (item["original_width"], item["original_height"])
            x, y, w, h = (
                round(value[name] / 100 * side)
                for name, side in zip(("x", "y", "width", "height"), size * 2, strict=True)
            )
            read.append((parse_qs(address.query)["d"][0], value["rectanglelabels"][0], (x, y, x + w - 1, y + h - 1)))
    assert read == as_read()


def test_labelstudio_by_its_own_library(written, tmp_path):
    """label-studio-sdk: its interface judges tasks and predictions, and its converter makes COCO of what a person
    submits unchanged. It pins older numpy and OpenCV than the kit is tested with, so no extra of the kit installs it."""
    interface = pytest.importorskip("label_studio_sdk.label_interface")
    converter = pytest.importorskip("label_studio_sdk.converter")
    config = (written / "labelstudio" / "config.xml").read_text(encoding="utf-8")
    tasks = json.loads((written / "labelstudio" / "tasks.json").read_text(encoding="utf-8"))
    judge = interface.LabelInterface(config)
    judge.validate()
    for number, task in enumerate(tasks, 1):
        assert judge.validate_task({"data": task["data"]})  # with predictions 2.1.2 fails at a call of its own
        assert judge.validate_prediction(task["predictions"][0], return_errors=True) == []
        task |= {"id": number, "annotations": [task["predictions"][0] | {"id": number}]}
    (tmp_path / "submitted.json").write_text(json.dumps(tasks))
    made = converter.Converter(config, None, download_resources=False)
    made.convert_to_coco(str(tmp_path / "submitted.json"), str(tmp_path / "coco"), is_dir=False)
    coco, read = json.loads((tmp_path / "coco" / "result.json").read_text()), []
    for item in coco["annotations"]:
        x, y, width, height = item["bbox"]
        name = next(one["name"] for one in coco["categories"] if one["id"] == item["category_id"])
        read.append((coco["images"][item["image_id"]]["file_name"], name, (x, y, x + width - 1, y + height - 1)))
    for (address, label, box), (path, *expected) in zip(read, as_read(), strict=True):
        assert parse_qs(urlsplit(address).query)["d"] == [path] and label == expected[0]
        np.testing.assert_allclose(box, expected[1], atol=1e-6)


def test_wsolevaluation_by_the_kits_own_reader(written, tmp_path):
    for record in RECORDS:
        path = tmp_path / record.path
        path.parent.mkdir(exist_ok=True)
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6  # stored lying on its side
        Image.new("RGB", record.size[::-1]).save(path, exif=exif)
        assert image_size(path) == record.size
    read = []
    for split in ("train", "val", "test"):
        opened = load_dataset("metadata", split, root=tmp_path, metadata=written / "wsolevaluation")
        assert tuple(opened.classes) == CLASSES
        for sample in opened.samples:
            assert sample.size == next(record.size for record in RECORDS if record.path == sample.id)
            read += [(sample.id, CLASSES[sample.label], tuple(map(int, box))) for box in sample.boxes]
    assert sorted(read) == sorted(as_read())


def test_writing_again_replaces_and_a_failure_leaves_what_was_there(written, tmp_path):
    write_formats(tmp_path, ["voc", "csv"], RECORDS, ORIGIN)
    write_formats(tmp_path, ["voc", "csv"], RECORDS[:1], ORIGIN)
    assert len([*(tmp_path / "voc" / "Annotations").rglob("*.xml")]) == 1
    assert len(pd.read_csv(tmp_path / "csv" / "boxes.csv")) == 1
    twin = [RECORDS[0], Record("owl/a b#.png", (41, 30), "wren", (0, 0, 1, 1), 0.5)]
    for name in ("voc", "yolo"):
        with pytest.raises(WsolkitError, match="differ in their endings only"):
            write_formats(tmp_path, [name], twin, ORIGIN)
    with pytest.raises(WsolkitError, match="comma"):
        write_formats(tmp_path, ["wsolevaluation"], [Record("a,b.jpg", (4, 4), "wren", (0, 0, 1, 1), 0.5)], ORIGIN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["csv", "voc"]
    assert len([*(tmp_path / "voc" / "Annotations").rglob("*.xml")]) == 1


def test_any_box_comes_back_from_shares():
    """Ten decimals of a share are enough for any image: the corner moves by less than half a pixel."""
    rng = np.random.default_rng(0)
    for width in (1, 3, 7, 4000, 30000, 65535):
        for x0 in rng.integers(0, width, 50):
            x1 = rng.integers(x0, width)
            centre, share = (float(f"{v:.10f}") for v in ((x0 + (x1 + 1 - x0) / 2) / width, (x1 + 1 - x0) / width))
            assert (round((centre - share / 2) * width), round((centre + share / 2) * width) - 1) == (x0, x1)

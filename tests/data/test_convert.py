"""Annotations of other formats become metadata folders that say the same."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from wsolkit.cli.main import cli
from wsolkit.data import readers as module
from wsolkit.data.catalogue import load_dataset
from wsolkit.data.readers import convert, read_metadata

FILES = ("image_ids.txt", "class_labels.txt", "image_sizes.txt", "localization.txt")


def lines(folder: Path, name: str) -> list[str]:
    return (folder / f"{name}.txt").read_text().splitlines()


def picture(path: Path, width: int = 60, height: int = 40):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (90, 120, 30)).save(path)


def voc_file(name="a.jpg", size=(60, 40), objects=(("cat", 1, 1, 30, 20),)) -> str:
    extent = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>" if size else ""
    items = "".join(
        f"<object><name>{label}</name><difficult>1</difficult>"
        f"<bndbox><xmin>{x0}</xmin><ymin>{y0}</ymin><xmax>{x1}</xmax>"
        f"<ymax>{y1}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin></bndbox></part></object>"
        for label, x0, y0, x1, y1 in objects
    )
    return f"<annotation><folder>VOC</folder><filename>{name}</filename>{extent}{items}</annotation>"


@pytest.fixture
def voc(tmp_path) -> Path:
    folder = tmp_path / "VOC/Annotations"
    folder.mkdir(parents=True)
    (folder / "b.xml").write_text(voc_file("b.jpg", objects=[("dog", 11, 5, 60, 40), ("dog", 1.5, 2, 9, 9)]))
    (folder / "a.xml").write_text(voc_file("a.jpg", objects=[("dog", 1, 1, 5, 5), ("cat", 3, 4, 30, 20)]))
    (folder / "c.xml").write_text(voc_file("c.jpg", objects=[]))
    return tmp_path / "VOC"


COCO = {
    "images": [
        {"id": 7, "file_name": "x/b.jpg", "width": 60, "height": 40},
        {"id": 3, "file_name": "a.jpg", "width": 30, "height": 50},
        {"id": 4, "file_name": "crowd.jpg", "width": 30, "height": 50},
    ],
    "categories": [{"id": 18, "name": "zebra"}, {"id": 90, "name": "ape"}, {"id": 91, "name": "unused"}],
    "annotations": [
        {"id": 1, "image_id": 3, "category_id": 90, "bbox": [1.25, 2, 10.5, 8], "iscrowd": 0},
        {"id": 2, "image_id": 3, "category_id": 90, "bbox": [20, 40, 10, 10]},
        {"id": 3, "image_id": 7, "category_id": 18, "bbox": [0, 0, 59, 39], "iscrowd": 0},
        {"id": 4, "image_id": 4, "category_id": 18, "bbox": [0, 0, 5, 5], "iscrowd": 1},
    ],
}


@pytest.fixture
def coco(tmp_path) -> Path:
    (tmp_path / "coco.json").write_text(json.dumps(COCO))
    return tmp_path / "coco.json"


@pytest.fixture
def images(tmp_path) -> Path:
    for name in ("a.jpg", "b.jpg", "c.jpg"):
        picture(tmp_path / "images" / name)
    return tmp_path / "images"


def csv_file(folder: Path, *rows: str) -> Path:
    (folder / "boxes.csv").write_text("".join(f"{row}\n" for row in rows))
    return folder / "boxes.csv"


# --- formats ----------------------------------------------------------------------------------------------------------


def test_voc(voc, tmp_path):
    for source in (voc, voc / "Annotations"):
        done = convert("voc", source, tmp_path / "meta", force=True)
        folder = tmp_path / "meta/test"
        assert sorted(os.listdir(folder)) == sorted(FILES) and done.folder == folder
        assert (done.images, done.boxes, done.classes, done.several, done.empty) == (2, 3, 2, 1, 1)
        assert lines(folder, "image_ids") == ["a.jpg", "b.jpg"]
        assert lines(folder, "class_labels") == ["a.jpg,0", "b.jpg,1"]
        assert lines(folder, "image_sizes") == ["a.jpg,60,40", "b.jpg,60,40"]
        assert lines(folder, "localization") == ["a.jpg,2,3,29,19", "b.jpg,10,4,59,39", "b.jpg,0.5,1,8,8"]
        assert lines(tmp_path / "meta", "classes") == ["cat", "dog"]
    assert [note.split(" ")[0] for note in done.notes] == ["1", "1", "1"]  # several classes, no object, decimal corners
    found = read_metadata(tmp_path / "meta", "test", ("class_labels", "image_sizes", "localization"))
    assert found.boxes["b.jpg"] == ((10, 4, 59, 39), (0.5, 1, 8, 8))


def test_voc_that_counts_from_zero(voc, tmp_path):
    (voc / "Annotations/a.xml").write_text(voc_file(objects=[("cat", 0, 1, 30, 50)]))
    done = convert("voc", voc, tmp_path / "one")
    assert lines(tmp_path / "one/test", "localization")[0] == "a.jpg,0,0,29,39", "cut at the border"
    assert any("--origin 0" in note for note in done.notes)
    done = convert("voc", voc, tmp_path / "zero", origin=0)
    assert lines(tmp_path / "zero/test", "localization")[0] == "a.jpg,0,1,30,39"
    assert not any("origin" in note for note in done.notes)


def test_voc_folders_endings_and_sizes_from_the_images(tmp_path):
    folder = tmp_path / "xml/n01"
    folder.mkdir(parents=True)
    (folder / "n01_5.xml").write_text(voc_file("n01_5", size=None))
    with pytest.raises(ValueError, match=r"n01_5\.xml .* has no ending: give images="):
        convert("voc", tmp_path / "xml", tmp_path / "meta")
    picture(tmp_path / "pictures/n01/n01_5.JPEG", 50, 45)
    (tmp_path / "pictures/n01/n01_5.xml").write_text("<annotation/>")  # some tools write annotations beside the images
    convert("voc", tmp_path / "xml", tmp_path / "meta", images=tmp_path / "pictures")
    assert lines(tmp_path / "meta/test", "image_sizes") == ["n01/n01_5.JPEG,50,45"]
    (folder / "n01_5.xml").write_text(voc_file("n01_5.JPEG", size=None))
    with pytest.raises(ValueError, match=r"n01/n01_5\.JPEG \(no size is given"):
        convert("voc", tmp_path / "xml", tmp_path / "meta2")
    (folder / "n01_6.xml").write_text(voc_file("n01_6"))
    with pytest.raises(FileNotFoundError, match="1 of the annotated images are missing: n01/n01_6;"):
        convert("voc", tmp_path / "xml", tmp_path / "meta2", images=tmp_path / "pictures")


def test_coco(coco, tmp_path):
    done = convert("coco", coco, tmp_path / "meta", split="val")
    folder = tmp_path / "meta/val"
    assert (done.images, done.boxes, done.classes, done.several, done.empty) == (2, 3, 2, 0, 1)
    assert lines(folder, "image_ids") == ["a.jpg", "x/b.jpg"]
    assert lines(folder, "class_labels") == ["a.jpg,1", "x/b.jpg,0"]
    assert lines(tmp_path / "meta", "classes") == ["zebra", "ape"], "by category id, used ones only"
    assert lines(folder, "image_sizes") == ["a.jpg,30,50", "x/b.jpg,60,40"]
    # 20 + 10 and 40 + 10 lie on the border: cut to the last pixel, as in the metadata of CUB
    assert lines(folder, "localization") == ["a.jpg,1.25,2,11.75,10", "a.jpg,20,40,29,49", "x/b.jpg,0,0,59,39"]
    with pytest.raises(FileNotFoundError, match="2 of the annotated images are missing"):
        convert("coco", coco, tmp_path / "meta2", images=tmp_path)


@pytest.mark.parametrize("header", [True, False])
def test_csv(images, tmp_path, header):
    rows = ["b.jpg,wren,1,2,3,4", '"a.jpg", owl ,0,0,59.5,39', "b.jpg,wren,10,10,70,12"]
    source = csv_file(tmp_path, *(["Path,label,x0,y0,x1,y1"] if header else []), *rows)
    convert("csv", source, tmp_path / "meta", split="train", images=images)
    folder = tmp_path / "meta/train"
    assert lines(folder, "class_labels") == ["a.jpg,0", "b.jpg,1"] and lines(tmp_path / "meta", "classes") == [
        "owl",
        "wren",
    ]
    assert lines(folder, "localization") == ["a.jpg,0,0,59.5,39", "b.jpg,1,2,3,4", "b.jpg,10,10,70,12"], "as they are"
    assert lines(folder, "image_sizes") == ["a.jpg,60,40", "b.jpg,60,40"]


def test_images_with_several_classes(images, tmp_path):
    source = csv_file(
        tmp_path, "a.jpg,0,0,0,9,9", "a.jpg,1,0,0,9,10", "a.jpg,1,0,0,1,1", "b.jpg,2,0,0,4,4", "b.jpg,0,1,1,5,5"
    )
    done = convert("csv", source, tmp_path / "meta", images=images)
    assert done.several == 2 and "2 images show several classes" in str(done)
    assert lines(tmp_path / "meta/test", "class_labels") == ["a.jpg,1", "b.jpg,2"], "the first of equal boxes"
    assert lines(tmp_path / "meta/test", "localization") == ["a.jpg,0,0,9,10", "a.jpg,0,0,1,1", "b.jpg,0,0,4,4"]
    with pytest.raises(ValueError, match="has no image with objects of one class"):
        convert("csv", source, tmp_path / "meta2", images=images, several="skip")
    with open(source, "a") as file:
        file.write("c.jpg,2,0,0,4,4\n")
    done = convert("csv", source, tmp_path / "meta2", images=images, several="skip")
    assert lines(tmp_path / "meta2/test", "image_ids") == ["c.jpg"] and "left out" in str(done)


# --- the CUB sample ---------------------------------------------------------------------------------------------------


def test_round_trip_of_real_photographs(shared, tmp_path):
    root = shared("data/CUB_200_2011")
    rows = []
    for split in ("train", "test"):
        cub = load_dataset("cub", split, root=root)
        rows = [",".join([s.id, cub.classes[s.label], *map(repr, s.boxes[0])]) for s in cub.samples]
        convert("csv", csv_file(tmp_path, *rows[::-1]), tmp_path / "meta", split=split, images=root / "images")
    assert not any("." in line.split(",", 1)[1] for line in lines(tmp_path / "meta/test", "localization")), (
        "whole numbers"
    )
    again = load_dataset("metadata", "test", root=root / "images", metadata=tmp_path / "meta")
    assert again.classes == cub.classes and again.localised
    mine = {sample.id: (i, sample) for i, sample in enumerate(again.samples)}
    assert sorted(mine) == sorted(cub.ids)
    for i, sample in enumerate(cub.samples):
        place, other = mine[sample.id]
        names = ("label", "boxes", "path", "size", "masks")
        assert [getattr(other, name) for name in names] == [getattr(sample, name) for name in names]
        a, b = cub.target(i), again.target(place)
        assert (a.label, a.id) == (b.label, b.id) and a.boxes.equal(b.boxes)
    assert np.array_equal(again[0][0], cub[cub.ids.index(again.ids[0])][0])


# --- classes over several splits --------------------------------------------------------------------------------------


def test_later_splits_keep_the_numbers_of_classes(images, tmp_path):
    out = tmp_path / "meta"
    convert("csv", csv_file(tmp_path, "a.jpg,owl,0,0,9,9", "b.jpg,wren,0,0,9,9"), out, "train", images)
    convert("csv", csv_file(tmp_path, "c.jpg,wren,0,0,9,9", "a.jpg,auk,0,0,9,9"), out, "test", images)
    assert lines(out, "classes") == ["owl", "wren", "auk"]
    assert lines(out / "test", "class_labels") == ["a.jpg,2", "c.jpg,1"]
    (out / "classes.txt").unlink()
    with pytest.raises(ValueError, match=r"train/class_labels\.txt has labels, but .*classes\.txt .* is missing"):
        convert("csv", csv_file(tmp_path, "c.jpg,wren,0,0,9,9"), out, "test", images, force=True)
    (out / "classes.txt").write_text("owl\nwren\nowl\n")
    with pytest.raises(ValueError, match=r"classes\.txt has owl more than once"):
        convert("csv", csv_file(tmp_path, "c.jpg,wren,0,0,9,9"), out, "test", images, force=True)


def test_numbers_as_labels(images, tmp_path):
    out = tmp_path / "meta"
    convert("csv", csv_file(tmp_path, "a.jpg,4,0,0,9,9", "b.jpg,02,0,0,9,9"), out, "train", images)
    assert lines(out / "train", "class_labels") == ["a.jpg,4", "b.jpg,2"] and lines(out, "classes") == list("01234")
    (out / "classes.txt").unlink()
    convert("csv", csv_file(tmp_path, "a.jpg,1,0,0,9,9"), out, "test", images)
    assert lines(out, "classes") == list("01234"), "as many as the other split has"
    made = convert("csv", csv_file(tmp_path, "a.jpg,-1,0,0,9,9", "b.jpg,0,0,0,9,9"), tmp_path / "m", "test", images)
    assert "2 labels are numbers, but taken as names: -1 is class 0, 0 is class 1" in made.notes
    (out / "classes.txt").write_text("auk\nowl\nrook\nteal\nwren\n")
    convert("csv", csv_file(tmp_path, "a.jpg,1,0,0,9,9", "b.jpg,6,0,0,9,9"), out, "test", images, force=True)
    assert lines(out, "classes") == ["auk", "owl", "rook", "teal", "wren", "5", "6"]
    (out / "classes.txt").write_text("1\n3\n")  # numerals that are names
    convert("csv", csv_file(tmp_path, "a.jpg,1,0,0,9,9", "b.jpg,3,0,0,9,9"), out, "test", images, force=True)
    assert lines(out / "test", "class_labels") == ["a.jpg,0", "b.jpg,1"]
    with pytest.raises(ValueError, match="label 123456789 is no class number"):
        convert("csv", csv_file(tmp_path, "a.jpg,123456789,0,0,9,9"), tmp_path / "new", "test", images)


# --- what is wrong ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<annotation><filename>", r"a\.xml \(no element found|a\.xml \(unclosed token"),
        (voc_file("../a.jpg"), r"a\.xml \('\.\./a\.jpg' is not a path below"),
        (voc_file("/etc/a.jpg"), r"is not a path below"),
        (voc_file("a, b.jpg"), r"holds a comma.*rename it"),
        (voc_file(""), r"is no path"),
        (voc_file("b.jpg"), r"b\.xml \('b\.jpg' is there already\)"),
        (voc_file(objects=[("", 1, 1, 2, 2)]), r"a\.xml, object 1 \('' is no name"),
        (voc_file(objects=[("cat", 9, 1, 2, 2)]), r"a\.xml, object 1 .* is not xmin <= xmax"),
        (voc_file(objects=[("cat", "x", 1, 2, 2)]), r"a\.xml, object 1 .* is not xmin <= xmax"),
        (voc_file(objects=[("cat", 100, 1, 110, 2)]), r"a\.jpg \(box \(99.0, 0.0, 109.0, 1.0\) lies outside 60 x 40"),
        (voc_file(size=(0, 40)), r"a\.jpg \(no size is given"),
        ('<?xml version="1.0" encoding="nowhere"?><annotation/>', r"a\.xml \("),
    ],
)
def test_wrong_voc(voc, tmp_path, text, message):
    (voc / "Annotations/a.xml").write_text(text)
    with pytest.raises(ValueError, match=message):
        convert("voc", voc, tmp_path / "meta")
    assert not (tmp_path / "meta").exists()


def test_entities_that_grow_are_refused_in_every_encoding(voc, tmp_path):
    levels = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    bomb = f'<?xml version="1.0" encoding="utf-16"?><!DOCTYPE b [<!ENTITY l0 "aaaaaaaaaa">{levels}]><x>&l9;</x>'
    (voc / "Annotations/a.xml").write_bytes(bomb.encode("utf-16"))
    with pytest.raises(ValueError, match=r"a\.xml \(limit on input amplification"):
        convert("voc", voc, tmp_path / "meta")


def changed(part: str, index: int, **values) -> dict:
    content = json.loads(json.dumps(COCO))
    content[part][index].update(values)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "expected an object with the lists images, annotations and categories"),
        ({"images": [], "annotations": []}, "expected an object with the lists"),
        ({"images": [1], "annotations": [], "categories": []}, "expected an object with the lists"),
        ({"images": [], "annotations": [], "categories": []}, "names no image"),
        (changed("images", 0, file_name="../b.jpg"), r"image 7 \('\.\./b\.jpg' is not a path below"),
        (changed("images", 0, file_name="a,b.jpg"), "image 7 .*holds a comma"),
        (changed("images", 0, file_name=None), "image 7 .*is no path"),
        (changed("images", 1, file_name="x/b.jpg"), "image 3 .*is there already"),
        (changed("images", 1, id=7), r"image 7 \(the id of a\.jpg is there already"),
        (changed("images", 1, id=[7]), r"image \[7\] \(the id of a\.jpg is no id"),
        (changed("images", 1, width=None), r"a\.jpg \(no size is given"),
        (changed("categories", 1, name="zebra"), "category 90 .'zebra'"),
        (changed("categories", 1, id=18), "category 18 "),
        (changed("categories", 1, name=5), "category 90 "),
        (changed("annotations", 0, image_id=99), "annotation 1 .unknown image_id 99"),
        (changed("annotations", 0, category_id={}), "annotation 1 .unknown category_id"),
        (changed("annotations", 0, bbox=[1, 2, 3]), r"annotation 1 \(box \[1, 2, 3\] is not x, y"),
        (changed("annotations", 0, bbox=[1, 2, -3, 4]), r"annotation 1 \(box \[1, 2, -3, 4\] is not"),
        (changed("annotations", 0, bbox=[1, 2, "3", 4]), "annotation 1 "),
        (changed("annotations", 0, bbox=[1, float("nan"), 3, 4]), "annotation 1 "),
        (changed("annotations", 0, bbox=[31, 2, 3, 4]), r"a\.jpg \(box .* lies outside 30 x 50"),
    ],
)
def test_wrong_coco(tmp_path, content, message):
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        convert("coco", tmp_path / "c.json", tmp_path / "meta")
    assert not (tmp_path / "meta").exists()


@pytest.mark.parametrize(("part", "value"), [("categories", {"name": 5}), ("images", {"id": 7.5})])
def test_one_fault_is_told_once(tmp_path, part, value):
    content = changed(part, 0, **value)
    content["annotations"] = [
        item | {"image_id": value.get("id", item["image_id"])} if item["image_id"] == 7 else item
        for item in content["annotations"]
    ]
    (tmp_path / "c.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="one entry is wrong: "):
        convert("coco", tmp_path / "c.json", tmp_path / "meta")


def test_a_json_that_is_none(tmp_path):
    for text in ('{"images": [', "[" * 200_000, "\udcff"):
        (tmp_path / "c.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(ValueError, match=r"c\.json is not readable JSON"):
            convert("coco", tmp_path / "c.json", tmp_path / "meta")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            "a.jpg,owl,1,2,3",
            r"one entry is wrong: line 2 'a\.jpg,owl,1,2,3' \(.*; expected lines 'path,label,x0,y0,x1,y1'",
        ),
        ("a.jpg,owl,1,2,3,4,5", "line 2"),
        ("a.jpg,,1,2,3,4", "line 2"),
        (",owl,1,2,3,4", "line 2 .*is no path"),
        ("a.jpg,owl,1,2,x,4", "line 2"),
        ("a.jpg,owl,5,2,3,4", "line 2"),
        ("a.jpg,owl,1,2,nan,4", "line 2"),
        ("path,label,x0,y0,x1,y1", "line 2"),
        ('"a, b.jpg",owl,1,2,3,4', "line 2 .*holds a comma"),
        ('"a.jpg,owl,1,2,3,4', "line 2"),
        ("../a.jpg,owl,1,2,3,4", r"line 2 .*'\.\./a\.jpg' is not a path"),
        ("a.jpg,owl,100,2,103,4", r"a\.jpg \(box .* lies outside 60 x 40"),
    ],
)
def test_wrong_csv(images, tmp_path, row, message):
    with pytest.raises(ValueError, match=message):
        convert("csv", csv_file(tmp_path, "b.jpg,owl,1,2,3,4", row), tmp_path / "meta", images=images)
    assert not (tmp_path / "meta").exists()


def test_wrong_images_of_a_csv(images, tmp_path):
    source = csv_file(tmp_path, "a.jpg,owl,1,2,3,4", "b.jpg,owl,1,2,3,4")
    with pytest.raises(ValueError, match="says nothing of the size of its images: give images="):
        convert("csv", source, tmp_path / "meta")
    (images / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"1 files are not readable images: a\.jpg"):
        convert("csv", source, tmp_path / "meta", images=images)
    (images / "b.jpg").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the annotated images are missing: b\.jpg"):
        convert("csv", source, tmp_path / "meta", images=images)
    csv_file(tmp_path)
    with pytest.raises(ValueError, match=r"boxes\.csv names no image"):
        convert("csv", source, tmp_path / "meta", images=images)


def test_all_problems_in_one_error(images, tmp_path):
    source = csv_file(tmp_path, *(f"a.jpg,owl,{i}" for i in range(30)))
    with pytest.raises(ValueError, match=r"30 entries are wrong: .* and 10 more; expected") as caught:
        convert("csv", source, tmp_path / "meta", images=images)
    assert str(caught.value).count("a.jpg") == 20


def test_wrong_arguments(voc, coco, tmp_path):
    out = tmp_path / "meta"
    for arguments, message in (
        (("yolo", voc, out), "kind must be one of voc, coco, csv, but is 'yolo'"),
        (("voc", voc, out, "valid"), "split must be one of train, val, test"),
        (("voc", voc, out, "val", None, "all"), "several must be one of largest, skip"),
        (("coco", coco, out, "val", None, "skip", 0), "origin is the number of the first pixel in voc files"),
        (("voc", coco, out), r"coco\.json: expected a folder of XML files"),
        (("coco", voc, out), "VOC: expected a coco file"),
    ):
        with pytest.raises(ValueError, match=message):
            convert(*arguments)
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        convert("voc", tmp_path / "absent", out)
    with pytest.raises(FileNotFoundError, match="absent does not exist"):
        convert("voc", voc, out, images=tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"empty: no \.xml file there"):
        convert("voc", tmp_path / "empty", out)
    assert not out.exists()


# --- writing ----------------------------------------------------------------------------------------------------------


def test_what_is_there_is_kept_unless_forced(voc, coco, tmp_path):
    out = tmp_path / "meta"
    (out / "test").mkdir(parents=True)
    convert("voc", voc, out)  # into an empty folder
    before = {name: (out / "test" / name).read_bytes() for name in FILES}
    with pytest.raises(ValueError, match=r"meta/test is not empty; .*--force"):
        convert("coco", coco, out)
    assert before == {name: (out / "test" / name).read_bytes() for name in FILES}
    convert("coco", coco, out, force=True)
    assert lines(out, "classes") == ["cat", "dog", "zebra", "ape"] and len(lines(out / "test", "image_ids")) == 2
    assert sorted(os.listdir(out)) == ["classes.txt", "test"], "no temporary folder is left"
    picture(out / "test/mine.jpg")
    with pytest.raises(ValueError, match=r"meta/test holds mine\.jpg, which is no metadata"):
        convert("coco", coco, out, force=True)
    (out / "val").write_text("")
    with pytest.raises(ValueError, match=r"meta/val is not a folder"):
        convert("coco", coco, out, "val", force=True)


def test_a_failure_while_writing_leaves_no_split_that_is_taken_for_whole(voc, coco, tmp_path, monkeypatch):
    out = tmp_path / "meta"
    convert("voc", voc, out)
    real = module.atomic_write_text

    def fail(path, text):
        if path.name == "localization.txt":
            raise OSError("disk full")
        real(path, text)

    monkeypatch.setattr(module, "atomic_write_text", fail)
    with pytest.raises(OSError, match="disk full"):
        convert("coco", coco, out, force=True)
    with pytest.raises(FileNotFoundError, match=r"holds neither test/image_ids\.txt"):
        read_metadata(out, "test")
    monkeypatch.undo()
    assert convert("coco", coco, out, force=True).images == 2


def test_conversion_is_the_same_every_time(voc, tmp_path):
    for name in ("one", "two"):
        convert("voc", voc, tmp_path / name)
    for name in FILES:
        assert (tmp_path / "one/test" / name).read_bytes() == (tmp_path / "two/test" / name).read_bytes()


def test_command(voc, images, tmp_path):
    done = CliRunner().invoke(
        cli, ["data", "convert", "voc", str(voc), "--out", str(tmp_path / "meta"), "--split", "val"]
    )
    assert done.exit_code == 0, done.output
    assert f"2 images, 3 boxes, 2 classes: {tmp_path / 'meta/val'}" in done.output and "several classes" in done.output
    source = csv_file(tmp_path, "a.jpg,owl,1,2,3,4")
    again = ["data", "convert", "csv", str(source), "--out", str(tmp_path / "meta"), "--images", str(images), "--force"]
    assert CliRunner().invoke(cli, again).exit_code == 0
    assert lines(tmp_path / "meta", "classes") == ["cat", "dog", "owl"]
    failed = CliRunner().invoke(cli, [*again[:-1]])
    assert isinstance(failed.exception, ValueError) and "is not empty" in str(failed.exception)

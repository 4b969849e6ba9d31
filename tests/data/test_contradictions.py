"""Annotations that contradict their images, each other or themselves: one error, or a note that says so; never a silent change."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageOps

import wsolkit as wk
from wsolkit.data.images import same_shape
from wsolkit.data.readers import clean, convert, inside, read_classes, turned_box
from wsolkit.evaluation.file_evaluation import evaluate_files


def picture(path, width=200, height=100, orientation=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", (width, height), (90, 120, 30)).save(path, exif=exif)


def coco(path, boxes, size=(200, 100), names=("cat",), files=None, **more):
    """A file of one image and one object for each box; `names` are used in turn."""
    files = files or [f"{chr(97 + number)}.jpg" for number in range(len(boxes))]
    content = {
        "images": [{"id": n, "file_name": file, "width": size[0], "height": size[1]} for n, file in enumerate(files)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names, 1)],
        "annotations": [
            {"id": n, "image_id": n % len(files), "category_id": 1 + n % len(names), "bbox": box, **more}
            for n, box in enumerate(boxes)
        ],
    }
    path.write_text(json.dumps(content))
    return path


def voc(folder, size, box=(1, 1, 150, 50), file="a.jpg"):
    folder.mkdir(exist_ok=True)
    corners = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    extent = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    text = f"<filename>{file}</filename>{extent}<object><name>cat</name><bndbox>{corners}</bndbox></object>"
    (folder / "a.xml").write_text(f"<annotation>{text}</annotation>")
    return folder


def localization(folder, split="test"):
    return (folder / split / "localization.txt").read_text().splitlines()


# ------------------------------------------------------------------------------------------------ sizes


@pytest.mark.parametrize("kind", ["voc", "coco"])
@pytest.mark.parametrize("orientation, size", [(6, (200, 100)), (8, (400, 200)), (1, (100, 200)), (1, (200, 120))])
def test_a_size_that_contradicts_the_image_is_an_error(tmp_path, kind, orientation, size):
    picture(tmp_path / "images/a.jpg", 200, 100, orientation)
    source = voc(tmp_path / "v", size) if kind == "voc" else coco(tmp_path / "c.json", [[0, 0, 90, 50]], size)
    with pytest.raises(ValueError, match=rf"a\.jpg \({size[0]} x {size[1]} is given, but the image is") as caught:
        convert(kind, source, tmp_path / "out", images=tmp_path / "images")
    assert ("--turn" in str(caught.value)) is (orientation != 1) and not (tmp_path / "out").exists()


def test_a_smaller_copy_is_no_contradiction(tmp_path):
    picture(tmp_path / "images/a.jpg", 100, 50)
    convert("coco", coco(tmp_path / "c.json", [[0, 0, 90, 50]]), tmp_path / "out", images=tmp_path / "images")
    assert localization(tmp_path / "out") == ["a.jpg,0,0,90,50"]
    assert same_shape((500, 333), (75, 50)) and same_shape((1, 1), (7, 7)) and not same_shape((500, 333), (75, 54))


@pytest.mark.parametrize("number", range(1, 9))
def test_boxes_turn_as_the_image_does(tmp_path, number):
    x0, y0, x1, y1 = box = (3, 5, 10, 7)
    pixels = np.zeros((20, 30), np.uint8)
    pixels[y0 : y1 + 1, x0 : x1 + 1] = 255
    image, exif = Image.fromarray(pixels), Image.Exif()
    exif[ExifTags.Base.Orientation] = number
    image.save(tmp_path / "a.png", exif=exif)
    rows, across = np.nonzero(np.asarray(ImageOps.exif_transpose(Image.open(tmp_path / "a.png"))))
    shown = (across.min(), rows.min(), across.max(), rows.max())
    assert turned_box(box, (30, 20), number) == shown
    (tmp_path / "b.csv").write_text("a.png,cat,3,5,10,7\n")
    convert("csv", tmp_path / "b.csv", tmp_path / "out", images=tmp_path, turn=True)
    assert localization(tmp_path / "out") == [",".join(["a.png", *map(str, shown)])]
    with pytest.raises(ValueError, match="--images"):
        convert("csv", tmp_path / "b.csv", tmp_path / "other", turn=True)


def metadata(folder, size="200,100", box="1,2,90,80", split="test"):
    for name in ("train", split):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (folder / name / "image_ids.txt").write_text("a.jpg\n")
        (folder / name / "class_labels.txt").write_text("a.jpg,0\n")
        (folder / name / "image_sizes.txt").write_text(f"a.jpg,{size}\n")
        (folder / name / "localization.txt").write_text(f"a.jpg,{box}\n")
    return folder


def test_sizes_of_metadata_are_compared_with_the_images(tmp_path):
    picture(tmp_path / "images/a.jpg")
    options = {"root": tmp_path / "images", "size": 32}
    assert len(wk.load_dataset("metadata", "test", metadata=metadata(tmp_path / "good"), **options)) == 1
    with pytest.raises(ValueError, match=r"image_sizes\.txt.*a\.jpg \(it says 100 x 200, but the image is 200 x 100\)"):
        wk.load_dataset("metadata", "test", metadata=metadata(tmp_path / "bad", "100,200"), **options)
    folder = metadata(tmp_path / "masks", box="m.png,")
    (folder / "test/image_sizes.txt").unlink(), (folder / "train/localization.txt").unlink()
    for shape, fits in (((100, 200), True), ((50, 100), True), ((200, 100), False)):
        Image.fromarray(np.full(shape, 255, np.uint8)).save(tmp_path / "m.png")
        if fits:
            wk.load_dataset("metadata", "test", metadata=folder, masks=tmp_path, **options)
        else:
            with pytest.raises(ValueError, match=r"a\.jpg \(its mask is 100 x 200, but the image is 200 x 100\)"):
                wk.load_dataset("metadata", "test", metadata=folder, masks=tmp_path, **options)


def test_an_image_that_is_replaced_after_its_data_set_was_opened_is_an_error(tmp_path):
    picture(tmp_path / "images/a.jpg")
    folder = metadata(tmp_path / "meta")
    for width, height, fits in ((100, 50, True), (100, 200, False)):
        picture(tmp_path / "images/a.jpg")
        data = wk.load_dataset("metadata", "test", metadata=folder, root=tmp_path / "images", size=32)
        picture(tmp_path / "images/a.jpg", width, height)
        if fits:
            assert data.images([0]).shape == (1, 3, 32, 32)
        else:
            with pytest.raises(ValueError, match=r"a\.jpg: 100 x 200 pixels instead of 200 x 100, to which its boxes"):
                data.images([0])


# ------------------------------------------------------------------------------------------------ names and paths


@pytest.mark.parametrize("name", ["cat ", "\ufeffcat", " \ufeff cat\ufeff ", "cat\u00a0"])
def test_names_are_the_same_whoever_reads_them(tmp_path, name):
    source = coco(tmp_path / "c.json", [[1, 1, 50, 50], [2, 2, 50, 50]], names=(name, "dog"))
    for split in ("train", "test"):
        convert("coco", source, tmp_path / "out", split)
    assert read_classes(tmp_path / "out/classes.txt") == ["cat", "dog"] and clean(name) == "cat"
    train, test = ((tmp_path / "out" / split / "class_labels.txt").read_text() for split in ("train", "test"))
    assert train == test == "a.jpg,0\nb.jpg,1\n"


def test_paths_are_the_same_however_they_are_spelled(tmp_path):
    for text in ("sub/a.jpg", "sub\\a.jpg", "./sub//a.jpg", "sub/./a.jpg", ".\\sub\\a.jpg"):
        assert inside(text) == "sub/a.jpg"
    for text in (
        "",
        ".",
        "..",
        "../a.jpg",
        "sub/../a.jpg",
        "/a.jpg",
        "\\a.jpg",
        "C:\\a.jpg",
        "a/",
        "a\0b",
        "//host/a.jpg",
    ):
        with pytest.raises(ValueError):
            inside(text)
    picture(tmp_path / "images/sub/a.jpg")
    for number, text in enumerate(("sub\\a.jpg", "./sub/a.jpg", "sub//a.jpg")):
        out = tmp_path / f"out{number}"
        convert("coco", coco(tmp_path / "c.json", [[1, 1, 50, 50]], files=[text]), out, images=tmp_path / "images")
        assert localization(out) == ["sub/a.jpg,1,1,51,51"]
    convert("voc", voc(tmp_path / "v", (200, 100), file="sub\\a.jpg"), tmp_path / "o", images=tmp_path / "images")
    folder = metadata(tmp_path / "m")
    for file in (folder / "test").iterdir():
        file.write_text(file.read_text().replace("a.jpg", "sub\\a.jpg" if "ids" in file.name else "sub//a.jpg"))
    assert wk.load_dataset("metadata", "test", metadata=folder, root=tmp_path / "images").samples[0].id == "sub/a.jpg"


def test_splits_with_folders_of_their_own(tmp_path):
    for folder, split in (("train", "train"), ("valid", "val"), ("test", "test")):
        picture(tmp_path / folder / "a.jpg", 200, 100)
        source = coco(tmp_path / folder / "_annotations.json", [[1, 1, 50, 50]])
        convert("coco", source, tmp_path / "out", split, images=tmp_path / folder)
    for split, folder in (("train", "train"), ("val", "valid"), ("test", "test")):
        data = wk.load_dataset("metadata", split, metadata=tmp_path / "out", root=tmp_path)
        assert data.samples[0].path == tmp_path / folder / "a.jpg"


# ------------------------------------------------------------------------------------------------ boxes


def test_shares_are_not_taken_for_pixels(tmp_path):
    picture(tmp_path / "a.jpg")
    (tmp_path / "b.csv").write_text("a.jpg,cat,0.1,0.1,0.5,0.6\n")
    sources = {"csv": tmp_path / "b.csv", "coco": coco(tmp_path / "c.json", [[0.1, 0.1, 0.4, 0.5]])}
    sources["voc"] = voc(tmp_path / "v", (200, 100), (0.1, 0.1, 0.5, 0.6))
    for kind, source in sources.items():
        with pytest.raises(ValueError, match=r"shares of the images' sides.*--unit share"):
            convert(kind, source, tmp_path / kind, images=tmp_path)
        convert(kind, source, tmp_path / kind, images=tmp_path, unit="share")
        assert [float(v) for v in localization(tmp_path / kind)[0].split(",")[1:]] == pytest.approx([20, 10, 100, 60])
    with pytest.raises(ValueError, match="180 is no share"):
        convert("coco", coco(tmp_path / "d.json", [[10, 10, 180, 20]]), tmp_path / "o", unit="share")
    folder = metadata(tmp_path / "m", box="0.1,0.1,0.5,0.6")
    with pytest.raises(ValueError, match=r"localization\.txt: no corner is larger than 1"):
        wk.load_dataset("metadata", "test", metadata=folder, root=tmp_path)


def test_boxes_without_width_are_said(tmp_path):
    said = convert("coco", coco(tmp_path / "c.json", [[2, 2, 0, 3], [5, 5, 20, 20]]), tmp_path / "out")
    assert "1 boxes have width or height 0, and are taken for one pixel there" in said.notes


def test_what_is_cut_away_is_said(tmp_path):
    with pytest.raises(
        ValueError, match=r"1 of 1 boxes reach far.*a\.jpg \(100, 50, 280, 140\).*corners x0, y0, x1, y1"
    ):
        convert("coco", coco(tmp_path / "c.json", [[100, 50, 180, 90]]), tmp_path / "out")
    boxes = [[100, 50, 180, 90], [1, 1, 50, 50], [2, 2, 60, 60], [150, 10, 52, 50]]
    said = convert("coco", coco(tmp_path / "c.json", boxes), tmp_path / "out")
    (note,) = [note for note in said.notes if "reach beyond" in note]
    assert note == "1 boxes reach beyond their image and are cut there: a.jpg (100, 50, 280, 140)", (
        "3 pixels are rounding"
    )


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize("sizes", [True, False])
def test_boxes_of_metadata_that_lie_far_beyond_the_images_are_refused(tmp_path, split, sizes):
    picture(tmp_path / "a.jpg")
    folder = metadata(tmp_path / "m", box="100,50,380,190", split=split)
    if not sizes:
        (folder / split / "image_sizes.txt").unlink()
    with pytest.raises(ValueError, match=r"localization\.txt: 1 of 1 boxes reach far.*boxes of images of another size"):
        wk.load_dataset("metadata", split, metadata=folder, root=tmp_path)
    (folder / split / "localization.txt").write_text("a.jpg,100,50,202,101\n")  # rounding
    assert len(wk.load_dataset("metadata", split, metadata=folder, root=tmp_path)) == 1


def test_a_box_in_shares_among_boxes_in_pixels_is_named(tmp_path):
    picture(tmp_path / "a.jpg")
    (tmp_path / "b.csv").write_text("a.jpg,cat,0.1,0.1,0.5,0.6\na.jpg,cat,1,1,50,60\n")
    sources = {"csv": tmp_path / "b.csv", "coco": coco(tmp_path / "c.json", [[0.1, 0.1, 0.4, 0.5], [1, 1, 50, 50]])}
    for kind, named in (("csv", "line 1"), ("coco", "annotation 0")):
        with pytest.raises(ValueError, match=f"1 of 2 boxes seem to be shares of the images' sides.*{named}"):
            convert(kind, sources[kind], tmp_path / kind, images=tmp_path if kind == "csv" else None)
    folder = metadata(tmp_path / "m")
    (folder / "test/localization.txt").write_text("a.jpg,1,2,90,80\na.jpg,0.1,0.1,0.5,0.6\n")
    with pytest.raises(ValueError, match=r"localization\.txt: 1 of 2 boxes seem to be shares.*a\.jpg"):
        wk.load_dataset("metadata", "test", metadata=folder, root=tmp_path)
    (folder / "test/localization.txt").write_text("a.jpg,1,2,90,80\na.jpg,0,0,1,1\n")
    assert len(wk.load_dataset("metadata", "test", metadata=folder, root=tmp_path)) == 1, "whole numbers are pixels"


# ------------------------------------------------------------------------------------------------ classes


@pytest.mark.parametrize(
    "train, test, words",
    [
        ("01", "012", "1 classes of test have no training image: 2"),
        (("cat", "dog"), ("cat", "owl"), "1 classes of test have no training image: owl"),
        (("cat", "dog"), ("Cat", "dog"), "are these one class? cat, Cat"),
        (("1", "x"), ("1.0", "x"), "are these one class? 1, 1.0"),
        (("black bird", "x"), ("black_bird", "x"), "are these one class? black bird, black_bird"),
    ],
)
def test_classes_that_training_images_lack_are_named(tmp_path, train, test, words):
    for split, labels in (("train", train), ("test", test)):
        rows = [f"{n}.jpg,{label},1,2,30,40\n" for n, label in enumerate(labels)]
        (tmp_path / f"{split}.csv").write_text("".join(rows))
        for number in range(len(labels)):
            picture(tmp_path / f"{number}.jpg")
    notes = convert("csv", tmp_path / "train.csv", tmp_path / "out", "train", tmp_path).notes
    assert not any("class of" in note or "one class" in note for note in notes)
    assert any(
        words in note for note in convert("csv", tmp_path / "test.csv", tmp_path / "out", "test", tmp_path).notes
    )


def test_labels_beyond_the_classes_are_not_evaluated(tmp_path):
    folder = metadata(tmp_path / "m")
    (folder / "classes.txt").write_text("cat\ndog\n")
    (tmp_path / "maps").mkdir()
    np.save(tmp_path / "maps/a.npy", np.eye(7))
    assert evaluate_files(tmp_path / "maps", folder, size=32).n_images == 1
    (tmp_path / "maps/predictions.csv").write_text("a.jpg,7\n")
    with pytest.raises(ValueError, match=r"predictions\.csv, line 1: label 7, but there are 2 classes from 0"):
        evaluate_files(tmp_path / "maps", folder, size=32)
    (tmp_path / "maps/predictions.csv").unlink()
    (folder / "test/class_labels.txt").write_text("a.jpg,2\n")
    with pytest.raises(ValueError, match=r"a\.jpg: label 2 has no name in classes\.txt, which has 2"):
        evaluate_files(tmp_path / "maps", folder, size=32)
    (tmp_path / "l.csv").write_text(f"a.jpg,{'7' * 5000},1,2,3,4\n")
    picture(tmp_path / "a.jpg")
    with pytest.raises(ValueError, match="is no class number"):
        convert("csv", tmp_path / "l.csv", tmp_path / "out", images=tmp_path)


def test_a_long_number_may_be_the_name_of_a_class(tmp_path):
    convert("coco", coco(tmp_path / "c.json", [[1, 1, 50, 50]], names=("4006381333931",)), tmp_path / "out")
    assert read_classes(tmp_path / "out/classes.txt") == ["4006381333931"]


def test_a_negative_number_as_a_label_is_said_to_be_a_name(tmp_path):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text("a.png,-1,2,2,12,7\n")
    said = convert("csv", tmp_path / "t.csv", tmp_path / "out", images=tmp_path)
    assert said.notes == ("1 labels are numbers, but taken as names: -1 is class 0",)


def test_crowds_are_counted(tmp_path):
    with pytest.raises(
        ValueError, match=r"no image with objects of one class; 1 annotations of crowds \(iscrowd\) were left"
    ):
        convert("coco", coco(tmp_path / "c.json", [[1, 1, 50, 50]], iscrowd=1), tmp_path / "out")
    source = coco(tmp_path / "c.json", [[1, 1, 50, 50], [1, 1, 60, 60]])
    content = json.loads(source.read_text())
    content["annotations"][0]["iscrowd"] = 1
    source.write_text(json.dumps(content))
    notes = convert("coco", source, tmp_path / "out").notes
    assert "1 annotations of crowds (iscrowd) were left out" in notes
    assert "1 images without an object that is no crowd were left out" in notes


def test_what_nothing_uses_does_not_matter_and_one_cause_is_one_line(tmp_path):
    source = coco(tmp_path / "c.json", [[1, 1, 50, 50], [1, 1, 60, 60]], names=("cats",))
    content = json.loads(source.read_text())
    content["categories"].append({"id": 0, "name": "cats"})
    source.write_text(json.dumps(content))
    assert convert("coco", source, tmp_path / "out").classes == 1
    content["annotations"][1]["category_id"] = 0
    source.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"one entry is wrong: category 0 \('cats' is there already\)"):
        convert("coco", source, tmp_path / "other")
    content["annotations"][1] |= {"category_id": 1, "image_id": 9}
    source.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"one entry is wrong: annotation 1 \(unknown image_id 9\)"):
        convert("coco", source, tmp_path / "other")


@pytest.mark.parametrize("box, side", [([1, 1, 10**400, 5], 200), ([1, 1, 5, 5], 10**30)])
def test_huge_numbers_are_named(tmp_path, box, side):
    with pytest.raises(ValueError, match=r"c\.json: one entry is wrong"):
        convert("coco", coco(tmp_path / "c.json", [box], (side, 100)), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("size", [("10.0", "20.0"), ("10", "20.0")])
def test_a_size_written_as_a_decimal_number_is_compared(tmp_path, size):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    corners = "<xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax>"
    thing = f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
    extent = f"<size><width>{size[0]}</width><height>{size[1]}</height></size>"
    (tmp_path / "v").mkdir()
    (tmp_path / "v/a.xml").write_text(f"<annotation><filename>a.png</filename>{extent}{thing}</annotation>")
    with pytest.raises(ValueError, match="10 x 20 is given, but the image is 20 x 10"):
        convert("voc", tmp_path / "v", tmp_path / "out", images=tmp_path)


def test_annotations_with_another_case_of_the_ending_count_and_hidden_files_do_not(tmp_path):
    corners = "<xmin>3</xmin><ymin>3</ymin><xmax>9</xmax><ymax>8</ymax>"
    thing = f"<object><name>cat</name><bndbox>{corners}</bndbox></object>"
    size = "<size><width>20</width><height>10</height></size>"
    for name in ("a.xml", "b.XML"):
        text = f"<annotation><filename>{name[0]}.png</filename>{size}{thing}</annotation>"
        (tmp_path / name).write_text(text)
    (tmp_path / "._a.xml").write_bytes(b"\0\5\x16\7")  # of macOS, beside files on other file systems
    assert convert("voc", tmp_path, tmp_path / "out").images == 2


@pytest.mark.parametrize("other", ["cafe\u0301", "caf\u00e9\u200b", "\uff43\uff41\uff46\u00e9"])
def test_names_that_look_alike_are_pointed_out_so_that_they_differ(tmp_path, other):
    Image.new("RGB", (20, 10)).save(tmp_path / "a.png")
    Image.new("RGB", (20, 10)).save(tmp_path / "b.png")
    (tmp_path / "t.csv").write_text(f"a.png,caf\u00e9,2,2,9,7\nb.png,{other},2,2,9,7\n", encoding="utf-8")
    (note,) = convert("csv", tmp_path / "t.csv", tmp_path / "out", images=tmp_path).notes
    assert note.startswith("are these one class? ") and "'caf\\xe9'" in note and ascii(other) in note


# ------------------------------------------------------------------------------------------------ what is there twice


def test_two_lists_of_classes_that_differ_are_refused(tmp_path):
    picture(tmp_path / "a.jpg")
    folder = metadata(tmp_path / "m")
    (folder / "classes.txt").write_text("cat\ndog\n")
    (folder / "test/classes.txt").write_text("cat\n")
    assert wk.load_dataset("metadata", "test", metadata=folder, root=tmp_path).classes == ["cat", "dog"]
    (folder / "test/classes.txt").write_text("dog\ncat\n")
    with pytest.raises(ValueError, match=r"m/classes\.txt and .*test/classes\.txt give 2 labels different names"):
        wk.load_dataset("metadata", "test", metadata=folder, root=tmp_path)


@pytest.mark.parametrize("twice", ["<xmin>3</xmin>", "<bndbox>"])
def test_a_box_that_is_written_twice_is_refused(tmp_path, twice):
    (source,) = voc(tmp_path / "v", (200, 100)).iterdir()
    text = source.read_text()
    box = text[text.index("<bndbox>") : text.index("</bndbox>") + 9]
    source.write_text(text.replace(box, 2 * box) if twice == "<bndbox>" else text.replace("<ymin>", f"{twice}<ymin>"))
    with pytest.raises(ValueError, match=r"a\.xml \(<bndbox/xmin> is there 2 times"):
        convert("voc", tmp_path / "v", tmp_path / "out")


# ------------------------------------------------------------------------------------------------ what is nearly there


def test_an_image_with_another_ending_is_pointed_out(tmp_path):
    picture(tmp_path / "images/a.png")
    with pytest.raises(FileNotFoundError, match=r"missing: a\.jpg \(there is 'a\.png', with another ending"):
        convert("voc", voc(tmp_path / "v", (200, 100)), tmp_path / "out", images=tmp_path / "images")
    (tmp_path / "images/a.png").rename(tmp_path / "images/img.v2.png")
    source = voc(tmp_path / "v", (200, 100), file="img.v2")
    convert("voc", source, tmp_path / "out", images=tmp_path / "images")
    assert localization(tmp_path / "out") == ["img.v2.png,0,0,149,49"]
    folder = metadata(tmp_path / "m")
    for file in (folder / "test").iterdir():
        file.write_text(file.read_text().replace("a.jpg", "img.v2"))
    with pytest.raises(FileNotFoundError, match=r"missing: img\.v2 \(there is 'img\.v2\.png', with another ending"):
        wk.load_dataset("metadata", "test", metadata=folder, root=tmp_path / "images")


def test_accents_that_look_alike_are_told_apart(tmp_path):
    Image.new("RGB", (200, 100)).save(tmp_path / "e\u0301.jpg")
    folder = metadata(tmp_path / "m")
    for file in (folder / "test").iterdir():
        file.write_text(file.read_text().replace("a.jpg", "\u00e9.jpg"), encoding="utf-8")
    if not (tmp_path / "\u00e9.jpg").exists():  # some file systems take one for the other
        with pytest.raises(FileNotFoundError, match=r"there is 'e\\u0301\.jpg', not '\\xe9\.jpg', another spelling"):
            wk.load_dataset("metadata", "test", metadata=folder, root=tmp_path)


def test_images_without_an_object_need_not_be_readable(tmp_path):
    source = coco(tmp_path / "c.json", [[1, 1, 50, 50]], files=["a.jpg", "b.jpg", "c.jpg"])
    picture(tmp_path / "images/a.jpg")
    (tmp_path / "images/b.jpg").write_bytes(b"torn")  # and c.jpg is not there
    made = convert("coco", source, tmp_path / "out", images=tmp_path / "images")
    assert (made.images, made.empty) == (1, 2) and "2 images without an object were left out" in made.notes


def test_crowds_are_flagged_by_0_and_1_only(tmp_path):
    for flag, wrong in ((0, False), (None, False), ("0", True), ("1", True), (2, True), ([], True)):
        source = coco(tmp_path / "c.json", [[1, 1, 50, 50]], iscrowd=flag)
        if wrong:
            with pytest.raises(ValueError, match=r"annotation 0 \(iscrowd .* is neither 0 nor 1"):
                convert("coco", source, tmp_path / "other")
        else:
            assert convert("coco", source, tmp_path / f"out{flag}").boxes == 1


def test_numbers_that_are_taken_as_names_are_pointed_out(tmp_path):
    picture(tmp_path / "a.jpg"), picture(tmp_path / "b.jpg")
    for labels, odd in (
        (("1", "cat"), "1 is class 0"),
        (("1.0", "2.0"), "1.0 is class 0, 2.0 is class 1"),
        (("0", "1"), ""),
    ):
        rows = zip("ab", labels, strict=True)
        (tmp_path / "t.csv").write_text("".join(f"{name}.jpg,{label},2,2,9,7\n" for name, label in rows))
        notes = convert("csv", tmp_path / "t.csv", tmp_path / "out", images=tmp_path, force=True).notes
        said = [note for note in notes if "taken as names" in note]
        assert [note.rpartition(": ")[2] for note in said] == ([odd] if odd else [])
        (tmp_path / "out/classes.txt").unlink()


def test_a_text_of_somebody_else_is_not_lost(tmp_path):
    source, target = coco(tmp_path / "c.json", [[1, 1, 50, 50]]), tmp_path / "out/test/localization.txt"
    convert("coco", source, tmp_path / "out")
    for text in ("Ask Ada about the boxes of a.jpg\n", "a.jpg,mask.png,\n", b"\xff\xfe"):
        target.write_bytes(text if isinstance(text, bytes) else text.encode())
        with pytest.raises(ValueError, match=r"localization\.txt holds what no conversion wrote, which would be lost"):
            convert("coco", source, tmp_path / "out", force=True)
    target.unlink()
    convert("coco", source, tmp_path / "out", force=True)
    assert localization(tmp_path / "out") == ["a.jpg,1,1,51,51"]
    classes = tmp_path / "new/classes.txt"
    classes.parent.mkdir()
    classes.write_text("birds of the garden\n")
    with pytest.raises(ValueError, match=r"classes\.txt belongs to no split there, and lacks the classes cat"):
        convert("coco", source, tmp_path / "new")
    assert classes.read_text() == "birds of the garden\n" and not (tmp_path / "new/test").exists()
    classes.write_text("dog\ncat\n")
    convert("coco", source, tmp_path / "new")
    assert (tmp_path / "new/test/class_labels.txt").read_text() == "a.jpg,1\n" and read_classes(classes) == [
        "dog",
        "cat",
    ]


def test_one_training_image_in_a_class_leaves_none_for_validation(tmp_path):
    picture(tmp_path / "a.jpg")
    with pytest.raises(
        ValueError, match=r"no image for split 'val' .*a class with one training image has none to hold"
    ):
        wk.load_dataset("metadata", "val", metadata=metadata(tmp_path / "m"), root=tmp_path)

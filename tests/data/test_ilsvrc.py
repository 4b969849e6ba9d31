"""ImageNet in the folders that people have: small ones made here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import ExifTags, Image

import wsolkit as wk
from wsolkit.data import images

WNIDS = ("n01", "n02", "n03")


def picture(path: Path, size=(60, 40), orientation=1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    Image.new("RGB", size, (9, 99, 200)).save(path, exif=exif)


def annotate(path: Path, wnid: str, *boxes: tuple[int, ...], size=(60, 40), name="%s") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    things = ""
    for box in boxes:
        numbers = "".join(f"<{key}>{v}</{key}>" for key, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
        things += f"<object><name>{wnid}</name><bndbox>{numbers}</bndbox></object>"
    extent = f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>"
    path.write_text(f"<annotation><filename>{name}</filename>{extent}{things}</annotation>")


@pytest.fixture
def imagenet(tmp_path) -> Path:
    """Kaggle's folders; val_3 shows a class without training images, and its EXIF tag turns val_2."""
    home, boxes = tmp_path / "ILSVRC" / "Data" / "CLS-LOC", tmp_path / "ILSVRC" / "Annotations" / "CLS-LOC"
    for wnid in WNIDS:
        for k in range(5):
            picture(home / "train" / wnid / f"{wnid}_{k}.JPEG")
        annotate(boxes / "train" / wnid / f"{wnid}_1.xml", wnid, (1, 2, 30, 20))
    for k, wnid in enumerate(("n02", "n01", "n03", "n99")):
        picture(home / "val" / f"val_{k}.JPEG", orientation=6 if k == 2 else 1)
        more = ((0, 0, 60, 40),) if k == 1 else ()
        annotate(boxes / "val" / f"val_{k}.xml", wnid, (10, 5, 40, 30), *more)
    (tmp_path / "LOC_synset_mapping.txt").write_text("n01 crane, bird\nn02 crane\nn03 tench, Tinca tinca\nn99 none\n")
    return tmp_path


def test_kaggle_folders(imagenet):
    test = wk.load_dataset("ilsvrc", "test", root=imagenet, size=60)
    assert test.classes == ["crane (n01)", "crane (n02)", "tench"]
    assert dict(zip(test.ids, test.labels.tolist(), strict=True)) == {
        "val/val_0.JPEG": 1,
        "val/val_1.JPEG": 0,
        "val/val_2.JPEG": 2,
    }
    corners = {sample.id[4:9]: (sample.size, sample.boxes) for sample in test.samples}
    assert corners["val_0"] == ((60, 40), ((10, 5, 40, 30),))  # from 0, as in wsolevaluation's metadata of ILSVRC
    assert corners["val_1"][1] == ((10, 5, 40, 30), (0, 0, 59, 39))  # cut at the last column and row
    assert corners["val_2"] == ((40, 60), ((9, 10, 34, 40),))  # turned with its image, whose row 5 is column 34 then
    assert test.images([0, 1, 2]).shape == (3, 3, 60, 60)
    train, val = (wk.load_dataset("ilsvrc", split, root=imagenet) for split in ("train", "val"))
    assert len(train) == 12 and len(val) == 3 and not set(train.ids) & set(val.ids)
    assert all(sample.path.is_file() for sample in (*train.samples, *val.samples))
    assert not any(sample.boxes for sample in train.samples)
    boxed = wk.load_dataset("ilsvrc", "val", root=imagenet, val_share=0.8)  # some training images have boxes
    known = {sample.id: sample.boxes for sample in boxed.samples if sample.boxes}
    assert known and set(known.values()) == {((1, 2, 30, 20),)} and all(name.endswith("_1.JPEG") for name in known)


def test_opening_training_images_reads_none(imagenet, monkeypatch):
    monkeypatch.setattr(images, "image_size", None)
    monkeypatch.setattr(images, "read_image", None)
    assert len(wk.load_dataset("ilsvrc", "train", root=imagenet / "ILSVRC")) == 12


@pytest.mark.parametrize("boxed", [True, False])
def test_folders_of_classes_in_val(imagenet, boxed):
    home, root = imagenet / "ILSVRC" / "Data" / "CLS-LOC", imagenet / "plain"
    root.mkdir()
    (home / "train").rename(root / "train")
    for k, wnid in enumerate(("n02", "n01", "n03", "n99")):
        (root / "val" / wnid).mkdir(parents=True)
        (home / "val" / f"val_{k}.JPEG").rename(root / "val" / wnid / f"val_{k}.JPEG")
    if boxed:
        shutil.move(imagenet / "ILSVRC" / "Annotations" / "CLS-LOC" / "val", root / "Annotations" / "val")
    test = wk.load_dataset("ilsvrc", "test", root=root, classes=["n03", "n01"])
    assert test.ids == ["val/n01/val_1.JPEG", "val/n03/val_2.JPEG"] and test.labels.tolist() == [1, 0]
    assert test.localised == boxed
    assert test.sibling("val").ids[0].startswith("train/n03")


def test_what_is_wrong_is_said(imagenet):
    boxes = imagenet / "ILSVRC" / "Annotations" / "CLS-LOC" / "val"
    (boxes / "val_0.xml").rename(boxes / "val_9.xml")
    with pytest.raises(FileNotFoundError, match=r"no XML file there tells the class of 1 images: val/val_0\.JPEG"):
        wk.load_dataset("ilsvrc", "test", root=imagenet)
    annotate(boxes / "val_0.xml", "n02", (10, 5, 40, 30), size=(60, 80))
    with pytest.raises(ValueError, match=r"val/val_0\.JPEG \(60 x 80 is given, but the image is 60 x 40"):
        wk.load_dataset("ilsvrc", "test", root=imagenet)
    (boxes / "val_0.xml").write_text("<annotation>")
    with pytest.raises(ValueError, match=r"val/val_0\.xml \(no element found"):
        wk.load_dataset("ilsvrc", "test", root=imagenet)
    with pytest.raises(FileNotFoundError, match=r"fewer than two folders of classes; expected train/<wnid>/"):
        wk.load_dataset("ilsvrc", "test", root=imagenet / "ILSVRC" / "Annotations" / "CLS-LOC" / "val")

"""Class folders as a data set: which images belong to which class and split, and boxes for some of them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from wsolkit.data.catalogue import SPLITS, load_dataset
from wsolkit.runs.data_check import check_data


def write(root: Path, names: Iterable[str], size: tuple[int, int] = (20, 10)) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (90, 120, len(name))).save(root / name, "PNG")
    return root


def opened(root: Path, **options):
    return {split: load_dataset("folder", split, root=root, size=32, **options) for split in SPLITS}


def numbered(*classes: str, count: int) -> list[str]:
    return [f"{name}/{number:04d}.png" for name in classes for number in range(count)]


@pytest.fixture(scope="module")
def hundreds(tmp_path_factory) -> Path:
    """Three classes of 400 files, which nobody decodes."""
    root = tmp_path_factory.mktemp("hundreds")
    for name in numbered("owl", "cat", "dog", count=400):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).touch()
    return root


def test_every_image_is_in_one_split_and_each_class_is_divided_alike(hundreds):
    splits = opened(hundreds)
    assert splits["train"].classes == ["cat", "dog", "owl"]
    ids = [name for data in splits.values() for name in data.ids]
    assert len(ids) == len(set(ids)) == 1200
    for data in splits.values():
        assert data.ids == sorted(data.ids) and not data.localised
        assert [data.classes[label] for label in data.labels] == [name.split("/")[0] for name in data.ids]
    shares = {split: np.bincount(data.labels) / 400 for split, data in splits.items()}
    for split, expected in (("train", 0.68), ("val", 0.17), ("test", 0.15)):
        assert np.abs(shares[split] - expected).max() < 0.07, split  # three standard deviations of 400 draws
    more = opened(hundreds, val_share=0.5)
    assert more["test"].ids == splits["test"].ids and set(splits["val"].ids) < set(more["val"].ids)


def test_neither_seed_nor_choice_of_classes_nor_other_images_move_an_image(hundreds, tmp_path):
    before = {split: set(data.ids) for split, data in opened(hundreds).items()}
    assert {split: set(data.ids) for split, data in opened(hundreds, seed=7).items()} == before
    chosen = opened(hundreds, classes=["owl", "cat"])
    assert chosen["test"].classes == ["owl", "cat"] and chosen["test"].labels.tolist().count(0) > 0
    assert {name for name in before["test"] if name[:3] != "dog"} == set(chosen["test"].ids)
    for name in [
        *numbered("owl", "cat", "dog", count=400),
        *(f"cat/new {number}.png" for number in range(200)),
        "ape/1.png",
    ]:
        (tmp_path / "more" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "more" / name).touch()
    after = {split: set(data.ids) for split, data in opened(tmp_path / "more").items()}
    assert all(before[split] <= after[split] for split in SPLITS)
    assert any(name.startswith("cat/new") for name in after["test"])
    (tmp_path / "more" / "train").mkdir()
    for name in ("ape", "cat", "dog", "owl"):
        (tmp_path / "more" / name).rename(tmp_path / "more" / "train" / name)
    moved = {
        split: {name.removeprefix("train/") for name in data.ids} for split, data in opened(tmp_path / "more").items()
    }
    assert moved == after


@pytest.mark.parametrize(
    ("count", "expected"), [(1, (1, 0, 0)), (2, (1, 0, 1)), (3, (1, 1, 1)), (4, (2, 1, 1)), (7, None)]
)
def test_a_few_images_of_a_class_are_for_training_first(tmp_path, count, expected):
    root = write(tmp_path, [*numbered("few", count=count), *numbered("many", count=30)])
    splits = opened(root)
    sizes = tuple(splits[split].labels.tolist().count(0) for split in SPLITS)
    assert sum(sizes) == count and (min(sizes) >= 1 if expected is None else sizes == expected)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_splits_that_are_there_are_taken_as_they_are(tmp_path, val):
    names = [f"{split}/{name}" for split in ("train", val, "test") for name in numbered("cat", "dog", count=3)]
    splits = opened(write(tmp_path, names))
    for split, place in zip(SPLITS, ("train", val, "test"), strict=True):
        assert splits[split].ids == [f"{place}/{name}" for name in numbered("cat", "dog", count=3)]


def test_without_test_images_the_validation_images_are_the_test_split(tmp_path):
    write(tmp_path, [f"train/{name}" for name in numbered("cat", "dog", count=20)])
    alone = opened(tmp_path)
    assert {split for split, data in alone.items() if all(name.startswith("train/") for name in data.ids)} == {*SPLITS}
    write(tmp_path, [f"val/{name}" for name in numbered("cat", "dog", count=2)])
    splits = opened(tmp_path)
    assert splits["test"].ids == [f"val/{name}" for name in numbered("cat", "dog", count=2)]
    assert len(splits["train"]) + len(splits["val"]) == 40 and set(splits["val"].labels) == {0, 1}


def test_folders_within_a_class_endings_hidden_and_other_files(tmp_path):
    names = ["cat/a.JPG", "cat/deep/er/b.jpeg", "cat/c.TIFF", "cat/\u00e9, 1.webp", "train/1.png", "train/2.png"]
    write(tmp_path, [*names, "cat/.hidden.png", ".git/cat/x.png"])
    for name in ("cat/notes.txt", "cat/.DS_Store", "README.md", "cat/Thumbs.db"):
        (tmp_path / name).write_text("no image")
    os.symlink(tmp_path / "cat", tmp_path / "cat" / "round")  # a link to itself ends
    splits = opened(tmp_path)
    assert sorted(name for data in splits.values() for name in data.ids) == sorted(names)
    assert splits["train"].classes == ["cat", "train"]  # a folder with images of its own is a class, whatever its name
    images = {name: data.images([index]) for data in splits.values() for index, name in enumerate(data.ids)}
    assert {image.shape for image in images.values()} == {(1, 3, 32, 32)}


def boxes_of(root: Path, **options) -> dict[str, list]:
    return {
        sample.id: list(sample.boxes)
        for data in opened(root, **options).values()
        for sample in data.samples
        if sample.boxes
    }


def test_boxes_of_some_images_from_every_kind_of_file(tmp_path):
    root = write(tmp_path / "pictures", numbered("cat", "dog", count=10))
    assert boxes_of(root) == {}
    (root / "boxes.csv").write_text(
        "path,x0,y0,x1,y1\ncat/0003.png,2,1,12,7\ndog/0001.png,0,0,4,4\ndog/0001.png,6,6,9,9\n"
    )
    expected = {"cat/0003.png": [(2, 1, 12, 7)], "dog/0001.png": [(0, 0, 4, 4), (6, 6, 9, 9)]}
    assert boxes_of(root) == expected
    (root / "boxes.csv").write_text("cat/0003.png,2,1,12,7\n")  # without the names of its columns
    assert boxes_of(root) == {"cat/0003.png": [(2, 1, 12, 7)]}
    (root / "boxes.csv").unlink()

    image = {"id": 1, "file_name": "cat/0003.png", "width": 20, "height": 10}
    objects = [(1, [2, 1, 10, 6]), (2, [0, 0, 3, 3])]  # one of the image's class, and a dog
    annotations = [{"id": n, "image_id": 1, "category_id": own, "bbox": box} for n, (own, box) in enumerate(objects)]
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    content = {"images": [image], "annotations": annotations, "categories": categories}
    (root / "boxes.json").write_text(json.dumps(content))
    assert boxes_of(root) == {"cat/0003.png": [(2, 1, 12, 7)]}
    (root / "boxes.json").unlink()

    corners = "".join(
        f"<{key}>{n}</{key}>" for key, n in zip(("xmin", "ymin", "xmax", "ymax"), (3, 2, 13, 8), strict=True)
    )
    (root / "Annotations" / "cat").mkdir(parents=True)
    xml = f"<annotation><filename>0003.png</filename><object><name>cat</name><bndbox>{corners}</bndbox></object></annotation>"
    (root / "Annotations" / "cat" / "0003.xml").write_text(xml)
    assert boxes_of(root) == {"cat/0003.png": [(2, 1, 12, 7)]}
    assert opened(root)["train"].classes == ["cat", "dog"]


@pytest.mark.parametrize(
    ("folder", "category"), [("caf\u00e9", "cafe\u0301"), ("cafe\u0301", "caf\u00e9"), ("cat", " cat ")]
)
def test_boxes_of_a_class_whose_name_is_written_in_another_way(tmp_path, folder, category):
    root = write(tmp_path / "pictures", numbered(folder, "dog", count=4))
    content = objects_of(f"{folder}/0001.png", category, "dog")
    (root / "boxes.json").write_text(json.dumps(content))
    assert boxes_of(root) == {f"{folder}/0001.png": [(2, 1, 12, 7)]}


@pytest.mark.parametrize("category", ["Cat", "c_at", "\uff43at"])
def test_a_class_whose_name_is_nearly_that_of_a_folder_is_asked_for(tmp_path, category):
    root = write(tmp_path / "pictures", numbered("cat", "dog", count=4))
    (root / "boxes.json").write_text(json.dumps(objects_of("cat/0001.png", category, "dog")))
    with pytest.raises(ValueError, match=rf"boxes\.json: 1 names of objects .*: '{category}' \('cat'\); write them"):
        opened(root)


def objects_of(path: str, *names: str) -> dict:
    """A COCO json with one image, and a box of each category."""
    annotations = [{"id": n, "image_id": 1, "category_id": n, "bbox": [2, 1, 10, 6]} for n in range(len(names))]
    categories = [{"id": n, "name": name} for n, name in enumerate(names)]
    image = {"id": 1, "file_name": path, "width": 20, "height": 10}
    return {"images": [image], "annotations": annotations, "categories": categories}


def test_a_photograph_lying_on_its_side_has_its_box_where_it_is_seen(tmp_path):
    root = write(tmp_path, numbered("cat", "dog", count=3))
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    (tmp_path / "cat/0000.png").unlink()
    Image.new("RGB", (40, 20)).save(root / "cat" / "0000.jpg", exif=exif)  # shown 20 wide and 40 high
    (root / "boxes.csv").write_text("cat/0000.jpg,4,30,11,39\n")
    (data,) = (data for data in opened(root).values() if "cat/0000.jpg" in data.ids)
    target = data.target(data.ids.index("cat/0000.jpg"))
    assert data.samples[data.ids.index("cat/0000.jpg")].size == (20, 40)
    assert target.boxes.tolist() == [[6, 24, 17, 31]]


def test_the_check_of_the_data_names_unreadable_and_repeated_images(tmp_path):
    rng = np.random.default_rng(0)
    for name in numbered("cat", "dog", count=12):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / name)
    (tmp_path / "cat/0001.png").write_bytes(b"")
    (tmp_path / "dog/copy.png").write_bytes((tmp_path / "cat/0002.png").read_bytes())
    said = str(check_data(dataset="folder", root=str(tmp_path)))
    assert "errors: 1" in said and "cat/0001.png (the file is empty)" in said
    assert "cat/0002.png" in said and "dog/copy.png" in said


def test_ten_thousand_images_open_in_seconds(tmp_path):
    for name in numbered("cat", "dog", "owl", "fox", count=2500):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    opened(tmp_path)  # imports
    begin = time.process_time()
    assert sum(map(len, opened(tmp_path).values())) == 10_000
    assert time.process_time() - begin < 15  # it takes one

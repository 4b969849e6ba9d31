"""CUB-200-2011 in its native layout: small folders made here, and the real photographs where they are present."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wsolkit.data.catalogue import load_dataset
from wsolkit.runs.data_check import check_data

NAMES = {3: "003.Sooty_Albatross", 7: "007.Parakeet Auklet", 12: "012.Yellow_headed_Blackbird"}
SIZES = [(100, 80), (60, 90), (64, 64)]


@pytest.fixture
def cub(tmp_path) -> Path:
    """Three classes with ids 3, 7, 12, ten images each (six for training), image ids 11, 14, 17, ..."""
    root = tmp_path / "CUB_200_2011"
    lines: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": [], "bounding_boxes": []}
    for k, (class_id, name) in enumerate(NAMES.items()):
        (root / "images" / name).mkdir(parents=True)
        for j in range(10):
            key, relative = 11 + 3 * (10 * k + j), f"{name}/bird {j}.jpg"
            Image.new("RGB", SIZES[k], (40 * k, 20 * j, 90)).save(root / "images" / relative)
            lines["images"].append(f"{key} {relative}")
            lines["image_class_labels"].append(f"{key} {class_id}")
            lines["train_test_split"].append(f"{key} {int(j < 6)}")
            lines["bounding_boxes"].append(f"{key} {10.0 + j} 20.0 30.0 40.0")
    lines["classes"] = [f"{class_id} {name}" for class_id, name in NAMES.items()]
    for name, content in lines.items():
        (root / f"{name}.txt").write_text("\n".join(content) + "\n")
    return root


def edit(root: Path, name: str, old: str, new: str):
    path = root / f"{name}.txt"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def open_all(root, **options):
    return {s: load_dataset("cub", s, root=root, val_share=0.34, **options) for s in ("train", "val", "test")}


def test_splits_labels_names_and_boxes(cub):
    splits = open_all(cub)
    assert {name: len(d) for name, d in splits.items()} == {"train": 12, "val": 6, "test": 12}
    ids = [set(d.ids) for d in splits.values()]
    assert not (ids[0] & ids[1] or ids[0] & ids[2] or ids[1] & ids[2])
    assert ids[2] == {f"{name}/bird {j}.jpg" for name in NAMES.values() for j in range(6, 10)}
    for dataset in splits.values():
        assert dataset.classes == list(NAMES.values())
        assert len(set(np.bincount(dataset.labels))) == 1  # stratified
        for sample in dataset.samples:
            assert sample.id.startswith(dataset.classes[sample.label])
            j = int(sample.id[-5])
            assert sample.boxes == ((10.0 + j, 20.0, 40.0 + j, 60.0),)


def test_the_check_goes_on_where_the_reader_stops(cub):
    (cub / "images" / NAMES[3] / "bird 7.jpg").unlink()
    edit(cub, "bounding_boxes", "35 18.0", "35 900.0")
    missing, outside = check_data(dataset="cub", root=str(cub)).findings
    assert (missing.level, missing.text) == ("error", "images that cannot be read: 1 of test")
    assert "bird 7.jpg" in missing.examples[0] and "the image is missing" in missing.examples[0]
    assert (outside.level, outside.text) == ("error", "boxes outside of their image: 1 of test")
    assert outside.examples == [f"{NAMES[3]}/bird 8.jpg (900, 20, 930, 60) in 100 x 80"]


def test_boxes_that_hold_corners_are_refused_and_those_that_are_cut_are_named(cub):
    path = cub / "bounding_boxes.txt"
    path.write_text(path.read_text().replace("20.0 30.0 40.0", "20.0 60.0 60.0"))  # x0, y0, x1, y1
    with pytest.raises(
        ValueError, match=r"boxes\.txt: .* boxes reach far beyond .*corners x0.*where x, y, width, height"
    ):
        load_dataset("cub", "test", root=cub)
    refused = check_data(dataset="cub", root=str(cub)).errors[0]
    assert "boxes that reach far beyond their image, as most of their split do" in refused.text
    path.write_text(path.read_text().replace("20.0 60.0 60.0", "20.0 30.0 40.0"))
    edit(cub, "bounding_boxes", "35 18.0 20.0 30.0", "35 18.0 20.0 90.0")
    assert load_dataset("cub", "test", root=cub).samples[2].boxes == ((18.0, 20.0, 99.0, 60.0),)
    (cut,) = check_data(dataset="cub", root=str(cub)).findings
    assert cut.level == "warning" and cut.examples == [f"{NAMES[3]}/bird 8.jpg (18, 20, 108, 60) in 100 x 80"]


def test_corners_that_reach_a_few_pixels_further_than_the_image(cub):
    """As those of most images of CUB do; of widths and heights a few may."""
    path = cub / "bounding_boxes.txt"
    extents = path.read_text()
    path.write_text(extents.replace("20.0 30.0 40.0", "20.0 55.0 50.0"))
    with pytest.raises(ValueError, match=r"The file seems to hold corners x0, y0, x1, y1, where x, y, width, height"):
        load_dataset("cub", "test", root=cub)
    refused = check_data(dataset="cub", root=str(cub)).errors[0]
    assert "boxes reach far beyond their images" in refused.text
    path.write_text(extents.replace("20.0 30.0 40.0", "20.0 9.0 50.0"))  # as far down, but a corner 9 lies left of x0
    load_dataset("cub", "test", root=cub)


def test_a_label_that_contradicts_the_folder_is_named(cub):
    edit(cub, "image_class_labels", "14 3\n", "14 7\n")
    (misplaced,) = check_data(dataset="cub", root=str(cub)).findings
    assert misplaced.level == "warning" and misplaced.examples == [f"{NAMES[3]}/bird 1.jpg ({NAMES[7]})"]


def test_boxes_follow_the_image(cub):
    dataset = load_dataset("cub", "test", root=cub, size=224)
    image, target = dataset[0]  # 100 x 80, x 16..46, y 20..60
    assert image.shape == (3, 224, 224)
    assert target.boxes.tolist() == [[int(16 * 2.24), int(20 * 2.8), int(46 * 2.24), int(60 * 2.8)]]
    _, target = load_dataset("cub", "test", root=cub, size=224, geometry="crop")[0]
    assert target.boxes.tolist() == [[int(16 * 2.56) - 16, int(20 * 3.2) - 16, int(46 * 2.56) - 16, int(60 * 3.2) - 16]]
    assert target.boxes.dtype == torch.int64


def test_validation_split_is_seeded_and_does_not_depend_on_the_classes(cub):
    val = set(load_dataset("cub", "val", root=cub).ids)
    assert val == set(load_dataset("cub", "val", root=cub).ids)
    seeds = [frozenset(load_dataset("cub", "val", root=cub, seed=s).ids) for s in range(8)]
    assert len(set(seeds)) > 1
    few = load_dataset("cub", "val", root=cub, classes=[NAMES[12], NAMES[3]])
    assert set(few.ids) == {i for i in val if not i.startswith("007")}
    assert few.classes == [NAMES[12], NAMES[3]]
    assert all(s.id.startswith(few.classes[s.label]) for s in few.samples)
    assert load_dataset("cub", "val", root=cub, classes=2).classes == list(NAMES.values())[:2]
    assert set(few.sibling("train").ids).isdisjoint(val)


def test_order_of_lines_crlf_blank_lines_and_parent_folder(cub):
    expected = load_dataset("cub", "val", root=cub)
    for path in cub.glob("*.txt"):
        lines = path.read_text().splitlines()
        path.write_bytes(("\ufeff" + "\r\n\r\n".join(reversed(lines)) + "\r\n \r\n").encode())
    again = load_dataset("cub", "val", root=cub.parent)
    assert again.ids == expected.ids
    assert again.samples == expected.samples


def test_subset_by_shortening_images_txt(cub):
    lines = (cub / "images.txt").read_text().splitlines()
    (cub / "images.txt").write_text("\n".join(lines[10:]) + "\n")  # the first class goes
    for path in (cub / "images" / NAMES[3]).iterdir():
        path.unlink()
    splits = open_all(cub)
    assert splits["train"].classes == [NAMES[7], NAMES[12]]
    assert sum(map(len, splits.values())) == 20
    assert set(splits["test"].labels.tolist()) == {0, 1}


def test_root_errors(cub, tmp_path):
    with pytest.raises(ValueError, match=r"needs root=.*wsolkit data cub --root DIR"):
        load_dataset("cub")
    with pytest.raises(FileNotFoundError, match=r"nowhere does not exist.*wsolkit data cub --root"):
        load_dataset("cub", root=tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        load_dataset("cub", root=cub / "images.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"neither images\.txt nor CUB_200_2011/images\.txt"):
        load_dataset("cub", root=tmp_path / "empty")
    (cub / "bounding_boxes.txt").unlink()
    for root in (cub, cub.parent):
        with pytest.raises(FileNotFoundError, match=r"bounding_boxes\.txt is missing"):
            load_dataset("cub", root=root)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        (
            "images",
            "14 003",
            "fourteen 003",
            r"images\.txt: one entry is wrong: line 2 'fourteen 003.*expected lines 'id path",
        ),
        ("images", "14 003.Sooty_Albatross/bird 1.jpg", "14", r"images\.txt: one entry is wrong: line 2"),
        ("images", "14 003.Sooty_Albatross", "14 ../../etc", r"images\.txt: one entry is wrong: line 2"),
        ("images", "14 003.Sooty_Albatross", "14 /etc", r"images\.txt: one entry is wrong: line 2"),
        ("images", "14 003.Sooty_Albatross", "14 ..\\etc", r"images\.txt: one entry is wrong: line 2"),
        ("images", "14 003", "11 003", r"images\.txt: one entry is wrong: line 2 \(11 is there already\)"),
        ("images", "bird 1.jpg", "bird 0.jpg", r"images\.txt names 003.*bird 0.jpg more than once"),
        ("image_class_labels", "14 3", "14 three", r"image_class_labels\.txt: .*line 2"),
        ("image_class_labels", "14 3\n", "", r"image_class_labels\.txt: one entry is wrong: no line for 14;"),
        ("image_class_labels", "14 3\n", "14 99\n", r"classes\.txt has no line for class 99"),
        ("train_test_split", "14 1", "14 2", r"train_test_split\.txt: .*line 2 '14 2'"),
        ("bounding_boxes", "14 11.0 20.0 30.0 40.0", "14 11.0 20.0 30.0", r"bounding_boxes\.txt: .*line 2"),
        ("bounding_boxes", "14 11.0 20.0 30.0 40.0", "14 11.0 20.0 0.0 40.0", r"bounding_boxes\.txt: .*line 2"),
        ("bounding_boxes", "14 11.0 20.0 30.0 40.0", "14 nan 20.0 30.0 40.0", r"bounding_boxes\.txt: .*line 2"),
        (
            "bounding_boxes",
            "14 11.0",
            "14 400.0",
            r"bounding_boxes\.txt: boxes of 1 images lie outside the image: 003.*bird 1\.jpg",
        ),
        ("classes", NAMES[7], NAMES[3], r"classes\.txt gives several classes one name: 003.Sooty_Albatross; rename"),
        ("classes", "7 007", "3 007", r"classes\.txt: one entry is wrong: line 2 \(3 is there already\)"),
    ],
)
def test_errors_name_file_and_line(cub, name, old, new, message):
    edit(cub, name, old, new)
    with pytest.raises(ValueError, match=message):
        open_all(cub)


def test_missing_images_are_listed_up_front(cub):
    for path in (cub / "images").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(FileNotFoundError, match=r"30 of the annotated images are missing: 003.*and 10 more") as caught:
        load_dataset("cub", "test", root=cub)
    assert str(caught.value).count(".jpg") == 20


def test_a_folder_in_another_spelling_is_named(cub):
    (cub / "images" / NAMES[3]).rename(cub / "images" / NAMES[3].upper())
    with pytest.raises(FileNotFoundError, match=r"there is '003\.SOOTY_ALBATROSS', another spelling"):
        load_dataset("cub", "test", root=cub)


def test_damaged_image_is_named(cub):
    (cub / "images" / NAMES[3] / "bird 7.jpg").write_bytes(b"not a JPEG")
    with pytest.raises(ValueError, match=r"bird 7\.jpg: not a readable image"):
        load_dataset("cub", "test", root=cub)


def test_no_images_for_a_split_and_unknown_options(cub):
    path = cub / "train_test_split.txt"
    path.write_text(path.read_text().replace(" 0\n", " 1\n"))
    with pytest.raises(ValueError, match=r"dataset .cub. has no image for split .test."):
        load_dataset("cub", "test", root=cub)
    with pytest.raises(ValueError, match="class 'Dodo' is not in the dataset"):
        load_dataset("cub", root=cub, classes=["Dodo", NAMES[3]])
    with pytest.raises(ValueError, match="knows no option 'per_class'"):
        load_dataset("cub", root=cub, per_class=3)


def test_real_photographs(shared):
    root = shared("data/CUB_200_2011")
    splits = {s: load_dataset("cub", s, root=root) for s in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == len((root / "images.txt").read_text().split("\n")) - 1 == 323
    assert len(splits["test"].classes) == 6
    assert splits["train"].classes[0] == "001.Black_footed_Albatross"
    for index in splits["test"].spread(6):
        image, target = splits["test"][int(index)]
        x0, y0, x1, y1 = target.boxes[0].tolist()
        assert image.isfinite().all()
        assert 0 <= x0 < x1 <= 223
        assert 0 <= y0 < y1 <= 223
    sample = next(s for s in splits["test"].samples if s.id.endswith("Black_Footed_Albatross_0046_18.jpg"))
    assert sample.boxes == ((60.0, 27.0, 385.0, 331.0),)  # line 1 of bounding_boxes.txt: 60 27 325 304

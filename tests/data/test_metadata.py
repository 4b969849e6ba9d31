"""Metadata folders of wsolevaluation: files, masks, the dataset on them, and a training run and an evaluation on it."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

import wsolkit as wk
from wsolkit.cli.main import _check
from wsolkit.data.catalogue import load_dataset
from wsolkit.data.images import instance_boxes, read_mask
from wsolkit.data.readers import leniently, read_metadata
from wsolkit.sweep.jobs import SweepFile

SIZES = [(40, 30), (20, 50), (32, 32)]
BOXES = {"a.png": [(2, 3, 20.5, 25)], "b.png": [(0, 0, 9, 9), (5.5, 10, 20, 50)], "c, d.png": [(30, 30, 31, 31)]}


def write(folder: Path, **files: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, lines in files.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
    return folder


@pytest.fixture
def birds(tmp_path) -> Path:
    """Three images with boxes; the other files know one image more."""
    return write(
        tmp_path / "meta" / "test",
        image_ids=list(BOXES),
        class_labels=["a.png,1", "other.png,4", "b.png,0", "c, d.png,1"],
        image_sizes=[*(f"{name},{w},{h}" for name, (w, h) in zip(BOXES, SIZES, strict=True)), "other.png,1,1"],
        localization=[f"{name},{','.join(map(str, box))}" for name, boxes in BOXES.items() for box in boxes]
        + ["other.png,50,50,60,60"],
    )


@pytest.fixture
def pictures(tmp_path) -> Path:
    """meta/ with train/ (12 images, three classes, no boxes) and test/ (six, with boxes), and images/."""
    for split, count in (("train", 12), ("test", 6)):
        ids = [f"{split}/{i % 3}/{i}.png" for i in range(count)]
        for i, name in enumerate(ids):
            path = tmp_path / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng(i).integers(0, 255, (SIZES[i % 3][1], SIZES[i % 3][0], 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
        write(tmp_path / "meta" / split, image_ids=ids, class_labels=[f"{name},{name.split('/')[1]}" for name in ids])
    write(tmp_path / "meta" / "test", localization=[f"{name},2,4,15.5,20" for name in ids])
    return tmp_path


def open_all(folder: Path, **options):
    return {
        split: load_dataset(
            "metadata", split, root=folder / "images", metadata=folder / "meta", **{"val_share": 0.25, **options}
        )
        for split in ("train", "val", "test")
    }


# --- files ------------------------------------------------------------------------------------------------------------

ALL = ("class_labels", "image_sizes", "localization")


def test_boxes(birds):
    for folder in (birds, birds.parent):
        found = read_metadata(folder, "test", ALL)
        assert found.folder == birds and found.kind == "boxes" and found.ids == list(BOXES)
        assert found.labels.tolist() == [1, 0, 1] and found.labels.dtype == np.int64
        assert found.sizes == dict(zip(BOXES, SIZES, strict=True))
        assert found.boxes == {name: tuple(tuple(map(float, box)) for box in boxes) for name, boxes in BOXES.items()}
        assert found.masks == {}


def test_masks(tmp_path):
    folder = write(
        tmp_path / "test",
        image_ids=["a.jpg", "b.jpg"],
        class_labels=["b.jpg,0", "a.jpg,3"],
        localization=["a.jpg,m/a1.png,m/a_ignore.png", "b.jpg,m/b.png,", "a.jpg,m/a2.png,", "z.jpg,m/z.png,"],
    )
    found = read_metadata(folder, "test", ALL)  # sizes are not asked for where there are masks
    assert found.kind == "masks" and found.boxes == {} and found.sizes == {}
    assert {name: (f.paths, f.ignore) for name, f in found.masks.items()} == {
        "a.jpg": (("m/a1.png", "m/a2.png"), "m/a_ignore.png"), "b.jpg": (("m/b.png",), None),
    }  # fmt: skip


def test_files_that_are_not_needed_may_be_absent_or_leave_out_ids(birds):
    lines = (birds / "localization.txt").read_text().splitlines()
    write(birds, localization=lines[:1])
    found = read_metadata(birds, "test")
    assert list(found.boxes) == ["a.png"] and found.kind == "boxes" and len(found.sizes) == 3
    for name in ("localization", "image_sizes"):
        (birds / f"{name}.txt").unlink()
    found = read_metadata(birds, "test")
    assert (found.kind, found.boxes, found.masks, found.sizes) == ("none", {}, {}, {})
    write(birds, localization=[])
    assert read_metadata(birds, "test").kind == "none"
    with pytest.raises(ValueError, match=r"localization\.txt is empty"):
        read_metadata(birds, "test", ALL)


def test_crlf_and_blank_lines(birds):
    expected = read_metadata(birds, "test", ALL)
    for path in birds.glob("*.txt"):
        path.write_bytes(("\ufeff" + "\r\n\r\n".join(path.read_text().splitlines()) + "\r\n").encode())
    found = read_metadata(birds, "test", ALL)
    assert (found.ids, found.boxes, found.sizes) == (expected.ids, expected.boxes, expected.sizes)


@pytest.mark.parametrize(
    ("name", "old", "new", "message"),
    [
        ("image_ids", "b.png", "../b.png", r"image_ids\.txt: one entry is wrong: line 2 '\.\./b\.png'; expected"),
        ("image_ids", "b.png", "/etc/b.png", r"image_ids\.txt: one entry is wrong: line 2"),
        ("image_ids", "b.png", "a.png", r"image_ids\.txt: one entry is wrong: line 2 \(a\.png is there already\)"),
        ("class_labels", "b.png,0", "b.png,one", r"class_labels\.txt: 2 .*: line 3 'b\.png,one', no line for b\.png"),
        ("class_labels", "b.png,0", "b.png,-1", r"line 3 'b\.png,-1'"),
        ("class_labels", "b.png,0", "b.png,99999999", r"line 3 'b\.png,99999999'"),
        ("class_labels", "b.png,0", "b.png,1.0", r"line 3 'b\.png,1\.0'"),
        ("class_labels", "b.png,0", "a.png,0", r"line 3 \(a\.png is there already\), no line for b\.png"),
        ("image_sizes", "b.png,20,50", "b.png,20,0", r"image_sizes\.txt: 2 .*: line 2 'b\.png,20,0', no line for b"),
        ("image_sizes", "b.png,20,50", "b.png,20", r"line 2 'b\.png,20'"),
        ("image_sizes", "b.png,20,50", "a.png,20,50", r"line 2 \(a\.png is there already\)"),
        (
            "localization",
            "a.png,2,3,20.5,25",
            "a.png,2,3,1,25",
            r"localization\.txt: 2 .*: line 1 'a.png,2,3,1,25', no",
        ),
        ("localization", "a.png,2,3,20.5,25", "a.png,2,nan,20,25", r"line 1 'a\.png,2,nan,20,25'"),
        ("localization", "a.png,2,3,20.5,25", "a.png,2,3,inf,25", r"line 1 'a\.png,2,3,inf,25'"),
        ("localization", "a.png,2,3,20.5,25", "a.png,40,3,41,25", r"line 1 \(the box lies outside a\.png, .* 40 x 30"),
        ("localization", "b.png,0,0,9,9", "b.png,b_mask.png,", r"line 2 'b.png,b_mask.png,'.* no lines of masks among"),
        ("localization", "a.png,2,3,20.5,25", "a.png,a_mask.png,", r"no lines of boxes among them"),
    ],
)
def test_errors_name_file_and_line(birds, name, old, new, message):
    path = birds / f"{name}.txt"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        read_metadata(birds, "test", ALL)


@pytest.mark.parametrize(
    ("old", "new"),
    [("m/b.png,", "m/b.png"), ("m/b.png,", ","), ("m/b.png", "../b.png"), ("m/b.png,", "m/b.png,/i.png")],
)
def test_errors_in_lines_of_masks(tmp_path, old, new):
    lines = ["a.jpg,m/a.png,m/i.png", "b.jpg,m/b.png,"]
    folder = write(tmp_path / "val", image_ids=["a.jpg", "b.jpg"], class_labels=["b.jpg,0", "a.jpg,3"])
    write(folder, localization=[lines[0], lines[1].replace(old, new)])
    with pytest.raises(ValueError, match=r"localization\.txt: 2 entries are wrong: line 2 'b\.jpg.*no line for b\.jpg"):
        read_metadata(folder, "val", ("localization",))
    write(folder, localization=[*lines, "a.jpg,m/a2.png,m/i2.png"])
    with pytest.raises(ValueError, match=r"line 3 \(a second line of a\.jpg with an ignore file\)"):
        read_metadata(folder, "val", ("localization",))


def test_one_error_lists_twenty_of_all(tmp_path):
    folder = write(tmp_path / "test", image_ids=[f"{i}.png" for i in range(50)], class_labels=["0.png,x"])
    with pytest.raises(ValueError, match=r"51 entries are wrong: line 1 .* and 31 more; expected lines 'path,label'"):
        read_metadata(folder, "test")


def test_absent_folders_and_files(birds, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere does not exist"):
        read_metadata(tmp_path / "nowhere", "test")
    with pytest.raises(FileNotFoundError, match=r"meta holds neither train/image_ids\.txt nor image_ids\.txt"):
        read_metadata(birds.parent, "train")
    with pytest.raises(ValueError, match="test is the folder of split 'test', but 'val' is asked for"):
        read_metadata(birds, "val")
    birds = birds.rename(tmp_path / "birds")
    assert read_metadata(birds, "val").ids == list(BOXES), "a folder of any other name is taken at its word"
    with pytest.raises(ValueError, match="need names boxes; choose from"):
        read_metadata(birds, "test", ("boxes",))
    for name in ALL:
        text = (birds / f"{name}.txt").read_text()
        (birds / f"{name}.txt").unlink()
        with pytest.raises(FileNotFoundError, match=rf"{name}\.txt is missing"):
            read_metadata(birds, "test", ALL)
        (birds / f"{name}.txt").write_text(text)
    write(birds, image_ids=[])
    with pytest.raises(ValueError, match=r"image_ids\.txt is empty"):
        read_metadata(birds, "test")


# --- masks ------------------------------------------------------------------------------------------------------------


def save(path: Path, pixels: np.ndarray) -> np.ndarray:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def nearest(pixels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """OpenCV's rule in plain words: the pixel at floor(position * old / new)."""
    rows, columns = (
        np.minimum(np.floor(np.arange(new) * (old / new)).astype(int), old - 1)
        for new, old in zip(size, pixels.shape, strict=True)
    )
    return pixels[rows][:, columns]


@pytest.mark.parametrize("shape", [(300, 401), (37, 53), (224, 224), (1000, 3)])
@pytest.mark.parametrize("size", [224, 64, (48, 96)])
def test_instances_and_ignored_region(tmp_path, shape, size):
    rng = np.random.default_rng(shape[0])
    first, second, ignore = (
        save(tmp_path / f"{k}.png", (rng.random(shape) < share) * rng.integers(1, 256, shape, dtype=np.uint8))
        for k, share in enumerate((0.2, 0.3, 0.6))
    )
    frame = (size, size) if isinstance(size, int) else size
    found = (nearest(first, frame) > 0.5) | (nearest(second, frame) > 0.5)
    expected = np.where(found, 1, np.where(nearest(ignore, frame) > 0.5, 255, 0))
    mask = read_mask(tmp_path, ["0.png", "1.png"], "2.png", size)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask, expected)
    np.testing.assert_array_equal(read_mask(tmp_path, ("0.png", "1.png"), None, size), found)
    np.testing.assert_array_equal(read_mask(tmp_path, ["0.png", "1.png"], "", size), found)


def test_masks_as_the_published_code_reads_them(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a.png", "b.png", "ignore.png"):
        save(tmp_path / name, rng.integers(0, 2, (181, 277), dtype=np.uint8) * 255)

    def load(name: str) -> np.ndarray:
        grey = np.float32(cv2.imread(str(tmp_path / name), cv2.IMREAD_GRAYSCALE))
        return cv2.resize(grey, (224, 224), interpolation=cv2.INTER_NEAREST) > 0.5

    objects = np.stack([load("a.png"), load("b.png")]).any(axis=0)
    expected = objects.astype(np.uint8) + 255 * (load("ignore.png") & ~objects).astype(np.uint8)
    np.testing.assert_array_equal(read_mask(tmp_path, ["a.png", "b.png"], "ignore.png", 224), expected)


def test_colour_masks_and_faint_grey_count(tmp_path):
    save(tmp_path / "faint.png", np.eye(8, dtype=np.uint8))  # 1 of 255 is above 0.5
    assert read_mask(tmp_path, ["faint.png"], None, 8).tolist() == np.eye(8, dtype=int).tolist()
    colour = np.zeros((8, 8, 3), np.uint8)
    colour[2, 5] = 200
    save(tmp_path / "colour.png", colour)
    assert np.argwhere(read_mask(tmp_path, ["colour.png"], None, 8)).tolist() == [[2, 5]]


@pytest.mark.parametrize("kind", [np.uint16, np.float32])
def test_small_values_of_masks_with_more_than_eight_bits_count(tmp_path, kind):
    Image.fromarray(np.eye(8).astype(kind)).save(tmp_path / "deep.tif")
    assert read_mask(tmp_path, ["deep.tif"], None, 8).tolist() == np.eye(8, dtype=int).tolist()
    assert instance_boxes(tmp_path, ["deep.tif"])[0] == [(0, 0, 7, 7)]


def test_a_mask_in_jpeg_whose_noise_would_count_is_refused(tmp_path):
    pixels = np.zeros((20, 40), np.uint8)
    pixels[5:15, 5:20] = 255
    Image.fromarray(pixels).save(tmp_path / "noisy.jpg")
    with pytest.raises(ValueError, match=r"noisy\.jpg: a mask in JPEG, whose noise .*; save masks as PNG"):
        read_mask(tmp_path, ["noisy.jpg"], None, 8)
    Image.new("L", (16, 16), 255).save(tmp_path / "flat.jpg")
    assert read_mask(tmp_path, ["flat.jpg"], None, 8).all()


def test_masks_that_cannot_be_read(tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    save(tmp_path / "good.png", np.eye(8, dtype=np.uint8))
    with pytest.raises(ValueError, match=r"bad\.png: not a readable mask"):
        read_mask(tmp_path, ["good.png"], "bad.png", 8)
    with pytest.raises(FileNotFoundError, match=r"absent\.png: the mask is missing"):
        read_mask(tmp_path, ["absent.png"], None, 8)
    with pytest.raises(ValueError, match="at least one file"):
        read_mask(tmp_path, [], None, 8)


# --- the dataset ------------------------------------------------------------------------------------------------------


def test_splits_labels_and_targets(pictures):
    splits = open_all(pictures)
    assert {name: len(d) for name, d in splits.items()} == {"train": 9, "val": 3, "test": 6}
    assert set(splits["train"].ids).isdisjoint(splits["val"].ids)
    assert [d.localised for d in splits.values()] == [False, False, True]
    for dataset in splits.values():
        assert dataset.classes == ["0", "1", "2"] and dataset.name == "metadata"
        assert all(sample.label == int(sample.id.split("/")[1]) for sample in dataset.samples)
    image, target = splits["test"][0]  # 40 x 30, no image_sizes.txt
    assert image.shape == (3, 224, 224) and target.mask is None
    assert target.boxes.tolist() == [[int(2 * 224 / 40), int(4 * 224 / 30), int(15.5 * 224 / 40), int(20 * 224 / 30)]]
    _, target = splits["val"][0]
    assert target.boxes.shape == (0, 4) and target.boxes.dtype == torch.int64


def test_sizes_come_from_the_file_where_there_is_one(pictures):
    ids = (pictures / "meta/test/image_ids.txt").read_text().split()
    sizes = [(80, 60), (40, 100), (64, 64)] * 2  # of copies twice as large
    write(pictures / "meta/test", image_sizes=[f"{n},{w},{h}" for n, (w, h) in zip(ids, sizes, strict=True)][1:])
    test = open_all(pictures)["test"]
    assert test.target(0).boxes.tolist() == [[11, 29, 86, 149]], "the first is measured"
    assert test.target(1).boxes.tolist() == [[int(2 * 5.6), int(4 * 2.24), int(15.5 * 5.6), int(20 * 2.24)]]


def test_names_classes_and_selection(pictures):
    write(pictures / "meta", classes=["wren", "owl", "rook", "owl"])
    splits = open_all(pictures)
    assert all(d.classes == ["wren", "owl (1)", "rook", "owl (3)"] for d in splits.values())
    few = open_all(pictures, classes=["rook", "wren"])
    for split, dataset in few.items():
        assert dataset.classes == ["rook", "wren"] and {0, 1} == set(dataset.labels.tolist())
        assert set(dataset.ids) == {name for name in splits[split].ids if "/1/" not in name}
        assert all(dataset.classes[s.label] == {"2": "rook", "0": "wren"}[s.id.split("/")[1]] for s in dataset.samples)
    write(pictures / "meta", classes=["wren", "", "rook"])
    with pytest.raises(ValueError, match=r"classes\.txt, line 2 is empty"):
        open_all(pictures)
    write(pictures / "meta", classes=["wren", "owl"])
    with pytest.raises(ValueError, match=r"classes\.txt names 2 classes, but .*train/class_labels\.txt has label 2"):
        open_all(pictures)


def test_the_highest_label_of_any_split_counts(pictures):
    with open(pictures / "meta/test/class_labels.txt", "a") as file:
        file.write("unlisted.png,6\n")
    assert all(len(d.classes) == 7 for d in open_all(pictures).values())


def test_a_validation_folder_leaves_training_whole(pictures):
    (pictures / "meta/test").rename(pictures / "meta/val")
    (pictures / "images/test").rename(pictures / "images/val")
    for path in (pictures / "meta/val").iterdir():
        path.write_text(path.read_text().replace("test/", "val/"))
    options = {"root": pictures / "images", "metadata": pictures / "meta"}
    train, val = (load_dataset("metadata", split, **options) for split in ("train", "val"))
    assert len(train) == 12 and len(val) == 6 and val.localised and train.sibling("val").ids == val.ids
    (pictures / "meta/val/localization.txt").unlink()
    assert not load_dataset("metadata", "val", **options).localised
    with pytest.raises(FileNotFoundError, match=r"meta holds neither test/image_ids\.txt"):
        load_dataset("metadata", "test", **options)


def test_masks_follow_the_geometry(pictures):
    ids = (pictures / "meta/test/image_ids.txt").read_text().split()
    rng = np.random.default_rng(0)
    shapes = [(60, 80), (100, 40), (64, 64)] * 2 + [
        (60, 44)
    ]  # twice the images', as it may be; the last is an ignore mask
    pixels = [save(pictures / f"masks/{i}.png", rng.integers(0, 2, s, dtype=np.uint8)) for i, s in enumerate(shapes)]
    write(pictures / "meta/test", localization=[f"{name},{i}.png,{'6.png' * (i == 0)}" for i, name in enumerate(ids)])
    splits = open_all(pictures, masks=pictures / "masks", size=56)
    test = splits["test"]
    assert test.localised and splits["train"].target(0).mask is None
    ys, xs = np.nonzero(pixels[0])
    whole = [(xs.min(), ys.min(), xs.max(), ys.max())]  # the instance's bounding box stands for a box
    assert torch.equal(test.target(0).boxes, test.geometry.boxes(whole, (80, 60)))
    found, ignored = nearest(pixels[0], (56, 56)) > 0, nearest(pixels[6], (56, 56)) > 0
    mask = test[0][1].mask
    assert mask.dtype == torch.uint8
    np.testing.assert_array_equal(mask, np.where(found, 1, np.where(ignored, 255, 0)))
    crop = open_all(pictures, masks=pictures / "masks", size=56, geometry="crop")["test"]
    np.testing.assert_array_equal(crop.target(1).mask, nearest(pixels[1], (64, 64))[4:60, 4:60])
    with pytest.raises(ValueError, match=r"localization\.txt names mask files: give masks="):
        open_all(pictures)
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; dataset 'metadata' needs masks="):
        open_all(pictures, masks=pictures / "nowhere")
    (pictures / "masks/6.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"masks: 1 of the annotated images are missing: 6\.png"):
        open_all(pictures, masks=pictures / "masks")


def test_masks_in_one_split_and_boxes_in_another(pictures):
    (pictures / "masks").mkdir()
    for i in range(6):
        Image.new("L", SIZES[i % 3], 255).save(pictures / f"masks/{i}.png")
    write(pictures / "meta/test", localization=[f"test/{i % 3}/{i}.png,{i}.png," for i in range(6)])
    write(pictures / "meta/train", localization=[f"train/{i % 3}/{i}.png,1,1,9,9" for i in range(12)])
    splits = open_all(pictures, masks=pictures / "masks")
    assert splits["val"].localised and splits["val"].target(0).mask is None
    assert splits["test"].localised and splits["test"].target(0).mask is not None


def test_wrong_arguments(pictures):
    with pytest.raises(ValueError, match=r"localization\.txt holds boxes, not mask files: leave out masks="):
        open_all(pictures, masks=pictures / "images")
    with pytest.raises(ValueError, match="dataset 'metadata' needs root="):
        load_dataset("metadata", metadata=pictures / "meta")
    with pytest.raises(ValueError, match="dataset 'metadata' needs metadata="):
        load_dataset("metadata", root=pictures / "images")
    with pytest.raises(FileNotFoundError, match="nowhere does not exist; dataset 'metadata' needs root="):
        load_dataset("metadata", root=pictures / "nowhere", metadata=pictures / "meta")
    with pytest.raises(ValueError, match="test is the folder of one split; give the folder above it"):
        load_dataset("metadata", root=pictures / "images", metadata=pictures / "meta/test")
    with pytest.raises(ValueError, match="knows no option 'per_class'"):
        open_all(pictures, per_class=3)
    with pytest.raises(ValueError, match="'cub' knows no option 'metadata'"):
        load_dataset("cub", root=pictures, metadata=pictures)


def test_images_are_checked_up_front(pictures):
    path = pictures / "meta/test/localization.txt"
    path.write_text(path.read_text().replace("2,4,15.5,20", "200,4,300,20"))
    with pytest.raises(ValueError, match=r"boxes of 6 images lie outside the image: test/0/0\.png"):
        open_all(pictures)
    (pictures / "images/test/0/0.png").write_bytes(b"no picture")
    (pictures / "images/test/1/1.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"2 files are not readable images: test/0/0\.png .*, test/1/1\.png"):
        open_all(pictures)
    (pictures / "images/train/0/0.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of the annotated images are missing: train/0/0\.png"):
        for seed in range(9):  # in the training or in the validation share
            open_all(pictures, seed=seed)


def test_training_and_evaluation(pictures, tmp_path):
    splits = open_all(pictures, size=32)
    model = wk.build_model("resnet18", 3, weights="none", width=0.25, stride=8)
    recipe = wk.Recipe(epochs=1, batch_size=4)
    history = wk.fit(model, splits["train"], splits["val"], out=tmp_path / "run", recipe=recipe, device="cpu")
    assert len(history) == 1 and (tmp_path / "run/best.pt").is_file()
    result = wk.evaluate(model, splits["test"], "cam", val=None)
    assert result.n_images == 6 and 0 <= result.gt_known_loc <= 100
    order = splits["test"].spread(None)
    for gt, index in zip(result.gt_boxes, order, strict=True):
        assert np.array_equal(gt, splits["test"].target(int(index)).boxes.numpy())


def test_a_run_passes_its_parameters(pictures):
    options = {"dataset": "metadata", "root": str(pictures / "images"), "metadata": str(pictures / "meta"), "size": 32}
    run = wk.Run.start(**options, weights="none", backbone="resnet18", out=str(pictures / "out"))
    assert len(run.dataset("test")) == 6 and run.dataset("train").geometry.size == 32
    with pytest.raises(ValueError, match="leave out masks="):
        wk.Run.start(**options, masks=str(pictures / "images")).dataset("test")


def test_a_sweep_hands_the_folders_to_every_notebook(pictures):
    options = {"dataset": "metadata", "root": str(pictures / "images"), "metadata": str(pictures / "meta")}
    config = wk.RunConfig.make(**options, weights="none", out=str(pictures / "out"))
    _check(config, ["cam"])
    jobs, impossible = SweepFile.make(**config.given, backbones=("resnet18",), methods=("cam", "rethinking_cam")).plan()
    ends = ["train gap", "train ddt", "train tap", "cam", "rethinking_cam"]  # ddt, as validation images have no box
    assert [job.name.removeprefix("metadata/resnet18/") for job in jobs] == ends and not impossible
    given = [{**job.parameters, **job.parameters.get("options", {})} for job in jobs]
    assert all(every["metadata"] == str(pictures / "meta") and not every.get("masks") for every in given)


def test_a_rotated_picture_and_its_boxes_agree(tmp_path):
    """The EXIF tag says that the picture is shown turned; annotations are made on what is shown."""
    shown = np.zeros((80, 40, 3), np.uint8)
    shown[60:76, 5:25] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored 90 degrees counter-clockwise
    for name in ("a.png", "b.png"):
        Image.fromarray(np.rot90(shown).copy()).save(tmp_path / name, exif=exif)
    for split in ("train", "test"):
        write(tmp_path / "meta" / split, image_ids=["a.png", "b.png"], class_labels=["a.png,0", "b.png,1"],
              localization=["a.png,5,60,24,75", "b.png,5,60,24,75"])  # fmt: skip
    image, target = wk.load_dataset("metadata", "test", root=tmp_path, metadata=tmp_path / "meta", size=80)[0]
    x0, y0, x1, y1 = target.boxes[0].tolist()
    assert image[0, y0 + 2 : y1 - 1, x0 + 2 : x1 - 1].min() > 2 and image[0].mean() < 0


def test_masks_of_one_image_may_have_different_sizes(tmp_path):
    small, large = np.zeros((30, 22), np.uint8), np.zeros((60, 44), np.uint8)
    small[10:20, 4:9] = large[40:50, 20:30] = 255
    save(tmp_path / "small.png", small), save(tmp_path / "large.png", large)
    boxes, size = instance_boxes(tmp_path, ["large.png", "small.png"])
    assert size == (44, 60) and boxes == [(20, 40, 29, 49), (8, 20, 16, 38)]


def test_an_image_of_a_large_training_split_takes_a_few_hundred_bytes(tmp_path):
    """1.2 million of them fit in 600 MB while they are read."""
    count, lines = 20_000, {"image_ids": [], "class_labels": [], "image_sizes": []}
    for number in range(count):
        name = f"train/n{number // 1300:08d}/n{number // 1300:08d}_{number}.JPEG"
        lines["image_ids"].append(name)
        lines["class_labels"].append(f"{name},{number // 1300}")
        lines["image_sizes"].append(f"{name},{400 + number % 100},{300 + number % 200}")
    (tmp_path / "train").mkdir()
    for file, rows in lines.items():
        (tmp_path / "train" / f"{file}.txt").write_text("\n".join(rows))
    del lines, rows
    tracemalloc.start()
    try:
        with leniently():  # the files of the images are not asked for
            train = wk.load_dataset("metadata", "train", root=tmp_path, metadata=tmp_path)
        assert len(train) == 0.8 * count
        assert tracemalloc.get_traced_memory()[1] < 500 * count
    finally:
        tracemalloc.stop()
    assert train.samples[0].path == tmp_path / train.ids[0]

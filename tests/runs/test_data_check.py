"""The check of the data: each kind of fault in a small data set, what stays silent, and the sweep that starts with it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import wsolkit as wk
from wsolkit.cli.main import cli, main
from wsolkit.common.errors import WsolkitError
from wsolkit.data import images
from wsolkit.data.catalogue import load_dataset
from wsolkit.runs.data_check import check_before, check_data
from wsolkit.runs.folder import read_data_check
from wsolkit.runs.parameters import data_state
from wsolkit.sweep.jobs import SweepFile, show_plan

COUNTS = {"train": 12, "val": 4, "test": 6}
SIZE = (40, 30)


class Birds:
    """A metadata folder of two classes and its images, each of other noise; `lines[split][file]` may be changed before
    `write`."""

    def __init__(self, folder: Path) -> None:
        self.images, self.metadata, rng = folder / "images", folder / "meta", np.random.default_rng(0)
        self.lines: dict[str, dict[str, list[str]]] = {}
        for split, count in COUNTS.items():
            (self.images / split).mkdir(parents=True)
            names = [f"{split}/{number}.png" for number in range(count)]
            for name in names:
                Image.fromarray(rng.integers(0, 256, (*SIZE[::-1], 3), np.uint8)).save(self.images / name)
            self.lines[split] = {
                "image_ids": names,
                "class_labels": [f"{name},{number % 2}" for number, name in enumerate(names)],
                "image_sizes": [f"{name},{SIZE[0]},{SIZE[1]}" for name in names],
                "localization": [f"{name},{number},5,{number + 25},24" for number, name in enumerate(names)],
            }

    def copy(self, source: str, target: str) -> None:
        shutil.copy(self.images / source, self.images / target)

    def box(self, split: str, number: int, box: str) -> None:
        self.lines[split]["localization"][number] = f"{split}/{number}.png,{box}"

    def label(self, split: str, number: int, label: int) -> None:
        self.lines[split]["class_labels"][number] = f"{split}/{number}.png,{label}"

    def drop(self, split: str, file: str, number: int) -> None:
        del self.lines[split][file][number]

    def write(self) -> dict[str, str]:
        for split, files in self.lines.items():
            (self.metadata / split).mkdir(parents=True, exist_ok=True)
            for name, lines in files.items():
                (self.metadata / split / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines))
        return {"dataset": "metadata", "root": str(self.images), "metadata": str(self.metadata), "size": "32"}


@pytest.fixture
def birds(tmp_path) -> Birds:
    return Birds(tmp_path)


def command(options: dict[str, str]) -> tuple[int, str]:
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    done = CliRunner().invoke(cli, ["data", "check", *words], catch_exceptions=False)
    return done.exit_code, done.output


def test_good_data_have_no_finding(birds):
    options = birds.write()
    check = wk.check_data(**options)
    assert check.findings == [] and list(check.splits) == list(COUNTS)
    assert {split: row["images"] for split, row in check.splits.items()} == {s: str(n) for s, n in COUNTS.items()}
    assert (
        check.splits["test"]["width x height"] == "40 x 30"
        and check.splits["test"]["middle object"] == "43 % of the image"
    )
    code, said = command(options)
    assert code == 0 and said == f"{check}\n" and "errors: 0, warnings: 0" in said


def empty(birds):
    (birds.images / "train/3.png").write_bytes(b"")


def torn(birds):
    path = birds.images / "test/1.png"
    path.write_bytes(path.read_bytes()[:-200])


def missing(birds):
    (birds.images / "val/1.png").unlink()


def turned(birds):
    birds.lines["test"]["image_sizes"][2] = "test/2.png,30,40"


def turned_where_nothing_uses_it(birds):
    birds.lines["train"]["image_sizes"][2] = "train/2.png,30,40"


def outside(birds):
    birds.box("test", 2, "50,5,60,9")


def outside_of_a_size_from_the_image(birds):
    del birds.lines["test"]["image_sizes"]
    outside(birds)


def beyond(birds):
    birds.box("val", 2, "10,5,60,24")


def most_beyond(birds):
    for number in range(COUNTS["test"] - 2):
        birds.box("test", number, "20,15,55,50")


def one_share(birds):
    birds.box("test", 2, "0.1,0.2,0.5,0.6")


def no_line_of_a_box(birds):
    birds.lines["test"]["localization"] = []


def another_folder(birds):
    birds.lines["train"]["class_labels"][3] = "train/3.png,0"
    for split, files in birds.lines.items():
        for lines in files.values():
            for place, line in enumerate(lines):
                number = int(line.removeprefix(f"{split}/").partition(".")[0])
                lines[place] = line.replace(f"{split}/", f"{split}/{'ab'[number % 2]}/", 1)
        for number in range(COUNTS[split]):
            folder = birds.images / split / "ab"[number % 2]
            folder.mkdir(exist_ok=True)
            (birds.images / split / f"{number}.png").rename(folder / f"{number}.png")
    birds.metadata.mkdir()
    (birds.metadata / "classes.txt").write_text("a\nb\n")


def shares(birds):
    for number in range(COUNTS["test"]):
        birds.box("test", number, "0.1,0.1,0.5,0.6")


def without_a_box(birds):
    birds.drop("test", "localization", 4)


def without_boxes(birds):
    del birds.lines["val"]["localization"]


def tiny(birds):
    birds.box("test", 0, "10,10,12,12")


def leak(birds):
    birds.copy("train/0.png", "test/2.png")


def leak_in_another_format(birds):
    Image.open(birds.images / "train/0.png").save(birds.images / "test/2.png", "BMP")


def twice(birds):
    birds.copy("train/0.png", "train/2.png")


def two_labels(birds):
    birds.copy("train/0.png", "train/1.png")


def no_training_image(birds):
    birds.label("test", 5, 2)


def no_test_image(birds):
    for number in range(COUNTS["test"]):
        birds.label("test", number, 0)


def unequal(birds):
    for number in range(1, COUNTS["train"] - 1):
        birds.label("train", number, 0)


def malformed(birds):
    birds.box("test", 3, "3,5,twenty,24")


FAULTS = [
    (empty, "error", "images that cannot be read: 1 of train", "train/3.png (the file is empty)"),
    (torn, "error", "images that cannot be read: 1 of test", "test/1.png ("),
    (missing, "error", "images that cannot be read: 1 of val", "the image is missing"),
    (turned, "error", "--turn`): 1 of test", "test/2.png (40 x 30 instead of 30 x 40)"),
    (turned_where_nothing_uses_it, "warning", "--turn`): 1 of train", "train/2.png"),
    (outside, "error", "boxes outside of their image: 1 of test", "test/2.png (50, 5, 60, 9) in 40 x 30"),
    (outside_of_a_size_from_the_image, "error", "boxes outside of their image: 1 of test", "(50, 5, 60, 9) in 40 x 30"),
    (beyond, "warning", "more than 3 pixels beyond their image: 1 of val", "val/2.png (10, 5, 60, 24) in 40 x 30"),
    (most_beyond, "error", "reach far beyond their image, as most of their split do", "test/0.png (20, 15, 55, 50) in 40 x 30"),
    (one_share, "error", "shares of the sides, not pixels", "test/2.png (0.1, 0.2, 0.5, 0.6)"),
    (another_folder, "warning", "in a folder with the name of another class: 1 of train", "train/b/3.png (a)"),
    (shares, "error", "shares of the sides, not pixels", "test/0.png (0.1, 0.1, 0.5, 0.6)"),
    (without_a_box, "error", "images without a box", "test/4.png"),
    (without_boxes, "warning", "no true box chooses a threshold): 4 of val", "val/0.png"),
    (tiny, "warning", "cover less than 1 % of the image: 1 of test", "test/0.png (0.75 %)"),
    (leak, "warning", "in an earlier split too, so that accuracies are too high: 1 of test", "test/2.png = train/0.png of train"),
    (leak_in_another_format, "warning", "in an earlier split too", "test/2.png = train/0.png of train"),
    (twice, "warning", "pixels of another one of their split: 1 of train", "train/2.png = train/0.png"),
    (two_labels, "warning", "but not its label: 1 of train", "train/1.png (1) = train/0.png (0)"),
    (no_training_image, "warning", "classes without a training image, which no network can know: 1 of test", "2"),
    (no_test_image, "warning", "classes without an image: 1 of test", "1"),
    (unequal, "warning", "very unequal classes (11 to 1): 1 of train", "11 images of 0, 1 of 1"),
    (malformed, "error", "test cannot be opened: ", None),
]  # fmt: skip


@pytest.mark.parametrize("fault, level, text, example", FAULTS, ids=lambda value: getattr(value, "__name__", ""))
def test_each_fault_is_named_with_its_place(birds, fault, level, text, example):
    fault(birds)
    options = birds.write()
    check = wk.check_data(**options)
    told = [finding for finding in check.findings if text in finding.text]
    assert len(told) == 1, str(check)
    assert told[0].level == level and (example is None or example in told[0].examples[0])
    assert len(check.findings) == 1, str(check)
    code, said = command(options)
    assert code == int(level == "error") and str(told[0]) in said
    splits = ["train", "val"] if fault is malformed else list(COUNTS)
    assert list(check.splits) == splits, "the others are checked all the same"


def test_class_folders_that_are_nearly_one(tmp_path):
    for name in ("Cat", "c_at", "dog"):
        for number in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.new("RGB", (9, 9), (ord(name[0]), len(name), 9 * number)).save(tmp_path / name / f"{number}.png")
    (finding,) = (f for f in check_data(dataset="folder", root=str(tmp_path)).findings if "nearly" in f.text)
    assert finding.level == "warning" and finding.examples == ["Cat, c_at"]


def test_images_of_one_pixel_have_boxes_of_one_pixel(tmp_path):
    for split, names in (("train", "abcd"), ("test", "ef")):
        folder = tmp_path / split
        folder.mkdir()
        for number, name in enumerate(names):
            Image.new("RGB", (1, 1), (ord(name), 9 * number, 0)).save(tmp_path / f"{name}.png")
        lines = {"image_ids": "{}.png", "class_labels": "{}.png,{}", "localization": "{}.png,0,0,0,0"}
        for file, line in lines.items():
            rows = [line.format(name, number % 2) for number, name in enumerate(names)]
            (folder / f"{file}.txt").write_text("\n".join(rows))
    check = check_data(dataset="metadata", root=str(tmp_path), metadata=str(tmp_path))
    assert not check.findings, str(check)


def test_a_class_alone_is_named(birds):
    for split in COUNTS:
        for number in range(COUNTS[split]):
            birds.label(split, number, 0)
    (finding,) = wk.check_data(**birds.write()).findings
    assert finding.level == "warning" and finding.text.startswith(
        "a class alone, from which a classifier learns nothing"
    )


def test_a_file_of_boxes_that_is_empty_is_said_to_be_empty(birds):
    no_line_of_a_box(birds)
    refused, bare = wk.check_data(**birds.write()).findings
    assert refused.level == "error" and "localization.txt is empty; expected lines" in refused.text
    assert bare.level == "warning" and "images without a box" in bare.text


def test_images_of_two_splits_come_first_among_the_warnings(birds):
    leak(birds)
    without_boxes(birds)
    tiny(birds)
    first = wk.check_data(**birds.write()).warnings[0]
    assert "in an earlier split too" in first.text


def test_boxes_that_are_refused_choose_no_centre_box(birds):
    for number in range(COUNTS["val"]):
        birds.box("val", number, "0.1,0.1,0.5,0.6")
    check = wk.check_data(**birds.write())
    assert len(check.errors) == 1 and "half of the image's area" in check.centre_box, str(check)


def test_the_page_has_one_length_however_much_is_wrong(birds):
    """All faults at once, most of them in many images."""
    for number in range(1, COUNTS["train"]):
        birds.copy("train/0.png", f"train/{number}.png")
    birds.copy("train/0.png", "val/0.png")
    for number in range(COUNTS["test"]):
        birds.box("test", number, "50,5,60,9")
    (
        beyond(birds),
        turned_where_nothing_uses_it(birds),
        unequal(birds),
        torn(birds),
        missing(birds),
        no_training_image(birds),
    )
    check = wk.check_data(**birds.write())
    assert len(check.findings) >= 8 and len(check.errors) == 2
    assert [finding.level for finding in check.findings] == ["error"] * 2 + ["warning"] * len(check.warnings)
    assert all(
        len(finding.examples) <= 3 and all(len(e) <= 160 for e in finding.examples) for finding in check.findings
    )
    (again,) = [finding for finding in check.findings if "another one of their split" in finding.text]
    assert "train/3.png = train/0.png and 7 more" in str(again) and "10 of train" in again.text
    assert len(str(check).splitlines()) < 60


def test_where_nothing_can_be_opened_one_line_says_why(birds, monkeypatch, capsys):
    options = birds.write()
    monkeypatch.setattr(sys, "argv", ["wsolkit", "data", "check", "--dataset", "metadata", "--root", options["root"]])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    assert end.value.code == 2 and said.err.count("\n") == 1 and "(--metadata)" in said.err and not said.out


def test_the_centre_box_is_that_of_a_report(birds):
    for split in ("val", "test"):
        for number in range(0, COUNTS[split], 2):
            birds.box(split, number, "8,6,31,23")
    options = birds.write()
    data = {
        split: load_dataset(options["dataset"], split, options["root"], 32, metadata=options["metadata"])
        for split in COUNTS
    }
    truths = {
        split: wk.Truth(32, boxes=[own.target(i).boxes.numpy() for i in range(len(own))]) for split, own in data.items()
    }
    maps = {split: wk.Maps(np.zeros((len(own), 4, 4))) for split, own in data.items()}
    expected = wk.score(maps["test"], truths["test"], validation=(maps["val"], truths["val"])).centre_box
    said = wk.check_data(**options).centre_box
    assert f"{expected['side']} of 32 px wide (chosen on 4 validation images)" in said
    assert f"hits {expected['gt_known_loc']:.1f} % of 6 test images" in said


def test_masks_are_checked_like_boxes(birds):
    masks = birds.images.parent / "masks"
    masks.mkdir()
    for split in ("val", "test"):
        for number in range(COUNTS[split]):
            pixels = np.zeros((SIZE[1], SIZE[0]), np.uint8)
            pixels[5:20, 10:30] = 255
            Image.fromarray(pixels).save(masks / f"{split}{number}.png")
        birds.lines[split]["localization"] = [f"{split}/{n}.png,{split}{n}.png," for n in range(COUNTS[split])]
    del birds.lines["train"]["localization"]
    options = birds.write() | {"masks": str(masks)}
    check = wk.check_data(**options)
    assert check.findings == [] and check.splits["test"]["middle object"] == "25 % of the image"
    Image.new("L", (30, 40), 255).save(masks / "test0.png")
    (masks / "test1.png").write_bytes(b"no image")
    (masks / "test2.png").unlink()
    unreadable, turned = wk.check_data(**options).findings
    assert unreadable.text == "images that cannot be read: 2 of test" and turned.text.endswith("--turn`): 1 of test")
    assert "not a readable mask" in unreadable.examples[0] and "the mask is missing" in unreadable.examples[1]


# ------------------------------------------------------------------------------------------------ before a sweep


def sweep(options: dict[str, str], out: Path, monkeypatch, capsys) -> tuple[int, str]:
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    words += ["--backbones", "mobilenet_v2", "--methods", "cam", "--weights", "none", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["wsolkit", "sweep", *words])
    with pytest.raises(SystemExit) as end:
        main()
    return end.value.code, capsys.readouterr().err


def test_errors_stop_a_sweep_with_the_page_and_nothing_is_written(birds, tmp_path, monkeypatch, capsys):
    turned(birds), empty(birds), leak(birds)
    options, out = birds.write(), tmp_path / "out"
    code, said = sweep(options, out, monkeypatch, capsys)
    assert code == 2 and str(wk.check_data(**options)) in said and not out.exists()
    assert "errors: 2, warnings: 1" in said


def test_a_sweep_reads_the_images_once_and_says_warnings_in_a_line(birds, tmp_path, monkeypatch):
    leak(birds)
    options, read = birds.write(), []
    monkeypatch.setattr("wsolkit.data.base.read_image", lambda path: read.append(path) or images.read_image(path))
    grid = SweepFile.make(**options, out=str(tmp_path / "out"), backbones=("mobilenet_v2",), methods=("cam",))
    note = check_before(grid)
    assert len(read) == sum(COUNTS.values()) and "\n" not in note
    assert (
        "Warnings about the data: 1, see" in note
        and f"wsolkit data check --dataset metadata --root {options['root']}" in note
    )
    kept = read_data_check(grid.home)
    assert kept == wk.check_data(**options), "it is what the command says"
    read.clear()
    assert check_before(grid) == note and not read, "a second sweep reads no image"
    Image.new("RGB", SIZE).save(birds.images / "test/3.png")
    data_state.cache_clear()  # it is asked once in a process
    assert check_before(grid) and len(read) == sum(COUNTS.values()), "other data are read again"
    (grid.home / "data.json").write_text("{")
    assert check_before(grid), "a damaged file is written anew"
    assert read_data_check(grid.home) is not None
    empty(birds), data_state.cache_clear()
    with pytest.raises(WsolkitError, match=r"train/3\.png \(the file is empty\)"):
        check_before(grid)


def test_a_plan_says_what_an_earlier_check_said_and_reads_no_image(birds, tmp_path, monkeypatch):
    leak(birds), no_training_image(birds)
    grid = SweepFile.make(**birds.write(), out=str(tmp_path / "out"), backbones=("mobilenet_v2",), methods=("cam",))
    said: list[str] = []
    show_plan([grid], 1, said.append)
    assert "the data of metadata are not checked yet; a sweep begins with wsolkit data check --dataset" in said[0]
    note = check_before(grid)
    monkeypatch.setattr("wsolkit.data.base.read_image", lambda path: pytest.fail("an image is read"))
    said.clear()
    show_plan([grid], 1, said.append)
    assert said[0] == note and "Warnings about the data: 2" in note


# ------------------------------------------------------------------------------------------------ real data


def test_synthetic_birds_have_no_fault():
    check = wk.check_data(dataset="synthetic", per_class=3)
    assert check.findings == [] and check.splits["train"]["images"] == "48" and "hits" in check.centre_box


@pytest.mark.parametrize(
    "options",
    [
        {"dataset": "cub", "root": "CUB_200_2011"},
        {"dataset": "tiny_imagenet", "root": "tiny-imagenet-200", "classes": 3},
        {"dataset": "metadata", "root": "imagenette_wsol/images", "metadata": "imagenette_wsol/metadata", "classes": 2},
    ],
    ids=lambda options: options["dataset"],
)
def test_published_data_have_no_error(shared, options):
    options |= {name: str(shared(f"data/{options[name]}")) for name in ("root", "metadata") if name in options}
    check = wk.check_data(**options)
    assert not check.errors and list(check.splits) == list(COUNTS) and "hits" in check.centre_box
    assert ("validation images" in check.centre_box) == (options["dataset"] != "metadata"), "no boxes there"

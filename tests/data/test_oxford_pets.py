"""The Oxford-IIIT Pet dataset in torchvision's layout: a small folder made here, and torchvision's own class on it."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import OxfordIIITPet

import wsolkit as wk
from wsolkit.runs.data_check import check_data

BREEDS = {"Abyssinian": 1, "american_bulldog": 2, "Birman": 3}


@pytest.fixture
def pets(tmp_path) -> Path:
    """Six training and three test images of each breed: the pet is 12 x 8 px, in a border of 2 px."""
    root = tmp_path / "oxford-iiit-pet"
    (root / "annotations" / "trimaps").mkdir(parents=True)
    (root / "images").mkdir()
    lines: dict[str, list[str]] = {"trainval": [], "test": []}
    for breed, number in BREEDS.items():
        for k in range(9):
            name = f"{breed}_{k}"
            lines["test" if k % 3 == 2 else "trainval"].append(f"{name} {number} {1 + (number == 2)} 1")
            trimap = np.full((30, 40), 2, np.uint8)
            trimap[4 + k : 16 + k, 6:22] = 3
            trimap[6 + k : 14 + k, 8:20] = 1
            Image.fromarray(trimap).save(root / "annotations" / "trimaps" / f"{name}.png")
            Image.fromarray(np.where(trimap[..., None] == 1, 200, 40 * number).repeat(3, 2).astype(np.uint8)).save(
                root / "images" / f"{name}.jpg"
            )
    for part, own in lines.items():
        (root / "annotations" / f"{part}.txt").write_text("\n".join(own) + "\n")
    return root


@pytest.mark.parametrize("split", ["trainval", "test"])
def test_images_and_classes_are_those_of_torchvision(pets, split):
    theirs = OxfordIIITPet(pets.parent, split)
    parts = [
        wk.load_dataset("oxford_pets", own, root=pets) for own in (("train", "val") if split != "test" else [split])
    ]
    assert all(part.classes == theirs.classes for part in parts)
    ours = {sample.path: sample.label for part in parts for sample in part.samples}
    assert ours == dict(zip(theirs._images, theirs._labels, strict=True))
    assert len(ours) == sum(map(len, parts)) == len(theirs)


def test_the_pet_is_the_object_and_its_border_is_ignored(pets):
    test = wk.load_dataset("oxford_pets", "test", root=pets.parent, size=40)  # the parent is a root too
    assert test.localised and test.samples[0].id == "Abyssinian_2.jpg"
    _, target = test[0]
    scale = 40 / 30  # 40 x 30 px become 40 x 40
    assert target.boxes.tolist() == [[8, int(8 * scale), 19, int(15 * scale)]]
    mask = target.mask.numpy()
    assert {level: int((mask[:, 10] == level).sum()) for level in (0, 1, 255)} == {0: 24, 1: 11, 255: 5}
    assert set(np.unique(mask[:, 7])) == {0, 255}


def test_maps_are_scored_by_pxap_and_boxes(pets):
    test = wk.load_dataset("oxford_pets", "test", root=pets, size=40)
    targets = [test.target(i) for i in range(len(test))]
    masks = [target.mask.numpy() for target in targets]
    truth = wk.Truth(40, boxes=[target.boxes.numpy() for target in targets], masks=masks)
    pet, border = ([(mask == level).astype(float) for mask in masks] for level in (1, 255))
    generous = [first + 0.5 * second for first, second in zip(pet, border, strict=True)]
    for maps in (pet, generous):  # what a map says of the border does not count
        result = wk.score(wk.Maps(maps), truth, samples=10)
        assert result.pxap == pytest.approx(100.0) and result.max_box_acc == 100.0
    assert wk.score(wk.Maps([1 - one for one in pet]), truth, samples=10).pxap < 50


def test_a_choice_of_classes_and_a_subset_of_the_lines(pets):
    few = wk.load_dataset("oxford_pets", "test", root=pets, classes=["Birman", "American Bulldog"])
    assert few.classes == ["Birman", "American Bulldog"] and few.labels.tolist() == [1, 1, 1, 0, 0, 0]
    kept = set(few.sibling("val").ids)
    assert kept <= set(wk.load_dataset("oxford_pets", "val", root=pets).ids)
    table = pets / "annotations" / "trainval.txt"
    table.write_text("".join(line + "\n" for line in table.read_text().splitlines() if "_0" not in line))
    for file in (pets / "images" / "Birman_0.jpg", pets / "annotations" / "trimaps" / "Birman_0.png"):
        file.unlink()  # its line is gone, too
    assert len(wk.load_dataset("oxford_pets", "train", root=pets)) == 12


def test_a_check_of_the_data_finds_nothing(pets):
    checked = check_data(dataset="oxford_pets", root=str(pets), size=32)
    assert not checked.errors, checked


def test_a_folder_without_files_says_how_to_fetch_them(pets):
    shutil.rmtree(pets / "annotations")
    with pytest.raises(FileNotFoundError, match=r"annotations/trainval\.txt.*wsolkit data oxford_pets --root"):
        wk.load_dataset("oxford_pets", root=pets)

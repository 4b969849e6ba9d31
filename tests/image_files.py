"""Image files that several test files make."""

from __future__ import annotations

import os

import numpy as np
from PIL import Image


def pattern(width, height, box):
    """A black picture with a white box of inclusive corners."""
    pixels = np.zeros((height, width, 3), np.uint8)
    x0, y0, x1, y1 = box
    pixels[y0 : y1 + 1, x0 : x1 + 1] = 255
    return Image.fromarray(pixels)


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def names(files):
    return [file.name.as_posix() for file in files]


def too_deep(folder):
    """Folders in one another until the path is longer than the system takes: no one can list the last, not even root."""
    place = os.open(folder, os.O_RDONLY)
    for _ in range(17):
        os.mkdir("d" * 250, dir_fd=place)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = inner
    os.close(place)


def labelled_images(folder):
    """Parameters of a run on sixteen small images of two classes, which have labels and no boxes."""
    rng = np.random.default_rng(0)
    names = [f"{kind}/{label}/{number}.png" for kind in ("train", "test") for label in (0, 1) for number in range(6)]
    for name in names:
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 80, (40, 40, 3), dtype=np.uint8)
        pixels[10:25, 10:25, int(name.split("/")[1])] += 150
        Image.fromarray(pixels).save(path)
    for split in ("train", "test"):
        ids = [name for name in names if name.startswith(split)]
        (folder / "meta" / split).mkdir(parents=True)
        (folder / "meta" / split / "image_ids.txt").write_text("".join(f"{name}\n" for name in ids))
        labels = "".join(f"{name},{name.split('/')[1]}\n" for name in ids)
        (folder / "meta" / split / "class_labels.txt").write_text(labels)
    places = {"root": folder / "images", "metadata": folder / "meta", "out": folder / "out"}
    return {name: str(path) for name, path in places.items()} | {
        "dataset": "metadata", "weights": "none", "backbone": "mobilenet_v2", "width": 0.125, "size": 32, "epochs": 1,
        "batch_size": 4,
    }  # fmt: skip
